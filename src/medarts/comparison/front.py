"""The Pareto front of what is to be high against what is to be low."""

import math
from collections.abc import Mapping


def pareto_front(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """Returns the names of the points that no other one beats.

    A point beats another where it is at least as good in both values and better in one of them.

    Args:
        points: by name, (what is to be high, what is to be low), such as score and latency. A score that is nan
            beats none and is not on the front.
    """
    return {
        name
        for name, (score, cost) in points.items()
        if not math.isnan(score) and not any(_beats(other, (score, cost)) for other in points.values())
    }


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other
