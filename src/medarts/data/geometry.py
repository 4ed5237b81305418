"""Where an image of any size lies in what a network sees; prediction needs this without PyTorch.

framing = fitted(300, 400, size=256)             # 192 x 256, between 32 rows of padding above and below
padded(resized, framing, (256, 256), fill=0)
framing.inside(probabilities)                    # without the padding, to be enlarged to 300 x 400
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.errors import DataError

MOST_ZOOM = 8.0
"""Factor up to which images are enlarged; more is a typing error."""

LEAST = 2
"""Rows or columns of a resized image: ONNX Runtime enlarges a single column to something else than PyTorch does."""


@dataclass(frozen=True, slots=True)
class Framing:
    """Where the pixels of an image's file are in the image that a network sees; all lengths in pixels.

    Attributes:
        height: of the image in its file.
        width: of the image in its file.
        rows: of the resized image.
        columns: of the resized image.
        top: first row of the resized image; those above it, and below its last, are padding.
        left: first column of the resized image.
    """

    height: int
    width: int
    rows: int
    columns: int
    top: int = 0
    left: int = 0

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the image in what a network sees."""
        return slice(self.top, self.top + self.rows), slice(self.left, self.left + self.columns)

    @property
    def is_resized(self) -> bool:
        """Whether the image has another size than in its file."""
        return (self.rows, self.columns) != (self.height, self.width)

    def inside(self, values: Any) -> Any:
        """Returns the part of an array or tensor (..., H, W) that shows the image, without padding."""
        return values[(..., *self.window)]


def squashed(height: int, width: int, *, size: int) -> Framing:
    """Returns the framing of an image that is stretched to a square."""
    return Framing(height, width, size, size)


def fitted(height: int, width: int, *, size: int) -> Framing:
    """Returns the framing of an image whose longer side becomes that of a square, in the middle of it.

    >>> fitted(300, 400, size=256)
    Framing(height=300, width=400, rows=192, columns=256, top=32, left=0)
    >>> fitted(64, 64, size=32) == squashed(64, 64, size=32)
    True
    """
    longer = max(height, width)
    # Whole numbers, rounded half up, as an exported graph computes them too.
    rows, columns = (max(LEAST, (2 * side * size + longer) // (2 * longer)) for side in (height, width))
    return Framing(height, width, rows, columns, (size - rows) // 2, (size - columns) // 2)


def scaled(height: int, width: int, *, factors: tuple[float, float]) -> Framing:
    """Returns the framing of an image whose height and width are multiplied, without padding."""
    rows, columns = (max(1, round(side * factor)) for side, factor in zip((height, width), factors, strict=True))
    return Framing(height, width, rows, columns)


def zoom(path: Path, spacing: tuple[float | None, ...], wanted: float) -> tuple[float, float]:
    """Returns the factors of height and width by which an image gets pixels of a size.

    Args:
        path: names the image in errors.
        spacing: height and width of its pixels in mm, None where unknown.
        wanted: both, in mm.

    Raises:
        DataError: they are unknown, or the image would be enlarged beyond reason.
    """
    height, width = spacing[:2]
    if height is None or width is None:
        raise DataError(
            f"{path} does not say the size of its pixels, which data.spacing_mm {wanted:g} needs.",
            fix="Use data.scale instead, or files that say it (DICOM, NIfTI, TIFF).",
        )
    if max(height, width) > MOST_ZOOM * wanted:
        raise DataError(
            f"{path} has pixels of {height:g} x {width:g} mm, many times larger than data.spacing_mm {wanted:g}.",
            fix="Choose a size near that of the images; it is in mm.",
        )
    return height / wanted, width / wanted


def framed(height: int, width: int, *, size: int, resize: str) -> Framing:
    """Returns the framing of an image in a square by the rule of a recipe, "fit" or "squash"."""
    return (fitted if resize == "fit" else squashed)(height, width, size=size)


def padded(values: NDArray[Any], framing: Framing, shape: tuple[int, int], *, fill: float) -> NDArray[Any]:
    """Returns a resized image or mask (..., rows, columns) in its place within height and width of ``shape``."""
    if values.shape[-2:] == shape:
        return values
    found = np.full((*values.shape[:-2], *shape), fill, values.dtype)
    found[(..., *framing.window)] = values
    return found
