"""What the layouts share whose table says what the images show: their faults, and finding the files."""

import functools
import os
from pathlib import Path

from medarts.data.files import is_image
from medarts.data.sources.pairing import Fault

MISSING = "image not in the folder"
UNNAMED = "image that the table does not name"
LEFT_OUT = "row left out by its split"
ALONE = "images without patients"
TWICE = "image named twice"
NO_PATIENT = "row without a patient"

_LONGEST = len(".nii.gz")


def missing(table: Path, name: str) -> Fault:
    """Returns the fault of an image that a table names and that is not there."""
    return Fault(table, MISSING, "Complete the download, or set partial: true for the source.", name)


def unnamed(table: Path, name: str) -> Fault:
    """Returns the fault of an image that is there and has no row."""
    return Fault(table, UNNAMED, "Add a row for each, or take them out.", name)


def image_names(folder: Path) -> set[str]:
    """Returns the names of the images of a folder, none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if _readable(entry.name) and entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _readable(name: str) -> bool:
    return _ends_readably(name[-_LONGEST:]) and not name.startswith(".")


@functools.lru_cache
def _ends_readably(ending: str) -> bool:
    """Tells whether names with this end are those of images; a folder of 100,000 has few of them."""
    return is_image(Path(f"_{ending}"))
