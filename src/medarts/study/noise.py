"""How much scores differ by chance: the same recipe trained again with other seeds.

A difference of two networks means something where it is larger than what two trainings of one recipe differ by. With k
trainings, s the standard deviation of their mean scores, and d the standard error over patients of the difference of
two of them, the variance of such a difference is estimated as v = max(2 s^2, d^2): it contains both the seeds and the
patients on whom two trainings disagree, the larger estimate of which counts. The smallest difference of two networks,
each the mean of n trainings, is

    t(0.975, k - 1) * sqrt(v / n)

This is the repeatability limit of ISO 5725-6:1994 (section 4.1), 1.96 * sqrt(2) * s, with Student's t in place of the
normal quantile, as s comes from few trainings. It is a lower limit for networks that differ in more than their seed:
these disagree on more patients, which the paired intervals of a comparison show.

    seed-1/ ...    a training with another seed, a run as any other
    noise.json     what was found; written last
"""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from medarts.comparison.measures import Measured, measures_of
from medarts.engine.device import preserved_process_state
from medarts.engine.directory import RunDirectory
from medarts.engine.facts import check_signed, signed
from medarts.errors import RecipeError, RunError
from medarts.evaluation.evaluate import current_scores
from medarts.models.ensemble import Ensemble
from medarts.models.pruned import Pruned
from medarts.study.jobs import Job, RunPaths
from medarts.study.trainings import check_jobs, train_all, with_shared_threads
from medarts.training.trained import architecture_of

FILE = "noise.json"
FORMAT = 1
"""Raise it when the content of the file means something else."""

TRAININGS = (1, 3, 5)
"""Numbers of trainings of each of two networks for which the smallest difference is given."""

MOST_SEEDS = 100


@dataclass(frozen=True, slots=True)
class NoiseOf:
    """How much a metric differs by chance.

    Attributes:
        metric: its name.
        title: what tables call it.
        values: mean score of every training, by seed.
        mean: of these.
        between_seeds: their standard deviation, s.
        between_patients: standard error over patients of the difference of two trainings, d; nan where unknown.
        smallest: by the number of trainings of each of two networks, the smallest difference that means something.
    """

    metric: str
    title: str
    values: dict[int, float]
    mean: float
    between_seeds: float
    between_patients: float
    smallest: dict[int, float]


@dataclass(frozen=True)
class Noise:
    """How much the scores of a run differ by chance.

    Attributes:
        network: its name.
        split: the images that were scored.
        images: their number.
        patients: number of their patients.
        metrics: the main one first.
    """

    network: str
    split: str
    images: int
    patients: int
    metrics: tuple[NoiseOf, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the trainings."""
        return tuple(self.metrics[0].values)

    def to_json(self) -> str:
        """Returns it as JSON; what is undefined is null."""
        return json.dumps(_plain(asdict(self)), indent=1, allow_nan=False)


@preserved_process_state()
def measure_noise(path: Path, *, seeds: int = 3, jobs: int = 1, cluster: str | None = None) -> Noise:
    """Trains the network of a run again with other seeds, and says how much scores differ; the same call goes on.

    Args:
        path: a finished training run, from scratch.
        seeds: trainings beside that of the run, with the seeds after its own.
        jobs: trainings that run in parallel.
        cluster: address of the cluster that trains them. Default: processes of this machine.

    Raises:
        RunError: the run has not finished, or is not a training from scratch; or a training failed.
        RecipeError: seeds or jobs are no such numbers.
        InterruptedRunError: it was asked to stop; all is saved.
    """
    check_jobs(jobs)
    if not 1 <= seeds <= MOST_SEEDS:
        raise RecipeError(f"seeds is {seeds}.", fix=f"Use 1 to {MOST_SEEDS}.")
    run = RunDirectory.open(path, kind="train")
    works = _jobs(run, seeds, jobs, cluster)
    with run.at_work("noise"):
        _check_scores(run)
        title = f"noise of {run.path}"
        command = f"medarts noise {shlex.quote(str(run.path))} --seeds {seeds}"
        train_all(works, folder=run.path / "noise", title=title, at_once=jobs, command=command, cluster=cluster)
        runs = [run, *(RunDirectory.open(job.paths.run, kind="train") for job in works)]
        tables = {each.recipe.seed: current_scores(each, "test") for each in runs}
        evaluation = run.recipe.evaluation
        found = noise_of(tables, network=str(run.facts["network"]), draws=evaluation.bootstrap, seed=run.recipe.seed)
        run.write_json(f"noise/{FILE}", signed({"format": FORMAT, **_plain(asdict(found))}))
    return found


def _check_scores(run: RunDirectory) -> None:
    """Refuses a run on whose test images networks cannot be compared, before others are trained."""
    table = current_scores(run, "test").assign(network="", seed=run.recipe.seed)
    measures_of(table, draws=1, seed=run.recipe.seed)


def noise_of(tables: dict[int, pd.DataFrame], *, network: str, draws: int, seed: int) -> Noise:
    """Returns how much the scores of trainings of one recipe differ; see the module.

    Args:
        tables: long table of scores by seed, of the same images, at least two.
        network: its name.
        draws: of the bootstrap over patients.
        seed: of the bootstrap.
    """
    named = [table.assign(network=f"seed {number}", seed=number) for number, table in tables.items()]
    measures = measures_of(pd.concat(named, ignore_index=True), draws=draws, seed=seed)
    by_network = [measures.measured(name) for name in measures.networks]
    metrics = []
    for one in measures.metrics:
        measured = [of[one.name] for of in by_network]
        values = [each.mean for each in measured]
        s, d = float(np.std(values, ddof=1)), _between_patients(measured)
        variance = max(2 * s**2, 0.0 if math.isnan(d) else d**2)
        quantile = float(student.ppf(0.975, len(values) - 1))
        smallest = {number: quantile * math.sqrt(variance / number) for number in TRAININGS}
        metrics.append(
            NoiseOf(one.name, one.title, dict(zip(tables, values, strict=True)), float(np.mean(values)), s, d, smallest)
        )
    return Noise(network, "test", len(measures.images), measures.patients, tuple(metrics))


def _between_patients(measured: Sequence[Measured]) -> float:
    """Returns the standard error over patients of the difference of two trainings, root mean square of all pairs."""
    variances = [np.var(differences) for a, b in combinations(measured, 2) if (differences := _drawn(a, b)).size]
    return math.sqrt(np.mean(variances)) if variances else math.nan


def _drawn(one: Measured, other: Measured) -> NDArray[np.floating[Any]]:
    """Returns the differences of two trainings in the draws of a bootstrap; none of a metric that has none."""
    if not one.metric.bootstrap:
        return np.empty(0)
    differences = one.drawn - other.drawn
    return differences[~np.isnan(differences)]


def read_noise(run: RunDirectory) -> Noise | None:
    """Returns what was found for a run; None where nothing was, or where the file was changed."""
    if not (run.path / "noise" / FILE).is_file():
        return None
    try:
        content = run.read_json(f"noise/{FILE}")
        check_signed(content)
        if content["format"] != FORMAT:
            return None
        metrics = tuple(_metric(each) for each in content["metrics"])
    except (RunError, ValueError, KeyError, TypeError):
        return None
    return Noise(content["network"], content["split"], content["images"], content["patients"], metrics)


def _metric(content: dict[str, Any]) -> NoiseOf:
    numbers = {name: math.nan if content[name] is None else content[name] for name in ("mean", "between_seeds")}
    known = content["between_patients"]
    return NoiseOf(
        content["metric"],
        content["title"],
        {int(seed): math.nan if value is None else value for seed, value in content["values"].items()},
        **numbers,
        between_patients=math.nan if known is None else known,
        smallest={int(n): math.nan if value is None else value for n, value in content["smallest"].items()},
    )


def _plain(value: Any) -> Any:
    """Returns a value as JSON can have it."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _jobs(run: RunDirectory, seeds: int, jobs: int, cluster: str | None) -> Sequence[Job]:
    facts, architecture = run.facts, architecture_of(run)
    if not facts["finished"]:
        raise RunError(
            f"The training {run.path} has not finished.",
            fix=f"Continue it: medarts train --resume {shlex.quote(str(run.path))}",
        )
    if isinstance(architecture, Pruned | Ensemble) or "initial" in facts:
        raise RunError(
            f"{run.path} is no training of one network from scratch.",
            fix="Give such a run; of folds one of them, such as RUN/folds/1.",
        )
    if any(source.is_in_memory for source in run.recipe.data.sources):
        raise RunError(f"The images of {run.path} were in memory.", fix="Train it on folders, and measure that run.")
    recipe = with_shared_threads(run.recipe, jobs, cluster)
    works, folder = [], run.path / "noise"
    for number in range(1, seeds + 1):
        name = f"seed-{number}"
        log, failure = folder / "logs" / f"{name}.log", folder / "failures" / f"{name}.txt"
        paths = RunPaths(name, folder / name, log=log, failure=failure)
        works.append(Job(paths, recipe.model_copy(update={"seed": recipe.seed + number}), architecture))
    return works
