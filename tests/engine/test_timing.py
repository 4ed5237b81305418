"""What an epoch is spent on."""

import time
from contextlib import suppress

import pytest

from medarts.engine.timing import Stopwatch


def test_nested_parts_share_the_time_without_counting_any_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    watch = Stopwatch()
    now = 100.0  # before a part begins, nothing counts
    with watch.on("steps"):
        now += 1
        with watch.on("input"):
            now += 2
        now += 4
    now += 100
    with watch.on("logging"):
        now += 8
        assert watch.lap() == {"input": 2, "steps": 5, "validation": 0, "logging": 8}
        now += 16
    with suppress(OSError), watch.on("validation"):
        now += 32
        raise OSError
    now += 100
    assert watch.lap() == {"input": 0, "steps": 0, "validation": 32, "logging": 16}
