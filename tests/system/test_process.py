"""What comes back from a process, and what is made of its end."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import pytest

from medarts.errors import MedartsError, RecipeError
from medarts.system.process import _SignalStack, in_new_process, interruption, kept_signal_stack, when_parent_ends

pytestmark = pytest.mark.usefixtures("processes_spawned")

# Shells let what they start in the background ignore Ctrl-C.
HEARS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"

WAITING = f"""
{HEARS}
from functools import partial
from medarts.system.process import in_new_process

if __name__ == "__main__":
    try:
        in_new_process(partial(exec, "import time; time.sleep(60)"))
    except KeyboardInterrupt:
        print("stopped")
"""

STARTING = f"""
{HEARS}
import os, sys, threading, time
from functools import partial
from multiprocessing.context import SpawnProcess
from medarts.system.process import in_new_process

start = SpawnProcess.start
waiting = threading.Thread(target=threading.Event().wait, daemon=True)

def interrupted(process):
    start(process)
    if sys.argv[1] == "process":
        os.kill(os.getpid(), signal.SIGINT)
    else:
        signal.pthread_kill(waiting.ident, signal.SIGINT)
    time.sleep(0.1)

if __name__ == "__main__":
    waiting.start()
    SpawnProcess.start = interrupted
    try:
        in_new_process(partial(exec, "import time; time.sleep(60)"))
    except KeyboardInterrupt:
        print("stopped")
"""

# The process cannot import this file.
REFUSED = "from medarts.errors import RecipeError; raise RecipeError('The size is 3.', fix='Use 4.')"
NO_MEMORY = {
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "of the GPU": "import torch; raise torch.OutOfMemoryError('CUDA out of memory')",
    "for an array": "import numpy as np; np.empty(2**62, np.uint8)",
}


def test_the_answer_comes_from_another_process() -> None:
    assert in_new_process(os.getpid) != os.getpid()


def test_errors_come_back_with_what_they_say() -> None:
    with pytest.raises(RecipeError) as caught:
        in_new_process(partial(exec, REFUSED))
    assert (caught.value.problem, caught.value.fix) == ("The size is 3.", "Use 4.")


@pytest.mark.parametrize("code", NO_MEMORY.values(), ids=NO_MEMORY)
def test_no_memory_is_one_error(code: str) -> None:
    with pytest.raises(MemoryError):
        in_new_process(partial(exec, code))


def test_a_fault_is_no_lack_of_memory(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="without an answer, with status 1"):
        in_new_process(partial(exec, "{}['a fault']"))
    assert "KeyError: 'a fault'" in capfd.readouterr().err


def test_an_interrupted_process_says_nothing(tmp_path: Path) -> None:
    """Ctrl-C reaches all processes of a terminal: also one that still imports, and before the one that waits for it."""
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    with subprocess.Popen([sys.executable, str(script)], stdout=PIPE, stderr=PIPE, text=True) as process:
        started = children(process.pid)
        for _ in range(15):
            for child in started:
                os.kill(child, signal.SIGINT)
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    assert (said, errors, process.returncode) == ("stopped\n", "", 0)


@pytest.mark.parametrize("whose", ["process", "thread"])
def test_a_process_that_is_interrupted_while_it_starts_another_ends_it(tmp_path: Path, whose: str) -> None:
    """The signal waits until the start is over, or is taken by a thread, as libraries have some."""
    script = tmp_path / "starting.py"
    script.write_text(STARTING)
    done = subprocess.run([sys.executable, str(script), whose], check=False, capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr, done.returncode) == ("stopped\n", "", 0)


@pytest.mark.parametrize(
    ("how", "work"), [(signal.SIGTERM, "import time; time.sleep(60)"), (signal.SIGKILL, "sum(range(10**11))")]
)
def test_a_process_ends_with_the_one_that_waits_for_it(tmp_path: Path, how: signal.Signals, work: str) -> None:
    """`sum` of a range is one call that holds the interpreter, so that no thread of the process gets a turn."""
    script = tmp_path / "waiting.py"
    script.write_text(WAITING.replace("import time; time.sleep(60)", f"print('begun', flush=True); {work}"))
    with subprocess.Popen([sys.executable, script], stdout=PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(how)
        try:
            process.communicate(timeout=20)  # the pipe is open for as long as one of the two is there
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def test_what_is_to_be_done_when_the_parent_ends_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(join=lambda: None))
    done = threading.Event()
    when_parent_ends(done.set)
    assert done.wait(timeout=20)


def children(pid: int) -> list[int]:
    """Waits until a process has started another beside the tracker of its resources, and returns both."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if not listed.exists():
        pytest.skip("needs Linux")
    while len(found := listed.read_text().split()) < 2:
        time.sleep(0.01)
    return [int(child) for child in found]


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGSEGV, "SIGSEGV"), (40, "signal 40")]
)
def test_a_process_that_a_signal_ends_is_one_error_with_its_name(number: int, name: str) -> None:
    with pytest.raises(MedartsError, match=rf"ended by {name}\. Run it again"):
        in_new_process(partial(exec, f"import os; os.kill(os.getpid(), {number})"))


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # Python handles it between two instructions


@pytest.mark.usefixtures("hangups_heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_becomes_a_request(number: int) -> None:
    with interruption() as request:
        assert not request.requested
        send(number)
        assert request.requested


@pytest.mark.parametrize("first", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_ctrl_c_after_a_request_stops_at_once(first: list[int]) -> None:
    with interruption() as request:
        for number in first:
            send(number)
        assert request.requested
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def leave_by(error: BaseException) -> None:
    with interruption():
        raise error


@pytest.mark.usefixtures("hangups_heard")
def test_handlers_are_restored() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with interruption():
        assert signal.getsignal(signal.SIGINT) is not before[signal.SIGINT]
    assert {number: signal.getsignal(number) for number in before} == before
    for error in (ValueError(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            leave_by(error)
        assert {number: signal.getsignal(number) for number in before} == before


def test_a_later_job_starts_without_a_request() -> None:
    with interruption() as first:
        send(signal.SIGINT)
    with interruption() as second:
        assert not second.requested
    assert first.requested


def test_a_request_arrives_during_work_of_another_thread() -> None:
    with interruption() as request:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        end = time.monotonic() + 5
        while not request.requested and time.monotonic() < end:
            time.sleep(0.01)
        assert request.requested
        timer.join()


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """As nohup asks for."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruption() as request:
            send(signal.SIGHUP)
        assert not request.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_is_asked() -> None:
    asked = []

    def work() -> None:
        with interruption() as request:
            asked.append(request.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]


@pytest.mark.skipif(sys.platform != "linux", reason="sigaltstack")
def test_a_thread_keeps_its_stack_for_signals() -> None:
    library, memory = ctypes.CDLL(None), ctypes.create_string_buffer(1 << 16)

    def stack() -> int | None:
        current = _SignalStack()
        library.sigaltstack(None, ctypes.byref(current))
        return current.sp

    before = stack()
    with kept_signal_stack():
        library.sigaltstack(ctypes.byref(_SignalStack(ctypes.addressof(memory), 0, len(memory))), None)
        assert stack() == ctypes.addressof(memory)
    assert stack() == before
