"""The network of darts, made fast for training on a CPU: the same parameters, and equal outputs and gradients.

As built, every operation has a ReLU of its own, and every cell concatenates its nodes, which the next two cells then
convolve. Here all that reads a state shares its ReLU, and so do the next cells: a 1x1 convolution of concatenated nodes
is the sum of one for each, so nodes are not concatenated, and their gradients need not be taken apart. Pools of one
state are done once, and the gradients of depthwise convolutions are fast ones, see ``depthwise``.

Parameters are those of the network, and autograd gives each its own gradient. So checkpoints, the moving average and
pruning go on with the network as it was built.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medarts.network import FindingNetwork
from medarts.spaces.darts.depthwise import depthwise
from medarts.spaces.darts.fused import CONVOLUTIONS, POOLS
from medarts.spaces.darts.network import DartsCell, DartsNetwork, kept_images
from medarts.spaces.darts.operations import FactorizedReduce


class DartsTraining(FindingNetwork):
    """The form for training of a network, with the parameters of that network itself.

    In evaluation mode the network runs as it was built.

    Args:
        network: what it computes, see `DartsNetwork.training_form`; nothing is cut out of it from now on.
    """

    def __init__(self, network: DartsNetwork) -> None:
        super().__init__()
        self.network = network
        self.cells = [TrainingCell(cast(DartsCell, cell)) for cell in network.frame.cells]

    def check_size(self, size: int) -> None:
        """Refuses images that the network refuses."""
        self.network.check_size(size)

    def smallest_map(self, size: int) -> int:
        """Returns the height and width of the last feature maps."""
        return self.network.smallest_map(size)

    def at(self, progress: float) -> None:
        """Tells the network how far training is."""
        self.network.at(progress)

    def features(self, x_bchw: Tensor) -> Tensor:
        """Returns the output of the last cell, BCHW."""
        return _concatenated(self._outputs(x_bchw)[-1]) if self.training else self.network.features(x_bchw)

    def classify(self, features_bchw: Tensor) -> Tensor:
        """Returns the logits of feature maps, (B, F)."""
        return self.network.classify(features_bchw)

    def forward_heads(self, x_bchw: Tensor, heads: Sequence[str] | None = None) -> list[Tensor]:
        """Returns the logits (B, F) of heads as the network does."""
        if heads is not None or not self.training:
            return self.network.forward_heads(x_bchw, heads)
        frame, outputs, logits = self.network.frame, self._outputs(x_bchw), []
        if frame.auxiliary is not None:
            logits.append(frame.auxiliary(_concatenated(outputs[frame.auxiliary_layer])))
        return [*logits, self.classify(_concatenated(outputs[-1]))]

    def _outputs(self, x_bchw: Tensor) -> list[list["State"]]:
        """Returns the nodes of every cell, first to last."""
        s0 = s1 = [State(self.network.frame.stem(x_bchw.contiguous(memory_format=torch.channels_last)))]
        outputs = []
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, drop_path_prob=self.network.drop_path_prob * self.network.progress)
            outputs.append(s1)
        return outputs


class State:
    """A state of a cell in one pass, with what several of its readers share.

    Args:
        x_bchw: channels-last.
    """

    def __init__(self, x_bchw: Tensor) -> None:
        self.x = x_bchw
        self.pooled: dict[str, Tensor] = {}

    @cached_property
    def active(self) -> Tensor:
        """Its ReLU, BCHW."""
        return torch.relu(self.x)

    @cached_property
    def even_and_odd(self) -> tuple[Tensor, Tensor]:
        """Of its ReLU every second pixel of every second row, from the first one on, and from the second on."""
        # PyTorch gives ``apply`` no types.
        return cast(tuple[Tensor, Tensor], _EverySecond.apply(self.active))  # type: ignore[no-untyped-call]


class _EverySecond(torch.autograd.Function):
    """The pixels that a ``FactorizedReduce`` reads; one gradient is made for both kinds, where slices make one each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.shape = x.shape
        h, w = x.shape[-2:]
        if h % 2 or w % 2:
            x = F.pad(x, (0, w % 2, 0, h % 2))
        even, odd = (x[:, :, at::2, at::2].contiguous(memory_format=torch.channels_last) for at in (0, 1))
        return even, odd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_even: Tensor, of_odd: Tensor) -> Tensor:
        h, w = ctx.shape[-2:]
        gradient = torch.empty(
            ctx.shape, dtype=of_even.dtype, device=of_even.device, memory_format=torch.channels_last
        ).zero_()
        gradient[:, :, ::2, ::2] = of_even
        gradient[:, :, 1::2, 1::2] = of_odd[:, :, : h // 2, : w // 2]
        return gradient


Operation = Callable[[State], Tensor]


class Edge(NamedTuple):
    """An edge of a cell: the state that it reads, its operation, and whether drop-path may drop it."""

    state: int
    operation: Operation
    is_droppable: bool


class TrainingCell:
    """A cell of the derived network.

    Args:
        cell: what it computes.
    """

    def __init__(self, cell: DartsCell) -> None:
        self.inputs = [_reader(cell.input0), _reader(cell.input1)]
        named = [
            [(name, state, operation) for (name, state), operation in zip(edges, operations, strict=True)]
            for edges, operations in zip(cell.edges, cast(Iterable[nn.ModuleList], cell.operations), strict=True)
        ]
        pools: dict[tuple[str, int], list[nn.Sequential]] = {}
        for name, state, operation in (edge for node in named for edge in node):
            if name in POOLS:
                pools.setdefault((name, state), []).append(cast(nn.Sequential, operation))
        pooled = {(name, state): Pools(name, modules) for (name, state), modules in pools.items()}
        self.nodes = [
            [
                Edge(
                    state,
                    pooled[name, state] if name in POOLS else _operation(name, operation),
                    not isinstance(operation, nn.Identity),
                )
                for name, state, operation in node
            ]
            for node in named
        ]

    def __call__(self, s0: Sequence[State], s1: Sequence[State], *, drop_path_prob: float) -> list[State]:
        """Returns the nodes.

        Args:
            s0: the nodes of the cell before the last.
            s1: the nodes of the last cell.
            drop_path_prob: probability with which each operation but the identity is dropped for an image.
        """
        states = [State(read(nodes)) for read, nodes in zip(self.inputs, (s0, s1), strict=True)]
        for edges in self.nodes:
            total: Tensor | None = None
            for state, operation, is_droppable in edges:  # in their order, in which random numbers are drawn
                x = operation(states[state])
                scale = kept_images(x, drop_path_prob) if drop_path_prob and is_droppable else None
                if total is None:
                    total = x if scale is None else x * scale
                else:
                    total = total + x if scale is None else torch.addcmul(total, x, scale)
            states.append(State(cast(Tensor, total)))
        return states[2:]


class Reader:
    """The ReLU - 1x1 convolution - norm through which a cell takes an input."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        self.conv, self.norm = conv, norm

    def __call__(self, nodes: Sequence[State]) -> Tensor:
        """Returns what the cell reads, BCHW."""
        normed: Tensor = self.norm(_product(self.conv, [node.active for node in nodes]))
        return normed


class Reduction:
    """A ``FactorizedReduce``."""

    def __init__(self, module: FactorizedReduce) -> None:
        self.module = module

    def __call__(self, nodes: Sequence[State]) -> Tensor:
        """Returns nodes of half the size, BCHW."""
        halves = zip(*(node.even_and_odd for node in nodes), strict=True)
        products = [
            _product(conv, pixels) for conv, pixels in zip((self.module.even, self.module.odd), halves, strict=True)
        ]
        normed: Tensor = self.module.norm(torch.cat(products, dim=1))
        return normed

    def of_state(self, state: State) -> Tensor:
        """Returns a state of half the size, BCHW."""
        return self([state])


class Convolutions:
    """Rounds of ReLU, depthwise convolution, pointwise convolution and norm."""

    def __init__(self, modules: nn.Sequential) -> None:
        self.rounds = [[modules[at + place] for place in (1, 2, 3)] for at in range(0, len(modules), 4)]

    def __call__(self, state: State) -> Tensor:
        """Returns the output, BCHW."""
        x: Tensor | None = None
        for narrow, wide, norm in self.rounds:
            conv = cast(nn.Conv2d, narrow)
            stride, dilation = conv.stride[0], conv.dilation[0]
            if x is not None:
                x = F.relu(x, inplace=True)  # a norm's output, which its backward pass does not need
            elif stride == dilation == 2:
                # Of every second pixel, a convolution of stride and dilation 2 is one without either.
                x, stride, dilation = state.even_and_odd[0], 1, 1
            else:
                x = state.active
            x = norm(wide(depthwise(x, conv.weight, stride=stride, dilation=dilation)))
        return cast(Tensor, x)


class Pools:
    """Pools of one kind that read one state, and so give the same; each keeps running statistics in its own norm.

    Args:
        name: of the operation.
        modules: pool and norm of each edge.
    """

    def __init__(self, name: str, modules: Sequence[nn.Sequential]) -> None:
        self.name, self.pool = name, modules[0][0]
        self.norms = [cast(nn.BatchNorm2d, module[1]) for module in modules]

    def __call__(self, state: State) -> Tensor:
        """Returns the normed pool, BCHW."""
        if self.name not in state.pooled:
            state.pooled[self.name] = self._normed(self.pool(state.x))
        return state.pooled[self.name]

    def _normed(self, x_bchw: Tensor) -> Tensor:
        norm = self.norms[0]
        # With a momentum of 1 these become the statistics of the batch.
        mean, variance = (torch.zeros_like(cast(Tensor, each)) for each in (norm.running_mean, norm.running_var))
        y = F.batch_norm(x_bchw, mean, variance, None, None, training=True, momentum=1.0, eps=norm.eps)
        with torch.no_grad():
            for each in self.norms:
                for running, of_batch in ((each.running_mean, mean), (each.running_var, variance)):
                    cast(Tensor, running).lerp_(of_batch, cast(float, each.momentum))
                cast(Tensor, each.num_batches_tracked).add_(1)
        return y


def _reader(module: nn.Module) -> Callable[[Sequence[State]], Tensor]:
    """Returns the preprocessing of an input; see ``operations.preprocess``."""
    if isinstance(module, FactorizedReduce):
        return Reduction(module)
    _, conv, norm = cast(Iterable[Any], module)
    return Reader(conv, norm)


def _operation(name: str, module: nn.Module) -> Operation:
    if name in CONVOLUTIONS:
        return Convolutions(cast(nn.Sequential, module))
    return Reduction(module).of_state if isinstance(module, FactorizedReduce) else _identity


def _identity(state: State) -> Tensor:
    return state.x


def _product(conv: nn.Conv2d, parts: Sequence[Tensor]) -> Tensor:
    """Returns the 1x1 convolution of maps beside each other."""
    weights = torch.split(conv.weight, [part.shape[1] for part in parts], dim=1)
    total, *others = (F.conv2d(part, weight) for part, weight in zip(parts, weights, strict=True))
    return sum(others, total)


def _concatenated(nodes: Sequence[State]) -> Tensor:
    return torch.cat([node.x for node in nodes], dim=1)
