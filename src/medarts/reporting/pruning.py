"""Pruned networks on pages: what a pruning left of a network, and score against cost for all methods and rates."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medarts.engine.directory import RunDirectory
from medarts.pruning.record import PruningRecord, Size, read_record
from medarts.reporting.style import INK, MUTED, PALETTE, colors_of, inline_svg, styled
from medarts.reporting.tables import Column, Content, decimals, significant, table

COSTS = {
    "latency_ms_1": ("latency in ONNX Runtime, one thread, ms", 1.0),
    "parameters": ("parameters, M", 1e6),
    "flops": ("GFLOPs", 1e9),
}
"""Column of costs -> title of its axis, and its unit."""

QUANTITIES = {"flops": "FLOPs", "parameters": "parameters", "latency": "latency", "channels": "channels"}
"""Targets of prunings, as pages write them."""


def pruning_of(run: RunDirectory) -> Content:
    """Returns what the page of a run says of the pruning that it came of.

    Raises:
        RunError: its record is damaged.
    """
    record = read_record(run)
    return {
        "record": record,
        "table": _steps(record),
        "channels": inline_svg(plot_channels(record.size, record.last.size), "channels of every layer"),
    }


def _steps(record: PruningRecord) -> Any:
    """Returns a table with a row for the network that was pruned, and one for it after every step."""
    sizes = [record.size, *(step.size for step in record.steps)]
    frame = pd.DataFrame(
        {
            "step": ["before", *(f"step {number}" for number in range(1, len(sizes)))],
            "parameters": [size.parameters for size in sizes],
            "flops": [size.flops for size in sizes],
            "share": [f"{size.flops / record.size.flops:.0%}" for size in sizes],
            "before": [None, *(step.before for step in record.steps)],
            "cut": [None, *(step.cut for step in record.steps)],
            "after": [record.original, *(step.fine_tuned for step in record.steps)],
        }
    )
    columns = {
        "step": Column("network", "ascending", words=True),
        "parameters": Column("parameters", "ascending", form=",d"),
        "flops": Column("GFLOPs", "ascending", form=lambda value: significant(value / 1e9), below="share"),
        "before": Column(f"{record.score} before the cut", form=decimals),
        "cut": Column("after the cut", form=decimals),
        "after": Column("fine-tuned", form=decimals),
    }
    return table(frame, columns, caption="network before and after pruning")


@styled
def plot_channels(before: Size, after: Size) -> Figure:
    """Plots the channels that every layer has left, in front of those it had; layers in the order of the network."""
    had = np.array([*before.channels.values()])
    left = np.array([after.channels.get(name, 0) for name in before.channels])
    figure = Figure(figsize=(9.2, 2.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(had))
    axes.bar(places, had, width=1, color=PALETTE["slate"][0], alpha=0.3, label="before")
    axes.bar(places, left, width=1, color=PALETTE["green"][0], label="left")
    axes.set_xlim(-0.5, len(had) - 0.5)
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel="layer, from the image on", ylabel="channels")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def plot_tradeoffs(frame: pd.DataFrame, *, title: str) -> Figure:
    """Plots scores against latency, parameters and FLOPs: a line for each method, from the network before pruning on.

    Args:
        frame: of the networks of a comparison, see ``network_frame``; some of them pruned.
        title: of the score.
    """
    figure = Figure(figsize=(9.2, 3.7), layout="constrained")
    grid = figure.subplots(1, len(COSTS), sharey=True)
    pruned = frame[frame.method != ""]
    pruned = pruned.assign(
        line=_names_of_lines(pruned), origin=pruned.pruned_from.where(pruned.pruned_from != "", pruned.began_from)
    )
    colors = colors_of(sorted(pruned.line.unique()))
    for axes, (cost, (label, unit)) in zip(grid, COSTS.items(), strict=True):
        for (line, origin), points in pruned.groupby(["line", "origin"]):
            before = frame[frame.network == origin]
            _plot_line(axes, points, before, cost, unit=unit, color=colors[str(line)])
            axes.plot(before[cost] / unit, before.score, "o", color=INK, ms=5, zorder=2.2)
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
    grid[0].set_ylabel(title)
    handles = [Line2D([], [], color=color, marker="P", label=name) for name, color in colors.items()]
    handles.append(Line2D([], [], color=INK, marker="o", ls="", label="before pruning"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), _COLUMNS))
    return figure


_COLUMNS = 7
"""Of a legend."""


def _names_of_lines(pruned: pd.DataFrame) -> list[str]:
    """Returns the method of every network, with the target and the settings in which those of one method differ."""
    rows: Iterable[Any] = pruned.itertuples()
    asked = [{"target": QUANTITIES[row.target], **json.loads(row.settings)} for row in rows]
    names = []
    for method, own in zip(pruned.method, asked, strict=True):
        alike = [one for one, other in zip(asked, pruned.method, strict=True) if other == method]
        differing = [key for key in own if any(one.get(key) != own[key] for one in alike)]
        names.append(", ".join([method, *(f"{key.replace('_', ' ')} {own[key]}" for key in differing)]))
    return names


def _plot_line(axes: Axes, points: pd.DataFrame, before: pd.DataFrame, cost: str, *, unit: float, color: str) -> None:
    line = pd.concat([points, before]).sort_values(cost)
    axes.plot(line[cost] / unit, line.score, color=color, lw=1.3)
    rows: Iterable[Any] = points.itertuples()
    for row in rows:
        at = getattr(row, cost) / unit
        axes.plot([at, at], [row.low, row.high], color=color, lw=0.8, alpha=0.35)
        axes.plot([at], [row.score], "P", color=color, ms=5.5, mec=MUTED, mew=0.3, zorder=2.5)
