"""A cell as a drawing: inputs on the left, nodes on a line, every edge in a lane of its own.

Edges from s0 run above the line of nodes, edges from s1 below it, edges between nodes wherever there is room. Two edges
whose columns overlap never share a lane, and labels stand between columns while lines turn at columns: so no label
covers another and no line crosses a label, whatever the genotype.
"""

import math
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

from medarts.errors import GenotypeError, did_you_mean
from medarts.reporting.style import FAINT, INK, MUTED, SURFACE, operation_colors, styled
from medarts.spaces.genotype import Cell, Genotype

# All lengths are inches of the figure.
_COLUMN = 1.85
_TURN = 0.42
_FIRST_LANE = 0.52
_LANE = 0.38
_RADIUS = 0.2
_INPUT_X, _INPUT_HALF = -0.15, 0.24

_INPUTS: dict[str, dict[str, tuple[str, str]]] = {
    "weave": {
        "down": ("node (t−2, l)", "node (t−1, l−1)"),
        "normal": ("node (t−4, l)", "node (t−2, l)"),
        "up": ("node (t−2, l)", "node (t−1, l+1)"),
    },
    "stack": dict.fromkeys(("normal", "reduce"), ("the cell before the last", "the last cell")),
}
"""By space and kind of cell: what s0 and s1 are. A space that stands nowhere here is drawn without words."""

_MEANINGS = {
    "weave": {
        "down": "halves the resolution: edges from s1 are down operations",
        "normal": "keeps the resolution",
        "up": "doubles the resolution: edges from s1 are up operations",
    },
    "stack": {
        "normal": "keeps the resolution",
        "reduce": "halves the resolution: edges from s0 and s1 have stride 2",
    },
}


@dataclass(frozen=True, slots=True)
class _Route:
    """An edge with its columns and its lane: 0 on the line of nodes, above it positive, below it negative."""

    operation: str
    state: int
    node: int
    lane: int

    @property
    def start(self) -> int:
        return max(0, self.state - 1)

    @property
    def end(self) -> int:
        return self.node + 1

    @property
    def height(self) -> float:
        return _height(self.lane)


def state_name(state: int) -> str:
    """Returns what a state is called in drawings and tables: s0, s1, then n0, n1, ... for the nodes."""
    return f"s{state}" if state < 2 else f"n{state - 2}"


@styled
def draw_cell(genotype: Genotype, kind: str) -> Figure:
    """Draws one cell of a genotype as a graph from its inputs to its output.

    Args:
        genotype: the genotype.
        kind: the cell, a key of ``genotype.cells``: of the lattice down, normal or up, of the stack normal or reduce.

    Raises:
        GenotypeError: the genotype has no cell of that kind.
    """
    if kind not in genotype.cells:
        raise GenotypeError(f"Genotype '{genotype.name}' has no cell '{kind}'.", fix=did_you_mean(kind, genotype.cells))
    routes = _route(genotype.cells[kind])
    columns = len(genotype.cells[kind])
    top = max(1.0, *(route.height for route in routes)) + 0.3
    output = min(-0.85, *(route.height for route in routes)) - 0.55
    figure, axes = _canvas(left=-0.8, right=columns * _COLUMN + 0.45, bottom=output - 0.3, top=top + 0.4)
    _draw_title(axes, genotype, kind, y=top + 0.12)
    _draw_output(axes, columns, output)
    colors = operation_colors(route.operation for route in routes)
    for index, route in enumerate(routes):
        _draw_edge(axes, route, routes, color=colors[route.operation], gid=f"edge-{kind}-{index}")
    for state, caption in enumerate(_INPUTS.get(genotype.space, {}).get(kind, ())):
        _draw_input(axes, state, caption)
    for node in range(columns):
        axes.add_patch(Circle(((node + 1) * _COLUMN, 0), _RADIUS, facecolor=SURFACE, edgecolor=INK, lw=1.4, zorder=5))
        _text(axes, (node + 1) * _COLUMN, 0, f"n{node}", weight="bold", zorder=6)
    return figure


def _height(lane: int) -> float:
    return math.copysign(_FIRST_LANE + (abs(lane) - 1) * _LANE, lane) if lane else 0.0


def _route(cell: Cell) -> list[_Route]:
    """Gives every edge the innermost lane that no edge over the same columns has."""
    edges = [(operation, state, node) for node, incoming in enumerate(cell) for operation, state in incoming]
    edges.sort(key=lambda edge: (edge[2] + 1 - max(0, edge[1] - 1), edge[1], edge[2]))
    routes: list[_Route] = []
    for operation, state, node in edges:
        for lane in _lanes(state, node, len(edges)):
            route = _Route(operation, state, node, lane)
            if not any(other.lane == lane and other.start < route.end and route.start < other.end for other in routes):
                routes.append(route)
                break
    return routes


def _lanes(state: int, node: int, number: int) -> list[int]:
    """Returns the lanes an edge may take, the best first; ``number`` of them on a side always suffice."""
    outwards = range(1, number + 1)
    if state == 0:
        return list(outwards)
    if state == 1:
        return [-lane for lane in outwards]
    straight = [0] if node + 2 == state + 1 else []
    return straight + [side * lane for lane in outwards for side in (1, -1)]


def _canvas(*, left: float, right: float, bottom: float, top: float) -> tuple[Figure, Axes]:
    """Returns a figure, and axes without frame on it whose unit is an inch."""
    figure = Figure(figsize=(right - left, top - bottom))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.axis("off")
    return figure, axes


def _draw_edge(axes: Axes, route: _Route, routes: list[_Route], *, color: str, gid: str) -> None:
    start, end = _leaving(route, routes), _arriving(route, routes)
    if route.lane == 0:
        points, codes = [start, end], [Curve.MOVETO, Curve.LINETO]
    else:
        points, codes = _curve(route, start, end)
    arrow = FancyArrowPatch(
        path=Curve(points, codes), arrowstyle="-|>", mutation_scale=10, lw=1.7, color=color, zorder=3,
        capstyle="butt", joinstyle="round",
    )  # fmt: skip
    arrow.set_gid(gid)
    axes.add_patch(arrow)
    gap = route.start + (route.end - route.start - 1) // 2
    box = {"boxstyle": "round,pad=0.28", "facecolor": SURFACE, "edgecolor": color, "linewidth": 0.9}
    _text(axes, (gap + 0.5) * _COLUMN, route.height, route.operation, color=color, bbox=box, zorder=4, size=8)


def _curve(
    route: _Route, start: tuple[float, float], end: tuple[float, float]
) -> tuple[list[tuple[float, float]], list[Any]]:
    """Returns a path that turns into the lane behind its first column and out of it before its last."""
    x_in, x_out, y = route.start * _COLUMN + _TURN, route.end * _COLUMN - _TURN, route.height
    centre = (route.end * _COLUMN, 0.0)
    last = [end[axis] + 0.9 * (end[axis] - centre[axis]) for axis in (0, 1)]
    if route.state < 2:
        first = (start[0] + 0.12, start[1])
    else:
        first = (start[0] + 0.9 * (start[0] - route.start * _COLUMN), 1.9 * start[1])
    points = [start, first, (x_in - 0.2, y), (x_in, y), (x_out, y), (x_out + 0.2, y), (last[0], last[1]), end]
    return points, [Curve.MOVETO, *[Curve.CURVE4] * 3, Curve.LINETO, *[Curve.CURVE4] * 3]


def _leaving(route: _Route, routes: list[_Route]) -> tuple[float, float]:
    """Returns where an edge leaves its state."""
    if route.state < 2:
        side = 1 if route.state == 0 else -1
        same = sorted(abs(other.lane) for other in routes if other.state == route.state)
        spread = 0.09 * (same.index(abs(route.lane)) - (len(same) - 1) / 2)
        return _INPUT_X + _INPUT_HALF, side * (_FIRST_LANE + max(-0.12, min(0.12, spread)))
    same = [other.lane for other in routes if other.state == route.state]
    angle = math.radians(_angle(route.lane, same))
    return route.start * _COLUMN + _RADIUS * math.cos(angle), _RADIUS * math.sin(angle)


def _arriving(route: _Route, routes: list[_Route]) -> tuple[float, float]:
    """Returns where an edge meets its node."""
    same = [other.lane for other in routes if other.node == route.node]
    angle = math.radians(180 - _angle(route.lane, same))
    return route.end * _COLUMN + _RADIUS * math.cos(angle), _RADIUS * math.sin(angle)


def _angle(lane: int, lanes: list[int]) -> float:
    """Returns the angle from the horizontal, in degrees: outer lanes steeper, lanes of a side spread apart."""
    if lane == 0:
        return 0.0
    side = sorted({abs(other) for other in lanes if other * lane > 0})
    angle = 48.0 if len(side) == 1 else 30 + 45 * side.index(abs(lane)) / (len(side) - 1)
    return math.copysign(angle, lane)


def _draw_input(axes: Axes, state: int, caption: str) -> None:
    y = _FIRST_LANE if state == 0 else -_FIRST_LANE
    corner = (_INPUT_X - _INPUT_HALF, y - 0.17)
    box = FancyBboxPatch(
        corner, 2 * _INPUT_HALF, 0.34, boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=SURFACE, edgecolor=INK, lw=1.4, zorder=5,
    )  # fmt: skip
    axes.add_patch(box)
    _text(axes, _INPUT_X, y, f"s{state}", weight="bold", zorder=6)
    _text(axes, _INPUT_X - 0.6, y - 0.3, caption, color=MUTED, size=7, ha="left")


def _draw_output(axes: Axes, columns: int, y: float) -> None:
    left, right = _COLUMN - 0.35, columns * _COLUMN + 0.35
    for node in range(columns):
        x = (node + 1) * _COLUMN
        arrow = FancyArrowPatch(
            (x, -_RADIUS), (x, y + 0.16), arrowstyle="-|>", mutation_scale=8, lw=1.0, color=FAINT,
            shrinkA=0, shrinkB=0, zorder=1,
        )  # fmt: skip
        axes.add_patch(arrow)
    box = FancyBboxPatch(
        (left, y - 0.16), right - left, 0.32, boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=SURFACE, edgecolor=MUTED, lw=1.0, zorder=2,
    )  # fmt: skip
    axes.add_patch(box)
    what = "the node" if columns == 1 else f"the {columns} nodes"
    _text(axes, (left + right) / 2, y, f"output: {what} concatenated", color=MUTED, zorder=3)


def _draw_title(axes: Axes, genotype: Genotype, kind: str, *, y: float) -> None:
    x = _INPUT_X - 0.6
    _text(axes, x, y, f"{kind} cell", weight="bold", size=11, ha="left")
    meaning = _MEANINGS.get(genotype.space, {}).get(kind, "")
    _text(axes, x + 0.2 + 0.105 * len(f"{kind} cell"), y - 0.01, meaning, color=MUTED, ha="left")


def _text(axes: Axes, x: float, y: float, content: str, **look: Any) -> None:
    axes.text(x, y, content, **{"ha": "center", "va": "center_baseline", **look})
