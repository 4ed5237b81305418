"""The supernet of the stack: every operation on every edge of its normal and reduce cells.

Source: DARTS (arXiv 1806.09055), sections 2.1 to 2.4.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medarts.config import DeriveSettings, StackSettings, StageSettings, SupernetSettings
from medarts.errors import RecipeError
from medarts.spaces import mixture
from medarts.spaces.cell import CellWeights, cell_edges, derive_cell
from medarts.spaces.genotype import Cell, Genotype
from medarts.spaces.space import Candidates, SearchSpace, Supernet
from medarts.spaces.stack.cell import MixedCell
from medarts.spaces.stack.execution import FAST, Execution
from medarts.spaces.stack.frame import Place, StackFrame, check_size, last_size, least_layers
from medarts.spaces.stack.genotypes import SPACE, StackNetworkSettings
from medarts.spaces.stack.operations import IN_SUPERNET, KINDS, OPERATIONS, Kind

AS_DERIVED = SupernetSettings()
"""All channels go through the operations, as in the derived network."""


class StackSpace(SearchSpace):
    """The search space of DARTS with the settings of a recipe.

    Raises:
        RecipeError: the channels cannot be cut into ``partial_channels`` parts, or the derived network has too few
            layers.
    """

    def __init__(
        self,
        settings: StackSettings,
        *,
        in_channels: int,
        outputs: int,
        supernet: SupernetSettings = AS_DERIVED,
    ) -> None:
        part, channels = supernet.partial_channels, settings.search_channel
        if channels % part:
            raise RecipeError(
                f"search.supernet.partial_channels {part} does not divide space.search_channel {channels}.",
                fix=f"Use a search_channel that {part} divides.",
            )
        _check_layers("space.layers", settings.layers, settings)
        self.settings = settings
        self.supernet_settings = supernet
        self.in_channels = in_channels
        self.outputs = outputs

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

    def supernet(self, stage: StageSettings, candidates: Candidates | None) -> "StackSupernet":
        """Returns a fresh supernet with as many cells as the stage has depth."""
        return StackSupernet(
            self.settings,
            depth=stage.depth,
            candidates=candidates,
            in_channels=self.in_channels,
            outputs=self.outputs,
            supernet=self.supernet_settings,
        )


class StackSupernet(Supernet):
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
        execution: how mixed cells are run.
    """

    def __init__(
        self,
        settings: StackSettings,
        *,
        depth: int,
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
        self.candidates = candidates or {kind: (OPERATIONS,) * len(self.edges) for kind in KINDS}
        self.frame = StackFrame(
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
            {kind: mixture.initial(len(rows), len(rows[0])) for kind, rows in self.candidates.items()}
        )
        self.gammas = nn.ParameterDict()
        if supernet.edge_normalisation:
            self.gammas.update({kind: mixture.initial(len(self.edges)) for kind in KINDS})
        self._discrete: dict[Kind, CellWeights] | None = None
        # PyTorch's annotations do not know that modules take a memory format alone.
        nn.Module.to(self, memory_format=execution.memory_format)  # type: ignore[call-overload]

    def architecture(self) -> list[nn.Parameter]:
        """Returns alphas and gammas."""
        return [*self.alphas.values(), *self.gammas.values()]

    def forward(self, x_bchw: Tensor) -> list[Tensor]:
        """Returns the logits, (B, F), of the one head."""
        weights = self._discrete or self.mixture()

        def run_cell(cell: nn.Module, s0: Tensor, s1: Tensor) -> Tensor:
            arguments = (cast(MixedCell, cell), s0, s1, weights[cast(MixedCell, cell).kind])
            if self.recompute and torch.is_grad_enabled():
                return cast(Tensor, checkpoint(self._run_cell, *arguments, use_reentrant=False))
            return self._run_cell(*arguments)

        return self.frame.run(x_bchw.contiguous(memory_format=self.execution.memory_format), run_cell)

    def mixture(self) -> dict[Kind, CellWeights]:
        """Returns for each kind the softmax of its alphas over the candidates of an edge."""
        return {
            kind: mixture.cell_weights(
                self.edges,
                self.candidates[kind],
                torch.softmax(self.alphas[kind], dim=-1).unbind(),
                gamma=self.gammas[kind] if self.gammas else None,
            )
            for kind in KINDS
        }

    def strongest(self, keep: Mapping[str, int]) -> Candidates:
        """Returns the candidates left when every edge of a kind keeps so many; kinds not named keep all."""
        return mixture.strongest(self.candidates, dict(self.alphas.items()), keep)

    def derive(self, settings: DeriveSettings, *, name: str, provenance: Mapping[str, Any]) -> Genotype:
        """Returns the genotype: per edge the strongest operation, per node two edges.

        Args:
            settings: of paths, which a stack does not have.
            name: of the genotype.
            provenance: where it comes from.
        """
        with torch.no_grad():
            weights = self.mixture()
        cells: dict[str, Cell] = {
            kind: derive_cell(self.edges, of_kind.candidates, [w.tolist() for w in of_kind.operations])
            for kind, of_kind in weights.items()
        }
        network = StackNetworkSettings(
            init_channel=self.settings.init_channel,
            layers=self.settings.layers,
            intermediate_nodes=self.settings.intermediate_nodes,
            stem=self.settings.stem,
            drop_path_prob=self.settings.drop_path_prob,
            auxiliary=self.settings.auxiliary,
        )
        return Genotype(name=name, space=SPACE, cells=cells, settings=network.to_mapping(), provenance=dict(provenance))

    def discretise(self, genotype: Genotype | None) -> None:
        """Makes ``forward`` use the kept operations alone, each with weight 1; None undoes it."""
        self._discrete = None if genotype is None else {kind: self._one_hot(kind, genotype) for kind in KINDS}

    def snapshot(self) -> dict[str, Any]:
        """Returns the softmaxed alphas and gammas by kind and edge."""
        alphas = {
            kind: mixture.alphas_snapshot(self.edges, rows, self.alphas[kind]) for kind, rows in self.candidates.items()
        }
        gammas = {kind: mixture.gammas_snapshot(self.edges, gamma) for kind, gamma in self.gammas.items()}
        return {"alphas": alphas, **({"gammas": gammas} if gammas else {})}

    def _make_cell(self, place: Place) -> MixedCell:
        return MixedCell(
            place.kind,
            self.candidates[place.kind],
            intermediate_nodes=self.settings.intermediate_nodes,
            s0_channels=place.s0_channels,
            s1_channels=place.s1_channels,
            channels=place.channels,
            reduction_before=place.reduction_before,
            settings=IN_SUPERNET,
            partial_channels=self.partial_channels,
        )

    def _run_cell(self, cell: MixedCell, s0: Tensor, s1: Tensor, weights: CellWeights) -> Tensor:
        return self.execution.mix(cell, cell.input0(s0), cell.input1(s1), weights)

    def _one_hot(self, kind: Kind, genotype: Genotype) -> CellWeights:
        return mixture.one_hot(
            self.edges, self.candidates[kind], genotype.cells[kind], genotype=genotype, like=self.alphas[kind]
        )


def _check_layers(field: str, layers: int, settings: StackSettings) -> None:
    least = least_layers(settings.stem)
    if layers < least:
        raise RecipeError(
            f"{field} is {layers}, too few cells for the reductions behind the {settings.stem} stem.",
            fix=f"Use {least} or more.",
        )
