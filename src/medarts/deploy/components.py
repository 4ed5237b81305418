"""The largest connected component of each class of a mask, in two or three dimensions."""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]

_ROWS_BEFORE = ((0, -1), (-1, -1), (-1, 0), (-1, 1))
"""Slice and row, from those of a row, of the half of its neighbours that come before it."""


def largest_components(mask: Mask) -> Mask:
    """Returns a mask in which each foreground class has only its largest connected component; of equals the first.

    Args:
        mask: class indices (H, W) or (D, H, W), 0 being background; pixels are connected by edges and corners.
    """
    found = np.zeros_like(mask)
    solid = mask.reshape(-1, *mask.shape[-2:])
    for index in range(1, int(mask.max(initial=0)) + 1):
        shown = solid == index
        if shown.any():
            found[_largest(shown).reshape(mask.shape)] = index
    return found


def _largest(shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the largest component of (D, H, W), which has at least one pixel.

    The rows are cut into runs of pixels, and runs of neighbouring rows that touch are merged: there are far fewer runs
    than pixels.
    """
    _, height, width = shown.shape
    starts, ends = _runs(shown)
    # Places in one line of all rows, with a gap behind each row and an empty row around each slice, so that
    # a neighbour outside is never a run.
    stride = width + 2
    rows = starts // width
    rows += 2 * (rows // height) + 1
    first = rows * stride + starts % width
    last = first + (ends - starts) - 1
    labels = np.arange(len(starts))
    pairs = [_touching(first, last, (z * (height + 2) + y) * stride) for z, y in _ROWS_BEFORE]
    _merge(labels, *(np.concatenate(part) for part in zip(*pairs, strict=True)))
    sizes = np.bincount(labels, weights=ends - starts)
    kept = labels == sizes.argmax()
    edges = np.zeros(shown.size + 1, np.int8)
    edges[starts[kept]] += 1
    np.subtract.at(edges, ends[kept], 1)  # where a row ends with a run, the next may begin with one
    return np.cumsum(edges[:-1], dtype=np.int8).astype(np.bool_).reshape(shown.shape)


def _runs(shown: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns where the runs of all rows begin, and where they have ended, as places in the flat array."""
    depth, height, width = shown.shape
    before = np.zeros((depth * height, width + 1), np.bool_)
    before[:, 1:] = shown.reshape(-1, width)
    begins = shown.reshape(-1, width) & ~before[:, :-1]
    before[:, :-1] = shown.reshape(-1, width)
    before[:, -1] = False
    finishes = shown.reshape(-1, width) & ~before[:, 1:]
    return np.flatnonzero(begins), np.flatnonzero(finishes) + 1


def _touching(
    first: NDArray[np.int64], last: NDArray[np.int64], offset: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the pairs of runs that touch in the row that lies ``offset`` away."""
    low = np.searchsorted(last, first + offset - 1, side="left")
    high = np.searchsorted(first, last + offset + 1, side="right")
    counts = np.maximum(high - low, 0)
    runs = np.repeat(np.arange(len(first)), counts)
    within = np.arange(len(runs)) - np.repeat(np.cumsum(counts) - counts, counts)
    return runs, low[runs] + within


def _merge(labels: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """Gives all runs that are connected by pairs the smallest label of them, in place."""
    while True:
        low, high = np.minimum(labels[one], labels[other]), np.maximum(labels[one], labels[other])
        apart = low != high
        if not apart.any():
            return
        one, other = one[apart], other[apart]
        np.minimum.at(labels, high[apart], low[apart])
        while (further := labels[labels] != labels).any():
            labels[further] = labels[labels[further]]
