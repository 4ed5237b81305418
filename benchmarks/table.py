"""Trains random nas-wdan networks, so that selection rules can be tested on a table instead of on a machine.

    export MEDARTS_DATA=/folder/with/the/data/sets
    python benchmarks/table.py FOLDER --part sample             # genotypes, scaled to a latency
    python benchmarks/table.py FOLDER --part train [--jobs 2] [--minutes 60]

Genotypes are random in everything: cells, paths, depth of the lattice (3 to 5), nodes of a cell (2 to 4), doubled
channels or not, all heads or the last. C is the largest with which the exported network is not slower than the U-Net of
its budget (width 8 or 16, 128 px, one thread of ONNX Runtime, timed in turns, so that only the ratio counts); where
C = 2 is too slow, another genotype is sampled. Each is trained from scratch on every data set by one short recipe, the
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

import numpy as np
import pandas as pd
import torch
from _running import medarts, note

from medarts import create_model
from medarts.deploy.engines import OnnxRuntimeEngine
from medarts.deploy.graphs import network_to_onnx
from medarts.network import Network
from medarts.profiling.cost import count_flops, count_parameters
from medarts.profiling.latency import time_in_turns
from medarts.spaces.genotype import Genotype
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings
from medarts.system.files import write_whole
from medarts.system.randomness import seed_of

RECIPE = Path(__file__).parents[1] / "recipes" / "table-cpu.yaml"
GENOTYPES, REPEATED, SEEDS = 120, 20, (0, 1, 2)
SETS = ("isic", "cvc")
BUDGETS = (8, 16)
"""Widths of the U-Nets whose latency at LATENCY_SIZE is a budget."""
LATENCY_SIZE, TRAINED_SIZE = 128, 64
CHANNELS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)
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
        drawn = NasWdan.sample(NasWdanSettings(init_channel=CHANNELS[0]), seed=seed_of(number, "table", attempt))
        genotype = replace(drawn, name=f"table-{number:03d}")
        scaled = scale(genotype, width)
        if scaled is not None:
            break
    channels, ratio, milliseconds = scaled
    chosen = genotype.with_settings(init_channel=channels)
    network = create_model(chosen, in_channels=3, outputs=1, norm=NORM).eval()
    flops = count_flops(partial(network, head=network.heads[-1]), in_channels=3, size=TRAINED_SIZE)
    about = {
        "genotype": json.loads(chosen.to_json()), "budget": width, "attempts": attempt + 1,
        "parameters": count_parameters(network), "flops": flops, "latency_ratio": ratio, "latency_ms": milliseconds,
    }  # fmt: skip
    write_whole(path, json.dumps(about, indent=1) + "\n")
    note(f"{path.name}: {attempt + 1} sampled, C = {channels}, {ratio:.2f} of U-Net {width}")


def scale(genotype: Genotype, width: int) -> tuple[int, float, float] | None:
    """Returns the largest C within the budget, the ratio to its U-Net, and the milliseconds; None where C = 2 is over.

    The first C is a guess from FLOPs; the others follow by bisection.
    """

    @cache
    def measured(place: int) -> tuple[float, float]:
        return latency(genotype.with_settings(init_channel=CHANNELS[place]), width)

    low, high = -1, len(CHANNELS)
    place = first_guess(genotype, width)
    while high - low > 1:
        if measured(place)[0] <= 1:
            low = place
        else:
            high = place
        place = (low + high) // 2 if low >= 0 and high < len(CHANNELS) else max(0, min(low + 2, high - 2))
        place = min(max(place, low + 1), high - 1)
    return None if low < 0 else (CHANNELS[low], *measured(low))


def first_guess(genotype: Genotype, width: int) -> int:
    """Returns the place of a C with half of the FLOPs of the U-Net: small operations run at about half its rate."""
    wanted = flops_of_unet(width) / 2
    for place, channels in enumerate(CHANNELS):
        with torch.device("meta"):
            network = create_model(genotype.with_settings(init_channel=channels), in_channels=3, outputs=1, norm=NORM)
        image = torch.empty(1, 3, LATENCY_SIZE, LATENCY_SIZE, device="meta")
        flops = count_flops(
            partial(network.eval(), head=network.heads[-1]), in_channels=3, size=LATENCY_SIZE, images=image
        )
        if flops > wanted:
            return max(0, place - 1)
    return len(CHANNELS) - 1


def unet(width: int) -> Network:
    return create_model("unet", in_channels=3, outputs=1, width=width).eval()


@cache
def flops_of_unet(width: int) -> int:
    network = unet(width)
    return count_flops(partial(network, head=network.heads[-1]), in_channels=3, size=LATENCY_SIZE)


@cache
def engine_of_unet(width: int) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(network_to_onnx(unet(width), in_channels=3, size=LATENCY_SIZE), threads=1)


def latency(genotype: Genotype, width: int) -> tuple[float, float]:
    """Returns the latency as part of that of the U-Net, timed in turns, and in milliseconds."""
    torch.manual_seed(0)
    network = create_model(genotype, in_channels=3, outputs=1, norm=NORM).eval()
    engine = OnnxRuntimeEngine(network_to_onnx(network, in_channels=3, size=LATENCY_SIZE), threads=1)
    image = torch.rand(1, 3, LATENCY_SIZE, LATENCY_SIZE).numpy()
    limits = np.zeros((1, 2), np.float32)
    passes = [partial(each.run, image, limits) for each in (engine, engine_of_unet(width))]
    own, reference = time_in_turns(passes, threads=1, batch=1, repeats=30)
    return own.median_ms / reference.median_ms, own.median_ms


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
