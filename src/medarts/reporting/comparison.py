"""The page of a comparison: networks trained alike and compared on one group of data sets or on several."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from medarts.comparison.candidates import Kind
from medarts.comparison.compare import NAME, TABLES, Comparison
from medarts.comparison.overall import OVERALL
from medarts.evaluation.scores import IMAGES_AS_PATIENTS
from medarts.reporting.comparison_tables import (
    KINDS,
    budget_text,
    latency_table,
    methods_table,
    missing_table,
    network_frame,
    network_table,
    noise_lines,
    pairs_table,
    random_table,
    reference_of,
    scores_by_group,
    title_of_score,
)
from medarts.reporting.pictures import SCALE, inline_jpeg, outline
from medarts.reporting.plots import name_points, write_beside
from medarts.reporting.pruning import plot_tradeoffs
from medarts.reporting.score_plots import PREDICTED, TRUE
from medarts.reporting.style import INK, MUTED, PALETTE, inline_svg, legible, render, styled
from medarts.reporting.tables import Content, card, decimals
from medarts.system.console import counted
from medarts.system.files import write_whole


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Writes ``report.html``, which opens offline, into the folder of a comparison, and returns its path."""
    about = comparison.about
    has_overall = OVERALL in set(comparison.networks.group)
    groups = [OVERALL] * has_overall + [*comparison.groups]
    content = {
        "title": about["title"],
        "note": about["note"],
        "noise": noise_lines(comparison),
        "score": title_of_score(comparison),
        "cards": _cards(comparison, groups[0]),
        "sections": [_section(comparison, group, number) for number, group in enumerate(groups)],
        "by_group": scores_by_group(comparison),
        "budget": budget_text(comparison),
        "methods": methods_table(comparison),
        "random": random_table(comparison),
        "pairs": pairs_table(comparison),
        "missing": missing_table(about["missing"]),
        "machine": about["machine"],
        "runs": [
            (group, name, network["runs"])
            for group in comparison.groups
            for name, network in about["groups"][group]["networks"].items()
        ],
        "files": [f"{NAME}.json", *(f"{name}.csv" for name in TABLES)],
        "images_as_patients": IMAGES_AS_PATIENTS,
        "kinds": {kind: color for kind, (color, _) in KINDS.items()},
        "true_color": TRUE,
        "predicted_color": PREDICTED,
    }
    target = folder / "report.html"
    write_whole(target, render("comparison.html", content))
    return target


def _cards(comparison: Comparison, group: str) -> list[Content]:
    frame = network_frame(comparison, group)
    groups = [comparison.about["groups"][name] for name in (comparison.groups if group == OVERALL else [group])]
    patients = counted(sum(one["patients"] for one in groups), "patient")
    cards = [
        card("networks", str(len(frame))),
        card(f"images of {patients}", f"{sum(one['images'] for one in groups):,}"),
    ]
    if len(frame):
        best = frame.iloc[0]
        cards.append(card(f"best {title_of_score(comparison)}: {best.network}", decimals(best.score)))
    reference = frame[frame.is_reference]
    if len(reference):
        is_mean = group == OVERALL or len(reference) > 1
        rank = f"{reference['rank'].mean():.3g} of {len(frame)}"
        cards.append(card(f"{'mean ' * is_mean}rank of {reference_of(comparison, group)}", rank))
    return cards


def _section(comparison: Comparison, group: str, number: int) -> Content:
    """Returns what the page shows of one group of data sets."""
    about, reference = comparison.about, reference_of(comparison, group)
    title, frame = title_of_score(comparison), network_frame(comparison, group)
    seeds = comparison.seeds[(comparison.seeds.group == group) & (comparison.seeds.metric == about["score"])]
    scored = frame[frame.score.notna()]
    of_group = about["groups"].get(group)
    latency = plot_latency(scored, title=title, reference=reference) if len(scored) else None
    return {
        "id": f"set-{number}",
        "name": group,
        "about": None if of_group is None else {"external": []} | of_group | {"split": about["split"]},
        "reference": reference,
        "began": frame[frame.began_from != ""][["network", "began_from"]].to_dict("records"),
        "table": network_table(comparison, group),
        "intervals": inline_svg(
            plot_intervals(frame, seeds, title=title, reference=reference), f"{title} of every network on {group}"
        ),
        "latency": None if latency is None else inline_svg(latency, f"{title} against latency on {group}"),
        "latencies": latency_table(comparison, group),
        "pruning": _pruning(scored, title, group),
        "pictures": _pictures(comparison, group, f"set-{number}"),
    }


def _pruning(scored: pd.DataFrame, title: str, group: str) -> Markup | None:
    """Returns the plot of pruned networks; None where there are none."""
    if not (scored.method != "").any():
        return None
    return inline_svg(plot_tradeoffs(scored, title=title), f"{title} of pruned networks against their cost on {group}")


def _pictures(comparison: Comparison, group: str, identifier: str) -> list[Content]:
    """Returns the images on which the networks differ most, each with the outlines of all, the reference first."""
    overlays = comparison.overlays.get(group)
    if overlays is None:
        return []
    names = [*comparison.about["groups"][group]["networks"]]
    frame = network_frame(comparison, group).sort_values("is_reference", ascending=False, kind="stable")
    images = comparison.images[comparison.images.group == group]
    values = images.pivot(index=["dataset", "image"], columns="network", values="value")
    differing = comparison.differing[comparison.differing.group == group]
    pictures = []
    rows: Iterable[Any] = differing.itertuples()
    for number, row in enumerate(rows):
        of_image, image = values.loc[(row.dataset, row.image)], overlays.images[number]
        masks = [
            {
                "name": name,
                "score": decimals(of_image[name]),
                "path": outline(overlays.predictions[number][names.index(name)]),
            }
            for name in frame.network
        ]
        pictures.append(
            {
                "id": f"{identifier}-image-{number}",
                "name": f"{row.dataset} · {row.image}",
                "height": SCALE * image.shape[0],
                "width": SCALE * image.shape[1],
                "lowest": decimals(of_image.min()),
                "highest": decimals(of_image.max()),
                "source": Markup(inline_jpeg(image)),
                "truth": outline(overlays.targets[number]),
                "networks": masks,
            }
        )
    return pictures


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
    own = frame[frame.is_reference].score
    if len(own) and not own.isna().any():
        axes.axvline(float(own.mean()), color=INK, lw=1, linestyle=_DASHES, zorder=0.5)
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
    axes.set(xlabel="latency of one image in ONNX Runtime, one thread, ms", ylabel=title)
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
