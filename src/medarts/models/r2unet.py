"""R2U-Net (Alom et al., arXiv 1802.06955): a U-Net of recurrent residual blocks; and Attention R2U-Net.

In the public PyTorch form, which has the published 39.09 M parameters, whatever the number of steps. One thing is other
there: one batch norm serves all steps, whose running statistics then mix the maps of all of them and fit none when the
network is evaluated. Here every step has statistics of its own, and all share one scale and shift.
"""

import itertools
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medarts.config.section import Whole
from medarts.models import register_model
from medarts.models.baseline import EncoderDecoder, WidthAndDepth, widths_of
from medarts.models.blocks import AttentionGate, UpConv, UpStep, halved, norm_maker
from medarts.network.layers import Norm, group_norm
from medarts.network.packed import Form, NormedConvolution

Steps = Annotated[Whole, Field(ge=1, le=10)]


class RecurrentSettings(WidthAndDepth):
    """The settings of both networks.

    Attributes:
        steps: t, recurrent steps of a convolution after its first pass.
    """

    steps: Steps = 2


class R2UNetSettings(RecurrentSettings):
    """R2U-Net (arXiv 1802.06955)."""

    name: Literal["r2unet"] = "r2unet"


class AttentionR2UNetSettings(RecurrentSettings):
    """R2U-Net with the gates of Attention U-Net; see both."""

    name: Literal["attention-r2unet"] = "attention-r2unet"


class StepBatchNorm(nn.Module):
    """A batch norm of maps that are computed in several steps: one scale and shift, running statistics of each step."""

    momentum = 0.1
    eps = 1e-5

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.running_mean = nn.Buffer(torch.zeros(steps, channels))
        self.running_var = nn.Buffer(torch.ones(steps, channels))

    def forward(self, x_bchw: Tensor, step: int) -> Tensor:
        """Returns the normed maps of a step."""
        mean, var = self.running_mean[step], self.running_var[step]
        return F.batch_norm(x_bchw, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)


class StepGroupNorm(nn.Module):
    """A group norm of maps that are computed in several steps, all alike."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, affine=True)

    def forward(self, x_bchw: Tensor, step: int) -> Tensor:
        """Returns the normed maps of a step."""
        y: Tensor = self.norm(x_bchw)
        return y


class RecurrentConv(nn.Module):
    """A 3x3 convolution with norm and ReLU that reads its input once more together with what it made of it.

    y(0) = f(x), y(k) = f(x + y(k-1)); gives y(steps).

    Args:
        channels: of input and output.
        steps: t, recurrent steps behind the first pass.
        norm: kind of the norm. Default: batch.
    """

    def __init__(self, channels: int, *, steps: int, norm: Norm | None) -> None:
        super().__init__()
        self.steps = steps
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = StepGroupNorm(channels) if norm == "group" else StepBatchNorm(channels, steps + 1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns maps of the same height and width."""
        y = self.run(x_bchw, 0)
        for step in range(1, self.steps + 1):
            y = self.run(x_bchw + y, step)
        return y

    def run(self, x_bchw: Tensor, step: int) -> Tensor:
        """Returns what convolution, norm and ReLU make of maps in a step."""
        y: Tensor = self.norm(self.conv(x_bchw), step)
        return y.relu_()

    def folded(self, form: Form) -> nn.Module:
        """Returns the form for inference."""
        return FoldedRecurrentConv(self, form=form)


class FoldedRecurrentConv(nn.Module):
    """A recurrent convolution, with the norm of every step in a convolution of its own.

    Args:
        block: what it computes.
        form: how it computes.
    """

    def __init__(self, block: RecurrentConv, *, form: Form) -> None:
        super().__init__()
        if isinstance(block.norm, StepBatchNorm):
            norms = [_norm_of_step(block.norm, step) for step in range(block.steps + 1)]
            self.convs = nn.ModuleList(NormedConvolution(block.conv, norm, form=form, relu=True) for norm in norms)
        else:
            alike = NormedConvolution(block.conv, block.norm.norm, form=form, relu=True)
            self.convs = nn.ModuleList([alike] * (block.steps + 1))

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns maps of the same height and width."""
        first, *others = self.convs
        y: Tensor = first(x_bchw)
        for conv in others:
            y = conv(y.add_(x_bchw))
        return y


def _norm_of_step(norm: StepBatchNorm, step: int) -> nn.BatchNorm2d:
    single = nn.BatchNorm2d(len(norm.weight), eps=norm.eps)
    single.weight, single.bias = norm.weight, norm.bias
    single.running_mean, single.running_var = norm.running_mean[step], norm.running_var[step]
    return single


class RecurrentResidual(nn.Module):
    """A 1x1 convolution to the width, and around two recurrent convolutions a residual connection.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        steps: of the recurrent convolutions.
        norm: kind of the norms. Default: batch.
    """

    def __init__(self, in_channels: int, channels: int, *, steps: int, norm: Norm | None) -> None:
        super().__init__()
        self.widen = nn.Conv2d(in_channels, channels, 1)
        self.recurrent = nn.Sequential(*(RecurrentConv(channels, steps=steps, norm=norm) for _ in range(2)))

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns maps of the same height and width."""
        x: Tensor = self.widen(x_bchw)
        return x + cast(Tensor, self.recurrent(x))


class RecurrentUNet(EncoderDecoder):
    """R2U-Net, with or without gates.

    Args:
        settings: width, depth and steps.
        in_channels: channels of the images.
        outputs: channels of the logits.
        norm: kind of the norms. Default: batch.
        gated: puts the gates of Attention U-Net between encoder and decoder.
    """

    def __init__(
        self,
        settings: RecurrentSettings,
        *,
        in_channels: int,
        outputs: int,
        norm: Norm | None,
        gated: bool,
    ) -> None:
        widths, make_norm = widths_of(settings.width, settings.depth), norm_maker(norm)

        def block(before: int, width: int) -> nn.Module:
            return RecurrentResidual(before, width, steps=settings.steps, norm=norm)

        encoder = [block(in_channels, widths[0])]
        decoder = []
        for upper, lower in itertools.pairwise(widths):
            encoder.append(halved(block(upper, lower)))
            gate = AttentionGate(upper, make_norm=make_norm) if gated else None
            decoder.append(UpStep(UpConv(lower, upper, make_norm=make_norm), block(2 * upper, upper), gate=gate))
        super().__init__(encoder, decoder[::-1], widths=widths, outputs=outputs)


@register_model("r2unet", settings=R2UNetSettings, task="segmentation", width="width")
class R2UNet(RecurrentUNet):
    """See the module."""

    def __init__(
        self, settings: R2UNetSettings, *, in_channels: int = 3, outputs: int = 1, norm: Norm | None = None
    ) -> None:
        super().__init__(settings, in_channels=in_channels, outputs=outputs, norm=norm, gated=False)


@register_model("attention-r2unet", settings=AttentionR2UNetSettings, task="segmentation", width="width")
class AttentionR2UNet(RecurrentUNet):
    """The blocks of R2U-Net, the gates of Attention U-Net (arXiv 1804.03999).

    It has no paper of its own; the public PyTorch form puts the two together as here (39.44 M parameters with 3
    channels and 1 output).
    """

    def __init__(
        self, settings: AttentionR2UNetSettings, *, in_channels: int = 3, outputs: int = 1, norm: Norm | None = None
    ) -> None:
        super().__init__(settings, in_channels=in_channels, outputs=outputs, norm=norm, gated=True)
