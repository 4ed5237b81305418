"""The result of a search by training: the genotype of the winner, its summary, and the computing that it took.

timing.jsonl has a line for every supernet, and for every candidate one for each rung that it was trained to.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from medarts.config import Recipe
from medarts.config.reading import fingerprint_without_seed
from medarts.engine.directory import RunDirectory, epochs_done
from medarts.pool import trainings
from medarts.pool.candidates import Candidate
from medarts.profiling.budget import kept
from medarts.system.files import exists, write_whole

TIMING = "timing.jsonl"
FAILURES = "supernets.json"


@dataclass(frozen=True)
class Compute:
    """The computing of a search by training.

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
    def supernets_in_epochs(self) -> int:
        """Epochs of training of candidates that take as long as the supernets."""
        return round(self.supernet_seconds * self.epochs / self.seconds)

    @property
    def equal_epochs(self) -> int:
        """Epochs of training of candidates that take as long as the trainings and the supernets together."""
        return self.epochs + self.supernets_in_epochs


def compute_of(run: RunDirectory) -> Compute:
    """Returns the computing of a search that has finished.

    Raises:
        RunError: its timing.jsonl is damaged.
    """
    epochs, seconds = {True: 0, False: 0}, {True: 0.0, False: 0.0}
    for line in run.read_journal(TIMING, numbers=("epochs", "seconds")):
        of_supernet = "supernet" in line
        epochs[of_supernet] += line["epochs"]
        seconds[of_supernet] += line["seconds"]
    return Compute(epochs[False], seconds[False], epochs[True], seconds[True])


def write_result(run: RunDirectory, recipe: Recipe, winner: Candidate, *, score: str) -> None:
    """Writes the genotype of the best candidate, and the summary.

    Args:
        run: of the search.
        recipe: of it.
        winner: the best in the last rung.
        score: key of what it was chosen by, such as "val_dice".
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
    budget = recipe.budget.at(recipe.data.size)
    outputs = {"in_channels": recipe.data.in_channels, "outputs": recipe.data.outputs}
    replace(winner.genotype, name=facts["name"], provenance=provenance).save(run.path / "genotype.json")
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


def write_timing(run: RunDirectory, candidates: Iterable[Candidate], *, supernets: int) -> None:
    """Writes the epochs and seconds of every supernet and candidate, by their runs.

    Args:
        run: of the search.
        candidates: all of them.
        supernets: number of supernets.
    """
    lines: list[dict[str, Any]] = []
    for number in range(1, supernets + 1):
        folder = trainings.folder_of_supernet(run, number)
        seconds = trainings.seconds_of(folder, 0)
        lines.append({"supernet": number, "epochs": epochs_done(folder), "seconds": seconds})
    lines += [line for candidate in candidates for line in _lines_of(run, candidate)]
    write_whole(run.path / TIMING, "".join(json.dumps(line) + "\n" for line in lines))


def _lines_of(run: RunDirectory, candidate: Candidate) -> Iterator[dict[str, Any]]:
    folder = trainings.folder_of_candidate(run, candidate.name)
    ends = [0, *candidate.scores]
    if candidate.failure is not None:
        ends.append(max(ends[-1], epochs_done(folder)))
    for first, last in pairwise(ends):
        seconds = trainings.seconds_of(folder, first, last)
        yield {"candidate": candidate.name, "to": last, "epochs": last - first, "seconds": seconds}
