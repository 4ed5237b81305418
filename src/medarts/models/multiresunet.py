"""MultiResUNet (Ibtehaz and Rahman, arXiv 1902.04049).

As its authors' code has it, with 7.25 M parameters at U = 32 (theirs: 7.26 M, statistics of the norms included).
Comparisons with networks of 64 channels at full resolution often show 34.84 M: that is U = 70, here 34.77 M.
"""

import itertools
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medarts.config.section import MOST_CHANNELS, Whole
from medarts.models import register_model
from medarts.models.baseline import Depth, EncoderDecoder, widths_of
from medarts.models.blocks import ConvNorm, NormMaker, UpStep, halved, norm_maker
from medarts.network.layers import Norm
from medarts.registry import Settings

ALPHA = 1.67
"""W = ALPHA x U channels are split among the convolutions of a block."""

SHARES = (0.167, 0.333, 0.5)
"""Shares of the convolutions, as the authors' code rounds 1/6, 1/3 and 1/2."""


def block_channels(width: int) -> tuple[int, int, int]:
    """Returns the channels of the three convolutions of a block of U = ``width``; it gives their sum."""
    first, second, third = (int(ALPHA * width * share) for share in SHARES)
    return first, second, third


class MultiResBlock(nn.Module):
    """Three 3x3 convolutions in a row, which together see as 3x3, 5x5 and 7x7 ones do, beside a 1x1 convolution.

    Args:
        in_channels: channels of the input.
        width: U; the output has the sum of ``block_channels``.
        make_norm: makes the norms.
    """

    def __init__(self, in_channels: int, width: int, *, make_norm: NormMaker) -> None:
        super().__init__()
        channels = block_channels(width)
        self.shortcut = ConvNorm(in_channels, sum(channels), 1, make_norm=make_norm, activation=None)
        self.convs = nn.ModuleList(
            ConvNorm(before, after, make_norm=make_norm)
            for before, after in itertools.pairwise((in_channels, *channels))
        )
        self.inner_norm = make_norm(sum(channels))
        self.outer_norm = make_norm(sum(channels))

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns maps of the same height and width."""
        parts, part = [], x_bchw
        for conv in self.convs:
            part = conv(part)
            parts.append(part)
        joined = self.inner_norm(torch.cat(parts, dim=1)) + self.shortcut(x_bchw)
        y: Tensor = self.outer_norm(joined.relu_())
        return y


class ResStep(nn.Module):
    """A 3x3 convolution beside a 1x1 one, their sum behind ReLU and norm.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        make_norm: makes the norms.
    """

    def __init__(self, in_channels: int, channels: int, *, make_norm: NormMaker) -> None:
        super().__init__()
        self.conv = ConvNorm(in_channels, channels, make_norm=make_norm)
        self.shortcut = ConvNorm(in_channels, channels, 1, make_norm=make_norm, activation=None)
        self.norm = make_norm(channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns maps of the same height and width."""
        joined = self.conv(x_bchw) + self.shortcut(x_bchw)
        y: Tensor = self.norm(joined.relu_())
        return y


def res_path(in_channels: int, channels: int, *, length: int, make_norm: NormMaker) -> nn.Sequential:
    """Returns what the encoder's maps pass on their way to the decoder: longer where they are farther from it."""
    before = (in_channels, *[channels] * (length - 1))
    return nn.Sequential(*(ResStep(given, channels, make_norm=make_norm) for given in before))


class PathStep(nn.Module):
    """A step of the decoder whose skip connection is a path of convolutions.

    Args:
        path: for the encoder's maps.
        step: the step of the decoder.
    """

    def __init__(self, path: nn.Module, step: UpStep) -> None:
        super().__init__()
        self.path, self.step = path, step

    def forward(self, x_bchw: Tensor, skip_bchw: Tensor) -> Tensor:
        """Returns maps of the size of ``skip_bchw``."""
        y: Tensor = self.step(x_bchw, self.path(skip_bchw))
        return y


class MultiResUNetSettings(Settings):
    """MultiResUNet (arXiv 1902.04049).

    Attributes:
        name: of the model.
        width: U of the paper at full resolution; a block has 1.67 times as many channels.
        depth: resolutions, each half of the one before.
    """

    name: Literal["multiresunet"] = "multiresunet"
    width: Annotated[Whole, Field(ge=4, le=MOST_CHANNELS)] = 32
    depth: Depth = 5


@register_model("multiresunet", settings=MultiResUNetSettings, task="segmentation", width="width")
class MultiResUNet(EncoderDecoder):
    """See the module."""

    def __init__(
        self, settings: MultiResUNetSettings, *, in_channels: int = 3, outputs: int = 1, norm: Norm | None = None
    ) -> None:
        make_norm = norm_maker(norm)
        bases = widths_of(settings.width, settings.depth)
        widths = [sum(block_channels(base)) for base in bases]
        encoder: list[nn.Module] = [MultiResBlock(in_channels, bases[0], make_norm=make_norm)]
        decoder = []
        for level in range(settings.depth - 1):
            base = bases[level]
            encoder.append(halved(MultiResBlock(widths[level], bases[level + 1], make_norm=make_norm)))
            path = res_path(widths[level], base, length=settings.depth - 1 - level, make_norm=make_norm)
            up = nn.ConvTranspose2d(widths[level + 1], base, 2, stride=2)
            decoder.append(PathStep(path, UpStep(up, MultiResBlock(2 * base, base, make_norm=make_norm))))
        super().__init__(encoder, decoder[::-1], widths=widths, outputs=outputs)
