"""From the entries of a study to architectures: names, sizes, draws."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from medarts.config.study import Study, load_study
from medarts.errors import GenotypeError, RunError
from medarts.models import Architecture
from medarts.models.unet import UNetSettings
from medarts.registry import models
from medarts.spaces import random_genotype
from medarts.spaces.genotype import Genotype
from medarts.spaces.genotype import load_genotype as load
from medarts.study import networks as module
from medarts.study.jobs import Layout
from medarts.study.networks import Networks, nearest_channel, parameters_of, sample_matching, searches_of

NAS_WDAN = "stage1_layer9_110epoch_double_deep_final"
COUNT = partial(parameters_of, in_channels=3, outputs=1)


# --- counting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*models.names()} - {"chexnet"}))  # which takes long to import
def test_parameters_of_models(name: str) -> None:
    assert COUNT(models.choose(name)) > 1e6


# --- matching -----------------------------------------------------------------------------------------------------


def letters(genotype: Genotype) -> int:
    """Stands in for the number of parameters, which takes long to count: depends on C and on the operations."""
    names = [edge[0] for cell in genotype.cells.values() for node in cell for edge in node]
    return int(genotype.settings["init_channel"]) ** 2 * sum(map(len, names))


@pytest.mark.parametrize(("name", "step"), [(NAS_WDAN, 2), (NAS_WDAN, 6), ("darts_v2", 2)])
@pytest.mark.parametrize("wanted", [1, 90_000, 400_000])
def test_channel_with_the_nearest_number_of_parameters(name: str, step: int, wanted: int) -> None:
    genotype = load(name)
    if step == 6:
        genotype = genotype.with_settings(init_channel=6, shuffle_groups=3)
    every = [genotype.with_settings(init_channel=channel) for channel in range(step, 80, step)]
    best = min(every, key=lambda each: abs(letters(each) - wanted))
    assert nearest_channel(genotype, wanted, count=letters) == best


def test_samples_have_the_parameters_of_the_other_within_a_band() -> None:
    like = random_genotype(load(NAS_WDAN), seed=77)
    sampled = list(sample_matching(like, number=4, seed=3, count=letters))
    assert all(0.95 <= letters(genotype) / letters(like) <= 1.05 for genotype in sampled)
    assert [genotype.settings for genotype in sampled] == [like.settings] * 4
    assert len({str(genotype.cells) for genotype in sampled}) == 4
    assert list(sample_matching(like, number=2, seed=3, count=letters)) == sampled[:2]
    assert next(sample_matching(like, number=2, seed=4, count=letters)) != sampled[0]
    for genotype in sampled:
        assert random_genotype(like, seed=genotype.provenance["seed"]) == genotype
    # No sample that fits is left out.
    first, *_, last = [int(genotype.provenance["seed"]) for genotype in sampled]
    every = [random_genotype(like, seed=seed) for seed in range(first - first % module.SEEDS, last + 1)]
    assert sum(abs(letters(each) / letters(like) - 1) <= 0.05 for each in every) == 4


def test_too_few_samples_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAWS", 10)
    counts = iter([1000, *range(2000, 2020)])
    with pytest.raises(GenotypeError, match=r"Of 20 genotypes sampled like '.*' only 0 have its 1,000 parameters"):
        list(sample_matching(load(NAS_WDAN), number=2, seed=0, count=lambda _: next(counts)))


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
    return Networks(study, Layout(folder), study.recipe.data)


def test_entries_become_architectures(
    study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(architecture: Architecture, **_: int) -> int:
        return letters(architecture) if isinstance(architecture, Genotype) else 90_000

    monkeypatch.setattr(module, "parameters_of", count)
    random_genotype(load(NAS_WDAN), seed=77).with_settings(init_channel=4).save(tmp_path / "own.json")
    networks = networks_of(
        study(
            {"model": {"name": "unet", "width": 8, "depth": 3}},
            {"name": "small", "genotype": NAS_WDAN, "init_channel": 2},
            {"name": "sized", "genotype": NAS_WDAN, "parameters": "unet"},
            {"genotype": "own.json"},
            {"random": 2, "like": "own"},
        ),
        tmp_path,
    )
    assert networks.architecture("unet") == UNetSettings(width=8, depth=3)
    small, sized, own = (networks.architecture(name) for name in ("small", "sized", "own"))
    assert small == replace(load(NAS_WDAN).with_settings(init_channel=2), name="small")
    assert sized == replace(nearest_channel(load(NAS_WDAN), 90_000, count=letters), name="sized")
    first, second = (networks.architecture(name) for name in ("random-1", "random-2"))
    assert (first.name, second.name, first.provenance["like"]) == ("random-1", "random-2", "own")
    assert first.cells != second.cells
    assert all(0.95 <= letters(each) / letters(own) <= 1.05 for each in (first, second))


def test_a_run_of_a_pruned_network_is_refused_and_not_trained_whole(
    study: Callable[..., Study], tmp_path: Path
) -> None:
    (tmp_path / "pruned").mkdir()
    load(NAS_WDAN).save(tmp_path / "pruned" / "genotype.json")
    (tmp_path / "pruned" / "structure.json").write_text("{}")
    one = study({"name": "x", "genotype": "pruned"}, {"name": "y", "genotype": "pruned/genotype.json"})
    with pytest.raises(GenotypeError, match=r"x: .*/pruned holds a pruned network, which a study cannot train"):
        networks_of(one, tmp_path).architecture("x")
    assert networks_of(one, tmp_path).architecture("y") == replace(load(NAS_WDAN), name="y")


def test_searches_that_a_network_waits_for(study: Callable[..., Study], tmp_path: Path) -> None:
    one = study(
        {"name": "mix", "searched_on": "a"},
        {"name": "other", "searched_on": "a", "parameters": "mix2"},
        {"name": "mix2", "searched_on": "a"},
        {"random": 1, "like": "other"},
        {"genotype": NAS_WDAN, "parameters": "mix"},
        {"model": "unet"},
    )
    found = {name: set(searches_of(one, name)) for name in one.names}
    assert found["mix"] == found[NAS_WDAN] == {"mix"}
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
