"""From which difference on networks that were trained with several seeds differ by more than their seeds do.

The standard deviation between seeds is pooled over all networks: s^2 = sum (k_i - 1) s_i^2 / sum (k_i - 1), of k_i
trainings of network i. The smallest difference of two networks of n and m trainings is then

    t(0.975, sum (k_i - 1)) * s * sqrt(1 / n + 1 / m)

which is the repeatability limit of ISO 5725-6:1994, section 4.1, with Student's t. In place of a network there can be
the mean of several, such as those of searches with several seeds: of k with n trainings each it has 1 / (n k). The
limit is of one pair, and of seeds alone: patients have no part in it, as their number is in the interval.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """How much trainings of one network differ, from all networks that were trained several times.

    Attributes:
        deviation: standard deviation between seeds.
        freedom: degrees of freedom: trainings less networks.
        trainings: of these networks.
    """

    deviation: float
    freedom: int
    trainings: int

    def smallest(self, one: Sequence[int], other: Sequence[int]) -> float:
        """Returns the smallest difference of two networks that is more than chance, 95 %.

        Args:
            one: trainings of a network, or of each of several whose mean is compared.
            other: the same of what it is compared with.

        >>> spread = seed_spread([[0.79, 0.81], [0.80, 0.82]])
        >>> round(spread.smallest([2], [2]), 3), round(spread.smallest([2], [2, 2, 2]), 3)
        (0.061, 0.05)
        """
        share = sum(sum(1 / trainings for trainings in side) / len(side) ** 2 for side in (one, other))
        return float(student.ppf(0.975, self.freedom)) * self.deviation * math.sqrt(share)


def seed_spread(scores: Iterable[Sequence[float]]) -> SeedSpread | None:
    """Returns the spread between seeds; None where no network was trained more than once.

    Args:
        scores: of every network, one a seed; what is undefined is left out.
    """
    defined = [[score for score in of if not math.isnan(score)] for of in scores]
    several = [of for of in defined if len(of) > 1]
    trainings = sum(map(len, several))
    freedom = trainings - len(several)
    if not freedom:
        return None
    squares = math.fsum(float(np.var(of)) * len(of) for of in several)
    return SeedSpread(math.sqrt(squares / freedom), freedom, trainings)
