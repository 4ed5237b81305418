"""What is looked at before a search by training begins: numbers, budget, data, and that its networks can be trained."""

from dataclasses import dataclass

from medarts.config import Recipe
from medarts.config.reading import as_text
from medarts.config.section import Section
from medarts.data.store import ImageStore
from medarts.errors import RecipeError
from medarts.nas.search import prepare_search
from medarts.pool import trainings
from medarts.pool.drawing import Drawing
from medarts.pool.halving import check_keep, epochs_of, most_candidates
from medarts.spaces.base import SearchSpace
from medarts.training.trainer import Training, prepare_training


@dataclass(frozen=True)
class Prepared:
    """A search by training that can begin.

    Attributes:
        recipe: with the names of its outputs.
        training: one like those of the candidates; it has task, device and images.
    """

    recipe: Recipe
    training: Training


def prepare(recipe: Recipe, *, data: ImageStore | None = None, goes_on: bool = False) -> Prepared:
    """Looks at everything that can be wrong before candidates are drawn, and reads the images.

    Args:
        recipe: of the search.
        data: the images, in place of the sources of the recipe.
        goes_on: whether the search has begun; settings without effect, which earlier versions took, are no reason then
            not to end it.

    Raises:
        MedartsError: data, recipe or device do not fit.
    """
    if recipe.train.model is not None:
        raise RecipeError(
            f"train.model is the baseline {recipe.train.model.name}, but search.method={recipe.search.method} trains "
            "genotypes.",
            fix="Leave train.model out.",
        )
    numbers_of_candidates(recipe)
    drawing = Drawing(recipe, ())
    # How many outputs there are has no part in what is looked at.
    space = drawing.space(recipe.space, in_channels=recipe.data.in_channels, outputs=1, supernet=recipe.search.supernet)
    if not goes_on:
        _check_settings(recipe)
    _check_choices(recipe, space)
    sample = drawing.space.sample(recipe.space, seed=0)
    if recipe.search.method == "pool":
        if recipe.search.select.generations > 1:
            drawing.space.neighbour(sample, recipe.space, seed=0)
        for of_supernet in supernets_of(recipe):
            data = prepare_search(of_supernet, data=data).store  # opening a store reads all of it
    for norm in drawing.norms:
        train = recipe.train.model_copy(update={"norm": norm})
        tried = trainings.recipe_of_candidates(recipe.model_copy(update={"train": train}))
        training = prepare_training(tried, sample, data=data)
        data = training.store
    recipe = recipe.model_copy(update={"data": training.recipe.data})
    for of_supernet in supernets_of(recipe):
        check_stages(of_supernet, space)
    return Prepared(recipe, training)


def _check_settings(recipe: Recipe) -> None:
    """Refuses macro settings that are asked for, where no candidate would have them, or that of a supernet alone.

    Raises:
        RecipeError: of one of them.
    """
    settings, choices = recipe.space, getattr(recipe.space, "choices", None)
    has_supernets = recipe.search.method == "pool" and bool(recipe.search.select.variants)
    drawn = "only candidates of supernets would have that, and random ones" if has_supernets else "candidates"
    usual = {name: field.default for name, field in type(settings).model_fields.items()}
    for name in type(choices).model_fields if isinstance(choices, Section) else ():
        value, possible = getattr(settings, name, None), getattr(choices, name)
        if name in usual and value not in (usual[name], *possible):
            raise RecipeError(
                f"space.{name} is {as_text(value)}, but {drawn} have one of space.choices.{name}: "
                f"{', '.join(map(as_text, possible))}.",
                fix=f"Use space.choices.{name}=[{as_text(value)}].",
            )


def _check_choices(recipe: Recipe, space: SearchSpace) -> None:
    """Refuses macro settings with which a candidate could not take the images, or those that it is measured with.

    Raises:
        RecipeError: of one of them.
    """
    space.check_choices(recipe.data.size, field="data.size")
    if recipe.budget.size is not None:
        space.check_choices(recipe.budget.size, field="budget.size")


def check_stages(recipe: Recipe, space: SearchSpace) -> None:
    """Refuses stages from which a genotype could not take the images that it is measured with.

    Raises:
        RecipeError: of one of them.
    """
    size = recipe.budget.size
    if size is None:
        return
    for number, stage in enumerate(recipe.search.stages):
        try:
            space.check(stage, size, fewest=stage.batch)
        except RecipeError as error:
            raise RecipeError(
                f"Genotypes of search.stages.{number} cannot be measured at budget.size {size}: {error.problem}",
                fix=error.fix,
            ) from error


def numbers_of_candidates(recipe: Recipe) -> list[int]:
    """Returns how many candidates each generation of a search is to have.

    Raises:
        RecipeError: numbers, rungs and share do not fit together.
    """
    select, rungs = recipe.search.select, recipe.search.select.rungs
    if recipe.search.method == "random":
        number, field = select.candidates, "search.select.candidates"
        if select.epochs is not None:
            number, field = most_candidates(select.epochs, rungs, select.keep), "search.select.epochs"
            if not number:
                raise RecipeError(
                    f"search.select.epochs {select.epochs} do not allow one candidate of {rungs[-1]} epochs.",
                    fix="Raise them, or lower the last of search.select.rungs.",
                )
        check_keep(number, len(rungs), select.keep, field=field)
        return [number]
    if select.epochs is not None:
        raise RecipeError(
            "search.select.epochs sets the number of candidates of method random alone.",
            fix="Leave it out, or use search.method=random.",
        )
    searched = len(select.variants) * select.checkpoints
    if searched > select.candidates:
        raise RecipeError(
            f"search.select has {select.candidates} candidates, but {len(select.variants)} supernets with "
            f"{select.checkpoints} checkpoints give {searched}.",
            fix="Raise search.select.candidates, or lower supernets or checkpoints.",
        )
    check_keep(select.candidates, len(rungs), select.keep, field="search.select.candidates")
    if select.generations > 1:
        check_keep(select.neighbours, len(rungs), select.keep, field="search.select.neighbours")
    return [select.candidates, *[select.neighbours] * (select.generations - 1)]


def supernets_of(recipe: Recipe) -> list[Recipe]:
    """Returns the recipes of all supernets of a search by training; those that are equal but for their seed once.

    Raises:
        RecipeError: what one has of its own does not fit the section search.
    """
    found: list[Recipe] = []
    variants = recipe.search.select.variants if recipe.search.method == "pool" else ()
    for number, changes in enumerate(variants):
        if changes not in variants[:number]:
            found.append(trainings.recipe_of_supernet(recipe, number + 1))
    return found


def planned_epochs(recipe: Recipe) -> int:
    """Returns the epochs of all trainings and supernets, where none fails."""
    select = recipe.search.select
    variants = select.variants if recipe.search.method == "pool" else ()
    of_supernets = [trainings.recipe_of_supernet(recipe, number) for number in range(1, len(variants) + 1)]
    searched = sum(stage.epochs for each in of_supernets for stage in each.search.stages)
    trained = sum(epochs_of(number, select.rungs, select.keep) for number in numbers_of_candidates(recipe))
    return trained + searched + select.retrain * recipe.train.epochs
