"""Checks that a genotype fits a space, for spaces of all kinds."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Literal, TypeVar, get_args, get_origin

from medarts.errors import GenotypeError, did_you_mean, quoted
from medarts.spaces.genotype import COPY_AGAIN, Genotype

_WORDS = {int: "whole number", float: "number", bool: "truth value", str: "text"}

_MOST_EDGES = 100
"""Into a node; deriving keeps two."""

Settings = TypeVar("Settings")


def check_space(genotype: Genotype, space: str) -> None:
    """Refuses a genotype of another space.

    Raises:
        GenotypeError: it is one.
    """
    if genotype.space != space:
        raise GenotypeError(
            f"Genotype '{genotype.name}' is of the space '{genotype.space}', not '{space}'.",
            fix="Use it with the recipe it was searched by.",
        )


def read_settings(genotype: Genotype, kind: type[Settings]) -> Settings:
    """Returns the settings of a genotype as a dataclass, whose fields are plain types or literals.

    Raises:
        GenotypeError: a setting is unknown, missing or of another type.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    for key in genotype.settings:
        if key not in known:
            raise GenotypeError(
                f"Genotype '{genotype.name}' has the unknown setting '{key}'.", fix=did_you_mean(key, known)
            )
    try:
        settings = kind(**genotype.settings)
    except TypeError as error:
        raise GenotypeError(f"Genotype '{genotype.name}' lacks a setting ({error}).", fix=COPY_AGAIN) from None
    for field in fields(settings):  # type: ignore[arg-type]  # a dataclass
        _check_type(genotype, field.name, getattr(settings, field.name), field.type)
    return settings


def check_cell(
    genotype: Genotype, kind: str, *, intermediate_nodes: int, operations: Callable[[int], Sequence[str]]
) -> None:
    """Refuses a cell with missing nodes, or with an edge that cannot be.

    Args:
        genotype: the genotype.
        kind: of the cell.
        intermediate_nodes: nodes that it should have.
        operations: state -> the operations that can stand on an edge from it.

    Raises:
        GenotypeError: the cell does not fit.
    """
    cell = genotype.cells.get(kind)
    if cell is None or len(cell) != intermediate_nodes:
        found = "no" if cell is None else str(len(cell))
        raise GenotypeError(
            f"Genotype '{genotype.name}' has {found} nodes in its {kind} cell, its settings say {intermediate_nodes}.",
            fix=COPY_AGAIN,
        )
    for index, node in enumerate(cell):
        if len(node) > _MOST_EDGES:
            raise GenotypeError(
                f"Genotype '{genotype.name}': node {index} of the {kind} cell has {len(node)} edges.",
                fix=f"A node has at most {_MOST_EDGES}.",
            )
        if not node:
            raise GenotypeError(
                f"Genotype '{genotype.name}': node {index} of the {kind} cell has no edge.", fix=COPY_AGAIN
            )
        for operation, state in node:
            if not 0 <= state < 2 + index:
                raise GenotypeError(
                    f"Genotype '{genotype.name}': node {index} of the {kind} cell reads state {state}.",
                    fix=f"It can read states 0 to {1 + index}.",
                )
            if operation not in operations(state):
                raise GenotypeError(
                    f"Genotype '{genotype.name}': '{operation}' cannot stand on the edge from state {state} to "
                    f"node {index} of the {kind} cell.",
                    fix=did_you_mean(operation, operations(state)),
                )


def check_range(genotype: Genotype, name: str, value: float, low: float, high: float) -> None:
    """Refuses a setting that is out of its range, both ends of which are allowed.

    Raises:
        GenotypeError: it is.
    """
    if not low <= value <= high:
        raise GenotypeError(f"Genotype '{genotype.name}' has {name} {quoted(value)}.", fix=f"Use {low} to {high:,}.")


def _check_type(genotype: Genotype, name: str, value: object, wanted: Any) -> None:
    """Refuses a setting of another type; a whole number is a float too, a truth value is no number."""
    if get_origin(wanted) is Literal:
        fits, meant = value in get_args(wanted), f"not {' or '.join(get_args(wanted))}"
    else:
        fits, meant = type(value) is wanted or (wanted is float and type(value) is int), f"no {_WORDS[wanted]}"
    if not fits:
        raise GenotypeError(
            f"Genotype '{genotype.name}' has the setting {name} {quoted(value)}, which is {meant}.", fix=COPY_AGAIN
        )
