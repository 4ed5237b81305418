"""Convolutions, their norms, and the weighted sum of these over edges and kinds, as one step of autograd.

What a mixed cell spends its time on is, for every edge, sum_k w_k norm(conv_k(x)). Here the convolutions of one kind
on all edges are one, w_k is the scale of its norm, and each normed output is added to the sum at once, so only the
outputs of the convolutions are kept for the backward pass. The gradient of w_k is that of the scale.

Two reasons for an own autograd function beside fewer copies: PyTorch 2.13 crashes in the backward pass of a
channels-last group norm whose scale needs a gradient and whose input does not, which is the case of the first cells
when the alphas learn; and the dispatch of some dozens of small steps for every state takes longer than their work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution of all edges of a kind; the outputs of an edge lie beside each other.

    Attributes:
        weights: the weight of every edge.
        stride: of both axes.
        dilation: of both axes; the padding is such that the size is kept, halved or doubled exactly.
        transposed: doubles the size; needs stride 2.
        groups: of the joined convolution.
        repeat: how many times the input is put beside itself first, for edges that each need their own groups.
    """

    weights: tuple[Tensor, ...]
    stride: int = 1
    dilation: int = 1
    transposed: bool = False
    groups: int = 1
    repeat: int = 1

    @property
    def axis(self) -> int:
        """The axis of a weight along which edges are joined: that of the outputs."""
        return 1 if self.transposed and self.groups == 1 else 0

    def arguments(self) -> tuple[list[int], list[int], list[int], bool, list[int], int]:
        """Returns what ``aten::convolution`` takes behind input, weight and bias."""
        size = self.weights[0].shape[-1]
        padding = self.dilation * (size // 2)
        extra = 1 if self.transposed else 0
        return [self.stride] * 2, [padding] * 2, [self.dilation] * 2, self.transposed, [extra] * 2, self.groups


@dataclass(frozen=True, slots=True)
class Chain:
    """Convolutions one behind the other, with a weighted norm at the end.

    Attributes:
        source: BCHW.
        convolutions: the first reads the source.
        edges: the edges that have it, ascending; all of them have the same number of output channels.
        scales: the weight of each of these edges.
        shuffle: groups whose channels are interleaved before the norm; 1 leaves them.
    """

    source: Tensor
    convolutions: tuple[Convolution, ...]
    edges: tuple[int, ...]
    scales: Tensor
    shuffle: int = 1


def weighted_norms(
    chains: Sequence[Chain], base: Tensor | None, *, edges: int, groups: int, eps: float
) -> Tensor | None:
    """Returns base + sum over the chains of scale x norm(convolutions(source)), for every edge.

    Args:
        chains: what is summed.
        base: BHWMC; None starts with zeros.
        edges: M, the edges that leave the state.
        groups: groups of the norm of one edge.
        eps: of the norm.

    Returns:
        The sum, BHWMC; ``base`` where there are no chains.
    """
    if not chains:
        return base
    tensors: list[Tensor] = []
    for chain in chains:
        tensors += [chain.source, chain.scales, *(w for conv in chain.convolutions for w in conv.weights)]
    plan = _Plan(tuple(_steps(chain) for chain in chains), edges, groups, eps)
    out: Tensor = _WeightedNorms.apply(base, plan, *tensors)  # type: ignore[no-untyped-call]
    return out


class _Step(NamedTuple):
    """A convolution without its tensors."""

    weights: int
    axis: int
    repeat: int
    arguments: tuple[list[int], list[int], list[int], bool, list[int], int]


class _Steps(NamedTuple):
    """A chain without its tensors."""

    edges: tuple[int, ...]
    shuffle: int
    convolutions: tuple[_Step, ...]


class Normed(NamedTuple):
    """What the backward pass of a norm needs: its input BCHW, mean and reciprocal deviation BG, and scale C."""

    x: Tensor
    mean: Tensor
    rstd: Tensor
    scale: Tensor


class _Plan(NamedTuple):
    """A sum without its tensors."""

    chains: tuple[_Steps, ...]
    edges: int
    groups: int
    eps: float


def _steps(chain: Chain) -> _Steps:
    convolutions = (_Step(len(c.weights), c.axis, c.repeat, c.arguments()) for c in chain.convolutions)
    return _Steps(chain.edges, chain.shuffle, tuple(convolutions))


class _WeightedNorms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor | None, plan: _Plan, *tensors: Tensor) -> Tensor:
        given, saved = iter(tensors), list[Tensor]()
        total = base
        for edges, shuffle, convolutions in plan.chains:
            x, scales = next(given).contiguous(memory_format=torch.channels_last), next(given)
            for number, axis, repeat, arguments in convolutions:
                weight = torch.cat([next(given) for _ in range(number)], axis).to(x.dtype)
                saved += [x, weight]
                x = torch.ops.aten.convolution(_repeated(x, repeat), weight, None, *arguments)
                # The norm's backward pass gives wrong numbers, not an error, where layouts differ.
                x = x.contiguous(memory_format=torch.channels_last)
            x = interleaved(x, len(edges), shuffle)
            scale = scales.repeat_interleave(x.shape[1] // len(edges))
            y, mean, rstd = _norm(x, scale, plan.groups * len(edges), plan.eps)
            saved += Normed(x, mean, rstd, scale)
            part = split_channels(to_bhwc(y), len(edges))
            total = _add(total, part, edges, number=plan.edges, overwrite=total is not base)
        assert total is not None
        ctx.save_for_backward(*saved)
        ctx.plan = plan
        return total

    @staticmethod
    def backward(ctx: Any, gradient_bhwmc: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        saved, needed = iter(ctx.saved_tensors), iter(ctx.needs_input_grad[2:])
        of_total = gradient_bhwmc.contiguous()
        gradients: list[Tensor | None] = []
        for edges, shuffle, convolutions in plan.chains:
            inputs = [(next(saved), next(saved)) for _ in convolutions]
            normed = Normed(*(next(saved) for _ in range(4)))
            part = of_total
            if len(edges) < plan.edges:
                part = of_total.index_select(3, torch.tensor(edges, device=of_total.device))
            g, of_scale = _norm_backward(to_bchw(part.flatten(3)), normed, plan.groups * len(edges))
            g = _uninterleaved(g, len(edges), shuffle)
            source, _ = next(needed), next(needed)
            weights = [[next(needed) for _ in range(step.weights)] for step in convolutions]
            of_weights: list[Tensor | None] = []
            of_source: Tensor | None = g
            for step, (x, weight), learn in reversed(list(zip(convolutions, inputs, weights, strict=True))):
                assert of_source is not None
                first = step is convolutions[0]
                of_source, parts = _convolution_backward(
                    of_source, x, weight, step, mask=(source or not first, any(learn))
                )
                of_weights = parts + of_weights
            gradients += [of_source, of_scale.view(len(edges), -1).sum(1), *of_weights]
        return (gradient_bhwmc if ctx.needs_input_grad[0] else None, None, *gradients)


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, step: _Step, *, mask: tuple[bool, bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Returns the gradients of the input and of the weight of every edge, where ``mask`` asks for them."""
    if not any(mask):
        return None, [None] * step.weights
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient, _repeated(x, step.repeat), weight, None, *step.arguments, [*mask, False]
    )
    if mask[0] and step.repeat > 1:
        of_x = to_bchw(split_channels(to_bhwc(of_x), step.repeat).sum(3))
    parts = list(of_weight.chunk(step.weights, step.axis)) if mask[1] else [None] * step.weights
    return of_x if mask[0] else None, parts


def _norm(x: Tensor, scale: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the scaled norm of x, BCHW, and mean and reciprocal deviation of every group, BG."""
    b, c, h, w = x.shape
    if x.device.type == "cpu":
        normed: tuple[Tensor, Tensor, Tensor] = torch.native_group_norm(x, scale, None, b, c, h * w, groups, eps)
        return normed
    return norm_formula(x, scale, groups, eps)


def _norm_backward(gradient: Tensor, normed: Normed, groups: int) -> tuple[Tensor, Tensor]:
    """Returns the gradients of x and of the scale."""
    x, mean, rstd, scale = normed
    b, c, h, w = x.shape
    if x.device.type == "cpu":
        of_x, of_scale, _ = torch.ops.aten.native_group_norm_backward(
            gradient, x, mean, rstd, scale, b, c, h * w, groups, [True, True, False]
        )
        return of_x, of_scale
    return norm_formula_backward(gradient, normed, groups)


def norm_formula(x: Tensor, scale: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_norm``, written out for devices whose group norm knows no channels-last."""
    grouped = _grouped(x, groups).to(scale.dtype)
    variance, mean = torch.var_mean(grouped, (1, 3), correction=0, keepdim=True)
    rstd = (variance + eps).rsqrt()
    normed = (grouped - mean) * (rstd * scale.view(groups, -1))
    return to_bchw(normed.to(x.dtype).view(to_bhwc(x).shape)), mean[:, 0, :, 0], rstd[:, 0, :, 0]


def norm_formula_backward(gradient: Tensor, normed: Normed, groups: int) -> tuple[Tensor, Tensor]:
    """As ``_norm_backward``, for ``norm_formula``."""
    x, mean, rstd, scale = normed
    of_y = _grouped(gradient, groups).to(scale.dtype)
    hat = (_grouped(x, groups) - mean[:, None, :, None]) * rstd[:, None, :, None]
    of_hat = of_y * scale.view(groups, -1)
    of_x = of_hat - of_hat.mean((1, 3), keepdim=True) - hat * (of_hat * hat).mean((1, 3), keepdim=True)
    of_x = (of_x * rstd[:, None, :, None]).to(x.dtype).view(to_bhwc(x).shape)
    return to_bchw(of_x), (of_y * hat).sum((0, 1)).flatten()


def _add(total: Tensor | None, part_bhwmc: Tensor, edges: tuple[int, ...], *, number: int, overwrite: bool) -> Tensor:
    """Adds the part of some edges to the sum of all."""
    if len(edges) == number:
        if total is None:
            return part_bhwmc
        return total.add_(part_bhwmc) if overwrite else total + part_bhwmc
    if total is None:
        b, h, w, _, c = part_bhwmc.shape
        total = part_bhwmc.new_zeros(b, h, w, number, c)
    elif not overwrite:
        total = total.clone()
    for position, edge in enumerate(edges):
        total[:, :, :, edge].add_(part_bhwmc[:, :, :, position])
    return total


def _repeated(x: Tensor, times: int) -> Tensor:
    """Returns the channels of x so many times beside themselves."""
    if times == 1:
        return x
    return to_bchw(to_bhwc(x).unsqueeze(3).expand(-1, -1, -1, times, -1).flatten(3))


def interleaved(x: Tensor, edges: int, groups: int) -> Tensor:
    """Interleaves the channels of the groups of every edge."""
    if groups == 1:
        return x
    b, h, w, c = to_bhwc(x).shape
    return to_bchw(to_bhwc(x).reshape(b, h, w, edges, groups, c // edges // groups).transpose(4, 5).flatten(3))


def _uninterleaved(x: Tensor, edges: int, groups: int) -> Tensor:
    """Undoes ``interleaved``."""
    if groups == 1:
        return x
    b, h, w, c = to_bhwc(x).shape
    return to_bchw(to_bhwc(x).reshape(b, h, w, edges, c // edges // groups, groups).transpose(4, 5).flatten(3))


def _grouped(x: Tensor, groups: int) -> Tensor:
    """Returns B(HW)GK, the channels of every group beside each other."""
    b, c, h, w = x.shape
    return to_bhwc(x).reshape(b, h * w, groups, c // groups)


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
