"""Genotypes of the weaved space: their settings, and the check that one fits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import cast

from medarts.errors import GenotypeError, did_you_mean
from medarts.recipe import WeaveSettings
from medarts.spaces.cell import NONE
from medarts.spaces.genotype import Genotype
from medarts.spaces.weave import lattice
from medarts.spaces.weave.lattice import Node, Paths
from medarts.spaces.weave.operations import MOVES, SETS, Move, set_of_edge

SPACE = "weave"


@dataclass(frozen=True, slots=True)
class LatticeSettings:
    """The values that fix a network of the weaved space besides its cells and paths.

    Attributes:
        depth: depth D of the lattice, from 3 up.
        init_channel: C, channels of a cell's nodes at level 0.
        double_down_channel: C doubles at every level below.
        intermediate_nodes: nodes of a cell.
        shuffle_groups: groups of shuffle_conv.
        deep_supervision: a head on every top-row node, otherwise on the last alone.
        dropout_prob: dropout inside the operations while training.
        absent_edges: cells hold the operations of edges that read an absent s0, as the published networks do.
    """

    depth: int
    init_channel: int
    double_down_channel: bool
    intermediate_nodes: int
    shuffle_groups: int = 1
    deep_supervision: bool = True
    dropout_prob: float = 0.0
    absent_edges: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """C of every level."""
        return tuple(
            lattice.width(level, init_channel=self.init_channel, double_down_channel=self.double_down_channel)
            for level in range(self.depth)
        )

    def to_mapping(self) -> Mapping[str, int | float | bool]:
        """Returns the settings in the form of a genotype."""
        return asdict(self)


def check(genotype: Genotype) -> LatticeSettings:
    """Returns the settings of a genotype that fits the weaved space.

    Raises:
        GenotypeError: it is of another space, or a setting, an operation, a state or a path does not exist.
    """
    if genotype.space != SPACE:
        raise GenotypeError(
            f"Genotype '{genotype.name}' is of the space '{genotype.space}', not '{SPACE}'.",
            fix="Use it with the recipe it was searched by.",
        )
    settings = _settings(genotype)
    for move in MOVES:
        _check_cell(genotype, move, settings.intermediate_nodes)
    _check_paths(genotype, settings)
    return settings


def space_settings(genotype: Genotype) -> WeaveSettings:
    """Returns the settings of a genotype as the section of a recipe."""
    settings = check(genotype)
    return WeaveSettings(**{name: getattr(settings, name) for name in WeaveSettings.model_fields if name != "name"})


def paths_of(genotype: Genotype) -> Paths:
    """Returns the kept paths that reach a head."""
    settings = _settings(genotype)
    moves = {
        Node(kept.layer, kept.level): tuple(move for move in MOVES if move in kept.moves) for kept in genotype.paths
    }
    ends = lattice.heads(settings.depth, deep_supervision=settings.deep_supervision)
    return lattice.reaching(dict(sorted(moves.items())), ends)


def _settings(genotype: Genotype) -> LatticeSettings:
    known = {field.name for field in fields(LatticeSettings)}
    for key in genotype.settings:
        if key not in known:
            raise GenotypeError(
                f"Genotype '{genotype.name}' has the unknown setting '{key}'.", fix=did_you_mean(key, known)
            )
    try:
        settings = LatticeSettings(**genotype.settings)  # type: ignore[arg-type]  # see _check_types
    except TypeError as error:
        raise GenotypeError(
            f"Genotype '{genotype.name}' lacks a setting ({error}).", fix="Copy it again from its run."
        ) from None
    _check_types(genotype, settings)
    counts = (settings.init_channel, settings.intermediate_nodes, settings.shuffle_groups)
    if settings.depth < 3 or min(counts) < 1 or not 0 <= settings.dropout_prob < 1:
        raise GenotypeError(
            f"Genotype '{genotype.name}' has depth {settings.depth}, init_channel {settings.init_channel}, "
            f"intermediate_nodes {settings.intermediate_nodes}, shuffle_groups {settings.shuffle_groups}, "
            f"dropout_prob {settings.dropout_prob}.",
            fix="Depth starts at 3, the others at 1; dropout_prob lies from 0 to below 1.",
        )
    if any(c % settings.shuffle_groups for c in settings.widths):
        raise GenotypeError(
            f"Genotype '{genotype.name}': shuffle_groups {settings.shuffle_groups} does not divide the widths "
            f"{settings.widths}.",
            fix="Use a divisor of init_channel.",
        )
    return settings


def _check_types(genotype: Genotype, settings: LatticeSettings) -> None:
    for field in fields(settings):
        value, wanted = getattr(settings, field.name), cast(type, field.type)
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise GenotypeError(
                f"Genotype '{genotype.name}' has the setting {field.name} {value!r}, which is no {wanted.__name__}.",
                fix="Copy it again from its run.",
            )


def _check_cell(genotype: Genotype, move: Move, intermediate_nodes: int) -> None:
    cell = genotype.cells.get(move)
    if cell is None or len(cell) != intermediate_nodes:
        found = "no" if cell is None else str(len(cell))
        raise GenotypeError(
            f"Genotype '{genotype.name}' has {found} nodes in its {move} cell, its settings say {intermediate_nodes}.",
            fix="Copy it again from its run.",
        )
    for index, node in enumerate(cell):
        if not node:
            raise GenotypeError(
                f"Genotype '{genotype.name}': node {index} of the {move} cell has no edge.",
                fix="Copy it again from its run.",
            )
        for operation, state in node:
            if not 0 <= state < 2 + index:
                raise GenotypeError(
                    f"Genotype '{genotype.name}': node {index} of the {move} cell reads state {state}.",
                    fix=f"It can read states 0 to {1 + index}.",
                )
            valid = [name for name in SETS[set_of_edge(move, state)] if name != NONE]
            if operation not in valid:
                raise GenotypeError(
                    f"Genotype '{genotype.name}': '{operation}' cannot stand on the edge from state {state} to "
                    f"node {index} of the {move} cell.",
                    fix=did_you_mean(operation, valid),
                )


def _check_paths(genotype: Genotype, settings: LatticeSettings) -> None:
    depth = settings.depth
    possible = lattice.all_paths(depth)
    kept = {Node(entry.layer, entry.level): entry.moves for entry in genotype.paths}
    if len(kept) < len(genotype.paths):
        raise GenotypeError(
            f"Genotype '{genotype.name}' names a node of the lattice twice.", fix="Copy it again from its run."
        )
    for node, moves in kept.items():
        if not moves or len(set(moves)) < len(moves) or not set(moves) <= set(possible.get(node, ())):
            raise GenotypeError(
                f"Genotype '{genotype.name}': node ({node.layer},{node.level}) keeps {list(moves)}, a lattice of "
                f"depth {depth} has {list(possible.get(node, ()))} there.",
                fix="Copy it again from its run.",
            )
    needed = set(lattice.heads(depth, deep_supervision=settings.deep_supervision))
    for node, moves in kept.items():
        for move in MOVES:
            if move in moves:
                needed.update(read for read in lattice.inputs(node, move) if read in possible)
    missing = sorted(needed - set(kept))
    if missing:
        raise GenotypeError(
            f"Genotype '{genotype.name}' keeps no path into node ({missing[0].layer},{missing[0].level}), which a "
            "head or a kept path reads.",
            fix="Copy it again from its run.",
        )
