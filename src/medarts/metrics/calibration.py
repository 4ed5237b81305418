"""Whether predicted probabilities are the frequencies they claim to be, and a temperature that calibrates them."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medarts.metrics import register_metric

Floats = NDArray[np.floating[Any]]

BINS = 15
"""Guo 2017, "On calibration of modern neural networks", section 5."""

TEMPERATURES = (0.1, 10.0)
"""The least and the largest temperature that is fitted."""

DEFINITIONS: dict[str, str] = {
    "temperature": (
        f"T in probability = sigmoid(logit / T), one for all findings, at which the binary cross-entropy of the "
        f"validation images is least; between {TEMPERATURES[0]:g} and {TEMPERATURES[1]:g}."
    ),
}
"""What is fitted."""


class Reliability(NamedTuple):
    """Predictions by their probability, in bins of equal width over 0..1.

    Attributes:
        edges: (bins + 1,); a bin holds its upper edge, the first its lower one as well.
        counts: predictions in each bin (bins,).
        mean_probability: of the predictions in each bin (bins,); nan where it is empty.
        observed: frequency of positive labels in each bin (bins,); nan where it is empty.
    """

    edges: Floats
    counts: NDArray[np.int64]
    mean_probability: Floats
    observed: Floats


def probabilities_of(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Returns sigmoid(logits / temperature), float64 of the shape of the logits."""
    from scipy.special import expit

    probabilities: Floats = expit(np.asarray(logits, dtype=np.float64) / temperature)
    return probabilities


def reliability(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = BINS) -> Reliability:
    """Sorts predictions into bins; the points of a reliability curve.

    Args:
        probabilities: in 0..1, of any shape.
        labels: 0 or 1, of the same shape.
        bins: number of bins.

    Raises:
        ValueError: the shapes differ, or a probability lies outside 0..1.
    """
    values, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if values.shape != truth.shape:
        raise ValueError(f"probabilities have shape {values.shape}, but labels {truth.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("probabilities must lie in 0..1")
    edges = np.linspace(0, 1, bins + 1)
    of_each = np.maximum(np.searchsorted(edges, values.ravel(), side="left") - 1, 0)
    counts = np.bincount(of_each, minlength=bins)
    sums = [np.bincount(of_each, weights=of.ravel(), minlength=bins) for of in (values, truth)]
    with np.errstate(invalid="ignore"):
        return Reliability(edges, counts, sums[0] / counts, sums[1] / counts)


@register_metric(
    "ece",
    task="classification",
    per="set",
    title="ECE",
    definition=(
        f"Expected calibration error: mean over the images of |mean probability - observed frequency| of their bin, "
        f"{BINS} bins of equal width."
    ),
    larger_is_better=False,
    scores="probability",
    bootstrap=False,
    compared=False,
)
def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = BINS) -> float:
    """Returns the expected calibration error in 0..1 (Naeini 2015; Guo 2017, equation 3); nan without predictions.

    Arguments and errors are those of `reliability`.
    """
    found = reliability(probabilities, labels, bins=bins)
    filled = found.counts > 0
    if not filled.any():
        return float("nan")
    gaps = np.abs(found.mean_probability - found.observed)[filled]
    return float(np.average(gaps, weights=found.counts[filled]))


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Returns the one temperature at which the binary cross-entropy of all logits is least (Guo 2017, section 4.2).

    Args:
        logits: of any shape, finite.
        labels: of the same shape, 0 or 1.

    Returns:
        The temperature within `TEMPERATURES`. Its lower end where the loss falls down to there, as with logits that
        part the labels without error; its upper end where the logits say nothing, or the opposite of the labels.
        1 where there is nothing to fit: all labels equal, all logits 0, or no label.

    Raises:
        ValueError: the shapes differ, or a logit is not finite.
    """
    from scipy.optimize import brentq

    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if values.shape != truth.shape or not np.isfinite(values).all():
        raise ValueError(f"finite logits of the shape {truth.shape} of the labels are needed, not {values.shape}")
    if not values.any() or truth.min() == truth.max():
        return 1.0

    def slope(log_temperature: float) -> float:
        """Derivative of the loss by 1/T: the loss is convex in 1/T, so this has one root, or none in the range."""
        return float(np.mean((probabilities_of(values, np.exp(log_temperature)) - truth) * values))

    least, largest = np.log(TEMPERATURES)
    if slope(least) <= 0:
        return TEMPERATURES[0]
    if slope(largest) >= 0:
        return TEMPERATURES[1]
    return float(np.exp(brentq(slope, least, largest)))
