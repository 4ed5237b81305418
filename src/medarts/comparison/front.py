"""The Pareto front of what is to be high against a latency, which is known only as well as it was measured."""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Place(NamedTuple):
    """Where a network stands.

    Attributes:
        score: what is to be high; nan where undefined.
        latency_ms: what is to be low.
        spread_ms: interquartile range of the passes that the latency is the median of.
    """

    score: float
    latency_ms: float
    spread_ms: float = 0.0


def pareto_front(places: Mapping[str, Place]) -> set[str]:
    """Returns the names of the places that no other one beats; see `beats`.

    A place whose score is nan beats none and is not on the front. The front is empty only where no score is defined:
    no chain of places that beat each other closes, as all scores of it would be equal, and each one faster than the
    one before.
    """
    return {
        name
        for name, place in places.items()
        if not math.isnan(place.score) and not any(beats(other, place) for other in places.values())
    }


def beats(one: Place, other: Place) -> bool:
    """Returns whether one place is at least as good and as fast as another, and better or faster.

    It is faster where its latency is lower by more than the larger of the two half spreads, and as fast where the other
    one is not faster. Scores count as they are; whether their difference is more than chance is not asked here.
    """
    limit = max(one.spread_ms, other.spread_ms) / 2
    ahead = other.latency_ms - one.latency_ms
    return one.score >= other.score and ahead >= -limit and (one.score > other.score or ahead > limit)
