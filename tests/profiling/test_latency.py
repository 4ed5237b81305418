"""Times that are known beforehand come out as medians and spreads, and nothing else is changed."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from medarts.profiling import latency
from medarts.profiling.latency import Timing, time_in_turns, usable_cores, usual_threads


class Clocked:
    """A pass that moves its own clock on by known times, and remembers how it was called."""

    def __init__(self, milliseconds: list[float]) -> None:
        self.times = iter(milliseconds)
        self.now = 0.0
        self.calls: list[tuple[bool, int]] = []

    def __call__(self) -> None:
        self.calls.append((torch.is_inference_mode_enabled(), torch.get_num_threads()))
        self.now += next(self.times) / 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def of(*passes: Clocked) -> None:
        clock = SimpleNamespace(perf_counter=lambda: sum(each.now for each in passes))
        monkeypatch.setattr(latency, "time", clock)

    return of


def test_latency_is_the_median_after_warming_up(clock: Callable[..., None]) -> None:
    one = Clocked([200, 200, 200, 5, 4, 60, 7, 6])
    clock(one)
    (timing,) = time_in_turns([one], threads=1, batch=4, repeats=5)
    assert (timing.threads, timing.batch) == (1, 4)
    assert timing.median_ms == pytest.approx(6)
    assert timing.spread_ms == pytest.approx(7 - 5)
    assert timing.images_a_second == pytest.approx(4 / 0.006)
    assert len(one.calls) == 8


def test_passes_take_turns(clock: Callable[..., None]) -> None:
    first, second = Clocked([200] * 3 + [8, 9, 7]), Clocked([100] * 3 + [4, 2, 3])
    clock(first, second)
    turns = []
    timings = time_in_turns(
        [first, second],
        threads=1,
        batch=1,
        repeats=3,
        after_turn=lambda: turns.append((len(first.calls), len(second.calls))),
    )
    assert [timing.median_ms for timing in timings] == [pytest.approx(8), pytest.approx(3)]
    assert [timing.spread_ms for timing in timings] == [pytest.approx(1), pytest.approx(1)]
    assert turns == [(4, 4), (5, 5), (6, 6)]


def test_threads_are_restored_also_after_an_error() -> None:
    before = torch.get_num_threads()
    one = Clocked([1] * 5)
    time_in_turns([one], threads=before + 1, batch=1, repeats=2)
    assert set(one.calls) == {(True, before + 1)}
    assert torch.get_num_threads() == before
    with pytest.raises(StopIteration):
        time_in_turns([one], threads=before + 1, batch=1, repeats=2)
    assert torch.get_num_threads() == before


def test_one_repeat_has_no_spread() -> None:
    with pytest.raises(ValueError, match="repeats is 1"):
        time_in_turns([Clocked([])], threads=1, batch=1, repeats=1)


@pytest.mark.parametrize(("cores", "threads"), [(1, (1,)), (2, (1, 2)), (64, (1, 2))])
def test_two_threads_need_two_cores(monkeypatch: pytest.MonkeyPatch, cores: int, threads: tuple[int, ...]) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert usable_cores() == cores
    assert usual_threads() == threads


def test_images_a_second_are_those_of_a_batch() -> None:
    assert Timing(threads=1, batch=8, median_ms=400.0, spread_ms=1.0).images_a_second == pytest.approx(20)
