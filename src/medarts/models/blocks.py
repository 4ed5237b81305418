"""Blocks that several of the baselines are built of. All take and give BCHW."""

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from medarts.network.layers import Norm, make_norm
from medarts.network.packed import Form


@runtime_checkable
class Foldable(Protocol):
    """A block that knows its form for inference; see ``folded.py`` for those that are known without."""

    def folded(self, form: Form) -> nn.Module:
        """Returns what computes the same in evaluation mode, with norms and ReLUs in the convolutions."""


NormMaker = Callable[[int], nn.Module]
"""channels -> norm with scale and shift."""

Activation = Literal["relu", "leaky_relu"]
LEAK = 0.01
"""Slope of the leaky ReLU below zero."""


def norm_maker(norm: Norm | None, *, paper: Literal["batch", "instance"] = "batch") -> NormMaker:
    """Returns what makes the norms of a network: of the kind that was asked for, otherwise that of its paper."""
    if norm is None and paper == "instance":
        return lambda channels: nn.InstanceNorm2d(channels, affine=True)
    return lambda channels: make_norm(norm or "batch", channels, affine=True)


class ConvNorm(nn.Module):
    """A convolution, its norm, and an activation where there is one.

    The convolution has a bias, which the public forms of these networks count among their parameters.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        size: of the kernel, odd.
        stride: of the convolution.
        make_norm: makes the norm.
        activation: behind the norm.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        size: int = 3,
        *,
        stride: int = 1,
        make_norm: NormMaker,
        activation: Activation | None = "relu",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, size, stride, padding=size // 2)
        self.norm = make_norm(channels)
        self.activation = None if activation is None else _activation(activation)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns maps of the same height and width, divided by the stride."""
        y: Tensor = self.norm(self.conv(x_bchw))
        return y if self.activation is None else self.activation(y)


def _activation(name: Activation) -> nn.Module:
    return nn.ReLU(inplace=True) if name == "relu" else nn.LeakyReLU(LEAK, inplace=True)


def double_conv(in_channels: int, channels: int, *, make_norm: NormMaker) -> nn.Module:
    """Returns two 3x3 convolutions, each with norm and ReLU."""
    return nn.Sequential(
        ConvNorm(in_channels, channels, make_norm=make_norm), ConvNorm(channels, channels, make_norm=make_norm)
    )


def halved(block: nn.Module) -> nn.Module:
    """Puts a 2x2 max pool in front of a block."""
    return nn.Sequential(nn.MaxPool2d(2), block)


class UpConv(nn.Module):
    """Doubles height and width: nearest upsampling, then a 3x3 convolution with norm and ReLU."""

    def __init__(self, in_channels: int, channels: int, *, make_norm: NormMaker) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2)
        self.conv = ConvNorm(in_channels, channels, make_norm=make_norm)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns maps of double height and width."""
        y: Tensor = self.conv(self.upsample(x_bchw))
        return y


class AttentionGate(nn.Module):
    """Weighs every pixel of the encoder's maps by how much the decoder's agree.

    Source: Attention U-Net (arXiv 1804.03999), section 2.1: psi(ReLU(W_g g + W_x x)) with 1x1 convolutions, here with
    the norms of the public PyTorch form, in which the gating signal has been upsampled before, so that both have one
    resolution.

    Args:
        channels: of both inputs.
        make_norm: makes the norms.
    """

    def __init__(self, channels: int, *, make_norm: NormMaker) -> None:
        super().__init__()
        inner = channels // 2
        self.of_gating = ConvNorm(channels, inner, 1, make_norm=make_norm, activation=None)
        self.of_skip = ConvNorm(channels, inner, 1, make_norm=make_norm, activation=None)
        self.psi = ConvNorm(inner, 1, 1, make_norm=make_norm, activation=None)

    def weights(self, gating_bchw: Tensor, skip_bchw: Tensor) -> Tensor:
        """Returns the weight of every pixel, 0 to 1, B1HW."""
        joined = self.of_gating(gating_bchw) + self.of_skip(skip_bchw)
        return torch.sigmoid(self.psi(joined.relu_()))

    def forward(self, gating_bchw: Tensor, skip_bchw: Tensor) -> Tensor:
        """Returns the encoder's maps, weighted."""
        return skip_bchw * self.weights(gating_bchw, skip_bchw)


class UpStep(nn.Module):
    """A step of a decoder: doubles the maps below, concatenates the encoder's, and puts both through a block.

    Args:
        up: doubles height and width.
        block: takes the concatenation, the encoder's maps first.
        gate: takes (doubled maps, the encoder's) and gives what is concatenated of the encoder's.
    """

    def __init__(self, up: nn.Module, block: nn.Module, *, gate: nn.Module | None = None) -> None:
        super().__init__()
        self.up, self.block, self.gate = up, block, gate

    def forward(self, x_bchw: Tensor, skip_bchw: Tensor) -> Tensor:
        """Returns maps of the size of ``skip_bchw``."""
        x = self.up(x_bchw)
        skip = skip_bchw if self.gate is None else self.gate(x, skip_bchw)
        y: Tensor = self.block(torch.cat([skip, x], dim=1))
        return y
