"""The readers: every format and bit depth, the channel and mask rules, damaged files."""

import contextlib
import os
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from medarts.data.formats import raw_image, raw_mask, slice_count
from medarts.data.manifest import ReadingRules, Sample
from medarts.data.masks import read_mask
from medarts.data.reading import read_image, read_pair, resize_image, resize_mask, vanished_classes
from medarts.errors import DataError

PLAIN = ReadingRules()


def sample(image: Path, mask: Path | None = None, slice_index: int | None = None) -> Sample:
    return Sample("k", image, mask or image, "p", "d", "train", slice_index)


def image_of(path: Path, rules: ReadingRules = PLAIN, *, channels: int = 1, index: int | None = None):
    return read_image(sample(path, slice_index=index), rules, channels=channels)


def mask_of(path: Path, labels: dict[int, int] | None = None, index: int | None = None):
    rules = ReadingRules(labels=tuple(labels.items()) if labels else None)
    return read_mask(sample(path, slice_index=index), rules).classes


def dicom(path: Path, stored: np.ndarray, *, photometric: str = "MONOCHROME2", slope=1, intercept=0, bits=None):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    if stored.ndim == 3:
        data.NumberOfFrames = stored.shape[0]
    data.Rows, data.Columns = stored.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.BitsAllocated = 8 * stored.itemsize
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    data.PixelData = stored.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def ramp(dtype, shape=(5, 7)) -> np.ndarray:
    """Distinct values over the whole range of the type, rows and columns told apart."""
    top = np.iinfo(dtype).max
    return np.linspace(0, top, shape[0] * shape[1]).reshape(shape).astype(dtype)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_eight_bit_grey_and_colour_are_exact(tmp_path, suffix):
    grey = ramp(np.uint8)
    Image.fromarray(grey).save(tmp_path / f"g{suffix}")
    np.testing.assert_allclose(image_of(tmp_path / f"g{suffix}")[..., 0], grey / 255, atol=1e-7)
    colour = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=-1)
    Image.fromarray(colour).save(tmp_path / f"c{suffix}")
    found = image_of(tmp_path / f"c{suffix}", channels=3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, colour / 255, atol=1e-7)


def test_sixteen_bit_grey_png_is_not_clipped(tmp_path):
    grey = ramp(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_allclose(image_of(tmp_path / "a.png")[..., 0], grey / 65535, atol=1e-7)


def test_sixteen_bit_colour_png_keeps_both_bytes(tmp_path):
    # Pillow cannot write these, so the file is written by hand after the PNG specification.
    import struct
    import zlib

    rng = np.random.default_rng(0)
    for channels, colour_type in ((3, 2), (4, 6)):
        colour = rng.integers(0, 65536, (6, 5, channels), dtype=np.uint16)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)

        def chunk(kind, body):
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        header = struct.pack(">IIBBBBB", 5, 6, 16, colour_type, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        path = tmp_path / f"{channels}.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        raw = raw_image(path)
        assert raw.range == (0, 65535)
        np.testing.assert_array_equal(raw.values, colour[..., :3])


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "contig"},
        {"planarconfig": "contig", "compression": "zlib", "predictor": 2},
        {"planarconfig": "separate"},
        {"imagej": True, "metadata": {"axes": "CYX"}},
    ],
)
def test_tiff_of_many_channels_and_sixteen_bits(tmp_path, options):
    planes = np.stack([ramp(np.uint16) // n for n in range(1, 6)])
    stored = np.moveaxis(planes, 0, -1) if options.get("planarconfig") == "contig" else planes
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", **options)
    found = image_of(tmp_path / "a.tif", channels=5)
    np.testing.assert_allclose(found, np.moveaxis(planes, 0, -1) / 65535, atol=1e-7)


def test_tiff_of_several_pages_needs_an_index(tmp_path):
    pages = np.stack([ramp(np.uint8), ramp(np.uint8)[::-1]])
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    with pytest.raises(DataError, match=r"a\.tif holds 2 images"):
        image_of(tmp_path / "a.tif")
    np.testing.assert_array_equal(raw_image(tmp_path / "a.tif", 1).values[..., 0], pages[1])


def test_tiff_with_lzw_and_with_white_as_zero(tmp_path):
    grey8, grey16 = ramp(np.uint8), ramp(np.uint16)
    Image.fromarray(grey8).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    np.testing.assert_allclose(image_of(tmp_path / "lzw.tif")[..., 0], grey8 / 255, atol=1e-7)
    for grey, top in ((grey8, 255), (grey16, 65535)):
        tifffile.imwrite(tmp_path / "w.tif", grey, photometric="miniswhite")
        np.testing.assert_allclose(image_of(tmp_path / "w.tif")[..., 0], 1 - grey / top, atol=1e-6)


def test_palette_and_alpha(tmp_path):
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[:2] = (200, 10, 30)
    Image.fromarray(colour).quantize(4).save(tmp_path / "p.png")
    np.testing.assert_allclose(image_of(tmp_path / "p.png", channels=3), colour / 255, atol=1e-6)
    alpha = np.dstack([colour, np.full((4, 4), 7, np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "a.png")
    np.testing.assert_allclose(image_of(tmp_path / "a.png", channels=3), colour / 255, atol=1e-6)
    Image.fromarray(alpha[..., [0, 3]], mode="LA").save(tmp_path / "la.png")
    np.testing.assert_allclose(image_of(tmp_path / "la.png")[..., 0], colour[..., 0] / 255, atol=1e-6)


def test_channels_repeat_average_or_are_refused(tmp_path):
    Image.fromarray(ramp(np.uint8)).save(tmp_path / "g.png")
    grey = image_of(tmp_path / "g.png", channels=4)
    assert grey.shape == (5, 7, 4)
    assert (grey == grey[..., :1]).all()
    colour = np.zeros((2, 3, 3), np.uint8)
    colour[0] = (255, 0, 0)
    colour[1] = (0, 255, 0)
    Image.fromarray(colour).save(tmp_path / "c.png")
    expected = np.asarray(Image.fromarray(colour).convert("L")) / 255
    np.testing.assert_allclose(image_of(tmp_path / "c.png")[..., 0], expected, atol=1 / 255)
    with pytest.raises(DataError, match=r"c\.png has 3 channels, but 2 are expected"):
        image_of(tmp_path / "c.png", channels=2)


def test_exif_orientation_is_applied(tmp_path):
    grey = np.repeat(np.linspace(0, 255, 32).astype(np.uint8)[:, None], 16, axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    Image.fromarray(grey).save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = image_of(tmp_path / "a.jpg")[..., 0]
    np.testing.assert_allclose(found, np.rot90(grey, -1) / 255, atol=0.02)


def test_dicom_rescale_window_and_range(tmp_path):
    stored = np.array([[0, 840, 1040], [1240, 2000, 4095]], np.uint16)
    path = dicom(tmp_path / "a.dcm", stored, intercept=-1000, bits=12)
    found = image_of(path, ReadingRules(window=(-160, 240)))[..., 0]
    np.testing.assert_allclose(found, [[0, 0, 0.5], [0.6 + 0.4, 1, 1]], atol=1e-6)
    assert raw_image(path).range == (-1000, 3095)
    np.testing.assert_allclose(image_of(path)[..., 0], stored / 4095, atol=1e-6)
    scaled = dicom(tmp_path / "b.dcm", stored, slope=2, intercept=5)
    np.testing.assert_allclose(raw_image(scaled).values[..., 0], stored * 2.0 + 5)


def test_dicom_monochrome1_is_turned_under_every_rule(tmp_path):
    stored = np.array([[0, 100], [200, 255]], np.uint8)
    path = dicom(tmp_path / "a.dcm", stored, photometric="MONOCHROME1")
    np.testing.assert_allclose(image_of(path)[..., 0], 1 - stored / 255, atol=1e-6)
    windowed = image_of(path, ReadingRules(window=(100, 200)))[..., 0]
    np.testing.assert_allclose(windowed, [[1, 1], [0, 0]], atol=1e-6)


def test_dicom_of_several_frames_needs_an_index(tmp_path):
    frames = np.stack([np.full((3, 4), n * 10, np.uint8) for n in range(3)])
    path = dicom(tmp_path / "a.dcm", frames)
    with pytest.raises(DataError, match=r"a\.dcm holds 3 images"):
        image_of(path)
    np.testing.assert_allclose(image_of(path, index=2), 20 / 255, atol=1e-6)


def test_signed_values_need_a_rule(tmp_path):
    path = dicom(tmp_path / "a.dcm", np.array([[-5, 3], [2, 1]], np.int16))
    with pytest.raises(DataError, match=r"a\.dcm stores .* from -5 to 3.*window"):
        image_of(path)
    found = image_of(path, ReadingRules(percentiles=(0, 100)))[..., 0]
    np.testing.assert_allclose(found, [[0, 1], [7 / 8, 6 / 8]], atol=1e-6)


def test_percentiles_clip_and_a_constant_image_is_zero(tmp_path):
    values = np.arange(100, dtype=np.uint16).reshape(10, 10)
    Image.fromarray(values).save(tmp_path / "a.png")
    low, high = np.percentile(values, (10, 90))
    expected = np.clip((values - low) / (high - low), 0, 1)
    rules = ReadingRules(percentiles=(10, 90))
    np.testing.assert_allclose(image_of(tmp_path / "a.png", rules)[..., 0], expected, atol=1e-6)
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(tmp_path / "b.png")
    assert not image_of(tmp_path / "b.png", rules).any()


def nifti(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_slices_are_turned_as_dicom_shows_them(tmp_path, suffix):
    # lps[column, row, slice]: columns to the left, rows to the back, as in a DICOM slice.
    lps = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)
    path = nifti(tmp_path / f"lps{suffix}", lps, np.diag([-1.0, -1, 1, 1]))
    ras = nifti(tmp_path / f"ras{suffix}", lps[::-1, ::-1], np.eye(4))
    swapped = np.array([[0, -1.0, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    pls = nifti(tmp_path / f"pls{suffix}", lps.transpose(1, 0, 2), swapped)
    assert slice_count(path) == 2
    for one in (path, ras, pls):
        np.testing.assert_array_equal(raw_image(one, 1).values[..., 0], lps[:, :, 1].T)


def test_nifti_coronal_slices_stand_upright(tmp_path):
    volume = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)  # axes R, S, A
    affine = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    path = nifti(tmp_path / "a.nii", volume, affine)
    assert nibabel.aff2axcodes(affine) == ("R", "S", "A")
    np.testing.assert_array_equal(raw_image(path, 0).values[..., 0], volume[::-1, ::-1, 0].T)


def test_nifti_of_time_points_or_out_of_reach_is_refused(tmp_path):
    path = nifti(tmp_path / "a.nii", np.zeros((4, 4, 3, 2), np.uint8), np.eye(4))
    with pytest.raises(DataError, match=r"a\.nii has 4 axes"):
        raw_image(path, 0)
    with pytest.raises(DataError, match=r"a\.nii has 4 axes"):
        slice_count(path)
    flat = nifti(tmp_path / "b.nii", np.zeros((4, 4, 3, 1), np.uint8), np.eye(4))
    with pytest.raises(DataError, match=r"b\.nii has no image 3, only 3"):
        raw_image(flat, 3)


def test_sizes_must_agree(tmp_path):
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "i.png")
    Image.fromarray(np.zeros((6, 4), np.uint8)).save(tmp_path / "m.png")
    pair = sample(tmp_path / "i.png", tmp_path / "m.png")
    with pytest.raises(DataError, match=r"i\.png is 4 x 6 pixels but its mask .*m\.png is 6 x 4"):
        read_pair(pair, PLAIN, channels=3)


def written(folder: Path, kind: str) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = folder / f"a{kind.split('-', maxsplit=1)[0]}"
    if kind == ".dcm":
        return dicom(path, values)
    if kind.startswith(".nii"):
        return nifti(path, values[..., None], np.eye(4))
    if kind == ".tif-16":
        tifffile.imwrite(path, values.astype(np.uint16))
    else:
        Image.fromarray(values).save(path, **({"compression": "tiff_lzw"} if kind == ".tif-lzw" else {}))
    return path


KINDS = [".png", ".jpg", ".bmp", ".tif", ".tif-16", ".tif-lzw", ".dcm", ".nii", ".nii.gz"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [0.9, 0.5, 0.02, 0.0])
def test_truncated_files_are_named(tmp_path, kind, left):
    path = written(tmp_path, kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    with pytest.raises(DataError, match=r"/a\.[a-z.]+ cannot be read.*download or copy it again"):
        raw_image(path)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_other_content_are_named(tmp_path, kind):
    path = tmp_path / f"a{kind.split('-')[0]}"
    path.write_bytes(b"<html>404 not found</html>" * 40)
    with pytest.raises(DataError, match=r"cannot be read"):
        raw_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_give_an_image_or_a_data_error(tmp_path, kind):
    path = written(tmp_path, kind)
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(60):
        broken = bytearray(content)
        for at in rng.integers(0, min(len(content), 600), 4):
            broken[at] = rng.integers(256)
        path.write_bytes(bytes(broken))
        # Damage that the format cannot show may pass as an image; anything but a DataError fails the test.
        with contextlib.suppress(DataError):
            assert raw_image(path).values.ndim == 3


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(DataError, match=r"There is no file .*a\.png"):
        raw_image(tmp_path / "a.png")
    (tmp_path / "a.xyz").write_text("")
    with pytest.raises(DataError, match=r"a\.xyz is of no known format"):
        raw_mask(tmp_path / "a.xyz", indices=False)
    nan = nifti(tmp_path / "nan.nii", np.full((2, 2, 1), np.nan), np.eye(4))
    with pytest.raises(DataError, match="not finite"):
        raw_image(nan, 0)


@pytest.mark.skipif("MEDARTS_DATA" not in os.environ, reason="needs real data (MEDARTS_DATA)")
def test_a_real_volume_equals_its_dicom_slices():
    data = Path(os.environ["MEDARTS_DATA"])
    slices = sorted((data / "chaos/Train_Sets/CT/3/DICOM_anon").glob("*.dcm"))
    volume = data / "volumes/chaos_ct_3.nii.gz"
    assert slice_count(volume) == len(slices)
    for index in (0, 30, 77):
        np.testing.assert_array_equal(raw_image(volume, index).values, raw_image(slices[index]).values)
    stored = pydicom.dcmread(data / "volumes/CT_small.dcm")
    found = raw_image(data / "volumes/CT_small.dcm").values[..., 0]
    np.testing.assert_array_equal(found, stored.pixel_array.astype(float) - 1024)
    assert raw_image(data / "volumes/liver_1frame.dcm").range == (0, 1)
    with pytest.raises(DataError, match="4 axes"):
        raw_image(data / "volumes/functional.nii", 0)


# Resizing


def test_images_are_resized_smoothly() -> None:
    board = (np.indices((64, 48)).sum(0) % 2).astype(np.float32)[..., None]  # a chess board of single pixels
    resized = resize_image(board, 16)
    assert resized.shape == (1, 16, 16)
    np.testing.assert_allclose(resized[0, 2:-2, 2:-2], 0.5, atol=0.06)  # without antialiasing: 0 or 1


def test_masks_keep_their_classes() -> None:
    mask = np.repeat(np.array([0, 3, 1, 7], np.uint8), 16)[:, None] * np.ones((1, 40), np.uint8)
    np.testing.assert_array_equal(resize_mask(mask, 8)[:, 0], np.repeat([0, 3, 1, 7], 2))


@pytest.mark.parametrize(
    ("boxes", "vanished"),
    [
        ({}, ()),
        ({1: (0, 1)}, (1,)),  # one pixel in a corner, which no pixel of the small mask is taken from
        ({1: (0, 32)}, ()),
        ({1: (0, 32), 2: (41, 42)}, (2,)),
        ({5: (0, 1), 2: (41, 42)}, (2, 5)),
    ],
)
def test_classes_that_vanish(boxes: dict[int, tuple[int, int]], vanished: tuple[int, ...]) -> None:
    mask = np.zeros((256, 256), np.uint8)
    for index, (start, stop) in boxes.items():
        mask[start:stop, start:stop] = index
    assert vanished_classes(mask, resize_mask(mask, 16)) == vanished
    assert vanished_classes(mask, resize_mask(mask, 512)) == ()


def test_a_background_that_vanishes_is_no_class() -> None:
    mask = np.ones((64, 64), np.uint8)
    mask[0, 0] = 0
    assert vanished_classes(mask, resize_mask(mask, 16)) == ()
