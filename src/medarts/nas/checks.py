"""What a search refuses of its recipe, before any image is read: settings that do not fit each other or the space."""

from typing import cast

from medarts.config import Recipe
from medarts.errors import RecipeError
from medarts.nas.regularizers import check_regularizers
from medarts.registry import gradients, regularizers, relaxations, selections, spaces
from medarts.spaces.relaxations import Relaxation


def check_recipe(recipe: Recipe) -> None:
    """Refuses settings of a search that do not fit each other, or the space.

    Raises:
        RecipeError: names the first of them.
    """
    _check_settings(recipe)
    _check_relaxation(recipe)


def _check_relaxation(recipe: Recipe) -> None:
    """Refuses ways to weigh operations and paths that do not go with the space or with each other.

    Raises:
        RecipeError: names the first of them.
    """
    settings, space = recipe.search, spaces.get(recipe.space.name)
    name = settings.relaxation.name
    if not space.has_skips:
        _check_without_skips(recipe)
    if (name != "softmax" or settings.perturbation) and not space.relaxes:
        raise RecipeError(
            f"The supernets of the space {recipe.space.name} have weights of their own, which search.relaxation {name} "
            f"and search.perturbation {settings.perturbation} would not change.",
            fix="Leave both out, or have the supernet weigh by Supernet.relaxed and set relaxes=True in the space.",
        )
    if settings.perturbation and cast("type[Relaxation]", relaxations.get(name)).sparse:
        raise RecipeError(
            f"search.perturbation {settings.perturbation} would run all operations, of which search.relaxation {name} "
            "runs some.",
            fix="Use search.perturbation=0, or another relaxation.",
        )
    check_regularizers(settings.regularizers, relaxation=name, has_paths=space.has_paths)


def _check_without_skips(recipe: Recipe) -> None:
    """Refuses settings of skips for a space whose supernets do not know them, and would ignore the settings."""
    supernet = recipe.search.supernet
    of_skips = {
        "search.supernet.auxiliary_skip": supernet.auxiliary_skip or None,
        "search.supernet.skip_dropout": supernet.skip_dropout or None,
        "derive.skips": recipe.derive.skips,
    }
    given = [f"{field} {value}" for field, value in of_skips.items() if value is not None]
    if given:
        raise RecipeError(
            f"The supernets of the space {recipe.space.name} do not know which operations are skips, so "
            f"{' and '.join(given)} would change nothing.",
            fix="Leave it out, or have the supernets heed skips and set has_skips=True in the space.",
        )


def _check_settings(recipe: Recipe) -> None:
    """Refuses settings of a search that do not fit each other.

    Raises:
        RecipeError: names them.
    """
    for each in recipe.search.regularizers:
        is_limited = recipe.budget.latency_ms is not None or recipe.budget.latency_of is not None
        if regularizers.entry(each.name).about["costs"] and not is_limited:
            raise RecipeError(
                f"The regularizer {each.name} of search.regularizers is a share of the latency that the budget allows, "
                "which is not limited.",
                fix="Give budget.latency_ms or budget.latency_of, or leave it out.",
            )
    settings, precision = recipe.search, recipe.compute.precision
    gradient, selection = gradients.entry(settings.gradient.name), recipe.derive.select.name
    if precision != "fp32":
        differences = "takes the difference of almost equal gradients, which"
        if gradient.about["needs_fp32"]:
            raise RecipeError(
                f"search.gradient {gradient.name} {differences} {precision} does not resolve.",
                fix="Use compute.precision=fp32, or search.gradient=first_order.",
            )
        if settings.guard is not None and settings.guard.hessian:
            raise RecipeError(
                f"search.guard.hessian {differences} {precision} does not resolve.",
                fix="Use compute.precision=fp32, or search.guard.hessian=0.",
            )
    if not selections.entry(selection).about["stepwise"]:
        return
    if recipe.derive.skips is not None:
        raise RecipeError(
            f"derive.skips takes the next strongest in place of a skip, which derive.select {selection} does not rank.",
            fix="Leave derive.skips out, or use derive.select=magnitude.",
        )
    if cast("type[Relaxation]", relaxations.get(settings.relaxation.name)).sparse:
        raise RecipeError(
            f"derive.select {selection} leaves out one operation of the mixture at a time, but search.relaxation "
            f"{settings.relaxation.name} runs a single one.",
            fix="Use derive.select=magnitude, or another relaxation, such as softmax.",
        )
