"""Successive halving: how many candidates come to each rung, which of them, and the training that this takes.

A rung is a number of epochs. All candidates are trained to the first rung, the best share of them to the second, and so
on; one that is kept goes on where it paused. Source: Jamieson and Talwalkar, "Non-stochastic best arm identification
and hyperparameter optimization", arXiv 1502.07943, algorithm 1, with a share to keep in place of the half.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise

from medarts.errors import RecipeError


def sizes(candidates: int, rungs: int, keep: float) -> list[int]:
    """Returns how many candidates are trained to each rung, at least one.

    >>> sizes(16, 3, 0.33)
    [16, 5, 2]

    Args:
        candidates: of the generation, 1 or more.
        rungs: number of rungs, 1 or more.
        keep: share that goes on, above 0 and below 1; halves are rounded up.
    """
    found = [candidates]
    for _ in range(rungs - 1):
        found.append(max(1, _kept(found[-1], keep)))
    return found


def epochs_of(candidates: int, rungs: Sequence[int], keep: float) -> int:
    """Returns the epochs of training in all.

    >>> epochs_of(16, (2, 6, 12), 0.33)
    64

    Args:
        candidates: of the generation.
        rungs: their epochs, rising.
        keep: share that goes on.
    """
    steps = [later - earlier for earlier, later in pairwise((0, *rungs))]
    return sum(number * step for number, step in zip(sizes(candidates, len(rungs), keep), steps, strict=True))


def most_candidates(epochs: int, rungs: Sequence[int], keep: float) -> int:
    """Returns the largest number of candidates whose training takes no more than some epochs; 0 where one takes more.

    >>> most_candidates(136, (2, 6, 12), 0.33)
    34
    """
    most = epochs // rungs[0]  # all of them come to the first rung
    return bisect_right(range(1, most + 1), epochs, key=lambda number: epochs_of(number, rungs, keep))


def best(scores: Mapping[str, float], number: int) -> list[str]:
    """Returns the names of the best, the best first; of equal ones the first named.

    >>> best({"a": 0.5, "b": 0.75, "c": 0.75}, 2)
    ['b', 'c']
    """
    return sorted(scores, key=lambda name: -scores[name])[:number]


def trained_epochs(
    candidates: Mapping[str, tuple[int, Mapping[int, float]]],
    rungs: Sequence[int],
    *,
    lost: Mapping[str, int],
    before: int = 0,
) -> list[tuple[str, int, int, float]]:
    """Returns every score with the training that had been done when it was known, in the order of the search.

    >>> trained_epochs({"a": (1, {2: 0.5, 6: 0.75}), "b": (1, {2: 0.25}), "c": (1, {})}, (2, 6), lost={"c": 1})
    [('a', 2, 2, 0.5), ('b', 2, 4, 0.25), ('a', 6, 9, 0.75)]

    Args:
        candidates: name -> generation and the scores at the rungs that it came to.
        rungs: their epochs, rising.
        lost: name of a candidate that failed -> epochs since its last score, which count as well.
        before: epochs before the first training, as of supernets.

    Returns:
        Name, rung, epochs of all candidates up to there, score.
    """
    done, found = before, []
    for generation in sorted({generation for generation, _ in candidates.values()}):
        left = {name: scores for name, (own, scores) in candidates.items() if own == generation}
        for previous, rung in pairwise((0, *rungs)):
            for name, scores in left.items():
                if rung in scores:
                    done += rung - previous
                    found.append((name, rung, done, scores[rung]))
                else:
                    done += lost.get(name, 0)
            left = {name: scores for name, scores in left.items() if rung in scores}
    return found


def incumbents(scores: Iterable[tuple[int, float]]) -> list[float]:
    """Returns the score of the best candidate so far, at every score: the best at the highest rung that was reached.

    What scored well early but was dropped later is not the best any more.

    >>> incumbents([(2, 0.5), (2, 0.75), (6, 0.625), (2, 0.875)])
    [0.5, 0.75, 0.625, 0.625]

    Args:
        scores: rung and score, in the order of the search.
    """
    return [score for _, score in accumulate(scores, max)]


def check_keep(candidates: int, rungs: int, keep: float, *, field: str) -> None:
    """Refuses a share so small that it would round to no candidate.

    Args:
        candidates: of a generation.
        rungs: number of rungs.
        keep: the share.
        field: what in the recipe gives the number of candidates.

    Raises:
        RecipeError: it is too small.
    """
    left = candidates
    for rung in range(1, rungs):
        if not _kept(left, keep):
            raise RecipeError(
                f"search.select.keep {keep:g} leaves none of {left} candidates after rung {rung}.",
                fix=f"Raise it, or {field}, or use fewer search.select.rungs.",
            )
        left = _kept(left, keep)


def _kept(number: int, keep: float) -> int:
    return math.floor(keep * number + 0.5)
