"""The runs of a study, each in a process of its own, so that one that fails takes no other with it.

Files of a study:

    study.yaml                          the study, defaults included
    budget.json                         networks as scaled to the budget, and their costs; see fitting.py
    genotypes/<network>.json            what was searched, sampled or read, at its size
    searches/<network>/                 search runs
    runs/<group>/<network>/seed-<k>/    training runs
    logs/, failures/                    output and reason of failure of each run, by the same path
    comparison/, generalization/        tables and pages
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from medarts.config import Recipe, parse
from medarts.engine.directory import RunDirectory, is_begun
from medarts.errors import MedartsError, RunError
from medarts.evaluation.evaluate import evaluate
from medarts.models import Architecture
from medarts.pool import search
from medarts.spaces.genotype import Genotype, load_genotype
from medarts.system import lock
from medarts.system.workers import PATIENCE, Work
from medarts.training.trainer import resume_training, start_training

Kind = Literal["search", "train"]
"""Of a run."""


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Paths of one run of a study.

    Attributes:
        name: such as isic/unet/seed-0.
        run: run directory.
        log: output of its process.
        failure: reason of its failure; absent where it did not fail.
    """

    name: str
    run: Path
    log: Path
    failure: Path


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths in the folder of a study; see the module."""

    out: Path

    @property
    def study(self) -> Path:
        """File of the study."""
        return self.out / "study.yaml"

    @property
    def sized(self) -> Path:
        """Networks that were scaled to the budget."""
        return self.out / "budget.json"

    def genotype(self, network: str) -> Path:
        """Genotype that a network is trained from."""
        return self.out / "genotypes" / f"{network}.json"

    def search(self, network: str) -> RunPaths:
        """Search of a network."""
        name = f"searches/{network}"
        return self._paths(name, self.out / name)

    def training(self, group: str, network: str, seed: int) -> RunPaths:
        """Training of a network on a group with a seed."""
        name = f"{group}/{network}/seed-{seed}"
        return self._paths(name, self.out / "runs" / name)

    def _paths(self, name: str, run: Path) -> RunPaths:
        return RunPaths(name, run, log=self.out / "logs" / f"{name}.log", failure=self.out / "failures" / f"{name}.txt")


@dataclass(frozen=True)
class Job:
    """A search, or a training and the scores of its test images.

    Attributes:
        paths: of the run.
        recipe: what it does.
        architecture: what is trained; None for a search.
        changes: of the recipe of a training that has begun, with which it goes on.
    """

    paths: RunPaths
    recipe: Recipe
    architecture: Architecture | None
    changes: tuple[str, ...] = ()


def damage_of(run: Path, *, kind: Kind) -> str:
    """Returns why a run cannot be read; nothing if it can, or has not begun."""
    if not is_begun(run):
        try:
            RunDirectory.check_free(run)
        except RunError:
            return f"{run} holds files, but no run.json. Copy the run again, or remove its folder."
        return ""
    try:
        opened = RunDirectory.open(run, kind=kind)
        if opened.recipe.train.model is None and kind == "train":
            load_genotype(run)
    except MedartsError as error:
        return str(error)
    return ""


def is_finished(run: Path, *, scored: bool) -> bool:
    """Whether there is a run that has finished.

    Args:
        scored: it must have the scores of the test images too.
    """
    if not is_begun(run) or not RunDirectory(run).facts["finished"]:
        return False
    return not scored or (run / "scores" / "test" / "scores.json").is_file()


def do(job: Job) -> None:
    """Starts or resumes a job, in this process."""
    path = job.paths.run
    if job.architecture is None:
        if is_begun(path):
            search.resume(path)
        else:
            search.start(job.recipe, path)
        return
    if not is_begun(path):
        start_training(job.recipe, job.architecture, path)
    elif job.changes or not is_finished(path, scored=False):
        resume_training(path, job.changes)
    if not is_finished(path, scored=True):
        evaluate(path, split="test")


def work_of(job: Job) -> Work:
    """Returns a job as the work of a process."""
    # As plain values: classes of registered settings are made when they are registered, and cannot be pickled.
    recipe = job.recipe.model_dump(mode="json")
    genotype = job.architecture if isinstance(job.architecture, Genotype) else None
    do_it = partial(_do_alone, job.paths, recipe, genotype, job.changes, is_search=job.architecture is None)
    return Work(job.paths.name, do_it, job.paths.log)


def _do_alone(
    paths: RunPaths, recipe: dict[str, Any], genotype: Genotype | None, changes: tuple[str, ...], *, is_search: bool
) -> None:
    """Does a job unless another process is at it: one that a killed benchmark has left may still be saving."""
    with lock.held_alone(paths.run, "benchmark", patience=PATIENCE):
        read = parse(recipe, origin=paths.name)
        do(Job(paths, read, None if is_search else genotype or read.train.model, changes))
