"""DICOM: attributes in functional groups, padding, what has no pixels, and files without their usual head."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    RTStructureSetStorage,
)

from medarts.data.formats import raw_image, raw_mask
from medarts.data.images import scale
from medarts.data.manifest import ReadingRules
from medarts.errors import DataError

HU = np.arange(-40, 40, dtype=np.int16).reshape(8, 10) * 12


def dataset(stored: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, **more: object) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = syntax
    data = FileDataset("a.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, "1.2.3.4"
    data.Rows, data.Columns = stored.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * stored.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PixelData = stored.tobytes()
    for name, value in more.items():
        setattr(data, name, value)
    return data


def saved(path: Path, data: FileDataset) -> Path:
    data.save_as(path, enforce_file_format=True)
    return path


def values(path: Path) -> np.ndarray:
    return raw_image(path).values[..., 0]


def group(sequence: str, **attributes: object) -> Dataset:
    inner, outer = Dataset(), Dataset()
    for name, value in attributes.items():
        setattr(inner, name, value)
    setattr(outer, sequence, [inner])
    return outer


STORED = (HU + 1024).astype(np.uint16)


@pytest.mark.parametrize("where", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_rescale_of_enhanced_objects_is_in_functional_groups(tmp_path, where):
    rescale = group("PixelValueTransformationSequence", RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")
    path = saved(tmp_path / "a.dcm", dataset(STORED, BitsStored=12, HighBit=11, NumberOfFrames=1, **{where: [rescale]}))
    np.testing.assert_array_equal(values(path), HU)
    assert raw_image(path).range == (-1024, 3071)


def test_every_frame_has_its_own_rescale(tmp_path):
    own = [group("PixelValueTransformationSequence", RescaleIntercept=-1024, RescaleSlope=slope) for slope in (1, 2)]
    shared = group("PixelValueTransformationSequence", RescaleIntercept=0, RescaleSlope=9)
    data = dataset(
        np.stack([STORED, STORED]),
        NumberOfFrames=2,
        PerFrameFunctionalGroupsSequence=own,
        SharedFunctionalGroupsSequence=[shared],
    )
    path = saved(tmp_path / "a.dcm", data)
    for frame, slope in enumerate((1, 2)):
        np.testing.assert_array_equal(raw_image(path, frame).values[..., 0], STORED * float(slope) - 1024)


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [(None, None, STORED), ("", "", STORED), (None, -1024, HU), (2, None, 2.0 * STORED), (1, -1024, HU)],
)
def test_slope_and_intercept_that_are_missing_or_empty_are_1_and_0(tmp_path, slope, intercept, expected):
    path = saved(tmp_path / "a.dcm", dataset(STORED, RescaleSlope=slope, RescaleIntercept=intercept))
    np.testing.assert_array_equal(values(path), expected)
    bare = dataset(STORED)
    if intercept not in (None, ""):
        bare.RescaleIntercept = intercept
        np.testing.assert_array_equal(values(saved(tmp_path / "b.dcm", bare)), HU)


def test_a_slope_of_zero_is_refused(tmp_path):
    path = saved(tmp_path / "a.dcm", dataset(STORED, RescaleSlope=0, RescaleIntercept=5))
    with pytest.raises(DataError, match=r"a\.dcm has the rescale slope 0.* Correct RescaleSlope"):
        raw_image(path)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("padding", [(-2000, None), (-2000, -1990), (63536, None)])
def test_padding_is_black_and_no_part_of_the_percentiles(tmp_path, photometric, padding):
    stored = HU.copy()
    stored[:, :4] = -2000
    data = dataset(stored, PhotometricInterpretation=photometric)
    data.add_new("PixelPaddingValue", "SS" if padding[0] < 0 else "US", padding[0])
    if padding[1] is not None:
        data.add_new("PixelPaddingRangeLimit", "SS", padding[1])
        stored[0, 0] = -1995
        data.PixelData = stored.tobytes()
    raw = raw_image(saved(tmp_path / "a.dcm", data))
    inside = HU[:, 4:].astype(float)
    for rules in (ReadingRules(percentiles=(5, 95)), ReadingRules(window=(-100, 300))):
        low, high = rules.window or np.percentile(inside, (5, 95))
        expected = np.clip((inside - low) / (high - low), 0, 1)
        found = scale(raw, rules, path=tmp_path)[..., 0]
        np.testing.assert_allclose(found[:, 4:], expected if photometric == "MONOCHROME2" else 1 - expected, atol=1e-6)
        assert not found[:, :4].any()


@pytest.mark.parametrize(("value", "padded"), [(65535, 0), (-1, 0), (256, 0), (255, 2)])
def test_padding_that_pixels_of_eight_bits_cannot_have_is_none(tmp_path, value, padded):
    data = dataset(np.array([[0, 255, 255], [256 - 56, 1, 2]], np.uint8))
    data.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
    found = raw_image(saved(tmp_path / "a.dcm", data)).padding
    assert (0 if found is None else found.sum()) == padded


def test_an_image_of_padding_alone_is_black(tmp_path):
    data = dataset(np.full((4, 4), -2000, np.int16))
    data.add_new("PixelPaddingValue", "SS", -2000)
    raw = raw_image(saved(tmp_path / "a.dcm", data))
    assert not scale(raw, ReadingRules(percentiles=(5, 95)), path=tmp_path).any()


@pytest.mark.parametrize(("name", "dtype"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_float_pixels_are_read(tmp_path, name, dtype):
    data = dataset(STORED, **{name: (HU / 2).astype(dtype).tobytes()}, BitsAllocated=8 * np.dtype(dtype).itemsize)
    for attribute in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(data, attribute)
    raw = raw_image(saved(tmp_path / "a.dcm", data))
    np.testing.assert_array_equal(raw.values[..., 0], HU / 2)
    assert raw.range is None


def test_objects_without_pixels_are_named(tmp_path):
    data = dataset(STORED, SOPClassUID=RTStructureSetStorage)
    del data.PixelData
    with pytest.raises(
        DataError, match=r"a\.dcm holds no pixels: it is a DICOM RT Structure Set Storage\. Take it out"
    ):
        raw_image(saved(tmp_path / "a.dcm", data))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_files_without_preamble_or_file_meta_are_read(tmp_path, syntax):
    data = dataset(STORED, syntax=syntax, RescaleIntercept=-1024, RescaleSlope=1)
    content = saved(tmp_path / "a.dcm", data).read_bytes()
    (tmp_path / "b.dcm").write_bytes(content[132:])
    np.testing.assert_array_equal(values(tmp_path / "b.dcm"), HU)
    meta = 132 + 12 + int.from_bytes(content[140:144], "little")
    (tmp_path / "c.dcm").write_bytes(content[meta:])
    np.testing.assert_array_equal(values(tmp_path / "c.dcm"), HU)
    (tmp_path / "d.png").write_bytes(content)
    np.testing.assert_array_equal(values(tmp_path / "d.png"), HU)


def test_a_missing_decoder_is_named_with_its_plugin(tmp_path, monkeypatch):
    # A decoder that is not there cannot be had in a test; what pydicom says of it can.
    def missing(*_: object, **__: object) -> None:
        raise RuntimeError("Unable to decompress because all plugins are missing dependencies: pyjpegls - requires")

    monkeypatch.setattr("pydicom.pixels.pixel_array", missing)
    for syntax, expected in (
        ("1.2.840.10008.1.2.4.80", r"JPEG-LS .*needs a plugin\. .*gdcmconv.*medarts\[dicom\].*\(pyjpegls\)"),
        ("1.2.840.10008.1.2.4.201", r"High-Throughput JPEG 2000.*\(pylibjpeg-openjpeg\)"),
        ("1.2.840.10008.1.2.4.70", r"JPEG Lossless.*needs a plugin\. Decompress the file \(gdcmconv --raw\)\.$"),
    ):
        data = dataset(STORED, syntax=syntax)
        data.PixelData = encapsulate([b"\xff\xd8\xff\xf7\0\0\xff\xd9"])
        with pytest.raises(DataError, match=expected):
            raw_image(saved(tmp_path / "a.dcm", data))


def test_an_unknown_compression_and_a_damaged_one_are_told_apart(tmp_path):
    data = dataset(STORED, syntax="1.2.3.4")
    data.PixelData = encapsulate([b"\0" * 8])
    with pytest.raises(DataError, match=r"compressed in an unknown way \(1\.2\.3\.4\)\. Decompress it"):
        raw_image(saved(tmp_path / "a.dcm", data))
    data = dataset(STORED, syntax=JPEG2000Lossless)
    data.PixelData = encapsulate([b"\xff\x4f\xff\x51" + b"\0" * 8])
    with pytest.raises(DataError, match=r"cannot be read: .*damaged"):
        raw_image(saved(tmp_path / "b.dcm", data))


def placed(position: tuple[float, ...], *, grouped: bool = False) -> dict[str, object]:
    plane, turn, pixels = {"ImagePositionPatient": list(position)}, {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, {}
    pixels["PixelSpacing"] = [0.5, 0.5]
    if not grouped:
        return plane | turn | pixels
    shared = group("PlaneOrientationSequence", **turn)
    shared.update(group("PixelMeasuresSequence", **pixels))
    return {
        "NumberOfFrames": 1,
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": [group("PlanePositionSequence", **plane)],
    }


@pytest.mark.parametrize("grouped", [False, True])
def test_a_mask_lies_where_its_image_does(tmp_path, grouped):
    image = saved(tmp_path / "i.dcm", dataset(STORED, **placed((10, 20, 30))))
    shape = (HU > 100).astype(np.uint8)
    mask = saved(tmp_path / "m.dcm", dataset(shape, **placed((10.001, 20, 30), grouped=grouped)))
    np.testing.assert_array_equal(raw_mask(mask, indices=False, image=image).values[..., 0], shape)
    away = saved(tmp_path / "a.dcm", dataset(shape, **placed((10, 20, 35), grouped=grouped)))
    with pytest.raises(DataError, match=r"a\.dcm does not lie on the grid of .*i\.dcm.* 5 mm away.* Resample"):
        raw_mask(away, indices=False, image=image)
    silent = saved(tmp_path / "s.dcm", dataset(shape))
    np.testing.assert_array_equal(raw_mask(silent, indices=False, image=image).values[..., 0], shape)


@pytest.mark.parametrize("coloured", [False, True])
def test_a_grey_palette_makes_a_grey_image(tmp_path, coloured):
    stored = np.array([[0, 1], [2, 1]], np.uint8)
    data = dataset(stored, PhotometricInterpretation="PALETTE COLOR")
    for number, name in enumerate(("Red", "Green", "Blue")):
        table = np.array([0, 20000, 65535], "<u2") * (number == 0 or not coloured)
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [3, 0, 16])
        setattr(data, f"{name}PaletteColorLookupTableData", table.astype("<u2").tobytes())
    path = saved(tmp_path / "a.dcm", data)
    assert raw_image(path).values.shape[2] == (3 if coloured else 1)
    expected = stored if coloured else np.array([0, 20000, 65535])[stored]
    np.testing.assert_array_equal(raw_mask(path, indices=True).values[..., 0], expected)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"Rows": 4}, r"holds 160 bytes of pixels; its header says 4 x 10 pixels, which are 80\."),
        ({"Columns": 9}, r"8 x 9 pixels, which are 144\."),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, r"8 x 10 pixels, which are 80\."),
        ({"BitsStored": 12, "HighBit": 15}, r"HighBit 15; with BitsStored 12 only 11 is read\. Correct HighBit"),
        ({"BitsStored": 12, "HighBit": 7}, r"HighBit 7; with BitsStored 12"),
    ],
)
def test_a_header_that_describes_other_pixels_is_refused(tmp_path, header, words):
    with pytest.raises(DataError, match=words):
        values(saved(tmp_path / "a.dcm", dataset(STORED, **header)))


def test_frames_beyond_those_of_the_header_are_refused(tmp_path):
    two = dataset(STORED)
    two.PixelData *= 2
    with pytest.raises(DataError, match="holds 320 bytes of pixels"):
        values(saved(tmp_path / "a.dcm", two))
    packed = dataset(STORED)
    packed.compress(RLELossless)
    assert (values(saved(tmp_path / "b.dcm", packed)) == STORED).all()
    (frame,) = generate_frames(packed.PixelData, number_of_frames=1)
    packed.PixelData = encapsulate([frame, frame])
    with pytest.raises(DataError, match="holds 2 frames of pixels; its header says 1"):
        values(saved(tmp_path / "b.dcm", packed))


def test_the_byte_that_makes_an_odd_length_even_is_no_pixel(tmp_path):
    odd = np.arange(15, dtype=np.uint8).reshape(3, 5)
    assert (values(saved(tmp_path / "a.dcm", dataset(odd, PixelData=odd.tobytes() + b"\0"))) == odd).all()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("RescaleSlope", {"RescaleIntercept": 0}),
        ("RescaleIntercept", {"RescaleSlope": 1}),
        ("PixelPaddingValue", {}),
        ("Rows", {}),
        ("BitsStored", {}),
    ],
)
def test_two_values_where_one_belongs_are_named(tmp_path, name, more):
    path = saved(tmp_path / "a.dcm", dataset(STORED, **{name: [8, 16]}, **more))
    with pytest.raises(DataError, match=rf"a\.dcm has 2 values in {name}, where one is allowed\. Correct its header\."):
        raw_image(path)
