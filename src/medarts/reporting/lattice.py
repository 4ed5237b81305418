"""The lattice as a drawing: layers to the right, levels downwards, kept moves strong on the faint ones that exist."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

from medarts.reporting.style import FAINT, INK, MOVE_COLORS, MUTED, SURFACE, styled
from medarts.spaces.genotype import Genotype
from medarts.spaces.weave import lattice
from medarts.spaces.weave.lattice import Node
from medarts.spaces.weave.operations import MOVES

# Lengths are inches of the figure.
_COLUMN, _ROW, _RADIUS, _HEAD = 0.95, 0.8, 0.2, 0.13


@styled
def draw_lattice(genotype: Genotype) -> Figure:
    """Draws the lattice of a genotype with its kept paths; a cell's arrow comes from the node that is its s1.

    Args:
        genotype: of the weaved space.
    """
    depth = int(genotype.settings["depth"])
    heads = lattice.heads(depth, deep_supervision=bool(genotype.settings["deep_supervision"]))
    kept = {Node(entry.layer, entry.level): entry.moves for entry in genotype.paths}
    last = lattice.layers(depth) - 1
    figure = Figure(figsize=((last + 2.2) * _COLUMN, (depth + 1.25) * _ROW))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1.35 * _COLUMN, (last + 0.85) * _COLUMN), ylim=(-(depth - 0.1) * _ROW, 1.35 * _ROW))
    axes.axis("off")
    for node, moves in lattice.all_paths(depth).items():
        for move in moves:
            _draw_move(axes, node, move, kept=move in kept.get(node, ()))
    for node in lattice.nodes(depth):
        _draw_node(axes, node, used=node in kept or node == lattice.STEM)
    for node in heads:
        _draw_head(axes, node, used=node in kept)
    for level in range(depth):
        text = f"1/{2 ** (level + 1)}"
        axes.text(-1.25 * _COLUMN, -level * _ROW, text, color=MUTED, va="center", fontsize=8.5)
    _draw_legend(axes, kept, last)
    return figure


def _place(node: Node) -> tuple[float, float]:
    return node.layer * _COLUMN, -node.level * _ROW


def _draw_move(axes: Axes, node: Node, move: str, *, kept: bool) -> None:
    source = lattice.inputs(node, "down" if move == "down" else "up" if move == "up" else "normal")[1]
    bend = 0.0 if move != "normal" else -0.28
    axes.add_patch(
        FancyArrowPatch(
            _place(source),
            _place(node),
            arrowstyle="-|>",
            mutation_scale=11 if kept else 7,
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=15,
            shrinkB=15,
            lw=2.2 if kept else 0.9,
            linestyle="-" if kept else (0, (3, 3)),
            color=MOVE_COLORS[move] if kept else FAINT,
            zorder=3 if kept else 1,
            gid=f"path-{node.layer}-{node.level}-{move}" if kept else None,
        )
    )


def _draw_node(axes: Axes, node: Node, *, used: bool) -> None:
    color = INK if used else FAINT
    axes.add_patch(Circle(_place(node), _RADIUS, facecolor=SURFACE, edgecolor=color, lw=1.3, zorder=4))
    label = "stem" if node == lattice.STEM else f"{node.layer},{node.level}"
    axes.text(*_place(node), label, color=color, ha="center", va="center", fontsize=7.5, zorder=5)


def _draw_head(axes: Axes, node: Node, *, used: bool) -> None:
    x, y = _place(node)
    top, color = y + 0.72 * _ROW, INK if used else FAINT
    axes.plot([x, x], [y + _RADIUS, top], color=color, lw=1.1, zorder=2)
    axes.add_patch(
        Rectangle((x - 1.6 * _HEAD, top), 3.2 * _HEAD, 2 * _HEAD, facecolor=SURFACE, edgecolor=color, lw=1.2, zorder=4)
    )
    axes.text(x, top + _HEAD, "head", color=color, ha="center", va="center", fontsize=7.5, zorder=5)


def _draw_legend(axes: Axes, kept: Mapping[Node, tuple[str, ...]], last: int) -> None:
    counts = {move: sum(move in moves for moves in kept.values()) for move in MOVES}
    lines = [Line2D([], [], color=MOVE_COLORS[move], lw=2.2, label=f"{move} ({counts[move]})") for move in MOVES]
    lines.append(Line2D([], [], color=FAINT, lw=1, linestyle=(0, (3, 3)), label="not kept"))
    axes.legend(handles=lines, loc="lower right", bbox_to_anchor=(1.0, 0.0))
