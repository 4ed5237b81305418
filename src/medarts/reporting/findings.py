"""Plots of a classifier's findings: scores, ROC and precision-recall curves, reliability, maps over X-rays."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from medarts.evaluation.finding_table import MEAN_OF_FINDINGS, MEAN_OF_FREQUENT
from medarts.reporting.plots import write_beside
from medarts.reporting.style import INK, MUTED, PALETTE, legible, styled

Record = Mapping[str, Any]

_BLUE, _ORANGE = PALETTE["blue"][0], PALETTE["orange"][0]
_DASHES = (0, (4, 3))
_COLUMNS = 5
_GAP = 0.7
"""Free space between findings and their means, in rows."""
_LETTERS = 17
"""Of a finding's name that stand beside its score above a panel; a longer name is set smaller."""
_EMPTY = 0.5
"""Where an empty bin of a histogram ends."""
_OPACITY = 0.7
"""Of a map where it is highest, so that the X-ray stays visible everywhere."""


_BESIDE = (8, 36, 100)
"""Where score, interval and positives of a row stand beside the axes, in points."""


@styled
def plot_findings(rows: Sequence[Record]) -> Figure:
    """Plots the AUROC of every finding with its interval, the means of findings set apart from them.

    Findings without an AUROC are not drawn but named below.

    Args:
        rows: the tables of scores.json, drawn from top to bottom.
    """
    several = len({row["domain"] for row in rows}) > 1
    names = [f"{row['domain']} · {row['finding']}" if several else str(row["finding"]) for row in rows]
    scored = {name: row for name, row in zip(names, rows, strict=True) if row["auroc"]["mean"] is not None}
    absent = [
        name.replace(" ", "\N{NO-BREAK SPACE}")
        for name, row in zip(names, rows, strict=True)
        if name not in scored and not _is_mean(row)
    ]
    words = f"Left out: {', '.join(absent)}. AUROC needs images with a finding and images without it."
    below = textwrap.wrap(words, 110) if absent else []
    places = _places([*scored.values()])
    axes_height = 0.24 * places[-1] + 1.1 if places else 0.2
    figure = Figure(figsize=(6.8, axes_height + 0.16 * len(below)), layout="constrained")
    if scored:
        _draw_scores(figure.subplots(), scored, places)
    if absent:
        figure.supxlabel("\n".join(below), x=0.01, ha="left", fontsize=8, color=MUTED)
    return figure


def _places(rows: Sequence[Record]) -> list[float]:
    """Returns where rows stand, from 0, with a gap wherever findings and means of findings meet."""
    places: list[float] = []
    for number, row in enumerate(rows):
        parted = number > 0 and _is_mean(row) != _is_mean(rows[number - 1])
        places.append(places[-1] + 1 + _GAP * parted if places else 0.0)
    return places


def _is_mean(row: Record) -> bool:
    return row["finding"] in {MEAN_OF_FINDINGS, MEAN_OF_FREQUENT}


def _draw_scores(axes: Axes, scored: Mapping[str, Record], places: Sequence[float]) -> None:
    """Draws the rows that have a score, by their names, and the numbers beside them."""
    lowest = 0.45
    for place, row in zip(places, scored.values(), strict=True):
        score = row["auroc"]
        color, marker = (_ORANGE, "D") if _is_mean(row) else (_BLUE, "o")
        interval, lowest = "", min(lowest, score["mean"] - 0.02)
        if score["low"] is not None:
            axes.plot([score["low"], score["high"]], [place, place], color=color, lw=2.4, solid_capstyle="butt")
            interval, lowest = f"{score['low']:.3f}–{score['high']:.3f}", min(lowest, score["low"] - 0.02)
        axes.plot([score["mean"]], [place], marker, color=INK, ms=4.5, zorder=3)
        positives = "" if _is_mean(row) else f"{row['positives']:,} of {row['images']:,}"
        write_beside(axes, place, (f"{score['mean']:.3f}", interval, positives), offsets=_BESIDE)
    write_beside(axes, -1, ("AUROC", "", "positives"), offsets=_BESIDE)
    axes.axvline(0.5, color=MUTED, lw=1, linestyle=_DASHES, zorder=0.5)
    axes.set_yticks(places, [textwrap.fill(legible(name), 32) for name in scored])
    axes.set(xlabel="AUROC, 95 % interval over patients (dashed: chance)")
    axes.set(xlim=(lowest, 1.01), ylim=(places[-1] + 0.7, -0.7))
    axes.grid(axis="y", visible=False)


@styled
def plot_roc(curves: Mapping[str, Record]) -> Figure:
    """Plots the ROC curve of every finding, one small picture each.

    Args:
        curves: by finding ``x`` (false positive rate), ``y`` (true positive rate) and ``auroc``; a finding whose
            ``auroc`` is None has no curve.
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
        if curve[score] is None:
            axes.text(0.5, 0.5, "undefined", ha="center", va="center", color=MUTED)
        else:
            axes.set_title(f"{curve[score]:.3f}", fontsize=8.5, loc="right", color=_BLUE)
            yield axes, curve


@styled
def plot_reliability(before: Record, after: Record) -> Figure:
    """Plots how often findings are there against how probable they were called, and how many probabilities there are.

    Args:
        before: the columns of calibration.csv before temperature scaling, from the lowest bin to the highest: its
            edges ``low`` and ``high``, ``predictions``, and ``mean_probability`` and ``observed``, None in an empty
            bin.
        after: the same after temperature scaling.
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
        cam_hw: 0..1, as `medarts.evaluation.cam.grad_cam` gives it; where it is zero the X-ray is bare.
    """
    figure = Figure(figsize=(2.4, 2.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow(image_hwc.mean(axis=2), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.imshow(cam_hw, cmap="plasma", vmin=0, vmax=1, alpha=_OPACITY * cam_hw, interpolation="nearest")
    return figure
