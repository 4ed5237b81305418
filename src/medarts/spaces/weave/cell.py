"""The mixed cell of the weaved supernet: all candidate operations on all edges, weighted by the alphas.

One meaning, two executions (see ``execution``). The modules here hold the parameters, in one layout for both.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from medarts.spaces.cell import NONE, cell_edges, leaving
from medarts.spaces.layers import ChannelShuffle
from medarts.spaces.weave.leaving import Leaving
from medarts.spaces.weave.operations import Move, OperationSettings, make_operation, preprocess


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
        partial_channels: K; the operations see the first c/K channels of a state, the others pass them by.
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
        partial_channels: int = 1,
    ) -> None:
        super().__init__()
        self.move = move
        self.candidates = tuple(candidates)
        self.edges = cell_edges(intermediate_nodes)
        self.intermediate_nodes = intermediate_nodes
        self.dropout_prob = settings.dropout_prob
        self.partial_channels = partial_channels
        self.operated_channels = channels // partial_channels
        self.shuffle = ChannelShuffle(partial_channels)
        self.input0 = preprocess(s0_channels, channels, affine=settings.affine) if s0_channels is not None else None
        self.input1 = preprocess(s1_channels, channels, affine=settings.affine)
        self.operations = nn.ModuleList()
        for (_, state), names in zip(self.edges, self.candidates, strict=True):
            present = () if state == 0 and self.input0 is None else names
            self.operations.append(
                nn.ModuleDict(
                    {name: make_operation(name, self.operated_channels, settings) for name in present if name != NONE}
                )
            )

    @cached_property
    def leaving(self) -> tuple[Leaving, ...]:
        """For every state the operations on the edges that leave it, joined."""
        return tuple(
            Leaving([cast(nn.ModuleDict, self.operations[edge]) for edge in edges], self.operated_channels)
            for edges in leaving(self.edges)
        )

    def passed(self, state: int, x_bchw: Tensor) -> Tensor:
        """Returns the channels of a state that pass the operations by, at the size of the nodes (PC-DARTS)."""
        rest = x_bchw[:, self.operated_channels :]
        if state != 1 or self.move == "normal":
            return rest
        return F.max_pool2d(rest, 2) if self.move == "down" else F.interpolate(rest, scale_factor=2.0)
