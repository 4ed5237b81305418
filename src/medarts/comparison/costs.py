"""What the networks of comparisons cost, all measured in turns, so that their latencies can be compared."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from medarts.comparison.candidates import Candidate
from medarts.models.registry import Architecture
from medarts.profiling import cost
from medarts.profiling.cost import Cost
from medarts.profiling.latency import usual_threads
from medarts.system.console import progress_bar

REPEATS = 20
"""Timed passes."""


def costs_of(candidates: Iterable[Candidate]) -> dict[str, Cost]:
    """Measures networks in one call, on one thread of the CPU and the others of `usual_threads`.

    Args:
        candidates: networks that are trained on images of one size and number of channels, for as many outputs and with
            the same norms; of several of one name, which are the same network trained on other data, one is measured.

    Returns:
        The costs by name.

    Raises:
        MedartsError: a network cannot be measured.
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
    """Measures the networks of several groups of a study, each network once, and returns the costs of every group.

    Groups that differ in size, channels, outputs or norms are measured apart.

    Args:
        groups: the networks of every group, at least one each.

    Raises:
        MedartsError: a network cannot be measured.
    """
    costs: list[dict[str, Cost]] = [{} for _ in groups]
    order = sorted(range(len(groups)), key=lambda number: _setting(groups[number]))
    for _, numbers in groupby(order, key=lambda number: _setting(groups[number])):
        together = [*numbers]
        found = costs_of(candidate for number in together for candidate in groups[number])
        for number in together:
            costs[number] = {candidate.name: found[candidate.name] for candidate in groups[number]}
    return costs


def _setting(candidates: Sequence[Candidate]) -> tuple[int, int, int, str]:
    recipe = candidates[0].recipes[0]
    return recipe.data.size, recipe.data.in_channels, recipe.data.outputs, recipe.train.norm or ""
