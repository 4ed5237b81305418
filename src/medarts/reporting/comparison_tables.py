"""The networks of one comparison as a table and as a scatter against latency."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medarts.comparison.candidates import Kind
from medarts.comparison.paired import ALPHA, Difference
from medarts.comparison.result import Comparison, MetricScore, NetworkResult
from medarts.reporting.comparison_plots import plot_latency
from medarts.reporting.comparison_points import KINDS, Point, best_first
from medarts.reporting.content import decimals, significant
from medarts.reporting.style import inline_svg
from medarts.reporting.tables import Cell, Column, Table, compact, number, probability

METRICS: dict[str, Column] = {
    "dice": Column("Dice"),
    "jaccard": Column("Jaccard"),
    "hd95": Column("HD95", first="ascending"),
    "auroc": Column("AUROC"),
    "average_precision": Column("average precision"),
}
"""Columns of the scores; of a distance the least is the best."""


def network_table(name: str, comparison: Comparison) -> Table:
    """Returns the table of all networks, the best first.

    Args:
        name: of the comparison.
        comparison: the comparison.
    """
    metric, reference = comparison.score, comparison.reference
    others = [other for other in comparison.metrics if other != metric]
    threads = sorted({count for network in comparison.networks for count in network.latency_ms})
    columns = [
        Column("network", first="ascending"),
        Column(METRICS[metric].title, sorted="descending"),
        Column("range of seeds", first="ascending"),
        Column(f"difference to {reference}"),
        Column("corrected p", first="ascending"),
        *(METRICS[other] for other in others),
        *cost_columns(threads),
        Column("kind", first="ascending", words=True),
        Column("seeds"),
    ]
    rows = [
        [
            name_cell(network.name, network.kind, front=network.front, reference=reference),
            _score(network.scores[metric], strong=True),
            _seed_range(network.scores[metric].by_seed),
            difference_cell(network.difference),
            probability(network.difference.p_corrected if network.difference else None, limit=ALPHA),
            *(_score(network.scores[other]) for other in others),
            *cost_cells(
                parameters=network.parameters,
                flops=network.flops,
                latencies=[latency_of(network, count) for count in threads],
                memory_mb=network.memory_mb,
                training_seconds=network.training_seconds,
            ),
            Cell(network.kind, network.kind),
            Cell(", ".join(map(str, network.seeds)), len(network.seeds)),
        ]
        for network in best_first(comparison)
    ]
    return Table(f"Networks compared on {name}", columns, rows)


def cost_columns(threads: Iterable[int]) -> list[Column]:
    """Returns the columns of `cost_cells`."""
    return [
        Column("parameters, M", first="ascending"),
        Column("GFLOPs", first="ascending"),
        *(Column(f"ms, {n} thread{'s' if n != 1 else ''}", first="ascending") for n in threads),
        Column("memory, MB", first="ascending"),
        Column("training, minutes", first="ascending"),
    ]


def cost_cells(
    *,
    parameters: float,
    flops: float,
    latencies: Iterable[tuple[float, float] | None],
    memory_mb: float,
    training_seconds: float,
) -> list[Cell]:
    """Returns the cells of what a network costs.

    Args:
        parameters: trainable parameters.
        flops: operations for one image.
        latencies: milliseconds for one image and their interquartile range, for each column of threads.
        memory_mb: peak memory.
        training_seconds: time of a training.
    """
    return [
        compact(parameters, scale=1e6),
        compact(flops, scale=1e9),
        *(_latency(of_threads) for of_threads in latencies),
        compact(memory_mb),
        compact(training_seconds, scale=60),
    ]


def latency_of(network: NetworkResult, threads: int) -> tuple[float, float] | None:
    """Returns milliseconds for one image and their interquartile range; None where that was not measured."""
    if threads not in network.latency_ms:
        return None
    return network.latency_ms[threads], network.latency_spread_ms[threads]


def name_cell(name: str, kind: Kind, *, front: bool, reference: str | None) -> Cell:
    """Returns the cell that names a row: the colour of its kind, and whether it is the reference or on the front."""
    roles = [*(["reference"] if name == reference else []), *(["on the front"] if front else [])]
    return Cell(name, name, ", ".join(roles) or None, name == reference, KINDS[kind][0])


@dataclass(frozen=True, slots=True)
class Scatter:
    """Scores against latency on one thread, drawn twice.

    Attributes:
        wide: with the names beside the points.
        narrow: as wide as a phone, with numbers instead.
        names: those of the numbers, from 1.
    """

    wide: Markup
    narrow: Markup
    names: Sequence[str]


def latency_figure(name: str, points: Sequence[Point], *, title: str, reference: str | None) -> Scatter | None:
    """Returns the scatter of scores against latency on one thread; None where no network has a score.

    Args:
        name: of the comparison.
        points: the networks.
        title: what the score is called.
        reference: the network whose name is bold.
    """
    if not points:
        return None
    label = f"{title} against latency on {name}"
    return Scatter(
        wide=inline_svg(plot_latency(points, title=title, reference=reference), label),
        narrow=inline_svg(plot_latency(points, title=title, reference=reference, narrow=True), f"{label}, numbered"),
        names=[point.name for point in points],
    )


def _latency(measured: tuple[float, float] | None) -> Cell:
    return compact(None) if measured is None else compact(measured[0], below=f"range {significant(measured[1])}")


def _score(score: MetricScore, *, strong: bool = False) -> Cell:
    below = [f"{score.low:.3f} to {score.high:.3f}"] if score.low is not None and score.high is not None else []
    below += [f"{score.undefined:,} undefined"] if score.undefined else []
    return Cell(decimals(score.mean), score.mean, ", ".join(below) or None, strong)


def difference_cell(difference: Difference | None) -> Cell:
    """Returns the cell of a difference, with its interval below; a dash for None."""
    if difference is None:
        return number(None, "+.3f")
    low, high = difference.low, difference.high
    below = None if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
    return number(difference.mean, "+.3f", below=below)


def _seed_range(by_seed: Sequence[float | None]) -> Cell:
    scores = [score for score in by_seed if score is not None]
    if len(scores) < 2:
        return number(None, ".3f")
    low, high = min(scores), max(scores)
    return Cell(f"{low:.3f}–{high:.3f}", high - low)
