"""How long things take: steps that are timed for an estimate, and what an epoch is spent on."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Span:
    """A time in seconds, and what it would be with the fastest and the slowest of the passes that were timed.

    Attributes:
        low: with the fastest.
        seconds: with that in the middle.
        high: with the slowest.

    >>> Span(1.0, 2.0, 4.0).times(10).plus(Span(0.5, 0.5, 0.5))
    Span(low=10.5, seconds=20.5, high=40.5)
    """

    low: float = 0.0
    seconds: float = 0.0
    high: float = 0.0

    def times(self, number: float) -> "Span":
        """Returns the time of a number of passes."""
        return Span(number * self.low, number * self.seconds, number * self.high)

    def plus(self, other: "Span") -> "Span":
        """Returns the time of both, one after the other."""
        return Span(self.low + other.low, self.seconds + other.seconds, self.high + other.high)


Part = Literal["input", "steps", "validation", "logging"]
"""What an epoch is spent on: images of the steps, read and augmented; the steps themselves; validations, with their
images; and logging: journals, what a search finds out for them, and the checkpoint of the epoch before."""


class Stopwatch:
    """The seconds of an epoch, by what they are spent on; of nested parts the inner one alone counts.

    >>> watch = Stopwatch()
    >>> with watch.on("steps"):
    ...     with watch.on("input"):
    ...         images = [3, 1, 2]
    >>> list(watch.lap())
    ['input', 'steps', 'validation', 'logging']
    """

    def __init__(self) -> None:
        self._part: Part | None = None
        self._since = 0.0
        self._seconds: dict[Part, float] = {}
        self.lap()

    @contextmanager
    def on(self, part: Part) -> Iterator[None]:
        """Counts the time of a block as spent on a part."""
        outer = self._turn_to(part)
        try:
            yield
        finally:
            self._turn_to(outer)

    def lap(self) -> dict[Part, float]:
        """Returns the seconds of every part since the last lap, and begins the next."""
        self._turn_to(self._part)
        seconds = self._seconds
        self._seconds = {"input": 0.0, "steps": 0.0, "validation": 0.0, "logging": 0.0}
        return seconds

    def _turn_to(self, part: Part | None) -> Part | None:
        """Counts the time of the current part up to now, and returns it."""
        now, before = time.perf_counter(), self._part
        if before is not None:
            self._seconds[before] += now - self._since
        self._part, self._since = part, now
        return before


def timed(work: Callable[[], object], *, repeats: int, patience: float = float("inf")) -> Span:
    """Returns the time of some work, after one pass that warms up.

    Args:
        work: is done one time more than it is timed.
        repeats: passes that are timed.
        patience: seconds after which no further pass begins; one is timed at least.
    """
    work()
    times: list[float] = []
    while len(times) < repeats and (not times or sum(times) < patience):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return Span(min(times), statistics.median(times), max(times))
