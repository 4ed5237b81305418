"""The search space nas-wdan: a lattice of resolutions, woven of down, normal and up cells. For images with masks.

Source: NAS-WDAN / MixSearch (arXiv 2102.13280), search space and search.

The lattice has nodes (t, l): layer t counted from the stem, level l with 1/2^(l+1) of the input's resolution. A cell
leads into a node from two earlier ones and halves, keeps or doubles the resolution; the node is the weighted sum of its
cells (betas). Inside a cell every edge is the weighted sum of its candidate operations (alphas). The derived network
keeps the strongest operation of the two strongest edges into each node of a cell, and the strongest cells of each node
of the lattice. In this order below: settings, lattice, frame, mixed cell, supernet, network, genotypes, the space.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medarts.config import DeriveSettings, StageSettings, SupernetSettings
from medarts.config.data import Task
from medarts.config.section import (
    DEEPEST,
    LATER,
    MOST_CHANNELS,
    MOST_NODES,
    Channels,
    Flag,
    Fraction,
    Nodes,
    OperationNames,
    Section,
    Settings,
    Whole,
)
from medarts.errors import GenotypeError, RecipeError, RunError, did_you_mean, quoted
from medarts.network import InferenceForm, Network
from medarts.network.layers import ChannelShuffle, Norm, make_norm
from medarts.spaces import register_space
from medarts.spaces.base import (
    AS_DERIVED,
    WIDTHS,
    Candidates,
    CellWeights,
    Names,
    SearchSpace,
    Supernet,
    alphas_snapshot,
    cell_edges,
    cell_weights,
    check_candidates,
    derive_cell,
    edge_labels,
    expected_of_cell,
    gammas_snapshot,
    initial,
    leaving,
    one_hot,
    restricted,
    strongest,
    where_skips,
)
from medarts.spaces.decisions import Decision, edges_decisions, operation_decision
from medarts.spaces.fused import nas_wdan as fused
from medarts.spaces.genotype import (
    COPY_AGAIN,
    NONE,
    RANDOM,
    Cell,
    Genotype,
    KeptCells,
    Setting,
    check_cell,
    check_range,
    check_space,
    read_settings,
)
from medarts.spaces.lattice import Lattice, Path
from medarts.spaces.nas_wdan_operations import (
    OPERATIONS,
    SKIP,
    TRANSITIONS,
    OperationSettings,
    Transition,
    make_operation,
    preprocess,
    set_of_edge,
)
from medarts.spaces.pieces import Piece
from medarts.spaces.sampling import (
    CandidatesOf,
    Choices,
    Mutation,
    cells_with_nodes,
    cheaper_setting,
    edge_changes,
    in_order,
    nearest_choices,
    operation_changes,
    random_cells,
    random_like,
    random_settings,
    repeated,
    setting_words,
    without_none,
)

SPACE = "nas-wdan"

StemStride = Annotated[Whole, Field(ge=1, le=2)]


DROPPED: tuple[Transition, ...] = ("normal", "up", "down")
"""Kinds of paths in the order in which a budget drops them. Without normal paths all levels are still read; without
those from below the network is flat."""


class NasWdanChoices(Section):
    """The macro settings that sampled networks and their changes may have. C is not among them, as a budget scales it.

    Attributes:
        depth: depth of the lattice; images have to be a multiple of 2^depth. That of a supernet is its stage's.
        intermediate_nodes: nodes of a cell between its inputs and its output.
        double_down_channel: whether C doubles at every level below.
        deep_supervision: whether every node of the top row has a head, or the last alone.
        stem_stride: 2, or 1 for a top row at the size of the image.
    """

    depth: Choices[Annotated[Whole, Field(ge=3, le=DEEPEST)]] = (3, 4, 5)
    intermediate_nodes: Choices[Nodes] = (2, 3, 4)
    double_down_channel: Choices[Flag] = (False, True)
    deep_supervision: Choices[Flag] = (False, True)
    stem_stride: Annotated[Choices[StemStride], LATER] = (2,)


class NasWdanSettings(Settings):
    """The lattice of NAS-WDAN.

    Attributes:
        name: the search space.
        init_channel: C, channels of a cell's nodes at level 0.
        double_down_channel: C doubles at every level below; otherwise it is C everywhere.
        intermediate_nodes: nodes of a cell between its inputs and its output.
        deep_supervision: the loss is the mean over all heads of the top row; otherwise the last head alone.
        shuffle_groups: groups of the grouped convolution in shuffle_conv; must divide every width used.
        dropout_prob: dropout inside the operations.
        stem_stride: 2, as published, or 1: the top row then has the size of the image, and everything four times the
            operations.
        operations: candidates of the search: set (down, normal, up) -> names. Default: those of the paper.
        choices: macro settings that sampled networks may have.
    """

    name: Literal["nas-wdan"] = "nas-wdan"
    init_channel: Channels = 16
    double_down_channel: Flag = True
    intermediate_nodes: Nodes = 4
    deep_supervision: Flag = True
    shuffle_groups: Annotated[Whole, Field(ge=1, le=MOST_CHANNELS)] = 1
    dropout_prob: Fraction = 0.0
    stem_stride: Annotated[StemStride, LATER] = 2
    operations: OperationNames = Field(default={})
    choices: Annotated[NasWdanChoices, LATER] = NasWdanChoices()

    @model_validator(mode="after")
    def _fits(self) -> "NasWdanSettings":
        if self.init_channel % self.shuffle_groups:
            raise ValueError(f"shuffle_groups {self.shuffle_groups} does not divide init_channel {self.init_channel}")
        check_candidates(OPERATIONS, self.operations)
        return self


@dataclass(frozen=True, slots=True)
class LatticeSettings:
    """The values that fix a network of the space besides its cells and paths.

    Attributes:
        depth: depth D of the lattice, from 3 up.
        init_channel: C, channels of a cell's nodes at level 0.
        double_down_channel: C doubles at every level below.
        intermediate_nodes: nodes of a cell.
        shuffle_groups: groups of shuffle_conv.
        deep_supervision: a head on every top-row node, otherwise on the last alone.
        dropout_prob: dropout inside the operations while training.
        absent_edges: cells hold the operations of edges that read an absent s0, as the published networks do.
        stem_stride: of the stem, 2 or 1.
    """

    depth: int
    init_channel: int
    double_down_channel: bool
    intermediate_nodes: int
    shuffle_groups: int = 1
    deep_supervision: bool = True
    dropout_prob: float = 0.0
    absent_edges: bool = False
    stem_stride: int = 2

    @property
    def widths(self) -> tuple[int, ...]:
        """C of every level."""
        return tuple(
            width_of(level, init_channel=self.init_channel, double_down_channel=self.double_down_channel)
            for level in range(self.depth)
        )

    def to_mapping(self) -> Mapping[str, Setting]:
        """Returns the settings in the form of a genotype.

        The stride of a published stem is left out: genotypes were made before there was another one, and stay equal.
        """
        return {name: value for name, value in asdict(self).items() if name != "stem_stride" or value != 2}


# The lattice


class Node(NamedTuple):
    """A node of the lattice."""

    layer: int
    level: int


STEM = Node(0, 0)

Paths = dict[Node, tuple[Transition, ...]]
"""The transitions into every node but the stem's, in the order of the layers."""


def lattice_layers(depth: int) -> int:
    """Returns the number of layers of a lattice of ``depth``, the stem's included."""
    return 2 * depth - 1


def lattice_nodes(depth: int) -> tuple[Node, ...]:
    """Returns all nodes, layer by layer, the stem's first."""
    last = lattice_layers(depth) - 1
    return tuple(
        Node(t, level) for t in range(last + 1) for level in range(min(t, last - t) + 1) if (t - level) % 2 == 0
    )


def lattice_inputs(node: Node, transition: Transition) -> tuple[Node, Node]:
    """Returns the nodes that give s0 and s1 to a transition into ``node``; s0 may lie outside the lattice."""
    t, level = node
    if transition == "down":
        return Node(t - 2, level), Node(t - 1, level - 1)
    if transition == "up":
        return Node(t - 2, level), Node(t - 1, level + 1)
    return Node(t - 4, level), Node(t - 2, level)


def all_paths(depth: int) -> Paths:
    """Returns every transition that exists: those whose s1 is a node of the lattice."""
    present = set(lattice_nodes(depth))
    return {
        node: tuple(transition for transition in TRANSITIONS if lattice_inputs(node, transition)[1] in present)
        for node in lattice_nodes(depth)
        if node != STEM
    }


def head_nodes(depth: int, *, deep_supervision: bool) -> tuple[Node, ...]:
    """Returns the top-row nodes that carry a head: all behind the stem, or the last alone."""
    top = tuple(node for node in lattice_nodes(depth) if node.level == 0 and node != STEM)
    return top if deep_supervision else top[-1:]


def reaching(paths: Mapping[Node, tuple[Transition, ...]], ends: tuple[Node, ...]) -> Paths:
    """Returns the paths without the cells from which no head of ``ends`` is reached."""
    needed: set[Node] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node in needed or node not in paths:
            continue
        needed.add(node)
        for transition in paths[node]:
            waiting.extend(lattice_inputs(node, transition))
    return {node: transitions for node, transitions in paths.items() if node in needed}


def removable(paths: Mapping[Node, tuple[Transition, ...]]) -> tuple[str, ...]:
    """Returns the keys of the cells whose node keeps another one, so that it still has a state for those who read it.

    ``paths`` are those that reach a head: a node among them is read by another or has a head.
    """
    return tuple(
        cell_key(node, transition)
        for node, transitions in paths.items()
        if len(transitions) > 1
        for transition in transitions
    )


def without_cells(paths: Mapping[Node, tuple[Transition, ...]], cells: Sequence[str], ends: tuple[Node, ...]) -> Paths:
    """Returns the paths without cells, and without those from which no head of ``ends`` is reached then.

    Raises:
        RunError: there is no such cell, or a node that is read or has a head would keep none.
    """
    known = {cell_key(node, transition) for node, transitions in paths.items() for transition in transitions}
    unknown = [key for key in cells if key not in known]
    if unknown:
        raise RunError(f"The lattice has no cell {quoted(unknown[0])}.", fix=did_you_mean(unknown[0], known))
    left = {
        node: tuple(transition for transition in transitions if cell_key(node, transition) not in cells)
        for node, transitions in paths.items()
    }
    reached = reaching(left, ends)
    for node, transitions in reached.items():
        if not transitions:
            raise RunError(
                f"Node ({node.layer},{node.level}), which is read or has a head, would keep no cell.",
                fix=f"Keep one of {', '.join(cell_key(node, transition) for transition in paths[node])}.",
            )
    return reached


def random_paths(depth: int, number: Callable[[int], int], generator: np.random.Generator) -> Paths:
    """Returns some of the transitions into every node, each choice of as many having equal chances.

    Args:
        depth: of the lattice.
        number: transitions that a node has -> how many of them it keeps, 1 or more.
        generator: of the random choice.
    """
    paths = {}
    for node, transitions in all_paths(depth).items():
        chosen = generator.choice(len(transitions), size=number(len(transitions)), replace=False)
        paths[node] = tuple(transitions[place] for place in sorted(chosen))
    return paths


def completed(paths: Paths, depth: int, ends: tuple[Node, ...]) -> Paths:
    """Returns paths with all transitions into the nodes that have none though a path or a head of ``ends`` reads them.

    Paths that come from a search lack the nodes that it left out; a path or a head that is added may need them.
    """
    possible, found = all_paths(depth), dict(paths)
    waiting = [*ends, *_read_by(paths)]
    while waiting:
        node = waiting.pop()
        if node in possible and node not in found:
            found[node] = possible[node]
            waiting.extend(_read_by({node: possible[node]}))
    return found


def _read_by(paths: Paths) -> Iterable[Node]:
    return (read for node, transitions in paths.items() for kind in transitions for read in lattice_inputs(node, kind))


def at_depth(paths: Paths, *, before: int, depth: int) -> Paths:
    """Returns the paths of a lattice of depth ``before`` in one of ``depth``.

    Nodes that are new have all their transitions, and so have those that kept none but what is lost with a level below.
    """
    known = set(lattice_nodes(before))
    found = {}
    for node, transitions in all_paths(depth).items():
        if node not in known:
            found[node] = transitions
        elif node in paths:
            found[node] = tuple(kind for kind in paths[node] if kind in transitions) or transitions
    return found


def size_at(level: int, length: int, *, stem_stride: int) -> int:
    """Returns the height or width of the maps of a level, of an image of that length."""
    return length // (stem_stride << level)


def divisor_of(depth: int, *, stem_stride: int) -> int:
    """Returns what divides the height and width of images."""
    return int(stem_stride * 2 ** (depth - 1))


def check_lattice_size(size: int, depth: int, *, stem_stride: int = 2) -> None:
    """Refuses images that a lattice cannot halve down to its lowest level.

    Raises:
        RecipeError: ``size`` is not a positive multiple of 2^depth, or of half of that without a stride of the stem.
    """
    divisor = divisor_of(depth, stem_stride=stem_stride)
    if size < 1 or size % divisor:
        below, times = max(0, size // divisor * divisor), divisor.bit_length() - 1
        raise RecipeError(
            f"The size {size} cannot be halved {times} times, as a lattice of depth {depth} does.",
            fix=f"Use {f'{below} or ' if below else ''}{below + divisor}.",
        )


def width_of(level: int, *, init_channel: int, double_down_channel: bool) -> int:
    """Returns c, the channels of the intermediate nodes of a cell at ``level``."""
    return init_channel * 2**level if double_down_channel else init_channel


def to_kept(paths: Mapping[Node, tuple[Transition, ...]]) -> tuple[KeptCells, ...]:
    """Returns paths in the form of a genotype."""
    return tuple(KeptCells(node.layer, node.level, tuple(transitions)) for node, transitions in sorted(paths.items()))


# What the supernet and the derived network share: stem, cells on the lattice, heads


STEM_CHANNELS = (32, 64)
HEAD_DROPOUT = 0.1

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


def make_stem(in_channels: int, *, affine: bool, norm: Norm, stride: int = 2) -> nn.Sequential:
    """Returns the two convolutions before the first cell; the second has the stride."""
    return nn.Sequential(
        _conv_norm_relu(in_channels, STEM_CHANNELS[0], stride=1, affine=affine, norm=norm),
        _conv_norm_relu(STEM_CHANNELS[0], STEM_CHANNELS[1], stride=stride, affine=affine, norm=norm),
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


class NasWdanFrame(nn.Module):
    """Stem, one cell for every kept transition, and a 1x1 head on each of ``heads``.

    Args:
        paths: the transitions into every node.
        heads: nodes that carry a head.
        make_cell: builds the cell of a transition.
        widths: c of every level.
        intermediate_nodes: nodes of a cell; its output has that many times c channels.
        in_channels: channels of the images.
        outputs: channels of the logits.
        affine: whether the stem's norms have a scale and a shift.
        norm: the kind of the stem's norms.
        stem_stride: of the stem.
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
    ) -> None:
        super().__init__()
        self.paths = dict(paths)
        self.head_nodes = heads
        self.stem = make_stem(in_channels, affine=affine, norm=norm, stride=stem_stride)
        channels = {node: intermediate_nodes * widths[node.level] for node in self.paths}
        channels[STEM] = STEM_CHANNELS[1]
        self.cells = nn.ModuleDict()
        for node, transitions in self.paths.items():
            for transition in transitions:
                s0, s1 = lattice_inputs(node, transition)
                cell = make_cell(transition, channels.get(s0), channels[s1], widths[node.level])
                self.cells[cell_key(node, transition)] = cell
        self.heads = nn.ModuleDict({node_key(node): Head(channels[node], outputs) for node in heads})

    def run(
        self,
        x_bchw: Tensor,
        run_cell: CellRunner,
        *,
        heads: tuple[Node, ...] | None = None,
        paths: Mapping[Node, tuple[Transition, ...]] | None = None,
        read: Read = read_each,
    ) -> list[Tensor]:
        """Returns the logits of the heads, first to last, each resized to the input's size.

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

        settle(STEM, self.stem(x_bchw))
        for node, transitions in paths.items():
            total: Tensor | None = None
            for transition in transitions:
                key = cell_key(node, transition)
                output = run_cell(node, transition, self.cells[key], inputs.pop((key, 0), None), inputs.pop((key, 1)))
                total = output if total is None else total + output
            assert total is not None
            settle(node, total)
        size = x_bchw.shape[-2:]
        return [F.interpolate(self.heads[node_key(node)](states[node]), size=size, mode="bilinear") for node in wanted]

    @property
    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """The shifts of the heads."""
        return tuple(cast(Head, head).shift for head in self.heads.values())

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


def node_key(node: Node) -> str:
    """Returns the name of a node's head among ``NasWdanFrame.heads``."""
    return f"{node.layer}_{node.level}"


def head_name(node: Node) -> str:
    """Returns the name of a node's head for users."""
    return f"{node.layer},{node.level}"


def cell_key(node: Node, transition: Transition) -> str:
    """Returns the name of a cell among ``NasWdanFrame.cells``."""
    return f"{node_key(node)}_{transition}"


# The mixed cell: one meaning, two backends


class MixedCell(nn.Module):
    """A cell whose every edge is a weighted sum of its candidate operations.

    Args:
        transition: down, normal or up.
        candidates: names of the candidate operations of every edge, in the order of ``cell_edges``.
        intermediate_nodes: nodes between the inputs and the output.
        s0_channels: channels of the first input, None where it is absent; edges that read it then give nothing.
        s1_channels: channels of the second input.
        channels: c, the channels of every node.
        settings: shared by all operations.
        partial_channels: K; the operations see the first c/K channels of a state, the others bypass them.
    """

    def __init__(
        self,
        transition: Transition,
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
        self.transition = transition
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
                    {
                        name: make_operation(set_of_edge(transition, state), name, self.operated_channels, settings)
                        for name in present
                        if name != NONE
                    }
                )
            )

    def joined(self, candidates: Names) -> tuple[fused.Leaving, ...]:
        """Returns for every state the operations on the edges that leave it, those of some candidates alone."""
        present = [
            nn.ModuleDict({name: module for name, module in cast(nn.ModuleDict, modules).items() if name in names})
            for modules, names in zip(self.operations, candidates, strict=True)
        ]
        return tuple(
            fused.Leaving([present[edge] for edge in edges], self.operated_channels) for edges in leaving(self.edges)
        )

    @cached_property
    def fused(self) -> tuple[fused.Leaving, ...]:
        """For every state the operations on the edges that leave it, joined by the fused backend."""
        return self.joined(self.candidates)

    def empty_node(self, s1: Tensor) -> Tensor:
        """Returns the operated channels of a node into which no operation leads: zeros, where ``s1`` is as read."""
        return s1.new_zeros(node_shape(self.transition, self.operated_channels, s1))

    def bypass(self, state: int, x_bchw: Tensor) -> Tensor:
        """Returns the channels of a state that bypass the operations, at the size of the nodes (PC-DARTS)."""
        return self.resized(state, x_bchw[:, self.operated_channels :])

    def resized(self, state: int, x_bchw: Tensor) -> Tensor:
        """Returns channels of a state at the size of the nodes, without parameters."""
        if state != 1 or self.transition == "normal":
            return x_bchw
        return F.max_pool2d(x_bchw, 2) if self.transition == "down" else F.interpolate(x_bchw, scale_factor=2.0)


Mix = Callable[[MixedCell, Tensor | None, Tensor, CellWeights], Tensor]
"""(cell, its first input or None where it is absent, its second, weights) -> output, BCHW with nodes x c channels.

The inputs have been read, that is, put through the cell's preprocessing.
"""


@dataclass(frozen=True, slots=True)
class Backend:
    """A way to run the mixed cells of a supernet.

    Attributes:
        read: the preprocessing of all cells that read one node.
        mix: a mixed cell.
        memory_format: in which images enter.
    """

    read: Read
    mix: Mix
    memory_format: torch.memory_format


def mix_reference(cell: MixedCell, first: Tensor | None, second: Tensor, weights: CellWeights) -> Tensor:
    """Runs a mixed cell edge by edge and operation by operation."""
    states = [first, second]
    operated: list[Tensor | None] = [None] * cell.intermediate_nodes
    bypass: list[Tensor | None] = [None] * cell.intermediate_nodes
    for edge, (node, state) in enumerate(cell.edges):
        operations = cast(nn.ModuleDict, cell.operations[edge])
        read = states[state]
        if read is not None:
            x = read[:, : cell.operated_channels]
            for name, weight in zip(weights.candidates[edge], weights.operations[edge], strict=True):
                if name in operations:
                    operated[node] = _plus(operated[node], weight * operations[name](x))
            if weights.skip:
                operated[node] = _plus(operated[node], weights.skip * cell.resized(state, x))
            if cell.partial_channels > 1:
                bypass[node] = _plus(bypass[node], weights.bypass[edge] * cell.bypass(state, read))
        if state == 1 + node:  # the last edge into this node
            total = operated[node]
            states.append(_joined(cell, cell.empty_node(second) if total is None else total, bypass[node]))
    return torch.cat(cast(list[Tensor], states[2:]), dim=1)


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total + part


def _joined(cell: MixedCell, operated: Tensor, bypass: Tensor | None) -> Tensor:
    if bypass is None:
        return operated
    return cast(Tensor, cell.shuffle(torch.cat([operated, bypass], dim=1)))


REFERENCE = Backend(read_each, mix_reference, torch.contiguous_format)
"""Edge by edge and operation by operation, written to be read."""

FUSED = Backend(fused.preprocess_together, fused.mix_fused, torch.channels_last)
"""Runs together what reads the same state. Equal numbers from the same parameters, so checkpoints are interchangeable;
operations that it does not know run as in the reference."""


# The supernet and what is derived from it


def derive_paths(betas: Mapping[Node, Mapping[Transition, float]], settings: DeriveSettings) -> Paths:
    """Returns the transitions kept at every node; the strongest transition of a node always stays."""
    kept = {}
    for node, row in betas.items():
        order = sorted(row, key=lambda transition: (-row[transition], TRANSITIONS.index(transition)))
        if settings.paths == "top_k":
            order = order[: settings.top_k]
        elif settings.paths == "threshold":
            order = [transition for transition in order if row[transition] >= settings.threshold] or order[:1]
        kept[node] = tuple(transition for transition in TRANSITIONS if transition in order)
    return kept


def operation_key(kind: Transition, name: str, level: int) -> str:
    """Returns the key of an operation of a set in the cells of a level; see `SearchSpace.operation_pieces`."""
    return f"{kind} {name} at level {level}"


@dataclass(frozen=True, slots=True)
class MixtureWeights:
    """The weights of a forward pass.

    Attributes:
        cells: transition -> the weights of its cells.
        transitions: node -> transition -> weight of that cell, of those that are run.
    """

    cells: dict[Transition, CellWeights]
    transitions: dict[Node, dict[Transition, Tensor]]


class NasWdanSupernet(Supernet):
    """The supernet of one stage.

    The alphas of a set have one row for each edge that uses it: all 14 edges of a cell of four nodes for the
    normal set, the four that read s1 for down and up. Cells of all transitions share them. The betas have one row for
    each node but the stem's and one column for each transition; a node with one transition gives it weight 1.

    With edge normalisation (PC-DARTS, arXiv 1907.05737, section 3.3) every transition has gammas, one for each edge;
    the softmax over the edges into a node scales what they bring.

    Args:
        settings: the lattice.
        operations: set -> its candidates, for sets that have others than the published.
        candidates: set -> operations of each of its rows; None takes all candidates.
        in_channels: channels of the images.
        outputs: channels of the logits.
        supernet: what the derived network does not have.
        backend: how mixed cells are run.
    """

    def __init__(
        self,
        settings: LatticeSettings,
        *,
        operations: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        candidates: Candidates | None = None,
        in_channels: int = 3,
        outputs: int = 1,
        supernet: SupernetSettings = AS_DERIVED,
        backend: Backend = FUSED,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.operations = dict(operations)
        self.partial_channels = supernet.partial_channels
        self.recompute = supernet.recompute
        self.backend = backend
        self.edges = cell_edges(settings.intermediate_nodes)
        self.paths = all_paths(settings.depth)
        self.candidates = candidates or {
            kind: (operations.get(kind, OPERATIONS[kind].published),)
            * sum(self._uses(kind, state) for _, state in self.edges)
            for kind in TRANSITIONS
        }
        self.frame = self._make_frame(in_channels, outputs)
        self.alphas = nn.ParameterDict(
            {kind: initial(len(rows), len(rows[0])) for kind, rows in self.candidates.items()}
        )
        self.betas = initial(len(self.paths), len(TRANSITIONS))
        self.gammas = nn.ParameterDict()
        if supernet.edge_normalisation:
            self.gammas.update({transition: initial(len(self.edges)) for transition in TRANSITIONS})
        self._discrete: MixtureWeights | None = None
        # PyTorch's annotations do not know that modules take a memory format alone.
        nn.Module.to(self, memory_format=backend.memory_format)  # type: ignore[call-overload]

    @property
    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """The shifts of the heads."""
        return self.frame.output_biases

    def architecture(self) -> list[nn.Parameter]:
        """Returns alphas, betas and gammas."""
        return [*self.alphas.values(), self.betas, *self.gammas.values()]

    def forward_heads(self, x_bchw: Tensor) -> list[Tensor]:
        """Returns the logits of every head, first to last, BKHW at the size of the input."""
        weights = self._discrete or self.mixture()

        def run_cell(node: Node, transition: Transition, cell: nn.Module, s0: Tensor | None, s1: Tensor) -> Tensor:
            arguments = (cell, s0, s1, weights.cells[transition])
            if self.recompute and torch.is_grad_enabled():
                output = cast(Tensor, checkpoint(self.backend.mix, *arguments, use_reentrant=False))
            else:
                output = self.backend.mix(*cast(Any, arguments))
            return weights.transitions[node][transition] * output

        x_bchw = x_bchw.contiguous(memory_format=self.backend.memory_format)
        paths = {node: tuple(row) for node, row in weights.transitions.items()}
        return self.frame.run(x_bchw, run_cell, paths=paths, read=self.backend.read)

    def mixture(self) -> MixtureWeights:
        """Returns the relaxed weights of the candidates of every edge, and of the transitions into every node."""
        weights = self.relaxed(self._logits(), skips=where_skips(self.candidates, SKIP))
        return self._mixture(weights, sparse=self.relaxation.sparse, skip=self.auxiliary_skip)

    def preferences(self) -> MixtureWeights:
        """Returns how strongly the architecture prefers each, without chance and with none left out."""
        return self._mixture([self.relaxation.preferences(rows) for rows in self._logits()])

    def path_logits(self) -> list[Tensor]:
        """Returns the betas of every node with several transitions."""
        return [
            row[[TRANSITIONS.index(transition) for transition in possible]]
            for row, possible in zip(self.betas, self.paths.values(), strict=True)
            if len(possible) > 1
        ]

    def expected_cost(self) -> Tensor:
        """Returns what the operations of a derived network are expected to cost; see `Supernet.expected_cost`."""
        weights = self.preferences()
        cells = {
            (kind, level): expected_of_cell(
                weights.cells[kind],
                lambda name, state, kind=kind, level=level: self.costs.get(  # type: ignore[misc]
                    operation_key(set_of_edge(kind, state), name, level), 0.0
                ),
            )
            for kind, level in {(kind, node.level) for node, row in weights.transitions.items() for kind in row}
        }
        return torch.stack(
            [
                weight * cells[kind, node.level]
                for node, row in weights.transitions.items()
                for kind, weight in row.items()
            ]
        ).sum()

    def _logits(self) -> list[Tensor]:
        return [*self.alphas.values(), *self.path_logits()]

    def _mixture(self, weights: list[Tensor], *, sparse: bool = False, skip: float = 0.0) -> MixtureWeights:
        """Returns the weights of all logits by their places."""
        alphas, betas = dict(zip(self.alphas, weights, strict=False)), iter(weights[len(self.alphas) :])
        transitions = {}
        for node, possible in self.paths.items():
            row = next(betas) if len(possible) > 1 else self.betas.new_ones(1)
            kept = [value != 0 for value in row.tolist()] if sparse else [True] * len(possible)
            transitions[node] = {
                transition: weight for transition, weight, is_run in zip(possible, row, kept, strict=True) if is_run
            }
        cells = {}
        for kind in TRANSITIONS:
            rows = (self._row(kind, edge) for edge in range(len(self.edges)))
            operations = [alphas[of_row][row] for of_row, row in rows]
            gamma = self.gammas[kind] if self.gammas else None
            cells[kind] = cell_weights(self.edges, self._names(kind), operations, gamma=gamma, sparse=sparse, skip=skip)
        mixture = MixtureWeights(cells, transitions)
        return self._restricted(mixture) if self.restriction else mixture

    def decisions(self, settings: DeriveSettings) -> list[Decision]:
        """Returns the operation of every row of alphas, the edges into every node of a cell, the paths of the lattice.

        Raises:
            RecipeError: ``settings.paths`` is threshold, which no loss can be compared with.
        """
        if settings.paths == "threshold":
            raise RecipeError(
                f"derive.paths threshold is one of betas, which derive.select {settings.select.name} does not use.",
                fix="Use derive.paths=top_k or derive.paths=all.",
            )
        operations = [
            operation_decision(self._place(kind, edge), self.candidates[kind][row])
            for kind in self.candidates
            for row, edge in enumerate(
                number for number, (_, state) in enumerate(self.edges) if self._uses(kind, state)
            )
        ]
        edges = [decision for transition in TRANSITIONS for decision in edges_decisions(transition, self.edges)]
        most = settings.top_k if settings.paths == "top_k" else len(TRANSITIONS)
        paths = [
            Decision("paths", head_name(node), possible, min(most, len(possible)))
            for node, possible in self.paths.items()
        ]
        return [*operations, *edges, *paths]

    def _place(self, kind: str, edge: int) -> str:
        """Returns where the operation of an edge is decided, for all cells that share its row."""
        return f"{kind} {edge_labels(self.edges)[edge]}"

    def _restricted(self, mixture: MixtureWeights) -> MixtureWeights:
        cells = {
            transition: restricted(
                weights,
                self.restriction,
                kind=transition,
                places=[
                    self._place(set_of_edge(transition, state), edge) for edge, (_, state) in enumerate(self.edges)
                ],
            )
            for transition, weights in mixture.cells.items()
        }
        transitions = {}
        for node, row in mixture.transitions.items():
            name = f"paths {head_name(node)}"
            kept = {transition: weight for transition, weight in row.items() if self.restriction.has(name, transition)}
            if name in self.restriction.kept:  # as in a derived network, which sums its cells
                kept = {transition: torch.ones_like(weight) for transition, weight in kept.items()}
            transitions[node] = kept
        return MixtureWeights(cells, transitions)

    def strongest(self, keep: Mapping[str, int]) -> Candidates:
        """Returns the candidates left when every edge of a set keeps N; sets not named keep all."""
        return strongest(self.candidates, dict(self.alphas.items()), keep)

    def derive(self, settings: DeriveSettings, *, name: str, provenance: Mapping[str, Any]) -> Genotype:
        """Returns the genotype: per edge the strongest operation, per node two edges and its strong transitions."""
        with torch.no_grad():
            weights = self.preferences()
        cells: dict[str, Cell] = {
            transition: derive_cell(
                self.edges,
                of_kind.candidates,
                [w.tolist() for w in of_kind.operations],
                competing=self.relaxation.competing,
                limits=self.limits(self.edges, skip=SKIP, skips=settings.skips),
            )
            for transition, of_kind in weights.cells.items()
        }
        betas = {
            node: {transition: float(b) for transition, b in row.items()} for node, row in weights.transitions.items()
        }
        heads = head_nodes(self.settings.depth, deep_supervision=self.settings.deep_supervision)
        paths = reaching(derive_paths(betas, settings), heads)
        return Genotype(
            name=name,
            space=SPACE,
            cells=cells,
            settings=self.settings.to_mapping(),
            paths=to_kept(paths),
            provenance=dict(provenance),
            candidates=self.operations,
        )

    def discretise(self, genotype: Genotype | None) -> None:
        """Makes ``forward`` use the kept operations and paths alone, each with weight 1; None undoes it."""
        self._discrete = None if genotype is None else self._one_hot(genotype)

    def snapshot(self) -> dict[str, Any]:
        """Returns the preferences by set and edge, by node and transition, and gammas by transition and edge."""
        with torch.no_grad():
            transitions = self.preferences().transitions
        alphas = {}
        for kind, rows in self.candidates.items():
            edges = tuple((node, state) for node, state in self.edges if self._uses(kind, state))
            alphas[kind] = alphas_snapshot(edges, rows, self.relaxation.preferences(self.alphas[kind].detach()))
        betas = {
            f"{node.layer},{node.level}": {transition: float(beta) for transition, beta in row.items()}
            for node, row in transitions.items()
        }
        gammas = {transition: gammas_snapshot(self.edges, gamma) for transition, gamma in self.gammas.items()}
        return {"alphas": alphas, "betas": betas, **({"gammas": gammas} if gammas else {})}

    def _make_frame(self, in_channels: int, outputs: int) -> NasWdanFrame:
        operations = OperationSettings(
            affine=False, shuffle_groups=self.settings.shuffle_groups, dropout_prob=self.settings.dropout_prob
        )

        def make_cell(transition: Transition, s0: int | None, s1: int, channels: int) -> MixedCell:
            return MixedCell(
                transition,
                self._names(transition),
                intermediate_nodes=self.settings.intermediate_nodes,
                s0_channels=s0,
                s1_channels=s1,
                channels=channels,
                settings=operations,
                partial_channels=self.partial_channels,
            )

        return NasWdanFrame(
            paths=self.paths,
            heads=head_nodes(self.settings.depth, deep_supervision=self.settings.deep_supervision),
            make_cell=make_cell,
            widths=self.settings.widths,
            intermediate_nodes=self.settings.intermediate_nodes,
            in_channels=in_channels,
            outputs=outputs,
            affine=False,
            stem_stride=self.settings.stem_stride,
        )

    @staticmethod
    def _uses(kind: str, state: int) -> bool:
        """Whether a set has a row for an edge from ``state``: the normal set for all, down and up for s1."""
        return kind == "normal" or state == 1

    def _row(self, transition: Transition, edge: int) -> tuple[Transition, int]:
        """Returns the set that an edge of a cell uses, and its row there."""
        kind = set_of_edge(transition, self.edges[edge][1])
        return kind, sum(self._uses(kind, state) for _, state in self.edges[:edge])

    def _names(self, transition: Transition) -> Names:
        rows = (self._row(transition, edge) for edge in range(len(self.edges)))
        return tuple(self.candidates[kind][row] for kind, row in rows)

    def _one_hot(self, genotype: Genotype) -> MixtureWeights:
        cells = {
            transition: one_hot(
                self.edges, self._names(transition), genotype.cells[transition], genotype=genotype, like=self.betas
            )
            for transition in TRANSITIONS
        }
        kept = paths_of(genotype)
        transitions = {
            node: {
                transition: self.betas.new_tensor(float(transition in kept.get(node, ()))) for transition in possible
            }
            for node, possible in self.paths.items()
        }
        return MixtureWeights(cells, transitions)


# The network of a genotype


class NasWdanCell(nn.Module):
    """A cell with its edges fixed: every node sums its edges, the output concatenates the nodes.

    Args:
        transition: down, normal or up.
        edges: the incoming edges of every node.
        s0_channels: channels of the first input, None where it is absent; edges that read it then give nothing.
        s1_channels: channels of the second input.
        channels: c, the channels of every node.
        settings: shared by all operations.
        absent_edges: hold the operations of edges that read an absent s0, though nothing runs them. The published
            networks do, so their parameter counts contain them.
    """

    def __init__(
        self,
        transition: Transition,
        edges: Cell,
        *,
        s0_channels: int | None,
        s1_channels: int,
        channels: int,
        settings: OperationSettings,
        absent_edges: bool = False,
    ) -> None:
        super().__init__()
        self.transition = transition
        self.channels = channels
        self.edges = tuple(tuple(edge for edge in node if edge[1] != 0 or s0_channels is not None) for node in edges)
        read = partial(preprocess, affine=settings.affine, norm=settings.norm)
        self.input0 = read(s0_channels, channels) if s0_channels is not None else None
        self.input1 = read(s1_channels, channels)
        self.operations = nn.ModuleList(
            nn.ModuleList(
                make_operation(set_of_edge(transition, state), name, channels, settings) for name, state in node
            )
            for node in self.edges
        )
        if s0_channels is None and absent_edges:
            names = [name for node in edges for name, state in node if state == 0]
            self.absent = nn.ModuleList(make_operation("normal", name, channels, settings) for name in names)

    @property
    def reads_all_inputs(self) -> bool:
        """Whether edges read both inputs, as far as they are there."""
        states = {state for node in self.edges for _, state in node}
        return 1 in states and (0 in states or self.input0 is None)

    def forward(self, s0: Tensor | None, s1: Tensor) -> Tensor:
        """Returns the output, BCHW with nodes x c channels.

        Args:
            s0: the first input as read, that is, behind ``input0``; None where it is absent.
            s1: the second input as read, behind ``input1``.
        """
        states: list[Tensor | None] = [s0, s1]
        for node, operations in zip(self.edges, self.operations, strict=True):
            terms = [
                operation(read)
                for (_, state), operation in zip(node, cast(nn.ModuleList, operations), strict=True)
                if (read := states[state]) is not None
            ]
            states.append(sum(terms[1:], terms[0]) if terms else None)
        nodes = states[2:]
        if any(node is None for node in nodes):
            # Nodes all of whose edges end at an absent s0 are zeros.
            zeros = s1.new_zeros(node_shape(self.transition, self.channels, s1))
            nodes = [zeros if node is None else node for node in nodes]
        return torch.cat(cast(list[Tensor], nodes), dim=1)


class OnLattice(Network):
    """What the network of a genotype and its form for inference have in common: sizes that they take, and heads.

    Subclasses set ``depth`` of the lattice, ``stem_stride``, and ``head_nodes``, the nodes that carry a head, early to
    last.
    """

    depth: int
    stem_stride: int
    head_nodes: tuple[Node, ...]

    @property
    def divisor(self) -> int:
        """What divides the height and width of images."""
        return divisor_of(self.depth, stem_stride=self.stem_stride)

    def check_size(self, size: int) -> None:
        """Refuses images that the lattice cannot halve down to its lowest level.

        Raises:
            RecipeError: ``size`` is not a positive multiple of ``divisor``.
        """
        check_lattice_size(size, self.depth, stem_stride=self.stem_stride)

    def smallest_map(self, size: int) -> int:
        """Returns the height and width of the lowest level."""
        return size // self.divisor

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the heads, early to last: "2,0", "4,0", ..."""
        return tuple(map(head_name, self.head_nodes))

    def nodes_of(self, heads: Sequence[str] | None) -> tuple[Node, ...]:
        """Returns the nodes of heads. Default: of all heads."""
        return self.head_nodes if heads is None else tuple(self.head_nodes[self.heads.index(head)] for head in heads)


class NasWdanNetwork(OnLattice):
    """A derived network; its heads give logits from early (fast) to last (best).

    Args:
        genotype: the architecture.
        in_channels: channels of the images.
        outputs: channels of the logits.
        norm: the kind of all norms. Batch norms use their running statistics in evaluation mode.

    Raises:
        GenotypeError: the genotype does not fit the space; the message says why.
    """

    def __init__(self, genotype: Genotype, *, in_channels: int = 3, outputs: int = 1, norm: Norm = "group") -> None:
        super().__init__()
        settings = check(genotype)
        self.depth, self.stem_stride = settings.depth, settings.stem_stride
        self.head_nodes = head_nodes(settings.depth, deep_supervision=settings.deep_supervision)
        operations = OperationSettings(
            affine=True,
            norm=norm,
            shuffle_groups=settings.shuffle_groups,
            dropout_prob=settings.dropout_prob,
        )

        def make_cell(transition: Transition, s0: int | None, s1: int, channels: int) -> NasWdanCell:
            return NasWdanCell(
                transition,
                genotype.cells[transition],
                s0_channels=s0,
                s1_channels=s1,
                channels=channels,
                settings=operations,
                absent_edges=settings.absent_edges,
            )

        self.frame = NasWdanFrame(
            paths=paths_of(genotype),
            heads=self.head_nodes,
            make_cell=make_cell,
            widths=settings.widths,
            intermediate_nodes=settings.intermediate_nodes,
            in_channels=in_channels,
            outputs=outputs,
            affine=True,
            norm=norm,
            stem_stride=settings.stem_stride,
        )

    def forward_heads(self, x_bchw: Tensor, heads: Sequence[str] | None = None) -> list[Tensor]:
        """Returns the logits of heads, each BKHW at the size of the input; cells that they do not need are not run."""
        return self.frame.run(x_bchw, _run_cell, heads=self.nodes_of(heads))

    @property
    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """The shifts of the heads."""
        return self.frame.output_biases

    @property
    def removable_parts(self) -> tuple[str, ...]:
        """The cells whose node of the lattice keeps another one, by their keys: "4_0_up" leads up into node (4, 0)."""
        return removable(self.frame.paths)

    def take_away(self, parts: Sequence[str], heads: Sequence[str] | None = None) -> None:
        """Takes cells and heads away; see `Network.take_away`.

        A node then lacks the output of such a cell in its sum, as if it were zero. Levels of the lattice may go too:
        smaller images are taken then. Operations of absent edges always go, as no head needs them.
        """
        self.frame.take_away(parts, self.nodes_of(self._kept(heads)))
        self.head_nodes = self.frame.head_nodes
        self.depth = 1 + max(node.level for node in self.frame.paths)
        for cell in self.frame.cells.values():
            if hasattr(cell, "absent"):
                del cell.absent

    def inference_form(self, dtype: torch.dtype) -> InferenceForm | None:
        """Returns the network laid out for inference on a CPU; None where it has operations that users registered.

        The form shares a ReLU among all operations that read a state, which only the published ones are known to allow.
        """
        cells = cast(Iterable[NasWdanCell], self.frame.cells.values())
        if any(name not in fused.KNOWN for cell in cells for node in cell.edges for name, _ in node):
            return None
        from medarts.spaces.fused.nas_wdan_inference import NasWdanInference

        return NasWdanInference(self, dtype=dtype)

    def training_form(self) -> Network:
        """Returns the network laid out for training on a CPU; itself where that would not train it alike.

        Which activations are dropped inside cells depends on the order of the operations, which is another one there.
        And weights behind inputs that no edge reads, which no derived genotype has, would get gradients of zero instead
        of none, so that weight decay would change them.
        """
        cells = cast(Iterable[NasWdanCell], self.frame.cells.values())
        drops = any(isinstance(part, nn.Dropout) for part in self.frame.cells.modules())
        if drops or not all(cell.reads_all_inputs for cell in cells):
            return self
        from medarts.spaces.fused.nas_wdan_training import NasWdanTraining

        return NasWdanTraining(self)


def _run_cell(node: Node, transition: Transition, cell: nn.Module, s0: Tensor | None, s1: Tensor) -> Tensor:
    output: Tensor = cell(s0, s1)
    return output


# Genotypes


def check(genotype: Genotype) -> LatticeSettings:
    """Returns the settings of a genotype that fits the space.

    Raises:
        GenotypeError: it is of another space, or a setting, an operation, a state or a path does not exist.
    """
    check_space(genotype, SPACE, OPERATIONS)
    settings = _settings(genotype)
    for transition in TRANSITIONS:
        check_cell(
            genotype,
            transition,
            intermediate_nodes=settings.intermediate_nodes,
            operations=partial(operations_of, transition),
        )
    _check_paths(genotype, settings)
    return settings


def paths_of(genotype: Genotype) -> Paths:
    """Returns the kept paths that reach a head."""
    settings = _settings(genotype)
    return reaching(kept_paths(genotype), head_nodes(settings.depth, deep_supervision=settings.deep_supervision))


def kept_paths(genotype: Genotype) -> Paths:
    """Returns all paths that a genotype names, whether they reach a head or not."""
    transitions = {
        Node(kept.layer, kept.level): tuple(transition for transition in TRANSITIONS if transition in kept.transitions)
        for kept in genotype.paths
    }
    return dict(sorted(transitions.items()))


def run_edges(cell: Cell, *, reads_s0: bool) -> Cell:
    """Returns the edges of a cell that are run, by their states: without s0, those that come from it are not.

    Nor are those from nodes that read nothing else, which are zeros.
    """
    silent = set() if reads_s0 else {0}
    found = []
    for node, edges in enumerate(cell):
        found.append(in_order(edge for edge in edges if edge[1] not in silent))
        if not found[-1]:
            silent.add(2 + node)
    return tuple(found)


def candidates_of(operations: Mapping[str, tuple[str, ...]]) -> CandidatesOf:
    """Returns what can be used on an edge in the cells of a transition.

    Args:
        operations: set -> its candidates, for sets that have others than the published.
    """

    def candidates(transition: str, state: int) -> list[str]:
        kind = set_of_edge(cast(Transition, transition), state)
        return without_none(operations.get(kind, OPERATIONS[kind].published))

    return candidates


def path_changes(genotype: Genotype, settings: LatticeSettings) -> Iterator[Mutation]:
    """Yields genotypes with one path less, or one more into a node that has one.

    A path that reads a node without paths brings all that lead there.
    """
    kept = kept_paths(genotype)
    ends = head_nodes(settings.depth, deep_supervision=settings.deep_supervision)
    for node, possible in all_paths(settings.depth).items():
        present = kept.get(node, ())
        for transition in possible if present else ():
            others = tuple(kind for kind in possible if (kind in present) != (kind == transition))
            if others:
                paths = completed({**kept, node: others}, settings.depth, ends)
                done = "removed" if transition in present else "added"
                yield Mutation(path_words(transition, node, done), replace(genotype, paths=to_kept(paths)))


def path_words(transition: Transition, node: Node, done: str) -> str:
    """Returns what was done to a path as words."""
    return f"path {transition} into node ({node.layer},{node.level}) {done}"


def with_setting(
    genotype: Genotype,
    name: str,
    value: Setting,
    *,
    candidates: CandidatesOf,
    generator: np.random.Generator,
) -> Genotype:
    """Returns a genotype with another value of a macro setting, and the cells and paths that it then has.

    Args:
        genotype: which has to fit the space.
        name: of the setting.
        value: of it.
        candidates: operations of the edges of nodes that are added.
        generator: of the random choice of these edges.
    """
    before = check(genotype)
    changed = replace(before, **{name: value})  # type: ignore[arg-type]  # a value of that setting
    cells = genotype.cells
    if name == "intermediate_nodes":
        cells = cells_with_nodes(cells, int(value), candidates=candidates, generator=generator)
    paths = completed(
        at_depth(kept_paths(genotype), before=before.depth, depth=changed.depth),
        changed.depth,
        head_nodes(changed.depth, deep_supervision=changed.deep_supervision),
    )
    return replace(genotype, settings=changed.to_mapping(), cells=cells, paths=to_kept(paths))


def _settings(genotype: Genotype) -> LatticeSettings:
    settings = read_settings(genotype, LatticeSettings)
    for name, low, high in (
        ("depth", 3, DEEPEST),
        ("init_channel", 2, MOST_CHANNELS),
        ("intermediate_nodes", 1, MOST_NODES),
        ("shuffle_groups", 1, MOST_CHANNELS),
        ("stem_stride", 1, 2),
    ):
        check_range(genotype, name, getattr(settings, name), low, high)
    if not 0 <= settings.dropout_prob < 1:
        raise GenotypeError(
            f"Genotype '{genotype.name}' has dropout_prob {settings.dropout_prob}.", fix="Use 0 to below 1."
        )
    if any(c % settings.shuffle_groups for c in settings.widths):
        raise GenotypeError(
            f"Genotype '{genotype.name}': shuffle_groups {settings.shuffle_groups} does not divide the widths "
            f"{settings.widths}.",
            fix="Use a divisor of init_channel.",
        )
    return settings


def operations_of(transition: Transition, state: int) -> tuple[str, ...]:
    """Returns the operations for edges from a state in the cells of a transition, registered ones included."""
    return tuple(OPERATIONS[set_of_edge(transition, state)])


def _check_paths(genotype: Genotype, settings: LatticeSettings) -> None:
    depth = settings.depth
    possible = all_paths(depth)
    kept = {Node(entry.layer, entry.level): entry.transitions for entry in genotype.paths}
    if len(kept) < len(genotype.paths):
        raise GenotypeError(f"Genotype '{genotype.name}' names a node of the lattice twice.", fix=COPY_AGAIN)
    for node, transitions in kept.items():
        if (
            not transitions
            or len(set(transitions)) < len(transitions)
            or not set(transitions) <= set(possible.get(node, ()))
        ):
            raise GenotypeError(
                f"Genotype '{genotype.name}': node ({node.layer},{node.level}) keeps {list(transitions)}, a lattice of "
                f"depth {depth} has {list(possible.get(node, ()))} there.",
                fix=COPY_AGAIN,
            )
    needed = set(head_nodes(depth, deep_supervision=settings.deep_supervision))
    for node, transitions in kept.items():
        for transition in TRANSITIONS:
            if transition in transitions:
                needed.update(read for read in lattice_inputs(node, transition) if read in possible)
    missing = sorted(needed - set(kept))
    if missing:
        raise GenotypeError(
            f"Genotype '{genotype.name}' keeps no path into node ({missing[0].layer},{missing[0].level}), which a "
            "head or a kept path reads.",
            fix=COPY_AGAIN,
        )


# The space


@register_space(SPACE, settings=NasWdanSettings, default=True)
class NasWdan(SearchSpace):
    """The search space nas-wdan with the settings of a recipe.

    Raises:
        RecipeError: the channels cannot be cut into ``partial_channels`` parts.
    """

    task: ClassVar[Task] = "segmentation"
    # Published (MixSearch, arXiv 2102.13280, experiments). Not published, and so not here: derive (published is all),
    # the augmentation, gradient clipping.
    defaults: ClassVar[Mapping[str, Any]] = {
        "search": {
            "stages": [
                {"depth": 4, "epochs": 80, "batch": 24, "keep": {"down": 4, "normal": 4, "up": 2}},
                {"depth": 5, "epochs": 80, "batch": 12},
            ],
            "loss": "bce_logits",
            "lr": 0.025,
            "lr_min": 1e-5,
            "momentum": 0.9,
            "weight_decay": 3e-4,
            "arch_lr": 2e-4,
            "arch_betas": [0.5, 0.999],
            "arch_weight_decay": 1e-3,
            "arch_after": 10,
            "mixing": {"alpha": 0.5},
        },
        "train": {
            "epochs": 1600,
            "batch": 8,
            "loss": "bce_dice",
            "optimizer": "sgd",
            "lr": 4e-3,
            "lr_min": 1e-5,
            "momentum": 0.9,
            "weight_decay": 3e-4,
            "schedule": "cosine",
        },
    }
    item_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "search.stages": {"depth": 4, "epochs": 80, "batch": 12},
    }
    relaxes = True
    has_skips = True
    has_paths = True
    operations = OPERATIONS
    free: ClassVar[frozenset[str]] = frozenset({"identity", "avg_pool", "max_pool"})
    cell_inputs: ClassVar[Mapping[str, tuple[str, str]]] = {
        "down": ("node (t−2, l)", "node (t−1, l−1)"),
        "normal": ("node (t−4, l)", "node (t−2, l)"),
        "up": ("node (t−2, l)", "node (t−1, l+1)"),
    }
    cell_meanings: ClassVar[Mapping[str, str]] = {
        "down": "halves the resolution: edges from s1 are down operations",
        "normal": "keeps the resolution",
        "up": "doubles the resolution: edges from s1 are up operations",
    }
    settings: NasWdanSettings

    def __init__(
        self,
        settings: NasWdanSettings,
        *,
        in_channels: int,
        outputs: int,
        supernet: SupernetSettings = AS_DERIVED,
    ) -> None:
        super().__init__(settings, in_channels=in_channels, outputs=outputs, supernet=supernet)
        part, channels = supernet.partial_channels, settings.init_channel
        if channels % part or channels // part % settings.shuffle_groups:
            raise RecipeError(
                f"search.supernet.partial_channels {part} cuts space.init_channel {channels} into parts that are not "
                f"whole multiples of space.shuffle_groups {settings.shuffle_groups}.",
                fix=f"Use an init_channel that {part * settings.shuffle_groups} divides.",
            )

    def check(self, stage: StageSettings, size: int, *, fewest: int) -> None:
        """Refuses lattices below depth 3, unknown sets in ``keep``, and sizes that the lattice cannot halve."""
        if stage.depth < 3:
            raise RecipeError(
                f"A stage of search.stages has depth {stage.depth}.", fix="A lattice has a depth from 3 up."
            )
        for name in stage.keep:
            if name not in TRANSITIONS:
                raise RecipeError(
                    f"keep of search.stages names the unknown set '{name}'.", fix=did_you_mean(name, TRANSITIONS)
                )
        check_lattice_size(size, stage.depth, stem_stride=self.settings.stem_stride)

    def supernet(self, stage: StageSettings, candidates: Candidates | None) -> NasWdanSupernet:
        """Returns a fresh supernet of the depth of ``stage``."""
        return NasWdanSupernet(
            self._lattice(stage),
            operations=self.settings.operations,
            candidates=candidates,
            in_channels=self.in_channels,
            outputs=self.outputs,
            supernet=self.supernet_settings,
        )

    def _lattice(self, stage: StageSettings) -> LatticeSettings:
        return LatticeSettings(
            depth=stage.depth,
            init_channel=self.settings.init_channel,
            double_down_channel=self.settings.double_down_channel,
            intermediate_nodes=self.settings.intermediate_nodes,
            shuffle_groups=self.settings.shuffle_groups,
            deep_supervision=self.settings.deep_supervision,
            dropout_prob=self.settings.dropout_prob,
            stem_stride=self.settings.stem_stride,
        )

    def operation_pieces(self, stage: StageSettings, *, size: int, norm: Norm | None) -> Mapping[str, Counter[Piece]]:
        """Returns the piece of every operation of a set in the cells of a level."""
        from medarts.spaces.nas_wdan_pieces import operation_pieces

        return operation_pieces(self._lattice(stage), self.settings.operations, size=size, norm=norm or "group")

    @classmethod
    def settings_of(cls, genotype: Genotype) -> NasWdanSettings:
        """Returns the settings of a genotype as the section of a recipe."""
        settings = check(genotype)
        given = {name: getattr(settings, name) for name in NasWdanSettings.model_fields if hasattr(settings, name)}
        return NasWdanSettings(**given, operations=dict(genotype.candidates))

    @classmethod
    def network(cls, genotype: Genotype, *, in_channels: int, outputs: int, norm: Norm | None = None) -> NasWdanNetwork:
        """Returns the network of a genotype; its norms are group norms by default."""
        return NasWdanNetwork(genotype, in_channels=in_channels, outputs=outputs, norm=norm or "group")

    @classmethod
    def random_genotype(cls, like: Genotype, *, seed: int) -> Genotype:
        """Returns a genotype with the settings of another, its cells and paths sampled uniformly.

        Every node of a cell reads two earlier states, each through one of the candidates that can be used there. Every
        node of the lattice keeps as many cells as the other genotype keeps at most at one, or all where it has fewer;
        so every node that is read has one.
        """
        settings, generator = check(like), np.random.default_rng(seed)
        cells = random_cells(
            TRANSITIONS, settings.intermediate_nodes, candidates=candidates_of(like.candidates), generator=generator
        )
        most = max(len(entry.transitions) for entry in like.paths)
        paths = random_paths(settings.depth, partial(min, most), generator)
        return random_like(like, cells, seed=seed, paths=to_kept(paths))

    @classmethod
    def sample(cls, settings: NasWdanSettings, *, seed: int) -> Genotype:
        """Returns a genotype of random cells, paths, depth, nodes, growth of C and heads.

        Every node of the lattice keeps one or more of its cells; each number has equal chances.
        """
        lattice = LatticeSettings(
            init_channel=settings.init_channel,
            shuffle_groups=settings.shuffle_groups,
            dropout_prob=settings.dropout_prob,
            **random_settings(settings.choices, seed=seed),
        )
        generator = np.random.default_rng(seed)
        cells = random_cells(
            TRANSITIONS,
            lattice.intermediate_nodes,
            candidates=candidates_of(settings.operations),
            generator=generator,
        )
        paths = random_paths(lattice.depth, lambda most: int(generator.integers(1, most + 1)), generator)
        return Genotype(
            name=f"{RANDOM}-{seed}",
            space=SPACE,
            cells=cells,
            settings=lattice.to_mapping(),
            paths=to_kept(paths),
            provenance={"source": RANDOM, "seed": seed},
            candidates=settings.operations,
        )

    @classmethod
    def changes(
        cls, genotype: Genotype, settings: NasWdanSettings, generator: np.random.Generator
    ) -> Mapping[str, Sequence[Mutation]]:
        """Returns genotypes with another operation, state that an edge reads, path of the lattice, or macro setting."""
        candidates, lattice = candidates_of(settings.operations), check(genotype)
        macro = [
            Mutation(
                setting_words(name, present, other),
                with_setting(genotype, name, other, candidates=candidates, generator=generator),
            )
            for name, present, other in nearest_choices(settings.choices, asdict(lattice))
        ]
        return {
            "operation": [*operation_changes(genotype, candidates)],
            "edge": [*edge_changes(genotype, candidates, generator)],
            "path": [*path_changes(genotype, lattice)],
            "setting": macro,
        }

    @classmethod
    def reductions(cls, genotype: Genotype, settings: NasWdanSettings) -> Iterator[Mutation]:
        """Yields genotypes with fewer and fewer paths and, where every node has one left, with a cheaper macro setting.

        First go the normal paths, those into the last nodes first, then those from the level below, then those from
        above. Settings follow in the order of ``space.choices``.
        """
        candidates = candidates_of(settings.operations)

        def reduce(genotype: Genotype) -> Mutation | None:
            lattice, paths = check(genotype), paths_of(genotype)
            for kind in DROPPED:
                nodes = [node for node, kinds in paths.items() if kind in kinds and len(kinds) > 1]
                if nodes:
                    node = max(nodes)
                    left = {**paths, node: tuple(each for each in paths[node] if each != kind)}
                    return Mutation(path_words(kind, node, "removed"), replace(genotype, paths=to_kept(left)))
            return cheaper_setting(
                settings.choices,
                asdict(lattice),
                lambda name, other: with_setting(
                    genotype, name, other, candidates=candidates, generator=np.random.default_rng(0)
                ),
                larger=("stem_stride",),
            )

        return repeated(genotype, reduce)

    def check_choices(self, size: int, *, field: str) -> None:
        """Refuses depths of lattices that cannot halve the images so often.

        Raises:
            RecipeError: ``size`` is not a multiple of what one of them divides images by.
        """
        choices = self.settings.choices
        for depth in choices.depth:
            divisor = divisor_of(depth, stem_stride=max(choices.stem_stride))
            if size % divisor:
                raise RecipeError(
                    f"space.choices.depth has {depth}, but images of {field} {size} cannot be halved "
                    f"{divisor.bit_length() - 1} times.",
                    fix=f"Leave {depth} out, or use a size that {divisor} divides.",
                )

    @classmethod
    def reachable(cls, genotype: Genotype) -> Genotype:
        """Returns a genotype with all settings, the paths that reach a head, and the edges that their cells run."""
        settings, paths = check(genotype), paths_of(genotype)
        cells: dict[str, Cell] = {}
        for kind in TRANSITIONS:
            used = [node for node, transitions in paths.items() if kind in transitions]
            first = (lattice_inputs(node, kind)[0] for node in used)
            # Operations that are held for an absent s0 count as parameters of the network.
            reads_s0 = settings.absent_edges or any(node in paths or node == STEM for node in first)
            if used:
                cells[kind] = run_edges(genotype.cells[kind], reads_s0=reads_s0)
        return replace(genotype, settings=settings.to_mapping(), cells=cells, paths=to_kept(paths))

    @classmethod
    def pieces(
        cls, genotype: Genotype, *, in_channels: int, outputs: int, size: int, norm: Norm | None = None
    ) -> Counter[Piece]:
        """Returns stem, head, and of every cell that leads to it its inputs, operations and sums."""
        from medarts.spaces.nas_wdan_pieces import pieces

        return pieces(genotype, in_channels=in_channels, outputs=outputs, size=size, norm=norm or "group")

    @classmethod
    def scaled(cls, genotype: Genotype) -> tuple[Genotype, ...]:
        """Returns a genotype at every C of the ladder that shuffle_groups divides."""
        groups = check(genotype).shuffle_groups
        return tuple(genotype.with_settings(init_channel=channels) for channels in WIDTHS if channels % groups == 0)

    @classmethod
    def lattice_of(
        cls, genotype: Genotype, *, without: Sequence[str] = (), heads: Sequence[str] | None = None
    ) -> Lattice:
        """Returns the lattice of a genotype, for drawings."""
        depth = int(genotype.settings["depth"])
        ends = head_nodes(depth, deep_supervision=bool(genotype.settings["deep_supervision"]))
        kept: Mapping[Node, Sequence[str]]
        kept = {Node(entry.layer, entry.level): entry.transitions for entry in genotype.paths}
        if without or heads is not None:
            ends = tuple(node for node in ends if heads is None or head_name(node) in heads)
            kept = without_cells(paths_of(genotype), without, ends)
        paths = [
            Path(lattice_inputs(node, kind)[1], node, kind, kept=kind in kept.get(node, ()))
            for node, kinds in all_paths(depth).items()
            for kind in kinds
        ]
        return Lattice(tuple(paths), ends, stem_stride=check(genotype).stem_stride)
