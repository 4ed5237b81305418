"""Progress of long work on the terminal, with the time left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from medarts.system.console import make_console, say
from medarts.system.names import printable

console = make_console(stderr=True)


def inform(text: str) -> None:
    """Prints a text about the work in hand on standard error, above a progress bar; see ``system.console.say``."""
    say(text, to=console)


def warn(text: str) -> None:
    """Prints a line on standard error that begins with the word warning."""
    inform(f"warning: {printable(text)}")


class Bar:
    """A progress bar."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress = progress
        self._title = printable(title)
        self._task = progress.add_task(self._title, total=total)

    def advance(self, number: int = 1) -> None:
        """Moves the bar on by a number of steps."""
        self._progress.advance(self._task, number)

    def reach(self, done: int, total: int) -> None:
        """Shows ``done`` of ``total`` steps."""
        self._progress.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        """Shows a remark beside the title; in a log, where there is no bar, it is a line of its own."""
        line = f"{self._title} {printable(text)}"
        if not console.is_terminal:
            inform(line)
        self._progress.update(self._task, description=line)


@contextmanager
def progress_bar(title: str, total: int, *, done: int = 0) -> Iterator[Bar]:
    """Shows a bar of ``total`` steps of which ``done`` are behind."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # Where nobody looks, as in a log, a bar would be one more line beside an error.
    silent = not console.is_terminal
    with Progress(*columns, console=console, speed_estimate_period=120, disable=silent) as progress:
        bar = Bar(progress, title, total)
        bar.advance(done)
        yield bar
