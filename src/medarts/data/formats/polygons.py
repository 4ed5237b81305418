"""Polygons as masks."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Ring = Sequence[Sequence[float]] | NDArray[np.float64]
"""Corners as (x, y) in pixels: x to the right, y down, 0 at the outer edges of the first pixel."""


def fill(ring: Ring, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns the pixels whose centres lie inside a ring, by the even-odd rule.

    Args:
        ring: corners; the last is joined to the first.
        shape: (H, W) of the mask.

    >>> int(fill([(1, 1), (4, 1), (4, 3), (1, 3)], (5, 6)).sum())
    6
    """
    corners = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
    ends = np.roll(corners, -1, axis=0)
    mask = np.zeros(shape, dtype=bool)
    if len(corners) < 3:
        return mask
    first = max(int(np.floor(corners[:, 1].min())), 0)
    last = min(int(np.ceil(corners[:, 1].max())), shape[0])
    for row in range(first, last):
        y = row + 0.5
        crossed = (corners[:, 1] <= y) != (ends[:, 1] <= y)
        start, end = corners[crossed], ends[crossed]
        places = np.sort(start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1]))
        columns = np.clip(np.ceil(places - 0.5), 0, shape[1]).astype(int)
        for left, right in zip(columns[::2], columns[1::2], strict=True):
            mask[row, left:right] = True
    return mask


def fill_all(rings: Iterable[Ring], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns the pixels of an object of several rings: its parts, less the holes, which lie within a part.

    >>> outer, hole = [(0, 0), (6, 0), (6, 6), (0, 6)], [(2, 2), (4, 2), (4, 4), (2, 4)]
    >>> int(fill_all([hole, outer], (6, 6)).sum())
    32
    """
    parts = sorted((fill(ring, shape) for ring in rings), key=lambda part: -int(part.sum()))
    mask = np.zeros(shape, dtype=bool)
    for part in parts:
        mask = mask & ~part if part.any() and not (part & ~mask).any() else mask | part
    return mask
