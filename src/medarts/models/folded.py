"""A baseline, made fast for inference on a CPU, with equal outputs.

The network stays as it is built; its parts are replaced by others that compute the same. Batch norms and ReLUs become
parts of the convolutions, see ``packed.py``. Nearest upsampling and the 3x3 convolution behind it become one
transposed convolution: every output pixel sees only 2x2 different pixels, so 4/9 of the multiplications are enough.
"""

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.models.baseline import BaselineNetwork
from medarts.models.blocks import ConvNorm, UpConv
from medarts.models.network import TrainedNetwork
from medarts.models.packed import AnyConv, AnyNorm, Convolution, Form, NormedConvolution
from medarts.models.r2unet import RecurrentConv, StepBatchNorm


class FoldedNetwork(TrainedNetwork):
    """See ``inference.for_inference``. It cannot be trained, saved or moved; the network it is made of can.

    Args:
        network: what it computes.
        dtype: in which it computes.
    """

    def __init__(self, network: BaselineNetwork, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.form = Form.channels_last_on_cpu(network, dtype)
        with torch.no_grad():
            self.network = cast(BaselineNetwork, _folded(copy.deepcopy(network).eval(), self.form))

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the heads, early to last."""
        return self.network.heads

    def check_size(self, size: int) -> None:
        """Refuses what the network refuses.

        Raises:
            RecipeError: it does.
        """
        self.network.check_size(size)

    def smallest_map(self, size: int) -> int:
        """Returns the height and width of the lowest resolution."""
        return self.network.smallest_map(size)

    @torch.inference_mode()
    def forward(self, x_bchw: Tensor, head: str | None = None) -> list[Tensor]:
        """Returns the logits as the network does, in fp32 at least."""
        logits: list[Tensor] = self.network(x_bchw.to(self.form.dtype, memory_format=self.form.maps), head)
        return logits


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


class ImageNorm(nn.Module):
    """An instance norm that keeps maps channels-last.

    PyTorch's own makes them contiguous; its batch norm over a single image is the same and several times faster.

    Args:
        norm: what it computes, with scale and shift.
    """

    def __init__(self, norm: nn.InstanceNorm2d) -> None:
        super().__init__()
        self.eps = norm.eps
        self.scale = nn.Buffer(norm.weight.detach())
        self.shift = nn.Buffer(norm.bias.detach())

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns the normed maps."""
        images = [self._normed(x_bchw[image : image + 1]) for image in range(len(x_bchw))]
        return images[0] if len(images) == 1 else torch.cat(images)

    def _normed(self, x_1chw: Tensor) -> Tensor:
        return F.batch_norm(x_1chw, None, None, self.scale, self.shift, training=True, eps=self.eps)


def _folded(module: nn.Module, form: Form) -> nn.Module:
    """Returns what computes the same as a module, which may be the module itself with its parts replaced.

    Norms that follow no convolution stay; batch norms keep their precision.
    """
    match module:
        case ConvNorm():
            return _folded_block(module.conv, module, form)
        case UpConv():
            return _folded_block(_joined(module), module.conv, form)
        case RecurrentConv():
            return FoldedRecurrentConv(module, form=form)
        case nn.Conv2d() | nn.ConvTranspose2d():
            return Convolution(module, form=form)
        case nn.GroupNorm():
            module.to(form.dtype)
    for name, part in module.named_children():
        setattr(module, name, _folded(part, form))
    return module


def _folded_block(conv: AnyConv, block: ConvNorm, form: Form) -> nn.Module:
    """Returns a convolution with norm and activation of a block."""
    if isinstance(block.norm, nn.InstanceNorm2d):
        parts: list[nn.Module] = [Convolution(conv, form=form), ImageNorm(block.norm)]
        has_activation = False
    else:
        has_activation = isinstance(block.activation, nn.ReLU)
        parts = [NormedConvolution(conv, cast(AnyNorm, block.norm), form=form, relu=has_activation)]
    if block.activation is not None and not has_activation:
        parts.append(block.activation)
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _joined(up: UpConv) -> nn.ConvTranspose2d:
    """Returns nearest upsampling and the 3x3 convolution behind it as one transposed 4x4 convolution of stride 2.

    A pixel is spread over 2x2 pixels, each of which the flipped kernel spreads over 3x3: together over 4x4.
    """
    conv = up.conv.conv
    flipped = conv.weight.flip(2, 3).transpose(0, 1)
    weight = flipped.new_zeros(*flipped.shape[:2], 4, 4)
    for row in (0, 1):
        for column in (0, 1):
            weight[:, :, row : row + 3, column : column + 3] += flipped
    joined = nn.ConvTranspose2d(conv.in_channels, conv.out_channels, 4, stride=2, padding=1, device="meta")
    joined.weight, joined.bias = nn.Parameter(weight), conv.bias
    return joined


def _norm_of_step(norm: StepBatchNorm, step: int) -> nn.BatchNorm2d:
    single = nn.BatchNorm2d(len(norm.weight), eps=norm.eps)
    single.weight, single.bias = norm.weight, norm.bias
    single.running_mean, single.running_var = norm.running_mean[step], norm.running_var[step]
    return single
