"""Genotypes of the stack: their settings, and the check that one fits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from medarts.config import StackSettings
from medarts.config.section import MOST_CHANNELS, MOST_LAYERS, MOST_NODES
from medarts.errors import GenotypeError
from medarts.spaces.checking import check_cell, check_range, check_space, read_settings
from medarts.spaces.genotype import COPY_AGAIN, Genotype, Setting
from medarts.spaces.stack.frame import Stem, least_layers
from medarts.spaces.stack.operations import BUILDERS, KINDS

SPACE = "stack"


@dataclass(frozen=True, slots=True)
class StackNetworkSettings:
    """The values that fix a network of the stack besides its cells.

    Attributes:
        init_channel: C, channels of a node before the first reduction, from 2 up; each reduction doubles it.
        layers: L, the number of cells; from 4 up with the chest stem, from 3 with that of CIFAR.
        intermediate_nodes: nodes of a cell.
        stem: chest or cifar.
        drop_path_prob: probability of dropping an operation for an image at the end of training, 0 to below 1.
        auxiliary: a second classifier behind layer 2L//3, used while training.
    """

    init_channel: int
    layers: int
    intermediate_nodes: int
    stem: Stem
    drop_path_prob: float
    auxiliary: bool

    def to_mapping(self) -> Mapping[str, Setting]:
        """Returns the settings in the form of a genotype."""
        return asdict(self)


def check(genotype: Genotype) -> StackNetworkSettings:
    """Returns the settings of a genotype that fits the stack.

    Raises:
        GenotypeError: it is of another space, or a setting, an operation or a state does not exist.
    """
    check_space(genotype, SPACE)
    settings = read_settings(genotype, StackNetworkSettings)
    _check_values(genotype, settings)
    for kind in KINDS:
        check_cell(genotype, kind, intermediate_nodes=settings.intermediate_nodes, operations=lambda _: tuple(BUILDERS))
    unknown = sorted(set(genotype.cells) - set(KINDS))
    if unknown or genotype.paths:
        raise GenotypeError(
            f"Genotype '{genotype.name}' has {f'{unknown[0]} cells' if unknown else 'paths'}, which a stack has not.",
            fix=COPY_AGAIN,
        )
    return settings


def space_settings(genotype: Genotype) -> StackSettings:
    """Returns the settings of a genotype as the section of a recipe; what the search alone uses has its defaults."""
    return StackSettings(**asdict(check(genotype)))


def _check_values(genotype: Genotype, settings: StackNetworkSettings) -> None:
    for name, low, high in (
        ("init_channel", 2, MOST_CHANNELS),
        ("intermediate_nodes", 1, MOST_NODES),
        ("layers", 1, MOST_LAYERS),
    ):
        check_range(genotype, name, getattr(settings, name), low, high)
    if not 0 <= settings.drop_path_prob < 1:
        raise GenotypeError(
            f"Genotype '{genotype.name}' has drop_path_prob {settings.drop_path_prob}.", fix="Use 0 to below 1."
        )
    least = least_layers(settings.stem)
    if settings.layers < least:
        raise GenotypeError(
            f"Genotype '{genotype.name}' has layers {settings.layers}, too few for the {settings.stem} stem.",
            fix=f"Use {least} layers or more.",
        )
