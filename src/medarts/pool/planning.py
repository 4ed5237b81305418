"""What a search by training will take: its supernets, the drawing of its candidates, and every rung of their trainings.

The trainings are those of a few of the random candidates that the search would begin with.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from medarts.config import BatchSettings, NormName, Recipe
from medarts.data.shared import images_for_processes
from medarts.data.store import ImageStore
from medarts.engine.device import preserved_process_state
from medarts.engine.engine import Trial
from medarts.pool import trainings
from medarts.pool.drawing import Drawing
from medarts.pool.halving import sizes
from medarts.pool.preparing import numbers_of_candidates, prepare
from medarts.profiling.plan import STEPS, Attempt, Known, Plan, Rung, StageAttempt, stages_of, training_text, tried
from medarts.profiling.scoring import scoring_seconds
from medarts.spaces.genotype import Genotype
from medarts.training.trainer import prepare_training

TRIED = 3
"""Candidates that are tried. Within a budget all take about as long; without one they differ, and so does the plan."""


@preserved_process_state()
def plan_by_training(
    recipe: Recipe, *, budget_mb: float | None = None, data: ImageStore | None = None, known: Known | None = None
) -> Plan:
    """Estimates what a search by training will take, with one training at a time, and a training of its winner.

    Args:
        recipe: what to do; its method is pool or random.
        budget_mb: as in `medarts.profiling.plan.plan`.
        data: the images, in place of the sources of the recipe.
        known: what plans before this one have found. Default: nothing.

    Raises:
        MedartsError: data, recipe or device do not fit, or no network is within the budget.
    """
    opening = time.perf_counter()
    prepared = prepare(recipe, data=data)
    reading_seconds, recipe = time.perf_counter() - opening, prepared.recipe
    select, numbers = recipe.search.select, numbers_of_candidates(recipe)
    began = time.perf_counter()
    drawn = Drawing(recipe, ()).first(min(TRIED, numbers[0]), ())
    drawing_seconds = (time.perf_counter() - began) / len(drawn) * sum(numbers)
    with images_for_processes(prepared.training.store) as images:
        stages = _stages(recipe, images)
        networks = tuple((each.genotype, each.norm) for each in drawn)
        candidates = _CandidatesAttempt(trainings.recipe_of_candidates(recipe), images, networks)
        attempts = [*(each.attempt for each in stages), candidates]
        *of_stages, candidate = tried(attempts, budget_mb=budget_mb, known=known)
    per_epoch = candidate.trial.seconds / select.rungs[-1]
    return Plan(
        stages=tuple(each.trial for each in of_stages),
        stage_names=tuple(each.name for each in stages),
        training=replace(candidate.trial, seconds=per_epoch * recipe.train.epochs),
        budget_mb=budget_mb,
        search_changes=tuple(dict.fromkeys(each.change for each in (*of_stages, candidate) if each.change)),
        supernets=tuple(each.supernets for each in stages),
        retrained=select.retrain,
        candidate=candidate.trial,
        drawing_seconds=drawing_seconds,
        rungs=tuple(_rungs(numbers, select.rungs, select.keep, per_epoch)),
        reading_seconds=reading_seconds,
        scoring_seconds=scoring_seconds(recipe, prepared.training.store, candidate.trial),
    )


class _Stage(NamedTuple):
    """A stage of supernets that are equal but for their seed.

    Attributes:
        name: of the stage.
        attempt: of one of them.
        supernets: how many there are.
    """

    name: str
    attempt: StageAttempt
    supernets: int


def _stages(recipe: Recipe, images: Path) -> list[_Stage]:
    variants = list(recipe.search.select.variants) if recipe.search.method == "pool" else []
    found = []
    for number, changes in enumerate(variants):
        alike = variants.count(changes)
        if changes in variants[:number]:
            continue
        place = f"search.select.supernets.{number}" if "stages" in changes else "search"
        name = f"{alike} supernets" if alike > 1 else trainings.name_of_supernet(recipe, number + 1)
        attempts = stages_of(trainings.recipe_of_supernet(recipe, number + 1), images, place=place)
        found += [_Stage(f"{name}, stage {stage}", attempt, alike) for stage, attempt in enumerate(attempts, 1)]
    return found


def _rungs(numbers: Sequence[int], rungs: Sequence[int], keep: float, per_epoch: float) -> list[Rung]:
    return [
        Rung(generation, rung, candidates, epochs := candidates * (rung - before), epochs * per_epoch)
        for generation, number in enumerate(numbers, 1)
        for candidates, (before, rung) in zip(sizes(number, len(rungs), keep), pairwise((0, *rungs)), strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _CandidatesAttempt(Attempt):
    """The trainings of some candidates.

    Attributes:
        networks: their genotypes and norms.
    """

    networks: tuple[tuple[Genotype, NormName | None], ...]

    @property
    def name(self) -> str:
        """What errors call it."""
        return "the training of candidates"

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
        """The networks with their norms, and all of the recipe that a training uses."""
        norms = ", ".join(str(norm) for _, norm in self.networks)
        return f"{training_text(self.recipe, [genotype for genotype, _ in self.networks])} {norms}"

    def measure(self, data: ImageStore | None) -> Trial:
        """Tries all of them, and returns the mean time and number of parameters, and the peak memory."""
        trials = []
        for genotype, norm in self.networks:
            recipe = self.recipe.model_copy(update={"train": self.recipe.train.model_copy(update={"norm": norm})})
            trials.append(prepare_training(recipe, genotype, data=data).trial(steps=STEPS))
        return replace(
            trials[-1],  # with the peak of them all
            parameters=round(statistics.mean(trial.parameters for trial in trials)),
            seconds=statistics.mean(trial.seconds for trial in trials),
        )
