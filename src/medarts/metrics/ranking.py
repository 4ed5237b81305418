"""Scores of how well predictions rank the images that show a finding above those that do not.

A prediction is positive where its score is at least the threshold.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medarts.metrics import register_metric

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

DEFINITIONS: dict[str, str] = {
    "sensitivity": "TP / (TP + FN), images with a probability of at least the threshold being positive.",
    "specificity": "TN / (TN + FP).",
    "ppv": "Positive predictive value, TP / (TP + FP), at the prevalence of the scored images.",
    "npv": "Negative predictive value, TN / (TN + FN), at the prevalence of the scored images.",
}
"""What the ratios at a threshold mean; one without denominator is undefined."""

# Weights held at once while draws are scored: with what is made of them, about 100 MB.
_CHUNK = 2**21


class Ranked(NamedTuple):
    """Two scores of a ranking, each (D,) in 0..1; nan where undefined."""

    auroc: Floats
    average_precision: Floats


class Curve(NamedTuple):
    """The points of a curve, the thresholds descending; all arrays are (T,)."""

    x: Floats
    y: Floats
    thresholds: Floats

    def thinned(self, points: int) -> "Curve":
        """Returns at most that many (2 or more) of the points, both ends among them, evenly spaced along the curve.

        What is left out lies no further from a kept point than the length of the curve over ``points`` - 1.
        """
        if len(self.x) <= points:
            return self
        length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(self.x)) + np.abs(np.diff(self.y)))])
        # The first point at or behind each mark, but the last one for the last mark.
        kept = np.searchsorted(length, np.linspace(0, length[-1], points)[:-1])
        kept = np.unique(np.append(kept, len(length) - 1))
        return Curve(self.x[kept], self.y[kept], self.thresholds[kept])


class OperatingPoint(NamedTuple):
    """What a threshold does; nan where undefined, as is all of it for a threshold of nan."""

    threshold: float
    sensitivity: float
    specificity: float
    ppv: float
    npv: float


@register_metric(
    "auroc",
    task="classification",
    per="set",
    title="AUROC",
    definition=(
        "Area under the receiver operating characteristic: the probability that an image with the finding scores "
        "above one without it, ties counting half; undefined where no image, or every image, has the finding."
    ),
    weighted=lambda scores, labels, weights: weighted_ranking(scores, labels, weights).auroc,
)
def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Returns the area under the ROC curve in 0..1, ties counting half.

    Args:
        scores: (N,), larger where the finding is more likely.
        labels: (N,), 0 or 1.

    Returns:
        The area; nan where a class is absent, or a score is nan.
    """
    return float(_plain(scores, labels).auroc[0])


@register_metric(
    "average_precision",
    task="classification",
    per="set",
    title="average precision",
    definition=(
        "Sum over the thresholds, from high to low, of (R_n - R_{n-1}) P_n with recall R and precision P, without "
        "interpolation; images of equal score share a threshold. Undefined where auroc is."
    ),
    weighted=lambda scores, labels, weights: weighted_ranking(scores, labels, weights).average_precision,
)
def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Returns the average precision in 0..1. Arguments and nan are those of `auroc`."""
    return float(_plain(scores, labels).average_precision[0])


def weighted_ranking(scores: ArrayLike, labels: ArrayLike, weights: Integers) -> Ranked:
    """Returns AUROC and average precision of data in which every image stands as often as its weight says.

    One row of weights is one draw of a bootstrap. The images are sorted once for all draws.

    Args:
        scores: (N,), larger where the finding is more likely.
        labels: (N,), 0 or 1.
        weights: (D, N) counts, at least 0.

    Returns:
        Both scores of every draw; nan where a class is absent from it, or a score is nan.

    Raises:
        ValueError: the arguments differ in the number of images, or a label is neither 0 nor 1.
    """
    values, truth = _checked(scores, labels)
    if weights.ndim != 2 or weights.shape[1] != len(values):
        raise ValueError(f"weights have shape {weights.shape}, but there are {len(values)} images")
    if not truth.any() or truth.all() or np.isnan(values).any():
        return Ranked(np.full(len(weights), np.nan), np.full(len(weights), np.nan))
    order, ties = _descending(values)
    truth = truth[order]
    rows = max(1, _CHUNK // len(values))
    parts = [_ranked(weights[start : start + rows, order], truth, ties) for start in range(0, len(weights), rows)]
    return Ranked(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _plain(scores: ArrayLike, labels: ArrayLike) -> Ranked:
    return weighted_ranking(scores, labels, np.ones((1, np.size(scores)), dtype=np.uint8))


def _ranked(weights: Integers, truth: NDArray[np.bool_], ties: NDArray[np.intp]) -> Ranked:
    """Scores draws of sorted images.

    Args:
        weights: (D, N), images by descending score.
        truth: (N,).
        ties: (T + 1,), the first image of every group of equal scores, and N.
    """
    # Only the groups that hold a positive add to either sum, and there are few of those.
    positives = np.flatnonzero(truth)
    group = np.searchsorted(ties, positives, side="right") - 1
    held, first = np.unique(group, return_index=True)
    taken = np.zeros((len(weights), len(truth) + 1), dtype=np.int64)
    np.cumsum(weights, axis=1, out=taken[:, 1:])
    hits = np.add.reduceat(weights[:, positives], first, axis=1, dtype=np.int64)
    found = hits.cumsum(1)
    until, before = taken[:, ties[held + 1]], taken[:, ties[held]]
    # Twice the negatives that a positive of the group loses to, those of equal score counting half.
    lost = (until - found) + (before - (found - hits))
    all_positive = found[:, -1]
    all_negative = taken[:, -1] - all_positive
    with np.errstate(invalid="ignore", divide="ignore"):  # draws without a class, made nan below
        area = 1 - (hits * lost).sum(1) / (2 * all_positive * all_negative)
        precision = (hits * (found / np.maximum(until, 1))).sum(1) / all_positive
    defined = (all_positive > 0) & (all_negative > 0)
    return Ranked(np.where(defined, area, np.nan), np.where(defined, precision, np.nan))


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> Curve:
    """Returns 1 - specificity (x) and sensitivity (y) at every threshold that changes them.

    The arguments are those of `auroc`. The first threshold is infinite, with the point (0, 0); the last is the
    least score, with (1, 1). A rate of an absent class is nan.
    """
    thresholds, tp, fp = _counts(scores, labels)
    with np.errstate(invalid="ignore"):
        return Curve(fp / fp[-1], tp / tp[-1], thresholds)


def precision_recall_curve(scores: ArrayLike, labels: ArrayLike) -> Curve:
    """Returns recall (x) and precision (y) at every distinct score, from the largest to the least.

    The arguments are those of `auroc`. Without a positive image the recall is nan.
    """
    thresholds, tp, fp = _counts(scores, labels)
    with np.errstate(invalid="ignore"):
        return Curve(tp[1:] / tp[-1], tp[1:] / (tp + fp)[1:], thresholds[1:])  # precision is undefined at infinity


def threshold_youden(scores: ArrayLike, labels: ArrayLike) -> float:
    """Returns the score at which sensitivity + specificity is largest (Youden 1950), as a threshold.

    The arguments are those of `auroc`.

    Returns:
        The threshold; the largest where several are as good, nan where a class is absent.
    """
    thresholds, tp, fp = _counts(scores, labels)
    if tp[-1] == 0 or fp[-1] == 0:
        return float("nan")
    # In whole numbers, so that equal sums are equal; without infinity, which is as good as the least score.
    return float(thresholds[1:][np.argmax((tp * fp[-1] - fp * tp[-1])[1:])])


def threshold_for_sensitivity(scores: ArrayLike, labels: ArrayLike, sensitivity: float) -> float:
    """Returns the largest threshold whose sensitivity on these images is at least the given one.

    Args:
        scores: (N,), larger where the finding is more likely.
        labels: (N,), 0 or 1.
        sensitivity: above 0, at most 1.

    Returns:
        The threshold, one of the scores; nan without a positive image.

    Raises:
        ValueError: the sensitivity is out of range.
    """
    if not 0 < sensitivity <= 1:
        raise ValueError(f"a sensitivity lies above 0 and is at most 1, not {sensitivity}")
    thresholds, tp, _ = _counts(scores, labels)
    if tp[-1] == 0:
        return float("nan")
    return float(thresholds[np.argmax(tp / tp[-1] >= sensitivity)])


def operating_point(scores: ArrayLike, labels: ArrayLike, threshold: float) -> OperatingPoint:
    """Returns what the threshold does to these images; the other arguments are those of `auroc`."""
    values, truth = _checked(scores, labels)
    if np.isnan(threshold):
        return OperatingPoint(*[float("nan")] * 5)
    called = values >= threshold
    tp, fp = int((called & truth).sum()), int((called & ~truth).sum())
    fn, tn = int(truth.sum()) - tp, int((~truth).sum()) - fp
    return OperatingPoint(
        float(threshold), _ratio(tp, tp + fn), _ratio(tn, tn + fp), _ratio(tp, tp + fp), _ratio(tn, tn + fn)
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _counts(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Integers, Integers]:
    """Returns infinity and the distinct scores, descending, with the true and false positives at each."""
    values, truth = _checked(scores, labels)
    if np.isnan(values).any():
        raise ValueError("a score is nan")
    order, ties = _descending(values)
    found = np.concatenate([[0], np.cumsum(truth[order], dtype=np.int64)])[ties]
    return np.concatenate([[np.inf], values[order][ties[:-1]]]), found, ties - found


def _descending(values: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns the order of descending values, and in it the first of each group of equal ones, then N."""
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    steps = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return order, np.unique(np.concatenate([[0], steps, [len(values)]]))


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(f"scores have shape {values.shape} and labels {truth.shape}; both must be (N,)")
    if not ((truth == 0) | (truth == 1)).all():
        raise ValueError("labels must be 0 or 1")
    return values, truth.astype(np.bool_)
