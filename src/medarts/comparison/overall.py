"""Several groups of data sets together: which of them count, and the means, ranks and differences of networks."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from medarts.comparison.measures import Measured, Measures, mean_measured
from medarts.evaluation.stats import Contrast, Difference, corrected, counting_sets, mean_over_sets, verdict

OVERALL = "all data sets"
"""The group of means over all groups of one data set."""

_SEED = 0
"""Of random flips over several data sets."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was found on one group of data sets.

    Attributes:
        group: its name.
        measures: of the networks.
        measured: by network and metric.
        reference: the network with which the others are compared.
        contrasts: by family the contrasts of networks, by what is compared with what.
    """

    group: str
    measures: Measures
    measured: Mapping[str, Mapping[str, Measured]]
    reference: str
    contrasts: Mapping[str, Mapping[tuple[str, str], Contrast]]


def score_cells(measured: Measured) -> dict[str, Any]:
    """Returns a metric as cells of a table: mean, low, high, undefined."""
    low, high = measured.interval()
    return {"mean": measured.mean, "low": low, "high": high, "undefined": measured.undefined}


def difference_cells(found: Difference) -> dict[str, Any]:
    """Returns a tested difference of scores in 0..1 as cells of a table."""
    low, high = (None if end is None else min(max(end, -1.0), 1.0) for end in (found.low, found.high))
    p_values = {"p": found.p, "p_corrected": found.p_corrected}
    counts = {"patients": found.patients, "seeds": found.seeds}
    return {"difference": found.mean, "low": low, "high": high, **p_values, **counts, "verdict": verdict(found)}


def differences_table(
    contrasts: Mapping[tuple[str, str], Contrast], *, family: str, group: str, metric: str, seed: int
) -> pd.DataFrame:
    """Returns contrasts as rows of a table, corrected for their number.

    Args:
        contrasts: by network and what it is compared with.
    """
    found = corrected(contrast.difference(seed=seed) for contrast in contrasts.values())
    rows = [
        {
            "family": family,
            "group": group,
            "network": network,
            "reference": reference,
            "metric": metric,
            **difference_cells(one),
        }
        for (network, reference), one in zip(contrasts, found, strict=True)
    ]
    return pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS).astype(dict.fromkeys(_NUMBERS, float))


_NUMBERS = ("difference", "low", "high", "p", "p_corrected")
DIFFERENCE_COLUMNS = ("family", "group", "network", "reference", "metric", *_NUMBERS, "patients", "seeds", "verdict")


def rank_networks(networks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Returns the table of networks of one group with their ranks by a metric; 1 is the highest, equal ones share."""
    main = networks[networks.metric == metric].set_index("network")["mean"]
    return networks.assign(rank=networks.network.map(main.rank(ascending=False)))


def overall_tables(found: Sequence[Found]) -> dict[str, list[pd.DataFrame]]:
    """Returns the rows of `OVERALL` for the tables networks and differences; none with less than two groups.

    Means and ranks are over the same groups for all networks, see `shared_sets`, and of networks that have a score on
    all of these. Groups of one patient do not count, see ``counting_sets``.

    Args:
        found: groups of one data set each. Networks trained on several are tested on images that belong to other groups
            as well: a mean over both would count these twice.
    """
    if len(found) < 2:
        return {"networks": [], "differences": []}
    metrics, by_group = [one.name for one in found[0].measures.metrics], {one.group: one for one in found}
    counting = counting_sets({one.group: one.measures.patients for one in found})
    scores = scores_of({name: by_group[name] for name in counting})
    groups = shared_sets(scores)
    shared = scores[[*groups]].dropna()
    ranks = shared.rank(ascending=False).mean(axis=1)
    patients = sum(by_group[name].measures.patients for name in groups)
    networks = [
        {
            "group": OVERALL,
            "network": network,
            "metric": metric,
            **_mean_cells({name: by_group[name] for name in groups}, network, metric),
            "patients": patients,
            "seeds": min(len(by_group[name].measured[network][metric].by_seed) for name in groups),
            "rank": ranks[network],
        }
        for network in shared.index
        for metric in metrics
    ]
    differences = [
        differences_table(contrasts, family=family, group=OVERALL, metric=metrics[0], seed=_SEED)
        for family, contrasts in _contrasts_over([by_group[name] for name in groups]).items()
    ]
    return {"networks": [pd.DataFrame(networks)], "differences": differences}


def _mean_cells(found: Mapping[str, Found], network: str, metric: str) -> dict[str, Any]:
    """Returns the mean of a metric over groups as cells; without a mean where groups differ in its unit."""
    units = {one.measures.units.get(metric, "") for one in found.values()}
    measured = mean_measured({name: one.measured[network][metric] for name, one in found.items()})
    cells = score_cells(measured) if len(units) == 1 else dict.fromkeys(("mean", "low", "high"), math.nan)
    return {**cells, "undefined": measured.undefined, "unit": " and ".join(sorted(units))}


def _contrasts_over(found: Sequence[Found]) -> dict[str, dict[tuple[str, str], Contrast]]:
    """Returns by family the means over groups of all contrasts that every group has.

    A network is trained on each group by itself, so that its trainings on two groups are two sides. Networks that stand
    for one method are the same on all groups, so that these are one side: what is lucky in a search, or in a draw at
    random, is so on all data sets.
    """
    families: dict[str, dict[tuple[str, str], Contrast]] = {}
    for family in found[0].contrasts:
        of_groups = {one.group: _of_family(one, family) for one in found}
        of_first, *of_others = of_groups.values()
        keys = [key for key in of_first if all(key in of for of in of_others)]
        families[family] = {key: _over_groups({name: of[key] for name, of in of_groups.items()}) for key in keys}
    if "pairs" in families and families["pairs"].keys() <= families["methods"].keys():
        families["pairs"] = {}
    return families


def _of_family(found: Found, family: str) -> Mapping[tuple[str, str], Contrast]:
    """Returns the contrasts of a family; all pairs are those of methods where the group lacks the reference."""
    contrasts = found.contrasts[family]
    return {**contrasts, **found.contrasts["methods"]} if family == "pairs" else contrasts


def _over_groups(of: Mapping[str, Contrast]) -> Contrast:
    first, *others = of.values()
    shared = {
        name for name, networks in first.repeats.items() if all(one.repeats.get(name) == networks for one in others)
    }
    return mean_over_sets({group: _of_group(one, group, shared) for group, one in of.items()})


def _of_group(contrast: Contrast, group: str, shared: Collection[str]) -> Contrast:
    sides = {name if name in shared else f"{group}/{name}": side for name, side in contrast.sides.items()}
    return replace(contrast, sides=sides)


def scores_of(found: Mapping[str, Found]) -> pd.DataFrame:
    """Returns the main scores, a row for each network, a column for each group; nan where there is none."""
    columns = {
        name: {network: of[one.measures.metrics[0].name].mean for network, of in one.measured.items()}
        for name, one in found.items()
    }
    return pd.DataFrame(columns, columns=[*found])


def shared_sets(scores: pd.DataFrame) -> tuple[str, ...]:
    """Returns the data sets that means are over: those that make the table of means largest, networks times sets.

    A data set that few networks have been trained on would cost all others their mean; so would every data set that a
    single network lacks, where that one is not left out. Those with most networks are tried first, and of tables of one
    size the one with more data sets is taken.

    Args:
        scores: a row for each network, a column for each data set; nan where there is none.

    Returns:
        The data sets in the order given; none where no network has a score.

    >>> shared_sets(pd.DataFrame({"a": [1, 1, 1], "b": [1, 1, 1], "few": [1, None, None]}, index=["x", "y", "z"]))
    ('a', 'b')
    """
    order = sorted(scores.columns[scores.notna().any()], key=lambda name: -scores[name].notna().sum())
    cells = [count * len(scores[order[:count]].dropna()) for count in range(1, len(order) + 1)]
    if not cells:
        return ()
    best = max(range(len(order)), key=lambda number: (cells[number], number))
    return tuple(str(name) for name in scores.columns if name in order[: best + 1])
