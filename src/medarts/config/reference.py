"""What keys a recipe has: type, range, default and meaning of each, for documentation, terminals and editors.

Types, defaults and ranges are those that pydantic checks; the meaning of a key is its line under ``Attributes:`` in the
docstring of its section. Sections that are chosen by name are read from their registry.
"""

import inspect
import re
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from medarts.config.sections import Recipe
from medarts.errors import RecipeError, did_you_mean

FAR = 1e6
BOUNDS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}


def described(section: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """Returns the summary of a section and the meaning of its keys, from the docstrings of the class and its bases."""
    meanings: dict[str, str] = {}
    for base in reversed(section.__mro__):
        _, _, attributes = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:\n")
        block = textwrap.dedent(attributes.split("\n\n")[0])
        for key, meaning in re.findall(r"^(\w+): (.*(?:\n +.*)*)", block, flags=re.MULTILINE):
            meanings[key] = " ".join(meaning.split()).replace("``", "`")
    return _first_paragraph(section.__doc__), meanings


def _first_paragraph(docstring: str | None) -> str:
    """Returns the first paragraph of a docstring in one line, as Markdown."""
    return inspect.cleandoc(docstring or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")


def _is_section(kind: Any) -> bool:
    """Returns whether a type is a section of a recipe."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _members(kind: Any) -> list[Any]:
    """Returns the types of a union without None, or the type itself; annotations are removed."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [found for part in get_args(kind) if part is not type(None) for found in _members(part)]
    return [kind]


def _limits(metadata: Any) -> str:
    """Returns the range that annotations set, such as "≥ 1, ≤ 200", without bounds that only catch typing errors."""
    found = []
    for item in metadata:
        inner = item.metadata if isinstance(item, FieldInfo) else [item]
        for bound in inner:
            for name, sign in BOUNDS:
                value = getattr(bound, name, None)
                if isinstance(value, int | float) and abs(value) < FAR:
                    found.append(f"{sign} {value:g}")
    return ", ".join(found)


def type_of(kind: Any, metadata: Any = ()) -> str:  # noqa: PLR0911  # a type is a case
    """Returns a type in words, with its range."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_of(arguments[0], [*arguments[1:], *metadata])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_of(part, metadata) for part in arguments if part is not type(None)))
    if origin in (tuple, list):
        each = [part for part in arguments if part is not Ellipsis]
        many = Ellipsis in arguments or origin is list
        return (
            f"list of {type_of(each[0]).replace('section', 'sections')}"
            if many
            else f"[{', '.join(map(type_of, each))}]"
        )
    if origin is dict:
        return f"{{{type_of(arguments[0])}: {type_of(arguments[1])}}}"
    if _is_section(kind):
        return "section"
    return f"{NAMES.get(kind, getattr(kind, '__name__', str(kind)))} {_limits(metadata)}".strip()


def shown(default: Any) -> str:  # noqa: PLR0911  # a type is a case
    """Returns a default as it would be written in a recipe."""
    if default is PydanticUndefined:
        return "**required**"
    if default is None or default == "":
        return "–"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, BaseModel):
        chosen = getattr(default, "name", None)
        return f"`{chosen}`" if isinstance(chosen, str) and chosen else "see below"
    if isinstance(default, tuple | list | Mapping):
        if not default:
            return "empty"
        if any(isinstance(item, BaseModel) for item in default):
            return f"{len(default)} entries"
        return f"`{default if isinstance(default, Mapping) else list(default)}`"
    return f"`{default}`"


def default_of(field: FieldInfo) -> Any:
    """Returns the default of a field, made where it is made anew for each section."""
    return field.default_factory() if field.default_factory is not None else field.default  # type: ignore[call-arg]


def choices_of(field: FieldInfo) -> Any:
    """Returns the registry that a section is chosen from, or None."""
    is_union = get_origin(field.annotation) in (Union, types.UnionType)
    parts = get_args(field.annotation) if is_union else ()
    candidates = [*field.metadata, *(item for part in parts for item in get_args(part))]
    return next((item.registry for item in candidates if hasattr(item, "registry")), None)


def items_of(field: FieldInfo) -> Any:
    """Returns the registry that the items of a list are chosen from, or None."""
    for kind in _members(field.annotation):
        if get_origin(kind) in (tuple, list):
            return next((item.registry for item in get_args(get_args(kind)[0])[1:] if hasattr(item, "registry")), None)
    return None


def chosen_by(section: type[BaseModel]) -> str | None:
    """Returns the key whose only value tells a section from its alternatives, or None."""
    for key in ("name", "kind"):
        field = section.model_fields.get(key)
        if field is not None and get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            return key
    return None


def nested(path: str, field: FieldInfo) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yields the sections below a field with their paths."""
    registry, listed = choices_of(field), items_of(field)
    for kind in _members(field.annotation):
        if _is_section(kind) and registry is None:
            yield path, kind
        arguments = [part for part in get_args(kind) if part is not Ellipsis]
        if get_origin(kind) in (tuple, list) and arguments and listed is None:
            yield from ((f"{path}.N", part) for part in _members(arguments[0]) if _is_section(part))
    for members_of, place in ((registry, path), (listed, f"{path}.N")):
        if members_of is not None:
            yield from ((place, members_of.entry(name).settings) for name in members_of.names())


def first_line(entry: Any) -> str:
    """Returns what a member of a registry is: of a function its own docstring, of a class that of its settings."""
    own = entry.settings if isinstance(entry.member, type) else entry.member
    return _first_paragraph(own.__doc__).replace("|", "\\|")


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a recipe.

    Attributes:
        path: its place, such as "data.size".
        kind: its type and range in words.
        default: as it would be written.
        meaning: in one line.
    """

    path: str
    kind: str
    default: str
    meaning: str


def keys_of(path: str = "") -> list[Key]:
    """Returns a key, or the keys of a section, of a recipe.

    Args:
        path: the place: ``data.size``, ``data.sources.folder.labels`` (of a member by its name), ``search.stages``; ""
            is the whole recipe. Numbers of items may be left out.

    Raises:
        RecipeError: there is no such key.

    >>> keys_of("search.momentum")[0].default
    '0.9'
    """
    here: Sequence[type[BaseModel]] = (Recipe,)
    parts = [part for part in path.split(".") if part and not part.isdecimal()]
    found: list[Key] = []
    for number, part in enumerate(parts):
        place = ".".join(parts[: number + 1])
        fields = [(section, section.model_fields[part]) for section in here if part in section.model_fields]
        chosen = [section for section in here if _name_of(section) == part]
        if not (fields or chosen):
            known = {key for section in here for key in section.model_fields} | set(filter(None, map(_name_of, here)))
            raise RecipeError(f"'{place}' is not a key of a recipe.", fix=did_you_mean(part, known))
        if chosen:
            here, found = chosen, []
            continue
        found = list(dict.fromkeys(_key(place, part, *each) for each in fields))
        here = [inner for _, field in fields for _, inner in nested(part, field)]
    if len(here) == 1:
        (section,) = here
        own = chosen_by(section)
        inner = ((key, field) for key, field in section.model_fields.items() if key != own)
        found = found + [_key(".".join([*parts, key]), key, section, field) for key, field in inner]
    else:
        names = ((_name_of(section) or "", section) for section in here)
        found = found + [Key(".".join([*parts, name]), "section", "", _summary(section)) for name, section in names]
    return found


def _key(place: str, name: str, section: type[BaseModel], field: FieldInfo) -> Key:
    registry = choices_of(field)
    kind = f"section, {registry.noun}" if registry is not None else type_of(field.annotation, field.metadata)
    meaning = described(section)[1].get(name, "")
    return Key(
        place,
        kind.replace("`", ""),
        shown(default_of(field)).replace("`", "").replace("*", ""),
        meaning.replace("`", ""),
    )


def _name_of(section: type[BaseModel]) -> str | None:
    own = chosen_by(section)
    return None if own is None else str(section.model_fields[own].default)


def _summary(section: type[BaseModel]) -> str:
    return _first_paragraph(section.__doc__).replace("`", "")


def schema_of_recipes() -> dict[str, Any]:
    """Returns a JSON schema of recipes, by which editors complete and check their keys.

    >>> schema_of_recipes()["properties"]["seed"]["minimum"]
    0
    """
    definitions: dict[str, Any] = {}
    schema = _schema(Recipe, definitions)
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Recipe of medarts"}
    return about | schema | {"$defs": definitions}


def _schema(section: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    summary, meanings = described(section)
    own = chosen_by(section)
    properties = {}
    for key, field in section.model_fields.items():
        described_as = {"description": meaning} if (meaning := meanings.get(key, "").replace("`", "")) else {}
        properties[key] = described_as | _schema_of_field(field, definitions)
    required = [key for key, field in section.model_fields.items() if field.is_required() or key == own]
    about = {"type": "object", "description": summary.replace("`", ""), "additionalProperties": False}
    return about | {"properties": properties} | ({"required": required} if required else {})


def _schema_of_field(field: FieldInfo, definitions: dict[str, Any]) -> dict[str, Any]:
    found = _schema_of_value(field, definitions)
    optional = field.default is None and ("$ref" in found or found.get("type") == "object")
    return {"anyOf": [found, {"type": "null"}]} if optional else found


def _schema_of_value(field: FieldInfo, definitions: dict[str, Any]) -> dict[str, Any]:
    if (registry := choices_of(field)) is not None:
        return _schema_of_choice(registry, definitions)
    if (registry := items_of(field)) is not None:
        return {"type": "array", "items": _schema_of_choice(registry, definitions)}
    inner = [(place, section) for place, section in nested("", field)]
    if not inner:
        try:
            kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            return TypeAdapter(kind).json_schema()
        except PydanticInvalidForJsonSchema:
            return {}
    (place, section) = inner[0]
    found = _schema(section, definitions)
    if place.endswith(".N"):
        return {"type": "array", "items": found}
    words = [kind for kind in _members(field.annotation) if get_origin(kind) is Literal]
    return {"anyOf": [*(TypeAdapter(kind).json_schema() for kind in words), found]} if words else found


def _schema_of_choice(registry: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Returns a reference to what may be chosen from a registry: a name, or a section that has it."""
    name = registry.noun.replace(" ", "-")
    if name not in definitions:
        definitions[name] = {}  # members may have choices of the same registry
        members = [_schema(registry.entry(each).settings, definitions) for each in registry.names()]
        definitions[name] = {"anyOf": [{"type": "string", "enum": list(registry.names())}, *members]}
    return {"$ref": f"#/$defs/{name}"}
