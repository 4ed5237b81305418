"""What an epoch is spent on."""

import time
from contextlib import suppress
from pathlib import Path

import pytest

from medarts.config import Recipe, apply_overrides, parse
from medarts.data.batches import Batches
from medarts.engine import engine
from medarts.engine.timing import Stopwatch
from medarts.training.trainer import Training, prepare_training, start_training, try_training


def test_nested_parts_share_the_time_without_counting_any_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    watch = Stopwatch()
    now = 100.0  # before a part begins, nothing counts
    with watch.on("steps"):
        now += 1
        with watch.on("input"):
            now += 2
        now += 4
    now += 100
    with watch.on("logging"):
        now += 8
        assert watch.lap() == {"input": 2, "steps": 5, "validation": 0, "logging": 8}
        now += 16
    with suppress(OSError), watch.on("validation"):
        now += 32
        raise OSError
    now += 100
    assert watch.lap() == {"input": 0, "steps": 0, "validation": 32, "logging": 16}


def test_the_parts_of_an_epoch_are_told_apart(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is slowed down by a time of its own."""
    changes = ["data.size=16", "train.model={name: unet, width: 4, depth: 2}", "train.epochs=1", "train.batch=4"]
    recipe = parse(apply_overrides(small_recipe.model_dump(mode="json"), changes))

    def slow(owner: type, name: str, seconds: float) -> None:
        method = getattr(owner, name)

        def slowed(*given: object, **named: object) -> object:
            time.sleep(seconds)
            return method(*given, **named)

        monkeypatch.setattr(owner, name, slowed)

    slow(Batches, "training", 0.2)
    slow(Training, "_scores", 0.4)
    slow(Training, "journals", 0.6)
    run = start_training(recipe, recipe.train.model, tmp_path / "run")
    (line,) = run.read_journal("timing.jsonl")
    spent = line["spent"]
    steps = round(spent["input"] / 0.2)
    assert 0.2 * steps <= spent["input"] < 0.2 * steps + 0.1
    assert 0.4 <= spent["validation"] < 0.6
    assert 0.6 <= spent["logging"] < 0.9
    assert sum(spent.values()) <= line["seconds"] < sum(spent.values()) + 0.1


def test_a_trial_validates_some_of_many_images(small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ["data.size=16", "train.model={name: unet, width: 4, depth: 2}", "train.batch=4"]
    recipe = parse(apply_overrides(small_recipe.model_dump(mode="json"), changes))
    whole = prepare_training(recipe, recipe.train.model).validation
    validated = []

    def scores(job: Training, network: object, images: Batches) -> dict[str, float]:
        validated.append(images)
        return {"val_loss": 1.0}

    monkeypatch.setattr(Training, "_scores", scores)
    monkeypatch.setattr(engine, "MOST_VALIDATED", 3)
    try_training(recipe, recipe.train.model, steps=1)
    places = [0, round((len(whole.indices) - 1) / 2), len(whole.indices) - 1]
    for images in validated:
        assert images.indices.tolist() == whole.indices[places].tolist()
        assert images.samples == tuple(whole.samples[place] for place in places)
    assert len(whole.indices) > 3
