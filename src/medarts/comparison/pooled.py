"""Differences taken together: several on the patients of one data set, and those on several data sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medarts.comparison.paired import Difference, Floats, Measured, flip_p, holm


@dataclass(frozen=True, eq=False, slots=True)
class Paired:
    """A difference between networks on the same patients, with all that it takes to test it and take several together.

    Attributes:
        measured: the difference.
        contributions: what every patient adds to it (patients,); see `flip_p`.
    """

    measured: Measured
    contributions: Floats

    @property
    def patients(self) -> int:
        """The number of patients."""
        return len(self.contributions)

    def difference(self, *, seed: int) -> Difference:
        """Returns the difference with its interval and its p, not corrected; without both where there is one patient.

        Args:
            seed: of random flips.
        """
        p = float(flip_p(self.contributions, seed=seed)) if self.patients > 1 else None
        return Difference(self.measured.mean, *self.measured.interval(), p=p, p_corrected=None)


def differences_of(pairs: Mapping[str, Paired | None], *, seed: int) -> dict[str, Difference | None]:
    """Returns differences with their intervals and p-values, corrected for the number of those that have one.

    Args:
        pairs: by what they are called; None where there is no difference to tell.
        seed: of random flips.
    """
    found = {name: None if pair is None else pair.difference(seed=seed) for name, pair in pairs.items()}
    p_values = {name: one.p for name, one in found.items() if one is not None and one.p is not None}
    corrected = dict(zip(p_values, holm([*p_values.values()]), strict=True))
    return {name: one if one is None else replace(one, p_corrected=corrected.get(name)) for name, one in found.items()}


def mean_of_pairs(of: Sequence[Paired]) -> Paired:
    """Returns the mean of differences on the same patients, whose sign a patient changes in all of them at once.

    Args:
        of: at least one, with the same patients in the same order and draws.
    """
    measured = Measured(
        mean=float(np.mean([one.measured.mean for one in of])),
        by_seed=(),
        drawn=np.mean([one.measured.drawn for one in of], axis=0),
        undefined=0,
    )
    return Paired(measured, np.mean([one.contributions for one in of], axis=0))


def mean_over_sets(of: Mapping[str, Paired]) -> Paired:
    """Returns the mean of differences on several data sets, each with the same weight, over the patients of all.

    Args:
        of: by data set, whose order is of no effect; at least one. With a data set of one patient the interval is
            undefined; see `counting_sets`.
    """
    measured = mean_measured({name: one.measured for name, one in of.items()})
    return Paired(measured, np.concatenate([of[name].contributions / len(of) for name in sorted(of)]))


def mean_measured(of: Mapping[str, Measured]) -> Measured:
    """Returns the unweighted mean of what was measured on several data sets.

    The draws of every data set are put into an order of its own, so that those of two data sets are independent.

    Args:
        of: by data set, whose order is of no effect; at least one.
    """
    drawn = [np.random.default_rng(place).permutation(of[name].drawn) for place, name in enumerate(sorted(of))]
    return Measured(
        mean=float(np.mean([one.mean for one in of.values()])),
        by_seed=(),
        drawn=np.mean(drawn, axis=0),
        undefined=sum(one.undefined for one in of.values()),
    )


def counting_sets(patients: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the data sets that count in means over data sets: those of several patients; all where none has several.

    What one patient's images say holds for this patient: neither an interval nor a test can be given, and a mean over
    data sets would have none either.

    Args:
        patients: tested, by data set.

    >>> counting_sets({"skin": 120, "polyps": 6, "liver": 1})
    ('skin', 'polyps')
    """
    several = tuple(name for name, count in patients.items() if count > 1)
    return several or tuple(patients)
