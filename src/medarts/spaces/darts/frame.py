"""What the supernet and the derived network share: stem, positions of the cells, classifiers."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from medarts.errors import RecipeError
from medarts.network.layers import pooled_logits
from medarts.spaces.darts.operations import Kind, OperationSettings, batch_norm
from medarts.spaces.darts.settings import REDUCTIONS, Stem

STEM_MULTIPLIER = 3
"""The stem gives this many times C channels."""


SHRINKAGE: dict[Stem, int] = {"chest": 32, "cifar": 4}
"""Pixels of the image, in height and in width, that become one pixel of the last feature maps."""

AUXILIARY_CHANNELS = (128, 768)


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
