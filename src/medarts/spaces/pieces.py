"""Pieces of networks that are timed alone: what latency is predicted from before a network is built.

The sum of the edges into a node of a cell is no piece: ONNX Runtime adds in the convolution before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a network that is timed alone, such as an operation at one size; all that equal it take as long.

    Attributes:
        name: all that its latency depends on beside the shapes: operation, channels that it gives, groups, norm.
        shapes: of its inputs, without the batch.
        build: makes the module, which takes the inputs one by one and gives one tensor.
        lasts: the name means the same module on another day. Users may change the operations that they register.
        is_once: a network has it once, as it has its stem, so that it finds caches that hold something else.
    """

    name: str
    shapes: tuple[Shape, ...]
    build: Callable[[], nn.Module] = field(compare=False, repr=False)
    lasts: bool = True
    is_once: bool = False

    @property
    def key(self) -> str:
        """The piece as one line, under which its latency is kept."""
        return f"{self.name}: {', '.join('x'.join(map(str, shape)) for shape in self.shapes)}"


class Joined(nn.Module):
    """What leaves a cell: its nodes concatenated, behind the ReLU that all who read it share."""

    def forward(self, *nodes_bchw: Tensor) -> Tensor:
        """Returns the output."""
        return torch.relu(torch.cat(nodes_bchw, dim=1))


class Sum(nn.Module):
    """The sum of two tensors of one shape."""

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Returns the sum."""
        return one + other


class Resized(nn.Module):
    """A module whose output is resized bilinearly.

    Args:
        module: of which.
        size: height and width.
    """

    def __init__(self, module: nn.Module, size: int) -> None:
        super().__init__()
        self.module = module
        self.size = size

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns the output at the size."""
        return F.interpolate(self.module(x_bchw), size=(self.size, self.size), mode="bilinear")


def joined(nodes: int, channels: int, size: int) -> Piece:
    """Returns what joins the nodes of a cell, of ``channels`` each."""
    return Piece("join", ((channels, size, size),) * nodes, Joined)


def summed(channels: int, size: int) -> Piece:
    """Returns a sum of two tensors."""
    return Piece("sum", ((channels, size, size),) * 2, Sum)
