"""Work as tasks on a Ray cluster: retried where a worker dies, stopped as processes of this machine are.

    this process        starts work and learns how it ended (`RayWorkers`)
    broker.py           a process beside it that speaks to Ray: a driver of Ray is ended with its cluster
    tasks.py            what runs in the processes of Ray, on any host

Work writes its files where it would write them here, so all hosts see its folder at one path. Before any work each of
them is looked at: the folder, the versions of medarts and its libraries, and what `Needs.same` returns.
"""

import multiprocessing
import multiprocessing.spawn
import pickle
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from medarts.errors import MedartsError, RecipeError, quoted
from medarts.system.console import inform
from medarts.system.files import make_folder
from medarts.system.process import extensions, held_back
from medarts.system.tasks import Home, versions
from medarts.system.workers import HELD, PATIENCE, Ended, Needs, Work

LOCAL, HERE = "local", "auto"
"""In place of an address: a new Ray on this machine alone, and the cluster that this machine is part of."""

_MARGIN, _STARTING = 30.0, 600.0
"""Seconds beyond its own patience after which the process that speaks to Ray is taken for lost; at its start it waits
for Ray, which has patience of its own, and cannot give a sign of life.
"""


def check_address(address: str) -> None:
    """Refuses what is no address of a cluster, and any where Ray is not installed.

    Raises:
        RecipeError: it is none.
        MedartsError: Ray is not installed.
    """
    if address not in (LOCAL, HERE) and re.fullmatch(r"[\w.\-]+:\d{1,5}|\[[\da-fA-F:.]+\]:\d{1,5}", address) is None:
        raise RecipeError(
            f"cluster is {quoted(address)}.",
            fix=f"Use HOST:PORT of its head, such as 10.0.0.1:6379, or {HERE}, or {LOCAL}.",
        )
    if find_spec("ray") is None:
        raise MedartsError("Ray is not installed.", fix='pip install "medarts[cluster]"')


@dataclass(frozen=True)
class Plan:
    """What the process that speaks to Ray gets at its start.

    Attributes:
        address: of the cluster.
        jobs: pieces of work at once.
        reused: whether processes of Ray go on with other work.
        folder, cpus, gpus, patience: see `medarts.system.workers.Needs`.
        home: what work finds in a process of Ray.
        log: file to which Ray's own messages go.
        versions: of the libraries here.
        same: pickled `Needs.same`.
        answer: what that returns here.
    """

    address: str
    jobs: int
    reused: bool
    folder: Path
    cpus: int
    gpus: int
    patience: float
    home: Home
    log: Path
    versions: dict[str, str]
    same: bytes
    answer: str


class RayWorkers:
    """`medarts.system.workers.Workers` on a Ray cluster.

    Args:
        address: HOST:PORT of the head of a cluster that this machine is part of, or `LOCAL` or `HERE`.
        needs: what hosts must have.
        jobs: pieces of work at once.
        reused: see `medarts.system.workers.open_workers`.
    """

    def __init__(self, address: str, needs: Needs, *, jobs: int, reused: bool) -> None:
        check_address(address)
        folder = needs.folder.resolve()
        self._plan = Plan(
            address, jobs, reused, folder, needs.cpus, needs.gpus, needs.patience, log=folder / "logs" / "cluster.log",
            home=Home(Path.cwd(), tuple(sys.path), _main(), extensions(), needs.patience),
            versions=versions(), same=pickle.dumps(needs.same), answer=needs.same(),
        )  # fmt: skip
        self._ended: list[Ended] = []
        self._asked = False

    def __enter__(self) -> "RayWorkers":
        from medarts.system.broker import serve

        make_folder(self._plan.log.parent)
        context = multiprocessing.get_context("spawn")
        self._channel, other = context.Pipe()
        self._process: SpawnProcess = context.Process(target=serve, args=(self._plan, other))
        with held_back(*HELD):
            self._process.start()
        other.close()
        self._heard = time.monotonic()
        self._is_ready = False
        try:
            while not self._is_ready:
                self._listen(1.0)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._send(("leave",))
        end = time.monotonic() + PATIENCE + _MARGIN
        with suppress(EOFError, OSError):
            while time.monotonic() < end:  # what it says is heard no more, but it must not wait for that
                self._channel.poll(max(0.0, end - time.monotonic()))
                self._channel.recv()
        self._process.join(max(0.0, end - time.monotonic()))
        self._process.kill()
        self._process.join()
        self._channel.close()

    def start(self, work: Work) -> None:
        """Starts some work, where there is room."""
        log = work.log if work.log.is_absolute() else self._plan.home.folder / work.log
        self._send(("start", work.name, log, pickle.dumps(work.do)))  # whether it is lost, `wait` will find

    def wait(self, seconds: float) -> list[Ended]:
        """Waits until some work ends, but not for longer, and returns what has ended.

        Raises:
            MedartsError: the cluster is lost, or has no host any more that could do the work.
        """
        end = time.monotonic() + seconds
        while not self._ended and (left := end - time.monotonic()) > 0:
            self._listen(left)
        self._listen(0.0)
        ended, self._ended = self._ended, []
        return ended

    def ask_to_stop(self) -> None:
        """Asks all work to save what it has and end."""
        if not self._asked:
            self._asked = True
            self._send(("stop",))

    def _send(self, message: tuple[Any, ...]) -> None:
        with suppress(OSError):  # the process has ended
            self._channel.send(message)

    def _listen(self, seconds: float) -> None:
        """Takes one message, if one comes within some seconds."""
        try:
            if not self._channel.poll(seconds):
                most = self._plan.patience + (_MARGIN if self._is_ready else _STARTING)
                if time.monotonic() - self._heard > most:
                    raise self._lost(f"has not answered for {most:.0f} s")
                return
            kind, *about = self._channel.recv()
        except (EOFError, OSError):
            raise self._lost("has ended") from None
        self._heard = time.monotonic()
        _ANSWERS[kind](self, *about)

    def _lost(self, how: str) -> MedartsError:
        return MedartsError(
            f"The cluster {self._plan.address} is lost: the process that speaks to Ray {how}; see {self._plan.log}.",
            fix="Start the cluster again, and then the same command, which goes on.",
        )

    def _be_ready(self) -> None:
        self._is_ready = True

    def _note_end(self, name: str, error: bytes | None, stopped: bool) -> None:
        self._ended.append(Ended(name, None if error is None else pickle.loads(error), stopped))

    def _fail(self, error: MedartsError) -> None:
        raise error

    def _rest(self) -> None:
        """Takes a sign of life."""


_ANSWERS: dict[str, Callable[..., None]] = {
    "ready": RayWorkers._be_ready,
    "ended": RayWorkers._note_end,
    "note": lambda _, text: inform(text),
    "failed": RayWorkers._fail,
    "alive": RayWorkers._rest,
}


def _main() -> dict[str, str]:
    """Returns how the main module is named to processes of Ray, as it may be a script that registers something."""
    about = multiprocessing.spawn.get_preparation_data("")  # of no public interface
    found: dict[str, str] = {key: about[key] for key in about if key.startswith("init_main")}
    return found
