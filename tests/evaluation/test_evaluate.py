"""Scores of a trained network: files, heads, data sets, and agreement with the network that was saved."""

import csv
import json
import re
import shutil
import threading
import weakref
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medarts import terminal
from medarts.config import Recipe, SourceSettings, apply_overrides, make_source, parse
from medarts.data.opening import open_data, open_manifest
from medarts.engine import checkpoint
from medarts.engine.directory import RunDirectory
from medarts.errors import DataError, RunError
from medarts.evaluation.deciding import OtherWays
from medarts.evaluation.evaluate import evaluate, scores_folder
from medarts.evaluation.pictures import from_arrays
from medarts.evaluation.scores import Scores, vanished
from medarts.reporting.page import write_report
from medarts.spaces.nas_wdan import NasWdan
from medarts.system.randomness import seed_torch
from medarts.training.trained import load_network
from medarts.training.trainer import start_training


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


def accept_data(run: RunDirectory) -> None:
    """Has a run take the data that are there now for those that it was trained on."""
    run.write_json("run.json", run.facts | {"data_fingerprint": open_manifest(run.recipe.data, needs=()).fingerprint()})


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    """Of images that are scored as the network sees them; see ``test_own_size.py`` for others."""
    scored = "evaluation.resolution=network"
    return changed(small_recipe, "data.size=16", "train.optimizer=adamw", "train.lr=0.01", scored)


@pytest.fixture
def run(recipe: Recipe, tmp_path: Path) -> RunDirectory:
    """A training run of two epochs."""
    return trained(recipe, tmp_path / "run")


def trained(recipe: Recipe, out: Path) -> RunDirectory:
    settings = changed(recipe, "space.intermediate_nodes=2")
    seed_torch(0, "genotype")
    space = NasWdan(settings.space, in_channels=recipe.data.in_channels, outputs=recipe.data.outputs)
    supernet = space.supernet(settings.search.stages[0], None)
    return start_training(recipe, supernet.derive(recipe.derive, name="small", provenance={}), out)


def source(path: Path, name: str) -> SourceSettings:
    return make_source(kind="folder", path=path, name=name)


class Scored(NamedTuple):
    """The scores of one class in one image."""

    key: str
    domain: str
    patient: str
    class_name: str
    truth: str
    metrics: dict[str, float]


def images_of(scores: Scores) -> list[Scored]:
    about = ["image", "dataset", "patient", "class", "truth"]
    return [
        Scored(*map(str, key), metrics=dict(zip(rows["metric"], rows["value"], strict=True)))
        for key, rows in scores.table.groupby(about, sort=False)
    ]


def row_of(scores: Scores, dataset: str, metric: str = "dice"):
    summary = scores.summary
    return summary[(summary["dataset"] == dataset) & (summary["metric"] == metric)].iloc[0]


def dice(predicted: np.ndarray, true: np.ndarray) -> float:
    total = predicted.sum() + true.sum()
    return 1.0 if total == 0 else 2 * (predicted & true).sum() / total


def test_scores_agree_with_the_saved_network(run):
    scores = evaluate(run.path)
    recipe, network = run.recipe, load_network(run).eval()
    store = open_data(recipe.data, needs=("test",))
    assert {score.key for score in images_of(scores)} == {"blob_22", "blob_23"}
    for score in images_of(scores):
        position = next(n for n, sample in enumerate(store.manifest.samples) if sample.key == score.key)
        with torch.no_grad():
            logits = network(torch.from_numpy(store.images[[position]]).float())
        predicted = (logits[0, 0].sigmoid() >= 0.5).numpy()
        true = store.targets[position] == 1
        assert score.metrics["dice"] == pytest.approx(dice(predicted, true), abs=1e-6)
        assert score.metrics["accuracy"] == pytest.approx((predicted == true).mean(), abs=1e-6)
        assert score.patient == "p11"
    assert row_of(scores, "blobs").value == pytest.approx(
        np.mean([score.metrics["dice"] for score in images_of(scores)])
    )


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_validation_dice_of_the_best_epoch_is_found_again(recipe, tmp_path, norm):
    """Evaluation on the validation set must tell what training told of the weights it kept."""
    run = trained(changed(recipe, f"train.norm={norm}"), tmp_path / "run")
    scores = evaluate(run.path, split="val")
    mean = np.mean([score.metrics["dice"] for score in images_of(scores)])
    assert mean == pytest.approx(run.read_json("summary.json")["best_score"], abs=1e-6)


def test_files(run):
    scores = evaluate(run.path)
    folder = run.path / "scores" / "test"
    assert sorted(path.name for path in folder.iterdir()) == [
        "decisions.csv",
        "examples.npz",
        "scores.csv",
        "scores.json",
        "summary.csv",
    ]
    pd.testing.assert_frame_equal(Scores.read(folder).table, scores.table)
    content = json.loads((folder / "scores.json").read_text())
    assert (content["split"], content["checkpoint"], content["head"]) == ("test", "best", "4,0")
    with (folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(dict.fromkeys(row["image"] for row in rows)) == ["blob_22", "blob_23"]
    with np.load(folder / "examples.npz") as arrays:
        examples = from_arrays(arrays)
    # Best, median and worst, and a third of two in the gallery.
    assert [each.of_gallery for each in examples] == [False] * 3 + [True]
    for each in examples:
        assert (each.image.shape, each.target.shape, each.predicted.shape) == ((16, 16, 3), (16, 16), (16, 16))
        assert each.image.min() < 100 < each.image.max()
    best, _, worst, *gallery = (dice(each.predicted == 1, each.target == 1) for each in examples)
    assert best == max(score.metrics["dice"] for score in images_of(scores))
    assert worst == min(score.metrics["dice"] for score in images_of(scores))
    assert gallery == [worst]
    assert "best" in examples[0].title


def test_predictions_are_not_kept_in_memory(run, monkeypatch):
    """That of an image is let go before the next but one is made."""
    alive: list[weakref.ref] = []
    most: list[int] = []
    real = OtherWays.add

    def watched(*arguments, **options):
        most.append(sum(one() is not None for one in alive))
        predicted = real(*arguments, **options)
        alive.append(weakref.ref(predicted))
        return predicted

    monkeypatch.setattr(OtherWays, "add", watched)
    evaluate(run.path, split="all")
    assert len(most) == 24
    assert max(most) <= 1


def test_a_lesion_that_resizing_loses_is_not_found(run, folder_data, capsys):
    mask = np.zeros((320, 320), np.uint8)
    mask[1, 1] = 255
    Image.fromarray(mask).save(folder_data / "masks" / "blob_22.png")
    Image.new("RGB", (320, 320)).save(folder_data / "images" / "blob_22.png")
    scores = evaluate(run.path, sources=(source(folder_data, "elsewhere"),))
    lost = next(score for score in images_of(scores) if score.key == "blob_22")
    assert (lost.truth, lost.metrics["dice"], lost.metrics["recall"]) == ("vanished", 0, 0)
    assert vanished(scores.table) == {"elsewhere": {"foreground": 1}}
    terminal.show_scores(scores)
    assert "lost by resizing, and scored 0: foreground in 1 image" in capsys.readouterr().out
    assert "Lost by resizing, and therefore scored 0" in write_report(run.path).read_text()


def test_an_early_head(run):
    scores = evaluate(run.path, head="2,0")
    assert scores.head == "2,0"
    network = load_network(run).eval()
    store = open_data(run.recipe.data, needs=("test",))
    position = next(n for n, sample in enumerate(store.manifest.samples) if sample.key == "blob_22")
    with torch.no_grad():
        logits = network(torch.from_numpy(store.images[[position]]).float(), "2,0")  # the first of both
    expected = dice((logits[0, 0] >= 0).numpy(), store.targets[position] == 1)
    assert images_of(scores)[0].metrics["dice"] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(RunError, match=r"no head '2,1'\. Did you mean '2,0'"):
        evaluate(run.path, head="2,1")


def test_another_data_set(run, folder_data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder_data, other)
    for number in (22, 23):
        Image.new("L", (32, 32)).save(other / "masks" / f"blob_{number}.png")
    own = evaluate(run.path)
    scores = evaluate(run.path, sources=(source(other, "elsewhere"),))
    assert {score.domain for score in images_of(scores)} == {"elsewhere"}
    own_folder, folder = sorted(path.name for path in (run.path / "scores").iterdir())
    assert own_folder == "test"
    assert re.fullmatch("test-elsewhere-[0-9a-f]{8}", folder)
    pd.testing.assert_frame_equal(Scores.read(run.path / "scores" / "test").table, own.table)
    both = evaluate(run.path, sources=(source(folder_data, "blobs"), source(other, "elsewhere")))
    assert [score.metrics["dice"] for score in images_of(both) if score.domain == "blobs"] == pytest.approx(
        [score.metrics["dice"] for score in images_of(own)]
    )
    assert {"blobs", "elsewhere"} <= {*both.summary["dataset"]}


def test_another_data_set_in_a_folder_of_the_same_name_has_scores_of_its_own(run, folder_data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder_data, other)
    for number in (22, 23):
        Image.new("L", (32, 32)).save(other / "masks" / f"blob_{number}.png")
    scored = [
        evaluate(run.path, sources=(source(path, "test-set"),)).made_of.images
        for path in (folder_data, other, other)  # the last into the folder of the one before
    ]
    assert scored[0] != scored[1] == scored[2]
    kept = [Scores.read(folder).made_of.images for folder in (run.path / "scores").iterdir()]
    assert sorted(kept) == sorted(scored[:2])


def test_folders_of_scores_are_told_apart_where_names_hold_dashes(tmp_path):
    def folder(*names: str, images: str = "1", head: str | None = None) -> Path:
        sources = tuple(source(tmp_path, name) for name in names) or None
        return scores_folder(RunDirectory(tmp_path), "test", images, sources=sources, head=head)

    folders = [
        folder("a-b"),
        folder("a", "b"),
        folder("a", images="2"),
        folder("a"),
        folder("head-4"),
        folder(head="4"),
        folder("a", head="4"),
        folder("a", "head-4"),
        folder("a-head-4"),
        folder(),
    ]
    assert len(set(folders)) == len(folders)


def test_two_data_sets_of_one_name_are_refused(run, folder_data, tmp_path):
    """Their images could not be told apart: the one set would be scored with the other's pixels."""
    other = tmp_path / "other"
    shutil.copytree(folder_data, other)
    with pytest.raises(DataError, match="blobs"):
        evaluate(run.path, sources=(source(folder_data, "blobs"), source(other, "blobs")))


def test_another_data_set_of_the_same_name_and_file_sizes_is_not_taken_from_the_cache(run, folder_data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder_data, other)
    before = [score.metrics["dice"] for score in images_of(evaluate(run.path))]
    names = ("blob_22.png", "blob_23.png")
    first, second = (other / "images" / name for name in names)
    pixels = [np.asarray(Image.open(path)) for path in (first, second)]
    for folder in (folder_data, other):  # without compression all files have one size
        for name in names:
            for part in ("images", "masks"):
                Image.open(folder / part / name).save(folder / part / name.replace("png", "bmp"))
                (folder / part / name).unlink()
    accept_data(run)
    for path, image in zip((second, first), pixels, strict=True):
        Image.fromarray(image).save(path.with_suffix(".bmp"))
    assert [score.metrics["dice"] for score in images_of(evaluate(run.path))] == pytest.approx(before)
    exchanged = [score.metrics["dice"] for score in images_of(evaluate(run.path, sources=(source(other, "blobs"),)))]
    assert exchanged != pytest.approx(before)


@pytest.mark.parametrize("predicts", ["nothing", "everything"])
def test_empty_masks(run, folder_data, predicts):
    Image.new("L", (32, 32)).save(folder_data / "masks" / "blob_22.png")
    accept_data(run)
    point = checkpoint.load(run.checkpoints, "best")
    shift = "frame.heads.4_0.shift"
    point.weights[shift] = torch.full_like(point.weights[shift], -1e4 if predicts == "nothing" else 1e4)
    checkpoint.save(run.checkpoints, "best", point, position=(9, 0))
    scores = evaluate(run.path)
    empty, full = (score.metrics for score in images_of(scores))
    assert empty["dice"] == (1.0 if predicts == "nothing" else 0.0)
    assert empty["hd95"] == 0.0 if predicts == "nothing" else np.isnan(empty["hd95"])
    assert (full["dice"] == 0.0) == (predicts == "nothing")
    assert np.isnan(full["hd95"]) == (predicts == "nothing")
    assert row_of(scores, "blobs", "hd95").undefined == 1


def test_several_classes(recipe, folder_data, tmp_path):
    for path in (folder_data / "masks").iterdir():
        mask = np.asarray(Image.open(path)) // 255
        mask[:, :16] *= 2  # the left half of every disc is another class
        Image.fromarray(mask).save(path)
    changes = ("data.classes=3", "data.sources.0.labels={1: 1, 2: 2}", "search.loss=ce", "train.loss=ce_dice")
    run = trained(changed(recipe, *changes), tmp_path / "classes")
    scores = evaluate(run.path)
    assert [(score.key, score.class_name) for score in images_of(scores)] == [
        ("blob_22", "class 1"),
        ("blob_22", "class 2"),
        ("blob_23", "class 1"),
        ("blob_23", "class 2"),
    ]
    network, store = load_network(run).eval(), open_data(run.recipe.data, needs=("test",))
    positions = store.indices(store.manifest.of_split("test"))
    with torch.no_grad():
        predicted = network(torch.from_numpy(store.images[positions]).float()).argmax(1).numpy()
    for score in images_of(scores):
        number = ("blob_22", "blob_23").index(score.key)
        index = int(score.class_name[-1])
        expected = dice(predicted[number] == index, store.targets[positions[number]] == index)
        assert score.metrics["dice"] == pytest.approx(expected, abs=1e-6)


def test_what_cannot_be_evaluated(run, recipe, folder_data, tmp_path):
    table = folder_data / "splits.csv"
    table.write_text(table.read_text().replace(",test", ",val"))
    with pytest.raises(DataError, match=r"No image of blobs is in the split 'test'"):
        evaluate(run.path)
    assert not (run.path / "scores").exists()
    with pytest.raises(RunError, match="is not a run directory"):
        evaluate(tmp_path / "nowhere")
    searched = RunDirectory.create(tmp_path / "searched", recipe, kind="search", data_fingerprint="")
    with pytest.raises(RunError, match=r"is a search run\. Give a train run"):
        evaluate(searched.path)
    untrained = RunDirectory.create(tmp_path / "untrained", recipe, kind="train", data_fingerprint="")
    with pytest.raises(RunError, match=rf"has no checkpoint yet\. Train it: medarts train --resume {untrained.path}"):
        evaluate(untrained.path)


def test_a_run_that_is_being_trained_is_not_scored(run):
    refused = []

    def work():
        try:
            evaluate(run.path)
        except RunError as error:
            refused.append(str(error))

    with run.at_work("train"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert "Another process is at work" in refused[0]
    assert "train, process" in refused[0]
    evaluate(run.path)


def test_evaluating_leaves_a_checkpoint_alone_that_is_being_written(run):
    """Training may still be going on in another process."""
    unfinished = run.checkpoints / ".unfinished-last-000007"
    unfinished.mkdir()
    evaluate(run.path)
    assert unfinished.exists()
