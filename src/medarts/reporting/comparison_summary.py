"""Several comparisons together: every network's mean over the data sets, its mean rank, and what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import rankdata

from medarts.comparison.front import pareto_front
from medarts.comparison.result import Comparison, NetworkResult
from medarts.reporting.comparison_points import Point
from medarts.reporting.comparison_tables import cost_cells, cost_columns, latency_figure, name_cell
from medarts.reporting.comparison_words import beyond_chance, front, places, score_cards
from medarts.reporting.content import Content, card, decimals, listed
from medarts.reporting.plots import SCORE_NAMES
from medarts.reporting.tables import Cell, Column, Table, number

Comparisons = Mapping[str, Comparison]
"""By name of the data set; all of one score."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A network over the data sets.

    Attributes:
        results: what was found of it, by data set; where it was not compared, it is absent.
        scores: its score on each of these; None where undefined.
        mean: over the shared data sets; None where it lacks a score on one.
        latency_ms: mean over its data sets, by threads.
    """

    results: Mapping[str, NetworkResult]
    scores: Mapping[str, float | None]
    mean: float | None
    latency_ms: Mapping[int, float]

    @property
    def any(self) -> NetworkResult:
        """Its result on one data set, for what is the same on all."""
        return next(iter(self.results.values()))

    def average(self, attribute: str) -> float:
        """Returns the mean over its data sets of an attribute of the results."""
        return fmean(getattr(result, attribute) for result in self.results.values())


def summarise(comparisons: Comparisons) -> Content:
    """Returns what stands above the comparisons of several data sets.

    Means and ranks are over the data sets of ``_shared``, of networks with a score on all of them. Equal scores
    share the mean of their ranks. Costs are means over the data sets.
    """
    shared = _shared(comparisons)
    rows = _rows(comparisons, shared)
    points = _points(rows)
    title = SCORE_NAMES[next(iter(comparisons.values())).score]
    references = {comparison.reference for comparison in comparisons.values()}
    reference = references.pop() if len(references) == 1 else None
    images = sum(comparison.images for comparison in comparisons.values())
    lacking = [name for name, row in rows.items() if row.mean is None]
    return {
        "cards": [
            card("networks", str(len(rows))),
            card(f"images of {len(comparisons)} data sets", f"{images:,}"),
            *score_cards(points, title=f"mean {title}", reference=reference),
        ],
        "words": [
            *_words(points, comparisons, title=title, reference=reference),
            *_left_out(shared, comparisons),
            *_lacking(lacking),
        ],
        "table": _table(rows, points, comparisons, shared=shared, reference=reference),
        "latency": latency_figure("all data sets", points, title=f"mean {title} of the data sets", reference=reference),
        "title": title,
    }


def _shared(comparisons: Comparisons) -> tuple[str, ...]:
    """Returns the data sets that means are over: those that make the table of means largest.

    A data set that few networks have been trained on would cost all others their mean; so would every data set that a
    single network lacks, where that one is not left out. Those with most networks are tried first.
    """
    scored = {
        name: {network.name for network in comparison.networks if network.scores[comparison.score].mean is not None}
        for name, comparison in comparisons.items()
    }
    order = sorted(scored, key=lambda name: -len(scored[name]))
    cells = [
        count * len(set.intersection(*(scored[name] for name in order[:count]))) for count in range(1, len(order) + 1)
    ]
    best = max(range(len(order)), key=lambda place: (cells[place], place))
    return tuple(name for name in comparisons if name in order[: best + 1])


def _rows(comparisons: Comparisons, shared: Sequence[str]) -> dict[str, _Row]:
    """Returns all networks, the best first."""
    results: dict[str, dict[str, NetworkResult]] = {}
    for name, comparison in comparisons.items():
        for network in comparison.networks:
            results.setdefault(network.name, {})[name] = network
    rows = {}
    for network_name, of_sets in results.items():
        scores = {name: result.scores[comparisons[name].score].mean for name, result in of_sets.items()}
        present = [score for name in shared if (score := scores.get(name)) is not None]
        threads = set.intersection(*(set(result.latency_ms) for result in of_sets.values()))
        rows[network_name] = _Row(
            results=of_sets,
            scores=scores,
            mean=fmean(present) if len(present) == len(shared) else None,
            latency_ms={count: fmean(r.latency_ms[count] for r in of_sets.values()) for count in sorted(threads)},
        )
    return dict(sorted(rows.items(), key=lambda item: (item[1].mean is None, -(item[1].mean or 0))))


def _points(rows: Mapping[str, _Row]) -> list[Point]:
    """Returns the networks that have a mean, with their place on the front of the means."""
    means = {name: row.mean for name, row in rows.items() if row.mean is not None}
    on_front = pareto_front({name: (mean, rows[name].latency_ms[1]) for name, mean in means.items()})
    return [
        Point(
            name=name,
            kind=rows[name].any.kind,
            score=mean,
            latency_ms=rows[name].latency_ms[1],
            parameters=rows[name].average("parameters"),
            front=name in on_front,
        )
        for name, mean in means.items()
    ]


def _ranks(rows: Mapping[str, _Row], points: Sequence[Point], sets: Sequence[str]) -> dict[str, float]:
    """Returns the mean rank of every network that has a mean; 1 is the best."""
    scores = np.asarray([[rows[point.name].scores[name] for name in sets] for point in points], dtype=float)
    ranks = rankdata(-scores, axis=0).mean(axis=1) if len(points) else []
    return {point.name: float(rank) for point, rank in zip(points, ranks, strict=True)}


def _table(
    rows: Mapping[str, _Row],
    points: Sequence[Point],
    comparisons: Comparisons,
    *,
    shared: Sequence[str],
    reference: str | None,
) -> Table:
    ranks = _ranks(rows, points, shared)
    on_front = {point.name for point in points if point.front}
    threads = sorted({count for row in rows.values() for count in row.latency_ms})
    columns = [
        Column("network", first="ascending"),
        Column("mean", sorted="descending"),
        Column("mean rank", first="ascending"),
        *(Column(name) for name in comparisons),
        *([Column(f"better, worse than {reference}")] if reference else []),
        *cost_columns(threads),
        Column("kind", first="ascending", words=True),
    ]
    cells = [
        [
            name_cell(name, row.any.kind, front=name in on_front, reference=reference),
            Cell(decimals(row.mean), row.mean, strong=True),
            number(ranks.get(name), ".1f"),
            *(number(row.scores.get(of_set), ".3f") for of_set in comparisons),
            *([_tested(row, reference)] if reference else []),
            *cost_cells(
                parameters=row.average("parameters"),
                flops=row.average("flops"),
                latencies=[row.latency_ms.get(count) for count in threads],
                memory_mb=row.average("memory_mb"),
                training_seconds=row.average("training_seconds"),
            ),
            Cell(row.any.kind, row.any.kind),
        ]
        for name, row in rows.items()
    ]
    return Table("Networks over all data sets", columns, cells)


def _tested(row: _Row, reference: str) -> Cell:
    """Returns on how many data sets a network is better and worse than the reference beyond chance."""
    if row.any.name == reference:
        return Cell("–", None)
    signs = [beyond_chance(result) for result in row.results.values()]
    better, worse = signs.count(1), signs.count(-1)
    return Cell(f"{better}, {worse}", better - worse, f"of {len(signs)}")


def _words(points: Sequence[Point], comparisons: Comparisons, *, title: str, reference: str | None) -> list[str]:
    """Says where the reference stands over all data sets, and how its tests went."""
    if reference is None:
        return ["The data sets have no reference in common, so nothing is told from it over all of them."]
    others = [n for comparison in comparisons.values() for n in comparison.networks if n.name != reference]
    signs = [beyond_chance(network) for network in others]
    lost, won = signs.count(1), signs.count(-1)
    counts = (
        f"Of {len(signs)} comparisons with another network on one data set, {reference} wins {won} beyond chance, "
        f"loses {lost}, and {len(signs) - won - lost} stay open."
    )
    mean = f"mean {title}"
    stands = places(points, title=mean, reference=reference)
    return [*stands, *front(points, title=mean, reference=reference), counts]


def _left_out(shared: Sequence[str], comparisons: Comparisons) -> list[str]:
    others = [name for name in comparisons if name not in shared]
    return [f"Means and ranks leave out {listed(others)}, where many networks have no score."] if others else []


def _lacking(names: list[str]) -> list[str]:
    return [f"Without a mean, for lack of a score on some data set: {listed(names)}."] if names else []
