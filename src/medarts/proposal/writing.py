"""A recipe as people write it: short, with the reason behind a value."""

from collections.abc import Iterator, Mapping
from typing import Any

from medarts.config.yaml_text import write_flow
from medarts.proposal.settings import Draft

SCHEMA = "recipe.schema.json"
"""File beside the recipe that tells an editor its keys."""

_HEAD = f"""# yaml-language-server: $schema={SCHEMA}
# Written by medarts init. What a key means: medarts recipe KEY; all keys: medarts recipe
"""

_COLUMN = 48
"""Column of reasons, where the value leaves room."""


_LONGEST = 100


def write_recipe(draft: Draft) -> str:
    """Returns the YAML text of a recipe."""
    return _HEAD + "".join(f"{line}\n" for line in _section(draft.content, "", draft.reasons, 0))


def _section(content: Mapping[str, Any], path: str, reasons: Mapping[str, str], depth: int) -> Iterator[str]:
    for key, value in content.items():
        where = f"{path}.{key}".lstrip(".")
        start = f"{'  ' * depth}{key}:"
        if isinstance(value, Mapping) and depth == 0 and not (key == "space" and _is_short(value)):
            yield _with_reason(start, reasons.get(where, ""))
            yield from _section(value, where, reasons, depth + 1)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield _with_reason(start, reasons.get(where, ""))
            for number, item in enumerate(value):
                yield from _item(item, f"{where}.{number}", reasons, depth + 1)
        else:
            yield _with_reason(f"{start} {write_flow(value)}", reasons.get(where, ""))


def _item(item: Mapping[str, Any], path: str, reasons: Mapping[str, str], depth: int) -> Iterator[str]:
    """Yields an item of a list: in one line where it is short, else a line a key."""
    if "path" not in item and len(write_flow(item)) < _LONGEST:
        yield f"{'  ' * depth}- {write_flow(item)}"
        return
    for number, line in enumerate(_section(item, path, reasons, depth + 1)):
        yield f"{'  ' * depth}- {line.lstrip()}" if number == 0 else line


def _is_short(value: Mapping[str, Any]) -> bool:
    return len(write_flow(value)) < _LONGEST and not any(isinstance(each, Mapping | list) for each in value.values())


def _with_reason(line: str, reason: str) -> str:
    return f"{line:<{_COLUMN}}  # {reason}" if reason else line
