"""Contours over images."""

import io

import numpy as np
from PIL import Image

from medarts.deploy.overlays import COLOURS, overlay_png


def drawn(image: np.ndarray, mask: np.ndarray, limits: tuple[float, float] = (0, 255)) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(overlay_png(image, np.array(limits), mask))))


def test_contours_lie_on_the_innermost_pixels_of_each_class() -> None:
    image = np.full((1, 20, 30), 100, np.float32)
    mask = np.zeros((20, 30), np.uint8)
    mask[3:8, 4:10], mask[12:15, 20:30] = 1, 2
    found = drawn(image, mask)
    assert found.shape == (20, 30, 3)
    first = (found == COLOURS[0]).all(-1)
    assert first.sum() == 5 * 6 - 3 * 4
    assert not first[4:7, 5:9].any()
    second = (found == COLOURS[1]).all(-1)
    assert second[12, 29]
    assert not second[13, 29], "the edge of the image is no contour"
    assert (found[~first & ~second] == 100).all()


def test_the_image_is_shown_between_its_limits_in_its_own_colours() -> None:
    image = np.zeros((3, 4, 5), np.float32)
    image[0], image[1], image[2] = 50, 150, 1000
    assert (drawn(image, np.zeros((4, 5), np.uint8), (50, 250)) == (0, 128, 255)).all()
    assert (drawn(image, np.zeros((4, 5), np.uint8), (7, 7)) == 0).all()


def test_contours_grow_with_the_image_and_colours_begin_again() -> None:
    mask = np.zeros((1200, 900), np.uint8)
    mask[100:1000, 100:800] = len(COLOURS) + 1
    row = drawn(np.zeros((1, *mask.shape), np.float32), mask)[500]
    assert (row == COLOURS[0]).all(-1).sum() == 2 * 2
