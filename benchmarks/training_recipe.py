"""What does a short training of a nas-wdan network need? One thing at a time is changed in its recipe.

    export MEDARTS_DATA=/folder/with/the/data/sets
    python benchmarks/training_recipe.py FOLDER [--jobs N] [--minutes M]

Trains a published genotype (C = 8) and a U-Net of width 16 on the sets of benchmarks/table.py by its recipe, with two
seeds, and prints the test Dice as a Markdown table. Each training adds a line to FOLDER/trainings.jsonl; what is there
is not repeated.
"""

import argparse
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from _running import note, one_message
from _trainings import append_line, in_processes, read_lines, train_and_test

from medarts import load_genotype

RECIPE = Path(__file__).parents[1] / "recipes" / "table-cpu.yaml"
FILE = "trainings.jsonl"
SETS, SEEDS = ("isic", "cvc"), (0, 1)


class Variant(NamedTuple):
    """A recipe that differs in one thing.

    Attributes:
        changes: of the recipe.
        settings: of the genotype that differ; None for a U-Net.
    """

    changes: tuple[str, ...] = ()
    settings: Mapping[str, Any] | None = MappingProxyType({})


BASE = "as the table: batch norm, lr 0.005, moving average 0.99"
VARIANTS = {
    BASE: Variant(),
    "group norm": Variant(("train.norm=group",)),
    "lr 0.002": Variant(("train.lr=0.002",)),
    "lr 0.01": Variant(("train.lr=0.01",)),
    "group norm, lr 0.002": Variant(("train.norm=group", "train.lr=0.002")),
    "no moving average": Variant(("train.ema=0",)),
    "moving average 0.999": Variant(("train.ema=0.999",)),
    "early heads count half of the next": Variant(("train.head_decay=0.5",)),
    "last head alone": Variant(settings={"deep_supervision": False}),
    "top row at the size of the image, C = 4": Variant(settings={"stem_stride": 1, "init_channel": 4}),
    "batches of 8": Variant(("train.batch=8",)),
    "U-Net": Variant(settings=None),
    "U-Net, lr 0.002": Variant(("train.lr=0.002",), settings=None),
}


class Case(NamedTuple):
    """One training."""

    variant: str
    set: str
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, each on one thread")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no training after that time")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / FILE
    done = {Case(line["variant"], line["set"], line["seed"]) for line in read_lines(path)}
    # Seeds outermost: whatever is done when the script is stopped, is a comparison.
    cases = [Case(variant, data, seed) for seed, variant, data in itertools.product(SEEDS, VARIANTS, SETS)]
    left = [case for case in cases if case not in done]
    for about in in_processes(
        trained, left, recipe=RECIPE, folder=arguments.folder, jobs=arguments.jobs, minutes=arguments.minutes
    ):
        append_line(path, about)
        name = f"{about['variant']}, {about['set']}, seed {about['seed']}"
        note(f"{name}: {about['test_dice']:.3f}, {about['seconds']:.0f} s")
    print("\n".join(table(read_lines(path))))


def trained(case: Case) -> dict[str, Any]:
    variant = VARIANTS[case.variant]
    changes = [f"seed={case.seed}", "train.norm=batch", *variant.changes]
    if variant.settings is None:
        network: Any = "unet"
        changes.append("train.model.width=16")
    else:
        whole = load_genotype("alpha0_5_stage1_nodouble_deep_ep80")
        network = replace(whole, settings={**whole.settings, "init_channel": 8, **variant.settings})
    return {**case._asdict(), **train_and_test(network, RECIPE, data=case.set, changes=changes)}


def table(lines: list[dict[str, Any]]) -> Iterator[str]:
    """A row for each variant: the mean over seeds, and each seed in brackets; time as a multiple of the first row's."""
    found = {(line["variant"], line["set"], line["seed"]): line for line in lines}
    yield f"| recipe | {' | '.join(SETS)} | mean | against the first row, by seed | time |"
    yield f"| --- |{' --- |' * (len(SETS) + 3)}"
    seeds = {
        variant: [seed for seed in SEEDS if all((variant, name, seed) in found for name in SETS)]
        for variant in VARIANTS
    }
    seconds = {v: np.mean([found[v, n, s]["seconds"] for n in SETS for s in seeds[v]]) for v in VARIANTS if seeds[v]}
    for variant, of_training in seconds.items():
        dice = np.array([[found[variant, name, seed]["test_dice"] for seed in seeds[variant]] for name in SETS])
        cells = [f"{row.mean():.3f} ({', '.join(f'{one:.3f}' for one in row)})" for row in dice]
        both = [seed for seed in seeds[variant] if seed in seeds[BASE]]
        gains = [
            np.mean([found[variant, n, s]["test_dice"] - found[BASE, n, s]["test_dice"] for n in SETS]) for s in both
        ]
        by_seed = "" if variant == BASE else ", ".join(f"{gain:+.3f}" for gain in gains)
        yield (
            f"| {variant} | {' | '.join(cells)} | {dice.mean():.3f} | {by_seed} | {of_training / seconds[BASE]:.2f} |"
        )


if __name__ == "__main__":
    with one_message():
        main()
