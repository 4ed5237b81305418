"""What some files of a data set show: sizes, channels, spacing, classes and their frequency."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.config import SourceSettings
from medarts.config.data import IGNORED
from medarts.data.contents import stem_of
from medarts.data.formats import raw_image, raw_mask, spacing_of
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.masks import DomainLevels, classify, raw_of_class
from medarts.data.opening import Survey, names_of_values
from medarts.data.patients import NamedPatients, patients_in
from medarts.data.splits import natural
from medarts.errors import DataError

OPENED = 48
"""Images of a data set that are opened."""

_MOST_CLASSES = 64
_COLOURED = 1 << 24
"""Number of black among the colours, beyond those of grey values."""

_UNNAMED = ("foreground",)
"""The class of networks, and so of the segmentations that they write, where it has no name."""

_VOID = 255
"""Value that marks borders and unclear regions beside class indices, as in PASCAL VOC."""


@dataclass
class Look:
    """What is known of a data set after some of its files were opened.

    Attributes:
        settings: of the source, with the labels that its masks need.
        manifest: all its samples.
        doubts: what was noted of its files, in words.
        opened: number of samples that were opened.
        sizes: (height, width) -> number of opened images.
        channels: largest number of channels of an image, further files included.
        spacing: distances of rows and columns in mm of the first file that says them; None without.
        names: names of the foreground classes in their order; empty where only their number is known.
        classes: number of the foreground classes.
        overlap: pixels of opened images are of several classes.
        shown: class index, from 1 -> opened masks that show it.
        foreground: mean share of the pixels that is not background.
        empty: share of the opened masks without foreground.
        patients: patients as the names of files seem to say them; None where patients are known or names say nothing.
    """

    settings: SourceSettings
    manifest: Manifest
    doubts: tuple[str, ...]
    opened: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    channels: int = 1
    spacing: tuple[float, float] | None = None
    names: tuple[str, ...] = ()
    classes: int = 1
    overlap: bool = False
    shown: Counter[int] = field(default_factory=Counter)
    foreground: float = 0.0
    empty: float = 0.0
    patients: NamedPatients | None = None

    @property
    def patients_known(self) -> bool:
        """Whether anything says which images belong to one patient."""
        return any(sample.patient != sample.key for sample in self.manifest.samples)

    @property
    def volumes(self) -> int:
        """Number of files, or series of files, whose slices are the images."""
        files = {sample.image for sample in self.manifest.samples if sample.slice_index is not None}
        return len(files) + len({sample.series[0] for sample in self.manifest.samples if sample.series})

    def overlaps(self, sample: Sample) -> bool:
        """Tells whether a pixel of a sample is of several classes that have masks of their own."""
        masks = _values(sample, self.manifest.rules[sample.domain], named=False)
        return len(masks) > 1 and bool((np.sum([mask > 0 for mask in masks], axis=0) > 1).any())


def look_at(settings: SourceSettings, found: Survey, *, progress: Callable[[], None]) -> Look:
    """Opens some files of a data set, spread over all.

    Args:
        progress: called after every image.

    Raises:
        DataError: a file cannot be read, or the classes of its masks cannot be told.
    """
    samples = _spread(found.manifest.samples)
    doubts = tuple(f"{doubt.problem}: {doubt.detail or doubt.file.name}" for doubt in found.doubts)
    look = Look(settings, found.manifest, doubts, opened=len(samples))
    if not look.patients_known and settings.patients is None:
        look.patients = patients_in([stem_of(path) for path in {sample.image for sample in found.manifest.samples}])
    drawn: list[tuple[Sample, list[NDArray[np.int64]]]] = []
    named = bool(names_of_values(settings))
    for sample in samples:
        _look_at_image(look, sample)
        if sample.mask is not None:
            drawn.append((sample, _values(sample, found.manifest.rules[sample.domain], named=named)))
        progress()
    if drawn:
        _tell_classes(look, drawn)
    return look


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    if len(samples) <= OPENED:
        return list(samples)
    return [samples[round(at)] for at in np.linspace(0, len(samples) - 1, OPENED)]


def _look_at_image(look: Look, sample: Sample) -> None:
    raw = raw_image(sample.image, sample.slice_index)
    grey = all(np.array_equal(raw.values[..., 0], raw.values[..., n]) for n in range(1, raw.values.shape[2]))
    look.sizes[raw.values.shape[:2]] += 1
    look.channels = max(look.channels, (1 if grey else raw.values.shape[2]) + len(sample.more))
    if look.spacing is None:
        row, column, _ = spacing_of(sample.image)
        look.spacing = None if row is None or column is None else (row, column)


def _values(sample: Sample, rules: ReadingRules, *, named: bool) -> list[NDArray[np.int64]]:
    """Returns the classes of every pixel where the rules say them, else the values of its masks.

    A mask with noise, as of JPEG, is read as foreground and background.
    """
    if sample.class_masks:
        read = [
            classify(raw_of_class(sample, rules, name, path), rules, path=path) for name, path in sample.class_masks
        ]
        return [each.classes.astype(np.int64) for each in read]
    values: list[NDArray[np.int64]] = []
    for path in sample.masks:
        raw = raw_mask(path, sample.slice_index, indices=True, image=sample.image)
        if rules.labels is not None and not named:
            values.append(classify(raw, rules, path=path).classes.astype(np.int64))
            continue
        first = raw.values[..., 0]
        coloured = any(not np.array_equal(first, raw.values[..., n]) for n in range(1, raw.values.shape[2]))
        few = len(np.unique(first)) <= _MOST_CLASSES and np.array_equal(first, np.rint(first)) and not raw.lossy
        colours = _colours(raw.values) if coloured and not raw.lossy else None
        if not named and colours is not None:
            values.append(colours)
        elif not named and (coloured or not few):
            values.append(classify(raw, rules, path=path).classes.astype(np.int64) * _VOID)
        else:
            values.append(first.astype(np.int64))
    return values


def _colours(values: NDArray[Any]) -> NDArray[np.int64] | None:
    """Returns the colours of a mask of 8 bits as numbers from `_COLOURED` on, black as 0; None where there are many."""
    if values.dtype != np.uint8 or values.shape[2] < 3:
        return None
    red, green, blue = (values[..., n].astype(np.int64) for n in range(3))
    numbers = red << 16 | green << 8 | blue
    return np.where(numbers > 0, numbers + _COLOURED, 0) if len(np.unique(numbers)) <= _MOST_CLASSES else None


def _key_of(value: int) -> int | str:
    """Returns a value of a mask as labels have it."""
    return f"#{value - _COLOURED:06x}" if value >= _COLOURED else value


def _tell_classes(look: Look, drawn: Sequence[tuple[Sample, list[NDArray[np.int64]]]]) -> None:
    """Notes the classes of the masks, and the labels that the source needs to read them."""
    rules = look.manifest.rules[look.settings.domain]
    files = sorted({name for sample in look.manifest.samples for name, _ in sample.class_masks}, key=natural)
    named = names_of_values(look.settings)
    indices: dict[int, int] = {}
    if files:
        look.names, look.classes = () if tuple(files) == _UNNAMED else tuple(files), len(files)
    elif named:
        indices = {value: index for index, value in enumerate(named, start=1)}
        look.names, look.classes = tuple(named.values()), len(named)
        look.settings = look.settings.model_copy(update={"labels": dict(named)})
    elif rules.labels is not None:
        look.classes = max(index for _, index in rules.labels)
    else:
        if any((mask >= _COLOURED).any() for _, masks in drawn for mask in masks):
            # a grey of a file without colours is a colour, too
            drawn = [
                (each, [np.where((mask > 0) & (mask < _COLOURED), mask * 0x010101 + _COLOURED, mask) for mask in masks])
                for each, masks in drawn
            ]
        found = sorted({int(value) for _, masks in drawn for mask in masks for value in np.unique(mask)} - {0})
        indices, ignored = _labels(found)
        if len(indices) > 1 or ignored or not _is_binary(drawn, rules):
            labels = {_key_of(value): index for value, index in indices.items()} | dict.fromkeys(ignored, IGNORED)
            look.settings = look.settings.model_copy(update={"labels": labels})
        look.classes = max(len(indices), 1)
    read = {index: index for index in range(1, look.classes + 1)} if rules.labels is not None and not named else indices
    _count(look, drawn, files, read)


def _labels(values: Sequence[int]) -> tuple[dict[int, int], list[int]]:
    """Returns the class of every value that occurs, and the values that mark pixels of no class."""
    void = len(values) > 2 and values[-1] == _VOID and values[-2] < _VOID // 4
    kept = values[:-1] if void else values
    return {value: index for index, value in enumerate(kept, start=1)}, [_VOID] if void else []


def _is_binary(drawn: Sequence[tuple[Sample, object]], rules: ReadingRules) -> bool:
    """Tells whether the masks can be read without labels."""
    levels = DomainLevels()
    for sample, _ in drawn:
        if sample.mask is not None:
            try:
                raw = raw_mask(sample.mask, sample.slice_index, indices=False, image=sample.image)
                levels.add(classify(raw, rules, path=sample.mask).levels)
            except DataError:
                return False
    return levels.problem("") is None


def _count(
    look: Look,
    drawn: Sequence[tuple[Sample, list[NDArray[np.int64]]]],
    files: Sequence[str],
    indices: Mapping[int, int],
) -> None:
    """Counts the opened masks that show a class, and how much of them is foreground.

    Args:
        files: names of the classes, where each has a mask file of its own.
        indices: value -> index of its class, where one file has all.
    """
    shares: list[float] = []
    for sample, masks in drawn:
        if files:
            layers = {files.index(sample.class_masks[n][0]) + 1: mask > 0 for n, mask in enumerate(masks)}
        else:
            layers = {index: masks[0] == value for value, index in indices.items()}
        shown = np.sum([layer.astype(np.int64) for layer in layers.values()], axis=0) if layers else masks[0]
        look.shown.update(index for index, layer in layers.items() if layer.any())
        look.overlap |= bool((shown > 1).any()) and bool(files)
        shares.append(float((shown > 0).mean()))
    look.foreground = float(np.mean(shares))
    look.empty = sum(share == 0 for share in shares) / len(shares)
