"""U-Net (Ronneberger et al., arXiv 1505.04597).

As it is usually trained today: convolutions keep the size of their maps and have batch norms, and the decoder doubles
maps by nearest upsampling and a 3x3 convolution. In this form it has the published 34.53 M parameters (34,527,041 with
3 channels and 1 output); with a transposed 2x2 convolution, as in the paper, there would be 31.04 M.
"""

import itertools
from typing import Literal

from medarts.config.section import Channels
from medarts.models import register_model
from medarts.models.baseline import Depth, EncoderDecoder, widths_of
from medarts.models.blocks import UpConv, UpStep, double_conv, halved, norm_maker
from medarts.network.layers import Norm
from medarts.registry import Settings


class UNetSettings(Settings):
    """U-Net (arXiv 1505.04597).

    Attributes:
        name: of the model.
        width: channels at full resolution.
        depth: resolutions, each half of the one before.
    """

    name: Literal["unet"] = "unet"
    width: Channels = 64
    depth: Depth = 5


@register_model("unet", settings=UNetSettings, task="segmentation")
class UNet(EncoderDecoder):
    """See the module.

    Args:
        settings: width and depth.
        in_channels: channels of the images.
        outputs: channels of the logits.
        norm: kind of the norms. Default: batch.
    """

    def __init__(
        self, settings: UNetSettings, *, in_channels: int = 3, outputs: int = 1, norm: Norm | None = None
    ) -> None:
        widths, make_norm = widths_of(settings.width, settings.depth), norm_maker(norm)
        encoder = [double_conv(in_channels, widths[0], make_norm=make_norm)]
        decoder = []
        for upper, lower in itertools.pairwise(widths):
            encoder.append(halved(double_conv(upper, lower, make_norm=make_norm)))
            up = UpConv(lower, upper, make_norm=make_norm)
            decoder.append(UpStep(up, double_conv(2 * upper, upper, make_norm=make_norm)))
        super().__init__(encoder, decoder[::-1], widths=widths, outputs=outputs)
