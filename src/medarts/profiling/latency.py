"""How long passes take on the CPU: several networks in turns, so that what else the machine does meets them alike."""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

WARM_UP = 3
"""Passes before those that count: memory is asked for, kernels are chosen."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The time of one pass of a whole batch on the CPU.

    Attributes:
        threads: threads of the CPU.
        batch: images of a pass.
        median_ms: median of the passes, in milliseconds.
        spread_ms: their interquartile range, in milliseconds.
    """

    threads: int
    batch: int
    median_ms: float
    spread_ms: float

    @property
    def images_a_second(self) -> float:
        """Images that go through in a second, one pass after the other."""
        return 1000 * self.batch / self.median_ms


def usable_cores() -> int:
    """Returns the cores of the CPU that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usual_threads() -> tuple[int, ...]:
    """Returns the numbers of threads that latency is reported for: 1, and 2 where there are two cores."""
    return (1, 2) if usable_cores() > 1 else (1,)


def time_in_turns(
    passes: Sequence[Callable[[], object]],
    *,
    threads: int,
    batch: int,
    repeats: int,
    after_turn: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Times passes in turns; see ``times_in_turns``.

    Args:
        passes: what is timed; each is a pass of a batch.
        threads: threads of the CPU while measuring.
        batch: images of a pass, for the record.
        repeats: turns that count, at least 2; three more warm up.
        after_turn: called between turns, outside of what is timed.

    Raises:
        ValueError: fewer than 2 repeats, which have no spread.
    """
    times = times_in_turns(passes, threads=threads, repeats=repeats, after_turn=after_turn)
    return [Timing(threads, batch, *_median_and_spread(taken)) for taken in times]


def times_in_turns(
    passes: Sequence[Callable[[], object]],
    *,
    threads: int,
    repeats: int,
    after_turn: Callable[[], None] = lambda: None,
    clock: Callable[[], float] | None = None,
) -> list[list[float]]:
    """Returns the milliseconds of passes that take turns: every one once, then every one again.

    The number of threads is afterwards what it was. The other arguments are those of ``time_in_turns``.

    Args:
        passes: what is timed.
        threads: threads of the CPU.
        repeats: turns that count.
        after_turn: called between turns.
        clock: in seconds. Default: the time that passes.
    """
    now = clock or time.perf_counter
    if repeats < 2:
        raise ValueError(f"repeats is {repeats}; a spread needs at least 2")
    times: list[list[float]] = [[] for _ in passes]
    with torch.inference_mode(), threads_of_cpu(threads):
        for run in passes:
            for _ in range(WARM_UP):
                run()
        for _ in range(repeats):
            for run, taken in zip(passes, times, strict=True):
                start = now()
                run()
                taken.append(1000 * (now() - start))
            after_turn()
    return times


def _median_and_spread(times: Sequence[float]) -> tuple[float, float]:
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return median, high - low


@contextmanager
def threads_of_cpu(threads: int) -> Iterator[None]:
    """Has PyTorch compute on a number of threads; afterwards it is what it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
