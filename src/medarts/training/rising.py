"""Whether a training has ended before its validation score has, and what to do then."""

import math
import shlex
from collections.abc import Sequence

from medarts.engine.directory import RunDirectory

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

    Of folds it is about the mean of their scores, which the run of all has.

    Raises:
        RunError: a journal is damaged.
    """
    score = f"val_{run.read_json('summary.json')['score']}"
    values = [record.get(score) for record in run.read_journal("metrics.jsonl")]
    if not is_rising([float(value) if isinstance(value, int | float) else math.nan for value in values]):
        return None
    command = f"medarts train --resume {shlex.quote(str(run.path))} train.epochs={2 * run.recipe.train.epochs}"
    return f"The validation score was still rising at the end. More epochs: {command}"
