"""A search by training: generations of candidates, each decided by successive halving.

    for every generation:   draw its candidates: random genotypes and those of supernets, later neighbours of the best
        for every rung:     train those that are left up to it, note their scores, keep the best
    the genotype of the best in the last rung is the result; its network is trained by the recipe, if that is wanted

The run is of the kind "search", as that of a supernet. What was drawn and scored stands in its candidates.jsonl, which
is written as a whole when a generation is drawn and when a rung is done. In between, the runs of the candidates
(``trainings.py``) say how far they are. So a search goes on after any end of its processes. The order in which
trainings end has no part in the result; nor has their number at once, where compute.threads is given: else the
trainings share the threads, and another number of threads rounds sums differently.
"""

import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medarts.config import Recipe
from medarts.data.shared import images_for_processes
from medarts.data.store import ImageStore
from medarts.engine.changes import changed_recipe, check_places, go_on, with_its_threads
from medarts.engine.device import environment, needs_of, preserved_process_state
from medarts.engine.directory import RunDirectory, epochs_done
from medarts.engine.following import Followed, Follower
from medarts.errors import DivergedError, GenotypeError, MedartsError, RecipeError, RunError
from medarts.pool import trainings
from medarts.pool.candidates import Candidate, read_candidates, write_candidates
from medarts.pool.drawing import Drawing, Proposal
from medarts.pool.halving import best, sizes
from medarts.pool.preparing import Prepared, numbers_of_candidates, planned_epochs, prepare
from medarts.pool.result import Retrained, compute_of, write_failures, write_genotype, write_summary, write_timing
from medarts.spaces.genotype import Genotype
from medarts.system.console import Bar, counted, in_words, inform, progress_bar
from medarts.system.files import exists
from medarts.system.memory import OutOfMemoryError
from medarts.system.place import refuse_several
from medarts.system.process import InterruptedRunError, Interruption, interruption
from medarts.system.workers import Ended, ProcessEndedError, Work, Workers, open_workers

POLL = 1.0
"""Seconds between two looks at the journals."""

CANDIDATE_ERRORS = (DivergedError, OutOfMemoryError, ProcessEndedError, RecipeError, GenotypeError)
"""Errors that end a candidate; others, as of a full disk, are no fault of it and end the search."""


@preserved_process_state()
def start_by_training(
    recipe: Recipe,
    out: Path,
    *,
    jobs: int = 1,
    cluster: str | None = None,
    data: ImageStore | None = None,
    facts: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """Searches by training, in a new run directory.

    Args:
        recipe: what to do; ``search.method`` is pool or random. Without ``compute.threads`` every training has its
            share of the threads of this process.
        out: folder of the run, new or empty.
        jobs: trainings at once, from 1 on.
        cluster: address of the cluster that trains them. Default: processes of this machine.
        data: the images, in place of the sources of the recipe; see `medarts.data.arrays`.
        facts: more for run.json.

    Raises:
        RecipeError: the rungs, the budget or another value does not fit; nothing was written then.
        MedartsError: data, device or folder do not fit, or all candidates of a rung failed.
        InterruptedRunError: it was asked to stop; it can be resumed.
    """
    refuse_several("A search by training")
    _check_cluster(cluster, data)
    threads = recipe.compute.threads or max(1, torch.get_num_threads() // jobs)
    recipe = recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"threads": threads})})
    with RunDirectory.reserved(out, "search"):
        prepared = prepare(recipe, data=data)
        manifest = prepared.training.store.manifest
        run = RunDirectory.create(
            out,
            prepared.recipe,
            kind="search",
            data_fingerprint=manifest.fingerprint(),
            files={"manifest.csv": manifest.to_csv()},
            environment=environment(prepared.training.fabric, recipe.compute),
            ways=prepared.training.store.ways,
            **(facts or {}),
        )
        try:
            _do(run, prepared, jobs=jobs, cluster=cluster)
        except InterruptedRunError:
            raise
        except MedartsError:
            if not (exists(run.path / "candidates") or exists(run.path / "supernets")):
                run.discard()  # nothing was trained: the corrected call can have the folder
            raise
    return run


@preserved_process_state()
def resume_by_training(
    path: Path,
    changes: Iterable[str] = (),
    *,
    jobs: int = 1,
    cluster: str | None = None,
    data: ImageStore | None = None,
) -> RunDirectory:
    """Goes on with a search by training; a finished one is left as it is.

    Args:
        path: its folder.
        changes: changes of its recipe as key.path=value: paths, the note, the device, threads.
        jobs: trainings at once.
        cluster: address of the cluster that trains them.
        data: the images of a search that was started with ``data``.

    Raises:
        RunError: it is no search, another process is at work on it, its data have changed, or its recipe in what may
            not change.
        MedartsError: see `start_by_training`.
    """
    refuse_several("A search by training")
    _check_cluster(cluster, data)
    run = RunDirectory.open(path, kind="search")
    with run.at_work("search"):
        recipe, changed = changed_recipe(run, changes)
        if run.facts["finished"] and not changed:
            return run
        if data is None:
            check_places(run, recipe)
        prepared = prepare(with_its_threads(run, recipe, changed), data=data, goes_on=True)
        manifest, now = prepared.training.store.manifest, environment(prepared.training.fabric, recipe.compute)
        run.check_unchanged(manifest.fingerprint(), manifest=manifest.to_csv())
        ways = prepared.training.store.ways
        go_on(run, recipe, changed, manifest=manifest.to_csv(), environment=now, ways=ways)
        _do(run, prepared, jobs=jobs, cluster=cluster)
    return run


def _do(run: RunDirectory, prepared: Prepared, *, jobs: int, cluster: str | None) -> None:
    """Does what is left of a search."""
    done, epochs = epochs_done(run.path), planned_epochs(prepared.recipe)
    if 0 < done < epochs:
        inform(f"search resumes after {done:,} of about {counted(epochs, 'epoch')}.")
    with (
        # Other hosts do not see a temporary file of this one: they list the images themselves.
        nullcontext() if cluster else images_for_processes(prepared.training.store) as images,
        interruption() as stop,
        progress_bar("search", epochs, done=min(done, epochs), is_told=False) as bar,
        open_workers(cluster, partial(needs_of, prepared.recipe, run.path), jobs=jobs, reused=True) as workers,
    ):
        _Search(run, prepared, _Executor(workers, stop, jobs), images=images, bar=bar).run_to_end()
    run.finish()


def _check_cluster(cluster: str | None, data: ImageStore | None) -> None:
    """Refuses images in memory, which other hosts do not have."""
    if cluster is not None and data is not None:
        raise RecipeError(
            "Images in memory are not on the hosts of a cluster.", fix="Save them in a folder (see from_arrays)."
        )


@dataclass(frozen=True)
class _Executor:
    """Processes that do several pieces of work, some at once.

    Attributes:
        workers: the processes.
        stop: whether the search was asked to stop.
        jobs: how many work at once.
    """

    workers: Workers
    stop: Interruption
    jobs: int

    def ends(self, works: Iterable[Work], *, meanwhile: Callable[[], None]) -> Iterator[Ended]:
        """Does all work and yields the ends, as they come.

        What ended for want of memory, or with its process, is done once more when all else is done, and alone: so what
        ran beside it has no part in whether a candidate fails.

        Args:
            works: what is done.
            meanwhile: is called every second.

        Raises:
            InterruptedRunError: it was asked to stop; what was in hand is saved.
        """
        waiting, again = deque(works), deque[Work]()
        most, tried = self.jobs, set[str]()
        busy: dict[str, Work] = {}
        while waiting or busy or again:
            if self.stop.requested:
                self.workers.ask_to_stop()
                waiting.clear()
                again.clear()
            if not (waiting or busy):
                waiting, again, most = again, waiting, 1
            while waiting and len(busy) < most:
                work = waiting.popleft()
                self.workers.start(work)
                busy[work.name] = work
            meanwhile()
            for ended in self.workers.wait(POLL):
                work = busy.pop(ended.name)
                if isinstance(ended.error, (ProcessEndedError, OutOfMemoryError)) and work.name not in tried:
                    inform(f"{work.name}: {ended.error} It is tried once more, alone.")
                    tried.add(work.name)
                    again.append(work)
                elif ended.stopped:
                    self.stop.requested = True  # where it was asked before this process was
                else:
                    yield ended
        self.check_stop()

    def check_stop(self) -> None:
        """Ends the search here if it was asked to stop.

        Raises:
            InterruptedRunError: it was.
        """
        if self.stop.requested:
            raise InterruptedRunError("Stopped.", fix="")


class _Search:
    """What is left of a search.

    Args:
        run: its run.
        prepared: see `prepare`.
        executor: does the trainings.
        images: those for the processes.
        bar: shows the epochs that are done.
    """

    def __init__(
        self, run: RunDirectory, prepared: Prepared, executor: _Executor, *, images: Path | None, bar: Bar
    ) -> None:
        self.run, self.executor, self.images, self.bar = run, executor, images, bar
        self.recipe, self.score = prepared.recipe, prepared.training.task.score
        self.select = self.recipe.search.select
        self.candidates = {each.name: each for each in read_candidates(run)}
        self.numbers = numbers_of_candidates(self.recipe)
        number = len(self.select.variants) if self.recipe.search.method == "pool" else 0
        self.supernets = range(1, number + 1)
        self.planned = planned_epochs(self.recipe)
        self.follower = Follower(self._followed(), bar)

    def run_to_end(self) -> None:
        """Does it, and writes the result."""
        try:
            for generation in range(1, len(self.numbers) + 1):
                if not self._members(generation):
                    self._draw(generation)
                self._halve(generation)
            winner = self._finalists()[0]
            genotype = write_genotype(self.run, self.recipe, winner)
            retrained = self._retrained(winner, genotype) if self.select.retrain else None
        except InterruptedRunError:
            raise InterruptedRunError(
                f"Stopped; {self.run.path} is saved.", fix=f"Resume with: {_command(self.run.path)}"
            ) from None
        write_summary(self.run, self.recipe, winner, score=self.score, retrained=retrained)
        numbers = {"supernets": len(self.supernets), "retrained": self.select.retrain}
        write_timing(self.run, self.candidates.values(), **numbers)
        inform(self._compute_in_words())

    def _retrained(self, winner: Candidate, genotype: Genotype) -> Retrained:
        """Trains the winner by the recipe, with several seeds."""
        scores, failures = dict[int, float](), dict[int, str]()
        numbers = range(1, self.select.retrain + 1)
        seeds = {str(number): trainings.recipe_of_retraining(self.recipe, winner, number).seed for number in numbers}
        works = [
            trainings.retraining(self.run, self.recipe, winner, genotype, number, images=self.images)
            for number in numbers
        ]
        for ended in self.executor.ends(works, meanwhile=self._show):
            seed = seeds[ended.name]
            folder = trainings.folder_of_retraining(self.run, int(ended.name))
            if ended.error is not None:
                failures[seed] = str(_of_the_candidate(ended.error))
            elif (score := RunDirectory(folder).read_json("summary.json")["best_score"]) is None:
                failures[seed] = "Its validation score never was a finite number."
            else:
                scores[seed] = float(score)
            became = failures.get(seed, "").removesuffix(".") or f"{self.score.removeprefix('val_')} {scores[seed]:.3f}"
            inform(f"{winner.name} retrained with seed {seed}: {became}; {self._left()}")
        return Retrained(dict(sorted(scores.items())), dict(sorted(failures.items())))

    def _members(self, generation: int) -> list[Candidate]:
        return [each for each in self.candidates.values() if each.generation == generation]

    def _draw(self, generation: int) -> None:
        """Draws a generation; there may be no neighbours left that are new."""
        number = self.numbers[generation - 1]
        drawing = Drawing(self.recipe, self.candidates.values(), pause=self.executor.check_stop)
        searched = self._searched(drawing) if generation == 1 else []
        scaled = ", each scaled to the budget" if self.recipe.budget.limited else ""
        inform(f"generation {generation}: drawing {counted(number, 'candidate')}{scaled}")
        with self.bar.paused():  # exports and measurements are no epochs
            if generation == 1:
                drawn = drawing.first(number, searched)
            else:
                parents = sizes(self.numbers[0], len(self.select.rungs), self.select.keep)[-1]
                drawn = drawing.later(generation, number, self._finalists()[:parents])
        self.candidates |= {each.name: each for each in drawn}
        write_candidates(self.run, self.candidates.values())

    def _searched(self, drawing: Drawing) -> list[Proposal]:
        """Searches the supernets, and returns genotypes along them."""
        if not self.supernets:
            return []
        drawing.check_budget()
        works = [trainings.supernet(self.run, self.recipe, number, images=self.images) for number in self.supernets]
        failures: dict[str, MedartsError] = {}
        for ended in self.executor.ends(works, meanwhile=self._show):
            if ended.error is not None:
                failures[ended.name] = _of_the_candidate(ended.error)
            state = "is searched" if ended.error is None else f"failed: {ended.error}"
            inform(f"{trainings.name_of_supernet(self.recipe, int(ended.name))} {state}; {self._left()}")
        if len(failures) == len(works):
            raise RunError(f"All supernets failed, the first one: {failures['1']}", fix="Correct it in a new search.")
        write_failures(self.run, {name: str(failures[name]) for name in sorted(failures, key=int)})
        return [
            proposal
            for number in self.supernets
            if str(number) not in failures
            for proposal in drawing.along(
                RunDirectory.open(trainings.folder_of_supernet(self.run, number)),
                number=self.select.checkpoints,
                called=trainings.name_of_supernet(self.recipe, number),
            )
        ]

    def _halve(self, generation: int) -> None:
        """Decides a generation: trains its candidates from rung to rung, and keeps the best of each."""
        left = [each.name for each in self._members(generation)]
        if not left:
            return
        numbers = sizes(len(left), len(self.select.rungs), self.select.keep)
        for rung, number in zip(self.select.rungs, [*numbers[1:], 0], strict=True):
            self._train([name for name in left if self._is_open(name, rung)], rung)
            scores = {name: scored[rung] for name in left if rung in (scored := self.candidates[name].scores)}
            if not scores:
                first = next(each for name in left if (each := self.candidates[name]).failure)
                raise RunError(
                    f"All candidates of generation {generation} failed on the way to epoch {rung}; {first.name}: "
                    f"{first.failure}",
                    fix="Start a new search with other values.",
                )
            left = best(scores, number)
            if left:
                inform(
                    f"generation {generation}, epoch {rung}: {', '.join(left)} {'goes' if len(left) == 1 else 'go'} on"
                )

    def _is_open(self, name: str, rung: int) -> bool:
        candidate = self.candidates[name]
        return candidate.failure is None and rung not in candidate.scores

    def _train(self, names: Sequence[str], rung: int) -> None:
        """Trains candidates up to a rung, and notes their scores once all are there."""
        if not names:
            return
        recipe, found = trainings.recipe_of_candidates(self.recipe), {}
        works = [
            trainings.training(self.run, recipe, self.candidates[name], rung=rung, images=self.images) for name in names
        ]
        for ended in self.executor.ends(works, meanwhile=self._show):
            found[ended.name] = candidate = self._judged(ended, rung)
            if candidate.failure is None:
                became = f"{self.score.removeprefix('val_')} {candidate.scores[rung]:.3f} at epoch {rung}"
            else:
                became = f"dropped: {candidate.failure.removesuffix('.')}"
            at_rung = f"{len(names) - len(found)} of {len(names)} left at this rung"
            inform(f"{candidate.name} ({candidate.source}): {became}; {at_rung}, {self._left()}")
        self.candidates |= found
        write_candidates(self.run, self.candidates.values())

    def _judged(self, ended: Ended, rung: int) -> Candidate:
        """Returns a candidate with its score at a rung, or with the reason why it has none."""
        candidate = self.candidates[ended.name]
        if ended.error is not None:
            return replace(candidate, failure=str(_of_the_candidate(ended.error)))
        score = trainings.score_at(trainings.folder_of_candidate(self.run, ended.name), rung, self.score)
        if score is None:
            reason = f"Its validation score after {counted(rung, 'epoch')} is no finite number."
            return replace(candidate, failure=reason)
        return candidate.scored(rung, score)

    def _finalists(self) -> list[Candidate]:
        """Returns the candidates that came to the last rung, the best first."""
        last = self.select.rungs[-1]
        scores = {name: each.scores[last] for name, each in self.candidates.items() if last in each.scores}
        return [self.candidates[name] for name in best(scores, len(scores))]

    def _followed(self) -> list[Followed]:
        """Returns all trainings and searches of supernets that have begun, for their lines."""
        epochs = {
            "candidates": self.select.rungs[-1],
            "supernets": sum(stage.epochs for stage in self.recipe.search.stages),
            "retrained": self.recipe.train.epochs,
        }
        return [
            Followed(f"{path.parent.name}/{path.name}", path, epochs[path.parent.name])
            for path in trainings.folders(self.run)
        ]

    def _show(self) -> None:
        self._reach()
        self.follower.follow(self._followed())
        self.follower.tell()

    def _reach(self) -> int:
        """Moves the bar on to what is done by now, and returns the epochs that are left."""
        done = epochs_done(self.run.path)
        total = max(done, self.planned)
        self.bar.reach(done, total)
        return total - done

    def _left(self) -> str:
        """Returns the epochs that are left in words, with the time that they take."""
        epochs = counted(self._reach(), "epoch")
        return f"{epochs} left" + ("" if self.bar.left is None else f", about {in_words(self.bar.left)}")

    def _compute_in_words(self) -> str:
        """Returns what the search has taken, and how many epochs of training a control may have."""
        compute = compute_of(self.run)
        trained, epochs = counted(len(self.candidates), "candidate"), counted(compute.epochs, "epoch")
        words = f"Trained {trained} for {epochs} in {compute.seconds:,.0f} s."
        if self.supernets:
            words += (
                f" The supernets took {compute.supernet_seconds:,.0f} s. As much computing by random search: "
                f"search.method=random search.select.epochs={compute.equal_epochs}"
            )
        return words


def _of_the_candidate(error: MedartsError) -> MedartsError:
    """Returns an error that ends a candidate, or a supernet, alone; raises others."""
    if isinstance(error, CANDIDATE_ERRORS):
        return error
    raise error


def _command(path: Path) -> str:
    return f"medarts search --resume {shlex.quote(str(path))}"
