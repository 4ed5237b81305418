"""The nodes and paths of a network as its search space tells them to whoever draws it."""

from dataclasses import dataclass

Node = tuple[int, int]
"""Layer, counted from the stem, and level; from level to level the resolution halves, see `Lattice.stem_stride`."""


@dataclass(frozen=True, slots=True)
class Path:
    """A cell between two nodes.

    Attributes:
        source: the node that it reads.
        target: the node that it leads into.
        kind: of the cell.
        kept: whether the genotype keeps it.
    """

    source: Node
    target: Node
    kind: str
    kept: bool


@dataclass(frozen=True, slots=True)
class Lattice:
    """All paths that a space allows, and the nodes with an output; the first node is the stem.

    The input's resolution is ``stem_stride`` times that of level 0. The head of the node ``full_size``, if any, also
    reads the stem, where that still has the input's resolution.
    """

    paths: tuple[Path, ...]
    heads: tuple[Node, ...]
    stem_stride: int
    full_size: Node | None = None
