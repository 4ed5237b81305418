"""Sampling genotypes: random cells and settings, and the single changes that lead to the neighbours of a genotype.

The spaces put these parts together in ``sample`` and ``changes``. A random node is one that deriving could have kept:
two edges, from different states. Changes of one operation and of the state that one edge reads are the mutations of
regularized evolution (arXiv 1802.01548); those of paths and of macro settings are this project's.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from pydantic import AfterValidator, Field

from medarts.config.section import Section
from medarts.spaces.genotype import EDGES_PER_NODE, NONE, RANDOM, Cell, Edge, Genotype, KeptCells, Setting
from medarts.system.randomness import seed_of

CandidatesOf = Callable[[str, int], Sequence[str]]
"""(kind of cell, state) -> the operations that an edge from that state may get."""

Value = TypeVar("Value")


def _each_once(values: tuple[Value, ...]) -> tuple[Value, ...]:
    if len(set(values)) < len(values):
        raise ValueError("a value appears twice; name each once")
    return values


Choices = Annotated[tuple[Value, ...], Field(min_length=1, max_length=100), AfterValidator(_each_once)]
"""The values of a macro setting that sampled networks may have."""


class Mutation(NamedTuple):
    """A genotype that differs from another in one thing.

    Attributes:
        words: what changed, such as "depth: 4 -> 5".
        genotype: the changed one.
    """

    words: str
    genotype: Genotype


# At random


def random_node(
    node: int, operations: Callable[[int], Sequence[str]], generator: np.random.Generator
) -> tuple[Edge, ...]:
    """Returns the edges of a node: from different earlier states, as many as deriving keeps, sampled uniformly.

    Args:
        node: its number in the cell.
        operations: state -> the operations that can be used on an edge from it.
        generator: of the random choice.
    """
    states = generator.choice(2 + node, size=EDGES_PER_NODE, replace=False)
    return tuple((str(generator.choice(operations(state))), state) for state in sorted(map(int, states)))


def random_cells(
    kinds: Iterable[str], intermediate_nodes: int, *, candidates: CandidatesOf, generator: np.random.Generator
) -> dict[str, Cell]:
    """Returns a cell of every kind, all its nodes random.

    Args:
        kinds: of cells.
        intermediate_nodes: nodes of a cell.
        candidates: the operations of its edges.
        generator: of the random choice.
    """
    return {
        kind: tuple(random_node(node, partial(candidates, kind), generator) for node in range(intermediate_nodes))
        for kind in kinds
    }


def random_like(like: Genotype, cells: Mapping[str, Cell], *, seed: int, paths: tuple[KeptCells, ...] = ()) -> Genotype:
    """Returns a random genotype of sampled cells and paths, with everything else of another."""
    provenance: dict[str, str | int | float] = {"source": RANDOM, "seed": seed, "like": like.name}
    name = f"{like.name}-random-{seed}"
    return replace(like, name=name, cells=cells, paths=paths, provenance=provenance, origin=None)


def random_settings(choices: Section, *, seed: int) -> dict[str, Any]:
    """Returns a value for every macro setting of ``choices``, each sampled uniformly.

    The generator is not that of the cells, which thus do not depend on how many settings have a choice.
    """
    generator = np.random.default_rng(seed_of(seed, "macro settings"))
    return {name: values[generator.integers(len(values))] for name, values in choices}


def without_none(names: Iterable[str]) -> list[str]:
    """Returns candidates of a search that a genotype can have."""
    return [name for name in names if name != NONE]


def in_order(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Returns the edges of a node by their states, as they have no order of their own: the node is their sum."""
    return tuple(sorted(edges, key=lambda edge: (edge[1], edge[0])))


# One change


def operation_changes(genotype: Genotype, candidates: CandidatesOf) -> Iterator[Mutation]:
    """Yields genotypes that have another of the candidates on one edge."""
    for kind, node, place, (operation, state) in _edges(genotype):
        for other in candidates(kind, state):
            if other != operation:
                words = f"{kind} cell, node {node}, from {state_name(state)}: {operation} -> {other}"
                yield Mutation(words, _with_edge(genotype, kind, node, place, (other, state)))


def edge_changes(genotype: Genotype, candidates: CandidatesOf, generator: np.random.Generator) -> Iterator[Mutation]:
    """Yields genotypes one edge of which reads another state, which its node does not read yet.

    The edge keeps its operation where that can be used on the new state, and gets a random one elsewhere, such as
    where a down cell now reads s1, whose resolution has to be halved.
    """
    for kind, node, place, (operation, state) in _edges(genotype):
        read = {of for _, of in genotype.cells[kind][node]}
        for other in sorted(set(range(2 + node)) - read):
            names = candidates(kind, other)
            named = operation if operation in names else str(generator.choice(names))
            words = (
                f"{kind} cell, node {node}: {operation} from {state_name(state)} -> {named} from {state_name(other)}"
            )
            yield Mutation(words, _with_edge(genotype, kind, node, place, (named, other)))


def cells_with_nodes(
    cells: Mapping[str, Cell], intermediate_nodes: int, *, candidates: CandidatesOf, generator: np.random.Generator
) -> dict[str, Cell]:
    """Returns cells whose last nodes are dropped, or that have random ones added at their end."""
    longer = random_cells(cells, intermediate_nodes, candidates=candidates, generator=generator)
    return {kind: (*cell[:intermediate_nodes], *longer[kind][len(cell) :]) for kind, cell in cells.items()}


def nearest_choices(choices: Section, settings: Mapping[str, Setting]) -> Iterator[tuple[str, Setting, Setting]]:
    """Yields (name, value, other value) of macro settings: the nearest choice below and the nearest above the value.

    Args:
        choices: the values that sampled networks may have.
        settings: those of a genotype; their values need not be among the choices.
    """
    for name, values in choices:
        present = settings[name]
        below, above = ([v for v in values if v < present], [v for v in values if v > present])
        for other in (*sorted(below)[-1:], *sorted(above)[:1]):
            yield name, present, other


def repeated(genotype: Genotype, reduce: Callable[[Genotype], Mutation | None]) -> Iterator[Mutation]:
    """Yields a genotype reduced once, twice and so on, until nothing is left to take away."""
    while (smaller := reduce(genotype)) is not None:
        yield smaller
        genotype = smaller.genotype


def cheaper_setting(
    choices: Section,
    settings: Mapping[str, Setting],
    change: Callable[[str, Setting], Genotype],
    *,
    larger: Collection[str] = (),
) -> Mutation | None:
    """Returns a genotype with the nearest cheaper value of the first macro setting that has one; None where none has.

    Args:
        choices: the values of macro settings.
        settings: of the genotype.
        change: makes the genotype with a value of a setting.
        larger: names of settings of which larger values are cheaper.
    """
    for name, present, other in nearest_choices(choices, settings):
        if (other > present) == (name in larger):  # type: ignore[operator]  # two values of one setting
            return Mutation(setting_words(name, present, other), change(name, other))
    return None


def setting_words(name: str, present: Setting, other: Setting) -> str:
    """Returns a change of a macro setting as words of a recipe."""
    return f"{name}: {str(present).lower()} -> {str(other).lower()}"


def state_name(state: int) -> str:
    """Returns what a state is called: s0, s1, node 0, node 1, ..."""
    return f"s{state}" if state < 2 else f"node {state - 2}"


def _edges(genotype: Genotype) -> Iterator[tuple[str, int, int, Edge]]:
    """Yields (kind of cell, node, place among its edges, edge)."""
    for kind, cell in genotype.cells.items():
        for node, edges in enumerate(cell):
            for place, edge in enumerate(edges):
                yield kind, node, place, edge


def _with_edge(genotype: Genotype, kind: str, node: int, place: int, edge: Edge) -> Genotype:
    cell = genotype.cells[kind]
    edges = (*cell[node][:place], edge, *cell[node][place + 1 :])
    return replace(genotype, cells={**genotype.cells, kind: (*cell[:node], edges, *cell[node + 1 :])})
