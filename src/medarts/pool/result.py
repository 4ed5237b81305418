"""The result of a search by training: the genotype of the winner, its summary, and the computing that it took.

timing.jsonl has a line for every supernet, for every candidate one for each rung that it was trained to, and one for
every training of the winner.
"""

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from medarts.config import Recipe
from medarts.config.reading import fingerprint_without_seed
from medarts.engine.directory import RunDirectory, epochs_done
from medarts.pool import trainings
from medarts.pool.candidates import Candidate
from medarts.profiling.budget import kept
from medarts.spaces.genotype import Genotype
from medarts.system.files import exists, write_whole

TIMING = "timing.jsonl"
FAILURES = "supernets.json"


@dataclass(frozen=True)
class Compute:
    """The computing that the choice of a genotype took, by any method of search: epochs with their validation.

    Trainings of the winner, after the choice, are no part of it. Nor is what stands in no timing.jsonl: drawing
    candidates and measuring them, and, behind the last epoch of a supernet, the selection with its tuning. What is
    planned, see `medarts.profiling.plan.Plan.search_seconds`, has all of these.

    Attributes:
        epochs: of all trainings of candidates.
        seconds: that they took, added up.
        supernet_epochs: of all searches of supernets.
        supernet_seconds: that these took.
    """

    epochs: int
    seconds: float
    supernet_epochs: int
    supernet_seconds: float

    @property
    def all_seconds(self) -> float:
        """Seconds of trainings of candidates and of searches of supernets, added up."""
        return self.seconds + self.supernet_seconds

    @property
    def supernets_in_epochs(self) -> int:
        """Epochs of training of candidates that take as long as the supernets."""
        return round(self.supernet_seconds * self.epochs / self.seconds)

    @property
    def equal_epochs(self) -> int:
        """Epochs of training of candidates that take as long as the trainings and the supernets together."""
        return self.epochs + self.supernets_in_epochs


def compute_of(run: RunDirectory) -> Compute:
    """Returns the computing of a search that has finished, by whatever method.

    Raises:
        RunError: its recipe or timing.jsonl is damaged.
    """
    if run.recipe.search.method == "supernet":
        lines = run.read_journal(TIMING, numbers=("seconds",))
        return Compute(0, 0.0, len(lines), math.fsum(line["seconds"] for line in lines))
    epochs, seconds = {True: 0, False: 0}, {True: 0.0, False: 0.0}
    for line in run.read_journal(TIMING, numbers=("epochs", "seconds")):
        if "retrained" in line:
            continue  # the choice was made before
        of_supernet = "supernet" in line
        epochs[of_supernet] += line["epochs"]
        seconds[of_supernet] += line["seconds"]
    return Compute(epochs[False], seconds[False], epochs[True], seconds[True])


@dataclass(frozen=True)
class Retrained:
    """The trainings of the winner by the recipe.

    Attributes:
        scores: seed -> best validation score.
        failures: seed -> why it has none.
    """

    scores: Mapping[int, float]
    failures: Mapping[int, str]

    @property
    def mean(self) -> float:
        """Mean of the scores; NaN where there is none."""
        return statistics.fmean(self.scores.values()) if self.scores else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation of the scores; NaN of fewer than two."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else math.nan

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Returns the trainings as summary.json has them."""
        return {
            "scores": {str(seed): score for seed, score in self.scores.items()},
            "failures": {str(seed): reason for seed, reason in self.failures.items()},
        }


def read_retrained(run: RunDirectory) -> Retrained | None:
    """Returns the trainings of the winner of a finished search; None where there are none.

    Raises:
        RunError: summary.json is damaged.
    """
    content = run.read_json("summary.json").get("retrained")
    if content is None:
        return None
    return Retrained(*({int(seed): value for seed, value in content[key].items()} for key in ("scores", "failures")))


def write_genotype(run: RunDirectory, recipe: Recipe, winner: Candidate) -> Genotype:
    """Writes the genotype of the best candidate, and returns it.

    Args:
        run: of the search.
        recipe: of it.
        winner: the best in the last rung.
    """
    facts = run.facts
    provenance: dict[str, str | int | float] = {
        "medarts": facts["medarts"],
        "recipe_fingerprint": facts["recipe_fingerprint"],
        "recipe_fingerprint_without_seed": fingerprint_without_seed(recipe),
        "data_fingerprint": facts["data_fingerprint"],
        "seed": recipe.seed,
        "method": recipe.search.method,
        "candidate": winner.name,
    }
    genotype = replace(winner.genotype, name=facts["name"], provenance=provenance)
    genotype.save(run.path / "genotype.json")
    return genotype


def write_summary(
    run: RunDirectory, recipe: Recipe, winner: Candidate, *, score: str, retrained: Retrained | None
) -> None:
    """Writes the summary.

    Args:
        run: of the search.
        recipe: of it.
        winner: the best in the last rung.
        score: key of what it was chosen by, such as "val_dice".
        retrained: its trainings by the recipe; None where there are none.
    """
    budget = recipe.budget.at(recipe.data.size)
    outputs = {"in_channels": recipe.data.in_channels, "outputs": recipe.data.outputs}
    run.write_json(
        "summary.json",
        {
            "score": score.removeprefix("val_"),
            "best_score": winner.scores[recipe.search.select.rungs[-1]],
            "candidate": winner.name,
            "source": winner.source,
            "norm": winner.norm,
            "supernet_failures": read_failures(run),
            **({"budget": kept(budget, winner.cost, **outputs)} if budget.limited else {}),
            **({"retrained": retrained.as_json()} if retrained is not None else {}),
        },
    )


def write_failures(run: RunDirectory, failures: Mapping[str, str]) -> None:
    """Writes which supernets failed, whose candidates random genotypes replace, and why.

    Args:
        run: of the search.
        failures: number of a supernet -> reason.
    """
    run.write_json(FAILURES, {"failures": dict(failures)})


def read_failures(run: RunDirectory) -> dict[str, str]:
    """Returns which supernets of a search failed, and why; none before all have ended, or where there are none.

    Raises:
        RunError: the file is damaged.
    """
    if not exists(run.path / FAILURES):
        return {}
    return {str(name): str(reason) for name, reason in run.read_json(FAILURES)["failures"].items()}


def write_timing(run: RunDirectory, candidates: Iterable[Candidate], *, supernets: int, retrained: int) -> None:
    """Writes the epochs and seconds of every supernet, candidate and training of the winner, by their runs.

    Args:
        run: of the search.
        candidates: all of them.
        supernets: number of supernets.
        retrained: number of trainings of the winner.
    """
    lines = [_line_of(trainings.folder_of_supernet(run, number), supernet=number) for number in range(1, supernets + 1)]
    lines += [line for candidate in candidates for line in _lines_of(run, candidate)]
    lines += [
        _line_of(trainings.folder_of_retraining(run, number), retrained=number) for number in range(1, retrained + 1)
    ]
    write_whole(run.path / TIMING, "".join(json.dumps(line) + "\n" for line in lines))


def _line_of(folder: Path, **name: int) -> dict[str, Any]:
    """Returns the line of a whole run."""
    return {**name, "epochs": epochs_done(folder), "seconds": trainings.seconds_of(folder, 0)}


def _lines_of(run: RunDirectory, candidate: Candidate) -> Iterator[dict[str, Any]]:
    folder = trainings.folder_of_candidate(run, candidate.name)
    ends = [0, *candidate.scores]
    if candidate.failure is not None:
        ends.append(max(ends[-1], epochs_done(folder)))
    for first, last in pairwise(ends):
        seconds = trainings.seconds_of(folder, first, last)
        yield {"candidate": candidate.name, "to": last, "epochs": last - first, "seconds": seconds}
