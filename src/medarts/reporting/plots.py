"""Plots of how a run went: losses and scores, alphas, betas, gammas."""

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from medarts.reporting.cells import state_name
from medarts.reporting.style import CYCLE, INK, MOVE_COLORS, MUTED, operation_colors, styled

Record = Mapping[str, Any]

SCORE_NAMES = {"dice": "Dice", "auroc": "AUROC"}
"""What the score is called by which the networks of a task are chosen; in journals ``val_`` stands before it."""

_DASHES = (0, (4, 3))
_LOWEST_AUROC = 0.4
"""Where the axis begins, unless a score lies below it: little below chance."""


def score_of(record: Record) -> str:
    """Returns the score that a line of metrics.jsonl has, a key of `SCORE_NAMES`."""
    return next(score for score in SCORE_NAMES if f"val_{score}" in record)


@styled
def plot_curves(records: Sequence[Record]) -> Figure:
    """Plots losses and validation scores over the epochs; stages stand behind each other.

    Args:
        records: the lines of metrics.jsonl.
    """
    figure = Figure(figsize=(9.2, 2.9), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    epochs = np.arange(1, len(records) + 1)
    names = {"train_loss": "training", "arch_loss": "architecture", "val_loss": "validation"}
    for (key, name), color in zip(names.items(), CYCLE, strict=False):
        values = [np.nan if record.get(key) is None else float(record[key]) for record in records]
        if not np.all(np.isnan(values)):
            losses.plot(epochs, values, color=color, label=name)
    losses.set(title="Loss", xlabel="epoch")
    losses.legend()
    {"dice": _plot_dice, "auroc": _plot_auroc}[score_of(records[0])](scores, epochs, records)
    starts = [index for index, (a, b) in enumerate(pairwise(records), 1) if a.get("stage") != b.get("stage")]
    for axes in (losses, scores):
        axes.locator_params(axis="x", integer=True)
        for start in starts:
            axes.axvline(start + 0.5, color=MUTED, lw=1, linestyle=_DASHES)
            axes.text(start + 0.6, axes.get_ylim()[1], "next stage", color=MUTED, va="top", fontsize=7.5)
    return figure


def _plot_dice(axes: Axes, epochs: NDArray[np.int64], records: Sequence[Record]) -> None:
    domains = list(records[-1]["val_dice_by_domain"])
    lines: dict[str, Artist] = {}
    if len(domains) > 1:
        for domain, color in zip(domains, cycle(CYCLE[1:])):
            values = [record["val_dice_by_domain"].get(domain, np.nan) for record in records]
            (lines[domain],) = axes.plot(epochs, values, color=color, lw=1.2)
    overall = [record["val_dice"] for record in records]
    (lines["all images" if len(domains) > 1 else domains[0]],) = axes.plot(epochs, overall, color=CYCLE[0], lw=2.2)
    axes.set(title="Validation Dice", xlabel="epoch", ylim=(0, 1))
    axes.legend(lines.values(), lines, loc="lower right")  # given, as names that begin with _ are left out else


def _plot_auroc(axes: Axes, epochs: NDArray[np.int64], records: Sequence[Record]) -> None:
    """Plots the mean strongly and every finding thinly: so many have no colours of their own."""
    findings = np.asarray([[*record["val_auroc_by_finding"].values()] for record in records], dtype=float)
    overall = np.asarray([record["val_auroc"] for record in records])
    axes.plot(epochs, findings, color=MUTED, lw=0.7, alpha=0.6)
    axes.plot([], [], color=MUTED, lw=0.7, label="each finding")
    axes.axhline(0.5, color=MUTED, lw=1, linestyle=_DASHES)
    axes.plot(epochs, overall, color=CYCLE[0], lw=2.2, label="mean of findings")
    defined = np.concatenate([overall, findings.ravel()])
    lowest = min([_LOWEST_AUROC, *(defined[~np.isnan(defined)] - 0.02)])
    axes.set(title="Validation AUROC (dashed: chance)", xlabel="epoch", ylim=(lowest, 1))
    axes.legend(loc="lower right")


@styled
def plot_alphas(records: Sequence[Record], kind: str) -> Figure:
    """Plots the weights of the operations over the epochs of a stage, one small picture an edge.

    Args:
        records: the lines of architecture.jsonl of one stage.
        kind: the operation set of the lattice, or the kind of cell of the stack.
    """
    last = records[-1]["alphas"][kind]
    edges: list[str] = last["edges"]
    columns = min(5, len(edges))
    rows = -(-len(edges) // columns)
    figure = Figure(figsize=(9.2, 1.45 * rows + 0.55), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    names = list(dict.fromkeys(name for row in last["operations"] for name in row))
    colors = operation_colors(names)
    grid[0, 0].locator_params(axis="x", integer=True)
    epochs = [record["epoch"] + 1 for record in records]
    for axes in grid.flat[len(edges) :]:
        axes.axis("off")
    for axes, edge, row in zip(grid.flat, range(len(edges)), last["operations"], strict=False):
        weights = np.asarray([record["alphas"][kind]["weights"][edge] for record in records])
        for name, values in zip(row, weights.T, strict=True):
            axes.plot(epochs, values, color=colors[name], lw=1.2)
        node, state = _ends(edges[edge])
        axes.set_title(f"{state_name(state)} → n{node}", fontsize=8.5)
    handles = [Line2D([], [], color=colors[name], label=name) for name in names]
    lines = -(-len(names) // 7)
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(names) // lines))
    return figure


@styled
def plot_betas(records: Sequence[Record]) -> Figure:
    """Plots the weights of the moves into every node over the epochs of a stage; nodes with one move are left out.

    Args:
        records: the lines of architecture.jsonl of one stage.
    """
    nodes = [node for node, moves in records[-1]["betas"].items() if len(moves) > 1]
    columns = min(5, len(nodes))
    rows = -(-len(nodes) // columns)
    figure = Figure(figsize=(9.2, 1.45 * rows + 0.55), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    grid[0, 0].locator_params(axis="x", integer=True)
    epochs = [record["epoch"] + 1 for record in records]
    for axes in grid.flat[len(nodes) :]:
        axes.axis("off")
    for axes, node in zip(grid.flat, nodes, strict=False):
        for move in records[-1]["betas"][node]:
            axes.plot(epochs, [record["betas"][node][move] for record in records], color=MOVE_COLORS[move], lw=1.4)
        axes.set(title=f"node ({node.replace(',', ', ')})", ylim=(0, 1))
    handles = [Line2D([], [], color=color, label=move) for move, color in MOVE_COLORS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


@styled
def plot_gammas(records: Sequence[Record]) -> Figure:
    """Plots the weights of the edges into every node of a cell over the epochs of a stage.

    Args:
        records: the lines of architecture.jsonl of one stage, of a search with edge normalisation.
    """
    last: Mapping[str, Mapping[str, float]] = records[-1]["gammas"]
    ends = {edge: _ends(edge) for of_kind in last.values() for edge in of_kind}
    nodes = 1 + max(node for node, _ in ends.values())
    states = sorted({state for _, state in ends.values()})
    colors = {state: CYCLE[state % len(CYCLE)] for state in states}
    figure = Figure(figsize=(9.2, 1.15 * len(last) + 0.55), layout="constrained")
    grid = figure.subplots(len(last), nodes, sharex=True, sharey=True, squeeze=False)
    grid[0, 0].locator_params(axis="x", integer=True)
    epochs = [record["epoch"] + 1 for record in records]
    for row, kind in zip(grid, last, strict=True):
        for edge in last[kind]:
            node, state = ends[edge]
            weights = [record["gammas"][kind][edge] for record in records]
            row[node].plot(epochs, weights, color=colors[state], lw=1.2)
        for node, axes in enumerate(row):
            axes.set_title(f"{kind}: into n{node}", fontsize=8.5)
    grid[0, 0].set_ylim(0, 1)
    handles = [Line2D([], [], color=colors[state], label=f"from {state_name(state)}") for state in states]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(states))
    return figure


def _ends(edge: str) -> tuple[int, int]:
    """Returns node and state of an edge as the journal names it, ``node<-state``."""
    node, state = edge.split("<-")
    return int(node), int(state)


def write_beside(axes: Axes, place: float, cells: Sequence[str], *, offsets: Sequence[float]) -> None:
    """Writes a row of numbers to the right of axes, the first in the colour of ink.

    Args:
        axes: the axes.
        place: height of the row, in the axes' own values.
        cells: what is written.
        offsets: distance of each from the axes, in points.
    """
    for number, (text, offset) in enumerate(zip(cells, offsets, strict=True)):
        axes.annotate(
            text,
            (1, place),
            (offset, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=MUTED if number else INK,
            annotation_clip=False,
        )
