"""Milliseconds of a free machine, from times that are known beforehand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from medarts.profiling import reference as module
from medarts.profiling.reference import (
    keep_ms,
    kept_latency,
    kept_ms,
    latency_file,
    measured_latencies,
    usual_ms,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], list[int]]:
    """Sets what the next passes take, the reference first; holds how many were timed at once."""

    def of(milliseconds: list[float]) -> list[int]:
        times, calls = iter(milliseconds), list[int]()

        def in_turns(passes: Sequence[object], *, threads: int, repeats: int, clock: Any) -> list[list[float]]:
            calls.append(len(passes))
            # Some passes are lengthened by others at work.
            return [[ms, ms, ms, ms + 1, 20 * ms, 20 * ms, 30 * ms] for ms in (next(times) for _ in passes)]

        monkeypatch.setattr(module, "times_in_turns", in_turns)
        return calls

    monkeypatch.setattr(module, "_reference", lambda threads: lambda: None)
    return of


def test_what_slows_the_reference_does_not_count(clock: Callable[..., list[int]], user_cache: Path) -> None:
    clock([2.0, 2.0, 2.2, 2.4, 9.0, 2.0, 10.0])  # rounds of the reference, then both on a free machine
    (free,) = measured_latencies([lambda: None], threads=1)
    assert (free.ms, free.slowdown) == (10.0, 1.0)
    assert latency_file().is_relative_to(user_cache)
    calls = clock([6.0, 30.0, 3.0])  # a busy machine; the reference is known
    one, other = measured_latencies([lambda: None, lambda: None], threads=1)
    assert calls == [3]
    assert (one.ms, one.median_ms, one.slowdown) == (10.0, 31.0, 3.0)
    assert other.ms == 1.0


def test_every_number_of_threads_has_its_own_reference(clock: Callable[..., list[int]]) -> None:
    clock([2.0] * 5 + [1.0] * 5)
    assert (usual_ms(1), usual_ms(2), usual_ms(1), usual_ms(2)) == (2.0, 1.0, 2.0, 1.0)


def test_a_reference_that_was_first_measured_on_a_busy_machine(clock: Callable[..., list[int]]) -> None:
    clock([4.0] * 5 + [4.0, 20.0])
    (busy,) = measured_latencies([lambda: None], threads=1)
    kept = kept_latency("one", lambda: busy, threads=1)
    keep_ms({"piece": 6.0}, threads=1)
    clock([3.9, 10.0])  # chance
    (free,) = measured_latencies([lambda: None], threads=1)
    assert (usual_ms(1), free.slowdown) == (4.0, 0.975)
    clock([2.0, 10.0])
    (free,) = measured_latencies([lambda: None], threads=1)
    assert (free.ms, free.slowdown, usual_ms(1)) == (10.0, 1.0, 2.0)
    assert kept_ms(["piece"], threads=1) == {"piece": 3.0}
    again = kept_latency("one", lambda: pytest.fail("it is known"), threads=1)
    assert (kept.ms, again.ms, again.slowdown) == (20.0, 10.0, 2.0)
    module._lower_usual_ms(1.0, before=4.0, threads=1)  # another process that had found the same
    assert kept_ms(["reference", "piece"], threads=1) == {"reference": 2.0, "piece": 3.0}


@pytest.mark.parametrize("content", [b"no database", None], ids=["damaged", "a folder that cannot be written"])
def test_without_the_file_the_reference_is_measured_again(
    content: bytes | None, clock: Callable[..., list[int]], user_cache: Path
) -> None:
    if content is None:
        user_cache.write_text("no folder")
    else:
        user_cache.mkdir()
        latency_file().write_bytes(content)
    clock([3.0] * 5)
    assert usual_ms(1) == 3.0
