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
from medarts.spaces.fast.layout import split_channels, to_bchw
from medarts.spaces.stack.cell import MixedCell
from medarts.spaces.stack.joined import add_products

Mix = Callable[[MixedCell, Tensor, Tensor, CellWeights], Tensor]
"""(cell, its first input, its second, weights) -> output, BCHW with nodes x c channels.

The inputs have been read, that is, put through the cell's preprocessing.
"""


@dataclass(frozen=True, slots=True)
class Execution:
    """A way to run a supernet.

    Attributes:
        mix: a mixed cell.
        memory_format: in which images enter.
    """

    mix: Mix
    memory_format: torch.memory_format


def mix_plain(cell: MixedCell, first: Tensor, second: Tensor, weights: CellWeights) -> Tensor:
    """Runs a mixed cell edge by edge and operation by operation."""
    states = [first, second]
    for node in range(cell.intermediate_nodes):
        operated: list[Tensor] = []
        passed: list[Tensor] = []
        for edge, (into, state) in enumerate(cell.edges):
            if into != node:
                continue
            operations = cast(nn.ModuleDict, cell.operations[edge])
            x = states[state][:, : cell.operated_channels]
            for name, weight in zip(cell.candidates[edge], weights.operations[edge], strict=True):
                if name in operations:
                    operated.append(weight * operations[name](x))
            if cell.partial_channels > 1:
                passed.append(weights.passed[edge] * cell.passed(state, states[state]))
        # ``strongest`` leaves no edge with ``none`` alone, so that every node has operated channels.
        total = sum(operated[1:], operated[0])
        if passed:
            total = cell.shuffle(torch.cat([total, sum(passed[1:], passed[0])], dim=1))
        states.append(total)
    return torch.cat(states[2:], dim=1)


def mix_together(cell: MixedCell, first: Tensor, second: Tensor, weights: CellWeights) -> Tensor:
    """Runs a mixed cell state by state, all edges that leave a state together."""
    states = [first, second]
    operated = _sums(cell, first, cell.operated_channels)
    passed = _sums(cell, first, first.shape[1] - cell.operated_channels)
    for state, (edges, of_state) in enumerate(zip(leaving(cell.edges), weights.by_state, strict=True)):
        x = states[state]
        operated = cell.leaving[state](x[:, : cell.operated_channels], of_state, operated)
        if cell.partial_channels > 1:
            passed = add_products(passed, [(cell.passed(state, x), weights.passed[list(edges)])])
        if state > 0:
            # What the edges of a state lead to begins with the node that has now been summed.
            node, operated = torch.split(operated, [1, len(operated) - 1])
            other, passed = torch.split(passed, [1, len(passed) - 1])
            joined = node if cell.partial_channels == 1 else torch.cat([node, other], dim=4)
            states.append(_shuffled(joined.squeeze(0), cell.partial_channels))
    return torch.cat(states[2:], dim=1)


PLAIN = Execution(mix_plain, torch.contiguous_format)
FAST = Execution(mix_together, torch.channels_last)


def _sums(cell: MixedCell, first_bchw: Tensor, channels: int) -> Tensor:
    """Returns the sums of a cell's nodes before anything is added, MBHWC."""
    b, _, h, w = first_bchw.shape
    stride = cell.stride_of(0)
    return first_bchw.new_zeros(cell.intermediate_nodes, b, -(-h // stride), -(-w // stride), channels)


def _shuffled(x_bhwc: Tensor, groups: int) -> Tensor:
    """Interleaves the channels of the groups, as ``ChannelShuffle`` does, BCHW and channels-last."""
    return to_bchw(split_channels(x_bhwc, groups).transpose(3, 4).flatten(3)) if groups > 1 else to_bchw(x_bhwc)
