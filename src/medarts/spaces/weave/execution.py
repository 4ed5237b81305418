"""How mixed cells are run: one meaning, two executions.

``PLAIN`` is the reference, written to be read: edge by edge, operation by operation. ``FAST`` runs together whatever
reads the same state and gives the same numbers from the same parameters, so checkpoints are interchangeable.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from medarts.spaces.cell import CellWeights, leaving
from medarts.spaces.fast.layout import split_channels, to_bchw, to_bhwc
from medarts.spaces.fast.weighted_sum import Product, weighted_sum
from medarts.spaces.weave.cell import MixedCell
from medarts.spaces.weave.frame import Read, read_each
from medarts.spaces.weave.leaving import preprocess_together

Mix = Callable[[MixedCell, Tensor | None, Tensor, CellWeights], Tensor]
"""(cell, its first input or None where it is absent, its second, weights) -> output, BCHW with nodes x c channels.

The inputs have been read, that is, put through the cell's preprocessing.
"""


@dataclass(frozen=True, slots=True)
class Execution:
    """A way to run a supernet.

    Attributes:
        read: the preprocessing of all cells that read one node.
        mix: a mixed cell.
        memory_format: in which images enter.
    """

    read: Read
    mix: Mix
    memory_format: torch.memory_format


def mix_plain(cell: MixedCell, first: Tensor | None, second: Tensor, weights: CellWeights) -> Tensor:
    """Runs a mixed cell edge by edge and operation by operation."""
    states = [first, second]
    operated: list[Tensor | None] = [None] * cell.intermediate_nodes
    passed: list[Tensor | None] = [None] * cell.intermediate_nodes
    for edge, (node, state) in enumerate(cell.edges):
        operations = cast(nn.ModuleDict, cell.operations[edge])
        read = states[state]
        if read is not None:
            x = read[:, : cell.operated_channels]
            for name, weight in zip(cell.candidates[edge], weights.operations[edge], strict=True):
                if name in operations:
                    operated[node] = _plus(operated[node], weight * operations[name](x))
            if cell.partial_channels > 1:
                passed[node] = _plus(passed[node], weights.passed[edge] * cell.passed(state, read))
        if state == 1 + node:  # the last edge into this node
            states.append(_joined(cell, operated[node], passed[node]))
    return torch.cat(cast(list[Tensor], states[2:]), dim=1)


def mix_together(cell: MixedCell, first: Tensor | None, second: Tensor, weights: CellWeights) -> Tensor:
    """Runs a mixed cell state by state, all edges that leave a state together."""
    states = [first, second]
    operated: Tensor | None = None
    passed: Tensor | None = None
    dropout_prob = cell.dropout_prob if cell.training else 0.0
    for state, (edges, of_state) in enumerate(zip(leaving(cell.edges), weights.by_state, strict=True)):
        read = states[state]
        if read is not None:
            x = to_bhwc(read)[..., : cell.operated_channels]
            operated = cell.leaving[state](x, of_state, operated, dropout_prob=dropout_prob)
            if cell.partial_channels > 1:
                rest = Product(to_bhwc(cell.passed(state, read)), weights.passed[list(edges)][None, :, None])
                passed = weighted_sum(passed, [rest], edges=len(edges))
        if state > 0:
            # What the edges of a state lead to begins with the node that has now been summed.
            node, operated = _first(operated)
            other, passed = _first(passed)
            # Every node reads s1, and ``strongest`` leaves no edge with ``none`` alone: there are operated channels.
            assert node is not None
            if other is not None:
                node = _shuffled(torch.cat([to_bhwc(node), to_bhwc(other)], dim=3), cell.partial_channels)
            states.append(node)
    return torch.cat(cast(list[Tensor], states[2:]), dim=1)


PLAIN = Execution(read_each, mix_plain, torch.contiguous_format)
FAST = Execution(preprocess_together, mix_together, torch.channels_last)


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total + part


def _first(sums_bhwmc: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Splits the sums of nodes into that of the first, BCHW, and those of the others."""
    if sums_bhwmc is None:
        return None, None
    first, others = torch.split(sums_bhwmc, [1, sums_bhwmc.shape[3] - 1], dim=3)
    return to_bchw(first.squeeze(3)), others if others.shape[3] else None


def _joined(cell: MixedCell, operated: Tensor | None, passed: Tensor | None) -> Tensor | None:
    if operated is None or passed is None:
        return operated
    return cast(Tensor, cell.shuffle(torch.cat([operated, passed], dim=1)))


def _shuffled(x_bhwc: Tensor, groups: int) -> Tensor:
    """Interleaves the channels of the groups, as ``ChannelShuffle`` does, BCHW and channels-last."""
    return to_bchw(split_channels(x_bhwc, groups).transpose(3, 4).flatten(3))
