"""DICOM series with segmentations and structure sets of known ellipses, made for tests."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes
from pydicom.uid import EnhancedMRImageStorage, RTStructureSetStorage
from tests.deploy.dicoms import AXIAL, dataset, write, write_series

Mask = NDArray[np.uint8]

SHAPE = (48, 64)
ROW, COLUMN, STEP = 0.5, 0.75, 2.5
"""Millimetres, as `write_series` has them."""
CENTRE, HALF = (12.0, 22.0), (8.0, 15.0)
"""Of the ellipse: row and column in mm from the centre of the first pixel."""
AREA = np.pi * HALF[0] * HALF[1]


def ellipse(scale: float = 1.0) -> Mask:
    """Returns the pixels whose centres lie in the ellipse."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    inside = ((rows * ROW - CENTRE[0]) / HALF[0]) ** 2 + ((columns * COLUMN - CENTRE[1]) / HALF[1]) ** 2 <= scale**2
    return inside.astype(np.uint8)


def outline(header: Any, *, scale: float = 1.0, points: int = 400) -> NDArray[np.float64]:
    """Returns points on the ellipse in mm, by the definition of DICOM (PS3.3, C.7.6.2.1.1)."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    across, down = np.split(np.array(header.ImageOrientationPatient, float), 2)
    x = CENTRE[1] + scale * HALF[1] * np.cos(angles)
    y = CENTRE[0] + scale * HALF[0] * np.sin(angles)
    start = np.array(header.ImagePositionPatient, float)
    return np.asarray(start + x[:, None] * across + y[:, None] * down)


def series(
    folder: Path, *, patient: str = "p1", orientation: Sequence[float] = AXIAL, slices: int = 4, number: int = 4
) -> list[Path]:
    """Writes slices on which the ellipse is bright, in an order of names that is not that of space."""
    noise = np.random.default_rng(sum(map(ord, patient)) + number).integers(0, 40, (slices, *SHAPE), dtype=np.int16)
    volume = noise + 100 * ellipse().astype(np.int16)
    root = f"1.2.3.{sum(map(ord, patient))}.{number}"
    uids = {"SeriesInstanceUID": root, "StudyInstanceUID": f"{root}.0", "FrameOfReferenceUID": f"{root}.1"}
    return write_series(
        folder, volume, orientation=orientation, step=STEP, seed=3, root=f"{root}.2", PatientID=patient,
        SeriesNumber=number, SliceThickness=STEP, **uids,
    )  # fmt: skip


def segmentation(
    path: Path, images: Sequence[Path], masks: Mapping[str, Mask], *, kind: str = "BINARY", **changes: Any
) -> Path:
    """Writes a segmentation of masks (N, H, W) by highdicom."""
    headers = [pydicom.dcmread(each) for each in images]
    segments = [
        highdicom.seg.SegmentDescription(n, label, codes.SCT.Tissue, codes.SCT.Organ, "MANUAL")
        for n, label in enumerate(masks, 1)
    ]
    values = np.stack([*masks.values()], axis=-1)
    values = values.astype(np.float32) if kind == "FRACTIONAL" else values
    made = highdicom.seg.Segmentation(
        headers, values, kind, segments, f"{headers[0].SeriesInstanceUID}.9", 90, f"{headers[0].SeriesInstanceUID}.9.1",
        1, "tests", "tests", "1", "1",
    )  # fmt: skip
    for name, value in changes.items():
        setattr(made, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path)
    return path


def structures(
    path: Path,
    images: Sequence[Path],
    regions: Mapping[str, Callable[[Any], Sequence[NDArray[np.float64]]]],
    *,
    refer: bool = True,
) -> Path:
    """Writes a structure set: of every region the contours that a function gives for the header of a slice."""
    headers = [pydicom.dcmread(each) for each in images]
    data = dataset(np.zeros((1, 1), np.uint8), instance=f"{headers[0].SeriesInstanceUID}.8.1")
    for name in ("PixelData", "Rows", "Columns", "FrameOfReferenceUID"):
        delattr(data, name)
    data.SOPClassUID, data.Modality = RTStructureSetStorage, "RTSTRUCT"
    data.PatientID, data.SeriesInstanceUID = headers[0].PatientID, f"{headers[0].SeriesInstanceUID}.8"
    space = item(FrameOfReferenceUID=headers[0].FrameOfReferenceUID)
    if refer:
        referenced = item(SeriesInstanceUID=headers[0].SeriesInstanceUID)
        space.RTReferencedStudySequence = [item(RTReferencedSeriesSequence=[referenced])]
    data.ReferencedFrameOfReferenceSequence = [space]
    data.StructureSetROISequence = [item(ROINumber=n, ROIName=name) for n, name in enumerate(regions, 1)]
    data.ROIContourSequence = [
        item(
            ReferencedROINumber=n,
            ContourSequence=[
                contour(header, points, refer=refer) for header in headers for points in contours_of(header)
            ],
        )
        for n, contours_of in enumerate(regions.values(), 1)
    ]
    return write(path, data)


def contour(header: Any, points: NDArray[np.float64], *, refer: bool) -> Dataset:
    """Returns a closed contour."""
    made = item(
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourData=[f"{value:.4f}" for value in points.ravel()],
    )
    if refer:
        image = item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
        made.ContourImageSequence = [image]
    return made


def enhanced(path: Path, images: Sequence[Path], order: Sequence[int], *, slope: int = 1) -> Path:
    """Writes slices as one enhanced object, with frames in an order of its own; each is ``slope`` steeper."""
    headers = [pydicom.dcmread(images[number]) for number in order]
    data: FileDataset = dataset(
        np.stack([header.pixel_array for header in headers]), instance=f"{headers[0].SeriesInstanceUID}.7"
    )
    for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesNumber"):
        setattr(data, name, headers[0][name].value)
    data.SOPClassUID, data.NumberOfFrames = EnhancedMRImageStorage, len(headers)
    data.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=headers[0].PixelSpacing, SliceThickness=STEP)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=headers[0].ImageOrientationPatient)],
        )
    ]
    data.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=header.ImagePositionPatient)],
            PixelValueTransformationSequence=[item(RescaleSlope=1 + slope * n, RescaleIntercept=slope * n)],
        )
        for n, header in enumerate(headers)
    ]
    return write(path, data)


def item(**attributes: Any) -> Dataset:
    """Returns an item of a sequence."""
    made = Dataset()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made
