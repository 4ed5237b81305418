"""What a recipe will take: parameters, peak memory and time, from a few trial steps on its own data.

Every stage, and the training after them, is tried in a process of its own, so that its peak memory is its own.
Nothing is written but the cache of resized images, which the run needs anyway; images in memory reach the processes
through a temporary file, so that each holds them once, as the run does. Where the memory has a budget, trials
with other values of ``accumulate`` find the fewest parts of a batch that fit.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Self

from medarts.config import BatchSettings, Recipe, apply_overrides, parse
from medarts.data.shared import images_for_processes, read_images
from medarts.data.store import ImageStore
from medarts.engine.device import preserved_process_state
from medarts.engine.engine import Trial
from medarts.engine.timing import Span
from medarts.errors import RecipeError
from medarts.nas.search import prepare_search, try_search
from medarts.profiling.budget import fit_to_recipe
from medarts.profiling.load import UNKNOWN, Load
from medarts.profiling.parts import fewest_parts
from medarts.profiling.prices import prices
from medarts.profiling.scoring import scoring_seconds
from medarts.spaces import make_space
from medarts.spaces.genotype import Genotype
from medarts.system.console import Bar, progress_bar
from medarts.system.memory import keep_freed_memory
from medarts.system.process import in_new_process
from medarts.system.randomness import seed_torch
from medarts.training.trainer import try_training

STEPS = 3

LEAST_SPREAD = 0.1
"""Share of an estimate by which it may be wrong at least."""

_FITTED = 2
"""Genotypes that the search of a supernet scales to a budget."""

LOWER = "data.size, the channels of the space, the depth or evaluation.batch"


@dataclass(frozen=True, slots=True)
class Rung:
    """What the candidates of a generation take from one rung to the next.

    Attributes:
        generation: its number.
        epoch: the rung.
        candidates: that are trained to it.
        epochs: of all of them, since the rung before.
        seconds: that these take, one candidate after the other.
    """

    generation: int
    epoch: int
    candidates: int
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The estimates of a recipe.

    Attributes:
        stages: one estimate a stage of the search; of a search by training, of all supernets that differ in more than
            their seed.
        stage_names: what each stage is called.
        training: of the training on all data of the recipe at its size, of its model or, at its C, of a network
            derived from an untrained supernet; the searched network may have cheaper or dearer operations. Of a search
            by training it is that of random candidates.
        budget_mb: memory that each of them fits into; None where there was no budget.
        search_changes: what makes the recipe's search the planned one, as key.path=value.
        training_changes: the same for its training.
        supernets: how many are searched of each stage.
        candidate: of a search by training: one training to the last rung, the mean of a few random candidates.
        retrained: of a search by training: how often its winner is trained at the end.
        drawing_seconds: of a search by training: what finding all candidates takes, with what is measured of them.
        rungs: of a search by training: all its trainings, in their order.
        folds: how often the training is done, once for each fold.
        reading_seconds: time in which all images were opened here: read and resized, or, where the cache had them,
            compared with their digests.
        scoring_seconds: time in which the test images of a training, of each fold, are scored.
        fitting_seconds: of the search of a supernet, time in which genotypes are scaled to the budget of the recipe,
            with what is exported and measured: that of the untrained supernet before, and the one that is found.
        load: how busy the machine was when the trials began.
    """

    stages: tuple[Trial, ...]
    stage_names: tuple[str, ...]
    training: Trial
    budget_mb: float | None = None
    search_changes: tuple[str, ...] = ()
    training_changes: tuple[str, ...] = ()
    supernets: tuple[int, ...] = ()
    retrained: int = 0
    candidate: Trial | None = None
    drawing_seconds: float = 0.0
    rungs: tuple[Rung, ...] = ()
    folds: int = 1
    reading_seconds: float = 0.0
    scoring_seconds: float = 0.0
    fitting_seconds: float = 0.0
    load: Load = UNKNOWN

    @property
    def training_seconds(self) -> float:
        """Time of the trainings of all folds."""
        return self.folds * self.training.seconds

    @property
    def seconds(self) -> float:
        """Time of all that is still to come: the search, the trainings after it, and their scores."""
        return self.search_seconds + self.training_seconds + self.folds * self.scoring_seconds

    @property
    def bounds(self) -> tuple[float, float]:
        """Between what the time of all that is still to come lies, in seconds; see `between`."""
        constant = self.folds * self.scoring_seconds
        training = self.training.span(self.training_seconds)
        return between(self.search_span.plus(training).plus(Span(constant, constant, constant)))

    @property
    def search_span(self) -> Span:
        """Time of the search, and what it would be with the fastest and the slowest of the steps that were timed."""
        constant = self.drawing_seconds + self.selection_seconds + self.fitting_seconds
        found = self.training.span(self.retrained_seconds).plus(Span(constant, constant, constant))
        for stage, seconds in zip(self.stages, self.stage_seconds, strict=True):
            found = found.plus(stage.span(seconds))
        if self.candidate is not None:
            found = found.plus(self.candidate.span(sum(rung.seconds for rung in self.rungs)))
        return found

    @property
    def search_seconds(self) -> float:
        """Time of the search."""
        return self.search_span.seconds

    @property
    def stage_seconds(self) -> list[float]:
        """Time of each stage, of all supernets that have it."""
        return [number * stage.seconds for number, stage in zip(self._numbers, self.stages, strict=True)]

    @property
    def selection_seconds(self) -> float:
        """Time of choosing the genotypes of all supernets."""
        return sum(number * stage.selection_seconds for number, stage in zip(self._numbers, self.stages, strict=True))

    @property
    def retrained_seconds(self) -> float:
        """Time of the trainings of the winner of a search by training."""
        return self.retrained * self.training.seconds

    @property
    def _numbers(self) -> tuple[int, ...]:
        return self.supernets or (1,) * len(self.stages)

    @property
    def search_memory_mb(self) -> float:
        """Peak memory of the search."""
        trials = [*self.stages, *filter(None, (self.candidate,))]
        return max(trial.memory_mb for trial in trials)

    def to_json(self) -> str:
        """Returns the plan as JSON."""
        by_training = {
            "supernets": self.supernets,
            "retrained": self.retrained,
            "candidate": asdict(self.candidate) if self.candidate is not None else None,
            "drawing_seconds": self.drawing_seconds,
            "rungs": [asdict(rung) for rung in self.rungs],
        }
        return json.dumps(
            {
                "search": {
                    "seconds": self.search_seconds,
                    "memory_mb": self.search_memory_mb,
                    "fitting_seconds": self.fitting_seconds,
                    "stages": [asdict(stage) for stage in self.stages],
                    "changes": self.search_changes,
                    **(by_training if self.candidate is not None else {}),
                },
                "training": {**asdict(self.training), "changes": self.training_changes, "folds": self.folds},
                "reading_seconds": self.reading_seconds,
                "scoring_seconds": self.scoring_seconds,
                "seconds": self.seconds,
                "seconds_from_to": self.bounds,
                "load": self.load.processes,
                "cores": self.load.cores,
                "budget_mb": self.budget_mb,
            }
        )


@preserved_process_state()
def plan(
    recipe: Recipe, *, budget_mb: float | None = None, data: ImageStore | None = None, known: "Known | None" = None
) -> Plan:
    """Estimates what the search of a supernet by a recipe, and a training after it, will take.

    Args:
        recipe: what to do.
        budget_mb: memory in MB that every stage and the training are to fit into. On a GPU it is that of the tensors;
            on the CPU it is all of the process, with libraries, images and validation. The estimates are then those
            of the fewest parts of a batch that fit, whatever ``accumulate`` the recipe has. None plans the recipe as
            it is.
        data: the images, in place of the sources of the recipe.
        known: what plans before this one have found. Default: nothing.

    Raises:
        MedartsError: data, recipe or device do not fit.
        RecipeError: one image at once takes more than the budget, or more memory than there is; or no network is within
            the budget of the recipe.
    """
    began = time.perf_counter()
    search = prepare_search(recipe, data=data)  # errors and the cache come first, in this process
    reading_seconds, recipe = time.perf_counter() - began, search.recipe
    known, genotype, fitting_seconds = known or Known(), None, 0.0
    if recipe.train.model is None or recipe.budget.limited:
        genotype, seconds = known.untrained(recipe)
        fitting_seconds = _FITTED * seconds if recipe.budget.limited else 0.0
    with images_for_processes(search.store) as images:
        attempts = [*stages_of(recipe, images), TrainingAttempt(recipe, images, genotype)]
        *stages, training = tried(attempts, budget_mb=budget_mb, known=known)
    return Plan(
        stages=tuple(each.trial for each in stages),
        stage_names=tuple(f"search, stage {number}" for number in range(1, len(stages) + 1)),
        training=training.trial,
        budget_mb=budget_mb,
        search_changes=tuple(each.change for each in stages if each.change),
        training_changes=(training.change,) if training.change else (),
        reading_seconds=reading_seconds,
        scoring_seconds=scoring_seconds(recipe, search.store, training.trial),
        fitting_seconds=fitting_seconds,
    )


@dataclass(frozen=True, slots=True)
class Attempt(ABC):
    """Something that a process of its own tries for a few steps.

    Attributes:
        recipe: what is tried.
        images: see `medarts.data.shared.images_for_processes`; None lists the sources of the recipe.
    """

    recipe: Recipe
    images: Path | None

    @property
    @abstractmethod
    def name(self) -> str:
        """What errors call it."""

    @property
    @abstractmethod
    def settings(self) -> BatchSettings:
        """The section of the recipe that has its batch."""

    @property
    @abstractmethod
    def section(self) -> str:
        """Where that section is in the recipe."""

    @property
    @abstractmethod
    def alike(self) -> str:
        """What its trial depends on, as text: attempts in which that is equal take as long as each other."""

    @abstractmethod
    def measure(self, data: ImageStore | None) -> Trial:
        """Returns what it takes, with images that are open if there are any."""

    def change(self, parts: int) -> str:
        """Returns the change of the user's recipe that splits the batches into that many parts."""
        return f"{self.section}.accumulate={parts}"

    def in_parts(self, parts: int) -> Self:
        """Returns the same with the batches split into that many parts."""
        change = f"{self.section}.accumulate={parts}"
        content = apply_overrides(self.recipe.model_dump(mode="json"), [change])
        return replace(self, recipe=parse(content))

    def __call__(self) -> Trial:
        """Measures it, in the process that this is."""
        keep_freed_memory()  # as the process of the command does
        return self.measure(None if self.images is None else read_images(self.images))


@dataclass(frozen=True, slots=True)
class StageAttempt(Attempt):
    """A stage of the search of a supernet.

    Attributes:
        stage: its number, from 0.
        place: of its section search in the recipe that the user has.
    """

    stage: int
    place: str = "search"

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"stage {self.stage + 1} of the search"

    @property
    def settings(self) -> BatchSettings:
        """The stage."""
        return self.recipe.search.stages[self.stage]

    @property
    def section(self) -> str:
        """Where the stage is in the recipe."""
        return f"search.stages.{self.stage}"

    @property
    def alike(self) -> str:
        """All of the recipe but its training and what is drawn."""
        return f"stage {self.stage}: {_as_text(self.recipe, without=('train',))}"

    def change(self, parts: int) -> str:
        """Returns the change of the user's recipe that splits the batches into that many parts."""
        return f"{self.place}.stages.{self.stage}.accumulate={parts}"

    def measure(self, data: ImageStore | None) -> Trial:
        """Tries the stage."""
        return try_search(self.recipe, self.stage, steps=STEPS, data=data, price=prices)


@dataclass(frozen=True, slots=True)
class TrainingAttempt(Attempt):
    """The training of the recipe's model, or of a genotype.

    Attributes:
        genotype: None where the recipe has a model.
    """

    genotype: Genotype | None

    @property
    def name(self) -> str:
        """What errors call it."""
        return "the training"

    @property
    def settings(self) -> BatchSettings:
        """The training."""
        return self.recipe.train

    @property
    def section(self) -> str:
        """Where the training is in the recipe."""
        return "train"

    @property
    def alike(self) -> str:
        """The network, and all of the recipe that a training uses."""
        return training_text(self.recipe, [] if self.genotype is None else [self.genotype])

    def measure(self, data: ImageStore | None) -> Trial:
        """Tries the training."""
        architecture = self.recipe.train.model or self.genotype
        assert architecture is not None
        return try_training(self.recipe, architecture, steps=STEPS, data=data)


def training_text(recipe: Recipe, genotypes: Iterable[Genotype]) -> str:
    """Returns what trials of trainings depend on, see `Attempt.alike`: all of the recipe but how a network is found."""
    of_recipe = _as_text(recipe, without=("search", "derive", "space", "budget"))
    return " ".join([f"training: {of_recipe}", *map(_content, genotypes)])


def _as_text(recipe: Recipe, *, without: Sequence[str]) -> str:
    return recipe.model_dump_json(exclude={"note", "seed", *without})


def _content(genotype: Genotype) -> str:
    return replace(genotype, name="", provenance={}).to_json()


def between(span: Span) -> tuple[float, float]:
    """Returns between what a time lies, in seconds.

    That is `LEAST_SPREAD` from the estimate at least: a few steps in a row hide what differs in an hour.

    >>> between(Span(95.0, 100.0, 150.0))
    (90.0, 150.0)
    """
    return min(span.low, (1 - LEAST_SPREAD) * span.seconds), max(span.high, (1 + LEAST_SPREAD) * span.seconds)


def untrained_genotype(recipe: Recipe) -> Genotype:
    """Returns a genotype of the supernet of the last stage before any training, within the budget of the recipe.

    Args:
        recipe: of the search of a supernet, with the names of its outputs.

    Raises:
        BudgetError: it is over the budget, however narrow and reduced.
    """
    genotype = _derived_untrained(recipe)
    return fit_to_recipe(genotype, recipe).network if recipe.budget.limited else genotype


def _derived_untrained(recipe: Recipe) -> Genotype:
    seed_torch(recipe.seed, "plan")
    supernet = make_space(recipe).supernet(recipe.search.stages[-1], None)
    return supernet.derive(recipe.derive, name="untrained", provenance={})


def stages_of(recipe: Recipe, images: Path, *, place: str = "search") -> list[StageAttempt]:
    """Returns the attempts of all stages of the search of a supernet; see `StageAttempt`."""
    return [StageAttempt(recipe, images, stage, place) for stage in range(len(recipe.search.stages))]


@dataclass(frozen=True, slots=True)
class Known:
    """What several plans have found, each thing once: most searches and trainings of a study are alike.

    Attributes:
        trials: by `Attempt.alike` of what was tried.
    """

    trials: dict[str, Trial] = field(default_factory=dict)
    _untrained: dict[str, tuple[Genotype, float]] = field(default_factory=dict)

    def untrained(self, recipe: Recipe) -> tuple[Genotype, float]:
        """Returns `untrained_genotype`, and in how many seconds it was found."""
        began, genotype = time.perf_counter(), _derived_untrained(recipe)
        sizing = recipe.model_dump_json(include={"data", "space", "budget", "train"})
        alike = f"{_content(genotype)} {sizing}"
        if alike not in self._untrained:
            found = fit_to_recipe(genotype, recipe).network if recipe.budget.limited else genotype
            self._untrained[alike] = found, time.perf_counter() - began
        return self._untrained[alike]


class Tried(NamedTuple):
    """The trial of an attempt, and the change of the recipe that it needs to fit into the memory, if it needs one."""

    trial: Trial
    change: str


def tried(attempts: Sequence[Attempt], *, budget_mb: float | None, known: Known | None = None) -> list[Tried]:
    """Tries attempts, one after the other, in a process each; of those that are alike the first.

    Args:
        attempts: what is tried.
        budget_mb: memory that each is to fit into, see `plan`.
        known: trials of others with the same budget, to which these are added. Default: none.

    Raises:
        RecipeError: one image at once takes more than the budget, or more memory than there is.
    """
    found, trials = [], {} if known is None else known.trials
    with progress_bar("plan", len(attempts)) as bar:
        for attempt in attempts:
            if (alike := attempt.alike) not in trials:
                trials[alike] = _measure(attempt) if budget_mb is None else _fit(attempt, budget_mb, bar)
            trial = trials[alike]
            is_changed = trial.accumulate != attempt.settings.accumulate
            found.append(Tried(trial, attempt.change(trial.accumulate) if is_changed else ""))
            bar.advance()
    return found


def _fit(attempt: Attempt, budget_mb: float, bar: Bar) -> Trial:
    """Returns the trial of the fewest parts that fit into the budget."""

    def measure(parts: int) -> Trial | None:
        trial = _measure_if_it_fits(attempt.in_parts(parts))
        took = "more memory than there is" if trial is None else f"{trial.memory_mb:,.0f} MB"
        bar.note(f"{attempt.name}, accumulate {parts}: {took}")
        return trial

    smallest = measure(attempt.settings.batch)
    if smallest is None:
        raise _no_memory(attempt.in_parts(attempt.settings.batch))
    if smallest.memory_mb > budget_mb:
        raise RecipeError(
            f"{attempt.name.capitalize()} takes {smallest.memory_mb:,.0f} MB with one image at a time, more than "
            f"the budget of {budget_mb:,.0f} MB.",
            fix=f"Raise the budget, or lower {LOWER}.",
        )
    return fewest_parts(smallest, attempt.settings.batch, budget_mb=budget_mb, measure=measure)


def _measure(attempt: Attempt) -> Trial:
    trial = _measure_if_it_fits(attempt)
    if trial is None:
        raise _no_memory(attempt)
    return trial


def _no_memory(attempt: Attempt) -> RecipeError:
    images = attempt.settings.images_at_once
    name, fix = attempt.name.capitalize(), f"Lower {LOWER}"
    if images == 1:
        return RecipeError(f"{name} runs out of memory with one image at a time.", fix=f"{fix}.")
    return RecipeError(
        f"{name} runs out of memory with {images} images at a time.",
        fix=f"{fix}, or split the batches (memory_mb; --memory-mb on the command line).",
    )


def _measure_if_it_fits(attempt: Attempt) -> Trial | None:
    try:
        return in_new_process(attempt)
    except MemoryError:
        return None
