"""What the predictions of findings say of the networks: mean areas over findings, draws, paired tests."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.comparison.paired import Measured, bootstrap_p
from medarts.errors import RunError
from medarts.evaluation.finding_table import mean_of_defined
from medarts.evaluation.findings import FindingScores, Predictions
from medarts.evaluation.statistics import draw_patients
from medarts.tasks.ranking import auroc, average_precision, weighted_ranking

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
        seed: of the bootstrap.

    Raises:
        RunError: all images of a domain, or none, show every finding, so that nothing can be ranked.
    """

    metrics = METRICS

    def __init__(self, scores: Mapping[str, Sequence[FindingScores]], *, draws: int, seed: int) -> None:
        first = next(iter(scores.values()))[0].predictions
        self.images = tuple(zip(first.domains, first.keys, strict=True))
        self.domains = tuple(dict.fromkeys(first.domains))
        self.people = len(set(zip(first.domains, first.patients, strict=True)))
        predictions = {name: [_in_order(one.predictions, self.images) for one in of] for name, of in scores.items()}
        means = {name: np.zeros((len(of), len(METRICS))) for name, of in scores.items()}
        drawn = {name: np.zeros((len(METRICS), draws)) for name in scores}
        self._undefined = 0
        for number, domain in enumerate(self.domains):
            group = _Group.of(first, domain, draws=draws, seed=seed + number)
            self._undefined += first.labels.shape[1] - len(group.findings)
            for name, of in predictions.items():
                means[name] += np.stack([group.means(logits) for logits in of]) / len(self.domains)
                drawn[name] += np.mean([group.drawn(logits) for logits in of], axis=0) / len(self.domains)
        self._means, self._drawn = means, drawn

    def measured(self, name: str) -> dict[str, Measured]:
        """Returns every metric of a network."""
        means = self._means[name]
        return {
            metric: Measured(
                mean=float(means[:, column].mean()),
                by_seed=tuple(map(float, means[:, column])),
                drawn=self._drawn[name][column],
                undefined=self._undefined,
            )
            for column, metric in enumerate(METRICS)
        }

    def p_values(self, reference: str) -> dict[str, float | None]:
        """Returns the p of every other network's main score being that of the reference; None with one patient."""
        own = self._drawn[reference][0]
        return {name: bootstrap_p(drawn[0] - own) for name, drawn in self._drawn.items() if name != reference}


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
        self._members, self._labels, self.findings = members, labels, findings
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
        """Returns both metrics of a run, (2,), given the logits of all images (N, F)."""
        columns = [(logits[self._members, f], self._labels[:, f]) for f in self.findings]
        return np.array([np.mean([score(*column) for column in columns]) for score in (auroc, average_precision)])

    def drawn(self, logits: Floats) -> Floats:
        """Returns both metrics in every draw, (2, draws)."""
        if not self._known:
            return np.full((len(METRICS), len(self._weights)), np.nan)
        columns = [(logits[self._members, f], self._labels[:, f]) for f in self.findings]
        return mean_of_defined(np.stack([weighted_ranking(*column, self._weights) for column in columns]), axis=0)


def _in_order(predictions: Predictions, images: Sequence[tuple[str, str]]) -> Floats:
    """Returns the logits (N, F) in the order of the images given by domain and key."""
    names = zip(predictions.domains, predictions.keys, strict=True)
    position = {name: place for place, name in enumerate(names)}
    return predictions.logits[[position[name] for name in images]]
