"""Attention U-Net (Oktay et al., arXiv 1804.03999): a U-Net whose encoder's maps pass gates.

In the public PyTorch form, which has the published 34.89 M parameters within 0.1 % (34,878,573 with 3 channels, 1
output and one head): the U-Net of ``unet.py``, with gates that read the upsampled maps of the decoder. Deep supervision
is the paper's.
"""

from typing import Literal

from medarts.config.section import Flag
from medarts.models import register_model
from medarts.models.baseline import EncoderDecoder, WidthAndDepth, widths_of
from medarts.models.unet import u_shape
from medarts.network.layers import Norm


class AttentionUNetSettings(WidthAndDepth):
    """Attention U-Net (arXiv 1804.03999).

    Attributes:
        deep_supervision: a head on every level of the decoder, otherwise on the last alone.
    """

    name: Literal["attention-unet"] = "attention-unet"
    deep_supervision: Flag = True


@register_model("attention-unet", settings=AttentionUNetSettings, task="segmentation", width="width")
class AttentionUNet(EncoderDecoder):
    """See the module."""

    def __init__(
        self, settings: AttentionUNetSettings, *, in_channels: int = 3, outputs: int = 1, norm: Norm | None = None
    ) -> None:
        widths = widths_of(settings.width, settings.depth)
        encoder, decoder = u_shape(in_channels, widths, norm=norm, gated=True)
        levels = range(settings.depth - 2, -1, -1) if settings.deep_supervision else (0,)
        super().__init__(encoder, decoder, widths=widths, head_levels=levels, outputs=outputs)
