"""The operations of nas-wdan: three sets, each "ReLU, weight, norm" unless its class says otherwise.

Source: NAS-WDAN / MixSearch (arXiv 2102.13280), search space. All take and give BCHW with C channels; normal
operations keep the size, down operations halve it, up operations double it, both exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from medarts.network.convolution import DilatedConv2d
from medarts.network.layers import ChannelShuffle, Norm, make_norm
from medarts.spaces import base
from medarts.spaces.base import Operations

Transition = Literal["down", "normal", "up"]
TRANSITIONS: tuple[Transition, ...] = ("down", "normal", "up")

SQUEEZE_RATIO = 16

SKIP = "identity"
"""The operation that passes on what it reads."""


@dataclass(frozen=True, slots=True)
class OperationSettings:
    """What all operations of a network share.

    Attributes:
        affine: the norms have a scale and a shift; off in the supernet, on in the derived network.
        norm: the kind of the norms; group in the supernet.
        shuffle_groups: groups of shuffle_conv.
        dropout_prob: probability of dropping an activation at the end of an operation.
    """

    affine: bool
    norm: Norm = "group"
    shuffle_groups: int = 1
    dropout_prob: float = 0.0


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means (Hu et al. 2018), squeezed by a factor of 16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // SQUEEZE_RATIO)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns the scaled images."""
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x_bchw.mean((2, 3))))))
        return x_bchw * gate[:, :, None, None]


def _conv(channels: int, *, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Module:
    make = DilatedConv2d if dilation > 1 else nn.Conv2d
    return make(channels, channels, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False)


def _up_conv(channels: int, *, dilation: int = 1, groups: int = 1) -> nn.Module:
    """A transposed convolution of stride 2 that gives exactly 2h x 2w."""
    return nn.ConvTranspose2d(
        channels,
        channels,
        3,
        stride=2,
        padding=dilation,
        output_padding=1,
        dilation=dilation,
        groups=groups,
        bias=False,
    )


def _pointwise(channels: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 1, bias=False)


def _finish(channels: int, settings: OperationSettings, *weights: nn.Module) -> nn.Module:
    """Puts a ReLU before and a norm (and dropout) behind the weights."""
    parts = [nn.ReLU(), *weights, make_norm(settings.norm, channels, affine=settings.affine)]
    return nn.Sequential(*parts, *_dropout(settings))


def _dropout(settings: OperationSettings) -> list[nn.Module]:
    return [nn.Dropout(settings.dropout_prob)] if settings.dropout_prob else []


Builder = Callable[[int, OperationSettings], nn.Module]
"""(channels, settings) -> operation."""

_NORMAL: dict[str, Builder] = {
    "identity": lambda c, s: nn.ReLU(),
    "cweight": lambda c, s: nn.Sequential(nn.ReLU(), SqueezeExcite(c), *_dropout(s)),
    "dil_conv": lambda c, s: _finish(c, s, _conv(c, dilation=2)),
    "dep_conv": lambda c, s: _finish(c, s, _conv(c, groups=c), _pointwise(c)),
    "shuffle_conv": lambda c, s: _finish(c, s, _conv(c, groups=s.shuffle_groups), ChannelShuffle(s.shuffle_groups)),
    "conv": lambda c, s: _finish(c, s, _conv(c)),
}

_DOWN: dict[str, Builder] = {
    "avg_pool": lambda c, s: nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)),
    "max_pool": lambda c, s: nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
    "down_cweight": lambda c, s: _finish(c, s, SqueezeExcite(c), _conv(c, stride=2)),
    "down_dil_conv": lambda c, s: _finish(c, s, _conv(c, stride=2, dilation=2)),
    "down_dep_conv": lambda c, s: _finish(c, s, _conv(c, stride=2, groups=c), _pointwise(c)),
    "down_conv": lambda c, s: _finish(c, s, _conv(c, stride=2)),
}

_UP: dict[str, Builder] = {
    "up_cweight": lambda c, s: _finish(c, s, SqueezeExcite(c), _up_conv(c)),
    "up_dep_conv": lambda c, s: _finish(c, s, _up_conv(c, groups=c), _pointwise(c)),
    "up_conv": lambda c, s: _finish(c, s, _up_conv(c)),
    "up_dil_conv": lambda c, s: _finish(c, s, _up_conv(c, dilation=2)),
}

OPERATIONS: dict[str, Operations[Builder]] = {
    "down": Operations(_DOWN),
    "normal": Operations(_NORMAL, none=True),
    "up": Operations(_UP),
}
"""The three sets. The transition of a cell decides which operations its edges have from s1; all others are normal."""


def set_of_edge(transition: Transition, state: int) -> Transition:
    """Returns the operation set of an edge: s1 of a down or up cell changes the resolution, all else is normal."""
    return transition if state == 1 else "normal"


def make_operation(kind: Transition, name: str, channels: int, settings: OperationSettings) -> nn.Module:
    """Builds one operation of a set on ``channels`` channels."""
    scale = {"down": 0.5, "normal": 1, "up": 2}[kind]
    return base.make_operation(OPERATIONS[kind], name, channels, settings, channels=channels, scale=scale)


def preprocess(in_channels: int, channels: int, *, affine: bool, norm: Norm = "group") -> nn.Module:
    """Returns the ReLU - 1x1 convolution - norm through which a cell takes an input."""
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(in_channels, channels, 1, bias=False), make_norm(norm, channels, affine=affine)
    )
