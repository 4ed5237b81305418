"""Masks in DICOM that name what they show: segmentations (SEG) and structure sets of radiotherapy (RTSTRUCT).

drawing = drawing_of(path)
drawing.names                              # of the segments or regions, such as "Liver"
drawing.on(header)                         # frames or contours that lie on a slice
read(path, Wanted(image=slice_path, segments=("liver",)))

Frames and contours belong to the image that they refer to. Without such references, where these are to several images,
or where the file refers to none of the images' series, they belong to the slice that they lie on.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.data.formats.dicom import attribute, decoded, opened
from medarts.data.formats.grid import APART, GridError
from medarts.data.formats.polygons import fill
from medarts.data.formats.raw import Raw, Wanted, explained
from medarts.data.formats.series import Header, frames_of, header_of
from medarts.errors import DataError, did_you_mean

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
_AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "INTERPOLATED_PLANAR")
"""Types of contours that enclose an area; others are points and lines."""

_ON_PLANE = 0.1
"""Millimetres by which a drawing may be off its slice, which is the last digit that some programs write..."""

_ON_PLANE_PIXELS = 0.2
"""...and of a slice of tiny pixels, parts of one."""

Places = NDArray[np.float64]
"""Places or directions in mm, (n, 3)."""

_NOWHERE = np.zeros((0, 3))


def key_of(name: str) -> str:
    """Returns the name of a segment or region as it is compared: without regard to case and spaces.

    >>> key_of(" Left  Kidney") == key_of("left kidney")
    True
    """
    return " ".join(name.split()).casefold()


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """A frame of a segmentation, or a contour of a structure set.

    Attributes:
        name: of its segment or region.
        points: places in mm: corners of a frame, points of a contour; None where the file says none.
        part: number of its segment or region.
        number: of the frame in its file; 0 for contours.
        instance: SOPInstanceUID of the image that it refers to; "" where that is none, or several.
        frame: of that image, where it says one.
        steps: from row to row and from column to column of a frame in mm, (2, 3).
    """

    name: str
    points: Places | None
    part: int
    number: int = 0
    instance: str = ""
    frame: int | None = None
    steps: Places | None = None


class Drawing(ABC):
    """A file of masks.

    Attributes:
        path: the file.
        names: of its segments, or of its regions that enclose an area.
        marks: its frames or contours.
        series: SeriesInstanceUIDs of the images that it refers to.
        frame_of_reference: UID of the space that it lies in.
        what: its frames or contours in words.
    """

    what: str

    def __init__(self, path: Path, names: Iterable[str], marks: Iterable[Mark], series: Iterable[str], frame: str):
        self.path = path
        self.names = tuple(dict.fromkeys(names))
        self.marks = tuple(marks)
        self.series = frozenset(series)
        self.frame_of_reference = frame
        self._of_instance: dict[str, list[Mark]] = {}
        for mark in self.marks:
            self._of_instance.setdefault(mark.instance, []).append(mark)
        self._placed = [mark for mark in self.marks if mark.points is not None and len(mark.points)]
        lengths = [len(mark.points) for mark in self._placed if mark.points is not None]
        self._starts = np.cumsum([0, *lengths])[:-1]
        self._points = np.concatenate([mark.points for mark in self._placed if mark.points is not None] or [_NOWHERE])

    def refers_to(self, slice_: Header) -> bool:
        """Tells whether the file refers to the series of a slice, or to the slice."""
        return slice_.series in self.series or slice_.instance in self._of_instance

    def on(self, slice_: Header) -> list[Mark]:
        """Returns the frames or contours that belong to a slice."""
        if not self.refers_to(slice_):
            return self._on_plane(slice_)
        own = self._of_instance.get(slice_.instance, []) if slice_.instance else []
        unclear = slice_.frame is not None and any(mark.frame is None for mark in own)
        here = self._on_plane(slice_) if unclear or "" in self._of_instance else []
        if slice_.frame is not None:
            own = [mark for mark in own if mark.frame == slice_.frame or (mark.frame is None and mark in here)]
        return [*own, *(mark for mark in here if not mark.instance)]

    def _on_plane(self, slice_: Header) -> list[Mark]:
        """Returns the frames or contours that lie on the plane of a slice."""
        if not slice_.is_placed or not self._placed:
            return []
        apart = np.maximum.reduceat(_apart(self._points, slice_), self._starts)
        return [self._placed[number] for number in np.flatnonzero(apart <= tolerance(slice_))]

    @abstractmethod
    def drawn(self, marks: Sequence[Mark], slice_: Header) -> NDArray[np.bool_]:
        """Returns where frames or contours are on a slice, (H, W).

        Raises:
            DataError: they cannot be brought onto its pixels.
        """


def is_drawing(path: Path) -> bool:
    """Tells whether a DICOM file is a segmentation or structure set; reads the header alone.

    Raises:
        DataError: it is missing or damaged.
    """
    with explained(path):
        return _class_of(path) in (*_SEGMENTATIONS, _STRUCTURES)


def drawing_of(path: Path) -> Drawing | None:
    """Reads a segmentation or structure set, which is kept for the next call; None for any other DICOM file.

    Raises:
        DataError: it is missing or damaged.
    """
    with explained(path):
        about = path.stat()
        return _drawing_of(path, about.st_mtime_ns, about.st_size)


def read(path: Path, wanted: Wanted) -> Raw:
    """Reads the mask of an image: 1 where any of the wanted segments or regions is."""
    drawing = drawing_of(path)
    slice_ = None if wanted.image is None else _slice(wanted.image, wanted.index)
    if drawing is None or slice_ is None:
        raise ValueError("it is no segmentation or structure set of a DICOM image")
    keys = {key_of(name) for name in wanted.segments}
    if not keys & {key_of(name) for name in drawing.names}:
        raise DataError(
            f"{path} has nothing called '{wanted.segments[0]}'.", fix=did_you_mean(wanted.segments[0], drawing.names)
        )
    marks = [mark for mark in drawing.on(slice_) if key_of(mark.name) in keys]
    return Raw(drawing.drawn(marks, slice_).astype(np.uint8)[..., None], (0.0, 1.0))


def off_plane(mark: Mark, slice_: Header) -> float | None:
    """Returns how far the points of a mark are from the plane of a slice in mm; None where either has no place."""
    if mark.points is None or not slice_.is_placed:
        return None
    return float(_apart(mark.points, slice_).max())


def tolerance(slice_: Header) -> float:
    """Returns the millimetres by which a drawing may be off a slice."""
    return min(_ON_PLANE, _ON_PLANE_PIXELS * min(slice_.spacing)) if slice_.spacing else _ON_PLANE


def _apart(points: Places, slice_: Header) -> NDArray[np.float64]:
    """Returns the distances of points from the plane of a slice that is placed, in mm."""
    normal = slice_.normal
    apart: NDArray[np.float64] = np.abs((points - np.asarray(slice_.position)) @ (normal / np.linalg.norm(normal)))
    return apart


class Segmentation(Drawing):
    """A DICOM segmentation: binary, fractional (foreground above half), or a map of labels."""

    what = "frames"

    def __init__(self, path: Path, dataset: Any):
        self._dataset = dataset
        self._fractional = dataset.get("SegmentationType") == "FRACTIONAL"
        self._labels = dataset.get("SegmentationType") == "LABELMAP"
        segments = {int(each.SegmentNumber): _label(each) for each in dataset.get("SegmentSequence") or ()}
        if self._labels:
            segments.pop(0, None)  # the background, where it is described
        series = (str(each.SeriesInstanceUID) for each in dataset.get("ReferencedSeriesSequence") or ())
        super().__init__(
            path, segments.values(), self._marks(segments), series, str(dataset.get("FrameOfReferenceUID") or "")
        )

    def _marks(self, segments: dict[int, str]) -> Iterable[Mark]:
        for number in range(int(self._dataset.get("NumberOfFrames") or 1)):
            points, steps = self._place(number)
            instance, frame = self._source(number)
            found = attribute(self._dataset, number, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
            for part in segments if self._labels else (int(found),):
                if part not in segments:
                    raise ValueError(f"frame {number + 1} is of the segment {part}, which it does not describe")
                yield Mark(segments[part], points, part, number, instance, frame, steps)

    def _place(self, number: int) -> tuple[Places | None, Places | None]:
        """Returns the centres of the corner pixels of a frame, the first pixel first, and the steps of its pixels."""
        position = attribute(self._dataset, number, "PlanePositionSequence", "ImagePositionPatient")
        directions = attribute(self._dataset, number, "PlaneOrientationSequence", "ImageOrientationPatient")
        spacing = attribute(self._dataset, number, "PixelMeasuresSequence", "PixelSpacing")
        if position is None or directions is None or spacing is None:
            return None, None
        across, down = np.asarray(directions, dtype=np.float64).reshape(2, 3)
        steps = np.stack([down * float(spacing[0]), across * float(spacing[1])])
        last = (int(self._dataset.Rows) - 1, int(self._dataset.Columns) - 1)
        ends = np.array([[0, 0], [last[0], 0], [0, last[1]], last])
        return np.asarray(position, dtype=np.float64) + ends @ steps, steps

    def _source(self, number: int) -> tuple[str, int | None]:
        """Returns the image, and its frame, that a frame was made from; "" where there is none, or several."""
        groups = self._dataset.get("PerFrameFunctionalGroupsSequence") or ()
        shared = self._dataset.get("SharedFunctionalGroupsSequence") or ()
        for group in (*groups[number : number + 1], *shared):
            images = [
                image
                for item in group.get("DerivationImageSequence") or ()
                for image in item.get("SourceImageSequence") or ()
            ]
            if images:
                return _reference(images)
        return "", None

    def drawn(self, marks: Sequence[Mark], slice_: Header) -> NDArray[np.bool_]:
        """Returns where any of the frames is; see `Drawing.drawn`."""
        mask = np.zeros(slice_.format[:2], dtype=bool)
        for mark in marks:
            values = decoded(self.path, self._dataset, mark.number)
            if self._labels:
                inside = values == mark.part
            elif self._fractional:
                inside = 2 * values.astype(np.int64) > int(self._dataset.get("MaximumFractionalValue") or 255)
            else:
                inside = values > 0
            mask |= self._laid(inside, mark, slice_)
        return mask

    def _laid(self, inside: NDArray[np.bool_], mark: Mark, slice_: Header) -> NDArray[np.bool_]:
        """Returns a frame on the pixels of a slice, which may be in another order and reach further."""
        shape = slice_.format[:2]
        if mark.points is None or mark.steps is None or not slice_.is_placed or slice_.spacing is None:
            if inside.shape != shape:
                raise self._off(slice_, f"{inside.shape[0]} x {inside.shape[1]} pixels, not {shape[0]} x {shape[1]}")
            return inside
        between = _between(mark.points[0], mark.steps, slice_)
        exact = np.rint(between)
        corners = np.array([[0, 0, 1], [shape[0] - 1, 0, 1], [0, shape[1] - 1, 1], [shape[0] - 1, shape[1] - 1, 1]])
        turned = np.abs(exact[:, :2])
        if not (turned.sum(0) == 1).all() or not (turned.sum(1) == 1).all() or turned.max() > 1:
            raise self._off(slice_, "pixels of another size or direction")
        if (apart := np.abs((between - exact) @ corners.T).max()) > APART:
            raise self._off(slice_, f"{apart:.2g} pixels away")
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        at = np.tensordot(exact.astype(np.int64), np.stack([rows, columns, np.ones_like(rows)]), 1)
        within = ((at >= 0) & (at < np.array(inside.shape).reshape(2, 1, 1))).all(0)
        found = np.zeros(shape, dtype=bool)
        found[within] = inside[at[0][within], at[1][within]]
        return found

    def _off(self, slice_: Header, reason: str) -> GridError:
        return GridError(
            f"{self.path} does not lie on the pixels of {slice_.path}: {reason}.",
            fix="Resample the segmentation to the grid of its images (nearest neighbour).",
            reason=reason,
        )


class Structures(Drawing):
    """A DICOM structure set; of several contours of a region on a slice, those inside others are holes (XOR)."""

    what = "contours"

    def __init__(self, path: Path, dataset: Any):
        regions = dataset.get("StructureSetROISequence") or ()
        named = {int(each.ROINumber): _text(each.get("ROIName")) for each in regions}
        marks = list(_contours(dataset, named))
        frames = dataset.get("ReferencedFrameOfReferenceSequence") or ()
        series = (
            str(each.SeriesInstanceUID)
            for frame in frames
            for study in frame.get("RTReferencedStudySequence") or ()
            for each in study.get("RTReferencedSeriesSequence") or ()
        )
        space = str(frames[0].get("FrameOfReferenceUID") or "") if frames else ""
        super().__init__(path, (mark.name for mark in marks), marks, series, space)

    def drawn(self, marks: Sequence[Mark], slice_: Header) -> NDArray[np.bool_]:
        """Returns the pixels whose centres lie in an odd number of contours of a region; see `Drawing.drawn`."""
        if slice_.orientation is None or slice_.position is None or slice_.spacing is None:
            raise DataError(
                f"{slice_.path} does not say where its pixels lie, which the contours of {self.path} need.",
                fix="Export the images again, with position, orientation and spacing.",
            )
        shape = slice_.format[:2]
        regions: dict[int, NDArray[np.bool_]] = {}
        for mark in marks:
            if mark.points is not None:
                region = regions.setdefault(mark.part, np.zeros(shape, dtype=bool))
                region ^= fill(_pixels(mark.points, slice_), shape)
        found: NDArray[np.bool_] = np.zeros(shape, dtype=bool)
        for region in regions.values():
            found |= region
        return found


@functools.lru_cache(maxsize=4)
def _drawing_of(path: Path, *_changed: int) -> Drawing | None:
    kind = _class_of(path)
    if kind in _SEGMENTATIONS:
        return Segmentation(path, opened(path))
    return Structures(path, opened(path)) if kind == _STRUCTURES else None


def _class_of(path: Path) -> str:
    return str(opened(path, pixels=False, tags=["SOPClassUID"]).get("SOPClassUID") or "")


def _slice(image: Path, index: int | None) -> Header | None:
    header = header_of(image)
    return None if header is None else frames_of(header)[index or 0]


def _contours(dataset: Any, named: dict[int, str]) -> Iterable[Mark]:
    for region in dataset.get("ROIContourSequence") or ():
        number = int(region.ReferencedROINumber)
        if number not in named:
            raise ValueError(f"it has contours of the region {number}, which it does not describe")
        for contour in region.get("ContourSequence") or ():
            points = _points(contour)
            if contour.get("ContourGeometricType") in _AREAS and len(points) > 2:
                instance, frame = _reference(contour.get("ContourImageSequence") or ())
                yield Mark(named[number] or f"region {number}", points, number, instance=instance, frame=frame)


def _points(contour: Any) -> Places:
    """Returns the points of a contour, (n, 3); their text is parsed at once, as there may be millions."""
    stored = contour.get_item("ContourData")
    value = None if stored is None else stored.value
    numbers = value.split(b"\\") if isinstance(value, bytes) and value else value or ()
    return np.array(numbers, dtype=np.float64).reshape(-1, 3)


def _reference(images: Sequence[Any]) -> tuple[str, int | None]:
    """Returns the image that is referred to and its frame, from 0; "" where there is none, or several."""
    if len(images) != 1:
        return "", None
    value = images[0].get("ReferencedFrameNumber")
    frames = [] if value is None else [int(each) for each in np.ravel(value)]
    if len(frames) > 1:
        return "", None
    return str(images[0].get("ReferencedSOPInstanceUID") or ""), frames[0] - 1 if frames else None


def _label(segment: Any) -> str:
    """Returns the label of a segment, or what it shows in the words of a code."""
    codes = segment.get("SegmentedPropertyTypeCodeSequence") or ()
    meaning = codes[0].get("CodeMeaning") if codes else None
    return _text(segment.get("SegmentLabel")) or _text(meaning) or f"segment {int(segment.SegmentNumber)}"


def _text(value: Any) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(value or "")).split())


def _pixels(points: Places, slice_: Header) -> NDArray[np.float64]:
    """Returns places in mm as (x, y) in pixels of a slice, 0 at the outer edges of its first pixel."""
    directions = np.asarray(slice_.orientation, dtype=np.float64).reshape(2, 3)
    row, column = slice_.spacing or (1.0, 1.0)
    indices = (points - np.asarray(slice_.position)) @ directions.T / (column, row)
    return np.asarray(indices + 0.5)


def _between(start: Places, steps: Places, slice_: Header) -> NDArray[np.float64]:
    """Returns the matrix (2, 3) from (row, column, 1) of a slice to row and column of a frame."""
    directions = np.asarray(slice_.orientation, dtype=np.float64).reshape(2, 3)
    across = directions[::-1] * np.reshape(slice_.spacing or (1.0, 1.0), (2, 1))
    own = steps / (steps**2).sum(1, keepdims=True)
    return np.concatenate([own @ across.T, (own @ (np.asarray(slice_.position) - start))[:, None]], axis=1)
