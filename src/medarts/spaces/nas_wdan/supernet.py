"""The supernet: the mixed cell, one meaning with two backends, and what is derived."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medarts.config import DeriveSettings, SupernetSettings
from medarts.errors import RecipeError
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
from medarts.spaces.decisions import Decision, edges_decisions, operation_decision
from medarts.spaces.genotype import NONE, Cell, Genotype
from medarts.spaces.nas_wdan import fused
from medarts.spaces.nas_wdan.frame import NasWdanFrame, Read, node_shape, read_each
from medarts.spaces.nas_wdan.genotypes import paths_of
from medarts.spaces.nas_wdan.lattice import Node, Paths, all_paths, head_name, head_nodes, reaching, to_kept
from medarts.spaces.nas_wdan.operations import (
    OPERATIONS,
    SKIP,
    TRANSITIONS,
    OperationSettings,
    Transition,
    make_operation,
    preprocess,
    set_of_edge,
)
from medarts.spaces.nas_wdan.settings import SPACE, LatticeSettings


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
            stem_channels=self.settings.stem_channels,
            full_size_head=self.settings.full_size_head,
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
