"""Tables of pages, and how pages read files and write numbers.

A table is a pandas frame, and for each column how it is shown. It sorts when a header is clicked: ``tables.html`` draws
it and brings the script.
"""

import csv
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medarts.errors import RunError
from medarts.metrics import metric
from medarts.registry import metrics
from medarts.system.files import read_whole

Content = dict[str, Any]

_UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, StopIteration, EOFError,
    RecursionError, csv.Error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading something else than what was written leads to."""


@contextmanager
def reading(path: Path, *, fix: str) -> Iterator[None]:
    """Names a file, or a folder of files, in the errors of what is made of its content."""
    try:
        yield
    except RunError:
        raise
    except FileNotFoundError as error:
        raise RunError(f"{error.filename or path} is missing.", fix=fix) from error
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{path} is damaged ({type(error).__name__}: {reason}).", fix=fix) from error


def read_json(path: Path) -> Content:
    """Returns a JSON file that holds an object."""
    content = json.loads(read_whole(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


def label_of(key: str) -> str:
    """Returns what a metric is called on pages: its title, or its key in words where it is not registered.

    >>> label_of("val_dice"), label_of("hd95"), label_of("my_metric")
    ('Dice', 'HD95', 'my metric')
    """
    name = key.removeprefix("val_")
    return metric(name).title if name in metrics else name.replace("_", " ")


def decimals(value: float | None) -> str:
    """Writes a score; a dash where it is undefined."""
    return "–" if value is None else f"{value:.3f}"


def significant(value: float) -> str:
    """Writes a number with three significant digits, or all digits before the point.

    >>> [significant(value) for value in (1234.5, 97.04, 2.158, 0.05127, 0.000123, 0)]
    ['1,234', '97.0', '2.16', '0.0513', '0.000123', '0']
    """
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")  # 9.996 is 10.0, not 10.00
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def p_text(value: float) -> str:
    """Writes a p value.

    >>> [p_text(value) for value in (0.0312, 0.0004)]
    ['0.031', '<0.001']
    """
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def share(part: int, whole: int) -> str | None:
    """Writes a part as per cent of the whole; None where there is nothing to be a part of."""
    return f"{100 * part / whole:.1f} %" if whole else None


def card(name: str, value: str, interval: str | None = None) -> Content:
    """Returns a number that stands at the top of the page, with its name."""
    return {"name": name, "value": value, "interval": interval}


def listed(words: list[str]) -> str:
    """Writes words as a list in a sentence: a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


if TYPE_CHECKING:
    import pandas as pd

Order = Literal["ascending", "descending"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, and how the values of a frame are shown in it.

    Attributes:
        title: its header.
        first: the order that a first click gives, best first.
        sorted: the order in which its rows stand when the page opens; None where they are sorted by another column.
        words: whether its cells hold words, which begin at the left.
        form: format of a value, such as ".3f", or a function that writes it.
        below: column of the frame whose text stands small below, or two columns with the ends of an interval.
        strong: column of the frame that tells whether a cell stands out.
        swatch: column of the frame with the name of a colour, shown before the text.
    """

    title: str
    first: Order = "descending"
    sorted: Order | None = None
    words: bool = False
    form: str | Callable[[Any], str] = ""
    below: str | tuple[str, str] | None = None
    strong: str | None = None
    swatch: str | None = None

    def write(self, value: Any) -> str:
        """Returns a value as text; a dash for one that is missing."""
        if _missing(value):
            return "–"
        return self.form(value) if callable(self.form) else format(value, self.form)

    def cell(self, key: str, row: Mapping[Hashable, Any]) -> "Cell":
        """Returns the cell of a row of the frame."""
        below = None
        if isinstance(self.below, tuple):
            ends = [row[end] for end in self.below]
            below = None if any(map(_missing, ends)) else " to ".join(map(self.write, ends))
        elif self.below is not None and not _missing(row[self.below]):
            below = str(row[self.below])
        return Cell(
            self.write(row[key]),
            None if _missing(row[key]) else row[key],
            below,
            strong=bool(row[self.strong]) if self.strong else False,
            swatch=row[self.swatch] if self.swatch else None,
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what is read.
        value: by what it is sorted: a number, a text, or None where there is nothing, which is sorted last.
        below: what stands small below.
        strong: whether it stands out.
        swatch: name of a colour of the palette shown before the text.
    """

    text: str
    value: float | str | None
    below: str | None = None
    strong: bool = False
    swatch: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        caption: what it holds, for people who hear the page.
        columns: all columns.
        rows: the cells of every row, one a column.
        note: footnote; empty for none.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


def table(frame: "pd.DataFrame", columns: Mapping[str, Column], *, caption: str, note: str = "") -> Table:
    """Returns a table of a frame.

    Args:
        frame: a row for each row of the table.
        columns: column of the frame -> how it is shown, in the order of the table; the first names the rows.
        caption: what it holds, for people who hear the page.
        note: footnote; empty for none.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"network": ["a", "b"], "dice": [0.91234, None], "low": [0.9, None], "high": [0.93, None]})
    >>> columns = {"network": Column("network", words=True), "dice": Column("Dice", form=".3f", below=("low", "high"))}
    >>> [[cell.text for cell in row] for row in table(frame, columns, caption="scores").rows]
    [['a', '0.912'], ['b', '–']]
    """
    rows = [tuple(column.cell(key, row) for key, column in columns.items()) for row in frame.to_dict("records")]
    return Table(caption, tuple(columns.values()), rows, note)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
