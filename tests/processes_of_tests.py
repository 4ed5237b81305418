"""Processes that tests start: forked from one that has imported everything, which takes seconds each time.

Windows has no fork.
"""

import gc
import multiprocessing
import os
import runpy
import signal
import sys
from contextlib import chdir
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

IMPORTED = [
    "pytest",
    "kornia",
    "medarts.cli",
    "medarts.nas.search",
    "medarts.profiling.plan",
    "medarts.pruning.job",
    "medarts.study.benchmark",
    __name__,
]
"""What most of them need. None of it starts threads, which a process that is forked would lack."""

ROOT = Path(__file__).parents[1]

spawning = multiprocessing.get_context
"""Returns contexts of which the method spawn starts processes that have nothing imported."""


if sys.platform == "win32":
    forking = spawning
else:
    from multiprocessing.context import ForkServerContext, ForkServerProcess

    class Forked(ForkServerProcess):
        """A process with the environment and the blocked signals of the one that starts it, as one of method spawn.

        It does not wait for the disk.
        """

        def start(self) -> None:
            """Starts it."""
            forkserver.set_forkserver_preload(IMPORTED)
            with chdir(ROOT):  # where the server finds this file
                forkserver.ensure_running()
            self._inherited = dict(os.environ), signal.pthread_sigmask(signal.SIG_BLOCK, ())
            super().start()

        def run(self) -> None:
            """Does its work."""
            gc.freeze()  # or collections would copy what it shares with the others
            environment, blocked = self._inherited
            os.environ.clear()
            os.environ.update(environment)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.fsync = lambda fd: None
            super().run()

    class Forking(ForkServerContext):
        """A context of such processes."""

        Process = Forked

    def forking(method: str | None = None) -> BaseContext:
        """Returns a context, as `multiprocessing.get_context` does."""
        return Forking() if method in ("spawn", "forkserver") else spawning(method)


def run_script(script: Path, *words: str, folder: Path) -> tuple[int | None, str, str]:
    """Runs a script in a process of its own, in an empty folder; returns exit status, standard output and error."""
    files = folder.with_name(f"{folder.name}-output"), folder.with_name(f"{folder.name}-errors")
    process = forking("spawn").Process(target=_run_script, args=(script, words, folder, files))  # type: ignore[attr-defined]
    process.start()
    process.join(timeout=300)
    process.kill()
    output, errors = (file.read_text(encoding="utf-8") for file in files)
    return process.exitcode, output, errors


def start_command(*words: str, folder: Path, errors: Path, terminal: str | None = None) -> Any:
    """Starts ``medarts`` with some words in a process of its own, in a folder, and returns the process.

    Args:
        words: of the command.
        folder: where it works.
        errors: file of its standard error.
        terminal: path of the terminal that it is the session of, which has its output and its errors.
    """
    process = forking("spawn").Process(target=_run_command, args=(words, folder, errors, terminal))  # type: ignore[attr-defined]
    process.start()
    return process


def _run_command(words: tuple[str, ...], folder: Path, errors: Path, terminal: str | None) -> None:
    from medarts import cli

    os.chdir(folder)
    if terminal is None:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    else:
        os.setsid()
        handle = os.open(terminal, os.O_RDWR)  # the first one that a session opens is its own
        for stream in (0, 1, 2):
            os.dup2(handle, stream)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["medarts", *words]
    cli.main()


def _run_script(script: Path, words: tuple[str, ...], folder: Path, files: tuple[Path, Path]) -> None:
    os.chdir(folder)
    for file, stream in zip(files, (sys.stdout, sys.stderr), strict=True):
        stream.reconfigure(encoding="utf-8")
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream.fileno())
    sys.argv = [str(script), *words]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
