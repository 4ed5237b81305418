"""Plots of how a run went: losses, validation scores, weights of the architecture, whatever its journals have."""

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import isotonic_regression

from medarts.engine.directory import Record
from medarts.profiling.cost import Cost
from medarts.reporting.journals import Panel, scores_of
from medarts.reporting.style import CYCLE, INK, MUTED, PALETTE, colors_of, legible, styled
from medarts.reporting.tables import label_of
from medarts.system.console import counted

_DASHES = (0, (4, 3))
_MOST_COLORS = 8
"""Lines of more groups than this are drawn thin and grey, as that many colours cannot be distinguished."""
_PANELS = 5
"""Small pictures in a row."""


@styled
def plot_curves(records: Sequence[Record]) -> Figure:
    """Plots losses and validation scores over the epochs, one picture for the losses and one for each score.

    Args:
        records: the lines of metrics.jsonl; stages follow each other.
    """
    scores = scores_of(records[0])
    rows = -(-(1 + len(scores)) // 2)
    figure = Figure(figsize=(9.2, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    _plot_losses(grid[0], records)
    for axes, score in zip(grid[1:], scores, strict=False):
        _plot_score(axes, records, score)
    starts = [index for index, (a, b) in enumerate(pairwise(records), 1) if a.get("stage") != b.get("stage")]
    for axes in grid[: 1 + len(scores)]:
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True)
        for start in starts:
            axes.axvline(start + 0.5, color=MUTED, lw=1, linestyle=_DASHES)
            axes.annotate(
                "next stage", (start + 0.5, 1), (4, 0), xycoords=axes.get_xaxis_transform(),
                textcoords="offset points", color=MUTED, va="top", fontsize=7.5,
            )  # fmt: skip
    for axes in grid[1 + len(scores) :]:
        axes.axis("off")
    return figure


def _values(records: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Returns a number of every record, nan where it has none."""
    return [np.nan if record.get(key) is None else float(record[key]) for record in records]


def _plot(axes: Axes, values: Sequence[float], **look: Any) -> Line2D:
    """Plots values over epochs counted from 1; a single epoch is a dot."""
    (line,) = axes.plot(range(1, 1 + len(values)), values, marker="o" if len(values) == 1 else None, ms=4, **look)
    return line


def _plot_losses(axes: Axes, records: Sequence[Record]) -> None:
    names = {"train_loss": "training", "arch_loss": "architecture", "val_loss": "validation"}
    for (key, name), color in zip(names.items(), CYCLE, strict=False):
        values = _values(records, key)
        if not np.all(np.isnan(values)):
            _plot(axes, values, color=color, label=name)
    axes.set_title("Loss")
    axes.legend()


def _plot_score(axes: Axes, records: Sequence[Record], score: str) -> None:
    """Plots a score, and thinly its values by data set, finding or whatever else the journal has of it."""
    lines: dict[str, Line2D] = {}
    shown = _values(records, score)
    for key in (key for key in records[-1] if key.startswith(f"{score}_by_")):
        groups = list(records[-1][key])
        for group, color in zip(groups if len(groups) > 1 else (), cycle(CYCLE[1:])):
            values = _values([record[key] for record in records], group)
            shown += values
            many = len(groups) > _MOST_COLORS
            line = _plot(axes, values, color=MUTED if many else color, lw=0.7 if many else 1.2)
            lines[f"each {key.removeprefix(f'{score}_by_')}" if many else group] = line
    lines["mean" if lines else label_of(score)] = _plot(axes, _values(records, score), color=CYCLE[0], lw=2.2)
    axes.set_title(f"Validation {label_of(score)}")
    defined = [value for value in shown if np.isfinite(value)]
    if defined and min(defined) >= 0 and max(defined) <= 1:
        axes.set_ylim(np.floor(10 * min(defined) - 0.2) / 10 if min(defined) > 0.02 else -0.02, 1.02)
    if len(lines) > 1:
        axes.legend(lines.values(), lines, loc="best")  # given, as names that begin with _ are left out otherwise


@styled
def plot_signals(records: Sequence[Record], titles: Mapping[str, str]) -> Figure:
    """Plots signals of a search over the epochs, one small picture each.

    Args:
        records: the signals of every epoch with its stage; stages follow each other.
        titles: signal -> what it is called.
    """
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(9.2, 2.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    starts = [index for index, (a, b) in enumerate(pairwise(records), 1) if a["stage"] != b["stage"]]
    for axes, (name, title) in zip(grid, titles.items(), strict=False):
        values = _values(records, name)
        known = [(epoch, value) for epoch, value in enumerate(values, 1) if np.isfinite(value)]
        # Points, as a signal that is not measured in every epoch would have no line.
        axes.plot(*zip(*known, strict=True), color=CYCLE[0], marker="o", ms=3, lw=1.2)
        axes.set(title=title, xlabel="epoch")
        axes.locator_params(axis="x", integer=True)
        for start in starts:
            axes.axvline(start + 0.5, color=MUTED, lw=1, linestyle=_DASHES)
    for axes in grid[len(titles) :]:
        axes.axis("off")
    return figure


@styled
def plot_weights(panels: Sequence[Panel]) -> Figure:
    """Plots weights of the architecture over the epochs of a stage, one small picture a panel, on one scale."""
    columns = min(_PANELS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(9.2, 1.4 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    colors = colors_of(names)
    for axes in grid[len(panels) :]:
        axes.axis("off")
    for axes, panel in zip(grid, panels, strict=False):
        for name, values in panel.series.items():
            _plot(axes, values, color=colors[name], lw=1.3)
        axes.set_title(panel.title, fontsize=8.5)
    grid[0].locator_params(axis="x", integer=True)
    handles = [Line2D([], [], color=colors[name]) for name in names]
    lines = -(-len(names) // 7)
    figure.legend(handles, names, loc="outside lower center", ncols=-(-len(names) // lines))
    return figure


_LINE = 12.0
"""Distance of names below each other, in points."""


def name_points(
    axes: Axes, points: NDArray[np.float64], names: Sequence[str], *, strong: Sequence[bool] | None = None
) -> None:
    """Writes names in a column beside axes, each joined with its point by a line: none covers another or a point.

    Args:
        axes: where the points are, with its limits and scales set.
        points: (n, 2) in the values of the axes.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # gives the axes their size
    height = axes.get_window_extent().height * 72 / figure.dpi
    heights = axes.transAxes.inverted().transform(axes.transData.transform(points))[:, 1]
    order = np.argsort(heights, kind="stable")
    # The places nearest to the points (in least squares) that keep the distance, moved inside the axes at the ends.
    steps = np.arange(len(names)) * min(_LINE / height, 1 / max(1, len(names) - 1))
    places = np.empty(len(names))
    places[order] = np.clip(isotonic_regression(heights[order] - steps).x, 0, 1 - steps[-1]) + steps
    for number, place in enumerate(places):
        bold = strong is not None and strong[number]
        axes.annotate(
            legible(names[number]), tuple(points[number]), (1.03, place), textcoords="axes fraction", va="center",
            fontsize=8, fontweight="bold" if bold else "normal", annotation_clip=False, zorder=2,
            arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.5, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)},
        )  # fmt: skip


def write_beside(axes: Axes, place: float, cells: Sequence[str], *, offsets: Sequence[float]) -> None:
    """Writes a row of numbers to the right of axes, the first in the colour of ink.

    Args:
        place: height of the row, in the axes' own values.
        offsets: distance of each from the axes, in points.
    """
    for number, (text, offset) in enumerate(zip(cells, offsets, strict=True)):
        axes.annotate(
            text, (1, place), (offset, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
            va="center", fontsize=8, color=MUTED if number else INK, annotation_clip=False,
        )  # fmt: skip


_BLUE = PALETTE["blue"][0]
_FEWEST = 3
"""Networks from which on a correlation says something."""
_ROOM = 0.12
"""Free space at either end of an axis, as a part of it; decades where all networks are nearly the same."""


@styled
def plot_costs(costs: Mapping[str, Cost]) -> Figure:
    """Plots the latency of networks against their parameters, on logarithmic axes, with the rank correlation.

    The latency is that of the exported network in ONNX Runtime, with the fewest threads and the smallest batch that
    were measured.

    Args:
        costs: of at least two networks, from one measurement.
    """
    measured = [timing for cost in costs.values() for timing in cost.timings["onnxruntime"]]
    threads, batch = min((timing.threads, timing.batch) for timing in measured)
    points = np.asarray([(cost.parameters, cost.latency_ms(threads=threads, batch=batch)) for cost in costs.values()])
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.subplots()
    images = "one image" if batch == 1 else f"a batch of {batch}"
    axes.set(
        xscale="log", yscale="log", xlim=_limits(points[:, 0]), ylim=_limits(points[:, 1]), xlabel="parameters",
        ylabel=f"latency of {images} in ONNX Runtime, {counted(threads, 'thread')}, ms", title=_title(points),
    )  # fmt: skip
    _set_ticks(axes.xaxis, unit=1e6, suffix=" M")
    _set_ticks(axes.yaxis, unit=1, suffix="")
    axes.plot(*points.T, "o", ms=6.5, color=_BLUE, zorder=3)
    ends, centre = np.asarray(axes.get_xlim()), np.exp(np.log(points).mean(axis=0))
    look: dict[str, Any] = {"color": MUTED, "lw": 1, "linestyle": (0, (4, 3))}
    axes.plot(ends, centre[1] * ends / centre[0], zorder=1, scalex=False, scaley=False, **look)
    handles = [Line2D([], [], label="time in proportion to parameters", **look)]
    figure.legend(handles=handles, loc="outside lower center")
    name_points(axes, points, [*costs])
    return figure


def rank_correlation(points: NDArray[np.float64]) -> float | None:
    """Returns Spearman's rank correlation of points (n, 2); None where there are too few, or one side is constant."""
    if len(points) < _FEWEST or np.ptp(points, axis=0).min() == 0:
        return None
    return float(stats.spearmanr(points).statistic)


def _title(points: NDArray[np.float64]) -> str:
    correlation = rank_correlation(points)
    if correlation is None:
        return "Latency against parameters"
    return f"Latency against parameters: rank correlation {correlation:.2f} (Spearman, {len(points)} networks)"


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.log10(values.min()), np.log10(values.max())
    room = max(_ROOM * (high - low), _ROOM)
    return float(10 ** (low - room)), float(10 ** (high + room))


def _set_ticks(axis: Axis, *, unit: float, suffix: str) -> None:
    """Writes numbers at 1, 2 and 5 of every decade; nearer ones where networks are nearly the same."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:,g}{suffix}"))
    axis.set_minor_locator(NullLocator())
