"""What benchmarks share that train many networks: each in a process of one thread, and a line of JSON for each."""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

import medarts

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
    work: Callable[[Case], dict[str, Any]], cases: Iterable[Case], *, jobs: int, minutes: float = float("inf")
) -> Iterator[dict[str, Any]]:
    """Yields what comes of each case as it ends; begins none after some minutes: with 0, none at all.

    Args:
        work: done in a process of one thread.
        cases: in the order in which they are begun.
        jobs: processes.
        minutes: after which no case is begun.
    """
    left, end = iter(cases), time.monotonic() + 60 * minutes
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = {pool.submit(work, case) for case in islice(left, jobs if minutes > 0 else 0)}
        while waiting:
            ended = next(as_completed(waiting))
            waiting.remove(ended)
            if time.monotonic() < end:
                waiting |= {pool.submit(work, case) for case in islice(left, 1)}
            yield ended.result()
