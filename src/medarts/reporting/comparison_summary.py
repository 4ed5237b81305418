"""Several comparisons together: every network's mean over the data sets, its mean rank, and what it costs."""

from collections.abc import Mapping, Sequence

from medarts.comparison.front import Place, pareto_front
from medarts.comparison.overall import Comparisons, Overall, OverallRow, overall
from medarts.comparison.paired import ALPHA
from medarts.reporting.comparison_controls import overall_control_sentences
from medarts.reporting.comparison_points import Point
from medarts.reporting.comparison_tables import (
    cost_cells,
    cost_columns,
    difference_cell,
    latency_figure,
    latency_of,
    name_cell,
)
from medarts.reporting.comparison_words import Outcomes, beginnings, front, outcomes, places, score_cards, what_differs
from medarts.reporting.content import Content, card, counted, decimals, listed
from medarts.reporting.plots import SCORE_NAMES
from medarts.reporting.tables import Cell, Column, Table, number, probability


def summarise(comparisons: Comparisons) -> Content:
    """Returns what stands above the comparisons of several data sets; see ``medarts.comparison.overall``."""
    found = overall(comparisons)
    points = _points(found.rows)
    title = SCORE_NAMES[next(iter(comparisons.values())).score]
    images = sum(comparison.images for comparison in comparisons.values())
    return {
        "cards": [
            card("network" if len(found.rows) == 1 else "networks", str(len(found.rows))),
            card(f"images of {counted(len(comparisons), 'data set')}", f"{images:,}"),
            *score_cards(points, title=f"mean {title}", reference=found.reference),
        ],
        "words": [
            *_words(points, found, comparisons, title=title),
            *overall_control_sentences(found.controls, title=title),
            *beginnings(row.any for row in found.rows.values()),
            *_left_out(found, comparisons),
        ],
        "costs": _costs(found.rows),
        "table": _table(found, points, comparisons),
        "latency": latency_figure(
            "all data sets", points, title=f"mean {title} of the data sets", reference=found.reference
        ),
        "title": title,
        "reference": found.reference,
    }


def _points(rows: Mapping[str, OverallRow]) -> list[Point]:
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


def _costs(rows: Mapping[str, OverallRow]) -> str:
    """Says whether the costs of the data sets are one measurement."""
    once = all(len({latency_of(one, 1) for one in row.results.values()}) == 1 for row in rows.values())
    if once:
        return "Costs were measured once, all networks in turns; the time of training is the mean over the data sets."
    return "Costs are means over the data sets, each of which has measurements of its own."


def _table(found: Overall, points: Sequence[Point], comparisons: Comparisons) -> Table:
    on_front = {point.name for point in points if point.front}
    threads = sorted({count for row in found.rows.values() for count in row.latencies})
    reference, ended = found.reference, _ended(comparisons)
    columns = [
        Column("network", first="ascending"),
        Column("mean", sorted="descending"),
        *([Column(f"difference to {reference}"), Column("corrected p", first="ascending")] if reference else []),
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
            *(_against(row) if reference else []),
            number(row.rank, ".1f"),
            *(number(row.scores.get(of_set), ".3f") for of_set in comparisons),
            *([_tested(name, ended, reference)] if reference else []),
            *cost_cells(
                parameters=row.average("parameters"),
                flops=row.average("flops"),
                latencies=[row.latencies.get(count) for count in threads],
                memory_mb=row.average("memory_mb"),
                training_seconds=row.average("training_seconds"),
            ),
            Cell(row.any.kind, row.any.kind),
        ]
        for name, row in found.rows.items()
    ]
    return Table("Networks over all data sets", columns, cells)


def _against(row: OverallRow) -> list[Cell]:
    """Returns the difference of the mean to that of the reference, and its p."""
    p = row.difference.p_corrected if row.difference else None
    return [difference_cell(row.difference), probability(p, limit=ALPHA)]


def _ended(comparisons: Comparisons) -> list[Outcomes]:
    """Returns how the comparisons with the reference ended on each data set."""
    return [outcomes(comparison.differences, patients=comparison.patients) for comparison in comparisons.values()]


def _tested(name: str, ended: Sequence[Outcomes], reference: str) -> Cell:
    """Returns on how many data sets a network is better and worse than the reference beyond chance, of those tested."""
    if name == reference:
        return Cell("–", None)
    better, worse, open_ = (sum(name in getattr(one, side) for one in ended) for side in ("better", "worse", "open"))
    return Cell(f"{better}, {worse}", better - worse, f"of {better + worse + open_}")


def _words(points: Sequence[Point], found: Overall, comparisons: Comparisons, *, title: str) -> list[str]:
    """Says where the reference stands over all data sets, and how its tests went."""
    reference, mean = found.reference, f"mean {title}"
    if reference is None:
        return ["The data sets have no reference in common, so nothing is told from it over all of them."]
    differences = {name: row.difference for name, row in found.rows.items() if row.mean is not None}
    differences.pop(reference, None)
    return [
        *places(points, title=mean, reference=reference),
        *what_differs(differences, reference=reference, patients=found.patients, by=f" in {mean}"),
        *front(points, title=mean, reference=reference),
        _one_by_one(comparisons, reference),
    ]


def _one_by_one(comparisons: Comparisons, reference: str) -> str:
    """Says how the comparisons on single data sets ended, each counted by itself."""
    ended = _ended(comparisons)
    won, lost = (sum(len(getattr(one, side)) for one in ended) for side in ("worse", "better"))
    open_, few, untested = (sum(len(getattr(one, side)) for one in ended) for side in ("open", "too_few", "untested"))
    others = [
        f"{open_} {'stays' if open_ == 1 else 'stay'} open",
        *([f"{few} could not be decided: too few patients"] if few else []),
        *([f"{untested} {'was' if untested == 1 else 'were'} not tested"] if untested else []),
    ]
    total = won + lost + open_ + few + untested
    return (
        f"Of {counted(total, 'comparison')} with another network on one data set, corrected within each data set, "
        f"{reference} wins {won} beyond chance, loses {lost}, and {'; '.join(others)}."
    )


def _left_out(found: Overall, comparisons: Comparisons) -> list[str]:
    """Names the data sets and networks that are shown and not counted."""
    sentences = [
        f"{name} has {counted(comparisons[name].patients, 'patient')}: it is shown, and not counted in means, ranks "
        "and tests over data sets."
        for name in found.uncounted
    ]
    others = [name for name in comparisons if name not in (*found.sets, *found.uncounted)]
    if others:
        sentences.append(f"Means and ranks leave out {listed(others)}, where many networks have no score.")
    lacking = [name for name, row in found.rows.items() if row.mean is None]
    if lacking:
        sentences.append(f"Without a mean, for lack of a score on some data set: {listed(lacking)}.")
    return sentences
