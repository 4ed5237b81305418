"""A convolution and the norm behind it, laid out for inference.

A batch norm vanishes into weight and bias. Weights lie in memory as the convolution wants them: packed by oneDNN where
it computes, which would otherwise rearrange them at every call, and as they are elsewhere.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.spaces.layers import ChannelShuffle

AnyConv = nn.Conv2d | nn.ConvTranspose2d
AnyNorm = nn.GroupNorm | nn.BatchNorm2d


class Convolution(nn.Module):
    """A convolution with a factor and a bias for every output channel, and maybe a ReLU behind it.

    The weight of a packed convolution is no tensor that a module can move, save or train.

    Args:
        conv: its weight, and its bias where it has one, are taken over as they are now.
        dtype: in which it computes.
        scale: factors of the output channels, for convolutions that are not transposed or have one group.
        bias: of the output channels, added behind the factors.
        relu: whether a ReLU follows.
    """

    def __init__(
        self,
        conv: AnyConv,
        *,
        dtype: torch.dtype,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        relu: bool = False,
    ) -> None:
        super().__init__()
        assert not isinstance(conv.padding, str)
        self.transposed = isinstance(conv, nn.ConvTranspose2d)
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.output_padding, self.groups, self.relu = conv.output_padding, conv.groups, relu
        weight = conv.weight.detach()
        if scale is not None:
            weight = weight * (scale[:, None, None] if self.transposed else scale[:, None, None, None])
        weight = weight.to(dtype, copy=True)
        if conv.bias is not None:
            own = conv.bias.detach() if scale is None else conv.bias.detach() * scale
            bias = own if bias is None else own + bias
        self.bias = None if bias is None else nn.Buffer(bias.to(dtype, copy=True))
        self.is_packed = _can_pack(weight)
        if self.is_packed:
            self.packed = self._pack(weight)
        else:
            self.weight = nn.Buffer(weight)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns the convolution of images."""
        if self.is_packed:
            name = "_convolution_transpose_pointwise" if self.transposed else "_convolution_pointwise"
            run = getattr(torch.ops.mkldnn, name)
            behind = "relu" if self.relu else "none"
            return cast(Tensor, run(x_bchw, self.packed, self.bias, *self._geometry, behind, [], ""))
        options = (self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups)
        y = torch.convolution(x_bchw, self.weight, self.bias, *options)
        return y.relu_() if self.relu else y

    @property
    def _geometry(self) -> tuple[tuple[int, ...] | int, ...]:
        """What oneDNN wants to know, in its order."""
        extra = (self.output_padding,) if self.transposed else ()
        return (self.padding, *extra, self.stride, self.dilation, self.groups)

    def _pack(self, weight: Tensor) -> Tensor:
        name = "_reorder_convolution_transpose_weight" if self.transposed else "_reorder_convolution_weight"
        return cast(Tensor, getattr(torch.ops.mkldnn, name)(weight, *self._geometry))


def _can_pack(weight: Tensor) -> bool:
    """Whether oneDNN would compute with a weight."""
    # PyTorch gives ``is_available`` no types.
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


class NormedConvolution(nn.Module):
    """A convolution and its norm.

    Args:
        conv: transposed ones have one group; one whose channels are shuffled has no bias.
        norm: behind it, with scale and shift; a batch norm takes its running statistics.
        dtype: in which it computes.
        shuffle: groups whose channels are interleaved between the two.
        relu: whether a ReLU follows.
    """

    def __init__(
        self, conv: AnyConv, norm: AnyNorm, *, dtype: torch.dtype, shuffle: int = 1, relu: bool = False
    ) -> None:
        super().__init__()
        self.shuffle = ChannelShuffle(shuffle) if shuffle > 1 else None
        self.norm: _GroupNorm | None = None
        if isinstance(norm, nn.BatchNorm2d):
            scale, bias = (_unshuffled(channels, shuffle) for channels in _scale_and_shift(norm))
            self.conv = Convolution(conv, dtype=dtype, scale=scale, bias=bias, relu=relu)
        else:
            self.conv = Convolution(conv, dtype=dtype)
            self.norm = _GroupNorm(norm, dtype=dtype, relu=relu)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns what the convolution and the norm make of images."""
        y: Tensor = self.conv(x_bchw)
        if self.shuffle is not None:
            y = self.shuffle(y)
        return y if self.norm is None else cast(Tensor, self.norm(y))


class _GroupNorm(nn.Module):
    def __init__(self, norm: nn.GroupNorm, *, dtype: torch.dtype, relu: bool) -> None:
        super().__init__()
        self.groups, self.eps, self.relu = norm.num_groups, norm.eps, relu
        self.scale = nn.Buffer(norm.weight.detach().to(dtype, copy=True))
        self.shift = nn.Buffer(norm.bias.detach().to(dtype, copy=True))

    def forward(self, x_bchw: Tensor) -> Tensor:
        y = F.group_norm(x_bchw, self.groups, self.scale, self.shift, self.eps)
        return y.relu_() if self.relu else y


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Returns what a batch norm in evaluation mode multiplies every channel by, and then adds to it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias.detach() - norm.running_mean * scale


def _unshuffled(channels: Tensor, shuffle: int) -> Tensor:
    """Returns numbers of channels as they lie before their convolution's channels are shuffled."""
    return channels.view(-1, shuffle).T.reshape(-1)
