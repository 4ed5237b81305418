"""TIFF: orientation under every compression, thumbnails, bool arrays, and what is refused."""

import numpy as np
import pytest
import tifffile
from PIL import Image, TiffImagePlugin

from medarts.data.formats import raw_image, raw_mask
from medarts.errors import DataError

GREY = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9) * 4
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


def picture(kind: str) -> Image.Image:
    if kind == "palette":
        image = Image.fromarray(GREY // 100, mode="P")
        image.putpalette([9, 9, 9, 90, 0, 0, 0, 255, 0])
        return image
    arrays = {"grey": GREY, "colour": COLOUR, "sixteen": GREY.astype(np.uint16) * 200, "bilevel": GREY > 100}
    return Image.fromarray(arrays[kind])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate", "tiff_lzw"])
@pytest.mark.parametrize("kind", ["grey", "colour", "sixteen", "palette", "bilevel"])
def test_the_orientation_is_applied_under_every_compression(tmp_path, orientation, compression, kind):
    about = TiffImagePlugin.ImageFileDirectory_v2()
    about[274] = orientation
    path, image = tmp_path / "a.tif", picture(kind)
    image.save(path, tiffinfo=about, compression=compression)
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # of Image.transpose, as ImageOps.exif_transpose has them
    upright = image.transpose(turns[orientation]) if orientation > 1 else image
    np.testing.assert_array_equal(raw_mask(path, indices=True).values.squeeze(), np.asarray(upright))


@pytest.mark.parametrize("planar", ["separate", "pages"])
def test_the_orientation_is_applied_to_channels_that_are_stored_one_by_one(tmp_path, planar):
    planes = np.stack([GREY // n for n in range(1, 6)])
    options = {"planarconfig": "separate"} if planar == "separate" else {"imagej": True, "metadata": {"axes": "CYX"}}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, planes, photometric="minisblack", extratags=[(274, "H", 1, 6, True)], **options)
    np.testing.assert_array_equal(raw_image(path).values, np.rot90(np.moveaxis(planes, 0, -1), -1))


@pytest.mark.parametrize("big", [False, True])
def test_a_thumbnail_is_no_second_image(tmp_path, big):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=big) as writer:
        writer.write(GREY[::2, ::2].copy(), photometric="minisblack", subfiletype=1)
        writer.write(GREY, photometric="minisblack")
    np.testing.assert_array_equal(raw_image(path).values[..., 0], GREY)


def test_pages_count_without_thumbnails(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for page in (GREY, GREY[::-1]):
            writer.write(page.copy(), photometric="minisblack", contiguous=False)
            writer.write(page[::2, ::2].copy(), photometric="minisblack", subfiletype=1)
    with pytest.raises(DataError, match="holds 2 images"):
        raw_image(path)
    np.testing.assert_array_equal(raw_image(path, 1).values[..., 0], GREY[::-1])


def test_a_bool_array_of_tifffile_is_not_inverted(tmp_path):
    expected = GREY > 100
    tifffile.imwrite(tmp_path / "a.tif", expected)
    raw = raw_mask(tmp_path / "a.tif", indices=False)
    assert raw.range == (0, 1)
    np.testing.assert_array_equal(raw.values[..., 0], expected)
    # Of other programs MinIsWhite is to be believed: as of fax machines.
    Image.fromarray(expected).save(tmp_path / "b.tif", compression="group4")
    np.testing.assert_array_equal(raw_image(tmp_path / "b.tif").values[..., 0], expected)


def test_colour_spaces_of_sixteen_bits_are_refused_and_not_taken_for_channels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((6, 6, 4), np.uint16), photometric="separated")
    with pytest.raises(DataError, match=r"TIFF of 16 bits in SEPARATED\. Save it as grey or RGB"):
        raw_image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((6, 6), np.complex64))
    with pytest.raises(DataError, match=r"c\.tif holds complex64 values"):
        raw_image(tmp_path / "c.tif")


def test_signed_bytes_are_not_read_as_unsigned(tmp_path):
    about = TiffImagePlugin.ImageFileDirectory_v2()
    about[339] = 2  # sample format: signed
    Image.fromarray(GREY).save(tmp_path / "a.tif", tiffinfo=about, compression="tiff_lzw")
    with pytest.raises(DataError, match=r"compressed TIFF of signed 8 bits\. Save it without compression"):
        raw_image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", GREY.astype(np.int8), compression="zlib")
    np.testing.assert_array_equal(raw_image(tmp_path / "b.tif").values[..., 0], GREY.astype(np.int8))


@pytest.mark.parametrize("constant", [0, 255])
def test_an_alpha_that_holds_the_mask_is_noticed(tmp_path, constant):
    planes = np.full((6, 9, 4), constant, np.uint8)
    planes[..., 3] = GREY
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", extrasamples=["unassalpha"])
    assert raw_mask(tmp_path / "a.tif", indices=False).veiled
    planes[..., 0] = GREY
    tifffile.imwrite(tmp_path / "b.tif", planes, photometric="rgb", extrasamples=["unassalpha"])
    assert not raw_mask(tmp_path / "b.tif", indices=False).veiled
