"""What supernets have in common: the weights of their cells, made from alphas and gammas.

A supernet has sets of alphas, each with one row for each of its edges and one column for each candidate there, and
with edge normalisation (PC-DARTS, arXiv 1907.05737, section 3.3) gammas, one for each edge of a kind of cell.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medarts.errors import GenotypeError
from medarts.spaces.cell import NONE, CellWeights, Edges
from medarts.spaces.genotype import Cell, Genotype
from medarts.spaces.space import Candidates

INITIAL_SPREAD = 1e-3

Names = tuple[tuple[str, ...], ...]
"""The candidates of every edge."""


def initial(*shape: int) -> nn.Parameter:
    """Returns architecture parameters close to zero, so that all weights are nearly equal."""
    return nn.Parameter(INITIAL_SPREAD * torch.randn(*shape))


def strongest(candidates: Candidates, alphas: Mapping[str, Tensor], keep: Mapping[str, int]) -> Candidates:
    """Returns the candidates left when every edge of a set keeps so many; sets not named keep all.

    Args:
        candidates: set -> operations of each of its rows.
        alphas: set -> their alphas.
        keep: set -> number.
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
    edges: Edges, names: Names, operations: Sequence[Tensor], *, gamma: Tensor | None = None
) -> CellWeights:
    """Returns the weights of the cells of a kind.

    Args:
        edges: (node, state) of every edge.
        names: its candidates.
        operations: their softmaxed weights.
        gamma: of every edge; the softmax over the edges into a node scales what they bring. None scales nothing.
    """
    if gamma is None:
        return CellWeights(edges, names, tuple(operations), operations[0].new_ones(len(edges)))
    passed = edge_weights(edges, gamma)
    scaled = tuple(weights * scale for weights, scale in zip(operations, passed, strict=True))
    return CellWeights(edges, names, scaled, passed)


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
        GenotypeError: the cell has an operation that is no candidate of its edge.
    """
    operations = tuple(like.new_zeros(len(of_edge)) for of_edge in names)
    passed = like.new_zeros(len(edges))
    for node, kept in enumerate(cell):
        for operation, state in kept:
            edge = edges.index((node, state))
            if operation not in names[edge]:
                raise GenotypeError(
                    f"Genotype '{genotype.name}' has {operation} on an edge that no longer has it.",
                    fix="Discretise a supernet with the genotype derived from it.",
                )
            operations[edge][names[edge].index(operation)] = 1.0
            passed[edge] = 1.0
    return CellWeights(edges, names, operations, passed)


def alphas_snapshot(edges: Edges, names: Names, alphas: Tensor) -> dict[str, Any]:
    """Returns the softmaxed alphas of a set as they are written to ``architecture.jsonl``."""
    weights = torch.softmax(alphas.detach(), dim=-1).tolist()
    return {"edges": _labels(edges), "operations": [list(row) for row in names], "weights": weights}


def gammas_snapshot(edges: Edges, gamma: Tensor) -> dict[str, float]:
    """Returns the softmaxed gammas of a kind of cell as they are written to ``architecture.jsonl``."""
    return dict(zip(_labels(edges), edge_weights(edges, gamma.detach()).tolist(), strict=True))


def _labels(edges: Edges) -> list[str]:
    return [f"{node}<-{state}" for node, state in edges]
