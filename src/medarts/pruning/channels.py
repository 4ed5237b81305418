"""Which channels of a network go together: a filter cannot be cut without what reads it and what is added to it.

The graph of operations is that of torch-pruning (Fang et al., DepGraph, CVPR 2023). Its nodes are layers and
operations; here every channel of every node is followed one by one, by the shapes that autograd recorded. Channels that
are joined, by whichever way through the network, make a component; components that touch the same layers are the
channels of one unit.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from medarts.network import Network
from medarts.pruning.graph import (
    CONVOLUTIONS,
    LAYERS,
    NORMS_OF_CHANNELS,
    AnyConv,
    Shuffled,
    Trace,
    behind,
    channels_of,
    is_concatenation,
    is_depthwise,
    is_flattening,
    norms_each_channel,
    parts_of,
    shape_of,
    traced,
)

Side = Literal["in", "out", "both"]
Integers = NDArray[np.intp]

Removals = Mapping[str, Sequence[int]]
"""Channels to remove, by the names of units."""


@dataclass(frozen=True, eq=False)
class Member:
    """What a unit has of one layer.

    Attributes:
        module_name: path of the layer in the network.
        module: the layer.
        side: "in": channels that a convolution or linear layer reads. "out": those that it makes. "both": those of a
            norm, of a depthwise convolution (its outputs), or of a module with parameters of its own.
        indices: for every channel of the unit, the channels of the layer that go with it.
    """

    module_name: str
    module: nn.Module
    side: Side
    indices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Unit:
    """Channels of several layers that are cut together.

    Attributes:
        name: path of the layer that makes the channels; with the first of them where it makes those of several units.
        channels: their number.
        members: the layers that have them, in the order of the network.
        together: number of consecutive blocks of equal length that the channels lie in. Each block has to lose the same
            number, so that grouped convolutions and group norms keep groups of equal sizes. 1: any channel may go.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    together: int = 1


class Joined(NamedTuple):
    """What a network consists of.

    Attributes:
        units: that can be cut, as far as the graph tells, in the order of the network.
        fixed: names of the others, with the reason.
    """

    units: list[Unit]
    fixed: dict[str, str]


HEAD, OF_IMAGE = "outputs of the network", "channels of the image"
UNFOLLOWED = "channels that cannot be followed through an operation"
CONSTANT = "channels that the network makes of constants"
SINGLE, IN_GROUPS = "one channel", "groups that leave no choice"
ONLY_TRAINED = "only run in training"


def joined_channels(network: Network, image_1chw: Tensor) -> Joined:
    """Returns the units of a network, unverified; see ``medarts.pruning.units``.

    Args:
        network: on the CPU or not; its mode, weights and gradients stay as they are.
        image_1chw: an image that it takes.
    """
    channels = _Channels(network)
    channels.follow(image_1chw)
    return channels.joined()


@dataclass(frozen=True, eq=False)
class _Layer:
    """One side of a layer, with the numbers of its channels among those of all nodes."""

    name: str
    module: nn.Module
    side: Side
    numbers: Integers
    groups: int


class _Channels:
    """The channels of all nodes, numbered one behind the other, and which of them are joined."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.names = {module: name for name, module in network.named_modules()}
        self.owners = {p: m for m in network.modules() for p in m.parameters(recurse=False)}
        self.count = 0
        self.pairs: list[Integers] = []
        self.fixed: list[tuple[Integers, str]] = []
        self.layers: dict[tuple[str, Side], _Layer] = {}
        self.batched: set[Any] = set()
        self.sides: dict[Any, tuple[Integers, Integers]] = {}
        self.trace = Trace()

    # Following

    def follow(self, image_1chw: Tensor) -> None:
        """Traces the network and joins the channels at every node."""
        self.trace = traced(self.network, image_1chw)
        of_image = next(node for node in self.trace.nodes if node.grad_fn is self.trace.image)
        self.batched = behind(of_image)
        self.sides = {node: self._sides(node) for node in self.trace.nodes}
        self._fix(self.sides[of_image][1], OF_IMAGE)
        for node in self.trace.nodes:
            self._join_inputs(node)

    def _numbered(self, count: int) -> Integers:
        numbers = np.arange(self.count, self.count + count)
        self.count += count
        return numbers

    def _sides(self, node: Any) -> tuple[Integers, Integers]:
        """Returns the numbers of the channels that a node reads and of those that it gives."""
        module = node.module
        if isinstance(module, CONVOLUTIONS) and not is_depthwise(module):
            return self._of_weights(module, module.in_channels, module.out_channels, module.groups)
        if isinstance(module, CONVOLUTIONS):
            return self._of_depthwise(module)
        if isinstance(module, nn.Linear):
            return self._of_weights(module, module.in_features, module.out_features, 1)
        if isinstance(module, nn.Parameter):
            numbers = self._of_parameter(module)
        elif isinstance(module, nn.GroupNorm):
            groups = 1 if norms_each_channel(module) else module.num_groups
            numbers = self._layer(module, "both", module.num_channels, groups)
        elif isinstance(module, NORMS_OF_CHANNELS):
            numbers = self._layer(module, "both", module.num_features)
        elif isinstance(module, nn.PReLU) and module.num_parameters > 1:
            numbers = self._layer(module, "both", module.num_parameters)
        elif node.grad_fn in self.trace.constants:
            numbers = self._numbered(channels_of(shape_of(node), batched=True))
            self._fix(numbers, CONSTANT)
        else:
            numbers = self._numbered(channels_of(shape_of(node), batched=node in self.batched))
            if isinstance(module, nn.LayerNorm | nn.Embedding | nn.MultiheadAttention | nn.LSTM):
                self._fix(numbers, UNFOLLOWED)
        return numbers, numbers

    def _of_depthwise(self, conv: AnyConv) -> tuple[Integers, Integers]:
        outputs = self._layer(conv, "both", conv.out_channels)
        of_groups = outputs.reshape(conv.groups, -1)
        for others in of_groups.T[1:]:
            self._join(of_groups[:, 0], others)
        return of_groups[:, 0], outputs

    def _of_weights(self, module: nn.Module, inputs: int, outputs: int, groups: int) -> tuple[Integers, Integers]:
        return self._layer(module, "in", inputs, groups), self._layer(module, "out", outputs, groups)

    def _of_parameter(self, parameter: nn.Parameter) -> Integers:
        """Returns the numbers of the channels of a parameter that belongs to no known layer, such as a scale."""
        count = channels_of(parameter.shape, batched=False)
        return self._layer(self.owners[parameter], "both", count) if count > 1 else self._numbered(count)

    def _layer(self, module: nn.Module, side: Side, count: int, groups: int = 1) -> Integers:
        key = self.names[module], side
        if key not in self.layers:
            self.layers[key] = _Layer(self.names[module], module, side, self._numbered(count), groups)
        numbers = self.layers[key].numbers
        if len(numbers) != count:
            self._fix(numbers, UNFOLLOWED)
        return numbers

    def _fix(self, numbers: Integers, reason: str) -> None:
        self.fixed.append((numbers, reason))

    def _join(self, some: Integers, others: Integers) -> None:
        self.pairs.append(np.stack([some, others]))

    def _join_inputs(self, node: Any) -> None:
        """Joins what a node reads with what its inputs give."""
        reads = self.sides[node][0]
        if is_concatenation(node):
            self._join_parts(node, reads)
            return
        for source in node.inputs:
            gives = self.sides[source][1]
            if node.grad_fn in self.trace.heads:
                self._fix(gives, HEAD)
            elif getattr(node.grad_fn, "_forward_cls", None) is Shuffled:
                self._join_shuffled(gives.reshape(node.grad_fn.groups, -1), reads)
            elif source in self.batched or not isinstance(node.module, LAYERS):  # else a weight
                self._join_operation(node, gives, reads)

    def _join_shuffled(self, gives: Integers, reads: Integers) -> None:
        """Joins the channels of groups, which interleave as before only where all groups lose the same ones."""
        self._join(gives.T.ravel(), reads)
        for one, next_one in pairwise(gives):
            self._join(one, next_one)

    def _join_operation(self, node: Any, gives: Integers, reads: Integers) -> None:
        if len(gives) == len(reads):
            self._join(gives, reads)
        elif is_flattening(node) and len(reads) % len(gives) == 0:
            self._join(np.repeat(gives, len(reads) // len(gives)), reads)
        elif len(gives) != 1:  # one channel is read by all
            self._fix(gives, UNFOLLOWED)
            self._fix(reads, UNFOLLOWED)

    def _join_parts(self, node: Any, reads: Integers) -> None:
        """Joins the parts of a concatenation; those without gradient, such as zeros, stay as they are."""
        parts, start = parts_of(node), 0
        left = len(reads) - sum(len(self.sides[part][1]) for part in parts if part is not None)
        for part in parts:
            if part is None:
                length = left // parts.count(None)
                self._fix(reads[start : start + length], CONSTANT)
            else:
                gives = self.sides[part][1]
                length = len(gives)
                self._join(gives, reads[start : start + length])
            start += length

    # Units

    def joined(self) -> Joined:
        """Returns the units, and which channels are not to be cut."""
        while True:
            found = self._units()
            bad = [layer for unit in found.units if unit.together == 0 for layer in self._unbalanced(unit)]
            if not bad:
                return found
            for layer in bad:
                self._tie(layer)

    def _tie(self, layer: _Layer) -> None:
        """Joins the channels with one place in all groups of a layer, which then stay of equal sizes."""
        for one, next_one in pairwise(np.split(layer.numbers, layer.groups)):
            self._join(one, next_one)

    def _unbalanced(self, unit: Unit) -> Iterator[_Layer]:
        for member in unit.members:
            layer = self.layers[member.module_name, member.side]
            if layer.groups > 1 and np.ptp(_per_group(member, layer).sum(0)) > 0:
                yield layer

    def _units(self) -> Joined:
        of_channel, reasons = self._components()
        touched: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        order = {name: number for number, name in enumerate(self.names.values())}
        layers = sorted(self.layers.values(), key=lambda layer: (order[layer.name], layer.side == "out"))
        for number, layer in enumerate(layers):
            for channel, component in enumerate(of_channel[layer.numbers].tolist()):
                touched[component][number].append(channel)
        alike: dict[tuple[str | None, tuple[tuple[int, int], ...]], list[int]] = defaultdict(list)
        for component, places in touched.items():
            makers = {layers[number].module for number in places if layers[number].side == "out"}
            if makers:
                signature = tuple((number, len(channels)) for number, channels in places.items())
                unused = ONLY_TRAINED if makers.isdisjoint(self.trace.evaluated) else None
                alike[reasons.get(component, unused), signature].append(component)
        joined = Joined([], {})
        for (reason, signature), components in alike.items():
            members = tuple(
                _member(layers[number], [touched[component][number] for component in components])
                for number, _ in signature
            )
            unit = Unit(self._name(members), len(components), members, self._together(members, len(components)))
            if (why := reason or _no_choice(unit)) is None:
                joined.units.append(unit)
            else:
                joined.fixed[unit.name] = why
        joined.units.sort(key=lambda unit: order[unit.name.partition("[")[0]])
        return joined

    def _components(self) -> tuple[Integers, dict[int, str]]:
        """Returns the component of every channel, and of those that must not be cut the reason."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        pairs = np.concatenate([np.zeros((2, 0), np.intp), *self.pairs], axis=1)
        edges = coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), shape=(self.count, self.count))
        of_channel = connected_components(edges, directed=False)[1]
        reasons: dict[int, str] = {}
        for numbers, reason in sorted(self.fixed, key=lambda each: each[1] != HEAD):
            for component in np.unique(of_channel[numbers]).tolist():
                reasons.setdefault(component, reason)
        return of_channel, reasons

    def _name(self, members: Sequence[Member]) -> str:
        """Returns the name of the layer that makes the channels, rather of one that makes no others."""
        makers = [member for member in members if member.side == "out"]
        whole = [m for m in makers if len(self.layers[m.module_name, "out"].numbers) == sum(map(len, m.indices))]
        maker = (whole or makers)[0]
        return maker.module_name if maker in whole else f"{maker.module_name}[{maker.indices[0][0]}]"

    def _together(self, members: Sequence[Member], channels: int) -> int:
        """Returns the fewest blocks that keep all groups equal; 0 where there are none."""
        layers = [self.layers[member.module_name, member.side] for member in members]
        counts = [_per_group(m, layer) for m, layer in zip(members, layers, strict=True) if layer.groups > 1]
        divisors = [number for number in range(1, channels + 1) if channels % number == 0]
        return next((blocks for blocks in divisors if all(_is_balanced(each, blocks) for each in counts)), 0)


def _no_choice(unit: Unit) -> str | None:
    """Returns why none of a unit's channels can go without all others; None where one can."""
    if unit.channels == 1:
        return SINGLE
    return IN_GROUPS if unit.together == unit.channels else None


def _member(layer: _Layer, channels: Sequence[Sequence[int]]) -> Member:
    return Member(layer.name, layer.module, layer.side, tuple(map(tuple, channels)))


def _per_group(member: Member, layer: _Layer) -> Integers:
    """Returns how many channels each group of a layer has of every channel of a unit."""
    size = len(layer.numbers) // layer.groups
    counts = np.zeros((len(member.indices), layer.groups), np.intp)
    for row, channels in zip(counts, member.indices, strict=True):
        np.add.at(row, np.array(channels) // size, 1)
    return counts


def _is_balanced(counts: Integers, blocks: int) -> bool:
    """Returns whether all groups lose as many channels if all blocks do."""
    blocked = counts.reshape(blocks, len(counts) // blocks, -1)
    return bool((blocked == blocked[:, :1]).all() and np.ptp(blocked[:, 0].sum(0)) == 0)
