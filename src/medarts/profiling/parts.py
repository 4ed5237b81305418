"""The fewest parts of a batch whose peak memory fits into a budget, by measuring.

It begins with one image at a time and goes up. N images at once cost at most N times the memory of one, and
no trial has more than twice the images of one that fits: none takes more than twice the budget, as a machine that runs
out of memory stops more than the trial.
"""

import math
from collections.abc import Callable

from medarts.engine.engine import Trial

Measure = Callable[[int], Trial | None]
"""Tries a number of parts; None where the memory of the machine did not suffice."""


def sizes_of_parts(batch: int) -> list[int]:
    """Returns the images at once that an even split of a batch can have, fewest first.

    >>> sizes_of_parts(12)
    [1, 2, 3, 4, 6, 12]
    """
    return sorted({math.ceil(batch / parts) for parts in range(1, batch + 1)})


def fewest_parts(smallest: Trial, batch: int, *, budget_mb: float, measure: Measure) -> Trial:
    """Returns the trial of the most images at once that fit.

    The next larger size has been measured not to fit, unless the whole batch fits. Memory grows about linearly with the
    images at once: the line through the two measured points nearest to the answer says what to try next, no more.

    Args:
        smallest: the trial of one image at once, which fits.
        batch: images a step.
        budget_mb: memory that may be used.
        measure: tries a number of parts.
    """
    best, other = smallest, None
    sizes = sizes_of_parts(batch)
    while sizes := [size for size in sizes if size > best.images_at_once]:
        size = _next(sizes, best, other, budget_mb)
        trial = measure(math.ceil(batch / size))
        if trial is not None and trial.memory_mb <= budget_mb:
            if other is None or other.memory_mb <= budget_mb:
                other = best  # one that did not fit stays: the answer lies between the two
            best = trial
        else:
            sizes = [smaller for smaller in sizes if smaller < size]
            other = trial or other
    return best


def _next(sizes: list[int], best: Trial, other: Trial | None, budget_mb: float) -> int:
    """Returns the size to try next: the largest that is expected to fit, at least the next one.

    Args:
        sizes: images at once of which it is open whether they fit.
        best: the trial of the most images that fit.
        other: a second point of the line, None where there is none.
        budget_mb: memory that may be used.
    """
    expected = [size for size in sizes if size * best.memory_mb <= budget_mb * best.images_at_once]
    if other is not None:
        slope = (other.memory_mb - best.memory_mb) / (other.images_at_once - best.images_at_once)
        near = [size for size in sizes if size <= 2 * best.images_at_once]
        expected += [s for s in near if best.memory_mb + slope * (s - best.images_at_once) <= budget_mb]
    return max(sizes[:1] + expected)
