"""Processes and signals: jobs that are asked to stop, and work in a process of its own."""

import ctypes
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import FrameType
from typing import TypeVar

from medarts.errors import MedartsError
from medarts.system.memory import is_out_of_memory

Answer = TypeVar("Answer")

KILLED = -9
"""Exit code of a process that was ended by SIGKILL; Windows has no such signal."""

_extensions: dict[str, None] = {}
"""Modules of users that have registered something, in their order."""

_PR_SET_PDEATHSIG = 1
"""Option of prctl(2): the signal that a process gets when its parent ends."""


class InterruptedRunError(MedartsError):
    """The job was asked to stop; it was saved and can be resumed."""


class Interruption:
    """Whether the job has been asked to stop."""

    requested = False


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Turns the signals that ask to stop into a request; a second SIGINT stops at once.

    Threads beside the main one get no signals, so there nothing is asked.
    """
    request = Interruption()

    def ask(number: int, frame: FrameType | None) -> None:
        if request.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.requested = True

    with _handled_by(ask, stopping_signals()):
        yield request


@contextmanager
def interrupted_by_schedulers() -> Iterator[None]:
    """Lets the signals that ask to stop end what is no job yet, or no longer, as Ctrl-C does; see `interruption`."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled_by(interrupt, [number for number in stopping_signals() if number != signal.SIGINT]):
        yield


@contextmanager
def _handled_by(handle: Callable[[int, FrameType | None], None], numbers: Iterable[signal.Signals]) -> Iterator[None]:
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in numbers} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopping_signals() -> list[signal.Signals]:
    """Returns the signals that ask a job to stop: of Ctrl-C, of a scheduler or shell, of a terminal that was closed.

    Slurm sends SIGTERM at the end of the time of a job, and before that the signal that ``--signal`` names, which is
    SIGUSR1 by custom. A SIGHUP that is ignored, as nohup asks for, stays ignored. Windows has the first two alone.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform != "win32":
        numbers.append(signal.SIGUSR1)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
    return numbers


def note_extension(module: str) -> None:
    """Notes a module that has registered something, so that processes started from now on import it too.

    A script needs none of that: it is imported by Python itself, as the main module of the new process.
    """
    if module != "__main__" and not module.startswith("medarts."):
        _extensions[module] = None


def extensions() -> tuple[str, ...]:
    """Returns the modules to hand to `import_extensions` in a new process."""
    return tuple(_extensions)


def import_extensions(modules: Iterable[str]) -> None:
    """Imports the modules that have registered something in the process that started this one.

    What cannot be imported is reported later, where it is missed.
    """
    for module in modules:
        with suppress(ImportError):
            importlib.import_module(module)


def in_new_process(work: Callable[[], Answer]) -> Answer:
    """Does some work in a fresh process, and returns what it returns.

    The process ends with this one, even if this one is killed.

    Args:
        work: can be pickled, as can its answer.

    Raises:
        MedartsError: of the work; or a signal, other than that of a lack of memory, ended the process.
        OSError: of the work.
        MemoryError: memory ran out, of the machine or of the GPU.
        RuntimeError: the process ended in another way; it has given the reason on standard error.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    # Pickled apart, as it may name what only the extensions bring.
    process = context.Process(target=_send_answer, args=(extensions(), pickle.dumps(work), sender))
    try:
        with held_back(signal.SIGINT):  # for ever in the process, which this one ends
            process.start()
        sender.close()  # the last one open is that of the process, whose end is seen by it
        answer = receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == KILLED:
            raise MemoryError("the system killed the process, as it does where memory runs out") from None
        if process.exitcode is not None and process.exitcode < 0:
            raise _ended_by(-process.exitcode) from None
        raise RuntimeError(f"the process ended without an answer, with status {process.exitcode}") from None
    finally:
        if process.pid is not None:
            process.terminate()  # after Ctrl-C it is still at work
            process.join()
        receiver.close()
    if isinstance(answer, MedartsError | OSError | MemoryError):
        raise answer
    result: Answer = answer
    return result


def signal_name(number: int) -> str:
    """Returns the name of a signal, such as SIGTERM."""
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those for real time, most of which have no name
        return f"signal {number}"


def _ended_by(number: int) -> MedartsError:
    """Returns the error of a process that a signal has ended."""
    crashed = number in (getattr(signal, name, None) for name in ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT"))
    fix = "Run it again. If it crashes again, reinstall PyTorch." if crashed else "Run it again."
    return MedartsError(f"A measuring process was ended by {signal_name(number)}.", fix=fix)


def when_parent_ends(react: Callable[[], object]) -> None:
    """Calls a function, in a thread, once the process that started this one has ended, even if it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        react()

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def held_back(*signals: signal.Signals) -> Iterator[None]:
    """Keeps signals from a process that is started in it, and from this one until it can end the other.

    A new process inherits which signals are blocked, until it lets them through itself: so they cannot meet it while it
    still imports, before it could say what to do with them, and would print where it was. Here blocking is not enough:
    where libraries have threads, one of these takes the signal, and Python then calls its handler all the same.

    Args:
        signals: to hold back; those that came are sent again at the end.
    """
    resource_tracker.ensure_running()  # to start it would let SIGINT through
    kept: list[int] = []
    handlers = {each: signal.signal(each, lambda number, _: kept.append(number)) for each in signals}
    masks = hasattr(signal, "pthread_sigmask")  # not on Windows, where new processes inherit no signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals) if masks else set()
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for each, handler in handlers.items():
            signal.signal(each, handler)
        for number in kept:
            signal.raise_signal(number)


def _send_answer(modules: tuple[str, ...], work: bytes, sender: Connection) -> None:
    _end_with_parent()
    import_extensions(modules)
    try:
        sender.send(unpickled(work)())
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        sender.send(MemoryError(str(error)))
    except (MedartsError, OSError, MemoryError) as error:
        sender.send(error)


def unpickled(work: bytes) -> Callable[[], object]:
    """Returns the work that was pickled in the process that started this one.

    Raises:
        MedartsError: it names what is not registered here.
    """
    try:
        return pickle.loads(work)  # type: ignore[no-any-return]
    except (AttributeError, ImportError, ValueError) as error:  # a ValueError: nothing is registered under a name
        raise MedartsError(
            f"A new process does not know what this one works on ({error}).",
            fix="Move what you register from the notebook into a module, and import that.",
        ) from None


def _end_with_parent() -> None:
    """Has this process end at once when the one that started it has ended."""
    if sys.platform == "linux":  # a thread has to wait for what holds the interpreter; the kernel has not
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    when_parent_ends(lambda: os._exit(1))  # elsewhere, and where the parent had ended before the call above


class _SignalStack(ctypes.Structure):
    """The ``stack_t`` of sigaltstack(2)."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Gives the thread back the stack on which it handles signals; for libraries that replace it, as OpenVINO does.

    OpenVINO restores the former stack when a model is deleted. Of several models that is the stack of another, which
    may be freed by then, and the next signal, such as that of Ctrl-C, would end the process.
    """
    if sys.platform != "linux":
        yield
        return
    library, before = ctypes.CDLL(None), _SignalStack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)
