"""Depthwise convolutions with fast gradients on CPUs.

For CPUs PyTorch's library has fast kernels for the output of any depthwise convolution. For the gradient of the weights
it has them only where these are no wider than 3, and for dilated convolutions it has none for any gradient; what takes
their place is several times slower. The gradients are therefore written as convolutions of the fast kind.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from medarts.spaces.kernels import to_bchw, to_bhwc


def depthwise(x_bchw: Tensor, weight: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
    """Convolves every channel with its own weights, as one step of autograd.

    Args:
        x_bchw: channels-last.
        weight: C x 1 x 3 x 3 or C x 1 x 5 x 5; the padding keeps the size at stride 1.
        stride: 1 or 2.
        dilation: 1, or 2 at stride 1.

    Returns:
        BCHW, channels-last, of ceil(h / stride) x ceil(w / stride).
    """
    # PyTorch gives ``apply`` no types.
    out: Tensor = _Depthwise.apply(x_bchw, weight.to(x_bchw.dtype), (stride, dilation))  # type: ignore[no-untyped-call]
    return out


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        # In the precision of x, as the backward pass is; autocast would change it here alone.
        with torch.autocast(x.device.type, enabled=False):
            return convolved(x, weight, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        stride, dilation = ctx.geometry
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = of_w = None
        if ctx.needs_input_grad[0]:
            of_x = of_input(x.shape, gradient, weight, stride=stride, dilation=dilation)
        if ctx.needs_input_grad[1]:
            of_w = of_weight(x, gradient, size=weight.shape[-1], stride=stride, dilation=dilation)
        return of_x, of_w, None


def convolved(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Returns the convolution, without a gradient of its own."""
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, None, stride, padding, dilation, len(weight))


def of_input(size: torch.Size, gradient: Tensor, weight: Tensor, *, stride: int, dilation: int) -> Tensor:
    """Returns the gradient of the input of a convolution.

    Args:
        size: shape of the input.
        gradient: of the output, channels-last.
        weight: of the convolution.
        stride: 1 or 2.
        dilation: 1, or 2 at stride 1.
    """
    if stride == 1:
        return convolved(gradient, weight.flip((2, 3)), 1, dilation)
    # Only its shape and layout count. ``torch.nn.grad.conv2d_input`` gives it a layout that costs copies.
    x = torch.empty(size, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last)
    padding = weight.shape[-1] // 2
    return _gradients(gradient, x, weight, (stride, padding), [True, False, False])[0]


def of_weight(x: Tensor, gradient: Tensor, *, size: int, stride: int, dilation: int) -> Tensor:
    """Returns the gradient of the weights of a convolution.

    Args:
        x: its input, channels-last.
        gradient: of its output, channels-last.
        size: height and width of the weights, 3 or 5.
        stride: 1 or 2.
        dilation: 1, or 2 at stride 1.
    """
    if dilation > 1:
        x, gradient = _phases(x), _phases(gradient)
    mask = [False, True, False]
    if size == 3:
        return _gradients(gradient, x, x.new_empty(x.shape[1], 1, 3, 3), (stride, 1), mask)[1]
    # The fast kernel knows no weights wider than 3: the columns 0 to 2, and once more, further right, 2 to 4.
    x = F.pad(x, (2, 2, 2, 2))
    shift, weight = 2 // stride, x.new_empty(x.shape[1], 1, 5, 3)
    left, right = (
        _gradients(F.pad(gradient, sides), x, weight, (stride, 0), mask)[1] for sides in ((0, shift), (shift, 0))
    )
    return torch.cat([left, right[..., 1:]], dim=3)


def _phases(x_bchw: Tensor) -> Tensor:
    """Returns every second pixel of every second row, for all four places to begin, as images of their own.

    A convolution of dilation 2 is one without dilation on each. An odd height or width is padded with a zero.
    """
    x = F.pad(x_bchw, (0, x_bchw.shape[3] % 2, 0, x_bchw.shape[2] % 2))
    b, c, h, w = x.shape
    parts = to_bhwc(x).reshape(b, h // 2, 2, w // 2, 2, c).permute(2, 4, 0, 1, 3, 5)
    return to_bchw(parts.reshape(4 * b, h // 2, w // 2, c))


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: tuple[int, int], wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of a depthwise convolution of a (stride, padding): of x and of the weights."""
    stride, padding = geometry
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(weight), wanted
    )
    return found
