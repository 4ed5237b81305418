"""The cells of mixed operations that supernets are made of: their weights, and the cells that are derived from these.

The cells of the spaces here have edges (node, state), each a weighted sum of candidate operations. A supernet has sets
of alphas, with one row for each edge and one column for each candidate there, and with edge normalisation (PC-DARTS,
arXiv 1907.05737, section 3.3) gammas, one for each edge of a kind of cell.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, compress
from typing import Any

import torch
from torch import Tensor, nn

from medarts.errors import GenotypeError
from medarts.spaces.base import Candidates, Edges, Limit
from medarts.spaces.decisions import Restriction, node_place
from medarts.spaces.genotype import EDGES_PER_NODE, NONE, Cell, Edge, Genotype

INITIAL_SPREAD = 1e-3

Names = tuple[tuple[str, ...], ...]
"""The candidates of every edge."""


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
        candidates: names of the candidates of every edge that are run.
        operations: for every edge, the weights of these candidates.
        bypass: for every edge, the weight of the channels that pass the operations by (PC-DARTS).
        skip: b of the auxiliary skip of every edge (DARTS-); 0 has none.
    """

    edges: Edges
    candidates: tuple[tuple[str, ...], ...]
    operations: tuple[Tensor, ...]
    bypass: Tensor
    skip: float = 0.0

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


def derive_cell(
    edges: Edges,
    candidates: Sequence[tuple[str, ...]],
    weights: Sequence[Sequence[float]],
    *,
    competing: bool = True,
    limits: Sequence[Limit] = (),
) -> Cell:
    """Returns for every node its two strongest edges, each with its strongest operation.

    A softmax over fewer operations gives larger weights. Where the edges of a node have sets of different sizes,
    each weight is scaled by the size of its set over the largest, so that equal preference means equal weight.
    Weights that do not compete need no such scale.

    Args:
        edges: (node, state) of every edge.
        candidates: operations of every edge.
        weights: how strongly each is preferred.
        competing: whether the weights of an edge share a sum of 1.
        limits: of operations, such as skips. While there are more of them in the cell, they are taken from the edge
            where they are weakest, unless that has no others (P-DARTS, arXiv 1904.12760, section 3.3, which limits
            skips in normal cells alone; here every kind of cell is limited).
    """
    rows = [list(row) for row in weights]
    while True:
        nodes = _strongest_edges(edges, candidates, rows, competing=competing)
        too_many = (_weakest_beyond(limit, nodes, edges, candidates) for limit in limits)
        edge, names = next(filter(None, too_many), (None, frozenset[str]()))
        if edge is None:
            return tuple(tuple(kept_edge for _, kept_edge in kept) for kept in nodes)
        for place, name in enumerate(candidates[edge]):
            if name in names:
                rows[edge][place] = -1.0  # below all others


def _weakest_beyond(
    limit: Limit, nodes: list[list[tuple[float, Edge]]], edges: Edges, candidates: Sequence[tuple[str, ...]]
) -> tuple[int, frozenset[str]] | None:
    """Returns the edge that limited operations are taken from, and these; None where there are not too many of them."""
    limited = [
        (strength, edges.index((node, state)))
        for node, kept in enumerate(nodes)
        for strength, (name, state) in kept
        if name in limit.names
    ]
    replaceable = [(strength, edge) for strength, edge in limited if {*candidates[edge]} - {NONE, *limit.names}]
    return (min(replaceable)[1], limit.names) if len(limited) > limit.most and replaceable else None


def _strongest_edges(
    edges: Edges, candidates: Sequence[tuple[str, ...]], weights: Sequence[Sequence[float]], *, competing: bool
) -> list[list[tuple[float, Edge]]]:
    """Returns for every node its two strongest edges, each with its strength and its strongest operation."""
    nodes = []
    for node in sorted({node for node, _ in edges}):
        incoming = [edge for edge, (into, _) in enumerate(edges) if into == node]
        largest = max(len(candidates[edge]) for edge in incoming)
        found: list[tuple[float, Edge]] = []
        for edge in incoming:
            scale = len(candidates[edge]) / largest if competing else 1.0
            options = [
                (weight * scale, name)
                for name, weight in zip(candidates[edge], weights[edge], strict=True)
                if name != NONE
            ]
            if options:
                strength, name = max(options)
                found.append((strength, (name, edges[edge][1])))
        found.sort(key=lambda item: (-item[0], item[1][1]))
        nodes.append(found[:EDGES_PER_NODE])
    return nodes


def where_skips(candidates: Candidates, skip: str) -> list[Tensor]:
    """Returns for every set where its edges have the skip, edges x candidates."""
    return [torch.tensor([[name == skip for name in row] for row in rows]) for rows in candidates.values()]


def initial(*shape: int) -> nn.Parameter:
    """Returns architecture parameters close to zero, so that all weights are nearly equal."""
    return nn.Parameter(INITIAL_SPREAD * torch.randn(*shape))


def strongest(candidates: Candidates, alphas: Mapping[str, Tensor], keep: Mapping[str, int]) -> Candidates:
    """Returns the candidates left when every edge of a set keeps N of them; sets not named keep all.

    Args:
        candidates: set -> operations of each of its rows.
        alphas: set -> their alphas.
        keep: set -> N.
    """
    kept: dict[str, Names] = {}
    for kind, rows in candidates.items():
        number = min(keep.get(kind, len(rows[0])), len(rows[0]))
        # An edge of none alone would leave its node without a state to read.
        barred = torch.tensor([[number == 1 and name == NONE for name in row] for row in rows])
        strength = alphas[kind].detach().cpu().masked_fill(barred, -torch.inf)
        best = strength.topk(number, dim=-1).indices.sort(dim=-1).values.tolist()
        kept[kind] = tuple(tuple(names[i] for i in row) for names, row in zip(rows, best, strict=True))
    return kept


def cell_weights(
    edges: Edges,
    names: Names,
    operations: Sequence[Tensor],
    *,
    gamma: Tensor | None = None,
    sparse: bool = False,
    skip: float = 0.0,
) -> CellWeights:
    """Returns the weights of the cells of a kind.

    Args:
        edges: (node, state) of every edge.
        names: its candidates.
        operations: their weights.
        gamma: of every edge; the softmax over the edges into a node scales what they bring. None scales nothing.
        sparse: leave out candidates of weight 0, so that they are not run.
        skip: b of the auxiliary skips.
    """
    if sparse:
        present = [[weight != 0 for weight in weights.tolist()] for weights in operations]
        names = tuple(tuple(compress(row, kept)) for row, kept in zip(names, present, strict=True))
        operations = [weights[kept] for weights, kept in zip(operations, present, strict=True)]
    if gamma is None:
        return CellWeights(edges, names, tuple(operations), operations[0].new_ones(len(edges)), skip)
    bypass = edge_weights(edges, gamma)
    scaled = tuple(weights * scale for weights, scale in zip(operations, bypass, strict=True))
    return CellWeights(edges, names, scaled, bypass, skip)


def restricted(weights: CellWeights, restriction: Restriction, *, kind: str, places: Sequence[str]) -> CellWeights:
    """Returns the weights of the cells of a kind without what is left out, so that it is not run.

    An operation that was decided has weight 1, times that of its edge (edge normalisation) until the edges into the
    node are decided too; from then on 1, as in a derived network.

    Args:
        weights: of all candidates.
        restriction: what is left out.
        kind: of the cells.
        places: for every edge, the place of the decision for its operation.
    """
    names: list[tuple[str, ...]] = []
    operations: list[Tensor] = []
    bypass: list[Tensor] = []
    for edge, (node, state) in enumerate(weights.edges):
        into, operation = f"edges {node_place(kind, node)}", f"operation {places[edge]}"
        scale, candidates = weights.bypass[edge], weights.candidates[edge]
        if restriction.has(into, str(state)):
            chosen = [number for number, name in enumerate(candidates) if restriction.has(operation, name)]
            scale = torch.ones_like(scale) if into in restriction.kept else scale
        else:
            chosen, scale = [], torch.zeros_like(scale)
        decided = operation in restriction.kept
        names.append(tuple(candidates[number] for number in chosen))
        operations.append(scale.expand(len(chosen)) if decided else weights.operations[edge][chosen])
        bypass.append(scale)
    return CellWeights(weights.edges, tuple(names), tuple(operations), torch.stack(bypass), weights.skip)


def expected_of_cell(weights: CellWeights, cost: Callable[[str, int], float]) -> Tensor:
    """Returns what the operations of a cell are expected to cost.

    Args:
        weights: preferences of the candidates.
        cost: of an operation and the state that its edge reads.
    """
    into = Counter(node for node, _ in weights.edges)
    terms = []
    for (node, state), names, operations in zip(weights.edges, weights.candidates, weights.operations, strict=True):
        costs = operations.new_tensor([cost(name, state) for name in names])
        terms.append((operations * costs).sum() * min(1.0, EDGES_PER_NODE / into[node]))
    return torch.stack(terms).sum()


def edge_weights(edges: Edges, gamma: Tensor) -> Tensor:
    """Returns the softmax of gammas over the edges into each node, which follow each other."""
    nodes = [node for node, _ in edges]
    sizes = [nodes.count(node) for node in dict.fromkeys(nodes)]
    return torch.cat([torch.softmax(part, dim=0) for part in torch.split(gamma, sizes)])


def one_hot(edges: Edges, names: Names, cell: Cell, *, genotype: Genotype, like: Tensor) -> CellWeights:
    """Returns the weights that use the edges of a derived cell alone, each with weight 1.

    Args:
        edges: (node, state) of every edge.
        names: its candidates.
        cell: the derived cell.
        genotype: which it belongs to, for the error.
        like: a tensor of the device and dtype that the weights get.

    Raises:
        GenotypeError: the cell has an operation that is not a candidate of its edge.
    """
    operations = tuple(like.new_zeros(len(of_edge)) for of_edge in names)
    bypass = like.new_zeros(len(edges))
    for node, kept in enumerate(cell):
        for operation, state in kept:
            edge = edges.index((node, state))
            if operation not in names[edge]:
                raise GenotypeError(
                    f"Genotype '{genotype.name}' has {operation} on an edge that no longer has it.",
                    fix="Discretise a supernet with the genotype derived from it.",
                )
            operations[edge][names[edge].index(operation)] = 1.0
            bypass[edge] = 1.0
    return CellWeights(edges, names, operations, bypass)


def alphas_snapshot(edges: Edges, names: Names, preferences: Tensor) -> dict[str, Any]:
    """Returns the preferences of a set's candidates as they are written to ``architecture.jsonl``."""
    return {"edges": edge_labels(edges), "operations": [list(row) for row in names], "weights": preferences.tolist()}


def gammas_snapshot(edges: Edges, gamma: Tensor) -> dict[str, float]:
    """Returns the softmaxed gammas of a kind of cell as they are written to ``architecture.jsonl``."""
    return dict(zip(edge_labels(edges), edge_weights(edges, gamma.detach()).tolist(), strict=True))


def edge_labels(edges: Edges) -> list[str]:
    """Returns what edges are called, such as ``1<-0``: the node and the state that it reads."""
    return [f"{node}<-{state}" for node, state in edges]
