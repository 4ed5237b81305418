"""What search spaces tell of their genotypes, for drawings."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from medarts.spaces.cell import EDGES_PER_NODE
from medarts.spaces.genotype import Genotype
from medarts.spaces.lattice import Lattice, Path
from medarts.spaces.stack.darts_text import to_text
from medarts.spaces.weave import lattice as weave


@dataclass(frozen=True)
class SpaceWords:
    """What a space says of its cells; nothing where it says nothing."""

    cell_inputs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    cell_meanings: Mapping[str, str] = field(default_factory=dict)


_WORDS = {
    "weave": SpaceWords(
        {
            "down": ("node (t−2, l)", "node (t−1, l−1)"),
            "normal": ("node (t−4, l)", "node (t−2, l)"),
            "up": ("node (t−2, l)", "node (t−1, l+1)"),
        },
        {
            "down": "halves the resolution: edges from s1 are down operations",
            "normal": "keeps the resolution",
            "up": "doubles the resolution: edges from s1 are up operations",
        },
    ),
    "stack": SpaceWords(
        dict.fromkeys(("normal", "reduce"), ("the cell before the last", "the last cell")),
        {"normal": "keeps the resolution", "reduce": "halves the resolution: edges from s0 and s1 have stride 2"},
    ),
}


def words_of(space: str) -> SpaceWords:
    """Returns what a space says of its cells."""
    return _WORDS.get(space, SpaceWords())


def lattice_of(genotype: Genotype) -> Lattice | None:
    """Returns the nodes and paths of a network; None where its space has none."""
    if genotype.space != "weave":
        return None
    depth = int(genotype.settings["depth"])
    kept = {(at.layer, at.level): at.moves for at in genotype.paths}
    paths = [
        Path(weave.inputs(node, move)[1], node, move, kept=move in kept.get(node, ()))
        for node, moves in weave.all_paths(depth).items()
        for move in moves
    ]
    heads = weave.heads(depth, deep_supervision=bool(genotype.settings["deep_supervision"]))
    return Lattice(tuple(paths), heads)


def one_line(genotype: Genotype) -> str | None:
    """Returns a genotype in the one-line form of DARTS code; None where it is one that the form has no room for."""
    edges = {len(node) for cell in genotype.cells.values() for node in cell}
    return to_text(genotype) if genotype.space == "stack" and edges == {EDGES_PER_NODE} else None
