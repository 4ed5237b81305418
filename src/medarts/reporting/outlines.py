"""Images with the outlines of many masks on them, as SVG that holds every image once.

A comparison shows an image with the prediction of every network. As pictures that would be hundreds of copies; here
the image stands on the page once, and an outline is a path over it, sharp at every size.
"""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image

_QUALITY = 90
"""Of a JPEG: an image of 256 px takes some 20 kB, and no artefact is as wide as an outline."""

SCALE = 2
"""Units of a path in a pixel: outlines pass through the middle between pixels, so all their coordinates are whole."""


def inline_jpeg(image_hwc: NDArray[Any]) -> str:
    """Returns an image as the address of a picture that holds the picture itself.

    Args:
        image_hwc: 0..1, one or three channels (others: the first).
    """
    plane = image_hwc if image_hwc.shape[2] == 3 else image_hwc[..., 0]
    buffer = io.BytesIO()
    pixels = np.rint(np.clip(plane, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def outline(mask_hw: NDArray[Any]) -> str:
    """Returns the outlines of all classes of a mask as the data of an SVG path; empty where it shows none.

    The path is in `SCALE` units a pixel, from the upper left corner of the image. A region that is cut by the border
    is closed along it.

    Args:
        mask_hw: class indices, 0 is ground.
    """
    padded = np.pad(mask_hw, 1)
    classes = np.unique(mask_hw[mask_hw > 0])
    return "".join(_path(line) for value in classes for line in _lines(padded == value))


def _lines(inside_hw: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
    """Yields the closed outlines (points, 2) of a region with a border of one pixel, without that border."""
    for line in contour_generator(z=inside_hw.astype(np.float64)).lines(0.5):
        # Contours count from the centre of the first pixel, which the border has moved by one.
        yield np.rint((np.asarray(line) - 0.5) * SCALE).astype(np.int64)


def _path(points: NDArray[np.int64]) -> str:
    """Writes a closed line in relative steps, those in one direction as one."""
    steps = np.diff(points, axis=0)
    turns = np.flatnonzero(np.any(steps[1:] != steps[:-1], axis=1)) + 1
    corners = points[[0, *turns]]
    moves = " ".join(f"{x} {y}" for x, y in np.diff(corners, axis=0))
    return f"M{corners[0, 0]} {corners[0, 1]}l{moves}z"
