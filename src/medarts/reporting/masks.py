"""Plots of predicted masks: scores of data sets, outlines on images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medarts.reporting.style import INK, PALETTE, legible, styled

Record = Mapping[str, Any]

TRUE, PREDICTED = "#15e06a", "#ff3d7f"
"""Outlines on images, legible on skin, mucosa and grey alike; the same on a light and a dark page."""


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
    axes.set_yticks(range(len(rows)), map(legible, labels))
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
