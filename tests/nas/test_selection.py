"""Selection by perturbation: what is missed most is kept, and an interruption changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medarts.config import Recipe, apply_overrides, parse
from medarts.engine import checkpoint
from medarts.errors import RecipeError
from medarts.nas.deciding import Deciding
from medarts.nas.search import prepare_search, resume_search, start_search
from medarts.nas.selection import in_order, most_missed
from medarts.spaces.decisions import Decision
from medarts.spaces.genotype import load_genotype
from medarts.system.process import InterruptedRunError
from medarts.system.ranks import Ranks

SELECT = "derive.select={name: perturbation, batches: 1, tune: 1}"
ONE_STAGE = "search.stages=[{depth: 3, epochs: 1, batch: 4}]"


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


@pytest.fixture(params=["masks", "findings"])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    """One stage of an epoch; some edges into a node compete, in nas-wdan paths too."""
    if request.param == "masks":
        small = request.getfixturevalue("small_recipe")
        few = "space.operations={normal: [none, identity, conv], down: [max_pool, down_conv], up: [up_conv]}"
        changes = ["data.size=16", "space.intermediate_nodes=2", few, "derive.top_k=1"]
        return changed(small, *changes, ONE_STAGE, SELECT)
    small = request.getfixturevalue("finding_recipe")
    few = "[none, skip_connect, sep_conv_3x3]"
    return changed(
        small, "space.intermediate_nodes=2", f"space.operations={{normal: {few}, reduce: {few}}}",
        "search.stages=[{depth: 4, epochs: 1, batch: 4}]", SELECT,
    )  # fmt: skip


def assert_equal_runs(run: Path, other: Path) -> None:
    for name in ("metrics.jsonl", "architecture.jsonl", "genotype.json", "summary.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    points = [checkpoint.load(each / "checkpoints", "last") for each in (run, other)]
    assert points[0].state["loop"] == points[1].state["loop"]
    assert all(torch.equal(tensor, points[1].weights[name]) for name, tensor in points[0].weights.items())


def test_the_genotype_is_what_was_decided_and_an_interruption_changes_nothing(recipe, tmp_path, monkeypatch, capsys):
    whole = start_search(recipe, tmp_path / "whole" / "run").path
    said = capsys.readouterr().err
    selection = json.loads((whole / "summary.json").read_text())["selection"]
    assert len(selection) == len({made["decision"] for made in selection})
    compared = [made for made in selection if made["losses"]]
    assert {made["decision"].split()[0] for made in compared} >= {"operation", "edges"}
    genotype = load_genotype(whole)
    for made in selection:
        if made["losses"]:
            assert tuple(made["kept"]) == most_missed(made["losses"], keep=len(made["kept"]))
            assert f"{made['decision']} keeps {', '.join(made['kept'])}" in said
        kind, *place = made["decision"].split()
        if kind == "edges":
            states = [str(state) for _, state in genotype.cells[place[0]][int(place[1])]]
            assert sorted(states) == sorted(made["kept"])
    places = [made["decision"].split()[0] for made in selection]
    assert places == sorted(places, key=["operation", "edges", "paths"].index)

    make, calls = Deciding.make, []

    def stopped(deciding, made, **options):
        calls.append(made)
        if len(calls) == len(selection) // 2:
            deciding._search._stop.requested = True  # asked in the middle of the tuning, or before the next loss
        make(deciding, made, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Deciding, "make", stopped)
        with pytest.raises(InterruptedRunError, match="Resume with"):
            start_search(recipe, tmp_path / "stopped" / "run")
    assert 0 < checkpoint.newest(tmp_path / "stopped" / "run" / "checkpoints", "last")[2] < len(selection)
    assert_equal_runs(whole, resume_search(tmp_path / "stopped" / "run").path)


def test_an_option_that_is_missed_more_is_kept_whatever_its_alpha(small_recipe, tmp_path, monkeypatch):
    """A supernet that needs convolutions alone, by a loss that says so, against alphas that favour identity."""
    recipe = changed(
        small_recipe, "data.size=16", "space.intermediate_nodes=1", ONE_STAGE, SELECT,
        "space.operations={normal: [identity, conv], down: [max_pool, down_conv], up: [up_cweight, up_conv]}",
    )  # fmt: skip
    monkeypatch.setattr(Deciding, "loss", lambda deciding, without, batches: float("conv" in without[1]))
    genotype = load_genotype(start_search(recipe, tmp_path / "run").path)
    names = {name for cell in genotype.cells.values() for node in cell for name, _ in node}
    assert names == {"conv", "down_conv", "up_conv"}


def test_losses_are_compared_on_the_same_images_and_weights(small_recipe):
    recipe = changed(small_recipe, "data.size=16", "space.intermediate_nodes=1", ONE_STAGE, SELECT)
    search = prepare_search(recipe)
    search.set_up()
    deciding = Deciding(search)
    first = next(decision for decision in deciding.decisions() if decision.is_open)
    losses = [deciding.loss(without=(first.name, option), batches=1) for option in first.options]
    again = [deciding.loss(without=(first.name, option), batches=1) for option in first.options]
    assert losses == again
    assert len(set(losses)) == len(losses)

    class Second(Ranks):
        def gathered(self, value: Any) -> list[Any]:
            return [0.25, value]

    search.ranks = Second()  # processes decide by the loss of the first, or they might decide differently
    assert deciding.loss(without=(first.name, first.options[0]), batches=1) == 0.25


def test_more_epochs_undo_an_interrupted_selection(small_recipe, tmp_path, monkeypatch):
    recipe = changed(small_recipe, "data.size=16", "space.intermediate_nodes=1", ONE_STAGE, SELECT)
    make = Deciding.make

    def stopped(deciding, made, **options):
        make(deciding, made, **options)
        deciding._search._stop.requested = True

    with monkeypatch.context() as patch:
        patch.setattr(Deciding, "make", stopped)
        with pytest.raises(InterruptedRunError):
            start_search(recipe, tmp_path / "run")
    longer = resume_search(tmp_path / "run", ["search.stages.0.epochs=2"]).path
    assert len((longer / "metrics.jsonl").read_text().splitlines()) == 2
    point = checkpoint.load(longer / "checkpoints", "last")
    assert len(point.state["loop"]["made"]) == len({made["decision"] for made in point.state["loop"]["made"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("search.relaxation=gumbel", r"perturbation leaves out .* gumbel runs a single one"),
        ("derive.paths=threshold", r"derive.paths threshold .* does not use"),
        ("derive.skips=2", r"derive.skips takes the next strongest"),
    ],
)
def test_what_it_cannot_go_with_is_refused_before_the_search(small_recipe, tmp_path, change, message):
    recipe = changed(small_recipe, "data.size=16", "space.intermediate_nodes=1", SELECT, change)
    with pytest.raises(RecipeError, match=message):
        start_search(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_order_is_one_of_the_seed_within_each_kind():
    decisions = [Decision(kind, str(place), ("a", "b"), 1) for kind in ("operation", "paths") for place in range(8)]
    orders = [[each.name for each in in_order(decisions, seed=seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert all(name.startswith("operation") for name in orders[2][:8])
    assert sorted(orders[2]) == sorted(each.name for each in decisions)
