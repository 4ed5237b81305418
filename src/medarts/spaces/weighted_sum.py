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
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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
            y, mean, rstd = _norm(z, scale, chain.norm.num_groups * chain.parts, chain.norm.eps)
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
    gradient, of_scale = _norm_backward(part, state, chain.norm.num_groups * chain.parts)
    next(needed)  # of the scales, whose gradient is there anyway
    flags = [next(needed) for of_kind in parameters for _ in of_kind]
    learn = any(flags)
    gradients: list[Tensor | None] = [of_scale.view(chain.parts, -1).sum(1)]
    if not (source_needed or learn):
        return None, gradients + [None] * len(flags)
    of_source, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, *chain.arguments, [source_needed, learn, False]
    )
    if not learn:
        return of_source, gradients + [None] * len(flags)
    of_parts = iter(of_weight.chunk(chain.parts, chain.axis))
    for kind, of_kind in zip(chain.kinds, parameters, strict=True):
        dense = [next(of_parts) for _ in kind.edges]
        gradients += [g.to(p.dtype) for p, g in zip(of_kind, kind.kernels.gradients(of_kind, dense), strict=True)]
    return of_source if source_needed else None, gradients


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
