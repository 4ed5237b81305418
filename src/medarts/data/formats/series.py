"""DICOM files that belong together: what their headers say, and the slices of a series in the order of space."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.data.formats.dicom import attribute, opened
from medarts.data.formats.raw import Spacing, explained

_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "FrameOfReferenceUID"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("PatientID", "PatientName", "ClinicalTrialSubjectID", "StudyInstanceUID", "SeriesDescription", "Modality"),
)
_ANONYMOUS = {"", "0", "anon", "anonym", "anonymous", "anonymised", "anonymized", "deidentified", "none", "unknown"}
"""What takes the place of a patient's name where all have the same."""

_NO_IMAGES = ("1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Media directories and segmentations: masks, not what masks are made of."""

_SAME_DIRECTION = 1e-3
"""By which cosines of one stack may differ: they are written with few digits."""

_SAME_PLACE = 1e-3
"""Millimetres."""

_EVEN = 0.02
"""Share by which the distances of a stack may differ and count as one."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is needed of a file to find its place in a series.

    Attributes:
        path: the file.
        series: SeriesInstanceUID, "" without.
        series_number: None without.
        instance: SOPInstanceUID, "" without.
        number: InstanceNumber, 0 without.
        frames: number of frames.
        format: rows, columns, samples per pixel, and frame of reference: equal within a stack.
        orientation: direction cosines of rows and columns; None without.
        position: of the first pixel in mm; None without.
        spacing: distances of rows and columns in mm; None without.
        patient: number or name of the patient or subject, "" where all seem to have the same.
        study: StudyInstanceUID, "" without.
        title: description of the series, or its modality.
        frame: index of a frame, where the file has several; see `frames_of`.
    """

    path: Path
    series: str
    series_number: int | None
    instance: str
    number: int
    frames: int
    format: tuple[int, int, int, str]
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    patient: str = ""
    study: str = ""
    title: str = ""
    frame: int | None = None

    @property
    def frame_of_reference(self) -> str:
        """FrameOfReferenceUID, "" without."""
        return self.format[3]

    @property
    def is_placed(self) -> bool:
        """Whether it says where its pixels lie."""
        return self.orientation is not None and self.position is not None

    @property
    def depth(self) -> float:
        """The place along the normal of the slice in mm, of one that is placed."""
        return float(np.dot(self.normal, np.asarray(self.position)))

    @property
    def normal(self) -> NDArray[np.float64]:
        """The direction across the slice, of one that is placed."""
        orientation = np.asarray(self.orientation, dtype=np.float64)
        normal: NDArray[np.float64] = np.cross(orientation[:3], orientation[3:])
        return normal


def header_of(path: Path) -> Header | None:
    """Reads the header of a DICOM file; None where it is no image, or a segmentation.

    Raises:
        DataError: it is missing or damaged.
    """
    with explained(path):
        about = path.stat()
        return _header_of(path, about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=1 << 16)
def _header_of(path: Path, *_changed: int) -> Header | None:
    dataset = opened(path, pixels=False, tags=_TAGS)
    if "Rows" not in dataset or dataset.get("SOPClassUID") in _NO_IMAGES:
        return None
    return Header(
        path=path,
        series=str(dataset.get("SeriesInstanceUID") or ""),
        series_number=_whole(dataset.get("SeriesNumber")),
        instance=str(dataset.get("SOPInstanceUID") or ""),
        number=_whole(dataset.get("InstanceNumber")) or 0,
        frames=_whole(dataset.get("NumberOfFrames")) or 1,
        format=(
            int(dataset.Rows),
            int(dataset.get("Columns") or 0),
            _whole(dataset.get("SamplesPerPixel")) or 1,
            str(dataset.get("FrameOfReferenceUID") or ""),
        ),
        orientation=_numbers(dataset.get("ImageOrientationPatient"), 6),
        position=_numbers(dataset.get("ImagePositionPatient"), 3),
        spacing=_spacing(dataset.get("PixelSpacing")),
        patient=_patient(dataset),
        study=str(dataset.get("StudyInstanceUID") or ""),
        title=str(dataset.get("SeriesDescription") or dataset.get("Modality") or ""),
    )


def frames_of(header: Header) -> list[Header]:
    """Returns a header for every frame of a file of several; of a file with one, the header with its place.

    Raises:
        DataError: it is missing or damaged.
    """
    if header.frames == 1 and header.is_placed:
        return [header]
    with explained(header.path):
        about = header.path.stat()
        return [*_frames_of(header, about.st_mtime_ns, about.st_size)]


@functools.lru_cache(maxsize=64)
def _frames_of(header: Header, *_changed: int) -> tuple[Header, ...]:
    dataset = opened(header.path, pixels=False)
    if header.frames > 1 and "PerFrameFunctionalGroupsSequence" not in dataset:  # the place is that of the first alone
        return tuple(
            replace(header, frame=frame, number=frame, frames=1, position=None) for frame in range(header.frames)
        )

    def numbers(frame: int, sequence: str, name: str, count: int) -> tuple[float, ...] | None:
        return _numbers(attribute(dataset, frame, sequence, name), count)

    return tuple(
        replace(
            header,
            frame=frame if header.frames > 1 else None,
            number=frame if header.frames > 1 else header.number,
            frames=1,
            orientation=numbers(frame, "PlaneOrientationSequence", "ImageOrientationPatient", 6),
            position=numbers(frame, "PlanePositionSequence", "ImagePositionPatient", 3),
            spacing=_spacing(attribute(dataset, frame, "PixelMeasuresSequence", "PixelSpacing")),
        )
        for frame in range(header.frames)
    )


def run_of(path: Path, frame: int) -> tuple[int, ...]:
    """Returns the frames of a file among which one has its neighbours, in the order of space.

    Of several orientations or times these are the frames of its own. Frames that do not say where they lie are in the
    order of the file.

    Raises:
        DataError: it is missing or damaged.
    """
    header = header_of(path)
    frames = [] if header is None else frames_of(header)
    found = next((stack for stack in stacks(frames) if any(each.frame == frame for each in stack)), [])
    return tuple(each.frame for each in found if each.frame is not None)


def stacks(headers: Iterable[Header]) -> list[list[Header]]:
    """Returns the files of one series as stacks of equal size and orientation, each in the order of space.

    A stack has one slice at a place: of several times or echoes, the first of each place by InstanceNumber are one
    stack, the second another. Files with several frames or without a place in space are stacks of their own; frames
    of a file (`frames_of`) without a place are one, in their order. Of a slice that was copied one is taken.
    """
    alone: list[list[Header]] = []
    placed: list[list[Header]] = []
    seen = set()
    for each in headers:
        if each.frames > 1 or not each.is_placed:
            if each.frame and alone and alone[-1][0].path == each.path:
                alone[-1].append(each)
            else:
                alone.append([each])
            continue
        copy = (each.instance, each.position, each.number)
        if each.instance and copy in seen:
            continue
        seen.add(copy)
        stack = next((stack for stack in placed if _is_of(each, stack[0])), None)
        if stack is None:
            placed.append(stack := [])
        stack.append(each)
    return [*alone, *(part for stack in placed for part in _one_at_a_place(stack))]


def spacing_of_stack(stack: Sequence[Header]) -> Spacing:
    """Returns the distances in a stack of several files."""
    row, column = stack[0].spacing or (None, None)
    return row, column, _distance([each.depth for each in stack])


def spacing_of_frames(path: Path) -> Spacing:
    """Returns the distances in a file; that of slices where it has several frames, evenly apart.

    Raises:
        DataError: it is missing or damaged.
    """
    with explained(path):
        dataset = opened(path, pixels=False)
        frames = _whole(dataset.get("NumberOfFrames")) or 1
        spacing = _spacing(attribute(dataset, 0, "PixelMeasuresSequence", "PixelSpacing"))
        row, column = spacing or (None, None)
        directions = _numbers(attribute(dataset, 0, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
        places = [
            _numbers(attribute(dataset, frame, "PlanePositionSequence", "ImagePositionPatient"), 3)
            for frame in range(frames)
        ]
        if directions is None or None in places:
            return row, column, None
        normal = np.cross(directions[:3], directions[3:])
        return row, column, _distance([float(np.dot(place, normal)) for place in places if place is not None])


def _one_at_a_place(stack: list[Header]) -> list[list[Header]]:
    parts: list[list[Header]] = []
    number, last = 0, -np.inf
    for each in sorted(stack, key=lambda each: (round(each.depth / _SAME_PLACE), each.number, each.instance)):
        depth = each.depth
        number = number + 1 if depth - last <= 2 * _SAME_PLACE else 0
        last = depth
        if number == len(parts):
            parts.append([])
        parts[number].append(each)
    return parts


def _is_of(one: Header, first: Header) -> bool:
    if one.format != first.format:
        return False
    return bool(np.allclose(one.orientation or (), first.orientation or (), rtol=0, atol=_SAME_DIRECTION))


def _distance(depths: Sequence[float]) -> float | None:
    """Returns the distance of slices; None where they are not evenly apart, or some at one place."""
    steps = np.diff(np.sort(depths))
    if not len(steps) or steps.min() <= _SAME_PLACE:
        return None
    middle = float(np.median(steps))
    return middle if np.abs(steps - middle).max() <= _EVEN * middle else None


def _patient(dataset: Any) -> str:
    for name in ("PatientID", "ClinicalTrialSubjectID", "PatientName"):
        found = " ".join(str(dataset.get(name) or "").replace("^", " ").split())
        if found.casefold() not in _ANONYMOUS:
            return found
    return ""


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _spacing(value: Any) -> tuple[float, ...] | None:
    """Returns distances of rows and columns; None where they are missing or, as some devices write, 0."""
    numbers = _numbers(value, 2)
    return numbers if numbers is not None and min(numbers) > 0 else None


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """Returns an attribute of several numbers; None where it is missing, empty or of another length."""
    if value is None or isinstance(value, str) or not hasattr(value, "__len__") or len(value) != count:
        return None
    numbers = tuple(float(each) for each in value)
    return numbers if np.isfinite(numbers).all() else None
