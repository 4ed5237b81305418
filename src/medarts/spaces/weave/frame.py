"""What the supernet and the derived network share: stem, cells on the lattice, heads."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.spaces.operations import Move, group_norm
from medarts.spaces.weave import lattice
from medarts.spaces.weave.lattice import Node

STEM_CHANNELS = (32, 64)
HEAD_DROPOUT = 0.1

CellMaker = Callable[[Move, int | None, int, int], nn.Module]
"""(move, channels of s0 or None where absent, channels of s1, c) -> cell that gives nodes x c channels."""

CellRunner = Callable[[Node, Move, nn.Module, Tensor | None, Tensor], Tensor]
"""(node, move, cell, s0, s1) -> the cell's output, weighted where paths have weights."""


def _conv_norm_relu(in_channels: int, out_channels: int, *, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        group_norm(out_channels, affine=affine),
        nn.ReLU(),
    )


class Head(nn.Module):
    """A 1x1 convolution without bias, then a scale and a shift of each class's logit.

    The published head counts a norm's scale and shift for each class. A norm itself would give every image
    logits of the same mean and spread, whatever its share of foreground; so scale and shift alone are applied.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(HEAD_DROPOUT)
        self.conv = nn.Conv2d(channels, outputs, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(outputs))
        self.shift = nn.Parameter(torch.zeros(outputs))

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns logits, one channel a class, at the size of the input."""
        logits: Tensor = self.conv(self.dropout(x_bchw))
        return logits * self.scale[:, None, None] + self.shift[:, None, None]


class WeaveFrame(nn.Module):
    """Stem, one cell for every kept move, and a 1x1 head on each of ``heads``.

    Args:
        paths: the moves into every node.
        heads: nodes that carry a head.
        make_cell: builds the cell of a move.
        widths: c of every level.
        intermediate_nodes: nodes of a cell; its output has that many times c channels.
        in_channels: channels of the images.
        outputs: channels of the logits.
        affine: whether the stem's norms have a scale and a shift.
    """

    def __init__(
        self,
        *,
        paths: Mapping[Node, tuple[Move, ...]],
        heads: tuple[Node, ...],
        make_cell: CellMaker,
        widths: tuple[int, ...],
        intermediate_nodes: int,
        in_channels: int,
        outputs: int,
        affine: bool,
    ) -> None:
        super().__init__()
        self.paths = dict(paths)
        self.head_nodes = heads
        self.stem = nn.Sequential(
            _conv_norm_relu(in_channels, STEM_CHANNELS[0], stride=1, affine=affine),
            _conv_norm_relu(STEM_CHANNELS[0], STEM_CHANNELS[1], stride=2, affine=affine),
        )
        channels = {node: intermediate_nodes * widths[node.level] for node in self.paths}
        channels[lattice.STEM] = STEM_CHANNELS[1]
        self.cells = nn.ModuleDict()
        for node, moves in self.paths.items():
            for move in moves:
                s0, s1 = lattice.inputs(node, move)
                cell = make_cell(move, channels.get(s0), channels[s1], widths[node.level])
                self.cells[_cell_key(node, move)] = cell
        self.heads = nn.ModuleDict({_node_key(node): Head(channels[node], outputs) for node in heads})

    def run(self, x_bchw: Tensor, run_cell: CellRunner, *, heads: tuple[Node, ...] | None = None) -> list[Tensor]:
        """Returns the logits of the heads, first to last, each resized to the input's size.

        Args:
            x_bchw: images.
            run_cell: how a cell is run.
            heads: the heads that are wanted; cells that none of them needs are not run. None wants all.
        """
        wanted = self.head_nodes if heads is None else heads
        states: dict[Node, Tensor] = {lattice.STEM: self.stem(x_bchw)}
        for node, moves in lattice.reaching(self.paths, wanted).items():
            for move in moves:
                s0, s1 = lattice.inputs(node, move)
                cell = self.cells[_cell_key(node, move)]
                output = run_cell(node, move, cell, states.get(s0), states[s1])
                states[node] = states[node] + output if node in states else output
        size = x_bchw.shape[-2:]
        return [F.interpolate(self.heads[_node_key(node)](states[node]), size=size, mode="bilinear") for node in wanted]


def _node_key(node: Node) -> str:
    return f"{node.layer}_{node.level}"


def _cell_key(node: Node, move: Move) -> str:
    return f"{_node_key(node)}_{move}"
