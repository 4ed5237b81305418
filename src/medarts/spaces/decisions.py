"""What a genotype decides, one thing after the other: the operation of an edge, the edges and the cells into a node.

A supernet lists its `Decision`s. Restricted (`Restriction`), it runs what was decided as the derived network will, and
all else as before, if wanted without one of the options: the loss says what that option is worth. Once everything is
decided, the restricted supernet is the discretised one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from medarts.spaces.genotype import EDGES_PER_NODE, NONE

Kind = Literal["operation", "edges", "paths"]


@dataclass(frozen=True, slots=True)
class Decision:
    """A choice among options.

    Attributes:
        kind: what is decided: the operation of an edge, the edges into a node of a cell (options are the states that
            they read), or the cells into a node of the lattice (options are their transitions).
        place: where: set and edge, kind of cell and node, or node of the lattice.
        options: those that there are.
        keep: how many of them the genotype has.
    """

    kind: Kind
    place: str
    options: tuple[str, ...]
    keep: int

    @property
    def name(self) -> str:
        """The kind and the place, such as ``operation normal 2<-0``."""
        return f"{self.kind} {self.place}"

    @property
    def is_open(self) -> bool:
        """Whether there are more options than are kept."""
        return len(self.options) > self.keep


@dataclass(frozen=True, slots=True)
class Restriction:
    """What a supernet leaves out.

    Attributes:
        kept: name of a decision that was made -> the options that it kept.
        without: name of one that was not, and an option that is left out; the weights of the others stay as they are.
    """

    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    without: tuple[str, str] | None = None

    def __bool__(self) -> bool:
        return bool(self.kept) or self.without is not None

    def has(self, name: str, option: str) -> bool:
        """Whether an option of a decision is there."""
        return option in self.kept.get(name, (option,)) and (name, option) != self.without


NOTHING = Restriction()


def operation_decision(place: str, candidates: Sequence[str]) -> Decision:
    """Returns the decision for the operation of an edge; ``none`` is no part of a genotype."""
    return Decision("operation", place, tuple(name for name in candidates if name != NONE), 1)


def edges_decisions(kind: str, edges: Sequence[tuple[int, int]]) -> list[Decision]:
    """Returns the decisions for the edges into every node of the cells of a kind."""
    found = []
    for node in dict.fromkeys(node for node, _ in edges):
        states = tuple(str(state) for into, state in edges if into == node)
        found.append(Decision("edges", node_place(kind, node), states, min(EDGES_PER_NODE, len(states))))
    return found


def node_place(kind: str, node: int) -> str:
    """Returns the place of the decision for the edges into a node of the cells of a kind."""
    return f"{kind} {node}"
