"""PNG, JPEG and BMP: all bits with alpha, and files of several frames."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medarts.data.formats import raw_image, raw_mask
from medarts.errors import DataError


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png16(path: Path, values: np.ndarray, colour_type: int, *, orientation: int = 1) -> Path:
    """Writes 16-bit PNG of any colour type after the specification, as Pillow cannot."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    exif = Image.Exif()
    exif[274] = orientation
    parts = chunk(b"IHDR", header) + chunk(b"eXIf", exif.tobytes()[6:]) + chunk(b"IDAT", zlib.compress(rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("orientation", [1, 6])
def test_sixteen_bits_of_grey_with_alpha_are_grey_of_sixteen_bits(tmp_path, orientation):
    stored = np.random.default_rng(0).integers(0, 65536, (6, 5, 2), dtype=np.uint16)
    raw = raw_image(png16(tmp_path / "a.png", stored, 4, orientation=orientation))
    expected = stored[..., :1] if orientation == 1 else np.rot90(stored[..., :1], -1)
    np.testing.assert_array_equal(raw.values, expected)
    assert raw.range == (0, 65535)
    assert not raw.veiled


@pytest.mark.parametrize(("channels", "colour_type"), [(2, 4), (4, 6)])
def test_sixteen_bits_whose_alpha_alone_varies_are_noticed(tmp_path, channels, colour_type):
    stored = np.full((6, 5, channels), 65535, np.uint16)
    stored[2:4, 1:3, -1] = 0
    assert raw_mask(png16(tmp_path / "a.png", stored, colour_type), indices=False).veiled


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP"])
def test_an_animation_is_not_its_first_frame(tmp_path, form):
    frames = [Image.fromarray(np.full((6, 6), grey, np.uint8)) for grey in (10, 200)]
    frames[0].save(tmp_path / "a.png", form, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="holds 2 images where one is expected"):
        raw_image(tmp_path / "a.png")


def test_the_preview_in_a_photograph_is_no_second_image(tmp_path):
    frames = [Image.fromarray(np.full((16, 16), grey, np.uint8)) for grey in (10, 200)]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert abs(float(raw_image(tmp_path / "a.jpg").values.mean()) - 10) < 2


@pytest.mark.parametrize(("form", "lossy"), [("JPEG", True), ("PNG", False), ("TIFF", False)])
def test_what_lost_values_is_known(tmp_path, form, lossy):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png", form)
    assert raw_image(tmp_path / "a.png").lossy == lossy
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.tif", compression="jpeg")
    assert raw_image(tmp_path / "a.tif").lossy
