"""Plots of a run: curves, alphas, betas, scores, example predictions."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from medarts.reporting.style import CYCLE, INK, MOVE_COLORS, MUTED, PALETTE, operation_colors, styled

Record = Mapping[str, Any]

TRUE, PREDICTED = "#15e06a", "#ff3d7f"
"""Outlines on images, legible on skin, mucosa and grey alike; the same on a light and a dark page."""


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
    _plot_scores(scores, epochs, records)
    starts = [index for index, (a, b) in enumerate(pairwise(records), 1) if a.get("stage") != b.get("stage")]
    for axes in (losses, scores):
        for start in starts:
            axes.axvline(start + 0.5, color=MUTED, lw=1, linestyle=(0, (4, 3)))
            axes.text(start + 0.6, axes.get_ylim()[1], "next stage", color=MUTED, va="top", fontsize=7.5)
    return figure


def _plot_scores(axes: Axes, epochs: NDArray[np.int64], records: Sequence[Record]) -> None:
    domains = list(records[-1]["val_dice_by_domain"])
    if len(domains) > 1:
        for domain, color in zip(domains, CYCLE[1:], strict=False):
            values = [record["val_dice_by_domain"].get(domain, np.nan) for record in records]
            axes.plot(epochs, values, color=color, lw=1.2, label=domain)
    overall = [record["val_dice"] for record in records]
    axes.plot(epochs, overall, color=CYCLE[0], lw=2.2, label="all images" if len(domains) > 1 else domains[0])
    axes.set(title="Validation Dice", xlabel="epoch", ylim=(0, 1))
    axes.legend(loc="lower right")


@styled
def plot_alphas(records: Sequence[Record], kind: str) -> Figure:
    """Plots the weights of an operation set over the epochs of a stage, one small picture an edge.

    Args:
        records: the lines of architecture.jsonl of one stage.
        kind: the operation set.
    """
    last = records[-1]["alphas"][kind]
    edges: list[str] = last["edges"]
    columns = min(5, len(edges))
    rows = -(-len(edges) // columns)
    figure = Figure(figsize=(9.2, 1.45 * rows + 0.55), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    names = list(dict.fromkeys(name for row in last["operations"] for name in row))
    colors = operation_colors(names)
    epochs = [record["epoch"] + 1 for record in records]
    for axes in grid.flat[len(edges) :]:
        axes.axis("off")
    for axes, edge, row in zip(grid.flat, range(len(edges)), last["operations"], strict=False):
        weights = np.asarray([record["alphas"][kind]["weights"][edge] for record in records])
        for name, values in zip(row, weights.T, strict=True):
            axes.plot(epochs, values, color=colors[name], lw=1.2)
        node, state = edges[edge].split("<-")
        source = f"s{state}" if int(state) < 2 else f"n{int(state) - 2}"
        axes.set_title(f"{source} → n{node}", fontsize=8.5)
    handles = [Line2D([], [], color=colors[name], label=name) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(7, len(names)))
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
def plot_scores(rows: Sequence[Record], metric: str = "dice") -> Figure:
    """Plots one score of every row of a table with its interval.

    Args:
        rows: the tables of scores.json.
        metric: the score, in 0..1.
    """
    several = len({row["class"] for row in rows}) > 1
    labels = [f"{row['domain']} · {row['class']}" if several else str(row["domain"]) for row in rows]
    figure = Figure(figsize=(6.4, 0.34 * len(rows) + 0.75), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        values = row["metrics"][metric]
        if values["mean"] is None:
            continue
        if values["low"] is not None:
            axes.plot([values["low"], values["high"]], [place, place], color=PALETTE["blue"][0], lw=2.4)
        axes.plot([values["mean"]], [place], "o", color=INK, ms=5, zorder=3)
        axes.annotate(
            f"{values['mean']:.3f}",
            (values["mean"], place),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(rows)), labels)
    axes.set(xlabel=f"{metric.title()}, mean and 95 % interval over patients", ylim=(len(rows) - 0.5, -0.7))
    axes.set_xlim(right=1.0)
    axes.grid(axis="y", visible=False)
    return figure


@styled
def plot_example(image_hwc: NDArray[Any], target_hw: NDArray[Any], predicted_hw: NDArray[Any]) -> Figure:
    """Draws an image with the outlines of its true and its predicted mask, two inches wide.

    Args:
        image_hwc: 0..1, one or three channels (others: the first).
        target_hw: class indices.
        predicted_hw: class indices.
    """
    figure = Figure(figsize=(2.4, 2.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    grey = image_hwc.shape[2] != 3
    axes.imshow(image_hwc[..., 0] if grey else image_hwc, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for mask, color, style in ((target_hw, TRUE, "solid"), (predicted_hw, PREDICTED, "dashed")):
        for value in np.unique(mask[mask > 0]):
            axes.contour(mask == value, levels=[0.5], colors=[color], linewidths=1.3, linestyles=style)
    return figure
