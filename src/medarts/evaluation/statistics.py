"""Intervals that respect that the images of one patient resemble each other."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]

# Resampled patients held in memory at once: 4 million indices are 32 MB.
_CHUNK = 2**22


class Interval(NamedTuple):
    """An interval; both ends are nan where it is undefined."""

    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike, patients: Sequence[str], *, draws: int, seed: int | Sequence[int], level: float = 0.95
) -> Interval:
    """Returns the percentile bootstrap interval of the mean over images, patients being drawn as wholes.

    A cluster bootstrap (Field and Welsh 2007, "Bootstrapping clustered data"): every draw takes as many
    patients as there are, with replacement, and averages all their images.

    Args:
        values: one score per image (N,); nan values are left out, with their patients where nothing remains.
        patients: the patient of every image.
        draws: number of draws.
        seed: seed of the draws; equal seeds and data give equal intervals.
        level: coverage, between 0 and 1.

    Returns:
        The interval; (nan, nan) where fewer than two patients have a value, as nothing is then known of the
        spread between patients.
    """
    return percentile_interval(bootstrap_means(values, patients, draws=draws, seed=seed), level=level)


def bootstrap_means(values: ArrayLike, patients: Sequence[str], *, draws: int, seed: int | Sequence[int]) -> Floats:
    """Returns the means of the bootstrap's draws, (draws,); all nan with fewer than two patients.

    The arguments are those of `bootstrap_interval`.

    Raises:
        ValueError: values and patients differ in number.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.shape != (len(patients),):
        raise ValueError(f"values have shape {scores.shape}, but there are {len(patients)} patients")
    defined = ~np.isnan(scores)
    names, patient_of_image = np.unique(np.asarray(patients, dtype=np.str_)[defined], return_inverse=True)
    if len(names) < 2:
        return np.full(draws, np.nan)
    sums = np.bincount(patient_of_image, weights=scores[defined])
    counts = np.bincount(patient_of_image)
    drawn = _draw(len(names), draws=draws, generator=np.random.default_rng(seed))
    return np.concatenate([sums[rows].sum(1) / counts[rows].sum(1) for rows in drawn])


def draw_patients(people: NDArray[np.intp], *, draws: int, seed: int) -> NDArray[np.unsignedinteger[Any]]:
    """Returns how often each image occurs in each draw of a bootstrap over patients, (draws, N).

    Every draw takes as many patients as there are, with replacement, each with all its images.

    Args:
        people: number of each image's patient (N,), from 0 on without gaps, N at least 1.
        draws: number of draws.
        seed: seed of the draws; they are those of `bootstrap_means`.
    """
    patients = int(people.max()) + 1
    generator = np.random.default_rng(seed)
    weights = np.empty((draws, len(people)), dtype=np.min_scalar_type(patients))
    for row in weights:
        row[:] = np.bincount(generator.integers(patients, size=patients), minlength=patients)[people]
    return weights


def percentile_interval(means: Floats, *, level: float = 0.95) -> Interval:
    """Returns the central interval that holds ``level`` of the means; (nan, nan) where a mean is nan."""
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _draw(patients: int, *, draws: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yields indices of the drawn patients, (some draws, patients), until there were ``draws`` rows."""
    rows = max(1, _CHUNK // patients)
    for start in range(0, draws, rows):
        yield generator.integers(patients, size=(min(rows, draws - start), patients))
