"""Distances in mm and in volumes, the normalised surface distance, and what is found where there is nothing."""

import math

import numpy as np
import pytest
import torch

from medarts.metrics import MaskPair, Tolerance, metric
from medarts.metrics.masks import mask_scores


def ragged(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Two ragged overlapping balls."""
    generator = np.random.default_rng(seed)
    places = np.indices(shape)

    def ball() -> np.ndarray:
        centre = [generator.integers(side // 4, 3 * side // 4) for side in shape]
        radius = generator.integers(min(shape) // 3, min(shape))
        inside = sum((place - at) ** 2 for place, at in zip(places, centre, strict=True)) <= radius**2
        return inside ^ (generator.random(shape) < 0.02)

    return ball(), ball()


@pytest.mark.parametrize("shape", [(30, 40), (9, 20, 24)], ids=["image", "volume"])
@pytest.mark.parametrize("tolerance", [1.0, 2.5])
@pytest.mark.parametrize("seed", range(3))
def test_nsd_equals_monai(seed, tolerance, shape):
    from monai.metrics import compute_surface_dice

    predicted, true = ragged(seed, shape)
    spacing = (3.0, 0.5, 0.8)[-len(shape) :]
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, true)]
    for size in (None, spacing):
        theirs = compute_surface_dice(*tensors, [tolerance], include_background=True, spacing=size).item()
        ours = mask_scores(predicted, true, spacing=size, tolerance=Tolerance(tolerance, tolerance))["nsd"]
        assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_distances_of_a_volume_equal_monai(seed):
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    predicted, true = ragged(seed, (8, 20, 24))
    options = {"include_background": True, "spacing": (3.0, 0.5, 0.8)}
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, true)]
    scores = mask_scores(predicted, true, spacing=options["spacing"])
    hausdorff = compute_hausdorff_distance(*tensors, percentile=95, **options).item()
    assert scores["hd95"] == pytest.approx(hausdorff, rel=1e-5)
    average = compute_average_surface_distance(*tensors, symmetric=True, **options).item()
    assert scores["assd"] == pytest.approx(average, rel=1e-5)
    overlap = 2 * (predicted & true).sum() / (predicted.sum() + true.sum())
    assert scores["dice"] == pytest.approx(overlap)


def test_the_tolerance_is_in_mm_where_the_spacing_is_known():
    one, other = np.zeros((2, 12, 12), bool)
    one[4, 4], other[4, 7] = True, True
    tolerance = Tolerance(mm=2.0, px=3.0)
    assert mask_scores(one, other, tolerance=tolerance)["nsd"] == 1
    assert mask_scores(one, other, tolerance=tolerance, spacing=(1.0, 1.0))["nsd"] == 0
    assert mask_scores(one, other, tolerance=tolerance, spacing=(1.0, 0.5))["nsd"] == 1


def test_what_is_found_where_there_is_nothing_is_measured():
    empty, some = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    some[1:3, 1:4] = True
    found = mask_scores(some, empty, spacing=(0.5, 2.0))
    assert (found["false_positive"], found["false_area"]) == (1, 6.0)
    assert mask_scores(some, empty)["false_area"] == 6
    nothing = mask_scores(empty, empty)
    assert (nothing["false_positive"], nothing["false_area"]) == (0, 0)
    for shown in (mask_scores(some, some), mask_scores(empty, some), mask_scores(some, empty, vanished=True)):
        assert math.isnan(shown["false_positive"])
        assert math.isnan(shown["false_area"])


def test_pixels_that_do_not_count_are_in_neither_mask():
    predicted, true = ragged(0, (20, 24))
    counted = np.ones_like(true)
    counted[:, 12:] = False
    cut = mask_scores(predicted[:, :12], true[:, :12])
    whole = mask_scores(predicted, true, counted=counted)
    assert whole == pytest.approx(cut, nan_ok=True)


def test_units_say_what_may_be_averaged_together():
    tolerance = Tolerance(2, 3)
    units = {
        name: [metric(name).unit(axes=2, in_mm=known, tolerance=tolerance) for known in (True, False)]
        for name in ("dice", "hd95", "nsd", "false_area")
    }
    assert units == {"dice": ["", ""], "hd95": ["mm", "px"], "nsd": ["at 2 mm", "at 3 px"], "false_area": ["mm2", "px"]}
    assert metric("false_area").unit(axes=3, in_mm=True, tolerance=tolerance) == "mm3"


def test_a_volume_of_one_thickness_has_the_boundary_of_its_neighbours():
    slab = np.ones((1, 4, 5), bool)
    there, back = MaskPair(slab, slab).surface_distances
    assert len(there) == len(back) == 20  # above and below is outside
