"""Trains random nas-wdan networks, so that selection rules can be tested on a table instead of on a machine.

    export MEDARTS_DATA=/folder/with/the/data/sets
    python benchmarks/table.py FOLDER --part sample             # genotypes, scaled to a latency
    python benchmarks/table.py FOLDER --part train [--jobs 2] [--minutes 60]

Genotypes are random in everything: cells, paths, depth of the lattice (3 to 5), nodes of a cell (2 to 4), doubled
channels or not, all heads or the last. C is the largest with which the exported network is not slower than the U-Net of
its budget (width 8 or 16, 128 px, one thread of ONNX Runtime, in turns with a fixed network); where C = 2 is too slow,
another genotype is sampled. Each is trained from scratch on every data set by one short recipe, the
first REPEATED with three seeds. Every training is one file in FOLDER; what is there is kept, what was interrupted is
resumed, and `--minutes` stops before the next training.
"""

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from _running import medarts, note

from medarts import create_model
from medarts.config import BudgetSettings
from medarts.models.unet import UNetSettings
from medarts.profiling.budget import fit, measure
from medarts.profiling.cost import count_flops
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings
from medarts.system.files import write_whole
from medarts.system.randomness import seed_of

RECIPE = Path(__file__).parents[1] / "recipes" / "table-cpu.yaml"
GENOTYPES, REPEATED, SEEDS = 120, 20, (0, 1, 2)
SETS = ("isic", "cvc")
BUDGETS = (8, 16)
"""Widths of the U-Nets whose latency at LATENCY_SIZE is a budget."""
LATENCY_SIZE, TRAINED_SIZE = 128, 64
NORM = "batch"


class Training(NamedTuple):
    """One training of the table."""

    number: int
    data: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.number:03d}-{self.data}-{self.seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", nargs="+", choices=("sample", "train"), default=("sample", "train"))
    parser.add_argument("--genotypes", type=int, default=GENOTYPES)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no training after that time")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if "sample" in arguments.part:
        for number in range(arguments.genotypes):
            sample(arguments.folder, number)
    if "train" in arguments.part:
        begun = time.monotonic()
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for done in pool.map(
                lambda one: train(arguments.folder, one) if time.monotonic() - begun < 60 * arguments.minutes else "",
                [*trainings(arguments.genotypes)],
            ):
                if done:
                    note(done)


def trainings(genotypes: int) -> Iterator[Training]:
    """Yields all trainings, one of each genotype first: whatever is done, is a table."""
    for number, data in itertools.product(range(genotypes), SETS):
        yield Training(number, data, SEEDS[0])
    for seed, number, data in itertools.product(SEEDS[1:], range(REPEATED), SETS):
        yield Training(number, data, seed)


# --- genotypes --------------------------------------------------------------------------------------------------


def sample(folder: Path, number: int) -> None:
    """Writes a random genotype, scaled to its budget, with what it costs."""
    path = folder / f"genotype-{number:03d}.json"
    if path.exists():
        return
    width = BUDGETS[number % len(BUDGETS)]
    for attempt in itertools.count():
        drawn = NasWdan.sample(NasWdanSettings(), seed=seed_of(number, "table", attempt))
        found = fit(replace(drawn, name=f"table-{number:03d}"), budget_of(width), in_channels=3, outputs=1, norm=NORM)
        if found is not None:
            break
    network = create_model(found.genotype, in_channels=3, outputs=1, norm=NORM).eval()
    flops = count_flops(partial(network, head=network.heads[-1]), in_channels=3, size=TRAINED_SIZE)
    milliseconds = found.cost.amounts["latency_ms"]
    ratio = milliseconds / budget_of(width).limits["latency_ms"]
    about = {
        "genotype": json.loads(found.genotype.to_json()), "budget": width, "attempts": attempt + 1,
        "parameters": found.cost.parameters, "flops": flops, "latency_ratio": ratio, "latency_ms": milliseconds,
    }  # fmt: skip
    write_whole(path, json.dumps(about, indent=1) + "\n")
    channels = found.genotype.settings["init_channel"]
    note(f"{path.name}: {attempt + 1} sampled, C = {channels}, {ratio:.2f} of U-Net {width}")


@cache
def budget_of(width: int) -> BudgetSettings:
    """Returns the latency of a U-Net as a budget."""
    unlimited = BudgetSettings(latency_ms=1e6, size=LATENCY_SIZE)
    cost = measure(UNetSettings(width=width), unlimited, in_channels=3, outputs=1)
    return BudgetSettings(latency_ms=cost.amounts["latency_ms"], size=LATENCY_SIZE)


# --- trainings --------------------------------------------------------------------------------------------------


def train(folder: Path, training: Training) -> str:
    """Trains and tests where that is not done yet, and keeps the curve and the test scores."""
    kept, run = folder / f"training-{training.name}.json", folder / "runs" / training.name
    source = folder / f"genotype-{training.number:03d}.json"
    if kept.exists() or not source.exists():
        return ""
    genotype = folder / f"table-{training.number:03d}.genotype.json"
    if not genotype.exists():
        write_whole(genotype, json.dumps(json.loads(source.read_text(encoding="utf-8"))["genotype"]))
    if (run / "run.json").exists():
        medarts("train", "--resume", run)
    else:
        given = ("--recipe", RECIPE, "--data", training.data, f"seed={training.seed}", "--out", run)
        medarts("train", "--genotype", genotype, f"train.norm={NORM}", *given)
    medarts("evaluate", run)
    curve = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    timing = [json.loads(line) for line in (run / "timing.jsonl").read_text(encoding="utf-8").splitlines()]
    summary = pd.read_csv(run / "scores" / "test" / "summary.csv")
    (dice,) = summary[(summary["dataset"] == training.data) & (summary["metric"] == "dice")]["value"]
    about: dict[str, Any] = {
        **training._asdict(),
        "val_loss": [line["val_loss"] for line in curve], "val_dice": [line["val_dice"] for line in curve],
        "train_loss": [line["train_loss"] for line in curve], "test_dice": float(dice),
        "seconds": sum(line["seconds"] for line in timing),
    }  # fmt: skip
    write_whole(kept, json.dumps(about) + "\n")
    shutil.rmtree(run)
    return f"{training.name}: {max(about['val_dice']):.3f} {dice:.3f}, {about['seconds']:.0f} s"


if __name__ == "__main__":
    main()
