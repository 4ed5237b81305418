"""The operations of darts, and how its cells read their inputs.

Source: DARTS (arXiv 1806.09055), section 3.1.1 and appendix A. All take BCHW with C channels and give as many. Those
of stride 2 give ceil(h/2) x ceil(w/2), so that the operations of an edge agree at odd sizes too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.network.convolution import DilatedConv2d
from medarts.spaces import base
from medarts.spaces.base import Operations

Kind = Literal["normal", "reduce"]
KINDS: tuple[Kind, ...] = ("normal", "reduce")

SKIP = "skip_connect"
"""The operation that passes on what it reads."""


@dataclass(frozen=True, slots=True)
class OperationSettings:
    """What all operations of a network share.

    Attributes:
        affine: the norms have a scale and a shift, those behind pools excepted.
        running: the norms keep running statistics and use them in evaluation mode; otherwise they use the statistics
            of the batch there too.
    """

    affine: bool
    running: bool


IN_SUPERNET = OperationSettings(affine=False, running=False)
"""Averages would lag behind weights that change fast, and a trial at other weights would leave traces in them."""

IN_NETWORK = OperationSettings(affine=True, running=True)


def batch_norm(channels: int, settings: OperationSettings) -> nn.BatchNorm2d:
    """Returns a batch norm."""
    return nn.BatchNorm2d(channels, affine=settings.affine, track_running_stats=settings.running)


class FactorizedReduce(nn.Module):
    """Halves height and width without losing a pixel.

    ReLU, then two 1x1 convolutions of stride 2, one reading the even rows and columns and one the odd, each giving
    half the channels; then a norm. An odd height or width is padded with a zero at its end, which the odd ones read.

    The pixels are picked before they are convolved: the backward pass of PyTorch 2.13 for a 1x1 convolution of stride 2
    writes beyond its memory at some odd sizes on the CPU.

    Args:
        in_channels: channels of the input.
        channels: channels of the output; half of them, rounded down, come from the even rows and columns.
        settings: of the norm.
    """

    def __init__(self, in_channels: int, channels: int, settings: OperationSettings) -> None:
        super().__init__()
        self.even = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.odd = nn.Conv2d(in_channels, channels - channels // 2, 1, bias=False)
        self.norm = batch_norm(channels, settings)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns images of ceil(h/2) x ceil(w/2)."""
        h, w = x_bchw.shape[-2:]
        x = F.pad(torch.relu(x_bchw), (0, w % 2, 0, h % 2))
        reduced: Tensor = self.norm(torch.cat([self.even(x[:, :, ::2, ::2]), self.odd(x[:, :, 1::2, 1::2])], dim=1))
        return reduced


def _depthwise(channels: int, size: int, *, stride: int = 1, dilation: int = 1) -> nn.Module:
    padding = dilation * (size // 2)
    make = DilatedConv2d if dilation > 1 else nn.Conv2d
    return make(channels, channels, size, stride, padding=padding, dilation=dilation, groups=channels, bias=False)


def _pointwise(channels: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 1, bias=False)


def _pool(pool: nn.Module, channels: int, settings: OperationSettings) -> nn.Module:
    """Puts a norm behind a pool, which is never affine: the published parameter counts have none there."""
    return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False, track_running_stats=settings.running))


def _max_pool(channels: int, stride: int, settings: OperationSettings) -> nn.Module:
    return _pool(nn.MaxPool2d(3, stride, padding=1), channels, settings)


def _avg_pool(channels: int, stride: int, settings: OperationSettings) -> nn.Module:
    return _pool(nn.AvgPool2d(3, stride, padding=1, count_include_pad=False), channels, settings)


def _skip(channels: int, stride: int, settings: OperationSettings) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, settings)


def _separable(channels: int, stride: int, settings: OperationSettings, *, size: int) -> nn.Module:
    """Returns two depthwise separable convolutions, of which the first has the stride."""
    return nn.Sequential(
        nn.ReLU(),
        _depthwise(channels, size, stride=stride),
        _pointwise(channels),
        batch_norm(channels, settings),
        nn.ReLU(),
        _depthwise(channels, size),
        _pointwise(channels),
        batch_norm(channels, settings),
    )


def _dilated(channels: int, stride: int, settings: OperationSettings, *, size: int) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        _depthwise(channels, size, stride=stride, dilation=2),
        _pointwise(channels),
        batch_norm(channels, settings),
    )


Builder = Callable[[int, int, OperationSettings], nn.Module]
"""(channels, stride 1 or 2, settings) -> operation."""

_BUILDERS: dict[str, Builder] = {
    "max_pool_3x3": _max_pool,
    "avg_pool_3x3": _avg_pool,
    "skip_connect": _skip,
    "sep_conv_3x3": lambda c, stride, s: _separable(c, stride, s, size=3),
    "sep_conv_5x5": lambda c, stride, s: _separable(c, stride, s, size=5),
    "dil_conv_3x3": lambda c, stride, s: _dilated(c, stride, s, size=3),
    "dil_conv_5x5": lambda c, stride, s: _dilated(c, stride, s, size=5),
}
OPERATIONS: dict[str, Operations[Builder]] = {kind: Operations(_BUILDERS, none=True) for kind in KINDS}
"""The candidates of every edge, in the order of the published code."""


def make_operation(kind: Kind, name: str, channels: int, *, stride: int, settings: OperationSettings) -> nn.Module:
    """Builds one operation of a kind of cell on ``channels`` channels."""
    return base.make_operation(OPERATIONS[kind], name, channels, stride, settings, channels=channels, scale=1 / stride)


def stride_of(kind: Kind, state: int) -> int:
    """Returns the stride of the edges from a state: 2 from the inputs of a reduce cell, 1 otherwise."""
    return 2 if kind == "reduce" and state < 2 else 1


def preprocess(in_channels: int, channels: int, *, settings: OperationSettings, halve: bool = False) -> nn.Module:
    """Returns the ReLU - 1x1 convolution - norm through which a cell takes an input.

    Args:
        in_channels: channels of the input.
        channels: channels of the cell's nodes.
        settings: of the norm.
        halve: bring the input to half its size, by ``FactorizedReduce``: that of s0 where the cell before reduced.
    """
    if halve:
        return FactorizedReduce(in_channels, channels, settings)
    return nn.Sequential(nn.ReLU(), nn.Conv2d(in_channels, channels, 1, bias=False), batch_norm(channels, settings))
