"""Genotypes of the weaved space drawn at random, as a control of what a search adds."""

from functools import partial

import numpy as np

from medarts.spaces.drawing import draw_cell, provenance
from medarts.spaces.genotype import Cell, Genotype
from medarts.spaces.weave import lattice
from medarts.spaces.weave.genotypes import check, operations_of
from medarts.spaces.weave.lattice import Paths
from medarts.spaces.weave.operations import MOVES


def random_genotype(like: Genotype, *, seed: int) -> Genotype:
    """Returns a genotype with the settings of another, its cells and paths drawn uniformly.

    Every node of a cell reads two earlier states, each through one of the operations that can stand there. Every node
    of the lattice keeps as many moves as the other genotype keeps at most at one, or all where it has fewer.

    Args:
        like: gives the settings and the number of moves.
        seed: of the draw; the same seed gives the same genotype.

    Raises:
        GenotypeError: ``like`` does not fit the weaved space.
    """
    settings, generator = check(like), np.random.default_rng(seed)
    cells: dict[str, Cell] = {
        move: draw_cell(settings.intermediate_nodes, operations=partial(operations_of, move), generator=generator)
        for move in MOVES
    }
    paths = _draw_paths(settings.depth, kept=max(len(entry.moves) for entry in like.paths), generator=generator)
    return Genotype(
        name=f"{like.name}-random-{seed}",
        space=like.space,
        cells=cells,
        settings=like.settings,
        paths=lattice.to_kept(paths),
        provenance=provenance(like, seed),
    )


def _draw_paths(depth: int, *, kept: int, generator: np.random.Generator) -> Paths:
    """Returns so many moves into every node, or all where there are fewer; so every node that is read has one."""
    drawn: Paths = {}
    for node, moves in lattice.all_paths(depth).items():
        chosen = generator.choice(len(moves), size=min(kept, len(moves)), replace=False)
        drawn[node] = tuple(moves[number] for number in sorted(chosen))
    return drawn
