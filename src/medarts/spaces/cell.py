"""What the cells of both spaces have in common: their edges, the weights of these, and what is derived from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from medarts.spaces.genotype import Cell, Edge

NONE = "none"
"""The operation that gives nothing; a candidate, never part of a genotype."""

EDGES_PER_NODE = 2
"""Edges that deriving keeps."""

Edges = tuple[tuple[int, int], ...]


def cell_edges(intermediate_nodes: int) -> Edges:
    """Returns the (node, state) pairs of a cell: node i reads the states 0 to 1 + i."""
    return tuple((node, state) for node in range(intermediate_nodes) for state in range(2 + node))


def leaving(edges: Edges) -> tuple[tuple[int, ...], ...]:
    """Returns the edges that leave every state."""
    states = max(state for _, state in edges) + 1
    return tuple(tuple(edge for edge, (_, source) in enumerate(edges) if source == state) for state in range(states))


@dataclass(frozen=True)
class CellWeights:
    """The weights of all cells of a kind.

    Attributes:
        edges: (node, state) of every edge.
        candidates: names of the candidates of every edge.
        operations: for every edge, the weights of its candidates.
        passed: for every edge, the weight of the channels that pass the operations by (PC-DARTS).
    """

    edges: Edges
    candidates: tuple[tuple[str, ...], ...]
    operations: tuple[Tensor, ...]
    passed: Tensor

    @cached_property
    def by_state(self) -> tuple[dict[str, Tensor], ...]:
        """For every state and operation, its weight on each of the edges that leave the state and have it."""
        flat = torch.cat(self.operations).unbind()
        starts = accumulate((len(names) for names in self.candidates), initial=0)
        found: list[dict[str, list[Tensor]]] = [{} for _ in leaving(self.edges)]
        for (_, state), names, start in zip(self.edges, self.candidates, starts, strict=False):
            for number, name in enumerate(names):
                found[state].setdefault(name, []).append(flat[start + number])
        return tuple({name: torch.stack(weights) for name, weights in kinds.items()} for kinds in found)


def derive_cell(edges: Edges, candidates: Sequence[tuple[str, ...]], weights: Sequence[Sequence[float]]) -> Cell:
    """Returns for every node its two strongest edges, each with its strongest operation.

    A softmax over fewer operations gives larger weights. Where the edges of a node have sets of different sizes,
    each weight is scaled by the size of its set over the largest, so that equal preference means equal weight.

    Args:
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
