"""Images larger than what a network sees: where windows lie on them, and how what was found in them is put together.

Prediction and evaluation use overlapping windows that are blended by a Gaussian (`blended`), validation during a
training uses as few as cover the image (`corners` with a step as long as the window).
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medarts.data.geometry import Framing

Floats = NDArray[np.float32]
Corner = tuple[int, int]

_SIGMA = 1 / 8
"""Of the Gaussian, in sides of the window."""

_LEAST = 1e-3
"""Weight of the corners of a window, where its middle has 1: an image's own corners lie in no other."""


def blended(
    image_chw: Floats, window: int, probabilities: Callable[[Floats], Floats], *, batch: int
) -> NDArray[np.float32]:
    """Returns the probabilities (K, H, W) of an image, blended from those of windows, which overlap by half.

    Along an axis on which the image is shorter than the window, windows are as long as the image.

    Args:
        image_chw: the image.
        window: height and width of the windows in pixels.
        probabilities: of windows (B, C, h, w), as (B, K, h, w).
        batch: windows at a time.
    """
    height, width = image_chw.shape[1:]
    tall, wide = min(window, height), min(window, width)
    weights = np.maximum(np.outer(_gaussian(tall), _gaussian(wide)), _LEAST).astype(np.float32)
    total = np.zeros((height, width), np.float32)
    found: NDArray[np.float32] | None = None
    for part in parts(corners(height, width, window, step=max(window // 2, 1)), batch):
        tiles = np.stack([image_chw[:, top : top + tall, left : left + wide] for top, left in part])
        for (top, left), tile in zip(part, probabilities(tiles), strict=True):
            if found is None:
                found = np.zeros((len(tile), height, width), np.float32)
            found[:, top : top + tall, left : left + wide] += weights * tile
            total[top : top + tall, left : left + wide] += weights
    assert found is not None
    found /= total
    return np.clip(found, 0, 1, out=found)


def corners(height: int, width: int, window: int, *, step: int) -> list[Corner]:
    """Returns the upper left corners of windows that cover an image, row by row.

    Args:
        height: of the image.
        width: of the image.
        window: height and width of the windows, along a shorter axis that of the image.
        step: pixels from one window to the next, at most.
    """
    tops, lefts = (starts(side, min(window, side), step=step) for side in (height, width))
    return [(top, left) for top in tops for left in lefts]


def starts(length: int, window: int, *, step: int | None = None) -> list[int]:
    """Returns where the windows along an axis begin, evenly.

    Args:
        length: of the axis.
        window: of the windows.
        step: pixels from one window to the next, at most. Default: half a window.

    >>> starts(256, 128), starts(300, 128), starts(128, 128)
    ([0, 64, 128], [0, 57, 114, 172], [0])
    >>> starts(300, 128, step=128)
    [0, 86, 172]
    """
    steps = math.ceil((length - window) / (step or max(window // 2, 1)))
    return [int(start) for start in np.linspace(0, length - window, steps + 1)]


def parts(items: Sequence[Corner], batch: int) -> Iterator[Sequence[Corner]]:
    """Yields the items in parts of at most ``batch``."""
    for begin in range(0, len(items), batch):
        yield items[begin : begin + batch]


def enlarging(shape: Sequence[int], window: int) -> tuple[Framing, tuple[int, int]]:
    """Returns where an image lies, in the middle, once it is padded to at least a window, and height and width then.

    Args:
        shape: height and width of the image.
        window: height and width of the window.
    """
    height, width = shape
    tall, wide = max(height, window), max(width, window)
    return Framing(height, width, height, width, (tall - height) // 2, (wide - width) // 2), (tall, wide)


def _gaussian(length: int) -> NDArray[np.float64]:
    distance = (np.arange(length) - (length - 1) / 2) / (_SIGMA * length)
    return np.exp(-(distance**2) / 2)
