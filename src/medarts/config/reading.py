"""Recipes as YAML: read, overridden from the command line, checked, written, fingerprinted, told apart."""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from medarts.config.explaining import explain
from medarts.config.patterns import FIELDS
from medarts.config.section import Section, as_before, is_unset
from medarts.config.sections import Recipe, SearchSettings, with_published_defaults
from medarts.config.yaml_text import YamlError, read_yaml, unshared, write_yaml
from medarts.errors import RecipeError, quoted, shortened
from medarts.system.files import exists, read_text

_LARGEST = 200_000
"""Bytes of a file; the study of a large benchmark has some 20,000."""


_NUMBER = "[0-9]{1,9}"
"""Of an item of a list, or a label, in a change."""


def load(path: Path, overrides: Iterable[str] = (), *, kept: bool = False) -> Recipe:
    """Reads a recipe from a YAML file.

    Args:
        path: the file.
        overrides: changes as ``key.path=value``, the value in YAML; patterns of paths need no quotes.
        kept: whether a run keeps it: what it lacks, an older medarts has left out; see
            ``medarts.config.section.Before``.

    Raises:
        RecipeError: the file is missing or no YAML, or a key or value is wrong.
    """
    content = read_mapping(path, noun="recipe")
    content = as_before(content, Recipe) if kept else content
    return parse(apply_overrides(content, overrides), origin=str(path))


def read_mapping(path: Path, *, noun: str) -> dict[str, Any]:
    """Reads a YAML file of keys and values; ``noun`` says in errors what it should be."""
    if not exists(path):
        raise RecipeError(
            f"There is no {noun} {shortened(str(path))}.", fix="Give the path of a YAML file, as in recipes/."
        )
    text = read_text(path, largest=_LARGEST, noun=noun, error=RecipeError)
    try:
        content = read_yaml(text)
    except YamlError as error:
        fix = "Indent with spaces, not with tabs." if "'\\t'" in str(error) else "Fix that line."
        raise RecipeError(f"{path} is not valid YAML: {error}.", fix=fix) from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds no keys.", fix="Start from one of the files in recipes/.")
    return content


def parse(content: dict[str, Any], *, origin: str = "recipe") -> Recipe:
    """Checks a mapping and makes it a recipe; ``origin`` names it in errors."""
    try:
        return Recipe.model_validate(_expand_paths(content, origin))
    except ValidationError as error:
        raise RecipeError(f"{origin}: {explain(error, Recipe, noun='recipe')}", fix="") from None


def apply_overrides(content: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Returns a copy of ``content`` with ``key.path=value`` changes; list items are named by their number."""
    result: Any = unshared(content)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"{quoted(override)} is not a change to a recipe.", fix="Write key.path=value.")
        value = _value(text, override)
        keys = key.split(".")
        _fill_in_lists(result, keys)
        _set(result, keys, value, override)
    return dict(result)


def _value(text: str, override: str) -> Any:
    """Reads the value of a change.

    A pattern such as {patient}_* is taken as it is: in YAML it would need quotes, and in a shell these quotes others.
    """
    is_pattern = (
        re.search(rf"\{{({'|'.join(FIELDS)})\}}", text) is not None and ": " not in text and text[0] not in "'\"["
    )
    try:
        value = read_yaml(text)
    except YamlError as error:
        if is_pattern:
            return text
        raise RecipeError(
            f"The value of {quoted(override)} is not YAML: {error}.", fix="Put quotes around a text."
        ) from None
    return text if is_pattern and isinstance(value, dict) else value


def to_yaml(recipe: Recipe) -> str:
    """Returns the whole recipe, defaults included, as YAML."""
    return write_yaml(recipe.model_dump(mode="json"))


def fingerprint(recipe: Recipe) -> str:
    """Returns 16 hexadecimal digits that change with every value of ``deciding_values``."""
    return fingerprint_of(deciding_values(recipe))


def fingerprint_without_seed(recipe: Recipe) -> str:
    """Returns a fingerprint that is equal for recipes that differ in their seed alone."""
    return fingerprint_of({name: value for name, value in deciding_values(recipe).items() if name != "seed"})


def fingerprint_of(values: dict[str, Any]) -> str:
    """Returns the fingerprint of a recipe with these ``deciding_values``, which may have been JSON since."""
    return hashlib.sha256(yaml.safe_dump(values, sort_keys=True).encode()).hexdigest()[:16]


def deciding_values(recipe: Recipe) -> dict[str, Any]:
    """Returns all values but note, paths, limit of the cache, device, threads, tensorboard and timeout.

    Paths of data and weights differ from machine to machine; what lies there has a fingerprint of its own.
    """
    values = recipe.model_dump(
        mode="json",
        exclude={
            "note": True,
            "compute": {"device", "threads", "tensorboard", "timeout"},
            "train": {"model": {"weights"}},
            "data": {"cache": True, "cache_gb": True, "sources": {"__all__": {"path"}}},
        },
    )
    _leave_out_unset(recipe, values)
    if recipe.search.method != "supernet":
        # They decide such a search at their defaults, too, and no run is older than they are.
        values["search"]["select"] = values_of(recipe.search.select)
        values["space"] = values_of_drawing(recipe.space)
    return values


def values_of(section: Section, *, exclude_none: bool = False) -> dict[str, Any]:
    """Returns the values of a section as JSON has them, without what came later (`medarts.config.section.LATER`) and
    has its default.

    Args:
        section: a section of a recipe, or the settings of what is registered.
        exclude_none: None is left out, too.
    """
    values = section.model_dump(mode="json", exclude_none=exclude_none)
    _leave_out_unset(section, values)
    return values


def values_of_drawing(space: Section) -> dict[str, Any]:
    """Returns what decides which networks are drawn from a space: its values, and its choices at their defaults too."""
    values = values_of(space)
    choices = getattr(space, "choices", None)
    return values if choices is None else values | {"choices": values_of(choices)}


def _leave_out_unset(section: Any, values: Any) -> None:
    """Takes away from the values of a section, and of those within it, what came later and has its default."""
    if isinstance(section, Section) and isinstance(values, dict):
        for name in type(section).model_fields.keys() & values.keys():
            if is_unset(section, name):
                del values[name]
            else:
                _leave_out_unset(getattr(section, name), values[name])
    elif isinstance(section, list | tuple):
        for item, inner in zip(section, values, strict=True):
            _leave_out_unset(item, inner)


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
        if re.fullmatch(_NUMBER, following):
            content.setdefault(key, default)
        content = content.setdefault(key, {})


def _set(content: Any, keys: list[str], value: Any, override: str) -> None:
    for name, following in pairwise(keys):
        key = name
        if isinstance(content, list):
            content = content[_position(content, key, override)]
        else:
            key = _key(content, name)
            if content.get(key) is None:  # missing, or null where a section may be left out
                is_item = re.fullmatch(_NUMBER, following) and key != "labels"
                content[key] = [] if is_item else {}
            content = content[key]
        if not isinstance(content, dict | list):
            raise RecipeError(f"{quoted(override)}: '{shortened(key)}' has no keys below it.", fix="Shorten the key.")
    if isinstance(content, list):
        content[_position(content, keys[-1], override)] = value
    else:
        content[_key(content, keys[-1])] = value


def _key(content: dict[Any, Any], key: str) -> Any:
    """Returns a key as in a mapping: those of labels are numbers."""
    return int(key) if re.fullmatch(_NUMBER, key) and int(key) in content else key


def _position(content: list[Any], key: str, override: str) -> int:
    if not re.fullmatch(_NUMBER, key) or int(key) >= len(content):
        fix = f"Use 0 to {len(content) - 1}." if content else "Write the list into the recipe first."
        raise RecipeError(f"{quoted(override)}: there is no item '{shortened(key)}'.", fix=fix)
    return int(key)


def _expand_paths(content: dict[str, Any], origin: str) -> dict[str, Any]:
    """Expands ``$NAME`` and ``~`` in paths of sources, cache and weights."""
    train: Any = content.get("train")
    model: Any = train.get("model") if isinstance(train, dict) else None
    if isinstance(model, dict):
        content = content | {"train": train | {"model": _expanded(model, "weights", f"{origin}: train.model")}}
    data = content.get("data")
    if not isinstance(data, dict):
        return content
    data = _expanded(data, "cache", f"{origin}: data")
    if isinstance(data.get("sources"), list):
        data["sources"] = [
            _expanded(source, "path", f"{origin}: data.sources.{number}") if isinstance(source, dict) else source
            for number, source in enumerate(data["sources"])
        ]
    return content | {"data": data}


def _expanded(section: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """Returns a section with one of its paths expanded; a folder may be called 2017."""
    path = section.get(key)
    is_path = isinstance(path, str) or type(path) is int
    return section | {key: expand(str(path), f"{where}.{key}")} if is_path else dict(section)


def expand(path: str, where: str, *, folder: Path | None = None) -> str:
    """Expands ``$NAME`` and ``~`` to an absolute path; a variable that is not set is an error, not a folder.

    Args:
        path: as written in a file. A path that exists is taken as it is: a folder may have ``$`` in its name.
        folder: to which the path is relative. Default: the current folder.

    Raises:
        RecipeError: it is empty or no path, or a variable or a user is not known.
    """
    if not path.strip() or "\0" in path:
        raise RecipeError(f"{where} is {quoted(path)}, which is not a path.", fix="Give the path of a file or folder.")
    literal = ((folder or Path()) / path).absolute()
    if exists(literal):
        return str(literal)
    expanded = os.path.expandvars(path)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        name = unset[1]
        raise RecipeError(f"{where} uses ${name}, which is not set.", fix=f"Set it: export {name}=/folder/of/the/data.")
    try:
        home = Path(expanded).expanduser()
    except RuntimeError:  # of a user that there is not
        raise RecipeError(f"{where} is {quoted(path)}, but there is no such user.", fix="Give a full path.") from None
    return str(((folder or Path()) / home).absolute())  # runs are resumed from other folders


_ABSENT = object()

_MOST = 10
"""Fields of one message."""


def first_difference(one: Recipe, other: Recipe, *, without: Collection[str] = ()) -> tuple[str, str, str] | None:
    """Returns the first field whose value differs, and both values; None where the recipes decide the same.

    Args:
        without: sections, such as "search", that do not count, beside what never does; see ``deciding_values``.
    """
    return next(differences(one, other, without=without), None)


def differences(one: Recipe, other: Recipe, *, without: Collection[str] = ()) -> Iterator[tuple[str, str, str]]:
    """Yields all fields whose values differ, and both values; the arguments are those of ``first_difference``."""
    first, second = (
        {name: value for name, value in deciding_values(recipe).items() if name not in without}
        for recipe in (one, other)
    )
    for place, before, now in value_differences(first, second):
        yield place, as_text(before), as_text(now)


def value_differences(one: Any, other: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields the dotted places of nested mappings and lists whose values differ, and these; see ``as_text``."""
    for kind, parts in ((Mapping, dict), (list, lambda items: dict(enumerate(items)))):
        if isinstance(one, kind) and isinstance(other, kind):
            first, second = parts(one), parts(other)
            for key in {**first, **second}:
                inner = f"{place}.{key}" if place else str(key)
                yield from value_differences(first.get(key, _ABSENT), second.get(key, _ABSENT), inner)
            return
    if one != other:
        yield place, one, other


def as_text(value: Any) -> str:
    """Returns how a value of a recipe is written in a sentence; of long ones the middle is left out."""
    return "not given" if value is _ABSENT else quoted(value)


def difference_words(differences: Iterable[tuple[str, Any, Any]]) -> str:
    """Returns differences, those of ``value_differences``, as part of a sentence; of many the first ten."""
    fields = [f"{shortened(field)}: {as_text(before)} -> {as_text(now)}" for field, before, now in differences]
    more = [f"and {len(fields) - _MOST} more"] if len(fields) > _MOST else []
    return "; ".join([*fields[:_MOST], *more])
