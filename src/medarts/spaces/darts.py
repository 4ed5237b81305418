"""The search space darts: cells one behind the other, normal ones and reduce ones. For images with findings.

Source: DARTS (arXiv 1806.09055), sections 2.1 to 2.4, 3.1 and 3.2, appendix A.

Every edge of a cell is the weighted sum of its candidate operations (alphas), which all cells of a kind share. The
derived network, of more cells and channels, keeps the strongest operation of the two strongest edges into each node.
In this order below: settings, frame, mixed cell, supernet, network, genotypes, the space.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medarts.config import DeriveSettings, StageSettings, SupernetSettings
from medarts.config.data import Task
from medarts.config.section import (
    LATER,
    MOST_CHANNELS,
    MOST_LAYERS,
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
from medarts.errors import GenotypeError, RecipeError
from medarts.network import FindingNetwork, check_batch_norms
from medarts.network.layers import ChannelShuffle, Norm, pooled_logits
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
from medarts.spaces.darts_operations import (
    IN_NETWORK,
    IN_SUPERNET,
    KINDS,
    OPERATIONS,
    SKIP,
    Kind,
    OperationSettings,
    batch_norm,
    make_operation,
    preprocess,
    stride_of,
)
from medarts.spaces.decisions import Decision, edges_decisions, operation_decision
from medarts.spaces.fused import darts as fused
from medarts.spaces.genotype import (
    COPY_AGAIN,
    EDGES_PER_NODE,
    NONE,
    RANDOM,
    Cell,
    Genotype,
    Setting,
    check_cell,
    check_range,
    check_space,
    read_settings,
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

SPACE = "darts"

Stem = Literal["chest", "cifar"]

Layers = Annotated[Whole, Field(ge=1, le=MOST_LAYERS)]


class DartsChoices(Section):
    """The macro settings that sampled networks and their changes may have. C is not among them, as a budget scales it.

    Attributes:
        layers: cells of the network; the fewest are 4 with the chest stem, 3 with that of CIFAR. Default: the cells of
            the supernet and of the networks for CIFAR and ImageNet in the paper.
        intermediate_nodes: nodes of a cell between its inputs and its output.
        auxiliary: whether there is a second classifier while the network is trained.
    """

    layers: Choices[Layers] = (8, 14, 20)
    intermediate_nodes: Choices[Nodes] = (2, 3, 4)
    auxiliary: Choices[Flag] = (False, True)


class DartsSettings(Settings):
    """The normal and reduce cells of DARTS (arXiv 1806.09055).

    Attributes:
        name: the search space.
        stem: chest: 7x7 convolution and max pooling, a quarter of the size, three reduce cells. cifar: 3x3
            convolution at full size, two reduce cells.
        intermediate_nodes: nodes of a cell between its inputs and its output.
        search_channel: C of the supernet, the channels of a node before the first reduction; each reduction doubles it.
        init_channel: C of the derived network.
        layers: cells of the derived network; those of the supernet are the depth of a stage.
        drop_path_prob: largest probability of dropping an operation of the derived network for an image while it is
            trained; it grows to it from 0.
        auxiliary: a second classifier behind two thirds of the cells of the derived network, while it is trained.
        operations: candidates of the search: kind of cell (normal, reduce) -> names. Default: those of the paper.
        choices: macro settings that sampled networks may have.
    """

    name: Literal["darts"] = "darts"
    stem: Stem = "chest"
    intermediate_nodes: Nodes = 4
    search_channel: Channels = 16
    init_channel: Channels = 36
    layers: Layers = 20
    drop_path_prob: Fraction = 0.2
    auxiliary: Flag = False
    operations: OperationNames = Field(default={})
    choices: Annotated[DartsChoices, LATER] = DartsChoices()

    @model_validator(mode="after")
    def _fits(self) -> "DartsSettings":
        check_candidates(OPERATIONS, self.operations)
        fewest, least = min(self.choices.layers), least_layers(self.stem)
        if fewest < least:
            raise ValueError(
                f"choices.layers has {fewest}, too few cells for the reductions behind the {self.stem} stem; "
                f"use {least} or more"
            )
        return self


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """The values that fix a network besides its cells.

    Attributes:
        init_channel: C, channels of a node before the first reduction, from 2 up; each reduction doubles it.
        layers: L, the number of cells; from 4 up with the chest stem, from 3 with that of CIFAR.
        intermediate_nodes: nodes of a cell.
        stem: chest or cifar.
        drop_path_prob: probability of dropping an operation for an image at the end of training, 0 to below 1.
        auxiliary: a second classifier behind layer 2L//3, used while training.
    """

    init_channel: int
    layers: int
    intermediate_nodes: int
    stem: Stem
    drop_path_prob: float
    auxiliary: bool

    def to_mapping(self) -> Mapping[str, Setting]:
        """Returns the settings in the form of a genotype."""
        return asdict(self)


# What the supernet and the derived network share: stem, positions of the cells, classifiers


STEM_MULTIPLIER = 3
"""The stem gives this many times C channels."""

REDUCTIONS: dict[Stem, int] = {"chest": 3, "cifar": 2}
"""Reduce cells of a network; they part it into sections of equal length."""

SHRINKAGE: dict[Stem, int] = {"chest": 32, "cifar": 4}
"""Pixels of the image, in height and in width, that become one pixel of the last feature maps."""

AUXILIARY_CHANNELS = (128, 768)


def least_layers(stem: Stem) -> int:
    """Returns the fewest cells of a network: one in every section between the reductions."""
    return REDUCTIONS[stem] + 1


def reductions(stem: Stem, layers: int) -> tuple[int, ...]:
    """Returns the layers of the reduce cells: L//4, 2L//4 and 3L//4 (chest), L//3 and 2L//3 (cifar)."""
    return tuple(section * layers // (REDUCTIONS[stem] + 1) for section in range(1, REDUCTIONS[stem] + 1))


def check_size(stem: Stem, size: int) -> None:
    """Refuses images smaller than what becomes one pixel of the last feature maps.

    Raises:
        RecipeError: ``size`` is below 32 with the chest stem, below 4 with that of CIFAR.
    """
    least = SHRINKAGE[stem]
    if size < least:
        raise RecipeError(
            f"The size {size} is too small for the network, which makes images {least} times smaller.",
            fix=f"Use {least} or more.",
        )


def last_size(stem: Stem, size: int) -> int:
    """Returns height and width of the last feature maps for images of ``size``; every halving rounds up."""
    return -(-size // SHRINKAGE[stem])


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a cell in the network.

    Attributes:
        kind: normal or reduce.
        s0_channels: channels of its first input, the output of the cell before the last.
        s1_channels: channels of its second input, the output of the last cell.
        channels: c, the channels of its nodes: C, doubled by each reduction.
        reduction_before: whether the last cell reduced.
    """

    kind: Kind
    s0_channels: int
    s1_channels: int
    channels: int
    reduction_before: bool


def positions(stem: Stem, *, layers: int, init_channel: int, intermediate_nodes: int) -> tuple[Position, ...]:
    """Returns the position of every cell, first to last; the first reads the stem as both of its inputs.

    Args:
        stem: decides where the reductions are.
        layers: L, the number of cells.
        init_channel: C.
        intermediate_nodes: nodes of a cell; its output has that many times c channels.
    """
    found: list[Position] = []
    s0 = s1 = STEM_MULTIPLIER * init_channel
    channels, reduced = init_channel, False
    for layer in range(layers):
        reduce = layer in reductions(stem, layers)
        channels *= 2 if reduce else 1
        found.append(Position("reduce" if reduce else "normal", s0, s1, channels, reduced))
        s0, s1, reduced = s1, intermediate_nodes * channels, reduce
    return tuple(found)


CellMaker = Callable[[Position], nn.Module]

CellRunner = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(cell, s0, s1) -> the cell's output, BCHW with nodes x c channels."""


class DartsFrame(nn.Module):
    """Stem, cells one behind the other, global average pooling and a linear classifier.

    Args:
        stem: chest: 7x7 convolution of stride 2, norm, ReLU and 3x3 max pooling of stride 2, then three reductions.
            cifar: 3x3 convolution and norm, then two.
        layers: L, the number of cells.
        init_channel: C, channels of a node before the first reduction.
        intermediate_nodes: nodes of a cell.
        make_cell: builds the cell of a position.
        in_channels: channels of the images.
        outputs: logits of an image.
        settings: of the norms.
        auxiliary: a second classifier behind layer 2L//3, which is used in training mode alone.
    """

    def __init__(
        self,
        stem: Stem,
        *,
        layers: int,
        init_channel: int,
        intermediate_nodes: int,
        make_cell: CellMaker,
        in_channels: int,
        outputs: int,
        settings: OperationSettings,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        of_cells = positions(stem, layers=layers, init_channel=init_channel, intermediate_nodes=intermediate_nodes)
        self.stem = make_stem(stem, in_channels, STEM_MULTIPLIER * init_channel, settings=settings)
        self.cells = nn.ModuleList(make_cell(position) for position in of_cells)
        self.classifier = nn.Linear(intermediate_nodes * of_cells[-1].channels, outputs)
        self.auxiliary_layer = 2 * layers // 3
        self.auxiliary: AuxiliaryHead | None = None
        if auxiliary:
            channels = intermediate_nodes * of_cells[self.auxiliary_layer].channels
            self.auxiliary = AuxiliaryHead(channels, outputs, settings)

    def run(self, x_bchw: Tensor, run_cell: CellRunner) -> list[Tensor]:
        """Returns logits (B, F): in training mode those of the auxiliary head first, where there is one, then the last.

        Args:
            x_bchw: images.
            run_cell: how a cell is run.
        """
        logits = []
        for layer, maps in enumerate(self._outputs(x_bchw, run_cell)):
            if self.auxiliary is not None and self.training and layer == self.auxiliary_layer:
                logits.append(self.auxiliary(maps))
        return [*logits, self.classify(maps)]

    def features(self, x_bchw: Tensor, run_cell: CellRunner) -> Tensor:
        """Returns the output of the last cell, BCHW."""
        return deque(self._outputs(x_bchw, run_cell), maxlen=1).pop()

    def classify(self, features_bchw: Tensor) -> Tensor:
        """Returns the logits of feature maps, (B, F)."""
        return pooled_logits(self.classifier, features_bchw)

    def _outputs(self, x_bchw: Tensor, run_cell: CellRunner) -> Iterator[Tensor]:
        """Yields the output of every cell, first to last."""
        s0 = s1 = self.stem(x_bchw)
        for cell in self.cells:
            s0, s1 = s1, run_cell(cell, s0, s1)
            yield s1


class AuxiliaryHead(nn.Sequential):
    """A classifier on earlier feature maps, which brings gradients to the cells before them.

    That of the published code of DARTS in its ImageNet form, which has no norm behind the second convolution. There
    an average pooling with a fixed window makes 2x2 pixels of the one size that it knows; the adaptive one here does
    so of any.
    """

    def __init__(self, channels: int, outputs: int, settings: OperationSettings) -> None:
        narrow, wide = AUXILIARY_CHANNELS
        super().__init__(
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Conv2d(channels, narrow, 1, bias=False),
            batch_norm(narrow, settings),
            nn.ReLU(),
            nn.Conv2d(narrow, wide, 2, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(wide, outputs),
        )


def make_stem(stem: Stem, in_channels: int, channels: int, *, settings: OperationSettings) -> nn.Module:
    """Returns what images pass before the first cell.

    Args:
        stem: chest or cifar.
        in_channels: channels of the images.
        channels: that it gives.
        settings: of the norm.
    """
    if stem == "cifar":
        return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), batch_norm(channels, settings))
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False),
        batch_norm(channels, settings),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


# The mixed cell: one meaning, two backends


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
        partial_channels: K; the operations see the first c/K channels of a state, the others bypass them.
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
        settings: OperationSettings,
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
                        name: make_operation(kind, name, self.operated_channels, stride=stride, settings=settings)
                        for name in names
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
        return tuple(fused.Leaving([present[edge] for edge in edges]) for edges in leaving(self.edges))

    @cached_property
    def fused(self) -> tuple[fused.Leaving, ...]:
        """For every state the operations on the edges that leave it, joined by the fused backend."""
        return self.joined(self.candidates)

    def empty_node(self, first: Tensor) -> Tensor:
        """Returns the operated channels of a node into which no operation leads: zeros, where ``first`` is as read."""
        b, _, h, w = first.shape
        stride = self.stride_of(0)
        return first.new_zeros(b, self.operated_channels, -(-h // stride), -(-w // stride))

    def stride_of(self, state: int) -> int:
        """Returns the stride of the edges from a state."""
        return stride_of(self.kind, state)

    def bypass(self, state: int, x_bchw: Tensor) -> Tensor:
        """Returns the channels of a state that bypass the operations, at the size of the nodes (PC-DARTS)."""
        return self.resized(state, x_bchw[:, self.operated_channels :])

    def resized(self, state: int, x_bchw: Tensor) -> Tensor:
        """Returns channels of a state at the size of the nodes, without parameters."""
        return x_bchw if self.stride_of(state) == 1 else F.max_pool2d(x_bchw, 2, ceil_mode=True)


Mix = Callable[[MixedCell, Tensor, Tensor, CellWeights], Tensor]
"""(cell, its first input, its second, weights) -> output, BCHW with nodes x c channels.

The inputs have been read, that is, put through the cell's preprocessing.
"""


@dataclass(frozen=True, slots=True)
class Backend:
    """A way to run the mixed cells of a supernet.

    Attributes:
        mix: a mixed cell.
        memory_format: in which images enter.
    """

    mix: Mix
    memory_format: torch.memory_format


def mix_reference(cell: MixedCell, first: Tensor, second: Tensor, weights: CellWeights) -> Tensor:
    """Runs a mixed cell edge by edge and operation by operation."""
    states = [first, second]
    for node in range(cell.intermediate_nodes):
        operated: list[Tensor] = []
        bypass: list[Tensor] = []
        for edge, (into, state) in enumerate(cell.edges):
            if into != node:
                continue
            operations = cast(nn.ModuleDict, cell.operations[edge])
            x = states[state][:, : cell.operated_channels]
            for name, weight in zip(weights.candidates[edge], weights.operations[edge], strict=True):
                if name in operations:
                    operated.append(weight * operations[name](x))
            if weights.skip:
                operated.append(weights.skip * cell.resized(state, x))
            if cell.partial_channels > 1:
                bypass.append(weights.bypass[edge] * cell.bypass(state, states[state]))
        total = sum(operated[1:], operated[0]) if operated else cell.empty_node(first)
        if bypass:
            total = cell.shuffle(torch.cat([total, sum(bypass[1:], bypass[0])], dim=1))
        states.append(total)
    return torch.cat(states[2:], dim=1)


REFERENCE = Backend(mix_reference, torch.contiguous_format)
"""Edge by edge and operation by operation, written to be read."""

FUSED = Backend(fused.mix_fused, torch.channels_last)
"""Runs together what reads the same state. Equal numbers from the same parameters, so checkpoints are interchangeable;
operations that it does not know run as in the reference."""


# The supernet and what is derived from it


def operation_key(kind: str, name: str, stride: int) -> str:
    """Returns the key of an operation in all cells of a kind; see `SearchSpace.operation_pieces`."""
    return f"{kind} {name} of stride {stride}"


class DartsSupernet(Supernet):
    """The supernet of one stage.

    The alphas of a kind have one row for each edge of a cell, 14 for cells of four nodes, and one column for each
    operation; all cells of the kind share them. With edge normalisation (PC-DARTS, arXiv 1907.05737, section 3.3)
    every kind has gammas, one for each edge; the softmax over the edges into a node scales what they bring.

    Batch norms use the statistics of the batch, in evaluation mode too, and keep none.

    Args:
        settings: the space.
        depth: number of cells.
        candidates: kind -> operations of each of its edges; None takes all.
        in_channels: channels of the images.
        outputs: logits of an image.
        supernet: what the derived network does not have.
        backend: how mixed cells are run.
    """

    def __init__(
        self,
        settings: DartsSettings,
        *,
        depth: int,
        candidates: Candidates | None = None,
        in_channels: int = 3,
        outputs: int = 1,
        supernet: SupernetSettings = AS_DERIVED,
        backend: Backend = FUSED,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.partial_channels = supernet.partial_channels
        self.recompute = supernet.recompute
        self.backend = backend
        self.edges = cell_edges(settings.intermediate_nodes)
        self.candidates = candidates or {
            kind: (settings.operations.get(kind, OPERATIONS[kind].published),) * len(self.edges) for kind in KINDS
        }
        self.frame = DartsFrame(
            settings.stem,
            layers=depth,
            init_channel=settings.search_channel,
            intermediate_nodes=settings.intermediate_nodes,
            make_cell=self._make_cell,
            in_channels=in_channels,
            outputs=outputs,
            settings=IN_SUPERNET,
        )
        self.alphas = nn.ParameterDict(
            {kind: initial(len(rows), len(rows[0])) for kind, rows in self.candidates.items()}
        )
        self.gammas = nn.ParameterDict()
        if supernet.edge_normalisation:
            self.gammas.update({kind: initial(len(self.edges)) for kind in KINDS})
        self._discrete: dict[Kind, CellWeights] | None = None
        # PyTorch's annotations do not know that modules take a memory format alone.
        nn.Module.to(self, memory_format=backend.memory_format)  # type: ignore[call-overload]

    def architecture(self) -> list[nn.Parameter]:
        """Returns alphas and gammas."""
        return [*self.alphas.values(), *self.gammas.values()]

    def forward_heads(self, x_bchw: Tensor) -> list[Tensor]:
        """Returns the logits, (B, F), of the one head."""
        weights = self._discrete or self.mixture()

        def run_cell(cell: nn.Module, s0: Tensor, s1: Tensor) -> Tensor:
            arguments = (cast(MixedCell, cell), s0, s1, weights[cast(MixedCell, cell).kind])
            if self.recompute and torch.is_grad_enabled():
                return cast(Tensor, checkpoint(self._run_cell, *arguments, use_reentrant=False))
            return self._run_cell(*arguments)

        return self.frame.run(x_bchw.contiguous(memory_format=self.backend.memory_format), run_cell)

    def mixture(self) -> dict[Kind, CellWeights]:
        """Returns for each kind the relaxed weights of the candidates of every edge."""
        weights = self.relaxed([*self.alphas.values()], skips=where_skips(self.candidates, SKIP))
        return self._mixture(weights, sparse=self.relaxation.sparse, skip=self.auxiliary_skip)

    def preferences(self) -> dict[Kind, CellWeights]:
        """Returns how strongly the architecture prefers each candidate, without chance and with none left out."""
        return self._mixture([self.relaxation.preferences(rows) for rows in self.alphas.values()])

    def expected_cost(self) -> Tensor:
        """Returns what the operations of a derived network are expected to cost; see `Supernet.expected_cost`."""
        cells = [
            expected_of_cell(
                weights,
                lambda name, state, kind=kind: self.costs.get(  # type: ignore[misc]
                    operation_key(kind, name, stride_of(kind, state)), 0.0
                ),
            )
            for kind, weights in self.preferences().items()
        ]
        return torch.stack(cells).sum()

    def decisions(self, settings: DeriveSettings) -> list[Decision]:
        """Returns the operation of every edge of a kind of cell, then the edges into every node."""
        operations = [
            operation_decision(place, names)
            for kind in KINDS
            for place, names in zip(self._places(kind), self.candidates[kind], strict=True)
        ]
        return [*operations, *(decision for kind in KINDS for decision in edges_decisions(kind, self.edges))]

    def _places(self, kind: Kind) -> list[str]:
        """Returns for every edge of the cells of a kind where its operation is decided."""
        return [f"{kind} {label}" for label in edge_labels(self.edges)]

    def _mixture(self, weights: list[Tensor], *, sparse: bool = False, skip: float = 0.0) -> dict[Kind, CellWeights]:
        of_kinds = dict(zip(self.alphas, weights, strict=True))
        mixture = {
            kind: cell_weights(
                self.edges,
                self.candidates[kind],
                of_kinds[kind].unbind(),
                gamma=self.gammas[kind] if self.gammas else None,
                sparse=sparse,
                skip=skip,
            )
            for kind in KINDS
        }
        if not self.restriction:
            return mixture
        return {
            kind: restricted(of_kind, self.restriction, kind=kind, places=self._places(kind))
            for kind, of_kind in mixture.items()
        }

    def strongest(self, keep: Mapping[str, int]) -> Candidates:
        """Returns the candidates left when every edge of a kind keeps N; kinds not named keep all."""
        return strongest(self.candidates, dict(self.alphas.items()), keep)

    def derive(self, settings: DeriveSettings, *, name: str, provenance: Mapping[str, Any]) -> Genotype:
        """Returns the genotype: per edge the strongest operation, per node two edges.

        Args:
            settings: of paths, which this space does not have.
            name: of the genotype.
            provenance: where it comes from.
        """
        with torch.no_grad():
            weights = self.preferences()
        cells: dict[str, Cell] = {
            kind: derive_cell(
                self.edges,
                of_kind.candidates,
                [w.tolist() for w in of_kind.operations],
                competing=self.relaxation.competing,
                limits=self.limits(self.edges, skip=SKIP, skips=settings.skips),
            )
            for kind, of_kind in weights.items()
        }
        network = NetworkSettings(
            init_channel=self.settings.init_channel,
            layers=self.settings.layers,
            intermediate_nodes=self.settings.intermediate_nodes,
            stem=self.settings.stem,
            drop_path_prob=self.settings.drop_path_prob,
            auxiliary=self.settings.auxiliary,
        )
        return Genotype(
            name=name,
            space=SPACE,
            cells=cells,
            settings=network.to_mapping(),
            provenance=dict(provenance),
            candidates=self.settings.operations,
        )

    def discretise(self, genotype: Genotype | None) -> None:
        """Makes ``forward`` use the kept operations alone, each with weight 1; None undoes it."""
        self._discrete = None if genotype is None else {kind: self._one_hot(kind, genotype) for kind in KINDS}

    def snapshot(self) -> dict[str, Any]:
        """Returns the preferences and the gammas by kind and edge."""
        alphas = {
            kind: alphas_snapshot(self.edges, rows, self.relaxation.preferences(self.alphas[kind].detach()))
            for kind, rows in self.candidates.items()
        }
        gammas = {kind: gammas_snapshot(self.edges, gamma) for kind, gamma in self.gammas.items()}
        return {"alphas": alphas, **({"gammas": gammas} if gammas else {})}

    def _make_cell(self, position: Position) -> MixedCell:
        return MixedCell(
            position.kind,
            self.candidates[position.kind],
            intermediate_nodes=self.settings.intermediate_nodes,
            s0_channels=position.s0_channels,
            s1_channels=position.s1_channels,
            channels=position.channels,
            reduction_before=position.reduction_before,
            settings=IN_SUPERNET,
            partial_channels=self.partial_channels,
        )

    def _run_cell(self, cell: MixedCell, s0: Tensor, s1: Tensor, weights: CellWeights) -> Tensor:
        return self.backend.mix(cell, cell.input0(s0), cell.input1(s1), weights)

    def _one_hot(self, kind: Kind, genotype: Genotype) -> CellWeights:
        return one_hot(
            self.edges, self.candidates[kind], genotype.cells[kind], genotype=genotype, like=self.alphas[kind]
        )


# The network of a genotype


def drop_path(x_bchw: Tensor, probability: float) -> Tensor:
    """Returns each image whole, scaled so that the mean stays, or with ``probability`` as zeros.

    Source: DARTS (arXiv 1806.09055), appendix A, after FractalNet (arXiv 1605.07648).
    """
    kept = 1.0 - probability
    mask_b111 = x_bchw.new_empty(len(x_bchw), 1, 1, 1).bernoulli_(kept)
    return x_bchw * (mask_b111 / kept)


class DartsCell(nn.Module):
    """A cell with its edges fixed: every node sums its edges, the output concatenates the nodes.

    Args:
        edges: the incoming edges of every node.
        position: of the cell in the network.
        settings: shared by all operations.
    """

    def __init__(self, edges: Cell, *, position: Position, settings: OperationSettings) -> None:
        super().__init__()
        self.edges = edges
        c = position.channels
        self.input0 = preprocess(position.s0_channels, c, settings=settings, halve=position.reduction_before)
        self.input1 = preprocess(position.s1_channels, c, settings=settings)
        self.operations = nn.ModuleList(
            nn.ModuleList(
                make_operation(position.kind, name, c, stride=stride_of(position.kind, state), settings=settings)
                for name, state in node
            )
            for node in edges
        )

    def forward(self, s0: Tensor, s1: Tensor, *, drop_path_prob: float = 0.0) -> Tensor:
        """Returns the output, BCHW with nodes x c channels.

        Args:
            s0: the output of the cell before the last.
            s1: the output of the last cell.
            drop_path_prob: probability with which each operation but the identity is dropped for an image.
        """
        states: list[Tensor] = [self.input0(s0), self.input1(s1)]
        for node, operations in zip(self.edges, self.operations, strict=True):
            terms = []
            for (_, state), operation in zip(node, cast(nn.ModuleList, operations), strict=True):
                x = operation(states[state])
                if drop_path_prob and not isinstance(operation, nn.Identity):
                    x = drop_path(x, drop_path_prob)
                terms.append(x)
            states.append(sum(terms[1:], terms[0]))
        return torch.cat(states[2:], dim=1)


class DartsNetwork(FindingNetwork):
    """A derived network of normal and reduce cells.

    While it is trained, operations are dropped with a probability that grows with ``at``, and an auxiliary head gives
    logits too, where the genotype says so.

    Args:
        genotype: the architecture.
        in_channels: channels of the images.
        outputs: logits of an image.

    Raises:
        GenotypeError: the genotype does not fit the space; the message says why.
    """

    def __init__(self, genotype: Genotype, *, in_channels: int = 3, outputs: int = 1) -> None:
        super().__init__()
        settings = check(genotype)
        self.stem = settings.stem
        self.drop_path_prob = settings.drop_path_prob
        self.progress = 0.0

        def make_cell(position: Position) -> DartsCell:
            return DartsCell(genotype.cells[position.kind], position=position, settings=IN_NETWORK)

        self.frame = DartsFrame(
            settings.stem,
            layers=settings.layers,
            init_channel=settings.init_channel,
            intermediate_nodes=settings.intermediate_nodes,
            make_cell=make_cell,
            in_channels=in_channels,
            outputs=outputs,
            settings=IN_NETWORK,
            auxiliary=settings.auxiliary,
        )
        self._lay_out()

    def check_size(self, size: int) -> None:
        """Refuses images smaller than what becomes one pixel of the last feature maps; all others fit, odd ones too.

        Raises:
            RecipeError: ``size`` is below 32 with the chest stem, below 4 with that of CIFAR.
        """
        check_size(self.stem, size)

    def smallest_map(self, size: int) -> int:
        """Returns the height and width of the last feature maps."""
        return last_size(self.stem, size)

    def at(self, progress: float) -> None:
        """Lets drop-path have this part, 0 to 1, of its largest probability."""
        self.progress = progress

    def forward_heads(self, x_bchw: Tensor, heads: Sequence[str] | None = None) -> list[Tensor]:
        """Returns the logits (B, F); of all heads in training mode, those of an auxiliary head come first."""
        if heads is None:
            return self.frame.run(x_bchw, self._run_cell)
        return [self.classify(self.features(x_bchw))]

    def features(self, x_bchw: Tensor) -> Tensor:
        """Returns the output of the last cell, BCHW."""
        return self.frame.features(x_bchw, self._run_cell)

    def classify(self, features_bchw: Tensor) -> Tensor:
        """Returns the logits of feature maps, (B, F)."""
        return self.frame.classify(features_bchw)

    def _run_cell(self, cell: nn.Module, s0: Tensor, s1: Tensor) -> Tensor:
        probability = self.drop_path_prob * self.progress if self.training else 0.0
        output: Tensor = cell(s0, s1, drop_path_prob=probability)
        return output


# Genotypes


def check(genotype: Genotype) -> NetworkSettings:
    """Returns the settings of a genotype that fits the space.

    Raises:
        GenotypeError: it is of another space, or a setting, an operation or a state does not exist.
    """
    check_space(genotype, SPACE, OPERATIONS)
    settings = read_settings(genotype, NetworkSettings)
    _check_values(genotype, settings)
    for kind in KINDS:
        check_cell(
            genotype,
            kind,
            intermediate_nodes=settings.intermediate_nodes,
            operations=partial(_operations_of, tuple(OPERATIONS[kind])),
        )
    unknown = sorted(set(genotype.cells) - set(KINDS))
    if unknown or genotype.paths:
        raise GenotypeError(
            f"Genotype '{genotype.name}' has {f'{unknown[0]} cells' if unknown else 'paths'}; {SPACE} has none.",
            fix=COPY_AGAIN,
        )
    return settings


def _operations_of(names: Sequence[str], state: int) -> Sequence[str]:
    """Returns what can be used on the edges from a state: the same from all."""
    return names


def _check_values(genotype: Genotype, settings: NetworkSettings) -> None:
    for name, low, high in (
        ("init_channel", 2, MOST_CHANNELS),
        ("intermediate_nodes", 1, MOST_NODES),
        ("layers", 1, MOST_LAYERS),
    ):
        check_range(genotype, name, getattr(settings, name), low, high)
    if not 0 <= settings.drop_path_prob < 1:
        raise GenotypeError(
            f"Genotype '{genotype.name}' has drop_path_prob {settings.drop_path_prob}.", fix="Use 0 to below 1."
        )
    least = least_layers(settings.stem)
    if settings.layers < least:
        raise GenotypeError(
            f"Genotype '{genotype.name}' has layers {settings.layers}, too few for the {settings.stem} stem.",
            fix=f"Use {least} layers or more.",
        )


# The space


@register_space(SPACE, settings=DartsSettings, default=True)
class Darts(SearchSpace):
    """The search space darts with the settings of a recipe.

    Raises:
        RecipeError: the channels cannot be cut into ``partial_channels`` parts, or the derived network has too few
            layers.
    """

    task: ClassVar[Task] = "classification"
    # What DARTS on ChestX-ray14 used: images of 224 px cropped from 256 px, batches of 16 and 32, plateau schedule. The
    # number of training epochs is this project's.
    defaults: ClassVar[Mapping[str, Any]] = {
        "data": {
            "size": 224,
            # A crop of 224 from 256 pixels moves the image by up to 16, which is 7 % of 224.
            "augmentation": {"flip": "horizontal", "transpose": False, "brightness": 0.0, "shift": 0.07},
        },
        "search": {
            "stages": [{"depth": 12, "epochs": 50, "batch": 16}],
            "loss": "bce_logits",
            "lr": 0.025,
            "lr_min": 1e-4,
            "momentum": 0.9,
            "weight_decay": 3e-4,
            "arch_lr": 3e-4,
            "arch_betas": [0.5, 0.999],
            "arch_weight_decay": 1e-3,
            "arch_after": 0,
            "mixing": {"alpha": 0.0},
        },
        "train": {
            "epochs": 100,
            "batch": 32,
            "loss": "bce_logits",
            "optimizer": "sgd",
            "lr": 0.025,
            "lr_min": 1e-5,
            "momentum": 0.9,
            "weight_decay": 3e-4,
            "schedule": "plateau",
            "plateau_epochs": 5,
        },
    }
    item_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "search.stages": {"depth": 12, "epochs": 50, "batch": 16},
    }
    relaxes = True
    has_skips = True
    operations = OPERATIONS
    free: ClassVar[frozenset[str]] = frozenset({"skip_connect", "avg_pool_3x3", "max_pool_3x3"})
    cell_inputs: ClassVar[Mapping[str, tuple[str, str]]] = dict.fromkeys(
        KINDS, ("the cell before the last", "the last cell")
    )
    cell_meanings: ClassVar[Mapping[str, str]] = {
        "normal": "keeps the resolution",
        "reduce": "halves the resolution: edges from s0 and s1 have stride 2",
    }
    has_text_form: ClassVar[bool] = True
    settings: DartsSettings

    def __init__(
        self,
        settings: DartsSettings,
        *,
        in_channels: int,
        outputs: int,
        supernet: SupernetSettings = AS_DERIVED,
    ) -> None:
        super().__init__(settings, in_channels=in_channels, outputs=outputs, supernet=supernet)
        part, channels = supernet.partial_channels, settings.search_channel
        if channels % part:
            raise RecipeError(
                f"search.supernet.partial_channels {part} does not divide space.search_channel {channels}.",
                fix=f"Use a search_channel that {part} divides.",
            )
        _check_layers("space.layers", settings.layers, settings)

    def check(self, stage: StageSettings, size: int, *, fewest: int) -> None:
        """Refuses a stage of too few cells or unknown sets, or whose norms would see single values.

        Raises:
            RecipeError: it is one.
        """
        _check_layers("search.stages depth", stage.depth, self.settings)
        for name in stage.keep:
            if name not in KINDS:
                raise RecipeError(
                    f"search.stages keep names the unknown set '{name}'.", fix=f"Use {' or '.join(KINDS)}."
                )
        check_size(self.settings.stem, size)
        if fewest == 1 and last_size(self.settings.stem, size) == 1:
            raise RecipeError(
                f"With data.size {size} the last cell sees one pixel, and a batch or a part of one has one image "
                f"(search.stages batch {stage.batch}, accumulate {stage.accumulate}; evaluation.batch): a batch norm "
                "of one value has no statistics.",
                fix="Use larger images, larger batches or fewer parts.",
            )

    def supernet(self, stage: StageSettings, candidates: Candidates | None) -> DartsSupernet:
        """Returns a fresh supernet with as many cells as the stage has depth."""
        return DartsSupernet(
            self.settings,
            depth=stage.depth,
            candidates=candidates,
            in_channels=self.in_channels,
            outputs=self.outputs,
            supernet=self.supernet_settings,
        )

    def operation_pieces(self, stage: StageSettings, *, size: int, norm: Norm | None) -> Mapping[str, Counter[Piece]]:
        """Returns all pieces of an operation of a kind of cell and stride, of the network that is derived."""
        from medarts.spaces.darts_pieces import operation_pieces

        return operation_pieces(self.settings, size=size)

    @classmethod
    def settings_of(cls, genotype: Genotype) -> DartsSettings:
        """Returns the settings of a genotype as the section of a recipe; what the search alone uses has its default."""
        return DartsSettings(**asdict(check(genotype)), operations=dict(genotype.candidates))

    @classmethod
    def network(cls, genotype: Genotype, *, in_channels: int, outputs: int, norm: Norm | None = None) -> DartsNetwork:
        """Returns the network of a genotype; its norms are batch norms."""
        check_batch_norms(norm, genotype.name)
        return DartsNetwork(genotype, in_channels=in_channels, outputs=outputs)

    @classmethod
    def random_genotype(cls, like: Genotype, *, seed: int) -> Genotype:
        """Returns a genotype with the settings of another and its cells sampled uniformly.

        Every node of a cell reads two earlier states, each through one of the candidates.
        """
        cells = random_cells(
            KINDS,
            check(like).intermediate_nodes,
            candidates=_candidates(like.candidates),
            generator=np.random.default_rng(seed),
        )
        return random_like(like, cells, seed=seed)

    @classmethod
    def sample(cls, settings: DartsSettings, *, seed: int) -> Genotype:
        """Returns a genotype of random cells, layers, nodes, and with an auxiliary head or without."""
        of_network = NetworkSettings(
            stem=settings.stem,
            init_channel=settings.init_channel,
            drop_path_prob=settings.drop_path_prob,
            **random_settings(settings.choices, seed=seed),
        )
        cells = random_cells(
            KINDS,
            of_network.intermediate_nodes,
            candidates=_candidates(settings.operations),
            generator=np.random.default_rng(seed),
        )
        return Genotype(
            name=f"{RANDOM}-{seed}",
            space=SPACE,
            cells=cells,
            settings=of_network.to_mapping(),
            provenance={"source": RANDOM, "seed": seed},
            candidates=settings.operations,
        )

    @classmethod
    def changes(
        cls, genotype: Genotype, settings: DartsSettings, generator: np.random.Generator
    ) -> Mapping[str, Sequence[Mutation]]:
        """Returns genotypes with another operation, another state that an edge reads, or another macro setting."""
        candidates = _candidates(settings.operations)
        macro = [
            Mutation(
                setting_words(name, present, other),
                with_setting(genotype, name, other, candidates=candidates, generator=generator),
            )
            for name, present, other in nearest_choices(settings.choices, check(genotype).to_mapping())
        ]
        return {
            "operation": [*operation_changes(genotype, candidates)],
            "edge": [*edge_changes(genotype, candidates, generator)],
            "setting": macro,
        }

    @classmethod
    def reductions(cls, genotype: Genotype, settings: DartsSettings) -> Iterator[Mutation]:
        """Yields genotypes with fewer layers, then fewer nodes of the cells, then without auxiliary head."""
        candidates = _candidates(settings.operations)

        def reduce(genotype: Genotype) -> Mutation | None:
            return cheaper_setting(
                settings.choices,
                check(genotype).to_mapping(),
                lambda name, other: with_setting(
                    genotype, name, other, candidates=candidates, generator=np.random.default_rng(0)
                ),
            )

        return repeated(genotype, reduce)

    @classmethod
    def reachable(cls, genotype: Genotype) -> Genotype:
        """Returns a genotype with all settings, and the edges of a node in the order of their states."""
        return replace(
            genotype,
            settings=check(genotype).to_mapping(),
            cells={kind: tuple(map(in_order, cell)) for kind, cell in genotype.cells.items()},
        )

    @classmethod
    def pieces(
        cls, genotype: Genotype, *, in_channels: int, outputs: int, size: int, norm: Norm | None = None
    ) -> Counter[Piece]:
        """Returns stem, classifier, and of every cell its inputs, operations and sums."""
        from medarts.spaces.darts_pieces import pieces

        check_batch_norms(norm, genotype.name)
        return pieces(genotype, in_channels=in_channels, outputs=outputs, size=size)

    @classmethod
    def scaled(cls, genotype: Genotype) -> tuple[Genotype, ...]:
        """Returns a genotype at every C of the ladder."""
        return tuple(genotype.with_settings(init_channel=channels) for channels in WIDTHS)

    @classmethod
    def published_outputs(cls, genotype: Genotype) -> int:
        """Returns the 14 findings of ChestX-ray14, or the 10 classes of CIFAR."""
        return 10 if genotype.settings.get("stem") == "cifar" else 14

    @classmethod
    def published_size(cls, genotype: Genotype) -> int:
        """Returns the size of ChestX-ray14 as trained on, or of CIFAR."""
        return 32 if genotype.settings.get("stem") == "cifar" else 224

    @classmethod
    def from_text(cls, text: str, *, name: str, origin: str) -> Genotype:
        """Reads the one line in which DARTS code prints a genotype."""
        from medarts.spaces.darts_text import from_text

        return from_text(text, name=name, origin=origin)

    @classmethod
    def to_text(cls, genotype: Genotype) -> str | None:
        """Returns a genotype as the line that DARTS code prints; None where a node has not two edges."""
        from medarts.spaces.darts_text import to_text

        edges = {len(node) for cell in genotype.cells.values() for node in cell}
        return to_text(genotype) if edges == {EDGES_PER_NODE} else None


def with_setting(
    genotype: Genotype,
    name: str,
    value: Setting,
    *,
    candidates: CandidatesOf,
    generator: np.random.Generator,
) -> Genotype:
    """Returns a genotype with another value of a macro setting, and the cells that it then has.

    Args:
        genotype: which has to fit the space.
        name: of the setting.
        value: of it.
        candidates: operations of the edges of nodes that are added.
        generator: of the random choice of these edges.
    """
    changed = replace(genotype, settings={**check(genotype).to_mapping(), name: value})
    if name != "intermediate_nodes":
        return changed
    cells = cells_with_nodes(genotype.cells, int(value), candidates=candidates, generator=generator)
    return replace(changed, cells=cells)


def _candidates(operations: Mapping[str, tuple[str, ...]]) -> CandidatesOf:
    """Returns what can be used on the edges of a kind of cell, the same from all states.

    Args:
        operations: kind of cell -> its candidates, for those that have others than the published.
    """
    return lambda kind, state: without_none(operations.get(kind, OPERATIONS[kind].published))


def _check_layers(field: str, layers: int, settings: DartsSettings) -> None:
    least = least_layers(settings.stem)
    if layers < least:
        raise RecipeError(
            f"{field} is {layers}, too few cells for the reductions behind the {settings.stem} stem.",
            fix=f"Use {least} or more.",
        )
