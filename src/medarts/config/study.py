"""A study: which networks are trained on which data sets and with which seeds, to be compared with each other.

One YAML file serves benchmarks and questions of generalisation. It holds a recipe, whose sources are all data sets of
the study, the networks, and the groups of data sets that these are trained on.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medarts.config.explaining import explain
from medarts.config.reading import apply_overrides, expand, parse, read_mapping
from medarts.config.sections import Recipe
from medarts.config.study_sections import GroupEntry, NetworkEntry, Study, usual_name
from medarts.config.yaml_text import write_yaml
from medarts.errors import RecipeError
from medarts.system.files import exists

__all__ = ["GroupEntry", "NetworkEntry", "Study", "group_recipe", "load_study", "search_recipe", "study_to_yaml"]


def load_study(path: Path, overrides: Iterable[str] = ()) -> Study:
    """Reads a study from a YAML file.

    Args:
        overrides: changes as ``key.path=value``, such as ``recipe.train.epochs=2``, the value in YAML.

    Raises:
        RecipeError: the file or its recipe is missing or no YAML, or a key or value is wrong.
    """
    of_recipe, others = _sorted_out(overrides)
    content = read_mapping(path, noun="study")
    if "recipe" not in content and content.keys() & (Recipe.model_fields.keys() - Study.model_fields.keys()):
        raise RecipeError(
            f"{path} is a recipe, not a study.",
            fix="Write a study that names it (recipe, networks, trained_on); see recipes/benchmark-cpu.yaml.",
        )
    content = apply_overrides(content, others)
    origin = f"{path}: recipe"
    if isinstance(content.get("recipe"), str):
        origin = expand(content["recipe"], origin, folder=path.parent)
        content["recipe"] = read_mapping(Path(origin), noun="recipe")
    if isinstance(content.get("recipe"), dict):
        content["recipe"] = parse(apply_overrides(content["recipe"], of_recipe), origin=origin)
    if isinstance(content.get("networks"), list):
        content["networks"] = [
            _with_paths(entry, f"{path}: networks.{number}", folder=path.parent) if isinstance(entry, dict) else entry
            for number, entry in enumerate(content["networks"])
        ]
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{path}: {explain(error, Study, noun='study')}", fix="") from None
    try:
        _try_recipes(study)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error.problem}", fix=error.fix) from None
    return study.read_from(path)


def study_to_yaml(study: Study) -> str:
    """Returns the whole study as YAML, its recipe with all defaults, for ``load_study`` to read from anywhere."""
    content = {
        "note": study.note,
        "recipe": study.recipe.model_dump(mode="json"),
        "networks": [entry.model_dump(mode="json", exclude_none=True) for entry in study.networks],
        "trained_on": [group.model_dump(mode="json", exclude_none=True) for group in study.trained_on],
        "external": list(study.external),
        "reference": study.reference,
    }
    return write_yaml(content)


def group_recipe(study: Study, group: GroupEntry, *, seed: int) -> Recipe:
    """Returns the recipe of the trainings on a group with a seed; the network is not part of it."""
    where = f"trained_on.{study.trained_on.index(group)}.changes"
    return _changed(study.recipe, group.data, group.changes, where=where, values={"seed": seed})


def search_recipe(study: Study, entry: NetworkEntry) -> Recipe:
    """Returns the recipe of the search of a network that is ``searched_on`` data sets."""
    where = f"networks.{study.networks.index(entry)}.changes"
    return _changed(study.recipe, entry.searched_on or (), entry.changes, where=where, values={})


def _changed(
    recipe: Recipe, domains: tuple[str, ...], changes: tuple[str, ...], *, where: str, values: dict[str, Any]
) -> Recipe:
    try:
        content = apply_overrides(recipe.model_dump(mode="json"), changes) | values
    except RecipeError as error:
        raise RecipeError(f"{where}: {error.problem}", fix=error.fix) from None
    sources = [source.model_dump(mode="json") for source in recipe.data.sources if source.domain in domains]
    content["data"] = content["data"] | {"sources": sources}
    return parse(content, origin=where)


def _try_recipes(study: Study) -> None:
    for group in study.trained_on:
        group_recipe(study, group, seed=group.seeds[0])
    for entry in study.networks:
        if entry.searched_on is not None:
            search_recipe(study, entry)


def _sorted_out(overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """Returns the changes of the recipe, and those of the rest of a study."""
    of_recipe, others = [], []
    for change in overrides:
        key = change.partition("=")[0]
        if key.startswith("recipe."):
            of_recipe.append(change.removeprefix("recipe."))
        elif key.partition(".")[0] in Recipe.model_fields.keys() - Study.model_fields.keys():
            raise RecipeError(f"'{change}' changes the recipe of the study.", fix=f"Write recipe.{change}.")
        else:
            others.append(change)
    return of_recipe, others


def _with_paths(entry: dict[str, Any], where: str, *, folder: Path) -> dict[str, Any]:
    """Returns an entry with absolute paths; a genotype that is no file beside the study may be one of the zoo."""
    model, genotype = entry.get("model"), entry.get("genotype")
    if isinstance(genotype, int) and not isinstance(genotype, bool):
        genotype = str(genotype)
    if isinstance(model, dict) and isinstance(model.get("weights"), str):
        entry = entry | {
            "model": model | {"weights": expand(model["weights"], f"{where}.model.weights", folder=folder)}
        }
    if isinstance(genotype, str):
        path = expand(genotype, f"{where}.genotype", folder=folder)
        if exists(Path(path)):
            entry = entry | {"name": entry.get("name", usual_name(entry)), "genotype": path}
    return entry
