"""What the scores of a study's runs say, one data set tested at a time: all runs there on the same images and draws."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from medarts.comparison.findings import FindingMeasures
from medarts.comparison.masks import MaskMeasures
from medarts.comparison.paired import Measured
from medarts.comparison.pooled import Paired
from medarts.comparison.result import MetricScore
from medarts.comparison.scored import AnyScores
from medarts.config import Task
from medarts.errors import RunError
from medarts.evaluation.findings import Predictions
from medarts.evaluation.mask_scores import Scores, number
from medarts.system.randomness import seed_of

Trainee = tuple[str, str]
"""A group, and a network trained on it."""


@dataclass(frozen=True, eq=False)
class Scored:
    """The runs of a network on a group, scored on one data set.

    Attributes:
        group: what they were trained on.
        network: its name.
        domain: the data set.
        scores: one a seed, of the images of this data set alone.
        seeds: of the scores.
    """

    group: str
    network: str
    domain: str
    scores: tuple[AnyScores, ...]
    seeds: tuple[int, ...]


class Measures:
    """All scores of a study.

    Args:
        tested: the scores; those of one data set are all of the same images.
        task: what the networks do.
        draws: of the bootstrap over patients.
        seed: of bootstrap and permutation tests; the draws of two data sets are independent.
    """

    def __init__(self, tested: Iterable[Scored], *, task: Task, draws: int, seed: int) -> None:
        by_domain: dict[str, dict[str, Scored]] = {}
        for one in tested:
            by_domain.setdefault(one.domain, {})[_key((one.group, one.network))] = one
        self.seed = seed
        self.unranked: dict[str, str] = {}
        """Data sets that say nothing of the networks, each with the reason."""
        self._of: dict[str, MaskMeasures | FindingMeasures] = {}
        self._main: dict[str, dict[str, Measured]] = {}
        self._seeds: dict[str, dict[str, tuple[int, ...]]] = {}
        make: Any = MaskMeasures if task == "segmentation" else FindingMeasures
        for domain, given in by_domain.items():
            scores, seeds = ({key: getattr(one, of) for key, one in given.items()} for of in ("scores", "seeds"))
            try:
                measures = make(scores, draws=draws, seed=seed_of(seed, domain), seeds=seeds)
            except RunError as error:
                self.unranked[domain] = error.problem
                continue
            self._of[domain], self._seeds[domain] = measures, seeds
            self._main[domain] = {key: measures.measured(key)[measures.metrics[0]] for key in scores}

    def size(self, domain: str) -> tuple[int, int]:
        """Returns the number of images and of patients scored; 0 twice where nothing was."""
        found = self._of.get(domain)
        return (len(found.images), found.people) if found is not None else (0, 0)

    def excluded(self, domain: str) -> tuple[str, ...]:
        """Returns the classes or findings that are left out of the scores of a domain."""
        found = self._of.get(domain)
        return () if found is None else found.excluded.get(domain, ())

    def get(self, trainee: Trainee, domain: str) -> Measured | None:
        """Returns the main score of a network, trained on a group, on a data set; None where it is missing."""
        return self._main.get(domain, {}).get(_key(trainee))

    def paired(self, one: Trainee, other: Trainee, domain: str) -> Paired | None:
        """Returns the main score of one minus that of the other, over common seeds; None where there are no such.

        The patients of a data set stand in one order for all trainees.
        """
        if self.get(one, domain) is None or self.get(other, domain) is None:
            return None
        return self._of[domain].paired(_key(one), _key(other))

    def common_seeds(self, one: Trainee, other: Trainee, domain: str) -> int:
        """Returns the number of seeds with which both have a score on a data set."""
        seeds = self._seeds[domain]
        return len({*seeds[_key(one)]} & {*seeds[_key(other)]})


def of_domain(scores: AnyScores, domain: str) -> AnyScores:
    """Returns the scores of the images of one data set."""
    if isinstance(scores, Scores):
        return replace(scores, images=[score for score in scores.images if score.domain == domain])
    given = scores.predictions
    rows = [row for row, of in enumerate(given.domains) if of == domain]
    kept = Predictions(
        keys=[given.keys[row] for row in rows],
        domains=[domain] * len(rows),
        patients=[given.patients[row] for row in rows],
        logits=given.logits[rows],
        labels=given.labels[rows],
    )
    return replace(scores, predictions=kept)


def as_score(measured: Measured) -> MetricScore:
    """Returns a score as it stands in files; undefined values are None."""
    low, high = measured.interval()
    by_seed = tuple(number(value) for value in measured.by_seed)
    return MetricScore(number(measured.mean), low, high, by_seed=by_seed, undefined=measured.undefined)


def _key(trainee: Trainee) -> str:
    return "/".join(trainee)  # neither can have a slash: both name folders
