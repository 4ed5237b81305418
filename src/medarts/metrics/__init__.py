"""Metrics by name: a metric that is registered appears in evaluation, score files, tables, pages and comparisons.

A metric of masks scores a single image and class; a metric of findings ranks or rates all images of a data set:

    >>> import math
    >>> @register_metric("volume_ratio", task="segmentation", definition="Predicted over true pixels.",
    ...                  limits=(0, math.inf))
    ... def volume_ratio(masks: MaskPair) -> float:
    ...     return float(masks.predicted.sum() / masks.true.sum()) if masks.true.any() else math.nan

    >>> @register_metric("brier", task="classification", per="set", scores="probability", larger_is_better=False,
    ...                  definition="Mean squared difference of probability and label.")
    ... def brier(scores: Floats, labels: Floats) -> float:
    ...     return float(np.mean((scores - labels) ** 2))

    >>> for name in ("volume_ratio", "brier"):
    ...     metrics.remove(name)
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medarts.errors import MedartsError
from medarts.registry import calling, metrics

BoolMask = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]
Measures = Literal["ratio", "length", "size", "share within"]
Task = Literal["segmentation", "classification"]

MAIN: dict[Task, str] = {"segmentation": "dice", "classification": "auroc"}
"""The metric by which networks of a task are compared."""

_ROUNDING = 1e-6


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
    def of(cls, predicted: Tensor, true: Tensor, counted: Tensor | None = None) -> "Confusion":
        """Counts the pixels of boolean masks (..., H, W); the counts have shape (...) and lie on the CPU.

        Args:
            predicted: the predicted masks.
            true: the true masks.
            counted: boolean, of a shape that broadcasts to theirs: pixels that count. Default: all.
        """
        if counted is not None:
            predicted, true, counted = predicted & counted, true & counted, counted.expand_as(true)
        # One transfer of a few numbers a mask, as not every device knows the float64 of the ratios.
        masks = (predicted & true, predicted, true) if counted is None else (predicted & true, predicted, true, counted)
        sums = torch.stack([mask.sum((-2, -1)) for mask in masks]).cpu()
        tp, fp, fn = sums[0], sums[1] - sums[0], sums[2] - sums[0]
        total = true.shape[-2] * true.shape[-1] if counted is None else sums[3]
        return cls(tp=tp, fp=fp, fn=fn, tn=total - tp - fp - fn)

    def ratio(self, part: Tensor, whole: Tensor) -> Tensor:
        """Returns part / whole, float64; where whole is 0, 1 for equal masks and 0 for others."""
        equal = (self.fp + self.fn == 0).double()
        return torch.where(whole > 0, part.double() / whole.double(), equal)

    def dice(self) -> Tensor:
        """Returns Dice in 0..1, float64, of the shape of the counts."""
        return self.ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


class Tolerance(NamedTuple):
    """The distance up to which two surfaces count as one.

    Attributes:
        mm: where the spacing is known.
        px: where it is not.
    """

    mm: float = 2.0
    px: float = 2.0


class MaskPair:
    """A predicted and a true mask of one image or volume and class, with what several metrics need of them.

    Args:
        predicted: predicted mask (H, W), or (slices, H, W) of a volume.
        true: true mask of the same shape.
        spacing: distances of pixels along the axes in mm. Default: distances are in pixels.
        counted: the pixels that count, of the same shape; those that do not are in neither mask. Default: all.
        tolerance: of the normalised surface distance.

    Raises:
        ValueError: the masks differ in size, or are not boolean.
    """

    def __init__(
        self,
        predicted: BoolMask,
        true: BoolMask,
        *,
        spacing: tuple[float, ...] | None = None,
        counted: BoolMask | None = None,
        tolerance: Tolerance = Tolerance(),  # noqa: B008  # immutable
    ) -> None:
        if predicted.shape != true.shape or not predicted.dtype == true.dtype == np.bool_:
            raise ValueError(
                f"two boolean masks of one size are needed, not {predicted.dtype} {predicted.shape} "
                f"and {true.dtype} {true.shape}"
            )
        if counted is not None and not counted.all():
            predicted, true = predicted & counted, true & counted
        self.predicted, self.true, self.spacing, self.counted = predicted, true, spacing, counted
        self.tolerance = tolerance.px if spacing is None else tolerance.mm

    @cached_property
    def confusion(self) -> Confusion:
        """Counts of pixels."""
        # Copies, as torch takes neither flipped nor read-only views.
        # A volume is one tall image to what is counted.
        flat = (-1, self.true.shape[-1])
        predicted, true = (torch.from_numpy(mask.reshape(flat).copy()) for mask in (self.predicted, self.true))
        counted = None if self.counted is None else torch.from_numpy(self.counted.reshape(flat).copy())
        return Confusion.of(predicted, true, counted)

    @cached_property
    def surface_distances(self) -> tuple[Floats, Floats] | None:
        """Distances of the predicted boundary's pixels to the true boundary, and the reverse; None with an empty mask.

        The boundary is the pixels of a mask with a neighbour outside it, of the 4 in an image and the 6 in a volume;
        outside the image counts as outside the mask. MONAI gives the same distances (the tests compare them), but finds
        them anew for every metric.
        """
        if not self.predicted.any() or not self.true.any():
            return None
        from scipy.spatial import KDTree

        # For masks of a few pieces, trees of the boundaries' points are several times faster than distance maps.
        scale = np.array(self.spacing or [1.0] * self.true.ndim)
        predicted_edge, true_edge = (_boundary(mask) * scale for mask in (self.predicted, self.true))
        return KDTree(true_edge).query(predicted_edge)[0], KDTree(predicted_edge).query(true_edge)[0]


def _boundary(mask: BoolMask) -> NDArray[np.intp]:
    """Returns the indices (N, axes) of the boundary of a mask that is not empty."""
    from scipy.ndimage import binary_erosion

    window = []
    for axis in range(mask.ndim):  # of what the mask fills alone, as most of an image is background
        filled = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        window.append(slice(int(filled[0]), int(filled[-1]) + 1))
    inside = mask[tuple(window)]
    start = np.array([part.start for part in window])
    edge: NDArray[np.intp] = np.argwhere(inside & ~binary_erosion(inside)) + start
    return edge


@dataclass(frozen=True, slots=True)
class Metric:
    """A registered metric; see `register_metric` for its fields."""

    name: str
    function: Callable[..., float]
    task: Task
    per: Literal["image", "set"]
    title: str
    definition: str
    larger_is_better: bool
    limits: tuple[float, float]
    needs_examples: bool
    measures: Measures
    of_empty: bool
    compared: bool
    bootstrap: bool
    scores: Literal["logit", "probability"]
    weighted: Callable[..., Floats] | None

    def unit(self, *, axes: int, in_mm: bool, tolerance: Tolerance) -> str:
        """Returns the unit of its values: mm or px, mm2 or mm3 of sizes, "at 2 mm" of shares within; "" for ratios.

        Values of different units are not averaged together.

        Args:
            axes: 2 for images, 3 for volumes.
            in_mm: whether the spacing is known.
            tolerance: of shares within one.
        """
        if self.measures == "ratio":
            return ""
        if self.measures == "share within":
            return f"at {tolerance.mm:g} mm" if in_mm else f"at {tolerance.px:g} px"
        return f"mm{axes if self.measures == 'size' else ''}" if in_mm else "px"

    def __call__(self, *given: Any) -> float:
        """Returns the metric of a `MaskPair`, or of scores and labels; nan where it is undefined.

        Raises:
            MedartsError: its function failed, or returned something else than a number within its limits.
        """
        with calling("metric", self.name):
            value = float(self.function(*given))
        low, high = self.limits
        if math.isinf(value) or not (math.isnan(value) or low - _ROUNDING <= value <= high + _ROUNDING):
            raise MedartsError(
                f"The metric '{self.name}' returned {value:g}, outside its limits {low:g} to {high:g}.",
                fix="Correct it, or register it with limits that fit; return nan where it is undefined.",
            )
        return value


def register_metric(
    name: str,
    *,
    task: Task,
    per: Literal["image", "set"] = "image",
    title: str = "",
    definition: str = "",
    larger_is_better: bool = True,
    limits: tuple[float, float] = (0.0, 1.0),
    needs_examples: bool = True,
    measures: Measures = "ratio",
    of_empty: bool = False,
    compared: bool = True,
    bootstrap: bool = True,
    scores: Literal["logit", "probability"] = "logit",
    weighted: Callable[..., Floats] | None = None,
) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Returns a decorator that registers a metric.

    The function of a metric per image takes a `MaskPair`; that of a metric per set takes scores (N,) and labels (N,),
    0 or 1, of one finding. Both return a float, nan where undefined.

    Args:
        name: in files and options.
        task: "segmentation" (then per image) or "classification" (then per set).
        per: what the function scores.
        title: on pages. Default: the name.
        definition: what the value means, in a sentence; it stands in the score files and on pages.
        larger_is_better: which way is better.
        limits: least and largest possible value.
        needs_examples: of masks: whether it says something of a class only where some image of the data set shows it.
            A class lost by resizing then counts 0, or as undefined where smaller is better.
        measures: of masks: "length", in mm where the spacing of the file is known and else in pixels, "size", of an
            area or a volume, likewise, "share within" the tolerance of surface distances, or "ratio", without unit.
        of_empty: of masks: whether it is that of images with an empty truth alone, shown apart from others; the
            function returns nan for others.
        compared: whether comparisons show it.
        bootstrap: whether it gets an interval over patients.
        scores: of findings: what the function is given, logits or probabilities after temperature.
        weighted: of findings: a faster form for the bootstrap, given scores, labels and weights (D, N) that say how
            often each image counts; returns (D,). Default: the function is called for each draw.
    """
    if (task == "segmentation") != (per == "image"):
        raise ValueError(f"the metric '{name}' is per {per}; masks are scored per image, findings per set")
    return metrics.register(
        name,
        task=task,
        per=per,
        title=title or name,
        definition=definition,
        larger_is_better=larger_is_better,
        limits=limits,
        needs_examples=needs_examples,
        measures=measures,
        of_empty=of_empty,
        compared=compared,
        bootstrap=bootstrap,
        scores=scores,
        weighted=weighted,
    )


def metric(name: str) -> Metric:
    """Returns a metric.

    Raises:
        RecipeError: there is none of this name.
    """
    entry = metrics.entry(name)
    return Metric(name, entry.member, **entry.about)


def metrics_of(task: Task) -> tuple[Metric, ...]:
    """Returns the metrics of a task: the main one, the others of medarts, then those of users as registered."""

    def order(one: Metric) -> tuple[bool, bool, str]:
        module = one.function.__module__
        is_ours = module.partition(".")[0] == "medarts"
        return one.name != MAIN[task], not is_ours, module if is_ours else ""

    return tuple(sorted((metric(name) for name in metrics.names(task=task)), key=order))


def definitions(task: Task) -> dict[str, str]:
    """Returns what the metrics of a task mean, and the source of those that medarts does not bring.

    It is what fingerprints of scores are made of, so that scores made by other metrics are made again.
    """
    return {one.name: one.definition + _source(one.function) for one in metrics_of(task)}


def _source(function: Callable[..., float]) -> str:
    if function.__module__.partition(".")[0] == "medarts":
        return ""  # a change of meaning changes the definition
    try:
        return "\n" + inspect.getsource(function)
    except (OSError, TypeError):
        return ""


def weighted_values(one: Metric, scores: Floats, labels: NDArray[Any], weights: NDArray[np.integer[Any]]) -> Floats:
    """Returns a metric of a set in every draw of a bootstrap, (D,).

    Args:
        one: the metric.
        scores: (N,) of one finding.
        labels: (N,), 0 or 1.
        weights: how often each image counts in each draw (D, N).
    """
    if one.weighted is not None:
        return one.weighted(scores, labels, weights)
    places = np.arange(len(scores))
    drawn = (np.repeat(places, row) for row in weights)
    # A draw may lack all images of which the finding is known.
    return np.array([one(scores[chosen], labels[chosen]) if len(chosen) else math.nan for chosen in drawn])
