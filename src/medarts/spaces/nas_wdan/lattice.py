"""The lattice: its nodes, what leads into them, and what a network keeps of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from medarts.errors import RecipeError, RunError, did_you_mean, quoted
from medarts.spaces.genotype import KeptCells
from medarts.spaces.nas_wdan.operations import TRANSITIONS, Transition


class Node(NamedTuple):
    """A node of the lattice."""

    layer: int
    level: int


STEM = Node(0, 0)

Paths = dict[Node, tuple[Transition, ...]]
"""The transitions into every node but the stem's, in the order of the layers."""


def lattice_layers(depth: int) -> int:
    """Returns the number of layers of a lattice of ``depth``, the stem's included."""
    return 2 * depth - 1


def lattice_nodes(depth: int) -> tuple[Node, ...]:
    """Returns all nodes, layer by layer, the stem's first."""
    last = lattice_layers(depth) - 1
    return tuple(
        Node(t, level) for t in range(last + 1) for level in range(min(t, last - t) + 1) if (t - level) % 2 == 0
    )


def lattice_inputs(node: Node, transition: Transition) -> tuple[Node, Node]:
    """Returns the nodes that give s0 and s1 to a transition into ``node``; s0 may lie outside the lattice."""
    t, level = node
    if transition == "down":
        return Node(t - 2, level), Node(t - 1, level - 1)
    if transition == "up":
        return Node(t - 2, level), Node(t - 1, level + 1)
    return Node(t - 4, level), Node(t - 2, level)


def all_paths(depth: int) -> Paths:
    """Returns every transition that exists: those whose s1 is a node of the lattice."""
    present = set(lattice_nodes(depth))
    return {
        node: tuple(transition for transition in TRANSITIONS if lattice_inputs(node, transition)[1] in present)
        for node in lattice_nodes(depth)
        if node != STEM
    }


def head_nodes(depth: int, *, deep_supervision: bool) -> tuple[Node, ...]:
    """Returns the top-row nodes that carry a head: all behind the stem, or the last alone."""
    top = tuple(node for node in lattice_nodes(depth) if node.level == 0 and node != STEM)
    return top if deep_supervision else top[-1:]


def reaching(paths: Mapping[Node, tuple[Transition, ...]], ends: tuple[Node, ...]) -> Paths:
    """Returns the paths without the cells from which no head of ``ends`` is reached."""
    needed: set[Node] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node in needed or node not in paths:
            continue
        needed.add(node)
        for transition in paths[node]:
            waiting.extend(lattice_inputs(node, transition))
    return {node: transitions for node, transitions in paths.items() if node in needed}


def removable(paths: Mapping[Node, tuple[Transition, ...]]) -> tuple[str, ...]:
    """Returns the keys of the cells whose node keeps another one, so that it still has a state for those who read it.

    ``paths`` are those that reach a head: a node among them is read by another or has a head.
    """
    return tuple(
        cell_key(node, transition)
        for node, transitions in paths.items()
        if len(transitions) > 1
        for transition in transitions
    )


def without_cells(paths: Mapping[Node, tuple[Transition, ...]], cells: Sequence[str], ends: tuple[Node, ...]) -> Paths:
    """Returns the paths without cells, and without those from which no head of ``ends`` is reached then.

    Raises:
        RunError: there is no such cell, or a node that is read or has a head would keep none.
    """
    known = {cell_key(node, transition) for node, transitions in paths.items() for transition in transitions}
    unknown = [key for key in cells if key not in known]
    if unknown:
        raise RunError(f"The lattice has no cell {quoted(unknown[0])}.", fix=did_you_mean(unknown[0], known))
    left = {
        node: tuple(transition for transition in transitions if cell_key(node, transition) not in cells)
        for node, transitions in paths.items()
    }
    reached = reaching(left, ends)
    for node, transitions in reached.items():
        if not transitions:
            raise RunError(
                f"Node ({node.layer},{node.level}), which is read or has a head, would keep no cell.",
                fix=f"Keep one of {', '.join(cell_key(node, transition) for transition in paths[node])}.",
            )
    return reached


def random_paths(depth: int, number: Callable[[int], int], generator: np.random.Generator) -> Paths:
    """Returns some of the transitions into every node, each choice of as many having equal chances.

    Args:
        depth: of the lattice.
        number: transitions that a node has -> how many of them it keeps, 1 or more.
        generator: of the random choice.
    """
    paths = {}
    for node, transitions in all_paths(depth).items():
        chosen = generator.choice(len(transitions), size=number(len(transitions)), replace=False)
        paths[node] = tuple(transitions[place] for place in sorted(chosen))
    return paths


def completed(paths: Paths, depth: int, ends: tuple[Node, ...]) -> Paths:
    """Returns paths with all transitions into the nodes that have none though a path or a head of ``ends`` reads them.

    Paths that come from a search lack the nodes that it left out; a path or a head that is added may need them.
    """
    possible, found = all_paths(depth), dict(paths)
    waiting = [*ends, *_read_by(paths)]
    while waiting:
        node = waiting.pop()
        if node in possible and node not in found:
            found[node] = possible[node]
            waiting.extend(_read_by({node: possible[node]}))
    return found


def _read_by(paths: Paths) -> Iterable[Node]:
    return (read for node, transitions in paths.items() for kind in transitions for read in lattice_inputs(node, kind))


def at_depth(paths: Paths, *, before: int, depth: int) -> Paths:
    """Returns the paths of a lattice of depth ``before`` in one of ``depth``.

    Nodes that are new have all their transitions, and so have those that kept none but what is lost with a level below.
    """
    known = set(lattice_nodes(before))
    found = {}
    for node, transitions in all_paths(depth).items():
        if node not in known:
            found[node] = transitions
        elif node in paths:
            found[node] = tuple(kind for kind in paths[node] if kind in transitions) or transitions
    return found


def size_at(level: int, length: int, *, stem_stride: int) -> int:
    """Returns the height or width of the maps of a level, of an image of that length."""
    return length // (stem_stride << level)


def divisor_of(depth: int, *, stem_stride: int) -> int:
    """Returns what divides the height and width of images."""
    return int(stem_stride * 2 ** (depth - 1))


def check_lattice_size(size: int, depth: int, *, stem_stride: int = 2) -> None:
    """Refuses images that a lattice cannot halve down to its lowest level.

    Raises:
        RecipeError: ``size`` is not a positive multiple of 2^depth, or of half of that without a stride of the stem.
    """
    divisor = divisor_of(depth, stem_stride=stem_stride)
    if size < 1 or size % divisor:
        below, times = max(0, size // divisor * divisor), divisor.bit_length() - 1
        raise RecipeError(
            f"The size {size} cannot be halved {times} times, as a lattice of depth {depth} does.",
            fix=f"Use {f'{below} or ' if below else ''}{below + divisor}.",
        )


def width_of(level: int, *, init_channel: int, double_down_channel: bool) -> int:
    """Returns c, the channels of the intermediate nodes of a cell at ``level``."""
    return init_channel * 2**level if double_down_channel else init_channel


def to_kept(paths: Mapping[Node, tuple[Transition, ...]]) -> tuple[KeptCells, ...]:
    """Returns paths in the form of a genotype."""
    return tuple(KeptCells(node.layer, node.level, tuple(transitions)) for node, transitions in sorted(paths.items()))


def node_key(node: Node) -> str:
    """Returns the name of a node's head among ``NasWdanFrame.heads``."""
    return f"{node.layer}_{node.level}"


def head_name(node: Node) -> str:
    """Returns the name of a node's head for users."""
    return f"{node.layer},{node.level}"


def cell_key(node: Node, transition: Transition) -> str:
    """Returns the name of a cell among ``NasWdanFrame.cells``."""
    return f"{node_key(node)}_{transition}"
