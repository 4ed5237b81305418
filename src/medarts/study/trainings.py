"""Trainings of one recipe that differ in one thing, such as fold or seed: each in a process, several at once."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from medarts.config import Recipe
from medarts.engine.device import needs_of
from medarts.engine.directory import epochs_done
from medarts.engine.following import Followed, Follower
from medarts.errors import RecipeError, RunError
from medarts.study.jobs import Job, is_finished, work_of
from medarts.system.console import counted, inform, progress_bar
from medarts.system.files import read_whole, write_whole
from medarts.system.process import InterruptedRunError, interruption
from medarts.system.workers import Ended, open_workers

POLL = 1.0
"""Seconds between two looks at the journals."""


def train_all(
    jobs: Sequence[Job], *, folder: Path, title: str, at_once: int, command: str, cluster: str | None = None
) -> None:
    """Trains and scores networks, each in a process of its own; finished ones are left as they are.

    A failure is recorded, and the others go on.

    Args:
        jobs: the trainings.
        folder: below which their runs are.
        title: of all of them together.
        at_once: trainings that run in parallel, at least 1.
        command: goes on with what is left.
        cluster: address of the cluster that trains them. Default: processes of this machine.

    Raises:
        InterruptedRunError: it was asked to stop; all is saved.
        MedartsError: the cluster cannot be used.
        RunError: some have failed.
    """
    total = sum(job.recipe.train.epochs for job in jobs)
    done = sum(epochs_done(job.paths.run) for job in jobs)
    waiting = [job for job in jobs if job.changes or not is_finished(job.paths.run, scored=True)]
    if done and waiting:
        inform(f"{title} resumes after {min(done, total):,} of {counted(total, 'epoch')}.")
    followed = [Followed(job.paths.name, job.paths.run, job.recipe.train.epochs) for job in waiting]
    running: dict[str, Job] = {}
    needs = partial(needs_of, jobs[0].recipe, folder)
    with (
        interruption() as stop,
        progress_bar(title, total, done=min(done, total), is_told=False) as bar,
        open_workers(cluster if waiting else None, needs, jobs=at_once, reused=True) as workers,
    ):
        follower = Follower(followed, bar)

        def show() -> None:
            at_work = (*waiting, *running.values())
            unfinished = sum(max(0, job.recipe.train.epochs - epochs_done(job.paths.run)) for job in at_work)
            bar.reach(total - unfinished, total)
            follower.tell()

        while True:
            if stop.requested:
                workers.ask_to_stop()
            while waiting and len(running) < at_once and not stop.requested:
                job = waiting.pop(0)
                job.paths.failure.unlink(missing_ok=True)
                workers.start(work_of(job))
                running[job.paths.name] = job
            if not running:
                break
            for ended in workers.wait(POLL):
                show()
                stop.requested = stop.requested or ended.stopped  # where it was asked before this process was
                _note(running.pop(ended.name), ended)
            show()
    left = [job for job in jobs if not is_finished(job.paths.run, scored=True)]
    if stop.requested and left:
        raise InterruptedRunError(f"Stopped; {title} is saved.", fix=f"Continue with: {command}")
    failed = [job for job in left if job.paths.failure.exists()]
    if failed:
        reason = read_whole(failed[0].paths.failure).decode(errors="surrogateescape").strip()
        names = ", ".join(job.paths.name for job in failed)
        raise RunError(f"{title}: {names} failed. {reason}", fix=f"Then continue with: {command}")


def _note(job: Job, ended: Ended) -> None:
    if ended.error is None:
        if not ended.stopped:
            inform(f"{job.paths.name} is trained and scored.")
        return
    job.paths.failure.parent.mkdir(parents=True, exist_ok=True)
    write_whole(job.paths.failure, f"{ended.error}\n")
    inform(f"{job.paths.name} failed: {ended.error}")


def check_jobs(jobs: int) -> None:
    """Refuses a number of trainings at a time that is none.

    Raises:
        RecipeError: it is below 1.
    """
    if jobs < 1:
        raise RecipeError(f"jobs is {jobs}.", fix="Use 1 or more.")


def with_shared_threads(recipe: Recipe, jobs: int, cluster: str | None) -> Recipe:
    """Returns a recipe with the threads of each of several trainings at a time, where it does not give them.

    The last digits of results depend on them, so they are part of the recipe of a run. On a cluster they are always
    given, as its hosts would choose for themselves.
    """
    if recipe.compute.threads or (jobs == 1 and cluster is None):
        return recipe
    cores = torch.get_num_threads()
    threads = max(1, cores // jobs)
    inform(f"Every training has {threads} of {cores} threads, also in later calls. Set compute.threads to change that.")
    return recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"threads": threads})})
