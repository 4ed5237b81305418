"""The weaved supernet: every move of the lattice, every operation on every edge.

Source: NAS-WDAN / MixSearch (arXiv 2102.13280), search space and search.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medarts.config import DeriveSettings, StageSettings, SupernetSettings, WeaveSettings
from medarts.errors import RecipeError, did_you_mean
from medarts.spaces import mixture
from medarts.spaces.cell import CellWeights, cell_edges, derive_cell
from medarts.spaces.genotype import Cell, Genotype
from medarts.spaces.mixture import Names
from medarts.spaces.space import Candidates, SearchSpace, Supernet
from medarts.spaces.weave import lattice
from medarts.spaces.weave.cell import MixedCell
from medarts.spaces.weave.derive import derive_paths
from medarts.spaces.weave.execution import FAST, Execution
from medarts.spaces.weave.frame import WeaveFrame
from medarts.spaces.weave.genotypes import SPACE, LatticeSettings, paths_of
from medarts.spaces.weave.lattice import Node
from medarts.spaces.weave.operations import MOVES, SETS, Move, OperationSettings, set_of_edge

AS_DERIVED = SupernetSettings()
"""All channels go through the operations, as in the derived network."""


@dataclass(frozen=True, slots=True)
class MixtureWeights:
    """The weights of a forward pass.

    Attributes:
        cells: move -> the weights of its cells.
        moves: node -> move -> weight of that cell.
    """

    cells: dict[Move, CellWeights]
    moves: dict[Node, dict[Move, Tensor]]


class WeaveSpace(SearchSpace):
    """The weaved search space with the settings of a recipe.

    Raises:
        RecipeError: the channels cannot be cut into ``partial_channels`` parts.
    """

    def __init__(
        self,
        settings: WeaveSettings,
        *,
        in_channels: int,
        outputs: int,
        supernet: SupernetSettings = AS_DERIVED,
    ) -> None:
        part, channels = supernet.partial_channels, settings.init_channel
        if channels % part or channels // part % settings.shuffle_groups:
            raise RecipeError(
                f"search.supernet.partial_channels {part} cuts space.init_channel {channels} into parts that are not "
                f"whole multiples of space.shuffle_groups {settings.shuffle_groups}.",
                fix=f"Use an init_channel that {part * settings.shuffle_groups} divides.",
            )
        self.settings = settings
        self.supernet_settings = supernet
        self.in_channels = in_channels
        self.outputs = outputs

    def check(self, stage: StageSettings, size: int, *, fewest: int) -> None:
        """Refuses lattices below depth 3, unknown sets in ``keep``, and sizes that the lattice cannot halve."""
        if stage.depth < 3:
            raise RecipeError(
                f"A stage of search.stages has depth {stage.depth}.", fix="A lattice has a depth from 3 up."
            )
        for name in stage.keep:
            if name not in MOVES:
                raise RecipeError(
                    f"keep of search.stages names the unknown set '{name}'.", fix=did_you_mean(name, MOVES)
                )
        lattice.check_size(size, stage.depth)

    def supernet(self, stage: StageSettings, candidates: Candidates | None) -> "WeaveSupernet":
        """Returns a fresh supernet of the depth of ``stage``."""
        return WeaveSupernet(
            LatticeSettings(
                depth=stage.depth,
                init_channel=self.settings.init_channel,
                double_down_channel=self.settings.double_down_channel,
                intermediate_nodes=self.settings.intermediate_nodes,
                shuffle_groups=self.settings.shuffle_groups,
                deep_supervision=self.settings.deep_supervision,
                dropout_prob=self.settings.dropout_prob,
            ),
            candidates=candidates,
            in_channels=self.in_channels,
            outputs=self.outputs,
            supernet=self.supernet_settings,
        )


class WeaveSupernet(Supernet):
    """The supernet of one stage.

    The alphas of a set have one row for each edge that uses it: all 14 edges of a cell of four nodes for the
    normal set, the four that read s1 for down and up. Cells of all moves share them. The betas have one row for
    each node but the stem's and one column for each move; a node with one move gives it weight 1.

    With edge normalisation (PC-DARTS, arXiv 1907.05737, section 3.3) every move has gammas, one for each edge; the
    softmax over the edges into a node scales what they bring.

    Args:
        settings: the lattice.
        candidates: set -> operations of each of its rows; None takes all.
        in_channels: channels of the images.
        outputs: channels of the logits.
        supernet: what the derived network does not have.
        execution: how mixed cells are run.
    """

    def __init__(
        self,
        settings: LatticeSettings,
        *,
        candidates: Candidates | None = None,
        in_channels: int = 3,
        outputs: int = 1,
        supernet: SupernetSettings = AS_DERIVED,
        execution: Execution = FAST,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.partial_channels = supernet.partial_channels
        self.recompute = supernet.recompute
        self.execution = execution
        self.edges = cell_edges(settings.intermediate_nodes)
        self.paths = lattice.all_paths(settings.depth)
        self.candidates = candidates or {
            kind: (SETS[kind],) * sum(self._uses(kind, state) for _, state in self.edges) for kind in MOVES
        }
        self.frame = self._make_frame(in_channels, outputs)
        self.alphas = nn.ParameterDict(
            {kind: mixture.initial(len(rows), len(rows[0])) for kind, rows in self.candidates.items()}
        )
        self.betas = mixture.initial(len(self.paths), len(MOVES))
        self.gammas = nn.ParameterDict()
        if supernet.edge_normalisation:
            self.gammas.update({move: mixture.initial(len(self.edges)) for move in MOVES})
        self._discrete: MixtureWeights | None = None
        # PyTorch's annotations do not know that modules take a memory format alone.
        nn.Module.to(self, memory_format=execution.memory_format)  # type: ignore[call-overload]

    def architecture(self) -> list[nn.Parameter]:
        """Returns alphas, betas and gammas."""
        return [*self.alphas.values(), self.betas, *self.gammas.values()]

    def forward(self, x_bchw: Tensor) -> list[Tensor]:
        """Returns the logits of every head, first to last, BKHW at the size of the input."""
        weights = self._discrete or self.mixture()

        def run_cell(node: Node, move: Move, cell: nn.Module, s0: Tensor | None, s1: Tensor) -> Tensor:
            arguments = (cell, s0, s1, weights.cells[move])
            if self.recompute and torch.is_grad_enabled():
                output = cast(Tensor, checkpoint(self.execution.mix, *arguments, use_reentrant=False))
            else:
                output = self.execution.mix(*cast(Any, arguments))
            return weights.moves[node][move] * output

        x_bchw = x_bchw.contiguous(memory_format=self.execution.memory_format)
        return self.frame.run(x_bchw, run_cell, read=self.execution.read)

    def mixture(self) -> MixtureWeights:
        """Returns the softmax of alphas over the candidates of an edge, of betas over the moves into a node."""
        alphas = {kind: torch.softmax(alpha, dim=-1) for kind, alpha in self.alphas.items()}
        moves = {}
        for row, (node, possible) in zip(self.betas, self.paths.items(), strict=True):
            beta = torch.softmax(row[[MOVES.index(move) for move in possible]], dim=-1)
            moves[node] = dict(zip(possible, beta, strict=True))
        return MixtureWeights({move: self._cell_weights(move, alphas) for move in MOVES}, moves)

    def strongest(self, keep: Mapping[str, int]) -> Candidates:
        """Returns the candidates left when every edge of a set keeps so many; sets not named keep all."""
        return mixture.strongest(self.candidates, dict(self.alphas.items()), keep)

    def derive(self, settings: DeriveSettings, *, name: str, provenance: Mapping[str, Any]) -> Genotype:
        """Returns the genotype: per edge the strongest operation, per node two edges and its strong moves."""
        with torch.no_grad():
            weights = self.mixture()
        cells: dict[str, Cell] = {
            move: derive_cell(self.edges, of_move.candidates, [w.tolist() for w in of_move.operations])
            for move, of_move in weights.cells.items()
        }
        betas = {node: {move: float(b) for move, b in row.items()} for node, row in weights.moves.items()}
        heads = lattice.heads(self.settings.depth, deep_supervision=self.settings.deep_supervision)
        paths = lattice.reaching(derive_paths(betas, settings), heads)
        return Genotype(
            name=name,
            space=SPACE,
            cells=cells,
            settings=self.settings.to_mapping(),
            paths=lattice.to_kept(paths),
            provenance=dict(provenance),
        )

    def discretise(self, genotype: Genotype | None) -> None:
        """Makes ``forward`` use the kept operations and paths alone, each with weight 1; None undoes it."""
        self._discrete = None if genotype is None else self._one_hot(genotype)

    def snapshot(self) -> dict[str, Any]:
        """Returns the softmaxed alphas by set and edge, the betas by node and move, the gammas by move and edge."""
        with torch.no_grad():
            moves = self.mixture().moves
        alphas = {}
        for kind, rows in self.candidates.items():
            edges = tuple((node, state) for node, state in self.edges if self._uses(kind, state))
            alphas[kind] = mixture.alphas_snapshot(edges, rows, self.alphas[kind])
        betas = {
            f"{node.layer},{node.level}": {move: float(beta) for move, beta in row.items()}
            for node, row in moves.items()
        }
        gammas = {move: mixture.gammas_snapshot(self.edges, gamma) for move, gamma in self.gammas.items()}
        return {"alphas": alphas, "betas": betas, **({"gammas": gammas} if gammas else {})}

    def _make_frame(self, in_channels: int, outputs: int) -> WeaveFrame:
        operations = OperationSettings(
            affine=False, shuffle_groups=self.settings.shuffle_groups, dropout_prob=self.settings.dropout_prob
        )

        def make_cell(move: Move, s0: int | None, s1: int, channels: int) -> MixedCell:
            return MixedCell(
                move,
                self._names(move),
                intermediate_nodes=self.settings.intermediate_nodes,
                s0_channels=s0,
                s1_channels=s1,
                channels=channels,
                settings=operations,
                partial_channels=self.partial_channels,
            )

        return WeaveFrame(
            paths=self.paths,
            heads=lattice.heads(self.settings.depth, deep_supervision=self.settings.deep_supervision),
            make_cell=make_cell,
            widths=self.settings.widths,
            intermediate_nodes=self.settings.intermediate_nodes,
            in_channels=in_channels,
            outputs=outputs,
            affine=False,
        )

    @staticmethod
    def _uses(kind: str, state: int) -> bool:
        """Whether a set has a row for an edge from ``state``: the normal set for all, down and up for s1."""
        return kind == "normal" or state == 1

    def _row(self, move: Move, edge: int) -> tuple[Move, int]:
        """Returns the set that an edge of a cell uses, and its row there."""
        kind = set_of_edge(move, self.edges[edge][1])
        return kind, sum(self._uses(kind, state) for _, state in self.edges[:edge])

    def _cell_weights(self, move: Move, alphas: Mapping[str, Tensor]) -> CellWeights:
        rows = (self._row(move, edge) for edge in range(len(self.edges)))
        operations = [alphas[kind][row] for kind, row in rows]
        gamma = self.gammas[move] if self.gammas else None
        return mixture.cell_weights(self.edges, self._names(move), operations, gamma=gamma)

    def _names(self, move: Move) -> Names:
        rows = (self._row(move, edge) for edge in range(len(self.edges)))
        return tuple(self.candidates[kind][row] for kind, row in rows)

    def _one_hot(self, genotype: Genotype) -> MixtureWeights:
        cells = {
            move: mixture.one_hot(
                self.edges, self._names(move), genotype.cells[move], genotype=genotype, like=self.betas
            )
            for move in MOVES
        }
        kept_moves = paths_of(genotype)
        moves = {
            node: {move: self.betas.new_tensor(float(move in kept_moves.get(node, ()))) for move in possible}
            for node, possible in self.paths.items()
        }
        return MixtureWeights(cells, moves)
