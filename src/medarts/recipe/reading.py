"""Recipes as YAML: read, overridden from the command line, checked, written, fingerprinted."""

import hashlib
import os
import re
import typing
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from medarts.errors import RecipeError, did_you_mean
from medarts.recipe.published import with_published_defaults
from medarts.recipe.sections import Recipe, SearchSettings, StackSettings, WeaveSettings

_SPACES: dict[str, type[BaseModel]] = {"stack": StackSettings, "weave": WeaveSettings}


def load(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe from a YAML file.

    Args:
        path: the file.
        overrides: changes as ``key.path=value``, the value in YAML.

    Raises:
        RecipeError: the file is missing or no YAML, or a key or value is wrong.
    """
    if not path.is_file():
        raise RecipeError(f"There is no recipe {path}.", fix="Give the path of a YAML file, as in recipes/.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path} is not YAML: {reason}.", fix="Mend that line.") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds no keys.", fix="Start from one of the files in recipes/.")
    return parse(apply_overrides(content, overrides), origin=str(path))


def parse(content: dict[str, Any], *, origin: str = "recipe") -> Recipe:
    """Checks a mapping and makes it a recipe; ``origin`` names it in errors."""
    try:
        return Recipe.model_validate(_expand_paths(content, origin))
    except ValidationError as error:
        raise RecipeError(f"{origin}: {_explain(error)}", fix="") from None


def apply_overrides(content: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Returns a copy of ``content`` with ``key.path=value`` changes; list items are named by their number."""
    result: Any = yaml.safe_load(yaml.safe_dump(content))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"'{override}' is no change of a recipe.", fix="Write key.path=value.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise RecipeError(f"The value of '{override}' is not YAML.", fix="Quote it.") from None
        keys = key.split(".")
        _fill_in_lists(result, keys)
        _set(result, keys, value, override)
    return dict(result)


def to_yaml(recipe: Recipe) -> str:
    """Returns the whole recipe, defaults included, as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def fingerprint(recipe: Recipe) -> str:
    """Returns 16 hexadecimal digits that change with every value but note, paths, device, threads and tensorboard.

    Paths of data and weights differ from machine to machine; what lies there has a fingerprint of its own.
    """
    content = recipe.model_dump(
        mode="json",
        exclude={
            "note": True,
            "compute": {"device", "threads", "tensorboard"},
            "train": {"weights"},
            "data": {"cache": True, "sources": {"__all__": {"path"}}},
        },
    )
    return hashlib.sha256(yaml.safe_dump(content, sort_keys=True).encode()).hexdigest()[:16]


def _fill_in_lists(content: dict[str, Any], keys: list[str]) -> None:
    """Puts the default of a list into ``content`` where a change names an item of a list that is not there."""
    given = with_published_defaults(content).get("search")
    stages = given.get("stages") if isinstance(given, dict) else None
    if stages is None:
        stages = [stage.model_dump(mode="json") for stage in SearchSettings().stages]
    default: Any = {"search": {"stages": stages}}
    for key, following in pairwise(keys):
        default = default.get(key) if isinstance(default, dict) else None
        if default is None or not isinstance(content, dict):
            return
        if following.isdigit():
            content.setdefault(key, default)
        content = content.setdefault(key, {})


def _set(content: Any, keys: list[str], value: Any, override: str) -> None:
    for key, following in pairwise(keys):
        if isinstance(content, list):
            content = content[_position(content, key, override)]
        else:
            content = content.setdefault(key, [] if following.isdigit() else {})
        if not isinstance(content, dict | list):
            raise RecipeError(f"'{override}': '{key}' has no keys below it.", fix="Shorten the key.")
    if isinstance(content, list):
        content[_position(content, keys[-1], override)] = value
    else:
        content[keys[-1]] = value


def _position(content: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(content):
        fix = f"Use 0 to {len(content) - 1}." if content else "Write the list into the recipe first."
        raise RecipeError(f"'{override}': there is no item '{key}'.", fix=fix)
    return int(key)


def _expand_paths(content: dict[str, Any], origin: str) -> dict[str, Any]:
    """Expands ``$NAME`` and ``~`` in paths of sources, cache and weights."""
    train = content.get("train")
    if isinstance(train, dict) and isinstance(train.get("weights"), str):
        content = content | {"train": train | {"weights": _expand(train["weights"], f"{origin}: train.weights")}}
    data = content.get("data")
    if not isinstance(data, dict):
        return content
    data = dict(data)
    if isinstance(data.get("sources"), list):
        data["sources"] = [
            source | {"path": _expand(source["path"], f"{origin}: data.sources.{number}.path")}
            if isinstance(source, dict) and isinstance(source.get("path"), str)
            else source
            for number, source in enumerate(data["sources"])
        ]
    if isinstance(data.get("cache"), str):
        data["cache"] = _expand(data["cache"], f"{origin}: data.cache")
    return content | {"data": data}


def _expand(path: str, where: str) -> str:
    """Expands ``$NAME`` and ``~`` to an absolute path; a variable that is not set is an error, not a folder."""
    expanded = os.path.expandvars(path)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        name = unset[1]
        raise RecipeError(f"{where} uses ${name}, which is not set.", fix=f"Set it: export {name}=/folder/of/the/data.")
    return str(Path(expanded).expanduser().absolute())  # a run can be resumed from another folder


def _explain(error: ValidationError) -> str:
    """Says every mistake as 'path: what is wrong. the fix', with the nearest valid key or value."""
    lines = []
    # A tuple whose items are wrong is reported as too short as well; the items say more.
    inner = {item["loc"][:-1] for item in error.errors() if item["type"] != "too_short"}
    for item in error.errors():
        if item["type"] == "too_short" and any(loc[: len(item["loc"])] == item["loc"] for loc in inner):
            continue
        where = ".".join(str(part) for part in _without_tag(item["loc"]))
        if item["type"] == "extra_forbidden":
            valid = _keys_beside(item["loc"])
            lines.append(f"{where} is not a key of a recipe. {did_you_mean(str(item['loc'][-1]), valid)}")
        elif item["type"] == "literal_error":
            choices = item["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            lines.append(f"{where} cannot be {item['input']!r}. {did_you_mean(str(item['input']), choices)}")
        elif item["type"] == "union_tag_invalid":
            lines.append(f"{where}.name cannot be '{item['ctx']['tag']}'. {did_you_mean(item['ctx']['tag'], _SPACES)}")
        elif item["type"] == "missing":
            lines.append(f"{where} is missing. Add it.")
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = "" if item["type"] == "value_error" else f" (given: {item['input']!r})"
            lines.append(f"{where}: {message}{given}." if where else f"{message}.")
    return "; ".join(lines)


def _without_tag(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Returns a path of the recipe; pydantic puts the name of the space behind ``space``."""
    return (location[0], *location[2:]) if location[:1] == ("space",) and location[1:2] else location


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Recipe
    for part in location[:-1]:
        if part in _SPACES and model is None:
            model = _SPACES[str(part)]
        elif isinstance(part, str) and isinstance(model, type) and issubclass(model, BaseModel):
            model = None if part == "space" else _model_inside(model.model_fields[part].annotation)
    return list(model.model_fields)


def _model_inside(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _model_inside(argument)
        if found is not None:
            return found
    return None
