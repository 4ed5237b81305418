"""Measures what Ray costs: seconds of each task with up to 64 workers, and trainings against those of local jobs.

    python benchmarks/cluster.py [--workers 1 8 64] [--tasks 4] [--sleep 1.0] [--json]
    python benchmarks/cluster.py --trainings 4 [--epochs 20] [--json]

Tasks sleep, so the workers are simulated: this machine has room for all of them, whatever its cores. Each number of
workers has a Ray of its own. All its workers have met before the time is taken: to start 64 takes minutes on two cores.
The overhead of a task is what all of them take beyond the sleeping, by the number of tasks: the seconds of the
scheduler, here of Ray and medarts together. Processes of local jobs do the same beside it.

Trainings are those of a benchmark of synthetic images on `--jobs` 2, first by local jobs, then on a Ray of this
machine, with its start and end, and once more by local jobs, as other work may run beside.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _running import note

from medarts.system.workers import Needs, Work, Workers, open_workers

if TYPE_CHECKING:
    from medarts.config.study import Study

# What trains is imported where it is used: every worker imports this module.

JOBS = 2
STARTING = 1800.0
"""Seconds within which all workers have to start."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tasks", type=int, default=4, help="of each worker")
    parser.add_argument("--sleep", type=float, default=1.0, help="seconds of a task")
    parser.add_argument("--trainings", type=int, default=0, help="measure this number of trainings instead")
    parser.add_argument("--epochs", type=int, default=20, help="of a training")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.trainings:
            found = trainings(Path(folder), arguments.trainings, arguments.epochs)
        else:
            found = [
                tasks(Path(folder), cluster, workers, arguments.tasks, arguments.sleep)
                for workers in arguments.workers
                for cluster in (None, "local")
                if cluster or workers <= 8  # local jobs are processes: more of them only wait for memory
            ]
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        for row in found:
            print("  ".join(f"{key} {value}" for key, value in row.items()))


def tasks(folder: Path, cluster: str | None, workers: int, each: int, seconds: float) -> dict[str, Any]:
    """Returns the overhead of tasks that sleep."""
    needs = Needs(folder, cpus=1, gpus=0, patience=3600, same=str)
    with open_workers(cluster, lambda: needs, jobs=workers, reused=True) as opened:
        note(f"{workers} workers start")
        places = folder / f"{cluster or 'processes'}-{workers}"
        places.mkdir()
        took = run(opened, workers, partial(meet, places, workers), at_once=workers, folder=folder)
        note(f"{workers} workers have met after {took:.0f} s")
        number = workers * each
        took = run(opened, number, partial(time.sleep, seconds), at_once=workers, folder=folder)
    beyond = took - each * seconds
    return {
        "by": cluster or "processes", "workers": workers, "tasks": number, "seconds": round(took, 2),
        "overhead_ms": round(1000 * beyond / number, 1),
    }  # fmt: skip


def meet(places: Path, number: int) -> None:
    """Waits until as many processes have come here, each of which does one task then."""
    (places / str(os.getpid())).touch()
    end = time.monotonic() + STARTING
    while len([*places.iterdir()]) < number:
        assert time.monotonic() < end, f"{number} workers have not started within {STARTING:.0f} s"
        time.sleep(0.5)


def run(workers: Workers, number: int, do: Callable[[], object], *, at_once: int, folder: Path) -> float:
    """Does some work many times, as a benchmark does, and returns the seconds."""
    began, left, busy = time.perf_counter(), number, 0
    while left or busy:
        while left and busy < at_once:
            workers.start(Work(f"{left}", do, folder / "logs" / f"{left}.log"))
            left, busy = left - 1, busy + 1
        for ended in workers.wait(1.0):
            assert ended.error is None, ended.error
            busy -= 1
    return time.perf_counter() - began


def trainings(folder: Path, number: int, epochs: int) -> list[dict[str, Any]]:
    """Returns the seconds of a benchmark by local jobs and on Ray."""
    from medarts.study.benchmark import benchmark

    study = study_of(folder, number, epochs)
    found = []
    for turn, cluster in enumerate((None, "local", None)):
        note(f"{number} trainings: {cluster or 'processes'}")
        began = time.perf_counter()
        with Path(os.devnull).open("w") as nothing, redirect_stderr(nothing):
            benchmark(study, folder / f"out-{turn}", jobs=JOBS, cluster=cluster)
        took = time.perf_counter() - began
        found.append({"by": cluster or "processes", "trainings": number, "epochs": epochs, "seconds": round(took, 1)})
    return found


def study_of(folder: Path, number: int, epochs: int) -> "Study":
    from medarts.config.study import load_study
    from medarts.data.synthetic import write_phantoms

    write_phantoms(folder / "phantoms", seed=0, images=100, size=64)
    source = {"kind": "isic", "path": str(folder / "phantoms" / "isic"), "name": "skin"}
    content = {
        "recipe": {
            "data": {"sources": [source], "size": 64, "cache": str(folder / "cache")},
            "train": {"epochs": epochs, "batch": 8},
            "compute": {"device": "cpu", "threads": 1},
        },
        "networks": [{"model": {"name": "unet", "width": 8}}],
        "trained_on": [{"data": "skin", "seeds": list(range(number))}],
    }
    path = folder / "study.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return load_study(path)


if __name__ == "__main__":
    main()
