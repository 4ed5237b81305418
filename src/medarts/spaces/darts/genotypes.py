"""What genotypes of the space hold, checked."""

from collections.abc import Sequence
from functools import partial

from medarts.config.section import MOST_CHANNELS, MOST_LAYERS, MOST_NODES
from medarts.errors import GenotypeError
from medarts.spaces.darts.operations import KINDS, OPERATIONS
from medarts.spaces.darts.settings import SPACE, NetworkSettings, least_layers
from medarts.spaces.genotype import COPY_AGAIN, Genotype, check_cell, check_range, check_space, read_settings


def check(genotype: Genotype) -> NetworkSettings:
    """Returns the settings of a genotype that fits the space.

    Raises:
        GenotypeError: it is of another space, or a setting, an operation or a state does not exist.
    """
    check_space(genotype, SPACE, OPERATIONS)
    settings = read_settings(genotype, NetworkSettings)
    _check_values(genotype, settings)
    for kind in KINDS:
        check_cell(
            genotype,
            kind,
            intermediate_nodes=settings.intermediate_nodes,
            operations=partial(_operations_of, tuple(OPERATIONS[kind])),
        )
    unknown = sorted(set(genotype.cells) - set(KINDS))
    if unknown or genotype.paths:
        raise GenotypeError(
            f"Genotype '{genotype.name}' has {f'{unknown[0]} cells' if unknown else 'paths'}; {SPACE} has none.",
            fix=COPY_AGAIN,
        )
    return settings


def _operations_of(names: Sequence[str], state: int) -> Sequence[str]:
    """Returns what can be used on the edges from a state: the same from all."""
    return names


def _check_values(genotype: Genotype, settings: NetworkSettings) -> None:
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
