"""The genotype: the discrete result of a search. Its value and JSON form, where it is read from, what fits a space."""

import json
import math
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from medarts.errors import GenotypeError, did_you_mean, quoted, shortened
from medarts.registry import spaces
from medarts.system.files import exists, is_folder, read_text, write_whole
from medarts.system.names import NAME, name_of

FORMAT = "medarts-genotype"
VERSION = 1
COPY_AGAIN = "Copy it again from its run."
_LONGEST_NAME = 200
"""Characters: those of ``name_of``, and what drawing at random adds."""

Value = TypeVar("Value")
Settings = TypeVar("Settings")
_WORDS = {str: "a text", int: "a whole number", list: "a list", dict: "a mapping"}
_TYPES = {int: "whole number", float: "number", bool: "truth value", str: "text"}
_MOST_EDGES = 100
"""Into a node; deriving keeps two."""

Edge = tuple[str, int]
"""An operation and the state it reads; states 0 and 1 are the cell's inputs s0 and s1, state 2 + i its node i."""

NONE = "none"
"""The operation that gives nothing; a candidate, never part of a genotype."""

EDGES_PER_NODE = 2
"""Edges into a node of a derived cell."""

RANDOM = "random"
"""Source in the provenance of a genotype that was sampled and not searched."""

NEIGHBOUR = "neighbour"
"""Source in the provenance of a genotype that differs from another in one thing."""

Setting = int | float | bool | str

Cell = tuple[tuple[Edge, ...], ...]
"""The incoming edges of every intermediate node."""


@dataclass(frozen=True, slots=True)
class KeptCells:
    """The cells kept at one node of a lattice.

    Attributes:
        layer: t, counted from the stem.
        level: l; the node has 1/2^(l+1) of the input's resolution.
        transitions: their resolution transitions: down, normal, up.
    """

    layer: int
    level: int
    transitions: tuple[str, ...]


@dataclass(frozen=True)
class Genotype:
    """A derived architecture.

    Attributes:
        name: what people call it.
        space: the search space it belongs to.
        cells: kind of cell -> its nodes' edges.
        settings: the values of the space that fix the network besides the cells.
        paths: cells kept at the nodes of a lattice; empty for spaces without one.
        provenance: where it came from (recipe, data fingerprint, seed, source).
        candidates: operation set -> the operations it was searched among, for sets that had others than the published.
        origin: the file it was read from, which is no part of it; None for one of the zoo, or made in memory.
    """

    name: str
    space: str
    cells: Mapping[str, Cell]
    settings: Mapping[str, Setting]
    paths: tuple[KeptCells, ...] = ()
    provenance: Mapping[str, str | int | float] = field(default_factory=dict)
    candidates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    origin: Path | None = field(default=None, compare=False, repr=False)

    def with_settings(self, **changes: Setting) -> "Genotype":
        """Returns a copy with some settings of the space changed; those that it does not name have their `unset` value.

        Raises:
            GenotypeError: neither the genotype nor its space has such a setting.
        """
        unset = spaces.get(self.space).unset if self.space in spaces else {}
        unknown = changes.keys() - self.settings.keys() - unset.keys()
        if unknown:
            raise GenotypeError(
                f"Genotype '{self.name}' has no setting '{min(unknown)}'.",
                fix=did_you_mean(min(unknown), {**unset, **self.settings}),
            )
        # A setting that is not named stays so at that value: genotypes that are equal have equal settings.
        named = {name: value for name, value in changes.items() if name in self.settings or value != unset[name]}
        return replace(self, settings={**self.settings, **named})

    def to_json(self) -> str:
        """Returns the genotype as JSON text."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "space": self.space,
            "settings": dict(self.settings),
            "cells": {kind: [[list(edge) for edge in node] for node in cell] for kind, cell in self.cells.items()},
            "paths": [[kept.layer, kept.level, list(kept.transitions)] for kept in self.paths],
            "provenance": dict(self.provenance),
            **(
                {"candidates": {kind: list(names) for kind, names in self.candidates.items()}}
                if self.candidates
                else {}
            ),
        }
        return json.dumps(content, indent=1)

    def save(self, path: Path) -> None:
        """Writes the genotype as JSON, whole or not at all."""
        write_whole(path, self.to_json() + "\n")


def from_json(text: str, *, origin: str) -> Genotype:
    """Reads a genotype from JSON text; ``origin`` names it in errors.

    Raises:
        GenotypeError: the text is not a genotype, or of a version this medarts cannot read.
    """
    try:
        content = json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise GenotypeError(f"{origin} is not JSON ({error}).", fix="Give a genotype.json of a search.") from None
    except (ValueError, RecursionError) as error:
        # Keys given twice, NaN, whole numbers too long to be read, and brackets nested too deeply.
        reason = "nested too deeply" if isinstance(error, RecursionError) else shortened(str(error))
        raise GenotypeError(
            f"{origin} is not a genotype ({reason}).", fix="Give a genotype.json of a search."
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise GenotypeError(f"{origin} is not a genotype.", fix="Give a genotype.json of a search.")
    if content.get("version") != VERSION or content.get("version") is True:
        raise GenotypeError(
            f"{origin} has version {quoted(content.get('version'))}, but this medarts reads {VERSION}.",
            fix="Install the version of medarts that wrote it.",
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
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)}' appears twice")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _build(content: dict[str, Any]) -> Genotype:
    """Puts a genotype together; every value has to be of its own type, and none is converted to it."""
    cells = {
        kind: tuple(tuple((_is(str, operation), _is(int, state)) for operation, state in node) for node in cell)
        for kind, cell in content["cells"].items()
    }
    paths = tuple(
        KeptCells(_is(int, layer), _is(int, level), tuple(_is(str, kind) for kind in _is(list, kinds)))
        for layer, level, kinds in content["paths"]
    )
    return Genotype(
        name=_is(str, content["name"]),
        space=_is(str, content["space"]),
        cells=cells,
        settings=_plain(content["settings"]),
        paths=paths,
        provenance=_plain(content["provenance"]),
        candidates={
            kind: tuple(_is(str, name) for name in _is(list, names))
            for kind, names in _is(dict, content.get("candidates", {})).items()
        },
    )


def _is(kind: type[Value], value: Any) -> Value:
    if type(value) is not kind:  # a truth value is an int to isinstance
        raise TypeError(f"{quoted(value)} should be {_WORDS[kind]}")
    return value


def _plain(values: Any) -> dict[str, Any]:
    """Returns a mapping whose values are numbers, truth values or texts."""
    for key, value in _is(dict, values).items():
        if type(value) not in (int, float, bool, str) or (type(value) is float and not math.isfinite(value)):
            raise TypeError(f"{key} is {quoted(value)}, which is neither a number nor a text")
    return dict(values)


_LARGEST_FILE = 1_000_000
"""Bytes of a file; the largest genotype that its space allows has some 100,000."""


def zoo() -> tuple[str, ...]:
    """Returns the names of the published genotypes that come with medarts."""
    folder = resources.files("medarts.spaces") / "zoo"
    return tuple(sorted(Path(item.name).stem for item in folder.iterdir() if item.name.endswith(".json")))


def load_genotype(name: str | Path) -> Genotype:
    """Reads a genotype by its name in the zoo, from a file, or from a run directory.

    A file is ``genotype.json``, or a ``.txt`` file in the form of a space that has one, such as the line that DARTS
    code prints.

    >>> load_genotype("darts_v2").space
    'darts'

    Raises:
        GenotypeError: there is none of that name, or the file is not a genotype.
    """
    if not isinstance(name, str | os.PathLike):
        raise GenotypeError(f"{quoted(name)} is not a genotype.", fix="Give its name, its file, or a run.")
    if str(name) in zoo():
        text = (resources.files("medarts.spaces") / "zoo" / f"{name}.json").read_text(encoding="utf-8")
        return from_json(text, origin=f"zoo/{name}.json")
    path = Path(name)
    if is_folder(path):
        path = path / "genotype.json"
        if not exists(path):
            raise GenotypeError(
                f"The folder {name} holds no genotype.", fix="Give a search or training run that has finished an epoch."
            )
    if not exists(path):
        raise _absent(str(name))
    text = read_text(path, largest=_LARGEST_FILE, noun="genotype", error=GenotypeError)
    if path.suffix == ".txt":
        called = name_of(path.parent if path.stem == "genotype" else path.with_suffix(""))
        reader = next(space for space in map(spaces.get, spaces.names()) if space.has_text_form)
        genotype: Genotype = reader.from_text(text, name=called, origin=str(path))
    else:
        genotype = from_json(text, origin=str(path))
    return replace(genotype, origin=path.absolute())


def _absent(name: str) -> GenotypeError:
    """Returns the error for what is neither in the zoo nor on the disk."""
    if "/" in name or "\\" in name or Path(name).suffix:
        return GenotypeError(
            f"There is no file or folder '{shortened(name)}'.", fix="Give a genotype file, or the folder of a run."
        )
    return GenotypeError(f"There is no genotype '{shortened(name)}'.", fix=did_you_mean(name, zoo()))


def check_space(genotype: Genotype, space: str, sets: Mapping[str, Collection[str]]) -> None:
    """Refuses a genotype of another space, or one searched among operations that are not registered here.

    Args:
        genotype: the genotype.
        space: name of the space.
        sets: its operations.

    Raises:
        GenotypeError: it is one.
    """
    if genotype.space != space:
        raise GenotypeError(
            f"Genotype '{genotype.name}' is of the space '{genotype.space}', not '{space}'.",
            fix="Use it with the recipe of its search.",
        )
    for kind, names in genotype.candidates.items():
        for name in names:
            if name != NONE and name not in sets.get(kind, ()):
                raise GenotypeError(
                    f"Genotype '{genotype.name}' was searched with the unknown {kind} operation '{name}'.",
                    fix="Register it first: medarts.register_operation.",
                )


def read_settings(genotype: Genotype, kind: type[Settings]) -> Settings:
    """Returns the settings of a genotype as a dataclass, whose fields are plain types or literals.

    Raises:
        GenotypeError: a setting is unknown, missing or of another type.
    """
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    for key in genotype.settings:
        if key not in known:
            raise GenotypeError(
                f"Genotype '{genotype.name}' has the unknown setting '{key}'.", fix=did_you_mean(key, known)
            )
    try:
        settings = kind(**genotype.settings)
    except TypeError as error:
        raise GenotypeError(f"Genotype '{genotype.name}' lacks a setting ({error}).", fix=COPY_AGAIN) from None
    for each in fields(settings):  # type: ignore[arg-type]  # a dataclass
        _check_type(genotype, each.name, getattr(settings, each.name), each.type)
    return settings


def check_cell(
    genotype: Genotype, kind: str, *, intermediate_nodes: int, operations: Callable[[int], Sequence[str]]
) -> None:
    """Refuses a cell with missing nodes, or with an edge that cannot be.

    Args:
        genotype: the genotype.
        kind: of the cell.
        intermediate_nodes: nodes that it should have.
        operations: state -> the operations that can be used on an edge from it.

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
                    f"Genotype '{genotype.name}': '{operation}' cannot be used on the edge from state {state} to "
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
    """Refuses a setting of another type; a whole number is a float too, a truth value is not a number."""
    if get_origin(wanted) is Literal:
        fits, meant = value in get_args(wanted), f"not {' or '.join(get_args(wanted))}"
    else:
        fits, meant = type(value) is wanted or (wanted is float and type(value) is int), f"not a {_TYPES[wanted]}"
    if not fits:
        raise GenotypeError(
            f"Genotype '{genotype.name}' has the setting {name} {quoted(value)}, which is {meant}.", fix=COPY_AGAIN
        )
