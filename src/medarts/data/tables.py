"""CSV and JSON files: splits.csv, labels.csv, lists, and the tables of downloads."""

import codecs
import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medarts.errors import DataError

SEPARATORS = ",;\t"
"""What may separate cells; the header tells which one does."""

_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t])"?[ ,;]*\r?\n', re.IGNORECASE)
_MARK = "\ufeff"  # the byte order mark; a file may have got it twice
_SAVE = 'Save it again as UTF-8 (Excel: "CSV UTF-8", LibreOffice: character set "Unicode (UTF-8)").'


@dataclass(frozen=True, slots=True)
class Table:
    """A read CSV file.

    Attributes:
        path: the file.
        columns: the header.
        cells: column -> its cells, one for every row that is not blank, "" where a row is too short. Of several columns
            of one name it holds the last.
        lines: the line of the file on which each row ends, from 2.
        overlong: the lines of rows with more cells than the header.

    Names and cells are without spaces at their ends and in Unicode's composed form (NFC).
    """

    path: Path
    columns: tuple[str, ...]
    cells: dict[str, list[str]]
    lines: list[int]
    overlong: frozenset[int]

    def require(self, columns: Iterable[str], *, fix: str) -> None:
        """Raises a DataError that names the columns that are not there, or says that there are no rows."""
        missing = [column for column in columns if column not in self.columns]
        if missing:
            found = f"; its columns are {', '.join(self.columns)}" if any(self.columns) else ""
            raise DataError(f"{self.path} has no column {' and '.join(missing)}{found}.", fix=fix)
        if not self.lines:
            raise DataError(f"{self.path} has no rows.", fix=fix)

    def column(self, *names: str) -> str | None:
        """Returns the first column that has one of these names in any case, None without one."""
        for name in names:
            same = [column for column in self.columns if column.casefold() == name.casefold()]
            if len(same) > 1:
                raise DataError(f"{self.path} has the column {name} twice.", fix="Keep one of them.")
            if same:
                return same[0]
        return None


def read_table(path: Path) -> Table:
    """Reads a CSV file with a header, in UTF-8, or in UTF-16 with a byte order mark.

    Cells may be separated by commas, semicolons or tabs. A first line such as "sep=;", which Excel writes, names the
    separator.

    Raises:
        DataError: the file cannot be opened, is not a CSV file in these encodings, or a quote is open or misplaced.
    """
    text = _text(path)
    named = _SEPARATOR_LINE.match(text)
    body = text[named.end() :] if named else text
    before = 1 if named else 0  # lines
    last = 0  # line of the last row that was read
    try:
        separator = named[1] if named else _separator(io.StringIO(body, newline="").readline())
        reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator, strict=True)
        columns = tuple(_cell(name) for name in next(reader, ()))
        last = reader.line_num
        # Columns and not rows: 100,000 lists kept alive cost the garbage collector more than reading them.
        cells: tuple[list[str], ...] = tuple([] for _ in columns)
        lines, overlong = [], []
        for row in reader:
            last = reader.line_num
            if not any(row):
                continue
            lines.append(last + before)
            if len(row) > len(columns):
                overlong.append(last + before)
            for column, cell in zip(cells, row + [""] * (len(columns) - len(row)), strict=False):
                column.append(_cell(cell))
    except csv.Error:
        raise DataError(
            f"{path} has a quote that is not closed, or not at the end of its cell, from line {last + before + 1} on.",
            fix='Close or remove it; a quote within a cell is written twice ("").',
        ) from None
    return Table(path, columns, dict(zip(columns, cells, strict=True)), lines, frozenset(overlong))


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: it is missing or no JSON.
    """
    require_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}.", fix="Restore it.") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}.", fix="Correct or restore it.") from None


def _text(path: Path) -> str:
    """Returns the text of a table, without byte order marks."""
    require_regular(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}.", fix="Restore it.") from None
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not marked and 0 in content[:2]:  # every second byte of Latin letters in UTF-16
        raise DataError(f"{path} is in UTF-16 without a byte order mark, or no text.", fix=_SAVE)
    try:
        text = content.decode("utf-16" if marked else "utf-8").lstrip(_MARK)
    except UnicodeError as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}.", fix=_SAVE) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path} has a NUL character in line {line}.", fix="Remove it, or restore the file.")
    return text


def require_regular(path: Path) -> None:
    """Raises a DataError where a path is there and is not a file: opening a pipe would wait for a writer for ever."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a regular file.", fix="Put a text file there, or take it away.")


def _separator(header: str) -> str:
    """Returns what separates the names of a header: of the known separators the one that gives most of them."""
    return max(SEPARATORS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), ())))


def _cell(text: str) -> str:
    stripped = text.strip()
    return stripped if stripped.isascii() else unicodedata.normalize("NFC", stripped)
