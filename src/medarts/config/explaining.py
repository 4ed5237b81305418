"""The errors of pydantic in a file, in terms of the file."""

import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import BaseModel, Tag, ValidationError

from medarts.errors import did_you_mean, quoted, shortened
from medarts.registry import UNKNOWN, UNNAMED, Choice

Location = tuple[int | str, ...]

_LONGEST = 400
"""Characters of a mistake."""

_MOST = 10
"""Mistakes that are reported at once."""

_VALID = " Valid here: "
"""Begins the list of what there may be, in a fix."""

_FIXES = {
    "bool_type": " Write true or false.",
    "int_type": " Write a whole number, such as 3, without quotes.",
    "int_from_float": " Write a whole number, such as 3.",
    "float_type": " Write a number, such as 0.5, without quotes.",
    "string_type": " Put quotes around it.",
}
"""What to do, by the type of a mistake, where its message does not say it."""


def first_mistake(error: ValidationError) -> str:
    """Returns the first mistake of a file that people do not write: its key, and what is wrong.

    >>> class Size(BaseModel):
    ...     size: int
    >>> try:
    ...     Size.model_validate_json("{}")
    ... except ValidationError as error:
    ...     first_mistake(error)
    'size: Field required'
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return shortened(f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Invalid JSON: "))


def explain(error: ValidationError, kind: type[BaseModel], *, noun: str) -> str:
    """Says every mistake as 'path: what is wrong. the fix', with the nearest valid key or value.

    Args:
        kind: the section that the whole file was read as.
    """
    found = error.errors(include_url=False)
    # A tuple whose items are wrong is reported as too short as well; the items say more.
    inner = {item["loc"][:-1] for item in found if item["type"] != "too_short"}
    mistakes: list[str] = []
    listed: set[str] = set()
    for item in found:
        if item["type"] == "too_short" and any(loc[: len(item["loc"])] == item["loc"] for loc in inner):
            continue
        text, valid, choices = _explained(item, kind, noun=noun).partition(_VALID)
        if choices not in listed:  # several wrong keys of one section have the same list
            text += valid + choices
            listed |= {choices} - {""}
        mistakes.append(shortened(text, longest=_LONGEST))
    if len(mistakes) > _MOST:
        mistakes[_MOST:] = [f"and {len(mistakes) - _MOST} more mistakes."]
    return "; ".join(mistakes)


def _explained(item: Mapping[str, Any], kind: type[BaseModel], *, noun: str) -> str:
    path, _ = _follow(item["loc"], kind)
    where = ".".join(path)
    if item["type"] == "extra_forbidden":
        _, section = _follow(item["loc"][:-1], kind)
        return f"{where} is not a key of a {noun}. {did_you_mean(path[-1], section.model_fields)}"
    choice = _choice(item, where)
    if choice is not None:
        key, given, choices = choice
        near = did_you_mean(given if isinstance(given, str) else quoted(given), choices)
        return f"{key} cannot be {quoted(given)}. {near}"
    if item["type"] in ("missing", "union_tag_not_found", UNNAMED):
        key = {"missing": where, UNNAMED: f"{where}.{item.get('ctx', {}).get('key')}"}.get(
            item["type"], f"{where}.name"
        )
        return f"{key} is missing. Add it."
    if item["type"] == "string_pattern_mismatch":  # names are all that have a pattern
        return f"{where} cannot be {quoted(item['input'])}. Use letters, digits, spaces, '_', '.' and '-'."
    message = item["msg"].removeprefix("Value error, ")
    given = "" if item["type"] == "value_error" else f" (given: {quoted(item['input'])})"
    return _sentence(f"{where}: {message}{given}" if where else message) + _FIXES.get(item["type"], "")


def _choice(item: Mapping[str, Any], where: str) -> tuple[str, Any, list[str]] | None:
    """Returns key, value and valid values where one of a list was expected; None for other mistakes."""
    if item["type"] == "literal_error":
        return where, item["input"], _quoted(item["ctx"]["expected"].replace(" or ", ", "))
    if item["type"] == "union_tag_invalid":
        return f"{where}.name", item["ctx"]["tag"], _quoted(item["ctx"]["expected_tags"])
    if item["type"] == UNKNOWN:
        return f"{where}.{item['ctx']['key']}", item["ctx"]["given"], item["ctx"]["names"].split(", ")
    return None


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def _quoted(listed: str) -> list[str]:
    return listed.replace("'", "").split(", ")


def _follow(location: Location, kind: type[BaseModel]) -> tuple[list[str], Any]:
    """Follows the keys down to a mistake.

    Returns:
        The keys on the way as written in the file, and the type found there.
    """
    path, here = [], _bare(kind)
    for part in location:
        here, in_file = _inside(here, part)
        if in_file:
            path.append(str(part))
    return path, here


def _inside(here: Any, part: int | str) -> tuple[Any, bool]:
    """Returns the type of a part of something of a type, and whether the file has a key for it.

    It has none where something can be of several types: there pydantic says which of them it means.
    """
    if isinstance(here, Choice):
        return here.registry.entry(str(part)).settings, False
    if _is_section(here):
        field = here.model_fields.get(part)
        if field is None:
            return None, True
        return next((one for one in field.metadata if isinstance(one, Choice)), _bare(field.annotation)), True
    if _is_union(here):
        return next((_bare(option) for option in typing.get_args(here) if _is_named(option, part)), None), False
    items = [item for item in typing.get_args(here) if item is not Ellipsis]
    last = items[-1] if items else None  # of a mapping its values; items of a tuple are of one type, wherever needed
    return _bare(last), True


def _bare(annotation: Any) -> Any:
    """Returns a type without what is known of it besides, unless it is chosen by name, and without None."""
    if typing.get_origin(annotation) is Annotated:
        inner, *metadata = typing.get_args(annotation)
        return next((one for one in metadata if isinstance(one, Choice)), _bare(inner))
    if _is_union(annotation):
        options = [option for option in typing.get_args(annotation) if option is not types.NoneType]
        if len(options) == 1:
            return _bare(options[0])
        return Union[tuple(options)]  # noqa: UP007  # made of values
    return annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType)


def _is_named(option: Any, name: int | str) -> bool:
    """Returns whether pydantic calls one of several types so: by its tag, else by the name that the section has."""
    tags = [one.tag for one in getattr(option, "__metadata__", ()) if isinstance(one, Tag)]
    if tags:
        return name in tags
    section = _bare(option)
    return _is_section(section) and "name" in section.model_fields and section.model_fields["name"].default == name
