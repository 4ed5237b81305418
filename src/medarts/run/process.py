"""Work in a process of its own, so that its peak memory is its own."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TypeVar

import torch

from medarts.errors import MedartsError

Answer = TypeVar("Answer")


def in_new_process(work: Callable[[], Answer]) -> Answer:
    """Does some work in a fresh process, and returns what it returns.

    Args:
        work: can be pickled, as can its answer.

    Raises:
        MedartsError: of the work.
        OSError: of the work.
        MemoryError: memory ran out, of the machine or of the GPU.
        RuntimeError: the process ended in another way; it has said why on standard error.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_answer, args=(work, sender))
    _start(process)
    sender.close()  # the last one open is that of the process, whose end is seen by it
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:
            raise MemoryError("the system killed the process, as it does where memory runs out") from None
        raise RuntimeError(f"the process ended without an answer, with status {process.exitcode}") from None
    finally:
        process.terminate()  # after Ctrl-C it is still at work
        process.join()
        receiver.close()
    if isinstance(answer, MedartsError | OSError | MemoryError):
        raise answer
    result: Answer = answer
    return result


_OUT_OF_MEMORY = ("can't allocate memory", "_STATUS_ALLOC_FAILED")
"""How PyTorch says it on the CPU, and cuBLAS and cuDNN."""


def _start(process: SpawnProcess) -> None:
    """Starts a process that never sees Ctrl-C, which is for the one that waits and ends it.

    A new process inherits which signals are blocked. So SIGINT cannot meet it while it still imports, before it could
    say what to do with it, and would print where it was.
    """
    resource_tracker.ensure_running()  # it unblocks SIGINT where it is started, as it else were by the process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send_answer(work: Callable[[], object], sender: Connection) -> None:
    try:
        sender.send(work())
    except RuntimeError as error:  # of which torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and not any(said in str(error) for said in _OUT_OF_MEMORY):
            raise
        sender.send(MemoryError(str(error)))
    except (MedartsError, OSError, MemoryError) as error:
        sender.send(error)
