"""What does the table of trained networks say? Reliability, cost, macro choices, and what rules that choose are worth.

    python benchmarks/table_analysis.py FOLDER [--sets isic nuclei] [--budget 8] [--figures docs]

FOLDER is that of benchmarks/table.py. Prints Markdown and writes plots. Where no data set is named, all is of the mean
over the sets, and of the genotypes that were trained on all of them. Intervals are bootstrap intervals over genotypes,
95 %.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from medarts.benchmarks import Outcome, Rule, Table, Trials, read_table, simulate
from medarts.reporting.style import CYCLE, MUTED, save
from medarts.spaces.nas_wdan.operations import Transition, set_of_edge

DRAWS = 500
POOLS, POOLS_DRAWN = (4, 8, 16), 4000
COSTS = ("flops", "parameters", "latency_ratio", "init_channel")
CHOICES = ("budget", "depth", "intermediate_nodes", "double_down_channel", "deep_supervision")
AXES = {"flops": (1e6, "MFLOP"), "parameters": (1e3, "thousand parameters")}

Floats = NDArray[np.float64]
Outcomes = dict[tuple[str, int], Outcome]
"""By rule and number of candidates."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, metavar="FOLDER", help="of the table")
    parser.add_argument("--figures", type=Path, help="folder of the plots; default: none are made")
    parser.add_argument("--sets", nargs="+", help="default: all")
    parser.add_argument("--budget", type=int, help="width of the U-Net whose latency genotypes may have; default: all")
    arguments = parser.parse_args()
    table = read_table(arguments.table)
    if arguments.sets:
        table = table.on(*arguments.sets)
    if arguments.budget:
        table = of_budget(table, arguments.budget)
    found = {name: outcomes(view, retrained=False) for name, view in views_of(table).items()}
    found |= {f"{name}, trained anew": outcomes(view, retrained=True) for name, view in views_of(table).items()}
    for part in (overview, reliability, costs, macro_choices, epochs):
        print("\n".join(part(table)), end="\n\n")
    print("\n".join(rules(found)))
    if arguments.figures is not None:
        for name, figure in {
            "table-cost": plot_cost(table),
            "table-rules": plot_rules(found),
        }.items():
            save(figure, arguments.figures / f"{name}.svg", file_format="svg")


def of_budget(table: Table, budget: int) -> Table:
    networks = table.networks[table.networks["budget"] == budget]
    trainings, epochs = (rows[rows["number"].isin(networks.index)] for rows in (table.trainings, table.epochs))
    return replace(table, networks=networks, trainings=trainings, epochs=epochs)


# --- what is in the table ---------------------------------------------------------------------------------------


def frame_of(table: Table) -> pd.DataFrame:
    """Returns the networks with their test and validation Dice, mean over sets and seeds."""
    mean = table.trainings.groupby(["number", "set"])[["test_dice", "val_dice"]].mean().groupby("number").mean()
    whole = [number for number in table.networks.index if table.seeds_of(number)]
    return table.networks.loc[whole].join(mean)


def views_of(table: Table) -> dict[str, Table]:
    """Returns the table itself, whose Dice is the mean of its sets, and that of each set alone."""
    return {"mean": table, **{name: table.on(name) for name in table.sets}}


def within_budgets(rows: pd.DataFrame) -> Floats:
    """Returns the columns beside ``budget``, less their means in a budget."""
    columns = rows.drop(columns="budget")
    return (columns - columns.groupby(rows["budget"]).transform("mean")).to_numpy(float)


def single_trainings(table: Table) -> Floats:
    """Returns (genotypes, 3): budget and test Dice of the first training, and of the second (NaN: there is none)."""
    rows = []
    for number in table.networks.index:
        if seeds := table.seeds_of(number):
            dice = [table.test_dice(number, seed) for seed in seeds[:2]]
            rows.append([float(table.networks["budget"][number]), dice[0], dice[1] if len(dice) > 1 else np.nan])
    return np.array(rows)


def overview(table: Table) -> Iterator[str]:
    rows = frame_of(table)
    seeds = pd.Series([len(table.seeds_of(number)) for number in rows.index]).value_counts()
    yield (
        f"{len(rows)} genotypes, {len(table.trainings)} trainings of {table.last_epoch} epochs on "
        f"{', '.join(table.sets)}; {table.trainings['seconds'].sum() / 3600:.1f} hours on one thread. "
        + ", ".join(f"{number} genotypes with {seed} seeds" for seed, number in sorted(seeds.items()))
    )
    yield ""
    yield "| budget | genotypes | test Dice: mean | standard deviation | lowest | highest |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for budget, of in rows.groupby("budget"):
        dice = of["test_dice"]
        yield (
            f"| U-Net {budget} | {len(of)} | {dice.mean():.3f} | {dice.std():.3f} | {dice.min():.3f} | "
            f"{dice.max():.3f} |"
        )


# --- reliability and the best possible gain ----------------------------------------------------------------------


def reliability(table: Table) -> Iterator[str]:
    views = views_of(table)
    yield f"| figure | {' | '.join(views)} |"
    yield f"| --- |{' --- |' * len(views)}"
    singles = [single_trainings(view) for view in views.values()]
    of_two = [within_budgets(pd.DataFrame(rows, columns=["budget", "one", "other"]).dropna()) for rows in singles]
    judged = [within_budgets(frame_of(view)[["budget", "val_dice", "test_dice"]]) for view in views.values()]
    for name, value, of in (
        ("standard deviation between seeds of a genotype", seed_deviation, singles),
        ("standard deviation between genotypes of a budget", genotype_deviation, singles),
        ("rank correlation of two seeds within budgets, test Dice", spearman, of_two),
        ("rank correlation of validation and test Dice within budgets", spearman, judged),
    ):
        yield f"| {name} | {' | '.join(_interval(rows, value) for rows in of)} |"
    for size in POOLS:
        # The expected maximum of N normals times the spread.
        gains = [f"{genotype_deviation(rows) * expected_maximum(size):.4f}" for rows in singles]
        yield f"| gain of an oracle choosing among {size} | {' | '.join(gains)} |"
    by_set = table.trainings.pivot_table(index="number", columns="set", values="test_dice")
    for pair in itertools.combinations(table.sets, 2):
        shared = _interval(by_set[[*pair]].dropna().to_numpy(), spearman)
        yield f"\nRank correlation of {' and '.join(pair)}, test Dice: {shared}."


def seed_deviation(singles: Floats) -> float:
    return float(np.sqrt(np.nanmean((singles[:, 1] - singles[:, 2]) ** 2) / 2))


def genotype_deviation(singles: Floats) -> float:
    """Returns what is left of the spread of single trainings within budgets without that between seeds."""
    budgets = singles[:, 0]
    spreads = [singles[budgets == budget, 1].var(ddof=1) for budget in np.unique(budgets)]
    return max(float(np.mean(spreads)) - seed_deviation(singles) ** 2, 0.0) ** 0.5


def expected_maximum(size: int, *, draws: int = 20_000) -> float:
    return float(np.random.default_rng(0).standard_normal((draws, size)).max(1).mean())


# --- cost and macro choices --------------------------------------------------------------------------------------


def costs(table: Table) -> Iterator[str]:
    """All genotypes, and what is left of costs and Dice beside their means in a budget."""
    views = views_of(table)
    yield f"| cost | rank correlation with test Dice, all genotypes | within budgets: {' | '.join(views)} |"
    yield f"| --- | --- |{' --- |' * len(views)}"
    for cost in COSTS:
        cells = [_interval(frame_of(table)[[cost, "test_dice"]].to_numpy(float), spearman)]
        for view in views.values():
            left = within_budgets(frame_of(view)[["budget", cost, "test_dice"]])
            cells.append(_interval(left, spearman))
        yield f"| {cost} | {' | '.join(cells)} |"
    yield ""
    for name, view in views.items():
        rows = frame_of(view)
        logs = np.log(rows[["flops", "parameters"]]).assign(budget=rows["budget"], test_dice=rows["test_dice"])
        design = within_budgets(logs)
        share = _interval(design, lambda a: explained(a[:, :-1], a[:, -1]))
        yield f"Share of the variance within budgets that log FLOPs and log parameters explain, {name}: {share}."
        yield ""


def macro_choices(table: Table) -> Iterator[str]:
    """What a choice changes against its other values, in a linear model with the other choices."""
    views = views_of(table)
    yield f"| choice | value | genotypes | mean test Dice | against the others, {' | '.join(views)} |"
    yield f"| --- | --- | --- | --- |{' --- |' * len(views)}"
    frames = [frame_of(view) for view in views.values()]
    designs = [dummies_of(rows) for rows in frames]
    rows = frames[0]
    for choice in designs[0]:
        effects = [
            _interval(
                np.column_stack(
                    [frame["test_dice"], design[choice], *(of for other, of in design.items() if other[0] != choice[0])]
                ),
                lambda a: float(coefficients(a[:, 1:], a[:, 0])[0]),
            )
            for frame, design in zip(frames, designs, strict=True)
        ]
        taken = designs[0][choice] == 1
        mean = rows["test_dice"].to_numpy()[taken].mean()
        yield f"| {choice[0]} | {choice[1]} | {taken.sum()} | {mean:.3f} | {' | '.join(effects)} |"


def dummies_of(rows: pd.DataFrame) -> dict[tuple[str, Any], Floats]:
    """Returns for each value of each choice which genotypes have it, as 0 and 1."""
    return {
        (name, value): (rows[name] == value).to_numpy(float)
        for name in CHOICES
        if rows[name].nunique() > 1
        for value in sorted(set(rows[name]))
    }


def coefficients(design: Floats, values: Floats) -> Floats:
    """Returns least squares coefficients beside a constant, of least norm where columns depend on each other."""
    centred = design - design.mean(0)
    solution: Floats = np.linalg.lstsq(centred, values - values.mean(), rcond=None)[0]
    return solution


def explained(design: Floats, values: Floats) -> float:
    """Returns the adjusted share of variance that a linear model explains."""
    rest = values - values.mean() - (design - design.mean(0)) @ coefficients(design, values)
    number, columns = design.shape
    return float(1 - (rest @ rest) / (number - columns - 1) / values.var(ddof=1))


# --- trainings cut short, and rules ------------------------------------------------------------------------------


def epochs(table: Table) -> Iterator[str]:
    """How well an early score tells the end of another training, within budgets."""
    views = views_of(table)
    yield f"| epoch | rank correlation of its validation Dice with test Dice of another seed: {' | '.join(views)} |"
    yield f"| --- |{' --- |' * len(views)}"
    for epoch in sorted({1, 2, 3, 4, 6, 8, 10, table.last_epoch}):
        yield f"| {epoch} | {' | '.join(_interval(curve_and_end(view, epoch), spearman) for view in views.values())} |"


def curve_and_end(table: Table, epoch: int) -> Floats:
    """Returns validation Dice after an epoch and test Dice of another seed, of every genotype with two, (N, 2)."""
    rows = [
        (table.networks["budget"][number], table.curve(number, seeds[0])[epoch - 1], table.test_dice(number, seeds[1]))
        for number in table.networks.index
        if len(seeds := table.seeds_of(number)) > 1
    ]
    return within_budgets(pd.DataFrame(rows, columns=["budget", "val_dice", "test_dice"]))


def rules(found: Mapping[str, Outcomes]) -> Iterator[str]:
    """The gain of the very network that was trained, and of the same genotype in a new training."""
    yield f"| rule | candidates | whole trainings paid | gain of test Dice over random: {' | '.join(found)} |"
    yield f"| --- | --- | --- |{' --- |' * len(found)}"
    for (name, size), outcome in next(iter(found.values())).items():
        gains = [_gain(of.get((name, size))) for of in found.values()]
        yield f"| {name} | {size} | {outcome.trainings:.1f} | {' | '.join(gains)} |"


def _gain(outcome: Outcome | None) -> str:
    return "" if outcome is None else f"{outcome.gain:+.4f} ({outcome.low:+.4f} to {outcome.high:+.4f})"


def outcomes(table: Table, *, retrained: bool) -> Outcomes:
    """Returns what every rule is worth with pools of every size for which each budget has enough genotypes."""
    able = [number for number in table.networks.index if len(table.seeds_of(number)) > int(retrained)]
    fewest = table.networks.loc[able]["budget"].value_counts().min()
    return {
        (name, size): simulate(table, rule, candidates=size, retrained=retrained, pools=POOLS_DRAWN)
        for size in POOLS
        if size < fewest
        for name, rule in rules_of(table).items()
    }


def rules_of(table: Table) -> dict[str, Rule]:
    last = table.last_epoch
    supernets = {
        f"{name}, supernet {about['seed']}": by_supernet(table, about[kind], reading)
        for name, kind, reading in (("largest alphas", "alphas", np.log), ("most missed", "losses", _standardised))
        for about in table.supernets
    }
    return {
        "random": lambda trials: trials.candidates[0],
        "most FLOPs": by_cost(table, "flops"),
        "most parameters": by_cost(table, "parameters"),
        **supernets,
        **{f"best after {epochs} epochs": best_after(epochs) for epochs in (last // 6, last // 2, last)},
        f"halving, rungs {last // 6}, {last // 2}, {last}, a third kept": halving(
            (last // 6, last // 2, last), keep=1 / 3
        ),
        f"halving, rungs {last // 2}, {last}, half kept": halving((last // 2, last), keep=1 / 2),
    }


def by_cost(table: Table, cost: str) -> Rule:
    costs = table.networks[cost].to_dict()

    def rule(trials: Trials) -> int:
        return max(trials.candidates, key=costs.__getitem__)

    return rule


def by_supernet(table: Table, about: dict[str, dict[str, float]], reading: Callable[[Floats], Floats]) -> Rule:
    """Takes the genotype of whose operations a supernet thinks best, on average over its edges.

    Args:
        table: with the genotypes.
        about: by edge and operation, what the supernet says.
        reading: makes values of different edges comparable.
    """
    worth = {
        edge: dict(zip(row, reading(np.array([*row.values()])).tolist(), strict=True))
        for edge, row in about.items()
        if row
    }
    opinion = {}
    for number, genotype in table.genotypes.items():
        found = [
            worth[edge][name]
            for transition, cell in genotype.cells.items()
            for node, edges in enumerate(cell)
            for name, state in edges
            if (edge := f"{set_of_edge(cast('Transition', transition), state)} {node}<-{state}") in worth
        ]
        opinion[number] = float(np.mean(found))
    return lambda trials: max(trials.candidates, key=lambda number: opinion[number])


def _standardised(values: Floats) -> Floats:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)


def best_after(epochs: int) -> Rule:
    def rule(trials: Trials) -> int:
        return max(trials.candidates, key=lambda number: trials.train(number, epochs))

    return rule


def halving(rungs: Sequence[int], *, keep: float) -> Rule:
    """Successive halving (Jamieson & Talwalkar, AISTATS 2016): each rung trains on, and keeps the best."""

    def rule(trials: Trials) -> int:
        left = list(trials.candidates)
        for rung in rungs:
            left = sorted(left, key=lambda number: -trials.train(number, rung))
            left = left[: max(1, round(keep * len(left)))]
        return left[0]

    return rule


# --- intervals and plots -----------------------------------------------------------------------------------------


def spearman(pairs: Floats) -> float:
    return float(stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def _interval(rows: Floats, value: Callable[[Floats], float]) -> str:
    """Writes a value with its interval, by bootstrap over rows; resamples where it is not defined are left out.

    Nothing where there are fewer than three rows.
    """
    if len(rows) < 3:
        return ""
    generator = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        drawn = [value(rows[generator.integers(len(rows), size=len(rows))]) for _ in range(DRAWS)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return f"{value(rows):.3f} ({low:.3f} to {high:.3f})"


def plot_cost(table: Table) -> Figure:
    """Test Dice against costs, a row of panels for each data set."""
    figure = Figure(figsize=(9, 3 * len(table.sets) + 0.5), layout="constrained")
    panels = figure.subplots(len(table.sets), len(AXES), sharey="row", sharex="col", squeeze=False)
    for of_set, name in zip(panels, table.sets, strict=True):
        for axes, (cost, (scale, label)) in zip(of_set, AXES.items(), strict=True):
            for color, (budget, of) in zip(CYCLE, frame_of(table.on(name)).groupby("budget"), strict=False):
                axes.scatter(of[cost] / scale, of["test_dice"], s=18, color=color, label=f"latency of U-Net {budget}")
            axes.grid(alpha=0.3)
            axes.set_xlabel(label if name == table.sets[-1] else "")
        of_set[0].set_ylabel(f"test Dice, {name}")
    panels[0, 0].legend()
    return figure


def plot_rules(found: Mapping[str, Outcomes]) -> Figure:
    """Gains with their intervals, a row for each rule and a panel for each data set."""
    shown = {name: of for name, of in found.items() if "anew" not in name}
    names = [*dict.fromkeys(name for name, _ in next(iter(shown.values())))]
    sizes = sorted({size for _, size in next(iter(shown.values()))})
    figure = Figure(figsize=(4 + 2.6 * len(shown), 0.42 * len(names) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (view, of) in zip(panels, shown.items(), strict=True):
        for (name, size), outcome in of.items():
            place, color = sizes.index(size), CYCLE[sizes.index(size)]
            y = names.index(name) + 0.22 * (place - (len(sizes) - 1) / 2)
            axes.plot([outcome.low, outcome.high], [y, y], color=color, lw=1.2)
            label = f"{size} candidates" if name == names[0] else None
            axes.plot(outcome.gain, y, "o", ms=4, color=color, label=label)
        axes.axvline(0, color=MUTED, lw=0.8)
        axes.grid(alpha=0.3, axis="x")
        axes.set(title=view, xlabel="gain of test Dice over random")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    panels[-1].legend(fontsize=8, loc="upper right")
    return figure


if __name__ == "__main__":
    main()
