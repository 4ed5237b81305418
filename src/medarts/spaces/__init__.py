"""Search spaces, their genotypes, and what users register with them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from medarts.errors import GenotypeError, RecipeError, did_you_mean, quoted
from medarts.registry import Section, Settings, spaces
from medarts.spaces.genotype import Genotype, load_genotype, zoo

if TYPE_CHECKING:
    from medarts.config import Recipe
    from medarts.spaces.base import SearchSpace

WIDTHS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
"""Values of C to which networks are scaled: steps of 10 to 25 %, and every number where that is less than one."""

__all__ = [
    "genotype_with",
    "load_genotype",
    "make_space",
    "random_genotype",
    "register_operation",
    "register_space",
    "space_of",
    "space_settings",
    "zoo",
]

Space = TypeVar("Space", bound="type[SearchSpace]")


def register_space(name: str, *, settings: type[Settings], default: bool = False) -> Callable[[Space], Space]:
    """Returns a decorator that registers a search space, which recipes then choose by ``space: {name: NAME}``.

    Args:
        name: of the space.
        settings: the class of its section of a recipe.
        default: whether recipes for its task have it where they name no space; medarts' own have it.
    """

    def add(space: Space) -> Space:
        space.name = name
        register = spaces.register(name, settings=settings, task=space.task, default=default)
        return register(space)

    return add


def register_operation(space: str, kind: str, name: str, builder: Callable[..., Any], *, free: bool = False) -> None:
    """Adds a candidate operation to a set of a search space.

    Genotypes can have it from then on. Searches have it where their recipe names it among the candidates
    (``space.operations: {normal: [none, identity, conv, my_conv]}``), so that it changes no other search. It runs as
    written, beside the fused operations of a cell.

    Args:
        space: name of the space, such as "nas-wdan".
        kind: set of operations: down, normal or up of nas-wdan; normal or reduce of darts.
        name: of the operation.
        builder: makes the module of an edge. In nas-wdan from (channels, OperationSettings); down operations halve
            height and width exactly, up operations double them. In darts from (channels, stride, OperationSettings).
        free: it learns nothing, as identity and pooling; a genotype of too many such has collapsed, see
            `medarts.nas.guard`.

    Raises:
        RecipeError: there is no such space.
        ValueError: there is no such set, or another operation has the name.

    >>> from torch import nn
    >>> register_operation("nas-wdan", "normal", "doc_conv_7x7", lambda c, s: nn.Conv2d(c, c, 7, padding=3))
    """
    sets = spaces.get(space).operations
    if kind not in sets:
        raise ValueError(f"{space} has no set of operations '{kind}'. {did_you_mean(kind, sets)}")
    sets[kind].add(name, builder)
    if free:
        known = spaces.get(space)
        known.free = known.free | {name}


def space_of(genotype: Genotype) -> "type[SearchSpace]":
    """Returns the search space of a genotype.

    Raises:
        GenotypeError: there is no such space.
    """
    if genotype.space not in spaces:
        raise GenotypeError(
            f"Genotype '{genotype.name}' is of the unknown space '{genotype.space}'.",
            fix=did_you_mean(genotype.space, spaces.names()),
        )
    return cast("type[SearchSpace]", spaces.get(genotype.space))


def make_space(recipe: "Recipe") -> "SearchSpace":
    """Returns the search space of a recipe whose outputs are known.

    Raises:
        RecipeError: the values of ``space`` and ``search.supernet`` do not fit together.
    """
    space = cast("type[SearchSpace]", spaces.get(recipe.space.name))
    return space(
        recipe.space,
        in_channels=recipe.data.in_channels,
        outputs=recipe.data.outputs,
        supernet=recipe.search.supernet,
    )


def space_settings(genotype: Genotype) -> Section:
    """Returns the settings of a genotype as the section ``space`` of a recipe, having checked that it fits its space.

    Raises:
        GenotypeError: there is no such space, or a setting, an operation, a state or a path does not exist in it.
    """
    settings = space_of(genotype).settings_of(genotype)
    # A space may use the class as it was registered, which does not have the name.
    if getattr(settings, "name", "") == genotype.space:
        return settings
    return cast(Section, spaces.choose({**dict(settings), "name": genotype.space}))


def random_genotype(like: Genotype, *, seed: int) -> Genotype:
    """Returns a genotype sampled uniformly from the space of another, with its settings.

    Raises:
        GenotypeError: see ``space_settings``.
    """
    return space_of(like).random_genotype(like, seed=seed)


def genotype_with(
    name: Genotype | Path | str, *, init_channel: int | None = None, changes: Iterable[str] = ()
) -> Genotype:
    """Returns a genotype with other settings.

    Args:
        name: a genotype, or where it is: its published name, a file, or a run.
        init_channel: another C.
        changes: changes of a recipe; those of ``space`` are settings of the genotype.

    Raises:
        GenotypeError: there is none, or it is damaged or does not fit the settings.
    """
    from medarts.config import apply_overrides  # not above: the recipe looks up the spaces

    genotype = name if isinstance(name, Genotype) else load_genotype(name)
    settings = apply_overrides({}, [change for change in changes if change.startswith(("space.", "space="))]).get(
        "space", {}
    )
    if not isinstance(settings, dict):
        raise RecipeError(f"space cannot be {quoted(settings)}.", fix="Write space.init_channel=8 and the like.")
    settings = {str(key): value for key, value in settings.items()}
    if init_channel is not None:
        settings["init_channel"] = init_channel
    if "intermediate_nodes" in settings:
        raise GenotypeError("The cells of a genotype fix its intermediate_nodes.", fix="Leave that change out.")
    changed = genotype.with_settings(**settings)
    space_settings(changed)
    return changed
