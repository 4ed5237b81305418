"""Metrics of a predicted mask against the true one, for every image and foreground class by itself."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medarts.config.data import IGNORE
from medarts.data.reading import MaskState
from medarts.metrics import BoolMask, Confusion, Floats, MaskPair, Tolerance, metrics_of, register_metric

CONVENTIONS: dict[str, str] = {
    "empty masks": (
        "A ratio without denominator is 1 where prediction and truth are equal and 0 otherwise: both empty "
        "give dice, jaccard, precision, recall and nsd 1, one empty gives 0. Distances are 0 where both are empty "
        "and undefined where one is; undefined values are left out of the means and counted."
    ),
    "vanished masks": (
        "A class that the file of a mask has, and that is lost when the mask is resized to the evaluated size, cannot "
        "be found: its dice, jaccard, precision, recall, f1 and nsd are 0, its distances undefined."
    ),
    "ignored pixels": (
        "Pixels that the labels of a data set ignore count in no score. Distances are those of the masks without them."
    ),
    "excluded classes": (
        "A class that no image of a data set shows is excluded there: of it dice, jaccard, precision, recall, f1, nsd "
        "and distances are undefined, and left out of the mean of classes."
    ),
}
"""How empty masks, those that vanish and classes without examples count."""


@register_metric(
    "dice",
    task="segmentation",
    title="Dice",
    definition="2 TP / (2 TP + FP + FN) over the pixels of one image and class.",
)
def dice(masks: MaskPair) -> float:
    """Returns 2 TP / (2 TP + FP + FN)."""
    return masks.confusion.dice().item()


@register_metric("jaccard", task="segmentation", title="IoU", definition="TP / (TP + FP + FN).")
def jaccard(masks: MaskPair) -> float:
    """Returns the intersection over the union."""
    of = masks.confusion
    return of.ratio(of.tp, of.tp + of.fp + of.fn).item()


@register_metric("precision", task="segmentation", title="precision", definition="TP / (TP + FP).", compared=False)
def precision(masks: MaskPair) -> float:
    """Returns TP / (TP + FP)."""
    of = masks.confusion
    return of.ratio(of.tp, of.tp + of.fp).item()


@register_metric("recall", task="segmentation", definition="TP / (TP + FN); also called sensitivity.", compared=False)
def recall(masks: MaskPair) -> float:
    """Returns TP / (TP + FN)."""
    of = masks.confusion
    return of.ratio(of.tp, of.tp + of.fn).item()


@register_metric("specificity", task="segmentation", definition="TN / (TN + FP).", needs_examples=False, compared=False)
def specificity(masks: MaskPair) -> float:
    """Returns TN / (TN + FP)."""
    of = masks.confusion
    return of.ratio(of.tn, of.tn + of.fp).item()


@register_metric(
    "f1",
    task="segmentation",
    title="F1",
    definition="Harmonic mean of precision and recall; over the pixels of one mask it equals dice.",
    compared=False,
)
def f1(masks: MaskPair) -> float:
    """Returns the harmonic mean of precision and recall."""
    of, one, other = masks.confusion, precision(masks), recall(masks)
    return 2 * one * other / (one + other) if one + other > 0 else float((of.fp + of.fn == 0).item())


@register_metric(
    "accuracy", task="segmentation", definition="(TP + TN) / all pixels.", needs_examples=False, compared=False
)
def accuracy(masks: MaskPair) -> float:
    """Returns the share of pixels that are right."""
    of = masks.confusion
    return of.ratio(of.tp + of.tn, of.tp + of.fp + of.fn + of.tn).item()


def mask_scores(
    predicted: BoolMask,
    true: BoolMask,
    *,
    vanished: bool = False,
    spacing: tuple[float, ...] | None = None,
    counted: BoolMask | None = None,
    tolerance: Tolerance = Tolerance(),  # noqa: B008  # immutable
) -> dict[str, float]:
    """Returns all registered metrics of one mask by name; nan where undefined.

    Args:
        predicted: predicted mask (H, W), or (slices, H, W) of a volume.
        true: true mask of the same shape.
        vanished: the true mask was lost by resizing; it is empty. See `CONVENTIONS`.
        spacing: distances of pixels along the axes in mm. Default: distances are in pixels.
        counted: the pixels that count. Default: all.
        tolerance: of the normalised surface distance.

    Raises:
        ValueError: the masks differ in size, or are not boolean.
    """
    masks, found = MaskPair(predicted, true, spacing=spacing, counted=counted, tolerance=tolerance), {}
    for one in metrics_of("segmentation"):
        if vanished and one.of_empty:
            found[one.name] = math.nan
        elif vanished and one.needs_examples:
            found[one.name] = 0.0 if one.larger_is_better else math.nan
        else:
            found[one.name] = one(masks)
    return found


def predicted_classes(logits: Tensor, *, classes: int, threshold: float = 0.5, overlap: bool = False) -> Tensor:
    """Returns what is predicted in the form of targets: class indices, uint8 (B, H, W).

    Args:
        logits: (B, K, H, W).
        classes: outputs of the network, as in the recipe.
        threshold: probability from which a pixel is foreground (one class); with several, the
            class of the largest logit is taken.
        overlap: classes may overlap; 0 or 1 for each is returned, uint8 (B, K, H, W), by the threshold.
    """
    if overlap:
        return (logits.float().sigmoid() >= threshold).to(torch.uint8)
    if classes == 1:
        return (logits[:, 0].float().sigmoid() >= threshold).to(torch.uint8)
    return logits.argmax(1).to(torch.uint8)


def foreground_masks(targets: Tensor, *, classes: int) -> Tensor:
    """Returns boolean masks (B, C, H, W) of the foreground classes of targets, without ignored pixels.

    Args:
        targets: class indices (B, H, W), or 0 and 1 of classes that may overlap (B, K, H, W).
        classes: outputs of the network. Of class indices C is 1 with one (every index but 0) and ``classes`` - 1
            otherwise (indices 1, 2, ...).
    """
    if targets.ndim == 4:
        return targets == 1
    if classes == 1:
        return ((targets != 0) & (targets != IGNORE)).unsqueeze(1)
    return targets.unsqueeze(1) == torch.arange(1, classes, device=targets.device).view(1, -1, 1, 1)


def counted_pixels(targets: Tensor) -> Tensor | None:
    """Returns the pixels that are not ignored, boolean (B, 1, H, W), or (B, K, H, W) of classes that may overlap.

    None where all count, which spares the counting.
    """
    counted = targets != IGNORE
    if counted.all():
        return None
    return counted if targets.ndim == 4 else counted.unsqueeze(1)


def dice_per_image(
    logits: Tensor, targets: Tensor, truths: NDArray[np.uint8], *, classes: int, threshold: float = 0.5
) -> Floats:
    """Returns Dice of every image and foreground class, (B, C) in 0..1; the score of validation.

    Args:
        logits: (B, K, H, W).
        targets: class indices (B, H, W), or 0 and 1 of classes that may overlap (B, K, H, W).
        truths: a `MaskState` for every image and foreground class, (B, C).
        classes: outputs of the network, as in the recipe.
        threshold: probability from which a pixel is foreground (one class).
    """
    predicted = predicted_classes(logits, classes=classes, threshold=threshold, overlap=targets.ndim == 4)
    found, true = (foreground_masks(each, classes=classes) for each in (predicted, targets))
    counts = Confusion.of(found, true, counted_pixels(targets))
    return np.where(truths == MaskState.VANISHED, 0.0, counts.dice().numpy())


def shown_classes(truths: NDArray[np.uint8], domains: Sequence[str]) -> NDArray[np.bool_]:
    """Returns where an image of the same domain shows the class, (N, C); the other classes are excluded there.

    Args:
        truths: a `MaskState` for every image and foreground class, (N, C).
        domains: of every image.
    """
    names = np.asarray(domains, dtype=np.str_)
    shown = np.zeros(truths.shape, dtype=np.bool_)
    for name in set(domains):
        shown[names == name] = (truths[names == name] != MaskState.EMPTY).any(0)
    return shown
