"""PNG, JPEG, BMP and what else Pillow knows by content; TIFF by tifffile, which keeps all bits, or by Pillow."""

import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

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

_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"RIFF", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP")
_SIXTEEN_BITS = ("RGB;16B", "RGBA;16B", "LA;16B")  # big-endian modes of which Pillow keeps the high bytes alone

# TIFF
_COMPRESSIONS = {1, 8, 32946}  # none and deflate, which tifffile decodes without another package
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB = 0, 1, 2  # photometric interpretations
_SIGNED = 2  # sample format
_ORIENTATION, _RESOLUTIONS, _UNIT = 274, (283, 282), 296  # tags; resolutions of rows and columns
_SWAPPED = (5, 6, 7, 8)  # orientations that exchange rows and columns
_MM = {2: 25.4, 3: 10.0}  # of the units inch and centimetre
_IMAGEJ_MM = {
    **{"nm": 1e-6, "micron": 1e-3, "microns": 1e-3, "um": 1e-3, "\xb5m": 1e-3, "\u03bcm": 1e-3},
    **{"mm": 1.0, "cm": 10.0, "inch": 25.4, "m": 1000.0},
}
_OF_PRINTS = (72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 240, 250, 300, 350, 360, 400, 500, 600, 720, 1200, 2400)
"""Pixels an inch that programs and scanners write for screens and prints, whatever the image shows."""
_ROUNDED = 2e-4
"""Share by which such a number may be off: 300 an inch are written as 118.11 a centimetre."""

# JPEG
_RUN = bytes(64)
_SEQUENTIAL = (0xC0, 0xC1)  # frames coded by Huffman tables in one pass; in progressive ones zeros may mean anything
_HUFFMAN, _SCAN, _END = 0xC4, 0xDA, 0xD9
_NO_FRAMES = (_HUFFMAN, 0xC8, 0xCC)
_NEXT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # what ends coded pixels: neither a stuffed byte nor a restart

Segment = tuple[int, int, int]
"""Marker, and where its content begins and ends."""


def recognises(head: bytes) -> bool:
    """Tells whether a file that begins like this is for Pillow."""
    return head.startswith(_STARTS)


def read(path: Path, wanted: Wanted) -> Raw:
    """Reads a file of a single image; of a phone's JPEG (MPO) the main one."""
    try:
        with Image.open(path) as image:
            if image.format in ("JPEG", "MPO"):
                _require_coded(path)
            if image.format != "MPO":
                only(path, getattr(image, "n_frames", 1), None)
            return _frame(path, image, wanted)
    except UnidentifiedImageError:
        raise OtherContentError("its content is of no known image format") from None


def shape_of(path: Path) -> tuple[int, int]:
    """Returns the height and width of what ``read`` gives; reads the header alone."""
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # Without the first condition, Pillow would read all pixels of a PNG in search of it.
        sideways = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) in _SWAPPED
        return (image.width, image.height) if sideways else (image.height, image.width)


def is_deep(path: Path) -> bool:
    """Tells whether values have more than 8 bits; reads the header alone."""
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        rawmode = str(image.tile[0].args) if image.tile else ""
        return image.mode.startswith(("I", "F")) or rawmode in _SIXTEEN_BITS


def _frame(path: Path, image: ImageFile, wanted: Wanted) -> Raw:
    """Reads the current frame of an open image, turned by its EXIF orientation."""
    check_pixels(path, image.height, image.width)
    rawmode = str(image.tile[0].args) if image.tile else ""
    if rawmode in _SIXTEEN_BITS:
        values, alpha = _sixteen_bits(path, image, rawmode)
        return Raw(values, type_range(values), veiled=_is_veiled(values, lambda: alpha))
    upright = ImageOps.exif_transpose(image)
    palette = _palette(upright)
    coloured = palette is not None and bool((palette != palette[:, :1]).any())
    values = np.asarray(upright if wanted.indices and coloured else _plain(upright, coloured))
    veiled = upright.has_transparency_data and _is_veiled(values, lambda: upright.convert("RGBA").getchannel(3))
    if values.dtype == np.bool_:
        return Raw(as_hwc(values.astype(np.uint8)), (0.0, 1.0))
    looked_up = None if wanted.indices and coloured else palette
    lossy = image.format in _LOSSY or image.info.get("compression") == "jpeg"  # the latter in a TIFF
    return Raw(as_hwc(values), type_range(values), palette=looked_up, lossy=lossy, veiled=veiled)


def _palette(image: Image.Image) -> Array | None:
    """Returns the palette as uint8 (entries, 3), None without one."""
    if image.mode not in ("P", "PA"):
        return None
    return np.asarray(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)


def _plain(image: Image.Image, coloured: bool) -> Image.Image:
    """Returns the image without palette and alpha."""
    if image.mode in ("P", "PA"):
        return image.convert("RGB" if coloured else "L")
    if image.mode in ("LA", "La"):
        return image.getchannel(0)
    if image.mode in ("RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"):
        # convert() would blend a transparent image with nothing; it keeps the colours and drops the alpha.
        return image.convert("RGB")
    return image


def _is_veiled(values: Array, alpha: Callable[[], Any]) -> bool:
    """Tells whether the alpha, which is made for constant values alone, varies."""
    return is_constant(values) and not is_constant(np.asarray(alpha()))


def _sixteen_bits(path: Path, image: ImageFile, rawmode: str) -> tuple[Array, Array]:
    """Returns HWC uint16 and the alpha; Pillow keeps the high bytes of these modes alone, so the low are read apart.

    Grey with alpha has four bytes a pixel, as 8-bit RGBA has, and is read as that: high and low byte of the grey, high
    and low byte of the alpha.
    """
    if rawmode == "LA;16B":
        image.tile = [image.tile[0]._replace(args="RGBA")]
        parts = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
        return np.asarray((parts[..., :1] << 8) | parts[..., 1:2]), parts[..., 2]
    high = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
    with Image.open(path) as again:
        again.tile = [again.tile[0]._replace(args=rawmode.replace("16B", "16L"))]
        low = np.asarray(ImageOps.exif_transpose(again))[..., :3]
    return np.asarray((high[..., :3] << 8) | low), high[..., -1] if high.shape[2] == 4 else np.zeros((1, 1))


def recognises_tiff(head: bytes) -> bool:
    """Tells whether a file that begins like this is a TIFF or BigTIFF of either byte order."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff(path: Path, wanted: Wanted) -> Raw:
    """Reads a page, turned by its orientation. Reduced copies of a page (thumbnails) are not counted."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series, page = file.series[0], file.pages[0]
            if wanted.index is None and _is_colour_by_page(file):
                check_pixels(path, *series.shape[1:])
                values = _turned(np.moveaxis(series.asarray(), 0, -1), page)
                return Raw(values, type_range(values))
            pages, count = _pages(file)
            index = only(path, count, wanted.index)
            number = pages[index] if index < len(pages) else index
            return _page(path, file.pages[number], number, wanted)
    except tifffile.TiffFileError as error:
        if str(error).startswith("not a TIFF file"):
            raise OtherContentError("it is not a TIFF file") from None
        raise ValueError(str(error)) from None


def page_count(path: Path) -> int:
    """Returns the number of images in a TIFF, reduced copies (thumbnails) left out; reads the headers alone."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return 1 if _is_colour_by_page(file) else _pages(file)[1]
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from None


def shape_of_tiff(path: Path) -> tuple[int, int]:
    """Returns the height and width of what ``read_tiff`` gives; reads the headers alone."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            height, width = int(page.imagelength), int(page.imagewidth)
            return (width, height) if _orientation(page) in _SWAPPED else (height, width)
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from None


def is_deep_tiff(path: Path) -> bool:
    """Tells whether values have more than 8 bits; reads the headers alone."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return int(file.pages[0].bitspersample) > 8
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from None


def spacing_of_tiff(path: Path) -> tuple[float, float, float | None] | None:
    """Returns the distances of rows, columns and pages in mm; None where they are not known. Reads the header alone.

    They come from the resolution tags, in inches or centimetres, or in the unit that ImageJ names in the description,
    which also holds the distance of pages. A resolution of screens and prints (`_OF_PRINTS`) says nothing of what the
    image shows.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page, about = file.pages[0], file.imagej_metadata or {}
            resolutions = [_resolution(page.tags.get(tag)) for tag in _RESOLUTIONS]
            unit = _IMAGEJ_MM.get(str(about.get("unit", "")).replace("\\u00B5", "\xb5"))
            turned = _orientation(page) in _SWAPPED
            is_inches = unit is None
            if is_inches:
                tag = page.tags.get(_UNIT)
                unit = _MM.get(int(tag.value) if tag is not None else 2)  # inches where the tag is missing
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from None
    if unit is None or None in resolutions:
        return None
    row, column = (unit / resolution for resolution in resolutions if resolution is not None)
    if is_inches and any(_is_of_prints(25.4 / size) for size in (row, column)):
        return None
    between = about.get("spacing")
    depth = abs(between) * unit if not is_inches and isinstance(between, int | float) and between else None
    return (column, row, depth) if turned else (row, column, depth)


def _resolution(tag: Any) -> float | None:
    """Returns the pixels of a unit; None where the tag is missing or holds no number above 0."""
    try:
        above, below = tag.value
        found = float(above) / float(below)
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return None
    return found if 0 < found < math.inf else None


def _is_of_prints(an_inch: float) -> bool:
    return any(abs(an_inch - usual) <= _ROUNDED * usual for usual in (1, *_OF_PRINTS))


def _is_colour_by_page(file: Any) -> bool:
    """Tells whether the pages are the channels of one image, as microscopes store them."""
    return bool(file.series[0].axes == "CYX" and file.pages[0].compression in _COMPRESSIONS)


def _pages(file: Any) -> tuple[list[int], int]:
    """Returns the numbers of the full pages, and how many images there are: some have no page of their own."""
    pages = [n for n, one in enumerate(file.pages) if not getattr(one, "is_reduced", False)] or [0]
    return pages, max(len(pages), file.series[0].size // file.pages[0].size)


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
        raw = _frame(path, image, wanted)
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
    orientation = _orientation(page)
    if orientation in _SWAPPED:
        values = values.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.flip(values, flips) if flips else values


def _orientation(page: Any) -> int:
    tag = page.tags.get(_ORIENTATION)
    return int(tag.value) if tag is not None else 1


def _require_coded(path: Path) -> None:
    """Raises a ValueError where the coded pixels of a JPEG file are zeros over a stretch that no image gives.

    A run of zeros is the shortest codes over and over. It stands for a flat area where these mean "no change" and
    "nothing further", as in tables made for an image with a large background; such files are let through, as are
    progressive ones. By the usual tables it would be blocks of the finest pattern in every frequency.
    """
    content = path.read_bytes()
    if _RUN not in content:
        return
    frame, shortest = 0, dict[int, int]()
    for marker, start, end in _segments(content):
        if marker == _HUFFMAN:
            shortest |= _shortest_codes(content[start:end])
        elif marker == _SCAN and frame in _SEQUENTIAL:
            coded = _NEXT.search(content, end)
            zeros = content.find(_RUN, end, coded.start() if coded else len(content))
            if zeros >= 0 and not _may_be_flat(content[start:end], shortest):
                raise ValueError(f"its pixels are zeros from byte {zeros:,} on")
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            frame = marker


def _segments(content: bytes) -> Iterator[Segment]:
    """Yields the segments of a file up to its end or to what is none."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != _END:
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        yield marker, at + 4, end
        coded = _NEXT.search(content, end) if marker == _SCAN else None
        at = end if marker != _SCAN else coded.start() if coded else len(content)


def _shortest_codes(tables: bytes) -> dict[int, int]:
    """Returns, for every Huffman table of a segment, what its code of zeros alone means; 16 is added for AC."""
    found = {}
    while len(tables) > 17:
        found[tables[0]] = tables[17]
        tables = tables[17 + sum(tables[1:17]) :]
    return found


def _may_be_flat(scan: bytes, shortest: dict[int, int]) -> bool:
    """Tells whether zeros are a flat area in all components of a scan: a DC that stays, and no AC."""
    chosen = scan[2 : 1 + 2 * scan[0] : 2] if scan else b""
    return all(shortest.get(each >> 4, 0) <= 1 and shortest.get(16 + (each & 15), 0) == 0 for each in chosen)
