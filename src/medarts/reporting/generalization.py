"""The page of a generalization: claims with their contrasts, and both matrices as heat maps and tables."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medarts.comparison.overall import OVERALL
from medarts.reporting.comparison_tables import (
    CLAIMS,
    KINDS,
    claim_verdict,
    contrast_table,
    means_table,
    missing_table,
    sides_table,
    tested_table,
)
from medarts.reporting.style import FAINT, INK, MUTED, PALETTE, inline_svg, render, styled
from medarts.reporting.tables import Content, card
from medarts.study.generalize import NAME, TABLES, Generalization
from medarts.system.files import write_whole

_LONG = 22
"""Letters that a name may have on one line."""
_CELL = (0.92, 0.5)
"""Width and height of a cell, in inches."""
_LETTERS = (0.083, 0.068)
"""Width of a letter of a row's name and of what stands below it, in inches; bold ones of a wide font still fit."""
_BELOW = 0.62
"""Height of the scale with its title, in inches."""
_GAP = 0.12
"""Between the cells of data sets and those that are set apart, in cells."""
_STRONGEST = 0.55
"""Opacity of the strongest tint: what is written over it stays legible."""
_STEPS = 48
_LINES = {"solid": "-", "dashed": (0, (3, 2))}


@dataclass(frozen=True, slots=True)
class HeatCell:
    """A cell of a heat map.

    Attributes:
        value: what is written large.
        lines: what is written small below it.
        shade: what its colour tells; None for no colour.
        frame: of the cell.
        hatched: whether it is missing.
    """

    value: str
    lines: tuple[str, ...] = ()
    shade: float | None = None
    frame: str | None = None
    hatched: bool = False


@dataclass(frozen=True, slots=True)
class HeatRow:
    """A row of a heat map.

    Attributes:
        name: beside it.
        below: small below its name.
        cells: one a column.
        strong: whether its name is bold.
    """

    name: str
    below: str
    cells: Sequence[HeatCell]
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """What colours mean.

    Attributes:
        title: of the scale.
        low: the least shade.
        high: the greatest.
        signed: whether shades below 0 have a colour of their own; `low` is then -`high`.
        ends: whether there are shades beyond the ends, which have the colours of the ends.
    """

    title: str
    low: float
    high: float
    signed: bool = False
    ends: bool = False

    @classmethod
    def around_zero(cls, title: str, shades: Sequence[float]) -> "Scale":
        """Returns a signed scale that holds all shades, of more than twenty those but the twentieth farthest from 0.

        One network that fails would otherwise leave all others without colour.
        """
        far = np.abs(shades or [0.0])
        end = max(float(np.quantile(far, 0.95, method="higher")), 1e-3)
        return cls(title, -end, end, signed=True, ends=bool(far.max() > end))

    @classmethod
    def over(cls, title: str, shades: Sequence[float]) -> "Scale":
        """Returns a scale from the least shade to the greatest."""
        low, high = min(shades, default=0.0), max(shades, default=1.0)
        return cls(title, low, high if high > low else low + 1e-3)

    def tint(self, shade: float) -> tuple[str, float]:
        """Returns colour and opacity of a shade."""
        if self.signed:
            return PALETTE["blue" if shade > 0 else "orange"][0], _STRONGEST * min(1.0, abs(shade) / self.high)
        part = (shade - self.low) / (self.high - self.low)
        return PALETTE["blue"][0], _STRONGEST * float(np.clip(0.06 + 0.94 * part, 0, 1))


@styled
def plot_heat_map(
    rows: Sequence[HeatRow], columns: Sequence[str], scale: Scale, *, title: str, apart: int = 0
) -> Figure:
    """Draws a heat map with its numbers in the cells.

    Args:
        columns: titles of the columns; a title may have two lines.
        title: of what the rows and columns are, above the names of the rows.
        apart: number of columns at the end that are set a little apart.
    """
    names = 0.2 + max(_width_of(row) for row in [*rows, HeatRow("", title, ())])
    width = names + len(columns) * _CELL[0] + 0.25
    top = 0.22 + 0.14 * max(column.count("\n") + 1 for column in columns)
    height = top + len(rows) * _CELL[1] + _BELOW
    figure = Figure(figsize=(width, height))
    cells = (names / width, _BELOW / height, len(columns) * _CELL[0] / width, len(rows) * _CELL[1] / height)
    axes = figure.add_axes(cells)
    places = [number + _GAP * (number >= len(columns) - apart) * bool(apart) for number in range(len(columns))]
    axes.set(xlim=(0, len(columns) + _GAP * bool(apart)), ylim=(len(rows), 0))
    axes.axis("off")
    for place, column in zip(places, columns, strict=True):
        _write(axes, place + 0.5, -0.08, column, va="bottom", color=MUTED, size=8.2)
    _write(axes, -0.12, -0.08, title, va="bottom", ha="right", color=MUTED, size=8.2)
    for number, row in enumerate(rows):
        _draw_name(axes, number, row)
        for place, cell in zip(places, row.cells, strict=True):
            _draw_cell(axes, place, number, cell, tint=scale.tint)
    _draw_scale(figure, scale, left=names / width, width=min(3.2, len(columns) * _CELL[0]) / width, height=height)
    return figure


def _wrapped(name: str) -> str:
    """Breaks a long name in two, behind that of its underscores, dashes and blanks that is nearest to its middle."""
    places = [place for place, letter in enumerate(name[:-1], 1) if letter in "_- "]
    if len(name) <= _LONG or not places:
        return name
    middle = min(places, key=lambda place: abs(place - len(name) / 2))
    return f"{name[:middle]}\n{name[middle:]}"


def _width_of(row: HeatRow) -> float:
    """Returns the inches that the names of a row take."""
    lines = (max(map(len, _wrapped(row.name).split("\n"))), len(row.below))
    return max(letters * width for letters, width in zip(lines, _LETTERS, strict=True))


def _draw_name(axes: Axes, number: int, row: HeatRow) -> None:
    name, weight = _wrapped(row.name), "bold" if row.strong else "normal"
    middle = number + (0.37 if row.below else 0.5)
    below = middle + 0.18 + 0.15 * (name.count("\n") + 1)
    _write(axes, -0.12, middle, name, ha="right", size=8.8, weight=weight)
    _write(axes, -0.12, below, row.below, ha="right", color=MUTED, size=7.2)


def _draw_cell(
    axes: Axes, left: float, top: float, cell: HeatCell, *, tint: Callable[[float], tuple[str, float]]
) -> None:
    box = partial(Rectangle, (left + 0.02, top + 0.03), 0.96, 0.94)
    if cell.hatched:
        axes.add_patch(box(facecolor="none", edgecolor=FAINT, hatch="////", lw=0.6))
    elif cell.shade is not None:
        color, strength = tint(cell.shade)
        axes.add_patch(box(facecolor=color, alpha=strength, lw=0))
    if cell.frame is not None:
        axes.add_patch(box(facecolor="none", edgecolor=INK, lw=1.1, linestyle=_LINES[cell.frame]))
    middle, step = left + 0.5, 0.235
    first = top + 0.5 - step * len(cell.lines) / 2
    _write(axes, middle, first, cell.value, size=9.2, weight="bold")
    for number, line in enumerate(cell.lines, 1):
        _write(axes, middle, first + 0.03 + step * number, line, size=6.9)


def _draw_scale(figure: Figure, scale: Scale, *, left: float, width: float, height: float) -> None:
    axes = figure.add_axes((left, 0.36 / height, width, 0.1 / height))
    edges = np.linspace(scale.low, scale.high, _STEPS + 1)
    for low, high in pairwise(map(float, edges)):
        color, strength = scale.tint((low + high) / 2)
        axes.add_patch(Rectangle((low, 0), high - low, 1, facecolor=color, alpha=strength, lw=0, aa=False))
    axes.set(xlim=(scale.low, scale.high), ylim=(0, 1), yticks=[])
    axes.grid(visible=False)
    ticks = (scale.low, (scale.low + scale.high) / 2, scale.high)
    below, above = ("≤ ", "≥ ") if scale.ends else ("", "")
    labels = [f"{tick:+.3f}" if scale.signed else f"{tick:.2f}" for tick in ticks]
    axes.set_xticks(ticks, [f"{sign}{label}" for sign, label in zip((below, "", above), labels, strict=True)])
    axes.tick_params(length=2, pad=1.5, labelsize=7.4)
    axes.set_xlabel(scale.title, labelpad=1.5, fontsize=8)
    axes.spines[["left", "top", "right"]].set_visible(False)


def _write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    ha: str = "center",
    va: str = "center",
    color: str = INK,
    weight: str = "normal",
) -> None:
    axes.text(x, y, text, ha=ha, va=va, color=color, fontsize=size, fontweight=weight, linespacing=1.1)


_OPEN = 3
"""Heat maps of trained networks that are unfolded when the page opens."""

_FRAMES = {"own": "solid", "part of the mix": "dashed"}


def write_generalization(found: Generalization, folder: Path) -> Path:
    """Writes ``report.html``, which opens offline, into the folder of a generalization, and returns its path."""
    about, score = found.about, str(found.about["title_of_score"])
    content = {
        "title": about["title"],
        "note": about["note"],
        "score": score,
        "cards": _cards(found),
        "claims": [_claim(found, claim) for claim in CLAIMS],
        "retrained": _retrained(found, score),
        "trained": _trained(found, score),
        "datasets": about["datasets"],
        "missing": missing_table(about["missing"]),
        "untested": missing_table(about["untested"]),
        "files": [f"{NAME}.json", *(f"{name}.csv" for name in TABLES)],
        "kinds": {kind: color for kind, (color, _) in KINDS.items()},
    }
    target = folder / "report.html"
    write_whole(target, render("generalization.html", content))
    return target


def _cards(found: Generalization) -> list[Content]:
    about = found.about
    datasets = about["datasets"].values()
    external = sum(one["external"] for one in datasets)
    cards = [
        card("networks", str(len(about["networks"]))),
        card(f"data sets, {external} external" if external else "data sets", str(len(datasets))),
        card("images tested on", f"{sum(one['images'] for one in datasets):,}"),
    ]
    return cards + [
        card(f"{title.lower()}, against one", claim_verdict(found, claim)) for claim, title in CLAIMS.items()
    ]


def _claim(found: Generalization, claim: str) -> Content:
    return {
        "title": CLAIMS[claim],
        "verdict": claim_verdict(found, claim),
        "means": means_table(found, claim),
        "contrasts": contrast_table(found, claim),
        "sides": sides_table(found, claim),
    }


def _retrained(found: Generalization, score: str) -> Content | None:
    """Returns the matrix of networks against the data sets that they are retrained on; None where it is empty."""
    rows = found.retrained
    if rows["mean"].isna().all():
        return None
    cells = {(row.network, row.group): row for row in rows.itertuples()}
    networks = [*rows.network.unique()]
    groups = [*rows[rows.group != OVERALL].group.unique()]
    means = rows[rows.group == OVERALL].set_index("network")["mean"]
    order = sorted(networks, key=lambda name: -means.get(name, -np.inf))
    middles = rows.groupby("group")["mean"].median()
    heat = [
        _retrained_row(found, name, cells, groups=groups, middles=middles, has_mean=len(means) > 0) for name in order
    ]
    shades = [cell.shade for row in heat for cell in row.cells if cell.shade is not None]
    scale = Scale.around_zero(f"{score} minus the median of the column", shades)
    columns = [*groups, *(["mean", "mean rank"] if len(means) else [])]
    figure = plot_heat_map(heat, columns, scale, title="trained and tested on", apart=2 * (len(means) > 0))
    return {"svg": inline_svg(figure, f"{score} of every network, trained and tested on one data set after another")}


def _retrained_row(
    found: Generalization, network: str, cells: Any, *, groups: list[str], middles: "pd.Series[float]", has_mean: bool
) -> HeatRow:
    about = found.about["networks"][network]
    shown = []
    for group in groups:
        row = cells.get((network, group))
        frame = "solid" if found.about["groups"][group][0] in about["searched_on"] else None
        shade = None if row is None or np.isnan(row.mean) else row.mean - middles[group]
        shown.append(_heat_cell(row, shade=shade, frame=frame, hatched=row is not None))
    if has_mean:
        overall = cells.get((network, OVERALL))
        rank = "" if overall is None else f"{overall.rank:.1f}"
        shown += [_heat_cell(overall, hatched=False), HeatCell(rank)]
    below = f"searched on {', '.join(about['searched_on'])}" if about["searched_on"] else about["kind"]
    return HeatRow(network, below, shown, strong=bool(about["searched_on"]))


def _heat_cell(
    row: Any, *, shade: float | None = None, frame: str | None = None, mark: str | None = None, hatched: bool = True
) -> HeatCell:
    """Returns the cell of a score; ``hatched`` is whether it is so where there is none."""
    if row is None or np.isnan(row.mean):
        return HeatCell("", (), frame=frame, hatched=hatched)
    marks = () if mark is None else (mark,)
    interval = () if np.isnan(row.low) else (f"{row.low:.3f}–{row.high:.3f}",)
    return HeatCell(f"{row.mean:.3f}", (*interval, *marks), shade, frame)


def _trained(found: Generalization, score: str) -> Content | None:
    """Returns for every network trained on several groups the matrix of groups against data sets; None without any."""
    tested = found.tested
    several = [
        str(name)
        for name, of in tested.groupby("network", sort=False)
        if of.group.nunique() > 1 and of["mean"].notna().any()
    ]
    if not several:
        return None
    shown = tested[tested.network.isin(several)]
    scale = Scale.over(score, [*shown["mean"].dropna()])
    maps = [
        {"network": name, "svg": _trained_map(found, name, scale), "open": number < _OPEN}
        for number, name in enumerate(several)
    ]
    return {"maps": maps, "table": tested_table(found, several)}


def _trained_map(found: Generalization, network: str, scale: Scale) -> str:
    about = found.about
    external = sum(one["external"] for one in about["datasets"].values())
    columns = [f"{name}\n(external)" if one["external"] else name for name, one in about["datasets"].items()]
    rows = []
    for group, of in found.tested[found.tested.network == network].groupby("group", sort=False):
        tested: Iterable[Any] = of.itertuples()
        cells = [_heat_cell(row, shade=row.mean, frame=_FRAMES.get(row.mark), mark=row.mark) for row in tested]
        joined = ", ".join(about["groups"][group])
        rows.append(HeatRow(str(group), joined if "-".join(about["groups"][group]) != group else "", cells))
    figure = plot_heat_map(rows, columns, scale, title="trained on / tested on", apart=external)
    return inline_svg(figure, f"{scale.title} of {network} on every data set, by what it was trained on")
