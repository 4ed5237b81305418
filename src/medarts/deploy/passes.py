"""Engines around an engine: the mean over mirrored copies, and sliding windows over large images.

Windows overlap by half and are blended by a Gaussian.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from medarts.deploy.engines import Engine, Floats, Outputs
from medarts.deploy.info import ModelInfo

MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes of each copy of an image: as it is, mirrored left-right, top-bottom, and both."""

_OF_FINDINGS = MIRRORS[:2]
"""A chest has no other symmetry."""

_SIGMA = 1 / 8
"""Of the Gaussian, in sides of the window."""

_LEAST = 1e-3
"""Weight of the corners of a window, where its middle has 1: an image's own corners lie in no other."""


class Mirrored:
    """Averages the probabilities of images and their mirrored copies.

    Masks are predicted four times: as they are, mirrored left-right, top-bottom, and both. Findings are predicted
    twice, as they are and left-right. The masks and logits of copies are left out.

    Args:
        engine: what runs the network.
        info: of the network.
    """

    def __init__(self, engine: Engine, info: ModelInfo) -> None:
        self._engine = engine
        self._info = info
        self.name = engine.name

    def run(self, images_bchw: Floats, limits_b2: Floats) -> Outputs:
        """Returns all outputs by name."""
        masks = self._info.task == "segmentation"
        axes = MIRRORS if masks else _OF_FINDINGS
        names = ("probabilities",) if masks else ("probabilities", "calibrated")
        sums: Outputs = {}
        for flipped in axes:
            found = self._engine.run(np.ascontiguousarray(np.flip(images_bchw, flipped)), limits_b2)
            for name in names:
                one = np.flip(found[name], flipped) if masks else found[name]
                sums[name] = sums[name] + one if name in sums else one
        means: Outputs = {name: values / np.float32(len(axes)) for name, values in sums.items()}
        if not masks:
            means["decisions"] = (means["calibrated"] >= np.array(self._info.finding_thresholds, np.float32)).astype(
                np.uint8
            )
        return means


class Windowed:
    """Predicts masks of images that are larger than a window in overlapping windows; others whole.

    Args:
        engine: what runs the network.
        window: height and width of the windows in pixels.
        batch: windows in one pass.
    """

    def __init__(self, engine: Engine, window: int, *, batch: int) -> None:
        self._engine = engine
        self._window = window
        self._batch = batch
        self.name = engine.name

    def run(self, images_bchw: Floats, limits_b2: Floats) -> Outputs:
        """Returns the probabilities; limits are those of the whole images."""
        if max(images_bchw.shape[-2:]) <= self._window:
            return {"probabilities": self._engine.run(images_bchw, limits_b2)["probabilities"]}

        every = [
            blended(image, self._window, partial(self._tiles, limits), batch=self._batch)
            for image, limits in zip(images_bchw, limits_b2, strict=True)
        ]
        return {"probabilities": np.stack(every)}

    def _tiles(self, limits: Floats, tiles: Floats) -> Floats:
        found: Floats = self._engine.run(tiles, np.tile(limits, (len(tiles), 1)))["probabilities"]
        return found


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
