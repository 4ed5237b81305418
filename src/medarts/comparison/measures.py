"""Scores of several networks on the same images: means with their intervals, and contrasts of networks.

The input is the long table of scores (`evaluation/scores.py`), with the columns network and seed.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from medarts.errors import RunError
from medarts.evaluation.scores import excluded, image_values, of_images, units_of
from medarts.evaluation.stats import (
    FEW_PATIENTS,
    UNDEFINED,
    Contrast,
    Interval,
    bootstrap_means,
    bootstrap_weights,
    jackknife_interval,
    left_out_means,
    left_out_weights,
    mean_of_defined,
    percentile_interval,
)
from medarts.metrics import Metric, metrics_of, weighted_values

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric of one network.

    Attributes:
        metric: the metric.
        mean: over the seeds; nan where undefined.
        by_seed: of every seed alone.
        undefined: values left out because they are undefined.
        drawn: the mean in every draw of a bootstrap over patients, the same patients for all networks (draws,).
        left_out: by data set the mean without each patient in turn.
    """

    metric: Metric
    mean: float
    by_seed: tuple[float, ...]
    undefined: int
    drawn: Floats
    left_out: tuple[Floats, ...]

    def interval(self) -> Interval:
        """Returns the 95 % interval: percentiles of the bootstrap, or Student's t where a data set has few patients."""
        if not self.metric.bootstrap:
            return UNDEFINED
        if min(map(len, self.left_out), default=0) < FEW_PATIENTS:
            return jackknife_interval(self.mean, self.left_out, limits=self.metric.limits)
        drawn = self.drawn[~np.isnan(self.drawn)]
        return percentile_interval(drawn) if len(drawn) else UNDEFINED


def mean_measured(of: Mapping[str, Measured]) -> Measured:
    """Returns the unweighted mean of a metric over several data sets.

    The draws of every data set are put into an order of its own, so that those of two data sets are independent.

    Args:
        of: by data set, whose order is of no effect; at least one.
    """
    drawn = [np.random.default_rng(place).permutation(of[name].drawn) for place, name in enumerate(sorted(of))]
    return Measured(
        next(iter(of.values())).metric,
        mean=float(np.mean([one.mean for one in of.values()])),
        by_seed=(),
        undefined=sum(one.undefined for one in of.values()),
        drawn=np.mean(drawn, axis=0),
        left_out=tuple(left_out for one in of.values() for left_out in one.left_out),
    )


class Measures(ABC):
    """Scores of several networks on the same images; see `measures_of`.

    Attributes:
        networks: their names.
        metrics: that are compared; the first is the main one, by which differences are tested.
        images: a row for each image, with dataset, image and patient.
        datasets: of the images.
        patients: their number; patient "1" of two data sets is two people.
        excluded: by data set the classes that no image shows, or the findings that all or none show. They are left out.
        units: of the metrics that have one; where images differ in it, all of them, and the metric is undefined.
        seed: of bootstrap and permutation tests.
    """

    networks: tuple[str, ...]
    metrics: tuple[Metric, ...]
    images: pd.DataFrame
    excluded: dict[str, tuple[str, ...]]
    units: dict[str, str]
    seed: int

    @property
    def datasets(self) -> tuple[str, ...]:
        """Data sets of the images."""
        return tuple(self.images.dataset.unique())

    @property
    def patients(self) -> int:
        """Number of patients."""
        return int(self._person_of_image.max()) + 1

    @cached_property
    def _person_of_image(self) -> NDArray[np.intp]:
        return np.asarray(self.images.groupby(["dataset", "patient"], sort=True).ngroup(), dtype=np.intp)

    @cached_property
    def _weights(self) -> Floats:
        """What an image adds to a mean over data sets."""
        of_dataset = self.images.groupby("dataset").image.transform("size")
        return np.asarray(1 / (of_dataset * len(self.datasets)), dtype=np.float64)

    def _by_patient(self, of_images: Floats) -> Floats:
        """Returns the sums (..., patients) of what images (..., images) add."""
        people, count = self._person_of_image, self.patients
        rows = [np.bincount(people, weights=row, minlength=count) for row in np.atleast_2d(of_images)]
        return np.asarray(rows, dtype=np.float64).reshape(*of_images.shape[:-1], count)

    def _contrast(self, sides: Mapping[str, Floats], drawn: Floats) -> Contrast:
        people = self.images.groupby(["dataset", "patient"], sort=True).size().index.get_level_values("dataset")
        shares = self._by_patient(self._weights)
        return Contrast(sides, shares=shares, sets=np.asarray(people, dtype=np.str_), drawn=drawn)

    @cached_property
    def _members(self) -> list[NDArray[np.intp]]:
        """Positions of the images of every data set."""
        return [np.flatnonzero(self.images.dataset == name) for name in self.datasets]

    @abstractmethod
    def measured(self, name: str) -> dict[str, Measured]:
        """Returns every metric of a network: the mean over its seeds, in order, each data set with the same weight."""

    @abstractmethod
    def contrast(self, name: str, reference: str) -> Contrast:
        """Returns the main score of a network minus that of another, each the mean over its seeds."""


def measures_of(table: pd.DataFrame, *, draws: int, seed: int) -> Measures:
    """Returns the scores of several networks.

    Args:
        table: the long table, all networks and seeds with the same images.
    """
    kind = FindingMeasures if "logit" in set(table.metric.unique()) else MaskMeasures
    return kind(table, draws=draws, seed=seed)


class MaskMeasures(Measures):
    """Metrics of single images.

    A value of an image is the mean over its classes, then over the seeds, of those that are defined. Data sets that
    show no class are left out.
    """

    def __init__(self, table: pd.DataFrame, *, draws: int, seed: int) -> None:
        self.seed, self._draws = seed, draws
        self.networks = tuple(map(str, table.network.unique()))
        scored = set(table.metric.unique())
        self.metrics = tuple(one for one in metrics_of("segmentation") if one.compared and one.name in scored)
        self.excluded = {dataset: tuple(classes) for dataset, classes in excluded(table).items()}
        self.units = {name: " and ".join(units) for name, units in units_of(of_images(table)).items() if any(units)}
        values = image_values(table)
        counted = values[(values.metric == self.metrics[0].name) & values.value.notna()]
        if counted.empty:
            raise RunError("No image shows a class.", fix="Compare on images whose masks are not empty.")
        self.images = counted[["dataset", "image", "patient"]].drop_duplicates(ignore_index=True)
        names = pd.MultiIndex.from_frame(self.images[["dataset", "image"]])
        self._values, columns = {}, [one.name for one in self.metrics]
        for network, of_network in values.groupby("network", sort=False):
            runs = [of_seed for _, of_seed in of_network.groupby("seed", sort=True)]
            wide = [run.pivot(index=["dataset", "image"], columns="metric", values="value") for run in runs]
            self._values[str(network)] = np.stack([run.reindex(names)[columns] for run in wide])
        # (seeds, images, metrics)

    def values(self, name: str) -> pd.Series:
        """Returns the main score of a network on every image, mean over its seeds."""
        return pd.Series(mean_of_defined(self._values[name][..., 0], axis=0), self.images.index)

    def measured(self, name: str) -> dict[str, Measured]:
        """Returns every metric of a network, over the values that are defined."""
        by_seed = self._values[name]
        values = mean_of_defined(by_seed, axis=0)
        return {
            metric.name: Measured(
                metric,
                mean=self._mean(values[:, column]),
                by_seed=tuple(self._mean(of_seed[:, column]) for of_seed in by_seed),
                undefined=int(np.isnan(by_seed[..., column]).sum()),
                drawn=self._drawn(values[:, column]),
                left_out=self._left_out(values[:, column]),
            )
            for column, metric in enumerate(self.metrics)
        }

    def contrast(self, name: str, reference: str) -> Contrast:
        """Returns a contrast of means over images."""
        one, other = self._values[name][..., 0], self._values[reference][..., 0]
        sides = {name: self._by_patient(one * self._weights), reference: self._by_patient(-other * self._weights)}
        return self._contrast(sides, self._drawn(one.mean(axis=0) - other.mean(axis=0)))

    def _mean(self, values: Floats) -> float:
        return float(np.mean([mean_of_defined(values[members], axis=0) for members in self._members]))

    def _drawn(self, values: Floats) -> Floats:
        drawn = [
            bootstrap_means(values[members], self._people(members), draws=self._draws, seed=(self.seed, number))
            for number, members in enumerate(self._members)
        ]
        return np.asarray(np.mean(drawn, axis=0))

    def _left_out(self, values: Floats) -> tuple[Floats, ...]:
        return tuple(left_out_means(values[members], self._people(members)) for members in self._members)

    def _people(self, members: NDArray[np.intp]) -> list[str]:
        return [str(patient) for patient in self.images.patient.iloc[members]]


class FindingMeasures(Measures):
    """Rankings of the images by the logits of findings.

    A score of a run is the mean over the findings that some and not all images of a data set show; that of a network is
    the mean over its seeds.
    """

    def __init__(self, table: pd.DataFrame, *, draws: int, seed: int) -> None:
        self.seed, self.metrics = seed, tuple(one for one in metrics_of("classification") if one.compared)
        self.networks, self.units = tuple(map(str, table.network.unique())), {}
        first = table[(table.network == table.network.iloc[0]) & (table.seed == table.seed.iloc[0])]
        self.images = first[["dataset", "image", "patient"]].drop_duplicates().reset_index(drop=True)
        names = pd.MultiIndex.from_frame(self.images[["dataset", "image"]])
        findings = [*first["class"].unique()]
        self._labels = _wide(first, "label", names, findings)
        kinds = ("logit", *{one.scores for one in self.metrics} - {"logit"})
        self._outputs: dict[str, dict[str, Floats]] = {kind: {} for kind in kinds}
        for network, of_network in table.groupby("network", sort=False):
            runs = [of_seed for _, of_seed in of_network.groupby("seed", sort=True)]
            for kind, outputs in self._outputs.items():
                outputs[str(network)] = np.stack([_wide(of, kind, names, findings) for of in runs])
        self.excluded, self._ranked, self._draws_of, self._left_out_of = {}, [], [], []
        for number, (dataset, members) in enumerate(zip(self.datasets, self._members, strict=True)):
            labels = self._labels[members]
            ranked = [place for place, column in enumerate(labels.T) if {0.0, 1.0} <= {*column.tolist()}]
            if not ranked:
                raise RunError(
                    f"All images of {dataset}, or none, show every finding, so that networks cannot be ranked.",
                    fix="Compare them on another split, or on more images.",
                )
            if len(ranked) < len(findings):
                left_out = [str(name) for place, name in enumerate(findings) if place not in ranked]
                self.excluded[dataset] = tuple(left_out)
            people = np.unique(self._person_of_image[members], return_inverse=True)[1]
            self._ranked.append(ranked)
            # Without a finding of two patients with and two without it, nothing is known of the spread of patients.
            is_known = any(min(len(np.unique(people[labels[:, f] == one])) for one in (0, 1)) > 1 for f in ranked)
            drawn = bootstrap_weights(people, draws=draws, seed=seed + number)
            self._draws_of.append(drawn if is_known else drawn[:0])
            self._left_out_of.append(left_out_weights(people) if is_known else drawn[:0])
        self._undefined = sum(len(findings) - len(ranked) for ranked in self._ranked)
        once = [np.ones((1, len(members)), dtype=np.uint8) for members in self._members]
        values = {name: self._weighted(name, once) for name in self.networks}
        self._means = {name: np.mean(of, axis=0)[..., 0] for name, of in values.items()}  # (seeds, metrics)
        self._drawn = {name: self._weighted(name, self._draws_of, empty=draws) for name in self.networks}
        self._left_out = {name: self._weighted(name, self._left_out_of) for name in self.networks}

    def measured(self, name: str) -> dict[str, Measured]:
        """Returns every metric of a network, mean over the findings that are ranked."""
        means = self._means[name]
        return {
            metric.name: Measured(
                metric,
                mean=float(means[:, column].mean()),
                by_seed=tuple(map(float, means[:, column])),
                undefined=self._undefined,
                drawn=np.mean([of[:, column].mean(axis=0) for of in self._drawn[name]], axis=0),
                left_out=tuple(of[:, column].mean(axis=0) for of in self._left_out[name]),
            )
            for column, metric in enumerate(self.metrics)
        }

    def contrast(self, name: str, reference: str) -> Contrast:
        """Returns a contrast of areas under ROC curves, by the terms of `_sides`.

        The logits of a run are replaced by their ranks among the images of the data set, one finding at a time, which
        leaves its areas as they are and puts all networks on one scale. Where two networks exchange their ranks of a
        patient, that patient's term changes its sign, so that the sign-flip test is the permutation test of Bandos,
        Rockette and Gur (2005, "A permutation test sensitive to differences in areas for comparing ROC curves from a
        paired design", Statistics in Medicine 24), with patients, of several images, exchanged as wholes.
        """
        one, other = (self._outputs["logit"][of] for of in (name, reference))
        sides = [np.zeros((len(runs), len(self.images))) for runs in (one, other)]
        for number, members in enumerate(self._members):
            terms = np.array([[self._sides(number, first, second) for second in other] for first in one])
            sides[0][:, members] = terms[:, :, 0].mean(axis=1) / len(self._members)
            sides[1][:, members] = -terms[:, :, 1].mean(axis=0) / len(self._members)
        drawn = [self._drawn[of] for of in (name, reference)]
        of_main = [np.mean([part[:, 0].mean(axis=0) for part in parts], axis=0) for parts in drawn]
        by_name = {of: self._by_patient(side) for of, side in zip((name, reference), sides, strict=True)}
        return self._contrast(by_name, of_main[0] - of_main[1])

    def _columns(self, number: int, outputs: Floats) -> Iterator[tuple[Floats, Floats, NDArray[np.intp]]]:
        """Yields for every ranked finding the outputs for images of a data set, their labels, and which these are.

        They are the images of which the finding is known, by their places among all of the data set.
        """
        members = self._members[number]
        for finding in self._ranked[number]:
            known = np.flatnonzero(~np.isnan(self._labels[members, finding]))
            yield outputs[members[known], finding], self._labels[members[known], finding], known

    def _weighted(
        self, name: str, weights: Sequence[NDArray[np.unsignedinteger[Any]]], *, empty: int = 0
    ) -> list[Floats]:
        """Returns by data set the metrics of a network, mean over findings; ``empty`` undefined ones without any."""
        seeds = len(self._outputs["logit"][name])
        found = []
        for number, of_set in enumerate(weights):
            values = np.full((seeds, len(self.metrics), len(of_set) or empty), np.nan)
            for column, one in enumerate(self.metrics if len(of_set) else ()):
                for seed, outputs in enumerate(self._outputs[one.scores][name]):
                    of_findings = [
                        weighted_values(
                            one, values, labels, of_set if len(known) == of_set.shape[1] else of_set[:, known]
                        )
                        for values, labels, known in self._columns(number, outputs)
                    ]
                    values[seed, column] = mean_of_defined(np.stack(of_findings), axis=0)
            found.append(values)
        return found

    def _sides(self, number: int, one: Floats, other: Floats) -> tuple[Floats, Floats]:
        """Returns what the images of a data set add to the areas of two runs, mean over findings; see `_area_terms`."""
        pairs = zip(self._columns(number, one), self._columns(number, other), strict=True)
        terms = np.zeros((len(self._ranked[number]), 2, len(self._members[number])))
        for place, ((a, truth, known), (b, *_)) in enumerate(pairs):
            terms[place][:, known] = _area_terms(rankdata(a), rankdata(b), truth == 1)
        first, second = np.mean(terms, axis=0)
        return first, second


def _wide(table: pd.DataFrame, metric: str, names: pd.MultiIndex, findings: Sequence[str]) -> Floats:
    """Returns a value of every image and finding (images, findings)."""
    of_metric = table[table.metric == metric].set_index(["dataset", "image", "class"]).value
    return np.asarray(of_metric.unstack("class").reindex(names)[[*findings]], dtype=np.float64)


def _area_terms(one: Floats, other: Floats, truth: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Returns terms (N,) of two rankings, each of which sums to the area under the ROC curve of its ranking.

    With k(x, y) = 1 where x > y, 1/2 where equal, an area is the mean over pairs of an image i with the finding and an
    image j without of k(a_i, a_j). Where only i exchanges its ranks, the difference of the areas of the pair must
    become k(b_i, a_j) - k(a_i, b_j). So the term of i in the first area is half the mean over j of k(a_i, a_j) +
    [k(a_i, b_j) - k(b_i, a_j)] / 2, that of j half the mean over i of k(a_i, a_j) - [k(a_i, b_j) - k(b_i, a_j)] / 2:
    brackets cancel in the sum, and the difference of both terms of an image changes its sign with the exchange.
    """
    terms = np.empty((2, len(truth)))
    for group in (truth, ~truth):
        (aa, ab), (ba, bb) = ([_above(ranks[group], pool[~group]) for pool in (one, other)] for ranks in (one, other))
        if group is not truth:  # i is to be above j
            aa, ab, ba, bb = (1 - share for share in (aa, ab, ba, bb))
        terms[0, group] = (aa + (ab - ba) / 2) / 2 / group.sum()
        terms[1, group] = (bb - (ab - ba) / 2) / 2 / group.sum()
    return terms[0], terms[1]


def _above(values: Floats, pool: Floats) -> Floats:
    """Returns the share of a pool that every value is above, equal ones counting half."""
    ordered = np.sort(pool)
    counts = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    return np.asarray(counts / (2 * len(pool)))
