"""Paired statistics: differences between networks on the same patients.

Images of one patient resemble each other, so patients are drawn, or their differences flipped, as wholes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.evaluation.scores import LEVEL, number
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


def differences(
    scores: Mapping[str, Measured], p_values: Mapping[str, float | None], *, reference: str
) -> dict[str, Difference]:
    """Returns the differences of all other networks to the reference.

    Args:
        scores: the main score of every network.
        p_values: of every network but the reference; None where undefined.
        reference: name of the reference.
    """
    tested = {name: p for name, p in p_values.items() if p is not None}
    corrected = dict(zip(tested, holm([*tested.values()]), strict=True))
    found = {}
    for name, p in p_values.items():
        low, high = _interval(scores[name].drawn - scores[reference].drawn)
        mean = scores[name].mean - scores[reference].mean
        found[name] = Difference(mean, low, high, p=p, p_corrected=corrected.get(name))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number by the step-down method of Holm (1979), in their order.

    The k-th smallest of m is multiplied by m - k + 1, and is at least the one before it and at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.minimum(np.asarray(p_values)[order] * factors, 1.0))
    return [float(p) for p in corrected]


def flip_p_values(shares: Floats, *, seed: int) -> Floats:
    """Returns two-sided p-values of sign-flip permutation tests, in which patients keep their images together.

    Where two networks are equally good, a patient's difference is as likely as its opposite. The p-value is the share
    of flips whose sum is at least as far from 0 as the one observed. Up to `EXACT_UP_TO` patients all flips are gone
    through; with more, `FLIPS` random ones and the observed one beside them (Phipson and Smyth 2010, "Permutation
    P-values should never be zero").

    Args:
        shares: (patients, comparisons), what each patient adds to each observed difference.
        seed: of the random flips, which are the same for all comparisons.

    Returns:
        (comparisons,), at least 2 / 2^patients or 1 / (FLIPS + 1).
    """
    patients = len(shares)
    # Sums of the same numbers in another order, or with all signs changed, must count as equal.
    observed = np.abs(shares.sum(0)) - 1e-12 * np.abs(shares).sum(0)
    exact = patients <= EXACT_UP_TO
    signs = _all_signs(patients) if exact else _random_signs(patients, seed=seed)
    as_far = sum(((np.abs(rows @ shares) >= observed).sum(0) for rows in signs), np.zeros(shares.shape[1]))
    p_values: Floats = as_far / 2**patients if exact else (as_far + 1) / (FLIPS + 1)
    return p_values


def bootstrap_p(drawn: Floats) -> float | None:
    """Returns the two-sided p-value of a difference of 0, from the draws of a paired bootstrap over patients.

    Twice the share of draws on the smaller side of 0, which belongs to both, with one draw added to that side and to
    all (Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 4.4).

    Args:
        drawn: the difference in every draw; nan where it has no value.

    Returns:
        The p-value, at most 1; None where no draw has a value.
    """
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return None
    smaller = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (smaller + 1) / (len(defined) + 1))


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
