"""DICOM as archives and planning systems export it: series of any nesting, with segmentations and structure sets.

Files are recognised by their content. Slices of a series (SeriesInstanceUID) are in the order of their positions,
frames of enhanced objects too; masks belong to the images that they refer to, see ``medarts.data.formats.drawings``.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from medarts.config import MaskSourceSettings
from medarts.config.section import Text
from medarts.data.contents import composed
from medarts.data.dicom_files import DicomFiles, dicom_files, read_headers
from medarts.data.formats.drawings import Drawing, Mark, drawing_of, is_drawing, key_of, off_plane, tolerance
from medarts.data.formats.series import Header, header_of
from medarts.data.manifest import ReadingRules
from medarts.data.sources import STACK_PERCENTILES, Fault, Listing, Pair, Source, domain_of, register_source, rules_of
from medarts.data.splits import natural
from medarts.errors import DataError
from medarts.system.console import counted

LAYOUT = "DICOM series in any folders, with DICOM segmentations (SEG) or structure sets (RTSTRUCT)"

_GAP = 1.5
"""Times the usual distance of slices from which some are missing."""

_NOT_DRAWN = {"background", "ignore"}
"""Segments of no class."""

_FOREGROUND = "foreground"
"""The segment of networks that have one class without a name."""


class DicomSettings(MaskSourceSettings):
    """DICOM series with their segmentations or structure sets; other settings are those of ``MaskSourceSettings``.

    Attributes:
        segments: name of a segment or region: its class; several may be of one, and others are left out. Case and
            spaces of names do not matter. Default: every name is a class.
    """

    kind: Literal["dicom"] = "dicom"
    segments: Annotated[dict[Text, Text] | None, Field(min_length=1, max_length=1000)] = None

    @model_validator(mode="after")
    def _by_name(self) -> Self:
        if self.labels is not None:
            raise ValueError("labels are for values of mask files; name the classes of segments in segments")
        return self


@dataclass
class _Drawn:
    """A stack of slices with the masks that belong to it.

    Attributes:
        stack: the slices in the order of space.
        classes: class -> files with a segment or region of it.
    """

    stack: list[Header]
    classes: dict[str, set[Path]] = field(default_factory=lambda: defaultdict(set))


@register_source("dicom", settings=DicomSettings)
class Dicom(Source):
    """Slices as "patient/series/007"; the patient is the PatientID, or the folder where there is none."""

    layout = LAYOUT

    def recognise(self, path: Path) -> tuple[DicomSettings, ...]:
        files, _ = dicom_files(path)
        if not any(_is_drawing(file) for file in files):
            return ()
        return (DicomSettings(path=path, name=domain_of(path), percentiles=STACK_PERCENTILES),)

    def find(self, settings: DicomSettings, findings: tuple[str, ...] | None = None) -> Listing:
        files, unread = dicom_files(settings.path)
        objects = read_headers(files, settings.path)
        names = _Names(settings.segments)
        drawn: dict[int, _Drawn] = {}
        for path in objects.drawings:
            objects.faults += _attach(path, objects, names, drawn)
        found = [each for each in drawn.values() if each.classes]
        keys = _Keys(settings.path, objects)
        pairs = [pair for each in found for pair in keys.pairs(each)]
        faults = [*objects.faults, *_twice(found), *_never(found, keys), *names.faults(settings.path)]
        faults += [fault for each in found for fault in _gaps(each.stack, keys)]
        faults += [*_without_masks(objects, drawn, keys), *keys.faults, *_unread(settings.path, objects, unread)]
        rules = rules_of(settings, defaults=ReadingRules(segments=names.rules))
        return Listing(tuple(pairs), tuple(faults), rules)

    def named_as(self, settings: DicomSettings, other: DicomSettings) -> DicomSettings:
        return settings.model_copy(update={"segments": other.segments})

    def in_classes(self, listing: Listing, classes: Sequence[str]) -> Listing:
        """Returns the masks of the classes that a recipe names, in any case; those of others are left out."""
        named = {key_of(name): name for name in classes}
        drawn = {key_of(name): name for _, name in listing.rules.segments}
        if not named.keys() & drawn.keys():  # reading a mask says so
            return listing
        pairs = []
        for pair in listing.pairs:
            kept = tuple((named[key_of(name)], path) for name, path in pair.class_masks if key_of(name) in named)
            pairs += [replace(pair, mask=kept[0][1], class_masks=kept)] if kept else []
        root = listing.pairs[0].image.parent
        fix = "Name them in data.classes to learn them."
        others = [drawn[key] for key in drawn if key not in named]
        faults = [Fault(root, "classes that the recipe does not name", fix, name, doubt=True) for name in others]
        if without := len(listing.pairs) - len(pairs):
            problem = "slices of series without a class of the recipe, which are left out"
            faults.append(Fault(root, problem, "Draw the classes there, if they show any.", "", without, doubt=True))
        segments = tuple((key, named[key_of(of)]) for key, of in listing.rules.segments if key_of(of) in named)
        rules = replace(listing.rules, segments=segments)
        return replace(listing, pairs=tuple(pairs), faults=(*listing.faults, *faults), rules=rules)


class _Names:
    """The classes of segments and regions.

    Args:
        given: by the recipe; None makes a class of every name.
    """

    def __init__(self, given: Mapping[str, str] | None) -> None:
        self._given = None if given is None else {key_of(name): of.strip() for name, of in given.items()}
        self._spelled = {key_of(name): name for name in given or ()}
        self._classes: dict[str, str] = {}
        self._found: dict[str, str] = {}
        self._left_out: Counter[str] = Counter()

    @property
    def rules(self) -> tuple[tuple[str, str], ...]:
        """Names as they are compared, and their classes."""
        return tuple(sorted(self._classes.items()))

    def class_of(self, name: str) -> str | None:
        """Returns the class of a name; None where it is left out."""
        key = key_of(name)
        name = self._found.setdefault(key, name)
        found = self._given.get(key) if self._given is not None else None if key in _NOT_DRAWN else name
        if found is None:
            self._left_out[name] += 1
            return None
        return self._classes.setdefault(key, found)

    def faults(self, root: Path) -> Iterator[Fault]:
        """Yields the names that were left out, those of the recipe that no file has, and the one that is no name."""
        for name, number in self._left_out.items():
            fix = "Name them in segments of the source to use them."
            yield Fault(root, "segments that are left out", fix, name, number, doubt=True)
        for key, name in self._spelled.items():
            if key not in self._classes:
                fix = f"There are: {', '.join(sorted(self._found.values(), key=natural))}."
                yield Fault(root, "segment of the recipe that no file has", fix, name)
        if _FOREGROUND in self._classes.values() and len(set(self._classes.values())) > 1:
            fix = "Say of which class it is: segments: {foreground: liver} in the source, with all others."
            yield Fault(root, "segment called foreground among others", fix)


class _Keys:
    """Names of patients and stacks.

    Attributes:
        faults: the patients that are folders.
    """

    def __init__(self, root: Path, objects: DicomFiles) -> None:
        every = [stack for found in objects.series.values() for stack in sorted(found, key=len, reverse=True)]
        parents = {stack[0].path.parent for stack in every} or {root}
        self._shared = len(Path(os.path.commonpath(parents)).relative_to(root).parts)
        self._root = root
        self._names: dict[int, str] = {}
        taken: set[str] = set()
        for stack in every:
            number = stack[0].series_number
            start = name = f"{self.patient(stack[0])}/{'series' if number is None else number}"
            count = 1
            while name in taken:
                name = f"{start}-{(count := count + 1)}"
            taken.add(name)
            self._names[id(stack)] = name
        unknown = Counter(self.patient(stack[0]) for stack in every if not stack[0].patient)
        fix = "If that is wrong, write a splits.csv with the columns id, patient and split."
        problem = "series without a PatientID, whose folder or study counts as the patient"
        self.faults = [Fault(root, problem, fix, name, number, doubt=True) for name, number in unknown.items()]

    def patient(self, header: Header) -> str:
        """Returns the patient of a slice: the first folder in which the files differ where nothing names one."""
        parts = header.path.parent.relative_to(self._root).parts[self._shared :]
        found = header.patient or (parts[0] if parts else header.study or header.series)
        return composed(found).replace("/", "_")

    def name(self, stack: list[Header]) -> str:
        """Returns "patient/series" of a stack, another for each."""
        return self._names[id(stack)]

    def pairs(self, drawn: _Drawn) -> Iterator[Pair]:
        """Yields the slices of a stack with their masks."""
        stack = drawn.stack
        masks = tuple((name, min(drawn.classes[name])) for name in sorted(drawn.classes, key=natural))
        single = len(stack) > 1 and all(each.frame is None for each in stack)
        series = tuple(each.path for each in stack) if single else ()
        patient = self.patient(stack[0])
        for number, each in enumerate(stack):
            key = f"{self.name(stack)}/{number:03d}"
            yield Pair(key, each.path, masks[0][1], patient, slice_index=each.frame, series=series, class_masks=masks)


def _is_drawing(path: Path) -> bool:
    try:
        return header_of(path) is None and is_drawing(path)
    except DataError:
        return False


def _attach(path: Path, objects: DicomFiles, names: _Names, drawn: dict[int, _Drawn]) -> list[Fault]:
    """Notes the stacks that a segmentation or structure set belongs to; returns what lies on none of their slices."""
    try:
        drawing = drawing_of(path)
    except DataError as error:
        return [Fault(path, "masks that cannot be read", error.fix, error.problem.rstrip("."))]
    if drawing is None or not drawing.marks:
        fix = "Draw something, or take the file out."
        return [Fault(path, "masks without a frame or contour, which are left out", fix, path.name, doubt=True)]
    choices = _stacks_of(drawing, objects)
    if not choices:
        fix = "Add the images, or take the file out."
        return [Fault(path, "masks of images that are not there", fix, path.name)]
    if len(choices) > 1:
        fix = "It refers to no images, and several series lie there: leave only those that it was drawn on."
        return [Fault(path, "masks that fit several series", fix, path.name)]
    placed: set[int] = set()
    off: list[tuple[Mark, float]] = []
    for stack in choices[0]:
        hit = False
        for slice_ in stack:
            for mark in drawing.on(slice_):
                hit = True
                placed.add(id(mark))
                if (apart := off_plane(mark, slice_) or 0.0) > tolerance(slice_):
                    off.append((mark, apart))
        if hit:
            found = drawn.setdefault(id(stack), _Drawn(stack))
            for name in drawing.names:
                if (of := names.class_of(name)) is not None:
                    found.classes[of].add(path)
    lost = [mark for mark in drawing.marks if id(mark) not in placed]
    slices = [slice_ for stack in choices[0] for slice_ in stack]
    return _lost(drawing, lost, off, slices)


def _lost(
    drawing: Drawing, lost: Iterable[Mark], off: Iterable[tuple[Mark, float]], slices: Sequence[Header]
) -> list[Fault]:
    """Returns a fault for every segment with frames or contours that are on no slice, or off their own."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    instances = {slice_.instance for slice_ in slices}
    for mark, apart in off:
        found[f"{drawing.what} off the plane of the image that they refer to", mark.name].append(apart)
    for mark in lost:
        if mark.instance and mark.instance not in instances and any(map(drawing.refers_to, slices[:1])):
            found[f"{drawing.what} of images that are not there", mark.name].append(0.0)
        else:
            nearest = min((far for each in slices if (far := off_plane(mark, each)) is not None), default=0.0)
            found[f"{drawing.what} that lie on no slice of their series", mark.name].append(nearest)
    fix = "Complete the series, or draw on its slices: what lies between them has no pixels."
    return [
        Fault(drawing.path, problem, fix, f"{name} in {drawing.path.name}{_by(apart)}", len(apart))
        for (problem, name), apart in found.items()
    ]


def _by(apart: Sequence[float]) -> str:
    return f", up to {max(apart):.2f} mm away" if max(apart) else ""


def _stacks_of(drawing: Drawing, objects: DicomFiles) -> list[list[list[Header]]]:
    """Returns the stacks that masks may lie on: those that they refer to, else those of each series that they fit."""
    own = [stack for series in sorted(drawing.series) for stack in objects.series.get(series, [])]
    if own:
        return [own]
    fitting: list[list[list[Header]]] = []
    for found in objects.series.values():
        if any(drawing.refers_to(slice_) for stack in found for slice_ in stack):
            return [found]
        if drawing.frame_of_reference and found[0][0].frame_of_reference == drawing.frame_of_reference:
            fitting.append(found)
    whole = [
        found
        for found in fitting
        if len({id(mark) for stack in found for slice_ in stack for mark in drawing.on(slice_)}) == len(drawing.marks)
    ]
    return whole or fitting


def _twice(found: Iterable[_Drawn]) -> Iterator[Fault]:
    for drawn in found:
        for name, paths in drawn.classes.items():
            if len(paths) > 1:
                fix = "Keep the one that is to be learned from: move the others out of the folder."
                detail = f"{name} in {' and '.join(sorted(path.name for path in paths))}"
                yield Fault(min(paths), "class that several files draw on one series", fix, detail)


def _never(found: Sequence[_Drawn], keys: _Keys) -> Iterator[Fault]:
    """Yields the series that lack a class of others, which may have been left undrawn."""
    every = sorted({name for drawn in found for name in drawn.classes}, key=natural)
    for drawn in found:
        for name in every:
            if name not in drawn.classes:
                fix = "It counts as background there; take the series out if it was not drawn."
                detail = f"{keys.name(drawn.stack)}: {name}"
                yield Fault(drawn.stack[0].path, "series without a class of others", fix, detail, doubt=True)


def _gaps(stack: Sequence[Header], keys: _Keys) -> Iterator[Fault]:
    """Yields the places of a series where slices are missing."""
    if len(stack) < 3 or not all(each.is_placed for each in stack):
        return
    steps = np.abs(np.diff([each.depth for each in stack])).tolist()
    usual = sorted(steps)[(len(steps) - 1) // 2]
    for number in (number for number, step in enumerate(steps) if step > _GAP * usual):
        detail = f"{steps[number]:.3g} mm after {stack[number].path.name}, else {usual:.3g}"
        fix = "Complete the download, if there were more."
        yield Fault(stack[number].path, "gap between the slices of a series", fix, detail, doubt=True)


def _without_masks(objects: DicomFiles, drawn: Mapping[int, _Drawn], keys: _Keys) -> Iterator[Fault]:
    fix = "Add their segmentations, or use them with medarts predict."
    for found in objects.series.values():
        for stack in found:
            if id(stack) not in drawn or not drawn[id(stack)].classes:
                title = f"{stack[0].title}, " if stack[0].title else ""
                detail = f"{keys.name(stack)} ({title}{counted(len(stack), 'slice')})"
                yield Fault(stack[0].path, "series without masks, which are left out", fix, detail, doubt=True)


def _unread(root: Path, objects: DicomFiles, others: Sequence[Path]) -> Iterator[Fault]:
    for kind, number in objects.others.items():
        fix = "None needed, if they are not meant as masks."
        yield Fault(root, "DICOM files that are neither images nor masks", fix, kind, number, doubt=True)
    if others:
        fix = "Take them out, or give the folder in which they are images and masks."
        yield Fault(root, "images that are no DICOM", fix, others[0].name, len(others), doubt=True)
