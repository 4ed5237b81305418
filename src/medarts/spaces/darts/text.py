"""The one line in which DARTS code prints a genotype.

``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))``

The line is Python, and may come from anywhere. It is parsed, and the parts that a genotype is made of are taken from
the syntax tree; nothing of it is ever evaluated.
"""

import ast
import re
import warnings
from typing import cast

from medarts.errors import GenotypeError, did_you_mean
from medarts.spaces.darts.genotypes import check
from medarts.spaces.darts.operations import KINDS, OPERATIONS, Kind
from medarts.spaces.darts.settings import SPACE, NetworkSettings, Stem
from medarts.spaces.genotype import EDGES_PER_NODE, Cell, Edge, Genotype
from medarts.system.names import NAME

CALL = "Genotype"
LONGEST = 10_000
"""Characters; a genotype of four nodes has some 700."""

FORM = (
    "Give the line that DARTS code prints: Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), "
    "reduce=[...], reduce_concat=range(2, 6))."
)


def from_text(text: str, *, name: str, origin: str, stem: Stem = "chest") -> Genotype:
    """Reads a genotype from the one-line form.

    It gets the settings of retraining on ChestX-ray14: C = 36, 20 layers, drop-path up to 0.2, no auxiliary head.

    Args:
        text: the line; ``NAME = `` may stand before it.
        name: what the genotype is called from now on.
        origin: where the text comes from, for errors and the provenance.
        stem: of the network.

    Raises:
        GenotypeError: the text is anything else, or ``name`` cannot be that of a folder.
    """
    if not re.fullmatch(NAME, name):
        raise GenotypeError(
            f"A genotype cannot be called '{name}'.", fix="Use letters, digits, spaces, '_', '.' and '-'."
        )
    fields = _Reader(origin).fields(text)
    cells: dict[str, Cell] = {kind: _cell(fields[kind], origin=origin, kind=kind) for kind in KINDS}
    for kind in KINDS:
        _check_concat(fields[f"{kind}_concat"], len(cells[kind]), origin=origin, kind=kind)
    if len(cells["normal"]) != len(cells["reduce"]):
        raise GenotypeError(
            f"{origin}: the normal cell has {len(cells['normal'])} nodes, the reduce cell {len(cells['reduce'])}.",
            fix="Give two cells with the same number of nodes.",
        )
    settings = NetworkSettings(
        init_channel=36,
        layers=20,
        intermediate_nodes=len(cells["normal"]),
        stem=stem,
        drop_path_prob=0.2,
        auxiliary=False,
    )
    return Genotype(
        name=name,
        space=SPACE,
        cells=cells,
        settings=settings.to_mapping(),
        provenance={"source": origin},
    )


def to_text(genotype: Genotype) -> str:
    """Returns a genotype in the one-line form.

    Raises:
        GenotypeError: it is not a genotype of darts, or a node has not the two edges that the form has room for.
    """
    nodes = check(genotype).intermediate_nodes
    parts = []
    for kind in KINDS:
        cell = genotype.cells[kind]
        if any(len(node) != EDGES_PER_NODE for node in cell):
            raise GenotypeError(
                f"Genotype '{genotype.name}' has a node in its {kind} cell without exactly {EDGES_PER_NODE} edges.",
                fix="The DARTS text format cannot hold it; use JSON.",
            )
        parts.append(f"{kind}={[edge for node in cell for edge in node]}, {kind}_concat=range(2, {2 + nodes})")
    return f"{CALL}({', '.join(parts)})"


Value = str | int | range | list["Value"]
"""What a field can be; tuples become lists."""


class _Reader:
    """Takes the fields of a genotype from the syntax tree of a text.

    Args:
        origin: names the text in errors.
    """

    def __init__(self, origin: str) -> None:
        self.origin = origin

    def fields(self, text: str) -> dict[str, Value]:
        """Returns the four fields by name."""
        call = self._call(text)
        wanted = {field for kind in KINDS for field in (kind, f"{kind}_concat")}
        found: dict[str, Value] = {}
        for keyword in call.keywords:
            if keyword.arg not in wanted:
                raise self._error(f"has the unknown field '{keyword.arg}'", fix=f"Valid: {', '.join(sorted(wanted))}.")
            if keyword.arg in found:
                raise self._error(f"has the field '{keyword.arg}' twice")
            found[keyword.arg] = self._value(keyword.value)
        if missing := sorted(wanted - set(found)):
            raise self._error(f"lacks the field '{missing[0]}'")
        return found

    def _call(self, text: str) -> ast.Call:
        if len(text) > LONGEST:
            raise self._error(f"has {len(text)} characters, more than any genotype")
        try:
            with warnings.catch_warnings(action="ignore"):  # about the style of text that is refused anyway
                statements = ast.parse(text.strip()).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            # All four are what the parser has for text that is not Python, or nested too deep for it.
            raise self._error("is not a genotype") from None
        if len(statements) != 1:
            raise self._error(f"has {len(statements)} statements where one genotype should be")
        statement = statements[0]
        value = statement.value if isinstance(statement, (ast.Expr, ast.Assign)) else None
        named = not isinstance(statement, ast.Assign) or all(isinstance(to, ast.Name) for to in statement.targets)
        if not (named and isinstance(value, ast.Call) and self._is_name(value.func, CALL) and not value.args):
            raise self._error(f"is not one call of {CALL} with its fields by name")
        return value

    def _value(self, node: ast.expr) -> Value:
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self._value(item) for item in node.elts]
        if isinstance(node, ast.Constant) and type(node.value) in (str, int):
            return cast(str | int, node.value)
        if isinstance(node, ast.Call) and self._is_name(node.func, "range") and not node.keywords:
            bounds = [self._value(item) for item in node.args]
            if len(bounds) == 2 and all(type(bound) is int for bound in bounds):
                return range(*cast(list[int], bounds))
        raise self._error(f"has something else than names, numbers, lists and range(a, b) in column {node.col_offset}")

    @staticmethod
    def _is_name(node: ast.expr, name: str) -> bool:
        return isinstance(node, ast.Name) and node.id == name

    def _error(self, problem: str, *, fix: str = FORM) -> GenotypeError:
        return GenotypeError(f"{self.origin} {problem}.", fix=fix)


def _cell(value: Value, *, origin: str, kind: Kind) -> Cell:
    """Returns a cell from its list of edges, of which each node has two, in the order of the nodes."""
    if not isinstance(value, list) or not value or len(value) % EDGES_PER_NODE:
        raise GenotypeError(f"{origin}: '{kind}' is not a list of edges, two a node.", fix=FORM)
    edges = [_edge(item, 2 + number // EDGES_PER_NODE, origin=origin, kind=kind) for number, item in enumerate(value)]
    return tuple(tuple(edges[first : first + EDGES_PER_NODE]) for first in range(0, len(edges), EDGES_PER_NODE))


def _edge(value: Value, states: int, *, origin: str, kind: Kind) -> Edge:
    """Returns an edge into a node that can read this many states."""
    if not isinstance(value, list) or [type(part) for part in value] != [str, int]:
        raise GenotypeError(f"{origin}: an edge in '{kind}' is not a pair of operation and state.", fix=FORM)
    operation, state = cast(tuple[str, int], tuple(value))
    if operation not in OPERATIONS[kind]:
        raise GenotypeError(
            f"{origin}: '{kind}' has the unknown operation '{operation:.40}'.",
            fix=did_you_mean(operation, OPERATIONS[kind]),
        )
    if state >= states:
        raise GenotypeError(
            f"{origin}: node {states - 2} in '{kind}' reads a state beyond {states - 1}.",
            fix=f"It can read states 0 to {states - 1}.",
        )
    return operation, state


def _check_concat(value: Value, nodes: int, *, origin: str, kind: Kind) -> None:
    """Refuses an output that is not made of all nodes in their order."""
    wanted = range(2, 2 + nodes)
    if value != wanted and value != list(wanted):
        raise GenotypeError(
            f"{origin}: '{kind}_concat' is not range(2, {2 + nodes}).",
            fix="The cells here concatenate all of their nodes.",
        )
