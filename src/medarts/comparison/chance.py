"""From which difference on networks that were trained with several seeds differ by more than their seeds do.

The standard deviation between seeds is pooled over all networks: s^2 = sum (k_i - 1) s_i^2 / sum (k_i - 1), of k_i
trainings of network i. The smallest difference of two means of n trainings each is then

    t(0.975, sum (k_i - 1)) * s * sqrt(2 / n)

which is the repeatability limit of ISO 5725-6:1994, section 4.1, with Student's t. Patients have no part in it: their
number is in the interval of a difference.
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

    def smallest(self, of_each: int) -> float:
        """Returns the smallest difference of two networks that is more than chance, 95 %.

        Args:
            of_each: trainings of each of the two.

        >>> round(seed_spread([[0.79, 0.81], [0.80, 0.82]]).smallest(2), 3)
        0.061
        """
        return float(student.ppf(0.975, self.freedom)) * self.deviation * math.sqrt(2 / of_each)


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
