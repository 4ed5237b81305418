"""When a recipe gets more than a size: patches, one size of pixels, a whole top row, neighbouring slices, folds.

Each rule looks at data sets and returns what it proposes with the reason, or None: then the setting stays out of the
recipe, as it would not help. The thresholds are judgement: no experiment has chosen them.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from medarts.config import SPLITS
from medarts.data.folds import divided_into
from medarts.data.formats import spacing_of, spacing_of_files
from medarts.data.geometry import MOST_ZOOM, fitted, scaled
from medarts.data.manifest import Manifest, Sample
from medarts.data.splits import SPLIT_SEED, complete_splits
from medarts.errors import DataError
from medarts.proposal.looking import Look
from medarts.proposal.shrinking import Shape
from medarts.system.console import counted

KEPT = 0.9
"""Dice that masks keep with themselves when they are shrunk: less limits the score more than most networks do."""

GAIN = 0.05
"""Dice above what whole images keep, below which patches are not worth their time."""

TIMES_LARGER = 2.0
"""Times the size of networks that images have at least, so that a patch is a part of them."""

SCALES = (0.125, 0.25, 0.5, 1.0)
"""Factors by which images are shrunk before patches are cropped; the first that keeps the masks is taken."""

DIFFERING = 1.25
"""Ratio of the largest to the smallest pixels from which images are brought to one size of pixels."""

NEAR_MM = 5.0
"""Distance up to which neighbouring slices show the same structures."""

FEWEST_SLICES = 5
"""Slices of a volume, on average, of which most have two neighbours."""

FEW_PATIENTS = 30
"""Patients of a data set below which a fifth of them, as a test set, says little."""

FEWEST_PATIENTS = 6
"""Patients of a data set below which folds leave too few to learn from."""

FOLDS = 5
"""Folds, as is usual."""

FEWER_FOLDS = 3
"""Folds where the smallest data set has few patients, so that each tests two at least."""

FOR_FOLDS = 2 * FOLDS
"""Patients of a data set below which there are fewer folds."""


class Patches(NamedTuple):
    """How patches are cropped.

    Attributes:
        scale: factor by which images are shrunk before; 1 where they get one size of pixels.
        spacing_mm: that size; None where images keep their own.
        factor: by which images are shrunk for either, on average.
        each: patches that cover an image, on average.
        reason: why there are patches.
    """

    scale: float
    spacing_mm: float | None
    factor: float
    each: float
    reason: str


class Folds(NamedTuple):
    """How patients are divided.

    Attributes:
        number: of the folds.
        train: images to learn from in the fold that has the fewest.
        reason: why there are folds.
    """

    number: int
    train: int
    reason: str


def patches_for(looks: Sequence[Look], size: int) -> Patches | None:
    """Returns patches where pixels have several sizes, or where images of a size would lose what masks show.

    Args:
        looks: data sets with masks.
        size: height and width of what networks see.
    """
    return _one_spacing(looks, size) or _of_small_structures(looks, size)


def _of_small_structures(looks: Sequence[Look], size: int) -> Patches | None:
    """Returns patches where images are large, and their masks would not survive being shrunk to a size."""
    side = _middle_side(looks)
    if side < TIMES_LARGER * size:
        return None

    lost = _kept(looks, _fitted_to(size))
    if lost >= KEPT:
        return None
    large_enough = [scale for scale in SCALES if scale * side >= TIMES_LARGER * size]
    for scale in large_enough:
        kept = _kept(looks, _scaled_by(scale))
        if kept >= KEPT or scale == large_enough[-1]:
            break
    if kept < lost + GAIN:
        return None
    reason = f"shrunk to {size} px, masks would be {lost:.2f} Dice of themselves; here {kept:.2f}"
    return Patches(scale, None, scale, _tiles(looks, size, scale), reason)


def _one_spacing(looks: Sequence[Look], size: int) -> Patches | None:
    """Returns patches of images with one size of pixels, where all files say theirs and they differ."""
    opened = [math.sqrt(row * column) for look in looks for row, column in look.spacings]
    if not opened or max(opened) < DIFFERING * min(opened) or len(opened) < sum(look.opened for look in looks):
        return None
    every = _spacings(looks)
    if every is None:
        return None
    middle, largest = statistics.median(opened), max(max(pair) for pair in every)
    side = _middle_side(looks)
    for coarser in (4, 2, 1):  # as coarse as masks allow, which takes the least time
        wanted = float(f"{coarser * middle:.2g}")
        if side * middle / wanted < size or largest > MOST_ZOOM * wanted:
            continue
        kept = _kept(looks, _scaled_by(middle / wanted))
        if kept >= KEPT or coarser == 1:
            reason = f"pixels have {min(opened):.2g} to {max(opened):.2g} mm; a network learns one size best"
            return Patches(1.0, wanted, middle / wanted, _tiles(looks, size, middle / wanted), reason)
    return None


def whole_top_row(looks: Sequence[Look], size: int, patches: Patches | None) -> str | None:
    """Returns why lattices should have a top row at the size of what networks see, not at half of it.

    Args:
        looks: data sets with masks.
        size: height and width of what networks see.
        patches: how patches are cropped; None where images are shrunk as a whole.
    """

    def kept(part: float) -> float:
        by_size = _fitted_to(round(part * size)) if patches is None else _scaled_by(part * patches.factor)
        return _kept(looks, by_size)

    half = kept(0.5)
    if half >= KEPT or (whole := kept(1.0)) < half + GAIN:
        return None
    return (
        f"at half the size masks would be {half:.2f} Dice of themselves; so {whole:.2f}, for four times the operations"
    )


def _kept(looks: Sequence[Look], shape_of: Callable[[int, int], Shape]) -> float:
    """Returns what shrinking leaves of the masks of the data set that loses most."""
    return min(look.outlines.kept(shape_of) for look in looks)


def _fitted_to(size: int) -> Callable[[int, int], Shape]:
    def shape_of(height: int, width: int) -> Shape:
        framing = fitted(height, width, size=size)
        return framing.rows, framing.columns

    return shape_of


def _spacings(looks: Sequence[Look]) -> list[tuple[float, float]] | None:
    """Returns height and width of the pixels of all files, in mm; None where a file does not say them."""
    found = []
    for path in sorted({sample.image for look in looks for sample in look.manifest.samples}):
        try:
            row, column, _ = spacing_of(path)
        except DataError:  # whoever reads the images says what is wrong
            return None
        if row is None or column is None:
            return None
        found.append((row, column))
    return found


def _scaled_by(factor: float) -> Callable[[int, int], Shape]:
    def shape_of(height: int, width: int) -> Shape:
        framing = scaled(height, width, factors=(factor, factor))
        return framing.rows, framing.columns

    return shape_of


def _tiles(looks: Sequence[Look], size: int, factor: float) -> float:
    """Returns the patches that cover an image, on average."""
    shape_of = _scaled_by(factor)
    numbers = [
        count * math.prod(math.ceil(side / size) for side in shape_of(*shape))
        for look in looks
        for shape, count in look.sizes.items()
    ]
    return sum(numbers) / sum(look.opened for look in looks)


def _middle_side(looks: Sequence[Look]) -> int:
    sides = [max(shape) for look in looks for shape, count in look.sizes.items() for _ in range(count)]
    return statistics.median_high(sides)


def slices_around(looks: Sequence[Look]) -> str | None:
    """Returns why a slice should have its neighbours as channels: the images are grey slices near each other."""
    gaps = []
    for look in looks:
        samples = look.manifest.samples
        if look.channels > 1 or any(sample.more or not _is_slice(sample) for sample in samples):
            return None
        gap = _gap(samples[0])
        if gap is None or gap > NEAR_MM or len(samples) < FEWEST_SLICES * look.volumes:
            return None
        gaps.append(gap)
    told = " and ".join(dict.fromkeys(f"{gap:.2g}" for gap in gaps))
    return f"slices are {told} mm apart: each sees the next on either side"


def _is_slice(sample: Sample) -> bool:
    return sample.slice_index is not None or bool(sample.series)


def _gap(sample: Sample) -> float | None:
    """Returns the distance of the slices of a volume in mm; None where its files do not say it."""
    try:
        return spacing_of_files(sample.series or (sample.image,))[2]
    except DataError:  # whoever reads the images says what is wrong
        return None


def folds_for(looks: Sequence[Look]) -> Folds | None:
    """Returns folds where a data set with masks has few patients, and none has splits of its own.

    The smallest data set decides: of it each fold tests some patients, and learns from the others.

    Each fold has training images of every class and validation images of one, among the masks that were opened.
    """
    patients = [len({sample.patient for sample in look.manifest.samples}) for look in looks]
    fewest = min(patients)
    if not FEWEST_PATIENTS <= fewest < FEW_PATIENTS or not all(map(_are_sampled, looks)):
        return None
    number = FOLDS if fewest >= FOR_FOLDS else FEWER_FOLDS
    divided = [_fold(looks, number, fold) for fold in range(1, number + 1)]
    if not all(_can_be_learned(looks, fold) for fold in divided):
        return None
    tested = sum(max(1, round(look.settings.fractions[1] * of)) for look, of in zip(looks, patients, strict=True))
    who = counted(sum(patients), "patient" if all(look.patients_known for look in looks) else "image")
    train = min(len(fold.of_split("train").samples) for fold in divided)
    reason = f"{who}: each is tested once, instead of {tested} of them alone; the search sees fold 1"
    return Folds(number, train, reason)


def _are_sampled(look: Look) -> bool:
    """Tells whether nothing but chance says which patients are tested; what a data set says is kept."""
    samples = look.manifest.samples
    patients = [sample.patient for sample in samples]
    sampled = complete_splits(patients, [None] * len(samples), fractions=look.settings.fractions, seed=SPLIT_SEED)
    return sampled == [sample.split for sample in samples]


def _fold(looks: Sequence[Look], number: int, fold: int) -> Manifest:
    """Returns the images of all data sets with their splits in a fold, as a training has them."""
    samples = tuple(sample for look in looks for sample in look.manifest.samples)
    rules = {domain: of for look in looks for domain, of in look.manifest.rules.items()}
    fractions = {look.settings.domain: look.settings.fractions[0] for look in looks}
    return divided_into(Manifest(samples, rules, ()), number, fold=fold, fractions=fractions, seed=SPLIT_SEED)


def _can_be_learned(looks: Sequence[Look], divided: Manifest) -> bool:
    """Tells whether opened masks show every class to those who train, and one to those who choose."""
    shown_by = {(look.settings.domain, key): shown for look in looks for key, shown in look.shown_by.items()}
    shown: dict[str, set[int]] = {split: set() for split in SPLITS}
    for sample in divided.samples:
        shown[sample.split] |= shown_by.get((sample.domain, sample.key), set())
    every = range(1, max(look.classes for look in looks) + 1)
    return shown["train"].issuperset(every) and bool(shown["val"])
