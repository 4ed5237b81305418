"""The genotype: the discrete result of a search, as a frozen value and as versioned JSON."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medarts.errors import GenotypeError, did_you_mean
from medarts.run.directory import write_whole

FORMAT = "medarts-genotype"
VERSION = 1
NAME = r"\w[\w .-]*"

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
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise GenotypeError(f"{origin} is not JSON ({error}).", fix="Give a genotype.json of a search.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise GenotypeError(f"{origin} is not a genotype.", fix="Give a genotype.json of a search.")
    if content.get("version") != VERSION:
        raise GenotypeError(
            f"{origin} has version {content.get('version')}, this medarts reads {VERSION}.",
            fix="Install the medarts that wrote it.",
        )
    try:
        return _build(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GenotypeError(
            f"{origin} is damaged ({type(error).__name__}: {error}).", fix="Copy it again from its run."
        ) from None


def _build(content: dict[str, Any]) -> Genotype:
    cells = {
        str(kind): tuple(tuple((str(operation), int(state)) for operation, state in node) for node in cell)
        for kind, cell in content["cells"].items()
    }
    paths = tuple(KeptMoves(int(layer), int(level), tuple(map(str, moves))) for layer, level, moves in content["paths"])
    if not re.fullmatch(NAME, str(content["name"])):
        raise ValueError(f"the name {content['name']!r} cannot be that of a folder")
    return Genotype(
        name=str(content["name"]),
        space=str(content["space"]),
        cells=cells,
        settings=dict(content["settings"]),
        paths=paths,
        provenance=dict(content["provenance"]),
    )
