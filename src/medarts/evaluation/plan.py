"""What a recipe will take: parameters, peak memory and time, from a few trial steps on its own data.

Every stage, and the training after them, is tried in a process of its own, so that its peak memory is its own.
Nothing is written but the cache of resized images, which the run needs anyway.
"""

import json
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

from medarts.recipe import Recipe
from medarts.run.job import Trial
from medarts.run.progress import progress_bar
from medarts.run.randomness import seed_torch
from medarts.search.start import prepare_search, try_search
from medarts.spaces.weave.supernet import WeaveSpace
from medarts.training.start import try_training

STEPS = 3


@dataclass(frozen=True)
class Plan:
    """The estimates of a recipe.

    Attributes:
        stages: one estimate a stage of the search.
        training: of the training on all data of the recipe, at its size and C, of a network derived from an
            untrained supernet; the searched network may have cheaper or dearer operations.
    """

    stages: tuple[Trial, ...]
    training: Trial

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
                },
                "training": asdict(self.training),
            }
        )


def plan(recipe: Recipe) -> Plan:
    """Estimates what a search by a recipe, and a training after it, will take.

    Raises:
        MedartsError: data, recipe or device do not fit.
    """
    prepare_search(recipe)  # errors and the cache come first, in this process
    tries = [_Try(recipe, stage) for stage in range(len(recipe.search.stages))]
    trials = []
    with progress_bar("plan", len(tries) + 1) as bar:
        for attempt in (*tries, _Try(recipe, None)):
            trials.append(_in_new_process(attempt))
            bar.advance()
    return Plan(stages=tuple(trials[:-1]), training=trials[-1])


@dataclass(frozen=True, slots=True)
class _Try:
    """What a process tries: a stage of the search, or the training where ``stage`` is None."""

    recipe: Recipe
    stage: int | None

    def __call__(self) -> Trial:
        if self.stage is not None:
            return try_search(self.recipe, self.stage, steps=STEPS)
        seed_torch(self.recipe.seed, "plan")
        space = WeaveSpace(
            self.recipe.space, in_channels=self.recipe.data.in_channels, outputs=self.recipe.data.classes
        )
        supernet = space.supernet(self.recipe.search.stages[-1], None)
        genotype = supernet.derive(self.recipe.derive, name="plan", provenance={})
        return try_training(self.recipe, genotype, steps=STEPS)


def _in_new_process(attempt: Callable[[], Trial]) -> Trial:
    # Ctrl-C is for this process; the other one just ends with it.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=signal.signal, initargs=ignore) as pool:
        return pool.submit(attempt).result()
