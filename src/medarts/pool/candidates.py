"""Candidates of a search by training, and the file of a run that holds them: one line each, rewritten as a whole.

    {"name": "2-03", "source": "neighbour", "parent": "1-07", "origin": "normal cell, node 2: conv -> dil_conv",
     "norm": "batch", "cost": {...}, "scores": {"2": 0.712, "6": 0.774}, "failure": null, "genotype": {...}}

Everything in it follows from recipe, seed and data, unless the budget limits latency or memory: then widths and costs
follow from what was measured as well. That is kept on the machine (``medarts.profiling.reference``), so a search draws
the same candidates there again; on another machine, or without the user's cache folder, they can be of other widths.
Seconds of training stand in timing.jsonl.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medarts.config import NormName
from medarts.engine.directory import RunDirectory
from medarts.errors import GenotypeError, RunError
from medarts.profiling.budget import BudgetCost
from medarts.spaces.genotype import Genotype, from_json
from medarts.system.files import read_whole, write_whole

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
    lines, found = run.read_journal(FILE), list[Candidate]()
    # It is written whole, so a last line without its end is no sign of a kill, as in a journal.
    if (path := run.path / FILE).exists() and not read_whole(path).endswith(b"\n"):
        raise run.damaged_line(FILE, len(lines) + 1, "its end is missing")
    for number, line in enumerate(lines, 1):
        try:
            found.append(_read(line))
            _check_place(found, run.recipe.search.select.rungs)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise run.damaged_line(FILE, number, f"{where}: {first['msg']}") from error
        except (RunError, GenotypeError, LookupError, TypeError, ValueError) as error:
            raise run.damaged_line(FILE, number, str(error)) from error
    return found


def write_candidates(run: RunDirectory, candidates: Iterable[Candidate]) -> None:
    """Writes all candidates of a run, or none.

    Raises:
        RunError: they cannot be written.
    """
    write_whole(run.path / FILE, "".join(json.dumps(each.as_json()) + "\n" for each in candidates))


_Score = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Line(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[1-9]\d*-\d\d+$")]  # it becomes a folder
    source: Source
    parent: str | None
    origin: str
    norm: NormName | None
    cost: dict[str, Any]
    scores: dict[Annotated[str, Field(pattern=r"^\d+$")], _Score]
    failure: str | None
    genotype: dict[str, Any]


def _read(content: Mapping[str, Any]) -> Candidate:
    line = _Line.model_validate(content)
    return Candidate(
        name=line.name,
        source=line.source,
        origin=line.origin,
        genotype=from_json(json.dumps(line.genotype), origin=FILE),
        norm=line.norm,
        cost=BudgetCost.read(line.cost),
        parent=line.parent,
        scores={int(rung): score for rung, score in line.scores.items()},
        failure=line.failure,
    )


def _check_place(candidates: Sequence[Candidate], rungs: Sequence[int]) -> None:
    """Refuses a last candidate that does not go with those before it, or with the rungs of the search."""
    *before, last = candidates
    names = [each.name for each in before]
    place = sum(each.generation == last.generation for each in candidates)
    if last.name != f"{last.generation}-{place:02d}":
        raise ValueError(f"the name {last.name} is not the next one of its generation")
    if last.parent is not None and last.parent not in names:
        raise ValueError(f"its parent {last.parent} is none of the candidates before it")
    if list(last.scores) != list(rungs[: len(last.scores)]):
        raise ValueError(f"its scores are at {', '.join(map(str, last.scores))}, which are not the first rungs")
