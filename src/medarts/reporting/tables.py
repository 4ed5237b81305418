"""Tables that sort when a header is clicked: what stands in their cells, and by what they sort.

``tables.html`` draws them and brings the script.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medarts.reporting.content import p_text, significant

Order = Literal["ascending", "descending"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: its header.
        first: the order that a first click gives, best first.
        sorted: the order in which its rows stand when the page opens; None where they are sorted by another column.
        words: whether its cells hold words, which begin at the left.
    """

    title: str
    first: Order = "descending"
    sorted: Order | None = None
    words: bool = False


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
