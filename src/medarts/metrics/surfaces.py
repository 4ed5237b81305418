"""Distances between the boundaries of a predicted and a true mask, of an image or of a volume."""

import math

import numpy as np

from medarts.metrics import MaskPair, register_metric


@register_metric(
    "hd95",
    task="segmentation",
    title="HD95",
    definition=(
        "Symmetric 95th percentile Hausdorff distance: the larger of the two directed 95th percentiles "
        "(linear interpolation) of the distances from every boundary pixel of one mask to the nearest of "
        "the other; in mm where the spacing of the file is known, else in pixels of the evaluated size."
    ),
    larger_is_better=False,
    measures="length",
    limits=(0.0, math.inf),
)
def hd95(masks: MaskPair) -> float:
    """Returns the larger of the two directed 95th percentiles of the surface distances."""
    if masks.surface_distances is None:
        return _without_surface(masks)
    return float(max(np.percentile(directed, 95) for directed in masks.surface_distances))


@register_metric(
    "assd",
    task="segmentation",
    title="ASSD",
    definition="Average symmetric surface distance: mean over the distances of both directions; unit as hd95.",
    larger_is_better=False,
    measures="length",
    limits=(0.0, math.inf),
    compared=False,
)
def assd(masks: MaskPair) -> float:
    """Returns the mean of the surface distances of both directions."""
    if masks.surface_distances is None:
        return _without_surface(masks)
    return float(np.concatenate(masks.surface_distances).mean())


def _without_surface(masks: MaskPair) -> float:
    return 0.0 if masks.predicted.any() == masks.true.any() else math.nan


@register_metric(
    "nsd",
    task="segmentation",
    title="NSD",
    definition=(
        "Normalised surface distance, also called surface Dice: share of the boundary pixels of both masks that are "
        "within a tolerance of the boundary of the other (Nikolov 2021, arXiv 1809.04430; every boundary pixel counts "
        "alike). The tolerance is evaluation.tolerance_mm where the spacing of the file is known, else "
        "evaluation.tolerance_px."
    ),
    measures="share within",
)
def nsd(masks: MaskPair) -> float:
    """Returns the share of boundary pixels within the tolerance; 1 where both masks are empty, 0 where one is.

    >>> one, other = np.zeros((2, 8, 8), bool)
    >>> one[2:5, 2:5], other[2:5, 4:7] = True, True  # two squares, one 2 pixels to the right of the other
    >>> nsd(MaskPair(one, other)), round(nsd(MaskPair(one, other, spacing=(1.5, 1.5))), 3)
    (1.0, 0.625)
    """
    if masks.surface_distances is None:
        return float(masks.predicted.any() == masks.true.any())
    distances = np.concatenate(masks.surface_distances)
    return float((distances <= masks.tolerance).mean())


@register_metric(
    "false_positive",
    task="segmentation",
    title="false positives",
    definition=(
        "Of images whose truth is empty: 1 where something was found, 0 where nothing was. The mean is the "
        "false-positive rate of images."
    ),
    larger_is_better=False,
    needs_examples=False,
    of_empty=True,
    compared=False,
)
def false_positive(masks: MaskPair) -> float:
    """Returns whether something was found where there is nothing; nan where there is something."""
    return math.nan if masks.true.any() else float(masks.predicted.any())


@register_metric(
    "false_area",
    task="segmentation",
    title="falsely found area",
    definition=(
        "Of images whose truth is empty: the area that was found, 0 where nothing was; in mm2 (volumes: mm3) where the "
        "spacing of the file is known, else in pixels of the evaluated size."
    ),
    larger_is_better=False,
    limits=(0.0, math.inf),
    needs_examples=False,
    measures="size",
    of_empty=True,
    compared=False,
)
def false_area(masks: MaskPair) -> float:
    """Returns the area, or volume, that was found where there is nothing; nan where there is something."""
    if masks.true.any():
        return math.nan
    return float(np.count_nonzero(masks.predicted) * math.prod(masks.spacing or (1.0,)))
