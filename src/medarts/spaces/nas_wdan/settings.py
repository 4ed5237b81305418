"""The settings of the search space: of a recipe, and of a genotype."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Annotated, Literal

from pydantic import Field, model_validator

from medarts.config.section import (
    DEEPEST,
    LATER,
    MOST_CHANNELS,
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
from medarts.spaces.genotype import Setting
from medarts.spaces.nas_wdan.frame import STEM_CHANNELS
from medarts.spaces.nas_wdan.lattice import width_of
from medarts.spaces.nas_wdan.operations import OPERATIONS, Transition
from medarts.spaces.sampling import Choices

SPACE = "nas-wdan"

StemStride = Annotated[Whole, Field(ge=1, le=2)]
StemChannels = Annotated[Whole, Field(ge=2, le=MOST_CHANNELS, multiple_of=2)]


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
        stem_channels: channels of the stem.
        full_size_head: whether the last head works at the size of the image.
    """

    depth: Choices[Annotated[Whole, Field(ge=3, le=DEEPEST)]] = (3, 4, 5)
    intermediate_nodes: Choices[Nodes] = (2, 3, 4)
    double_down_channel: Choices[Flag] = (False, True)
    deep_supervision: Choices[Flag] = (False, True)
    stem_stride: Annotated[Choices[StemStride], LATER] = (2,)
    stem_channels: Annotated[Choices[StemChannels], LATER] = (STEM_CHANNELS,)
    full_size_head: Annotated[Choices[Flag], LATER] = (False,)


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
        stem_channels: channels that the stem gives to the first cells, even; its first convolution has half of them.
            64, as published, is a large part of the latency where C is small.
        full_size_head: the last head joins its node, resized to the size of the image, with the output of the stem's
            first convolution; the published one resizes logits.
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
    stem_channels: Annotated[StemChannels, LATER] = STEM_CHANNELS
    full_size_head: Annotated[Flag, LATER] = False
    operations: OperationNames = Field(default={})
    choices: Annotated[NasWdanChoices, LATER] = NasWdanChoices()

    @model_validator(mode="after")
    def _fits(self) -> "NasWdanSettings":
        if self.init_channel % self.shuffle_groups:
            raise ValueError(f"shuffle_groups {self.shuffle_groups} does not divide init_channel {self.init_channel}")
        check_candidates(OPERATIONS, self.operations)
        return self


_PUBLISHED: Mapping[str, Setting] = {"stem_stride": 2, "stem_channels": STEM_CHANNELS, "full_size_head": False}


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
        stem_channels: of the stem, even.
        full_size_head: whether the last head is a `FullSizeHead`.
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
    stem_channels: int = STEM_CHANNELS
    full_size_head: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """C of every level."""
        return tuple(
            width_of(level, init_channel=self.init_channel, double_down_channel=self.double_down_channel)
            for level in range(self.depth)
        )

    def to_mapping(self) -> Mapping[str, Setting]:
        """Returns the settings in the form of a genotype.

        Stem and head as published are left out: genotypes were made before there were others, and stay equal.
        """
        return {name: value for name, value in asdict(self).items() if _PUBLISHED.get(name) != value}


UNSET: Mapping[str, Setting] = {
    each.name: each.default for each in fields(LatticeSettings) if each.default is not MISSING
}
"""Settings that a genotype need not name, with the values that they have then."""
