"""Processes that tests start: forked from one that has imported everything, which takes seconds each time.

Windows has no fork.
"""

import gc
import multiprocessing
import os
import signal
import sys
from contextlib import chdir
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path

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
