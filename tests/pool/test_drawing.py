"""Which proposals become candidates, with a budget that is made up."""

import json
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from medarts.config import Recipe
from medarts.engine.directory import RunDirectory
from medarts.errors import RecipeError
from medarts.pool import drawing as module
from medarts.pool.drawing import MISSES, Drawing, Proposal
from medarts.profiling.budget import BudgetCost, Fitted, measure
from medarts.spaces.genotype import Genotype
from medarts.spaces.nas_wdan import NasWdan

from .conftest import changed

OVER = "over the budget"


@pytest.fixture
def drawing(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Drawing:
    def fit(genotype: Genotype, *_: Any, **__: Any) -> Fitted[Genotype] | None:
        return None if genotype.name == OVER else Fitted(genotype, BudgetCost(1, 2))

    monkeypatch.setattr(module, "fit", fit)
    monkeypatch.setattr(module, "fit_reduced", fit)
    return Drawing(recipe, ())


def proposals(recipe: Recipe, numbers: list[int], *, over: tuple[int, ...] = ()) -> list[Proposal]:
    found = []
    for number in numbers:
        genotype = NasWdan.sample(recipe.space, seed=number)
        named = Genotype(**{**vars(genotype), "name": OVER}) if number in over else genotype
        found.append(Proposal(named, None, "supernet", str(number)))
    return found


def test_all_genotypes_of_supernets_are_looked_at(drawing: Drawing, recipe: Recipe) -> None:
    searched = proposals(recipe, [1] * (MISSES + 2) + [2])
    assert [each.origin for each in drawing.first(2, searched)] == ["1", "2"]


def test_neighbours_that_are_known_or_over_end_a_generation_and_not_the_search(
    drawing: Drawing, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (first,) = drawing.first(1, proposals(recipe, [1]))
    known, over = proposals(recipe, [1, 2], over=(2,))

    def neighbours(*_: object) -> Iterator[Proposal]:
        yield over
        yield from repeat(known)

    monkeypatch.setattr(drawing, "_neighbours", neighbours)
    assert drawing.later(2, 3, [first]) == []
    assert f"0 candidates in place of 3: {MISSES} proposals in a row" in capsys.readouterr().err


def test_no_network_within_the_budget(drawing: Drawing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fit", lambda *_, **__: None)
    monkeypatch.setattr(module, "unmet", lambda genotype, *_, **__: RecipeError(genotype.name, fix=""))
    with pytest.raises(RecipeError, match="random"):
        drawing.first(2, [])


@pytest.mark.parametrize(
    ("guard", "origins"),
    [
        ("null", ["epoch 2", "epoch 4"]),
        ("{action: continue}", ["epoch 2", "epoch 4"]),
        ("{action: roll_back}", ["epoch 2"]),
    ],
)
def test_genotypes_along_a_search_are_healthy_ones_and_last_the_one_that_was_chosen(
    recipe: Recipe, tmp_path: Path, guard: str, origins: list[str]
) -> None:
    """Of six epochs the first is frozen, and from the fourth on no foreground is predicted."""
    given = (
        changed(recipe, f"search.guard={guard}", "search.arch_after=1", "search.guard.identity=1.0")
        if (guard != "null")
        else changed(recipe, "search.arch_after=1")
    )
    given = given.model_copy(update={"search": given.search.model_copy(update={"method": "supernet"})})
    run = RunDirectory.create(tmp_path / "run", given, kind="search", data_fingerprint="0" * 16, files={})
    healthy = {True: 0.5, False: 0.0}
    for name, content in (
        ("metrics.jsonl", lambda epoch: {"val_foreground_by_domain": {"blobs": healthy[epoch < 3]}}),
        (
            "architecture.jsonl",
            lambda epoch: {"genotype": json.loads(NasWdan.sample(given.space, seed=epoch).to_json())},
        ),
    ):
        lines = [{"stage": 0, "epoch": epoch, **content(epoch)} for epoch in range(6)]
        (run.path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    chosen = NasWdan.sample(given.space, seed=99)
    chosen.save(run.path / "genotype.json")
    found = Drawing(recipe, ()).along(run, number=3, called="supernet 7")
    assert [each.origin for each in found] == [
        *(f"supernet 7, stage 1, {origin}" for origin in origins), "supernet 7, as it was chosen",
    ]  # fmt: skip
    assert found[-1].genotype.cells == chosen.cells


def test_a_genotype_of_a_supernet_that_no_width_brings_within_is_reduced(recipe: Recipe) -> None:
    """And so is a neighbour; in place of a random genotype there is another."""
    wide = changed(recipe, "space.choices.depth=[3, 4]", "data.size=32")
    genotype = next(
        each for seed in range(99) if (each := NasWdan.sample(wide.space, seed=seed)).settings["depth"] == 4
    )
    cost = measure(NasWdan.scaled(genotype)[0], wide.budget.at(32), in_channels=3, outputs=1)
    drawing = Drawing(changed(wide, f"budget.flops={cost.flops - 1}"), ())
    (found,) = drawing.first(1, [Proposal(genotype, None, "supernet", "supernet 1")])
    assert found.cost.flops < cost.flops
    assert found.origin == "supernet 1; reduced in 1 step"
    assert drawing._new(Proposal(genotype, None, "random", "seed 1")) is None
    assert drawing._new(Proposal(found.genotype, None, "supernet", "supernet 2")) is None  # known by now
