"""Estimates of a plan against a run that was measured; ``benchmarks/plan.py`` makes the strict comparison."""

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from medarts.data.opening import open_data
from medarts.errors import DataError, MedartsError
from medarts.evaluation.cost import count_parameters
from medarts.evaluation.plan import plan
from medarts.recipe import Recipe, apply_overrides, parse
from medarts.run.randomness import seed_torch
from medarts.search import start_search
from medarts.search.start import try_search
from medarts.spaces.weave.supernet import WeaveSpace


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    """Epochs of eight steps, so that there is more to measure than to start."""
    return changed(
        small_recipe,
        "search.stages.0.batch=1",
        "search.stages.1.batch=1",
        "space.intermediate_nodes=2",
        "train.batch=2",
    )


def in_new_process(function, *arguments):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def timing(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "timing.jsonl").read_text().splitlines()]


def test_plan_foretells_the_search(recipe, tmp_path):
    began = time.monotonic()
    planned = plan(recipe)
    assert planned.search_seconds > 0
    assert not (tmp_path / "run").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs", "cache"]
    run = in_new_process(start_search, recipe, tmp_path / "run")
    assert time.monotonic() - began < 120

    lines = timing(run.path)
    measured = sum(line["seconds"] for line in lines)
    # A busy machine runs now faster, now slower: a guard against estimates that are wrong, not against noise.
    assert 1 / 3 < planned.search_seconds / measured < 3
    assert 1 / 1.5 < planned.search_memory_mb / max(line["peak_memory_mb"] for line in lines) < 1.5
    assert 100 < planned.training.memory_mb < 2000

    seed_torch(0, "any")
    space = WeaveSpace(recipe.space, in_channels=3, outputs=1)
    first = space.supernet(recipe.search.stages[0], None)
    assert planned.stages[0].parameters == sum(parameter.numel() for parameter in first.weights())
    fewer = space.supernet(recipe.search.stages[1], first.strongest(recipe.search.stages[0].keep))
    # Which operations stay is not known before the search; they differ in size.
    assert planned.stages[1].parameters < planned.stages[0].parameters
    assert planned.stages[1].parameters == pytest.approx(sum(p.numel() for p in fewer.weights()), rel=0.2)
    network = fewer.derive(recipe.derive, name="any", provenance={})
    assert planned.training.parameters < count_parameters(first)
    assert network.settings["depth"] == 3

    content = json.loads(planned.to_json())
    assert content["search"]["seconds"] == pytest.approx(sum(stage.seconds for stage in planned.stages))
    assert content["search"]["memory_mb"] == max(stage["memory_mb"] for stage in content["search"]["stages"])
    assert content["training"].keys() == {"parameters", "seconds", "memory_mb"}


def test_time_counts_frozen_and_free_epochs_steps_and_validations(recipe, monkeypatch):
    """With a clock that steps alone move on, the estimate is exact."""
    now = 0.0
    open_data(recipe.data, needs=("train",))

    class Clock:
        @staticmethod
        def perf_counter():
            return now

    def step(loop, orders):
        nonlocal now
        now += 5.0 if loop.place.epoch >= loop.recipe.search.arch_after else 2.0
        loop.place.step += 1

    def validate(loop, validation):
        nonlocal now
        now += 7.0

    monkeypatch.setattr("medarts.search.loop.time", Clock)
    monkeypatch.setattr("medarts.search.loop.SearchLoop._step", step)
    monkeypatch.setattr("medarts.search.loop.SearchLoop._validate", validate)
    recipe = changed(recipe, "search.stages.0.epochs=5", "search.arch_after=2")
    trial = try_search(recipe, 0, steps=3)
    assert trial.seconds == 8 * (2 * 2.0 + 3 * 5.0) + (5 + 2) * 7.0
    assert try_search(changed(recipe, "search.arch_after=9"), 0, steps=3).seconds == 8 * 5 * 2.0 + 7 * 7.0


def test_errors_come_back_from_the_trial_with_problem_and_fix(recipe):
    with pytest.raises(DataError, match="fewer than a batch of 99") as caught:
        plan(changed(recipe, "search.stages.1.batch=99"))
    assert isinstance(caught.value, MedartsError)
    assert caught.value.fix == "Lower the batch size, or add images."
