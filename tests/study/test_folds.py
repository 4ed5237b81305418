"""Trainings of all folds: scores of images that were not seen, and one network of all."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.conftest import write_folder_data
from tests.small_runs_of_tests import InThisProcess

import medarts as library
from medarts import terminal
from medarts.comparison.candidates import check_comparable, group_runs
from medarts.comparison.overlays import predict_overlays
from medarts.data.choosing import choose_sources
from medarts.data.opening import open_data
from medarts.engine.directory import RunDirectory
from medarts.engine.listing import read_listing
from medarts.errors import DataError, RunError
from medarts.evaluation.pictures import from_arrays
from medarts.evaluation.scores import Scores, image_values
from medarts.profiling import cost
from medarts.profiling.cost import Cost
from medarts.profiling.latency import Timing
from medarts.reporting.page import write_report
from medarts.study.folds import read_fold_scores
from medarts.training.trained import load_network

pytestmark = pytest.mark.usefixtures("nothing_rendered")

RECIPE: dict[str, Any] = {
    "train": {"epochs": 2, "batch": 4, "lr": 0.05, "model": {"name": "unet", "width": 4, "depth": 2}},
    "evaluation": {"batch": 8, "bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}


def recipe(folder: Path, cache: Path) -> dict[str, Any]:
    data = {"sources": [{"kind": "folder", "path": str(folder), "name": "blobs"}], "size": 32, "cache": str(cache)}
    return {**RECIPE, "data": data}


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of two folds of twelve images, of six patients."""
    root = tmp_path_factory.mktemp("folds")
    write_folder_data(root / "data", images=12)
    content = recipe(root / "data", root / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medarts.system.workers.Processes", InThisProcess)
        return library.train(recipe=content, changes="data.folds=2", out=root / "run")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains in this process: another one takes seconds to begin."""
    monkeypatch.setattr("medarts.system.workers.Processes", InThisProcess)


def listed(run: Path) -> dict[str, str]:
    return {key: about["split"] for (_, key), about in read_listing(run / "manifest.csv").items()}


def test_scores_are_of_images_that_neither_trained_nor_chose(folds: RunDirectory) -> None:
    scores = Scores.read(folds.path / "scores" / "test")
    assert set(scores.table["image"]) == set(listed(folds.path))
    assert len(listed(folds.path)) == 12
    values = image_values(scores.table).set_index("image")
    for fold in (1, 2):
        path = folds.path / "folds" / str(fold)
        splits = listed(path)
        held = [key for key, split in splits.items() if split == "test"]
        patients = {about["patient"]: set() for about in read_listing(path / "manifest.csv").values()}
        for about in read_listing(path / "manifest.csv").values():
            patients[about["patient"]].add(about["split"])
        assert all(len(of) == 1 for of in patients.values())
        own = image_values(Scores.read(path / "scores" / "test").table).set_index("image")
        assert sorted(own.index.unique()) == sorted(held)
        pooled = values.loc[sorted(held)].sort_values("metric", kind="stable")["value"]
        expected = own.loc[sorted(held)].sort_values("metric", kind="stable")["value"]
        np.testing.assert_array_equal(pooled, expected)


def test_the_gallery_is_the_worst_of_all_folds(folds: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory.open(shutil.copytree(folds.path, tmp_path / "run"))
    scores = library.evaluate(run, worst=3)
    dice = image_values(scores.table).query("metric == 'dice'").sort_values(["value", "image"])
    with np.load(run.path / "scores" / "test" / "examples.npz") as arrays:
        pictures = from_arrays(arrays)
    titles = [each.title for each in pictures]
    shown = {each.title: (each.target, each.predicted) for each in pictures}
    assert [title.split(" · ")[1:3] for title in titles[:3]] == [
        ["blobs", name] for name in ("best", "median", "worst")
    ]
    assert [title.split(" · ")[2] for title in titles[3:]] == dice["image"].head(3).tolist()
    assert [each.of_gallery for each in pictures] == [False] * 3 + [True] * 3
    for title, (target, predicted) in shown.items():
        own = 2 * (target & predicted).sum() / (target.sum() + predicted.sum())
        assert own == pytest.approx(float(title.rsplit("Dice ")[1]), abs=1e-3), title


def test_groups_that_were_asked_for_once_are_not_those_of_the_next_call(folds: RunDirectory, tmp_path: Path) -> None:
    root = tmp_path / "again"
    shutil.copytree(folds.path.parent, root)
    table = folds.path.parent / "data" / "splits.csv"
    lines = table.read_text().splitlines()
    try:
        rows = [f"{line},{'centre' if n == 0 else 'ab'[n % 2]}" for n, line in enumerate(lines)]
        table.write_text("\n".join(rows) + "\n")
        run = RunDirectory.open(root / "run")
        assert library.evaluate(run, by="centre").groups is not None
        plain = library.evaluate(run)
        assert (plain.groups, plain.about["by"]) == (None, None)
    finally:
        table.write_text("\n".join(lines) + "\n")


def test_the_spread_is_that_between_folds(folds: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_training(folds)
    assert "HD95, px" in capsys.readouterr().out
    found = read_fold_scores(folds)
    assert found is not None
    dice = found.folds["dice"]
    assert found.spread["dice"] == pytest.approx(np.std(dice, ddof=1))
    assert found.pooled["dice"] == pytest.approx(np.average(dice, weights=found.folds["images"]))
    assert [*found.folds["images"]] == [6, 6]


def test_the_network_is_the_mean_of_those_of_the_folds(folds: RunDirectory) -> None:
    members = [load_network(RunDirectory.open(folds.path / "folds" / str(fold))).eval() for fold in (1, 2)]
    store = open_data(folds.recipe.data, needs=("test",))
    images = torch.from_numpy(store.images[np.arange(4)]).float()
    with torch.inference_mode():
        wanted = torch.stack([torch.as_tensor(member(images)).sigmoid() for member in members]).mean(0)
        found = torch.as_tensor(load_network(folds).eval()(images)).sigmoid()
    torch.testing.assert_close(found, wanted)
    one = library.load(folds).predict(np.zeros((40, 48, 3), np.uint8))
    assert one.shape == (40, 48)


def test_it_is_exported_as_one_graph_packed_and_scored_on_other_data(folds: RunDirectory, tmp_path: Path) -> None:
    exported = library.export(folds, tmp_path / "network.onnx")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    both = [library.load(each).predict(image) for each in (folds, exported.path)]
    np.testing.assert_allclose(*both, atol=1e-4)
    packed = library.pack(folds, tmp_path / "network.medarts")
    np.testing.assert_array_equal(library.load(packed).predict(image), both[0])
    assert [*library.load(packed).info.provenance.images.values()] == [{"train": 12, "test": 12}]
    other = write_folder_data(tmp_path / "other", images=16, seed=1)
    for network in (folds, packed):
        table = library.evaluate(network, data=str(other)).table
        assert table["image"].nunique() == 2, "the test set of the other data, which are not in folds"


def test_two_are_compared_by_images_they_have_not_seen(folds: RunDirectory, tmp_path: Path, here: None) -> None:
    root = folds.path.parent
    content = recipe(root / "data", root / "cache")
    changes = ["data.folds=2", "train.model.width=6", "train.epochs=1"]
    other = library.train(recipe=content, changes=changes, out=tmp_path / "run")
    candidates = group_runs([folds.path, other.path])
    assert [candidate.kind for candidate in candidates] == ["baseline", "baseline"]
    with pytest.raises(RunError, match=r"train\.epochs"):
        check_comparable(candidates)
    names = [("blobs", key) for key in sorted(listed(folds.path))]
    shown = [masks[0] for masks in predict_overlays(candidates[:1], names, split="test").predictions]
    dice = image_values(Scores.read(folds.path / "scores" / "test").table).query("metric == 'dice'")
    targets = open_data(folds.recipe.data, needs=("test",)).targets[np.arange(12)]
    own = [2 * (one & true).sum() / (one.sum() + true.sum()) for one, true in zip(shown, targets, strict=True)]
    np.testing.assert_allclose(own, dice.sort_values("image")["value"], atol=1e-6)


def test_two_are_compared_on_other_data(
    folds: RunDirectory, tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which are not divided into folds: those of a single patient could not be."""

    def costs(architectures: dict[str, Any], *, size: int, in_channels: int, outputs: int, **_: Any) -> Any:
        timings = {"onnxruntime": (Timing(1, 1, 5.0, 0.1),)}
        return {
            name: Cost(51300, 200, size, in_channels, outputs, timings, memory_mb={1: 30.0}) for name in architectures
        }

    monkeypatch.setattr(cost, "measure_costs", costs)
    root = folds.path.parent
    changes = ["data.folds=2", "train.model.width=6"]
    wide = library.train(recipe=recipe(root / "data", root / "cache"), changes=changes, out=tmp_path / "wide")
    other = write_folder_data(tmp_path / "other", images=2, seed=1)
    found = library.compare([folds, wide], data=str(other), split="all", out=tmp_path / "out")
    assert set(found.images["image"]) == {"blob_00", "blob_01"}
    page = re.sub(r"<style.*?</style>|<[^>]*>", " ", (tmp_path / "out" / "report.html").read_text("utf-8"), flags=re.S)
    page = " ".join(page.split())
    assert "External: no network was trained on any image of other." in page
    assert "unet-2-folds (wide)" in page
    assert "2 images of 1 patient" in page
    sources = choose_sources((str(other),), known=folds.recipe.data.sources)
    names = [("other", "blob_01"), ("other", "blob_00")]
    overlays = predict_overlays(group_runs([folds.path, wide.path]), names, split="all", sources=sources)
    assert [masks.shape for masks in overlays.predictions] == [(2, 32, 32)] * 2
    mask = np.asarray(Image.open(other / "masks" / "blob_01.png")) > 0
    np.testing.assert_array_equal(overlays.targets[0], mask)


def test_the_page_shows_every_fold(folds: RunDirectory) -> None:
    page = write_report(folds.path).read_text(encoding="utf-8")
    assert page.partition('id="folds"')[2].count("HD95, px") >= 2  # in both tables
    assert "SD between folds" in page


def test_the_same_call_goes_on_with_what_is_missing(
    folds: RunDirectory, tmp_path: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folds.path.parent
    again = tmp_path / "again"
    shutil.copytree(folds.path, again)
    shutil.rmtree(again / "folds" / "2")
    facts = json.loads((again / "run.json").read_text())
    (again / "run.json").write_text(json.dumps(facts | {"finished": False}))
    content = recipe(root / "data", root / "cache")
    run = library.train(recipe=content, changes="data.folds=2", out=again)
    assert run.facts["finished"]
    assert re.search(r" resumes after \d+ of \d+ epochs\.$", capsys.readouterr().err, re.MULTILINE)
    both = [Scores.read(one / "scores" / "test").table for one in (folds.path, again)]
    pd.testing.assert_frame_equal(*both)
    with pytest.raises(RunError, match="already holds another run"):
        library.train(recipe=content, changes=["data.folds=2", "seed=1"], out=again)
    (again / "folds" / "1" / "checkpoints").rename(tmp_path / "gone")
    shutil.copytree(folds.path / "folds" / "2" / "checkpoints", again / "folds" / "1" / "checkpoints")
    with pytest.raises(RunError, match="medarts train --resume"):
        library.evaluate(again)


def test_more_epochs_are_those_of_every_fold(folds: RunDirectory, tmp_path: Path, here: None) -> None:
    longer = tmp_path / "longer"
    shutil.copytree(folds.path, longer)
    run = library.resume(longer, changes="train.epochs=3")
    assert len(run.read_journal("metrics.jsonl")) == 3
    assert all(len(RunDirectory(longer / "folds" / fold).read_journal("metrics.jsonl")) == 3 for fold in "12")
    *whole, _ = run.read_journal("timing.jsonl")
    of_folds = [RunDirectory(longer / "folds" / fold).read_journal("timing.jsonl") for fold in "12"]
    assert whole[0]["spent"]["steps"] == pytest.approx(sum(lines[0]["spent"]["steps"] for lines in of_folds))


def test_a_class_of_one_patient_is_named_before_anything_is_trained(tmp_path: Path, here: None) -> None:
    """The network of the fold that tests the patient would not know it."""
    folder = write_folder_data(tmp_path / "data", images=12)
    for mask in sorted((folder / "masks").iterdir()):
        drawn = np.array(Image.open(mask)) // 255
        drawn[:, 16:] *= 1 + (mask.stem in ("blob_04", "blob_05"))  # of p2
        Image.fromarray(drawn).save(mask)
    content = recipe(folder, tmp_path / "cache")
    source = {**content["data"]["sources"][0], "labels": {1: "disc", 2: "rare"}}
    content["data"] |= {"sources": [source], "classes": ["disc", "rare"], "folds": 3}
    content["train"] = {**content["train"], "loss": "ce"}
    words = r"of fold \d shows the class 'rare' \(labels 2\), only disc. It is shown by patient p2 \((test|val)\) alone"
    with pytest.raises(DataError, match=words):
        library.train(recipe=content, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_needs_one_network_is_refused(folds: RunDirectory) -> None:
    with pytest.raises(RunError, match="pruned one by one"):
        library.prune(folds, keep_flops=0.5)
    with pytest.raises(RunError, match=r"fine-tuned one by one.*folds/1"):
        library.train(initial=folds)
    with pytest.raises(RunError, match=r"float.*folds/1"):
        library.export(folds, int8=True)
