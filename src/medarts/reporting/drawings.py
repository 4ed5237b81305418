"""A genotype for people: drawings of its cells and its lattice, as files too, and a description as text.

What a drawing says beyond the genotype itself (what the inputs of a cell are, which paths there could be) is told by
its search space; a space that tells nothing has its cells drawn without words.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medarts.reporting.journals import state_name
from medarts.reporting.style import FAINT, INK, MUTED, SURFACE, colors_of, save, styled
from medarts.spaces import space_of
from medarts.spaces.genotype import Genotype
from medarts.spaces.lattice import Lattice, Node
from medarts.system.files import make_folder, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")

# Lengths are inches of the figure.
_COLUMN, _ROW, _RADIUS, _HEAD = 0.95, 0.8, 0.2, 0.13


def drawings(genotype: Genotype) -> "dict[str, Figure]":
    """Returns all drawings of a genotype by their names: the lattice where its space has one, and one of each cell."""
    from medarts.reporting.cells import draw_cell

    space = space_of(genotype)
    lattice = space.lattice_of(genotype)
    figures = {} if lattice is None else {"lattice": draw_lattice(lattice)}
    for kind, cell in genotype.cells.items():
        inputs, meaning = space.cell_inputs.get(kind, ()), space.cell_meanings.get(kind, "")
        figures[f"cell_{kind}"] = draw_cell(cell, kind, inputs=inputs, meaning=meaning)
    return figures


def save_drawings(genotype: Genotype, folder: Path) -> list[Path]:
    """Writes every drawing of a genotype as SVG and PNG, and returns the files.

    Raises:
        RunError: one cannot be written; those of an earlier call are replaced as a whole.
    """
    make_folder(folder)
    paths = []
    for name, figure in drawings(genotype).items():
        for file_format in FORMATS:
            path, content = folder / f"{name}.{file_format}", io.BytesIO()
            save(figure, content, file_format=file_format)
            write_whole(path, content.getvalue())
            paths.append(path)
    return paths


@styled
def draw_lattice(lattice: Lattice) -> "Figure":
    """Draws the nodes of a network and its paths: layers to the right, levels downwards, kept paths strong.

    Args:
        lattice: the paths that there can be, and those that are kept.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, Rectangle

    nodes = sorted({node for path in lattice.paths for node in (path.source, path.target)})
    used = {node for path in lattice.paths if path.kept for node in (path.source, path.target)}
    last, depth = max(layer for layer, _ in nodes), 1 + max(level for _, level in nodes)
    figure = Figure(figsize=((last + 2.2) * _COLUMN, (depth + 1.25) * _ROW))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1.35 * _COLUMN, (last + 0.85) * _COLUMN), ylim=(-(depth - 0.1) * _ROW, 1.35 * _ROW))
    axes.axis("off")
    _draw_paths(axes, lattice)
    for node in nodes:
        (x, y), color = _place(node), INK if node in used else FAINT
        axes.add_patch(Circle((x, y), _RADIUS, facecolor=SURFACE, edgecolor=color, lw=1.3, zorder=4))
        label = "stem" if node == nodes[0] else "{},{}".format(*node)
        axes.text(x, y, label, color=color, ha="center", va="center", fontsize=7.5, zorder=5)
        if node in lattice.heads:
            top = y + 0.72 * _ROW
            look: dict[str, Any] = {"facecolor": SURFACE, "edgecolor": color, "lw": 1.2, "zorder": 4}
            axes.plot([x, x], [y + _RADIUS, top], color=color, lw=1.1, zorder=2)
            axes.add_patch(Rectangle((x - 1.6 * _HEAD, top), 3.2 * _HEAD, 2 * _HEAD, **look))
            axes.text(x, top + _HEAD, "head", color=color, ha="center", va="center", fontsize=7.5, zorder=5)
    for level in range(depth):
        axes.text(-1.25 * _COLUMN, -level * _ROW, f"1/{2 ** (level + 1)}", color=MUTED, va="center", fontsize=8.5)
    return figure


def _draw_paths(axes: "Axes", lattice: Lattice) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyArrowPatch

    kinds = list(dict.fromkeys(path.kind for path in lattice.paths))
    colors, dashes = colors_of(kinds), (0, (3, 3))
    for path in lattice.paths:
        arrow = FancyArrowPatch(
            _place(path.source), _place(path.target), arrowstyle="-|>", mutation_scale=11 if path.kept else 7,
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


def _place(node: Node) -> tuple[float, float]:
    layer, level = node
    return layer * _COLUMN, -level * _ROW


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
