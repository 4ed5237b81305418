"""The nodes and paths of a network as its search space tells them to whoever draws it."""

from dataclasses import dataclass

Node = tuple[int, int]
"""Layer, counted from the stem, and level; a node has 1/2^(level + 1) of the input's resolution."""


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
    """All paths that a space allows, and the nodes with an output; the first node is the stem."""

    paths: tuple[Path, ...]
    heads: tuple[Node, ...]
