"""How much do the norm and the learning rate of a short training decide, beside the network?

    export MEDARTS_DATA=/folder/with/the/data/sets
    python benchmarks/norm.py FOLDER [--jobs N] [--json]

Trains a published genotype of nas-wdan (C = 8) with group and batch norm, and a U-Net of width 16, each with two
learning rates and two seeds, on ISIC and on CVC-ClinicDB by recipes/norm-cpu.yaml, and prints the test Dice as a
Markdown table. Finished runs are not repeated; interrupted ones are resumed.
"""

import argparse
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from _running import medarts

RECIPE = Path(__file__).parents[1] / "recipes" / "norm-cpu.yaml"
NAS_WDAN = ("--genotype", "alpha0_5_stage1_nodouble_deep_ep80", "--init-channel", "8")
UNET = ("--model", "unet", "train.model.width=16")
NETWORKS = {
    "nas-wdan, group norm": (*NAS_WDAN, "train.norm=group"),
    "nas-wdan, batch norm": (*NAS_WDAN, "train.norm=batch"),
    "U-Net": UNET,
}
RATES = (0.002, 0.005)
SETS = ("isic", "cvc")
SEEDS = (0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments = parser.parse_args()
    # Seeds outermost: whatever is done when the script is stopped, is a comparison.
    cases = list(itertools.product(SEEDS, SETS, NETWORKS, RATES))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        scores = dict(zip(cases, pool.map(lambda case: score(arguments.folder, *case), cases), strict=True))
    rows = [
        {"network": network, "lr": rate, "set": data, "dice": [scores[seed, data, network, rate] for seed in SEEDS]}
        for network, rate, data in itertools.product(NETWORKS, RATES, SETS)
    ]
    print(json.dumps(rows, indent=1) if arguments.json else table(rows))


def score(folder: Path, seed: int, data: str, network: str, rate: float) -> float:
    """Trains and scores a network where that is not done yet, and returns its test Dice."""
    run = folder / f"{data}-{network.replace(', ', '-').replace(' ', '-').lower()}-lr{rate}-seed{seed}"
    if not (run / "scores" / "test" / "scores.json").exists():
        if (run / "run.json").exists():
            medarts("train", "--resume", run)
        else:
            changes = [f"seed={seed}", f"train.lr={rate}"]
            medarts("train", *NETWORKS[network], *changes, "--recipe", RECIPE, "--data", data, "--out", run)
        medarts("evaluate", run)
    summary = pd.read_csv(run / "scores" / "test" / "summary.csv")
    (value,) = summary[(summary["dataset"] == data) & (summary["metric"] == "dice")]["value"]
    return float(value)


def table(rows: list[dict[str, Any]]) -> str:
    """A row a network and rate, a column a data set: the mean over seeds, and each seed in brackets."""
    lines = ["| network | lr | ISIC | CVC | mean |", "| --- | --- | --- | --- | --- |"]
    for network, rate in itertools.product(NETWORKS, RATES):
        found = {row["set"]: row["dice"] for row in rows if (row["network"], row["lr"]) == (network, rate)}
        means = {data: sum(dice) / len(dice) for data, dice in found.items()}
        cells = [f"{means[data]:.3f} ({', '.join(f'{one:.3f}' for one in found[data])})" for data in SETS]
        lines.append(f"| {network} | {rate} | {' | '.join(cells)} | {sum(means.values()) / len(means):.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
