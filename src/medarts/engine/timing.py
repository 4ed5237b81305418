"""How long a step takes: some are timed, and how far they lie apart says how far an estimate can be trusted."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


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
