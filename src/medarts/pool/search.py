"""Searches of all methods: the one place that knows which method of a recipe is done by what."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medarts.config import Recipe
from medarts.data.store import ImageStore
from medarts.engine.directory import RunDirectory
from medarts.errors import RecipeError, check_number
from medarts.nas.search import prepare_search, resume_search, start_search
from medarts.pool.delivery import check_budget, within_budget
from medarts.pool.job import resume_by_training, start_by_training
from medarts.pool.planning import plan_by_training
from medarts.pool.preparing import planned_epochs, prepare
from medarts.profiling.load import Load
from medarts.profiling.plan import Known, Plan
from medarts.profiling.plan import plan as plan_supernet
from medarts.profiling.prices import prices
from medarts.system.console import inform

MOST_JOBS = 64

DIVIDED = "divided"
"""Fact of a search whose recipe divides the images into folds, of which it has the first."""


def start(
    recipe: Recipe, out: Path, *, jobs: int = 1, cluster: str | None = None, data: ImageStore | None = None
) -> RunDirectory:
    """Searches a genotype by the method of a recipe, in a new run directory.

    Args:
        recipe: what to do. A search has one set of training images: with ``data.folds`` it is that of the first fold,
            and a training of what was found is of all folds again.
        out: folder of the run, new or empty.
        jobs: trainings at once, for the methods pool and random.
        cluster: address of the cluster that trains them, for the same methods. Default: processes of this machine.
        data: the images, in place of the sources of the recipe; see `medarts.data.arrays`.

    Raises:
        RecipeError: there are several jobs, or a cluster, but the method is one training.
        MedartsError: see `start_search` and `start_by_training`.
    """
    facts = {DIVIDED: True} if recipe.data.is_divided else {}
    if facts:
        inform(
            f"data.folds is {recipe.data.folds}: the search has the training images of fold 1, whose patients other "
            "folds are tested on. Keep a final test set in a folder of its own."
        )
    recipe = _of_first_fold(recipe)
    if _is_of_supernet(recipe, jobs, cluster):
        about: Any = {"deliver": within_budget, "price": prices, "check": check_budget}
        return start_search(recipe, out, data=data, facts=facts, **about)
    return start_by_training(recipe, out, jobs=jobs, cluster=cluster, data=data, facts=facts)


def recipe_after(searched: RunDirectory) -> Recipe:
    """Returns the recipe of a training after a search: of all folds, with the norm where the search has chosen it."""
    recipe, facts = searched.recipe, searched.facts
    if facts.get(DIVIDED):
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"fold": None})})
    is_chosen = recipe.search.method != "supernet" and recipe.search.select.norms
    if not is_chosen or not facts["finished"]:
        return recipe
    train = recipe.train.model_copy(update={"norm": searched.read_json("summary.json")["norm"]})
    return recipe.model_copy(update={"train": train})


def _of_first_fold(recipe: Recipe) -> Recipe:
    """Returns the recipe of a fold where images are divided, and any other as it is."""
    return recipe.model_copy(update={"data": recipe.data.of_fold(1)}) if recipe.data.is_divided else recipe


def resume(
    path: Path,
    changes: Iterable[str] = (),
    *,
    jobs: int = 1,
    cluster: str | None = None,
    data: ImageStore | None = None,
) -> RunDirectory:
    """Goes on with a search; a finished one is left as it is, unless it is of a supernet and to be longer.

    Args:
        path: its folder.
        changes: changes of its recipe as key.path=value; see `medarts.engine.changes` for those that are possible.
        jobs: trainings at once, for the methods pool and random.
        cluster: address of the cluster that trains them, for the same methods.
        data: the images of a search that was started with ``data``.

    Raises:
        MedartsError: see `resume_search` and `resume_by_training`.
    """
    if _is_of_supernet(RunDirectory.open(path, kind="search").recipe_file(), jobs, cluster):
        return resume_search(path, changes, data=data, deliver=within_budget, price=prices)
    return resume_by_training(path, changes, jobs=jobs, cluster=cluster, data=data)


def check(recipe: Recipe) -> None:
    """Looks at everything that can be wrong with a search, and reads its images.

    Raises:
        MedartsError: data, recipe or device do not fit.
    """
    recipe = _of_first_fold(recipe)
    if _is_of_supernet(recipe, 1):
        check_budget(prepare_search(recipe))
    else:
        prepare(recipe)


def plan(
    recipe: Recipe, *, budget_mb: float | None = None, data: ImageStore | None = None, known: Known | None = None
) -> Plan:
    """Estimates what a search by the method of a recipe, and a training after it, will take.

    Args:
        recipe: what to do.
        budget_mb: memory in MB that everything is to fit into; see `medarts.profiling.plan.plan`.
        data: the images, in place of the sources of the recipe.
        known: what plans of other recipes have found, with the same memory. Default: nothing.

    Raises:
        MedartsError: data, recipe or device do not fit, or nothing fits into the memory.
    """
    load = Load.now()  # before the trials, which are load themselves
    folds = recipe.data.folds if recipe.data.is_divided else None
    recipe = _of_first_fold(recipe)  # all folds take about as long
    of_method = plan_supernet if _is_of_supernet(recipe, 1) else plan_by_training
    planned = of_method(recipe, budget_mb=budget_mb, data=data, known=known)
    return replace(planned, folds=folds or 1, load=load)


def epochs_of(recipe: Recipe) -> int:
    """Returns the epochs of a search, of supernets and of candidates together."""
    if _is_of_supernet(recipe, 1):
        return sum(stage.epochs for stage in recipe.search.stages)
    return planned_epochs(recipe)


def _is_of_supernet(recipe: Recipe, jobs: int, cluster: str | None = None) -> bool:
    """Whether a search is of a supernet, which several jobs cannot share, nor a cluster."""
    check_number("jobs", jobs, low=1, high=MOST_JOBS)
    is_one = recipe.search.method == "supernet"
    if is_one and jobs > 1:
        raise RecipeError(
            f"jobs is {jobs}, but the search of a supernet is one training.",
            fix="Leave jobs out (--jobs on the command line), or use search.method=pool or random.",
        )
    if is_one and cluster is not None:
        raise RecipeError(
            "The search of a supernet is one training, which is not done on a Ray cluster.",
            fix="Leave cluster out, or use search.method=pool or random. For several GPUs use --devices.",
        )
    return is_one
