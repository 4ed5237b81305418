"""What the predictions of findings say of the networks: mean areas over findings, draws, paired tests."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from medarts.comparison.paired import Measured, common_seeds
from medarts.comparison.pooled import Paired
from medarts.errors import RunError
from medarts.evaluation.finding_table import mean_of_defined
from medarts.evaluation.findings import FindingScores, Predictions
from medarts.evaluation.statistics import draw_patients
from medarts.metrics.ranking import auroc, average_precision, weighted_ranking

Floats = NDArray[np.floating[Any]]

METRICS = ("auroc", "average_precision")
"""The first is the main score."""


class FindingMeasures:
    """The networks' scores of the same images.

    A score of a run is its mean over the findings that some and not all images of a domain show, then over the
    domains; that of a network is the mean over its seeds. Patients are drawn within each domain.

    Args:
        scores: of every network, one a seed; all of the same images and findings.
        draws: of the bootstrap over patients.
        seed: of the bootstrap and of the permutation tests.
        seeds: of the scores of every network; 0, 1, ... where None.

    Raises:
        RunError: all images of a domain, or none, show every finding, so that nothing can be ranked.
    """

    metrics = METRICS

    def __init__(
        self,
        scores: Mapping[str, Sequence[FindingScores]],
        *,
        draws: int,
        seed: int,
        seeds: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        first = next(iter(scores.values()))[0].predictions
        self.images = tuple(zip(first.domains, first.keys, strict=True))
        self.domains = tuple(dict.fromkeys(first.domains))
        people = sorted(set(zip(first.domains, first.patients, strict=True)))
        self.people = len(people)
        self.seed = seed
        self._seeds = seeds or {name: range(len(of)) for name, of in scores.items()}
        self._logits = {
            name: np.stack([_in_order(one.predictions, self.images) for one in of]) for name, of in scores.items()
        }
        number_of = {person: number for number, person in enumerate(people)}
        self._person_of_image = np.array(
            [number_of[person] for person in zip(first.domains, first.patients, strict=True)]
        )
        self._groups = [
            _Group.of(first, domain, draws=draws, seed=seed + number) for number, domain in enumerate(self.domains)
        ]
        # (seeds, metrics), (seeds, metrics, draws), each domain with the same weight
        self._means = {
            name: np.mean([group.means(of) for group in self._groups], axis=0) for name, of in self._logits.items()
        }
        self._drawn = {
            name: np.mean([group.drawn(of) for group in self._groups], axis=0) for name, of in self._logits.items()
        }
        self.excluded = {
            domain: tuple(names)
            for domain, names in next(iter(scores.values()))[0].excluded().items()
            if names and domain in self.domains
        }
        """The findings left out of the means of every domain, as all of its images show them, or none."""
        self._undefined = sum(first.labels.shape[1] - len(group.findings) for group in self._groups)

    def measured(self, name: str) -> dict[str, Measured]:
        """Returns every metric of a network."""
        means = self._means[name]
        return {
            metric: Measured(
                mean=float(means[:, column].mean()),
                by_seed=tuple(map(float, means[:, column])),
                drawn=self._drawn[name][:, column].mean(axis=0),
                undefined=self._undefined,
            )
            for column, metric in enumerate(METRICS)
        }

    def difference(self, name: str, reference: str) -> Measured | None:
        """Returns the main score minus that of the reference, over the seeds that both have; None without such."""
        one, other = common_seeds(self._seeds[name], self._seeds[reference])
        if not one:
            return None
        mean = self._means[name][one, 0] - self._means[reference][other, 0]
        drawn = self._drawn[name][one, 0] - self._drawn[reference][other, 0]
        return Measured(float(mean.mean()), (), drawn=drawn.mean(axis=0), undefined=0)

    def contributions(self, name: str, reference: str) -> Floats | None:
        """Returns what every patient adds to that difference, (people,), in one order for all networks; see `flip_p`.

        The logits of a run are replaced by their ranks among the images of the domain, one finding at a time, which
        leaves its areas as they are and puts all networks on one scale. Where two networks exchange their ranks of a
        patient, that patient's term changes its sign, so that `flip_p` is the permutation test of Bandos, Rockette and
        Gur (2005, "A permutation test sensitive to differences in areas for comparing ROC curves from a paired design",
        Statistics in Medicine 24), with patients, of several images, exchanged as wholes.
        """
        one, other = common_seeds(self._seeds[name], self._seeds[reference])
        if not one:
            return None
        shares = np.zeros(self.people)
        for group in self._groups:
            pairs = zip(self._logits[name][one], self._logits[reference][other], strict=True)
            of_images = np.mean([group.contributions(*pair) for pair in pairs], axis=0) / len(self._groups)
            np.add.at(shares, self._person_of_image[group.members], of_images)
        return shares

    def paired(self, name: str, reference: str) -> Paired | None:
        """Returns that difference with all that it takes to test it, and to take several together; None likewise."""
        measured, contributions = self.difference(name, reference), self.contributions(name, reference)
        return None if measured is None or contributions is None else Paired(measured, contributions)


class _Group:
    """The images of one domain.

    Args:
        members: positions of its images.
        labels: (images, findings).
        findings: positions of those that some and not all of the images show.
        weights: how often each image stands in each draw (draws, images).
        known: whether some finding has two patients with it and two without.
    """

    def __init__(
        self, members: NDArray[np.intp], labels: NDArray[np.uint8], findings: list[int], *, weights: Any, known: bool
    ) -> None:
        self.members, self._labels, self.findings = members, labels, findings
        self._weights, self._known = weights, known

    @classmethod
    def of(cls, predictions: Predictions, domain: str, *, draws: int, seed: int) -> "_Group":
        members = predictions.groups()[domain]
        labels, people = predictions.labels[members], predictions.people(members)
        findings = [f for f, column in enumerate(labels.T) if 0 < column.sum(dtype=np.int64) < len(column)]
        if not findings:
            raise RunError(
                f"All images of {domain}, or none, show every finding, so that networks cannot be told apart by them.",
                fix="Compare them on another split, or on more images.",
            )
        known = any(
            all(len(np.unique(people[labels[:, f] == label])) > 1 for label in (0, 1))  # as in a table of scores
            for f in findings
        )
        weights = draw_patients(people, draws=draws, seed=seed)
        return cls(members, labels, findings, weights=weights, known=known)

    def means(self, logits: Floats) -> Floats:
        """Returns both metrics of every run, (runs, 2), given the logits of all images (runs, N, F)."""
        return np.array(
            [
                [np.mean([score(*column) for column in self._columns(run)]) for score in (auroc, average_precision)]
                for run in logits
            ]
        )

    def drawn(self, logits: Floats) -> Floats:
        """Returns both metrics of every run in every draw, (runs, 2, draws), given (runs, N, F)."""
        if not self._known:
            return np.full((len(logits), len(METRICS), len(self._weights)), np.nan)
        return np.stack(
            [
                mean_of_defined(
                    np.stack([weighted_ranking(*column, self._weights) for column in self._columns(run)]), axis=0
                )
                for run in logits
            ]
        )

    def contributions(self, one: Floats, other: Floats) -> Floats:
        """Returns what every image of the domain adds to the difference of two runs' mean areas; both are (N, F)."""
        pairs = zip(self._columns(one), self._columns(other), strict=True)
        return np.asarray(
            np.mean([_area_terms(rankdata(a), rankdata(b), truth == 1) for (a, truth), (b, _) in pairs], axis=0)
        )

    def _columns(self, logits: Floats) -> list[tuple[Floats, NDArray[np.uint8]]]:
        """Returns for every finding the logits of the domain's images, and their labels."""
        return [(logits[self.members, f], self._labels[:, f]) for f in self.findings]


def _area_terms(one: Floats, other: Floats, truth: NDArray[np.bool_]) -> Floats:
    """Returns the terms (N,) whose sum is the area under the ROC curve of one ranking minus that of another.

    With k(x, y) = 1 where x > y, 1/2 where equal, the difference is the mean over pairs of an image i with the finding
    and an image j without of k(a_i, a_j) - k(b_i, b_j). The term of i is half the mean over j of k(a_i, a_j) +
    k(a_i, b_j) - k(b_i, a_j) - k(b_i, b_j), that of j likewise. For pairs of which only i is exchanged, the sum of both
    terms' parts becomes k(b_i, a_j) - k(a_i, b_j), as it must.
    """
    terms = np.empty(len(truth))
    for group, sign in ((truth, 1.0), (~truth, -1.0)):
        against = np.sort(np.concatenate([one[~group], other[~group]]))
        gained = sum(
            np.searchsorted(against, one[group], side=side) - np.searchsorted(against, other[group], side=side)
            for side in ("left", "right")
        )
        terms[group] = sign * gained / 4
    return terms / (int(truth.sum()) * int((~truth).sum()))


def _in_order(predictions: Predictions, images: Sequence[tuple[str, str]]) -> Floats:
    """Returns the logits (N, F) in the order of the images given by domain and key."""
    names = zip(predictions.domains, predictions.keys, strict=True)
    position = {name: place for place, name in enumerate(names)}
    return predictions.logits[[position[name] for name in images]]
