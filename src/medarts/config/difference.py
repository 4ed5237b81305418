"""Where two recipes differ."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from medarts.config.reading import deciding_values
from medarts.config.sections import Recipe
from medarts.errors import quoted, shortened

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
        yield place, said(before), said(now)


def value_differences(one: Any, other: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields the dotted places of nested mappings and lists whose values differ, and these; see ``said``."""
    for kind, parts in ((Mapping, dict), (list, lambda items: dict(enumerate(items)))):
        if isinstance(one, kind) and isinstance(other, kind):
            first, second = parts(one), parts(other)
            for key in {**first, **second}:
                inner = f"{place}.{key}" if place else str(key)
                yield from value_differences(first.get(key, _ABSENT), second.get(key, _ABSENT), inner)
            return
    if one != other:
        yield place, one, other


def said(value: Any) -> str:
    """Returns how a value of a recipe is written in a sentence; of long ones the middle is left out."""
    return "not given" if value is _ABSENT else quoted(value)


def difference_words(differences: Iterable[tuple[str, Any, Any]]) -> str:
    """Returns differences, those of ``value_differences``, as part of a sentence; of many the first ten."""
    fields = [f"{shortened(field)}: {said(before)} -> {said(now)}" for field, before, now in differences]
    more = [f"and {len(fields) - _MOST} more"] if len(fields) > _MOST else []
    return "; ".join([*fields[:_MOST], *more])
