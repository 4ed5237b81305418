"""Separable convolutions of several edges as one step of autograd, channels-last, with fast gradients on CPUs.

What lies between the depthwise and the pointwise convolution is computed once more in the backward pass rather than
kept: it is as large as the output, and the depthwise convolution takes little time.

For CPUs PyTorch's library has fast kernels for the output of any depthwise convolution. For the gradient of the weights
it has them only where these are no wider than 3, and for dilated convolutions it has none for any gradient; what takes
their place is several times slower. The gradients are therefore written as convolutions of the fast kind.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from medarts.spaces.fast.layout import split_channels, to_bchw, to_bhwc


def separable(
    x_bchw: Tensor, depthwise: Tensor, pointwise: Tensor, *, groups: int, stride: int = 1, dilation: int = 1
) -> Tensor:
    """Convolves every channel with its own weights, then each group of channels with 1x1 weights.

    Args:
        x_bchw: channels-last.
        depthwise: C x 1 x 3 x 3 or C x 1 x 5 x 5; the padding keeps the size at stride 1.
        pointwise: C x C/groups x 1 x 1.
        groups: of the pointwise convolution.
        stride: of the depthwise convolution, 1 or 2.
        dilation: of the depthwise convolution; 1, or 2 at stride 1.

    Returns:
        BCHW, channels-last, of ceil(h / stride) x ceil(w / stride).
    """
    # PyTorch gives ``apply`` no types.
    out: Tensor = _Separable.apply(x_bchw, depthwise, pointwise, (groups, stride, dilation))  # type: ignore[no-untyped-call]
    return out


class _Separable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, depthwise: Tensor, pointwise: Tensor, geometry: tuple[int, int, int]) -> Tensor:
        groups, stride, dilation = ctx.geometry = geometry
        ctx.save_for_backward(x if any(ctx.needs_input_grad[1:3]) else None, depthwise, pointwise)
        ctx.size = x.shape
        # In the precision of x, as the backward pass is; autocast would change it here alone.
        with torch.autocast(x.device.type, enabled=False):
            between = _convolved(x, depthwise, stride, dilation)
            return _images(torch.bmm(_matrices(between, groups), _of_groups(pointwise, groups).mT), between)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, depthwise, pointwise = ctx.saved_tensors
        groups, stride, dilation = ctx.geometry
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = of_depthwise = of_pointwise = None
        matrices = _matrices(gradient, groups)
        if ctx.needs_input_grad[2]:
            between = _matrices(_convolved(x, depthwise, stride, dilation), groups)
            of_pointwise = torch.bmm(matrices.mT, between).view_as(pointwise)
        gradient = _images(torch.bmm(matrices, _of_groups(pointwise, groups)), gradient)
        if ctx.needs_input_grad[0]:
            if stride == 1:
                of_x = _convolved(gradient, depthwise.flip((2, 3)), 1, dilation)
            else:
                of_x = _of_input(ctx.size, gradient, depthwise, stride=stride)
        if ctx.needs_input_grad[1]:
            if dilation > 1:
                x, gradient = _phases(x), _phases(gradient)
            of_depthwise = _of_depthwise(x, gradient, size=depthwise.shape[-1], stride=stride)
        return of_x, of_depthwise, of_pointwise, None


def _matrices(x_bchw: Tensor, groups: int) -> Tensor:
    """Returns a view of the pixels of each group of channels, (groups, pixels, channels of one)."""
    return split_channels(to_bhwc(x_bchw), groups).flatten(0, 2).transpose(0, 1)


def _images(matrices: Tensor, like_bchw: Tensor) -> Tensor:
    """Returns the groups as channels of images of the shape of others, BCHW, channels-last."""
    return to_bchw(matrices.transpose(0, 1).reshape(to_bhwc(like_bchw).shape))


def _of_groups(pointwise: Tensor, groups: int) -> Tensor:
    return pointwise.view(groups, -1, pointwise.shape[1])


def _convolved(x: Tensor, depthwise: Tensor, stride: int, dilation: int) -> Tensor:
    padding = dilation * (depthwise.shape[-1] // 2)
    return F.conv2d(x, depthwise, None, stride, padding, dilation, len(depthwise))


def _of_input(size: torch.Size, gradient: Tensor, depthwise: Tensor, *, stride: int) -> Tensor:
    """Returns the gradient of the input of a depthwise convolution without dilation."""
    # Only its shape and layout count. ``torch.nn.grad.conv2d_input`` gives it a layout that costs copies.
    x = torch.empty(size, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last)
    padding = depthwise.shape[-1] // 2
    return _gradients(gradient, x, depthwise, (stride, padding), [True, False, False])[0]


def _of_depthwise(x: Tensor, gradient: Tensor, *, size: int, stride: int) -> Tensor:
    """Returns the gradient of the weights of a depthwise convolution without dilation."""
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
    gradient: Tensor, x: Tensor, depthwise: Tensor, geometry: tuple[int, int], wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of a depthwise convolution of a (stride, padding): of x and of the weights."""
    stride, padding = geometry
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, x, depthwise, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(depthwise), wanted
    )
    return found
