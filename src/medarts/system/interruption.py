"""Ctrl-C, and a terminal that is closed, as a request: the step in hand is finished and saved, then the job stops."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from medarts.errors import MedartsError


class InterruptedRunError(MedartsError):
    """The job was asked to stop; it was saved and can be resumed."""


class Interruption:
    """Whether the job has been asked to stop."""

    requested = False


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Turns SIGINT, SIGTERM and SIGHUP into a request; a second SIGINT stops at once.

    A SIGHUP that is ignored, as nohup asks for, stays ignored. Windows has none. Threads beside the main one get no
    signals, so there nothing is asked.
    """
    request = Interruption()

    def ask(number: int, frame: FrameType | None) -> None:
        if request.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.requested = True

    before = {number: signal.signal(number, ask) for number in _signals()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signals() -> list[signal.Signals]:
    if threading.current_thread() is not threading.main_thread():
        return []
    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)  # the terminal was closed, or the connection lost
    return numbers
