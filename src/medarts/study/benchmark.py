"""Runs the trainings of a study, one or several at a time, and reports which of them are available."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from medarts.comparison.candidates import Candidate, Group, Missing
from medarts.config.study import Study, load_study
from medarts.engine.device import needs_of
from medarts.engine.directory import RunDirectory, epochs_done, is_begun
from medarts.engine.following import Followed, Follower
from medarts.errors import MedartsError, RecipeError, RunError
from medarts.spaces.genotype import Genotype
from medarts.study.jobs import Job, Layout, RunPaths, damage_of, is_finished, work_of
from medarts.study.networks import searches_of
from medarts.study.plan import Plan, Step, prepare
from medarts.system import lock
from medarts.system.console import Bar, counted, inform, progress_bar
from medarts.system.files import make_folder, read_whole, remove_empty, write_whole
from medarts.system.process import InterruptedRunError, Interruption, interruption
from medarts.system.workers import Ended, Needs, Workers, open_workers

POLL = 1.0
"""Seconds between two looks at the journals."""


def benchmark(study: Study, out: Path, *, jobs: int = 1, cluster: str | None = None) -> None:
    """Trains and scores every network of a study on every group of data sets with every seed; see `available_runs`.

    Each run has a process of its own. Finished runs are kept, stopped or killed ones continue, failed ones are tried
    again. A failure is recorded, and the others continue.

    Args:
        study: the study.
        out: its folder, new or of an earlier call.
        jobs: runs at once.
        cluster: address of the cluster that does them. Default: processes of this machine.

    Raises:
        MedartsError: see ``prepare``; nothing was trained then. Or the cluster cannot be used, or is lost.
        RunError: another process is at work in the folder.
        InterruptedRunError: it was asked to stop; all running work is saved.
    """
    if jobs < 1:
        raise RecipeError(f"jobs is {jobs}.", fix="Use 1 or more.")
    with _alone_in(out):
        study = with_threads(study, Layout(out).study, jobs=jobs)
        plan = prepare(study, out)
        for name, reason in plan.damaged.items():
            inform(f"{name} is left out: {reason}")
        total = sum(step.epochs for step in plan.steps)
        open_ones = [step for step in plan.steps if not step.is_finished]
        with (
            interruption() as stop,
            progress_bar(out.name, total, done=total - _epochs_left(open_ones), is_told=False) as bar,
            open_workers(cluster if open_ones else None, partial(_needs, plan, study, out), jobs=jobs) as workers,
        ):
            _Runs(plan, workers, bar).do(stop, at_once=jobs)
        left = sum(not step.is_finished for step in plan.steps)
        if stop.requested and left:
            raise InterruptedRunError(
                f"Stopped; {out} is saved, {left} of its {len(plan.steps)} runs are left.",
                fix="Continue with the same command.",
            )


def _needs(plan: Plan, study: Study, out: Path) -> Needs:
    """Returns what the most demanding run of a study needs of a host of a cluster."""
    each = [needs_of(step.recipe, out) for step in plan.steps]
    most = {name: max(getattr(needs, name) for needs in each) for name in ("cpus", "gpus", "patience")}
    return replace(needs_of(study.recipe, out), **most)


def available_runs(out: Path) -> dict[str, Group]:
    """Returns the finished runs of every group of data sets of a study, and the state of the others."""
    layout = Layout(out)
    if not layout.study.is_file():
        raise RunError(f"{out} holds no study.", fix="Give the folder of a benchmark.")
    study = load_study(layout.study, kept=True)
    found = {}
    for group in study.trained_on:
        candidates: list[Candidate] = []
        missing: list[Missing] = []
        for name in study.networks_of(group):
            paths = {seed: layout.training(group.name, name, seed) for seed in group.seeds}
            damaged = {seed: damage_of(of_run.run, kind="train") for seed, of_run in paths.items()}
            finished = [
                seed for seed, of_run in paths.items() if not damaged[seed] and is_finished(of_run.run, scored=True)
            ]
            if finished:
                candidates.append(Candidate(name, tuple(RunDirectory(paths[seed].run) for seed in finished)))
            for seed, of_run in paths.items():
                if damaged[seed]:
                    missing.append(Missing(name, seed, "failed", damaged[seed]))
                elif seed not in finished:
                    missing.append(_missing(study, layout, name, seed=seed, paths=of_run))
        found[group.name] = Group(tuple(candidates), tuple(missing))
    return found


def _missing(study: Study, layout: Layout, name: str, *, seed: int, paths: RunPaths) -> Missing:
    """Returns the state of a training that has not finished."""
    if paths.failure.exists():
        return Missing(name, seed, "failed", _reason_in(paths.failure))
    if is_begun(paths.run):
        return Missing(name, seed, "unfinished", f"Done: {counted(epochs_done(paths.run), 'epoch')}.")
    for search in sorted(searches_of(study, name)):
        failure = layout.search(search).failure
        if failure.exists():
            reason = _reason_in(failure)
            return Missing(name, seed, "not started", f"The search of {search} failed: {reason}")
        if damage := damage_of(layout.search(search).run, kind="search"):
            return Missing(name, seed, "not started", f"The search of {search} cannot be read: {damage}")
    return Missing(name, seed, "not started", "")


def _reason_in(failure: Path) -> str:
    """Returns why a run failed."""
    return read_whole(failure).decode(errors="surrogateescape").strip()


class _Runs:
    """The runs of a plan that have not finished: waiting and running ones."""

    def __init__(self, plan: Plan, workers: Workers, bar: Bar) -> None:
        self.plan = plan
        self.workers = workers
        self.bar = bar
        self.waiting = [step for step in plan.steps if not step.is_finished]
        self.running: dict[str, Step] = {}
        followed = (Followed(step.paths.name, step.paths.run, step.epochs) for step in self.waiting)
        self.follower = Follower(followed, bar)

    def do(self, stop: Interruption, *, at_once: int) -> None:
        """Does all runs that can be done, until asked to stop."""
        while True:
            if stop.requested:
                self.workers.ask_to_stop()
            else:
                self._start(at_once)
            self._show()
            if not self.running:
                return
            for ended in self.workers.wait(POLL):
                stop.requested = stop.requested or ended.stopped  # where it was asked before this process was
                self._end(ended)

    def _start(self, at_once: int) -> None:
        """Starts the next runs whose searches have finished; those of failed searches wait for a later call."""
        while len(self.running) < at_once:
            step = next((step for step in self.waiting if self.plan.is_ready(step)), None)
            if step is None:
                return
            self.waiting.remove(step)
            try:
                self.workers.start(work_of(self._prepared(step)))
            except (MedartsError, OSError, RuntimeError) as error:  # such as of a full disk, or of torch
                self._fail(step, str(error))
            else:
                self.running[step.paths.name] = step

    def _prepared(self, step: Step) -> Job:
        """Returns the job of a process, after writing its genotype."""
        job = self.plan.job(step)
        if step.network is not None and isinstance(job.architecture, Genotype):
            path = self.plan.layout.genotype(step.network)
            path.parent.mkdir(parents=True, exist_ok=True)
            job.architecture.save(path)
        step.paths.failure.unlink(missing_ok=True)
        return job

    def _end(self, ended: Ended) -> None:
        step = self.running.pop(ended.name)
        if ended.error is not None:
            self._fail(step, str(ended.error))
        elif not ended.stopped:
            try:
                summary = RunDirectory(step.paths.run).read_json("summary.json")
                of_supernet = step.network is None and step.recipe.search.method == "supernet"
                score, whose = summary["score"], " of the supernet" if of_supernet else ""
                value = summary["supernet" if of_supernet else "best_score"]
            except MedartsError as error:  # somebody removed or changed it meanwhile
                self._fail(step, str(error))
                return
            shown = "undefined" if value is None else f"{value:.3f}"
            inform(f"{step.paths.name}: {score}{whose} {shown} on the validation images")

    def _fail(self, step: Step, reason: str) -> None:
        step.paths.failure.parent.mkdir(parents=True, exist_ok=True)
        write_whole(step.paths.failure, reason + "\n")
        inform(f"{step.paths.name} failed: {reason}")

    def _show(self) -> None:
        left = _epochs_left((*self.waiting, *self.running.values()))
        total = sum(step.epochs for step in self.plan.steps)
        self.bar.reach(total - left, total)
        self.follower.tell()


def _epochs_left(steps: Iterable[Step]) -> int:
    """Returns the epochs that are left of runs that have not finished."""
    return sum(max(0, step.epochs - epochs_done(step.paths.run)) for step in steps)


def with_threads(study: Study, before: Path, *, jobs: int) -> Study:
    """Returns a study with the number of threads of its runs, on which the last digits of results depend.

    Where the study does not set it, it is chosen in the first call, for its number of runs at once, and kept.
    """
    if study.recipe.compute.threads:
        return study
    cores, threads = torch.get_num_threads(), 0
    if before.is_file():
        threads = load_study(before, kept=True).recipe.compute.threads
    if not threads:
        threads = max(1, cores // jobs)
        if jobs > 1:
            inform(
                f"Every run has {threads} of {cores} threads, also in later calls. Set compute.threads to change that."
            )
    compute = study.recipe.compute.model_copy(update={"threads": threads})
    return study.model_copy(update={"recipe": study.recipe.model_copy(update={"compute": compute})})


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keeps other processes out of the folder of a study, and removes a new folder that no study was written to."""
    layout = Layout(out)
    new = make_folder(out)
    try:
        with lock.held(out, "benchmark"):
            yield
    finally:
        if not layout.study.exists():
            remove_empty(new)
