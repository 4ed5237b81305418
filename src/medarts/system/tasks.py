"""What runs in the processes of a Ray cluster, on any of its hosts; see `medarts.system.cluster`."""

import _thread
import multiprocessing.spawn
import os
import pickle
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medarts import __version__
from medarts.errors import MedartsError, of_system
from medarts.system.lock import HeldError
from medarts.system.memory import keep_freed_memory
from medarts.system.process import InterruptedRunError, import_extensions, unpickled
from medarts.system.workers import ProcessEndedError, write_into

LIBRARIES = ("torch", "numpy")
"""Libraries whose versions results depend on."""

DONE, FAILED, HELD, STOPPED = "done", "failed", "held", "stopped"
"""How work ended; HELD: another process is at it."""

_POLL = 5.0
"""Seconds between two questions to the head."""


@dataclass(frozen=True)
class Home:
    """What the process that has the work to do was started with, so that others find the same.

    Attributes:
        folder: that relative paths start from.
        path: where modules are found.
        main: how its main module is found, as multiprocessing names it.
        modules: that have registered something.
        patience: seconds without a word from the head after which work is stopped.
    """

    folder: Path
    path: tuple[str, ...]
    main: Mapping[str, str]
    modules: tuple[str, ...]
    patience: float


def versions() -> dict[str, str]:
    """Returns the versions of medarts, Python and `LIBRARIES` here."""
    found = {"medarts": __version__, "Python": ".".join(platform.python_version_tuple()[:2])}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def do(home: Home, log: Path, work: bytes) -> Iterator[tuple[str, ...] | tuple[str, bytes]]:
    """Does some work as a task of Ray: yields the node, the host and the process, and then how the work ended.

    Args:
        home: of the process that has the work to do.
        log: file to which what is printed is added.
        work: pickled, so that it is read when `home` is there.
    """
    import ray

    yield ray.get_runtime_context().get_node_id(), platform.node(), str(os.getpid())
    yield _ended(home, log, work)


def asked(home: Home, question: bytes) -> tuple[str, str | bytes]:
    """Returns what a pickled function returns here, or the error that it raises, pickled."""
    try:
        _settle(home)
        answer = unpickled(question)()
    except MedartsError as error:
        return FAILED, pickle.dumps(error)
    return DONE, str(answer)


def _ended(home: Home, log: Path, work: bytes) -> tuple[str, bytes]:
    """Does some work and returns how it ended, with the error, pickled, where it failed."""
    try:
        with _printing_into(log), _watching(home.patience):
            try:
                _settle(home)
                unpickled(work)()
            except (MedartsError, OSError, KeyboardInterrupt):
                raise
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                last = traceback.format_exception_only(error)[-1].strip()
                raise ProcessEndedError(f"Its process failed: {last}; see {log}.", fix="") from error
    except InterruptedRunError:
        return STOPPED, b""
    except HeldError as error:
        return HELD, pickle.dumps(error)
    except MedartsError as error:
        return FAILED, pickle.dumps(error)
    except OSError as error:  # such as of the log, for which there is no room
        return FAILED, pickle.dumps(of_system(error, default=log))
    return DONE, b""


def _settle(home: Home) -> None:
    """Has this process find what the one that has the work to do finds."""
    os.chdir(home.folder)
    sys.path.extend(path for path in home.path if path not in sys.path)
    _import_main(home.main.get("init_main_from_name"), home.main.get("init_main_from_path"))
    _keep_freed_memory()
    import_extensions(home.modules)


@cache
def _import_main(name: str | None, path: str | None) -> None:
    """Imports the main module as processes of multiprocessing do; one that this host does not have is left out."""
    if name is not None:
        multiprocessing.spawn.prepare({"init_main_from_name": name})
    elif path is not None and Path(path).is_file():
        multiprocessing.spawn.prepare({"init_main_from_path": path})


@cache
def _keep_freed_memory() -> None:
    keep_freed_memory()


@contextmanager
def _printing_into(log: Path) -> Iterator[None]:
    """Sends what this process prints to the end of a file, and back to where it went before."""
    streams = (sys.stdout, sys.stderr)
    before = [os.dup(stream.fileno()) for stream in streams]
    try:
        write_into(log)
        yield
    finally:
        for stream, kept in zip(streams, before, strict=True):
            stream.flush()
            os.dup2(kept, stream.fileno())
            os.close(kept)


@contextmanager
def _watching(patience: float) -> Iterator[None]:
    """Asks the work to stop once the head of the cluster gives no answer for some seconds.

    Whoever waits for the work has given it up by then, and may give it to another host, for which this one would still
    hold its folder.
    """
    watch = _Watch(patience)
    for each in (watch.ask, watch.look):
        threading.Thread(target=each, daemon=True).start()
    try:
        yield
    finally:
        watch.ended.set()


class _Watch:
    """Two threads, as a question that is never answered cannot be given up.

    Args:
        patience: seconds without an answer after which work is stopped.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.ended = threading.Event()
        self._heard = time.monotonic()

    def ask(self) -> None:
        """Asks the head for its nodes, again and again."""
        import ray

        while not self.ended.wait(min(_POLL, self.patience / 4)):
            if _is_answered(ray.nodes):
                self._heard = time.monotonic()

    def look(self) -> None:
        """Stops the work if there was no answer for too long."""
        while not self.ended.wait(min(1.0, self.patience / 4)):
            if time.monotonic() - self._heard > self.patience:
                print(f"The head of the cluster has not answered for {self.patience:.0f} s: stopped.", file=sys.stderr)
                _thread.interrupt_main()
                return


def _is_answered(question: Callable[[], object]) -> bool:
    try:
        question()
    except Exception:  # whatever Ray says of a head that is gone
        return False
    return True
