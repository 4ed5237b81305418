"""What the supernet and the derived network share: stem, cells on the lattice, heads."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.spaces.layers import Norm, make_norm
from medarts.spaces.weave import lattice
from medarts.spaces.weave.lattice import Node
from medarts.spaces.weave.operations import Move

STEM_CHANNELS = (32, 64)
HEAD_DROPOUT = 0.1

CellMaker = Callable[[Move, int | None, int, int], nn.Module]
"""(move, channels of s0 or None where absent, channels of s1, c) -> cell that gives nodes x c channels."""

CellRunner = Callable[[Node, Move, nn.Module, Tensor | None, Tensor], Tensor]
"""(node, move, cell, s0 and s1 as read) -> the cell's output, weighted where paths have weights."""

Read = Callable[[Tensor, Sequence[nn.Module]], list[Tensor]]
"""(a node's state, the preprocessing of every cell that reads it) -> what each of them gets."""


def read_each(state_bchw: Tensor, inputs: Sequence[nn.Module]) -> list[Tensor]:
    """Puts a state through the preprocessing of every cell that reads it, one by one."""
    return [module(state_bchw) for module in inputs]


def _conv_norm_relu(in_channels: int, out_channels: int, *, stride: int, affine: bool, norm: Norm) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        make_norm(norm, out_channels, affine=affine),
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
        norm: the kind of the stem's norms.
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
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        self.paths = dict(paths)
        self.head_nodes = heads
        self.stem = nn.Sequential(
            _conv_norm_relu(in_channels, STEM_CHANNELS[0], stride=1, affine=affine, norm=norm),
            _conv_norm_relu(STEM_CHANNELS[0], STEM_CHANNELS[1], stride=2, affine=affine, norm=norm),
        )
        channels = {node: intermediate_nodes * widths[node.level] for node in self.paths}
        channels[lattice.STEM] = STEM_CHANNELS[1]
        self.cells = nn.ModuleDict()
        for node, moves in self.paths.items():
            for move in moves:
                s0, s1 = lattice.inputs(node, move)
                cell = make_cell(move, channels.get(s0), channels[s1], widths[node.level])
                self.cells[cell_key(node, move)] = cell
        self.heads = nn.ModuleDict({node_key(node): Head(channels[node], outputs) for node in heads})

    def run(
        self,
        x_bchw: Tensor,
        run_cell: CellRunner,
        *,
        heads: tuple[Node, ...] | None = None,
        read: Read = read_each,
    ) -> list[Tensor]:
        """Returns the logits of the heads, first to last, each resized to the input's size.

        Args:
            x_bchw: images.
            run_cell: how a cell is run.
            heads: the heads that are wanted; cells that none of them needs are not run. None wants all.
            read: how cells read a node.
        """
        wanted = self.head_nodes if heads is None else heads
        paths = lattice.reaching(self.paths, wanted)
        states: dict[Node, Tensor] = {}
        inputs: dict[tuple[str, int], Tensor] = {}

        def settle(node: Node, state: Tensor) -> None:
            """Lets all cells read a node that will, and keeps its state where it has a head."""
            if node in wanted:
                states[node] = state
            readers = self._readers(node, paths)
            if readers:
                parts = read(state, [self.cells[cell].get_submodule(f"input{slot}") for cell, slot in readers])
                inputs.update(zip(readers, parts, strict=True))

        settle(lattice.STEM, self.stem(x_bchw))
        for node, moves in paths.items():
            total: Tensor | None = None
            for move in moves:
                key = cell_key(node, move)
                output = run_cell(node, move, self.cells[key], inputs.pop((key, 0), None), inputs.pop((key, 1)))
                total = output if total is None else total + output
            assert total is not None
            settle(node, total)
        size = x_bchw.shape[-2:]
        return [F.interpolate(self.heads[node_key(node)](states[node]), size=size, mode="bilinear") for node in wanted]

    def _readers(self, node: Node, paths: Mapping[Node, tuple[Move, ...]]) -> list[tuple[str, int]]:
        """Returns (cell, input) of all that read a node."""
        return [
            (cell_key(reader, move), slot)
            for reader, moves in paths.items()
            for move in moves
            for slot, source in enumerate(lattice.inputs(reader, move))
            if source == node
        ]


def node_key(node: Node) -> str:
    """Returns the name of a node's head among ``WeaveFrame.heads``."""
    return f"{node.layer}_{node.level}"


def cell_key(node: Node, move: Move) -> str:
    """Returns the name of a cell among ``WeaveFrame.cells``."""
    return f"{node_key(node)}_{move}"
