"""Any images whose findings stand in a table: ``labels.csv``, one row an image, one column a finding.

Columns: ``image`` (path from the folder, or from its ``images/``); ``patient`` (optional); ``split`` (optional: train,
val or test, anything else leaves the image out); and any others, each a finding with 0 or 1.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medarts.data.sources.labelled import ALONE, LEFT_OUT, NO_PATIENT, TWICE, image_names, missing, unnamed
from medarts.data.sources.pairing import Fault, Listing, Pair, rules_of
from medarts.data.splits import split_named, without_suffix
from medarts.data.tables import Table, read_table
from medarts.errors import DataError
from medarts.recipe import SourceSettings

NAME = "labels.csv"
IMAGES = "images"
BAD_VALUE = "value that is neither 0 nor 1"
LAYOUT = f"{NAME} with the columns image, patient, split and one a finding; images in {IMAGES}/ or beside it"

_RESERVED = ("image", "patient", "split")
_VALUES = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


@dataclass(frozen=True, slots=True)
class _Columns:
    """The header of the table: the names of the reserved columns as written, None without one; and the findings."""

    image: str
    patient: str | None
    split: str | None
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table: its line in the file and its cells by column; overlong with more cells than the header."""

    line: int
    cells: dict[str, str]
    overlong: bool


@dataclass(slots=True)
class _Folders:
    """The images of a data set; every folder is listed once, when it is first asked for."""

    root: Path
    names: dict[Path, set[str]] = field(default_factory=dict)

    def find(self, name: str) -> Path | None:
        """Returns the file of this name below the folder or its ``images/``, None where it is not or leads out."""
        if not _is_inside(name):
            return None
        for path in (self.root / name, self.root / IMAGES / name):
            if path.parent not in self.names:
                self.names[path.parent] = image_names(path.parent)
            if path.name in self.names[path.parent]:
                return path
        return None

    def others(self, used: set[Path]) -> list[str]:
        """Returns the images of the folders listed that are not ``used``, as paths from the root."""
        found = (folder / name for folder, names in self.names.items() for name in names)
        return sorted(path.relative_to(self.root).as_posix() for path in found if path not in used)


def recognises(path: Path) -> bool:
    """Tells whether a folder has this layout; one with masks is taken for these."""
    return (path / NAME).is_file() and not (path / "masks").is_dir()


def find(settings: SourceSettings) -> Listing:
    """Lists the images by their paths without suffix; without the column patient each is its own.

    The split is that of the column, unless there is a ``splits.csv`` to say it, or the column is empty. Rows that it
    leaves out are not looked at further.

    Raises:
        DataError: the table cannot be read, has no rows, no column image, no finding, a column twice or one without a
            name, or leaves every image out.
    """
    table = read_table(settings.path / NAME)
    columns = _columns(table)
    rows = _rows(table)
    split = None if (settings.path / "splits.csv").exists() else columns.split
    if split and not any(row.cells[split] for row in rows):
        split = None
    kept = [row for row in rows if split is None or split_named(row.cells[split])]
    if not kept:
        raise DataError(f"{table.path} leaves every image out.", fix="Write train, val or test in the column split.")
    folders = _Folders(settings.path)
    pairs: list[Pair] = []
    faults = _repeated(kept, columns, table.path) + _doubts(rows, columns, split, table.path)
    for row in kept:
        image, wrong = _image(row, columns, folders, table.path)
        wrong += _wrong_cells(row, columns, table.path)
        faults += wrong
        if image and not wrong:
            pairs.append(_pair(row, columns, image, split))
    named = {path for row in rows if (path := folders.find(row.cells[columns.image]))}
    faults += [unnamed(table.path, name) for name in folders.others(named)]
    return Listing(tuple(pairs), tuple(faults), rules_of(settings), columns.findings)


def _doubts(rows: Iterable[_Row], columns: _Columns, split: str | None, table: Path) -> list[Fault]:
    """Returns what may be meant, and often is not."""
    fix = "Write train, val or test where it is to be used."
    found = [
        Fault(table, LEFT_OUT, fix, f"{row.cells[columns.image]} ('{row.cells[split]}')")
        for row in rows
        if split is not None and split_named(row.cells[split]) is None
    ]
    if columns.patient is None:
        fix = "Add the column patient: else images of one patient can come into several splits."
        found.append(Fault(table, ALONE, fix, "every image counts as a patient of its own"))
    return found


def _columns(table: Table) -> _Columns:
    table.require((), fix="Write one row an image.")
    if "" in table.columns:
        where = table.columns.index("") + 1
        raise DataError(f"{table.path} has a column without a name, the {where}.", fix="Name it or take it out.")
    reserved = {name: [column for column in table.columns if column.lower() == name] for name in _RESERVED}
    twice = [name for name, count in Counter(table.columns).items() if count > 1]
    twice += [name for name, columns in reserved.items() if len(columns) > 1]
    if twice:
        raise DataError(f"{table.path} has the column {twice[0]} twice.", fix="Keep one of them.")
    findings = tuple(column for column in table.columns if column.lower() not in _RESERVED)
    if not reserved["image"]:
        raise DataError(
            f"{table.path} has no column image.", fix="Add it, with the path of every image from the folder."
        )
    if not findings:
        raise DataError(f"{table.path} has no finding.", fix="Add a column for each, with 0 or 1.")
    image, patient, split = (next(iter(reserved[name]), None) for name in _RESERVED)
    return _Columns(str(image), patient, split, findings)


def _rows(table: Table) -> list[_Row]:
    rows = zip(*(table.cells[column] for column in table.columns), strict=True)
    return [
        _Row(line, dict(zip(table.columns, cells, strict=True)), overlong=line in table.overlong)
        for line, cells in zip(table.lines, rows, strict=True)
    ]


def _pair(row: _Row, columns: _Columns, image: Path, split: str | None) -> Pair:
    key = without_suffix(row.cells[columns.image])
    patient = row.cells[columns.patient] if columns.patient else key
    shown = tuple(finding for finding in columns.findings if _VALUES[row.cells[finding].lower()])
    return Pair(key, image, None, patient, split_named(row.cells[split]) if split else None, findings=shown)


def _image(row: _Row, columns: _Columns, folders: _Folders, table: Path) -> tuple[Path | None, list[Fault]]:
    """Returns the file of a row, or what keeps it from having one."""
    name = row.cells[columns.image]
    if not _is_inside(name):
        fix = "Write the path of a file from the folder."
        return None, [Fault(table, "image outside the folder", fix, f"row {row.line}: '{name}'")]
    image = folders.find(name)
    return image, [] if image else [missing(table, name)]


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _wrong_cells(row: _Row, columns: _Columns, table: Path) -> list[Fault]:
    faults = [
        Fault(
            table, BAD_VALUE, "Write 0 or 1 for every finding.", f"row {row.line}, column {name}: '{row.cells[name]}'"
        )
        for name in columns.findings
        if row.cells[name].lower() not in _VALUES
    ]
    if columns.patient and not row.cells[columns.patient]:
        faults.append(Fault(table, NO_PATIENT, f"Fill in the column {columns.patient}.", f"row {row.line}"))
    if row.overlong:
        fix = "Put cells with commas in quotes."
        faults.append(Fault(table, "row with more cells than the header", fix, f"row {row.line}"))
    return faults


def _repeated(rows: Iterable[_Row], columns: _Columns, table: Path) -> list[Fault]:
    first: dict[str, _Row] = {}
    return [
        Fault(table, TWICE, "Keep one of the rows.", f"{row.cells[columns.image]} in row {row.line}")
        for row in rows
        if first.setdefault(without_suffix(row.cells[columns.image]), row) is not row
    ]
