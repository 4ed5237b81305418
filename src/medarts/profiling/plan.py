"""What a recipe will take: parameters, peak memory and time, from a few trial steps on its own data.

Every stage, and the training after them, is tried in a process of its own, so that its peak memory is its own.
Nothing is written but the cache of resized images, which the run needs anyway; images in memory reach the processes
through a temporary file, so that each holds them once, as the run does. Where the memory has a budget, trials
with other values of ``accumulate`` find the fewest parts of a batch that fit.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from medarts.config import BatchSettings, Recipe, apply_overrides, parse
from medarts.data.store import ImageStore, images_for_processes, read_images
from medarts.engine.device import preserved_process_state
from medarts.engine.engine import Trial
from medarts.errors import RecipeError
from medarts.nas.search import prepare_search, try_search
from medarts.profiling.parts import fewest_parts
from medarts.spaces import make_space
from medarts.system.console import Bar, progress_bar
from medarts.system.memory import keep_freed_memory
from medarts.system.process import in_new_process
from medarts.system.randomness import seed_torch
from medarts.training.trainer import try_training

STEPS = 3

LOWER = "data.size, the channels of the space, the depth or evaluation.batch"


@dataclass(frozen=True)
class Plan:
    """The estimates of a recipe.

    Attributes:
        stages: one estimate a stage of the search.
        training: of the training on all data of the recipe at its size, of its model or, at its C, of a network
            derived from an untrained supernet; the searched network may have cheaper or dearer operations.
        budget_mb: memory that each of them fits into; None where there was no budget.
        search_changes: what makes the recipe's search the planned one, as key.path=value.
        training_changes: the same for its training.
    """

    stages: tuple[Trial, ...]
    training: Trial
    budget_mb: float | None = None
    search_changes: tuple[str, ...] = ()
    training_changes: tuple[str, ...] = ()

    @property
    def search_seconds(self) -> float:
        """Time of the search."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def search_memory_mb(self) -> float:
        """Peak memory of the search."""
        return max(stage.memory_mb for stage in self.stages)

    def to_json(self) -> str:
        """Returns the plan as JSON."""
        return json.dumps(
            {
                "search": {
                    "seconds": self.search_seconds,
                    "memory_mb": self.search_memory_mb,
                    "stages": [asdict(stage) for stage in self.stages],
                    "changes": self.search_changes,
                },
                "training": {**asdict(self.training), "changes": self.training_changes},
                "budget_mb": self.budget_mb,
            }
        )


@preserved_process_state()
def plan(recipe: Recipe, *, budget_mb: float | None = None, data: ImageStore | None = None) -> Plan:
    """Estimates what a search by a recipe, and a training after it, will take.

    Args:
        recipe: what to do.
        budget_mb: memory in MB that every stage and the training are to fit into. On a GPU it is that of the tensors;
            on the CPU it is all of the process, with libraries, images and validation. The estimates are then those
            of the fewest parts of a batch that fit, whatever ``accumulate`` the recipe has. None plans the recipe as
            it is.
        data: the images, in place of the sources of the recipe.

    Raises:
        MedartsError: data, recipe or device do not fit.
        RecipeError: one image at once takes more than the budget, or more memory than there is.
    """
    recipe = prepare_search(recipe, data=data).recipe  # errors and the cache come first, in this process
    trials = []
    with images_for_processes(data) as images, progress_bar("plan", len(recipe.search.stages) + 1) as bar:
        tries = [_Try(recipe, stage, images) for stage in (*range(len(recipe.search.stages)), None)]
        for attempt in tries:
            trials.append(_measure(attempt) if budget_mb is None else _fit(attempt, budget_mb, bar))
            bar.advance()
    changes = [
        attempt.change(trial.accumulate) if trial.accumulate != attempt.settings.accumulate else ""
        for attempt, trial in zip(tries, trials, strict=True)
    ]
    return Plan(
        stages=tuple(trials[:-1]),
        training=trials[-1],
        budget_mb=budget_mb,
        search_changes=tuple(filter(None, changes[:-1])),
        training_changes=tuple(filter(None, changes[-1:])),
    )


@dataclass(frozen=True, slots=True)
class _Try:
    """What a process tries: a stage of the search, or the training where ``stage`` is None.

    Attributes:
        images: pickled images in memory; None for those of the sources.
    """

    recipe: Recipe
    stage: int | None
    images: Path | None = None

    @property
    def name(self) -> str:
        """What errors call it."""
        return "the training" if self.stage is None else f"stage {self.stage + 1} of the search"

    @property
    def settings(self) -> BatchSettings:
        """The section of the recipe that has its batch."""
        return self.recipe.train if self.stage is None else self.recipe.search.stages[self.stage]

    def change(self, parts: int) -> str:
        """Returns the change of the recipe that splits the batches into that many parts."""
        return f"{'train' if self.stage is None else f'search.stages.{self.stage}'}.accumulate={parts}"

    def in_parts(self, parts: int) -> "_Try":
        """Returns the same with the batches split into that many parts."""
        content = apply_overrides(self.recipe.model_dump(mode="json"), [self.change(parts)])
        return replace(self, recipe=parse(content))

    def __call__(self) -> Trial:
        keep_freed_memory()  # as the process of the command does
        data = read_images(self.images)
        if self.stage is not None:
            return try_search(self.recipe, self.stage, steps=STEPS, data=data)
        if self.recipe.train.model is not None:
            return try_training(self.recipe, self.recipe.train.model, steps=STEPS, data=data)
        seed_torch(self.recipe.seed, "plan")
        supernet = make_space(self.recipe).supernet(self.recipe.search.stages[-1], None)
        genotype = supernet.derive(self.recipe.derive, name="plan", provenance={})
        return try_training(self.recipe, genotype, steps=STEPS, data=data)


def _fit(attempt: _Try, budget_mb: float, bar: Bar) -> Trial:
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


def _measure(attempt: _Try) -> Trial:
    trial = _measure_if_it_fits(attempt)
    if trial is None:
        raise _no_memory(attempt)
    return trial


def _no_memory(attempt: _Try) -> RecipeError:
    images = attempt.settings.images_at_once
    name, fix = attempt.name.capitalize(), f"Lower {LOWER}"
    if images == 1:
        return RecipeError(f"{name} runs out of memory with one image at a time.", fix=f"{fix}.")
    return RecipeError(
        f"{name} runs out of memory with {images} images at a time.",
        fix=f"{fix}, or split the batches (memory_mb; --memory-mb on the command line).",
    )


def _measure_if_it_fits(attempt: _Try) -> Trial | None:
    try:
        return in_new_process(attempt)
    except MemoryError:
        return None
