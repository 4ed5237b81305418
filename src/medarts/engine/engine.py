"""The engine under search and training: epochs of steps that resume bit for bit, stop on request, and are timed.

A job, a subclass of `Job`, says what a stage is made of and what a step does. The engine does the rest:

    for every stage:       set_up, then what the last checkpoint holds
        for every epoch:   begin_epoch
            for every step:    step; if the job was asked to stop, save and leave
            validate, write the journals, end_epoch, save
        end_stage

Everything random is seeded by (seed, epoch, step), so a checkpoint holds no state of a generator, and a resumed run
repeats the steps after it exactly.
"""

import math
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medarts import __version__
from medarts.config import BatchSettings, Recipe, fingerprint
from medarts.data.batches import Batches
from medarts.data.store import ImageStore
from medarts.engine import checkpoint
from medarts.engine.changes import Change, changed_recipe, check_places, go_on, with_its_threads
from medarts.engine.checkpoint import Checkpoint, Position
from medarts.engine.device import environment, joined_for, peak_memory_mb, preserved_process_state
from medarts.engine.directory import RunDirectory
from medarts.engine.following import epoch_line
from medarts.engine.resuming import load_point, restored, restoring
from medarts.engine.splitting import Of, Splitting
from medarts.engine.tensorboard import write_events
from medarts.engine.timing import Span, Stopwatch, timed
from medarts.errors import DivergedError
from medarts.system.console import Bar, has_lines, in_words, inform, progress_bar
from medarts.system.memory import FEWER_AT_ONCE, memory_named, smaller_parts
from medarts.system.place import launched_by
from medarts.system.process import InterruptedRunError, Interruption, interruption
from medarts.system.ranks import current
from medarts.tasks import Task

SECONDS_A_LINE = 30.0
"""Seconds between two lines within an epoch, where there is no progress bar."""

MOST_VALIDATED = 1000
"""Images of which a trial validates, where there are more; the time of all of them follows."""

LEAST_LEFT = 5.0
"""Seconds of an epoch that are left then: the line of the epoch itself is near otherwise."""


@dataclass
class LoopState:
    """Where a job is, with the sums of the current epoch; a checkpoint holds all of it.

    Attributes:
        epoch: epochs of the stage done.
        step: steps of the epoch done.
        train_loss: sum of the weights' losses in this epoch.
    """

    epoch: int = 0
    step: int = 0
    train_loss: float = 0.0

    def next_epoch(self) -> None:
        """Begins the next epoch with empty sums."""
        self.epoch, self.step, self.train_loss = self.epoch + 1, 0, 0.0


State = TypeVar("State", bound=LoopState)


@dataclass(frozen=True, slots=True)
class Trial:
    """What a job will take, from a few of its steps.

    Attributes:
        parameters: trainable weights.
        seconds: time of the whole job.
        memory_mb: peak memory so far, of the GPU if one is used, else resident.
        accumulate: parts into which its batches are split.
        images_at_once: images of the largest part.
        selection_seconds: time of choosing the genotype after the last stage of a search, which ``seconds`` lacks.
        validation_seconds: time of one validation, which ``seconds`` has for every epoch.
        low: times ``seconds`` that the job takes where all steps are as fast as the fastest that was timed, 0 to 1.
        high: the same with the slowest, from 1.
    """

    parameters: int
    seconds: float
    memory_mb: float
    accumulate: int
    images_at_once: int
    selection_seconds: float = 0.0
    validation_seconds: float = 0.0
    low: float = 1.0
    high: float = 1.0

    def span(self, seconds: float) -> Span:
        """Returns how far an estimate of a time can be trusted, by the steps that were timed."""
        return Span(self.low * seconds, seconds, self.high * seconds)


class Job(ABC, Generic[State]):
    """A search or a training.

    Args:
        recipe: what to do, with the names of the outputs filled in.
        fabric: device and precision.
        task: loss and score.
        store: the images.
        state: where the job begins.

    Attributes:
        kind: of its run directory.
        title: what messages call it.
        beside: names of what may be in the folder of a new run.
        validations_at_end: validations at the end of a stage, beside one an epoch.
        ranks: the processes that do it, this one among them.
        splitting: parts of its batches, of which there are more where memory has run out.
        run: where everything is written; None in a trial, which writes nothing.
        pause: epochs of a stage after which the job is left as it is, to go on later; None does all of it.
        stopwatch: what an epoch is spent on.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()
    validations_at_end: ClassVar[int] = 0

    def __init__(self, recipe: Recipe, *, fabric: Fabric, task: Task, store: ImageStore, state: State) -> None:
        self.recipe = recipe
        self.fabric = fabric
        self.task = task
        self.store = store
        self.state = state
        self.ranks = current()
        self.splitting = Splitting(self)
        self.run: RunDirectory | None = None
        self.pause: int | None = None
        self.stopwatch = Stopwatch()
        self._stop = Interruption()
        self._last_line = 0.0
        self._most_validated = 0

    # What a job supplies.

    @staticmethod
    @abstractmethod
    def parts_setting(recipe: Recipe, stage: int | None) -> tuple[str, BatchSettings]:
        """Returns the name of a stage's section of the recipe, and the section; None is the stage with most images."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The module whose tensors a checkpoint holds."""

    @property
    @abstractmethod
    def validated(self) -> tuple[nn.Module, Batches]:
        """The network that is validated, and the images."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps of an epoch."""

    @property
    @abstractmethod
    def epochs(self) -> int:
        """Epochs of the current stage."""

    @property
    @abstractmethod
    def parameters(self) -> Iterable[nn.Parameter]:
        """The trainable weights."""

    @abstractmethod
    def set_up(self) -> None:
        """Builds what the stage trains, with fresh weights and optimizers."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns everything a checkpoint holds beside the tensors of the module: optimizers and the like."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned."""

    @abstractmethod
    def begin_epoch(self) -> None:
        """Prepares for the steps of an epoch, from whichever of them on."""

    @abstractmethod
    def step(self) -> None:
        """Does a step, the one that the loop state names."""

    @abstractmethod
    def journals(self, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Returns the epoch's line of each journal, without where it stands.

        Args:
            values: of the validation; the line of metrics.jsonl ends with them.
        """

    @abstractmethod
    def end_stage(self) -> None:
        """Does what is left when all epochs of a stage are done."""

    # What a job may change.

    @property
    def stages_left(self) -> Iterable[int]:
        """The stages from the current one on."""
        return (0,)

    @property
    def has_stopped_early(self) -> bool:
        """Whether the stage ends before its last epoch."""
        return False

    @property
    def counters(self) -> dict[str, int]:
        """Where the job is, by name: the stage if there are several, epoch, step."""
        return {"epoch": self.state.epoch, "step": self.state.step}

    @property
    def phases(self) -> list[tuple[int, int]]:
        """(first epoch, number of epochs) of the parts of a stage whose steps take equally long."""
        return [(0, self.epochs)]

    @property
    def progress(self) -> tuple[int, int]:
        """Steps done and steps in all."""
        return self.state.epoch * self.steps + self.state.step, self.epochs * self.steps

    @property
    def epochs_done(self) -> int:
        """Epochs done in all stages."""
        return self.state.epoch

    @property
    def files(self) -> dict[str, str | bytes]:
        """Names and contents of the files that a new run begins with, beside its manifest."""
        return {}

    @property
    def facts(self) -> dict[str, Any]:
        """What the run.json of a new run holds beside what all runs have."""
        return {}

    @property
    def continuation(self) -> str:
        """The command that goes on with it once it was stopped."""
        words = f"medarts {self.kind} --resume {shlex.quote(str(self.directory.path))}"
        return f"{words} {launched_by(self.ranks.place)}".rstrip()

    def end_epoch(self, values: Mapping[str, Any]) -> None:
        """Does what follows the validation of an epoch, such as keeping the best weights."""

    def prepare_for(self, changes: Iterable[Change]) -> None:
        """Makes a resumed run ready for changes of its recipe."""

    def check_parts(self, of: Of, images: int) -> None:
        """Refuses parts of a batch in which the network sees too few images at a time.

        Args:
            of: "training", a batch of the current stage, or "validation".
            images: of the smallest part.

        Raises:
            RecipeError: it does.
        """

    # What the engine does.

    @property
    def directory(self) -> RunDirectory:
        """The run directory.

        Raises:
            ValueError: it is a trial.
        """
        if self.run is None:
            raise ValueError("a trial has no run directory")
        return self.run

    @property
    def position(self) -> Position:
        """Where the job is, as checkpoints are named."""
        return tuple(self.counters.values())

    @property
    def where(self) -> str:
        """Where the job is, in messages."""
        return ", ".join(f"{name} {number}" for name, number in self.counters.items())

    @classmethod
    def memory_fix(cls, recipe: Recipe, stage: int | None = None) -> str:
        """Returns what to do if a step takes too much memory."""
        section, settings = cls.parts_setting(recipe, stage)
        return smaller_parts(f"{section}.accumulate", accumulate=settings.accumulate, batch=settings.batch)

    def check_same(self) -> None:
        """Refuses processes that have been given different jobs, or do them in other versions.

        Raises:
            MedartsError: they have; names the host of one.
        """
        facts = {"the command": self.kind, "a recipe of fingerprint": fingerprint(self.recipe)}
        data = {"data of fingerprint": self.store.manifest.fingerprint()}
        self.ranks.check_same({**facts, **data, "medarts": __version__, "PyTorch": torch.__version__})

    def run_in(self, directory: RunDirectory) -> None:
        """Does what is left of the job up to its pause, from the last checkpoint or, if there is none, from the start.

        Raises:
            DivergedError: a loss or a weight is no longer finite.
            InterruptedRunError: the job was asked to stop; it can be resumed.
            OutOfMemoryError: memory ran out, also with single images; what was saved stays.
        """
        self.run = directory
        point = load_point(directory, fabric=self.fabric)
        # Nothing is saved before all have read it, and where their hosts see other files it is not the same.
        self.ranks.check_same({"checkpoint": point.path.name if point and point.path else "none"})
        if point is not None:
            with restoring(point):
                self.state = restored(type(self.state), point.state["loop"])
                self.splitting.records = point.state.get("splits", [])
        done, total = self.progress
        with interruption() as stop, progress_bar(self.kind, total, done=done, is_told=False) as bar:
            self._stop = stop
            for stage in self.stages_left:
                with memory_named(self.title, fix=self.memory_fix(self.recipe, stage)):
                    self.set_up()
                    # After the set-up, as an optimizer puts what it loads where its parameters are by then. At the
                    # start of a stage the checkpoint still holds the stage before.
                    if point is not None and (self.state.epoch or self.state.step):
                        with restoring(point):
                            self.module.load_state_dict(point.weights)
                            self.load_state_dict(point.state)
                    if point is not None and self.state.epoch < self.epochs:
                        inform(f"{self._place} resumes in {self._epoch_words}.")
                    while self.state.epoch < self.epochs and not self.has_stopped_early:
                        if self.pause is not None and self.state.epoch >= self.pause:
                            return
                        self._run_epoch(stop, bar)
                    self.end_stage()
                point = None
        self.ranks.first(directory.finish)

    def _run_epoch(self, stop: Interruption, bar: Bar) -> None:
        began, first = time.perf_counter(), self.state.step
        self._last_line = began
        with self.stopwatch.on("input"):
            self.begin_epoch()
        while self.state.step < self.steps:
            if self.ranks.size > 1:
                self.ranks.note(self.where, fix=f"Resume with: {self.continuation}", request=self._stop)
            splits = len(self.splitting.records)
            with self.stopwatch.on("steps"):
                self._step()
            asked = self.ranks.is_to_stop(self._stop)
            # More parts than before are kept at once: a run that is killed now goes on with as many.
            if (asked or len(self.splitting.records) > splits) and self.state.step < self.steps:
                with self.stopwatch.on("logging"):
                    self.ranks.first(self.save)  # none leaves before it is written: that would end the one that writes
                if asked:
                    self._leave()
            bar.advance()  # after the saving: a terminal that was closed takes no more output
            self._tell_step(began, first)
        values = self.validate()
        with self.stopwatch.on("logging"):
            counters = {name: number for name, number in self.counters.items() if name != "step"}
            journals = {name: {**counters, **line} for name, line in self.journals(values).items()}
            # The checkpoint holds the lengths of the journals, so its own time counts for the next epoch.
            seconds, spent = time.perf_counter() - began, self.stopwatch.lap()
            memory = peak_memory_mb(self.fabric.device)
            journals["timing.jsonl"] = {**counters, "seconds": seconds, "spent": spent, "peak_memory_mb": memory}
            for name, line in journals.items():
                self.directory.append(name, line)
            if self.recipe.compute.tensorboard and self.ranks.is_first:
                write_events(self.directory.path / "tensorboard", journals["metrics.jsonl"], step=self.epochs_done)
            self.end_epoch(values)
            self.state.next_epoch()
            self.save()
        if self._is_to_stop():
            self._leave()
        self._tell_epoch(journals, bar)

    @property
    def _place(self) -> str:
        """The kind of job and its stage, if there are several, at the beginning of a line."""
        return " ".join((self.kind, *([f"stage {self.counters['stage'] + 1}"] if "stage" in self.counters else [])))

    @property
    def _epoch_words(self) -> str:
        """The epoch that the job is at, and what is done of it."""
        done = f", after step {self.state.step:,} of {self.steps:,}" if self.state.step else ""
        return f"epoch {self.state.epoch + 1} of {self.epochs}{done}"

    def _tell_step(self, began: float, first: int) -> None:
        """Writes a line in a long epoch where there is no progress bar.

        Args:
            began: time when the epoch began, or went on.
            first: its step then.
        """
        now, state = time.perf_counter(), self.state
        left = (now - began) / (state.step - first) * (self.steps - state.step)
        if has_lines() and now - self._last_line >= SECONDS_A_LINE and left >= LEAST_LEFT:
            self._last_line = now
            loss = state.train_loss / state.step
            step = f"step {state.step:,} of {self.steps:,}, loss {loss:.3f}, the epoch about {in_words(left)} more"
            inform(f"{self._place} epoch {state.epoch + 1}/{self.epochs}: {step}")

    def _tell_epoch(self, journals: Mapping[str, Mapping[str, Any]], bar: Bar) -> None:
        """Shows the score of an epoch that is done beside the bar, or writes a line where there is none."""
        words = f"{self._place} epoch {self.state.epoch}".removeprefix(f"{self.kind} ")
        bar.describe(f"{words}: {self.task.score} {journals['metrics.jsonl'][self.task.score]:.3f}")
        if has_lines():
            inform(epoch_line(self._place, self.state.epoch, self.epochs, journals, self.task.score, left=bar.left))

    def _step(self) -> None:
        self.step()
        self.state.step += 1

    def validate(self) -> dict[str, Any]:
        """Returns the validation values of the network as it is.

        Raises:
            DivergedError: the loss is not finite.
            MedartsError: the processes have come to different weights.
        """
        self.ranks.check_alike([*self.module.state_dict().values()], what="weights")
        network, images = self.validated
        if self._most_validated:
            images = images.few(self._most_validated)
        network.eval()
        with self.stopwatch.on("validation"), memory_named("the validation", fix=FEWER_AT_ONCE):
            values = self.splitting.within_memory(lambda: self._scores(network, images), of="validation")
        self.check_finite(values["val_loss"], name="validation loss")
        return values

    def _scores(self, network: nn.Module, images: Batches) -> dict[str, Any]:
        """Returns what a pass over images gives, in as many parts of a batch as there are now."""
        images.batch = self.splitting.images("validation")
        return self.task.validate(network, images)

    def save(
        self,
        kind: str = "last",
        *,
        module: nn.Module | None = None,
        state: Mapping[str, Any] | None = None,
        position: Position | None = None,
    ) -> None:
        """Saves a checkpoint, with the lengths and digests of the journals at that moment.

        Args:
            kind: "last", from which a run resumes, or "best".
            module: whose tensors are saved. Default: `Job.module`.
            state: what else is saved. Default: all that is needed to resume.
            position: where it is. Default: where the job is.

        Raises:
            DivergedError: a weight is not finite; the checkpoint before stays.
            RunError: the disk is full; the checkpoint before stays.
        """
        weights: dict[str, Tensor] = (module or self.module).state_dict()
        for name, tensor in weights.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                self._diverged(f"weight {name}")
        run = self.directory
        if not run.is_written:
            return
        content = {
            **(state if state is not None else {"loop": asdict(self.state), **self.state_dict()}),
            "journals": run.journal_lengths(),
            "digests": run.journal_digests(),
            "precision": self.fabric.strategy.precision.state_dict(),
            **({"splits": self.splitting.records} if self.splitting.records else {}),
        }
        checkpoint.save(run.checkpoints, kind, Checkpoint(weights, content), position=position or self.position)

    def check_finite(self, value: float, *, name: str) -> None:
        """Stops the job if a loss is no longer finite.

        Raises:
            DivergedError: it is NaN or infinite.
        """
        if not math.isfinite(value):
            self._diverged(f"{name} {value}")

    def _diverged(self, what: str) -> NoReturn:
        name = f"The run {self.run.path}" if self.run is not None else "The trial"
        kept = self.run is not None and self.run.checkpoints.exists()
        raise DivergedError(
            f"{name} diverged: {what} is not finite at {self.where}." + kept * " The last good checkpoint was kept.",
            fix="Lower the learning rate or the clipping norm, or use fp32, and start again.",
        )

    def leave_if_asked(self) -> None:
        """Ends long work at the end of a stage if the job was asked to stop; it resumes from what was saved last.

        Raises:
            InterruptedRunError: it was.
        """
        if self._is_to_stop():
            self._leave()

    def _is_to_stop(self) -> bool:
        """Whether the job was asked to stop, in whichever process."""
        return self.ranks.any(self._stop.requested)

    def _leave(self) -> NoReturn:
        raise InterruptedRunError(f"Stopped; {self.directory.path} is saved.", fix=f"Resume with: {self.continuation}")

    def trial(self, *, stage: int = 0, steps: int, patience: float = math.inf) -> Trial:
        """Times a few steps of the current stage without writing anything; the job cannot be run afterwards.

        Args:
            stage: number of the current stage.
            steps: timed steps, after one that warms up.
            patience: seconds after which no further step is timed.
        """
        self.set_up()
        spent = Span()
        for first, epochs in self.phases:
            self.state.epoch = first
            self.begin_epoch()
            spent = spent.plus(timed(self._step, repeats=steps, patience=patience).times(epochs * self.steps))
        images = len(self.validated[1].indices)
        self._most_validated = min(images, MOST_VALIDATED)
        validation = timed(self.validate, repeats=1).times(images / self._most_validated)
        spent = spent.plus(validation.times(self.epochs + self.validations_at_end))
        settings = self.parts_setting(self.recipe, stage)[1]
        return Trial(
            parameters=sum(parameter.numel() for parameter in self.parameters),
            seconds=spent.seconds,
            memory_mb=peak_memory_mb(self.fabric.device),
            accumulate=settings.accumulate,
            images_at_once=settings.images_at_once,
            validation_seconds=validation.seconds,
            low=spent.low / spent.seconds if spent.seconds else 1.0,
            high=spent.high / spent.seconds if spent.seconds else 1.0,
        )


@preserved_process_state()
def start(
    kind: type[Job[Any]],
    recipe: Recipe,
    out: Path,
    prepare: Callable[[], Job[Any]],
    *,
    facts: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """Begins a job in a new run directory, and does it to the end.

    Args:
        kind: the kind of job.
        recipe: what to do.
        out: folder of the run, new or empty.
        prepare: looks at everything that can be wrong, and returns the job.
        facts: more for run.json than the job itself has.

    Raises:
        MedartsError: of ``prepare``, or the folder is not free; nothing was written then.
        DivergedError: a loss became NaN or infinite.
        InterruptedRunError: the job was asked to stop; it can be resumed.
        OutOfMemoryError: memory ran out, also with single images. After this and any other error nothing is left of a
            run without a checkpoint.
    """
    with (
        joined_for(recipe.compute) as ranks,
        RunDirectory.reserved(out, kind.kind, beside=kind.beside) if ranks.is_first else nullcontext(),
        memory_named(kind.title, fix=kind.memory_fix(recipe)),
    ):
        job = ranks.in_turn(prepare)
        job.check_same()
        manifest = job.store.manifest

        def create() -> None:
            RunDirectory.create(
                out,
                job.recipe,
                kind=kind.kind,
                data_fingerprint=manifest.fingerprint(),
                files={"manifest.csv": manifest.to_csv(), **job.files},
                beside=kind.beside,
                environment=environment(job.fabric, recipe.compute),
                ways=job.store.ways,
                **job.facts,
                **(facts or {}),
            )

        ranks.first(create)
        run = RunDirectory(out, is_written=ranks.is_first)
        try:
            job.run_in(run)
        except (InterruptedRunError, DivergedError):
            raise
        except Exception:  # of memory, or of what a user registered: the corrected call can have the folder
            run.discard()
            raise
    return run


@preserved_process_state()
def resume(
    kind: type[Job[Any]],
    path: Path,
    changes: Iterable[str],
    prepare: Callable[[Recipe, RunDirectory], Job[Any]],
    *,
    data: ImageStore | None = None,
) -> RunDirectory:
    """Resumes a job from its last checkpoint; a finished one is left as it is, unless it is to be longer.

    Args:
        kind: the kind of job.
        path: folder of the run.
        changes: changes of its recipe as key.path=value; see ``medarts.engine.changes`` for those that are possible.
        prepare: looks at everything that can be wrong, and returns the job.
        data: the images of a run that was started with arrays.

    Raises:
        RunError: the folder is no run of that kind, another process is at work on it, its data have changed, or its
            recipe in what may not change.
    """
    run = RunDirectory.open(path, kind=kind.kind)
    with (
        joined_for(run.recipe_file().compute) as ranks,
        run.at_work(kind.kind) if ranks.is_first else nullcontext(),
    ):
        run.is_written = ranks.is_first
        recipe, changed = changed_recipe(run, changes)
        in_memory = any(source.is_in_memory for source in recipe.data.sources)
        if run.facts["finished"] and not changed and in_memory and data is None:
            return run  # data on disk are checked even then: a run on changed data is not that run
        with memory_named(kind.title, fix=kind.memory_fix(recipe)):
            if data is None:
                check_places(run, recipe)
            job = ranks.in_turn(lambda: prepare(with_its_threads(run, recipe, changed), run))
            job.check_same()
            job.run = run
            manifest, now = job.store.manifest, environment(job.fabric, recipe.compute)

            def change() -> None:
                job.prepare_for(changed)
                go_on(run, recipe, changed, manifest=manifest.to_csv(), environment=now, ways=job.store.ways)

            ranks.first(change)
            job.run_in(run)
    return run


def cosine(epoch: float, *, epochs: int, start: float, end: float, warmup: int = 0) -> float:
    """Returns the learning rate at ``epoch`` of a cosine from ``start`` to ``end``.

    Args:
        epoch: epochs done, fractions for steps within one.
        epochs: epochs in all.
        start: largest learning rate.
        end: smallest learning rate, reached at ``epochs``.
        warmup: epochs of a linear rise from a tenth of ``start`` before the cosine begins.
    """
    if epoch < warmup:
        return start * (0.1 + 0.9 * epoch / warmup)
    done = (epoch - warmup) / max(1, epochs - warmup)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(1.0, done)))
