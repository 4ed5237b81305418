"""Building blocks of fused mixed cells: layouts, convolutions as 3x3 kernels, and a group norm, all channels-last."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

# Two views of the same memory: images as BCHW, channels-last, for convolutions, and as BHWC for everything else.


def split_channels(x_bhwc: Tensor, parts: int) -> Tensor:
    """Returns BHWMC: the channels of M parts that lie beside each other."""
    b, h, w, c = x_bhwc.shape
    return x_bhwc.reshape(b, h, w, parts, c // parts)


def to_bhwc(x_bchw: Tensor) -> Tensor:
    """Returns a view; contiguous where x is channels-last."""
    return x_bchw.permute(0, 2, 3, 1)


def to_bchw(x_bhwc: Tensor) -> Tensor:
    """Returns a view; channels-last where x is contiguous."""
    return x_bhwc.permute(0, 3, 1, 2)


# The linear operations as 3x3 convolutions: what their parameters are, and what weight these make.


class Kernels(Protocol):
    """The weights of one kind of convolution on several edges, as those of 3x3 convolutions."""

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters of the modules, as they are now."""

    def dense(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Returns the weight of every edge, O x I x 3 x 3 (I x O x 3 x 3 where transposed)."""

    def gradients(self, parameters: Sequence[Tensor], of_dense: Sequence[Tensor]) -> list[Tensor]:
        """Returns the gradients of the parameters, from those of the weight of every edge."""


class Dense:
    """Convolutions as they are."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The weight of every edge."""
        return _weights(self.modules)

    def dense(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Returns the weights themselves."""
        return list(parameters)

    def gradients(self, parameters: Sequence[Tensor], of_dense: Sequence[Tensor]) -> list[Tensor]:
        """Returns the gradients themselves."""
        return list(of_dense)


class Separable:
    """A 3x3 convolution of every channel by itself, then a 1x1 convolution of all."""

    def __init__(self, depthwise: Sequence[nn.Module], pointwise: Sequence[nn.Module], *, transposed: bool) -> None:
        self.modules = (*depthwise, *pointwise)
        self.transposed = transposed

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The depthwise weight of every edge, then the pointwise ones."""
        return _weights(self.modules)

    def dense(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Returns the products: from each input channel its 3x3 weights, times its share in an output channel."""
        depthwise, pointwise = self._split(parameters)
        if self.transposed:  # I x 1 x 3 x 3 and O x I x 1 x 1
            return [d * p.transpose(0, 1) for d, p in zip(depthwise, pointwise, strict=True)]
        return [d.transpose(0, 1) * p for d, p in zip(depthwise, pointwise, strict=True)]

    def gradients(self, parameters: Sequence[Tensor], of_dense: Sequence[Tensor]) -> list[Tensor]:
        """Returns the gradients of all depthwise weights, then of all pointwise ones."""
        depthwise, pointwise = self._split(parameters)
        of_depthwise, of_pointwise = [], []
        for d, p, g in zip(depthwise, pointwise, of_dense, strict=True):
            of_oi = g.transpose(0, 1) if self.transposed else g
            of_depthwise.append((of_oi * p).sum(0).unsqueeze(1))
            of_pointwise.append((of_oi * d.transpose(0, 1)).sum((2, 3), keepdim=True))
        return [*of_depthwise, *of_pointwise]

    @staticmethod
    def _split(parameters: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        half = len(parameters) // 2
        return parameters[:half], parameters[half:]


class Shuffled:
    """Grouped convolutions whose output channels are interleaved."""

    def __init__(self, modules: Sequence[nn.Module], groups: int) -> None:
        self.modules = modules
        self.groups = groups

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The weight of every edge."""
        return _weights(self.modules)

    def dense(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Returns weights that are zero between groups."""
        made = []
        for weight in parameters:
            channels, part = weight.shape[:2]
            dense = weight.new_zeros(part, self.groups, self.groups, part, 3, 3)
            for group, of_group in enumerate(weight.chunk(self.groups)):
                dense[:, group, group] = of_group
            made.append(dense.view(channels, channels, 3, 3))
        return made

    def gradients(self, parameters: Sequence[Tensor], of_dense: Sequence[Tensor]) -> list[Tensor]:
        """Returns the gradients of what is not zero."""
        made = []
        for weight, gradient in zip(parameters, of_dense, strict=True):
            part = weight.shape[1]
            blocks = gradient.reshape(part, self.groups, self.groups, part, 3, 3)
            made.append(torch.cat([blocks[:, group, group] for group in range(self.groups)]))
        return made


def _weights(modules: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    # Asked for at every use: a module may have been given another parameter since.
    return tuple(cast(Tensor, module.weight) for module in modules)


# Group norm with the scale of a weighted sum, and its backward pass.


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
