"""The weighted sum of the operations of a mixed cell, for all edges that leave a state, as one step of autograd.

A mixed cell spends its time on sum_k w_k norm(conv_k(x)), for every edge. All that comes before a norm is linear, so a
separable or a grouped convolution is a 3x3 convolution as well, and all of one geometry on all edges are one
convolution. w_k is the scale of the norm, whose gradient is that of w_k, and each normed output is added to the sum at
once, so only the outputs of the convolutions are kept for the backward pass. What has no norm comes in as a product of
a state with factors.

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
from torch.autograd.function import once_differentiable

from medarts.network.convolution import has_wrong_gradient
from medarts.spaces.kernels import (
    Kernels,
    NormState,
    norm,
    norm_backward,
    split_channels,
    to_bchw,
    to_bhwc,
)


class Kind(NamedTuple):
    """One kind of operation on the edges that have it.

    Attributes:
        name: of the operation.
        edges: which edges have it, ascending.
        kernels: the weights of its convolutions.
    """

    name: str
    edges: tuple[int, ...]
    kernels: Kernels


@dataclass(frozen=True, slots=True)
class Chain:
    """All convolutions of one geometry that read one source, as one, with a weighted norm behind.

    Attributes:
        kinds: what it is made of.
        norm: the norm of one part of the output, which is that of one kind on one edge.
        stride: of both axes.
        dilation: of both axes; the size is kept, halved or doubled exactly.
        transposed: doubles the size; needs stride 2.
        groups: 1, or the number of edges where each reads its own part of the source.
    """

    kinds: tuple[Kind, ...]
    norm: nn.GroupNorm
    stride: int = 1
    dilation: int = 1
    transposed: bool = False
    groups: int = 1

    @property
    def parts(self) -> int:
        """The number of parts of the output."""
        return sum(len(kind.edges) for kind in self.kinds)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Those of all kinds."""
        return tuple(parameter for kind in self.kinds for parameter in kind.kernels.parameters)

    @property
    def axis(self) -> int:
        """The axis of a weight along which parts are joined: that of the outputs."""
        return 1 if self.transposed and self.groups == 1 else 0

    @property
    def arguments(self) -> tuple[list[int], list[int], list[int], bool, list[int], int]:
        """What ``aten::convolution`` takes behind input, weight and bias."""
        padding, extra = [self.dilation] * 2, [int(self.transposed)] * 2
        return [self.stride] * 2, padding, [self.dilation] * 2, self.transposed, extra, self.groups


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
        terms: what is added: products, and scale x norm(convolution(source)) of the chains.
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
        tensors.extend(term.chain.parameters)
    chains = tuple((places[id(term.source)], term.chain) for term in normed)
    plan = _Plan(len(products), len(sources), chains, edges)
    # PyTorch gives ``apply`` no types.
    out: Tensor = _WeightedSum.apply(base, plan, *tensors)  # type: ignore[no-untyped-call]
    return out


class _Plan(NamedTuple):
    """What a sum is made of: numbers of products and sources, and every chain with the place of its source."""

    products: int
    sources: int
    chains: tuple[tuple[int, Chain], ...]
    edges: int


class _WeightedSum(torch.autograd.Function):
    """Tensors: (state, factors) of every product, the sources, then for every chain its scales and parameters."""

    @staticmethod
    def forward(ctx: Any, base: Tensor | None, plan: _Plan, *tensors: Tensor) -> Tensor:
        # The sources say in which precision all is done; autocast would change it for some steps and not for others.
        with torch.autocast(tensors[0].device.type, enabled=False):
            return _WeightedSum._forward(ctx, base, plan, tensors)

    @staticmethod
    def _forward(ctx: Any, base: Tensor | None, plan: _Plan, tensors: tuple[Tensor, ...]) -> Tensor:
        given, saved = iter(tensors), list[Tensor]()
        total = base
        for _ in range(plan.products):
            state, factors = next(given), next(given)
            total = _add_product(total, state, factors, plan.edges, overwrite=total is not base)
            saved += [state, factors]
        sources = [next(given).contiguous(memory_format=torch.channels_last) for _ in range(plan.sources)]
        for place, chain in plan.chains:
            x, scales = sources[place], next(given)
            parameters = [[next(given) for _ in kind.kernels.parameters] for kind in chain.kinds]
            weight = _joined_weight(chain, parameters).to(x.dtype)
            z = torch.ops.aten.convolution(x, weight, None, *chain.arguments)
            # The norm's backward pass gives wrong numbers, not an error, where layouts differ.
            z = z.contiguous(memory_format=torch.channels_last)
            scale = scales.repeat_interleave(z.shape[1] // chain.parts)
            y, mean, rstd = norm(z, scale, chain.norm.num_groups * chain.parts, chain.norm.eps)
            saved += [x, weight, *NormState(z, mean, rstd, scale)]
            saved += [parameter for of_kind in parameters for parameter in of_kind]
            total = _add(total, split_channels(to_bhwc(y), chain.parts), chain, plan.edges, overwrite=total is not base)
        assert total is not None
        ctx.save_for_backward(*saved)
        ctx.plan = plan
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_bhwmc: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        saved, needed = iter(ctx.saved_tensors), iter(ctx.needs_input_grad[2:])
        of_total = gradient_bhwmc.contiguous()
        gradients: list[Tensor | None] = []
        for _ in range(plan.products):
            gradients += _product_backward(of_total, next(saved), next(saved), (next(needed), next(needed)))
        source_needed = [next(needed) for _ in range(plan.sources)]
        of_sources: list[Tensor | None] = [None] * plan.sources
        of_chains: list[Tensor | None] = []
        for place, chain in plan.chains:
            of_source, of_chain = _chain_backward(of_total, chain, saved, needed, source_needed=source_needed[place])
            of_chains += of_chain
            total = of_sources[place]
            of_sources[place] = of_source if total is None or of_source is None else total.add_(of_source)
        return (gradient_bhwmc if ctx.needs_input_grad[0] else None, None, *gradients, *of_sources, *of_chains)


def _joined_weight(chain: Chain, parameters: Sequence[Sequence[Tensor]]) -> Tensor:
    """Returns the weight of the convolution of all kinds and edges, channels-last."""
    parts = [
        to_bhwc(weight)
        for kind, of_kind in zip(chain.kinds, parameters, strict=True)
        for weight in kind.kernels.dense(of_kind)
    ]
    return to_bchw(torch.cat(parts, 3 if chain.axis else 0))


def _chain_backward(
    of_total: Tensor, chain: Chain, saved: Iterator[Tensor], needed: Iterator[bool], *, source_needed: bool
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Returns the gradient of the source, and those of the scales and of all parameters."""
    x, weight = next(saved), next(saved)
    state = NormState(*(next(saved) for _ in range(4)))
    parameters = [[next(saved) for _ in kind.kernels.parameters] for kind in chain.kinds]
    part = to_bchw(_of_parts(of_total, chain).flatten(3)).to(state.x.dtype)
    gradient, of_scale = norm_backward(part, state, chain.norm.num_groups * chain.parts)
    next(needed)  # of the scales, whose gradient is there anyway
    flags = [next(needed) for of_kind in parameters for _ in of_kind]
    learn = any(flags)
    gradients: list[Tensor | None] = [of_scale.view(chain.parts, -1).sum(1)]
    if not (source_needed or learn):
        return None, gradients + [None] * len(flags)
    of_source, of_weight = _convolution_backward(gradient, x, weight, chain, [source_needed, learn, False])
    if not learn:
        return of_source, gradients + [None] * len(flags)
    of_parts = iter(of_weight.chunk(chain.parts, chain.axis))
    for kind, of_kind in zip(chain.kinds, parameters, strict=True):
        dense = [next(of_parts) for _ in kind.edges]
        gradients += [g.to(p.dtype) for p, g in zip(of_kind, kind.kernels.gradients(of_kind, dense), strict=True)]
    return of_source if source_needed else None, gradients


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, chain: Chain, wanted: list[bool]
) -> tuple[Tensor | None, Tensor]:
    """Returns the gradients of source and weight."""
    tensors = [gradient, x, weight]
    if has_wrong_gradient(x.dtype, x.device, chain.dilation):
        tensors = [tensor.float() for tensor in tensors]
    of_source, of_weight, _ = torch.ops.aten.convolution_backward(*tensors, None, *chain.arguments, wanted)
    return (of_source.to(x.dtype) if wanted[0] else None), of_weight


def _of_parts(of_total: Tensor, chain: Chain) -> Tensor:
    """Returns the gradient of every part of a chain's output."""
    number = of_total.shape[3]
    pieces = []
    for kind in chain.kinds:
        if len(kind.edges) == number:
            pieces.append(of_total)
        else:
            pieces.append(of_total.index_select(3, torch.tensor(kind.edges, device=of_total.device)))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 3)


def _add(total: Tensor | None, parts_bhwmc: Tensor, chain: Chain, edges: int, *, overwrite: bool) -> Tensor:
    """Adds the parts of a chain to the sum of all edges."""
    at = 0
    for kind in chain.kinds:
        of_kind = parts_bhwmc[:, :, :, at : at + len(kind.edges)]
        at += len(kind.edges)
        if len(kind.edges) == edges:
            total = of_kind.clone() if total is None else total.add_(of_kind) if overwrite else total + of_kind
        else:
            if total is None:
                b, h, w, _, c = parts_bhwmc.shape
                total = parts_bhwmc.new_zeros(b, h, w, edges, c)
            elif not overwrite:
                total = total.clone()
            for position, edge in enumerate(kind.edges):
                total[:, :, :, edge].add_(of_kind[:, :, :, position])
        overwrite = True
    assert total is not None
    return total


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
