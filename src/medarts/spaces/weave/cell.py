"""The mixed cell of the weaved supernet: all candidate operations on all edges, weighted by the alphas.

One meaning, several executions. The module holds the parameters and their layout; an *execution* is a function of
(cell, s0, s1, weights). ``run_plain`` is the reference, written to be read; a faster one has to give the same
numbers from the same parameters, so that checkpoints are interchangeable.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from medarts.spaces.operations import NONE, Move, OperationSettings, make_operation, preprocess

Edges = tuple[tuple[int, int], ...]

EdgeWeights = Sequence[Tensor]
"""For every edge of a cell, the weights of its candidates, in their order."""


def cell_edges(intermediate_nodes: int) -> Edges:
    """Returns the (node, state) pairs of a cell: node i reads the states 0 to 1 + i."""
    return tuple((node, state) for node in range(intermediate_nodes) for state in range(2 + node))


class MixedCell(nn.Module):
    """A cell whose every edge is a weighted sum of its candidate operations.

    Args:
        move: down, normal or up.
        candidates: names of the candidate operations of every edge, in the order of ``cell_edges``.
        intermediate_nodes: nodes between the inputs and the output.
        s0_channels: channels of the first input, None where it is absent; edges that read it then give nothing.
        s1_channels: channels of the second input.
        channels: c, the channels of every node.
        settings: shared by all operations.
    """

    def __init__(
        self,
        move: Move,
        candidates: Sequence[tuple[str, ...]],
        *,
        intermediate_nodes: int,
        s0_channels: int | None,
        s1_channels: int,
        channels: int,
        settings: OperationSettings,
    ) -> None:
        super().__init__()
        self.move = move
        self.candidates = tuple(candidates)
        self.edges = cell_edges(intermediate_nodes)
        self.intermediate_nodes = intermediate_nodes
        self.input0 = preprocess(s0_channels, channels, affine=settings.affine) if s0_channels is not None else None
        self.input1 = preprocess(s1_channels, channels, affine=settings.affine)
        self.operations = nn.ModuleList()
        for (_, state), names in zip(self.edges, self.candidates, strict=True):
            present = () if state == 0 and self.input0 is None else names
            self.operations.append(
                nn.ModuleDict({name: make_operation(name, channels, settings) for name in present if name != NONE})
            )


Execution = Callable[[MixedCell, Tensor | None, Tensor, EdgeWeights], Tensor]


def run_plain(cell: MixedCell, s0: Tensor | None, s1: Tensor, weights: EdgeWeights) -> Tensor:
    """Runs a mixed cell edge by edge and operation by operation.

    Args:
        cell: the cell.
        s0: first input, or None where it is absent.
        s1: second input.
        weights: the weights of the candidates of every edge.

    Returns:
        The output, BCHW with nodes x c channels. A node whose every edge is empty would have no shape; it cannot
        occur, since every node reads s1.
    """
    states = [None if s0 is None or cell.input0 is None else cell.input0(s0), cell.input1(s1)]
    totals: list[Tensor | None] = [None] * cell.intermediate_nodes
    for edge, (node, state) in enumerate(cell.edges):
        operations = cast(nn.ModuleDict, cell.operations[edge])
        read = states[state]
        for name, weight in zip(cell.candidates[edge], weights[edge], strict=True):
            if read is not None and name in operations:
                term = weight * operations[name](read)
                totals[node] = term if totals[node] is None else totals[node] + term
        if state == 1 + node:  # the last edge into this node
            states.append(totals[node])
    return torch.cat(cast(list[Tensor], totals), dim=1)
