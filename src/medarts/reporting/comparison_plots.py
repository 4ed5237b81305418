"""Plots of a comparison: scores with their intervals, and scores against latency."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from medarts.comparison.candidates import Kind
from medarts.reporting.comparison_tables import KINDS
from medarts.reporting.plots import name_points, write_beside
from medarts.reporting.style import INK, MUTED, PALETTE, legible, styled

_DASHES = (0, (4, 3))
_LARGEST = 15.0
"""Radius of the bubble of the largest network, in typographic points."""
_LOGARITHMIC = 3.0
"""Ratio of the longest latency to the shortest from which on their axis is logarithmic."""
_BESIDE = (8, 42)
"""Offsets of the two numbers of a row from the axes, in points."""


@styled
def plot_intervals(frame: pd.DataFrame, seeds: pd.DataFrame, *, title: str, reference: str | None) -> Figure:
    """Plots the score of every network with its interval, one row each, its seeds as small marks.

    Args:
        frame: networks, drawn from top to bottom; see ``network_frame``.
        seeds: network and value of single seeds.
        reference: name of the network at whose score a line is drawn.
    """
    figure = Figure(figsize=(8.6, 0.3 * len(frame) + 1.1), layout="constrained")
    axes = figure.subplots()
    rows: Iterable[Any] = frame.itertuples()
    for place, row in enumerate(rows):
        if math.isnan(row.score):
            write_beside(axes, place, ("–", "undefined"), offsets=_BESIDE)
            continue
        color, marker = _look(row.kind)
        interval = ""
        if not math.isnan(row.low):
            ends = [row.low, row.high]
            axes.plot(ends, [place, place], color=color, lw=3.2, alpha=0.5, solid_capstyle="butt")
            interval = f"{row.low:.3f} to {row.high:.3f}"
        single = seeds[seeds.network == row.network].value
        if len(single) > 1:
            axes.plot(single, [place] * len(single), "|", color=INK, ms=10, mew=1.1, zorder=2.5)
        axes.plot([row.score], [place], marker, color=color, ms=5.5, zorder=3)
        write_beside(axes, place, (f"{row.score:.3f}", interval), offsets=_BESIDE)
    dashed = ""
    own = frame[frame.network == reference].score
    if len(own) and not own.isna().any():
        axes.axvline(float(own.iloc[0]), color=INK, lw=1, linestyle=_DASHES, zorder=0.5)
        dashed = f" (dashed: {reference})"
    _name_rows(axes, frame, reference)
    axes.set(xlabel=f"{title}, mean and 95 % interval{dashed}")
    mark = Line2D([], [], color=INK, marker="|", ls="", ms=9, label="seed")
    figure.legend(handles=[*_kind_handles(frame.kind), mark], loc="outside lower center", ncols=len(KINDS) + 1)
    return figure


def _name_rows(axes: Axes, frame: pd.DataFrame, strong: str | None) -> None:
    axes.set_yticks(range(len(frame)), map(legible, frame.network))
    axes.tick_params(axis="y", labelcolor=INK)
    for label, name in zip(axes.get_yticklabels(), frame.network, strict=True):
        label.set_fontweight("bold" if name == strong else "normal")
    axes.set_ylim(len(frame) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


@styled
def plot_latency(frame: pd.DataFrame, *, title: str, reference: str | None) -> Figure:
    """Plots scores against latencies; the area of a bubble is the number of parameters, a line is the Pareto front."""
    figure = Figure(figsize=(9.2, 4.9), layout="constrained")
    axes = figure.subplots()
    largest = float(frame.parameters.max())
    rows: Iterable[Any] = frame.itertuples()
    for row in rows:
        color, marker = _look(row.kind)
        at = ([row.latency_ms_1], [row.score])
        axes.plot(*at, "o", color=color, ms=2 * _radius(row.parameters, largest), alpha=0.22, mew=0, zorder=1.5)
        axes.plot(*at, marker, color=color, ms=5, zorder=3)
    front = frame[frame.front.astype(bool)].sort_values("latency_ms_1")
    ends = [*front.latency_ms_1, frame.latency_ms_1.max()], [*front.score, front.score.max()]
    axes.step(*ends, where="post", color=MUTED, lw=1.2, alpha=0.8, zorder=1)
    _scale_latency(axes, frame.latency_ms_1)
    axes.margins(y=0.12)
    axes.set(xlabel="latency of one image on one thread, ms", ylabel=title)
    line = Line2D([], [], color=MUTED, lw=1.2, alpha=0.8, label="Pareto front")
    handles = [*_kind_handles(frame.kind), line, *_size_handles(largest)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, labelspacing=1.4, handlelength=2.6)
    points = frame[["latency_ms_1", "score"]].to_numpy(float)
    name_points(axes, points, [*frame.network], strong=[*(frame.network == reference)])
    return figure


def _scale_latency(axes: Axes, latencies: pd.Series) -> None:
    low, high = latencies.min(), latencies.max()
    if high < _LOGARITHMIC * low:
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        return
    axes.set_xscale("log")
    room = (high / low) ** 0.1
    axes.set_xlim(low / room, high * room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _radius(parameters: float, largest: float) -> float:
    return float(_LARGEST * np.sqrt(parameters / largest))


def _size_handles(largest: float) -> list[Line2D]:
    """Returns bubbles of round numbers of parameters for the legend: the largest, a quarter and a twentieth of it."""
    leading = 10 ** np.floor(np.log10(largest))
    top = leading * np.floor(largest / leading)
    look: dict[str, Any] = {"color": MUTED, "alpha": 0.35, "marker": "o", "mew": 0, "ls": ""}
    return [
        Line2D([], [], ms=2 * _radius(value, largest), label=f"{value / 1e6:,g} M parameters", **look)
        for value in (top, top / 4, top / 20)
    ]


def _look(kind: Kind) -> tuple[str, str]:
    name, marker = KINDS[kind]
    return PALETTE[name][0], marker


def _kind_handles(kinds: Iterable[str]) -> list[Line2D]:
    present = set(kinds)
    looks = {kind: _look(kind) for kind in KINDS if kind in present}
    return [Line2D([], [], color=color, marker=marker, ls="", label=kind) for kind, (color, marker) in looks.items()]
