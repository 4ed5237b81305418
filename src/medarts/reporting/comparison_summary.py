"""Several comparisons together: every network's mean over the data sets, its mean rank, and what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from medarts.comparison.front import Place, pareto_front
from medarts.comparison.overall import mean_ranks, mean_scores, shared_sets
from medarts.comparison.paired import beyond_chance
from medarts.comparison.result import Comparison, NetworkResult
from medarts.reporting.comparison_points import Point
from medarts.reporting.comparison_tables import cost_cells, cost_columns, latency_figure, latency_of, name_cell
from medarts.reporting.comparison_words import front, places, score_cards
from medarts.reporting.content import Content, card, counted, decimals, listed
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
        rank: mean over the same.
        latencies: milliseconds and their spread by threads, means over its data sets.
    """

    results: Mapping[str, NetworkResult]
    scores: Mapping[str, float | None]
    mean: float | None
    rank: float | None
    latencies: Mapping[int, tuple[float, float]]

    @property
    def any(self) -> NetworkResult:
        """Its result on one data set, for what is the same on all."""
        return next(iter(self.results.values()))

    def average(self, attribute: str) -> float:
        """Returns the mean over its data sets of an attribute of the results."""
        return fmean(getattr(result, attribute) for result in self.results.values())


def of_single_sets(comparisons: Comparisons) -> Comparisons:
    """Returns the comparisons on one data set each; all where there is none.

    Networks trained on a mix are tested on images that stand in other comparisons already: a mean over both would
    count these twice.
    """
    return {name: one for name, one in comparisons.items() if len(one.domains) == 1} or comparisons


def summarise(comparisons: Comparisons) -> Content:
    """Returns what stands above the comparisons of several data sets.

    Means and ranks are those of ``medarts.comparison.overall``, of networks with a score on all shared data sets.
    """
    shared, rows = _rows(comparisons)
    points = _points(rows)
    title = SCORE_NAMES[next(iter(comparisons.values())).score]
    references = {comparison.reference for comparison in comparisons.values()}
    reference = references.pop() if len(references) == 1 else None
    images = sum(comparison.images for comparison in comparisons.values())
    lacking = [name for name, row in rows.items() if row.mean is None]
    return {
        "cards": [
            card("network" if len(rows) == 1 else "networks", str(len(rows))),
            card(f"images of {counted(len(comparisons), 'data set')}", f"{images:,}"),
            *score_cards(points, title=f"mean {title}", reference=reference),
        ],
        "words": [
            *_words(points, comparisons, title=title, reference=reference),
            *_left_out(shared, comparisons),
            *_lacking(lacking),
        ],
        "costs": _costs(rows),
        "table": _table(rows, points, comparisons, reference=reference),
        "latency": latency_figure("all data sets", points, title=f"mean {title} of the data sets", reference=reference),
        "title": title,
    }


def _rows(comparisons: Comparisons) -> tuple[Sequence[str], dict[str, _Row]]:
    """Returns the shared data sets and all networks, the best first."""
    results: dict[str, dict[str, NetworkResult]] = {}
    scores: dict[str, dict[str, float]] = {name: {} for name in comparisons}
    for name, comparison in comparisons.items():
        for network in comparison.networks:
            results.setdefault(network.name, {})[name] = network
            if (score := network.scores[comparison.score].mean) is not None:
                scores[name][network.name] = score
    shared = shared_sets(scores)
    means, ranks = mean_scores(scores, shared), mean_ranks(scores, shared)
    rows = {
        network: _Row(
            results=of_sets,
            scores={name: scores[name].get(network) for name in of_sets},
            mean=means.get(network),
            rank=ranks.get(network),
            latencies=_latencies([*of_sets.values()]),
        )
        for network, of_sets in results.items()
    }
    return shared, dict(sorted(rows.items(), key=lambda item: (item[1].mean is None, -(item[1].mean or 0))))


def _latencies(results: Sequence[NetworkResult]) -> dict[int, tuple[float, float]]:
    """Returns the means over data sets of milliseconds and their spread, by the threads measured for all of them."""
    threads = sorted(set.intersection(*(set(result.latency_ms) for result in results)))
    return {
        count: (fmean(one.latency_ms[count] for one in results), fmean(one.latency_spread_ms[count] for one in results))
        for count in threads
    }


def _points(rows: Mapping[str, _Row]) -> list[Point]:
    """Returns the networks that have a mean, with their place on the front of the means."""
    means = {name: row.mean for name, row in rows.items() if row.mean is not None}
    on_front = pareto_front({name: Place(mean, *rows[name].latencies[1]) for name, mean in means.items()})
    return [
        Point(
            name=name,
            kind=rows[name].any.kind,
            score=mean,
            latency_ms=rows[name].latencies[1][0],
            spread_ms=rows[name].latencies[1][1],
            parameters=rows[name].average("parameters"),
            front=name in on_front,
        )
        for name, mean in means.items()
    ]


def _costs(rows: Mapping[str, _Row]) -> str:
    """Says whether the costs of the data sets are one measurement."""
    once = all(len({latency_of(one, 1) for one in row.results.values()}) == 1 for row in rows.values())
    if once:
        return "Costs were measured once, all networks in turns; the time of training is the mean over the data sets."
    return "Costs are means over the data sets, each of which has measurements of its own."


def _table(
    rows: Mapping[str, _Row],
    points: Sequence[Point],
    comparisons: Comparisons,
    *,
    reference: str | None,
) -> Table:
    on_front = {point.name for point in points if point.front}
    threads = sorted({count for row in rows.values() for count in row.latencies})
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
            number(row.rank, ".1f"),
            *(number(row.scores.get(of_set), ".3f") for of_set in comparisons),
            *([_tested(row, reference)] if reference else []),
            *cost_cells(
                parameters=row.average("parameters"),
                flops=row.average("flops"),
                latencies=[row.latencies.get(count) for count in threads],
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
    signs = [beyond_chance(result.difference) for result in row.results.values()]
    better, worse = signs.count(1), signs.count(-1)
    return Cell(f"{better}, {worse}", better - worse, f"of {len(signs)}")


def _words(points: Sequence[Point], comparisons: Comparisons, *, title: str, reference: str | None) -> list[str]:
    """Says where the reference stands over all data sets, and how its tests went."""
    if reference is None:
        return ["The data sets have no reference in common, so nothing is told from it over all of them."]
    others = [n for comparison in comparisons.values() for n in comparison.networks if n.name != reference]
    signs = [beyond_chance(network.difference) for network in others]
    lost, won = signs.count(1), signs.count(-1)
    open_ = len(signs) - won - lost
    counts = (
        f"Of {counted(len(signs), 'comparison')} with another network on one data set, {reference} wins {won} beyond "
        f"chance, loses {lost}, and {open_} {'stays' if open_ == 1 else 'stay'} open."
    )
    mean = f"mean {title}"
    stands = places(points, title=mean, reference=reference)
    return [*stands, *front(points, title=mean, reference=reference), counts]


def _left_out(shared: Sequence[str], comparisons: Comparisons) -> list[str]:
    others = [name for name in comparisons if name not in shared]
    return [f"Means and ranks leave out {listed(others)}, where many networks have no score."] if others else []


def _lacking(names: list[str]) -> list[str]:
    return [f"Without a mean, for lack of a score on some data set: {listed(names)}."] if names else []
