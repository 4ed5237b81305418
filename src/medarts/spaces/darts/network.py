"""The network of a genotype."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from medarts.network import FindingNetwork, Network
from medarts.spaces.darts import fused
from medarts.spaces.darts.frame import DartsFrame, Position, check_size, last_size
from medarts.spaces.darts.genotypes import check
from medarts.spaces.darts.operations import IN_NETWORK, OperationSettings, make_operation, preprocess, stride_of
from medarts.spaces.genotype import Cell, Genotype


def drop_path(x_bchw: Tensor, probability: float) -> Tensor:
    """Returns each image whole, scaled so that the mean stays, or with ``probability`` as zeros.

    Source: DARTS (arXiv 1806.09055), appendix A, after FractalNet (arXiv 1605.07648).
    """
    return x_bchw * kept_images(x_bchw, probability)


def kept_images(x_bchw: Tensor, probability: float) -> Tensor:
    """Returns what drop-path multiplies each image by, B111: with ``probability`` 0, otherwise its reciprocal rest."""
    kept = 1.0 - probability
    return x_bchw.new_empty(len(x_bchw), 1, 1, 1).bernoulli_(kept) / kept


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

    def training_form(self) -> Network:
        """Returns the network laid out for training on a CPU; itself where it has operations that users registered.

        The form shares a ReLU among all operations that read a state, which only the published ones are known to allow.
        """
        cells = cast(Iterable[DartsCell], self.frame.cells)
        if any(name not in fused.KNOWN for cell in cells for node in cell.edges for name, _ in node):
            return self
        from medarts.spaces.darts.training import DartsTraining

        return DartsTraining(self)

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
