"""From the entries of a study to architectures: names, sizes, draws."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medarts.config.models import MODELS, UNetSettings
from medarts.config.study import Study, load_study
from medarts.errors import GenotypeError, RunError
from medarts.models.registry import Architecture, build_network
from medarts.spaces.genotype import Genotype
from medarts.spaces.reading import load
from medarts.spaces.registry import random_genotype
from medarts.study import matching
from medarts.study.counting import count_parameters
from medarts.study.layout import Layout
from medarts.study.matching import draw_matching, nearest_channel
from medarts.study.networks import Networks, searches_of

WEAVE = "stage1_layer9_110epoch_double_deep_final"
COUNT = partial(count_parameters, in_channels=3, outputs=1)


def built(architecture: Architecture, *, in_channels: int = 3, outputs: int = 1) -> int:
    """Returns the trainable parameters of the network itself."""
    with torch.device("meta"):
        network = build_network(architecture, in_channels=in_channels, outputs=outputs)
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


# --- counting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["layer7_double_deep", "alpha0_5_stage1_nodouble_deep_ep80", "darts_v2"])
def test_parameters_of_genotypes_are_those_of_their_networks(name: str) -> None:
    like = load(name)
    for seed, channel in enumerate((4, 16)):
        small = random_genotype(like, seed=seed).with_settings(init_channel=channel)
        assert COUNT(small) == built(small)
        assert COUNT(small, in_channels=1, outputs=3) == built(small, in_channels=1, outputs=3)


def test_parameters_depend_on_what_the_settings_say() -> None:
    weave = replace(random_genotype(load(WEAVE), seed=1), paths=random_genotype(few_moves(), seed=5).paths)
    stack = random_genotype(load("chestxray14_first_order"), seed=2).with_settings(init_channel=8)
    of_weave: list[dict[str, Any]] = [{"absent_edges": True}, {"absent_edges": False}, {"deep_supervision": False}]
    of_weave += [{"shuffle_groups": 4}, {"double_down_channel": False}]
    changed = [weave.with_settings(init_channel=8, **settings) for settings in of_weave]
    changed += [stack.with_settings(auxiliary=True), stack.with_settings(layers=9, stem="cifar")]
    for genotype in changed:
        assert COUNT(genotype) == built(genotype)
    assert len({COUNT(genotype) for genotype in changed}) == len(changed)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"chexnet"}))  # which takes long to import
def test_parameters_of_models(name: str) -> None:
    model = MODELS[name]()
    assert COUNT(model) == built(model) > 1e6


# --- matching -----------------------------------------------------------------------------------------------------


def few_moves() -> Genotype:
    like = load(WEAVE)
    return replace(like, paths=tuple(replace(kept, moves=kept.moves[:1]) for kept in like.paths))


@pytest.mark.parametrize(("name", "step"), [(WEAVE, 2), (WEAVE, 6), ("darts_v2", 2)])
@pytest.mark.parametrize("wanted", [1, 90_000, 400_000])
def test_channel_with_the_nearest_number_of_parameters(name: str, step: int, wanted: int) -> None:
    genotype = load(name)
    if step == 6:
        genotype = genotype.with_settings(init_channel=6, shuffle_groups=3)
    every = [genotype.with_settings(init_channel=channel) for channel in range(step, 40, step)]
    best = min(every, key=lambda each: abs(COUNT(each) - wanted))
    assert nearest_channel(genotype, wanted, count=COUNT) == best


def test_draws_have_the_parameters_of_the_other_within_a_band() -> None:
    like = random_genotype(load(WEAVE), seed=77).with_settings(init_channel=4)
    drawn = list(draw_matching(like, number=4, seed=3, count=COUNT))
    assert all(0.95 <= COUNT(genotype) / COUNT(like) <= 1.05 for genotype in drawn)
    assert [genotype.settings for genotype in drawn] == [like.settings] * 4
    assert len({str(genotype.cells) for genotype in drawn}) == 4
    assert list(draw_matching(like, number=2, seed=3, count=COUNT)) == drawn[:2]
    assert next(draw_matching(like, number=2, seed=4, count=COUNT)) != drawn[0]
    for genotype in drawn:
        again = random_genotype(like, seed=genotype.provenance["seed"])
        assert again == genotype


def test_no_draw_is_left_out() -> None:
    """Of the draws up to the last one that was taken, all others are outside of the band."""
    like = random_genotype(load(WEAVE), seed=77).with_settings(init_channel=4)
    seeds = [int(genotype.provenance["seed"]) for genotype in draw_matching(like, number=3, seed=0, count=COUNT)]
    every = [random_genotype(like, seed=seed) for seed in range(seeds[-1] + 1)]
    fitting = [number for number, each in enumerate(every) if abs(COUNT(each) / COUNT(like) - 1) <= 0.05]
    assert seeds == fitting


def test_too_few_draws_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "DRAWS", 10)
    like = load("alpha0_5_stage1_nodouble_deep_ep80")
    with pytest.raises(GenotypeError, match=r"Of 20 genotypes drawn like 'alpha.*' only 0 have its 592,904 parameters"):
        list(draw_matching(like, number=2, seed=0, count=COUNT))


# --- entries ------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Study]:
    """Returns a study of some networks."""

    def make(*networks: dict[str, Any]) -> Study:
        sources = [{"kind": "folder", "path": "/data/a", "name": "a"}]
        content = {"recipe": {"data": {"sources": sources}}, "networks": networks, "trained_on": [{"data": ["a"]}]}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
        return load_study(tmp_path / "study.yaml")

    return make


def networks_of(study: Study, folder: Path) -> Networks:
    return Networks(study, Layout(folder), in_channels=3, outputs=1)


def test_entries_become_architectures(study: Callable[..., Study], tmp_path: Path) -> None:
    random_genotype(load(WEAVE), seed=77).with_settings(init_channel=4).save(tmp_path / "own.json")
    networks = networks_of(
        study(
            {"model": {"name": "unet", "width": 8, "depth": 3}},
            {"name": "small", "genotype": WEAVE, "init_channel": 2},
            {"name": "sized", "genotype": WEAVE, "parameters": "unet"},
            {"genotype": "own.json"},
            {"random": 2, "like": "own"},
        ),
        tmp_path,
    )
    assert networks.architecture("unet") == UNetSettings(width=8, depth=3)
    small, sized, own = (networks.architecture(name) for name in ("small", "sized", "own"))
    assert small == replace(load(WEAVE).with_settings(init_channel=2), name="small")
    assert sized.cells == load(WEAVE).cells
    distances = [
        abs(COUNT(sized.with_settings(init_channel=c)) - COUNT(UNetSettings(width=8, depth=3))) for c in (2, 4, 6)
    ]
    assert sized.settings["init_channel"] == (2, 4, 6)[distances.index(min(distances))]
    first, second = (networks.architecture(name) for name in ("random-1", "random-2"))
    assert (first.name, second.name, first.provenance["like"]) == ("random-1", "random-2", "own")
    assert first.cells != second.cells
    assert all(0.95 <= COUNT(each) / COUNT(own) <= 1.05 for each in (first, second))


def test_searches_that_a_network_waits_for(study: Callable[..., Study], tmp_path: Path) -> None:
    one = study(
        {"name": "mix", "searched_on": "a"},
        {"name": "other", "searched_on": "a", "parameters": "mix2"},
        {"name": "mix2", "searched_on": "a"},
        {"random": 1, "like": "other"},
        {"genotype": WEAVE, "parameters": "mix"},
        {"model": "unet"},
    )
    found = {name: set(searches_of(one, name)) for name in one.names}
    assert found["mix"] == found[WEAVE] == {"mix"}
    assert found["other"] == found["random-1"] == {"other", "mix2"}
    assert found["unet"] == set()
    with pytest.raises(RunError, match=r"mix: .*searches/mix is not a run directory"):
        networks_of(one, tmp_path).architecture("mix")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"name": "x", "genotype": "darts_v3"}, "x: There is no genotype 'darts_v3'. Did you mean 'darts_v2'"),
        ({"name": "x", "genotype": "/nowhere"}, "x: There is no file or folder '/nowhere'"),
    ],
)
def test_a_genotype_that_is_not_there_is_named(
    study: Callable[..., Study], tmp_path: Path, entry: dict, says: str
) -> None:
    with pytest.raises(GenotypeError, match=says):
        networks_of(study(entry), tmp_path).architecture("x")
