"""The supernet: the mixed cell, one meaning with two backends, and what is derived."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medarts.config import DeriveSettings, SupernetSettings
from medarts.network.layers import ChannelShuffle
from medarts.spaces.base import AS_DERIVED, Candidates, Supernet
from medarts.spaces.cells import (
    CellWeights,
    Names,
    alphas_snapshot,
    cell_edges,
    cell_weights,
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
from medarts.spaces.darts import fused
from medarts.spaces.darts.frame import DartsFrame, Position
from medarts.spaces.darts.operations import (
    IN_SUPERNET,
    KINDS,
    OPERATIONS,
    SKIP,
    Kind,
    OperationSettings,
    make_operation,
    preprocess,
    stride_of,
)
from medarts.spaces.darts.settings import SPACE, DartsSettings, NetworkSettings
from medarts.spaces.decisions import Decision, edges_decisions, operation_decision
from medarts.spaces.genotype import NONE, Cell, Genotype


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
