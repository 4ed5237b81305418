"""Heat maps of a generalization; their colours are tints of the ground, legible on light and on dark screens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medarts.reporting.style import FAINT, INK, MUTED, PALETTE, styled

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
_FRAMES = {"solid": "-", "dashed": (0, (3, 2))}


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
        apart: so many of the last columns are set a little apart.
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
        axes.add_patch(box(facecolor="none", edgecolor=INK, lw=1.1, linestyle=_FRAMES[cell.frame]))
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
