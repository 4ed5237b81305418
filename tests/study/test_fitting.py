"""Networks of a study scaled to its budget: all of them, once, and none that is over it."""

from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import create_model

from medarts.config import BudgetSettings
from medarts.config.section import LATER, Section
from medarts.config.study import Study, load_study
from medarts.errors import RunError
from medarts.models import Architecture, scaled
from medarts.profiling.budget import BudgetCost, BudgetError, Fitted
from medarts.profiling.reference import Latency
from medarts.spaces.genotype import Genotype
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings
from medarts.study import fitting as module
from medarts.study.comparing import design_of
from medarts.study.fitting import read_sized
from medarts.study.jobs import Layout
from medarts.study.networks import Networks, parameters_of

LIMIT = 80_000
UNET, GENOTYPE = {"model": {"name": "unet", "width": 64, "depth": 3}}, {"name": "own", "genotype": "own.json"}
SPACE = NasWdanSettings(choices={"depth": [3], "intermediate_nodes": [2], "double_down_channel": [False]})


def study(folder: Path, *networks: dict[str, Any], **changes: Any) -> Study:
    recipe = {
        "data": {"sources": [{"kind": "folder", "path": "/data/a", "name": "a"}], "size": 32},
        "space": {"choices": {"depth": [3], "intermediate_nodes": [2], "double_down_channel": [False]}},
        "train": {"norm": "batch"},
        "budget": {"parameters": LIMIT},
        **changes,
    }
    NasWdan.sample(SPACE, seed=1).save(folder / "own.json")
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"recipe": recipe, "networks": networks, "trained_on": [{"data": "a"}]}))
    return load_study(path)


def networks_of(one: Study, folder: Path) -> Networks:
    found = Networks(one, Layout(folder), one.recipe.data)
    found.keep()
    return found


def count(network: Architecture) -> int:
    return parameters_of(network, in_channels=3, outputs=1)


def all_of(one: Study, folder: Path) -> dict[str, Architecture]:
    networks = networks_of(one, folder)
    return {name: networks.architecture(name) for name in one.names}


def test_every_network_is_the_widest_within_the_budget(tmp_path: Path) -> None:
    found = all_of(study(tmp_path, UNET, GENOTYPE, {"random": 2}), tmp_path)
    assert list(found) == ["unet", "own", "random-1", "random-2"]
    for name, network in found.items():
        widths = scaled(network)
        assert count(network) <= LIMIT < count(widths[widths.index(network) + 1])
        assert network.name == name
    drawn = [network for network in found.values() if network.name.startswith("random")]
    assert all(isinstance(each, Genotype) and each.settings["depth"] == 3 for each in drawn)
    assert len({str(each.cells) for each in drawn}) == 2
    kept = read_sized(Layout(tmp_path).sized)
    assert kept is not None
    assert kept.networks.keys() == found.keys()
    assert all(one.cost.parameters == count(found[name]) for name, one in kept.networks.items())
    assert kept.limits == {"parameters": LIMIT}


def test_what_was_chosen_is_not_chosen_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = (UNET, GENOTYPE, {"random": 1})
    found = all_of(study(tmp_path, *networks), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", None)
        patch.setattr(module, "Drawing", None)
        # Neither other seeds of the search nor the width that the file gives change what was asked for.
        wide = {"model": {"name": "unet", "width": 8, "depth": 3}}
        assert all_of(study(tmp_path, wide, *networks[1:], search={"lr": 0.1}), tmp_path) == found
    more = all_of(study(tmp_path, *networks[:2], {"random": 2}), tmp_path)
    assert {name: more[name] for name in found} == found
    smaller = all_of(study(tmp_path, *networks, budget={"parameters": LIMIT / 2}), tmp_path)
    assert all(count(smaller[name]) <= LIMIT / 2 < count(found[name]) for name in found)
    Layout(tmp_path).sized.write_text('{"unet": {}}')
    with pytest.raises(RunError, match=r"budget\.json is damaged .* or remove it"):
        networks_of(study(tmp_path, UNET), tmp_path)


def test_a_limit_that_is_measured_is_measured_once_for_all_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, scaled_to = iter([5.0, 7.0]), list[float]()

    def in_numbers(budget: BudgetSettings, **_: Any) -> BudgetSettings:
        return budget.model_copy(update={"latency_of": None, "latency_ms": next(measured)})

    def fit(network: Architecture, budget: BudgetSettings, **_: Any) -> Fitted[Architecture]:
        assert budget.latency_of is None
        scaled_to.append(budget.limits["latency_ms"])
        return Fitted(network, BudgetCost(1, 1, latency=Latency(4.0, 4.0, 0.1, 1.0)))

    monkeypatch.setattr(module, "in_numbers", in_numbers)
    monkeypatch.setattr(module, "fit", fit)
    budget, other = {"latency_of": {"name": "unet", "width": 8}}, {"latency_of": {"name": "unet", "width": 16}}
    networks_of(study(tmp_path, UNET, budget=budget), tmp_path)  # measures, though nothing is scaled yet
    one = study(tmp_path, UNET, GENOTYPE, budget=budget)
    all_of(one, tmp_path)
    compared = design_of(one, Layout(tmp_path)).budget
    assert compared is not None
    assert (scaled_to, compared.limits) == ([5.0, 5.0], {"latency_ms": 5.0})
    assert {name: amounts["latency_ms"] for name, amounts in compared.amounts.items()} == {"unet": 4.0, "own": 4.0}
    two = study(tmp_path, UNET, GENOTYPE, budget=other)
    networks_of(two, tmp_path).architecture("unet")
    compared = design_of(two, Layout(tmp_path)).budget
    assert compared is not None
    assert (compared.limits, [*compared.amounts]) == ({"latency_ms": 7.0}, ["unet"]), "own is of another budget"


def with_a_later_field(section: Section) -> Section:
    """Returns a section that has got another field, at its default."""
    added: dict[str, Any] = {"added": (Annotated[bool, LATER], True)}
    return create_model("Later", __base__=type(section), **added).model_validate(section.model_dump())


def test_fields_that_come_later_do_not_change_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = study(tmp_path, UNET, {"random": 2})
    found = all_of(one, tmp_path)
    space = with_a_later_field(one.recipe.space)
    changed = {
        "budget": with_a_later_field(one.recipe.budget),
        "space": space.model_copy(update={"choices": with_a_later_field(getattr(one.recipe.space, "choices"))}),  # noqa: B009
    }
    recipe = one.recipe.model_copy(update=changed)
    unet = one.networks[0].model_copy(update={"model": with_a_later_field(one.networks[0].model)})
    later = one.model_copy(update={"recipe": recipe, "networks": (unet, one.networks[1])})
    monkeypatch.setattr(module, "fit", None)
    monkeypatch.setattr(module, "Drawing", None)
    assert all_of(later, tmp_path) == found


def test_a_network_that_is_over_the_budget_at_every_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = {"name": "deep", "model": {"name": "unet", "depth": 6}}
    networks = networks_of(study(tmp_path, UNET, deep, budget={"parameters": 9000}), tmp_path)
    assert networks.architecture("unet")
    with pytest.raises(BudgetError, match=r"^deep: The narrowest network of model 'unet' is over the budget: param"):
        networks.architecture("deep")
    monkeypatch.setattr("medarts.pool.drawing.MISSES", 2)
    tiny = study(tmp_path, {"random": 2}, budget={"parameters": 10})
    with pytest.raises(BudgetError, match=r"^random: The narrowest network of genotype"):
        networks_of(tiny, tmp_path).architecture("random-2")


def test_too_few_different_random_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medarts.pool.drawing.MISSES", 1)
    one = NasWdan.sample(SPACE, seed=1)
    monkeypatch.setattr(NasWdan, "sample", lambda *_, **__: one)
    with pytest.raises(BudgetError, match=r"^random: Only 1 different random genotypes .* 2 are needed\. Sample fewer"):
        networks_of(study(tmp_path, {"random": 2}, budget={"parameters": 1e7}), tmp_path).architecture("random-1")
