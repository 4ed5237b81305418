"""One process of two threads against two processes of one: how long is a step of a search, and of a training?

    python benchmarks/ranks.py [--size 64] [--batch 8] [--channels 8] [--depth 4] [--steps 5] [--repeats 7] [--json]

The search is that of a nas-wdan supernet in first order, whose steps are of the architecture and of the
weights; the training is that of a published genotype; both on synthetic images of two cores. All processes are started
once and then do some steps in turns, one side while the other waits, in the other order every second time. Seconds are
of the clock, so nothing else should run; those of the processor, of all processes of a side, are beside them.

The table gives the median and the quartiles of a step in ms, and how many times as fast two processes are.
"""

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _running import note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medarts.config import Recipe
    from medarts.engine.engine import Job

CORES = 2
SIDES = {f"1 process of {CORES} threads": 1, f"{CORES} processes of 1 thread": CORES}
"""Processes of each side."""
KINDS = ("search", "training")
GENOTYPE = "alpha0_5_stage1_nodouble_deep_ep80"
_STARTING = 600
"""Seconds that processes wait for each other; the first waits for the images."""


@dataclass(frozen=True)
class Case:
    """What is done.

    Attributes:
        data: folder of the images.
        size, batch: of the images that networks see.
        channels: C.
        depth: of the supernet.
        steps: that are timed together.
    """

    data: Path
    size: int
    batch: int
    channels: int
    depth: int
    steps: int

    def recipe(self, threads: int) -> dict[str, Any]:
        """Returns the recipe, whose processes have some threads each."""
        source = {"kind": "isic", "path": str(self.data / "isic"), "name": "skin"}
        return {
            "data": {"sources": [source], "size": self.size, "cache": str(self.data / "cache")},
            "space": {"init_channel": self.channels},
            "search": {"stages": [{"depth": self.depth, "epochs": 2, "batch": self.batch}], "arch_after": 0},
            "train": {"batch": self.batch},
            "compute": {"device": "cpu", "threads": threads, "timeout": _STARTING},
        }


class Side:
    """Processes of one job.

    Args:
        size: how many.
        case: what they do.
    """

    def __init__(self, size: int, case: Case) -> None:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = int(server.getsockname()[1])
        pipes = [context.Pipe() for _ in range(size)]
        self._pipes = [own for own, _ in pipes]
        self._processes = [
            context.Process(target=serve, args=(rank, size, port, case, other)) for rank, (_, other) in enumerate(pipes)
        ]
        for process, (_, other) in zip(self._processes, pipes, strict=True):
            process.start()
            other.close()
        self._heard()

    def times(self, kind: str) -> tuple[float, float]:
        """Returns the seconds of some steps, of the clock and of all processors."""
        for pipe in self._pipes:
            pipe.send(kind)
        found = self._heard()
        return max(clock for clock, _ in found), sum(processor for _, processor in found)

    def end(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()

    def _heard(self) -> list[tuple[float, float]]:
        try:
            return [pipe.recv() for pipe in self._pipes]
        except EOFError:
            raise SystemExit("A process has ended; its error is above.") from None


@contextmanager
def started(size: int, case: Case) -> "Iterator[Side]":
    side = Side(size, case)
    try:
        yield side
    finally:
        side.end()


def serve(rank: int, size: int, port: int, case: Case, pipe: Connection) -> None:
    """Does steps of the kinds that are asked for, as one of some processes, until no more can come."""
    given = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({**{name: str(value) for name, value in given.items()}, "MASTER_ADDR": "127.0.0.1"})
    from medarts.config import parse
    from medarts.engine.device import joined_for

    recipe = parse(case.recipe(CORES // size))
    with joined_for(recipe.compute) as ranks:
        jobs = {kind: ranks.in_turn(lambda kind=kind: job_of(kind, recipe, case)) for kind in KINDS}
        for job in jobs.values():
            job.set_up()
            if job.steps < case.steps:
                raise SystemExit(f"An epoch has {job.steps} steps: use fewer --steps.")
        pipe.send((0.0, 0.0))
        while True:
            try:
                job = jobs[pipe.recv()]
            except EOFError:
                return
            job.state.step = 0
            job.begin_epoch()
            ranks.any(False)  # all begin together
            clock, processor = time.perf_counter(), time.process_time()
            for _ in range(case.steps):
                job._step()
            ranks.any(False)
            pipe.send((time.perf_counter() - clock, time.process_time() - processor))


def job_of(kind: str, recipe: "Recipe", case: Case) -> "Job[Any]":
    """Returns a search or a training."""
    from medarts.nas.search import prepare_search
    from medarts.spaces import load_genotype
    from medarts.training.trainer import prepare_training, that_trains

    if kind == "search":
        return prepare_search(recipe)
    genotype = load_genotype(GENOTYPE).with_settings(init_channel=case.channels)
    return prepare_training(that_trains(recipe, genotype), genotype)


def measured(case: Case, repeats: int) -> dict[str, Any]:
    """Returns the ms of steps of both sides, and how many times as fast the second one is, for each kind."""
    times: dict[str, dict[str, list[tuple[float, float]]]] = {kind: {name: [] for name in SIDES} for kind in KINDS}
    with ExitStack() as stack:
        sides, began = {}, time.perf_counter()
        for name, size in SIDES.items():
            note(f"{name} start{'s' * (size == 1)}")
            sides[name] = stack.enter_context(started(size, case))
        for number in range(repeats + 1):
            for kind in KINDS:
                for name in [*sides] if number % 2 else reversed([*sides]):
                    found = sides[name].times(kind)
                    if number:  # the first warms up
                        times[kind][name].append(found)
            note(f"{number} of {repeats} repeats, {time.perf_counter() - began:.0f} s")
    return {kind: summary(of_kind, case.steps) for kind, of_kind in times.items()}


def summary(times: Mapping[str, Sequence[tuple[float, float]]], steps: int) -> dict[str, Any]:
    one, several = ([clock for clock, _ in of_side] for of_side in times.values())
    ratios = [first / second for first, second in zip(one, several, strict=True)]
    sides = {
        name: {
            "ms": spread([1e3 * clock / steps for clock, _ in of_side]),
            "processor_ms": spread([1e3 * processor / steps for _, processor in of_side]),
        }
        for name, of_side in times.items()
    }
    return {"sides": sides, "times_as_fast": spread(ratios)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def table(result: Mapping[str, Any]) -> str:
    rows = ["| a step, ms | of the clock | of the processor | times as fast |", "| --- | --- | --- | --- |"]
    for kind, of_kind in result.items():
        for number, (name, side) in enumerate(of_kind["sides"].items()):
            ratio = in_words(of_kind["times_as_fast"], 2) if number else ""
            cells = in_words(side["ms"], 1), in_words(side["processor_ms"], 1), ratio
            rows.append(f"| {kind}, {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def in_words(of: Mapping[str, float], digits: int) -> str:
    return f"{of['median']:.{digits}f} ({of['low']:.{digits}f} to {of['high']:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, default=8, help="C")
    parser.add_argument("--depth", type=int, default=4, help="of the supernet")
    parser.add_argument("--steps", type=int, default=5, help="that are timed together")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    from medarts.data.synthetic import write_phantoms

    with tempfile.TemporaryDirectory() as folder:
        images = max(40, 4 * given.batch * given.steps)  # some are not trained on, and a search halves the rest
        write_phantoms(Path(folder), seed=0, images=images, size=given.size)
        case = Case(Path(folder), given.size, given.batch, given.channels, given.depth, given.steps)
        result = measured(case, given.repeats)
    print(json.dumps(result) if given.json else table(result))


if __name__ == "__main__":
    main()
