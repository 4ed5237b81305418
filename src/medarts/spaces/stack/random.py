"""Genotypes of the stack drawn at random, as a control of what a search adds."""

import numpy as np

from medarts.spaces.drawing import draw_cell, provenance
from medarts.spaces.genotype import Cell, Genotype
from medarts.spaces.stack.genotypes import check
from medarts.spaces.stack.operations import BUILDERS, KINDS


def random_genotype(like: Genotype, *, seed: int) -> Genotype:
    """Returns a genotype with the settings of another and its cells drawn uniformly.

    Every node of a cell reads two earlier states, each through one of the operations.

    Args:
        like: gives the settings.
        seed: of the draw; the same seed gives the same genotype.

    Raises:
        GenotypeError: ``like`` does not fit the stack.
    """
    settings, generator = check(like), np.random.default_rng(seed)
    cells: dict[str, Cell] = {
        kind: draw_cell(settings.intermediate_nodes, operations=lambda _: tuple(BUILDERS), generator=generator)
        for kind in KINDS
    }
    return Genotype(
        name=f"{like.name}-random-{seed}",
        space=like.space,
        cells=cells,
        settings=like.settings,
        provenance=provenance(like, seed),
    )
