"""The genotype of a supernet within the budget of its recipe."""

from collections.abc import Mapping
from typing import Any

from medarts.config import Recipe
from medarts.nas.search import Search
from medarts.pool.preparing import check_stages
from medarts.profiling.budget import BudgetError, fit_to_recipe, kept
from medarts.profiling.plan import untrained_genotype
from medarts.spaces.genotype import Genotype
from medarts.system.console import inform


def within_budget(genotype: Genotype, recipe: Recipe) -> tuple[Genotype, Mapping[str, Any]]:
    """Returns a genotype as wide as the budget of a recipe allows, and its costs; as it is where nothing is limited.

    It is reduced where no width is within; see `medarts.profiling.budget.fit_reduced`.

    Args:
        genotype: what was chosen.
        recipe: of the search, with the names of its outputs.

    Raises:
        BudgetError: what is left of it in the end is over.
    """
    if not recipe.budget.limited:
        return genotype, {}
    try:
        fitted = fit_to_recipe(genotype, recipe)
    except BudgetError as error:
        raise BudgetError(
            f"{error.problem} genotype.json of the run has it as it was chosen.",
            fix="Train it as it is, or search again with a larger budget.",
        ) from error
    if fitted.reduced:
        inform(f"The genotype was over the budget at every width. It was reduced: {'; '.join(fitted.reduced)}.")
    limits = recipe.budget.at(recipe.data.size)
    about = {"in_channels": recipe.data.in_channels, "outputs": recipe.data.outputs}
    return fitted.network, {"budget": kept(limits, fitted.cost, **about)}


def check_budget(search: Search) -> None:
    """Refuses a budget that the genotype of the untrained supernet does not meet, before the long work.

    Args:
        search: of a supernet, as `prepare_search` makes it.

    Raises:
        MedartsError: it does not.
    """
    if search.recipe.budget.limited:
        check_stages(search.recipe, search.space)
        untrained_genotype(search.recipe)
