"""Classes that may overlap and ignored pixels, from a recipe to scores, predictions and an exported file."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import medarts
from medarts.config import Recipe, apply_overrides, parse
from medarts.config.data import IGNORE
from medarts.data.arrays import from_arrays
from medarts.data.batches import Batches
from medarts.errors import DataError
from medarts.evaluation.calibrating import fit_masks
from medarts.metrics.masks import mask_scores
from medarts.tasks import SegmentationTask

NAMES = ("disc", "core")
UNET = {"name": "unet", "width": 2, "depth": 2}


def write_set(root: Path) -> Path:
    """Discs of 1 with a core of 2, and a column of 255 that is not labelled."""
    y, x = np.mgrid[:24, :24]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for n in range(12):
        distance = np.hypot(y - 10 - n % 3, x - 9 - n % 4)
        mask = np.where(distance < 3, 2, np.where(distance < 7, 1, 0))
        image = 60 + 60 * mask
        mask[:, 22:] = 255
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{n:02d}.png")
        Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / f"{n:02d}.png")
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("overlap")
    labels = {0: "background", 1: "disc", 2: "core", 255: "ignore"}
    source = {"kind": "folder", "path": str(write_set(root / "set")), "name": "set", "labels": labels}
    data = {"sources": [source], "size": 16, "in_channels": 1, "classes": [*NAMES], "overlap": True}
    train = {"model": UNET, "epochs": 1, "batch": 4, "loss": "bce_dice"}
    evaluation = {"bootstrap": 100, "batch": 4}
    return parse({"data": {**data, "cache": str(root / "cache")}, "train": train, "evaluation": evaluation})


def test_a_run_scores_predicts_and_exports_every_class_by_itself(recipe: Recipe, tmp_path: Path) -> None:
    run = medarts.train(recipe=recipe, out=tmp_path / "run")
    scores = medarts.evaluate(run)
    assert set(scores.table["class"]) == {*NAMES}
    info = medarts.load(run.path).info
    assert (info.outputs, info.foreground, info.overlap, info.exclusive) == (NAMES, NAMES, True, False)
    image = Path(recipe.data.sources[0].path) / "images" / "00.png"
    medarts.predict(run, [image], out=tmp_path / "masks", decision="validation")
    for name in NAMES:
        mask = np.asarray(Image.open(tmp_path / "masks" / f"00_{name}.png"))
        assert mask.shape == (24, 24)
        assert set(np.unique(mask)) <= {0, 255}
        with (tmp_path / "masks" / "predictions.csv").open() as file:
            (row,) = [row for row in csv.DictReader(file) if row["class"] == name]
        assert int(row["pixels"]) == (mask == 255).sum()
    arrays = np.zeros((4, 16, 16), np.uint8)
    with pytest.raises(DataError, match=r"The classes of the images exclude each other.*N x K x H x W"):
        medarts.evaluate(run, data=from_arrays(arrays, arrays, classes=[*NAMES]))
    exported = medarts.export(run, images=[image]).path
    one, other = (medarts.load(path).predict(image) for path in (run.path, exported))
    assert one.shape == (2, 24, 24)
    np.testing.assert_allclose(one, other, atol=1e-4)


def batches_of(masks: np.ndarray, **options: object) -> Batches:
    splits = ["train", "val", "test", *["val"] * (len(masks) - 3)]
    store = from_arrays(np.zeros((len(masks), 16, 16), np.uint8), masks, splits=splits, **options)
    part = store.manifest.of_split("val")
    return Batches(store, part, batch=2, name="val", device=torch.device("cpu"))


def settings_of(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


class Given(torch.nn.Module):
    """Gives the same logits for every image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor, head: str = "", all_heads: bool = False) -> object:
        every = self.logits.expand(len(images), -1, -1, -1)
        return [every] if all_heads else every


def test_validation_and_calibration_do_not_look_at_ignored_pixels(recipe: Recipe) -> None:
    """Whatever is predicted there, all values are the same."""
    generator = np.random.default_rng(0)
    masks = generator.integers(0, 2, (6, 2, 16, 16)).astype(np.uint8)
    masks[:, :, 12:] = 9
    batches = batches_of(masks, classes=NAMES, ignore=9)
    task = SegmentationTask(recipe.data, loss="bce_dice")
    logits = torch.from_numpy(generator.normal(size=(1, 2, 16, 16))).float()
    found = []
    for there in (-8.0, 8.0):
        logits[:, :, 12:] = there
        values = task.validate(Given(logits), batches)
        found.append((values, fit_masks(Given(logits), batches, names=NAMES, head="last")))
    assert found[0] == found[1]
    assert 0 < found[0][0]["val_dice"] < 1


def test_scores_of_an_image_do_not_look_at_ignored_pixels() -> None:
    generator = np.random.default_rng(1)
    predicted, true = generator.random((2, 12, 20)) < 0.5
    counted = np.ones((12, 20), bool)
    counted[:, 14:] = False
    scores = mask_scores(predicted, true, counted=counted)
    assert scores == pytest.approx(mask_scores(predicted[:, :14].copy(), true[:, :14].copy()), nan_ok=True)
    assert scores == mask_scores(predicted ^ ~counted, true & counted, counted=counted)


@pytest.mark.parametrize("classes", [1, 3])
def test_exclusive_classes_are_validated_without_ignored_pixels(recipe: Recipe, classes: int) -> None:
    generator = np.random.default_rng(2)
    masks = generator.integers(0, max(classes, 2), (6, 16, 16)).astype(np.uint8)
    masks[:, 12:] = IGNORE
    batches = batches_of(masks, ignore=IGNORE)
    loss = "bce_dice" if classes == 1 else "ce_dice"
    labels = "data.sources.0.labels={1: 1}"
    data = settings_of(recipe, "data.overlap=false", f"data.classes={classes}", labels, f"train.loss={loss}").data
    logits = torch.from_numpy(generator.normal(size=(1, classes, 16, 16))).float()
    found = []
    for there in (-8.0, 8.0):
        logits[:, -1, 12:] = there
        task = SegmentationTask(data, loss=loss)
        found.append(task.validate(Given(logits), batches))
    assert found[0] == found[1]
