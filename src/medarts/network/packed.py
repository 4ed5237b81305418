"""A convolution and the norm behind it, laid out for inference.

A batch norm vanishes into weight and bias. What is left computes with the kernel that PyTorch would choose for the same
convolution, minus what need not be done at every call: rearranging the weight, and a pass for the ReLU.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.network.layers import ChannelShuffle

AnyConv = nn.Conv2d | nn.ConvTranspose2d
AnyNorm = nn.GroupNorm | nn.BatchNorm2d

WORTH_PACKING = 5_000_000
"""Multiply-adds from which on oneDNN with a packed weight beats PyTorch's own kernels, which PyTorch chooses for single
small images: a call of oneDNN costs 20 microseconds more, and its arithmetic is faster. (Not for 1x1 convolutions.)"""

_Backend = torch._C._ConvBackend  # type: ignore[attr-defined]  # named ConvBackend in PyTorch's annotations alone
_WITHOUT_ONEDNN = (
    _Backend.Slow2d,
    _Backend.SlowDilated2d,
    _Backend.SlowTranspose2d,
    _Backend.Empty,
    _Backend.MkldnnEmpty,
)
"""Of the CPU. Listed are those without oneDNN, as PyTorch gives its transposed convolution no name in Python."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a form for inference computes.

    Attributes:
        dtype: of weights and feature maps.
        maps: layout of feature maps. Only channels-last ones are convolved with packed weights, as oneDNN lays its
            outputs out like that.
    """

    dtype: torch.dtype
    maps: torch.memory_format

    @classmethod
    def channels_last_on_cpu(cls, network: nn.Module, dtype: torch.dtype) -> "Form":
        """Returns the form that feature maps are channels-last in on a CPU; elsewhere they keep their layout."""
        on_cpu = next(network.parameters()).device.type == "cpu"
        return cls(dtype, torch.channels_last if on_cpu else torch.contiguous_format)


class Convolution(nn.Module):
    """A convolution with a factor and a bias for every output channel, and maybe a ReLU behind it.

    The weight is packed by oneDNN where PyTorch would run oneDNN for the same images, or where these are much work. How
    oneDNN wants a weight to lie depends on the height and width of the images: one that was packed for others is
    rearranged at every call, by a routine that takes up to forty times as long as the convolution. So weights are
    packed when the first images come, for images of their shape, and again when the shape changes.

    A convolution cannot be moved, saved or trained.

    Args:
        conv: its weight, and its bias where it has one, are taken over as they are now.
        form: how it computes.
        scale: factors of the output channels, for convolutions that are not transposed or have one group.
        bias: of the output channels, added behind the factors.
        relu: whether a ReLU follows.
    """

    weight: Tensor | None
    packed: Tensor | None

    def __init__(
        self,
        conv: AnyConv,
        *,
        form: Form,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        relu: bool = False,
    ) -> None:
        super().__init__()
        assert not isinstance(conv.padding, str)
        self.transposed = isinstance(conv, nn.ConvTranspose2d)
        self.stride, self.relu, self.maps = conv.stride, relu, form.maps
        self.is_pointwise = conv.kernel_size == (1, 1)
        self.is_dense = conv.groups == 1 and conv.dilation == (1, 1)
        around = (conv.stride, conv.padding, conv.dilation)
        self.options = (*around, self.transposed, conv.output_padding, conv.groups)
        """What PyTorch wants to know, in its order."""
        extra = (conv.output_padding,) if self.transposed else ()
        self.geometry = (conv.padding, *extra, conv.stride, conv.dilation, conv.groups)
        """What oneDNN wants to know, in its order."""
        weight = conv.weight.detach()
        if scale is not None:
            weight = weight * (scale[:, None, None] if self.transposed else scale[:, None, None, None])
        weight = weight.to(form.dtype, copy=True).contiguous(memory_format=form.maps)
        if conv.bias is not None:
            own = conv.bias.detach() if scale is None else conv.bias.detach() * scale
            bias = own if bias is None else own + bias
        self.bias = None if bias is None else nn.Buffer(bias.to(form.dtype, copy=True))
        self.can_pack = form.maps == torch.channels_last and _can_pack(weight)
        self.register_buffer("weight", weight)
        self.packed = None
        self.prepared_for: tuple[torch.Size, int] | None = None

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns the convolution of images."""
        if self.can_pack and self.prepared_for != (now := (x_bchw.shape, torch.get_num_threads())):
            self._prepare(x_bchw)
            self.prepared_for = now
        if self.packed is None:
            y = torch.convolution(x_bchw, cast(Tensor, self.weight), self.bias, *self.options)
            return y.relu_() if self.relu else y
        if self.transposed:
            # Apart from the ReLU, which oneDNN's transposed convolution leaves to a slow routine.
            run = torch.ops.mkldnn._convolution_transpose_pointwise
            y = cast(Tensor, run(x_bchw, self.packed, self.bias, *self.geometry, "none", [], ""))
            return y.relu_() if self.relu else y
        behind, run = "relu" if self.relu else "none", torch.ops.mkldnn._convolution_pointwise
        return cast(Tensor, run(x_bchw, self.packed, self.bias, *self.geometry, behind, [], ""))

    def _prepare(self, x_bchw: Tensor) -> None:
        """Packs the weight for images, or unpacks it where they are better convolved without."""
        weight = self.weight
        if weight is None:
            assert self.packed is not None
            weight = self.packed.to_dense().contiguous(memory_format=self.maps)
        if self._is_worth_packing(x_bchw, weight):
            name = "_reorder_convolution_transpose_weight" if self.transposed else "_reorder_convolution_weight"
            self.packed = getattr(torch.ops.mkldnn, name)(weight, *self.geometry, list(x_bchw.shape))
            # PyTorch does not unpack the weight of a transposed convolution rightly, so that one stays.
            self.weight = weight if self.transposed else None
        else:
            self.weight, self.packed = weight, None

    def _is_worth_packing(self, x_bchw: Tensor, weight: Tensor) -> bool:
        if self.transposed and not self.is_dense:
            return False  # oneDNN has no kernel of its own for these, and packing gains nothing
        if torch._C._select_conv_backend(x_bchw, weight, self.bias, *self.options) not in _WITHOUT_ONEDNN:
            return True
        if self.transposed or self.is_pointwise:
            return False
        pixels = x_bchw[:, 0].numel() // (self.stride[0] * self.stride[1])
        return weight.numel() * pixels >= WORTH_PACKING


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
        form: how it computes.
        shuffle: groups whose channels are interleaved between the two.
        relu: whether a ReLU follows.
    """

    def __init__(self, conv: AnyConv, norm: AnyNorm, *, form: Form, shuffle: int = 1, relu: bool = False) -> None:
        super().__init__()
        self.shuffle = ChannelShuffle(shuffle) if shuffle > 1 else None
        self.norm: _GroupNorm | None = None
        if isinstance(norm, nn.BatchNorm2d):
            scale, bias = (_unshuffled(channels, shuffle) for channels in _scale_and_shift(norm))
            self.conv = Convolution(conv, form=form, scale=scale, bias=bias, relu=relu)
        else:
            self.conv = Convolution(conv, form=form)
            self.norm = _GroupNorm(norm, dtype=form.dtype, relu=relu)

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
