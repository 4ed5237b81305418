"""The mixed cell of the stack's supernet: all candidate operations on all edges, weighted by the alphas.

One meaning, two executions (see ``execution``). The modules here hold the parameters, in one layout for both.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from medarts.spaces.cell import NONE, cell_edges, leaving
from medarts.spaces.layers import ChannelShuffle
from medarts.spaces.stack import operations
from medarts.spaces.stack.joined import Leaving
from medarts.spaces.stack.operations import Kind, StackOperationSettings, make_operation, preprocess


class MixedCell(nn.Module):
    """A cell whose every edge is a weighted sum of its candidate operations.

    Args:
        kind: normal, or reduce, which halves height and width.
        candidates: names of the candidate operations of every edge, in the order of ``cell_edges``.
        intermediate_nodes: nodes between the inputs and the output.
        s0_channels: channels of the first input, the output of the cell before the last.
        s1_channels: channels of the second input, the output of the last cell.
        channels: c, the channels of every node.
        reduction_before: whether the last cell reduced, so that the first input has twice the size of the second.
        settings: shared by all operations.
        partial_channels: K; the operations see the first c/K channels of a state, the others pass them by.
    """

    def __init__(
        self,
        kind: Kind,
        candidates: Sequence[tuple[str, ...]],
        *,
        intermediate_nodes: int,
        s0_channels: int,
        s1_channels: int,
        channels: int,
        reduction_before: bool,
        settings: StackOperationSettings,
        partial_channels: int = 1,
    ) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.candidates = tuple(candidates)
        self.edges = cell_edges(intermediate_nodes)
        self.intermediate_nodes = intermediate_nodes
        self.partial_channels = partial_channels
        self.operated_channels = channels // partial_channels
        self.shuffle = ChannelShuffle(partial_channels)
        self.input0 = preprocess(s0_channels, channels, settings=settings, halve=reduction_before)
        self.input1 = preprocess(s1_channels, channels, settings=settings)
        self.operations = nn.ModuleList()
        for (_, state), names in zip(self.edges, self.candidates, strict=True):
            stride = self.stride_of(state)
            self.operations.append(
                nn.ModuleDict(
                    {
                        name: make_operation(name, self.operated_channels, stride=stride, settings=settings)
                        for name in names
                        if name != NONE
                    }
                )
            )

    @cached_property
    def leaving(self) -> tuple[Leaving, ...]:
        """For every state the operations on the edges that leave it, joined."""
        return tuple(
            Leaving([cast(nn.ModuleDict, self.operations[edge]) for edge in edges]) for edges in leaving(self.edges)
        )

    def stride_of(self, state: int) -> int:
        """Returns the stride of the edges from a state."""
        return operations.stride_of(self.kind, state)

    def passed(self, state: int, x_bchw: Tensor) -> Tensor:
        """Returns the channels of a state that pass the operations by, at the size of the nodes (PC-DARTS)."""
        rest = x_bchw[:, self.operated_channels :]
        return rest if self.stride_of(state) == 1 else F.max_pool2d(rest, 2, ceil_mode=True)
