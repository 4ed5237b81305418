"""Paired statistics: differences between networks on the same patients.

Images of one patient resemble each other, so patients are drawn, or the networks exchanged on them, as wholes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.evaluation.mask_scores import LEVEL, number
from medarts.evaluation.statistics import percentile_interval

Floats = NDArray[np.floating[Any]]

ALPHA = 0.05
"""A corrected p below it is called beyond chance."""

EXACT_UP_TO = 12
"""Patients up to which all flips of signs are gone through: 4,096."""

FLIPS = 10_000
"""Random flips with more patients."""

# Signs held at once: 4 million float64 are 32 MB.
_CHUNK = 2**22


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric of one network over all images.

    Attributes:
        mean: over the seeds; nan where undefined.
        by_seed: of every seed alone.
        drawn: the mean in every draw of the bootstrap over patients (draws,). The draws of all networks take the
            same patients. nan where a draw has no value; all nan where the spread between patients is not known.
        undefined: values left out because they are undefined.
    """

    mean: float
    by_seed: tuple[float, ...]
    drawn: Floats
    undefined: int

    def interval(self) -> tuple[float | None, float | None]:
        """Returns the percentile interval over the draws that have a value; None twice where none has."""
        return _interval(self.drawn)


@dataclass(frozen=True, slots=True)
class Difference:
    """The main score of a network minus that of the reference, on the same patients.

    Attributes:
        mean: the difference.
        low: lower end of its interval; None where undefined, as with one patient.
        high: upper end.
        p: two-sided p of no difference; None where undefined.
        p_corrected: the same after Holm's correction for all comparisons with the reference.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    p_corrected: float | None


def beyond_chance(difference: Difference | None) -> int:
    """Returns 1 for a difference above 0 whose corrected p is below `ALPHA`, -1 for one below 0, and 0 for others."""
    if difference is None or difference.p_corrected is None or difference.p_corrected >= ALPHA:
        return 0
    return 1 if difference.mean > 0 else -1


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number by the step-down method of Holm (1979), in their order.

    The k-th smallest of m is multiplied by m - k + 1, and is at least the one before it and at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.minimum(np.asarray(p_values)[order] * factors, 1.0))
    return [float(p) for p in corrected]


def flip_p(contributions: Floats, *, seed: int = 0) -> Floats:
    """Returns two-sided p-values of sign-flip permutation tests, in which patients keep their images together.

    For statistics that are sums over patients, each of whose terms changes its sign where the two networks compared
    exchange their predictions of that patient: a difference of means over images, see ``MaskMeasures.contributions``,
    or of areas under ROC curves, see ``FindingMeasures.contributions``. Where the networks are equally good, a term is
    as likely as its opposite. The p-value is the share of flips whose sum is at least as far from 0 as that observed.
    Up to `EXACT_UP_TO` patients all flips are gone through; with more, `FLIPS` random ones and the observed one beside
    them (Phipson and Smyth 2010, "Permutation P-values should never be zero").

    Args:
        contributions: (patients,) or (patients, K), what each patient adds to each of K observed statistics.
        seed: of the random flips, which are the same for all K.

    Returns:
        () or (K,), at least `least_p(patients)`; 1 where there is only one patient.
    """
    patients = len(contributions)
    # Sums of the same numbers in another order, or with all signs changed, must count as equal.
    observed = np.abs(contributions.sum(0)) - 1e-12 * np.abs(contributions).sum(0)
    exact = patients <= EXACT_UP_TO
    signs = _all_signs(patients) if exact else _random_signs(patients, seed=seed)
    as_far = sum(
        ((np.abs(rows @ contributions) >= observed).sum(0) for rows in signs), np.zeros(contributions.shape[1:])
    )
    p_values: Floats = as_far / 2**patients if exact else (as_far + 1) / (FLIPS + 1)
    return p_values


def least_p(patients: int) -> float:
    """Returns the smallest p that `flip_p` can find with so many patients.

    >>> least_p(1), least_p(5), least_p(100) < 0.0001
    (1.0, 0.0625, True)
    """
    return 2 / 2**patients if patients <= EXACT_UP_TO else 1 / (FLIPS + 1)


def least_corrected_p(patients: int, *, comparisons: int) -> float:
    """Returns the smallest p that Holm's correction can leave of so many comparisons on the same patients.

    Where it is not below `ALPHA`, none of them can be beyond chance, whatever the networks are.

    >>> least_corrected_p(6, comparisons=8), least_corrected_p(3, comparisons=8)
    (0.25, 1.0)
    """
    return min(1.0, comparisons * least_p(patients))


def common_seeds(one: Sequence[int], other: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns at which places of each of two lists of seeds those stand that are in both, in one order.

    >>> common_seeds((0, 1, 2), (2, 0))
    ([0, 2], [1, 0])
    """
    both = [seed for seed in one if seed in other]
    return [[*one].index(seed) for seed in both], [[*other].index(seed) for seed in both]


def _all_signs(patients: int) -> Iterator[Floats]:
    numbers = np.arange(2**patients)[:, None]
    yield (numbers >> np.arange(patients) & 1) * 2.0 - 1.0


def _random_signs(patients: int, *, seed: int) -> Iterator[Floats]:
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // patients)
    for start in range(0, FLIPS, rows):
        size = (min(rows, FLIPS - start), patients)
        yield generator.integers(2, size=size, dtype=np.int8) * 2.0 - 1.0


def _interval(drawn: Floats) -> tuple[float | None, float | None]:
    defined = drawn[~np.isnan(drawn)]
    interval = percentile_interval(defined, level=LEVEL) if len(defined) else (math.nan, math.nan)
    return number(interval[0]), number(interval[1])
