"""What the supernet and the derived network share: stem, cells on the lattice, heads."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.network.layers import Norm, make_norm
from medarts.spaces.nas_wdan.lattice import STEM, Node, cell_key, lattice_inputs, node_key, reaching, without_cells
from medarts.spaces.nas_wdan.operations import Transition, preprocess

STEM_CHANNELS = 64
"""Of the published stem, whatever C is."""

HEAD_DROPOUT = 0.1

FULL_SIZE_CHANNELS = 16
"""Of the head at full size. With AVX-512, ONNX Runtime computes 16 at once, so fewer would be no faster there."""

CellMaker = Callable[[Transition, int | None, int, int], nn.Module]
"""(transition, channels of s0 or None where absent, channels of s1, c) -> cell that gives nodes x c channels."""

CellRunner = Callable[[Node, Transition, nn.Module, Tensor | None, Tensor], Tensor]
"""(node, transition, cell, s0 and s1 as read) -> the cell's output, weighted where paths have weights."""

Read = Callable[[Tensor, Sequence[nn.Module]], list[Tensor]]
"""(a node's state, the preprocessing of every cell that reads it) -> what each of them gets."""


def read_each(state_bchw: Tensor, inputs: Sequence[nn.Module]) -> list[Tensor]:
    """Puts a state through the preprocessing of every cell that reads it, one by one."""
    return [module(state_bchw) for module in inputs]


def node_shape(transition: Transition, channels: int, s1_bchw: Tensor) -> tuple[int, int, int, int]:
    """Returns the shape of a cell's node with that many channels; ``s1_bchw`` is the cell's second input."""
    b, _, h, w = s1_bchw.shape
    if transition == "down":
        return b, channels, h // 2, w // 2
    if transition == "up":
        return b, channels, h * 2, w * 2
    return b, channels, h, w


def _conv_norm_relu(in_channels: int, out_channels: int, *, stride: int, affine: bool, norm: Norm) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        make_norm(norm, out_channels, affine=affine),
        nn.ReLU(),
    )


def make_stem(
    in_channels: int, channels: int = STEM_CHANNELS, *, affine: bool, norm: Norm, stride: int = 2
) -> nn.Sequential:
    """Returns the two convolutions before the first cell; the first has half of the channels, the second the stride."""
    return nn.Sequential(
        _conv_norm_relu(in_channels, channels // 2, stride=1, affine=affine, norm=norm),
        _conv_norm_relu(channels // 2, channels, stride=stride, affine=affine, norm=norm),
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


class FullSizeHead(nn.Module):
    """A head at the size of the image: joins a node with the output of the stem's first convolution.

    The top row of a lattice has half of the height and width, so a published head cannot draw an edge between its
    pixels. A U-Net does by the skip connection of its first level. This is a cheap one: both inputs go through 1x1
    convolutions, are added, and pass one 3x3 convolution.

    Args:
        channels: of the node.
        fine_channels: of the first convolution of the stem.
        outputs: channels of the logits.
        upsampling: size of the image by that of the node.
        affine: whether the norms have a scale and a shift.
        norm: their kind.
    """

    def __init__(
        self, channels: int, fine_channels: int, outputs: int, *, upsampling: int, affine: bool, norm: Norm
    ) -> None:
        super().__init__()
        width = FULL_SIZE_CHANNELS
        self.upsampling = upsampling
        self.read = preprocess(channels, width, affine=affine, norm=norm)
        self.fine = nn.Sequential(nn.Conv2d(fine_channels, width, 1, bias=False), make_norm(norm, width, affine=affine))
        self.join = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            make_norm(norm, width, affine=affine),
            nn.ReLU(),
        )
        self.head = Head(width, outputs)

    @property
    def shift(self) -> nn.Parameter:
        """That of each class's logit."""
        return self.head.shift

    def joined(self, x_bchw: Tensor, fine_bchw: Tensor) -> Tensor:
        """Returns what the logits are made of, at the size of the image."""
        read: Tensor = self.read(x_bchw)
        if self.upsampling > 1:
            read = F.interpolate(read, scale_factor=self.upsampling, mode="bilinear")
        y: Tensor = self.join(read + self.fine(fine_bchw))
        return y

    def forward(self, x_bchw: Tensor, fine_bchw: Tensor) -> Tensor:
        """Returns logits, one channel a class.

        Args:
            x_bchw: the node.
            fine_bchw: the output of the first convolution of the stem.
        """
        logits: Tensor = self.head(self.joined(x_bchw, fine_bchw))
        return logits


class NasWdanFrame(nn.Module):
    """Stem, one cell for every kept transition, and a head on each of ``heads``.

    Args:
        paths: the transitions into every node.
        heads: nodes that carry a head.
        make_cell: builds the cell of a transition.
        widths: c of every level.
        intermediate_nodes: nodes of a cell; its output has that many times c channels.
        in_channels: channels of the images.
        outputs: channels of the logits.
        affine: whether the norms of the stem and of a head at full size have a scale and a shift.
        norm: their kind.
        stem_stride: of the stem.
        stem_channels: that the first cells read.
        full_size_head: whether the last head is a `FullSizeHead`.
    """

    def __init__(
        self,
        *,
        paths: Mapping[Node, tuple[Transition, ...]],
        heads: tuple[Node, ...],
        make_cell: CellMaker,
        widths: tuple[int, ...],
        intermediate_nodes: int,
        in_channels: int,
        outputs: int,
        affine: bool,
        norm: Norm = "group",
        stem_stride: int = 2,
        stem_channels: int = STEM_CHANNELS,
        full_size_head: bool = False,
    ) -> None:
        super().__init__()
        self.paths = dict(paths)
        self.head_nodes = heads
        self.stem = make_stem(in_channels, stem_channels, affine=affine, norm=norm, stride=stem_stride)
        channels = {node: intermediate_nodes * widths[node.level] for node in self.paths}
        channels[STEM] = stem_channels
        self.cells = nn.ModuleDict()
        for node, transitions in self.paths.items():
            for transition in transitions:
                s0, s1 = lattice_inputs(node, transition)
                cell = make_cell(transition, channels.get(s0), channels[s1], widths[node.level])
                self.cells[cell_key(node, transition)] = cell
        self.heads = nn.ModuleDict({node_key(node): Head(channels[node], outputs) for node in heads})
        if full_size_head:
            last = heads[-1]
            self.heads[node_key(last)] = FullSizeHead(
                channels[last], stem_channels // 2, outputs, upsampling=stem_stride, affine=affine, norm=norm
            )

    def run(
        self,
        x_bchw: Tensor,
        run_cell: CellRunner,
        *,
        heads: tuple[Node, ...] | None = None,
        paths: Mapping[Node, tuple[Transition, ...]] | None = None,
        read: Read = read_each,
    ) -> list[Tensor]:
        """Returns the logits of the heads, first to last, each at the input's size.

        Args:
            x_bchw: images.
            run_cell: how a cell is run.
            heads: the heads that are wanted; cells that none of them needs are not run. None wants all.
            paths: the cells that may be run, at least one of every node. None allows all.
            read: how cells read a node.
        """
        wanted = self.head_nodes if heads is None else heads
        paths = reaching(self.paths if paths is None else paths, wanted)
        states: dict[Node, Tensor] = {}
        inputs: dict[tuple[str, int], Tensor] = {}

        def settle(node: Node, state: Tensor) -> None:
            """Lets all cells read a node that will, and keeps its state where it has a head."""
            if node in wanted:
                states[node] = state
            readers = self.readers(node, paths)
            if readers:
                parts = read(state, [self.cells[cell].get_submodule(f"input{slot}") for cell, slot in readers])
                inputs.update(zip(readers, parts, strict=True))

        before = self.stem[0](x_bchw)
        fine = before if self.has_full_size_head(wanted) else None  # at full size, and held to the end
        settle(STEM, self.stem[1](before))
        del before
        for node, transitions in paths.items():
            total: Tensor | None = None
            for transition in transitions:
                key = cell_key(node, transition)
                output = run_cell(node, transition, self.cells[key], inputs.pop((key, 0), None), inputs.pop((key, 1)))
                total = output if total is None else total + output
            assert total is not None
            settle(node, total)
        logits = []
        for node in wanted:
            head, state = self.heads[node_key(node)], states[node]
            if isinstance(head, FullSizeHead):
                assert fine is not None
                logits.append(head(state, fine))
            else:
                logits.append(F.interpolate(head(state), size=x_bchw.shape[-2:], mode="bilinear"))
        return logits

    def has_full_size_head(self, nodes: tuple[Node, ...]) -> bool:
        """Whether the head of one of these nodes is a `FullSizeHead`."""
        return any(isinstance(self.heads[node_key(node)], FullSizeHead) for node in nodes)

    @property
    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """The shifts of the heads."""
        return tuple(cast(Head | FullSizeHead, head).shift for head in self.heads.values())

    def take_away(self, cells: Sequence[str], heads: tuple[Node, ...]) -> None:
        """Takes cells, and heads but those of the nodes ``heads``, away, with all that no kept head needs any more.

        Raises:
            RunError: there is no such cell, or a node that is read or has a head would keep none.
        """
        self.paths = without_cells(self.paths, cells, heads)
        self.head_nodes = heads
        kept = {cell_key(node, transition) for node, transitions in self.paths.items() for transition in transitions}
        for key in [*self.cells.keys() - kept]:
            del self.cells[key]
        for key in [*self.heads.keys() - {*map(node_key, heads)}]:
            del self.heads[key]

    def readers(self, node: Node, paths: Mapping[Node, tuple[Transition, ...]]) -> list[tuple[str, int]]:
        """Returns (cell, input) of all that read a node."""
        return [
            (cell_key(reader, transition), slot)
            for reader, transitions in paths.items()
            for transition in transitions
            for slot, source in enumerate(lattice_inputs(reader, transition))
            if source == node
        ]
