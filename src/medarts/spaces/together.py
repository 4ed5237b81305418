"""The operations of several edges that leave one state, run as one.

Every edge out of a state reads the same ReLU of it. So the operations of one kind on M edges are one operation with M
times the outputs. Those with a norm become chains of ``weighted_norms``; those without (identity, pools, squeeze and
excite) become one product of the state with a factor for each image, edge and channel.

The functions take the modules of ``operations`` as they are and compute the same numbers from their parameters.
States are BHWC: sums, slices and products then run along whole lines of memory, and a convolution reads the same
memory as BCHW, channels-last.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.spaces.operations import ChannelShuffle, SqueezeExcite, group_norm
from medarts.spaces.weighted_norms import Chain, Convolution, to_bchw, to_bhwc, weighted_norms

Operations = Sequence[nn.Module]
"""The operation of one kind on every edge that has it."""


class Kind(NamedTuple):
    """One kind of operation on the edges that leave a state.

    Attributes:
        name: of the operation.
        edges: which of the edges have it, ascending.
        weights: its weight on each of these.
    """

    name: str
    edges: tuple[int, ...]
    weights: Tensor


def preprocess_together(state_bchw: Tensor, inputs: Operations) -> list[Tensor]:
    """Puts a node's state through the ReLU, 1x1 convolution and norm of every cell that reads it.

    Args:
        state_bchw: the state.
        inputs: the preprocessing of every cell, see ``operations.preprocess``.

    Returns:
        What each cell reads, BCHW, channels-last.
    """
    state = torch.relu(state_bchw).contiguous(memory_format=torch.channels_last)
    wide: Tensor = F.conv2d(state, torch.cat([module.get_parameter("1.weight") for module in inputs]))
    norms = [cast(nn.GroupNorm, module.get_submodule("2")) for module in inputs]
    widths = [norm.num_channels for norm in norms]
    if len({norm.num_channels // norm.num_groups for norm in norms}) == 1:
        wide = F.group_norm(wide, sum(norm.num_groups for norm in norms), eps=norms[0].eps)
        return list(torch.split(wide, widths, dim=1))
    parts = torch.split(wide, widths, dim=1)
    return [norm(part.contiguous(memory_format=torch.channels_last)) for norm, part in zip(norms, parts, strict=True)]


def leave_together(
    state_bhwc: Tensor,
    kinds: Sequence[Kind],
    operations: Sequence[nn.ModuleDict],
    total: Tensor | None,
    *,
    dropout_prob: float = 0.0,
) -> Tensor | None:
    """Returns the weighted sum of the operations on every edge that leaves a state, added to ``total``.

    Args:
        state_bhwc: the state, before the ReLU.
        kinds: the operations.
        operations: the modules of every edge, by name.
        total: BHWMC, the sums so far of the nodes to which the edges lead; None where there are none yet.
        dropout_prob: of the dropout at the end of operations that have one.
    """
    x = torch.relu(state_bhwc)
    edges, channels = len(operations), x.shape[-1]
    factors: Tensor | None = None
    chains = []
    for kind in kinds:
        modules = [operations[edge][kind.name] for edge in kind.edges]
        if kind.name in CHAINS:
            source, convolutions, shuffle = CHAINS[kind.name](to_bchw(x), modules)
            chains.append(Chain(source, convolutions, kind.edges, kind.weights, shuffle))
            continue
        of_kind = _on_edges(_factors(kind, x, modules), kind.edges, edges)
        if kind.name in POOLS:
            total = add_product(total, to_bhwc(POOLS[kind.name](to_bchw(x), 2)), of_kind)
        elif kind.name == "cweight" and dropout_prob:
            total = _plus(total, F.dropout(_product(x, of_kind), dropout_prob))
        else:
            factors = of_kind if factors is None else factors + of_kind
    if factors is not None:
        total = add_product(total, x, factors)
    norm = group_norm(channels, affine=False)
    if not dropout_prob:
        return weighted_norms(chains, total, edges=edges, groups=norm.num_groups, eps=norm.eps)
    for chain in chains:
        normed = weighted_norms([chain], None, edges=edges, groups=norm.num_groups, eps=norm.eps)
        assert normed is not None
        total = _plus(total, F.dropout(normed, dropout_prob))
    return total


def _factors(kind: Kind, x_bhwc: Tensor, modules: Operations) -> Tensor:
    """Returns the factors of an operation that scales its input, BMC; B and C may be 1."""
    weights = kind.weights[None, :, None]
    if kind.name == "cweight":
        return _gates(x_bhwc, modules) * weights
    return weights


def _on_edges(factors_bmc: Tensor, which: tuple[int, ...], edges: int) -> Tensor:
    """Returns the factors of all edges, zero where an edge lacks the operation."""
    if len(which) == edges:
        return factors_bmc
    b, _, c = factors_bmc.shape
    return factors_bmc.new_zeros(b, edges, c).index_add(1, torch.tensor(which, device=factors_bmc.device), factors_bmc)


def _product(x_bhwc: Tensor, factors_bmc: Tensor) -> Tensor:
    """Returns x times the factors of every edge, BHWMC."""
    return x_bhwc.unsqueeze(3) * factors_bmc[:, None, None].to(x_bhwc.dtype)


def add_product(total: Tensor | None, x_bhwc: Tensor, factors_bmc: Tensor) -> Tensor:
    """Returns x times the factors of every edge, added to ``total`` where there is one, BHWMC."""
    if total is None:
        return _product(x_bhwc, factors_bmc)
    return torch.addcmul(total, x_bhwc.unsqueeze(3), factors_bmc[:, None, None].to(x_bhwc.dtype))


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total + part


def _gates(x_bhwc: Tensor, modules: Operations) -> Tensor:
    """Returns the gates of squeeze-excite on every edge, BMC."""
    parts = [cast(SqueezeExcite, module.get_submodule("1")) for module in modules]
    squeeze = torch.cat([part.squeeze.weight for part in parts])
    hidden = F.linear(x_bhwc.mean((1, 2)), squeeze, torch.cat([part.squeeze.bias for part in parts]))
    hidden_mbh = torch.relu(hidden).reshape(len(hidden), len(parts), -1).transpose(0, 1)
    excite_mhc = torch.stack([part.excite.weight.T for part in parts])
    bias_m1c = torch.stack([part.excite.bias for part in parts]).unsqueeze(1)
    excited = torch.baddbmm(bias_m1c.to(hidden.dtype), hidden_mbh, excite_mhc.to(hidden.dtype))
    return torch.sigmoid(excited).transpose(0, 1)


def _joined(modules: Operations, part: int, **options: Any) -> Convolution:
    """Returns the convolutions of all edges as one; ``part`` is their place in the operations."""
    return Convolution(tuple(module.get_parameter(f"{part}.weight") for module in modules), **options)


Source = tuple[Tensor, tuple[Convolution, ...], int]
"""What a chain is made of: source, convolutions, groups to shuffle."""


def _dense(x: Tensor, modules: Operations, **options: Any) -> Source:
    return x, (_joined(modules, 1, **options),), 1


def _separable(x: Tensor, modules: Operations, **options: Any) -> Source:
    edges = len(modules)
    depthwise = _joined(modules, 1, groups=edges * x.shape[1], repeat=edges, **options)
    return x, (depthwise, _joined(modules, 2, groups=edges)), 1


def _shuffled(x: Tensor, modules: Operations) -> Source:
    groups = cast(ChannelShuffle, modules[0].get_submodule("2")).groups
    if groups == 1:
        return _dense(x, modules)
    edges = len(modules)
    return x, (_joined(modules, 1, groups=groups * edges, repeat=edges),), groups


def _gated(x: Tensor, modules: Operations, **options: Any) -> Source:
    gated = _product(to_bhwc(x), _gates(to_bhwc(x), modules)).flatten(3)
    return to_bchw(gated), (_joined(modules, 2, stride=2, groups=len(modules), **options),), 1


CHAINS: dict[str, Callable[[Tensor, Operations], Source]] = {
    "conv": _dense,
    "shuffle_conv": _shuffled,
    "dil_conv": partial(_dense, dilation=2),
    "dep_conv": _separable,
    "down_conv": partial(_dense, stride=2),
    "down_dil_conv": partial(_dense, stride=2, dilation=2),
    "down_dep_conv": partial(_separable, stride=2),
    "down_cweight": _gated,
    "up_conv": partial(_dense, stride=2, transposed=True),
    "up_dil_conv": partial(_dense, stride=2, dilation=2, transposed=True),
    "up_dep_conv": partial(_separable, stride=2, transposed=True),
    "up_cweight": partial(_gated, transposed=True),
}

POOLS: dict[str, Callable[[Tensor, int], Tensor]] = {"avg_pool": F.avg_pool2d, "max_pool": F.max_pool2d}
