"""Kinds of data sets, one file each, and what they have in common: pairs of images and masks, and what does not pair.

A source returns a ``Listing`` with everything it found, faults included, and does not stop at the first: opening
a data set refuses any fault, while the doctor reports them all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from medarts.config import MaskSourceSettings, SourceSettings, Split
from medarts.config.data import RESERVED
from medarts.data.contents import Contents, composed, contents_of, stem_of
from medarts.data.formats import suffix_of
from medarts.data.manifest import ReadingRules
from medarts.data.splits import natural
from medarts.errors import DataError
from medarts.registry import sources
from medarts.system.names import name_of

IMAGE_ALONE = "image without a mask"
MASK_ALONE = "mask without an image"
IRREGULAR = "names of images that are not regular files"
NOT_READ = "files that are not read"
FOLDERS = "folders that are not read"
TABLES = "tables that are not read"
MISNAMED = "table that is read under the name splits.csv alone"
OTHER_NAME = "file that is not named as a mask"
STRAY = "file that is named neither as an image nor as a mask"
WITHOUT_CLASS = "images without the mask file of a class"
EMPTY_CLASS = "images without the mask file of a class, which they do not show (absent: empty)"
WITHOUT_MASKS = "images of a split without masks, which are left out"
STACKS = {".dcm", ".nii", ".nii.gz"}
"""Formats whose types do not say what is black and white."""
STACK_PERCENTILES = (0.5, 99.5)
"""Percentiles that become 0 and 1 in such files, where nothing else is known."""
_IRREGULAR_FIX = "Replace it with the image file itself."
PAIR_FIX = "Add the missing files or take these out."
MISSING = "image not in the folder"
UNNAMED = "image that the table does not name"
LEFT_OUT = "row left out by its split"
ALONE = "images without patients"
TWICE = "image named twice"
NO_PATIENT = "row without a patient"
RENAMED = "image named otherwise than its file"
UNUSED = "column that is not used"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the files of a data set.

    Attributes:
        file: the file.
        problem: what is wrong, in words that are equal for all faults of the kind.
        fix: what to do about it.
        detail: what is particular to this one.
        count: how many there are of it.
        doubt: the data can be used nevertheless.
    """

    file: Path
    problem: str
    fix: str
    detail: str = ""
    count: int = 1
    doubt: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its mask or findings, before a split is known.

    Attributes:
        key: name of the sample, unique within the data set.
        image: file of the image.
        mask: file of the mask, or of its first class; None for images with findings.
        patient: patient or sequence as the layout tells it; None where only splits.csv can.
        split: split of an official download; None where it has none.
        slice_index: slice of a volume.
        findings: names of what the image shows.
        unknown: names of what it may or may not show.
        more: further files of the same size, whose channels follow those of ``image``.
        series: where the slices of a volume are files, all of these in their order; empty for other files.
        class_masks: name and file of every class, where each has a mask file of its own; else empty.
    """

    key: str
    image: Path
    mask: Path | None
    patient: str | None
    split: Split | None = None
    slice_index: int | None = None
    findings: tuple[str, ...] = ()
    more: tuple[Path, ...] = ()
    series: tuple[Path, ...] = ()
    class_masks: tuple[tuple[str, Path], ...] = ()
    unknown: tuple[str, ...] = ()


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


def register_source(kind: str, *, settings: type[SourceSettings]) -> "Callable[[type[Source]], type[Source]]":
    """Returns a decorator that registers a kind of data set, which recipes then choose by ``kind``.

    Args:
        kind: its name.
        settings: the class of an item of ``data.sources``, derived from `MaskSourceSettings` or
            `FindingSourceSettings`.
    """
    return sources.register(kind, settings=settings)


class AmbiguousLayoutError(DataError):
    """A folder can be read in several ways.

    Args:
        path: the folder.
        choices: the sources that each way needs, the likeliest first.
    """

    def __init__(self, path: Path, choices: Sequence[tuple[SourceSettings, ...]], told: Sequence[str]) -> None:
        listed = "; ".join(f"({number}) {text}" for number, text in enumerate(told, start=1))
        super().__init__(
            f"{path} can be read in {len(choices)} ways: {listed}.",
            fix="medarts init asks which one is meant; or write the source into a recipe.",
        )
        self.choices = tuple(choices)
        self.told = tuple(told)


class Source(ABC):
    """A kind of data set: how its folder is recognised and what is in it.

    A kind of your own is a class in any file that is imported before its name is needed::

        class PairsSettings(MaskSourceSettings):
            kind: Literal["pairs"] = "pairs"

        @register_source("pairs", settings=PairsSettings)
        class Pairs(Source):
            layout = "NAME.png with its mask NAME_mask.png"

            def find(self, settings, findings=None):
                masks = sorted(settings.path.glob("*_mask.png"))
                names = [mask.name.removesuffix("_mask.png") for mask in masks]
                pairs = [Pair(name, settings.path / f"{name}.png", mask, patient=name) ...]
                return Listing(tuple(pairs), (), rules_of(settings))

    Attributes:
        layout: what the folder holds, for errors.
        tables: patterns of the tables that are read, and of those of a download that are rightly not.
        generality: layouts of less are tried first: 0 those of data sets, 1 images with masks or a table, 2 the rest.
        takes_files: a file can be given in place of the folder, such as a list.
        split_fix: what to do where a split has no images.
    """

    layout: ClassVar[str]
    tables: ClassVar[tuple[str, ...]] = ()
    generality: ClassVar[int] = 0
    takes_files: ClassVar[bool] = False
    split_fix: ClassVar[str] = "Set the source's fractions above 0, or write a splits.csv."

    def recognise(self, path: Path) -> tuple[SourceSettings, ...]:
        """Returns the settings that read a folder, or file, given to ``--data``; none where it has another layout.

        Raises:
            AmbiguousLayoutError: there are several ways to read it.
        """
        return ()

    def usual_rules(self, settings: Any) -> ReadingRules:
        """Returns how files are read where the settings do not say it, such as the window of CT; opens none of them.

        Exported networks scale by it, far from the data: ``find`` may scale images in no other way.
        """
        return ReadingRules()

    def names_of_values(self, settings: Any) -> Mapping[int, str]:
        """Returns the names of the foreground classes by the values of the masks, where the data set says them.

        That of a value whose pixels count nothing is ``medarts.config.data.IGNORED``.
        """
        return {}

    def named_as(self, settings: Any, other: Any) -> Any:
        """Returns settings with the names of classes by which another source of the kind is read; ``other`` is its."""
        return settings

    def read_as(self, settings: Any, others: Sequence[Any]) -> Any:
        """Returns settings of a folder that was recognised with what it does not say and a recipe does.

        Args:
            settings: as recognised.
            others: those of the sources of this kind in the recipe; none without a recipe.
        """
        return settings

    def in_classes(self, listing: Listing, classes: Sequence[str]) -> Listing:
        """Returns a listing with the masks of the classes that a recipe names, where files hold more of them by name.

        Args:
            listing: as found.
            classes: names of the foreground classes; none without a recipe.
        """
        return listing

    def findings_in(self, settings: Any) -> tuple[str, ...] | None:
        """Returns the findings that a data set seems to have, where its table tells other things, too; None: all."""
        return None

    @abstractmethod
    def find(self, settings: Any, findings: tuple[str, ...] | None = None) -> Listing:
        """Lists the images with all that is wrong; opens none of them.

        Args:
            settings: of the class that the source was registered with.
            findings: what the recipe looks for; others of a table need not be right. None looks for all.
        """


def domain_of(path: Path) -> str:
    """Returns the name of a folder as that of a data set."""
    name = name_of(path)
    return f"{name}-data" if name in RESERVED else name


def percentiles_of(path: Path) -> tuple[float, float] | None:
    """Returns percentiles for a folder of DICOM or NIfTI files, whose types do not say what is black and white."""
    images = path / "images"
    stacks = any(suffix_of(file) in STACKS for file in contents_of(images if images.is_dir() else path).images)
    return STACK_PERCENTILES if stacks else None


def require_folder(path: Path, *, layout: str) -> Path:
    """Returns ``path``; raises a DataError that describes the layout where it is no folder."""
    if not path.is_dir():
        raise DataError(f"There is no folder {path}.", fix=f"Expected here: {layout}.")
    return path


def pair_by_name(
    images: Contents, masks: Contents, *, mask_name: Callable[[Path], str] = stem_of
) -> tuple[list[tuple[str, Path, Path]], list[Fault]]:
    """Pairs images with the masks of the same name.

    Args:
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
    """Returns the fault of an image or a mask that is not a regular file, or of a format that is not read."""
    if path.exists() and not path.is_file():
        return Fault(path, f"{what} that is not a regular file", _IRREGULAR_FIX, _irregular(path, path.parent.name))
    fix = f"Save it in a format that is read, such as PNG; '{suffix_of(path)}' is none."
    return Fault(path, f"{what} of a kind that is not read", fix, path.name)


def _irregular(path: Path, folder: str) -> str:
    return f"{folder}/{path.name} is a {'folder' if path.is_dir() else 'pipe, socket or device'}"


def rules_of(settings: SourceSettings, *, defaults: ReadingRules | None = None) -> ReadingRules:
    """Returns the reading rules of a source: what its settings say, else what its layout is known to need."""
    defaults = defaults or ReadingRules()
    given = settings.window is not None or settings.percentiles is not None
    labels = defaults.labels
    if isinstance(settings, MaskSourceSettings) and settings.labels is not None:
        # names of classes have become indices, see medarts.data.opening.survey
        meanings = {} if settings.labels == "auto" else settings.labels
        labels = tuple(sorted(((value, int(index)) for value, index in meanings.items()), key=_numbers_first))
        if any(not 0 <= value <= 65535 for value, _ in labels if isinstance(value, int)):
            raise DataError(
                f"The labels {settings.labels} of source {settings.domain} are out of range.",
                fix="Values go from 0 to 65535.",
            )
    return ReadingRules(
        window=settings.window if given else defaults.window,
        percentiles=settings.percentiles if given else defaults.percentiles,
        labels=labels,
        segments=defaults.segments,
    )


def scaling_of(settings: SourceSettings) -> ReadingRules:
    """Returns the window or percentiles of a source, be it by its settings or as is usual for its kind."""
    source: Source = sources.get(settings.kind)()
    given = settings.window is not None or settings.percentiles is not None
    found = settings if given else source.usual_rules(settings)
    return ReadingRules(found.window, found.percentiles)


def _numbers_first(label: tuple[int | str, int]) -> tuple[bool, int, str]:
    value, _ = label
    return (True, 0, value) if isinstance(value, str) else (False, value, "")


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
            faults.append(Fault(here[name], IMAGE_ALONE if missing == "mask" else MASK_ALONE, PAIR_FIX))
        else:
            faults.append(unreadable(partner, missing))
    return faults


def missing(table: Path, name: str) -> Fault:
    """Returns the fault of an image that a table names and that is not there."""
    return Fault(table, MISSING, "Complete the download, or set partial: true for the source.", name)


def unnamed(table: Path, name: str) -> Fault:
    """Returns the fault of an image that is there and has no row."""
    return Fault(table, UNNAMED, "Add a row for each, or take them out.", name)


def left_out(table: Path, name: str, word: str) -> Fault:
    """Returns the doubt about a row whose split is none."""
    return Fault(table, LEFT_OUT, "Write train, val or test where it is to be used, else gap.", f"{name} ('{word}')")


def unused(table: Path, column: str) -> Fault:
    """Returns the doubt about a column that may say which images belong together."""
    return Fault(table, UNUSED, "If it says which images belong to one patient, call it patient.", column)
