"""Ctrl-C as a request: the step in hand is finished and saved, then the job stops."""

import signal
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
    """Turns SIGINT and SIGTERM into a request; a second SIGINT stops at once."""
    request = Interruption()

    def ask(number: int, frame: FrameType | None) -> None:
        if request.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.requested = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
