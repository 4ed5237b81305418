"""How well is latency predicted from the pieces of a network? Random genotypes of nas-wdan, predicted and measured.

    python benchmarks/latency_table.py [--genotypes 33] [--size 64] [--json]

Genotypes are random in cells, paths, depth (3 to 5), nodes (2 to 4), doubled channels, and C. Each is predicted by the
latency table of this machine, which measures the pieces that it lacks, then exported and measured in ONNX Runtime on
one thread. Ratios are of the prediction to the measurement. Exporting takes most of the time.
"""

import argparse
import json
import sys

import numpy as np

from medarts.config import BudgetSettings
from medarts.profiling.budget import measure
from medarts.profiling.latency_table import LatencyTable, predict
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings

WIDTHS = (2, 3, 4, 6, 8, 10, 12, 16, 20, 24)
NORM = "batch"
SEED, FIRST = 5, 1000
"""Of the widths, and of the first genotype."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genotypes", type=int, default=33)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    generator = np.random.default_rng(SEED)
    widths = [int(generator.choice(WIDTHS)) for _ in range(arguments.genotypes)]
    rows = [compared(number, channels, arguments.size) for number, channels in enumerate(widths)]
    errors = np.abs([row["predicted_ms"] / row["measured_ms"] - 1 for row in rows])
    summary = {"median error": np.median(errors), "90th percentile": np.quantile(errors, 0.9), "largest": errors.max()}
    if arguments.json:
        print(json.dumps({"genotypes": rows, **summary}, indent=1))
        return
    print(
        "| depth | nodes | C | doubled | measured, ms | predicted / measured |\n| --- | --- | --- | --- | --- | --- |"
    )
    for row in sorted(rows, key=lambda row: row["measured_ms"]):
        ratio = row["predicted_ms"] / row["measured_ms"]
        print(
            f"| {row['depth']} | {row['intermediate_nodes']} | {row['init_channel']} | "
            f"{'yes' if row['double_down_channel'] else 'no'} | {row['measured_ms']:.2f} | {ratio:.2f} |"
        )
    print("\n" + ", ".join(f"{name} {100 * value:.1f} %" for name, value in summary.items()))


def compared(number: int, channels: int, size: int) -> dict[str, float]:
    """Returns the settings of a random genotype, and its latency as predicted and as measured."""
    genotype = NasWdan.sample(NasWdanSettings(init_channel=channels), seed=FIRST + number)
    predicted = predict(genotype, in_channels=3, outputs=1, size=size, norm=NORM, table=LatencyTable())
    cost = measure(genotype, BudgetSettings(latency_ms=1.0, size=size), in_channels=3, outputs=1, norm=NORM)
    print(f"{number}: {predicted:.2f} of {cost.amounts['latency_ms']:.2f} ms", file=sys.stderr, flush=True)
    names = ("depth", "intermediate_nodes", "init_channel", "double_down_channel")
    return {
        **{name: genotype.settings[name] for name in names},
        "predicted_ms": predicted,
        "measured_ms": cost.amounts["latency_ms"],
    }


if __name__ == "__main__":
    main()
