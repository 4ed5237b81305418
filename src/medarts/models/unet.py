"""U-Net (Ronneberger et al., arXiv 1505.04597).

As it is usually trained today: convolutions keep the size of their maps and have batch norms, and the decoder doubles
maps by nearest upsampling and a 3x3 convolution. In this form it has the published 34.53 M parameters (34,527,041 with
3 channels and 1 output); with a transposed 2x2 convolution, as in the paper, there would be 31.04 M.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

from torch import nn

from medarts.models import register_model
from medarts.models.baseline import EncoderDecoder, WidthAndDepth, widths_of
from medarts.models.blocks import AttentionGate, UpConv, UpStep, double_conv, halved, norm_maker
from medarts.network.layers import Norm


class UNetSettings(WidthAndDepth):
    """U-Net (arXiv 1505.04597)."""

    name: Literal["unet"] = "unet"


@register_model("unet", settings=UNetSettings, task="segmentation", width="width")
class UNet(EncoderDecoder):
    """See the module."""

    def __init__(
        self, settings: UNetSettings, *, in_channels: int = 3, outputs: int = 1, norm: Norm | None = None
    ) -> None:
        widths = widths_of(settings.width, settings.depth)
        encoder, decoder = u_shape(in_channels, widths, norm=norm, gated=False)
        super().__init__(encoder, decoder, widths=widths, outputs=outputs)


def u_shape(
    in_channels: int, widths: Sequence[int], *, norm: Norm | None, gated: bool
) -> tuple[list[nn.Module], list[nn.Module]]:
    """Returns encoder and decoder of a U-Net, for `EncoderDecoder`; gated as in Attention U-Net."""
    make_norm = norm_maker(norm)
    encoder = [double_conv(in_channels, widths[0], make_norm=make_norm)]
    decoder: list[nn.Module] = []
    for upper, lower in itertools.pairwise(widths):
        encoder.append(halved(double_conv(upper, lower, make_norm=make_norm)))
        up = UpConv(lower, upper, make_norm=make_norm)
        gate = AttentionGate(upper, make_norm=make_norm) if gated else None
        decoder.append(UpStep(up, double_conv(2 * upper, upper, make_norm=make_norm), gate=gate))
    return encoder, decoder[::-1]
