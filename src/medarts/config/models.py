"""Baselines, with which searched networks are compared, and what can be set of each.

Defaults are those of the papers. ``width`` is the number of channels at full resolution, ``depth`` the number of
resolutions, each half of the one before.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from medarts.config.section import MOST_CHANNELS, Channels, Flag, Section, Whole

Depth = Annotated[Whole, Field(ge=2, le=8)]
Steps = Annotated[Whole, Field(ge=1, le=10)]


class CheXNetSettings(Section):
    """CheXNet, a DenseNet-121 (arXiv 1711.05225), for images with findings.

    Attributes:
        name: of the model.
        weights: file of weights from which it starts. Default: fresh ones.
    """

    name: Literal["chexnet"] = "chexnet"
    weights: Path | None = None


class UNetSettings(Section):
    """U-Net (arXiv 1505.04597)."""

    name: Literal["unet"] = "unet"
    width: Channels = 64
    depth: Depth = 5


class AttentionUNetSettings(Section):
    """Attention U-Net (arXiv 1804.03999).

    Attributes:
        name: of the model.
        width: channels at full resolution.
        depth: resolutions.
        deep_supervision: a head on every level of the decoder, otherwise on the last alone.
    """

    name: Literal["attention-unet"] = "attention-unet"
    width: Channels = 64
    depth: Depth = 5
    deep_supervision: Flag = True


class MultiResUNetSettings(Section):
    """MultiResUNet (arXiv 1902.04049).

    Attributes:
        name: of the model.
        width: U of the paper at full resolution; a block has 1.67 times as many channels.
        depth: resolutions.
    """

    name: Literal["multiresunet"] = "multiresunet"
    width: Annotated[Whole, Field(ge=4, le=MOST_CHANNELS)] = 32
    depth: Depth = 5


class R2UNetSettings(Section):
    """R2U-Net (arXiv 1802.06955).

    Attributes:
        name: of the model.
        width: channels at full resolution.
        depth: resolutions.
        steps: t, recurrent steps of a convolution after its first pass.
    """

    name: Literal["r2unet"] = "r2unet"
    width: Channels = 64
    depth: Depth = 5
    steps: Steps = 2


class AttentionR2UNetSettings(Section):
    """R2U-Net with the gates of Attention U-Net; see both."""

    name: Literal["attention-r2unet"] = "attention-r2unet"
    width: Channels = 64
    depth: Depth = 5
    steps: Steps = 2


class UNetPPSettings(Section):
    """U-Net++ (arXiv 1807.10165).

    Attributes:
        name: of the model.
        width: channels at full resolution.
        depth: resolutions.
        deep_supervision: a head on every nested network, at any of which it can be cut; otherwise on the last alone.
    """

    name: Literal["unetpp"] = "unetpp"
    width: Channels = 64
    depth: Depth = 5
    deep_supervision: Flag = True


class ResEncUNetSettings(Section):
    """U-Net with a residual encoder, as nnU-Net plans it (arXiv 2404.09556).

    Attributes:
        name: of the model.
        width: channels at full resolution; they double at every level, up to 16 times the width.
        depth: resolutions.
        deep_supervision: a head on every level of the decoder but the two lowest, otherwise on the last alone.
        norm: instance keeps the norms of the paper in a recipe whose train.norm names others. Default: train.norm.
    """

    name: Literal["resenc-unet"] = "resenc-unet"
    width: Channels = 32
    depth: Depth = 6
    deep_supervision: Flag = True
    norm: Literal["instance"] | None = None


MaskModel = (
    UNetSettings
    | AttentionUNetSettings
    | MultiResUNetSettings
    | R2UNetSettings
    | AttentionR2UNetSettings
    | UNetPPSettings
    | ResEncUNetSettings
)
"""Models for images with masks."""

ModelSettings = CheXNetSettings | MaskModel
ModelName = Literal[
    "chexnet", "unet", "attention-unet", "multiresunet", "r2unet", "attention-r2unet", "unetpp", "resenc-unet"
]

MODELS: dict[str, type[ModelSettings]] = {
    model.model_fields["name"].default: model for model in get_args(ModelSettings)
}
"""The settings of every model, by its name."""
