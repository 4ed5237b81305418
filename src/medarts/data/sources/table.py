"""Any images whose findings are in a table: ``labels.csv``, one row an image, one column a finding.

Columns: ``image`` (path from the folder, or from its ``images/``); ``patient`` (optional); ``split`` (optional: train,
val or test, anything else leaves the image out); and any others, each a finding with 0 or 1. In place of these a column
of labels may name what an image shows, such as "Mass|Nodule" or "No Finding".

Tables as they are published are read by the settings of the source: ``file`` is their name, ``columns`` says which
columns these are, and ``uncertain`` and ``blank`` what -1 and an empty cell mean.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from medarts.config import FindingSourceSettings
from medarts.config.data import IGNORED
from medarts.config.section import LATER, Section, Text
from medarts.data.contents import composed, file_named, stem_of
from medarts.data.formats import is_image
from medarts.data.naming import IMAGES, NamedImages, is_inside, tables_given
from medarts.data.sources import (
    ALONE,
    NO_PATIENT,
    RENAMED,
    TWICE,
    AmbiguousLayoutError,
    Fault,
    Listing,
    Pair,
    Source,
    domain_of,
    left_out,
    missing,
    percentiles_of,
    register_source,
    rules_of,
    unnamed,
    unreadable,
    unused,
)
from medarts.data.splits import (
    SPLITS_CSV,
    group_columns,
    is_doubtful,
    split_named,
    unused_groups,
    without_splits,
    without_suffix,
)
from medarts.data.tables import Table, read_table
from medarts.errors import DataError, did_you_mean
from medarts.system.console import inform

NAME = "labels.csv"
BAD_VALUE = "value that is neither 0 nor 1"
LAYOUT = f"{NAME} with the columns image, patient, split and one a finding; images in {IMAGES}/ or beside it"

LABELS = ("Finding Labels", "labels", "findings")
"""Names of a column of labels, in any case."""

_SEPARATORS = ("|", ";", ",")
"""What may stand between labels; the first of these that is in the column does."""

_NOTHING = frozenset({"", "no finding", "no findings", "none", "normal"})
"""Labels of images that show nothing."""

_UNCERTAIN = ("-1", "-1.0")
_OF_WORDS = {"negative": "0", "positive": "1"}

_RESERVED = ("image", "split")
_IMAGE_COLUMNS = {"image", "imageid", "imageindex", "imagename", "imagepath", "path", "file", "filename", "dicomid"}
"""Names of a column of images in published tables, without capitals and separators."""

_TABLES = (".csv", ".tsv")
_FIRST = 5
"""Images of a table that have to be in a folder for the table to be that of the folder."""

_VALUES = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_ABOUT_IMAGES = ("image", "patient", "split")
_ALSO_FINDINGS = ("case", "lesion")  # names of patients, unless the column holds 0 and 1 alone


@dataclass(frozen=True, slots=True)
class _Columns:
    """The header of the table, and the cells of findings that count nothing."""

    image: str
    patient: str | None
    split: str | None
    findings: tuple[str, ...]
    wanted: tuple[str, ...]
    unknown: frozenset[str]

    def is_sound(self, cell: str) -> bool:
        """Whether a cell says that an image shows a finding, or does not, or that this is unknown."""
        return cell.lower() in _VALUES or cell in self.unknown


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table: its line in the file and its cells by column; overlong with more cells than the header."""

    line: int
    cells: dict[str, str]
    overlong: bool


class ColumnSettings(Section):
    """What the columns of a table are called.

    Attributes:
        image: of the path or name of the image. Default: image.
        patient: of the patient. Default: patient, subject_id and the like.
        split: of the split. Default: split.
        labels: of the labels that an image has, in one cell. Default: Finding Labels, labels or findings.
    """

    image: Text | None = None
    patient: Text | None = None
    split: Text | None = None
    labels: Text | None = None


class TableSettings(FindingSourceSettings):
    """Images with a table of findings; see ``FindingSourceSettings``.

    Attributes:
        file: name of the table in the folder.
        columns: names of its columns, such as {image: Path, patient: subject_id}.
        separator: what stands between the labels of a cell. Default: the first of | ; , that the column holds.
        uncertain: what a finding of -1 counts as, as in CheXpert: negative, positive, or ignore, by which the image
            stays, and neither loss nor scores count this finding of it. Default: -1 is refused.
        blank: what an empty cell counts as: negative (not mentioned), or ignore. Default: negative where uncertain is
            given, else it is refused.
    """

    kind: Literal["table"] = "table"
    file: Annotated[Text, LATER] = NAME
    columns: Annotated[ColumnSettings, LATER] = ColumnSettings()
    separator: Annotated[Text | None, LATER] = None
    uncertain: Annotated[Literal["negative", "positive", "ignore"] | None, LATER] = None
    blank: Annotated[Literal["negative", "ignore"] | None, LATER] = None

    @property
    def own_tables(self) -> tuple[str, ...]:
        """The table that it reads."""
        return (self.file,)


@register_source("table", settings=TableSettings)
class TableSource(Source):
    """Images by their paths without suffix; without the column patient each is its own.

    The split is that of the column, unless there is a ``splits.csv`` to say it, or the column is empty. Rows that it
    leaves out are not looked at further.
    """

    layout = LAYOUT
    tables = (NAME,)
    takes_files = True
    generality = 1
    split_fix = f"Write {{split}} in the column split of {NAME} for some patients."

    def recognise(self, path: Path) -> tuple[TableSettings, ...]:
        root, files = tables_given(path, _TABLES)
        if (root / "masks").is_dir():  # with masks it is taken for these
            return ()
        usual = file_named(root, NAME)
        if usual is not None and usual.is_file() and path in (root, usual):
            return (TableSettings(path=root, name=domain_of(root), percentiles=percentiles_of(root)),)
        found = [settings for file in files if not _is_splits(file) and (settings := _by_columns(root, file))]
        if len(found) > 1:
            told = [f"the table {settings.file}" for settings in found]
            raise AmbiguousLayoutError(root, [(settings,) for settings in found], told)
        return tuple(found)

    def read_as(self, settings: TableSettings, others: Sequence[TableSettings]) -> TableSettings:
        """Returns settings by which cells mean what they do in a recipe, if all of its tables are read in one way."""
        fields = ("separator", "uncertain", "blank")
        ways = {tuple(getattr(other, name) for name in fields) for other in others}
        own = settings.uncertain
        if len(ways) == 1 and ways != {(None, None, None)}:
            settings = settings.model_copy(update=dict(zip(fields, *ways, strict=True)))
        if own is not None:  # there are such cells
            meanings = _meanings(settings)
            words = [f"{cell or 'an empty cell'}: {meanings[cell]}" for cell in ("-1", "") if cell in meanings]
            inform(f"{settings.domain}: cells of {settings.file} are read as {{{', '.join(words)}}}.")
        return settings

    def findings_in(self, settings: TableSettings) -> tuple[str, ...] | None:
        path = file_named(settings.path, settings.file)
        table = None if path is None else read_table(path)
        return None if table is None or _labels_of(table, taken=()) else _findings_in(table) or None

    def find(self, settings: TableSettings, findings: tuple[str, ...] | None = None) -> Listing:
        table = _as_written_here(
            read_table(file_named(settings.path, settings.file) or settings.path / settings.file), settings
        )
        columns = _columns(table, findings, unknown=_unknown_cells(settings))
        rows = _rows(table)
        split = None if file_named(settings.path, SPLITS_CSV) else columns.split
        if split and not any(row.cells[split] for row in rows):
            split = None
        kept = [row for row in rows if split is None or split_named(row.cells[split])]
        if not kept and split is not None:
            raise without_splits(table.path, (row.cells[split] for row in rows))
        files = NamedImages(settings.path, table.cells[columns.image])
        pairs, faults = _pairs(kept, columns, files, table.path, split)
        named = {path for row in rows if (path := files.find(row.cells[columns.image]))}
        faults = _wrong_values(kept, columns, table.path) + faults + _doubts(rows, columns, split, table)
        faults += [unnamed(table.path, name) for name in files.others(named)]
        return Listing(tuple(pairs), (*faults, *files.passed_over(named)), rules_of(settings), columns.findings)


def _by_columns(root: Path, file: Path) -> TableSettings | None:
    """Returns the settings of a table that names images of a folder and what they show, as published ones do."""
    try:
        table = read_table(file)
    except DataError:
        return None
    image = _image_column(table, root)
    if image is None:
        return None
    labels = _labels_of(table, taken=())
    findings = () if labels else _findings_in(table)
    several = None if labels or findings else _several_in_a_cell(table)
    if not (labels or findings or several):
        return None
    uncertain = any(cell in ("", *_UNCERTAIN) for name in findings for cell in table.cells[name])
    return TableSettings(
        path=root,
        name=domain_of(root),
        percentiles=percentiles_of(root),
        file=file.name,
        columns=ColumnSettings(image=None if image.casefold() == "image" else image, labels=several),
        uncertain="negative" if uncertain else None,
    )


def _several_in_a_cell(table: Table) -> str | None:
    """Returns the only column with several words in a cell, such as "Mass|Nodule", whatever it is called."""
    found = [name for name in table.columns if any(_SEPARATORS[0] in cell for cell in table.cells[name])]
    return found[0] if len(found) == 1 else None


def _image_column(table: Table, root: Path) -> str | None:
    """Returns the column of the images: one of a usual name, else the first whose cells differ and name images.

    Names with suffixes come before such as "17", which may be an age, too. None where the images are not there.
    """
    usual = [name for name in table.columns if re.sub(r"[\W_]", "", name).casefold() in _IMAGE_COLUMNS][:1]
    others = [name for name in table.columns if 1 < len(table.lines) == len(set(table.cells[name]))]
    others.sort(key=lambda name: not is_image(Path(table.cells[name][0])))
    for name in usual or others:
        files = NamedImages(root, table.cells[name])
        if table.lines and all(files.find(cell) for cell in table.cells[name][:_FIRST]):
            return name
    return None


def _findings_in(table: Table) -> tuple[str, ...]:
    """Returns the columns most cells of which, apart from empty ones, are 0, 1 or -1."""
    about = {*group_columns(table.columns), *(name for name in table.columns if name.casefold() in _ABOUT_IMAGES)}
    found = []
    for name in (name for name in table.columns if name and name not in about):
        cells = [cell for cell in table.cells[name] if cell]
        if 2 * sum(cell.lower() in _VALUES or cell in _UNCERTAIN for cell in cells) > len(cells):
            found.append(name)
    return tuple(found)


def _is_splits(file: Path) -> bool:
    return file.name.casefold() == SPLITS_CSV


def _as_written_here(table: Table, settings: TableSettings) -> Table:
    """Returns a published table as one with the columns image, patient and split, and one for each finding with 0 or 1.

    Raises:
        DataError: it lacks a column that the settings name, or no column says what an image shows.
    """
    given = {name: column for name, column in settings.columns if column is not None}
    found = {name: _named(table, column, field=f"columns.{name}") for name, column in given.items()}
    labels = found.pop("labels", None) or _labels_of(table, taken=found.values())
    table = _renamed_columns(table, {column: name for name, column in found.items()})
    if labels is not None:
        return _with_findings_of(table, labels, separator=settings.separator)
    return _decided(table, settings)


def _named(table: Table, column: str, *, field: str) -> str:
    found = table.column(column)
    if found is None:
        fix = f"Correct {field} of the source. {did_you_mean(column, table.columns)}"
        raise DataError(f"{table.path} has no column {column}.", fix=fix)
    return found


def _labels_of(table: Table, *, taken: Iterable[str]) -> str | None:
    """Returns the column of labels, by its name; None where that is a finding with 0 and 1, or there is none."""
    column = table.column(*LABELS)
    if column is None or column in taken or all(cell.lower() in _VALUES for cell in table.cells[column]):
        return None
    return column


def _renamed_columns(table: Table, names: Mapping[str, str]) -> Table:
    """Returns a table with other names of some columns; one that has such a name by itself loses it."""
    kept = [column for column in table.columns if column in names or column.casefold() not in names.values()]
    cells = {names.get(column, column): table.cells[column] for column in kept}
    return replace(table, columns=tuple(names.get(column, column) for column in kept), cells=cells)


def _with_findings_of(table: Table, column: str, *, separator: str | None) -> Table:
    """Returns a table with a column for each label in place of the column of labels, in alphabetical order.

    Other columns than those of image, patient and split tell something else, and are left out.
    """
    cells = table.cells[column]
    mark = separator or next((each for each in _SEPARATORS if any(each in cell for cell in cells)), _SEPARATORS[0])
    rows = [_labels_in(cell, mark) for cell in cells]
    findings = sorted(set().union(*rows)) if rows else []
    groups = group_columns(table.columns)
    kept = [name for name in table.columns if name.casefold() in (*_RESERVED, "patient") or name in groups]
    own = {name: table.cells[name] for name in kept}
    of_findings = {name: ["1" if name in row else "0" for row in rows] for name in findings}
    return replace(table, columns=(*kept, *findings), cells=own | of_findings)


def _labels_in(cell: str, separator: str) -> frozenset[str]:
    """Returns the labels of a cell, also of one written as a list of Python, as those of PadChest are.

    >>> sorted(_labels_in("['pleural effusion', 'nodule']", ","))
    ['nodule', 'pleural effusion']
    """
    inner = cell[1:-1] if cell.startswith("[") and cell.endswith("]") else cell
    labels = (label.strip().strip("'\"").strip() for label in inner.split(separator))
    return frozenset(label for label in labels if not shows_nothing(label))


def shows_nothing(label: str) -> bool:
    """Tells whether a label is that of images that show nothing.

    >>> shows_nothing("No_Finding"), shows_nothing("Normal"), shows_nothing("Nodule")
    (True, True, False)
    """
    return re.sub("[-_ ]+", " ", label).casefold() in _NOTHING


def _meanings(settings: TableSettings) -> dict[str, str]:
    """Returns what the cells of findings beside 0 and 1 count as, in the words of the settings."""
    blank = settings.blank or ("negative" if settings.uncertain else None)
    meanings = {} if settings.uncertain is None else dict.fromkeys(_UNCERTAIN, str(settings.uncertain))
    return meanings if blank is None else meanings | {"": str(blank)}


def _unknown_cells(settings: TableSettings) -> frozenset[str]:
    return frozenset(cell for cell, meaning in _meanings(settings).items() if meaning == IGNORED)


def _decided(table: Table, settings: TableSettings) -> Table:
    """Returns a table with 0 or 1 for what is uncertain or not mentioned, unless that is ignored."""
    decided = {cell: _OF_WORDS[word] for cell, word in _meanings(settings).items() if word in _OF_WORDS}
    if not decided:
        return table
    about = {*group_columns(table.columns), *(name for name in table.columns if name.casefold() in _ABOUT_IMAGES)}
    cells = {
        name: column if name in about else [decided.get(cell, cell) for cell in column]
        for name, column in table.cells.items()
    }
    return replace(table, cells=cells)


def _pairs(
    rows: Iterable[_Row], columns: _Columns, files: NamedImages, table: Path, split: str | None
) -> tuple[list[Pair], list[Fault]]:
    """Returns the rows whose image is there and whose cells are sound, and what is wrong with the others."""
    pairs: list[Pair] = []
    faults: list[Fault] = []
    first: dict[str | Path, _Row] = {}
    for row in rows:
        name = row.cells[columns.image]
        image, wrong = _image(row, columns, files, table)
        wrong += _wrong_row(row, columns, table)
        key = _key(name, image)
        if any(first.setdefault(same, row) is not row for same in (key, image) if same):
            wrong.append(Fault(table, TWICE, "Keep one of the rows.", f"{name} in row {row.line}"))
        faults += wrong
        if image and not wrong and all(columns.is_sound(row.cells[finding]) for finding in columns.wanted):
            pairs.append(_pair(key, row, columns, image, split))
            faults += _renamed(name, image, table)
    return pairs, faults


def _doubts(rows: Iterable[_Row], columns: _Columns, split: str | None, table: Table) -> list[Fault]:
    """Returns what may be meant, and often is not."""
    found = [
        left_out(table.path, row.cells[columns.image], row.cells[split])
        for row in rows
        if split is not None and is_doubtful(row.cells[split])
    ]
    used = {columns.image, columns.split, *columns.wanted}
    found += [unused(table.path, column) for column in unused_groups(table, used, columns.patient)]
    if columns.patient is None:
        fix = "Add the column patient: else images of one patient can come into several splits."
        found.append(Fault(table.path, ALONE, fix, "every image counts as a patient of its own"))
    return found


def _columns(table: Table, wanted: tuple[str, ...] | None, *, unknown: frozenset[str]) -> _Columns:
    table.require((), fix="Write one row an image.")
    if "" in table.columns:
        where = table.columns.index("") + 1
        raise DataError(f"{table.path} has a column without a name, the {where}.", fix="Name it or take it out.")
    twice = [name for name, count in Counter(table.columns).items() if count > 1]
    if twice:
        raise DataError(f"{table.path} has the column {twice[0]} twice.", fix="Keep one of them.")
    image, split = (table.column(name) for name in _RESERVED)
    table.column("patient")
    if image is None:
        table.require(("image",), fix="Add it, with the path of every image from the folder.")
    groups = [column for column in group_columns(table.columns) if not _is_finding(column, table)]
    findings = tuple(column for column in table.columns if column not in (image, split, *groups))
    if not findings:
        raise DataError(f"{table.path} has no finding.", fix="Add a column for each, with 0 or 1.")
    looked_for = findings if wanted is None else tuple(name for name in findings if name in wanted)
    return _Columns(str(image), next(iter(groups), None), split, findings, looked_for, unknown)


def _is_finding(column: str, table: Table) -> bool:
    return column.casefold() in _ALSO_FINDINGS and all(cell.lower() in _VALUES for cell in table.cells[column])


def _rows(table: Table) -> list[_Row]:
    rows = zip(*(table.cells[column] for column in table.columns), strict=True)
    return [
        _Row(line, dict(zip(table.columns, cells, strict=True)), overlong=line in table.overlong)
        for line, cells in zip(table.lines, rows, strict=True)
    ]


def _key(name: str, image: Path | None) -> str:
    """Returns the key of a sample: the path that the table gives, with the file's own stem where there is one."""
    if image is None:
        return without_suffix(name)
    spelled = name if composed(image.name) == PurePosixPath(name).name else name.replace("\\", "/")
    return str(PurePosixPath(spelled).with_name(stem_of(image)))


def _pair(key: str, row: _Row, columns: _Columns, image: Path, split: str | None) -> Pair:
    patient = row.cells[columns.patient] if columns.patient else key
    cells = {finding: row.cells[finding] for finding in columns.wanted}
    shown = tuple(finding for finding, cell in cells.items() if _VALUES.get(cell.lower(), False))
    unknown = tuple(finding for finding, cell in cells.items() if cell in columns.unknown)
    of_split = split_named(row.cells[split]) if split else None
    return Pair(key, image, None, patient, of_split, findings=shown, unknown=unknown)


def _image(row: _Row, columns: _Columns, files: NamedImages, table: Path) -> tuple[Path | None, list[Fault]]:
    """Returns the file of a row, or what keeps it from having one."""
    name = row.cells[columns.image]
    if not is_inside(name):
        fix = "Write the path of a file from the folder."
        return None, [Fault(table, "image outside the folder", fix, f"row {row.line}: '{name}'")]
    image = files.find(name)
    if image:
        return image, []
    other = files.unread(name)
    return None, [unreadable(other, "image") if other else missing(table, name)]


def _renamed(name: str, image: Path, table: Path) -> list[Fault]:
    """Returns a doubt where a row has another name than its file."""
    if composed(image.name) in (PurePosixPath(name).name, PurePosixPath(name.replace("\\", "/")).name):
        return []
    return [
        Fault(table, RENAMED, "Check that it is the image meant, and correct the table.", f"{name} is {image.name}")
    ]


def _wrong_values(rows: Iterable[_Row], columns: _Columns, table: Path) -> list[Fault]:
    """Returns one fault for every value and column: a table of many rows often has the same in all of them."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        for name in columns.wanted:
            if not columns.is_sound(row.cells[name]):
                found.setdefault((name, row.cells[name]), []).append(row.line)
    fix = "Write 0 or 1 for every finding, or name those to use in data.findings."
    if any(value in ("", *_UNCERTAIN) for _, value in found):
        fix += " Where -1 is uncertain and an empty cell not mentioned, set uncertain: negative (or positive, ignore)."
    return [
        Fault(table, BAD_VALUE, fix, f"{_rows_named(lines)}, column {name}: '{value}'", len(lines))
        for (name, value), lines in found.items()
    ]


def _rows_named(lines: list[int]) -> str:
    return f"row {lines[0]}" + (f" and {len(lines) - 1:,} more" if len(lines) > 1 else "")


def _wrong_row(row: _Row, columns: _Columns, table: Path) -> list[Fault]:
    faults = []
    if columns.patient and not row.cells[columns.patient]:
        faults.append(Fault(table, NO_PATIENT, f"Fill in the column {columns.patient}.", f"row {row.line}"))
    if row.overlong:
        fix = "Put cells with commas in quotes."
        faults.append(Fault(table, "row with more cells than the header", fix, f"row {row.line}"))
    return faults
