"""A network as the point it is in a comparison: its score against what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medarts.comparison.candidates import Kind
from medarts.comparison.front import Place
from medarts.comparison.result import Comparison, NetworkResult

KINDS: Mapping[Kind, tuple[str, str]] = {
    "searched": ("blue", "o"),
    "random": ("slate", "s"),
    "published": ("purple", "D"),
    "made by hand": ("orange", "^"),
}
"""Colour of the palette and marker of every kind of network; the same in all figures and tables."""


@dataclass(frozen=True, slots=True)
class Point:
    """A network that has a score.

    Attributes:
        name: of the network.
        kind: where it comes from.
        score: its score.
        latency_ms: of one image, on one thread.
        spread_ms: its interquartile range.
        parameters: how many it has.
        front: whether it is on the Pareto front; see ``medarts.comparison.front``.
    """

    name: str
    kind: Kind
    score: float
    latency_ms: float
    spread_ms: float
    parameters: float
    front: bool

    @property
    def place(self) -> Place:
        """Where it stands among the others."""
        return Place(self.score, self.latency_ms, self.spread_ms)


def points_of(comparison: Comparison) -> list[Point]:
    """Returns the networks that have the main score, the best first."""
    scores = {network.name: network.scores[comparison.score].mean for network in comparison.networks}
    return [
        Point(
            name=network.name,
            kind=network.kind,
            score=score,
            latency_ms=network.latency_ms[1],
            spread_ms=network.latency_spread_ms[1],
            parameters=network.parameters,
            front=network.front,
        )
        for network in best_first(comparison)
        if (score := scores[network.name]) is not None
    ]


def best_first(comparison: Comparison) -> list[NetworkResult]:
    """Returns all networks in the order of the main score; those that have none are last."""

    def place(network: NetworkResult) -> tuple[bool, float]:
        mean = network.scores[comparison.score].mean
        return mean is None, 0.0 if mean is None else -mean

    return sorted(comparison.networks, key=place)


def place_of(name: str, points: Sequence[Point]) -> int | None:
    """Returns the place of a network among all, from 1; networks of one score share a place. None where it has none."""
    scores = {point.name: point.score for point in points}
    return 1 + sum(score > scores[name] for score in scores.values()) if name in scores else None
