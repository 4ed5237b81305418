"""What the layouts share whose table says what the images show: their faults, and finding the files."""

from pathlib import Path

from medarts.data.sources.contents import Contents, contents_of
from medarts.data.sources.pairing import Fault

MISSING = "image not in the folder"
UNNAMED = "image that the table does not name"
LEFT_OUT = "row left out by its split"
ALONE = "images without patients"
TWICE = "image named twice"
NO_PATIENT = "row without a patient"
RENAMED = "image named otherwise than its file"
UNUSED = "column that is not used"


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


def listed(folder: Path) -> Contents:
    """Lists a folder; empty where there is no such folder."""
    return contents_of(folder) if folder.is_dir() else Contents(folder, ())
