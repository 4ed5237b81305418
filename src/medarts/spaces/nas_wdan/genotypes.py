"""What genotypes of the space hold: checks, paths, edges, and changes of them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np

from medarts.config.section import DEEPEST, MOST_CHANNELS, MOST_NODES
from medarts.errors import GenotypeError
from medarts.spaces.genotype import (
    COPY_AGAIN,
    Cell,
    Genotype,
    Setting,
    check_cell,
    check_range,
    check_space,
    read_settings,
)
from medarts.spaces.nas_wdan.lattice import (
    Node,
    Paths,
    all_paths,
    at_depth,
    completed,
    head_nodes,
    lattice_inputs,
    reaching,
    to_kept,
)
from medarts.spaces.nas_wdan.operations import OPERATIONS, TRANSITIONS, Transition, set_of_edge
from medarts.spaces.nas_wdan.settings import SPACE, LatticeSettings
from medarts.spaces.sampling import CandidatesOf, Mutation, cells_with_nodes, in_order, without_none


def check(genotype: Genotype) -> LatticeSettings:
    """Returns the settings of a genotype that fits the space.

    Raises:
        GenotypeError: it is of another space, or a setting, an operation, a state or a path does not exist.
    """
    check_space(genotype, SPACE, OPERATIONS)
    settings = _settings(genotype)
    for transition in TRANSITIONS:
        check_cell(
            genotype,
            transition,
            intermediate_nodes=settings.intermediate_nodes,
            operations=partial(operations_of, transition),
        )
    _check_paths(genotype, settings)
    return settings


def paths_of(genotype: Genotype) -> Paths:
    """Returns the kept paths that reach a head."""
    settings = _settings(genotype)
    return reaching(kept_paths(genotype), head_nodes(settings.depth, deep_supervision=settings.deep_supervision))


def kept_paths(genotype: Genotype) -> Paths:
    """Returns all paths that a genotype names, whether they reach a head or not."""
    transitions = {
        Node(kept.layer, kept.level): tuple(transition for transition in TRANSITIONS if transition in kept.transitions)
        for kept in genotype.paths
    }
    return dict(sorted(transitions.items()))


def run_edges(cell: Cell, *, reads_s0: bool) -> Cell:
    """Returns the edges of a cell that are run, by their states: without s0, those that come from it are not.

    Nor are those from nodes that read nothing else, which are zeros.
    """
    silent = set() if reads_s0 else {0}
    found = []
    for node, edges in enumerate(cell):
        found.append(in_order(edge for edge in edges if edge[1] not in silent))
        if not found[-1]:
            silent.add(2 + node)
    return tuple(found)


def candidates_of(operations: Mapping[str, tuple[str, ...]]) -> CandidatesOf:
    """Returns what can be used on an edge in the cells of a transition.

    Args:
        operations: set -> its candidates, for sets that have others than the published.
    """

    def candidates(transition: str, state: int) -> list[str]:
        kind = set_of_edge(cast(Transition, transition), state)
        return without_none(operations.get(kind, OPERATIONS[kind].published))

    return candidates


def path_changes(genotype: Genotype, settings: LatticeSettings) -> Iterator[Mutation]:
    """Yields genotypes with one path less, or one more into a node that has one.

    A path that reads a node without paths brings all that lead there.
    """
    kept = kept_paths(genotype)
    ends = head_nodes(settings.depth, deep_supervision=settings.deep_supervision)
    for node, possible in all_paths(settings.depth).items():
        present = kept.get(node, ())
        for transition in possible if present else ():
            others = tuple(kind for kind in possible if (kind in present) != (kind == transition))
            if others:
                paths = completed({**kept, node: others}, settings.depth, ends)
                done = "removed" if transition in present else "added"
                yield Mutation(path_words(transition, node, done), replace(genotype, paths=to_kept(paths)))


def path_words(transition: Transition, node: Node, done: str) -> str:
    """Returns what was done to a path as words."""
    return f"path {transition} into node ({node.layer},{node.level}) {done}"


def with_setting(
    genotype: Genotype,
    name: str,
    value: Setting,
    *,
    candidates: CandidatesOf,
    generator: np.random.Generator,
) -> Genotype:
    """Returns a genotype with another value of a macro setting, and the cells and paths that it then has.

    Args:
        genotype: which has to fit the space.
        name: of the setting.
        value: of it.
        candidates: operations of the edges of nodes that are added.
        generator: of the random choice of these edges.
    """
    before = check(genotype)
    changed = replace(before, **{name: value})  # type: ignore[arg-type]  # a value of that setting
    cells = genotype.cells
    if name == "intermediate_nodes":
        cells = cells_with_nodes(cells, int(value), candidates=candidates, generator=generator)
    paths = completed(
        at_depth(kept_paths(genotype), before=before.depth, depth=changed.depth),
        changed.depth,
        head_nodes(changed.depth, deep_supervision=changed.deep_supervision),
    )
    return replace(genotype, settings=changed.to_mapping(), cells=cells, paths=to_kept(paths))


def _settings(genotype: Genotype) -> LatticeSettings:
    settings = read_settings(genotype, LatticeSettings)
    for name, low, high in (
        ("depth", 3, DEEPEST),
        ("init_channel", 2, MOST_CHANNELS),
        ("intermediate_nodes", 1, MOST_NODES),
        ("shuffle_groups", 1, MOST_CHANNELS),
        ("stem_stride", 1, 2),
        ("stem_channels", 2, MOST_CHANNELS),
    ):
        check_range(genotype, name, getattr(settings, name), low, high)
    if not 0 <= settings.dropout_prob < 1:
        raise GenotypeError(
            f"Genotype '{genotype.name}' has dropout_prob {settings.dropout_prob}.", fix="Use 0 to below 1."
        )
    if any(c % settings.shuffle_groups for c in settings.widths):
        raise GenotypeError(
            f"Genotype '{genotype.name}': shuffle_groups {settings.shuffle_groups} does not divide the widths "
            f"{settings.widths}.",
            fix="Use a divisor of init_channel.",
        )
    return settings


def operations_of(transition: Transition, state: int) -> tuple[str, ...]:
    """Returns the operations for edges from a state in the cells of a transition, registered ones included."""
    return tuple(OPERATIONS[set_of_edge(transition, state)])


def _check_paths(genotype: Genotype, settings: LatticeSettings) -> None:
    depth = settings.depth
    possible = all_paths(depth)
    kept = {Node(entry.layer, entry.level): entry.transitions for entry in genotype.paths}
    if len(kept) < len(genotype.paths):
        raise GenotypeError(f"Genotype '{genotype.name}' names a node of the lattice twice.", fix=COPY_AGAIN)
    for node, transitions in kept.items():
        if (
            not transitions
            or len(set(transitions)) < len(transitions)
            or not set(transitions) <= set(possible.get(node, ()))
        ):
            raise GenotypeError(
                f"Genotype '{genotype.name}': node ({node.layer},{node.level}) keeps {list(transitions)}, a lattice of "
                f"depth {depth} has {list(possible.get(node, ()))} there.",
                fix=COPY_AGAIN,
            )
    needed = set(head_nodes(depth, deep_supervision=settings.deep_supervision))
    for node, transitions in kept.items():
        for transition in TRANSITIONS:
            if transition in transitions:
                needed.update(read for read in lattice_inputs(node, transition) if read in possible)
    missing = sorted(needed - set(kept))
    if missing:
        raise GenotypeError(
            f"Genotype '{genotype.name}' keeps no path into node ({missing[0].layer},{missing[0].level}), which a "
            "head or a kept path reads.",
            fix=COPY_AGAIN,
        )
