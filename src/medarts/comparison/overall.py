"""Several data sets together: which of them means are over, and what the networks are worth there.

Scores are given by data set and network, ``{data set: {network: score}}``; a network without a score on a data set is
absent there. A score is high where a network is good.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from medarts.comparison.paired import Difference
from medarts.comparison.pooled import Paired, counting_sets, differences_of, mean_over_sets
from medarts.comparison.result import Comparison, NetworkResult

Scores = Mapping[str, Mapping[str, float]]
"""By data set and network."""

Comparisons = Mapping[str, Comparison]
"""By name of the data set; all of one score."""

_SEED = 0
"""Of random flips."""


@dataclass(frozen=True, slots=True)
class OverallRow:
    """A network over the data sets.

    Attributes:
        results: what was found of it, by data set; where it was not compared, it is absent.
        scores: its score on each of these where it has one.
        mean: over the data sets that count; None where it lacks a score on one.
        rank: mean over the same.
        difference: of the mean to that of the reference, with p corrected for the number of networks; None for the
            reference, where there is none, and where the two have no seed in common on one of the data sets.
        mean_of_all: also over data sets that do not count; None where it lacks a score on one.
    """

    results: Mapping[str, NetworkResult]
    scores: Mapping[str, float]
    mean: float | None
    rank: float | None
    difference: Difference | None
    mean_of_all: float | None

    @property
    def any(self) -> NetworkResult:
        """Its result on one data set, for what is the same on all."""
        return next(iter(self.results.values()))

    def average(self, attribute: str) -> float:
        """Returns the mean over its data sets of an attribute of the results."""
        return fmean(getattr(result, attribute) for result in self.results.values())

    @property
    def latencies(self) -> dict[int, tuple[float, float]]:
        """Milliseconds and their spread, means over its data sets, by the threads measured on all of these."""
        results = [*self.results.values()]
        threads = sorted(set.intersection(*(set(one.latency_ms) for one in results)))
        milliseconds, spreads = (
            {count: fmean(getattr(one, attribute)[count] for one in results) for count in threads}
            for attribute in ("latency_ms", "latency_spread_ms")
        )
        return {count: (milliseconds[count], spreads[count]) for count in threads}


@dataclass(frozen=True, slots=True)
class OverallControl:
    """A network against those drawn at random like it, over several data sets.

    Attributes:
        network: its name.
        fewest: how many drawn ones it is compared with on the data set that has fewest of them.
        most: on that which has most.
        sets: the data sets.
        patients: of these.
        difference: mean over these, with p corrected for the number of such networks.
    """

    network: str
    fewest: int
    most: int
    sets: tuple[str, ...]
    patients: int
    difference: Difference


@dataclass(frozen=True, slots=True)
class Overall:
    """What was found over several data sets.

    Attributes:
        sets: those that count in means, ranks and differences.
        all_sets: these and such of one patient.
        uncounted: those of one patient, where others have several.
        patients: of the data sets that count.
        reference: name of the network that all data sets have as reference; None where there is no such.
        rows: all networks by name, the best mean first.
        controls: networks against those drawn at random like them.
    """

    sets: tuple[str, ...]
    all_sets: tuple[str, ...]
    uncounted: tuple[str, ...]
    patients: int
    reference: str | None
    rows: Mapping[str, OverallRow]
    controls: tuple[OverallControl, ...]


def of_single_sets(comparisons: Comparisons) -> Comparisons:
    """Returns the comparisons on one data set each; all where there is none.

    Networks trained on a mix are tested on images that stand in other comparisons already: a mean over both would
    count these twice.
    """
    return {name: one for name, one in comparisons.items() if len(one.domains) == 1} or comparisons


def overall(comparisons: Comparisons) -> Overall:
    """Returns what several comparisons say together.

    Args:
        comparisons: at least one, of one score; see ``of_single_sets``.
    """
    scores = {name: scores_of(comparison) for name, comparison in comparisons.items()}
    counting = counting_sets({name: comparison.patients for name, comparison in comparisons.items()})
    sets, all_sets = shared_sets({name: scores[name] for name in counting}), shared_sets(scores)
    means, ranks, all_means = mean_scores(scores, sets), mean_ranks(scores, sets), mean_scores(scores, all_sets)
    references = {comparison.reference for comparison in comparisons.values()}
    reference = references.pop() if len(references) == 1 else None
    differences = _differences({name: comparisons[name] for name in sets}, [*means]) if reference else {}
    results: dict[str, dict[str, NetworkResult]] = {}
    for name, comparison in comparisons.items():
        for network in comparison.networks:
            results.setdefault(network.name, {})[name] = network
    rows = {
        network: OverallRow(
            results=of_sets,
            scores={name: scores[name][network] for name in of_sets if network in scores[name]},
            mean=means.get(network),
            rank=ranks.get(network),
            difference=differences.get(network),
            mean_of_all=all_means.get(network),
        )
        for network, of_sets in results.items()
    }
    return Overall(
        sets=sets,
        all_sets=all_sets,
        uncounted=tuple(name for name in comparisons if name not in counting),
        patients=sum(comparisons[name].patients for name in sets),
        reference=reference,
        rows=dict(sorted(rows.items(), key=lambda item: (item[1].mean is None, -(item[1].mean or 0)))),
        controls=_controls({name: comparisons[name] for name in sets}),
    )


def scores_of(comparison: Comparison) -> dict[str, float]:
    """Returns the main score of every network that has one."""
    means = {network.name: network.scores[comparison.score].mean for network in comparison.networks}
    return {name: mean for name, mean in means.items() if mean is not None}


def _differences(comparisons: Comparisons, networks: Sequence[str]) -> dict[str, Difference | None]:
    """Returns the differences of means over data sets to the reference that all of these have."""
    pairs: dict[str, Paired | None] = {}
    for network in networks:
        of_sets = {name: comparison.pairs.to_reference.get(network) for name, comparison in comparisons.items()}
        there = {name: pair for name, pair in of_sets.items() if pair is not None}
        if not any(network == comparison.reference for comparison in comparisons.values()):
            pairs[network] = mean_over_sets(there) if len(there) == len(of_sets) else None
    return differences_of(pairs, seed=_SEED)


def _controls(comparisons: Comparisons) -> tuple[OverallControl, ...]:
    """Returns what the comparisons say together of networks against those drawn at random like them."""
    found: dict[str, dict[str, int]] = {}
    for name, comparison in comparisons.items():
        for control in comparison.controls:
            found.setdefault(control.network, {})[name] = len(control.drawn)
    pairs = {
        network: mean_over_sets({name: comparisons[name].pairs.of_controls[network] for name in counts})
        for network, counts in found.items()
    }
    differences = differences_of(pairs, seed=_SEED)
    return tuple(
        OverallControl(
            network=network,
            fewest=min(counts.values()),
            most=max(counts.values()),
            sets=tuple(counts),
            patients=pairs[network].patients,
            difference=difference,
        )
        for network, counts in found.items()
        if (difference := differences[network]) is not None
    )


def shared_sets(scores: Scores) -> tuple[str, ...]:
    """Returns the data sets that means are over: those that make the table of means largest, networks times sets.

    A data set that few networks have been trained on would cost all others their mean; so would every data set that a
    single network lacks, where that one is not left out. Those with most networks are tried first, and of tables of one
    size the one with more data sets is taken.

    Args:
        scores: by data set and network.

    Returns:
        The data sets in the order given; none where no network has a score.

    >>> shared_sets({"a": {"x": 1, "y": 1, "z": 1}, "b": {"x": 1, "y": 1, "z": 1}, "few": {"x": 1}})
    ('a', 'b')
    """
    order = sorted((name for name in scores if scores[name]), key=lambda name: -len(scores[name]))
    cells = [
        count * len(set.intersection(*(set(scores[name]) for name in order[:count])))
        for count in range(1, len(order) + 1)
    ]
    if not cells:
        return ()
    best = max(range(len(order)), key=lambda place: (cells[place], place))
    chosen = set(order[: best + 1])
    return tuple(name for name in scores if name in chosen)


def mean_scores(scores: Scores, sets: Sequence[str]) -> dict[str, float]:
    """Returns the unweighted mean over some data sets of every network that has a score on all of them.

    >>> mean_scores({"a": {"x": 0.5, "y": 0.25}, "b": {"x": 1.0}}, ("a", "b"))
    {'x': 0.75}
    """
    return {network: fmean(scores[name][network] for name in sets) for network in _on_all(scores, sets)}


def mean_ranks(scores: Scores, sets: Sequence[str]) -> dict[str, float]:
    """Returns the mean rank over some data sets of every network that has a score on all of them, among these.

    1 is the highest score; equal scores share the mean of their ranks.

    >>> mean_ranks({"a": {"x": 0.9, "y": 0.8}, "b": {"x": 0.5, "y": 0.5}}, ("a", "b"))
    {'x': 1.25, 'y': 1.75}
    """
    networks = _on_all(scores, sets)
    if not networks:
        return {}
    from scipy.stats import rankdata

    table = np.asarray([[scores[name][network] for name in sets] for network in networks])
    ranks = rankdata(-table, axis=0).mean(axis=1)
    return dict(zip(networks, map(float, ranks), strict=True))


def _on_all(scores: Scores, sets: Sequence[str]) -> list[str]:
    """Returns the networks that have a score on all of some data sets, in the order of the first."""
    return [network for network in scores[sets[0]] if all(network in scores[name] for name in sets)] if sets else []
