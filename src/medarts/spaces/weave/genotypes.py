"""Genotypes of the weaved space: their settings, and the check that one fits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

from medarts.config import WeaveSettings
from medarts.config.section import DEEPEST, MOST_CHANNELS, MOST_NODES
from medarts.errors import GenotypeError
from medarts.spaces.cell import NONE
from medarts.spaces.checking import check_cell, check_range, check_space, read_settings
from medarts.spaces.genotype import COPY_AGAIN, Genotype, Setting
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

    def to_mapping(self) -> Mapping[str, Setting]:
        """Returns the settings in the form of a genotype."""
        return asdict(self)


def check(genotype: Genotype) -> LatticeSettings:
    """Returns the settings of a genotype that fits the weaved space.

    Raises:
        GenotypeError: it is of another space, or a setting, an operation, a state or a path does not exist.
    """
    check_space(genotype, SPACE)
    settings = _settings(genotype)
    for move in MOVES:
        check_cell(
            genotype,
            move,
            intermediate_nodes=settings.intermediate_nodes,
            operations=partial(operations_of, move),
        )
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
    settings = read_settings(genotype, LatticeSettings)
    for name, low, high in (
        ("depth", 3, DEEPEST),
        ("init_channel", 2, MOST_CHANNELS),
        ("intermediate_nodes", 1, MOST_NODES),
        ("shuffle_groups", 1, MOST_CHANNELS),
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


def operations_of(move: Move, state: int) -> list[str]:
    """Returns what can stand on the edges from a state in the cells of a move."""
    return [name for name in SETS[set_of_edge(move, state)] if name != NONE]


def _check_paths(genotype: Genotype, settings: LatticeSettings) -> None:
    depth = settings.depth
    possible = lattice.all_paths(depth)
    kept = {Node(entry.layer, entry.level): entry.moves for entry in genotype.paths}
    if len(kept) < len(genotype.paths):
        raise GenotypeError(f"Genotype '{genotype.name}' names a node of the lattice twice.", fix=COPY_AGAIN)
    for node, moves in kept.items():
        if not moves or len(set(moves)) < len(moves) or not set(moves) <= set(possible.get(node, ())):
            raise GenotypeError(
                f"Genotype '{genotype.name}': node ({node.layer},{node.level}) keeps {list(moves)}, a lattice of "
                f"depth {depth} has {list(possible.get(node, ()))} there.",
                fix=COPY_AGAIN,
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
            fix=COPY_AGAIN,
        )
