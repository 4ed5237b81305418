"""The network that a genotype of the weaved space describes."""

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from medarts.models.network import TrainedNetwork
from medarts.spaces.genotype import Cell, Genotype
from medarts.spaces.layers import Norm
from medarts.spaces.weave import lattice
from medarts.spaces.weave.frame import WeaveFrame
from medarts.spaces.weave.genotypes import check, paths_of
from medarts.spaces.weave.lattice import Node
from medarts.spaces.weave.operations import Move, OperationSettings, make_operation, preprocess


class WeaveCell(nn.Module):
    """A cell with its edges fixed: every node sums its edges, the output concatenates the nodes.

    Args:
        move: down, normal or up.
        edges: the incoming edges of every node.
        s0_channels: channels of the first input, None where it is absent; edges that read it then give nothing.
        s1_channels: channels of the second input.
        channels: c, the channels of every node.
        settings: shared by all operations.
        absent_edges: hold the operations of edges that read an absent s0, though nothing runs them. The published
            networks do, so their parameter counts contain them.
    """

    def __init__(
        self,
        move: Move,
        edges: Cell,
        *,
        s0_channels: int | None,
        s1_channels: int,
        channels: int,
        settings: OperationSettings,
        absent_edges: bool = False,
    ) -> None:
        super().__init__()
        self.move = move
        self.channels = channels
        self.edges = tuple(tuple(edge for edge in node if edge[1] != 0 or s0_channels is not None) for node in edges)
        read = partial(preprocess, affine=settings.affine, norm=settings.norm)
        self.input0 = read(s0_channels, channels) if s0_channels is not None else None
        self.input1 = read(s1_channels, channels)
        self.operations = nn.ModuleList(
            nn.ModuleList(make_operation(name, channels, settings) for name, _ in node) for node in self.edges
        )
        if s0_channels is None and absent_edges:
            names = [name for node in edges for name, state in node if state == 0]
            self.absent = nn.ModuleList(make_operation(name, channels, settings) for name in names)

    def forward(self, s0: Tensor | None, s1: Tensor) -> Tensor:
        """Returns the output, BCHW with nodes x c channels.

        Args:
            s0: the first input as read, that is, behind ``input0``; None where it is absent.
            s1: the second input as read, behind ``input1``.
        """
        states: list[Tensor | None] = [s0, s1]
        for node, operations in zip(self.edges, self.operations, strict=True):
            terms = [
                operation(read)
                for (_, state), operation in zip(node, cast(nn.ModuleList, operations), strict=True)
                if (read := states[state]) is not None
            ]
            states.append(sum(terms[1:], terms[0]) if terms else None)
        nodes = states[2:]
        if any(node is None for node in nodes):
            # Nodes all of whose edges end at an absent s0 are zeros.
            zeros = s1.new_zeros(self._node_shape(s1))
            nodes = [zeros if node is None else node for node in nodes]
        return torch.cat(cast(list[Tensor], nodes), dim=1)

    def _node_shape(self, s1: Tensor) -> tuple[int, int, int, int]:
        b, _, h, w = s1.shape
        if self.move == "down":
            return b, self.channels, h // 2, w // 2
        if self.move == "up":
            return b, self.channels, h * 2, w * 2
        return b, self.channels, h, w


class LatticeNetwork(TrainedNetwork):
    """What networks on the lattice have in common: sizes that they take, and heads that can be used alone.

    Args:
        depth: of the lattice.
        head_nodes: nodes that carry a head, early to last.
    """

    def __init__(self, depth: int, head_nodes: tuple[Node, ...]) -> None:
        super().__init__()
        self.depth = depth
        self.divisor: int = 2**depth
        self.head_nodes = head_nodes

    def check_size(self, size: int) -> None:
        """Refuses images that the lattice cannot halve down to its lowest level.

        Raises:
            RecipeError: ``size`` is no positive multiple of ``divisor``.
        """
        lattice.check_size(size, self.depth)

    def smallest_map(self, size: int) -> int:
        """Returns the height and width of the lowest level."""
        return size // self.divisor

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the heads, early to last: "2,0", "4,0", ..."""
        return tuple(f"{node.layer},{node.level}" for node in self.head_nodes)

    def wanted(self, head: str | None) -> tuple[Node, ...]:
        """Returns the node of a head; of all heads where None.

        Raises:
            ValueError: there is no such head.
        """
        return self.head_nodes if head is None else (self.head_nodes[self.heads.index(head)],)


class WeaveNetwork(LatticeNetwork):
    """A derived network; its heads give logits from early (fast) to last (best).

    Args:
        genotype: the architecture.
        in_channels: channels of the images.
        outputs: channels of the logits.
        norm: the kind of all norms. Batch norms use their running statistics in evaluation mode.

    Raises:
        GenotypeError: the genotype does not fit the weaved space; the message says why.
    """

    def __init__(self, genotype: Genotype, *, in_channels: int = 3, outputs: int = 1, norm: Norm = "group") -> None:
        settings = check(genotype)
        heads = lattice.heads(settings.depth, deep_supervision=settings.deep_supervision)
        super().__init__(settings.depth, heads)
        operations = OperationSettings(
            affine=True,
            norm=norm,
            shuffle_groups=settings.shuffle_groups,
            dropout_prob=settings.dropout_prob,
        )

        def make_cell(move: Move, s0: int | None, s1: int, channels: int) -> WeaveCell:
            return WeaveCell(
                move,
                genotype.cells[move],
                s0_channels=s0,
                s1_channels=s1,
                channels=channels,
                settings=operations,
                absent_edges=settings.absent_edges,
            )

        self.frame = WeaveFrame(
            paths=paths_of(genotype),
            heads=heads,
            make_cell=make_cell,
            widths=settings.widths,
            intermediate_nodes=settings.intermediate_nodes,
            in_channels=in_channels,
            outputs=outputs,
            affine=True,
            norm=norm,
        )

    def forward(self, x_bchw: Tensor, head: str | None = None) -> list[Tensor]:
        """Returns the logits of all heads, or of one alone, each BKHW at the size of the input.

        Args:
            x_bchw: images, height and width multiples of ``divisor``.
            head: a name of ``heads``; cells that it does not need are not run.

        Raises:
            ValueError: there is no such head.
        """
        return self.frame.run(x_bchw, _run_cell, heads=self.wanted(head))


def _run_cell(node: Node, move: Move, cell: nn.Module, s0: Tensor | None, s1: Tensor) -> Tensor:
    output: Tensor = cell(s0, s1)
    return output
