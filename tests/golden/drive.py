"""Runs commands of medarts one after the other in one process: ``python drive.py FOLDER COMMANDS.json``."""

import json
import multiprocessing
import os
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any


def main() -> None:
    folder, commands = sys.argv[1:]
    os.chdir(folder)
    _import_once()
    from medarts import cli
    from medarts.comparison import costs
    from medarts.profiling import cost

    # Latencies are not frozen.
    costs.REPEATS = 2
    vars(cost).update(Translation=_Nothing, ENGINES={"onnxruntime": _Idle})
    for words in json.loads(Path(commands).read_text(encoding="utf-8")):
        sys.argv = ["medarts", *words]
        print(f"{time.process_time():.1f} s $", *sys.argv, flush=True)
        try:
            cli.main()
        except SystemExit as end:
            if end.code:
                raise


class _Nothing:
    """Translates no network."""

    content = b""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Takes any."""

    def of(self, _: Any) -> bytes:
        """Returns nothing for any other network, too."""
        return b""


class _Idle:
    """Runs no exported network."""

    def __init__(self, model: bytes, *, threads: int) -> None:
        self.threads = threads

    def run(self, images: object, limits: object) -> dict[str, object]:
        return {}


def _import_once() -> None:
    """Has the processes that are started forked from one that has imported everything: each saves some seconds.

    That one is started with the first of them.
    """
    if not hasattr(os, "fork"):
        return
    forkserver.set_forkserver_preload(["torch", "kornia", "lightning_fabric", "medarts.cli", "medarts.study.benchmark"])
    get_context = multiprocessing.get_context

    def forked(method: str | None = None) -> Any:
        return get_context("forkserver" if method == "spawn" else method)

    multiprocessing.get_context = forked


if __name__ == "__main__":  # and not in the processes that medarts starts
    main()
