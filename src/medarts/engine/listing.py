"""manifest.csv of a run: what it says of every image, and how the images of today differ."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medarts.config import SPLITS
from medarts.errors import RunError
from medarts.system.files import open_table

ImageName = tuple[str, str]
"""Domain and key of an image."""

Listing = dict[ImageName, dict[str, str]]
"""The cells of every image by their columns."""

_ABOUT = ("split", "patient", "findings")
_FILES = {"image": "image_digest", "mask": "mask_digest", "more": "more_digests"}
_MOST = 3
"""Names of one message."""


def read_listing(path: Path) -> Listing:
    """Reads a file that ``Manifest.to_csv`` has written.

    Raises:
        RunError: it is not there, or is not one that a run begins with.
    """
    try:
        with open_table(path) as file:
            return listing_of(file)
    except FileNotFoundError:
        raise RunError(f"{path} is missing.", fix="Copy the run again.") from None
    except (OSError, KeyError, ValueError, csv.Error) as error:
        reason = f"it has no column {error}" if isinstance(error, KeyError) else str(error)
        raise RunError(f"{path} is damaged ({reason}).", fix="Copy the run again.") from error


def listing_of(lines: Iterable[str]) -> Listing:
    """Returns what the lines of a manifest say.

    Raises:
        KeyError: a column is missing.
        ValueError: they are damaged otherwise.
    """
    rows = list(csv.DictReader(lines, strict=True))
    if not rows:
        raise ValueError("no image is listed")
    if any(None in row or None in row.values() for row in rows):
        raise ValueError("a line has more or fewer cells than the first")
    listing = {(row["domain"], row["key"]): row for row in rows}
    if len(listing) < len(rows):
        raise ValueError("an image is listed twice")
    if odd := {about(row)["split"] for row in rows}.difference(SPLITS):
        raise ValueError(f"{min(odd)!r} is not a split")
    return listing


def about(cells: Mapping[str, str]) -> dict[str, str]:
    """Returns what the cells of an image say of it, apart from its files: split, patient, findings, unknown ones."""
    return {name: cells[name] for name in _ABOUT} | {"unknown": cells.get("unknown", "")}


def changed_files(before: Listing, now: Listing) -> list[str]:
    """Returns the files of images in both listings whose contents differ, by the names of the second."""
    found = {
        path: None
        for name, cells in now.items()
        if name in before
        for file, digests in _FILES.items()
        if cells.get(digests) and before[name].get(digests)
        for path, old, new in zip(*map(_each, (cells[file], before[name][digests], cells[digests])), strict=False)
        if old != new
    }
    return list(found)


def _each(cell: str) -> list[str]:
    return cell.split("|")


def change_words(before: Listing, now: Listing) -> str:
    """Returns how two listings differ, as part of a sentence: how many of each kind, and the first three names."""
    changed = changed_files(before, now)
    gone = [name[1] for name in before if name not in now]
    new = [name[1] for name in now if name not in before]
    moved = [name[1] for name in now if name in before and about(now[name]) != about(before[name])]
    parts = [
        counted_names(changed, one="file has other contents", several="files have other contents"),
        counted_names(gone, one="image is gone", several="images are gone"),
        counted_names(new, one="image is new", several="images are new"),
        counted_names(
            moved,
            one="image has another split, patient or findings",
            several="images have other splits, patients or findings",
        ),
    ]
    return "; ".join(part for part in parts if part) or "they are read by other rules"


def counted_names(names: Sequence[str], *, one: str, several: str) -> str:
    """Returns how many names there are and the first three; nothing where there is none.

    >>> counted_names(["a.png", "b.png", "c.png", "d.png"], one="file is new", several="files are new")
    '4 files are new: a.png, b.png, c.png and 1 more'
    """
    if not names:
        return ""
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return f"{len(names):,} {one if len(names) == 1 else several}: {', '.join(names[:_MOST])}{more}"
