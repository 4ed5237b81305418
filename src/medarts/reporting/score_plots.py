"""Plots of a run's scores: summaries with intervals, ROC, precision-recall and reliability curves, examples."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from medarts.evaluation.summary import MEAN_OF_CLASSES, MEAN_OF_DATASETS, MEAN_OF_FINDINGS, MEAN_OF_FREQUENT
from medarts.reporting.plots import write_beside
from medarts.reporting.style import INK, MUTED, PALETTE, legible, styled

Record = Mapping[str, Any]

TRUE, PREDICTED = "#15e06a", "#ff3d7f"
"""Outlines on images, legible on skin, mucosa and grey alike; the same on a light and a dark page."""

_BLUE, _ORANGE = PALETTE["blue"][0], PALETTE["orange"][0]
_DASHES = (0, (4, 3))
_COLUMNS = 5
_GAP = 0.7
"""Free space between rows and means of rows, in rows."""
_LETTERS = 17
"""Of a finding's name that stand beside its score above a panel; a longer name is set smaller."""
_EMPTY = 0.5
"""Where an empty bin of a histogram ends."""
_OPACITY = 0.7
"""Of a map where it is highest, so that the X-ray stays visible everywhere."""
_BESIDE = (8, 36, 100)
"""Where score, interval and counts of a row stand beside the axes, in points."""
_MEANS = (MEAN_OF_CLASSES, MEAN_OF_FINDINGS, MEAN_OF_FREQUENT)


@styled
def plot_summary(rows: pd.DataFrame, *, title: str, chance: float | None = None) -> Figure:
    """Plots a metric of every row with its interval, means set apart. Undefined rows are not drawn but named below.

    Args:
        rows: those of one metric of a summary, drawn from top to bottom.
        chance: what guessing would score, drawn as a dashed line. Default: no line.
    """
    names = _names(rows)
    records: list[Any] = [{"name": name, **row} for name, row in zip(names, rows.to_dict("records"), strict=True)]
    scored = [row for row in records if not math.isnan(row["value"])]
    absent = [
        row["name"].replace(" ", "\N{NO-BREAK SPACE}")
        for row in records
        if math.isnan(row["value"]) and not _is_mean(row)
    ]
    below = textwrap.wrap(f"Left out: {', '.join(absent)}.", 110) if absent else []
    places = _places(scored)
    axes_height = 0.24 * places[-1] + 1.1 if places else 0.2
    figure = Figure(figsize=(6.8, axes_height + 0.16 * len(below)), layout="constrained")
    if scored:
        _draw_rows(figure.subplots(), scored, places, title=title, chance=chance)
    if absent:
        figure.supxlabel("\n".join(below), x=0.01, ha="left", fontsize=8, color=MUTED)
    return figure


def _names(rows: pd.DataFrame) -> list[str]:
    """Returns what rows are called: by the columns of data set and class that tell them apart."""
    several = [name for name in ("dataset", "class") if rows[name].nunique() > 1] or ["class"]
    if several == ["class"] and rows["class"].nunique() == 1 and len(rows) > 1:
        several = ["dataset"]
    return [" · ".join(map(str, cells)) for cells in rows[several].itertuples(index=False)]


def _places(rows: Sequence[Record]) -> list[float]:
    """Returns where rows stand, from 0, with a gap wherever rows and means of rows meet."""
    places: list[float] = []
    for number, row in enumerate(rows):
        parted = number > 0 and _is_mean(row) != _is_mean(rows[number - 1])
        places.append(places[-1] + 1 + _GAP * parted if places else 0.0)
    return places


def _is_mean(row: Record) -> bool:
    return row["class"] in _MEANS or row["dataset"] == MEAN_OF_DATASETS


def _draw_rows(
    axes: Axes, rows: Sequence[Record], places: Sequence[float], *, title: str, chance: float | None
) -> None:
    """Draws rows that have a value, by their names, and the numbers beside them."""
    lowest = min([row["value"] for row in rows] + [row["low"] for row in rows if not math.isnan(row["low"])]) - 0.02
    for place, row in zip(places, rows, strict=True):
        color, marker = (_ORANGE, "D") if _is_mean(row) else (_BLUE, "o")
        interval = ""
        if not math.isnan(row["low"]):
            axes.plot([row["low"], row["high"]], [place, place], color=color, lw=2.4, solid_capstyle="butt")
            interval = f"{row['low']:.3f}–{row['high']:.3f}"
        axes.plot([row["value"]], [place], marker, color=INK, ms=4.5, zorder=3)
        positives = "" if _is_mean(row) else f"{row['positives']:,} of {row['images']:,}"
        write_beside(axes, place, (f"{row['value']:.3f}", interval, positives), offsets=_BESIDE)
    write_beside(axes, -1, (title, "", "positives"), offsets=_BESIDE)
    if chance is not None:
        lowest = min(lowest, chance - 0.05)
        axes.axvline(chance, color=MUTED, lw=1, linestyle=_DASHES, zorder=0.5)
    axes.set_yticks(places, [textwrap.fill(legible(row["name"]), 32) for row in rows])
    axes.set(xlabel=f"{title}, 95 % interval over patients{' (dashed: chance)' if chance is not None else ''}")
    highest = max([row["value"] for row in rows] + [row["high"] for row in rows if not math.isnan(row["high"])])
    axes.set(xlim=(lowest, max(1.01, 1.02 * highest)), ylim=(places[-1] + 0.7, -0.7))
    axes.grid(axis="y", visible=False)


@styled
def plot_roc(curves: Mapping[str, Record]) -> Figure:
    """Plots the ROC curve of every finding, one small picture each.

    Args:
        curves: by finding ``x`` (false positive rate), ``y`` (true positive rate) and ``auroc``; a finding whose
            ``auroc`` is nan has no curve.
    """
    figure = Figure(figsize=_size(len(curves)), layout="constrained")
    for axes, curve in _panels(figure, curves, score="auroc"):
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1, linestyle=_DASHES)
        axes.plot(curve["x"], curve["y"], color=_BLUE)
    figure.supxlabel("false positive rate (dashed: chance)", fontsize=8.5, color=MUTED)
    figure.supylabel("true positive rate", fontsize=8.5, color=MUTED)
    return figure


@styled
def plot_precision_recall(curves: Mapping[str, Record]) -> Figure:
    """Plots the precision-recall curve of every finding, one small picture each.

    Args:
        curves: by finding ``x`` (recall, rising), ``y`` (precision), ``average_precision`` and ``prevalence``, which is
            the precision of chance; a finding whose ``average_precision`` is None has no curve.
    """
    figure = Figure(figsize=_size(len(curves)), layout="constrained")
    for axes, curve in _panels(figure, curves, score="average_precision"):
        axes.axhline(curve["prevalence"], color=MUTED, lw=1, linestyle=_DASHES)
        # A precision holds back to the recall before it: average precision is the area below these steps.
        axes.step([0, *curve["x"]], [curve["y"][0], *curve["y"]], where="pre", color=_BLUE)
    figure.supxlabel("recall (dashed: prevalence)", fontsize=8.5, color=MUTED)
    figure.supylabel("precision", fontsize=8.5, color=MUTED)
    return figure


def _size(panels: int) -> tuple[float, float]:
    return 1.75 * min(_COLUMNS, panels) + 0.45, 1.8 * -(-panels // _COLUMNS) + 0.45


def _panels(figure: Figure, curves: Mapping[str, Record], *, score: str) -> Iterator[tuple[Axes, Record]]:
    """Lays out a panel for every finding, and yields those that have a curve to be drawn."""
    columns = min(_COLUMNS, len(curves))
    grid = figure.subplots(-(-len(curves) // columns), columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(curves) :]:
        axes.axis("off")
    for axes, (finding, curve) in zip(grid.flat, curves.items(), strict=False):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), box_aspect=1, xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.set_title(finding, fontsize=min(8.5, 8.5 * _LETTERS / len(finding)))
        if math.isnan(curve[score]):
            axes.text(0.5, 0.5, "undefined", ha="center", va="center", color=MUTED)
        else:
            axes.set_title(f"{curve[score]:.3f}", fontsize=8.5, loc="right", color=_BLUE)
            yield axes, curve


@styled
def plot_reliability(before: Record, after: Record) -> Figure:
    """Plots how often findings are there against how probable they were called, and how many probabilities there are.

    Args:
        before: before temperature scaling, by bin from the lowest to the highest: its edges ``low`` and ``high``,
            ``predictions``, and ``mean_probability`` and ``observed``, nan in an empty bin.
    """
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    curve.plot([0, 1], [0, 1], color=MUTED, lw=1, linestyle=_DASHES, label="calibrated")
    stages = {"as trained": (before, _ORANGE, "s", 3.0), "after temperature scaling": (after, _BLUE, "o", 1.3)}
    for name, (table, color, marker, width) in stages.items():
        points = [np.asarray(table[of], dtype=float) for of in ("mean_probability", "observed")]
        filled = ~np.isnan(points[0])
        curve.plot(*(values[filled] for values in points), marker=marker, color=color, ms=4, lw=1.4, label=name)
        # A logarithmic axis, as most probabilities are small; it has no place for empty bins but below 1.
        edges, heights = [*table["low"], table["high"][-1]], np.maximum(table["predictions"], _EMPTY)
        counts.stairs(heights, edges, baseline=_EMPTY, color=color, lw=width, zorder=3)
    curve.legend()
    curve.set(ylabel="observed frequency", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    counts.set(xlabel="predicted probability", ylabel="predictions", yscale="log")
    counts.set_ylim(bottom=_EMPTY)
    counts.yaxis.set_major_formatter("{x:,.0f}")
    counts.yaxis.set_minor_formatter(NullFormatter())
    return figure


@styled
def plot_cam(image_hwc: NDArray[Any], cam_hw: NDArray[Any]) -> Figure:
    """Draws an X-ray in grey under a map of where a finding is seen, 2.4 inches wide.

    Args:
        image_hwc: 0..1; several channels are averaged.
        cam_hw: 0..1, as `medarts.evaluation.scoring.grad_cam` gives it; where it is zero the X-ray is bare.
    """
    figure = Figure(figsize=(2.4, 2.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow(image_hwc.mean(axis=2), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.imshow(cam_hw, cmap="plasma", vmin=0, vmax=1, alpha=_OPACITY * cam_hw, interpolation="nearest")
    return figure
