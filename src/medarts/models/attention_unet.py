"""Attention U-Net (Oktay et al., arXiv 1804.03999): a U-Net whose encoder's maps pass gates.

In the public PyTorch form, which has the published 34.89 M parameters within 0.1 % (34,878,573 with 3 channels, 1
output and one head): the U-Net of ``unet.py``, with gates that read the upsampled maps of the decoder. Deep supervision
is the paper's.
"""

import itertools
from typing import Literal

from medarts.config.section import Channels, Flag
from medarts.models import register_model
from medarts.models.baseline import Depth, EncoderDecoder, widths_of
from medarts.models.blocks import AttentionGate, UpConv, UpStep, double_conv, halved, norm_maker
from medarts.network.layers import Norm
from medarts.registry import Settings


class AttentionUNetSettings(Settings):
    """Attention U-Net (arXiv 1804.03999).

    Attributes:
        name: of the model.
        width: channels at full resolution.
        depth: resolutions, each half of the one before.
        deep_supervision: a head on every level of the decoder, otherwise on the last alone.
    """

    name: Literal["attention-unet"] = "attention-unet"
    width: Channels = 64
    depth: Depth = 5
    deep_supervision: Flag = True


@register_model("attention-unet", settings=AttentionUNetSettings, task="segmentation")
class AttentionUNet(EncoderDecoder):
    """See the module.

    Args:
        settings: width, depth and deep supervision, with which every step of the decoder has a head.
        in_channels: channels of the images.
        outputs: channels of the logits.
        norm: kind of the norms. Default: batch.
    """

    def __init__(
        self, settings: AttentionUNetSettings, *, in_channels: int = 3, outputs: int = 1, norm: Norm | None = None
    ) -> None:
        widths, make_norm = widths_of(settings.width, settings.depth), norm_maker(norm)
        encoder = [double_conv(in_channels, widths[0], make_norm=make_norm)]
        decoder = []
        for upper, lower in itertools.pairwise(widths):
            encoder.append(halved(double_conv(upper, lower, make_norm=make_norm)))
            up, gate = UpConv(lower, upper, make_norm=make_norm), AttentionGate(upper, make_norm=make_norm)
            decoder.append(UpStep(up, double_conv(2 * upper, upper, make_norm=make_norm), gate=gate))
        levels = range(settings.depth - 2, -1, -1) if settings.deep_supervision else (0,)
        super().__init__(encoder, decoder[::-1], widths=widths, head_levels=levels, outputs=outputs)
