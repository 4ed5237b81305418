"""The geometry of the weaved lattice: nodes, moves, what a move reads, which paths reach a head.

Source: NAS-WDAN / MixSearch (arXiv 2102.13280). A node is (t, l): layer t counted from the stem, level l with
1/2^(l+1) of the input's resolution.
"""

from collections.abc import Mapping
from typing import NamedTuple

from medarts.errors import RecipeError
from medarts.spaces.genotype import KeptMoves
from medarts.spaces.weave.operations import MOVES, Move


class Node(NamedTuple):
    """A node of the lattice."""

    layer: int
    level: int


STEM = Node(0, 0)

Paths = dict[Node, tuple[Move, ...]]
"""The moves into every node but the stem's, in the order of the layers."""


def layers(depth: int) -> int:
    """Returns the number of layers of a lattice of ``depth``, the stem's included."""
    return 2 * depth - 1


def nodes(depth: int) -> tuple[Node, ...]:
    """Returns all nodes, layer by layer, the stem's first."""
    last = layers(depth) - 1
    return tuple(
        Node(t, level) for t in range(last + 1) for level in range(min(t, last - t) + 1) if (t - level) % 2 == 0
    )


def inputs(node: Node, move: Move) -> tuple[Node, Node]:
    """Returns the nodes that give s0 and s1 to a move into ``node``; s0 may lie outside the lattice."""
    t, level = node
    if move == "down":
        return Node(t - 2, level), Node(t - 1, level - 1)
    if move == "up":
        return Node(t - 2, level), Node(t - 1, level + 1)
    return Node(t - 4, level), Node(t - 2, level)


def all_paths(depth: int) -> Paths:
    """Returns every move that exists: those whose s1 is a node of the lattice."""
    present = set(nodes(depth))
    return {
        node: tuple(move for move in MOVES if inputs(node, move)[1] in present) for node in nodes(depth) if node != STEM
    }


def heads(depth: int, *, deep_supervision: bool) -> tuple[Node, ...]:
    """Returns the top-row nodes that carry a head: all behind the stem, or the last alone."""
    top = tuple(node for node in nodes(depth) if node.level == 0 and node != STEM)
    return top if deep_supervision else top[-1:]


def reaching(paths: Mapping[Node, tuple[Move, ...]], ends: tuple[Node, ...]) -> Paths:
    """Returns the paths without the cells from which no head of ``ends`` is reached."""
    needed: set[Node] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node in needed or node not in paths:
            continue
        needed.add(node)
        for move in paths[node]:
            waiting.extend(inputs(node, move))
    return {node: moves for node, moves in paths.items() if node in needed}


def check_size(size: int, depth: int) -> None:
    """Refuses images that a lattice cannot halve down to its lowest level.

    Raises:
        RecipeError: ``size`` is no positive multiple of 2^depth.
    """
    divisor = 2**depth
    if size < 1 or size % divisor:
        below = max(0, size // divisor * divisor)
        raise RecipeError(
            f"The size {size} cannot be halved {depth} times, as a lattice of depth {depth} does.",
            fix=f"Use {f'{below} or ' if below else ''}{below + divisor}.",
        )


def width(level: int, *, init_channel: int, double_down_channel: bool) -> int:
    """Returns c, the channels of the intermediate nodes of a cell at ``level``."""
    return init_channel * 2**level if double_down_channel else init_channel


def to_kept(paths: Mapping[Node, tuple[Move, ...]]) -> tuple[KeptMoves, ...]:
    """Returns paths in the form of a genotype."""
    return tuple(KeptMoves(node.layer, node.level, tuple(moves)) for node, moves in sorted(paths.items()))
