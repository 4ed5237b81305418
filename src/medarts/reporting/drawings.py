"""A genotype for people: drawings of its cells and lattice as files, and a description as text."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from medarts.reporting.cells import draw_cell, state_name
from medarts.reporting.lattice import draw_lattice
from medarts.reporting.style import save
from medarts.spaces.cell import EDGES_PER_NODE
from medarts.spaces.genotype import Genotype
from medarts.spaces.stack.darts_text import to_text
from medarts.spaces.stack.genotypes import SPACE
from medarts.system.files import make_folder, write_whole

FORMATS = ("svg", "png")


def drawings(genotype: Genotype) -> dict[str, Figure]:
    """Returns all drawings of a genotype by their names: one a cell, and the lattice where the space has one."""
    figures = {f"cell_{kind}": draw_cell(genotype, kind) for kind in genotype.cells}
    if genotype.paths:
        figures["lattice"] = draw_lattice(genotype)
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


def describe(genotype: Genotype) -> str:
    """Returns a genotype as text: settings, cells node by node, kept moves, provenance, the one-line form of DARTS."""
    lines = [f"{genotype.name} ({genotype.space})", ""]
    lines += [f"  {key:20} {value}" for key, value in genotype.settings.items()]
    for kind, cell in genotype.cells.items():
        lines += ["", f"{kind} cell"]
        for number, edges in enumerate(cell):
            terms = " + ".join(f"{operation}({state_name(state)})" for operation, state in edges)
            lines.append(f"  n{number} = {terms}")
    if genotype.paths:
        lines += ["", "moves kept at node (t, l)"]
        for kept in genotype.paths:
            node = f"({kept.layer}, {kept.level})"
            lines.append(f"  {node:8} {', '.join(kept.moves)}")
    if genotype.provenance:
        lines += ["", "provenance"]
        lines += [f"  {key:20} {value}" for key, value in genotype.provenance.items()]
    line = one_line(genotype)
    if line is not None:
        lines += ["", "in the one-line form of DARTS", line]
    return "\n".join(lines)


def one_line(genotype: Genotype) -> str | None:
    """Returns a genotype in the one-line form of DARTS code; None where it is one that the form has no room for."""
    edges = {len(node) for cell in genotype.cells.values() for node in cell}
    return to_text(genotype) if genotype.space == SPACE and edges == {EDGES_PER_NODE} else None
