"""The trainings of a search by training, and the searches of supernets before them: runs below its folder.

    candidates/1-01/    the training of a candidate, paused where it was not kept
    supernets/1/        a search of a supernet
    retrained/1/        a training of the winner by the recipe
    logs/               what their processes have printed

Each of them is a run as any other, which the engine resumes bit for bit. Processes get plain values.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medarts.config import Recipe, parse
from medarts.data.shared import read_images
from medarts.engine.changes import changes_on_the_way
from medarts.engine.directory import RunDirectory, is_begun
from medarts.errors import RecipeError, RunError
from medarts.nas.search import resume_search, start_search
from medarts.pool.candidates import FILE, Candidate
from medarts.pool.drawing import SEEDS
from medarts.profiling.prices import prices
from medarts.spaces.genotype import Genotype
from medarts.system import lock
from medarts.system.randomness import seed_of
from medarts.system.workers import PATIENCE, Work
from medarts.training.trainer import resume_training, start_training


def folder_of_candidate(run: RunDirectory, name: str) -> Path:
    """Returns the folder of the training of a candidate."""
    return run.path / "candidates" / name


def folder_of_supernet(run: RunDirectory, number: int) -> Path:
    """Returns the folder of the search of a supernet, from 1 on."""
    return run.path / "supernets" / str(number)


def folder_of_retraining(run: RunDirectory, number: int) -> Path:
    """Returns the folder of a training of the winner, from 1 on."""
    return run.path / "retrained" / str(number)


def folders(run: RunDirectory) -> list[Path]:
    """Returns the folders of all runs that a search has begun."""
    return [path for kind in ("supernets", "candidates", "retrained") for path in sorted((run.path / kind).glob("*"))]


def recipe_of_candidates(recipe: Recipe) -> Recipe:
    """Returns the recipe by which candidates are trained, but for their norm.

    All have one seed, so that they see the same images in the same order. It is not that of the recipe, so that a
    training of the winner by the recipe starts from other weights than the one by which it was chosen.
    """
    train = {"epochs": recipe.search.select.rungs[-1], "patience": 0, "model": None}
    seed = seed_of(recipe.seed, "candidates") % SEEDS
    return recipe.model_copy(update={"seed": seed, "train": recipe.train.model_copy(update=train)})


def recipe_of_supernet(recipe: Recipe, number: int) -> Recipe:
    """Returns the recipe of the search of a supernet, from 1 on.

    Raises:
        RecipeError: what it has of its own does not fit the section search.
    """
    changes = recipe.search.select.variants[number - 1]
    search = recipe.search.model_copy(update={"method": "supernet"})
    own = recipe.model_copy(update={"seed": seed_of(recipe.seed, "supernet", number) % SEEDS, "search": search})
    if not changes:
        return own
    field = f"search.select.supernets.{number - 1}"
    if refused := [name for name in ("method", "select") if name in changes]:
        raise RecipeError(f"{field}.{refused[0]} is not for one supernet.", fix="Leave it out.")
    content = own.model_dump(mode="json")
    return parse({**content, "search": _changed(content["search"], changes)}, origin=field)


def _changed(section: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a section with changes; what is chosen by another name begins with that one's defaults."""
    changed = dict(section)
    for key, value in changes.items():
        before = section.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            is_same = value.get("name") in (None, before.get("name"))
            changed[key] = _changed(before, value) if is_same else value
        else:
            changed[key] = value
    return changed


def name_of_supernet(recipe: Recipe, number: int) -> str:
    """Returns what a supernet is called on pages: its number, from 1 on, and what it has of its own."""
    changes = recipe.search.select.variants[number - 1]
    words = ", ".join(
        f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in changes.items()
    )
    return f"supernet {number}" + (f" ({words})" if words else "")


def recipe_of_retraining(recipe: Recipe, winner: Candidate, number: int) -> Recipe:
    """Returns the recipe of a training of the winner, from 1 on; that of the first is `medarts train` of the search."""
    train = recipe.train.model_copy(update={"norm": winner.norm})
    return recipe.model_copy(update={"seed": (recipe.seed + number - 1) % SEEDS, "train": train})


def training(run: RunDirectory, recipe: Recipe, candidate: Candidate, *, rung: int, images: Path | None) -> Work:
    """Returns the training of a candidate up to a rung.

    Args:
        run: the search.
        recipe: `recipe_of_candidates`.
        candidate: what is trained.
        rung: epochs after which it pauses.
        images: see `medarts.data.shared.images_for_processes`.
    """
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"norm": candidate.norm})})
    folder, content = folder_of_candidate(run, candidate.name), recipe.model_dump(mode="json")
    do = partial(_train, folder, content, _of_search(run, candidate.genotype), rung=rung, images=images)
    return Work(candidate.name, do, run.path / "logs" / f"{candidate.name}.log")


def retraining(
    run: RunDirectory, recipe: Recipe, winner: Candidate, genotype: Genotype, number: int, *, images: Path | None
) -> Work:
    """Returns a training of the winner, from 1 on; see `training`.

    Args:
        run: the search.
        recipe: of it.
        winner: the best candidate.
        genotype: of the winner, as the search returns it.
        number: of the training.
        images: see `training`.
    """
    content = recipe_of_retraining(recipe, winner, number).model_dump(mode="json")
    own = _of_search(run, genotype)
    do = partial(_train, folder_of_retraining(run, number), content, own, rung=None, images=images)
    return Work(str(number), do, run.path / "logs" / f"retrained-{number}.log")


def _of_search(run: RunDirectory, genotype: Genotype) -> Genotype:
    """Returns a genotype as one of a search, drawn or read again: its training notes the images that chose it."""
    return replace(genotype, origin=run.path / FILE)


def supernet(run: RunDirectory, recipe: Recipe, number: int, *, images: Path | None) -> Work:
    """Returns the search of a supernet, from 1 on; see `training`."""
    content = recipe_of_supernet(recipe, number).model_dump(mode="json")
    do = partial(_search, folder_of_supernet(run, number), content, images=images)
    return Work(str(number), do, run.path / "logs" / f"supernet-{number}.log")


def score_at(run: Path, epochs: int, score: str) -> float | None:
    """Returns the validation score of a training after some epochs; None where it is undefined or infinite.

    Args:
        run: its folder.
        epochs: that were done.
        score: key of the metrics, such as "val_dice".

    Raises:
        RunError: the training has not come so far.
    """
    lines = RunDirectory(run).read_journal("metrics.jsonl")
    if len(lines) < epochs:
        raise RunError(f"{run} has {len(lines)} of {epochs} epochs.", fix="Copy the run again.")
    value = lines[epochs - 1][score]
    return float(value) if value is not None and math.isfinite(value) else None


def seconds_of(run: Path, first: int, last: int | None = None) -> float:
    """Returns the seconds of some epochs of a run.

    Args:
        run: its folder.
        first: epochs before them.
        last: epochs at their end. Default: all that were done.
    """
    lines = RunDirectory(run).read_journal("timing.jsonl", numbers=("seconds",))
    return float(sum(line["seconds"] for line in lines[first:last]))


def _train(
    folder: Path, recipe: Mapping[str, Any], genotype: Genotype, *, rung: int | None, images: Path | None
) -> None:
    """Trains a network up to a rung, or to its end.

    It waits while another process, left by a search that was killed, is still saving.
    """
    with lock.held_alone(folder, "search", patience=PATIENCE):
        parsed, data = parse(dict(recipe), origin=folder.name), None if images is None else read_images(images)
        if is_begun(folder):
            resume_training(folder, changes_on_the_way(RunDirectory(folder), parsed), data=data, pause=rung)
        else:
            start_training(parsed, genotype, folder, data=data, pause=rung)


def _search(folder: Path, recipe: Mapping[str, Any], *, images: Path | None) -> None:
    """Searches a supernet, or what is left of it; see `_train`."""
    with lock.held_alone(folder, "search", patience=PATIENCE):
        parsed, data = (
            parse(dict(recipe), origin=f"supernet {folder.name}"),
            None if images is None else read_images(images),
        )
        if is_begun(folder):
            resume_search(folder, changes_on_the_way(RunDirectory(folder), parsed), data=data, price=prices)
        else:
            start_search(parsed, folder, data=data, price=prices)
