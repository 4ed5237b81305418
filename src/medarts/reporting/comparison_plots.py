"""Plots of a comparison: scores with their intervals, scores against latency, differences image by image."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from medarts.comparison.candidates import Kind
from medarts.comparison.result import MetricScore
from medarts.reporting.comparison_points import KINDS, Point
from medarts.reporting.plots import name_points, write_beside
from medarts.reporting.style import INK, MUTED, PALETTE, legible, styled

_DASHES = (0, (4, 3))
_LARGEST = 15.0
"""Radius of the bubble of the largest network, in typographic points."""
_WIDE, _NARROW = (9.2, 4.9), (3.7, 5.4)
"""Sizes of the scatter in inches, of which a page makes 96 pixels each."""
_LOGARITHMIC = 3.0
"""Ratio of the longest latency to the shortest from which on their axis is logarithmic."""
_GRID = 81
_NARROWEST = 1e-3
"""Width of a kernel where all differences are equal."""
_TAIL = 0.5
"""Per cent of all differences that may lie beyond either end of their axis."""

_BESIDE = (8, 42)
"""Where the two numbers of a row stand beside the axes, in points."""


@styled
def plot_intervals(
    scores: Mapping[str, MetricScore], kinds: Mapping[str, Kind], *, title: str, reference: str
) -> Figure:
    """Plots the score of every network with its interval, one row each, its seeds as small marks.

    Args:
        scores: by network, drawn from top to bottom.
        kinds: by network.
        title: what the score is called.
        reference: name of the network at whose mean a line stands.
    """
    figure = Figure(figsize=(8.6, 0.3 * len(scores) + 1.1), layout="constrained")
    axes = figure.subplots()
    for place, (name, score) in enumerate(scores.items()):
        color, marker = _look(kinds[name])
        _draw_score(axes, place, score, color=color, marker=marker)
    if (own := scores[reference].mean) is not None:
        axes.axvline(own, color=INK, lw=1, linestyle=_DASHES, zorder=0.5)
    _name_rows(axes, [*scores], strong=reference)
    axes.set(xlabel=f"{title}, mean and 95 % interval over patients (dashed: {reference})")
    seeds = Line2D([], [], color=INK, marker="|", ls="", ms=9, label="each seed")
    handles = [*_kind_handles(kinds.values()), seeds]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(KINDS) + 1)
    return figure


def _name_rows(axes: Axes, names: Sequence[str], *, strong: str | None) -> None:
    """Names the rows of a plot from top to bottom, one of them in bold."""
    axes.set_yticks(range(len(names)), map(legible, names))
    axes.tick_params(axis="y", labelcolor=INK)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name == strong else "normal")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def _draw_score(axes: Axes, place: int, score: MetricScore, *, color: str, marker: str) -> None:
    """Draws a row: interval, mean, seeds, and its numbers beside the axes."""
    if score.mean is None:
        write_beside(axes, place, ("–", "undefined"), offsets=_BESIDE)
        return
    interval = ""
    if score.low is not None and score.high is not None:
        axes.plot([score.low, score.high], [place, place], color=color, lw=3.2, alpha=0.5, solid_capstyle="butt")
        interval = f"{score.low:.3f} to {score.high:.3f}"
    seeds = [value for value in score.by_seed if value is not None]
    if len(seeds) > 1:
        axes.plot(seeds, [place] * len(seeds), "|", color=INK, ms=10, mew=1.1, zorder=2.5)
    axes.plot([score.mean], [place], marker, color=color, ms=5.5, zorder=3)
    write_beside(axes, place, (f"{score.mean:.3f}", interval), offsets=_BESIDE)


@styled
def plot_latency(points: Sequence[Point], *, title: str, reference: str | None, narrow: bool = False) -> Figure:
    """Plots scores against latencies; the area of a bubble is the number of parameters, a line is the Pareto front.

    Args:
        points: the networks.
        title: what the score is called.
        reference: name of the network whose name is bold.
        narrow: whether the figure is as wide as a phone. Its points then have numbers instead of names, from 1 in the
            order given, and its legends stand below.
    """
    figure = Figure(figsize=_NARROW if narrow else _WIDE, layout="constrained")
    axes = figure.subplots()
    largest = max(point.parameters for point in points)
    radii = [_radius(point.parameters, largest) for point in points]
    for point, radius in zip(points, radii, strict=True):
        color, marker = _look(point.kind)
        at = ([point.latency_ms], [point.score])
        axes.plot(*at, "o", color=color, ms=2 * radius, alpha=0.22, mew=0, zorder=1.5)
        axes.plot(*at, marker, color=color, ms=5, zorder=3)
    front = _front(points)
    axes.plot(*front.T, color=MUTED, lw=1.2, alpha=0.8, zorder=1)
    _scale_latency(axes, [point.latency_ms for point in points], ticks=(1, 3) if narrow else (1, 2, 5))
    axes.margins(y=0.12)
    axes.set(xlabel="latency of one image on one thread, ms", ylabel=title)
    _add_legends(figure, points, narrow=narrow)
    at_points = np.asarray([(point.latency_ms, point.score) for point in points])
    strong = [point.name == reference for point in points]
    names = [str(number) if narrow else point.name for number, point in enumerate(points, 1)]
    name_points(axes, at_points, names, strong=strong)
    return figure


def _add_legends(figure: Figure, points: Sequence[Point], *, narrow: bool) -> None:
    """Explains markers, line and bubbles: at the right, or below."""
    line = Line2D([], [], color=MUTED, lw=1.2, alpha=0.8, label="Pareto front")
    kinds = [*_kind_handles(point.kind for point in points), line]
    sizes = _size_handles(max(point.parameters for point in points))
    if narrow:
        figure.legend(handles=sizes, loc="outside lower center", labelspacing=1.5, borderpad=0.9)
        figure.legend(handles=kinds, loc="outside upper center", ncols=3, columnspacing=1.2)
    else:
        figure.legend(handles=kinds, loc="outside right upper", handlelength=2.6)
        figure.legend(handles=sizes, loc="outside right lower", labelspacing=1.9, handlelength=2.6)


def _front(points: Sequence[Point]) -> NDArray[np.float64]:
    """Returns the corners (n, 2) of the best score that a latency allows: steps from network to network."""
    front = sorted((point.latency_ms, point.score) for point in points if point.front)
    corners = front[:1]
    for latency, score in front[1:]:
        corners += [(latency, corners[-1][1]), (latency, score)]
    slowest = max(point.latency_ms for point in points)
    return np.asarray([*corners, *((slowest, score) for _, score in corners[-1:])]).reshape(-1, 2)


def _scale_latency(axes: Axes, latencies: Sequence[float], *, ticks: Sequence[int]) -> None:
    """Scales the axis of latencies; a logarithmic one has these ticks and their multiples by 10."""
    low, high = min(latencies), max(latencies)
    if high < _LOGARITHMIC * low:
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        return
    axes.set_xscale("log")
    room = (high / low) ** 0.1
    axes.set_xlim(low / room, high * room)
    axes.xaxis.set_major_locator(LogLocator(subs=ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _radius(parameters: float, largest: float) -> float:
    return float(_LARGEST * np.sqrt(parameters / largest))


def _size_handles(largest: float) -> list[Line2D]:
    """Returns bubbles of round numbers of parameters for the legend: up to the largest, and a tenth and less of it."""
    leading = 10 ** np.floor(np.log10(largest))
    top = leading * np.floor(largest / leading)
    return [
        Line2D(
            [],
            [],
            color=MUTED,
            alpha=0.35,
            marker="o",
            ms=2 * _radius(value, largest),
            mew=0,
            ls="",
            label=f"{value / 1e6:,g} M parameters",
        )
        for value in (top, top / 4, top / 20)
    ]


def _look(kind: Kind) -> tuple[str, str]:
    name, marker = KINDS[kind]
    return PALETTE[name][0], marker


def _kind_handles(kinds: Iterable[Kind]) -> list[Line2D]:
    """Returns what the legend says of the kinds that are there."""
    present = set(kinds)
    looks = {kind: _look(kind) for kind in KINDS if kind in present}
    return [Line2D([], [], color=color, marker=marker, ls="", label=kind) for kind, (color, marker) in looks.items()]


@styled
def plot_differences(
    differences: Mapping[str, NDArray[np.float64]], kinds: Mapping[str, Kind], *, title: str, reference: str
) -> Figure:
    """Plots how the images of every network differ from those of the reference: density, quartiles, median.

    Args:
        differences: by network its score minus that of the reference, of every image on which both are defined; at
            least one image each.
        kinds: by network its kind.
        title: what the score is called.
        reference: name of the reference.
    """
    figure = Figure(figsize=(8.6, 0.42 * len(differences) + 1.2), layout="constrained")
    axes = figure.subplots()
    everything = np.concatenate([*differences.values()])
    low, high = np.percentile(everything, [_TAIL, 100 - _TAIL])
    low, high = min(low, -0.01), max(high, 0.01)
    axes.axvline(0, color=INK, lw=1, linestyle=_DASHES, zorder=0.5)
    write_beside(axes, -0.85, ("better", "worse"), offsets=_BESIDE)
    for place, (name, values) in enumerate(differences.items()):
        _draw_density(axes, place, values, ends=(low, high), color=_look(kinds[name])[0])
        quarter, median, three_quarters = np.percentile(values, [25, 50, 75])
        axes.plot([quarter, three_quarters], [place, place], color=INK, lw=2.4, solid_capstyle="butt")
        axes.plot([median], [place], "o", color=INK, mec=PALETTE["surface"][0], ms=5.5, zorder=3)
        cells = (f"{np.mean(values > 0):.0%}", f"{np.mean(values < 0):.0%}")
        write_beside(axes, place, cells, offsets=_BESIDE)
    outside = int(np.sum((everything < low) | (everything > high)))
    beyond = f"; {outside} of {everything.size:,} images lie beyond the axis" if outside else ""
    _name_rows(axes, [*differences], strong=None)
    axes.set(xlabel=f"{title} of an image minus that of {reference}{beyond}")
    axes.set_xlim(low, high)
    figure.legend(handles=_kind_handles(kinds.values()), loc="outside lower center", ncols=len(KINDS))
    return figure


def _draw_density(
    axes: Axes, place: int, values: NDArray[np.float64], *, ends: tuple[float, float], color: str
) -> None:
    """Draws a density by Gaussian kernels (Silverman's rule, robust form) where there are values within the axis."""
    spread = min(values.std(), float(np.subtract(*np.percentile(values, [75, 25]))) / 1.34) or values.std()
    width = max(0.9 * spread * values.size**-0.2, _NARROWEST)
    grid = np.linspace(max(values.min(), ends[0]), min(values.max(), ends[1]), _GRID)
    density = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2).sum(axis=1)
    half = 0.42 * density / density.max()
    axes.fill_between(grid, place - half, place + half, color=color, alpha=0.45, lw=0, zorder=1)
