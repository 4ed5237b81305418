"""CSV files: splits.csv, labels.csv and the tables of downloads."""

import codecs
import csv
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medarts.errors import DataError

SEPARATORS = ",;\t"
"""What may stand between cells; the header tells which one does."""


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
        """Returns the first column that has one of these names in any case, None without one.

        Raises:
            DataError: two columns have that name.
        """
        for name in names:
            same = [column for column in self.columns if column.casefold() == name.casefold()]
            if len(same) > 1:
                raise DataError(f"{self.path} has the column {name} twice.", fix="Keep one of them.")
            if same:
                return same[0]
        return None


def read_table(path: Path) -> Table:
    """Reads a CSV file with a header, in UTF-8, or in UTF-16 with a byte order mark.

    Cells may be separated by commas, semicolons or tabs.

    Raises:
        DataError: the file cannot be opened, or is no CSV file in these encodings.
    """
    require_regular(path)
    try:
        with path.open("rb") as binary:
            start = binary.read(2)
        encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        with path.open(newline="", encoding=encoding) as file:
            separator = _separator(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=separator)
            columns = tuple(_cell(name) for name in next(reader, ()))
            # Columns and not rows: 100,000 lists kept alive cost the garbage collector more than reading them.
            cells: tuple[list[str], ...] = tuple([] for _ in columns)
            lines, overlong = [], []
            for row in reader:
                if not any(row):
                    continue
                lines.append(reader.line_num)
                if len(row) > len(columns):
                    overlong.append(reader.line_num)
                for column, cell in zip(cells, row + [""] * (len(columns) - len(row)), strict=False):
                    column.append(_cell(cell))
    except UnicodeError as error:
        raise DataError(
            f"{path} is not a CSV file in UTF-8: {error}.",
            fix='Save it again as UTF-8 (Excel: "CSV UTF-8", LibreOffice: character set "Unicode (UTF-8)").',
        ) from None
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file: {error}.", fix="Save it as UTF-8 text with commas.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}.", fix="Restore it.") from None
    return Table(path, columns, dict(zip(columns, cells, strict=True)), lines, frozenset(overlong))


def require_regular(path: Path) -> None:
    """Raises a DataError where a path is there and is no file: opening a pipe would wait for a writer for ever."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a regular file.", fix="Put a text file there, or take it away.")


def _separator(header: str) -> str:
    """Returns what separates the names of a header: of the known separators the one that gives most of them."""
    return max(SEPARATORS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), ())))


def _cell(text: str) -> str:
    stripped = text.strip()
    return stripped if stripped.isascii() else unicodedata.normalize("NFC", stripped)
