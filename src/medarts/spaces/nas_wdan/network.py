"""The network of a genotype."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from medarts.network import InferenceForm, Network
from medarts.network.layers import Norm
from medarts.spaces.genotype import Cell, Genotype
from medarts.spaces.nas_wdan import fused
from medarts.spaces.nas_wdan.frame import NasWdanFrame, node_shape
from medarts.spaces.nas_wdan.genotypes import check, paths_of
from medarts.spaces.nas_wdan.lattice import Node, check_lattice_size, divisor_of, head_name, head_nodes, removable
from medarts.spaces.nas_wdan.operations import OperationSettings, Transition, make_operation, preprocess, set_of_edge


class NasWdanCell(nn.Module):
    """A cell with its edges fixed: every node sums its edges, the output concatenates the nodes.

    Args:
        transition: down, normal or up.
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
        transition: Transition,
        edges: Cell,
        *,
        s0_channels: int | None,
        s1_channels: int,
        channels: int,
        settings: OperationSettings,
        absent_edges: bool = False,
    ) -> None:
        super().__init__()
        self.transition = transition
        self.channels = channels
        self.edges = tuple(tuple(edge for edge in node if edge[1] != 0 or s0_channels is not None) for node in edges)
        read = partial(preprocess, affine=settings.affine, norm=settings.norm)
        self.input0 = read(s0_channels, channels) if s0_channels is not None else None
        self.input1 = read(s1_channels, channels)
        self.operations = nn.ModuleList(
            nn.ModuleList(
                make_operation(set_of_edge(transition, state), name, channels, settings) for name, state in node
            )
            for node in self.edges
        )
        if s0_channels is None and absent_edges:
            names = [name for node in edges for name, state in node if state == 0]
            self.absent = nn.ModuleList(make_operation("normal", name, channels, settings) for name in names)

    @property
    def reads_all_inputs(self) -> bool:
        """Whether edges read both inputs, as far as they are there."""
        states = {state for node in self.edges for _, state in node}
        return 1 in states and (0 in states or self.input0 is None)

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
            zeros = s1.new_zeros(node_shape(self.transition, self.channels, s1))
            nodes = [zeros if node is None else node for node in nodes]
        return torch.cat(cast(list[Tensor], nodes), dim=1)


class OnLattice(Network):
    """What the network of a genotype and its form for inference have in common: sizes that they take, and heads.

    Subclasses set ``depth`` of the lattice, ``stem_stride``, and ``head_nodes``, the nodes that carry a head, early to
    last.
    """

    depth: int
    stem_stride: int
    head_nodes: tuple[Node, ...]

    @property
    def divisor(self) -> int:
        """What divides the height and width of images."""
        return divisor_of(self.depth, stem_stride=self.stem_stride)

    def check_size(self, size: int) -> None:
        """Refuses images that the lattice cannot halve down to its lowest level.

        Raises:
            RecipeError: ``size`` is not a positive multiple of ``divisor``.
        """
        check_lattice_size(size, self.depth, stem_stride=self.stem_stride)

    def smallest_map(self, size: int) -> int:
        """Returns the height and width of the lowest level."""
        return size // self.divisor

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the heads, early to last: "2,0", "4,0", ..."""
        return tuple(map(head_name, self.head_nodes))

    def nodes_of(self, heads: Sequence[str] | None) -> tuple[Node, ...]:
        """Returns the nodes of heads. Default: of all heads."""
        return self.head_nodes if heads is None else tuple(self.head_nodes[self.heads.index(head)] for head in heads)


class NasWdanNetwork(OnLattice):
    """A derived network; its heads give logits from early (fast) to last (best).

    Args:
        genotype: the architecture.
        in_channels: channels of the images.
        outputs: channels of the logits.
        norm: the kind of all norms. Batch norms use their running statistics in evaluation mode.

    Raises:
        GenotypeError: the genotype does not fit the space; the message says why.
    """

    def __init__(self, genotype: Genotype, *, in_channels: int = 3, outputs: int = 1, norm: Norm = "group") -> None:
        super().__init__()
        settings = check(genotype)
        self.depth, self.stem_stride = settings.depth, settings.stem_stride
        self.head_nodes = head_nodes(settings.depth, deep_supervision=settings.deep_supervision)
        operations = OperationSettings(
            affine=True,
            norm=norm,
            shuffle_groups=settings.shuffle_groups,
            dropout_prob=settings.dropout_prob,
        )

        def make_cell(transition: Transition, s0: int | None, s1: int, channels: int) -> NasWdanCell:
            return NasWdanCell(
                transition,
                genotype.cells[transition],
                s0_channels=s0,
                s1_channels=s1,
                channels=channels,
                settings=operations,
                absent_edges=settings.absent_edges,
            )

        self.frame = NasWdanFrame(
            paths=paths_of(genotype),
            heads=self.head_nodes,
            make_cell=make_cell,
            widths=settings.widths,
            intermediate_nodes=settings.intermediate_nodes,
            in_channels=in_channels,
            outputs=outputs,
            affine=True,
            norm=norm,
            stem_stride=settings.stem_stride,
            stem_channels=settings.stem_channels,
            full_size_head=settings.full_size_head,
        )

    def forward_heads(self, x_bchw: Tensor, heads: Sequence[str] | None = None) -> list[Tensor]:
        """Returns the logits of heads, each BKHW at the size of the input; cells that they do not need are not run."""
        return self.frame.run(x_bchw, _run_cell, heads=self.nodes_of(heads))

    @property
    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """The shifts of the heads."""
        return self.frame.output_biases

    @property
    def removable_parts(self) -> tuple[str, ...]:
        """The cells whose node of the lattice keeps another one, by their keys: "4_0_up" leads up into node (4, 0)."""
        return removable(self.frame.paths)

    def take_away(self, parts: Sequence[str], heads: Sequence[str] | None = None) -> None:
        """Takes cells and heads away; see `Network.take_away`.

        A node then lacks the output of such a cell in its sum, as if it were zero. Levels of the lattice may go too:
        smaller images are taken then. Operations of absent edges always go, as no head needs them.
        """
        self.frame.take_away(parts, self.nodes_of(self._kept(heads)))
        self.head_nodes = self.frame.head_nodes
        self.depth = 1 + max(node.level for node in self.frame.paths)
        for cell in self.frame.cells.values():
            if hasattr(cell, "absent"):
                del cell.absent

    def inference_form(self, dtype: torch.dtype) -> InferenceForm | None:
        """Returns the network laid out for inference on a CPU; None where it has operations that users registered.

        The form shares a ReLU among all operations that read a state, which only the published ones are known to allow.
        """
        cells = cast(Iterable[NasWdanCell], self.frame.cells.values())
        if any(name not in fused.KNOWN for cell in cells for node in cell.edges for name, _ in node):
            return None
        from medarts.spaces.nas_wdan.inference import NasWdanInference

        return NasWdanInference(self, dtype=dtype)

    def training_form(self) -> Network:
        """Returns the network laid out for training on a CPU; itself where that would not train it alike.

        Which activations are dropped inside cells depends on the order of the operations, which is another one there.
        And weights behind inputs that no edge reads, which no derived genotype has, would get gradients of zero instead
        of none, so that weight decay would change them.
        """
        cells = cast(Iterable[NasWdanCell], self.frame.cells.values())
        drops = any(isinstance(part, nn.Dropout) for part in self.frame.cells.modules())
        if drops or not all(cell.reads_all_inputs for cell in cells):
            return self
        from medarts.spaces.nas_wdan.training import NasWdanTraining

        return NasWdanTraining(self)


def _run_cell(node: Node, transition: Transition, cell: nn.Module, s0: Tensor | None, s1: Tensor) -> Tensor:
    output: Tensor = cell(s0, s1)
    return output
