"""Group norm with the scale of a weighted sum, and its backward pass, channels-last."""

from typing import NamedTuple

import torch
from torch import Tensor

from medarts.spaces.fast.layout import to_bchw, to_bhwc


class NormState(NamedTuple):
    """What the backward pass of a norm needs: its input BCHW, mean and reciprocal deviation BG, and scale C."""

    x: Tensor
    mean: Tensor
    rstd: Tensor
    scale: Tensor


def norm(x: Tensor, scale: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the scaled norm of x, BCHW, and mean and reciprocal deviation of every group, BG."""
    b, c, h, w = x.shape
    if x.device.type == "cpu":
        normed: tuple[Tensor, Tensor, Tensor] = torch.native_group_norm(x, scale, None, b, c, h * w, groups, eps)
        return normed
    return norm_formula(x, scale, groups, eps)


def norm_backward(gradient: Tensor, state: NormState, groups: int) -> tuple[Tensor, Tensor]:
    """Returns the gradients of x and of the scale."""
    x, mean, rstd, scale = state
    b, c, h, w = x.shape
    if x.device.type == "cpu":
        of_x, of_scale, _ = torch.ops.aten.native_group_norm_backward(
            gradient, x, mean, rstd, scale, b, c, h * w, groups, [True, True, False]
        )
        return of_x, of_scale
    return norm_formula_backward(gradient, state, groups)


def norm_formula(x: Tensor, scale: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """As ``norm``, written out for devices whose group norm knows no channels-last."""
    grouped = _grouped(x, groups).to(scale.dtype)
    variance, mean = torch.var_mean(grouped, (1, 3), correction=0, keepdim=True)
    rstd = (variance + eps).rsqrt()
    normed = (grouped - mean) * (rstd * scale.view(groups, -1))
    return to_bchw(normed.to(x.dtype).view(to_bhwc(x).shape)), mean[:, 0, :, 0], rstd[:, 0, :, 0]


def norm_formula_backward(gradient: Tensor, state: NormState, groups: int) -> tuple[Tensor, Tensor]:
    """As ``norm_backward``, for ``norm_formula``."""
    x, mean, rstd, scale = state
    of_y = _grouped(gradient, groups).to(scale.dtype)
    hat = (_grouped(x, groups) - mean[:, None, :, None]) * rstd[:, None, :, None]
    of_hat = of_y * scale.view(groups, -1)
    of_x = of_hat - of_hat.mean((1, 3), keepdim=True) - hat * (of_hat * hat).mean((1, 3), keepdim=True)
    of_x = (of_x * rstd[:, None, :, None]).to(x.dtype).view(to_bhwc(x).shape)
    return to_bchw(of_x), (of_y * hat).sum((0, 1)).flatten()


def _grouped(x: Tensor, groups: int) -> Tensor:
    """Returns B(HW)GK, the channels of every group beside each other."""
    b, c, h, w = x.shape
    return to_bhwc(x).reshape(b, h * w, groups, c // groups)
