"""What is fitted to the validation images of a run: the temperature and thresholds that a trained network travels with.

Of masks, all pixels of all validation images count, at the size of the recipe, and no more than a batch is held:

* temperature: the one at which the cross-entropy of the pixels is least, sigmoid or softmax (Guo 2017, "On calibration
  of modern neural networks", section 4.2). The slope of this loss is summed over all pixels at `TEMPERATURES_TRIED`; it
  is monotonic, and its root lies between two of them.
* threshold of each class: of `THRESHOLDS` the one of the largest mean Dice over the images; of equal ones the one
  nearest to 0.5. Images of data sets that do not show the class are left out, as in scores.

Of findings, temperature and thresholds are those of scores. What was fitted is kept in the run, and fitted again where
the weights or the rules are others. The images cannot be others: a run whose images have changed is refused.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medarts.config import Recipe, Split
from medarts.config.data import IGNORE
from medarts.data.batches import Batches
from medarts.data.manifest import Manifest
from medarts.data.opening import open_manifest
from medarts.data.reading import MaskState
from medarts.data.store import ImageStore, open_store
from medarts.deploy.calibration import keep_calibration, kept_calibration
from medarts.deploy.info import MASK_THRESHOLD, Calibration
from medarts.engine.changes import check_places
from medarts.engine.device import make_fabric, preserved_process_state
from medarts.engine.directory import RunDirectory
from medarts.evaluation.folds import joined_calibration
from medarts.evaluation.scoring import calibrate, predict_findings
from medarts.evaluation.sliding import Sliding
from medarts.metrics import Confusion
from medarts.metrics.calibration import TEMPERATURES
from medarts.metrics.masks import counted_pixels, foreground_masks, shown_classes
from medarts.network import FindingNetwork, Network
from medarts.network.inference import shipped
from medarts.system.console import progress_bar
from medarts.training.trained import folds_of, is_ensemble, load_network

FOUND_ON: Split = "val"
"""Split that everything is fitted to."""

THRESHOLDS = tuple(number / 20 for number in range(1, 20))
"""The thresholds of masks that are tried: 0.05 to 0.95."""

TEMPERATURES_TRIED = np.geomspace(*TEMPERATURES, 41)
"""Between two neighbours, 12 % apart, the slope is taken as linear: its root is off by less than a thousandth."""

Floats = NDArray[np.floating[Any]]


@preserved_process_state()
def calibration_of(
    run: RunDirectory, *, head: str | None = None, data: ImageStore | None = None, model: nn.Module | None = None
) -> Calibration:
    """Returns what was fitted to the validation images of a training run for its best checkpoint, fitting it if needed.

    That of an ensemble is made of those of its folds, see `medarts.evaluation.folds`.

    Args:
        run: the training run.
        head: an earlier head, or "average". Default: the last.
        data: the images of a run that was started with images in memory.
        model: the network as shipped for inference, where the caller has it.

    Raises:
        RunError: the run has no checkpoint yet, or no such head, or its images have changed.
        DataError: its images cannot be read.
    """
    kept = kept_calibration(run, head=head)
    if kept is not None:
        return kept
    if is_ensemble(run):
        found = joined_calibration([calibration_of(fold, head=head) for fold in folds_of(run)])
        keep_calibration(run, found, head=head)
        return found
    recipe = run.recipe
    if data is None:
        store = open_store(own_manifest(run, (FOUND_ON,)), recipe.data, threads=recipe.compute.threads)
    else:
        run.check_unchanged(data.manifest.fingerprint(), manifest=data.manifest.to_csv())
        store = data
    device = make_fabric(recipe.compute).device
    part = store.manifest.part(FOUND_ON)
    batches = Batches(store, part, batch=recipe.evaluation.batch, name=FOUND_ON, device=device)
    network = load_network(run).to(device)
    chosen = network.head_named(head)
    if isinstance(network, FindingNetwork):
        found = _of_findings(network, batches, recipe)
    else:
        used = as_shipped(network, recipe) if model is None else model
        found = fit_masks(used, batches, names=recipe.data.class_names, head=chosen)
    keep_calibration(run, found, head=head)
    return found


def fit_masks(model: nn.Module, batches: Batches, *, names: Sequence[str], head: str) -> Calibration:
    """Fits the temperature and thresholds of masks.

    Args:
        model: the network as shipped for inference.
        batches: the validation images.
        names: of the foreground classes, in the order of their indices.
        head: its head, or "average".
    """
    truths = batches.store.truths[batches.indices]
    slopes = np.zeros(len(TEMPERATURES_TRIED))
    dice: list[Floats] = []
    with progress_bar("calibrate", len(batches.indices)) as bar, torch.inference_mode():
        for batch in batches.all():
            logits = model(batch.images, head).float().cpu()
            targets = batch.targets.cpu()
            slopes += _slopes(logits, targets)
            dice.append(_dice_by_threshold(logits, targets, batch.truths))
            bar.advance(len(batch.images))
    shown = shown_classes(truths, batches.domains.tolist())
    thresholds: dict[str, float | None] = {}
    for number, name in enumerate(names):
        of_class = np.concatenate(dice)[shown[:, number], number]
        present = bool((truths[:, number] == MaskState.PRESENT).any())
        thresholds[name] = _best_threshold(of_class.mean(0)) if present else None
    temperature = _temperature(slopes) if (truths == MaskState.PRESENT).any() else 1.0
    return Calibration(temperature=temperature, thresholds={MASK_THRESHOLD: thresholds})


def as_shipped(network: Network, recipe: Recipe) -> nn.Module:
    """Returns a network for masks in the form that it is used in, on images as they are stored."""
    # fp16 is for training: inference keeps the range of its weights.
    dtype = torch.bfloat16 if recipe.compute.precision == "bf16" else None
    data = recipe.data
    form = shipped(network, in_channels=data.in_channels, size=data.size, dtype=dtype)
    if data.resize != "patches":
        return form
    exclusive = data.outputs > 1 and not data.overlap
    return Sliding(form, data.size, batch=recipe.evaluation.batch, exclusive=exclusive)


def own_manifest(run: RunDirectory, needs: tuple[Split, ...]) -> Manifest:
    """Lists the data of a run, before any image is read.

    Raises:
        DataError: a folder is gone, or a split is empty.
        RunError: the data have changed since the run began.
    """
    recipe = run.recipe
    check_places(run, recipe)
    manifest = open_manifest(recipe.data, needs=needs)
    run.check_unchanged(manifest.fingerprint(), manifest=manifest.to_csv())
    return manifest


def _of_findings(network: FindingNetwork, validation: Batches, recipe: Recipe) -> Calibration:
    found = calibrate(
        *predict_findings(network.eval(), validation, recipe),
        findings=validation.store.manifest.findings,
        sensitivity=recipe.evaluation.sensitivity,
    )
    thresholds = {rule: dict(of_rule) for rule, of_rule in found.thresholds.items()}
    return Calibration(temperature=found.temperature, thresholds=thresholds)


def _are_single(logits_bkhw: Tensor, targets: Tensor) -> bool:
    """Whether every output is a class by itself (sigmoid): one class, or classes that may overlap."""
    return logits_bkhw.shape[1] == 1 or targets.ndim == 4


def _slopes(logits_bkhw: Tensor, targets: Tensor) -> Floats:
    """Returns the derivative of the summed cross-entropy by 1/T, at all temperatures that are tried."""
    slopes = np.empty(len(TEMPERATURES_TRIED))
    counted = counted_pixels(targets)
    if counted is not None:  # a logit of 0 adds nothing to either sum
        logits_bkhw, targets = logits_bkhw * counted, targets.masked_fill(targets == IGNORE, 0)
    single = _are_single(logits_bkhw, targets)
    if single:
        true = (logits_bkhw * foreground_masks(targets, classes=1)).sum(dtype=torch.float64)
    else:
        true = logits_bkhw.gather(1, targets[:, None].long()).sum(dtype=torch.float64)
    for place, temperature in enumerate(TEMPERATURES_TRIED.tolist()):
        scaled = logits_bkhw / temperature
        probabilities = torch.sigmoid(scaled) if single else torch.softmax(scaled, 1)
        slopes[place] = float((probabilities * logits_bkhw).sum(dtype=torch.float64) - true)
    return slopes


def _temperature(slopes: Floats) -> float:
    """Returns where the slope is 0, or the end of the range beyond which it would be."""
    if slopes[0] <= 0:
        return float(TEMPERATURES_TRIED[0])
    if slopes[-1] >= 0:
        return float(TEMPERATURES_TRIED[-1])
    # numpy wants the known values to rise.
    return float(np.exp(np.interp(0.0, slopes[::-1], np.log(TEMPERATURES_TRIED)[::-1])))


def _dice_by_threshold(logits_bkhw: Tensor, targets: Tensor, truths: NDArray[np.uint8]) -> Floats:
    """Returns Dice of every image, foreground class and threshold, each class by itself (B, C, thresholds)."""
    single = _are_single(logits_bkhw, targets)
    probabilities = torch.sigmoid(logits_bkhw) if single else torch.softmax(logits_bkhw, 1)[:, 1:]
    true, counted = foreground_masks(targets, classes=logits_bkhw.shape[1]), counted_pixels(targets)
    dice = [Confusion.of(probabilities >= threshold, true, counted).dice().numpy() for threshold in THRESHOLDS]
    return np.where((truths == MaskState.VANISHED)[..., None], 0.0, np.stack(dice, -1))


def _best_threshold(dice: Floats) -> float:
    best = np.flatnonzero(dice == dice.max())
    return min((THRESHOLDS[place] for place in best), key=lambda threshold: (abs(threshold - 0.5), threshold))
