"""Contours of masks over the images that they were predicted for."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medarts.data.masks import planes_of

COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
"""Of the classes, in their order, from the first again after the last. Palette of Okabe and Ito (2008): they differ for
the colour-blind too."""

_THIN = 400
"""Pixels of the shorter side of an image for which a contour is one pixel wide; it grows with the image."""


def overlay_png(image_chw: NDArray[np.floating], limits: NDArray[np.floating], mask: NDArray[np.uint8]) -> bytes:
    """Returns a PNG file of an image with the contours of all classes, which lie on their innermost pixels.

    Args:
        image_chw: grey or colour (C, H, W).
        limits: the values that are shown black and white.
        mask: class indices (H, W), 0 being background, or 0 and 1 of classes that may overlap (K, H, W).
    """
    low, high = map(float, limits)
    grey = (image_chw - low) * (255 / (high - low)) if high > low else np.zeros_like(image_chw)
    shown = np.moveaxis(np.clip(grey, 0, 255).round().astype(np.uint8), 0, -1)
    rgb = shown.copy() if shown.shape[-1] == 3 else np.repeat(shown[..., :1], 3, axis=2)
    thickness = max(1, round(min(mask.shape[-2:]) / _THIN))
    for index, plane in planes_of(mask):
        rgb[_contour(plane, thickness)] = COLOURS[(index - 1) % len(COLOURS)]
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def _contour(shown: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """Returns the pixels of an area that lie within ``thickness`` of its outside; the edge of the image is none."""
    inner = shown
    for _ in range(thickness):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return shown & ~inner
