"""What some files of a data set show: sizes, channels, spacing, classes and their frequency."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medarts.config import SourceSettings
from medarts.data.contents import stem_of
from medarts.data.formats import raw_image, raw_mask, spacing_of
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.masks import DomainLevels, classify
from medarts.data.opening import Survey, names_of_values
from medarts.data.patients import NamedPatients, patients_in
from medarts.errors import DataError

OPENED = 48
"""Images of a data set that are opened."""

_MOST_CLASSES = 64
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
        """Number of files whose slices are the images."""
        return len({sample.image for sample in self.manifest.samples if sample.slice_index is not None})


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
    for sample in samples:
        _look_at_image(look, sample)
        if sample.mask is not None:
            drawn.append((sample, _values(sample, found.manifest.rules[sample.domain])))
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


def _values(sample: Sample, rules: ReadingRules) -> list[NDArray[np.int64]]:
    """Returns the classes of every pixel where the rules say them, else the values of its masks.

    A mask with noise, as of JPEG, is read as foreground and background.
    """
    values = []
    paths = [path for _, path in sample.class_masks] or [sample.files[-1] if sample.mask is None else sample.mask]
    for path in paths:
        raw = raw_mask(path, sample.slice_index, indices=True, image=sample.image)
        if rules.labels is not None or sample.class_masks:
            values.append(classify(raw, rules, path=path).classes.astype(np.int64))
            continue
        first = raw.values[..., 0]
        coloured = any(not np.array_equal(first, raw.values[..., n]) for n in range(1, raw.values.shape[2]))
        few = len(np.unique(first)) <= _MOST_CLASSES and np.array_equal(first, np.rint(first)) and not raw.lossy
        if coloured or not few:
            values.append(classify(raw, rules, path=path).classes.astype(np.int64) * _VOID)
        else:
            values.append(first.astype(np.int64))
    return values


def _tell_classes(look: Look, drawn: Sequence[tuple[Sample, list[NDArray[np.int64]]]]) -> None:
    """Notes the classes of the masks, and the labels that the source needs to read them."""
    rules = look.manifest.rules[look.settings.domain]
    files = [name for name, _ in drawn[0][0].class_masks]
    named = names_of_values(look.settings)
    labels: Mapping[int, int]
    if files:
        look.names, look.classes = tuple(files), len(files)
    elif rules.labels is not None:
        look.classes = max(index for _, index in rules.labels)
        look.names = tuple(named.values()) if len(named) == look.classes else ()
    else:
        found = sorted({int(value) for _, masks in drawn for mask in masks for value in np.unique(mask)} - {0})
        labels = _labels(found, named)
        look.names = tuple(named[value] for value in labels if value in named) if named else ()
        if len(labels) > 1 or not _is_binary(drawn, rules):
            look.settings = look.settings.model_copy(update={"labels": dict(labels)})
        look.classes = max((index for index in labels.values()), default=1)
    _count(look, drawn, files, rules)


def _labels(values: Sequence[int], named: Mapping[int, str]) -> dict[int, int]:
    """Returns the class of every value: those that the data set names, else those that occur."""
    if named:
        return {value: index for index, value in enumerate(sorted(named), start=1)}
    void = len(values) > 2 and values[-1] == _VOID and values[-2] < _VOID // 4
    kept = values[:-1] if void else values
    labels = {value: index for index, value in enumerate(kept, start=1)}
    return labels | ({_VOID: 0} if void else {})


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
    look: Look, drawn: Sequence[tuple[Sample, list[NDArray[np.int64]]]], files: Sequence[str], rules: ReadingRules
) -> None:
    """Counts the opened masks that show a class, and how much of them is foreground."""
    labels = getattr(look.settings, "labels", None)
    shares: list[float] = []
    for sample, masks in drawn:
        any_class = np.zeros(masks[0].shape, dtype=bool)
        for number, mask in enumerate(masks):
            for value in np.unique(mask[mask != 0]):
                if files:
                    index = files.index(sample.class_masks[number][0]) + 1
                elif rules.labels is not None:
                    index = int(value)
                else:
                    index = labels.get(int(value), 0) if labels else 1
                look.shown[index] += index > 0
                any_class |= (mask == value) & (index > 0)
        shares.append(float(any_class.mean()))
    look.foreground = float(np.mean(shares))
    look.empty = sum(share == 0 for share in shares) / len(shares)
