"""Names beside the points of a scatter, put where they cover neither each other nor a point."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medarts.reporting.style import MUTED, legible

_ANGLES = (0, 180, 30, 330, 150, 210, 60, 300, 120, 240, 90, 270)
_GAPS = (3.0, 8.0, 15.0, 24.0, 34.0, 46.0, 60.0)
"""Free points between the rim of a bubble and its name."""
_LEADER = 6.0
"""From this gap on a line joins a name with its point."""
_ROUNDS = 4
_LABEL, _BUBBLE, _POINT, _OUTSIDE = 6.0, 1.0, 8.0, 40.0
"""What covering a square point of another name, of a bubble, of the middle of one, or of the world outside costs."""
_CROSSING, _LINE, _FAR = 120.0, 8.0, 0.25
"""What a leader costs that crosses another name, a sample of a drawn line under a name, and every place passed over."""
_STEP = 3.0
"""Distance of the samples of drawn lines, in points."""
_MIDDLE = 3.0
_SAMPLES = 12

Box = NDArray[np.float64]
"""Left, bottom, right, top, in points."""


@dataclass(frozen=True, slots=True)
class _Place:
    box: Box
    leader: NDArray[np.float64] | None


def name_points(
    figure: Figure,
    axes: Axes,
    points: NDArray[np.float64],
    names: Sequence[str],
    *,
    radii: Sequence[float],
    strong: Sequence[bool],
    line: NDArray[np.float64],
) -> None:
    """Writes the name of every point, and fixes the layout of the figure, whose axes must not change afterwards.

    Args:
        figure: that of the axes, with everything else already drawn.
        axes: where the points are.
        points: (n, 2) in data coordinates.
        names: one a point.
        radii: of the bubbles around the points, in typographic points.
        strong: which names are bold.
        line: (m, 2) corners in data coordinates of a line that names had better not cover; m is 0 where there is none.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    scale = 72 / figure.dpi
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "ha": "left", "va": "bottom", "zorder": 5}
    texts = [
        axes.annotate(legible(name), point, (0, 0), fontweight="bold" if bold else "normal", **look)
        for name, point, bold in zip(names, points, strong, strict=True)
    ]
    extents = [text.get_window_extent() for text in texts]
    sizes = np.asarray([(extent.width, extent.height) for extent in extents]) * scale
    centres = axes.transData.transform(points) * scale
    frame = np.asarray(axes.get_window_extent().extents) * scale
    samples = _sampled(axes.transData.transform(line) * scale if len(line) else line)
    places = _arrange(centres, sizes, np.asarray(radii), frame=frame, samples=samples)
    for text, place, centre, point in zip(texts, places, centres, points, strict=True):
        text.set_position(tuple(place.box[:2] - centre))
        if place.leader is not None:
            _draw_leader(axes, point, place.leader[-1] - centre)


def _draw_leader(axes: Axes, point: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
    """Draws a thin line from a point to its name, which stands that far from it."""
    look = {"arrowstyle": "-", "color": MUTED, "lw": 0.6, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", tuple(point), tuple(offset), textcoords="offset points", arrowprops=look, zorder=2)


def _arrange(
    centres: NDArray[np.float64],
    sizes: NDArray[np.float64],
    radii: NDArray[np.float64],
    *,
    frame: Box,
    samples: NDArray[np.float64],
) -> list[_Place]:
    """Chooses a place for every name: one after the other, then again, as the others now stand."""
    count = len(centres)
    choices = [[*_choices(centres[n], sizes[n], radii[n])] for n in range(count)]
    bubbles = np.hstack([centres - 0.8 * radii[:, None], centres + 0.8 * radii[:, None]])
    middles = np.hstack([centres - _MIDDLE, centres + _MIDDLE])
    fixed = [
        [
            _BUBBLE * _covered(place.box, bubbles)
            + _POINT * _covered(place.box, middles)
            + _OUTSIDE * (_area(place.box) - _covered(place.box, frame[None]))
            + _LINE * _inside(samples, place.box[None]).sum()
            + _FAR * rank
            for rank, place in enumerate(of_name)
        ]
        for of_name in choices
    ]
    chosen: list[_Place | None] = [None] * count
    for _, n in itertools.product(range(_ROUNDS), range(count)):
        others = [place for m, place in enumerate(chosen) if place is not None and m != n]
        costs = [cost + _conflict(place, others) for cost, place in zip(fixed[n], choices[n], strict=True)]
        chosen[n] = choices[n][int(np.argmin(costs))]
    return [place for place in chosen if place is not None]


def _choices(centre: NDArray[np.float64], size: NDArray[np.float64], radius: float) -> list[_Place]:
    """Returns the places where a name may stand, the nearest to its point first."""
    places = []
    for gap, angle in itertools.product(_GAPS, _ANGLES):
        direction = np.asarray([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
        near = centre + direction * (max(radius, _MIDDLE) + gap)
        # The point of the box that is nearest to the bubble lies on its rim plus the gap.
        lower = near - size * (1 - direction) / 2
        leader = np.linspace(centre, near, _SAMPLES)[1:] if gap >= _LEADER else None
        places.append(_Place(np.concatenate([lower, lower + size]), leader))
    return places


def _conflict(place: _Place, others: Sequence[_Place]) -> float:
    if not others:
        return 0.0
    boxes = np.stack([other.box for other in others])
    cost = _LABEL * _covered(place.box, boxes)
    cost += _CROSSING * _crossings(place.leader, boxes)
    return cost + _CROSSING * sum(_crossings(other.leader, place.box[None]) for other in others)


def _crossings(leader: NDArray[np.float64] | None, boxes: NDArray[np.float64]) -> int:
    """Counts the boxes that a line runs through."""
    if leader is None:
        return 0
    return int(_inside(leader, boxes).any(axis=0).sum())


def _inside(samples: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns (samples, boxes) which samples lie in which boxes."""
    inside = (samples[:, None] > boxes[:, :2]) & (samples[:, None] < boxes[:, 2:])
    return np.asarray(inside.all(axis=2))


def _sampled(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns points (n, 2) all along a line of corners (m, 2)."""
    pieces = [np.empty((0, 2))]
    for start, end in itertools.pairwise(corners):
        count = 2 + int(np.hypot(*(end - start)) / _STEP)
        pieces.append(np.linspace(start, end, count))
    return np.concatenate(pieces)


def _covered(box: Box, others: NDArray[np.float64]) -> float:
    """Returns the area of a box that others (n, 4) cover, in square points, each counted by itself."""
    overlap = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.prod(np.clip(overlap, 0, None), axis=1).sum())


def _area(box: Box) -> float:
    return float(np.prod(box[2:] - box[:2]))
