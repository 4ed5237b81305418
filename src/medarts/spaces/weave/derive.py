"""From weights to a genotype: the strongest operations, edges and moves.

Source: MixSearch (arXiv 2102.13280), derivation of cells; keeping moves by beta is this project's, since the
published networks ignore what the betas learned.
"""

from collections.abc import Mapping, Sequence

from medarts.recipe import DeriveSettings
from medarts.spaces.genotype import Cell, Edge
from medarts.spaces.operations import MOVES, NONE, Move
from medarts.spaces.weave.cell import Edges
from medarts.spaces.weave.lattice import Node, Paths

EDGES_PER_NODE = 2


def derive_cell(
    move: Move, edges: Edges, candidates: Sequence[tuple[str, ...]], weights: Sequence[Sequence[float]]
) -> Cell:
    """Returns for every node its two strongest edges, each with its strongest operation.

    A softmax over fewer operations gives larger weights. Where the edges of a node have sets of different sizes,
    each weight is scaled by the size of its set over the largest, so that equal preference means equal weight.

    Args:
        move: the kind of cell.
        edges: (node, state) of every edge.
        candidates: operations of every edge.
        weights: their softmaxed weights.
    """
    cell = []
    for node in sorted({node for node, _ in edges}):
        incoming = [edge for edge, (into, _) in enumerate(edges) if into == node]
        largest = max(len(candidates[edge]) for edge in incoming)
        found: list[tuple[float, Edge]] = []
        for edge in incoming:
            scale = len(candidates[edge]) / largest
            options = [
                (weight * scale, name)
                for name, weight in zip(candidates[edge], weights[edge], strict=True)
                if name != NONE
            ]
            if options:
                strength, name = max(options)
                found.append((strength, (name, edges[edge][1])))
        found.sort(key=lambda item: (-item[0], item[1][1]))
        cell.append(tuple(edge for _, edge in found[:EDGES_PER_NODE]))
    return tuple(cell)


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
