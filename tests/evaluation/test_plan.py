"""Estimates of a plan against a run that was measured; ``benchmarks/plan.py`` makes the strict comparison."""

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from medarts.data.opening import open_data
from medarts.errors import DataError, MedartsError
from medarts.evaluation.cost import count_parameters
from medarts.evaluation.plan import plan
from medarts.networks.weave import WeaveNetwork
from medarts.recipe import Recipe, apply_overrides, parse
from medarts.run import checkpoint
from medarts.search import start_search
from medarts.search.start import try_search
from medarts.spaces.weave.supernet import WeaveSpace
from medarts.training.start import start_training, try_training


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


def test_parameters_and_memory_of_a_search(recipe, tmp_path):
    recipe = changed(recipe, "search.stages=[{depth: 3, epochs: 2, batch: 1}]")
    planned = plan(recipe)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs", "cache"]
    run = in_new_process(start_search, recipe, tmp_path / "run")

    measured = max(line["peak_memory_mb"] for line in timing(run.path))
    assert 1 / 1.5 < planned.search_memory_mb / measured < 1.5
    assert 1 / 1.5 < planned.training.memory_mb / measured < 1.5  # most of it are the libraries
    point = checkpoint.load(run.checkpoints, "last")
    weights = {name: tensor for name, tensor in point.weights.items() if not name.startswith(("alphas.", "betas"))}
    (stage,) = planned.stages
    assert stage.parameters == sum(tensor.numel() for tensor in weights.values())

    content = json.loads(planned.to_json())
    assert content["search"]["seconds"] == planned.search_seconds == stage.seconds > 0
    assert content["search"]["memory_mb"] == planned.search_memory_mb == stage.memory_mb
    assert content["search"]["stages"][0]["parameters"] == stage.parameters
    assert 0 < content["training"]["parameters"] < stage.parameters


def test_time_and_parameters_of_every_stage(recipe, tmp_path, monkeypatch):
    """In the time of this process, as that of the clock depends on what else the machine is doing."""
    for module in ("search.loop", "run.job"):
        monkeypatch.setattr(f"medarts.{module}.time", SimpleNamespace(perf_counter=time.process_time))
    # All operations stay, so that it is known what the second stage is made of.
    recipe = changed(recipe, "search.stages.0.keep={}")
    trials = [try_search(recipe, stage, steps=3) for stage in (0, 1)]
    lines = timing(start_search(recipe, tmp_path / "run").path)
    for stage, trial in enumerate(trials):
        measured = sum(line["seconds"] for line in lines if line["stage"] == stage)
        assert 0.5 < trial.seconds / measured < 2, stage
    assert trials[0].parameters == trials[1].parameters
    fewer = try_search(changed(recipe, "search.stages.0.keep={up: 1, down: 1, normal: 1}"), 1, steps=1)
    assert fewer.parameters < trials[0].parameters


def test_time_of_a_training(recipe, tmp_path, monkeypatch):
    for module in ("training.loop", "run.job"):
        monkeypatch.setattr(f"medarts.{module}.time", SimpleNamespace(perf_counter=time.process_time))
    space = WeaveSpace(recipe.space, in_channels=3, outputs=1)
    supernet = space.supernet(recipe.search.stages[0], None)
    genotype = supernet.derive(recipe.derive, name="any", provenance={})
    trial = try_training(recipe, genotype, steps=3)
    run = start_training(recipe, genotype, tmp_path / "run")
    assert 0.5 < trial.seconds / sum(line["seconds"] for line in timing(run.path)) < 2
    assert trial.parameters == count_parameters(WeaveNetwork(genotype))


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

    monkeypatch.setattr("medarts.run.job.time", Clock)
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
