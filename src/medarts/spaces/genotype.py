"""The genotype: the discrete result of a search, as a frozen value and as versioned JSON."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from medarts.errors import GenotypeError, did_you_mean, quoted, shortened
from medarts.system.files import write_whole
from medarts.system.names import NAME

FORMAT = "medarts-genotype"
VERSION = 1
COPY_AGAIN = "Copy it again from its run."
_LONGEST_NAME = 200
"""Characters: those of ``name_of``, and what drawing at random adds."""

Value = TypeVar("Value")
_WORDS = {str: "a text", int: "a whole number", list: "a list", dict: "a mapping"}

Edge = tuple[str, int]
"""An operation and the state it reads; states 0 and 1 are the cell's inputs s0 and s1, state 2 + i its node i."""

Setting = int | float | bool | str

Cell = tuple[tuple[Edge, ...], ...]
"""The incoming edges of every intermediate node."""


@dataclass(frozen=True, slots=True)
class KeptMoves:
    """The moves kept at one node of the lattice.

    Attributes:
        layer: t, counted from the stem.
        level: l; the node has 1/2^(l+1) of the input's resolution.
        moves: kept cells: down, normal, up.
    """

    layer: int
    level: int
    moves: tuple[str, ...]


@dataclass(frozen=True)
class Genotype:
    """A derived architecture.

    Attributes:
        name: what people call it.
        space: the search space it belongs to.
        cells: kind of cell (of the lattice down, normal, up; of the stack normal, reduce) -> its nodes' edges.
        settings: the values of the space that fix the network besides the cells.
        paths: kept paths of the lattice; empty for spaces without one.
        provenance: where it came from (recipe, data fingerprint, seed, source).
    """

    name: str
    space: str
    cells: Mapping[str, Cell]
    settings: Mapping[str, Setting]
    paths: tuple[KeptMoves, ...] = ()
    provenance: Mapping[str, str | int | float] = field(default_factory=dict)

    def with_settings(self, **changes: Setting) -> "Genotype":
        """Returns a copy with some settings of the space changed."""
        unknown = set(changes) - set(self.settings)
        if unknown:
            raise GenotypeError(
                f"Genotype '{self.name}' has no setting '{min(unknown)}'.",
                fix=did_you_mean(min(unknown), self.settings),
            )
        return replace(self, settings={**self.settings, **changes})

    def to_json(self) -> str:
        """Returns the genotype as JSON text."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "space": self.space,
            "settings": dict(self.settings),
            "cells": {kind: [[list(edge) for edge in node] for node in cell] for kind, cell in self.cells.items()},
            "paths": [[kept.layer, kept.level, list(kept.moves)] for kept in self.paths],
            "provenance": dict(self.provenance),
        }
        return json.dumps(content, indent=1)

    def save(self, path: Path) -> None:
        """Writes the genotype as JSON, whole or not at all."""
        write_whole(path, self.to_json() + "\n")


def from_json(text: str, *, origin: str) -> Genotype:
    """Reads a genotype from JSON text; ``origin`` names it in errors.

    Raises:
        GenotypeError: the text is no genotype, or of a version this medarts cannot read.
    """
    try:
        content = json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise GenotypeError(f"{origin} is not JSON ({error}).", fix="Give a genotype.json of a search.") from None
    except (ValueError, RecursionError) as error:
        # Keys given twice, NaN, whole numbers too long to be read, and brackets nested too deeply.
        reason = "nested too deeply" if isinstance(error, RecursionError) else shortened(str(error))
        raise GenotypeError(f"{origin} is no genotype ({reason}).", fix="Give a genotype.json of a search.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise GenotypeError(f"{origin} is not a genotype.", fix="Give a genotype.json of a search.")
    if content.get("version") != VERSION or content.get("version") is True:
        raise GenotypeError(
            f"{origin} has version {quoted(content.get('version'))}, this medarts reads {VERSION}.",
            fix="Install the medarts that wrote it.",
        )
    try:
        genotype = _build(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else shortened(str(error))
        raise GenotypeError(f"{origin} is not a whole genotype: {reason}.", fix=COPY_AGAIN) from None
    if not re.fullmatch(NAME, genotype.name) or len(genotype.name) > _LONGEST_NAME:
        raise GenotypeError(
            f"{origin} has the name {quoted(genotype.name)}, which cannot be that of a folder.",
            fix="Change its name to letters, digits, spaces, '_', '.' and '-'.",
        )
    return genotype


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' stands twice")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _build(content: dict[str, Any]) -> Genotype:
    """Puts a genotype together; every value has to be of its own type, and none is converted to it."""
    cells = {
        kind: tuple(tuple((_is(str, operation), _is(int, state)) for operation, state in node) for node in cell)
        for kind, cell in content["cells"].items()
    }
    paths = tuple(
        KeptMoves(_is(int, layer), _is(int, level), tuple(_is(str, move) for move in _is(list, moves)))
        for layer, level, moves in content["paths"]
    )
    return Genotype(
        name=_is(str, content["name"]),
        space=_is(str, content["space"]),
        cells=cells,
        settings=_plain(content["settings"]),
        paths=paths,
        provenance=_plain(content["provenance"]),
    )


def _is(kind: type[Value], value: Any) -> Value:
    if type(value) is not kind:  # a truth value is an int to isinstance
        raise TypeError(f"{quoted(value)} should be {_WORDS[kind]}")
    return value


def _plain(values: Any) -> dict[str, Any]:
    """Returns a mapping whose values are numbers, truth values or texts."""
    for key, value in _is(dict, values).items():
        if type(value) not in (int, float, bool, str) or (type(value) is float and not math.isfinite(value)):
            raise TypeError(f"{key} is {quoted(value)}, which is no number and no text")
    return dict(values)
