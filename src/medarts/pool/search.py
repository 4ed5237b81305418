"""Searches of all methods: the one place that knows which method of a recipe is done by what."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from medarts.config import Recipe
from medarts.data.store import ImageStore
from medarts.engine.directory import RunDirectory
from medarts.errors import RecipeError, check_number
from medarts.nas.search import prepare_search, resume_search, start_search
from medarts.pool.delivery import check_budget, within_budget
from medarts.pool.job import resume_by_training, start_by_training
from medarts.pool.planning import plan_by_training
from medarts.pool.preparing import planned_epochs, prepare
from medarts.profiling.latency import usable_cores
from medarts.profiling.plan import Plan
from medarts.profiling.plan import plan as plan_supernet
from medarts.profiling.prices import prices

MOST_JOBS = 64


def start(recipe: Recipe, out: Path, *, jobs: int = 1, data: ImageStore | None = None) -> RunDirectory:
    """Searches a genotype by the method of a recipe, in a new run directory.

    Args:
        recipe: what to do.
        out: folder of the run, new or empty.
        jobs: trainings at once, for the methods pool and random.
        data: the images, in place of the sources of the recipe; see `medarts.data.arrays`.

    Raises:
        RecipeError: there are several jobs, but the method is one training.
        MedartsError: see `start_search` and `start_by_training`.
    """
    if _is_of_supernet(recipe, jobs):
        return start_search(recipe, out, data=data, deliver=within_budget, price=prices, check=check_budget)
    return start_by_training(recipe, out, jobs=jobs, data=data)


def resume(path: Path, changes: Iterable[str] = (), *, jobs: int = 1, data: ImageStore | None = None) -> RunDirectory:
    """Goes on with a search; a finished one is left as it is, unless it is of a supernet and to be longer.

    Args:
        path: its folder.
        changes: changes of its recipe as key.path=value; see `medarts.engine.changes` for those that are possible.
        jobs: trainings at once, for the methods pool and random.
        data: the images of a search that was started with ``data``.

    Raises:
        MedartsError: see `resume_search` and `resume_by_training`.
    """
    if _is_of_supernet(RunDirectory.open(path, kind="search").recipe_file(), jobs):
        return resume_search(path, changes, data=data, deliver=within_budget, price=prices)
    return resume_by_training(path, changes, jobs=jobs, data=data)


def check(recipe: Recipe) -> None:
    """Looks at everything that can be wrong with a search, and reads its images.

    Raises:
        MedartsError: data, recipe or device do not fit.
    """
    if _is_of_supernet(recipe, 1):
        check_budget(prepare_search(recipe))
    else:
        prepare(recipe)


def plan(recipe: Recipe, *, budget_mb: float | None = None, data: ImageStore | None = None) -> Plan:
    """Estimates what a search by the method of a recipe, and a training after it, will take.

    Args:
        recipe: what to do.
        budget_mb: memory in MB that everything is to fit into; see `medarts.profiling.plan.plan`.
        data: the images, in place of the sources of the recipe.

    Raises:
        MedartsError: data, recipe or device do not fit, or nothing fits into the memory.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # before the trials, which are load themselves
    folds = recipe.data.folds if recipe.data.is_divided else None
    if folds is not None:  # all folds take about as long
        recipe = recipe.model_copy(update={"data": recipe.data.of_fold(1)})
    of_method = plan_supernet if _is_of_supernet(recipe, 1) else plan_by_training
    planned = of_method(recipe, budget_mb=budget_mb, data=data)
    return replace(planned, folds=folds or 1, load=load, cores=usable_cores())


def epochs_of(recipe: Recipe) -> int:
    """Returns the epochs of a search, of supernets and of candidates together."""
    if _is_of_supernet(recipe, 1):
        return sum(stage.epochs for stage in recipe.search.stages)
    return planned_epochs(recipe)


def _is_of_supernet(recipe: Recipe, jobs: int) -> bool:
    """Whether a search is of a supernet, which several jobs cannot share."""
    check_number("jobs", jobs, low=1, high=MOST_JOBS)
    is_one = recipe.search.method == "supernet"
    if is_one and jobs > 1:
        raise RecipeError(
            f"jobs is {jobs}, but the search of a supernet is one training.",
            fix="Leave jobs out (--jobs on the command line), or use search.method=pool or random.",
        )
    return is_one
