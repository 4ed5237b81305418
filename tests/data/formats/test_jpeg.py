"""JPEG files that lost a part of their pixels."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from medarts.data.formats import raw_image
from medarts.errors import DataError

END = b"\xff\xd9"


def coded(values: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", **options)
    return stream.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(96, 96), (96, 96, 3)])
@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("end", [END, b""])
def test_a_second_half_of_zeros_is_refused(tmp_path, shape, optimize, end):
    whole = coded(noise(*shape), optimize=optimize)
    half = len(whole) // 2
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[:half] + bytes(half - 2) + end)
    with pytest.raises(DataError, match=r"a\.jpg cannot be read: its pixels are zeros from byte \S+ on\. .*damaged"):
        raw_image(path)


def test_zeros_elsewhere_are_no_damage(tmp_path):
    exif = Image.Exif()
    exif[0x9286] = bytes(500)
    (tmp_path / "a.jpg").write_bytes(coded(noise(40, 40), exif=exif, comment=bytes(300)) + bytes(1000))
    assert raw_image(tmp_path / "a.jpg").values.shape == (40, 40, 1)


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}, {"quality": 100, "optimize": True}])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_flat_images_are_no_damage(tmp_path, options, channels):
    values = np.zeros((512, 512, *channels), np.uint8)
    (tmp_path / "a.jpg").write_bytes(coded(values, **options))
    assert not raw_image(tmp_path / "a.jpg").values.any()
    values[200:300, 200:300] = noise(100, 100, *channels)
    (tmp_path / "b.jpg").write_bytes(coded(values, **options))
    assert raw_image(tmp_path / "b.jpg").values.any()


def test_a_file_that_breaks_off_is_not_filled_up(tmp_path):
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    (tmp_path / "a.jpg").write_bytes(coded(noise(96, 96))[:3000])
    with pytest.raises(DataError, match=r"a\.jpg cannot be read: .*truncated"):
        raw_image(tmp_path / "a.jpg")
