"""Channels of layers zeroed, left out of the computation, or removed.

The masked network is what the cut one is checked against: in it the maps of all removed channels are zero behind every
layer of their unit. A group norm of it has the statistics of the channels that are kept, as the zeros are no part of
the network that is trained on.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.errors import RunError
from medarts.network import Network
from medarts.pruning.channels import Removals, Side, Unit
from medarts.pruning.graph import (
    CONVOLUTIONS,
    LAYERS,
    NORMS_OF_CHANNELS,
    AnyConv,
    all_outputs,
    norms_each_channel,
    traceable,
)

TOLERANCE = 1e-5
"""Largest difference of an output of the cut network from the masked one, as a part of the largest output."""

Parts = dict[tuple[str, Side], list[int]]
"""(module, side) -> its channels that are removed, in order."""


def removed_parts(units: Iterable[Unit], removals: Removals) -> Parts:
    """Returns the channels of every layer that go.

    Raises:
        RunError: there is no such unit or channel, nothing would be left of a unit, or its groups would not stay equal.
    """
    named = {unit.name: unit for unit in units}
    parts: Parts = defaultdict(list)
    for name, channels in removals.items():
        if name not in named:
            raise RunError(
                f"The network has no channels '{name}' that can be cut.",
                fix="Give units that find_units gives for it. If medarts prune chose this one, the network "
                "computes something else at each pass: let forward do the same every time.",
            )
        _check(named[name], channels)
        for member in named[name].members:
            parts[member.module_name, member.side] += [i for channel in channels for i in member.indices[channel]]
    return {key: sorted(channels) for key, channels in parts.items() if channels}


def _check(unit: Unit, channels: Sequence[int]) -> None:
    length, there = unit.channels // unit.together, set(channels)
    if len(there) < len(channels) or not there <= set(range(unit.channels)):
        raise RunError(f"{unit.name} has no such channels.", fix=f"Give each once, from 0 to {unit.channels - 1}.")
    of_blocks = {sum(channel // length == block for channel in there) for block in range(unit.together)}
    if len(there) == unit.channels:
        raise RunError(
            f"Nothing would be left of the {unit.channels} channels of {unit.name}.", fix="Keep one or more."
        )
    if len(of_blocks) > 1:
        raise RunError(
            f"The {unit.channels} channels of {unit.name} lie in {unit.together} blocks, which stay equally long.",
            fix="Remove as many of each.",
        )


# Zeros


@torch.no_grad()
def zero_filters(network: nn.Module, units: Iterable[Unit], removals: Removals, *, depthwise: bool = False) -> None:
    """Zeroes the filters and biases that make channels, in place; in training they grow back.

    Norms stay as they are, since of a chain of zeros every gradient is 0. Behind one, a channel is then its shift, so
    the network is not yet without it; see ``masked``.

    Args:
        network: of the units.
        units: see ``find_units``.
        removals: channels by the names of units.
        depthwise: also those that channels only pass through, which stops the gradients.

    Raises:
        RunError: see ``removed_parts``.
    """
    for (name, side), channels in removed_parts(units, removals).items():
        module = network.get_submodule(name)
        if side == "out" or (depthwise and side == "both" and isinstance(module, CONVOLUTIONS)):
            _zero(module, channels)


def _zero(module: nn.Module, channels: Sequence[int]) -> None:
    """Zeroes what a layer makes of its own for channels that it gives."""
    if not isinstance(module, LAYERS):
        for _, tensor, axis in _own(module):
            if isinstance(tensor, nn.Parameter):
                tensor.index_fill_(axis, _index(tensor, channels), 0.0)
        return
    weight, bias = cast(Tensor | None, module.weight), cast(Tensor | None, getattr(module, "bias", None))
    if isinstance(module, CONVOLUTIONS) and module.transposed:
        each = module.out_channels // module.groups
        groups, places = zip(*(divmod(channel, each) for channel in channels), strict=True)
        of_groups = module.weight.view(module.groups, -1, *module.weight.shape[1:])
        of_groups[list(groups), :, list(places)] = 0.0
    elif weight is not None:
        weight.index_fill_(0, _index(weight, channels), 0.0)
    if bias is not None:
        bias.index_fill_(0, _index(bias, channels), 0.0)


@contextmanager
def masked(network: nn.Module, units: Iterable[Unit], removals: Removals) -> Iterator[None]:
    """Lets a network compute as if the maps of channels were zero, whatever its weights; afterwards it is as before.

    Args:
        network: of the units.
        units: see ``find_units``.
        removals: channels by the names of units.

    Raises:
        RunError: see ``removed_parts``.
    """
    with ExitStack() as stack:
        for (name, side), channels in removed_parts(units, removals).items():
            if side != "in":
                stack.enter_context(_masked_module(network.get_submodule(name), channels))
        yield


@contextmanager
def _masked_module(module: nn.Module, channels: Sequence[int]) -> Iterator[None]:
    if not isinstance(module, LAYERS):
        with _zeroed(module, channels):
            yield
        return
    masks_input = isinstance(module, nn.GroupNorm) and not norms_each_channel(module)
    masked_output = _normed_without if masks_input else _without
    handle = module.register_forward_hook(partial(masked_output, channels))
    try:
        yield
    finally:
        handle.remove()


def _without(channels: Sequence[int], module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.index_fill(1, _index(output, channels), 0.0)


def _normed_without(channels: Sequence[int], norm: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Returns the output of a group norm over the channels that are kept, and zeros for the others."""
    kept = _index(output, _others(channels, norm.num_channels))
    weight, bias = (None if each is None else each[kept] for each in (norm.weight, norm.bias))
    normed = F.group_norm(inputs[0][:, kept], norm.num_groups, weight, bias, norm.eps)
    return torch.zeros_like(output).index_copy(1, kept, normed)


@contextmanager
def _zeroed(module: nn.Module, channels: Sequence[int]) -> Iterator[None]:
    """Zeroes the parameters of a module that is no layer of PyTorch."""
    before = [(parameter, parameter.detach().clone()) for parameter in module.parameters(recurse=False)]
    with torch.no_grad():
        _zero(module, channels)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in before:
                parameter.copy_(values)


# Removal


@torch.no_grad()
def shrink(network: Network, units: Iterable[Unit], removals: Removals) -> None:
    """Removes channels, in place and unverified. Gradients are dropped.

    Raises:
        RunError: see ``removed_parts``.
    """
    for (name, side), channels in removed_parts(units, removals).items():
        _shrink(network.get_submodule(name), side, channels)
    network.lay_out_again()


def _shrink(module: Any, side: Side, channels: Sequence[int]) -> None:
    if isinstance(module, CONVOLUTIONS) and side == "both":
        _shrink_depthwise(module, channels)
    elif isinstance(module, CONVOLUTIONS):
        kept = _others(channels, module.in_channels if side == "in" else module.out_channels)
        if module.transposed == (side == "in"):
            _keep(module, "weight", 0, kept)
        else:
            _keep_of_groups(module, kept)
        if side == "out":
            _keep(module, "bias", 0, kept)
        setattr(module, f"{side}_channels", len(kept))
    elif isinstance(module, nn.Linear):
        kept = _others(channels, module.in_features if side == "in" else module.out_features)
        _keep(module, "weight", 1 if side == "in" else 0, kept)
        if side == "out":
            _keep(module, "bias", 0, kept)
        setattr(module, f"{side}_features", len(kept))
    else:
        _shrink_others(module, channels)


def _shrink_depthwise(conv: AnyConv, channels: Sequence[int]) -> None:
    kept = _others(channels, conv.out_channels)
    each = conv.out_channels // conv.groups
    _keep(conv, "weight", 0, sorted({channel // each for channel in kept}) if conv.transposed else kept)
    _keep(conv, "bias", 0, kept)
    conv.out_channels = len(kept)
    conv.in_channels = conv.groups = len(kept) // each


def _shrink_others(module: Any, channels: Sequence[int]) -> None:
    """Removes channels of a norm, or of a module with parameters of its own."""
    each_channel = isinstance(module, nn.GroupNorm) and norms_each_channel(module)
    for name, tensor, axis in list(_own(module)):
        _keep(module, name, axis, _others(channels, tensor.shape[axis]))
    for size in ("num_features", "num_channels", "num_parameters"):
        if isinstance(module, LAYERS) and hasattr(module, size):
            setattr(module, size, getattr(module, size) - len(channels))
    if each_channel:
        module.num_groups = module.num_channels


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor, int]]:
    """Yields name, tensor and axis of the channels, of the parameters and buffers that a module itself has."""
    lengths = set[int]()
    for name, parameter in module.named_parameters(recurse=False):
        longer = [axis for axis, length in enumerate(parameter.shape) if length > 1]
        if len(longer) == 1:
            lengths.add(parameter.shape[longer[0]])
            yield name, parameter, longer[0]
    if isinstance(module, NORMS_OF_CHANNELS):
        lengths.add(module.num_features)
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.ndim and buffer.shape[-1] in lengths:
            yield name, buffer, buffer.ndim - 1


def _keep(module: nn.Module, name: str, axis: int, kept: Sequence[int]) -> None:
    """Replaces a tensor of a module by a part of it."""
    tensor: Tensor | None = getattr(module, name)
    if tensor is not None:
        _replace(module, name, tensor.index_select(axis, _index(tensor, kept)))


def _keep_of_groups(conv: AnyConv, kept: Sequence[int]) -> None:
    """Keeps channels along the second axis of a weight, which counts them within each group."""
    each = conv.weight.shape[1]
    parts = [
        part[:, [channel % each for channel in kept if channel // each == group]]
        for group, part in enumerate(conv.weight.chunk(conv.groups))
    ]
    _replace(conv, "weight", torch.cat(parts))


def _replace(module: nn.Module, name: str, values: Tensor) -> None:
    tensor: Tensor = getattr(module, name)
    # Laid out as `Structure.apply` does, so that the network gives the same bits when it is built again.
    smaller = tensor.detach()[tuple(map(slice, values.shape))].clone().copy_(values)
    if isinstance(tensor, nn.Parameter):
        smaller = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
    setattr(module, name, smaller)


def _others(channels: Sequence[int], count: int) -> list[int]:
    removed = set(channels)
    return [channel for channel in range(count) if channel not in removed]


def _index(tensor: Tensor, channels: Sequence[int]) -> Tensor:
    return torch.tensor(channels, dtype=torch.long, device=tensor.device)


# Verification


@torch.no_grad()
def difference(network: Network, units: Sequence[Unit], removals: Removals, image_1chw: Tensor) -> float:
    """Returns how much the cut network would differ from the masked one: a part of the largest output, of any head.

    Args:
        network: stays as it is; in float64, where roundings do not matter.
        units: of the network.
        removals: channels by the names of units.
        image_1chw: of the dtype and device of the network.
    """
    with masked(network, units, removals):
        expected = _outputs(network, image_1chw)
    cut = copy.deepcopy(network)
    shrink(cut, units, removals)
    found = _outputs(cut, image_1chw)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


def _outputs(network: Network, image_1chw: Tensor) -> list[Tensor]:
    with traceable(network), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of paths that are dropped in training
        return all_outputs(network, image_1chw)


def in_float64(network: Network, image_1chw: Tensor) -> tuple[Network, Tensor]:
    """Returns a copy of a network, and the image as it takes it."""
    return copy.deepcopy(network).double(), image_1chw[:1].double()
