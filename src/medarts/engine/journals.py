"""The journals of a run as others read them: whole lines, each with the numbers that a line of that journal has."""

from collections.abc import Collection
from typing import Any

from medarts.engine.directory import RunDirectory
from medarts.errors import RunError

Record = dict[str, Any]


def read_journal(run: RunDirectory, name: str, *, numbers: Collection[str]) -> list[Record]:
    """Returns the lines of a journal; none if there is no such file.

    A last line without its end is left out: the process that wrote it was killed, and that epoch is done again.

    Args:
        run: the run.
        name: of the file.
        numbers: what every line has a number for.

    Raises:
        RunError: names the first line that is damaged.
    """
    records = run.read_journal(name)
    for place, record in enumerate(records, 1):
        for key in numbers:
            value = record.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise damaged_line(run, name, place, f"it has no number for {key}")
    return records


def damaged_line(run: RunDirectory, name: str, place: int, reason: str) -> RunError:
    """Returns the error of a line of a journal, counted from 1."""
    return RunError(f"{run.path / name} is damaged in line {place} ({reason}).", fix="Copy the run again.")
