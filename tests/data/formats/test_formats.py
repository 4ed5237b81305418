"""What is wrong with a file: each kind of trouble with its own advice, and nothing that hangs."""

import errno
import os

import numpy as np
import pytest
import tifffile
from PIL import Image

from medarts.data.formats import raw, raw_image, slice_count
from medarts.errors import DataError

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".dcm", ".nii"])
def test_the_content_tells_how_a_picture_is_read(tmp_path, form, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(GREY).save(path, form, **({"lossless": True} if form == "WEBP" else {}))
    values = raw_image(path).values
    np.testing.assert_allclose(values[..., 0], GREY, atol=3 if form == "JPEG" else 0)
    assert slice_count(path) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".dcm", ".nii.gz"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    os.mkfifo(path)
    for read in (raw_image, slice_count):
        with pytest.raises(DataError, match="is not a regular file but a pipe"):
            read(path)


def test_folders_and_dead_links_are_not_missing_files(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DataError, match=r"a\.png is a folder"):
        raw_image(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"b\.png is a link to a file that is not there"):
        raw_image(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), r"Permission denied\. Change its permissions"),
        (OSError(errno.EIO, "Input/output error"), r"Input/output error\. Check the disk or the network"),
        (OSError(errno.EMFILE, "Too many open files"), r"Too many open files\. Raise the number"),
        (OSError("image file is truncated"), r"truncated\. It is damaged or incomplete"),
        (MemoryError(), r"does not fit into memory\. Close other programs"),
        (NotImplementedError("JPEG of 12 bits"), r"JPEG of 12 bits\. Its header is damaged or of an unknown kind"),
    ],
)
def test_only_damage_is_called_damage(tmp_path, monkeypatch, error, match):
    def fail(*_: object) -> None:
        raise error

    Image.fromarray(GREY).save(tmp_path / "a.png")
    monkeypatch.setattr("medarts.data.formats.raster._frame", fail)
    with pytest.raises(DataError, match=match):
        raw_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".dcm", ".nii", ".nii.gz"])
def test_a_page_of_the_web_is_no_damaged_image(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"<html>404 not found</html>" * 40)
    with pytest.raises(DataError, match=r"damaged or of another kind; download or copy it again"):
        raw_image(path)


def test_images_too_large_to_read_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "MOST_PIXELS", 1_000_000)
    Image.new("1", (2000, 1000)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((1000, 2000), np.uint8), compression="zlib")
    for name in ("a.png", "b.tif"):
        with pytest.raises(DataError, match=r"has 1000 x 2000 pixels, more than the 1 million .*Cut it into tiles"):
            raw_image(tmp_path / name)


def test_wide_integers_keep_their_last_digits(tmp_path):
    from medarts.data.images import scale
    from medarts.data.manifest import ReadingRules

    stored = 2**31 + np.arange(64, dtype=np.uint32).reshape(8, 8)
    tifffile.imwrite(tmp_path / "a.tif", stored)
    found = scale(raw_image(tmp_path / "a.tif"), ReadingRules(percentiles=(0, 100)), path=tmp_path)
    np.testing.assert_allclose(found[..., 0], np.arange(64).reshape(8, 8) / 63, atol=1e-6)
