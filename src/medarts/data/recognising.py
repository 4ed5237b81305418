"""Which data set a folder is, and which of its files are masks.

The first of the registered sources that knows the layout says it. Nothing here needs PyTorch, so that networks can be
used where it is not installed.
"""

from collections.abc import Iterator
from pathlib import Path

from medarts.config import SourceSettings, Task
from medarts.data.formats import suffix_of
from medarts.data.layouts import look_like_masks
from medarts.data.layouts.groups import named_as_masks
from medarts.data.naming import images_below
from medarts.data.sources import MASK_ALONE, AmbiguousLayoutError, Source
from medarts.data.splits import natural
from medarts.errors import DataError
from medarts.registry import sources as registered
from medarts.system.console import counted, told_if_long

_NEEDED = (
    "Images need masks, such as those of the same names in a folder masks, or findings, such as a labels.csv with the "
    "columns image, patient and one of 0 and 1 for each finding, or a folder for each diagnosis. Layouts in the guide "
    "has all that is read."
)

_NAMED = 3
"""Folders and tables that an error names."""

_SEVERAL = 4
"""Files that look like masks, of which a single one may be an image without contrast."""


def is_list(path: Path) -> bool:
    """Tells whether a path is that of a file that can name the images of a data set."""
    return suffix_of(path) in (".csv", ".tsv", ".json") and path.is_file()


def recognise(path: Path, *, task: Task | None = None) -> tuple[SourceSettings, ...]:
    """Returns the settings that read a folder, or a list of images, recognised by its layout: usually one source.

    Args:
        path: the folder or list.
        task: what its images are for. Default: either.

    Raises:
        DataError: there is no such folder, or it has none of the known layouts.
        AmbiguousLayoutError: it can be read in several ways.
    """
    if path.is_file() and not is_list(path):
        raise DataError(f"{path} is a file.", fix="Give the folder of the data set, or a list in CSV, TSV or JSON.")
    if not path.exists():
        raise DataError(f"There is no folder {path}.", fix="Correct the path.")
    with told_if_long(f"recognising the layout of {path}"):
        return _recognised(path, task)


def _recognised(path: Path, task: Task | None) -> tuple[SourceSettings, ...]:
    every: list[Source] = [registered.get(kind)() for kind in sorted(registered.names())]
    fitting = [source for source in every if source.takes_files or path.is_dir()]
    ways: list[tuple[tuple[SourceSettings, ...], str]] = []
    for source in sorted(fitting, key=lambda source: source.generality):
        try:
            found = source.recognise(path)
        except AmbiguousLayoutError as ambiguous:  # unless another source knows what the folder is
            ways += zip(ambiguous.choices, ambiguous.told, strict=True)
            continue
        if found and task in (None, found[0].task) and (task or not ways or found[0].task == ways[0][0][0].task):
            return found
    ways = [(choice, told) for choice, told in ways if task in (None, choice[0].task)]
    if ways:
        raise AmbiguousLayoutError(path, [choice for choice, _ in ways], [told for _, told in ways])
    layout = f"{path} has no known layout{f' for {task}' if task else ''}"
    raise DataError(f"{layout}; it holds {_held(path)}." if path.is_dir() else f"{layout}.", fix=_NEEDED)


def _held(path: Path) -> str:
    """Returns what a folder holds, in words: its images by the folders that they lie in, and its tables."""
    images = [file.relative_to(path) for files in images_below(path).values() for file in files]
    words = "no image of a kind that is read (PNG, JPEG, BMP, TIFF, DICOM, NIfTI)"
    if images:
        folders = [
            f"{name}/" for name in sorted({file.parts[0] for file in images if len(file.parts) > 1}, key=natural)
        ]
        more = f" and {len(folders) - _NAMED} more folders" if len(folders) > _NAMED else ""
        words = counted(len(images), "image") + (f" in {', '.join(folders[:_NAMED])}{more}" if folders else "")
    tables = [file.name for file in sorted(path.iterdir()) if is_list(file)][:_NAMED]
    return f"{words}, and {', '.join(tables)}" if tables else words


def masks_below(folder: Path) -> frozenset[Path]:
    """Returns the files of a folder that are masks of others in it, by a layout whose words say so, or whose files do.

    Files say so where there are several masks that have few values each, and images that do not.

    Where it can be read in several ways, these are the files that are masks in one way and images in none; where it has
    no known layout, there are none.
    """
    try:
        ways = [recognise(folder)]
    except AmbiguousLayoutError as ambiguous:
        ways = [*ambiguous.choices]
    except DataError:
        return frozenset()
    images: set[Path] = set()
    masks: set[Path] = set()
    for settings in (each for way in ways for each in way):
        pairs = list(_pairs(settings))
        pictured = {image for image, _ in pairs if image is not None}
        drawn = {mask for _, mask in pairs if mask is not None}
        images |= pictured
        image, mask = (str(getattr(settings, name, "")) for name in ("image", "mask"))
        looks = [look_like_masks(folder, sorted(paths)) for paths in (drawn, pictured)]
        if named_as_masks(mask, beside=image) or (len(drawn) >= _SEVERAL and looks == [True, False]):
            masks |= drawn
    return frozenset(masks - images)


def _pairs(settings: SourceSettings) -> Iterator[tuple[Path | None, Path | None]]:
    """Yields the images of a source with each of their masks, and the masks that have no image."""
    source: Source = registered.get(settings.kind)()
    try:
        listing = source.find(settings)
    except DataError:  # of a table or folder, which is no matter where images are only predicted
        return
    for pair in listing.pairs:
        yield from ((pair.image, path) for _, path in pair.class_masks)
        yield pair.image, pair.mask
    yield from ((None, fault.file) for fault in listing.faults if fault.problem == MASK_ALONE)
