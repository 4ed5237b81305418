"""From weights to a genotype: the strongest operations, edges and moves.

Source: MixSearch (arXiv 2102.13280), derivation of cells; keeping moves by beta is this project's, since the
published networks ignore what the betas learned.
"""

from collections.abc import Mapping

from medarts.config import DeriveSettings
from medarts.spaces.weave.lattice import Node, Paths
from medarts.spaces.weave.operations import MOVES, Move


def derive_paths(betas: Mapping[Node, Mapping[Move, float]], settings: DeriveSettings) -> Paths:
    """Returns the moves kept at every node; the strongest move of a node always stays."""
    kept = {}
    for node, row in betas.items():
        order = sorted(row, key=lambda move: (-row[move], MOVES.index(move)))
        if settings.moves == "top_k":
            order = order[: settings.top_k]
        elif settings.moves == "threshold":
            order = [move for move in order if row[move] >= settings.threshold] or order[:1]
        kept[node] = tuple(move for move in MOVES if move in order)
    return kept
