"""Which way of pruning keeps most of the Dice? Every method at several rates, on two networks and two data sets.

    export MEDARTS_DATA=/folder/with/the/data/sets
    python benchmarks/pruning.py FOLDER [--jobs N] [--json]

Trains a published genotype of nas-wdan (C = 8, batch norm) and a U-Net of width 16 on ISIC and on CVC-ClinicDB by
recipes/norm-cpu.yaml with EPOCHS epochs and the learning rate that suits each, prunes them by every method to 70, 50
and 30 % of their FLOPs, and fine-tunes. 50 % are done with two seeds: each prunes a network of its own. The control is
the whole network, fine-tuned as long. `medarts compare` then measures Dice, parameters, FLOPs, and latency side by side
in ONNX Runtime, and writes a page for each network and data set.
`--part seeds` is a quick table of both seeds at half of the FLOPs, `--part rates` one of all rates with the first seed,
with the latency of each network as a budget measures it. `--seeds` and `--rates` leave others out. Finished runs are
kept, interrupted ones continued.
"""

import argparse
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from _running import medarts, note
from safetensors.torch import load_file

from medarts import evaluate
from medarts.config import BudgetSettings
from medarts.data.batches import Batches
from medarts.data.opening import open_data
from medarts.data.reading import MaskState
from medarts.engine.directory import INITIAL_WEIGHTS, RunDirectory
from medarts.evaluation.stats import bootstrap_means, percentile_interval
from medarts.metrics.masks import mask_scores
from medarts.profiling.budget import BudgetCost, measure
from medarts.system.files import write_whole
from medarts.training.trained import TrainedNetwork, architecture_of

RECIPE = Path(__file__).parents[1] / "recipes" / "norm-cpu.yaml"
EPOCHS, SPARSE, FINE_TUNING = 24, 4, 4
"""Of the original; of the training before the cut, where a method has one; after the cut."""
RATE = "train.finetune_lr=0.3"
GENOTYPE = ("--genotype", "alpha0_5_stage1_nodouble_deep_ep80", "--init-channel", "8")
NETWORKS = {
    "unet": ("--model", "unet", "train.model.width=16", "train.lr=0.002"),
    "searched": (*GENOTYPE, "train.norm=batch", "train.lr=0.005"),
}
SETS = ("isic", "cvc")
FILTERS = ("l1", "fpgm", "taylor", "slim", "soft", "gradual")
METHODS = {"unet": FILTERS, "searched": (*FILTERS, "depth")}
RATES, BOTH_SEEDS = (0.7, 0.5, 0.3), 0.5
LEAST = {"depth": 0.37}
"""Share of the FLOPs that is left where a method has taken all that it can."""
SEEDS = (0, 1)
CONTROL = "whole"


class Case(NamedTuple):
    """One run: a network, trained and then pruned."""

    network: str
    data: str
    seed: int
    method: str = ""
    keep: float = 1.0

    @property
    def name(self) -> str:
        beginning = f"{self.network}-{self.data}-{self.seed}"
        rate = f"-{100 * self.keep:.0f}" if self.keep < 1 else ""
        return f"{beginning}-{self.method}{rate}" if self.method else beginning

    @property
    def original(self) -> "Case":
        return Case(self.network, self.data, self.seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parts = ("prune", "seeds", "rates", "compare")
    parser.add_argument("--part", nargs="+", choices=parts, default=("prune", "compare"))
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=SEEDS)
    parser.add_argument("--rates", nargs="+", type=float, choices=RATES, default=RATES)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    arguments = parser.parse_args()
    pairs = [*itertools.product(arguments.networks, arguments.sets)]
    if "prune" in arguments.part:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for cases in (originals(pairs), prunings(pairs)):
                wanted = [
                    each for each in cases if each.seed in arguments.seeds and each.keep in (*arguments.rates, 1.0)
                ]
                for done in pool.map(lambda case: make(arguments.folder, case), wanted):
                    note(done)
    if "rates" in arguments.part:
        print("\n".join(table_of_rates(arguments.folder, pairs)))
    if "seeds" in arguments.part:
        print("\n".join(table_of_seeds(arguments.folder, pairs)))
    if "compare" in arguments.part:
        rows = [row for pair in pairs for row in compared(arguments.folder, *pair)]
        print(json.dumps(rows, indent=1) if arguments.json else tables(rows))


def originals(pairs: Sequence[tuple[str, str]]) -> Iterator[Case]:
    for seed, (network, data) in itertools.product(SEEDS, pairs):
        yield Case(network, data, seed)


def prunings(pairs: Sequence[tuple[str, str]]) -> Iterator[Case]:
    """Yields what is pruned, half the FLOPs first, the other rates last: whatever is done, is a comparison."""
    for seed, (network, data) in itertools.product(SEEDS, pairs):
        yield Case(network, data, seed, CONTROL)
        for method in METHODS[network]:
            yield Case(network, data, seed, method, BOTH_SEEDS)
    for keep, (network, data) in itertools.product(RATES, pairs):
        for method in METHODS[network]:
            if keep != BOTH_SEEDS and keep >= LEAST.get(method, 0.0):
                yield Case(network, data, SEEDS[0], method, keep)


def make(folder: Path, case: Case) -> str:
    """Trains or prunes where that is not done yet."""
    run = folder / case.name
    if (run / "run.json").exists() and RunDirectory.open(run).facts["finished"]:
        return f"{case.name}: kept"
    original = folder / case.original.name
    if not case.method:
        words: tuple[object, ...] = ("train", *NETWORKS[case.network], "--recipe", RECIPE, "--data", case.data)
        words += (f"train.epochs={EPOCHS}", f"seed={case.seed}", "--out", run)
    elif case.method == CONTROL:
        words = ("train", "--from", original, f"train.epochs={FINE_TUNING}", RATE, "--out", run)
    else:
        words = ("prune", original, "--method", case.method, "--keep-flops", case.keep)
        words += ("--epochs", FINE_TUNING, "--sparse-epochs", SPARSE, RATE, "--out", run)
    if case.method in ("", CONTROL) and (run / "run.json").exists():
        words = ("train", "--resume", run)
    medarts(*words)
    return f"{case.name}: done"


def compared(folder: Path, network: str, data: str) -> list[dict[str, Any]]:
    """Compares everything that was made of one network on one data set, and returns a row for each method and rate."""
    cases = [case for case in prunings([(network, data)]) if (folder / case.name / "summary.json").exists()]
    seeds_of = Counter((case.method, case.keep) for case in cases)
    rows = []
    for name, chosen in {
        "seeds": [case for case in cases if seeds_of[case.method, case.keep] == len(SEEDS)],
        "rates": [case for case in cases if case.seed == SEEDS[0]],
    }.items():
        out = folder / f"comparison-{network}-{data}-{name}"
        if chosen and not (out / "comparison.json").exists():
            medarts("compare", *(folder / case.name for case in chosen), "--out", out)
        rows += rows_of(folder, out, chosen, several=name == "seeds") if chosen else []
    return rows


def rows_of(folder: Path, out: Path, cases: Sequence[Case], *, several: bool) -> list[dict[str, Any]]:
    about = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    (group,) = about["groups"]
    networks, costs, tested = (pd.read_csv(out / f"{name}.csv") for name in ("networks", "costs", "differences"))
    rows = []
    for name, facts in about["groups"][group]["networks"].items():
        runs = [Path(run).name for run in facts["runs"]]
        mine = [case for case in cases if case.name in runs]
        dice = networks[(networks.network == name) & (networks.metric == "dice")].iloc[0]
        cost = costs[costs.network == name].iloc[0]
        difference = tested[(tested.network == name) & (tested.metric == "dice") & (tested.family == "reference")]
        rows.append(
            {
                "network": mine[0].network, "set": mine[0].data, "method": mine[0].method, "keep": mine[0].keep,
                "seeds": len(mine), "several": several,
                "before": [before(folder / case.name) for case in mine],
                "dice": [dice["mean"], dice["low"], dice["high"]],
                "difference": [*difference[["difference", "low", "high", "p_corrected"]].iloc[0]] if len(difference)
                else None,
                "parameters": int(cost.parameters), "flops": int(cost.flops),
                "ms": [cost.latency_ms_1, cost.latency_spread_ms_1],
            }
        )  # fmt: skip
    return rows


def table_of_seeds(folder: Path, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yields a row for each method at half of the FLOPs, seed by seed, without the exports that a comparison makes.

    The interval is of the mean over seeds of the differences to the whole networks, by bootstrap over patients.
    """
    yield (
        "| network | set | method | after the cut, by seed | fine-tuned, by seed | difference, by seed | "
        "mean (95 % interval) |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for network, data in pairs:
        for method in (CONTROL, *METHODS[network]):
            keep = 1.0 if method == CONTROL else BOTH_SEEDS
            runs = [folder / Case(network, data, seed, method, keep).name for seed in SEEDS]
            if not all((run / "summary.json").exists() for run in runs):
                continue
            scores = [dice_of(run) for run in runs]
            if method == CONTROL:
                whole = scores
            cut, tuned = [before(run)[0] for run in runs], [of["value"].mean() for of in scores]
            line = f"| {network} | {data} | {method} | {_each(cut)} | {_each(tuned)} |"
            if method == CONTROL:
                yield f"{line} | |"
                continue
            differences = [mine["value"] - of_whole["value"] for mine, of_whole in zip(scores, whole, strict=True)]
            mean = sum(differences) / len(SEEDS)
            low, high = _interval(mean, scores[0]["patient"])
            by_seed = _each([of.mean() for of in differences], "+")
            yield f"{line} {by_seed} | {mean.mean():+.3f} ({low:+.3f} to {high:+.3f}) |"


def table_of_rates(folder: Path, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yields a row for each method and rate with the first seed, the largest rate first.

    Intervals are of bootstraps over patients, those of differences to the whole network neither tested nor corrected.
    """
    for network, data in pairs:
        whole = folder / Case(network, data, SEEDS[0], CONTROL).name
        if not (whole / "summary.json").exists():
            continue
        yield (
            f"{network}, {data}:\n\n"
            "| method | FLOPs | Dice after the cut | fine-tuned | difference | parameters | ms | times faster |\n"
            "| --- | --- | --- | --- | --- | --- | --- | --- |"
        )
        of_whole, cost_of_whole = dice_of(whole), cost_of(whole)
        cases = [Case(network, data, SEEDS[0], method, keep) for keep in RATES for method in METHODS[network]]
        for run in (whole, *(folder / case.name for case in cases)):
            if not (run / "summary.json").exists():
                continue
            scores, cost = dice_of(run), cost_of(run)
            method = CONTROL if run == whole else run.name.split("-")[3]
            tuned = (scores["value"].mean(), *_interval(scores["value"], scores["patient"]))
            gap = scores["value"] - of_whole["value"]
            low, high = _interval(gap, scores["patient"])
            difference = "" if run == whole else f"{gap.mean():+.3f} ({low:+.3f} to {high:+.3f})"
            ms, ms_of_whole = cost.amounts["latency_ms"], cost_of_whole.amounts["latency_ms"]
            yield (
                f"| {method} | {cost.flops / cost_of_whole.flops:.0%} | {_with_interval(*before(run))} | "
                f"{_with_interval(*tuned)} | {difference} | {cost.parameters:,} | {ms:.2f} | {ms_of_whole / ms:.2f} |"
            )
        yield ""


def cost_of(run: Path) -> BudgetCost:
    """Returns what the network of a run costs, its latency at the size of its training as a budget measures it."""
    opened = RunDirectory.open(run, kind="train")
    data = opened.recipe.data
    budget = BudgetSettings(latency_ms=1e9, size=data.size)
    about = {"in_channels": data.in_channels, "outputs": data.outputs}
    return measure(architecture_of(opened), budget, **about, norm=opened.recipe.train.norm)


def _interval(values: pd.Series, patients: pd.Series) -> tuple[float, float]:
    return percentile_interval(bootstrap_means(values, [*patients], draws=2000, seed=0))


def dice_of(run: Path) -> pd.DataFrame:
    """Returns the test Dice of every image, and its patient."""
    path = run / "scores" / "test" / "scores.csv"
    if not path.exists():
        evaluate(run)
    scores = pd.read_csv(path, dtype={"patient": str})
    return scores[scores["metric"] == "dice"].groupby("image")[["value", "patient"]].first()


def _each(values: Sequence[float], sign: str = "") -> str:
    return ", ".join(f"{value:{sign}.3f}" for value in values)


def before(run: Path) -> tuple[float, float, float]:
    """Returns the test Dice of a network before it was fine-tuned, with its 95 % interval over patients."""
    kept = run / "before.json"
    if not kept.exists():
        opened = RunDirectory.open(run, kind="train")
        weights = load_file(run / INITIAL_WEIGHTS)
        network = TrainedNetwork(str(run), opened.recipe, architecture_of(opened), weights).build().eval()
        store = open_data(opened.recipe.data, needs=("test",))
        values, patients = [], []
        test = store.manifest.part("test")
        batches = Batches(store, test, batch=8, name="test set", device=torch.device("cpu"))
        with torch.inference_mode():
            predicted = torch.cat([network(batch.images) > 0 for batch in batches.all()])[:, 0].numpy()
        for mask, index, sample in zip(predicted, store.indices(test), test.samples, strict=True):
            vanished = bool(store.truths[index, 0] == MaskState.VANISHED)
            values.append(mask_scores(mask, store.targets[index] == 1, vanished=vanished)["dice"])
            patients.append(sample.patient)
        interval = percentile_interval(bootstrap_means(values, patients, draws=2000, seed=0))
        write_whole(kept, json.dumps([float(np.nanmean(values)), *interval]))
    mean, low, high = json.loads(kept.read_text(encoding="utf-8"))
    return mean, low, high


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Writes a table for each network, data set and number of seeds, the fastest network last."""
    lines: list[str] = []
    for key in dict.fromkeys((row["network"], row["set"], row["several"]) for row in rows):
        of = [row for row in rows if (row["network"], row["set"], row["several"]) == key]
        whole = next(row for row in of if row["method"] == CONTROL)
        lines += [
            f"{key[0]}, {key[1]}, {'mean of two seeds' if key[2] else 'seed 0'}",
            "",
            "| method | FLOPs | Dice after the cut | fine-tuned | difference | p | parameters | ms | times faster |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in sorted(of, key=lambda row: (-row["keep"], -row["dice"][0])):
            cut = " / ".join(_with_interval(*one) for one in row["before"])
            tested = row["difference"]
            difference = "" if tested is None else f"{tested[0]:+.3f} ({tested[1]:+.3f} to {tested[2]:+.3f})"
            p = "" if tested is None else f"{tested[3]:.3f}"
            flops, faster = row["flops"] / whole["flops"], whole["ms"][0] / row["ms"][0]
            lines.append(
                f"| {row['method']} | {flops:.0%} | {cut} | {_with_interval(*row['dice'])} | {difference} | {p} | "
                f"{row['parameters']:,} | {row['ms'][0]:.1f} ({row['ms'][1]:.1f}) | {faster:.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


def _with_interval(mean: float, low: float, high: float) -> str:
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
