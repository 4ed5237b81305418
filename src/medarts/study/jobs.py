"""The runs of a study, each in a process of its own, so that one that fails takes no other with it.

Files of a study:

    study.yaml                          the study, defaults included
    genotypes/<network>.json            what was searched, sampled or read, at its size
    searches/<network>/                 search runs
    runs/<group>/<network>/seed-<k>/    training runs
    logs/, failures/                    output and reason of failure of each run, by the same path
    comparison/, generalization/        tables and pages
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from medarts.config import Recipe, parse
from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError, RunError
from medarts.evaluation.evaluate import evaluate
from medarts.models import Architecture
from medarts.nas.search import resume_search, start_search
from medarts.spaces.genotype import Genotype, load_genotype
from medarts.system import lock
from medarts.system.files import make_folder, read_whole, remove_empty, writing
from medarts.system.memory import keep_freed_memory
from medarts.system.process import (
    KILLED,
    InterruptedRunError,
    extensions,
    held_back,
    import_extensions,
    signal_name,
    when_parent_ends,
)
from medarts.training.trainer import resume_training, start_training

PATIENCE = 60.0
"""Seconds that a process waits for others that are still saving what they do."""

Kind = Literal["search", "train"]
"""Of a run."""

_HELD = (signal.SIGINT, signal.SIGTERM)


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
    """

    paths: RunPaths
    recipe: Recipe
    architecture: Architecture | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a job.

    Attributes:
        job: the job.
        failure: why it failed; None where it finished, or was stopped as it was asked to.
        stopped: it was asked to stop, and can go on.
    """

    job: Job
    failure: str | None = None
    stopped: bool = False


def is_begun(run: Path) -> bool:
    """Whether there is a run, finished or not."""
    return (run / "run.json").is_file()


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


def epochs_done(run: Path) -> int:
    """Returns how many epochs stand in the journal of a run."""
    journal = run / "metrics.jsonl"
    return read_whole(journal).count(b"\n") if journal.exists() else 0


def do(job: Job) -> None:
    """Starts or resumes a job, in this process."""
    path = job.paths.run
    if job.architecture is None:
        if is_begun(path):
            resume_search(path)
        else:
            start_search(job.recipe, path)
        return
    if not is_begun(path):
        start_training(job.recipe, job.architecture, path)
    elif not is_finished(path, scored=False):
        resume_training(path)
    if not is_finished(path, scored=True):
        evaluate(path, split="test")


class Workers:
    """Processes, each of which does a job; a context that, when left, stops those still at work and waits for them."""

    def __init__(self) -> None:
        self._running: list[_Worker] = []
        self._asked = False

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ask_to_stop()  # by what went wrong in this process they lose nothing
        end = time.monotonic() + PATIENCE
        for worker in self._running:
            worker.process.join(max(0.0, end - time.monotonic()))
            worker.process.kill()
            worker.process.join()

    def start(self, job: Job) -> None:
        """Starts a job in a new process."""
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        # As plain values: classes of registered settings are made when they are registered, and cannot be pickled.
        recipe = job.recipe.model_dump(mode="json")
        genotype = job.architecture if isinstance(job.architecture, Genotype) else None
        is_search = job.architecture is None
        given = {"paths": job.paths, "recipe": recipe, "genotype": genotype, "is_search": is_search, "sender": sender}
        process = context.Process(target=_work, args=(extensions(),), kwargs=given, name=job.paths.name)
        with held_back(*_HELD):
            process.start()
        sender.close()
        self._running.append(_Worker(job, process, receiver))

    def wait(self, seconds: float) -> list[Ended]:
        """Waits until a job ends, but not for longer, and returns those that have ended."""
        connection.wait([worker.process.sentinel for worker in self._running], timeout=seconds)
        ended = [worker for worker in self._running if not worker.process.is_alive()]
        self._running = [worker for worker in self._running if worker not in ended]
        return [worker.end(asked=self._asked) for worker in ended]

    def ask_to_stop(self) -> None:
        """Asks all processes to save what they have and end."""
        self._asked = True
        for worker in self._running:
            worker.process.terminate()


@dataclass(frozen=True, eq=False)
class _Worker:
    """A process, its job, and where its answer comes: None, or why it ended early."""

    job: Job
    process: SpawnProcess
    answers: Connection

    def end(self, *, asked: bool) -> Ended:
        """Returns what became of the job once the process has ended."""
        self.process.join()
        try:
            answer: MedartsError | None = self.answers.recv()
        except EOFError:  # it could not answer any more
            if asked and self.process.exitcode == -signal.SIGTERM:
                return Ended(self.job, stopped=True)
            return Ended(self.job, failure=self._last_words())
        finally:
            self.answers.close()
        if asked and isinstance(answer, InterruptedRunError):
            return Ended(self.job, stopped=True)
        return Ended(self.job, failure=None if answer is None else str(answer))

    def _last_words(self) -> str:
        code, log = self.process.exitcode, self.job.paths.log
        if code == KILLED:
            return "The system killed its process, as it does where memory runs out."
        if code is not None and code < 0:
            return f"Its process was ended by {signal_name(-code)}; see {log}."
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output.")
        return f"Its process ended with status {code}: {last} See {log}."


def _work(
    modules: tuple[str, ...],
    *,
    paths: RunPaths,
    recipe: dict[str, Any],
    genotype: Genotype | None,
    is_search: bool,
    sender: Connection,
) -> None:
    """Does a job in a process that has been started for it, and sends what stopped it, or None."""
    # Ctrl-C on the terminal is for the process that waits; this one is asked to stop by SIGTERM alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))  # it saves, and stops
    keep_freed_memory()
    answer: MedartsError | None = None
    try:
        with _alone_at(paths):
            _write_into(paths.log)
            import_extensions(modules)
            read = parse(recipe, origin=paths.name)
            do(Job(paths, read, None if is_search else genotype or read.train.model))
    except MedartsError as error:
        answer = error
    with suppress(BrokenPipeError):  # nobody waits any more
        sender.send(answer)


@contextmanager
def _alone_at(paths: RunPaths) -> Iterator[None]:
    """Keeps other processes from the same job: one that a killed benchmark has left may still be saving."""
    make_folder(paths.log.parent)
    made = make_folder(paths.run)
    try:
        with lock.held(paths.run, "benchmark", patience=PATIENCE):
            yield
    finally:
        remove_empty(made)


def _write_into(log: Path) -> None:
    """Sends what this process prints to the end of a file."""
    with writing(log), log.open("a", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
