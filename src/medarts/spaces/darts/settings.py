"""The settings of the search space: of a recipe, and of a genotype."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from medarts.config.section import (
    LATER,
    MOST_LAYERS,
    Channels,
    Flag,
    Fraction,
    Nodes,
    OperationNames,
    Section,
    Settings,
    Whole,
)
from medarts.spaces.base import check_candidates
from medarts.spaces.darts.operations import OPERATIONS
from medarts.spaces.genotype import Setting
from medarts.spaces.sampling import Choices

SPACE = "darts"

Stem = Literal["chest", "cifar"]

Layers = Annotated[Whole, Field(ge=1, le=MOST_LAYERS)]


REDUCTIONS: dict[Stem, int] = {"chest": 3, "cifar": 2}
"""Reduce cells of a network; they part it into sections of equal length."""


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


def least_layers(stem: Stem) -> int:
    """Returns the fewest cells of a network: one in every section between the reductions."""
    return REDUCTIONS[stem] + 1
