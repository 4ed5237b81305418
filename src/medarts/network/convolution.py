"""Dilated convolutions whose gradients are right in bf16 on a CPU.

PyTorch 2.13 computes garbage, at times not a number, for the gradient of the weights of a dilated convolution of
stride 1, where maps are bf16 and channels-last on a CPU: of dense ones whose channels are more than 16 and no multiple
of 16, of grouped ones with any number. The output and the gradient of the input are right. Where gradients are needed,
such convolutions are therefore done in fp32.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medarts.errors import RecipeError

OneOrTwo = int | tuple[int, ...]
"""Of both axes, or of each."""


class DilatedConv2d(nn.Conv2d):
    """A convolution, such as `torch.nn.Conv2d`, whose gradients are right in bf16 on a CPU, too."""

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns the convolution of the images."""
        return conv2d(
            x_bchw, self.weight, self.bias, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups,
        )  # fmt: skip


def conv2d(
    x_bchw: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """Returns a convolution, as `torch.nn.functional.conv2d` does."""
    autocast = x_bchw.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else x_bchw.dtype
    if torch.is_grad_enabled() and has_wrong_gradient(dtype, x_bchw.device, dilation):
        with torch.autocast("cpu", enabled=False):
            of_bias = None if bias is None else bias.float()
            return F.conv2d(x_bchw.float(), weight.float(), of_bias, stride, padding, dilation, groups).to(dtype)
    return F.conv2d(x_bchw, weight, bias, stride, padding, dilation, groups)


def has_wrong_gradient(dtype: torch.dtype, device: torch.device, dilation: OneOrTwo) -> bool:
    """Whether the gradient of the weights of such a convolution may be wrong."""
    return dtype is torch.bfloat16 and device.type == "cpu" and _is_dilated(dilation)


def check_gradients(network: nn.Module, *, precision: str, device: str) -> None:
    """Refuses to train dilated convolutions of users in bf16 on a CPU.

    Raises:
        RecipeError: names the convolution.
    """
    if precision != "bf16" or device != "cpu":
        return
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and not isinstance(module, DilatedConv2d) and _is_dilated(module.dilation):
            raise RecipeError(
                f"{name} is a dilated convolution, whose gradients PyTorch computes wrongly on a CPU where "
                "compute.precision is bf16.",
                fix="Use compute.precision=fp32, or medarts.network.convolution.DilatedConv2d in its place.",
            )


def _is_dilated(dilation: OneOrTwo) -> bool:
    return any(step > 1 for step in (dilation if isinstance(dilation, Iterable) else (dilation,)))
