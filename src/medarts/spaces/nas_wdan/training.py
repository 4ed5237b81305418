"""The network of nas-wdan, made fast for training on a CPU: the same parameters, and equal outputs and gradients.

As built, a derived network is some hundreds of convolutions of a few channels, each with a ReLU and a norm of its own.
Here all that reads one state runs together: one ReLU, the 1x1 convolutions of all cells that read a node of the lattice
as one, and convolutions of one geometry as one, each with one norm behind it. A norm works channel by channel or group
by group, so that of joined outputs is exact. Nodes are summed over the cells of a lattice node before they are
concatenated. Maps are channels-last, in which narrow convolutions are faster.

Weights are joined anew in every pass, and autograd gives each parameter its own gradient. So checkpoints, the moving
average and pruning go on with the network as it was built.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.network.convolution import conv2d
from medarts.network.layers import ChannelShuffle
from medarts.network.packed import AnyConv, AnyNorm
from medarts.spaces.kernels import to_bchw, to_bhwc
from medarts.spaces.nas_wdan.frame import FullSizeHead, Head
from medarts.spaces.nas_wdan.fused import KNOWN
from medarts.spaces.nas_wdan.lattice import STEM, Node, cell_key, node_key, size_at
from medarts.spaces.nas_wdan.network import NasWdanCell, NasWdanNetwork, OnLattice

Key = TypeVar("Key")


class NasWdanTraining(OnLattice):
    """The form for training of a network, with the parameters of that network itself.

    In evaluation mode, and where single heads are asked for, the network runs as it was built.

    Args:
        network: what it computes, see `NasWdanNetwork.training_form`; nothing is cut out of it from now on.
    """

    def __init__(self, network: NasWdanNetwork) -> None:
        super().__init__()
        self.network = network
        self.depth, self.stem_stride, self.head_nodes = network.depth, network.stem_stride, network.head_nodes
        frame = network.frame
        self.cells = {key: TrainingCell(cast(NasWdanCell, cell)) for key, cell in frame.cells.items()}
        self.readers = {node: self._readers(node) for node in (STEM, *frame.paths)}
        self.joined = [
            joined for cell in self.cells.values() for of_state in cell.leaving for joined in of_state.joined
        ]
        self.joined += [joined for readers in self.readers.values() for joined in readers.joined]

    def forward_heads(self, x_bchw: Tensor, heads: Sequence[str] | None = None) -> list[Tensor]:
        """Returns the logits of heads as the network does."""
        if heads is not None or not self.training:
            return self.network.forward_heads(x_bchw, heads)
        frame, norms, size = self.network.frame, NormValues(self.joined), x_bchw.shape[-2:]
        fine = frame.stem[0](x_bchw.contiguous(memory_format=torch.channels_last))
        inputs = self.readers[STEM](frame.stem[1](fine), norms)
        logits = []
        for node in frame.paths:
            state = self._state(node, inputs, norms, like=x_bchw)
            if node in self.head_nodes:
                head = frame.heads[node_key(node)]
                if isinstance(head, FullSizeHead):
                    logits.append(_logits(head.head, head.joined(state, fine)))
                else:
                    small = _logits(cast(Head, head), state)
                    logits.append(F.interpolate(small, size=size, mode="bilinear"))
            inputs |= self.readers[node](state, norms)
        norms.keep_statistics()
        return logits

    def _state(self, node: Node, inputs: "Inputs", norms: "NormValues", *, like: Tensor) -> Tensor:
        """Returns a node of the lattice: the sum of its cells' outputs."""
        outputs = []
        for transition in self.network.frame.paths[node]:
            key = cell_key(node, transition)
            cell = self.cells[key]
            outputs.append(cell(inputs.pop((key, 0), None), inputs.pop((key, 1)), norms))
        nodes = [_sum([part for part in parts if part is not None]) for parts in zip(*outputs, strict=True)]
        at_node = (size_at(node.level, length, stem_stride=self.stem_stride) for length in like.shape[-2:])
        of_zeros = (len(like), cell.channels, *at_node)
        return torch.cat([like.new_zeros(of_zeros) if part is None else part for part in nodes], dim=1)

    def _readers(self, node: Node) -> "Readers":
        """Returns the preprocessing of all cells that read a node."""
        frame = self.network.frame
        modules = {
            (key, slot): cast(nn.Sequential, frame.cells[key].get_submodule(f"input{slot}"))
            for key, slot in frame.readers(node, frame.paths)
        }
        return Readers(modules)


Inputs = dict[tuple[str, int], Tensor]
"""What cells read, by cell and input."""


class Joined:
    """Convolutions of one geometry that read one map, each with a norm behind it, as one.

    Args:
        convs: the convolutions, without biases; where there are several, they have one group each.
        norms: the norm behind each of them, all of one kind.
        before: what the map of a single convolution goes through first.
        shuffle: what the output of a single convolution goes through before its norm.
    """

    def __init__(
        self,
        convs: Sequence[AnyConv],
        norms: Sequence[AnyNorm],
        *,
        before: Sequence[nn.Module] = (),
        shuffle: ChannelShuffle | None = None,
    ) -> None:
        self.convs, self.norms, self.before, self.shuffle = convs, norms, before, shuffle
        self.widths = [norm.weight.numel() for norm in norms]

    def __call__(self, active_bchw: Tensor, norms: "NormValues") -> Sequence[Tensor]:
        """Returns the normed output of each convolution, BCHW.

        Args:
            active_bchw: the map behind its ReLU.
            norms: the values of all norms in this pass.
        """
        x = active_bchw
        for module in self.before:
            x = module(x)
        y = self._convolved(x)
        if self.shuffle is not None:
            y = self.shuffle(y)
        y = norms.normed(self, y)
        return [y] if len(self.widths) == 1 else torch.split(y, self.widths, dim=1)

    def _convolved(self, x_bchw: Tensor) -> Tensor:
        conv, weight = self.convs[0], self.convs[0].weight
        if len(self.convs) > 1:
            outputs = 1 if conv.transposed else 0  # their axis in a weight
            weight = torch.cat([each.weight for each in self.convs], outputs)
        if conv.kernel_size == (1, 1) and conv.groups == 1:
            return _pointwise(x_bchw, weight)
        if isinstance(conv, nn.ConvTranspose2d):
            paddings = cast(tuple[int, int], conv.padding), conv.output_padding
            return F.conv_transpose2d(x_bchw, weight, None, conv.stride, *paddings, conv.groups, conv.dilation)
        return conv2d(
            x_bchw, weight, stride=conv.stride, padding=conv.padding, dilation=conv.dilation, groups=conv.groups
        )


class NormValues:
    """Scales, shifts and running statistics of the norms of joined convolutions, in one pass.

    Those of all norms are joined at once: to join those of each convolution apart would take longer than to use them.

    Args:
        joined: all joined convolutions of a network.
    """

    def __init__(self, joined: Sequence[Joined]) -> None:
        norms = [norm for each in joined for norm in each.norms]
        widths = [sum(each.widths) for each in joined]
        self.places = {each: place for place, each in enumerate(joined)}
        self.scales = torch.split(torch.cat([norm.weight for norm in norms]), widths)
        self.shifts = torch.split(torch.cat([norm.bias for norm in norms]), widths)
        self.batch_norms = [norm for norm in norms if isinstance(norm, nn.BatchNorm2d)]
        if self.batch_norms:
            self.mean = torch.cat([cast(Tensor, norm.running_mean) for norm in self.batch_norms])
            self.variance = torch.cat([cast(Tensor, norm.running_var) for norm in self.batch_norms])
            self.means, self.variances = torch.split(self.mean, widths), torch.split(self.variance, widths)

    def normed(self, joined: Joined, x_bchw: Tensor) -> Tensor:
        """Returns the output of joined convolutions behind their norms."""
        place, norm = self.places[joined], joined.norms[0]
        scale, shift = self.scales[place], self.shifts[place]
        if isinstance(norm, nn.GroupNorm):
            groups = sum(cast(nn.GroupNorm, each).num_groups for each in joined.norms)
            return F.group_norm(x_bchw, groups, scale, shift, norm.eps)
        mean, variance, momentum = self.means[place], self.variances[place], cast(float, norm.momentum)
        return F.batch_norm(x_bchw, mean, variance, scale, shift, training=True, momentum=momentum, eps=norm.eps)

    @torch.no_grad()
    def keep_statistics(self) -> None:
        """Gives the batch norms the running statistics of the pass."""
        if self.batch_norms:
            widths = [norm.num_features for norm in self.batch_norms]
            for name, tensor in (("running_mean", self.mean), ("running_var", self.variance)):
                torch._foreach_copy_([getattr(norm, name) for norm in self.batch_norms], torch.split(tensor, widths))
            torch._foreach_add_([cast(Tensor, norm.num_batches_tracked) for norm in self.batch_norms], 1)


class Readers:
    """The preprocessing of all cells that read a node of the lattice.

    Args:
        modules: cell and input -> its ReLU, 1x1 convolution and norm; see ``operations.preprocess``.
    """

    def __init__(self, modules: Mapping[tuple[str, int], nn.Sequential]) -> None:
        self.joined = _joined(
            (key, cast(AnyConv, conv), cast(AnyNorm, norm)) for key, (_, conv, norm) in modules.items()
        )

    def __call__(self, state_bchw: Tensor, norms: NormValues) -> Inputs:
        """Returns what the cells read."""
        return dict(_together(self.joined, torch.relu(state_bchw), norms)) if self.joined else {}


class TrainingCell:
    """A cell of the derived network.

    Args:
        cell: what it computes.
    """

    def __init__(self, cell: NasWdanCell) -> None:
        self.channels, self.nodes = cell.channels, len(cell.edges)
        edges: dict[int, list[Edge]] = defaultdict(list)
        for node, (of_node, operations) in enumerate(zip(cell.edges, cell.operations, strict=True)):
            for (name, state), operation in zip(of_node, cast(nn.ModuleList, operations), strict=True):
                edges[state].append(Edge(node, name, operation))
        self.leaving = [Leaving(edges[state]) for state in range(self.nodes + 2)]

    def __call__(self, s0: Tensor | None, s1: Tensor, norms: NormValues) -> list[Tensor | None]:
        """Returns the nodes, BCHW with c channels each; None stands for zeros, which nodes without edges are.

        Args:
            s0: the first input as read; None where it is absent.
            s1: the second input as read.
            norms: the values of all norms in this pass.
        """
        terms: list[list[Tensor]] = [[] for _ in range(self.nodes)]
        nodes = []
        for state, leaving in enumerate(self.leaving):
            x = (s0, s1)[state] if state < 2 else _sum(terms[state - 2])
            if state >= 2:
                nodes.append(x)
            if x is not None:
                for node, term in leaving(x, norms):
                    terms[node].append(term)
        return nodes


class Edge(NamedTuple):
    """An edge of a cell: the node it leads to, counted from 0, and its operation."""

    node: int
    name: str
    operation: nn.Module


class Leaving:
    """The operations of all edges that leave a state of a cell.

    Args:
        edges: the edges.
    """

    def __init__(self, edges: Sequence[Edge]) -> None:
        self.others = [(edge.node, edge.operation) for edge in edges if edge.name not in KNOWN]
        """Operations of which nothing is known but that they are modules: they see the state, not its ReLU."""
        self.plain: list[tuple[int, nn.Sequential]] = []
        """Those without a norm: identity, pools, squeeze-excite."""
        self.is_active = len(self.others) < len(edges)
        single, parts = dict[Joined, tuple[int, ...]](), list[tuple[int, AnyConv, AnyNorm]]()
        for node, _, operation in (edge for edge in edges if edge.name in KNOWN):
            whole = operation if isinstance(operation, nn.Sequential) else [operation]
            modules = [module for module in whole if not isinstance(module, nn.ReLU)]
            if not modules or not isinstance(modules[-1], (nn.GroupNorm, nn.BatchNorm2d)):
                self.plain.append((node, nn.Sequential(*modules)))
                continue
            norm = cast(AnyNorm, modules.pop())
            shuffle = cast(ChannelShuffle, modules.pop()) if isinstance(modules[-1], ChannelShuffle) else None
            conv = cast(AnyConv, modules.pop())
            if modules or conv.groups > 1:
                single[Joined([conv], [norm], before=modules, shuffle=shuffle)] = (node,)
            else:  # a shuffle of one group changes nothing
                parts.append((node, conv, norm))
        self.joined = single | _joined(parts)

    def __call__(self, state_bchw: Tensor, norms: NormValues) -> list[tuple[int, Tensor]]:
        """Returns the outputs of all edges, with the nodes that they lead to."""
        terms = [(node, cast(Tensor, operation(state_bchw))) for node, operation in self.others]
        if self.is_active:
            active = torch.relu(state_bchw)
            terms += [(node, cast(Tensor, operation(active))) for node, operation in self.plain]
            terms += _together(self.joined, active, norms)
        return terms


def _joined(parts: Iterable[tuple[Key, AnyConv, AnyNorm]]) -> dict[Joined, tuple[Key, ...]]:
    """Joins the convolutions of each geometry, with their norms; returns whom their outputs are for."""
    of_geometry = defaultdict[Hashable, list[tuple[Key, AnyConv, AnyNorm]]](list)
    for key, conv, norm in parts:
        group = norm.num_channels // norm.num_groups if isinstance(norm, nn.GroupNorm) else 1
        of_geometry[conv.transposed, conv.kernel_size, conv.stride, conv.dilation, group].append((key, conv, norm))
    made = {}
    for members in of_geometry.values():
        keys, convs, norms = zip(*members, strict=True)
        made[Joined(convs, norms)] = keys
    return made


def _together(
    joined: Mapping[Joined, tuple[Key, ...]], active_bchw: Tensor, norms: NormValues
) -> Iterator[tuple[Key, Tensor]]:
    """Yields the outputs of joined convolutions, with whom they are for."""
    for each, keys in joined.items():
        yield from zip(keys, each(active_bchw, norms), strict=True)


def _pointwise(x_bchw: Tensor, weight: Tensor) -> Tensor:
    """Returns a 1x1 convolution. Channels-last, it is a product of matrices, which takes half of the time."""
    return to_bchw(F.linear(to_bhwc(x_bchw), weight.flatten(1)))


def _logits(head: Head, state_bchw: Tensor) -> Tensor:
    """Returns the logits of a head.

    What is dropped is sampled for ones that are BCHW in memory, as in the network as built: sampling goes along memory.
    """
    mask: Tensor = head.dropout(state_bchw.new_ones(state_bchw.shape))
    x = state_bchw * mask.contiguous(memory_format=torch.channels_last)
    return _pointwise(x, head.conv.weight) * head.scale[:, None, None] + head.shift[:, None, None]


def _sum(terms: Sequence[Tensor]) -> Tensor | None:
    """Returns the sum; None where there are no terms."""
    return sum(terms[1:], terms[0]) if terms else None
