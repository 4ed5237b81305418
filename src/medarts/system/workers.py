"""Work in other processes, several at once: each has a log, can be stopped, and takes no other with it.

The processes are those of this machine, `Processes`, or tasks on a Ray cluster, see `medarts.system.cluster`. Whoever
has work to do opens `Workers` by `open_workers` and does not know which.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Protocol

from medarts.errors import MedartsError, of_system
from medarts.system.files import make_folder, writing
from medarts.system.memory import keep_freed_memory
from medarts.system.process import (
    KILLED,
    InterruptedRunError,
    extensions,
    held_back,
    import_extensions,
    interrupted_by_schedulers,
    signal_name,
    unpickled,
    when_parent_ends,
)

PATIENCE = 60.0
"""Seconds that a process waits for others that are still saving what they do."""

HELD = (signal.SIGINT, signal.SIGTERM)
"""Signals that are held back from a process until it can take them."""


class ProcessEndedError(MedartsError):
    """A process ended before it could answer, as where the system killed it."""


@dataclass(frozen=True)
class Work:
    """What a process does.

    Attributes:
        name: of the work.
        do: can be pickled; what it returns is lost.
        log: file to which the process adds what it prints.
    """

    name: str
    do: Callable[[], object]
    log: Path


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of some work.

    Attributes:
        name: of the work.
        error: why it failed; None where it is done, or was stopped as it was asked to.
        stopped: it was asked to stop, by whomever, and can go on.
    """

    name: str
    error: MedartsError | None = None
    stopped: bool = False


@dataclass(frozen=True)
class Needs:
    """What a host of a cluster must have for a piece of work.

    Attributes:
        folder: below which all files are written; every host sees it at this path.
        cpus: threads of the work, at least 1.
        gpus: GPUs of it, 0 or 1.
        patience: seconds to wait for a host that does not answer, or for one that can do the work.
        same: can be pickled; returns what must be the same on every host, such as a fingerprint of the images.
    """

    folder: Path
    cpus: int
    gpus: int
    patience: float
    same: Callable[[], str]


class Workers(Protocol):
    """Does work, several at once; a context that, when left, stops what is still at work and waits for it."""

    def __enter__(self) -> "Workers": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def start(self, work: Work) -> None:
        """Starts some work."""

    def wait(self, seconds: float) -> list[Ended]:
        """Waits until some work ends, but not for longer, and returns what has ended.

        Raises:
            MedartsError: no more work can be done, as where a cluster is lost; nothing is at work any more.
        """

    def ask_to_stop(self) -> None:
        """Asks all work to save what it has and end."""


def open_workers(cluster: str | None, needs: Callable[[], Needs], *, jobs: int, reused: bool = False) -> Workers:
    """Returns what does work here, or on a cluster.

    Args:
        cluster: address of a Ray cluster, see `medarts.system.cluster`. Default: processes of this machine.
        needs: returns what hosts of a cluster must have.
        jobs: pieces of work at once.
        reused: whether a process goes on with other work, which saves the seconds that its imports take. Its peak
            memory is then that of all its work.

    Raises:
        MedartsError: Ray is not installed, or ``cluster`` is no address.
    """
    if cluster is None:
        return Processes(reused=reused)
    from medarts.system.cluster import RayWorkers

    return RayWorkers(cluster, needs(), jobs=jobs, reused=reused)


class Processes:
    """`Workers` that are processes of this machine.

    Args:
        reused: see `open_workers`. A process in which work has failed is not used again.
    """

    def __init__(self, *, reused: bool = False) -> None:
        self._reused = reused
        self._busy: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._asked = False

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ask_to_stop()  # by what went wrong in this process they lose nothing
        end = time.monotonic() + PATIENCE
        for worker in (*self._busy, *self._idle):
            worker.leave(patience=max(0.0, end - time.monotonic()))

    def start(self, work: Work) -> None:
        """Starts some work, in a new process or in one that has none."""
        self._idle = [worker for worker in self._idle if worker.process.is_alive()]
        worker = self._idle.pop() if self._idle else _Worker()
        worker.give(work)
        self._busy.append(worker)

    def wait(self, seconds: float) -> list[Ended]:
        """Waits until some work ends, but not for longer, and returns what has ended."""
        ready = connection.wait([worker.answers for worker in self._busy], timeout=seconds)
        ended = [worker for worker in self._busy if worker.answers in ready]
        self._busy = [worker for worker in self._busy if worker not in ended]
        return [self._end(worker) for worker in ended]

    def ask_to_stop(self) -> None:
        """Asks all processes to save what they have and end."""
        self._asked = True
        for worker in (*self._busy, *self._idle):
            worker.process.terminate()

    def _end(self, worker: "_Worker") -> Ended:
        end = worker.end(asked=self._asked)
        if self._reused and end.error is None and not end.stopped:
            self._idle.append(worker)
        else:
            worker.leave(patience=PATIENCE)
        return end


class _Worker:
    """A process, the work that it has, and where the answers come from: None, or why the work ended early."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.answers, other = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(extensions(), other))
        with held_back(*HELD):
            self.process.start()
        other.close()  # the last one open is that of the process, whose end is seen by it
        self.work: Work | None = None

    def give(self, work: Work) -> None:
        """Gives the process something to do; it has nothing else."""
        self.work = work
        with suppress(OSError):  # it has ended, as `end` will find
            # Pickled apart, as it may name what only the extensions bring.
            self.answers.send((work.log, pickle.dumps(work.do)))

    def end(self, *, asked: bool) -> Ended:
        """Returns what became of the work that has ended.

        Args:
            asked: whether the process was asked to stop.
        """
        assert self.work is not None
        name = self.work.name
        try:
            answer: MedartsError | None = self.answers.recv()
        except (EOFError, OSError):  # it could not answer any more
            self.process.join()
            if asked and self.process.exitcode == -signal.SIGTERM:
                return Ended(name, stopped=True)
            return Ended(name, error=ProcessEndedError(self._last_words(self.work.log), fix=""))
        if isinstance(answer, InterruptedRunError):  # a scheduler asks all processes, in any order
            return Ended(name, stopped=True)
        return Ended(name, error=answer)

    def leave(self, *, patience: float) -> None:
        """Lets the process end, and kills it if it has not ended after some seconds."""
        self.answers.close()
        self.process.join(patience)
        self.process.kill()
        self.process.join()

    def _last_words(self, log: Path) -> str:
        code = self.process.exitcode
        if code == KILLED:
            return "The system killed its process, as it does where memory runs out."
        if code is not None and code < 0:
            return f"Its process was ended by {signal_name(-code)}; see {log}."
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output.")
        return f"Its process ended with status {code}: {last} See {log}."


def _serve(modules: tuple[str, ...], answers: Connection) -> None:
    """Does the work that comes, in a process that has been started for it, until no more can come."""
    # Ctrl-C on the terminal is for the process that waits; this one is asked to stop by SIGTERM alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # of a scheduler
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))  # it saves, and stops
    keep_freed_memory()
    import_extensions(modules)
    while True:
        try:
            log, pickled = answers.recv()
        except (EOFError, OSError):
            return
        answer: MedartsError | None = None
        try:
            write_into(log)
            with interrupted_by_schedulers():
                unpickled(pickled)()
        except MedartsError as error:
            answer = error
        except OSError as error:  # what is printed has no room, for which the work is not to blame
            answer = of_system(error, default=log)
        except KeyboardInterrupt:  # before or after what a job has saved
            answer = InterruptedRunError("Stopped.", fix="")
        with suppress(OSError):  # nobody waits any more
            answers.send(answer)


def write_into(log: Path) -> None:
    """Sends what this process prints to the end of a file."""
    make_folder(log.parent)
    with writing(log), log.open("a", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
