"""Scores of a run are kept while images and weights are the same, and no longer."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medarts.config import Recipe, apply_overrides, parse
from medarts.data.opening import open_manifest
from medarts.engine import checkpoint
from medarts.engine.checkpoint import Checkpoint
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError
from medarts.evaluation import evaluate as module
from medarts.evaluation.evaluate import current_scores, evaluate
from medarts.models.unet import UNetSettings
from medarts.training.trainer import start_training


@pytest.fixture
def run(small_recipe: Recipe, tmp_path: Path) -> RunDirectory:
    """A scored training run."""
    changes = ["data.size=16", "train.epochs=1", "evaluation.bootstrap=100"]
    recipe = parse(apply_overrides(small_recipe.model_dump(mode="json"), changes))
    run = start_training(recipe, UNetSettings(width=2, depth=2), tmp_path / "run")
    evaluate(run.path)
    return run


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs that are evaluated from now on."""
    paths: list[Path] = []

    def watched(path: Path, **options: object) -> object:
        paths.append(path)
        return evaluate(path, **options)

    monkeypatch.setattr(module, "evaluate", watched)
    return paths


def test_scores_are_kept_also_of_a_copy(run, made, tmp_path):
    first = current_scores(run, "test")
    copied = tmp_path / "copy"
    shutil.copytree(run.path, copied, copy_function=shutil.copyfile)  # all files with the time of now
    for weights in copied.glob("checkpoints/best-*/weights.safetensors"):
        os.utime(weights, (2e9, 2e9))
    assert current_scores(RunDirectory.open(copied), "test").equals(first)
    assert made == []


def test_other_weights_are_scored_again_however_old(run, made):
    first = current_scores(run, "test")
    point = checkpoint.load(run.checkpoints, "best")
    changed = {name: -tensor if tensor.is_floating_point() else tensor for name, tensor in point.weights.items()}
    checkpoint.save(run.checkpoints, "best", Checkpoint(changed, point.state), position=(9, 0))
    for path in run.checkpoints.rglob("*"):
        os.utime(path, (0, 0))
    second = current_scores(run, "test")
    assert made == [run.path]
    assert not second.equals(first)
    assert current_scores(run, "test").equals(second)
    assert len(made) == 1


@pytest.mark.parametrize("part", ["images", "masks"])
def test_data_that_have_changed_since_the_run_began_are_neither_scored_nor_compared(run, made, part):
    """A file with other pixels, of the same size in bytes and with the same times."""
    (source,) = run.recipe.data.sources
    path = source.path / part / "blob_22.png"
    pixels = np.asarray(Image.open(path))
    Image.fromarray(pixels).save(path.with_suffix(".bmp"))
    path.unlink()
    run.write_json("run.json", run.facts | {"data_fingerprint": open_manifest(run.recipe.data, needs=()).fingerprint()})
    current_scores(run, "test")
    about = path.with_suffix(".bmp").stat()
    Image.fromarray(255 - pixels).save(path.with_suffix(".bmp"))
    os.utime(path.with_suffix(".bmp"), ns=(about.st_atime_ns, about.st_mtime_ns))
    made.clear()
    changed = r"The data of .*run have changed since it began \(1 file has other contents: .*blob_22\.bmp\)\. Restore"
    for use in (lambda: current_scores(run, "test"), lambda: evaluate(run.path)):
        with pytest.raises(RunError, match=changed):
            use()
    assert made == []
    evaluate(run.path, sources=(source,))  # given on purpose, they are scored


def without_fingerprints(path: Path) -> None:
    content = json.loads(path.read_text())
    del content["made_of"]
    path.write_text(json.dumps(content))


def cut_off(path: Path) -> None:
    path.write_text(path.read_text()[:100])


def without_tables(path: Path) -> None:
    for table in path.parent.glob("*.csv"):
        table.unlink()


def strange(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"made_of": ["x"]}))


@pytest.mark.parametrize("spoil", [without_fingerprints, cut_off, without_tables, strange, Path.unlink])
def test_files_that_are_old_or_damaged_are_written_again(run, made, spoil: Callable[[Path], None]):
    first = current_scores(run, "test")
    spoil(run.path / "scores" / "test" / "scores.json")
    assert current_scores(run, "test").equals(first)
    assert made == [run.path]
    assert current_scores(run, "test").equals(first)
    assert len(made) == 1


def test_images_that_left_the_split_are_refused(run):
    (source,) = run.recipe.data.sources
    splits = source.path / "splits.csv"
    splits.write_text(splits.read_text().replace("p10,val", "p10,test"))
    with pytest.raises(RunError, match=r"The data of .*run have changed since it began"):
        current_scores(run, "test")


def test_fingerprints_of_half_precision_and_counters():
    from medarts.engine.checkpoint import of_weights

    weights = {"a": torch.ones(2, 3, dtype=torch.bfloat16), "n": torch.tensor(3)}
    assert of_weights(weights) == of_weights(dict(reversed(weights.items())))
    assert of_weights(weights) != of_weights({**weights, "n": torch.tensor(4)})
    assert of_weights(weights) != of_weights({**weights, "a": torch.ones(3, 2, dtype=torch.bfloat16)})
