"""Trains random nas-wdan networks, so that selection rules can be tested on a table instead of on a machine.

    export MEDARTS_DATA=/folder/with/the/data/sets
    python benchmarks/table.py FOLDER sample                   # genotypes, scaled to a latency
    python benchmarks/table.py FOLDER train [--jobs 2] [--minutes 60]

Genotypes are random in everything: cells, paths, depth of the lattice (3 to 5), nodes of a cell (2 to 4), doubled
channels or not, all heads or the last. C is the largest with which the exported network is not slower than the U-Net of
its budget (width 8 or 16, 128 px, one thread of ONNX Runtime); where C = 2 is too slow, another genotype is sampled.
Each is trained from scratch on every data set by recipes/table-cpu.yaml: first all with one seed, then the first
REPEATED with two more, then the others with a second.

Both add lines to files in FOLDER, which `medarts.benchmarks.read_table` reads, and skip what is there: a training that
was stopped is done again. `--minutes` begins none after that time. benchmarks/table_analysis.py says what they show.
"""

import argparse
import itertools
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from _running import note

import medarts
from medarts.benchmarks.table import GENOTYPES, TRAININGS
from medarts.config import BudgetSettings
from medarts.models.unet import UNetSettings
from medarts.profiling.budget import fit, measure
from medarts.profiling.cost import count_flops
from medarts.spaces.genotype import Genotype, from_json
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings
from medarts.system.randomness import seed_of

RECIPE = Path(__file__).parents[1] / "recipes" / "table-cpu.yaml"
NUMBER, REPEATED = 120, 20
SETS = ("isic", "cvc")
BUDGETS = (8, 16)
"""Widths of the U-Nets whose latency at LATENCY_SIZE is a budget."""
LATENCY_SIZE, TRAINED_SIZE = 128, 64
NORM = "batch"


class Training(NamedTuple):
    """One training of the table."""

    number: int
    set: str
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, metavar="FOLDER", help="of the table")
    parser.add_argument("part", choices=("sample", "train"))
    parser.add_argument("--genotypes", type=int, default=NUMBER)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, each on one thread")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no training after that time")
    arguments = parser.parse_args()
    arguments.table.mkdir(parents=True, exist_ok=True)
    if arguments.part == "sample":
        sample(arguments.table, arguments.genotypes)
    else:
        train(arguments.table, jobs=arguments.jobs, minutes=arguments.minutes)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def append(path: Path, about: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(about, separators=(",", ":")) + "\n")


# --- genotypes --------------------------------------------------------------------------------------------------


def sample(table: Path, genotypes: int) -> None:
    """Adds random genotypes, each scaled to its budget, with what they cost."""
    for number in range(len(read(table / GENOTYPES)), genotypes):
        width = BUDGETS[number % len(BUDGETS)]
        for attempt in itertools.count():
            drawn = NasWdan.sample(NasWdanSettings(), seed=seed_of(number, "table", attempt))
            named = replace(drawn, name=f"table-{number:03d}")
            found = fit(named, budget_of(width), in_channels=3, outputs=1, norm=NORM)
            if found is not None:
                break
        network = medarts.create_model(found.network, in_channels=3, outputs=1, norm=NORM).eval()
        flops = count_flops(partial(network, head=network.heads[-1]), in_channels=3, size=TRAINED_SIZE)
        milliseconds = found.cost.amounts["latency_ms"]
        ratio = milliseconds / budget_of(width).limits["latency_ms"]
        about = {
            "number": number, "genotype": json.loads(found.network.to_json()), "budget": width,
            "parameters": found.cost.parameters, "flops": flops, "latency_ratio": round(ratio, 3),
            "latency_ms": round(milliseconds, 3),
        }  # fmt: skip
        append(table / GENOTYPES, about)
        channels = found.network.settings["init_channel"]
        note(f"{number}: {attempt + 1} sampled, C = {channels}, {ratio:.2f} of U-Net {width}")


@cache
def budget_of(width: int) -> BudgetSettings:
    """Returns the latency of a U-Net as a budget."""
    unlimited = BudgetSettings(latency_ms=1e6, size=LATENCY_SIZE)
    cost = measure(UNetSettings(width=width), unlimited, in_channels=3, outputs=1)
    return BudgetSettings(latency_ms=cost.amounts["latency_ms"], size=LATENCY_SIZE)


# --- trainings --------------------------------------------------------------------------------------------------


def trainings(genotypes: int) -> Iterator[Training]:
    """Yields all trainings in an order in which whatever is done is a table."""
    for seed, numbers in (
        (0, range(genotypes)), (1, range(REPEATED)), (2, range(REPEATED)), (1, range(REPEATED, genotypes)),
    ):  # fmt: skip
        for number, name in itertools.product(numbers, SETS):
            yield Training(number, name, seed)


def train(table: Path, *, jobs: int, minutes: float) -> None:
    genotypes = {line["number"]: json.dumps(line["genotype"]) for line in read(table / GENOTYPES)}
    done = {Training(line["number"], line["set"], line["seed"]) for line in read(table / TRAININGS)}
    left = iter([training for training in trainings(len(genotypes)) if training not in done])
    end = time.monotonic() + 60 * minutes
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = {pool.submit(trained, one, genotypes[one.number]) for one in itertools.islice(left, jobs)}
        while waiting:
            ended = next(as_completed(waiting))
            waiting.remove(ended)
            if time.monotonic() < end:
                waiting |= {pool.submit(trained, one, genotypes[one.number]) for one in itertools.islice(left, 1)}
            about = ended.result()
            append(table / TRAININGS, about)
            curve = about["val_dice"]
            note(f"{about['number']}, {about['set']}, seed {about['seed']}: {curve[-1]:.3f} {about['test_dice']:.3f}, "
                 f"{about['seconds']:.0f} s")  # fmt: skip


def trained(training: Training, genotype: str) -> dict[str, Any]:
    """Trains and tests a network, and returns its curve and the test Dice."""
    network: Genotype = from_json(genotype, origin=GENOTYPES)
    with tempfile.TemporaryDirectory() as folder:
        changes = [f"seed={training.seed}", f"train.norm={NORM}"]
        run = medarts.train(network, RECIPE, data=training.set, changes=changes, out=Path(folder) / "run")
        medarts.evaluate(run)
        curve, timing = (
            pd.read_json(run.path / name, lines=True, dtype=False) for name in ("metrics.jsonl", "timing.jsonl")
        )
        summary = pd.read_csv(run.path / "scores" / "test" / "summary.csv")
    (dice,) = summary[(summary["dataset"] == training.set) & (summary["metric"] == "dice")]["value"]
    return {
        **training._asdict(),
        **{name: [round(value, 4) for value in curve[name]] for name in ("train_loss", "val_loss", "val_dice")},
        "test_dice": round(float(dice), 4), "seconds": round(float(timing["seconds"].sum()), 1),
    }  # fmt: skip


if __name__ == "__main__":
    main()
