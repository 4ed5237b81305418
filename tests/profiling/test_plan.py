"""Estimates of a plan against a run that was measured; ``benchmarks/plan.py`` makes the strict comparison."""

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from medarts.config import Recipe, apply_overrides, parse
from medarts.data.opening import open_data
from medarts.engine import checkpoint
from medarts.engine.engine import Trial
from medarts.errors import DataError, MedartsError, RecipeError
from medarts.nas.deciding import Deciding, Rehearsal
from medarts.nas.search import start_search, try_search
from medarts.profiling.cost import count_parameters
from medarts.profiling.plan import Plan, plan
from medarts.profiling.scoring import scoring_seconds
from medarts.spaces.nas_wdan import NasWdan
from medarts.spaces.nas_wdan.network import NasWdanNetwork
from medarts.training.trainer import start_training, try_training


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


def in_new_process(function, *arguments, **options):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **options).result()


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


def test_all_that_is_to_come_is_in_the_time_and_it_has_bounds():
    trial = Trial(1, 100.0, 1.0, 1, 1, selection_seconds=10.0, low=0.5, high=2.0)
    rest = {"stage_names": ("a",), "folds": 3, "reading_seconds": 5.0, "scoring_seconds": 7.0}
    planned = Plan(stages=(trial,), training=trial, **rest)
    assert planned.seconds == 100 + 10 + 3 * 100 + 3 * 7  # the images have been read
    assert planned.bounds == (431 - 200, 431 + 400)
    even = replace(trial, low=1.0, high=1.0)
    assert Plan(stages=(even,), training=even, **rest).bounds == pytest.approx((0.9 * 431, 1.1 * 431))
    assert json.loads(planned.to_json())["seconds_from_to"] == [231, 831]


def test_scores_take_a_pass_of_all_images_and_the_metrics_of_masks(recipe, monkeypatch):
    store = open_data(recipe.data, needs=("train",))
    monkeypatch.setattr("medarts.profiling.scoring.mask_scores", lambda *_: time.sleep(0.05))
    trial = Trial(1, 1.0, 1.0, 1, 1, validation_seconds=8.0)
    test, validation = (len(store.manifest.of_split(split).samples) for split in ("test", "val"))
    passes = 8.0 * (1 + test / validation)
    assert passes + 0.05 * test <= scoring_seconds(recipe, store, trial) < passes + 0.5 * test
    patches = changed(recipe, "data.resize=patches", "data.size=16")
    windows = scoring_seconds(patches, open_data(patches.data, needs=("train",)), trial)
    assert windows > 2 * passes  # which overlap, as tiles of a validation do not


def test_time_and_parameters_of_every_stage(recipe, tmp_path, monkeypatch):
    """In the time of this process, as that of the clock depends on what else the machine is doing."""
    for module in ("engine", "timing"):
        monkeypatch.setattr(f"medarts.engine.{module}.time", SimpleNamespace(perf_counter=time.process_time))
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
    for module in ("engine", "timing"):
        monkeypatch.setattr(f"medarts.engine.{module}.time", SimpleNamespace(perf_counter=time.process_time))
    space = NasWdan(recipe.space, in_channels=3, outputs=1)
    supernet = space.supernet(recipe.search.stages[0], None)
    genotype = supernet.derive(recipe.derive, name="any", provenance={})
    trial = try_training(recipe, genotype, steps=3)
    run = start_training(recipe, genotype, tmp_path / "run")
    assert 0.5 < trial.seconds / sum(line["seconds"] for line in timing(run.path)) < 2
    assert trial.parameters == count_parameters(NasWdanNetwork(genotype))


def test_time_counts_frozen_and_free_epochs_steps_and_validations(recipe, monkeypatch):
    """With a clock that steps alone move on, the estimate is exact."""
    now = 0.0
    open_data(recipe.data, needs=("train",))

    class Clock:
        @staticmethod
        def perf_counter():
            return now

    def step(job):
        nonlocal now
        now += 5.0 if job.state.epoch >= job.recipe.search.arch_after else 2.0
        job.state.step += 1

    def validate(job):
        nonlocal now
        now += 7.0

    for module in ("engine", "timing"):
        monkeypatch.setattr(f"medarts.engine.{module}.time", Clock)
    monkeypatch.setattr("medarts.nas.search.Search._step", step)
    monkeypatch.setattr("medarts.nas.search.Search.validate", validate)
    recipe = changed(recipe, "search.stages.0.epochs=5", "search.arch_after=2")
    trial = try_search(recipe, 0, steps=3)
    assert trial.seconds == 8 * (2 * 2.0 + 3 * 5.0) + (5 + 2) * 7.0
    assert try_search(changed(recipe, "search.arch_after=9"), 0, steps=3).seconds == 8 * 5 * 2.0 + 7 * 7.0


def test_a_selection_is_counted_as_it_will_decide(recipe, tmp_path, monkeypatch):
    """Every loss and every step of the weights of the real one, without taking any."""
    recipe = changed(recipe, "search.stages=[{depth: 3, epochs: 1, batch: 4}]", "derive.select.name=perturbation")
    recipe = changed(recipe, "derive.select.batches=3", "derive.select.tune=2")
    done = {"batches": 0, "steps": 0}

    def loss(self, *, without, batches):
        done["batches"] += min(batches, self._search.data.architecture.steps)
        return 0.5

    def tune(self, steps, *, lr):
        done["steps"] += steps

    with monkeypatch.context() as patch:
        patch.setattr(Deciding, "loss", loss)
        patch.setattr(Deciding, "tune", tune)
        start_search(recipe, tmp_path / "run")
    counted = {}
    seconds = Rehearsal.seconds

    def count(self, *, repeats):
        counted.update(batches=self.batches, steps=self.steps)
        return seconds(self, repeats=repeats)

    monkeypatch.setattr(Rehearsal, "seconds", count)
    assert try_search(recipe, 0, steps=1).selection_seconds > 0
    assert counted == done
    assert done["batches"] > 100


def test_errors_come_back_from_the_trial_with_problem_and_fix(recipe):
    with pytest.raises(DataError, match="fewer than a batch of 99") as caught:
        plan(changed(recipe, "search.stages.1.batch=99"))
    assert isinstance(caught.value, MedartsError)
    assert caught.value.fix == "Lower the batch size, or add images."


# With a budget


def test_a_small_budget_is_met_by_parts(recipe):
    """Measured in earnest: two images at once do not fit, one does."""
    recipe = changed(
        recipe,
        "data.size=192",
        "space.init_channel=8",
        "search.stages=[{depth: 3, epochs: 1, batch: 2}]",
        "train.batch=1",
        "evaluation.batch=1",
    )
    whole = in_new_process(try_search, recipe, 0, steps=1)
    planned = plan(recipe, budget_mb=whole.memory_mb - 25)
    (stage,) = planned.stages
    assert (whole.accumulate, whole.images_at_once) == (1, 2)
    assert (stage.accumulate, stage.images_at_once) == (2, 1)
    assert (planned.training.accumulate, planned.training.images_at_once) == (1, 1)
    assert max(stage.memory_mb, planned.training.memory_mb) <= whole.memory_mb - 25
    assert planned.search_changes == ("search.stages.0.accumulate=2",)
    assert planned.training_changes == ()


@pytest.fixture
def made_up(recipe, monkeypatch) -> Recipe:
    """A recipe whose trials take 400 MB, and 100 MB an image at once; the second stage twice that."""

    def answer(attempt):
        images, factor = attempt.settings.images_at_once, 2 if attempt.section == "search.stages.1" else 1
        return Trial(1, 1.0, factor * (400.0 + 100 * images), attempt.settings.accumulate, images)

    monkeypatch.setattr("medarts.profiling.plan.in_new_process", answer)
    return changed(recipe, "search.stages.0.batch=8", "search.stages.1.batch=6", "train.batch=8")


def parts(planned) -> list[int]:
    return [trial.accumulate for trial in (*planned.stages, planned.training)]


def test_the_budget_decides_and_the_changes_make_it_so(made_up):
    for budget, expected in ((10**5, [1, 1, 1]), (1399, [1, 3, 1]), (1000, [2, 6, 2])):
        planned = plan(made_up, budget_mb=budget)
        assert parts(planned) == expected
        changes = [*planned.search_changes, *planned.training_changes]
        assert len(changes) == sum(number > 1 for number in expected)
        recipe = changed(made_up, *changes)
        assert parts(plan(recipe)) == expected  # planned as it is, without a budget
        assert plan(recipe, budget_mb=budget).search_changes == ()


def test_scaling_to_the_budget_of_a_recipe_is_counted_before_and_after_the_search(made_up, monkeypatch):
    def fitted(genotype, recipe):
        time.sleep(0.2)
        return SimpleNamespace(network=genotype)

    monkeypatch.setattr("medarts.profiling.plan.fit_to_recipe", fitted)
    planned = plan(changed(made_up, "budget.latency_ms=5"))
    assert planned.fitting_seconds > 0.4
    assert planned.search_seconds == sum(planned.stage_seconds) + planned.fitting_seconds
    assert json.loads(planned.to_json())["search"]["fitting_seconds"] == planned.fitting_seconds
    assert plan(made_up).fitting_seconds == 0


def test_a_recipe_that_splits_more_than_it_needs_is_told_so(made_up):
    recipe = changed(made_up, "search.stages.0.accumulate=8", "train.accumulate=3")
    assert parts(plan(recipe)) == [8, 1, 3]
    assert plan(recipe).search_changes == ()
    planned = plan(recipe, budget_mb=10**5)
    assert planned.search_changes == ("search.stages.0.accumulate=1",)
    assert planned.training_changes == ("train.accumulate=1",)


def test_parts_and_changes_as_json(made_up):
    content = json.loads(plan(made_up, budget_mb=1399).to_json())
    assert content["budget_mb"] == 1399
    assert [(s["accumulate"], s["images_at_once"]) for s in content["search"]["stages"]] == [(1, 8), (3, 2)]
    assert content["search"]["changes"] == ["search.stages.1.accumulate=3"]
    assert content["search"]["memory_mb"] == 1200
    assert (content["training"]["accumulate"], content["training"]["changes"]) == (1, [])
    assert json.loads(plan(made_up).to_json())["budget_mb"] is None


def test_a_budget_below_one_image_is_refused(made_up):
    says = r"Stage 2 of the search takes 1,000 MB with one image at a time, more than the budget of 999 MB\."
    with pytest.raises(RecipeError, match=says) as caught:
        plan(made_up, budget_mb=999)
    assert all(name in caught.value.fix for name in ("data.size", "the channels of the space", "evaluation.batch"))


def test_trials_that_run_out_of_memory(made_up, monkeypatch):
    limit = 4

    def answer(attempt):
        images = attempt.settings.images_at_once
        if images > limit:
            raise MemoryError
        return Trial(1, 1.0, 100.0 * images, attempt.settings.accumulate, images)

    monkeypatch.setattr("medarts.profiling.plan.in_new_process", answer)
    assert parts(plan(made_up, budget_mb=10**5)) == [2, 2, 2]
    with pytest.raises(
        RecipeError, match=r"^Stage 1 of the search runs out of memory with 8 images at a time\. .*--memory"
    ):
        plan(made_up)
    limit = 0
    with pytest.raises(RecipeError, match=r"^Stage 1 .* with one image at a time\. Lower data\.size") as caught:
        plan(made_up, budget_mb=10**5)
    assert "--memory-mb" not in caught.value.fix
