"""The terminal: text, tables and progress. No control character in data is obeyed, and no sign makes an output fail."""

import codecs
import io
import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table
from rich.text import Text

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


def say(text: str, *, to: Console | TextIO | None = None, whole: bool = False) -> None:
    """Prints a text, with control characters as escapes; see `wrapped` for where its lines end.

    Args:
        text: of one line or more.
        to: a stream, or a console, which keeps a progress bar below the text. Default: standard output.
        whole: whether lines end as given on a terminal, too: those of a path, which may have spaces.
    """
    for line in [printable(line) for line in text.split("\n")] if whole else wrapped(text, to=to):
        if isinstance(to, Console):
            to.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=to or sys.stdout)


def wrapped(text: str, *, to: Console | TextIO | None = None) -> list[str]:
    """Returns the lines of a text as they are printed: on a terminal they end between words, elsewhere as given.

    Lines that are indented stay whole everywhere: they are commands, and parts of recipes, to be copied. So do words,
    as those of paths. A command at the end of a sentence gets an indented line of its own where it would not fit.

    Args:
        text: of one line or more.
        to: see `say`.
    """
    lines = [printable(line) for line in text.split("\n")]
    stream = sys.stdout if to is None else to
    if not (stream.is_terminal if isinstance(stream, Console) else stream.isatty()):
        return lines
    width = stream.width if isinstance(stream, Console) else shutil.get_terminal_size().columns
    return [part for line in lines for part in ([line] if line.startswith(" ") else _around_commands(line, width))]


_COMMAND = re.compile(r"(.*?(?<!error)(?<!warning):) (medarts [a-z].*?)(?:\.?|\. ([A-Z].*))", re.DOTALL)
"""What is before a command, the command, and the sentences after it."""


def _around_commands(line: str, width: int) -> list[str]:
    """Returns a line as several that end between words, and not within a command: half of one would run, too."""
    found = _COMMAND.fullmatch(line) if len(line) > width else None
    if found is None:
        return _between_words(line, width)
    before, command, after = found.groups()
    return [
        *_between_words(before, width),
        f"    {command}",
        *(_around_commands(after, width) if after else ()),
    ]


def _between_words(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, max(width, 1), break_long_words=False, break_on_hyphens=False) or [line]


class Wrapping(io.TextIOBase):
    """A stream whose lines end between words, for texts of libraries that leave that to the terminal.

    Args:
        stream: is written to.
        width: of its lines.
    """

    def __init__(self, stream: TextIO, width: int) -> None:
        self._stream, self._width = stream, width

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def write(self, text: str) -> int:
        """Writes a text, which begins a line where it is longer than one."""
        for line in text.splitlines(keepends=True):
            bare = line.rstrip("\n")
            end = line[len(bare) :]
            self._stream.write("\n".join(_between_words(bare, self._width)) + end if len(bare) > self._width else line)
        return len(text)

    def flush(self) -> None:
        """Writes what the stream has kept."""
        self._stream.flush()


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


console = make_console(stderr=True)


def counted(count: int, noun: str) -> str:
    """Writes a number of things whose plural ends in s.

    >>> counted(1, "patient"), counted(1200, "image")
    ('1 patient', '1,200 images')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class _Mute:
    """Whether this process gives no warnings."""

    is_on = False


def inform(text: str) -> None:
    """Prints a text about the current work on standard error, above a progress bar; see ``system.console.say``."""
    say(text, to=console)


def warn(text: str) -> None:
    """Prints a line on standard error that begins with the word warning, also in quiet mode."""
    if not _Mute.is_on:
        say(f"warning: {printable(text)}", to=sys.stderr if console.quiet else console)


def be_mute() -> None:
    """Leaves out warnings, too, from now on: another process of the job gives them."""
    _Mute.is_on = console.quiet = True


def be_quiet(quiet: bool) -> None:
    """Leaves out progress and remarks from now on, or no longer; warnings and errors are always printed."""
    console.quiet = quiet or _Mute.is_on


def in_words(seconds: float) -> str:
    """Writes a length of time, to two units at most.

    >>> in_words(0.84), in_words(7.2), in_words(95), in_words(3700), in_words(200_000)
    ('0.8 s', '7 s', '1 min 35 s', '1 h 1 min', '2 d 7 h')
    """
    if seconds < 3:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, small, unit, below in ((86_400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def has_lines() -> bool:
    """Whether progress is printed in lines, as in a pipe or a log; a terminal has a bar."""
    return not console.is_terminal


SECONDS_OF_SILENCE = 3.0
"""Seconds after which work of unknown length says that it goes on."""

SECONDS_A_LINE = 10.0
"""Seconds between two lines of progress of short work."""

MOST_SECONDS_A_LINE = 60.0
"""The same where the next tenth of the work is still far."""


class Bar:
    """A progress bar, or lines of progress where there is no terminal.

    Args:
        progress: draws it.
        title: of the work.
        total: its steps.
        is_told: whether it writes lines; work that tells its own, such as epochs, does not.
    """

    def __init__(self, progress: Progress, title: str, total: int, *, is_told: bool) -> None:
        self._progress = progress
        self._title = printable(title)
        self._done, self._total, self._is_told = 0, total, is_told and has_lines()
        self._began = self._told = time.monotonic()
        self._first = self._at_line = 0
        self._paused = 0.0
        self._pause_began: float | None = None
        self._task = progress.add_task(self._title, total=total, bar=self)  # which draws it

    def begin_at(self, done: int) -> None:
        """Counts steps that were done before."""
        self.reach(done, self._total)
        self._first = self._at_line = done

    def advance(self, number: int = 1) -> None:
        """Moves the bar on by a number of steps."""
        self.reach(self._done + number, self._total)

    @property
    def left(self) -> float | None:
        """Seconds until all steps are done, at the pace of those so far; None where none was done, or none is left."""
        if not self._first < self._done < self._total:
            return None
        pause_began = self._pause_began  # read once: the thread that draws asks, too
        now = time.monotonic() if pause_began is None else pause_began
        took = now - self._began - self._paused
        return took / (self._done - self._first) * (self._total - self._done)

    def words(self, noun: str = "") -> str:
        """Returns how far the work is: steps, called by ``noun`` if there is one, time, and time that is left."""
        total = counted(self._total, noun) if noun else f"{self._total:,}"
        left = "" if self.left is None else f", about {in_words(self.left)} left"
        return f"{self._done:,} of {total}, {in_words(time.monotonic() - self._began)}{left}"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what is done meanwhile out of the pace: it takes time, and is no step."""
        self._pause_began = began = time.monotonic()
        try:
            yield
        finally:
            self._pause_began = None
            self._paused += time.monotonic() - began

    def reach(self, done: int, total: int) -> None:
        """Shows ``done`` of ``total`` steps."""
        if not self._total:  # how many they are was not known: what came before says nothing of the time they take
            self._began, self._paused = time.monotonic(), 0.0
            self._told, self._first = self._began, done
        self._done, self._total = done, total
        self._progress.update(self._task, completed=done, total=total)
        if self._is_told:
            self._tell()

    def note(self, text: str) -> None:
        """Shows a remark beside the title; in a log, where there is no bar, it is a line of its own."""
        line = f"{self._title} {printable(text)}"
        if has_lines():
            inform(line)
        self._progress.update(self._task, description=line)

    def describe(self, text: str) -> None:
        """Shows a remark beside the title; nothing where there is no bar."""
        self._progress.update(self._task, description=f"{self._title} {printable(text)}")

    def _tell(self) -> None:
        """Writes a line after some seconds and a tenth of the work, or after more seconds; none of short work."""
        now = time.monotonic()
        waited, moved = now - self._told, self._done - self._at_line
        if waited < SECONDS_A_LINE or (10 * moved < self._total and waited < MOST_SECONDS_A_LINE):
            return
        self._told, self._at_line = now, self._done
        inform(f"{self._title}: {self.words()}")


class _LeftColumn(ProgressColumn):
    """The time that is left, the same as in lines."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Returns it in words; nothing where it is not known."""
        left = task.fields["bar"].left
        return Text("" if left is None else f"about {in_words(left)} left")


class _Told:
    """Whether work of which `told_if_long` tells is at hand."""

    is_on = False


@contextmanager
def told_if_long(title: str) -> Iterator[None]:
    """Tells of work whose steps cannot be counted beforehand, in lines: after a few seconds, and then every ten.

    Short work prints nothing, and neither does such work within other work of this kind.

    Args:
        title: of the work.
    """
    if _Told.is_on:
        yield
        return
    ended, began = threading.Event(), time.monotonic()

    def tell() -> None:
        pause = SECONDS_OF_SILENCE
        while not ended.wait(pause):
            inform(f"{title}: {in_words(time.monotonic() - began)}")
            pause = SECONDS_A_LINE

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    _Told.is_on = True
    try:
        yield
    finally:
        _Told.is_on = False
        ended.set()
        thread.join()


@contextmanager
def progress_bar(title: str, total: int, *, done: int = 0, is_told: bool = True) -> Iterator[Bar]:
    """Shows a bar of ``total`` steps of which ``done`` are behind.

    Without a terminal, as in a pipe, there is a line about every ten seconds or tenth of the work instead.

    Args:
        title: of the work.
        total: its steps.
        done: steps behind.
        is_told: whether there are such lines; work that writes lines of its own needs none.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _LeftColumn(),
    )
    with Progress(*columns, console=console, disable=has_lines()) as progress:
        bar = Bar(progress, title, total, is_told=is_told)
        bar.begin_at(done)
        yield bar
