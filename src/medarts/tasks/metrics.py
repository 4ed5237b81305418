"""Scores of a predicted mask against the true one, for every image and foreground class by itself.

`DEFINITIONS` names every score and says what it is; the same words stand in every score file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medarts.data.resizing import MaskState

BoolMask = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]

DEFINITIONS: dict[str, str] = {
    "dice": "2 TP / (2 TP + FP + FN) over the pixels of one image and class.",
    "jaccard": "TP / (TP + FP + FN).",
    "precision": "TP / (TP + FP).",
    "recall": "TP / (TP + FN); also called sensitivity.",
    "specificity": "TN / (TN + FP).",
    "f1": "Harmonic mean of precision and recall; over the pixels of one mask it equals dice.",
    "accuracy": "(TP + TN) / all pixels.",
    "hd95": (
        "Symmetric 95th percentile Hausdorff distance: the larger of the two directed 95th percentiles "
        "(linear interpolation) of the distances from every boundary pixel of one mask to the nearest of "
        "the other; in pixels of the evaluated size, or in the unit of the spacing where one was given."
    ),
    "assd": "Average symmetric surface distance: mean over the distances of both directions; unit as hd95.",
    "empty masks": (
        "A ratio without denominator is 1 where prediction and truth are equal and 0 otherwise: both empty "
        "give dice, jaccard, precision and recall 1, one empty gives 0. Distances are 0 where both are empty "
        "and undefined where one is; undefined values are left out of the means and counted."
    ),
    "vanished masks": (
        "A class that the file of a mask has, and that is lost when the mask is resized to the evaluated size, cannot "
        "be found: its dice, jaccard, precision, recall and f1 are 0, its distances undefined."
    ),
    "excluded classes": (
        "A class that no image of a data set shows is excluded there: of it dice, jaccard, precision, recall, f1 and "
        "distances are undefined, and left out of the mean of classes."
    ),
}
"""What every score means, and how empty masks, those that vanish and classes without examples count."""

_OVERLAP = ("dice", "jaccard", "precision", "recall", "f1")
OF_EXAMPLES = (*_OVERLAP, "hd95", "assd")
"""Scores that say something of a class only where images show it; the others count correct background too."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """Pixel counts of predicted against true masks; every score of overlap is a ratio of them.

    Attributes:
        tp: pixels in both masks.
        fp: pixels in the predicted mask alone.
        fn: pixels in the true mask alone.
        tn: pixels in neither.
    """

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    @classmethod
    def of(cls, predicted: Tensor, true: Tensor) -> "Confusion":
        """Counts the pixels of boolean masks (..., H, W); the counts have shape (...) and lie on the CPU."""
        # One transfer of three numbers a mask, as not every device knows the float64 of the ratios.
        sums = torch.stack([mask.sum((-2, -1)) for mask in (predicted & true, predicted, true)]).cpu()
        tp, fp, fn = sums[0], sums[1] - sums[0], sums[2] - sums[0]
        return cls(tp=tp, fp=fp, fn=fn, tn=true.shape[-2] * true.shape[-1] - tp - fp - fn)

    def dice(self) -> Tensor:
        """Returns Dice in 0..1, float64, of the shape of the counts."""
        return self._ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def scores(self) -> dict[str, Tensor]:
        """Returns the scores of overlap by their names in `DEFINITIONS`; each in 0..1, float64."""
        precision = self._ratio(self.tp, self.tp + self.fp)
        recall = self._ratio(self.tp, self.tp + self.fn)
        return {
            "dice": self.dice(),
            "jaccard": self._ratio(self.tp, self.tp + self.fp + self.fn),
            "precision": precision,
            "recall": recall,
            "specificity": self._ratio(self.tn, self.tn + self.fp),
            "f1": self._ratio(2 * precision * recall, precision + recall),
            "accuracy": self._ratio(self.tp + self.tn, self.tp + self.fp + self.fn + self.tn),
        }

    def _ratio(self, part: Tensor, whole: Tensor) -> Tensor:
        equal = (self.fp + self.fn == 0).double()
        return torch.where(whole > 0, part.double() / whole.double(), equal)


def predicted_classes(logits: Tensor, *, classes: int, threshold: float = 0.5) -> Tensor:
    """Returns the predicted class indices, uint8 (B, H, W).

    Args:
        logits: (B, K, H, W).
        classes: outputs of the network, as in the recipe.
        threshold: probability from which a pixel is foreground (one class); with several, the
            class of the largest logit is taken.
    """
    if classes == 1:
        return (logits[:, 0].float().sigmoid() >= threshold).to(torch.uint8)
    return logits.argmax(1).to(torch.uint8)


def foreground_masks(indices: Tensor, *, classes: int) -> Tensor:
    """Returns boolean masks (B, C, H, W) of the foreground classes of class indices (B, H, W).

    C is 1 with one class (every index but 0) and ``classes`` - 1 otherwise (indices 1, 2, ...).
    """
    if classes == 1:
        return (indices != 0).unsqueeze(1)
    return indices.unsqueeze(1) == torch.arange(1, classes, device=indices.device).view(1, -1, 1, 1)


def dice_per_image(
    logits: Tensor, targets: Tensor, truths: NDArray[np.uint8], *, classes: int, threshold: float = 0.5
) -> Floats:
    """Returns Dice of every image and foreground class, (B, C) in 0..1; the score of validation.

    Args:
        logits: (B, K, H, W).
        targets: class indices (B, H, W).
        truths: a `MaskState` for every image and foreground class, (B, C).
        classes: outputs of the network, as in the recipe.
        threshold: probability from which a pixel is foreground (one class).
    """
    predicted = predicted_classes(logits, classes=classes, threshold=threshold)
    masks = (foreground_masks(indices, classes=classes) for indices in (predicted, targets))
    return np.where(truths == MaskState.VANISHED, 0.0, Confusion.of(*masks).dice().numpy())


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


def mask_scores(
    predicted: BoolMask, true: BoolMask, *, vanished: bool = False, spacing: tuple[float, float] | None = None
) -> dict[str, float]:
    """Returns all scores of one mask, by their names in `DEFINITIONS`; undefined distances are nan.

    Args:
        predicted: predicted mask (H, W).
        true: true mask (H, W).
        vanished: the true mask was lost by resizing; it is empty.
        spacing: height and width of a pixel, for distances in its unit; pixels where not given.

    Raises:
        ValueError: the masks differ in size, or are not boolean.
    """
    if predicted.shape != true.shape or not predicted.dtype == true.dtype == np.bool_:
        raise ValueError(
            f"two boolean masks of one size are needed, not {predicted.dtype} {predicted.shape} "
            f"and {true.dtype} {true.shape}"
        )
    # Copies, as torch takes neither flipped nor read-only views.
    overlap = Confusion.of(torch.from_numpy(predicted.copy()), torch.from_numpy(true.copy())).scores()
    scores = {name: value.item() for name, value in overlap.items()}
    if vanished:
        return scores | dict.fromkeys(_OVERLAP, 0.0) | dict.fromkeys(("hd95", "assd"), float("nan"))
    return scores | _surface_scores(predicted, true, spacing)


def _surface_scores(predicted: BoolMask, true: BoolMask, spacing: tuple[float, float] | None) -> dict[str, float]:
    if not predicted.any() or not true.any():
        undefined = 0.0 if predicted.any() == true.any() else float("nan")
        return {"hd95": undefined, "assd": undefined}
    there, back = surface_distances(predicted, true, spacing=spacing)
    return {
        "hd95": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "assd": float(np.concatenate([there, back]).mean()),
    }


def surface_distances(
    predicted: BoolMask, true: BoolMask, *, spacing: tuple[float, float] | None = None
) -> tuple[Floats, Floats]:
    """Returns the distances of the predicted boundary's pixels to the true boundary, and the reverse.

    The boundary is the pixels of a mask with a 4-neighbour outside it; outside the image counts as outside
    the mask. MONAI gives the same distances (the tests compare them), but finds them anew for every score.

    Args:
        predicted: predicted mask (H, W), not empty.
        true: true mask (H, W), not empty.
        spacing: height and width of a pixel; 1 where not given.
    """
    from scipy.ndimage import binary_erosion
    from scipy.spatial import KDTree

    # For masks of a few pieces, trees of the boundaries' points are several times faster than distance maps.
    scale = np.array(spacing or (1.0, 1.0))
    predicted_edge = np.argwhere(predicted & ~binary_erosion(predicted)) * scale
    true_edge = np.argwhere(true & ~binary_erosion(true)) * scale
    return KDTree(true_edge).query(predicted_edge)[0], KDTree(predicted_edge).query(true_edge)[0]
