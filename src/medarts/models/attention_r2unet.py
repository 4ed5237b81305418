"""Attention R2U-Net: the blocks of R2U-Net (arXiv 1802.06955), the gates of Attention U-Net (arXiv 1804.03999).

It has no paper of its own; the public PyTorch form puts the two together as here (39.44 M parameters with 3 channels
and 1 output).
"""

from medarts.config.models import AttentionR2UNetSettings
from medarts.models.r2unet import RecurrentUNet
from medarts.spaces.layers import Norm


class AttentionR2UNet(RecurrentUNet):
    """See the module.

    Args:
        settings: width, depth and steps.
        in_channels: channels of the images.
        outputs: channels of the logits.
        norm: kind of the norms; batch where None.
    """

    def __init__(
        self, settings: AttentionR2UNetSettings, *, in_channels: int = 3, outputs: int = 1, norm: Norm | None = None
    ) -> None:
        super().__init__(settings, in_channels=in_channels, outputs=outputs, norm=norm, gated=True)
