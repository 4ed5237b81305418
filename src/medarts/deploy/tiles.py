"""Sliding windows over large images: half overlapping, blended by a Gaussian."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from medarts.deploy.engines import Floats

_SIGMA = 1 / 8
"""Of the Gaussian, in sides of the window."""

_LEAST = 1e-3
"""Weight of the corners of a window, where its middle has 1: an image's own corners lie in no other."""


def blended(
    image_chw: Floats, window: int, probabilities: Callable[[Floats], Floats], *, batch: int
) -> NDArray[np.float32]:
    """Returns the probabilities (K, H, W) of an image, blended from those of windows.

    Along an axis on which the image is shorter than the window, windows are as long as the image.

    Args:
        image_chw: the image.
        window: height and width of the windows in pixels.
        probabilities: of windows (B, C, h, w), as (B, K, h, w).
        batch: windows at a time.
    """
    height, width = image_chw.shape[1:]
    tall, wide = min(window, height), min(window, width)
    corners = [(top, left) for top in starts(height, tall) for left in starts(width, wide)]
    weights = np.maximum(np.outer(_gaussian(tall), _gaussian(wide)), _LEAST).astype(np.float32)
    total = np.zeros((height, width), np.float32)
    found: NDArray[np.float32] | None = None
    for part in _parts(corners, batch):
        tiles = np.stack([image_chw[:, top : top + tall, left : left + wide] for top, left in part])
        for (top, left), tile in zip(part, probabilities(tiles), strict=True):
            if found is None:
                found = np.zeros((len(tile), height, width), np.float32)
            found[:, top : top + tall, left : left + wide] += weights * tile
            total[top : top + tall, left : left + wide] += weights
    assert found is not None
    found /= total
    return np.clip(found, 0, 1, out=found)


def starts(length: int, window: int) -> list[int]:
    """Returns where the windows along an axis begin: evenly, each at most half a window after the one before.

    >>> starts(256, 128), starts(300, 128), starts(128, 128)
    ([0, 64, 128], [0, 57, 114, 172], [0])
    """
    steps = math.ceil((length - window) / max(window // 2, 1))
    return [int(start) for start in np.linspace(0, length - window, steps + 1)]


def _gaussian(length: int) -> NDArray[np.float64]:
    distance = (np.arange(length) - (length - 1) / 2) / (_SIGMA * length)
    return np.exp(-(distance**2) / 2)


def _parts(corners: list[tuple[int, int]], batch: int) -> Iterator[list[tuple[int, int]]]:
    for begin in range(0, len(corners), batch):
        yield corners[begin : begin + batch]
