"""What genotypes drawn at random have in common, whatever their space."""

from collections.abc import Callable, Sequence

import numpy as np

from medarts.spaces.cell import EDGES_PER_NODE
from medarts.spaces.genotype import Cell, Genotype

SOURCE = "random"
"""Source in the provenance of a genotype that was drawn and not searched."""


def draw_cell(
    intermediate_nodes: int, *, operations: Callable[[int], Sequence[str]], generator: np.random.Generator
) -> Cell:
    """Returns a cell whose nodes read different earlier states, as many as deriving keeps, all drawn uniformly.

    Args:
        intermediate_nodes: nodes of the cell.
        operations: state -> the operations that can stand on an edge from it.
        generator: of the draw.
    """
    cell = []
    for node in range(intermediate_nodes):
        states = generator.choice(2 + node, size=EDGES_PER_NODE, replace=False)
        cell.append(tuple((str(generator.choice(operations(state))), state) for state in sorted(map(int, states))))
    return tuple(cell)


def provenance(like: Genotype, seed: int) -> dict[str, str | int | float]:
    """Returns where a drawn genotype came from."""
    return {"source": SOURCE, "seed": seed, "like": like.name}
