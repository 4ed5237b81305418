"""Whether a training has ended before its validation score has, and what to do then."""

import math
import shlex
from collections.abc import Sequence

from medarts.engine.directory import RunDirectory
from medarts.training.trained import folds_of, is_ensemble

FEWEST = 6
"""Epochs below which there is nothing to tell a rise from."""

PART = 5
"""The last epochs are a fifth of all, and are compared with as many before them."""

RISE = 0.01
"""Of a score in 0..1, from one part to the next; less is chance, or not worth as many epochs again."""


def is_rising(scores: Sequence[float]) -> bool:
    """Tells whether a score was still rising at the end of a training.

    Its best epoch is among the last, and these are better than those before. A score alone says little: where the
    learning rate falls to the end, the best epoch is among the last of most trainings.

    >>> is_rising([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), is_rising([0.1, 0.4, 0.6, 0.599, 0.6, 0.601])
    (True, False)

    Args:
        scores: of all epochs, in their order; nan where one is undefined.
    """
    part = max(2, len(scores) // PART)
    if len(scores) < FEWEST or not all(map(math.isfinite, scores)):
        return False
    best = max(range(len(scores)), key=scores.__getitem__)
    last, before = scores[-part:], scores[-2 * part : -part]
    return best >= len(scores) - part and sum(last) - sum(before) > RISE * part


def rising_line(run: RunDirectory) -> str | None:
    """Returns a sentence about a training that has ended too early, with the command that goes on; None for others.

    Of folds it is about those whose score was rising, where they are more than half.

    Raises:
        RunError: a journal is damaged.
    """
    trainings = folds_of(run) if is_ensemble(run) else [run]
    rising = sum(is_rising(_scores_of(training)) for training in trainings)
    if 2 * rising <= len(trainings):
        return None
    of_folds = f" in {rising} of {len(trainings)} folds" if is_ensemble(run) else ""
    command = f"medarts train --resume {shlex.quote(str(run.path))} train.epochs={2 * run.recipe.train.epochs}"
    return f"The validation score was still rising at the end{of_folds}. More epochs: {command}"


def _scores_of(run: RunDirectory) -> list[float]:
    """Returns the validation score of each epoch."""
    score = f"val_{run.read_json('summary.json')['score']}"
    values = [record.get(score) for record in run.read_journal("metrics.jsonl")]
    return [float(value) if isinstance(value, int | float) else math.nan for value in values]
