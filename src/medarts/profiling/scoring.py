"""What it takes to score a trained network: its passes, and all metrics of masks at the size of their files."""

import math
import statistics
import time

import numpy as np

from medarts.config import Recipe
from medarts.data.manifest import Sample
from medarts.data.masks import planes_of, read_mask
from medarts.data.store import ImageStore
from medarts.data.windows import corners
from medarts.engine.engine import Trial
from medarts.metrics.masks import mask_scores

TRIED = 3
"""Test images whose masks are read and scored, with a mask that is a little off."""


def scoring_seconds(recipe: Recipe, store: ImageStore, trial: Trial) -> float:
    """Returns the time in which `medarts evaluate` scores the test images of a training.

    Args:
        recipe: of the training.
        store: its images.
        trial: of the training, with the time of a validation.
    """
    test, validation = (store.manifest.of_split(split).samples for split in ("test", "val"))
    # Temperature and thresholds come from the validation images, which are passed once more.
    passes = trial.validation_seconds * (1 + len(test) / max(len(validation), 1)) * _windows(store)
    if recipe.data.task == "classification" or not test:
        return passes
    tried = test[:: max(1, len(test) // TRIED)][:TRIED]
    return passes + len(test) * statistics.mean(_seconds_of_metrics(sample, recipe, store) for sample in tried)


def _windows(store: ImageStore) -> float:
    """Returns the windows of an evaluation for each of a validation: those of patches overlap by half."""
    if store.crops is None:
        return 1.0
    size, shapes = store.crops.size, store.crops.shapes.tolist()
    number = sum(len(corners(height, width, size, step=max(size // 2, 1))) for height, width in shapes)
    return number / math.fsum(store.crops.tiles.tolist())


def _seconds_of_metrics(sample: Sample, recipe: Recipe, store: ImageStore) -> float:
    began, data = time.perf_counter(), recipe.data
    rules = store.manifest.rules[sample.domain]
    if recipe.evaluation.resolution == "file" and store.given is None:
        mask = read_mask(sample, rules, names=data.class_names, overlap=data.overlap).classes
    else:
        mask = np.asarray(store.targets[int(store.indices(store.manifest.where(lambda one: one == sample))[0])])
    for _, plane in planes_of(mask):
        mask_scores(np.roll(plane, 1, axis=-1), plane)
    return time.perf_counter() - began
