"""Searches by training on their page: the best score over the computing, and what became of every candidate."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from medarts.config import BudgetSettings
from medarts.engine.directory import RunDirectory, epochs_done
from medarts.pool import trainings
from medarts.pool.candidates import Candidate, read_candidates
from medarts.pool.halving import incumbents, trained_epochs
from medarts.pool.result import compute_of, read_failures, read_retrained
from medarts.profiling.budget import QUANTITIES
from medarts.reporting.style import INK, MUTED, PALETTE, inline_svg, styled
from medarts.reporting.tables import Column, Content, Table, decimals, label_of, significant, table

COLORS = {"supernet": "blue", "random": "slate", "neighbour": "orange"}
"""Source of a candidate -> name of its colour."""

_TITLES = {"supernet": "supernet", "random": "random genotype", "neighbour": "neighbour"}


def pool_of(run: RunDirectory) -> Content | None:
    """Returns what the page of a search by training says of its candidates; None before the first were drawn.

    Raises:
        RunError: candidates.jsonl, timing.jsonl or supernets.json is damaged.
    """
    candidates, recipe = read_candidates(run), run.recipe
    if not candidates:
        return None
    score = label_of(str(run.read_json("summary.json")["score"])) if run.facts["finished"] else "score"
    rungs, budget = recipe.search.select.rungs, recipe.budget
    compute = compute_of(run) if run.facts["finished"] else None
    unscored = _unscored(run, candidates)
    plot = plot_incumbent(
        candidates,
        rungs,
        score,
        lost={each.name: unscored[each.name] for each in candidates if each.failure is not None},
        before=0 if compute is None else compute.supernets_in_epochs,
    )
    make = partial(_table, rungs=rungs, budget=budget, unscored=unscored)
    finalists = [each for each in candidates if rungs[-1] in each.scores]
    others = [each for each in candidates if rungs[-1] not in each.scores]
    return {
        "method": recipe.search.method,
        "score": score,
        "rungs": rungs,
        "highest": decimals(max((each.scores[rungs[-1]] for each in finalists), default=None)),
        "candidates": len(candidates),
        "compute": compute,
        "supernet_failures": read_failures(run),
        "retrained": _retrained(run) if run.facts["finished"] else None,
        "svg": inline_svg(plot, f"best validation {score} over the training done"),
        "finalists": make("candidates that came to the last rung", finalists) if finalists else None,
        "dropped": make("candidates that were dropped", others) if others else None,
    }


def _retrained(run: RunDirectory) -> Content | None:
    """Returns what became of the trainings of the winner; None where there are none."""
    retrained = read_retrained(run)
    if retrained is None:
        return None
    seeds = sorted([*retrained.scores, *retrained.failures])
    rows = [
        {"seed": seed, "score": retrained.scores.get(seed), "end": retrained.failures.get(seed, "")} for seed in seeds
    ]
    columns = {
        "seed": Column("seed", "ascending"),
        "score": Column("best validation score", form=decimals),
        "end": Column("failure", words=True),
    }
    if not retrained.failures:
        del columns["end"]
    shown = table(pd.DataFrame(rows), columns, caption="trainings of the winner")
    mean, spread = (None if math.isnan(each) else each for each in (retrained.mean, retrained.spread))
    return {"mean": decimals(mean), "spread": decimals(spread), "table": shown}


def _unscored(run: RunDirectory, candidates: Sequence[Candidate]) -> dict[str, int]:
    """Returns the epochs of candidates since their last score."""
    return {
        each.name: max(0, epochs_done(trainings.folder_of_candidate(run, each.name)) - max(each.scores, default=0))
        for each in candidates
    }


def _table(
    caption: str,
    candidates: Sequence[Candidate],
    *,
    rungs: Sequence[int],
    budget: BudgetSettings,
    unscored: Mapping[str, int],
) -> Table:
    """Returns a table with a row for each candidate, those that came furthest and scored best first."""
    ranked = sorted(candidates, key=lambda each: [each.scores.get(rung, -1.0) for rung in rungs[::-1]], reverse=True)
    costs = [name for name in QUANTITIES if any(name in each.cost.amounts for each in candidates)]
    rows = [
        {
            "name": each.name,
            "source": _TITLES[each.source],
            "color": COLORS[each.source],
            "origin": each.origin if each.parent is None else f"{each.parent}: {each.origin}",
            "norm": each.norm or "as published",
            **{f"score {rung}": each.scores.get(rung) for rung in rungs},
            **{name: each.cost.amounts[name] / QUANTITIES[name][1] for name in costs},
            "end": _end(each, rungs, unscored[each.name]),
        }
        for each in ranked
    ]
    columns = {
        "name": Column("candidate", "ascending", words=True),
        "source": Column("source", "ascending", words=True, below="origin", swatch="color"),
        **{f"score {rung}": Column(f"after {rung}", form=decimals) for rung in rungs},
        **{name: _cost_column(name, budget) for name in costs},
        "norm": Column("norm", "ascending", words=True),
        "end": Column("end", "ascending", words=True),
    }
    return table(pd.DataFrame(rows), columns, caption=caption)


def _cost_column(name: str, budget: BudgetSettings) -> Column:
    """Returns the column of a cost, with its limit where the budget has one."""
    title, unit = QUANTITIES[name]
    limit = budget.limits.get(name)
    return Column(title if limit is None else f"{title} (≤ {limit / unit:,.4g})", "ascending", form=significant)


def _end(candidate: Candidate, rungs: Sequence[int], unscored: int) -> str:
    """Returns what ended the training of a candidate, or how far it is since its last score."""
    if candidate.failure is not None:
        return f"failed: {candidate.failure}"
    last = max(candidate.scores, default=0)
    if last == rungs[-1]:
        return "last rung"
    if unscored:
        return f"at epoch {last + unscored}"
    return f"dropped after epoch {last}" if last else "not trained yet"


@styled
def plot_incumbent(
    candidates: Sequence[Candidate], rungs: Sequence[int], score: str, *, lost: Mapping[str, int], before: int
) -> Figure:
    """Plots the score of every candidate at every rung over the epochs of training so far, and the best of them.

    Args:
        candidates: in their order.
        rungs: epochs at which they were scored.
        score: title of the score.
        lost: see `trained_epochs`.
        before: epochs of training that take as long as the supernets, with which the axis begins; 0 if there are none,
            or where the search has not finished.
    """
    figure = Figure(figsize=(9.2, 3.4), layout="constrained")
    axes = figure.subplots()
    points = trained_epochs(
        {each.name: (each.generation, each.scores) for each in candidates}, rungs, lost=lost, before=before
    )
    sources: Mapping[str, str] = {each.name: each.source for each in candidates}
    for source, color in COLORS.items():
        own = [(epochs, value) for name, _, epochs, value in points if sources[name] == source]
        if own:
            axes.plot(*zip(*own, strict=True), "o", ms=4.5, color=PALETTE[color][0], label=_TITLES[source], zorder=2)
    if points:
        best = incumbents((rung, value) for _, rung, _, value in points)
        axes.step([epochs for _, _, epochs, _ in points], best, where="post", color=INK, lw=1.3, label="best so far")
    supernets = f" (the supernets took as long as {before})" if before else ""
    axes.set(xlabel=f"epochs of training of all candidates{supernets}", ylabel=f"validation {score}")
    axes.tick_params(colors=MUTED)
    if points:
        figure.legend(loc="outside lower center", ncols=4)
    return figure
