"""Masks lie on their images: PNG, TIFF, NIfTI of every orientation, and DICOM segmentations that refer to a series."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from medarts.data.formats import raw_mask
from medarts.data.masks import read_mask
from medarts.data.opening import open_sources
from medarts.data.recognising import recognise
from medarts.deploy.info import ModelInfo, Provenance
from medarts.deploy.inputs import Source, find
from medarts.deploy.outputs import Output, open_output
from medarts.errors import DataError, MedartsError, RunError

from .dicoms import AXIAL, NEGATIVE, OBLIQUE, dataset, write, write_series

DATA = os.environ.get("MEDARTS_DATA")
GENERATOR = np.random.default_rng(0)
VOLUME = GENERATOR.integers(-100, 100, (5, 6, 7)).astype(np.int16)


def info(*outputs: str) -> ModelInfo:
    return ModelInfo(
        name="net",
        task="segmentation",
        outputs=outputs or ("foreground",),
        in_channels=1,
        size=32,
        head="last",
        provenance=Provenance(
            medarts="0", torch="0", created="", recipe="", weights="abc", architecture="", seed=0, images={}
        ),
    )


MULTI = info("background", "liver", "kidney")


def bright(values: np.ndarray) -> np.ndarray:
    """The network of these tests: what is above 20 is foreground."""
    return (values > 20).astype(np.uint8)


def predict(source: Source, folder: Path, about: ModelInfo | None = None, *, classes: Any = bright) -> Output:
    with open_output(source, folder, about or info()) as output:
        for index in range(source.count):
            output.add(classes(source.read(index).values[..., 0]))
        output.finish()
    return output


def probabilities(source: Source, folder: Path, about: ModelInfo) -> list[np.ndarray]:
    """Predicts with probabilities and returns those given."""
    given = []
    with open_output(source, folder, about, probabilities=True) as output:
        for index in range(source.count):
            plane = source.read(index).values[..., 0]
            values = [(plane + 100) / 200.0, *[(100 - plane) / 400.0] * (len(about.outputs) - 1)]
            given.append(np.array(values, np.float32))
            output.add(bright(plane), given[-1])
        output.finish()
    return given


def test_one_class_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 5).save(tmp_path / "a.png")
    written = predict(find([tmp_path / "a.png"])[0], tmp_path / "out")
    assert written.paths == (tmp_path / "out/a.png",)
    with Image.open(written.paths[0]) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), 255 * bright(np.arange(12).reshape(3, 4) * 5))


def test_several_classes_are_the_indices_of_a_palette(tmp_path: Path) -> None:
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "a.jpg")
    (source,) = find([tmp_path / "a.jpg"])
    classes = (np.arange(12) % 3).reshape(3, 4).astype(np.uint8)
    written = predict(source, tmp_path / "out", MULTI, classes=lambda _: classes)
    assert np.array_equal(raw_mask(written.paths[0], indices=True).values[..., 0], classes)
    with Image.open(written.paths[0]) as image:
        assert image.mode == "P"
        assert image.convert("RGB").getpixel((0, 0)) == (0, 0, 0)


def test_a_turned_photograph_has_an_upright_mask(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 200, 0], [0, 0, 0]], np.uint8))
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "a.png", exif=exif)
    written = predict(find([tmp_path / "a.png"])[0], tmp_path / "out")
    with Image.open(written.paths[0]) as mask:
        assert np.argwhere(np.asarray(mask)).tolist() == [[1, 1]]
        assert mask.size == (2, 3)


def test_pages_have_a_page_of_mask_each(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VOLUME.view(np.uint16), photometric="minisblack")
    written = predict(find([tmp_path / "a.tif"])[0], tmp_path / "out")
    assert written.paths[0].name == "a.tif"
    assert np.array_equal(tifffile.imread(written.paths[0]), 255 * bright(VOLUME.view(np.uint16)))


ORIENTATIONS = [
    (axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_a_mask_lies_on_its_volume_in_every_orientation(
    tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, axes] * signs * [0.5, 0.75, 2.0]
    affine[:3, 3] = (3, -4, 5)
    image = nibabel.Nifti1Image(VOLUME, affine)
    nibabel.save(image, tmp_path / "v.nii.gz")
    written = predict(find([tmp_path / "v.nii.gz"])[0], tmp_path / "out")
    mask = nibabel.load(written.paths[0])
    assert np.array_equal(np.asarray(mask.dataobj), bright(VOLUME))
    assert np.array_equal(mask.affine, image.affine)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_mask_has_the_geometry_of_its_volume_and_none_of_its_scaling(
    tmp_path: Path, kind: Any, order: str, suffix: str
) -> None:
    affine = np.array([[0.6, 0.5, 0.2, 1], [-0.5, 0.6, 0.3, 2], [0.1, -0.4, 2.4, 3], [0, 0, 0, 1]])
    image = kind(VOLUME.astype(np.float32) * 1.5, affine, header=kind.header_class(endianness=order))
    image.set_sform(affine, code=4)
    image.set_qform(np.diag([-1.0, 2, 3, 1]), code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    image.header["cal_max"], image.header["descrip"] = 7, b"Jane Doe"
    image.set_data_dtype(np.int16)
    path = tmp_path / f"v{suffix}"
    nibabel.save(image, path)
    written = predict(find([path])[0], tmp_path / "out").paths[0]
    assert written.name == path.name
    source, mask = nibabel.load(path), nibabel.load(written)
    assert np.array_equal(np.asarray(mask.dataobj), bright(np.asarray(source.dataobj)))
    assert mask.get_data_dtype() == np.uint8
    for name in ("dim", "pixdim", "qform_code", "sform_code", "xyzt_units", "srow_x", "srow_y", "srow_z", "quatern_b"):
        assert np.array_equal(mask.header[name], source.header[name]), name
    assert (mask.dataobj.slope, mask.dataobj.inter, float(mask.header["cal_max"])) == (1, 0, 0)
    assert b"Jane" not in (written.read_bytes() if suffix == ".nii" else b"".join(_unzipped(written)))


def _unzipped(path: Path) -> list[bytes]:
    import gzip

    return [gzip.decompress(path.read_bytes())]


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 7, 1)])
def test_a_mask_has_all_axes_of_its_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii")
    written = predict(find([tmp_path / "v.nii"])[0], tmp_path / "out")
    assert np.array_equal(np.asarray(nibabel.load(written.paths[0]).dataobj), bright(values))


def frames(seg: Any, sources: list[Path]) -> dict[tuple[int, int], np.ndarray]:
    """Returns the frames of a segmentation by segment and slice: the slice whose position is that of the frame."""
    places = {tuple(pydicom.dcmread(path).ImagePositionPatient): n for n, path in enumerate(sources)}
    pixels = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    found = {}
    for group, values in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        of_segment = group if "SegmentIdentificationSequence" in group else shared
        number = of_segment.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        place = places[tuple(group.PlanePositionSequence[0].ImagePositionPatient)]
        found[int(number), place] = values
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == pydicom.dcmread(sources[place]).SOPInstanceUID
    return found


@pytest.mark.parametrize("orientation", [AXIAL, NEGATIVE, OBLIQUE], ids=["axial", "negative", "oblique"])
def test_a_segmentation_refers_to_its_series_slice_by_slice(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    volume = VOLUME.copy()
    volume[2] = -100  # an empty slice has no frame
    paths = write_series(tmp_path / "scan", volume, orientation=orientation)
    written = predict(find([tmp_path / "scan"])[0], tmp_path / "out")
    assert (written.paths, written.note) == ((tmp_path / "out/scan.dcm",), None)
    seg, first = pydicom.dcmread(written.paths[0]), pydicom.dcmread(paths[0])
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "AccessionNumber"):
        assert seg[name].value == first[name].value
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID
    assert seg.SeriesInstanceUID != first.SeriesInstanceUID
    assert (seg.Modality, seg.SegmentationType, seg.Manufacturer) == ("SEG", "BINARY", "medarts")
    (segment,) = seg.SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("foreground", "AUTOMATIC")
    assert segment.SegmentAlgorithmName.startswith("medarts")
    found = frames(seg, paths)
    assert sorted(found) == [(1, n) for n in (0, 1, 3, 4)]
    for (_, n), values in found.items():
        assert np.array_equal(values, bright(volume[n]))


def places_of(paths: list[Path]) -> np.ndarray:
    """Returns where the bright pixels of the series lie in mm, by the definition of DICOM (PS3.3, C.7.6.2.1.1)."""
    places = []
    for path, plane in zip(paths, VOLUME, strict=True):
        header = pydicom.dcmread(path)
        across, down = np.split(np.array(header.ImageOrientationPatient, float), 2)
        for row, column in np.argwhere(bright(plane)):
            places.append(np.array(header.ImagePositionPatient, float) + across * 0.75 * column + down * 0.5 * row)
    return np.array(places)


def same_points(one: np.ndarray, other: np.ndarray) -> bool:
    ordered = [each[np.lexsort(np.round(each, 3).T)] for each in (one, other)]
    return one.shape == other.shape and np.allclose(*ordered, atol=1e-3)


@pytest.mark.parametrize("orientation", [AXIAL, NEGATIVE, OBLIQUE], ids=["axial", "negative", "oblique"])
def test_a_segmentation_fills_the_space_that_it_was_found_in(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    paths = write_series(tmp_path / "scan", VOLUME, orientation=orientation)
    written = predict(find([tmp_path / "scan"])[0], tmp_path / "out")
    volume = highdicom.seg.segread(written.paths[0]).get_volume(combine_segments=True)
    found = np.argwhere(np.asarray(volume.array))
    points = (volume.affine @ np.c_[found, np.ones(len(found))].T).T[:, :3]
    assert same_points(points, places_of(paths))


@pytest.mark.parametrize("about", [info(), MULTI], ids=["one", "several"])
def test_a_segmentation_can_be_learned_from_voxel_for_voxel(tmp_path: Path, about: ModelInfo) -> None:
    paths = write_series(tmp_path / "scan", VOLUME, orientation=OBLIQUE)
    classes = bright if about is not MULTI else lambda values: np.digitize(values, (0, 60)).astype(np.uint8)
    predict(find([tmp_path / "scan"])[0], tmp_path / "scan", about, classes=classes)
    manifest = open_sources(recognise(tmp_path / "scan"))
    assert [sample.image for sample in manifest.samples] == paths
    for sample, plane in zip(manifest.samples, VOLUME, strict=True):
        names = about.foreground if about is MULTI else ("foreground",)
        found = read_mask(sample, manifest.rules[sample.domain], names=names).classes
        assert np.array_equal(found, classes(plane))


def test_every_class_is_a_segment(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "s", VOLUME)
    written = predict(find([tmp_path / "s"])[0], tmp_path / "out", MULTI, classes=lambda x: np.digitize(x, (0, 60)))
    seg = pydicom.dcmread(written.paths[0])
    assert [each.SegmentLabel for each in seg.SegmentSequence] == ["liver", "kidney"]
    for (number, n), values in frames(seg, paths).items():
        assert np.array_equal(values, np.digitize(VOLUME[n], (0, 60)) == number)


def test_names_in_other_character_sets_and_odd_headers_are_copied(tmp_path: Path) -> None:
    write_series(tmp_path / "s", VOLUME, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg", SeriesNumber="",
                 StudyDescription="Übersicht", PatientSex="W", StudyDate="", PatientID="")  # fmt: skip
    written = predict(find([tmp_path / "s"])[0], tmp_path / "out", info("Läsion"))
    seg = pydicom.dcmread(written.paths[0])
    assert (seg.PatientName, seg.StudyDescription, seg.PatientSex) == ("Müller^Jörg", "Übersicht", "")
    assert seg.SegmentSequence[0].SegmentLabel == "Läsion"


def test_an_empty_mask_is_a_file_all_the_same(tmp_path: Path) -> None:
    write_series(tmp_path / "s", VOLUME)
    written = predict(find([tmp_path / "s"])[0], tmp_path / "out", classes=np.zeros_like)
    assert not pydicom.dcmread(written.paths[0]).pixel_array.any()


def test_times_at_one_place_have_segmentations_that_refer_to_their_own(tmp_path: Path) -> None:
    times = [write_series(tmp_path / f"s/{n}", VOLUME[n : n + 2], root=f"1.2.3.{4 + n}") for n in (0, 2)]
    for source, paths, n in zip(find([tmp_path / "s"]), times, (0, 2), strict=True):
        found = frames(pydicom.dcmread(predict(source, tmp_path / "out").paths[0]), paths)
        assert all(np.array_equal(found[1, k], bright(VOLUME[n + k])) for k in (0, 1))


def test_equal_masks_have_equal_uids_and_others_their_own(tmp_path: Path) -> None:
    write_series(tmp_path / "s", VOLUME)
    (source,) = find([tmp_path / "s"])
    uids = [
        pydicom.dcmread(predict(source, tmp_path / "out", classes=each).paths[0]).SOPInstanceUID
        for each in (bright, bright, lambda values: 1 - bright(values))
    ]
    assert uids[0] == uids[1] != uids[2]


def test_an_x_ray_without_a_place_has_a_segmentation(tmp_path: Path) -> None:
    data = dataset(VOLUME[0], without=["FrameOfReferenceUID", "PatientBirthDate"], PatientSex="",
                   SOPClassUID=DigitalXRayImageStorageForPresentation, Modality="DX", NumberOfFrames=1)  # fmt: skip
    path = write(tmp_path / "x.dcm", data)
    written = predict(find([path])[0], tmp_path / "out")
    assert (written.paths[0].name, written.note) == ("x.dcm", None)
    seg = pydicom.dcmread(written.paths[0])
    assert np.array_equal(seg.pixel_array.squeeze(), bright(VOLUME[0]))
    assert seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.1"


def test_images_that_a_segmentation_cannot_refer_to_get_a_plain_mask_and_a_note(tmp_path: Path) -> None:
    loop = dataset(VOLUME, without=["FrameOfReferenceUID"], SOPClassUID=UltrasoundMultiFrameImageStorage,
                   Modality="US", NumberOfFrames=5)  # fmt: skip
    write(tmp_path / "in/loop.dcm", loop)
    write(tmp_path / "in/nowhere.dcm", dataset(VOLUME[0], without=["FrameOfReferenceUID"]))
    write(tmp_path / "in/single.dcm", dataset(VOLUME[0], without=["StudyInstanceUID"], SeriesInstanceUID="1.9"))
    by_name = {source.name: predict(source, tmp_path / "out") for source in find([tmp_path / "in"])}
    assert {name: written.paths[0].name for name, written in by_name.items()} == {
        "loop": "loop.tif",
        "nowhere": "nowhere.png",
        "single": "single.png",
    }
    assert all(written.note for written in by_name.values())
    assert "StudyInstanceUID" in str(by_name["single"].note)
    assert np.array_equal(tifffile.imread(by_name["loop"].paths[0]), 255 * bright(VOLUME))


def item(**attributes: Any) -> Dataset:
    made = Dataset()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def write_frames(path: Path, heights: list[float]) -> Path:
    data = dataset(VOLUME, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=5)
    data.SharedFunctionalGroupsSequence = [item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=list(NEGATIVE))],
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.75], SliceThickness=2)],
    )]  # fmt: skip
    data.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, height])]) for height in heights
    ]
    return write(path, data)


def test_frames_with_a_place_have_frames_of_mask_there(tmp_path: Path) -> None:
    heights = [0.0, 8, 2, 6, 4]
    (source,) = find([write_frames(tmp_path / "e.dcm", heights)])
    written = predict(source, tmp_path / "out")
    assert (written.note, source.spacing) == (None, (0.5, 0.75, 2.0))
    seg = pydicom.dcmread(written.paths[0])
    for group, values in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        frame = heights.index(group.PlanePositionSequence[0].ImagePositionPatient[2])
        assert np.array_equal(values, bright(VOLUME[frame]))
        refers = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert refers.ReferencedFrameNumber == frame + 1


def test_frames_at_one_place_get_a_plain_mask_and_a_note(tmp_path: Path) -> None:
    (source,) = find([write_frames(tmp_path / "e.dcm", [0.0, 2, 0, 2, 0])])
    written = predict(source, tmp_path / "out")
    assert (written.paths[0].name, source.spacing) == ("e.tif", (0.5, 0.75, None))
    assert "duplicates" in str(written.note)
    assert np.array_equal(tifffile.imread(written.paths[0]), 255 * bright(VOLUME))


def test_probabilities_of_one_class_are_of_the_image_s_kind(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "in/a.png")
    tifffile.imwrite(tmp_path / "in/b.tif", np.abs(VOLUME).astype(np.uint8), photometric="minisblack")
    nibabel.save(nibabel.Nifti1Image(VOLUME, np.diag([-1.0, 2, 3, 1])), tmp_path / "in/c.nii.gz")
    write_series(tmp_path / "in/d", VOLUME)
    found = {source.name: source for source in find([tmp_path / "in"])}
    given = {name: probabilities(source, tmp_path / "out", info()) for name, source in found.items()}
    with Image.open(tmp_path / "out/a_probabilities.png") as image:
        assert np.allclose(np.asarray(image) / 65535, given["a"][0][0], atol=1e-5)
    assert np.allclose(
        tifffile.imread(tmp_path / "out/b_probabilities.tif") / 65535, np.array(given["b"])[:, 0], atol=1e-5
    )
    volume = nibabel.load(tmp_path / "out/c_probabilities.nii.gz")
    assert np.array_equal(np.asarray(volume.dataobj), ((VOLUME + 100) / 200.0).astype(np.float32))
    with np.load(tmp_path / "out/d_probabilities.npz") as archive:
        assert [np.array_equal(archive[f"slice_{n:04d}"], given["d"][n]) for n in range(5)] == [True] * 5


def test_probabilities_of_several_classes_are_named(tmp_path: Path) -> None:
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "a.png")
    nibabel.save(nibabel.Nifti1Image(VOLUME, np.diag([-1.0, 2, 3, 1])), tmp_path / "c.nii")
    given = probabilities(find([tmp_path / "a.png"])[0], tmp_path / "out", MULTI)
    with np.load(tmp_path / "out/a_probabilities.npz") as archive:
        assert archive["outputs"].tolist() == ["background", "liver", "kidney"]
        assert np.array_equal(archive["probabilities"], given[0])
    probabilities(find([tmp_path / "c.nii"])[0], tmp_path / "out", MULTI)
    volume = nibabel.load(tmp_path / "out/c_probabilities.nii")
    assert volume.shape == (5, 6, 7, 3)
    assert np.array_equal(np.asarray(volume.dataobj)[..., 1], ((100 - VOLUME) / 400.0).astype(np.float32))
    assert np.array_equal(volume.affine, np.diag([-1.0, 2, 3, 1]))


def test_nothing_is_written_before_all_slices_are_there(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "v.nii.gz")
    (source,) = find([tmp_path / "v.nii.gz"])
    output = open_output(source, tmp_path / "out", info())
    output.add(bright(source.read(0).values[..., 0]))
    with pytest.raises(ValueError, match="1 of 7 slices"):
        output.finish()
    output.close()
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", ["a.png", "v.nii.gz", "scan"])
def test_a_disk_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "a.png")
    nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "v.nii.gz")
    write_series(tmp_path / "scan", VOLUME)
    (source,) = find([tmp_path / kind])
    (before,) = predict(source, tmp_path / "out").paths
    content = before.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        predict(source, tmp_path / "out")
    assert before.read_bytes() == content
    assert list((tmp_path / "out").iterdir()) == [before]


def test_a_missing_highdicom_is_named_with_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "s", VOLUME)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MedartsError, match=r"medarts\[runtime\]"):
        open_output(find([tmp_path / "s"])[0], tmp_path, info())


def test_masks_are_written_without_pytorch(tmp_path: Path) -> None:
    write_series(tmp_path, VOLUME)
    code = (
        "import sys; from medarts.deploy import outputs, dicom_seg; import highdicom; "
        "sys.exit(' '.join({'torch', 'scipy', 'pandas', 'monai', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not DATA, reason="needs MEDARTS_DATA")
def test_masks_of_the_files_on_disk_lie_on_them(tmp_path: Path) -> None:
    sources = find([Path(DATA or "", "volumes"), Path(DATA or "", "chaos")])
    kept = [each for each in sources if each.kind == "dicom" or (each.kind == "nifti" and "_ct_" in each.name)]
    assert len(kept) == 6
    for source in kept:
        written = predict(source, tmp_path / "out")
        assert written.note is None
        if source.kind == "nifti":
            image, mask = nibabel.load(source.paths[0]), nibabel.load(written.paths[0])
            assert np.array_equal(np.asarray(mask.dataobj), bright(np.asarray(image.dataobj)))
            assert np.array_equal(mask.affine, image.affine)
        else:
            seg = pydicom.dcmread(written.paths[0])
            for (_, n), values in frames(seg, list(source.paths)).items():
                assert np.array_equal(values, bright(source.read(n).values[..., 0]))


def test_outputs_say_beforehand_what_they_will_write(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "v.nii.gz")
    output: Output = open_output(find([tmp_path])[0], tmp_path / "out", info(), probabilities=True)
    assert output.paths == (tmp_path / "out/v.nii.gz", tmp_path / "out/v_probabilities.nii.gz")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.png", "v.nii.gz", "s.dcm"])
def test_a_mask_never_replaces_its_image(tmp_path: Path, name: str) -> None:
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "a.png")
    nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "v.nii.gz")
    write(tmp_path / "s.dcm", dataset(VOLUME[0], SOPClassUID=DigitalXRayImageStorageForPresentation))
    with pytest.raises(DataError, match=f"{name} would replace it"):
        open_output(find([tmp_path / name])[0], tmp_path, info())


def test_masks_of_large_volumes_wait_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medarts.deploy.outputs._IN_MEMORY", 1)
    nibabel.save(nibabel.Nifti1Image(VOLUME, np.diag([1.0, -1, 1, 1])), tmp_path / "v.nii.gz")
    written = predict(find([tmp_path / "v.nii.gz"])[0], tmp_path / "out")
    assert np.array_equal(np.asarray(nibabel.load(written.paths[0]).dataobj), bright(VOLUME))
    assert list((tmp_path / "out").iterdir()) == [written.paths[0]]


def test_a_plan_has_no_mask_and_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "plan.dcm", dataset(VOLUME[0], without=["Rows", "PixelData"]))
    (source,) = find([path])
    assert "Rows" in str(open_output(source, tmp_path / "out", info()).note)
    with pytest.raises(DataError, match="holds no pixels"):
        source.read(0)


@pytest.mark.skipif(not shutil.which("segimage2itkimage"), reason="needs dcmqi")
@pytest.mark.parametrize("orientation", [AXIAL, NEGATIVE, OBLIQUE], ids=["axial", "negative", "oblique"])
def test_dcmqi_finds_the_mask_in_the_same_space(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    paths = write_series(tmp_path / "scan", VOLUME, orientation=orientation)
    (mask,) = predict(find([tmp_path / "scan"])[0], tmp_path).paths
    (tmp_path / "out").mkdir()
    command = ["segimage2itkimage", "--inputDICOM", mask, "--outputDirectory", tmp_path / "out", "-t", "nii"]
    subprocess.run(command, check=True, capture_output=True)
    (volume,) = (nibabel.load(path) for path in (tmp_path / "out").glob("*.nii.gz"))
    found = np.argwhere(np.asarray(volume.dataobj))
    points = (volume.affine @ np.c_[found, np.ones(len(found))].T).T[:, :3] * [-1, -1, 1]  # NIfTI counts to the right
    assert same_points(points, places_of(paths))
