"""Trains random nas-wdan networks, so that selection rules can be tested on a table instead of on a machine.

    export MEDARTS_DATA=/folder/with/the/data/sets
    python benchmarks/table.py FOLDER sample [--genotypes 120]    # scaled to a latency
    python benchmarks/table.py FOLDER train [--jobs 2] [--minutes 60] [--cluster ADDRESS]
    python benchmarks/table.py FOLDER search [--jobs 2] [--minutes 60] [--cluster ADDRESS]    # supernets

Genotypes are random in everything: cells, paths, depth of the lattice (3 to 5), nodes of a cell (2 to 4), doubled
channels or not, all heads or the last. C is the largest with which the exported network is not slower than the U-Net of
its budget (width 8 or 16, 128 px, one thread of ONNX Runtime); where C = 2 is too slow, another genotype is sampled.
Each is trained from scratch on every data set by recipes/table-cpu.yaml: all with one seed and the first REPEATED with
two more, first those of the lower budget; then the others with a second.

Supernets are searched by recipes/table-supernet-cpu.yaml. What one thinks of the operation of each edge, by its alphas
and by what it loses without, is kept to be tried on the table as a rule.

All add lines to files in FOLDER, which `medarts.benchmarks.read_table` reads, and skip what is there: a training that
was stopped is done again, a search goes on. `--minutes` begins none after that time. With `--cluster` both are done on
a Ray cluster, all of whose hosts see FOLDER and the data sets at the same paths. benchmarks/table_analysis.py says what
they show.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from _running import note, one_message
from _trainings import append_line, in_processes, read_lines, train_and_test

import medarts
from medarts.benchmarks.table import GENOTYPES, SUPERNETS, TRAININGS
from medarts.config import BudgetSettings
from medarts.models.unet import UNetSettings
from medarts.profiling.budget import fit, measure
from medarts.profiling.cost import count_flops
from medarts.spaces.genotype import Genotype, from_json
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings
from medarts.system.randomness import seed_of

RECIPE = Path(__file__).parents[1] / "recipes" / "table-cpu.yaml"
SUPERNET = RECIPE.with_name("table-supernet-cpu.yaml")
NUMBER, REPEATED, SEARCHES = 120, 20, 3
BUDGETS = (8, 16)
"""Widths of the U-Nets whose latency at LATENCY_SIZE is a budget."""
SETS = {8: ("isic", "cvc", "nuclei"), 16: ("isic", "nuclei")}
"""By budget. On CVC-ClinicDB two trainings of a genotype differ as much as two genotypes (docs/table.md)."""
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
    parts = parser.add_subparsers(dest="part", required=True)
    sampling = parts.add_parser("sample", help="genotypes, on this machine")
    sampling.add_argument("--genotypes", type=int, default=NUMBER)
    for name, help_ in (("train", "the genotypes"), ("search", "supernets")):
        part = parts.add_parser(name, help=help_)
        part.add_argument("--jobs", type=int, default=1, help="trainings at once, each on one thread")
        part.add_argument("--minutes", type=float, default=float("inf"), help="begin no training after that time")
        part.add_argument("--cluster", metavar="ADDRESS|auto|local", help="Ray cluster, as of medarts benchmark")
    arguments = parser.parse_args()
    arguments.table.mkdir(parents=True, exist_ok=True)
    if arguments.part == "sample":
        sample(arguments.table, arguments.genotypes)
    else:
        do = train if arguments.part == "train" else search
        do(arguments.table, jobs=arguments.jobs, minutes=arguments.minutes, cluster=arguments.cluster)


# --- genotypes --------------------------------------------------------------------------------------------------


def sample(table: Path, genotypes: int) -> None:
    """Adds random genotypes, each scaled to its budget, with what they cost."""
    for number in range(len(read_lines(table / GENOTYPES)), genotypes):
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
        append_line(table / GENOTYPES, about)
        channels = found.network.settings["init_channel"]
        note(f"{number}: {attempt + 1} sampled, C = {channels}, {ratio:.2f} of U-Net {width}")


@cache
def budget_of(width: int) -> BudgetSettings:
    """Returns the latency of a U-Net as a budget."""
    unlimited = BudgetSettings(latency_ms=1e6, size=LATENCY_SIZE)
    cost = measure(UNetSettings(width=width), unlimited, in_channels=3, outputs=1)
    return BudgetSettings(latency_ms=cost.amounts["latency_ms"], size=LATENCY_SIZE)


# --- trainings --------------------------------------------------------------------------------------------------


def trainings(budgets: Mapping[int, int]) -> Iterator[Training]:
    """Yields all trainings in an order in which whatever is done is a table.

    Args:
        budgets: by number of the genotype.
    """
    numbers = [[number for number, of in budgets.items() if of == budget] for budget in BUDGETS]
    parts = [
        (seed, number)
        for of_budget in numbers
        for seed in range(3)
        for number in of_budget
        if seed == 0 or number < REPEATED
    ]
    parts += [(1, number) for number in budgets if number >= REPEATED]
    for seed, number in parts:
        for name in SETS[budgets[number]]:
            yield Training(number, name, seed)


def train(table: Path, *, jobs: int, minutes: float, cluster: str | None) -> None:
    lines = read_lines(table / GENOTYPES)
    genotypes = {line["number"]: json.dumps(line["genotype"]) for line in lines}
    budgets = {line["number"]: line["budget"] for line in lines}
    done = {Training(line["number"], line["set"], line["seed"]) for line in read_lines(table / TRAININGS)}
    left = [(one, genotypes[one.number]) for one in trainings(budgets) if one not in done]
    for about in in_processes(trained, left, recipe=RECIPE, folder=table, jobs=jobs, minutes=minutes, cluster=cluster):
        append_line(table / TRAININGS, about)
        note(f"{about['number']}, {about['set']}, seed {about['seed']}: {about['val_dice'][-1]:.3f} "
             f"{about['test_dice']:.3f}, {about['seconds']:.0f} s")  # fmt: skip


def trained(case: tuple[Training, str]) -> dict[str, Any]:
    """Trains and tests the network of a genotype, and returns its line."""
    training, genotype = case
    network: Genotype = from_json(genotype, origin=GENOTYPES)
    changes = [f"seed={training.seed}", f"train.norm={NORM}"]
    return {**training._asdict(), **train_and_test(network, RECIPE, data=training.set, changes=changes)}


# --- supernets --------------------------------------------------------------------------------------------------


def search(table: Path, *, jobs: int, minutes: float, cluster: str | None) -> None:
    done = {line["seed"] for line in read_lines(table / SUPERNETS)}
    left = [(seed, table / f"search-{seed}") for seed in range(SEARCHES) if seed not in done]
    for about in in_processes(
        searched, left, recipe=SUPERNET, folder=table, jobs=jobs, minutes=minutes, cluster=cluster
    ):
        append_line(table / SUPERNETS, about)
        note(f"supernet {about['seed']}: {about['seconds']:.0f} s")


def searched(case: tuple[int, Path]) -> dict[str, Any]:
    """Searches, or goes on with a search, and returns what the supernet thinks of every operation."""
    seed, folder = case
    run = medarts.resume(folder) if folder.exists() else medarts.search(SUPERNET, out=folder, changes=[f"seed={seed}"])
    alphas = read_lines(run.path / "architecture.jsonl")[-1]["alphas"]
    summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    losses: dict[str, dict[str, float]] = {
        made["decision"].removeprefix("operation "): made["losses"]
        for made in summary["selection"]
        if made["decision"].startswith("operation ")
    }
    return {
        "seed": seed, "seconds": round(sum(line["seconds"] for line in read_lines(run.path / "timing.jsonl")), 1),
        "alphas": {
            f"{kind} {edge}": dict(zip(names, weights, strict=True))
            for kind, of in alphas.items()
            for edge, names, weights in zip(of["edges"], of["operations"], of["weights"], strict=True)
        },
        "losses": losses,
    }  # fmt: skip


if __name__ == "__main__":
    with one_message():
        main()
