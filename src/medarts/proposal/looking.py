"""What some files of a data set show: sizes, channels, spacing, classes and their frequency."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from medarts.config import SourceSettings
from medarts.config.data import BACKGROUND, IGNORE, IGNORED
from medarts.data.formats import holds_objects, raw_image, raw_mask, spacing_of
from medarts.data.levels import DomainLevels
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.masks import Mask, planes_of, read_mask
from medarts.data.opening import Survey, names_of_values, with_class_indices
from medarts.data.patients import NamedPatients
from medarts.data.placing import named_patients
from medarts.data.proposal import MaskValues
from medarts.data.reading import check_sizes
from medarts.data.sources import ALONE, EMPTY_CLASS, rules_of
from medarts.data.splits import natural
from medarts.errors import DataError
from medarts.proposal.shrinking import Outlines

OPENED = 48
"""Images of a data set that are opened."""

_UNNAMED = ("foreground",)
"""The class of networks, and so of the segmentations that they write, where it has no name."""


@dataclass
class Look:
    """What is known of a data set after some of its files were opened.

    Attributes:
        settings: of the source, with the labels that its masks need.
        manifest: all its samples.
        doubts: what was noted of its files, in words.
        absent: classes that have no mask file in some images, with their number, in words.
        opened: number of samples that were opened.
        sizes: (height, width) -> number of opened images.
        channels: largest number of channels of an image, further files included.
        spacings: distances of rows and columns in mm of the opened files that say them.
        outlines: the opened masks.
        names: names of the foreground classes in their order; empty where only their number is known.
        classes: number of the foreground classes.
        overlap: pixels of opened images are of several classes.
        shown: class index, from 1 -> opened masks that show it.
        shown_by: key of a sample -> classes that its mask shows, of those that were opened.
        foreground: mean share of the pixels that is not background.
        empty: share of the opened masks without foreground.
        full: share of the opened masks without anything else.
        patients: patients as the names of files seem to say them; None where patients are known or names say nothing.
    """

    settings: SourceSettings
    manifest: Manifest
    doubts: tuple[str, ...]
    absent: tuple[str, ...] = ()
    opened: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    channels: int = 1
    spacings: list[tuple[float, float]] = field(default_factory=list)
    outlines: Outlines = field(default_factory=Outlines)
    names: tuple[str, ...] = ()
    classes: int = 1
    overlap: bool = False
    shown: Counter[int] = field(default_factory=Counter)
    shown_by: dict[str, set[int]] = field(default_factory=dict)
    foreground: float = 0.0
    empty: float = 0.0
    full: float = 0.0
    patients: NamedPatients | None = None

    @property
    def patients_known(self) -> bool:
        """Whether anything says which images belong to one patient."""
        return any(sample.patient != sample.key for sample in self.manifest.samples)

    @property
    def draws_objects(self) -> bool:
        """Whether the masks are annotations of objects, which may overlap."""
        return any(sample.mask is not None and holds_objects(sample.mask) for sample in self.manifest.samples)

    @property
    def volumes(self) -> int:
        """Number of files, or series of files, whose slices are the images."""
        files = {sample.image for sample in self.manifest.samples if sample.slice_index is not None}
        return len(files) + len({sample.series[0] for sample in self.manifest.samples if sample.series})

    @property
    def rules(self) -> ReadingRules:
        """How the files are read, the masks by the labels that the source has by now."""
        settings = with_class_indices(self.settings, self.names)
        return rules_of(settings, defaults=self.manifest.rules[self.settings.domain])

    def overlaps(self, sample: Sample) -> bool:
        """Tells whether a pixel of a sample is of several classes that have masks or objects of their own."""
        names = self.names if self.draws_objects else [name for name, _ in sample.class_masks]
        if len(names) < 2:
            return False
        planes = read_mask(sample, self.rules, names=names, overlap=True).classes
        return bool(((planes == 1).sum(axis=0) > 1).any())


def look_at(settings: SourceSettings, found: Survey, *, progress: Callable[[], None]) -> Look:
    """Opens some files of a data set, spread over all.

    Args:
        progress: called after every image.

    Raises:
        DataError: a file cannot be read, or the classes of its masks cannot be told.
    """
    samples = _spread(found.manifest.samples)
    unused = [doubt for doubt in found.doubts if doubt.problem not in (EMPTY_CLASS, ALONE)]  # told by themselves
    look = Look(
        settings,
        found.manifest,
        tuple(f"{doubt.problem}: {doubt.detail or doubt.file.name}" for doubt in unused),
        absent=tuple(doubt.detail for doubt in found.doubts if doubt.problem == EMPTY_CLASS),
        opened=len(samples),
    )
    if not look.patients_known and settings.patients is None:
        look.patients = named_patients(settings, found.manifest)
    shapes = {}
    for sample in samples:
        shapes[sample.key] = _look_at_image(look, sample)
        progress()
    drawn = [sample for sample in samples if sample.mask is not None]
    if drawn:
        _tell_classes(look, drawn, shapes)
    return look


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    if len(samples) <= OPENED:
        return list(samples)
    return [samples[round(at)] for at in np.linspace(0, len(samples) - 1, OPENED)]


def _look_at_image(look: Look, sample: Sample) -> tuple[int, int]:
    """Notes size, channels and spacing of an image, and returns its height and width."""
    raw = raw_image(sample.image, sample.slice_index)
    grey = all(np.array_equal(raw.values[..., 0], raw.values[..., n]) for n in range(1, raw.values.shape[2]))
    look.sizes[raw.values.shape[:2]] += 1
    look.channels = max(look.channels, (1 if grey else raw.values.shape[2]) + len(sample.more))
    row, column, _ = spacing_of(sample.image)
    if row is not None and column is not None:
        look.spacings.append((row, column))
    return raw.values.shape[:2]


def _tell_classes(look: Look, drawn: Sequence[Sample], shapes: Mapping[str, tuple[int, int]]) -> None:
    """Notes the classes of the masks, the labels that the source needs to read them, and how often each is seen."""
    rules = look.manifest.rules[look.settings.domain]
    files = sorted({name for sample in look.manifest.samples for name, _ in sample.class_masks}, key=natural)
    named = names_of_values(look.settings)
    labels: Mapping[int | str, int | str] = {}
    if files:
        look.names, look.classes = () if tuple(files) == _UNNAMED else tuple(files), len(files)
    elif named:
        look.names = tuple(name for name in named.values() if name not in (BACKGROUND, IGNORED))
        look.classes, labels = len(look.names), dict(named.items())
    elif rules.labels is not None:
        look.classes = max(index for _, index in rules.labels if index != IGNORE)
    elif not _are_binary(drawn, rules):
        labels = _labels(drawn)
        look.classes = max(sum(isinstance(meaning, int) for meaning in labels.values()), 1)
    if labels:
        look.settings = look.settings.model_copy(update={"labels": dict(labels)})
    names, several = files or look.names, bool(files) or (bool(named) and look.draws_objects)
    shares = []
    for sample in drawn:
        mask = read_mask(sample, look.rules, names=names, overlap=several).classes
        check_sizes(sample, shapes[sample.key], mask.shape)
        shares.append(_counted(look, sample, mask))
    look.foreground = float(np.mean(shares))
    look.empty = sum(share == 0 for share in shares) / len(shares)
    look.full = sum(share == 1 for share in shares) / len(shares)


def _are_binary(drawn: Sequence[Sample], rules: ReadingRules) -> bool:
    """Tells whether the masks can be read without labels."""
    levels = DomainLevels()
    try:
        for sample in drawn:
            levels.add(read_mask(sample, rules).levels)
    except DataError:
        return False
    return levels.problem("") is None


def _labels(drawn: Sequence[Sample]) -> dict[int | str, int | str]:
    """Returns labels for the values of the masks."""
    values = MaskValues()
    for sample in drawn:
        for path in sample.masks:
            values.add(raw_mask(path, sample.slice_index, indices=True, image=sample.image))
    return values.labels


def _counted(look: Look, sample: Sample, mask: Mask) -> float:
    """Notes the classes of an opened mask, and returns the share of its pixels that is foreground."""
    planes = planes_of(mask)
    shown = np.sum([plane for _, plane in planes], axis=0, dtype=np.int64) if planes else np.zeros(mask.shape[-2:])
    classes = [index for index, _ in planes]
    look.shown.update(classes)
    look.shown_by[sample.key] = set(classes)
    look.overlap |= bool((shown > 1).any())
    look.outlines.add(mask)
    return float((shown > 0).mean())
