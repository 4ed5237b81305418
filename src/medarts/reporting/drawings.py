"""Genotypes as drawings, of any space, and as text.

A cell has its inputs on the left, its nodes on a line, and every edge in a lane of its own. Edges from s0 run above the
line of nodes, edges from s1 below it, edges between nodes wherever there is room. Two edges whose columns overlap never
share a lane, and labels stand between columns while lines turn at columns: so no label covers another and no line
crosses a label, whatever the genotype.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Curve

from medarts.network.structure import Structure
from medarts.reporting.journals import state_name
from medarts.reporting.style import FAINT, INK, MUTED, SURFACE, colors_of, save, styled
from medarts.spaces import space_of
from medarts.spaces.genotype import Cell, Genotype
from medarts.spaces.lattice import Lattice, Node
from medarts.system.files import make_folder, write_whole

FORMATS = ("svg", "png")

# All lengths are inches of the figure.
_LAYER, _LEVEL, _HEAD = 0.95, 0.8, 0.13
_COLUMN, _TURN = 1.85, 0.42
_FIRST_LANE, _LANE = 0.52, 0.38
_RADIUS = 0.2

Point = tuple[float, float]


def drawings(genotype: Genotype, structure: Structure | None = None) -> dict[str, Figure]:
    """Returns all drawings of a genotype by their names: the lattice where its space has one, and one of each cell.

    Args:
        genotype: the genotype.
        structure: what was cut away of its network.
    """
    space = space_of(genotype)
    cut = structure if structure is not None and (structure.without or structure.heads) else None
    whole = space.lattice_of(genotype)
    lattice = whole if cut is None else space.lattice_of(genotype, without=cut.without, heads=cut.heads)
    figures = {} if lattice is None else {"lattice": draw_lattice(lattice)}
    for kind, cell in genotype.cells.items():
        inputs, meaning = space.cell_inputs.get(kind, ()), space.cell_meanings.get(kind, "")
        figures[f"cell_{kind}"] = draw_cell(cell, kind, inputs=inputs, meaning=meaning)
    return figures


def save_drawings(genotype: Genotype, folder: Path, *, structure: Structure | None = None) -> list[Path]:
    """Writes every drawing of a genotype as SVG and PNG, and returns the files; see `drawings`.

    Raises:
        RunError: one cannot be written; those of an earlier call are replaced as a whole.
    """
    make_folder(folder)
    paths = []
    for name, figure in drawings(genotype, structure).items():
        for file_format in FORMATS:
            path, content = folder / f"{name}.{file_format}", io.BytesIO()
            save(figure, content, file_format=file_format)
            write_whole(path, content.getvalue())
            paths.append(path)
    return paths


def describe(genotype: Genotype) -> str:
    """Returns a genotype as text: settings, cells node by node, kept paths, provenance, the text form of its space."""
    lines = [f"{genotype.name} ({genotype.space})", "", *_pairs(genotype.settings)]
    for kind, cell in genotype.cells.items():
        lines += ["", f"{kind} cell"]
        for number, edges in enumerate(cell):
            terms = " + ".join(f"{operation}({state_name(state)})" for operation, state in edges)
            lines.append(f"  n{number} = {terms}")
    if genotype.paths:
        lines += ["", "cells kept at node (t, l)"]
        lines += [f"  {f'({kept.layer}, {kept.level})':8} {', '.join(kept.transitions)}" for kept in genotype.paths]
    if genotype.provenance:
        lines += ["", "provenance", *_pairs(genotype.provenance)]
    line = space_of(genotype).to_text(genotype)
    if line is not None:
        lines += ["", "as text", line]
    return "\n".join(lines)


def _pairs(values: Mapping[str, object]) -> list[str]:
    return [f"  {key:20} {value}" for key, value in values.items()]


@styled
def draw_lattice(lattice: Lattice) -> Figure:
    """Draws the nodes of a network and its paths: layers to the right, levels downwards, kept paths strong.

    Args:
        lattice: the paths that there can be, and those that are kept.
    """
    nodes = sorted({node for path in lattice.paths for node in (path.source, path.target)})
    used = {node for path in lattice.paths if path.kept for node in (path.source, path.target)}
    last, depth = max(layer for layer, _ in nodes), 1 + max(level for _, level in nodes)
    figure = Figure(figsize=((last + 2.2) * _LAYER, (depth + 1.25) * _LEVEL))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1.35 * _LAYER, (last + 0.85) * _LAYER), ylim=(-(depth - 0.1) * _LEVEL, 1.35 * _LEVEL))
    axes.axis("off")
    _draw_paths(axes, lattice)
    for node in nodes:
        (x, y), color = _place_of_node(node), INK if node in used else FAINT
        axes.add_patch(Circle((x, y), _RADIUS, facecolor=SURFACE, edgecolor=color, lw=1.3, zorder=4))
        label = "stem" if node == nodes[0] else "{},{}".format(*node)
        axes.text(x, y, label, color=color, ha="center", va="center", fontsize=7.5, zorder=5)
        if node in lattice.heads:
            top = y + 0.72 * _LEVEL
            look: dict[str, Any] = {"facecolor": SURFACE, "edgecolor": color, "lw": 1.2, "zorder": 4}
            axes.plot([x, x], [y + _RADIUS, top], color=color, lw=1.1, zorder=2)
            axes.add_patch(Rectangle((x - 1.6 * _HEAD, top), 3.2 * _HEAD, 2 * _HEAD, **look))
            axes.text(x, top + _HEAD, "head", color=color, ha="center", va="center", fontsize=7.5, zorder=5)
    if lattice.full_size in used:
        _draw_full_size(axes, nodes[0], lattice.full_size)
    for level in range(depth):
        scale = lattice.stem_stride * 2**level
        words = "1" if scale == 1 else f"1/{scale}"
        axes.text(-1.25 * _LAYER, -level * _LEVEL, words, color=MUTED, va="center", fontsize=8.5)
    return figure


def _draw_paths(axes: Axes, lattice: Lattice) -> None:
    kinds = list(dict.fromkeys(path.kind for path in lattice.paths))
    colors, dashes = colors_of(kinds), (0, (3, 3))
    for path in lattice.paths:
        arrow = FancyArrowPatch(
            _place_of_node(path.source), _place_of_node(path.target),
            arrowstyle="-|>", mutation_scale=11 if path.kept else 7,
            # A path along a level bends around the node that it passes.
            connectionstyle=f"arc3,rad={-0.28 if path.source[1] == path.target[1] else 0}",
            shrinkA=15, shrinkB=15, lw=2.2 if path.kept else 0.9, linestyle="-" if path.kept else dashes,
            color=colors[path.kind] if path.kept else FAINT, zorder=3 if path.kept else 1,
            gid="path-{}-{}-{}".format(*path.target, path.kind) if path.kept else None,
        )  # fmt: skip
        axes.add_patch(arrow)
    counts = {kind: sum(path.kept and path.kind == kind for path in lattice.paths) for kind in kinds}
    lines = [Line2D([], [], color=colors[kind], lw=2.2, label=f"{kind} ({counts[kind]})") for kind in kinds]
    if not all(path.kept for path in lattice.paths):
        lines.append(Line2D([], [], color=FAINT, lw=1, linestyle=dashes, label="not kept"))
    axes.legend(handles=lines, loc="lower right", bbox_to_anchor=(1.0, 0.0))


def _draw_full_size(axes: Axes, stem: Node, node: Node) -> None:
    """Draws the way from the stem to a head that reads it at full size, above all heads."""
    (start, y), (end, _) = _place_of_node(stem), _place_of_node(node)
    above = y + 0.72 * _LEVEL + 2 * _HEAD
    lane = above + 0.16
    axes.plot([start, start, end], [y + _RADIUS, lane, lane], color=INK, lw=1.1, zorder=2, gid="full-size")
    axes.annotate(
        "",
        (end, above),
        (end, lane + 0.01),
        arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.1, "shrinkA": 0, "shrinkB": 0},
    )
    axes.text(-1.25 * _LAYER, lane, "1", color=MUTED, va="center", fontsize=8.5)  # the resolution, as at every level


def _place_of_node(node: Node) -> tuple[float, float]:
    layer, level = node
    return layer * _LAYER, -level * _LEVEL


@dataclass(frozen=True, slots=True)
class _Route:
    """An edge with its lane: 0 on the line of nodes, above it positive, below it negative.

    Columns are counted from that of the inputs; node i stands in column 1 + i.
    """

    operation: str
    state: int
    node: int
    lane: int = 0

    @property
    def start(self) -> int:
        return max(0, self.state - 1)

    @property
    def end(self) -> int:
        return self.node + 1

    @property
    def height(self) -> float:
        return math.copysign(_FIRST_LANE + (abs(self.lane) - 1) * _LANE, self.lane) if self.lane else 0.0


@styled
def draw_cell(cell: Cell, kind: str, *, inputs: Sequence[str] = (), meaning: str = "") -> Figure:
    """Draws a cell as a graph from its inputs to its output.

    Args:
        inputs: what s0 and s1 are.
    """
    routes, columns = _route(cell), len(cell)
    top = max(1.0, *(route.height for route in routes)) + 0.3
    output = min(-0.85, *(route.height for route in routes)) - 0.55
    left = -0.4 - 0.055 * max((len(caption) for caption in inputs), default=0)
    right, bottom = columns * _COLUMN + 0.45, output - 0.3
    figure = Figure(figsize=(right - left, top + 0.4 - bottom))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left, right), ylim=(bottom, top + 0.4))
    axes.axis("off")
    _text(axes, left + 0.05, top + 0.12, f"{kind} cell", weight="bold", size=11, ha="left")
    _text(axes, left + 0.25 + 0.105 * len(f"{kind} cell"), top + 0.11, meaning, color=MUTED, ha="left")
    _draw_output(axes, columns, output)
    colors = colors_of(route.operation for route in routes)
    for index, route in enumerate(routes):
        _draw_edge(axes, route, routes, color=colors[route.operation], gid=f"edge-{kind}-{index}")
    for state in range(2 + columns):
        _draw_state(axes, state)
    for state, caption in enumerate(inputs):
        _text(axes, -_RADIUS - 0.08, _place_of_state(state)[1], caption, color=MUTED, size=7, ha="right")
    return figure


def _route(cell: Cell) -> list[_Route]:
    """Gives every edge the innermost lane that no edge over the same columns has; short edges choose first."""
    edges = [_Route(operation, state, node) for node, incoming in enumerate(cell) for operation, state in incoming]
    edges.sort(key=lambda edge: (edge.end - edge.start, edge.state, edge.node))
    routes: list[_Route] = []
    for edge in edges:
        beside = {other.lane for other in routes if other.start < edge.end and edge.start < other.end}
        lane = next(lane for lane in _lanes(edge, len(edges)) if lane not in beside)
        routes.append(_Route(edge.operation, edge.state, edge.node, lane))
    return routes


def _lanes(edge: _Route, number: int) -> list[int]:
    """Returns the lanes an edge may take, the best first; ``number`` of them on a side always suffice."""
    outwards = range(1, number + 1)
    if edge.state < 2:
        return [lane if edge.state == 0 else -lane for lane in outwards]
    straight = [0] if edge.end == edge.start + 1 else []
    return straight + [side * lane for lane in outwards for side in (1, -1)]


def _place_of_state(state: int) -> Point:
    """Returns the centre of a state: the two inputs stand above each other, the nodes in a row."""
    return ((state - 1) * _COLUMN, 0.0) if state >= 2 else (0.0, _FIRST_LANE if state == 0 else -_FIRST_LANE)


def _draw_edge(axes: Axes, route: _Route, routes: list[_Route], *, color: str, gid: str) -> None:
    """Draws an edge: out of its state, into its lane behind the first column, out of it before the last."""
    source, target = _place_of_state(route.state), _place_of_state(route.node + 2)
    own = {0: 1, 1: -1}.get(route.state, 0)  # the lane that an input stands in
    leaving = [other.lane - own for other in routes if other.state == route.state]
    arriving = [other.lane for other in routes if other.node == route.node]
    start, first = _ports(source, _angle(route.lane - own, leaving))
    end, last = _ports(target, math.pi - _angle(route.lane, arriving))
    points, codes = [start, end], [Curve.MOVETO, Curve.LINETO]
    if route.lane:
        x_in, x_out, y = source[0] + _TURN, target[0] - _TURN, route.height
        points = [start, first, (x_in - 0.2, y), (x_in, y), (x_out, y), (x_out + 0.2, y), last, end]
        codes = [Curve.MOVETO, *[Curve.CURVE4] * 3, Curve.LINETO, *[Curve.CURVE4] * 3]
    arrow = FancyArrowPatch(
        path=Curve(points, codes), arrowstyle="-|>", mutation_scale=10, lw=1.7, color=color, zorder=3,
        capstyle="butt", joinstyle="round", gid=gid,
    )  # fmt: skip
    axes.add_patch(arrow)
    gap = route.start + (route.end - route.start - 1) // 2
    box = {"boxstyle": "round,pad=0.28", "facecolor": SURFACE, "edgecolor": color, "linewidth": 0.9}
    _text(axes, (gap + 0.5) * _COLUMN, route.height, route.operation, color=color, bbox=box, zorder=4, size=8)


def _ports(centre: Point, angle: float) -> tuple[Point, Point]:
    """Returns where an edge meets the rim of a state, and a point farther out in the same direction."""
    x, y = centre
    rim, beyond = ((x + r * math.cos(angle), y + r * math.sin(angle)) for r in (_RADIUS, 1.9 * _RADIUS))
    return rim, beyond


def _angle(lane: int, lanes: Sequence[int]) -> float:
    """Returns the angle at which an edge meets its node: outer lanes steeper, lanes of a side spread apart."""
    if lane == 0:
        return 0.0
    side = sorted({abs(other) for other in lanes if other * lane > 0})
    degrees = 48.0 if len(side) == 1 else 30 + 45 * side.index(abs(lane)) / (len(side) - 1)
    return math.copysign(math.radians(degrees), lane)


def _draw_state(axes: Axes, state: int) -> None:
    axes.add_patch(Circle(_place_of_state(state), _RADIUS, facecolor=SURFACE, edgecolor=INK, lw=1.4, zorder=5))
    _text(axes, *_place_of_state(state), state_name(state), weight="bold", zorder=6)


def _draw_output(axes: Axes, columns: int, y: float) -> None:
    left, right = _COLUMN - 0.35, columns * _COLUMN + 0.35
    for node in range(columns):
        x = (node + 1) * _COLUMN
        look: dict[str, Any] = {
            "arrowstyle": "-|>",
            "mutation_scale": 8,
            "lw": 1.0,
            "color": FAINT,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.add_patch(FancyArrowPatch((x, -_RADIUS), (x, y + 0.16), zorder=1, **look))
    box: dict[str, Any] = {
        "boxstyle": "round,pad=0,rounding_size=0.08",
        "facecolor": SURFACE,
        "edgecolor": MUTED,
        "lw": 1.0,
    }
    axes.add_patch(FancyBboxPatch((left, y - 0.16), right - left, 0.32, zorder=2, **box))
    _text(axes, (left + right) / 2, y, "output" if columns == 1 else "output (concatenated)", color=MUTED, zorder=3)


def _text(axes: Axes, x: float, y: float, content: str, **look: Any) -> None:
    axes.text(x, y, content, **{"ha": "center", "va": "center_baseline", **look})
