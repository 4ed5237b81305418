"""DICOM series with segmentations and structure sets: areas, orientations, order, patients, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from tests.data.dicom_sets_of_tests import (
    AREA,
    COLUMN,
    ROW,
    SHAPE,
    ellipse,
    enhanced,
    outline,
    segmentation,
    series,
    structures,
)
from tests.data.layouts_of_tests import LAYOUTS
from tests.deploy.dicoms import AXIAL, NEGATIVE, OBLIQUE

import medarts
from medarts.config import make_source, parse
from medarts.data.choosing import sources_alike
from medarts.data.formats import slices_around
from medarts.data.masks import read_mask
from medarts.data.opening import Survey, open_sources, survey
from medarts.data.parts import parts_of
from medarts.data.sources.dicom import Dicom
from medarts.errors import DataError

CORONAL = (1, 0, 0, 0, 0, -1)
ORIENTATIONS = {"axial": AXIAL, "negative": NEGATIVE, "oblique": OBLIQUE, "coronal": CORONAL}


def found(root: Path, **options: object) -> Survey:
    options = {"percentiles": (0.5, 99.5)} | options
    return survey(make_source("dicom", root, **options))


def drawn(root: Path, *, names: tuple[str, ...] = ("tumour",), overlap: bool = False, **options: object) -> np.ndarray:
    """Returns the masks of all slices in the order of their keys."""
    result = found(root, **options)
    assert not result.faults
    rules = next(iter(result.manifest.rules.values()))
    samples = result.manifest.samples
    return np.stack([read_mask(each, rules, names=names, overlap=overlap).classes for each in samples])


def area(mask: np.ndarray) -> float:
    return float(mask.sum() * ROW * COLUMN)


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_the_area_of_an_ellipse_is_that_of_its_contours(tmp_path, orientation):
    images = series(tmp_path / "scan", orientation=orientation)
    structures(tmp_path / "RS.dcm", images, {"tumour": lambda header: [outline(header)]})
    masks = drawn(tmp_path)
    assert np.array_equal(masks, np.stack([ellipse()] * len(images)))
    assert area(masks[0]) == pytest.approx(AREA, rel=0.01)


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_segmentations_are_read_voxel_for_voxel(tmp_path, orientation, kind):
    images = series(tmp_path / "scan", orientation=orientation)
    truth = np.stack([ellipse(scale) for scale in (1.0, 0.5, 0.0, 0.8)])
    segmentation(tmp_path / "seg.dcm", images, {"tumour": truth}, kind=kind)
    assert np.array_equal(drawn(tmp_path), truth)
    assert area(truth[0]) == pytest.approx(AREA, rel=0.01)


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_without_references_masks_lie_on_the_slices_of_their_places(tmp_path, orientation):
    images = series(tmp_path / "scan", orientation=orientation)
    truth = np.stack([ellipse(scale) for scale in (1.0, 0.5, 0.0, 0.8)])
    path = segmentation(tmp_path / "seg.dcm", images, {"tumour": truth})
    data = pydicom.dcmread(path)
    del data.ReferencedSeriesSequence
    for group in data.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
    data.save_as(path)
    structures(tmp_path / "RS.dcm", images, {"organ": lambda header: [outline(header)]}, refer=False)
    masks = drawn(tmp_path, names=("organ", "tumour"), overlap=True)
    assert np.array_equal(masks[:, 1], truth)
    assert np.array_equal(masks[:, 0], np.stack([ellipse()] * 4))


def test_frames_in_another_order_of_pixels_and_of_a_part_of_the_image_are_laid_on_it(tmp_path):
    images = series(tmp_path / "scan", orientation=NEGATIVE)
    truth = np.stack([ellipse(scale) for scale in (1.0, 0.5, 0.7, 0.8)])
    turned = [pydicom.dcmread(path) for path in images]
    (tmp_path / "turned").mkdir()
    for header, path in zip(turned, images, strict=True):  # rows and columns exchanged, without the last eight rows
        across, down = np.split(np.array(header.ImageOrientationPatient, float), 2)
        header.ImageOrientationPatient = [*down, *across]
        header.PixelSpacing, (header.Rows, header.Columns) = header.PixelSpacing[::-1], (SHAPE[1], SHAPE[0] - 8)
        header.PixelData = np.zeros((SHAPE[1], SHAPE[0] - 8), np.int16).tobytes()
        header.save_as(tmp_path / "turned" / path.name)
    paths = [tmp_path / "turned" / path.name for path in images]
    segmentation(tmp_path / "seg.dcm", paths, {"tumour": truth.transpose(0, 2, 1)[..., :-8].copy()})
    shutil.rmtree(tmp_path / "turned")
    assert not truth[:, -8:].any()
    assert np.array_equal(drawn(tmp_path), truth)


def test_bits_of_frames_of_odd_sizes_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.data.dicom_sets_of_tests.SHAPE", (13, 11))
    images = series(tmp_path / "scan")
    truth = np.random.default_rng(0).integers(0, 2, (4, 13, 11)).astype(np.uint8)
    segmentation(tmp_path / "seg.dcm", images, {"tumour": truth})
    assert np.array_equal(drawn(tmp_path), truth)


def test_contours_inside_others_are_holes_and_regions_may_overlap(tmp_path):
    images = series(tmp_path / "scan")
    ring = {"tumour": lambda header: [outline(header), outline(header, scale=0.5)], "Body": lambda h: [outline(h)]}
    structures(tmp_path / "RS.dcm", images, ring)
    masks = drawn(tmp_path, names=("Body", "tumour"), overlap=True)
    assert np.array_equal(masks[0, 0], ellipse())
    assert np.array_equal(masks[0, 1], ellipse() - ellipse(0.5))
    assert area(masks[0, 1]) == pytest.approx(0.75 * AREA, rel=0.01)
    assert np.array_equal(drawn(tmp_path, segments={"TUMOUR ": "tumour"})[0], masks[0, 1])
    left_out = found(tmp_path, segments={"tumour": "lesion"}).doubts
    assert [(each.problem, each.detail) for each in left_out] == [("segments that are left out", "Body")]
    union = drawn(tmp_path, names=("any",), segments={"tumour": "any", "body": "any"})
    assert np.array_equal(union[0], ellipse())


def test_an_enhanced_object_is_its_slices_bit_for_bit(tmp_path):
    images = series(tmp_path / "single/scan", orientation=OBLIQUE)
    order = (2, 0, 3, 1)
    enhanced(tmp_path / "multi/scan", images, order)
    for n, number in enumerate(order):
        data = pydicom.dcmread(images[number])
        data.RescaleSlope, data.RescaleIntercept = 1 + n, n
        data.save_as(images[number])
    truth = np.stack([ellipse(scale) for scale in (1.0, 0.5, 0.7, 0.8)])
    path = segmentation(tmp_path / "single/seg.dcm", images, {"tumour": truth})
    data = pydicom.dcmread(path)
    del data.ReferencedSeriesSequence
    for group in data.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
    data.save_as(tmp_path / "multi/seg.dcm")
    sets = [found(tmp_path / name, percentiles=None, window=(0, 500)).manifest for name in ("single", "multi")]
    assert [sample.slice_index for sample in sets[1].samples] == [1, 3, 0, 2]
    for one, other in zip(*(each.samples for each in sets), strict=True):
        assert np.array_equal(
            *(read_mask(each, sets[0].rules["dicom"], names=("tumour",)).classes for each in (one, other))
        )
        for context in (0, 1):
            raws = [[part.read().values for part in parts_of(each, context=context)] for each in (one, other)]
            assert np.array_equal(*raws)
            assert raws[0][0].dtype == raws[1][0].dtype


def test_frames_of_one_place_are_in_the_order_of_their_file(tmp_path):
    images = series(tmp_path / "scan")
    segmentation(tmp_path / "seg.dcm", images, {"tumour": np.stack([ellipse()] * 4)})
    data = pydicom.dcmread(images[0])  # as of a dose, whose frames have no positions of their own
    data.NumberOfFrames, data.PixelData, data.SOPInstanceUID = 3, 3 * data.PixelData, "1.2.8.1"
    data.SeriesInstanceUID, data.SeriesNumber = "1.2.8", 9
    data.save_as(tmp_path / "dose.dcm")
    assert doubts_of(tmp_path) == {"series without masks, which are left out": "p1/9 (CT, 3 slices)"}
    assert slices_around(tmp_path / "dose.dcm", 1) == (0, 1, 2)


def test_frames_refer_to_frames_of_an_enhanced_object(tmp_path):
    images = series(tmp_path / "scan")
    whole = enhanced(tmp_path / "whole.dcm", images, (2, 0, 3, 1))
    truth = np.stack([ellipse(scale) for scale in (1.0, 0.5, 0.7, 0.8)])
    path = segmentation(tmp_path / "seg.dcm", images, {"tumour": truth})
    source, data = pydicom.dcmread(whole), pydicom.dcmread(path)
    places = [group.PlanePositionSequence[0].ImagePositionPatient for group in source.PerFrameFunctionalGroupsSequence]
    for group in data.PerFrameFunctionalGroupsSequence:
        image = group.DerivationImageSequence[0].SourceImageSequence[0]
        place = places.index(group.PlanePositionSequence[0].ImagePositionPatient)
        image.ReferencedSOPInstanceUID, image.ReferencedFrameNumber = source.SOPInstanceUID, place + 1
    data.save_as(path)
    shutil.rmtree(tmp_path / "scan")
    assert np.array_equal(drawn(tmp_path), truth)


def doubts_of(root: Path, **options: object) -> dict[str, str]:
    return {doubt.problem: doubt.detail for doubt in found(root, **options).doubts}


def test_series_are_told_by_their_uid_and_what_is_left_out_is_said(tmp_path):
    images = series(tmp_path / "a")
    segmentation(tmp_path / "deep/er/seg", images, {"tumour": np.stack([ellipse()] * 4)})
    for n, path in enumerate(images):  # scattered, without suffixes, among those of another series
        path.rename(tmp_path / f"1.2.840.{n}")
    shutil.copy(tmp_path / "1.2.840.1", tmp_path / "deep/copy")
    (tmp_path / "1.2.840.2").unlink()
    series(tmp_path, number=7, orientation=CORONAL)
    localiser = pydicom.dcmread(tmp_path / "1.2.840.0")
    localiser.ImageOrientationPatient, localiser.SOPInstanceUID = list(CORONAL), "1.2.9"
    localiser.save_as(tmp_path / "localiser.dcm")
    (tmp_path / "notes.txt").write_text("no image")
    problems = {fault.problem: fault.detail for fault in found(tmp_path).faults}
    assert problems == {"frames of images that are not there": "tumour in seg"}
    doubts = {(doubt.problem, doubt.detail) for doubt in found(tmp_path).doubts}
    assert ("series without masks, which are left out", "p1/7 (CT, 4 slices)") in doubts
    assert ("series without masks, which are left out", "p1/4-2 (CT, 1 slice)") in doubts
    assert {detail for problem, detail in doubts if problem == "copy of a slice"} <= {"1.2.840.1", "deep/copy"}
    assert any(
        problem == "gap between the slices of a series" and detail.startswith("5 mm") for problem, detail in doubts
    )


def test_contours_between_slices_are_an_error_with_their_distance(tmp_path):
    images = series(tmp_path / "scan")

    def shifted(header):
        return [outline(header) + np.array([0, 0, 0.8])]

    structures(tmp_path / "RS.dcm", images, {"tumour": shifted})
    with pytest.raises(
        DataError, match=r"contours off the plane of the image .* \(4\): tumour in RS.dcm, up to 0.80 mm"
    ):
        open_sources([make_source("dicom", tmp_path, percentiles=(1, 99))])
    structures(tmp_path / "RS.dcm", images, {"tumour": shifted}, refer=False)
    with pytest.raises(
        DataError, match=r"contours that lie on no slice .* \(4\): tumour in RS.dcm, up to 0.80 mm away"
    ):
        open_sources([make_source("dicom", tmp_path, percentiles=(1, 99))])


def test_a_grid_of_its_own_is_refused(tmp_path):
    images = series(tmp_path / "scan")
    path = segmentation(tmp_path / "seg.dcm", images, {"tumour": np.stack([ellipse()] * 4)})
    data = pydicom.dcmread(path)
    data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.6, 0.75]
    data.save_as(path)
    with pytest.raises(DataError, match="does not lie on the pixels of"):
        drawn(tmp_path)


def test_masks_that_are_drawn_twice_or_on_nothing_are_refused(tmp_path):
    images = series(tmp_path / "scan")
    truth = {"tumour": np.stack([ellipse()] * 4)}
    segmentation(tmp_path / "one.dcm", images, truth)
    structures(tmp_path / "two.dcm", images, {"Tumour": lambda header: [outline(header)]})
    with pytest.raises(DataError, match=r"class that several files draw .*: tumour in one.dcm and two.dcm"):
        open_sources([make_source("dicom", tmp_path, percentiles=(1, 99))])
    shutil.rmtree(tmp_path / "scan")
    with pytest.raises(DataError, match="masks of images that are not there"):
        open_sources([make_source("dicom", tmp_path, percentiles=(1, 99))])


def test_patients_without_an_id_are_their_folders(tmp_path):
    for name in ("x", "y"):
        images = series(tmp_path / "study" / name / "scan", patient=name)
        for path in images:
            data = pydicom.dcmread(path)
            data.PatientID, data.PatientName = "ANONYMOUS", ""
            data.save_as(path)
        segmentation(tmp_path / "study" / name / "seg.dcm", images, {"tumour": np.stack([ellipse()] * 4)})
    result = found(tmp_path)
    assert {sample.patient for sample in result.manifest.samples} == {"x", "y"}
    assert [doubt.detail for doubt in result.doubts] == ["x", "y"]


def test_a_class_that_only_some_series_have_is_doubted(tmp_path):
    for name, classes in (("x", ("liver", "tumour")), ("y", ("liver",))):
        images = series(tmp_path / name, patient=name)
        masks = {label: np.stack([ellipse(1 - 0.5 * n)] * 4) for n, label in enumerate(classes)}
        segmentation(tmp_path / name / "seg.dcm", images, masks)
    assert doubts_of(tmp_path) == {"series without a class of others": "y/4: tumour"}


def test_what_init_says_of_it(tmp_path, monkeypatch):
    LAYOUTS["dicom"](tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    recipe = medarts.init("data", measure=False).recipe
    (source,) = recipe.data.sources
    assert (source.kind, recipe.data.classes) == ("dicom", ("liver", "tumour"))
    assert "percentiles: [0.5, 99.5]" in Path("recipe.yaml").read_text()


def test_init_sees_an_overlap_in_a_slice_that_it_did_not_open(tmp_path, monkeypatch):
    for number in range(4):
        images = series(tmp_path / f"data/{number}", patient=f"p{number}")
        there = pydicom.dcmread(images[-1]).SOPInstanceUID if number == 2 else ""

        def spot(header, there=there):
            return [outline(header, scale=0.3)] if header.SOPInstanceUID == there else []

        structures(tmp_path / f"data/{number}/RS", images, {"liver": lambda header: [outline(header)], "tumour": spot})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medarts.proposal.looking.OPENED", 4)  # of 16, the last of all but the third patient
    assert medarts.init("data", measure=False).recipe.data.overlap


def test_a_recipe_takes_the_classes_that_it_names(tmp_path):
    images = series(tmp_path / "x")
    regions = {"Tumour": lambda header: [outline(header)], "BODY": lambda header: [outline(header, scale=1.3)]}
    structures(tmp_path / "RS.dcm", images, regions)
    others = series(tmp_path / "y", patient="p2")
    segmentation(tmp_path / "seg.dcm", others, {"body": np.stack([ellipse()] * 4)})
    settings = make_source("dicom", tmp_path, percentiles=(1, 99))
    result = survey(settings, classes=("tumour",))
    assert {sample.patient for sample in result.manifest.samples} == {"p1"}
    rules = result.manifest.rules["dicom"]
    for sample in result.manifest.samples:
        assert np.array_equal(read_mask(sample, rules, names=("tumour",)).classes, ellipse())
    doubts = {doubt.problem: (doubt.detail, doubt.count) for doubt in result.doubts}
    assert doubts["classes that the recipe does not name"] == ("BODY", 1)
    assert doubts["slices of series without a class of the recipe, which are left out"] == ("", 4)
    (sample, *_) = survey(settings, classes=("liver",)).manifest.samples
    with pytest.raises(DataError, match=r"is a mask of 'BODY', and data.classes has liver"):
        read_mask(sample, rules, names=("liver",))


def test_label_maps_are_read(tmp_path):
    images = series(tmp_path / "scan", orientation=OBLIQUE)
    truth = np.stack([ellipse(scale) + ellipse(scale / 2) for scale in (1.0, 0.5, 0.0, 0.8)])
    masks = {"liver": (truth == 1).astype(np.uint8), "tumour": (truth == 2).astype(np.uint8)}
    segmentation(tmp_path / "seg.dcm", images, masks, kind="LABELMAP")
    assert np.array_equal(drawn(tmp_path, names=("liver", "tumour")), truth)


def test_other_folders_are_not_taken_for_it(tmp_path):
    series(tmp_path / "images")
    assert Dicom().recognise(tmp_path) == ()


def test_segments_are_named_as_in_the_recipe_where_their_own_names_are_of_no_class(tmp_path):
    masks = {"GTV_1": np.stack([ellipse()] * 4), "Body": np.stack([ellipse(1.5)] * 4)}
    segmentation(tmp_path / "a" / "seg.dcm", series(tmp_path / "a" / "scan"), masks)
    segmentation(tmp_path / "b" / "seg.dcm", series(tmp_path / "b" / "scan"), {"tumour": masks["GTV_1"]})
    own = {"kind": "dicom", "path": "nowhere", "segments": {"GTV_1": "tumour"}}
    data = parse({"data": {"sources": [own], "classes": ["tumour"]}}).data
    named, kept = (sources_alike([str(tmp_path / name)], data)[0] for name in "ab")
    assert (named.model_dump()["segments"], kept.model_dump()["segments"]) == ({"GTV_1": "tumour"}, None)
    for source in (named, kept):
        assert open_sources([source], classes=("tumour",)).samples[0].masks
