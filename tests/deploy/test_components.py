"""Largest components, against SciPy's labels."""

import numpy as np
import pytest
from scipy import ndimage

from medarts.deploy.components import largest_components


def by_scipy(mask: np.ndarray) -> np.ndarray:
    found = np.zeros_like(mask)
    for index in range(1, mask.max() + 1):
        labels, _ = ndimage.label(mask == index, structure=np.ones((3,) * mask.ndim))
        sizes = np.bincount(labels.ravel())[1:]
        if len(sizes):
            found[labels == sizes.argmax() + 1] = index
    return found


@pytest.mark.parametrize("axes", [2, 3])
def test_the_largest_component_of_random_masks_is_that_of_scipy(axes: int) -> None:
    generator = np.random.default_rng(axes)
    for _ in range(300):
        shape = tuple(generator.integers(1, 9, axes))
        mask = ((generator.random(shape) < generator.random()) * generator.integers(1, 3, shape)).astype(np.uint8)
        assert np.array_equal(largest_components(mask), by_scipy(mask))


def test_runs_at_the_ends_of_neighbouring_rows_are_not_connected() -> None:
    mask = np.zeros((3, 6), np.uint8)
    mask[0, 3:], mask[1, :2], mask[2, 5] = 1, 1, 1
    assert np.array_equal(np.flatnonzero(largest_components(mask)), [3, 4, 5])


def test_a_full_and_an_empty_mask_stay_as_they_are() -> None:
    for value in (0, 1):
        mask = np.full((4, 5, 6), value, np.uint8)
        assert np.array_equal(largest_components(mask), mask)


def test_a_spiral_is_one_component() -> None:
    mask = np.zeros((41, 41), np.uint8)
    for ring in range(0, 20, 2):
        mask[ring, ring : 41 - ring] = mask[40 - ring, ring : 41 - ring] = 1
        mask[ring : 41 - ring, 40 - ring] = mask[ring + 2 : 41 - ring, ring] = 1
        mask[ring + 2, ring : ring + 3] = 1
    mask[20, 20] = 0
    assert np.array_equal(largest_components(mask), by_scipy(mask))
