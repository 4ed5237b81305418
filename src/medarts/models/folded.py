"""A baseline, made fast for inference on a CPU, with equal outputs.

The network stays as it is built; its parts are replaced by others that compute the same. Batch norms and ReLUs become
parts of the convolutions, see ``network/packed.py``. Nearest upsampling and the 3x3 convolution behind it become one
transposed convolution: every output pixel sees only 2x2 different pixels, so 4/9 of the multiplications are enough.
"""

import copy
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.models.baseline import BaselineNetwork
from medarts.models.blocks import ConvNorm, Foldable, UpConv
from medarts.network import InferenceForm
from medarts.network.packed import AnyConv, AnyNorm, Convolution, Form, NormedConvolution


class FoldedNetwork(InferenceForm):
    """The form for inference of a baseline.

    Args:
        network: what it computes.
        dtype: in which it computes.
    """

    def __init__(self, network: BaselineNetwork, *, dtype: torch.dtype) -> None:
        super().__init__(dtype)
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
    def forward_heads(self, x_bchw: Tensor, heads: Sequence[str] | None = None) -> list[Tensor]:
        """Returns the logits of heads as the network does, in fp32 at least."""
        return self.network.forward_heads(x_bchw.to(self.form.dtype, memory_format=self.form.maps), heads)


class ImageNorm(nn.Module):
    """An instance norm, or a group norm of one channel a group, that keeps maps channels-last.

    PyTorch's own instance norm makes them contiguous; its batch norm over a single image is the same and several times
    faster. But of such maps it sums squares, which loses digits where a mean is far from zero, as that of a smooth part
    of an image: so the first pixel is taken away from all, which changes no norm.

    Args:
        norm: what it computes, with scale and shift.
    """

    def __init__(self, norm: nn.InstanceNorm2d | nn.GroupNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.scale = nn.Buffer(norm.weight.detach())
        self.shift = nn.Buffer(norm.bias.detach())

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns the normed maps."""
        images = [self._normed(x_bchw[image : image + 1]) for image in range(len(x_bchw))]
        return images[0] if len(images) == 1 else torch.cat(images)

    def _normed(self, x_1chw: Tensor) -> Tensor:
        near_zero = x_1chw - x_1chw[:, :, :1, :1]
        return F.batch_norm(near_zero, None, None, self.scale, self.shift, training=True, eps=self.eps)


def _folded(module: nn.Module, form: Form) -> nn.Module:
    """Returns what computes the same as a module, which may be the module itself with its parts replaced.

    Norms that follow no convolution stay; batch norms keep their precision.
    """
    match module:
        case ConvNorm():
            return _folded_block(module.conv, module, form)
        case UpConv():
            return _folded_block(_joined(module), module.conv, form)
        case Foldable():
            return module.folded(form)
        case nn.Conv2d() | nn.ConvTranspose2d():
            return Convolution(module, form=form)
        case nn.GroupNorm() if module.num_groups == module.num_channels:
            return ImageNorm(module)
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
