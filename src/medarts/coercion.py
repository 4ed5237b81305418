"""What callers of the API and of the command line may give, brought into the one form that the rooms take.

Recipes are given as files, mappings or objects; data as names, folders or arrays; networks as names, genotypes, runs or
packages. Anything else is refused here, before anything takes time.
"""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from medarts.config import Recipe, Task, apply_overrides, parse
from medarts.config import load as load_recipe
from medarts.config.reading import read_mapping
from medarts.config.study import Study, load_study
from medarts.deploy.info import is_package
from medarts.engine.directory import RunDirectory, path_of
from medarts.errors import DataError, RecipeError, RunError, quoted
from medarts.models import architecture_named
from medarts.models.ensemble import Ensemble
from medarts.registry import Settings, criteria, models
from medarts.spaces import genotype_with
from medarts.spaces.genotype import Genotype

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from medarts.data.store import ImageStore
    from medarts.models import Architecture
    from medarts.training.trained import TrainedNetwork

# Rooms that bring PyTorch and other large libraries are imported by the functions that need them.

RecipeLike = Recipe | Mapping[str, Any] | Path | str
"""A recipe, its content, or the path of its YAML file."""

Changes = str | Iterable[str]
"""Changes of a recipe, such as ``"train.epochs=20"``: one, or several."""

DataLike: TypeAlias = "ImageStore | Dataset[Any] | tuple[Any, Any] | str | Path | Sequence[str | Path]"
"""Names of data sets in a recipe, folders, or images in memory: of `from_arrays` or `from_dataset`, a torch data set,
or a pair (images, targets) of arrays as `from_arrays` takes them."""


_IN_MEMORY = "images in memory: from_arrays(...), a torch data set, or a pair of arrays (images, targets)"


def recipe_of(recipe: RecipeLike, data: "ImageStore | tuple[str, ...] | None", changes: Iterable[str]) -> Recipe:
    """Returns a checked recipe, with other data and with changes."""
    from medarts.data.arrays import data_section
    from medarts.data.choosing import alike, choose_sources

    origin, changes = "recipe", changes_of(changes)
    if not isinstance(recipe, Recipe | Mapping | Path | str):
        raise RecipeError(
            f"{quoted(recipe)} is not a recipe.", fix="Give a YAML file, a dictionary with its keys, or a Recipe."
        )
    if isinstance(recipe, str | Path):
        if data is None:
            return load_recipe(Path(recipe), changes)
        origin, recipe = str(recipe), load_recipe(Path(recipe))
    elif isinstance(data, tuple) and isinstance(recipe, Mapping) and _has_sources(recipe):
        recipe = parse(dict(recipe), origin=origin)
    known = recipe.data.sources if isinstance(recipe, Recipe) else ()
    values = recipe.model_dump(mode="json") if isinstance(recipe, Recipe) else dict(recipe)
    store = store_of(data)
    if store is not None:
        values = _with_data(values, data_section(store))
    elif isinstance(data, tuple):
        sources = [source.model_dump(mode="json") for source in choose_sources(data, known=known)]
        values = _with_data(values, {"sources": sources})
    found = parse(apply_overrides(values, changes), origin=origin)
    if isinstance(data, tuple) and isinstance(recipe, Recipe):
        sources_read = alike(found.data.sources, recipe.data, classes=found.data.class_names)
        found = found.model_copy(update={"data": found.data.model_copy(update={"sources": sources_read})})
    if store is not None:
        for key, value in data_section(store).items():
            own = getattr(found.data, key)
            if key != "sources" and value != (list(own) if isinstance(own, tuple) else own):
                raise RecipeError(
                    f"data.{key} is {own}, but the images in memory have {value}.",
                    fix="Remove that change, or give other images (see from_arrays).",
                )
    return found


def recipe_without(searched: RunDirectory | None, *, has_data: bool) -> RecipeLike:
    """Returns the recipe of a training for which none is given."""
    from medarts.pool.search import recipe_after

    if searched is not None:
        return recipe_after(searched)
    if not has_data:
        raise RecipeError(
            "There are no data to train on.",
            fix="Give data, or a recipe (on the command line --data FOLDER, --recipe FILE).",
        )
    return {}


def _has_sources(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe as a dictionary has data sets, whose labels others can be read by."""
    section = recipe.get("data")
    return isinstance(section, Mapping) and bool(section.get("sources"))


def _with_data(values: dict[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    own = values.get("data") or {}
    return {**values, "data": {**own, **section}} if isinstance(own, Mapping) else values  # which is refused as it is


def changes_of(changes: Changes) -> list[str]:
    """Returns changes as a list of texts; what these say is seen where the changes are made."""
    every: list[Any] = [changes] if isinstance(changes, str) or not isinstance(changes, Iterable) else [*changes]
    for change in every:
        if not isinstance(change, str):
            raise RecipeError(f"{quoted(change)} is not a change.", fix='Give texts, "key.path=value".')
    return every


def changes_that_keep_network(changes: list[str], trained: "TrainedNetwork", verb: str) -> list[str]:
    """Returns changes of a recipe; refuses those that would change the network that is fine-tuned or pruned."""
    if isinstance(trained.architecture, Ensemble):
        raise RunError(
            f"{trained.origin} is an ensemble of {trained.architecture.members} networks, which are {verb} one by one.",
            fix=f"Give one of them, such as {Path(trained.origin) / 'folds' / '1'}.",
        )
    for change in changes:
        if change.startswith("train.model") or _is_of_space(change):
            raise RecipeError(
                f"{change} would change the network of {trained.origin}, which is {verb} as it is.",
                fix="Leave it out, or train another network from scratch.",
            )
    return changes


def model_change(recipe: RecipeLike, name: str) -> list[str]:
    """Returns the change that makes a recipe train a baseline; none if it does already, perhaps with options."""
    content: Any = recipe
    if isinstance(recipe, str | Path):
        content = read_mapping(Path(recipe), noun="recipe")
    elif isinstance(recipe, Recipe):
        content = recipe.model_dump(mode="json")
    section = content.get("train") if isinstance(content, Mapping) else None
    model = section.get("model") if isinstance(section, Mapping) else None
    named = model.get("name") if isinstance(model, Mapping) else model
    return [] if named == name else [f"train.model={{name: {json.dumps(name)}}}"]


def study_of(study: Study | Path | str, changes: Changes) -> Study:
    """Returns a study: as it is given, or that of a file, with changes.

    Raises:
        RecipeError: it is neither, or changes are given for a study that has been read.
    """
    if not isinstance(study, Study | Path | str):
        raise RecipeError(f"{quoted(study)} is not a study.", fix="Give a YAML file.")
    every = changes_of(changes)
    if not isinstance(study, Study):
        return load_study(Path(study), every)
    if every:
        raise RecipeError(
            f"{quoted(every[0])} would change a study that has been read.", fix="Give its file, with the changes."
        )
    return study


def data_of(data: Any) -> "ImageStore | tuple[str, ...] | None":
    """Returns images in memory, or names and folders of data sets; None where nothing is given.

    Raises:
        DataError: it is something else, or its images do not fit together.
    """
    if data is None:
        return None
    if isinstance(data, str | Path):
        return (str(data),)
    if isinstance(data, Sequence) and data and all(isinstance(each, str | Path) for each in data):
        return tuple(map(str, data))
    from torch.utils.data import Dataset

    from medarts.data.arrays import from_arrays, from_dataset
    from medarts.data.store import ImageStore

    if isinstance(data, ImageStore):
        return data
    if isinstance(data, Dataset):
        return from_dataset(data)
    if isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(each, "ndim") for each in data):
        return from_arrays(*data)
    raise DataError(
        f"data is {type(data).__name__}, which is no data set.",
        fix=f"Give folders, names of data sets, or {_IN_MEMORY}.",
    )


def images_in_memory(data: Any) -> "ImageStore | None":
    """Returns images in memory, for runs that know their data sets on disk themselves.

    Raises:
        DataError: names or folders are given, or see `data_of`.
    """
    given = data_of(data)
    if isinstance(given, tuple):
        raise DataError("A run is on its own data sets.", fix=f"Leave data out, or give {_IN_MEMORY}.")
    return given


def store_of(data: "ImageStore | tuple[str, ...] | None") -> "ImageStore | None":
    """Returns images in memory; None for names and folders."""
    return None if isinstance(data, tuple) else data


def task_of(data: "ImageStore | tuple[str, ...]", recipe: Recipe) -> Task:
    """Returns what images in memory, or data sets by name or folder, are for."""
    from medarts.data.choosing import choose_sources

    if isinstance(data, tuple):
        return choose_sources(data, known=recipe.data.sources)[0].task
    return "classification" if data.manifest.findings else "segmentation"


def architecture_of(
    network: Any, searched: RunDirectory | None, recipe: Recipe, *, init_channel: int | None, changes: Sequence[str]
) -> "Architecture":
    """Returns what is trained: the genotype of a search, what was named, or the model of the recipe.

    Args:
        network: a baseline, a genotype or the name of either; None where the recipe says it.
        searched: the search whose genotype is trained, if it is one.
        recipe: of the training; it has the baseline already if that is what was named.
        init_channel: another C of a genotype.
        changes: of the recipe; a genotype takes those of its space.

    Raises:
        RecipeError: there is none, or it has no settings of a search space.
        RunError: the search has not finished.
    """
    model: Architecture | None = recipe.train.model
    is_baseline = isinstance(network, Settings) or (isinstance(network, str) and network in models)
    if searched is None and network is not None and not is_baseline:
        found = network if isinstance(network, Genotype) else architecture_named(str(network))
        if isinstance(found, Genotype):
            return genotype_with(found, init_channel=init_channel, changes=changes)
        model = found
    if model is not None:
        if init_channel is not None or any(map(_is_of_space, changes)):
            raise RecipeError(
                f"{model.name} has no settings of a search space.",
                fix="Leave init_channel and space out; a baseline has train.model.width and the like.",
            )
        return model
    if searched is None:
        raise RecipeError(
            "No network to train is given.",
            fix="Give a search, a genotype or a baseline (RUN, --genotype NAME or --model NAME on the command line).",
        )
    if not searched.facts["finished"]:
        path = shlex.quote(str(searched.path))
        raise RunError(
            f"The search {searched.path} has not finished.",
            fix=f"Continue it: medarts search --resume {path}. Or train the genotype that it has so far: "
            f"load_genotype({str(searched.path)!r}), or --genotype {path}.",
        )
    return genotype_with(searched.path, init_channel=init_channel, changes=changes)


def _is_of_space(change: str) -> bool:
    return change.startswith(("space.", "space="))


def search_behind(network: Any) -> RunDirectory | None:
    """Returns the search that a network is taken from; None if it is not a run."""
    if isinstance(network, RunDirectory):
        network = network.path
    if isinstance(network, str | Path) and (Path(network) / "run.json").is_file():
        return RunDirectory.open(Path(network), kind="search")
    return None


def trained_network(model: Any) -> "TrainedNetwork":
    """Returns the trained network of a training run or of a package."""
    from medarts.deploy.package import open_package
    from medarts.training.trained import trained_of

    if is_package(model):
        return open_package(Path(model)).trained
    return trained_of(RunDirectory.open(path_of(model), kind="train"))


def finished_training(run: RunDirectory | Path | str) -> RunDirectory | None:
    """Returns a training run that has finished; None for a package."""
    if is_package(run):
        return None
    opened = RunDirectory.open(path_of(run), kind="train")
    if not opened.facts["finished"]:
        raise RunError(
            f"The training {opened.path} has not finished.",
            fix=f"Continue it: medarts train --resume {shlex.quote(str(opened.path))}",
        )
    return opened


def pruning_method(method: Any) -> dict[str, Any] | None:
    """Returns a method of pruning as a recipe has it."""
    if isinstance(method, Settings):
        return dict(criteria.choose(method).model_dump(mode="json"))
    if method is None or isinstance(method, Mapping):
        return None if method is None else dict(method)
    return {"name": method}


def folder_of(out: Path | str | None, name: str) -> Path:
    """Returns the folder for what is made; by default ``runs/NAME``."""
    return Path("runs") / name if out is None else Path(out)
