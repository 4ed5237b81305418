"""Images with the outlines of masks as pages hold them: a JPEG below paths, sharp however far one looks into them."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image

from medarts.data.masks import planes_of

_QUALITY = 90
"""Of a JPEG: an image of 512 px takes some 60 kB, and no artefact is as wide as an outline."""

SCALE = 2
"""Units of a path in a pixel: outlines pass through the middle between pixels, so all their coordinates are whole."""


def inline_jpeg(image_hwc: NDArray[Any]) -> str:
    """Returns an image as the address of a picture that holds the picture itself.

    Args:
        image_hwc: 0 to 255, uint8, one or three channels (others: the first).
    """
    plane = image_hwc if image_hwc.shape[2] == 3 else image_hwc[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(plane)).save(buffer, format="JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def outline(mask: NDArray[Any]) -> str:
    """Returns the outlines of all classes of a mask as the data of an SVG path; empty where it shows none.

    The path is in `SCALE` units a pixel, from the upper left corner of the image. A region that is cut by the border
    is closed along it.

    Args:
        mask: class indices (H, W), 0 is ground; or 0 and 1 of classes that may overlap (K, H, W).
    """
    return "".join(_path(line) for _, shown in planes_of(mask) for line in _lines(np.pad(shown, 1)))


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
