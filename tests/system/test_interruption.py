import os
import signal
import threading
import time

import pytest

from medarts.system.interruption import interruption


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # Python handles it between two instructions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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
