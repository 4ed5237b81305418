"""The genotype of a supernet within the budget of its recipe."""

from collections.abc import Mapping
from typing import Any

from medarts.config import Recipe
from medarts.data.store import ImageStore
from medarts.nas.search import prepare_search
from medarts.pool.preparing import check_stages
from medarts.profiling.budget import Fitted, fit_reduced, kept, unmet
from medarts.spaces import make_space
from medarts.spaces.genotype import Genotype
from medarts.system.console import inform
from medarts.system.randomness import seed_torch


def within_budget(genotype: Genotype, recipe: Recipe) -> tuple[Genotype, Mapping[str, Any]]:
    """Returns a genotype as wide as the budget of a recipe allows, and its costs; as it is where nothing is limited.

    It is reduced where no width is within; see `medarts.profiling.budget.fit_reduced`.

    Args:
        genotype: what was chosen.
        recipe: of the search, with the names of its outputs.

    Raises:
        RecipeError: what is left of it in the end is over.
    """
    if not recipe.budget.limited:
        return genotype, {}
    fitted = _fitted(genotype, recipe)
    if fitted.reduced:
        inform(f"The genotype was over the budget at every width. It was reduced: {'; '.join(fitted.reduced)}.")
    return fitted.network, {"budget": kept(recipe.budget.at(recipe.data.size), fitted.cost, **_about(recipe))}


def check_budget(recipe: Recipe, *, data: ImageStore | None = None) -> None:
    """Refuses a budget that the genotype of the untrained supernet does not meet, before the long work.

    Args:
        recipe: of the search of a supernet.
        data: the images, in place of the sources of the recipe.

    Raises:
        MedartsError: it does not, or see `prepare_search`.
    """
    if not recipe.budget.limited:
        return
    search = prepare_search(recipe, data=data)
    check_stages(search.recipe, search.space)
    seed_torch(recipe.seed, "budget")
    supernet = make_space(search.recipe).supernet(recipe.search.stages[-1], None)
    _fitted(supernet.derive(recipe.derive, name="untrained", provenance={}), search.recipe)


def _fitted(genotype: Genotype, recipe: Recipe) -> Fitted[Genotype]:
    budget, about = recipe.budget.at(recipe.data.size), _about(recipe)
    fitted = fit_reduced(genotype, budget, space=recipe.space, **about, norm=recipe.train.norm)
    if fitted is None:
        raise unmet(genotype, budget, **about, norm=recipe.train.norm)
    return fitted


def _about(recipe: Recipe) -> dict[str, int]:
    return {"in_channels": recipe.data.in_channels, "outputs": recipe.data.outputs}
