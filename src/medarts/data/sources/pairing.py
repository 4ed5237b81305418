"""What the layouts have in common: finding files, pairing images with masks, and noting what does not pair.

A source returns a ``Listing`` with everything it found, faults included, and does not stop at the first: opening
a data set refuses any fault, while the doctor reports them all.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medarts.config import SourceSettings, Split
from medarts.data.files import suffix_of
from medarts.data.grouping import first_of
from medarts.data.manifest import ReadingRules
from medarts.data.sources.contents import Contents, composed
from medarts.data.splits import natural
from medarts.errors import DataError

IMAGE_ALONE = "image without a mask"
MASK_ALONE = "mask without an image"
IRREGULAR = "names of images that are not regular files"
NOT_READ = "files that are not read"
FOLDERS = "folders that are not read"
TABLES = "tables that are not read"
MISNAMED = "table that is read under the name splits.csv alone"
OTHER_NAME = "file that is not named as a mask"
_IRREGULAR_FIX = "Put the image itself there, and what is there elsewhere."
_PAIR_FIX = "Add the missing files or take these out."


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the files of a data set.

    Attributes:
        file: the file.
        problem: what is wrong, in words that are equal for all faults of the kind.
        fix: what to do about it.
        detail: what is particular to this one.
        count: how many there are of it.
    """

    file: Path
    problem: str
    fix: str
    detail: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its mask or findings, before a split is known.

    Attributes:
        key: name of the sample, unique within the data set.
        image: file of the image.
        mask: file of the mask; None for images with findings.
        patient: patient or sequence as the layout tells it; None where only splits.csv can.
        split: split of an official download; None where it has none.
        slice_index: slice of a volume.
        findings: names of what the image shows.
    """

    key: str
    image: Path
    mask: Path | None
    patient: str | None
    split: Split | None = None
    slice_index: int | None = None
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """All that a source found on disk.

    Attributes:
        pairs: images with masks or findings.
        faults: what does not pair.
        rules: how the files are to be read.
        findings: names of all that the images could show, in their usual order; empty for images with masks.
    """

    pairs: tuple[Pair, ...]
    faults: tuple[Fault, ...]
    rules: ReadingRules
    findings: tuple[str, ...] = ()


def require_folder(path: Path, *, layout: str) -> Path:
    """Returns ``path``; raises a DataError that describes the layout where it is no folder."""
    if not path.is_dir():
        raise DataError(f"There is no folder {path}.", fix=f"Expected here: {layout}.")
    return path


def stem_of(path: Path) -> str:
    """Returns the name without its suffix, ``.nii.gz`` being one, as it is compared with others."""
    return composed(path.name[: len(path.name) - len(suffix_of(path))])


def pair_by_name(
    images: Contents, masks: Contents, *, mask_name: Callable[[Path], str] = stem_of
) -> tuple[list[tuple[str, Path, Path]], list[Fault]]:
    """Pairs images with the masks of the same name.

    Args:
        images: the folder of the images.
        masks: the folder of the masks.
        mask_name: gives the name of the image a mask belongs to.

    Returns:
        (name, image, mask) in natural order of the names, and the files left alone, of a kind that is not read, or
        sharing a name.
    """
    image_of, twice = _by_name(images.images, stem_of)
    mask_of, twice_masks = _by_name(masks.images, mask_name)
    faults = [*twice, *twice_masks]
    faults += _alone(image_of, mask_of, masks, "mask", mask_name)
    faults += _alone(mask_of, image_of, images, "image", stem_of)
    names = sorted(image_of.keys() & mask_of.keys(), key=natural)
    return [(name, image_of[name], mask_of[name]) for name in names], faults + passed_over(images) + passed_over(masks)


def passed_over(contents: Contents) -> list[Fault]:
    """Returns what a folder holds that may be images and is not read, counted."""
    folder = contents.folder
    faults = []
    if contents.others:
        fix = "Save them in a format that is read, such as PNG, or take them out."
        found = f"{contents.kinds()} in {folder.name}"
        faults.append(Fault(folder, NOT_READ, fix, found, len(contents.others)))
    faults += [Fault(path, IRREGULAR, _IRREGULAR_FIX, _irregular(path, folder.name)) for path in contents.irregular]
    fix = "Move their files up, or take them out."
    return faults + [Fault(folder, FOLDERS, fix, f"{folder.name}/{inner.name}") for inner in contents.folders]


def unreadable(path: Path, what: str) -> Fault:
    """Returns the fault of an image or a mask that is no regular file, or of a format that is not read."""
    if path.exists() and not path.is_file():
        return Fault(path, f"{what} that is not a regular file", _IRREGULAR_FIX, _irregular(path, path.parent.name))
    fix = f"Save it in a format that is read, such as PNG; '{suffix_of(path)}' is none."
    return Fault(path, f"{what} of a kind that is not read", fix, path.name)


def _irregular(path: Path, folder: str) -> str:
    return f"{folder}/{path.name} is a {'folder' if path.is_dir() else 'pipe, socket or device'}"


def rules_of(settings: SourceSettings, *, defaults: ReadingRules | None = None) -> ReadingRules:
    """Returns the reading rules of a source: what its settings say, else what its layout is known to need.

    Raises:
        DataError: a label outside 0..65535, or a class outside 0..255.
    """
    defaults = defaults or ReadingRules()
    given = settings.window is not None or settings.percentiles is not None
    labels = defaults.labels
    if settings.labels is not None:
        labels = tuple(sorted(settings.labels.items()))
        if any(not (0 <= value <= 65535 and 0 <= index <= 255) for value, index in labels):
            raise DataError(
                f"The labels {settings.labels} of source {settings.domain} are out of range.",
                fix="Values go from 0 to 65535, classes from 0 to 255.",
            )
    return ReadingRules(
        window=settings.window if given else defaults.window,
        percentiles=settings.percentiles if given else defaults.percentiles,
        labels=labels,
    )


def refuse(settings: SourceSettings, faults: Iterable[Fault]) -> None:
    """Raises a DataError that tells the first kind of fault, its count and some names; nothing without faults."""
    every = tuple(faults)
    if not every:
        return
    alike = [fault for fault in every if fault.problem == every[0].problem]
    names = [fault.detail or fault.file.name for fault in alike]
    count = sum(fault.count for fault in alike)
    others = sum(fault.count for fault in every) - count
    raise DataError(
        f"{settings.path}: {alike[0].problem} ({count:,}): {first_of(names)}."
        + (f" There are {others:,} faults of other kinds; medarts doctor lists all." if others else ""),
        fix=alike[0].fix,
    )


def _by_name(paths: Iterable[Path], name_of: Callable[[Path], str]) -> tuple[dict[str, Path], list[Fault]]:
    found: dict[str, Path] = {}
    faults = []
    for path in paths:
        first = found.setdefault(name_of(path), path)
        if first is not path:
            faults.append(
                Fault(path, "second file of the same name", "Keep one of them.", f"{first.name}, {path.name}")
            )
    return found, faults


def _alone(
    here: Mapping[str, Path], there: Mapping[str, Path], others: Contents, missing: str, name_of: Callable[[Path], str]
) -> list[Fault]:
    """Returns the files whose partner, a mask or an image, is missing or of a kind that is not read."""
    unread = {composed(path.name): path for path in others.unread}  # "1.2.840" may have no suffix at all
    unread |= {name_of(path): path for path in others.unread}
    faults = []
    for name in sorted(here.keys() - there.keys(), key=natural):
        partner = unread.get(name)
        if partner is None:
            faults.append(Fault(here[name], IMAGE_ALONE if missing == "mask" else MASK_ALONE, _PAIR_FIX))
        else:
            faults.append(unreadable(partner, missing))
    return faults
