"""The costs of compared networks, measured in turns so that latencies are comparable, and the Pareto front."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from medarts.comparison.candidates import Candidate
from medarts.models import Architecture
from medarts.profiling import cost
from medarts.profiling.cost import Backend, Cost
from medarts.profiling.latency import usual_threads
from medarts.system.console import progress_bar

REPEATS = 20
"""Timed passes."""


def costs_of(candidates: Iterable[Candidate]) -> dict[str, Cost]:
    """Measures networks in one call, on one thread of the CPU and the others of `usual_threads`.

    Args:
        candidates: networks with the same size of images, channels, outputs and norms. Of several with one name, which
            are one network trained on several data sets, the first is measured.

    Returns:
        The costs by name.
    """
    chosen: dict[str, Candidate] = {}
    for candidate in candidates:
        chosen.setdefault(candidate.name, candidate)
    recipe = next(iter(chosen.values())).recipes[0]
    architectures: dict[str, Architecture] = {name: candidate.architecture for name, candidate in chosen.items()}
    with progress_bar("costs", 0) as bar:
        return cost.measure_costs(
            architectures,
            in_channels=recipe.data.in_channels,
            outputs=recipe.data.outputs,
            size=recipe.data.size,
            norm=recipe.train.norm,
            threads=usual_threads(),
            repeats=REPEATS,
            progress=bar.reach,
        )


def costs_of_groups(groups: Sequence[Sequence[Candidate]]) -> list[dict[str, Cost]]:
    """Measures the networks of several groups of data sets, each network once; returns the costs of every group.

    Groups that differ in size, channels, outputs or norms are measured separately.

    Args:
        groups: the networks of every group, at least one each.
    """
    costs: list[dict[str, Cost]] = [{} for _ in groups]
    order = sorted(range(len(groups)), key=lambda number: _setting(groups[number]))
    for _, numbers in groupby(order, key=lambda number: _setting(groups[number])):
        together = [*numbers]
        found = costs_of(candidate for number in together for candidate in groups[number])
        for number in together:
            costs[number] = {candidate.name: found[candidate.name] for candidate in groups[number]}
    return costs


def latency_columns(backend: Backend, threads: int) -> tuple[str, str]:
    """Returns the columns of a latency and of its interquartile range; those of ONNX Runtime have the plain names."""
    prefix = "" if backend == "onnxruntime" else f"{backend.replace(' ', '_')}_"
    return f"{prefix}latency_ms_{threads}", f"{prefix}latency_spread_ms_{threads}"


def cost_row(cost: Cost) -> dict[str, Any]:
    """Returns the cost of one image as a row of a table: latencies and their ranges by backend and threads."""
    row: dict[str, Any] = {"parameters": cost.parameters, "flops": cost.flops}
    for backend, timings in cost.timings.items():
        for timing in timings:
            median, spread = latency_columns(backend, timing.threads)
            row |= {median: timing.median_ms, spread: timing.spread_ms}
    return row | {"memory_mb": cost.memory_mb[1]}


def on_pareto_front(networks: pd.DataFrame) -> pd.Series:
    """Returns which networks no other one beats: at least as good and as fast, and better or faster.

    A network is faster where its latency is lower by more than half an interquartile range, the larger one of the two;
    within that both count as equally fast. Scores count as they are, without a test. A network without a score is not
    on the front. The front is empty only where no score is defined: no chain of networks that beat each other closes,
    as all scores of it would be equal, and each network faster than the one before.

    Args:
        networks: a row each, with columns ``score``, ``latency_ms_1`` and ``latency_spread_ms_1``, of ONNX Runtime.
    """

    def is_beaten(row: Any) -> bool:
        limit = networks.latency_spread_ms_1.clip(lower=row.latency_spread_ms_1) / 2
        ahead = row.latency_ms_1 - networks.latency_ms_1
        beats = (networks.score >= row.score) & (ahead >= -limit) & ((networks.score > row.score) | (ahead > limit))
        return bool(beats.any())

    rows: Iterable[Any] = networks.itertuples()
    return pd.Series([not math.isnan(row.score) and not is_beaten(row) for row in rows], networks.index, dtype=bool)


def _setting(candidates: Sequence[Candidate]) -> tuple[int, int, int, str]:
    recipe = candidates[0].recipes[0]
    return recipe.data.size, recipe.data.in_channels, recipe.data.outputs, recipe.train.norm or ""
