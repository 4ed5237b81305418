"""What benchmarks share that train many networks: each in a process of one thread, and a line of JSON for each."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

import medarts
from medarts.config import load as load_recipe
from medarts.engine.device import needs_of
from medarts.system.process import InterruptedRunError
from medarts.system.workers import Work, open_workers

CURVES = ("train_loss", "val_loss", "val_dice")

Case = TypeVar("Case")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns what `append_line` has written; nothing where there is no file yet."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def append_line(path: Path, about: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(about, separators=(",", ":")) + "\n")


def train_and_test(network: Any, recipe: Path, *, data: str, changes: Sequence[str]) -> dict[str, Any]:
    """Trains and tests a network, and returns its curves, its test Dice, and the seconds of its epochs."""
    with tempfile.TemporaryDirectory() as folder:
        run = medarts.train(network, recipe, data=data, changes=changes, out=Path(folder) / "run")
        medarts.evaluate(run)
        curve, timing = (
            pd.read_json(run.path / name, lines=True, dtype=False) for name in ("metrics.jsonl", "timing.jsonl")
        )
        summary = pd.read_csv(run.path / "scores" / "test" / "summary.csv")
    (dice,) = summary[(summary["dataset"] == data) & (summary["metric"] == "dice")]["value"]
    return {
        **{name: [round(value, 4) for value in curve[name]] for name in CURVES},
        "test_dice": round(float(dice), 4), "seconds": round(float(timing["seconds"].sum()), 1),
    }  # fmt: skip


def in_processes(
    work: Callable[[Case], dict[str, Any]],
    cases: Iterable[Case],
    *,
    recipe: Path,
    folder: Path,
    jobs: int,
    minutes: float = float("inf"),
    cluster: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields what comes of each case as it ends; begins none after some minutes: with 0, none at all.

    Args:
        work: done in a process of one thread.
        cases: in the order in which they are begun.
        recipe: whose data sets each host of a cluster has to have.
        folder: of the logs; all hosts see it at one path.
        jobs: cases at once.
        minutes: after which no case is begun.
        cluster: Ray cluster, as of ``medarts benchmark``. Default: processes of this machine.

    Raises:
        MedartsError: a case has failed, or was stopped; or the cluster is lost.
    """
    left, end, busy = enumerate(cases), time.monotonic() + 60 * minutes, 0
    folder = folder.resolve()
    with (
        tempfile.TemporaryDirectory(prefix="answers-", dir=folder) as answers,
        open_workers(cluster, partial(needs_of, load_recipe(recipe), folder), jobs=jobs, reused=True) as workers,
    ):
        while True:
            for number, case in islice(left, jobs - busy if time.monotonic() < end else 0):
                do = partial(_answered, work, case, Path(answers, str(number)))
                workers.start(Work(str(number), do, folder / "logs" / f"{number}.log"))
                busy += 1
            if not busy:
                return
            for ended in workers.wait(1.0):
                busy -= 1
                if ended.stopped:
                    raise InterruptedRunError("A training was stopped.", fix="The same command goes on.")
                if ended.error is not None:
                    raise ended.error
                yield json.loads(Path(answers, ended.name).read_text(encoding="utf-8"))


def _answered(work: Callable[[Case], dict[str, Any]], case: Case, answer: Path) -> None:
    """Does some work and leaves what comes of it in a file, as work on another host has no other way."""
    torch.set_num_threads(1)
    answer.write_text(json.dumps(work(case)), encoding="utf-8")
