"""PNG, JPEG, BMP, and whatever else Pillow knows by its content."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from medarts.data.formats.jpeg import require_coded
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

_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"RIFF", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP")
_SIXTEEN_BITS = ("RGB;16B", "RGBA;16B", "LA;16B")  # big-endian modes of which Pillow keeps the high bytes alone


def recognises(head: bytes) -> bool:
    """Tells whether a file that begins like this is for Pillow."""
    return head.startswith(_STARTS)


def read(path: Path, wanted: Wanted) -> Raw:
    """Reads a file of a single image; of a phone's JPEG (MPO) the main one."""
    try:
        with Image.open(path) as image:
            if image.format in ("JPEG", "MPO"):
                require_coded(path)
            if image.format != "MPO":
                only(path, getattr(image, "n_frames", 1), None)
            return read_frame(path, image, wanted)
    except UnidentifiedImageError:
        raise OtherContentError("its content is of no known image format") from None


def read_frame(path: Path, image: ImageFile, wanted: Wanted) -> Raw:
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
