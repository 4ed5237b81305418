"""What is fitted to validation images: temperature and thresholds of masks and findings, kept in the run."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

import medarts
from medarts.config import Recipe
from medarts.data.batches import Batch
from medarts.data.reading import MaskState
from medarts.deploy import calibration
from medarts.deploy.calibration import kept_calibration
from medarts.deploy.info import Calibration
from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError, RunError
from medarts.evaluation import calibrating
from medarts.evaluation.calibrating import THRESHOLDS, calibration_of, fit_masks
from medarts.metrics.calibration import fit_temperature

GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (20, 16, 16)).astype(np.uint8)
RECIPE: dict[str, Any] = {
    "train": {"epochs": 1, "batch": 4, "model": {"name": "unet", "width": 4, "depth": 2}},
    "evaluation": {"batch": 4, "bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}


class Given(nn.Module):
    """A network whose logits are its images."""

    def forward(self, images: Tensor, head: str) -> Tensor:
        return images


def fitted(logits: np.ndarray, targets: np.ndarray, truths: np.ndarray | None = None) -> Calibration:
    """Fits images in batches of two."""
    classes = logits.shape[1]
    shown = range(1, max(2, classes))
    if truths is None:
        truths = np.array(
            [[MaskState.PRESENT if (each == n).any() else MaskState.EMPTY for n in shown] for each in targets]
        )
    batches: Any = SimpleNamespace(
        store=SimpleNamespace(truths=truths),
        indices=np.arange(len(logits)),
        domains=np.array(["a"] * len(logits)),
        all=lambda: (
            Batch(
                torch.from_numpy(logits[at : at + 2]),
                torch.from_numpy(targets[at : at + 2]),
                np.arange(at, at + 2),
                truths[at : at + 2],
            )
            for at in range(0, len(logits), 2)
        ),
    )
    names = ("foreground",) if classes == 1 else tuple(f"class {n}" for n in range(1, classes))
    return fit_masks(Given(), batches, names=names, head="last")


def of_one_class(scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits that are ``scale`` times too sure, and the masks drawn from the right ones."""
    right = GENERATOR.normal(0, 2, (6, 1, 32, 32))
    targets = (GENERATOR.random((6, 32, 32)) < 1 / (1 + np.exp(-right[:, 0]))).astype(np.uint8)
    return (right * scale).astype(np.float32), targets


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_how_much_too_sure_a_network_is(scale: float) -> None:
    logits, targets = of_one_class(scale)
    found = fitted(logits, targets).temperature
    assert found == pytest.approx(fit_temperature(logits.reshape(-1, 1), targets.reshape(-1, 1)), rel=2e-3)
    assert found == pytest.approx(scale, rel=0.1)


def test_the_temperature_of_exclusive_classes_is_that_of_least_cross_entropy() -> None:
    logits = GENERATOR.normal(0, 4, (4, 3, 16, 16)).astype(np.float32)
    chances = np.exp(logits / 2) / np.exp(logits / 2).sum(1, keepdims=True)
    targets = (chances.cumsum(1) < GENERATOR.random((4, 1, 16, 16))).sum(1).astype(np.uint8)

    def loss(log_temperature: float) -> float:
        scaled = torch.from_numpy(logits) / float(np.exp(log_temperature))
        return float(nn.functional.cross_entropy(scaled, torch.from_numpy(targets).long()))

    best = float(np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x))
    assert fitted(logits, targets).temperature == pytest.approx(best, rel=5e-3)


def test_temperatures_end_where_more_would_be_fitted() -> None:
    targets = np.zeros((2, 4, 4), np.uint8)
    targets[:, :2] = 1
    sure = np.where(targets == 1, 2.0, -2.0)[:, None].astype(np.float32)
    assert fitted(sure, targets).temperature == pytest.approx(0.1)
    assert fitted(-sure, targets).temperature == pytest.approx(10)


def test_the_threshold_has_the_largest_mean_dice_over_images() -> None:
    logits, targets = of_one_class(2.0)
    logits -= 1.5
    probabilities = 1 / (1 + np.exp(-logits[:, 0]))

    def dice(threshold: float) -> float:
        predicted, true = probabilities >= threshold, targets == 1
        both = (predicted & true).sum((1, 2))
        return float((2 * both / (predicted.sum((1, 2)) + true.sum((1, 2)))).mean())

    best = max(THRESHOLDS, key=dice)
    assert best != 0.5
    assert fitted(logits, targets).thresholds == {"validation": {"foreground": best}}


def test_of_equal_thresholds_that_nearest_to_one_half_is_chosen() -> None:
    targets = np.zeros((2, 4, 4), np.uint8)
    targets[:, :2] = 1
    sure = np.where(targets == 1, 9.0, -9.0)[:, None].astype(np.float32)
    assert fitted(sure, targets).thresholds["validation"]["foreground"] == 0.5
    assert fitted(sure + 9, targets).thresholds["validation"]["foreground"] == 0.55  # the background is at 0.5


def test_a_class_that_no_validation_image_shows_has_no_threshold() -> None:
    logits = GENERATOR.normal(0, 4, (2, 3, 8, 8)).astype(np.float32)
    targets = GENERATOR.integers(0, 2, (2, 8, 8)).astype(np.uint8)
    found = fitted(logits, targets).thresholds["validation"]
    assert found["class 1"] is not None
    assert found["class 2"] is None


def test_a_mask_that_vanished_cannot_be_found_by_any_threshold() -> None:
    logits, targets = of_one_class(1.0)
    targets[:4] = 0
    truths = np.array([[MaskState.VANISHED]] * 4 + [[MaskState.PRESENT]] * 2)
    alone = fitted(logits[4:], targets[4:])
    assert fitted(logits, targets, truths).thresholds == alone.thresholds


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return medarts.train(None, RECIPE, data=(GREY, GREY > 128), out=tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def run(trained: RunDirectory) -> RunDirectory:
    (trained.path / "calibration.json").unlink(missing_ok=True)
    return trained


@pytest.fixture
def refuse_fits(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse() -> None:
        def fail(*arguments: Any, **options: Any) -> None:
            raise AssertionError("it is fitted again")

        monkeypatch.setattr(calibrating, "fit_masks", fail)

    return refuse


def test_a_calibration_is_kept_and_read_without_images(run: RunDirectory, refuse_fits: Callable[[], None]) -> None:
    assert kept_calibration(run) is None
    found = calibration_of(run, data=medarts.from_arrays(GREY, GREY > 128))
    assert 0.1 <= found.temperature <= 10
    assert found.thresholds["validation"]["foreground"] in THRESHOLDS
    refuse_fits()
    assert calibration_of(run) == kept_calibration(run) == found
    assert medarts.load(run).info.calibration == found
    assert medarts.load(run, checkpoint="last").info.calibration is None


def test_a_calibration_of_other_weights_is_not_used(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration_of(run, data=medarts.from_arrays(GREY, GREY > 128))
    monkeypatch.setattr(calibration, "of_weights", lambda weights: "others")
    assert kept_calibration(run) is None


def test_a_damaged_calibration_is_made_again(run: RunDirectory) -> None:
    store = medarts.from_arrays(GREY, GREY > 128)
    found = calibration_of(run, data=store)
    path: Path = run.path / "calibration.json"
    text = path.read_text(encoding="utf-8")
    for damaged in (text[:40], text.replace(f'"temperature": {found.temperature}', '"temperature": 7.5'), "[]"):
        path.write_text(damaged, encoding="utf-8")
        assert kept_calibration(run) is None
    assert calibration_of(run, data=store) == found
    assert path.read_text(encoding="utf-8") == text


def test_other_images_are_refused(run: RunDirectory) -> None:
    with pytest.raises(RunError, match="have changed since"):
        calibration_of(run, data=medarts.from_arrays(255 - GREY, GREY > 128))
    with pytest.raises(MedartsError):  # the images are in memory, and not given
        calibration_of(run)


def test_a_head_that_there_is_not_is_refused(run: RunDirectory) -> None:
    with pytest.raises(RunError, match="no head 'average'"):  # of a network with one
        calibration_of(run, head="average", data=medarts.from_arrays(GREY, GREY > 128))


def test_findings_have_the_calibration_of_their_scores(tmp_path: Path, small_densenet: None) -> None:
    images = GENERATOR.integers(0, 256, (40, 32, 32)).astype(np.uint8)
    labels = np.stack([np.arange(40) % 2, np.arange(40) % 3 == 0], 1).astype(np.uint8)
    store = medarts.from_arrays(images, labels)
    run = medarts.train("chexnet", {**RECIPE, "train": {"epochs": 1, "batch": 8}}, data=store, out=tmp_path / "run")
    scores = medarts.evaluate(run, data=store)
    found = calibration_of(run, data=store)
    assert scores.calibration is not None
    assert found.temperature == scores.calibration.temperature
    assert found.thresholds == scores.calibration.thresholds


def test_a_prediction_that_needs_a_calibration_fits_it_first(
    small_recipe: Recipe, folder_data: Path, tmp_path: Path
) -> None:
    changes = ["train.epochs=1", "train.model={name: unet, width: 4, depth: 2}"]
    run = medarts.train(None, small_recipe, changes=changes, out=tmp_path / "run")
    image = folder_data / "images" / "blob_00.png"
    medarts.predict(run, image, out=tmp_path / "threshold")
    assert kept_calibration(run) is None
    medarts.predict(run, image, out=tmp_path / "dice", decision="dice")
    assert kept_calibration(run) is not None
