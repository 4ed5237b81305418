"""Published values that a recipe starts from: those of its search space.

Every space names all that its paper has (``SearchSpace.defaults``), so that no value of one space becomes that of
another. What no paper has stands as defaults in the sections.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from medarts.config.data import Task
from medarts.registry import sources as registered
from medarts.registry import spaces


def usual_space(task: Task) -> str:
    """Returns the search space of recipes for a task that name none."""
    return spaces.names(task=task, default=True)[0]


def space_of(content: Mapping[str, Any]) -> str:
    """Returns the search space of a recipe: the one it names, else the usual one for its sources."""
    space = content.get("space")
    named = space if isinstance(space, str) else _of(space, "name")
    if named is not None:
        return str(named)
    sources = _of(content.get("data"), "sources")
    kinds = [_of(source, "kind") for source in sources] if _is_list(sources) else []
    tasks = {_task_of(kind) for kind in kinds if isinstance(kind, str) and kind in registered}
    return usual_space("classification" if "classification" in tasks else "segmentation")


def _task_of(kind: str) -> Task:
    settings: Any = registered.entry(kind).settings
    task: Task = settings.task
    return task


def with_published_defaults(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a recipe with its space named, and with the published values that it does not give."""
    content, name = dict(content), space_of(content)
    if not isinstance(content.get("space"), BaseModel | str):
        content["space"] = _merged({"name": name}, content.get("space", {}))
    if name not in spaces:
        return content  # refused later
    space = spaces.get(name)
    merged: dict[str, Any] = _merged(space.defaults, content)
    for key, default in space.item_defaults.items():
        section, _, field = key.partition(".")
        items = _of(merged.get(section), field)
        if _is_list(items) and isinstance(merged[section], dict):
            merged[section][field] = [_merged(default, item) for item in items]
    return merged


def _merged(defaults: Mapping[str, Any], given: Any) -> Any:
    """Returns ``given`` with what ``defaults`` has beyond it; what is no mapping stays, to be refused later."""
    if not isinstance(given, Mapping):
        return given
    merged = dict(given)
    for key, default in defaults.items():
        if key not in merged:
            merged[key] = deepcopy(default)
        elif isinstance(default, Mapping):
            merged[key] = _merged(default, merged[key])
    return merged


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _of(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, Mapping) else getattr(section, key, None)
