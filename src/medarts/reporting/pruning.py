"""Pruned networks on pages: what a pruning left of a network, and score against cost for all methods and rates."""

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby, takewhile
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from medarts.config import Recipe
from medarts.engine.directory import RunDirectory
from medarts.pruning.record import PruningRecord, Step, read_record
from medarts.reporting.style import FAINT, INK, MUTED, PALETTE, colors_of, inline_svg, legible, styled
from medarts.reporting.tables import Column, Content, Table, decimals, label_of, share, significant, table

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
    ((target, keep),) = record.keep.items()
    return {
        "record": record,
        "asked": f"{100 * keep:.3g} % of its {QUANTITIES[target]}",
        "settings": _settings(record, run.recipe),
        "steps": _steps(record, QUANTITIES[target]),
        "shares": _with_names(inline_svg(plot_channels(record), "channels that every layer keeps"), record),
        "channels": _channels(record),
    }


def _settings(record: PruningRecord, recipe: Recipe) -> dict[str, Any]:
    """Returns what was asked for beside the target."""
    trained_before = record.last.sparse_seconds is not None
    return {
        "method": record.method["name"],
        **{name.replace("_", " "): value for name, value in record.method.items() if name != "name"},
        "steps": recipe.prune.steps,
        "epochs of fine-tuning": recipe.prune.epochs,
        **({"epochs before the cut": recipe.prune.sparse_epochs or recipe.prune.epochs} if trained_before else {}),
        "learning rate of fine-tuning": f"{recipe.train.finetune_lr:g} times that of training",
    }


def _steps(record: PruningRecord, quantity: str) -> Table:
    """Returns a table with a row for the network that was pruned, and one for it after every step."""
    sizes = [record.size, *(step.size for step in record.steps)]
    frame = pd.DataFrame(
        {
            "step": ["before", *(f"step {number}" for number in range(1, len(sizes)))],
            "kept": [None, *(step.kept for step in record.steps)],
            "parameters": [size.parameters for size in sizes],
            "flops": [size.flops for size in sizes],
            **{
                f"{name} share": [None, *(share(getattr(size, name), getattr(record.size, name)) for size in sizes[1:])]
                for name in ("parameters", "flops")
            },
            "ms": [
                record.latency and record.latency.before_ms,
                *(step.latency and step.latency.cut_ms for step in record.steps),
            ],
            "before": [None, *(step.before for step in record.steps)],
            "cut": [None, *(step.cut for step in record.steps)],
            "after": [record.original, *(step.fine_tuned for step in record.steps)],
            "seconds": [None, *(sum(_seconds(step).values()) for step in record.steps)],
            "parts": [
                None,
                *(", ".join(f"{name} {took:,.0f}" for name, took in _seconds(step).items()) for step in record.steps),
            ],
        }
    )
    columns = {
        "step": Column("network", "ascending", words=True),
        "kept": Column(f"{quantity} kept", "ascending", form=_per_cent),
        "parameters": Column("parameters", "ascending", form=",d", below="parameters share"),
        "flops": Column("GFLOPs", "ascending", form=lambda value: significant(value / 1e9), below="flops share"),
        **({"ms": Column("ms in ONNX Runtime", "ascending", form=significant)} if record.latency else {}),
        "before": Column(f"{label_of(record.score)} before the cut", form=decimals),
        "cut": Column("after the cut", form=decimals),
        "after": Column("fine-tuned", form=decimals),
        "seconds": Column("seconds", "ascending", form=",.0f", below="parts"),
    }
    return table(frame, columns, caption="network before and after pruning")


def _per_cent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _seconds(step: Step) -> dict[str, float]:
    """Returns the seconds of a step by what they were spent on, as far as that is done."""
    parts = {"training": step.sparse_seconds, "cut": step.cut_seconds, "fine-tuning": step.fine_seconds}
    return {name: seconds for name, seconds in parts.items() if seconds is not None}


def _channels(record: PruningRecord) -> Table:
    """Returns a table with the channels of every layer before and after, and why they had to stay."""
    left = _left(record)
    names = dict.fromkeys((*record.size.channels, *record.uncut))
    frame = pd.DataFrame(
        {
            "layer": [*names],
            "before": pd.array([record.size.channels.get(name) for name in names], "Int64").astype(object),
            "after": pd.array([left.get(name) for name in names], "Int64").astype(object),
            "share": [left[name] / record.size.channels[name] if name in left else None for name in names],
            "why": [record.uncut.get(name) for name in names],
        }
    )
    columns = {
        "layer": Column("layer", "ascending", words=True),
        "before": Column("channels before", form=",d"),
        "after": Column("after", form=",d"),
        "share": Column("kept", "ascending", form=_per_cent),
        "why": Column("why not cut", "ascending", words=True),
    }
    return table(frame, columns, caption="channels of every layer before and after pruning")


def _left(record: PruningRecord) -> dict[str, int]:
    """Returns the channels that every layer has left, 0 where it was taken away; in the order of the network."""
    after = record.last.size.channels
    return {name: after.get(name, 0) for name in record.size.channels}


def _cuttable(record: PruningRecord) -> list[str]:
    return [name for name in record.size.channels if name not in record.uncut]


@styled
def plot_channels(record: PruningRecord) -> Figure:
    """Plots the share of the channels that every layer keeps that can be cut; layers in the order of the network."""
    left, names = _left(record), _cuttable(record)
    figure = Figure(figsize=(9.2, 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 if len(names) < _NARROW else 1.0
    for place, name in enumerate(names):
        axes.bar(place, 1, width=width, color=FAINT, alpha=0.5, gid=f"whole:{place}")
        kept = left[name] / record.size.channels[name]
        axes.bar(place, kept, width=width, color=PALETTE["green"][0], gid=f"kept:{place}")
    parts = _parts(names)
    ends = np.cumsum([count for _, count in parts])
    axes.set_xticks([end - (count + 1) / 2 for end, (_, count) in zip(ends, parts, strict=True)])
    axes.set_xticklabels([legible(part) for part, _ in parts], rotation=90, size=7)
    axes.set_axisbelow(True)
    for end in ends[:-1]:
        axes.axvline(end - 0.5, color=MUTED, lw=0.5)
    axes.grid(visible=False, axis="x")
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(0, 1), ylabel="channels kept")
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    return figure


_NARROW, _MOST_PARTS = 60, 60
"""Layers from which on their bars touch, and parts of a network that are named below."""


def _parts(names: Sequence[str]) -> list[tuple[str, int]]:
    """Returns the parts of a network that its layers belong to, and how many follow each other in each.

    >>> _parts(["net.stem.conv", "net.cells.0.a", "net.cells.0.b", "net.cells.1.a"])
    [('stem.conv', 1), ('cells.0', 2), ('cells.1', 1)]
    """
    paths = [name.split(".") for name in names]
    alike = takewhile(lambda parts: len({*parts}) == 1, zip(*paths, strict=False))
    shared = len([*alike]) if len(paths) > 1 else 0
    found: list[tuple[str, int]] = []
    for depth in (2, 1):
        found = [(part, len([*of])) for part, of in groupby(".".join(path[shared : shared + depth]) for path in paths)]
        if len(found) <= _MOST_PARTS:
            break
    return found


def _with_names(svg: Markup, record: PruningRecord) -> Markup:
    """Returns the plot of channels with a title for every bar, which browsers show under the pointer."""
    left, names = _left(record), _cuttable(record)

    def titled(found: re.Match[str]) -> str:
        name = names[int(found[1])]
        return f"<g><title>{escape(legible(name))}: {left[name]} of {record.size.channels[name]}</title>"

    return Markup(re.sub(r'<g id="(?:whole|kept):(\d+)">', titled, svg))


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
        axes.set_xlim(0, 1.05 * axes.dataLim.x1)
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
