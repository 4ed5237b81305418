"""How long a search and a training would take, from a few steps on a few images."""

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from medarts.config import Recipe, apply_overrides, parse
from medarts.data.manifest import Manifest
from medarts.data.opening import open_manifest, with_findings
from medarts.data.store import open_store
from medarts.engine.device import preserved_process_state
from medarts.engine.engine import Trial
from medarts.engine.timing import Span
from medarts.errors import DataError
from medarts.nas.search import try_search
from medarts.pool import search
from medarts.pool.drawing import Drawing
from medarts.pool.preparing import numbers_of_candidates
from medarts.pool.trainings import recipe_of_candidates
from medarts.profiling.plan import STEPS, untrained_genotype
from medarts.profiling.prices import prices
from medarts.proposal.looking import Look
from medarts.system.console import progress_bar
from medarts.training.trainer import try_training

_TRIED = (24, 96)
"""Training images that the time is measured on; the second number where the first shows too little."""

_BATCH = 2
"""Images of a batch on a CPU while the time is measured: there it is proportional to them."""

_PATIENCE = 2.0
"""Seconds for the steps of one kind: of slow ones a single one is timed."""


class Measured(NamedTuple):
    """What a part of the images took, as the time of all of them.

    Attributes:
        reading: of all images, once.
        drawing: of the candidates of a search by training, once.
        search: of the search.
        training: of the trainings of all folds.
    """

    reading: float
    search: Span
    training: Span
    drawing: float = 0.0


def measured(recipe: Recipe, looks: Sequence[Look]) -> Measured:
    """Times some steps in this process, on as few images as they can be told from.

    Of few images the masks may show too little to learn from; then more are taken, and in the end all.
    """
    folds = (recipe.data.folds or 1) if recipe.data.is_divided else 1
    whole = open_manifest(recipe.data.of_fold(1) if folds > 1 else recipe.data, needs=("train", "val"))
    telling = {(look.settings.domain, key) for look in looks for key, shown in look.shown_by.items() if shown}
    for most in _TRIED:
        part = _part(whole, most, telling)
        try:
            return _measured_on(part, whole, recipe, folds)
        except DataError:
            if len(part.samples) == len(whole.samples):
                raise
    return _measured_on(whole, whole, recipe, folds)


def _part(whole: Manifest, most: int, telling: Collection[tuple[str, str]]) -> Manifest:
    """Returns about that many training images, and as large a share of the validation images, of every data set."""
    kept: set[tuple[str, str]] = set()
    for domain in whole.domains:
        for split, fewest in (("train", 4), ("val", 2)):
            samples = [sample for sample in whole.samples if (sample.domain, sample.split) == (domain, split)]
            names = [(sample.domain, sample.key) for sample in samples]
            wanted = max(fewest, round(len(names) * most / max(len(whole.of_split("train").samples), 1)))
            showing = [name for name in names if name in telling]
            names = showing if len(showing) >= wanted else names
            kept.update(names[:: max(1, len(names) // wanted)][:wanted])
    return whole.where(lambda sample: (sample.domain, sample.key) in kept)


@preserved_process_state()
def _measured_on(part: Manifest, whole: Manifest, recipe: Recipe, folds: int) -> Measured:
    """Times a search and a training on a part of the images, with small batches where time is proportional to them."""
    settings = recipe.data.elsewhere(recipe.data.sources)  # the part is what a fold leaves, and is not divided again
    recipe = with_findings(recipe.model_copy(update={"data": settings}), whole)
    if not torch.cuda.is_available():
        recipe = _with_batches_of(recipe, _BATCH)
    factor = len(whole.of_split("train").samples) / len(part.of_split("train").samples)
    with TemporaryDirectory(prefix="medarts-init-") as folder:  # not the cache, where all images are soon
        began = time.perf_counter()
        store = open_store(part, settings.model_copy(update={"cache": Path(folder)}))
        reading = (time.perf_counter() - began) * len(whole.samples) / len(part.samples)
        store = replace(store, held=None)
        about: Any = {"steps": STEPS, "patience": _PATIENCE, "data": store}
        if recipe.search.method == "supernet":
            return _with_supernet(recipe, about, reading, factor, folds)
        return _with_candidates(recipe, about, reading, factor, folds)


def _with_supernet(recipe: Recipe, about: Any, reading: float, factor: float, folds: int) -> Measured:
    with progress_bar("timing", len(recipe.search.stages) + 1) as bar:
        supernet = Span()
        for stage in range(len(recipe.search.stages)):
            supernet = supernet.plus(_span(try_search(recipe, stage, price=prices, **about)))
            bar.advance()
        network = recipe.train.model or untrained_genotype(recipe)
        training = _span(try_training(recipe, network, **about))
        bar.advance()
    return Measured(reading, supernet.times(factor), training.times(folds * factor))


def _with_candidates(recipe: Recipe, about: Any, reading: float, factor: float, folds: int) -> Measured:
    """Draws two candidates, as the first one also measures what all are compared with, and trains the second."""
    with progress_bar("timing", 3) as bar:
        drawing = Drawing(recipe, ())
        drawing.first(1, ())
        bar.advance()
        began = time.perf_counter()
        (candidate,) = Drawing(recipe.model_copy(update={"seed": recipe.seed + 1}), ()).first(1, ())
        drawn = (time.perf_counter() - began) * sum(numbers_of_candidates(recipe))
        bar.advance()
        training = _span(try_training(recipe_of_candidates(recipe), candidate.genotype, **about)).times(factor)
        bar.advance()
    epoch = training.times(1 / recipe.search.select.rungs[-1])
    searched, trained = epochs_of(recipe)
    return Measured(reading, epoch.times(searched), epoch.times(trained * folds), drawn)


def epochs_of(recipe: Recipe) -> tuple[int, int]:
    """Returns the epochs of a search, of all candidates together where it trains them, and of a training."""
    return search.epochs_of(recipe), recipe.train.epochs


def _span(trial: Trial) -> Span:
    return trial.span(trial.seconds + trial.selection_seconds)


def _with_batches_of(recipe: Recipe, images: int) -> Recipe:
    sections = ["train", *(f"search.stages.{number}" for number in range(len(recipe.search.stages)))]
    changes = [f"{each}.{change}" for each in sections for change in (f"batch={images}", "accumulate=1")]
    changes.append(f"evaluation.batch={images}")
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))
