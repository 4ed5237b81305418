"""Mixed cells of nas-wdan: the operations of several edges that leave one state, run as one.

Every edge out of a state reads the same ReLU of it. So the operations of one kind on M edges are one operation with M
times the outputs. Those with a norm become chains of a ``weighted_sum``; those without (identity, pools, squeeze and
excite) become products of the state with a factor for each image, edge and channel.

The functions take the modules of ``operations`` as they are and compute the same numbers from their parameters.
States are BHWC: sums, slices and products then run along whole lines of memory, and a convolution reads the same
memory as BCHW, channels-last.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medarts.network.layers import ChannelShuffle, group_norm
from medarts.spaces.cells import CellWeights, leaving
from medarts.spaces.kernels import Dense, Kernels, Separable, Shuffled, split_channels, to_bchw, to_bhwc
from medarts.spaces.weighted_sum import Chain, Kind, Normed, Product, weighted_sum

if TYPE_CHECKING:
    from medarts.spaces.nas_wdan.operations import SqueezeExcite
    from medarts.spaces.nas_wdan.supernet import MixedCell

Operations = Sequence[nn.Module]
"""The operation of one kind on every edge that has it."""


def preprocess_together(state_bchw: Tensor, inputs: Operations) -> list[Tensor]:
    """Puts a node's state through the ReLU, 1x1 convolution and norm of every cell that reads it.

    Args:
        state_bchw: the state.
        inputs: the preprocessing of every cell, see ``operations.preprocess``.

    Returns:
        What each cell reads, BCHW, channels-last.
    """
    state = torch.relu(state_bchw).contiguous(memory_format=torch.channels_last)
    wide: Tensor = F.conv2d(state, torch.cat([cast(nn.Conv2d, module.get_submodule("1")).weight for module in inputs]))
    norms = [cast(nn.GroupNorm, module.get_submodule("2")) for module in inputs]
    widths = [norm.num_channels for norm in norms]
    if len({norm.num_channels // norm.num_groups for norm in norms}) == 1:
        wide = F.group_norm(wide, sum(norm.num_groups for norm in norms), eps=norms[0].eps)
        return list(torch.split(wide, widths, dim=1))
    parts = torch.split(wide, widths, dim=1)
    return [norm(part.contiguous(memory_format=torch.channels_last)) for norm, part in zip(norms, parts, strict=True)]


class Leaving:
    """The operations of all edges that leave one state, joined.

    It holds the modules, not their parameters, so that it sees every change of these.

    Args:
        operations: the modules of every edge, by name.
        channels: channels that the operations see.
    """

    def __init__(self, operations: Sequence[nn.ModuleDict], channels: int) -> None:
        self.edges = len(operations)
        self.chains: list[Chain] = []
        self.gates: dict[str, Gates] = {}
        self.scaling: dict[str, tuple[int, ...]] = {}
        self.others: dict[str, tuple[tuple[int, ...], Operations]] = {}
        for name in dict.fromkeys(name for modules in operations for name in modules):
            having = tuple(edge for edge, modules in enumerate(operations) if name in modules)
            of_edges = [operations[edge][name] for edge in having]
            if name not in KNOWN:
                self.others[name] = having, of_edges
            elif name in CONVOLUTIONS:
                self._add(name, having, of_edges, channels)
            else:
                self.scaling[name] = having
            if name in GATED:
                self.gates[name] = Gates([cast("SqueezeExcite", module.get_submodule("1")) for module in of_edges])

    def _add(self, name: str, having: tuple[int, ...], modules: Operations, channels: int) -> None:
        """Adds a kind of convolution to the chain of its geometry, or as a chain of its own."""
        kernels, options = CONVOLUTIONS[name](modules)
        gated: Geometry = {"groups": len(modules)} if name in GATED else {}
        chain = Chain((Kind(name, having, kernels),), group_norm(channels, affine=False), **options, **gated)
        for number, other in enumerate(self.chains):
            if not gated and other.kinds[0].name not in GATED and other.arguments == chain.arguments:
                self.chains[number] = replace(other, kinds=other.kinds + chain.kinds)
                return
        self.chains.append(chain)

    def __call__(
        self,
        state_bhwc: Tensor,
        weights: Mapping[str, Tensor],
        total: Tensor | None,
        *,
        dropout_prob: float = 0.0,
    ) -> Tensor | None:
        """Returns the weighted sum of the operations on every edge, added to ``total``.

        Args:
            state_bhwc: the state, before the ReLU.
            weights: for every operation, its weight on each of the edges that have it.
            total: BHWMC, the sums so far of the nodes to which the edges lead; None where there are none yet.
            dropout_prob: of the dropout at the end of operations that have one.
        """
        x = _in_precision_of_autocast(torch.relu(state_bhwc))
        gates = {}
        if self.gates:
            mean = x.mean((1, 2), dtype=next(iter(weights.values())).dtype)
            gates = {name: gate(mean) for name, gate in self.gates.items()}
        products, dropping = self._products(x, weights, gates, dropout_prob=dropout_prob)
        source = to_bchw(x)  # one object, by which chains are seen to have the same source
        normed = []
        for chain in self.chains if not dropout_prob else self._kind_by_kind():
            names = [kind.name for kind in chain.kinds]
            scales = weights[names[0]] if len(names) == 1 else torch.cat([weights[name] for name in names])
            normed.append(Normed(chain, _gated(x, gates[names[0]]) if names[0] in gates else source, scales))
        if not dropout_prob:
            total = weighted_sum(total, [*products, *normed], edges=self.edges)
        else:
            total = weighted_sum(total, products, edges=self.edges)
            terms: list[Product | Normed] = [*dropping, *normed]
            for term in terms:
                part = F.dropout(cast(Tensor, weighted_sum(None, [term], edges=self.edges)), dropout_prob)
                total = part if total is None else total + part
        return self._with_others(total, to_bchw(state_bhwc), weights)

    def _with_others(self, total: Tensor | None, state_bchw: Tensor, weights: Mapping[str, Tensor]) -> Tensor | None:
        """Adds what is not fused, edge by edge as in the reference: nothing is known of it but that it is a module."""
        for name, (having, modules) in self.others.items():
            outputs = [weight * module(state_bchw) for weight, module in zip(weights[name], modules, strict=True)]
            parts = torch.stack([to_bhwc(output) for output in outputs], dim=3)
            if total is None:
                total = parts.new_zeros(*parts.shape[:3], self.edges, parts.shape[4])
            total = total.index_add(3, torch.tensor(having, device=parts.device), parts.to(total.dtype))
        return total

    def _kind_by_kind(self) -> list[Chain]:
        """Returns a chain for every kind, as each drops its own activations."""
        return [replace(chain, kinds=(kind,)) for chain in self.chains for kind in chain.kinds]

    def _products(
        self, x_bhwc: Tensor, weights: Mapping[str, Tensor], gates: Mapping[str, Tensor], *, dropout_prob: float
    ) -> tuple[list[Product], list[Product]]:
        """Returns the operations that only scale: those that never drop anything, and those that now do."""
        products, dropping = list[Product](), list[Product]()
        factors: Tensor | None = None
        for name, having in self.scaling.items():
            of_kind = weights[name][None, :, None]
            if name in gates:
                of_kind = of_kind * gates[name]
            of_kind = self._on_edges(of_kind, having)
            if name in POOLS:
                products.append(Product(to_bhwc(POOLS[name](to_bchw(x_bhwc), 2)), of_kind))
            elif name in gates and dropout_prob:
                dropping.append(Product(x_bhwc, of_kind))
            else:
                factors = of_kind if factors is None else factors + of_kind
        if factors is not None:
            products.append(Product(x_bhwc, factors))
        return products, dropping

    def _on_edges(self, factors_bmc: Tensor, having: tuple[int, ...]) -> Tensor:
        """Returns the factors of all edges, zero where an edge lacks the operation."""
        if len(having) == self.edges:
            return factors_bmc
        b, _, c = factors_bmc.shape
        zeros = factors_bmc.new_zeros(b, self.edges, c)
        return zeros.index_add(1, torch.tensor(having, device=factors_bmc.device), factors_bmc)


class Gates:
    """The gates of squeeze-excite on several edges."""

    def __init__(self, modules: "Sequence[SqueezeExcite]") -> None:
        self.squeezes = [module.squeeze for module in modules]
        self.excites = [module.excite for module in modules]

    def __call__(self, mean_bc: Tensor) -> Tensor:
        """Returns the gates for the means of the channels, BMC."""
        linears = (self.squeezes, self.excites)
        parameters = [values for part in linears for values in ([x.weight for x in part], [x.bias for x in part])]
        flat = [parameter for values in parameters for parameter in values]
        # PyTorch gives ``apply`` no types.
        gates: Tensor = _Gates.apply(mean_bc, len(self.squeezes), *flat)  # type: ignore[no-untyped-call]
        return gates


class _Gates(torch.autograd.Function):
    """sigmoid(excite(relu(squeeze(mean)))) of every edge, as one step of autograd."""

    @staticmethod
    def forward(ctx: Any, mean_bc: Tensor, edges: int, *parameters: Tensor) -> Tensor:
        parts = [parameters[at : at + edges] for at in range(0, 4 * edges, edges)]
        squeeze, squeeze_bias = torch.cat(parts[0]), torch.cat(parts[1])
        excite_mch, excite_bias_mc = torch.stack(parts[2]), torch.stack(parts[3])
        with torch.autocast(mean_bc.device.type, enabled=False):
            hidden = torch.addmm(squeeze_bias, mean_bc, squeeze.T).relu_().view(len(mean_bc), edges, -1)
            gates = torch.baddbmm(excite_bias_mc.unsqueeze(1), hidden.transpose(0, 1), excite_mch.transpose(1, 2))
        gates = gates.sigmoid_().transpose(0, 1)
        ctx.save_for_backward(mean_bc, squeeze, excite_mch, hidden, gates)
        return gates

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_gates_bmc: Tensor) -> tuple[Tensor | None, ...]:
        mean, squeeze, excite_mch, hidden_bmh, gates = ctx.saved_tensors
        edges = len(excite_mch)
        of_sum = (of_gates_bmc * gates * (1 - gates)).transpose(0, 1)
        of_hidden = torch.bmm(of_sum, excite_mch).transpose(0, 1) * (hidden_bmh > 0)
        of_hidden = of_hidden.reshape(len(mean), -1)
        of_mean = of_hidden @ squeeze if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[2:]):
            return of_mean, None, *[None] * (4 * edges)
        of_excite = torch.bmm(of_sum.transpose(1, 2), hidden_bmh.transpose(0, 1))
        return (
            of_mean,
            None,
            *(of_hidden.T @ mean).chunk(edges),
            *of_hidden.sum(0).chunk(edges),
            *of_excite.unbind(),
            *of_sum.sum(1).unbind(),
        )


def _in_precision_of_autocast(x: Tensor) -> Tensor:
    """Returns x as autocast has convolutions take it, where that is on."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def _gated(x_bhwc: Tensor, gates_bmc: Tensor) -> Tensor:
    """Returns x times the gates of every edge, B(MC)HW."""
    return to_bchw((x_bhwc.unsqueeze(3) * gates_bmc[:, None, None].to(x_bhwc.dtype)).flatten(3))


def _convolutions(modules: Operations, part: int) -> list[nn.Module]:
    """Returns the convolution of every edge; ``part`` is its place in the operation."""
    return [module.get_submodule(str(part)) for module in modules]


Geometry = dict[str, Any]
Maker = Callable[[Operations], tuple[Kernels, Geometry]]


def _dense(modules: Operations, *, part: int = 1, **geometry: Any) -> tuple[Kernels, Geometry]:
    return Dense(_convolutions(modules, part)), geometry


def _separable(modules: Operations, **geometry: Any) -> tuple[Kernels, Geometry]:
    transposed = geometry.get("transposed", False)
    return Separable(_convolutions(modules, 1), _convolutions(modules, 2), transposed=transposed), geometry


def _shuffled(modules: Operations) -> tuple[Kernels, Geometry]:
    groups = cast(ChannelShuffle, modules[0].get_submodule("2")).groups
    return Dense(_convolutions(modules, 1)) if groups == 1 else Shuffled(_convolutions(modules, 1), groups), {}


CONVOLUTIONS: dict[str, Maker] = {
    "conv": _dense,
    "shuffle_conv": _shuffled,
    "dil_conv": partial(_dense, dilation=2),
    "dep_conv": _separable,
    "down_conv": partial(_dense, stride=2),
    "down_dil_conv": partial(_dense, stride=2, dilation=2),
    "down_dep_conv": partial(_separable, stride=2),
    "down_cweight": partial(_dense, part=2, stride=2),
    "up_conv": partial(_dense, stride=2, transposed=True),
    "up_dil_conv": partial(_dense, stride=2, dilation=2, transposed=True),
    "up_dep_conv": partial(_separable, stride=2, transposed=True),
    "up_cweight": partial(_dense, part=2, stride=2, transposed=True),
}
"""Operations with a norm: modules of the edges -> their kernels, and the geometry of the convolution."""

POOLS: dict[str, Callable[[Tensor, int], Tensor]] = {"avg_pool": F.avg_pool2d, "max_pool": F.max_pool2d}
GATED = ("cweight", "down_cweight", "up_cweight")
KNOWN = {*CONVOLUTIONS, *POOLS, *GATED, "identity"}
"""All other operations, such as those that users register, run as they are; see ``Leaving._with_others``."""


def mix_fused(cell: "MixedCell", first: Tensor | None, second: Tensor, weights: CellWeights) -> Tensor:
    """Runs a mixed cell state by state, all edges that leave a state together."""
    states = [first, second]
    operated: Tensor | None = None
    bypass: Tensor | None = None
    dropout_prob = cell.dropout_prob if cell.training else 0.0
    all_leaving = cell.fused if weights.candidates == cell.candidates else cell.joined(weights.candidates)
    for state, (edges, of_state) in enumerate(zip(leaving(cell.edges), weights.by_state, strict=True)):
        read = states[state]
        if read is not None:
            x = to_bhwc(read)[..., : cell.operated_channels]
            operated = all_leaving[state](x, of_state, operated, dropout_prob=dropout_prob)
            if weights.skip:
                skip = Product(to_bhwc(cell.resized(state, to_bchw(x))), x.new_full((1, len(edges), 1), weights.skip))
                operated = weighted_sum(operated, [skip], edges=len(edges))
            if cell.partial_channels > 1:
                rest = Product(to_bhwc(cell.bypass(state, read)), weights.bypass[list(edges)][None, :, None])
                bypass = weighted_sum(bypass, [rest], edges=len(edges))
        if state > 0:
            # What the edges of a state lead to begins with the node that has now been summed.
            node, operated = _first(operated)
            other, bypass = _first(bypass)
            if node is None:  # a relaxation that runs one candidate of an edge may have drawn none for all
                node = cell.empty_node(second)
            if other is not None:
                node = _interleaved(torch.cat([to_bhwc(node), to_bhwc(other)], dim=3), cell.partial_channels)
            states.append(node)
    return torch.cat(cast(list[Tensor], states[2:]), dim=1)


def _first(sums_bhwmc: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Splits the sums of nodes into that of the first, BCHW, and those of the others."""
    if sums_bhwmc is None:
        return None, None
    first, others = torch.split(sums_bhwmc, [1, sums_bhwmc.shape[3] - 1], dim=3)
    return to_bchw(first.squeeze(3)), others if others.shape[3] else None


def _interleaved(x_bhwc: Tensor, groups: int) -> Tensor:
    """Interleaves the channels of the groups, as ``ChannelShuffle`` does, BCHW and channels-last."""
    return to_bchw(split_channels(x_bhwc, groups).transpose(3, 4).flatten(3))
