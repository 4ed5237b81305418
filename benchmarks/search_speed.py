"""How much faster is a search by training for the forms that networks are trained in? In turns, by the clock.

    OMP_NUM_THREADS=1 python benchmarks/search_speed.py RECIPE [KEY=VALUE ...] [--jobs 2] [--repeats 3] [--json]

"Before" trains candidates as they are built, with PyTorch's default optimizer and an average tensor by tensor; "after"
is what searches do. Every search is a process of its own, imports, input, measuring and validation included, in a
temporary folder; nothing else should run. The table gives the median seconds of both sides, the median of ratios, and
the candidates that were chosen, which can differ where rounding turns a close decision.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import swa_utils

import medarts
from medarts.network import Network
from medarts.spaces.darts.network import DartsNetwork
from medarts.spaces.nas_wdan.network import NasWdanNetwork
from medarts.training import trainer
from medarts.training.averaging import MovingAverage

SIDE = "MEDARTS_SIDE"
"""Variable of the environment that says which side a process is of."""
SIDES = ("before", "after")


class AverageByTensor(MovingAverage):
    """The same average as PyTorch computes it by default."""

    def update_parameters(self, model: nn.Module) -> None:
        number = int(self.n_averaged)
        decay = min(self.decay, (1 + number) / (10 + number)) if number else 0.0
        self.avg_fn = swa_utils.get_ema_avg_fn(decay)
        swa_utils.AveragedModel.update_parameters(self, model)


def train_as_built() -> None:
    """Takes away what makes trainings of this process fast."""
    for network in (NasWdanNetwork, DartsNetwork):
        network.training_form = Network.training_form  # type: ignore[method-assign]  # on purpose, in this process
    trainer.MovingAverage = AverageByTensor  # type: ignore[misc, attr-defined]  # as above
    for name in ("AdamW", "SGD"):
        setattr(torch.optim, name, not_fused(getattr(torch.optim, name)))


def not_fused(optimizer: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what makes the optimizer as PyTorch does by default."""

    def make(*args: Any, fused: bool | None = None, **settings: Any) -> Any:
        return optimizer(*args, **settings)

    return make


# Processes that train candidates import this module too.
if os.environ.get(SIDE) == "before":
    train_as_built()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes of the recipe")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if os.environ.get(SIDE):
        search(given)
        return
    rows: list[dict[str, Any]] = []
    for number in range(given.repeats):
        for side in SIDES if number % 2 else reversed(SIDES):
            rows.append({"side": side, **one(side)})
            print(f"{side}: {rows[-1]['seconds']:.1f} s, {rows[-1]['candidate']}", file=sys.stderr, flush=True)
    result = summary(rows)
    print(json.dumps(result) if given.json else table(result))


def one(side: str) -> dict[str, Any]:
    """Returns the seconds of a search by a new process, and what it chose."""
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, *sys.argv], env={**os.environ, SIDE: side}, stdout=subprocess.PIPE, text=True, check=False
    )
    if ended.returncode:
        raise SystemExit("A search has failed; its error is above.")
    return {"seconds": time.perf_counter() - began, "candidate": ended.stdout.splitlines()[-1]}


def search(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = medarts.search(given.recipe, changes=given.changes, jobs=given.jobs, out=Path(folder) / "run")
        print(medarts.load_genotype(run).provenance["candidate"])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = {side: [row["seconds"] for row in rows if row["side"] == side] for side in SIDES}
    ratios = [before / after for before, after in zip(seconds["before"], seconds["after"], strict=True)]
    return {
        "seconds": {side: statistics.median(values) for side, values in seconds.items()},
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
        "candidates": sorted({row["candidate"] for row in rows}),
    }


def table(result: dict[str, Any]) -> str:
    rows = [f"{side:8}{seconds:8.1f} s" for side, seconds in result["seconds"].items()]
    ratios = result["ratios"]
    rows.append(f"{'ratio':8}{result['median_ratio']:8.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return "\n".join([*rows, f"chosen: {', '.join(result['candidates'])}"])


if __name__ == "__main__":
    main()
