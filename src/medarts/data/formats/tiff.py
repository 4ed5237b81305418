"""TIFF and BigTIFF: uncompressed and deflated files by tifffile, which keeps all bits, other compressions by Pillow."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medarts.data.formats import raster
from medarts.data.formats.raw import (
    Array,
    OtherContentError,
    Raw,
    Wanted,
    as_hwc,
    check_pixels,
    is_constant,
    only,
    type_range,
)
from medarts.errors import DataError

_COMPRESSIONS = {1, 8, 32946}  # none and deflate, which tifffile decodes without another package
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB = 0, 1, 2  # photometric interpretations
_SIGNED = 2  # sample format
_ORIENTATION = 274  # tag


def recognises(head: bytes) -> bool:
    """Tells whether a file that begins like this is a TIFF or BigTIFF of either byte order."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read(path: Path, wanted: Wanted) -> Raw:
    """Reads a page, turned by its orientation. Reduced copies of a page (thumbnails) are not counted."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series, page = file.series[0], file.pages[0]
            plain = page.compression in _COMPRESSIONS
            if wanted.index is None and series.axes == "CYX" and plain:  # microscopes store channels as pages
                check_pixels(path, *series.shape[1:])
                values = _turned(np.moveaxis(series.asarray(), 0, -1), page)
                return Raw(values, type_range(values))
            pages = [n for n, one in enumerate(file.pages) if not getattr(one, "is_reduced", False)] or [0]
            index = only(path, max(len(pages), series.size // page.size), wanted.index)
            number = pages[index] if index < len(pages) else index
            return _page(path, file.pages[number], number, wanted)
    except tifffile.TiffFileError as error:
        if str(error).startswith("not a TIFF file"):
            raise OtherContentError("it is no TIFF file") from None
        raise ValueError(str(error)) from None


def _page(path: Path, page: Any, number: int, wanted: Wanted) -> Raw:
    check_pixels(path, page.imagelength, page.imagewidth)
    inverted = page.photometric == _MIN_IS_WHITE
    wide = page.bitspersample > 8
    if wide and page.photometric not in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB):
        kind = getattr(page.photometric, "name", page.photometric)
        raise DataError(f"{path} is a TIFF of {page.bitspersample} bits in {kind}.", fix="Save it as grey or RGB.")
    # tifffile marks every bool array MinIsWhite without inverting it, so the mark means nothing in its own files.
    boolean = page.bitspersample == 1 and page.is_shaped
    simple = wide or boolean or (page.bitspersample == 8 and page.photometric in (_MIN_IS_BLACK, _RGB))
    if simple and page.compression in _COMPRESSIONS:
        values, veiled = _array(path, page)
        limits = (0.0, 1.0) if boolean else type_range(values)
        return Raw(values.astype(np.uint8) if boolean else values, limits, inverted and not boolean, veiled=veiled)
    if (wide and page.samplesperpixel > 1) or (page.bitspersample == 8 and page.sampleformat == _SIGNED):
        kind = "signed 8 bits" if not wide else f"{page.samplesperpixel} channels of {page.bitspersample} bits"
        raise DataError(f"{path} is a compressed TIFF of {kind}.", fix="Save it without compression or with deflate.")
    # Pillow knows the other compressions and, up to 8 bits, palettes and YCbCr; MinIsWhite it turns itself there.
    # It gets an open file: what it opens by name it may map into memory, and misreads where that is to be turned.
    with path.open("rb") as file, Image.open(file) as image:
        image.seek(number)
        raw = raster.read_frame(path, image, wanted)
    return replace(raw, inverted=inverted and wide)


def _array(path: Path, page: Any) -> tuple[Array, bool]:
    """Returns the page as HWC without alpha, and whether only its alpha varies."""
    values = page.asarray()
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise DataError(f"{path} has the axes {page.axes}.", fix="Save it as rows, columns and channels.")
    values = _turned(as_hwc(values), page)
    alphas = sum(int(extra) in (1, 2) for extra in page.extrasamples)
    # Whatever follows the colours is alpha or unspecified.
    kept = values[..., :3] if page.photometric == _RGB else values[..., : values.shape[2] - alphas]
    veiled = bool(alphas) and is_constant(kept) and not is_constant(values[..., -1])
    return np.asarray(kept), veiled


def _turned(values: Array, page: Any) -> Array:
    """Turns an array HWC as its orientation tag asks; its meaning is that of EXIF.

    5 to 8 are mirrored along the main diagonal first, so that all that is left are flips.
    """
    tag = page.tags.get(_ORIENTATION)
    orientation = int(tag.value) if tag is not None else 1
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.flip(values, flips) if flips else values
