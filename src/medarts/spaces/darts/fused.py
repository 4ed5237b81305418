"""Mixed cells of darts: the operations of several edges that leave one state, run as one.

Every edge out of a state reads the same state. So what has no parameters (pools with their norms, identity) is done
once for all edges, and the operations of one kind on M edges are one operation on M times the channels: depthwise
convolutions, norms and ReLUs do not mix channels at all, and pointwise convolutions become one of M groups. The weight
of an operation is the scale of its last norm.

The classes take the modules of ``operations`` as they are and compute the same numbers from their parameters. All is
channels-last, the channels of an edge beside each other.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medarts.spaces.cells import CellWeights, leaving
from medarts.spaces.darts.depthwise import convolved, of_input, of_weight
from medarts.spaces.darts.operations import SKIP
from medarts.spaces.kernels import split_channels, to_bchw, to_bhwc

if TYPE_CHECKING:
    from medarts.spaces.darts.operations import FactorizedReduce
    from medarts.spaces.darts.supernet import MixedCell

CONVOLUTIONS = ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
POOLS = ("max_pool_3x3", "avg_pool_3x3")
KNOWN = (SKIP, *POOLS, *CONVOLUTIONS)
"""All other operations, such as those that users register, run as they are."""

Source = Callable[[int, int], Tensor]
"""(M, step) -> M times the channels of every step-th pixel of the state's ReLU, BCHW."""


class Leaving:
    """The operations of all edges that leave one state, joined.

    It holds the modules, not their parameters, so that it sees every change of these.

    Args:
        operations: the modules of every edge, by name, with norms as supernets have them (``IN_SUPERNET``).
    """

    def __init__(self, operations: Sequence[nn.ModuleDict]) -> None:
        self.edges = len(operations)
        self.shared: dict[str, tuple[tuple[int, ...], nn.Module]] = {}
        self.joined: dict[str, tuple[tuple[int, ...], Joined]] = {}
        self.others: dict[str, tuple[tuple[int, ...], Sequence[nn.Module]]] = {}
        for name in dict.fromkeys(name for modules in operations for name in modules):
            having = tuple(edge for edge, modules in enumerate(operations) if name in modules)
            of_edges = [operations[edge][name] for edge in having]
            if name in CONVOLUTIONS:
                self.joined[name] = having, Convolutions(cast(Sequence[nn.Sequential], of_edges))
            elif name == SKIP and not isinstance(of_edges[0], nn.Identity):
                self.joined[name] = having, Reductions(cast("Sequence[FactorizedReduce]", of_edges))
            elif name in KNOWN:
                self.shared[name] = having, of_edges[0]
            else:
                self.others[name] = having, of_edges

    def __call__(self, state_bchw: Tensor, weights: Mapping[str, Tensor], total_mbhwc: Tensor) -> Tensor:
        """Returns the weighted sum of the operations on every edge, added to ``total_mbhwc``.

        Args:
            state_bchw: the state.
            weights: for every operation, its weight on each of the edges that have it.
            total_mbhwc: the sums so far of the M nodes to which the edges lead.
        """
        state = state_bchw.contiguous(memory_format=torch.channels_last)
        positive_bhwc = to_bhwc(torch.relu(state))

        @cache
        def source(parts: int, step: int) -> Tensor:
            return _repeated(positive_bhwc[:, ::step, ::step], parts)

        products = [(module(state), self._on_edges(weights[name], at)) for name, (at, module) in self.shared.items()]
        total = add_products(total_mbhwc, products)
        sums: dict[tuple[int, ...], Tensor] = {}
        for name, (at, joined) in self.joined.items():
            part = joined(source, weights[name])
            # Into a norm's output, which its backward pass does not need.
            sums[at] = sums[at].add_(part) if at in sums else part
        for at, part in sums.items():
            rows = split_channels(to_bhwc(part), len(at)).permute(3, 0, 1, 2, 4)
            total = total + rows if len(at) == self.edges else total.index_add(0, _index(at, rows), rows)
        # What is not fused runs edge by edge as in the reference: nothing is known of it but that it is a module.
        for name, (at, modules) in self.others.items():
            outputs = [weight * module(state_bchw) for weight, module in zip(weights[name], modules, strict=True)]
            rows = torch.stack([to_bhwc(output) for output in outputs])
            total = total.index_add(0, _index(at, rows), rows.to(total.dtype))
        return total

    def _on_edges(self, weights_m: Tensor, having: tuple[int, ...]) -> Tensor:
        """Returns the weights on all edges, zero where an edge lacks the operation."""
        if len(having) == self.edges:
            return weights_m
        return weights_m.new_zeros(self.edges).index_add(0, _index(having, weights_m), weights_m)


def add_products(total_mbhwc: Tensor, products: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns total + sum of the products of images, BCHW, with a weight for each of M edges."""
    pairs = list(products)
    if not pairs:
        return total_mbhwc
    images = torch.stack([to_bhwc(image).flatten() for image, _ in pairs])
    weights = torch.stack([weight for _, weight in pairs], dim=1).to(images.dtype)
    return torch.addmm(total_mbhwc.flatten(1), weights, images).view_as(total_mbhwc)


class Joined(Protocol):
    """The operations of one kind on M edges."""

    def __call__(self, source: Source, weights_m: Tensor) -> Tensor:
        """Returns what each gives times its weight, BCHW with M times the channels; the tensor is the caller's."""


class Convolutions:
    """Operations that are rounds of ReLU, depthwise convolution, pointwise convolution and norm."""

    def __init__(self, modules: Sequence[nn.Sequential]) -> None:
        self.parts = len(modules)
        self.rounds = [
            ([cast(nn.Conv2d, m[at + 1]) for m in modules], [cast(nn.Conv2d, m[at + 2]) for m in modules])
            for at in range(0, len(modules[0]), 4)
        ]
        self.eps = cast(nn.BatchNorm2d, modules[0][-1]).eps

    def __call__(self, source: Source, weights_m: Tensor) -> Tensor:
        """Returns the weighted outputs."""
        first = self.rounds[0][0][0]
        stride, dilation = first.stride[0], first.dilation[0]
        # Of every second pixel, a convolution of stride and dilation 2 is one without either.
        step = 2 if stride == dilation == 2 else 1
        stride, dilation = stride // step, dilation // step
        x = self._linear(0, source(self.parts, step), stride=stride, dilation=dilation)
        for number in range(1, len(self.rounds)):
            x = self._linear(number, F.relu(_norm(x, self.eps), inplace=True))
        return _norm(x, self.eps, weights_m)

    def _linear(self, number: int, x: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
        depthwise, pointwise = (_weights(convolutions, x) for convolutions in self.rounds[number])
        return separable(x, depthwise, pointwise, groups=self.parts, stride=stride, dilation=dilation)


class Reductions:
    """Operations that are a ``FactorizedReduce``."""

    def __init__(self, modules: "Sequence[FactorizedReduce]") -> None:
        self.parts = len(modules)
        self.even = [module.even for module in modules]
        self.odd = [module.odd for module in modules]
        self.eps = modules[0].norm.eps

    def __call__(self, source: Source, weights_m: Tensor) -> Tensor:
        """Returns the weighted outputs."""
        whole, even = source(1, 1), source(1, 2)
        odd = whole[:, :, 1::2, 1::2]
        odd = F.pad(odd, (0, whole.shape[3] % 2, 0, whole.shape[2] % 2)).contiguous(memory_format=torch.channels_last)
        halves = (F.conv2d(even, _weights(self.even, even)), F.conv2d(odd, _weights(self.odd, odd)))
        joined = torch.cat([split_channels(to_bhwc(half), self.parts) for half in halves], dim=4)
        return _norm(to_bchw(joined.flatten(3)), self.eps, weights_m)


def _repeated(x_bhwc: Tensor, parts: int) -> Tensor:
    """Returns the channels repeated that many times, side by side, BCHW, channels-last."""
    b, h, w, c = x_bhwc.shape
    return to_bchw(x_bhwc.unsqueeze(3).expand(b, h, w, parts, c).reshape(b, h, w, parts * c).contiguous())


def _weights(convolutions: Iterable[nn.Conv2d], x: Tensor) -> Tensor:
    """Returns the weights of the edges behind each other, in the precision of x.

    They are asked for at every use: a module may have been given another parameter since.
    """
    return torch.cat([convolution.weight for convolution in convolutions]).to(x.dtype)


def _norm(x_bchw: Tensor, eps: float, weights_m: Tensor | None = None) -> Tensor:
    """Returns the norm with the statistics of the batch, scaled by the weights of M parts of the channels."""
    scale = None
    if weights_m is not None:
        # A copy: PyTorch 2.13 takes a scale that ``expand`` made for a dense one, and its gradients are then wrong.
        scale = weights_m.repeat_interleave(x_bchw.shape[1] // len(weights_m))
    return F.batch_norm(x_bchw, None, None, scale, None, True, 0.0, eps)


def _index(edges: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.tensor(edges, device=like.device)


def mix_fused(cell: "MixedCell", first: Tensor, second: Tensor, weights: CellWeights) -> Tensor:
    """Runs a mixed cell state by state, all edges that leave a state together."""
    states = [first, second]
    operated = _sums(cell, first, cell.operated_channels)
    bypass = _sums(cell, first, first.shape[1] - cell.operated_channels)
    all_leaving = cell.fused if weights.candidates == cell.candidates else cell.joined(weights.candidates)
    for state, (edges, of_state) in enumerate(zip(leaving(cell.edges), weights.by_state, strict=True)):
        x = states[state]
        read = x[:, : cell.operated_channels]
        operated = all_leaving[state](read, of_state, operated)
        if weights.skip:
            operated = add_products(operated, [(cell.resized(state, read), x.new_full((len(edges),), weights.skip))])
        if cell.partial_channels > 1:
            bypass = add_products(bypass, [(cell.bypass(state, x), weights.bypass[list(edges)])])
        if state > 0:
            # What the edges of a state lead to begins with the node that has now been summed.
            node, operated = torch.split(operated, [1, len(operated) - 1])
            other, bypass = torch.split(bypass, [1, len(bypass) - 1])
            joined = node if cell.partial_channels == 1 else torch.cat([node, other], dim=4)
            states.append(_shuffled(joined.squeeze(0), cell.partial_channels))
    return torch.cat(states[2:], dim=1)


def _sums(cell: "MixedCell", first_bchw: Tensor, channels: int) -> Tensor:
    """Returns the sums of a cell's nodes before anything is added, MBHWC."""
    b, _, h, w = first_bchw.shape
    stride = cell.stride_of(0)
    return first_bchw.new_zeros(cell.intermediate_nodes, b, -(-h // stride), -(-w // stride), channels)


def _shuffled(x_bhwc: Tensor, groups: int) -> Tensor:
    """Interleaves the channels of the groups, as ``ChannelShuffle`` does, BCHW and channels-last."""
    return to_bchw(split_channels(x_bhwc, groups).transpose(3, 4).flatten(3)) if groups > 1 else to_bchw(x_bhwc)


# Separable convolutions of several edges as one step of autograd, with the gradients of ``depthwise``.
#
# What lies between the depthwise and the pointwise convolution is computed once more in the backward pass rather than
# kept: it is as large as the output, and the depthwise convolution takes little time.


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
            between = convolved(x, depthwise, stride, dilation)
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
            between = _matrices(convolved(x, depthwise, stride, dilation), groups)
            of_pointwise = torch.bmm(matrices.mT, between).view_as(pointwise)
        gradient = _images(torch.bmm(matrices, _of_groups(pointwise, groups)), gradient)
        if ctx.needs_input_grad[0]:
            of_x = of_input(ctx.size, gradient, depthwise, stride=stride, dilation=dilation)
        if ctx.needs_input_grad[1]:
            of_depthwise = of_weight(x, gradient, size=depthwise.shape[-1], stride=stride, dilation=dilation)
        return of_x, of_depthwise, of_pointwise, None


def _matrices(x_bchw: Tensor, groups: int) -> Tensor:
    """Returns a view of the pixels of each group of channels, (groups, pixels, channels of one)."""
    return split_channels(to_bhwc(x_bchw), groups).flatten(0, 2).transpose(0, 1)


def _images(matrices: Tensor, like_bchw: Tensor) -> Tensor:
    """Returns the groups as channels of images of the shape of others, BCHW, channels-last."""
    return to_bchw(matrices.transpose(0, 1).reshape(to_bhwc(like_bchw).shape))


def _of_groups(pointwise: Tensor, groups: int) -> Tensor:
    return pointwise.view(groups, -1, pointwise.shape[1])
