"""The weighted sum of the operations of a mixed cell, for all edges that leave a state, as one step of autograd.

A mixed cell spends its time on sum_k w_k norm(conv_k(x)), for every edge. Here the convolutions of one kind on all
edges are one, w_k is the scale of its norm, and each normed output is added to the sum at once, so only the outputs
of the convolutions are kept for the backward pass. The gradient of w_k is that of the scale. What has no norm comes in
as a product of a state with factors.

Three reasons for an own autograd function beside fewer copies: the dispatch of some dozens of small steps for every
state takes longer than their work; gradients of one source are summed in place; and PyTorch 2.13 crashes in the
backward pass of a channels-last group norm whose scale needs a gradient and whose input does not, which is the case of
the first cells when the alphas learn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Convolution:
    """One convolution of all edges of a kind; the outputs of an edge lie beside each other.

    Args:
        weights: the weight of every edge.
        stride: of both axes.
        dilation: of both axes; the padding is such that the size is kept, halved or doubled exactly.
        transposed: doubles the size; needs stride 2.
        groups: of the joined convolution.
        repeat: how many times the input is put beside itself first, for edges that each need their own groups.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        *,
        stride: int = 1,
        dilation: int = 1,
        transposed: bool = False,
        groups: int = 1,
        repeat: int = 1,
    ) -> None:
        self.weights = tuple(weights)
        self.repeat = repeat
        self.groups = groups
        # The axis of a weight along which edges are joined: that of the outputs.
        self.axis = 1 if transposed and groups == 1 else 0
        padding, extra = dilation * (weights[0].shape[-1] // 2), int(transposed)
        # What aten::convolution takes behind input, weight and bias.
        self.arguments = ([stride] * 2, [padding] * 2, [dilation] * 2, transposed, [extra] * 2, groups)


@dataclass(frozen=True, slots=True)
class Chain:
    """Convolutions one behind the other, with a weighted norm at the end.

    Attributes:
        convolutions: the first reads the source.
        edges: the edges that have it, ascending; each has an equal part of the output's channels.
        norm: the norm of one part, without a scale of its own.
        shuffle: groups whose channels are interleaved before the norm; 1 leaves them.
    """

    convolutions: tuple[Convolution, ...]
    edges: tuple[int, ...]
    norm: nn.GroupNorm
    shuffle: int = 1

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The weights of all convolutions."""
        return tuple(weight for convolution in self.convolutions for weight in convolution.weights)


class Product(NamedTuple):
    """A state BHWC times a factor for each image, edge and channel, BMC (B and C may be 1)."""

    state: Tensor
    factors: Tensor


class Normed(NamedTuple):
    """A chain at work: its source BCHW, and the scale of every part of its output."""

    chain: Chain
    source: Tensor
    scales: Tensor


def weighted_sum(base: Tensor | None, terms: Sequence[Product | Normed], *, edges: int) -> Tensor | None:
    """Returns base + sum of the terms, for every edge.

    Args:
        base: BHWMC; None starts with zeros.
        terms: what is added: products, and scale x norm(convolutions(source)) of the chains.
        edges: M, the edges that leave the state.

    Returns:
        The sum, BHWMC; ``base`` where there is nothing to add.
    """
    if not terms:
        return base
    products = [term for term in terms if isinstance(term, Product)]
    normed = [term for term in terms if isinstance(term, Normed)]
    sources = {id(term.source): term.source for term in normed}
    places = {key: place for place, key in enumerate(sources)}
    tensors = [tensor for product in products for tensor in product] + list(sources.values())
    for term in normed:
        tensors.append(term.scales)
        tensors.extend(term.chain.weights)
    chains = tuple((places[id(term.source)], term.chain) for term in normed)
    plan = _Plan(len(products), len(sources), chains, edges)
    out: Tensor = _WeightedSum.apply(base, plan, *tensors)  # type: ignore[no-untyped-call]
    return out


class _Plan(NamedTuple):
    """What a sum is made of: numbers of products and sources, and every chain with the place of its source."""

    products: int
    sources: int
    chains: tuple[tuple[int, Chain], ...]
    edges: int


class NormState(NamedTuple):
    """What the backward pass of a norm needs: its input BCHW, mean and reciprocal deviation BG, and scale C."""

    x: Tensor
    mean: Tensor
    rstd: Tensor
    scale: Tensor


class _WeightedSum(torch.autograd.Function):
    """Tensors: (state, factors) of every product, the sources, then for every chain its scales and weights."""

    @staticmethod
    def forward(ctx: Any, base: Tensor | None, plan: _Plan, *tensors: Tensor) -> Tensor:
        given, saved = iter(tensors), list[Tensor]()
        total = base
        for _ in range(plan.products):
            state, factors = next(given), next(given)
            total = _add_product(total, state, factors, plan.edges, overwrite=total is not base)
            saved += [state, factors]
        sources = [next(given).contiguous(memory_format=torch.channels_last) for _ in range(plan.sources)]
        for place, chain in plan.chains:
            x, scales = sources[place], next(given)
            for convolution in chain.convolutions:
                weights = [next(given) for _ in convolution.weights]
                weight = torch.cat(weights, convolution.axis).to(x.dtype)
                saved += [x, weight]
                x = torch.ops.aten.convolution(_repeated(x, convolution.repeat), weight, None, *convolution.arguments)
                # The norm's backward pass gives wrong numbers, not an error, where layouts differ.
                x = x.contiguous(memory_format=torch.channels_last)
            x = interleaved(x, len(chain.edges), chain.shuffle)
            scale = scales.repeat_interleave(x.shape[1] // len(chain.edges))
            y, mean, rstd = _norm(x, scale, chain.norm.num_groups * len(chain.edges), chain.norm.eps)
            saved += NormState(x, mean, rstd, scale)
            part = split_channels(to_bhwc(y), len(chain.edges))
            total = _add(total, part, chain.edges, number=plan.edges, overwrite=total is not base)
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
        for _ in range(plan.products):
            gradients += _product_backward(of_total, next(saved), next(saved), (next(needed), next(needed)))
        of_sources = _SumOfGradients([next(needed) for _ in range(plan.sources)])
        of_chains: list[Tensor | None] = []
        for place, chain in plan.chains:
            source, of_chain = _chain_backward(
                of_total, chain, saved, needed, source_needed=of_sources.needed[place], edges=plan.edges
            )
            of_sources.add(place, source)
            of_chains += of_chain
        return (gradient_bhwmc if ctx.needs_input_grad[0] else None, None, *gradients, *of_sources.sums, *of_chains)


class _SumOfGradients:
    """The gradients of the sources, summed in place."""

    def __init__(self, needed: Sequence[bool]) -> None:
        self.needed = needed
        self.sums: list[Tensor | None] = [None] * len(needed)

    def add(self, number: int, gradient: Tensor | None) -> None:
        if gradient is not None:
            total = self.sums[number]
            self.sums[number] = gradient if total is None else total.add_(gradient)


def _chain_backward(
    of_total: Tensor,
    chain: Chain,
    saved: Iterator[Tensor],
    needed: Iterator[bool],
    *,
    source_needed: bool,
    edges: int,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Returns the gradient of the source, and those of the scales and of all weights."""
    inputs = [(next(saved), next(saved)) for _ in chain.convolutions]
    state = NormState(*(next(saved) for _ in range(4)))
    part = of_total
    if len(chain.edges) < edges:
        part = of_total.index_select(3, torch.tensor(chain.edges, device=of_total.device))
    gradient, of_scale = _norm_backward(to_bchw(part.flatten(3)), state, chain.norm.num_groups * len(chain.edges))
    g: Tensor | None = _uninterleaved(gradient, len(chain.edges), chain.shuffle)
    next(needed)  # of the scales, whose gradient is there anyway
    learn = [[next(needed) for _ in convolution.weights] for convolution in chain.convolutions]
    of_weights: list[Tensor | None] = []
    for number in reversed(range(len(inputs))):
        assert g is not None
        mask = number > 0 or source_needed, any(learn[number])
        g, parts = _convolution_backward(g, *inputs[number], chain.convolutions[number], mask=mask)
        of_weights = parts + of_weights
    return g, [of_scale.view(len(chain.edges), -1).sum(1), *of_weights]


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, convolution: Convolution, *, mask: tuple[bool, bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Returns the gradients of the input and of the weight of every edge, where ``mask`` asks for them."""
    number, repeat = len(convolution.weights), convolution.repeat
    if not any(mask):
        return None, [None] * number
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient, _repeated(x, repeat), weight, None, *convolution.arguments, [*mask, False]
    )
    if mask[0] and repeat > 1:
        of_x = to_bchw(_sum_of_parts(split_channels(to_bhwc(of_x), repeat)))
    parts = list(of_weight.chunk(number, convolution.axis)) if mask[1] else [None] * number
    return of_x if mask[0] else None, parts


def _add_product(total: Tensor | None, state: Tensor, factors: Tensor, edges: int, *, overwrite: bool) -> Tensor:
    """Adds a product to the sum of all edges."""
    x, f = state.unsqueeze(3), factors[:, None, None].to(state.dtype)
    if total is None:
        return x * f.expand(-1, -1, -1, edges, -1)
    return total.addcmul_(x, f) if overwrite else torch.addcmul(total, x, f)


def _product_backward(
    of_total: Tensor, state: Tensor, factors: Tensor, needed: tuple[bool, bool]
) -> list[Tensor | None]:
    """Returns the gradients of state and factors, where they are needed."""
    of_state = None
    if needed[0]:
        f = factors[:, None, None].to(state.dtype).expand(-1, -1, -1, of_total.shape[3], -1)
        of_state = of_total[:, :, :, 0] * f[:, :, :, 0]
        for edge in range(1, of_total.shape[3]):
            of_state.addcmul_(of_total[:, :, :, edge], f[:, :, :, edge])
    of_factors = None
    if needed[1]:
        of_factors = (of_total * state.unsqueeze(3)).sum((1, 2), dtype=factors.dtype).sum_to_size(factors.shape)
    return [of_state, of_factors]


def _sum_of_parts(parts_bhwmc: Tensor) -> Tensor:
    """Returns the sum over M; adding part by part is faster than PyTorch's sum over so short an axis."""
    total = parts_bhwmc[:, :, :, 0] + parts_bhwmc[:, :, :, 1]
    for part in range(2, parts_bhwmc.shape[3]):
        total += parts_bhwmc[:, :, :, part]
    return total


def _norm(x: Tensor, scale: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the scaled norm of x, BCHW, and mean and reciprocal deviation of every group, BG."""
    b, c, h, w = x.shape
    if x.device.type == "cpu":
        normed: tuple[Tensor, Tensor, Tensor] = torch.native_group_norm(x, scale, None, b, c, h * w, groups, eps)
        return normed
    return norm_formula(x, scale, groups, eps)


def _norm_backward(gradient: Tensor, state: NormState, groups: int) -> tuple[Tensor, Tensor]:
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
    """As ``_norm``, written out for devices whose group norm knows no channels-last."""
    grouped = _grouped(x, groups).to(scale.dtype)
    variance, mean = torch.var_mean(grouped, (1, 3), correction=0, keepdim=True)
    rstd = (variance + eps).rsqrt()
    normed = (grouped - mean) * (rstd * scale.view(groups, -1))
    return to_bchw(normed.to(x.dtype).view(to_bhwc(x).shape)), mean[:, 0, :, 0], rstd[:, 0, :, 0]


def norm_formula_backward(gradient: Tensor, state: NormState, groups: int) -> tuple[Tensor, Tensor]:
    """As ``_norm_backward``, for ``norm_formula``."""
    x, mean, rstd, scale = state
    of_y = _grouped(gradient, groups).to(scale.dtype)
    hat = (_grouped(x, groups) - mean[:, None, :, None]) * rstd[:, None, :, None]
    of_hat = of_y * scale.view(groups, -1)
    of_x = of_hat - of_hat.mean((1, 3), keepdim=True) - hat * (of_hat * hat).mean((1, 3), keepdim=True)
    of_x = (of_x * rstd[:, None, :, None]).to(x.dtype).view(to_bhwc(x).shape)
    return to_bchw(of_x), (of_y * hat).sum((0, 1)).flatten()


def _add(total: Tensor | None, part_bhwmc: Tensor, edges: tuple[int, ...], *, number: int, overwrite: bool) -> Tensor:
    """Adds the parts of a chain to the sum of all edges."""
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
