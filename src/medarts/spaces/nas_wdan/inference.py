"""The network of nas-wdan, made fast for inference on a CPU, with equal outputs.

The derived network of training keeps to the order of its description: every operation has its own ReLU, every cell
reads its inputs on its own, and oneDNN rearranges images and weights around every convolution. Here images stay
channels-last where that is faster, weights are packed once (``network/packed.py``), a ReLU runs once for all that read
it, and nodes are summed over the cells of a lattice node before they are concatenated. Batch norms are part of
convolutions.
"""

import copy
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.network import InferenceForm
from medarts.network.layers import ChannelShuffle
from medarts.network.packed import AnyConv, AnyNorm, Convolution, Form, NormedConvolution
from medarts.spaces.nas_wdan.frame import FullSizeHead, Head
from medarts.spaces.nas_wdan.lattice import STEM, Node, cell_key, lattice_inputs, node_key, reaching, size_at
from medarts.spaces.nas_wdan.network import NasWdanCell, NasWdanNetwork, OnLattice

REACH = 4
"""Layers back to the oldest node that a cell reads."""

FEWEST_CHANNELS_LAST = {"batch": 8, "group": 16}
"""Channels of a cell from which on channels-last is faster in fp32, by norm: PyTorch's convolutions of small images and
its group norm run along the channels, and are up to ten times slower than on BCHW where these do not fill a vector."""


class NasWdanInference(OnLattice, InferenceForm):
    """The form for inference of a network.

    Args:
        network: what it computes.
        dtype: in which it computes.
    """

    def __init__(self, network: NasWdanNetwork, *, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.depth, self.stem_stride, self.head_nodes = network.depth, network.stem_stride, network.head_nodes
        frame = network.frame
        self.form, self.paths = _form(network, dtype), frame.paths
        stem = (cast(nn.Sequential, part) for part in frame.stem)
        self.stem = nn.Sequential(*(_behind_relu(part, self.form) for part in stem))
        self.cells = nn.ModuleDict(
            {key: InferenceCell(cast(NasWdanCell, cell), form=self.form) for key, cell in frame.cells.items()}
        )
        self.heads_of_nodes = nn.ModuleDict({key: _head(head, self.form) for key, head in frame.heads.items()})

    @torch.inference_mode()
    def forward_heads(self, x_bchw: Tensor, heads: Sequence[str] | None = None) -> list[Tensor]:
        """Returns the logits of heads as the network does, in fp32 at least."""
        wanted = self.nodes_of(heads)
        size = x_bchw.shape[-2:]
        x = x_bchw.to(self.form.dtype, memory_format=self.form.maps)
        before = self.stem[0](x)
        fine = before if self.has_full_size_head(wanted) else None  # at full size, and held to the end
        active: dict[Node, Tensor] = {STEM: self.stem[1](before)}  # every node behind its ReLU
        del before
        logits = []
        for node in reaching(self.paths, wanted):
            state = self._state(node, active, size)
            if node in wanted:
                logits.append(self._logits(node, state, fine, size))
            active = {other: kept for other, kept in active.items() if other.layer >= node.layer - REACH}
            active[node] = state.relu_()
        return logits

    def has_full_size_head(self, nodes: tuple[Node, ...]) -> bool:
        """Whether the head of one of these nodes works at the size of the image."""
        return any(isinstance(self.heads_of_nodes[node_key(node)], FullSizeInference) for node in nodes)

    def _logits(self, node: Node, state: Tensor, fine: Tensor | None, size: Sequence[int]) -> Tensor:
        head = self.heads_of_nodes[node_key(node)]
        if isinstance(head, FullSizeInference):
            whole: Tensor = head(state.relu_(), fine)  # whose ReLU is that of all who read the node
            return whole.float() if whole.dtype.itemsize < 4 else whole
        small: Tensor = head(state)
        small = small.float() if small.dtype.itemsize < 4 else small
        return F.interpolate(small, size=tuple(size), mode="bilinear")

    def _state(self, node: Node, active: dict[Node, Tensor], size: Sequence[int]) -> Tensor:
        """Returns a node of the lattice: the sum of its cells' outputs."""
        outputs = []
        for transition in self.paths[node]:
            s0, s1 = lattice_inputs(node, transition)
            cell = cast(InferenceCell, self.cells[cell_key(node, transition)])
            outputs.append(cell(active.get(s0), active[s1]))
        nodes = [_sum([part for part in parts if part is not None]) for parts in zip(*outputs, strict=True)]
        at_node = (size_at(node.level, length, stem_stride=self.stem_stride) for length in size)
        of_zeros = (len(active[s1]), cell.channels, *at_node)
        return torch.cat([active[s1].new_zeros(of_zeros) if part is None else part for part in nodes], dim=1)


class InferenceCell(nn.Module):
    """A cell of the derived network.

    Args:
        cell: what it computes.
        form: how it computes.
    """

    def __init__(self, cell: NasWdanCell, *, form: Form) -> None:
        super().__init__()
        self.channels, self.edges = cell.channels, cell.edges
        self.states = {state for node in cell.edges for _, state in node}
        """The states that an edge reads."""
        self.inputs = nn.ModuleDict()
        for state, module in enumerate((cell.input0, cell.input1)):
            if module is not None and state in self.states:
                self.inputs[str(state)] = _behind_relu(cast(nn.Sequential, module), form)
        self.operations = nn.ModuleList(
            nn.ModuleList(_behind_active(operation, form) for operation in cast(nn.ModuleList, operations))
            for operations in cell.operations
        )

    def forward(self, s0: Tensor | None, s1: Tensor) -> list[Tensor | None]:
        """Returns the nodes, BCHW with c channels each; None stands for zeros, which nodes without edges are.

        Args:
            s0: the first input behind its ReLU, None where it is absent; it is read here.
            s1: the second input behind its ReLU.
        """
        active: list[Tensor | None] = [
            self.inputs[str(state)](given) if given is not None and state in self.states else None
            for state, given in enumerate((s0, s1))
        ]
        nodes = []
        for edges, operations in zip(self.edges, self.operations, strict=True):
            terms = [
                operation(x)
                for (_, state), operation in zip(edges, cast(nn.ModuleList, operations), strict=True)
                if (x := active[state]) is not None
            ]
            node = _sum(terms)
            nodes.append(node)
            active.append(torch.relu(node) if node is not None and len(active) in self.states else None)
        return nodes


class FullSizeInference(nn.Module):
    """The head at full size.

    Args:
        head: what it computes.
        form: how it computes.
    """

    def __init__(self, head: FullSizeHead, *, form: Form) -> None:
        super().__init__()
        self.upsampling = head.upsampling
        self.read = _behind_relu(cast(nn.Sequential, head.read), form, relu=False)
        self.fine = _behind_relu(head.fine, form, relu=False)
        self.join = _behind_relu(head.join, form)
        self.head = _head(head.head, form)

    def forward(self, active_bchw: Tensor, fine_bchw: Tensor) -> Tensor:
        """Returns the logits at the size of the image.

        Args:
            active_bchw: the node behind its ReLU.
            fine_bchw: the output of the first convolution of the stem.
        """
        read: Tensor = self.read(active_bchw)
        if self.upsampling > 1:
            read = F.interpolate(read, scale_factor=self.upsampling, mode="bilinear")
        logits: Tensor = self.head(self.join((self.fine(fine_bchw) + read).relu_()))
        return logits


def _sum(terms: Sequence[Tensor]) -> Tensor | None:
    """Returns the sum, without changing the terms; None where there are none."""
    if len(terms) < 2:
        return terms[0] if terms else None
    total = terms[0] + terms[1]
    for term in terms[2:]:
        total += term
    return total


def _behind_relu(parts: nn.Sequential, form: Form, *, relu: bool = True) -> NormedConvolution:
    """Returns the convolution and the norm among some parts, with a ReLU behind them or without."""
    conv, norm = (part for part in parts if not isinstance(part, nn.ReLU))
    return NormedConvolution(cast(AnyConv, conv), cast(AnyNorm, norm), form=form, relu=relu)


def _head(head: nn.Module, form: Form) -> nn.Module:
    if isinstance(head, FullSizeHead):
        return FullSizeInference(head, form=form)
    assert isinstance(head, Head)
    return Convolution(head.conv, form=form, scale=head.scale.detach(), bias=head.shift.detach())


def _behind_active(operation: nn.Module, form: Form) -> nn.Module:
    """Returns an operation for inputs that are behind its ReLU already."""
    whole = operation if isinstance(operation, nn.Sequential) else [operation]
    parts = [part for part in whole if not isinstance(part, (nn.ReLU, nn.Dropout))]
    if not parts or not isinstance(parts[-1], (nn.GroupNorm, nn.BatchNorm2d)):
        return nn.Sequential(*copy.deepcopy(parts)).to(form.dtype)
    norm = cast(AnyNorm, parts.pop())
    shuffle = cast(ChannelShuffle, parts.pop()).groups if isinstance(parts[-1], ChannelShuffle) else 1
    last = NormedConvolution(cast(AnyConv, parts.pop()), norm, form=form, shuffle=shuffle)
    # What is left stands in front: squeeze-excite, or a convolution of each channel by itself.
    first = (
        Convolution(part, form=form)
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d))
        else copy.deepcopy(part).to(form.dtype)
        for part in parts
    )
    return nn.Sequential(*first, last)


def _form(network: NasWdanNetwork, dtype: torch.dtype) -> Form:
    """Returns how a network computes fastest; see ``FEWEST_CHANNELS_LAST``."""
    reads = (cast(NasWdanCell, cell).get_submodule("input1.1") for cell in network.frame.cells.values())
    narrowest = min(cast(nn.Conv2d, read).out_channels for read in reads)
    norm = "group" if any(isinstance(part, nn.GroupNorm) for part in network.modules()) else "batch"
    # In bf16 PyTorch leaves every convolution to oneDNN, whose layout is channels-last.
    if dtype != torch.bfloat16 and narrowest < FEWEST_CHANNELS_LAST[norm]:
        return Form(dtype, torch.contiguous_format)
    return Form.channels_last_on_cpu(network, dtype)
