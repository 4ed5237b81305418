"""What every section of a recipe is made of.

Types are strict: nothing becomes a number, a truth value or a text that was not written as one. Every number has an
upper bound, far above what makes sense, so that a typing error is refused at once instead of using up the
memory or the time of the machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, Field, Strict, TypeAdapter
from pydantic.fields import FieldInfo

from medarts.registry import Choice, Registry, Section, Settings
from medarts.system.names import NAME

__all__ = ["LATER", "Before", "Section", "Settings", "as_before", "is_unset"]


class _Later:
    """What marks a field; see `LATER`."""


LATER = _Later()
"""Marks a field that came after runs had been made: ``Annotated[Flag, LATER] = False``.

Its default is what medarts did before. At its default it takes no part in fingerprints, so that older runs can be
resumed and compared."""


@dataclass(frozen=True)
class Before:
    """Marks a field that came after runs had been made, and whose default is not what medarts did before:
    ``Annotated[Literal["new", "old"], Before("old")] = "new"``.

    Runs without the field have this value; at it, the field takes no part in fingerprints. See `as_before`.
    """

    value: Any


def as_before(content: Mapping[str, Any], section: type[BaseModel]) -> dict[str, Any]:
    """Returns the values of a section, written by an older medarts, with the fields marked `Before` that they lack."""
    filled = dict(content)
    for name, field in section.model_fields.items():
        values = [mark.value for mark in field.metadata if isinstance(mark, Before)]
        if values and name not in filled:
            filled[name] = values[0]
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            given = filled.get(name, {})
            if isinstance(given, Mapping) and (inner := as_before(given, field.annotation)):
                filled[name] = inner
        elif isinstance(given := filled.get(name), list | tuple) and (registry := _registry_of_items(field)):
            filled[name] = [_item_as_before(item, registry) for item in given]
    return filled


def _registry_of_items(field: FieldInfo) -> Registry[Any] | None:
    """Returns what the items of a list are chosen from; None for other fields."""
    item = get_args(field.annotation)[:1]
    marks = [mark for mark in get_args(item[0])[1:] if isinstance(mark, Choice)] if item else []
    return marks[0].registry if marks else None


def _item_as_before(item: Any, registry: Registry[Any]) -> Any:
    """Returns an item of a list as `as_before` does; what is no member, or no section, is refused later."""
    kind = item.get("kind") if isinstance(item, Mapping) else None
    return as_before(item, registry.entry(kind).settings) if kind in registry.names() else item


def is_unset(section: Section, name: str) -> bool:
    """Whether a field of a section came later, see `LATER` and `Before`, and has the value of runs without it, or none
    that matters, see `Section.is_idle`.
    """
    if section.is_idle(name):
        return True
    field = type(section).model_fields[name]
    values = [mark.value for mark in field.metadata if isinstance(mark, Before)]
    if values:
        return bool(getattr(section, name) == values[0])
    if LATER not in field.metadata:
        return False
    kind: Any = Annotated[field.annotation, *field.metadata]
    default = TypeAdapter(kind).validate_python(field.get_default(call_default_factory=True))
    return bool(getattr(section, name) == default)


DEEPEST = 12
"""Levels of the lattice; its lowest has 1/4096 of the input's resolution."""
MOST_CHANNELS = 1024
MOST_NODES = 16
MOST_LAYERS = 200
LARGEST_SIZE = 4096
"""Height and width of images, in pixels."""
MOST_OUTPUTS = 200
MOST_NETWORKS = 200
"""Entries of a study."""

Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Flag = Annotated[bool, Strict()]
Fraction = Annotated[Number, Field(ge=0.0, lt=1.0)]
Rate = Annotated[Number, Field(gt=0.0, le=100.0)]
"""A learning rate."""
Weight = Annotated[Number, Field(ge=0.0, le=100.0)]
"""A weight decay, or the share of something in a loss."""
Norm = Annotated[Number, Field(ge=0.0, le=1e6)]
Tolerance = Annotated[Number, Field(ge=0, le=10_000)]
"""A distance up to which two things count as one."""
Epochs = Annotated[Whole, Field(ge=1, le=100_000)]
Duration = Annotated[Whole, Field(ge=0, le=100_000)]
"""Epochs, or none."""
Batch = Annotated[Whole, Field(ge=1, le=65_536)]
Channels = Annotated[Whole, Field(ge=2, le=MOST_CHANNELS)]
OperationNames = Annotated[
    dict[str, Annotated[tuple[str, ...], Field(min_length=1, max_length=100)]], Field(max_length=10)
]
"""Set of operations -> names of the candidates of a search."""
Nodes = Annotated[Whole, Field(ge=1, le=MOST_NODES)]
Seed = Annotated[Whole, Field(ge=0, lt=2**31)]


def _as_written(value: Any) -> Any:
    """Returns whole numbers as text, as names and folders such as 2017 are."""
    return str(value) if type(value) is int else value


Text = Annotated[str, BeforeValidator(_as_written)]
Name = Annotated[Text, Field(pattern=f"^(?:{NAME})$", max_length=80)]
"""A name that becomes a folder."""
