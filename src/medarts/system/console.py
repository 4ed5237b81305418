"""The two streams of the terminal: no text that comes from data is obeyed, and no sign makes an output fail."""

import codecs
import io
import sys
from typing import TextIO

from rich.console import Console
from rich.table import Column, Table

from medarts.system.names import printable

_PLAIN = {
    "–": "-", "—": "-", "…": "...", "×": "x", "±": "+-", "µ": "u", "≥": ">=", "≤": "<=", "•": "*",
    "‘": "'", "’": "'", "“": '"', "”": '"', "\N{NO-BREAK SPACE}": " ", "\N{THIN SPACE}": " ",
}  # fmt: skip
"""Signs of medarts' own texts, in ASCII."""


def tolerate_encodings() -> None:
    """Lets standard output and error write what their encoding lacks in other signs, instead of failing.

    Terminals of Windows, pipes and PYTHONIOENCODING have encodings such as ASCII, Latin-1 or code page 437.
    """
    codecs.register_error("medarts", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="medarts")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Returns plain signs for the first sign that cannot be encoded; bytes of file names are written as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    plain = _PLAIN.get(sign) or (printable(sign) if "\ud800" <= sign <= "\udfff" else "?")
    return plain, error.start + 1


def make_console(*, stderr: bool = False) -> Console:
    """Returns a console to which markup and names of emojis are ordinary text: names in data may look like them."""
    console = Console(stderr=stderr, markup=False, emoji=False)
    if console.width < 1:  # COLUMNS=0
        console.width = 80
    return console


def say(text: str, *, to: Console | TextIO | None = None) -> None:
    """Prints a text line by line as it is, with control characters as escapes and however wide the terminal is.

    Args:
        text: of one line or more.
        to: a stream, or a console, which keeps a progress bar below the text. Default: standard output.
    """
    for line in map(printable, text.split("\n")):
        if isinstance(to, Console):
            to.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=to or sys.stdout)


def show_table(console: Console, table: Table) -> None:
    """Prints a table whole: on a narrow terminal its lines are longer than the terminal, not its cells cut.

    Cells of columns with ``no_wrap`` have one line for each line of their text. Words of others are not broken, but
    where ``overflow`` is "fold": there names may be, down to ``min_width``.
    """
    natural, least = [], []
    unbounded = console.options.update(width=10_000)
    for column in table.columns:
        sizes = [console.measure(cell, options=unbounded) for cell in (column.header, *column.cells)]
        natural.append(max(size.maximum for size in sizes))
        folds = column.overflow == "fold" and column.min_width is not None
        shortest = column.min_width if folds else max(size.minimum for size in sizes)
        least.append(natural[-1] if column.no_wrap else min(shortest or 1, natural[-1]))
    padding = 2 if sum(least) + 3 * len(least) < console.width else 0
    extra = (1 + padding) * len(least) + 1  # of borders and padding
    while sum(natural) > console.width - extra and natural != least:
        widest = max((i for i in range(len(natural)) if natural[i] > least[i]), key=natural.__getitem__)
        natural[widest] -= 1
    for column, width in zip(table.columns, natural, strict=True):
        column.width = width
    table.padding = (0, padding // 2)
    table.width = sum(natural) + extra
    console.print(table, crop=False, no_wrap=True, overflow="ignore")


def name_column(title: str) -> Column:
    """Returns a column for names, which may be long: folded on a terminal too narrow for them."""
    return Column(title, min_width=12, overflow="fold")


def columns(*titles: str) -> list[Column]:
    """Returns columns whose cells are never wrapped: numbers and short words."""
    return [Column(title, no_wrap=True) for title in titles]
