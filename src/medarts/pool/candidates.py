"""Candidates of a search by training, and the file of a run that holds them: one line each, rewritten as a whole.

    {"name": "2-03", "source": "neighbour", "parent": "1-07", "origin": "normal cell, node 2: conv -> dil_conv",
     "norm": "batch", "cost": {...}, "scores": {"2": 0.712, "6": 0.774}, "failure": null, "genotype": {...}}

Everything in it follows from recipe, seed and data, but measured latency and memory; seconds of training stand in
timing.jsonl.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from medarts.config import NormName
from medarts.engine.directory import RunDirectory
from medarts.errors import GenotypeError, RunError
from medarts.profiling.budget import BudgetCost
from medarts.spaces.genotype import Genotype, from_json
from medarts.system.files import write_whole

FILE = "candidates.jsonl"

Source = Literal["random", "supernet", "neighbour"]


@dataclass(frozen=True)
class Candidate:
    """A network that is trained to be compared with others.

    Attributes:
        name: generation and number, such as 2-03; also the name of its folder.
        source: what it came from.
        origin: the same in words: a seed, an epoch of a supernet, or what was changed of the parent.
        genotype: at the width that the budget allows.
        norm: kind of its norms; None is that of the network's paper.
        cost: of its network, as measured.
        parent: name of the candidate that it is a neighbour of; None for others.
        scores: rung, in epochs -> validation score there, for the rungs that it came to.
        failure: why its training ended early; None where it did not.
    """

    name: str
    source: Source
    origin: str
    genotype: Genotype
    norm: NormName | None
    cost: BudgetCost
    parent: str | None = None
    scores: Mapping[int, float] = field(default_factory=dict)
    failure: str | None = None

    @property
    def generation(self) -> int:
        """Number of its generation, from 1."""
        return int(self.name.partition("-")[0])

    def scored(self, rung: int, score: float) -> "Candidate":
        """Returns the candidate with its score at a rung."""
        return replace(self, scores={**self.scores, rung: score})

    def as_json(self) -> dict[str, Any]:
        """Returns the candidate as a line of the file has it."""
        return {
            "name": self.name,
            "source": self.source,
            "parent": self.parent,
            "origin": self.origin,
            "norm": self.norm,
            "cost": self.cost.as_json(),
            "scores": {str(rung): score for rung, score in self.scores.items()},
            "failure": self.failure,
            "genotype": json.loads(self.genotype.to_json()),
        }


def read_candidates(run: RunDirectory) -> list[Candidate]:
    """Returns the candidates of a run in their order; none before the first generation has been drawn.

    Raises:
        RunError: names the first line that is damaged.
    """
    found = []
    for number, line in enumerate(run.read_journal(FILE), 1):
        try:
            found.append(_read(line))
        except (RunError, GenotypeError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise run.damaged_line(FILE, number, f"{type(error).__name__}: {error}") from error
    return found


def write_candidates(run: RunDirectory, candidates: Iterable[Candidate]) -> None:
    """Writes all candidates of a run, or none.

    Raises:
        RunError: they cannot be written.
    """
    write_whole(run.path / FILE, "".join(json.dumps(each.as_json()) + "\n" for each in candidates))


def _read(line: Mapping[str, Any]) -> Candidate:
    if line["source"] not in get_args(Source) or line["norm"] not in (*get_args(NormName), None):
        raise ValueError(f"the source {line['source']!r} or the norm {line['norm']!r} does not exist")
    return Candidate(
        name=str(line["name"]),
        source=line["source"],
        origin=str(line["origin"]),
        genotype=from_json(json.dumps(line["genotype"]), origin=FILE),
        norm=line["norm"],
        cost=BudgetCost.read(line["cost"]),
        parent=line["parent"],
        scores={int(rung): float(score) for rung, score in line["scores"].items()},
        failure=line["failure"],
    )
