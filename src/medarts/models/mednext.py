"""MedNeXt (Roy et al., MICCAI 2023, arXiv 2303.09975): a U-Net of ConvNeXt blocks, in MONAI's implementation.

Its small form by default: 3x3 depthwise convolutions, an expansion of 2, two blocks a stage, residual connections also
where maps are halved and doubled, and deep supervision. With 3 channels and 1 output it has 5,472,997 parameters in two
dimensions.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from medarts.config.section import Flag, Whole
from medarts.errors import RecipeError
from medarts.models import register_model
from medarts.models.baseline import BaselineNetwork, WidthAndDepth, biases_of
from medarts.network.layers import Norm


class MedNeXtSettings(WidthAndDepth):
    """MedNeXt (arXiv 2303.09975).

    Attributes:
        kernel_size: of the depthwise convolutions, odd.
        expansion: channels inside a block, as a multiple of those outside.
        blocks: blocks of a stage.
        deep_supervision: a head on every level of the decoder, the lowest resolution included; otherwise on the last
            alone.
        norm: instance keeps the norms of the paper, which it has alone, in a recipe whose train.norm names others.
    """

    name: Literal["mednext"] = "mednext"
    width: Annotated[Whole, Field(ge=1, le=1024)] = 32
    kernel_size: Literal[3, 5, 7] = 3
    expansion: Annotated[Whole, Field(ge=1, le=16)] = 2
    blocks: Annotated[Whole, Field(ge=1, le=32)] = 2
    deep_supervision: Flag = True
    norm: Literal["instance"] | None = None


@register_model("mednext", settings=MedNeXtSettings, task="segmentation", width="width")
class MedNeXt(BaselineNetwork):
    """See the module.

    Args:
        settings: width, depth, blocks and heads.
        in_channels: channels of the images.
        outputs: channels of the logits.
        norm: kind of the norms, unless the settings keep them. Default: instance, the only one that it has.

    Raises:
        RecipeError: other norms are wanted.
    """

    def __init__(
        self, settings: MedNeXtSettings, *, in_channels: int = 3, outputs: int = 1, norm: Norm | None = None
    ) -> None:
        if norm is not None and settings.norm is None:
            raise RecipeError(
                f"mednext has instance norms alone, not {norm}.",
                fix="Leave norm (train.norm) out, or give the model norm=instance.",
            )
        from monai.networks.nets import MedNeXt as Layers

        steps = settings.depth - 1
        names = [f"1/{2**level}" for level in range(steps, 0, -1)] if settings.deep_supervision else []
        super().__init__(settings.depth, [*names, "1"])
        stages = [settings.blocks] * steps
        self.layers = Layers(
            spatial_dims=2,
            init_filters=settings.width,
            in_channels=in_channels,
            out_channels=outputs,
            encoder_expansion_ratio=settings.expansion,
            decoder_expansion_ratio=settings.expansion,
            bottleneck_expansion_ratio=settings.expansion,
            kernel_size=settings.kernel_size,
            deep_supervision=settings.deep_supervision,
            use_residual_connection=True,
            blocks_down=stages,
            blocks_bottleneck=settings.blocks,
            blocks_up=stages,
        )

    @property
    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """The biases of the heads."""
        return biases_of(cast(nn.Module, block.conv_out) for block in self._head_blocks)

    @property
    def _head_blocks(self) -> tuple[nn.Module, ...]:
        early = self.layers.out_blocks if len(self.heads) > 1 else ()
        return (*early, self.layers.out_0)

    def _logits(self, x_bchw: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        # MONAI's own forward pass gives early heads in training mode alone. Of maps that are channels-last PyTorch's
        # group norm leaves two digits, where a smooth part of an image makes a channel nearly constant.
        layers, skips, x = self.layers, [], self.layers.stem(x_bchw.contiguous())
        for stage, down in zip(layers.enc_stages, layers.down_blocks, strict=True):
            x = stage(x)
            skips.append(x)
            x = down(x)
        maps = [layers.bottleneck(x)]
        for up, stage in zip(layers.up_blocks, layers.dec_stages, strict=True):
            if len(maps) > max(wanted) and len(self.heads) > 1:
                break
            maps.append(stage(up(maps[-1]) + skips.pop()))
        blocks = self._head_blocks
        read = maps if len(self.heads) > 1 else maps[-1:]
        return [blocks[place](read[place]) for place in wanted]
