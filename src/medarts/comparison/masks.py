"""What the scores of predicted masks say of the networks: means over patients, draws, paired tests, single images."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.comparison.paired import Measured, common_seeds
from medarts.comparison.pooled import Paired
from medarts.engine.listing import ImageName
from medarts.errors import RunError
from medarts.evaluation.finding_table import mean_of_defined
from medarts.evaluation.mask_scores import Scores
from medarts.evaluation.statistics import bootstrap_means

Floats = NDArray[np.floating[Any]]

METRICS = ("dice", "jaccard", "hd95")
"""The first is the main score."""


class MaskMeasures:
    """The networks' scores of the same images.

    A value of an image is the mean over its classes, then over the seeds, of those that are defined. A mean over
    several domains gives each the same weight; patients are drawn within each. Classes that no image of a domain shows
    are left out, and domains that show none.

    Args:
        scores: of every network, one a seed; all of the same images.
        draws: of the bootstrap over patients.
        seed: of the bootstrap and of the permutation tests.
        seeds: of the scores of every network; 0, 1, ... where None.

    Raises:
        RunError: no image shows a class.
    """

    metrics = METRICS

    def __init__(
        self,
        scores: Mapping[str, Sequence[Scores]],
        *,
        draws: int,
        seed: int,
        seeds: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        first = next(iter(scores.values()))[0]
        people = {
            (score.domain, score.key): score.patient
            for score in first.counted()
            if not np.isnan(score.metrics[METRICS[0]])
        }
        if not people:
            raise RunError(
                "No image shows a class, so there is nothing to compare.", fix="Give images whose masks are not empty."
            )
        self.excluded = {domain: tuple(names) for domain, names in first.excluded().items()}
        """The classes left out of the means of every domain, as none of its images shows them."""
        self.images: tuple[ImageName, ...] = tuple(people)
        self.patients = tuple(people.values())
        self.domains = tuple(dict.fromkeys(domain for domain, _ in self.images))
        self._draws, self.seed = draws, seed
        self._seeds = seeds or {name: range(len(of)) for name, of in scores.items()}
        self._by_seed = {name: np.stack([self._table(one) for one in of]) for name, of in scores.items()}
        # Patient "1" of two domains is two people; JSON keeps ("a", "b/c") and ("a/b", "c") apart.
        self._people = [
            json.dumps([domain, patient]) for (domain, _), patient in zip(self.images, self.patients, strict=True)
        ]
        of_domain = np.array([self.domains.index(domain) for domain, _ in self.images])
        self._groups = [np.flatnonzero(of_domain == number) for number in range(len(self.domains))]

    @property
    def people(self) -> int:
        """The number of patients."""
        return len(set(self._people))

    def values(self, name: str) -> Floats:
        """Returns the values of a network, mean over its seeds: (images, metrics), nan where undefined."""
        return mean_of_defined(self._by_seed[name], axis=0)

    def measured(self, name: str) -> dict[str, Measured]:
        """Returns every metric of a network."""
        values, by_seed = self.values(name), self._by_seed[name]
        return {
            metric: Measured(
                mean=self._mean(values[:, column]),
                by_seed=tuple(self._mean(of_seed[:, column]) for of_seed in by_seed),
                drawn=self._drawn(values[:, column]),
                undefined=int(np.isnan(by_seed[..., column]).sum()),
            )
            for column, metric in enumerate(METRICS)
        }

    def difference(self, name: str, reference: str) -> Measured | None:
        """Returns the main score minus that of the reference, over the seeds that both have; None without such."""
        values = self._difference(name, reference)
        return None if values is None else Measured(self._mean(values), (), drawn=self._drawn(values), undefined=0)

    def contributions(self, name: str, reference: str) -> Floats | None:
        """Returns what every patient adds to that difference, (people,), in the same order for all; see `flip_p`."""
        values = self._difference(name, reference)
        if values is None:
            return None
        shares = np.zeros(self.people)
        for group in self._groups:
            np.add.at(shares, self._person_of_image[group], values[group] / (len(group) * len(self._groups)))
        return shares

    def paired(self, name: str, reference: str) -> Paired | None:
        """Returns that difference with all that it takes to test it, and to take several together; None likewise."""
        measured, contributions = self.difference(name, reference), self.contributions(name, reference)
        return None if measured is None or contributions is None else Paired(measured, contributions)

    @cached_property
    def _person_of_image(self) -> NDArray[np.intp]:
        return np.unique(np.asarray(self._people), return_inverse=True)[1]

    def _difference(self, name: str, reference: str) -> Floats | None:
        """Returns the difference of the main score on every image (images,); None without a common seed."""
        one, other = common_seeds(self._seeds[name], self._seeds[reference])
        if not one:
            return None
        of_name, of_reference = self._by_seed[name][one], self._by_seed[reference][other]
        return np.asarray((of_name - of_reference)[..., 0].mean(axis=0))

    def _mean(self, values: Floats) -> float:
        return float(np.mean([mean_of_defined(values[group], axis=0) for group in self._groups]))

    def _drawn(self, values: Floats) -> Floats:
        drawn = np.zeros(self._draws)
        for number, group in enumerate(self._groups):
            # The draws of a table of scores, which are the same for all values that are defined everywhere.
            people = [self._people[position] for position in group]
            drawn += bootstrap_means(values[group], people, draws=self._draws, seed=(self.seed, number))
        return drawn / len(self._groups)

    def _table(self, scores: Scores) -> Floats:
        """Returns the values of a run, mean over the classes of an image: (images, metrics)."""
        by_image: dict[ImageName, list[list[float]]] = {name: [] for name in self.images}
        for score in scores.counted():
            if (score.domain, score.key) in by_image:
                by_image[score.domain, score.key].append([score.metrics[metric] for metric in METRICS])
        return np.stack([mean_of_defined(np.array(classes), axis=0) for classes in by_image.values()])
