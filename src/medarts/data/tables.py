"""CSV files: splits.csv, labels.csv and the tables of downloads."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medarts.errors import DataError


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

    Names and cells are without spaces at their ends.
    """

    path: Path
    columns: tuple[str, ...]
    cells: dict[str, list[str]]
    lines: list[int]
    overlong: frozenset[int]

    def require(self, columns: Iterable[str], *, fix: str) -> None:
        """Raises a DataError that names the columns that are not there, or says that there are no rows."""
        missing = [column for column in columns if column not in self.columns]
        if missing or not self.lines:
            what = f"no column {' and '.join(missing)}" if missing else "no rows"
            raise DataError(f"{self.path} has {what}.", fix=fix)


def read_table(path: Path) -> Table:
    """Reads a CSV file with a header.

    Raises:
        DataError: the file cannot be opened, or is no CSV file in UTF-8.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            columns = tuple(name.strip() for name in next(reader, ()))
            # Columns and not rows: 100,000 lists kept alive cost the garbage collector more than reading them.
            cells: tuple[list[str], ...] = tuple([] for _ in columns)
            lines, overlong = [], []
            for row in reader:
                if not row:
                    continue
                lines.append(reader.line_num)
                if len(row) > len(columns):
                    overlong.append(reader.line_num)
                for column, cell in zip(cells, row + [""] * (len(columns) - len(row)), strict=False):
                    column.append(cell.strip())
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file: {error}.", fix="Save it as UTF-8 text with commas.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}.", fix="Restore it.") from None
    return Table(path, columns, dict(zip(columns, cells, strict=True)), lines, frozenset(overlong))
