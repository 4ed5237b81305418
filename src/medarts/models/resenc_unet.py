"""U-Net with a residual encoder, as nnU-Net plans it in two dimensions (Isensee et al., arXiv 2404.09556).

A stem, then 1, 3, 4, 6, 6, ... residual blocks a resolution; a decoder of transposed convolutions and one convolution a
resolution; instance norms and leaky ReLUs. nnU-Net chooses depth and widths by the size of the images and the memory;
here they are settings.
"""

import itertools
from typing import Literal

from torch import Tensor, nn

from medarts.config.section import Channels, Flag
from medarts.models import register_model
from medarts.models.baseline import Depth, EncoderDecoder, widths_of
from medarts.models.blocks import LEAK, ConvNorm, NormMaker, UpStep, norm_maker
from medarts.network.layers import Norm
from medarts.registry import Settings

BLOCKS = (1, 3, 4, 6)
"""Residual blocks of the first stages; all others have as many as the last of these."""

CAP = 16
"""Channels grow up to 16 times the width."""

UNSUPERVISED = 2
"""Lowest levels of the decoder, which have no head."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, and around them a connection with an average pool and a 1x1 convolution where due.

    Where it halves the maps, the first convolution has the stride and the connection the pool.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: 1, or 2 to halve height and width.
        make_norm: makes the norms.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int, make_norm: NormMaker) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, channels, stride=stride, make_norm=make_norm, activation="leaky_relu")
        self.conv2 = ConvNorm(channels, channels, make_norm=make_norm, activation=None)
        self.pool = nn.AvgPool2d(2) if stride == 2 else None
        changes = in_channels != channels
        self.project = ConvNorm(in_channels, channels, 1, make_norm=make_norm, activation=None) if changes else None
        self.activation = nn.LeakyReLU(LEAK, inplace=True)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns maps of the same height and width, or of half of both."""
        kept = x_bchw if self.pool is None else self.pool(x_bchw)
        kept = kept if self.project is None else self.project(kept)
        y: Tensor = self.activation(self.conv2(self.conv1(x_bchw)) + kept)
        return y


def _stage(blocks: int, in_channels: int, channels: int, *, stride: int, make_norm: NormMaker) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(in_channels, channels, stride=stride, make_norm=make_norm),
        *(ResidualBlock(channels, channels, stride=1, make_norm=make_norm) for _ in range(blocks - 1)),
    )


class ResEncUNetSettings(Settings):
    """U-Net with a residual encoder, as nnU-Net plans it (arXiv 2404.09556).

    Attributes:
        name: of the model.
        width: channels at full resolution; they double at every level, up to 16 times the width.
        depth: resolutions, each half of the one before.
        deep_supervision: a head on every level of the decoder but the two lowest, otherwise on the last alone.
        norm: instance keeps the norms of the paper in a recipe whose train.norm names others. Default: train.norm.
    """

    name: Literal["resenc-unet"] = "resenc-unet"
    width: Channels = 32
    depth: Depth = 6
    deep_supervision: Flag = True
    norm: Literal["instance"] | None = None


@register_model("resenc-unet", settings=ResEncUNetSettings, task="segmentation", width="width")
class ResEncUNet(EncoderDecoder):
    """See the module.

    Args:
        settings: width, depth and norms; deep supervision gives every level of the decoder but the two lowest a
            head.
        in_channels: channels of the images.
        outputs: channels of the logits.
        norm: kind of the norms, unless the settings keep one. Default: instance.
    """

    def __init__(
        self, settings: ResEncUNetSettings, *, in_channels: int = 3, outputs: int = 1, norm: Norm | None = None
    ) -> None:
        make_norm = norm_maker(None if settings.norm == "instance" else norm, paper="instance")
        widths = [min(width, CAP * settings.width) for width in widths_of(settings.width, settings.depth)]
        stem = ConvNorm(in_channels, widths[0], make_norm=make_norm, activation="leaky_relu")
        first = _stage(BLOCKS[0], widths[0], widths[0], stride=1, make_norm=make_norm)
        encoder: list[nn.Module] = [nn.Sequential(stem, *first)]
        decoder = []
        for level, (upper, lower) in enumerate(itertools.pairwise(widths), start=1):
            blocks = BLOCKS[min(level, len(BLOCKS) - 1)]
            encoder.append(_stage(blocks, upper, lower, stride=2, make_norm=make_norm))
            block = ConvNorm(2 * upper, upper, make_norm=make_norm, activation="leaky_relu")
            decoder.append(UpStep(nn.ConvTranspose2d(lower, upper, 2, stride=2), block))
        highest = max(settings.depth - 2 - UNSUPERVISED, 0) if settings.deep_supervision else 0
        super().__init__(encoder, decoder[::-1], widths=widths, head_levels=range(highest, -1, -1), outputs=outputs)
