"""The search spaces by their names."""

from collections.abc import Callable

from medarts.config import Recipe, SpaceSettings, StackSettings
from medarts.errors import GenotypeError, did_you_mean
from medarts.spaces.genotype import Genotype
from medarts.spaces.space import SearchSpace
from medarts.spaces.stack import genotypes as stack
from medarts.spaces.stack import random as stack_random
from medarts.spaces.stack.supernet import StackSpace
from medarts.spaces.weave import genotypes as weave
from medarts.spaces.weave import random as weave_random
from medarts.spaces.weave.supernet import WeaveSpace


def make_space(recipe: Recipe) -> SearchSpace:
    """Returns the search space of a recipe whose outputs are known.

    Raises:
        RecipeError: the values of ``space`` and ``search.supernet`` do not fit together.
    """
    about = {"in_channels": recipe.data.in_channels, "outputs": recipe.data.outputs}
    if isinstance(recipe.space, StackSettings):
        return StackSpace(recipe.space, **about, supernet=recipe.search.supernet)
    return WeaveSpace(recipe.space, **about, supernet=recipe.search.supernet)


def check(genotype: Genotype) -> None:
    """Refuses a genotype that does not fit its space.

    Raises:
        GenotypeError: there is no such space, or a setting, an operation, a state or a path does not exist in it.
    """
    space_settings(genotype)


def space_settings(genotype: Genotype) -> SpaceSettings:
    """Returns the settings of a genotype as the section of a recipe.

    Raises:
        GenotypeError: see ``check``.
    """
    makers: dict[str, Callable[[Genotype], SpaceSettings]] = {
        "stack": stack.space_settings,
        "weave": weave.space_settings,
    }
    if genotype.space not in makers:
        raise GenotypeError(
            f"Genotype '{genotype.name}' is of the unknown space '{genotype.space}'.",
            fix=did_you_mean(genotype.space, makers),
        )
    return makers[genotype.space](genotype)


def random_genotype(like: Genotype, *, seed: int) -> Genotype:
    """Returns a genotype drawn uniformly from the space of another, with its settings.

    Raises:
        GenotypeError: see ``check``.
    """
    check(like)
    draw = {"stack": stack_random.random_genotype, "weave": weave_random.random_genotype}
    return draw[like.space](like, seed=seed)
