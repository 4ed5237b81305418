"""What the readers of all formats have in common: what they are asked for, what they return, and how they fail."""

import contextlib
import errno
import struct
import textwrap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medarts.errors import DataError

Array = NDArray[Any]
Spacing = tuple[float | None, float | None, float | None]
"""Distances of rows, columns and slices in mm; None where unknown."""

MOST_PIXELS = 178_956_970
"""Pixels of the largest image that is read, Pillow's own limit: 0.5 GB of 8-bit colour, 2 GB once it is floats."""

# What Pillow, tifffile, pydicom and nibabel raise on content that breaks off or contradicts its format; their own error
# classes are turned into ValueError where they are used.
_DAMAGED = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
# What they raise both on damaged headers and on kinds they do not know: they look fields up and convert what they find,
# without asking whether it is what the format says. As a mistake in a program raises the same, it stays as the cause.
_UNCLEAR = (LookupError, AttributeError, TypeError, NotImplementedError)


class OtherContentError(ValueError):
    """A file does not begin as one of its format does."""


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """An image as stored.

    Attributes:
        values: array HWC in stored units; for DICOM and NIfTI after the rescale slope and intercept of the file
            (Hounsfield for CT). Palettes are resolved, alpha is dropped.
        range: (low, high) the file's type can hold: 0..1 for 1 bit, 0..255 for 8, 0..65535 for 16, the stored
            bits of an unsigned DICOM, 0..1 for floats within it. None for signed and other types, where
            the type says nothing about black and white.
        inverted: the file says that low values are white (DICOM MONOCHROME1, TIFF MinIsWhite); ``values`` are
            left as stored.
        padding: bool HW, true where the file says that a pixel is not part of the image (DICOM PixelPaddingValue);
            None without such pixels.
        palette: uint8 (entries, 3), the palette that ``values`` were looked up in; None where there is none, or where
            ``values`` are its indices.
        lossy: the file is compressed with loss, so that its values are near those that were saved.
        veiled: all pixels have one colour, but not one transparency: what the file shows is in its alpha channel.
    """

    values: Array
    range: tuple[float, float] | None
    inverted: bool = False
    padding: NDArray[np.bool_] | None = None
    palette: NDArray[np.uint8] | None = None
    lossy: bool = False
    veiled: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be read of a file.

    Attributes:
        index: slice, frame or page; None for files with a single image.
        indices: return the indices of a coloured palette instead of its colours.
        image: for a mask, the image it belongs to, and for a further file of an image its first one, on whose grid it
            must lie; None for others.
        segments: of a mask in DICOM, the segments or regions that are drawn, see ``medarts.data.formats.drawings``.
        objects: of annotations, the values of the categories whose objects are drawn; None draws all.
    """

    index: int | None = None
    indices: bool = False
    image: Path | None = None
    segments: tuple[str, ...] = ()
    objects: tuple[int, ...] | None = None


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what a library raises on a file into a DataError that names the file, the cause and the fix."""
    _require_file(path)
    try:
        yield
    except MemoryError:
        raise DataError(
            f"{path} does not fit into memory.", fix="Close other programs, or cut the image into smaller ones."
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except OSError as error:
        if error.errno is None:  # Pillow's own; those of the operating system have a number
            raise _damaged(path, error) from None
        raise DataError(f"{path} cannot be read: {error.strerror}.", fix=_fix_of(error)) from None
    except OtherContentError as error:
        raise DataError(
            f"{path} cannot be read: {error}.", fix="It is damaged or of another kind; download or copy it again."
        ) from None
    except _DAMAGED as error:
        raise _damaged(path, error) from None
    except _UNCLEAR as error:
        raise DataError(
            f"{path} cannot be read: {_reason(error)}.",
            fix="Its header is damaged or of an unknown kind; download or copy it again, or save it anew as PNG.",
        ) from error


def only(path: Path, count: int, index: int | None) -> int:
    """Returns the index to read of ``count`` frames; refuses to choose one of several."""
    if index is None and count > 1:
        raise DataError(
            f"{path} holds {count} images where one is expected.",
            fix="Save its frames as single files, or as a NIfTI volume.",
        )
    if index is not None and index >= count:
        raise DataError(f"{path} has no image {index}, only {count}.", fix="Use an image and mask of equal length.")
    return index or 0


def check_pixels(path: Path, height: int, width: int) -> None:
    """Raises a DataError where an image has more than ``MOST_PIXELS``, before any of them is unpacked."""
    if height * width > MOST_PIXELS:
        raise _too_large(path, f"{height} x {width} pixels, ")


def as_hwc(values: Array) -> Array:
    """Returns an array HW or HWC as HWC."""
    return values[..., None] if values.ndim == 2 else values


def type_range(values: Array) -> tuple[float, float] | None:
    """Returns the range of the values' type, as ``Raw.range`` has it."""
    if values.dtype == np.uint8:
        return 0.0, 255.0
    if values.dtype == np.uint16:
        return 0.0, 65535.0
    if values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
        return 0.0, 1.0
    return None


def is_constant(values: Array) -> bool:
    """Tells whether all pixels of an array HWC or HW are alike."""
    first = values[:1, :1]
    # Most images differ within their first rows, which spares a look at the others.
    return bool((values[:8] == first).all() and (values == first).all())


def _require_file(path: Path) -> None:
    """Opening a pipe waits for its other end, and reading a device may never end: regular files only."""
    if path.is_file():
        return
    if path.is_dir():
        raise DataError(f"{path} is a folder, where a file is expected.", fix="Rename it or move it elsewhere.")
    if path.exists():
        raise DataError(
            f"{path} is not a regular file but a pipe, socket or device.", fix="Copy its content into a file."
        )
    if path.is_symlink():
        raise DataError(f"{path} is a link to a file that is not there.", fix="Restore the file or remove the link.")
    raise DataError(f"There is no file {path}.", fix="Restore it or take it out of the data set.")


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read: {_reason(error)}.", fix="It is damaged or incomplete; download or copy it again."
    )


def _too_large(path: Path, size: str = "") -> DataError:
    return DataError(
        f"{path} has {size}more than the {MOST_PIXELS // 1_000_000} million pixels that are read.",
        fix="Cut it into tiles, or save it smaller.",
    )


def _reason(error: Exception) -> str:
    """Returns the library's own words, shortened: some messages quote the damaged bytes at length."""
    return textwrap.shorten(str(error), 200).rstrip(".") or type(error).__name__


def _fix_of(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "Change its permissions (chmod u+r)."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "Raise the number of open files (ulimit -n)."
    return "Check the disk or the network; copy the file to another disk."
