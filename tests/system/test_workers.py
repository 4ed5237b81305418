"""Work in other processes: done, failed, stopped or killed, each told apart; a process that is used again."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from medarts.errors import MedartsError, RecipeError
from medarts.system.workers import Ended, ProcessEndedError, Processes, Work, _Worker

pytestmark = pytest.mark.usefixtures("processes_spawned")

# Code that the processes run: they know no functions of tests.
NOTE_PROCESS = """
import os
file.write_text(str(os.getpid()), encoding="ascii")
print("noted")
"""
FAIL = """
from medarts.errors import RecipeError
raise RecipeError("It is too large.", fix="Make it smaller.")
"""
KILL_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
WAIT_FOR_STOP = """
import time
from medarts.system.process import InterruptedRunError, interruption
with interruption() as stop:
    file.touch()
    while not stop.requested:
        time.sleep(0.01)
raise InterruptedRunError("Stopped.", fix="")
"""


def piece(code: str, tmp_path: Path, file: Path | None = None) -> Work:
    return Work("piece", partial(exec, code, {"file": file}), tmp_path / "logs" / "log")


def ends(workers: Processes) -> list[Ended]:
    """Waits for the work in hand."""
    latest = time.monotonic() + 60
    found: list[Ended] = []
    while workers._busy and time.monotonic() < latest:
        found += workers.wait(5)
    return found


def test_a_process_goes_on_with_other_work_until_some_fails(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    codes = [(NOTE_PROCESS, files[0]), (NOTE_PROCESS, files[1]), (FAIL, None), (KILL_ITSELF, None)]
    with Processes(reused=True) as workers:
        found = []
        for code, file in (*codes, (NOTE_PROCESS, files[2])):
            workers.start(piece(code, tmp_path, file))
            found += ends(workers)
    assert [str(one.error) for one in found] == [
        "None", "None", "It is too large. Make it smaller.",
        "The system killed its process, as it does where memory runs out.", "None",
    ]  # fmt: skip
    assert [type(one.error) for one in found[2:4]] == [RecipeError, ProcessEndedError]
    first, second, last = (file.read_text() for file in files)
    assert first == second != last
    assert (tmp_path / "logs" / "log").read_text() == "noted\n" * 3


def test_work_that_is_stopped_can_go_on(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with Processes() as workers:
        workers.start(piece(WAIT_FOR_STOP, tmp_path, begun))
        while not begun.exists():
            assert workers.wait(0.01) == []
        workers.ask_to_stop()
        assert ends(workers) == [Ended("piece", stopped=True)]


def test_a_log_that_has_no_room_is_named_and_no_end_of_the_process(tmp_path: Path) -> None:
    """A search by training drops candidates whose process ends."""
    with Processes() as workers:
        workers.start(replace(piece("import sys; print('epoch 1', file=sys.stderr)", tmp_path), log=Path("/dev/full")))
        (ended,) = ends(workers)
    assert type(ended.error) is MedartsError
    assert str(ended.error) == "/dev/full: No space left on device. Make room on the disk."


def test_work_that_a_scheduler_stops_can_go_on(tmp_path: Path) -> None:
    """It asks all processes of a job, in any order; this one is the first. It may be at a job, or before it."""
    begun = [tmp_path / "job", tmp_path / "before"]
    with Processes() as workers:
        for code, file in zip((WAIT_FOR_STOP, "import time; file.touch(); time.sleep(60)"), begun, strict=True):
            workers.start(piece(code, tmp_path, file))
        while not all(file.exists() for file in begun):
            assert workers.wait(0.01) == []
        for worker, number in zip(workers._busy, (signal.SIGUSR1, signal.SIGTERM), strict=True):
            os.kill(worker.process.pid or 0, number)
        assert ends(workers) == [Ended("piece", stopped=True)] * 2


@pytest.mark.parametrize(
    ("code", "asked", "says"),
    [
        (-signal.SIGSEGV, True, "Its process was ended by SIGSEGV; see "),
        (-signal.SIGTERM, False, "Its process was ended by SIGTERM; see "),
        (1, True, "Its process ended with status 1: RuntimeError: a fault See "),
        (-signal.SIGTERM, True, None),
    ],
)
def test_a_process_that_does_not_answer_is_told_by_its_end(
    tmp_path: Path, code: int, asked: bool, says: str | None
) -> None:
    log = tmp_path / "x.log"
    log.write_text("train epoch 1\nTraceback (most recent call last):\n  some line\nRuntimeError: a fault\n\n")
    ended = _Worker.end(ended_worker(code, Work("x", list, log)), asked=asked)
    assert ended.stopped == (says is None)
    assert ended.error is None if says is None else str(ended.error).startswith(says)


def ended_worker(code: int, work: Work) -> _Worker:
    """Returns a worker whose process has ended without an answer."""

    def nothing() -> None:
        raise EOFError

    worker = object.__new__(_Worker)
    worker.work, worker.answers = work, SimpleNamespace(recv=nothing)  # type: ignore[assignment]
    join: Callable[[], None] = lambda: None  # noqa: E731
    worker.process = SimpleNamespace(join=join, exitcode=code)  # type: ignore[assignment]
    return worker
