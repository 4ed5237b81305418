"""The linear operations as 3x3 convolutions: what their parameters are, and what weight these make."""

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn


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
