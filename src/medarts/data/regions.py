"""Which values of a mask stand for something of their own, and which are noise or the slope of an edge.

A binary mask may hold every value from black to white: JPEG leaves noise around both, and scaling leaves slopes between
them. What tells a third class from these is its shape. A class has pixels that are surrounded by their own value;
noise and slopes have hardly any. Area does not tell: a class may be small, and a slope long.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_INSIDE = 0.2
"""Part of a value's pixels that must be surrounded by that value: 0.25 of a disc of radius 3, below 0.1 of noise."""

_FEW = 4
"""Distinct values of a mask without noise, where a class need not be wide enough to surround its pixels ..."""

_APART = 0.5
"""... if this part of them does not lie between a lower and a higher neighbour, as those of smooth edges do."""

_LISTED = 16
"""Distinct values that are still written down."""

_NOISY = 3
"""Distinct values in both halves of the range that give noise away; classes with a mark for void have one above."""

# How far apart, in levels of 255, two values are still one: in noise, of whatever 8 x 8 blocks JPEG makes flat; where
# there is none, above half (254 is what rounding leaves of 255), but not below, where 0 and 1 are different classes.
_NEAR_NOISY, _NEAR_COLOUR, _NEAR_WHITE = 32.0, 8.0, 2.0


@dataclass(frozen=True, slots=True)
class Region:
    """A value that stands for something of its own.

    Attributes:
        value: the value, or one number a channel.
        pixels: how many have it.
    """

    value: tuple[float, ...]
    pixels: int


@dataclass(frozen=True, slots=True)
class Regions:
    """The values of a mask that stand for something of their own.

    Attributes:
        found: the regions, by value.
        every: all values, by value, where they are few enough to be written down; else empty.
    """

    found: tuple[Region, ...]
    every: tuple[Region, ...]


def find_regions(values: NDArray[Any], *, limits: tuple[float, float] | None, lossy: bool = False) -> Regions:
    """Returns the values of a mask that stand for something of their own, those of one region taken together.

    Args:
        values: array HWC.
        limits: range of the values' type; without one, no two values are near each other.
        lossy: the values went through JPEG, so that 1 may be 0.
    """
    codes, decode = _encoded(values)
    ends = np.unique([codes.min(), codes.max()])
    if ((codes == ends[0]) | (codes == ends[-1])).all():  # the usual mask, in a fraction of the time
        counts = np.array([np.count_nonzero(codes == end) for end in ends])
        table = decode(ends)
        kept = _merged(table, counts, table, limits)
        return Regions(_sorted(table[kept], counts[kept]), _sorted(table, counts))
    distinct, counts = np.unique(codes, return_counts=True)
    table = decode(distinct)
    chosen = _surrounded(codes, distinct) >= _INSIDE * counts
    if len(distinct) <= _FEW:
        apart = _off_slopes(values, codes, distinct) >= _APART * counts
        noisy = lossy or _halves(table, limits) > 1
        chosen |= apart & ~_beside_larger(table, counts, limits) if noisy else apart
    kept = _merged(table[chosen], counts[chosen], table, limits)
    every = _sorted(table, counts) if len(distinct) <= _LISTED else ()
    return Regions(_sorted(table[chosen][kept], counts[chosen][kept]), every)


def surrounded(values: NDArray[Any], value: tuple[float, ...]) -> int:
    """Returns the number of pixels of an array HWC that have a value, as all eight neighbours have."""
    return int(_surrounded((values == np.asarray(value)).all(axis=2), np.array([False, True]))[1])


def _encoded(values: NDArray[Any]) -> tuple[NDArray[Any], Callable[[NDArray[Any]], NDArray[np.float64]]]:
    """Returns one number a pixel, HW, and what makes values (number, C) of such numbers again."""
    channels = values.shape[2]
    if channels == 1:
        return values[..., 0], lambda codes: codes.astype(np.float64)[:, None]
    if values.dtype in (np.uint8, np.uint16) and channels <= 4:
        bits = 8 * values.dtype.itemsize
        codes = np.zeros(values.shape[:2], dtype=np.uint64)
        for channel in range(channels):
            codes = (codes << np.uint64(bits)) | values[..., channel]
        shifts = [np.uint64(bits * (channels - 1 - channel)) for channel in range(channels)]
        low = np.uint64(2**bits - 1)
        return codes, lambda codes: np.stack([(codes >> shift) & low for shift in shifts], axis=1).astype(np.float64)
    colours, positions = np.unique(values.reshape(-1, channels), axis=0, return_inverse=True)
    return positions.reshape(values.shape[:2]), lambda codes: colours[codes].astype(np.float64)


def _sorted(table: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[Region, ...]:
    found = [Region(tuple(map(float, row)), int(count)) for row, count in zip(table, counts, strict=True)]
    return tuple(sorted(found, key=lambda region: region.value))


def _surrounded(codes: NDArray[Any], distinct: NDArray[Any]) -> NDArray[np.int64]:
    """Returns for every distinct code the number of its pixels whose eight neighbours have it too."""
    inside = np.ones(codes.shape, dtype=bool)
    for rows, columns in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here, there = _shifted(codes, rows, columns)
        equal = here == there
        part, other = _shifted(inside, rows, columns)
        part &= equal
        other &= equal
    return _counted(codes[inside], distinct)


def _counted(codes: NDArray[Any], distinct: NDArray[Any]) -> NDArray[np.int64]:
    """Returns how often each of the distinct codes is there."""
    held, counts = np.unique(codes, return_counts=True)
    total = np.zeros(len(distinct), dtype=np.int64)
    total[np.searchsorted(distinct, held)] = counts
    return total


def _shifted(values: NDArray[Any], rows: int, columns: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns two views of an array: the second has the neighbour ``rows, columns`` away of each pixel."""
    height, width = values.shape
    if columns < 0:
        return values[: height - rows, -columns:], values[rows:, : width + columns]
    return values[: height - rows, : width - columns], values[rows:, columns:]


def _off_slopes(values: NDArray[Any], codes: NDArray[Any], distinct: NDArray[Any]) -> NDArray[np.int64]:
    """Returns for every distinct code the number of its pixels that lie between no lower and higher neighbour."""
    from scipy import ndimage

    slope = np.zeros(codes.shape, dtype=bool)
    for channel in range(values.shape[2]):
        plane = values[..., channel]
        slope |= (ndimage.minimum_filter(plane, 3) < plane) & (plane < ndimage.maximum_filter(plane, 3))
    return _counted(codes[~slope], distinct)


def _halves(table: NDArray[np.float64], limits: tuple[float, float] | None) -> int:
    """Returns the number of distinct values in that half of the range that has fewer."""
    above = table.max(axis=1) > (sum(limits) / 2 if limits else np.inf)
    return int(min(above.sum(), (~above).sum()))


def _beside_larger(
    table: NDArray[np.float64], counts: NDArray[np.int64], limits: tuple[float, float] | None
) -> NDArray[np.bool_]:
    """Tells of every value whether one of more pixels is near it."""
    near = np.abs(table[:, None] - table[None]).max(axis=2) <= _NEAR_COLOUR * _level(limits)
    return np.asarray((near & (counts[:, None] < counts[None])).any(axis=1))


def _merged(
    chosen: NDArray[np.float64],
    counts: NDArray[np.int64],
    every: NDArray[np.float64],
    limits: tuple[float, float] | None,
) -> NDArray[np.bool_]:
    """Tells which of the chosen values to keep: the larger ones, those near them being part of them."""
    kept = np.zeros(len(chosen), dtype=bool)
    for number in np.argsort(-counts, kind="stable"):
        apart = np.abs(chosen[kept] - chosen[number]).max(axis=1)
        kept[number] = not (apart <= _near(chosen[number], every, limits)).any()
    return kept


def _near(value: NDArray[np.float64], every: NDArray[np.float64], limits: tuple[float, float] | None) -> float:
    """Returns how far from a value another is still part of it; below 0 where nothing is."""
    if limits is None:
        return -1.0
    if len(value) > 1:
        return _level(limits) * (_NEAR_NOISY if len(every) > _FEW**2 else _NEAR_COLOUR)
    if _halves(every, limits) >= _NOISY:
        return _level(limits) * _NEAR_NOISY
    return _level(limits) * _NEAR_WHITE if value[0] > sum(limits) / 2 else -1.0


def _level(limits: tuple[float, float] | None) -> float:
    """Returns what one level of 8 bits is in the range."""
    return (limits[1] - limits[0]) / 255 if limits else 0.0
