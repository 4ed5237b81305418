"""Tables of pages: a pandas frame, and for each column how it is shown. They sort when a header is clicked.

``tables.html`` draws them and brings the script.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from medarts.reporting.content import p_text, significant

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
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def table(frame: "pd.DataFrame", columns: Mapping[str, Column], *, caption: str) -> Table:
    """Returns a table of a frame.

    Args:
        frame: a row for each row of the table.
        columns: column of the frame -> how it is shown, in the order of the table; the first names the rows.
        caption: what it holds, for people who hear the page.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"network": ["a", "b"], "dice": [0.91234, None], "low": [0.9, None], "high": [0.93, None]})
    >>> columns = {"network": Column("network", words=True), "dice": Column("Dice", form=".3f", below=("low", "high"))}
    >>> [[cell.text for cell in row] for row in table(frame, columns, caption="scores").rows]
    [['a', '0.912'], ['b', '–']]
    """
    rows = [tuple(column.cell(key, row) for key, column in columns.items()) for row in frame.to_dict("records")]
    return Table(caption, tuple(columns.values()), rows)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: float | None, form: str, *, scale: float = 1.0, below: str | None = None) -> Cell:
    """Returns a cell of a number, written as ``form`` says after division by ``scale``; a dash for None."""
    return Cell("–" if value is None else format(value / scale, form), value, below)


def probability(value: float | None, *, limit: float) -> Cell:
    """Returns a cell of a p value, which stands out below ``limit``."""
    if value is None:
        return Cell("–", None)
    return Cell(p_text(value), value, strong=value < limit)


def compact(value: float | None, *, scale: float = 1.0, below: str | None = None) -> Cell:
    """Returns a cell of a number with three significant digits after division by ``scale``; a dash for None."""
    return Cell("–" if value is None else significant(value / scale), value, below)
