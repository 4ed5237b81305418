"""The summary of a run's scores: means with intervals over patients, a row for every data set, class and metric.

Columns: ``dataset``, ``class``, ``metric``, ``value``, the ends ``low`` and ``high`` of its 95 % interval, and
``classes`` (how many are averaged), ``images``, ``patients``, ``positives`` (images that truly show the class),
``undefined``: images without a value, of masks, or resamples of the patients without a value, of findings, and ``unit``
of the value (see ``medarts.evaluation.scores``). Of metrics of images with an empty truth, images and patients are
these alone. Where the unit is not the same for all images, all units are named, and there is no mean.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medarts.config.data import IGNORE
from medarts.evaluation.scores import Calibration, Scores, counted, of_images, of_volumes
from medarts.evaluation.stats import (
    FEW_PATIENTS,
    LEVEL,
    UNDEFINED,
    Interval,
    bootstrap_means,
    bootstrap_weights,
    jackknife_interval,
    left_out_means,
    left_out_weights,
    mean_of_defined,
    percentile_interval,
)
from medarts.metrics import Metric, metric, metrics_of, weighted_values
from medarts.metrics.calibration import probabilities_of
from medarts.metrics.ranking import operating_point

Floats = NDArray[np.floating[Any]]

ALL = "all"
MEAN_OF_DATASETS = "mean of data sets"
MEAN_OF_CLASSES = "mean of classes"
MEAN_OF_FINDINGS = "mean of findings"
FEW_POSITIVES = 5
MEAN_OF_FREQUENT = f"mean of findings with {FEW_POSITIVES} or more positives"
YOUDEN, SENSITIVE = "youden", "sensitive"
RATIOS = ("sensitivity", "specificity", "ppv", "npv")

DEFINITIONS: dict[str, str] = {
    ALL: "All images of all data sets together; patients of different data sets are different people.",
    MEAN_OF_DATASETS: "Unweighted mean of the data sets' means, of those that do not exclude the class.",
    MEAN_OF_CLASSES: "Mean over the classes of each image, of the values that are defined, then over images.",
    MEAN_OF_FINDINGS: (
        "Unweighted mean over the findings that some and not all images of the data set have; the others are excluded. "
        "A value that a finding lacks is left out of its mean."
    ),
    MEAN_OF_FREQUENT: f"The same over the findings with {FEW_POSITIVES} or more positive images in the data set.",
    "interval": (
        f"{100 * LEVEL:g} % interval over patients, all images of a patient together: percentiles of a bootstrap, or, "
        f"with fewer than {FEW_PATIENTS} patients, Student's t on the jackknife error. None with fewer than two "
        "patients, of findings on either side."
    ),
    YOUDEN: "Threshold at which sensitivity + specificity is largest on the validation images.",
    SENSITIVE: "Largest threshold that reaches the chosen sensitivity on the validation images.",
    "threshold": "Probability after temperature from which an image counts as positive.",
    "units": (
        "Distances and areas are in mm where the files of all images say their spacing. Images with and without "
        "spacing have no common mean."
    ),
    "volumes": (
        "Slices of one file or series put together and scored in three dimensions. Distances are undefined where "
        "slices in between are not scored."
    ),
    "empty truths": (
        "Images that do not show the class are in the means: Dice and the other ratios are 1 where nothing was found "
        "and 0 otherwise. False positives and the falsely found area are of these images alone."
    ),
}
"""What the rows and intervals mean."""

COLUMNS = (
    "dataset", "class", "metric", "value", "low", "high", "classes", "images", "patients", "positives", "undefined",
    "unit",
)  # fmt: skip


def summarized(scores: Scores) -> Scores:
    """Returns scores with their summary.

    Of masks, the rows of each class are those of each data set, of `ALL` and of `MEAN_OF_DATASETS`; where there are
    several classes, the class `MEAN_OF_CLASSES` comes first. Of findings, the rows of each data set, and of `ALL` where
    there are several, begin with the means over findings.
    """
    if scores.calibration is not None:
        rows = _finding_rows(scores.table, scores.calibration, draws=scores.draws, seed=scores.seed)
        return replace(scores, summary=_frame(rows))
    values = counted(scores.table)
    volumes = of_volumes(values)
    return replace(
        scores,
        summary=_frame(_mask_rows(of_images(values), scores)),
        volumes=_frame(_mask_rows(volumes, scores)) if len(volumes) else None,
    )


def summary_of(scores: Scores, table: pd.DataFrame) -> pd.DataFrame:
    """Returns the summary of some of the images of scores, which are taken for all there are.

    Args:
        scores: draws and seed of the bootstrap, and what was fitted.
        table: rows of its table.
    """
    if scores.calibration is None:
        return _frame(_mask_rows(counted(of_images(table)), scores))
    return _frame(_finding_rows(table, scores.calibration, draws=scores.draws, seed=scores.seed))


def of_differences(scores: Scores) -> pd.DataFrame:
    """Returns the summary of masks whose table holds differences between two scores of the same images."""
    return _frame(_mask_rows(counted(scores.table), scores, limits=(-1.0, 1.0)))


def _frame(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    return pd.DataFrame([*rows], columns=[*COLUMNS])


def _mask_rows(
    values: pd.DataFrame, scores: Scores, *, limits: tuple[float, float] | None = None
) -> Iterator[tuple[Any, ...]]:
    """Yields the rows of masks.

    Args:
        values: rows of the long table as they enter means.
        scores: draws and seed of the bootstrap.
        limits: of the values. Default: those of the metric.
    """
    classes = values["class"].nunique()
    if classes > 1:
        values = pd.concat([_mean_of_classes(values), values])
    for name, of_class in values.groupby("class", sort=False):
        sets = [of_set for _, of_set in of_class.groupby("dataset", sort=False)]
        groups = {str(one["dataset"].iloc[0]): [one] for one in sets}
        for dataset, of_groups in (groups | {ALL: [of_class], MEAN_OF_DATASETS: sets}).items():
            for of_metric in values["metric"].unique():
                columns = [one[one["metric"] == of_metric] for one in of_groups]
                of = metric(of_metric) if limits is None else replace(metric(of_metric), limits=limits)
                value, interval, undefined = _mean(columns, of, draws=scores.draws, seed=scores.seed)
                whole = pd.concat(columns)
                units = [*whole["unit"].unique()]
                if len(units) > 1:
                    value, interval = math.nan, UNDEFINED
                counts = _counts(whole, of, classes=1 if name != MEAN_OF_CLASSES else classes)
                yield dataset, name, of_metric, value, *interval, *counts, undefined, " and ".join(units)


def _counts(rows: pd.DataFrame, of: Metric, *, classes: int) -> tuple[int, int, int, int]:
    """Returns the numbers of classes, images, patients and positives of the rows of a class and metric."""
    if of.of_empty:
        rows = rows[rows["value"].notna()]
    images = rows.drop_duplicates(["dataset", "image"])
    patients = len(images.drop_duplicates(["dataset", "patient"]))
    return classes, len(images), patients, int((images["truth"] != "empty").sum())


def _mean_of_classes(values: pd.DataFrame) -> pd.DataFrame:
    """Returns the mean over the classes of every image and metric, as rows of a class of its own."""
    by = ["dataset", "image", "patient", "metric", "unit"]
    found = values.groupby(by, sort=False, as_index=False).agg(value=("value", "mean"), truth=("truth", "max"))
    shows = values.assign(shown=values["truth"] != "empty").groupby(by, sort=False)["shown"].any().to_numpy()
    return found.assign(truth=np.where(shows, "present", "empty"), **{"class": MEAN_OF_CLASSES})


def _mean(groups: Sequence[pd.DataFrame], of: Metric, *, draws: int, seed: int) -> tuple[float, Interval, int]:
    """Returns the mean of the groups' means, with its interval, and the number of values left out."""
    undefined = 0 if of.of_empty else int(sum(group["value"].isna().sum() for group in groups))
    if of.of_empty:
        shows = [bool(group["value"].notna().any()) for group in groups]
    else:
        shows = [not of.needs_examples or bool((group["truth"] != "empty").any()) for group in groups]
    # The mean of data sets is over those that show the class. A seed of its own for every data set: equal draws would
    # make independent data sets move together.
    kept = [(place, group) for place, group in enumerate(groups) if shows[place] or not any(shows)]
    means, drawn, left_out = [], [], []
    for place, group in kept:
        values = group["value"].to_numpy()
        # Patient "1" of two data sets is two people; JSON keeps ("a", "b/c") and ("a/b", "c") apart.
        patients = [json.dumps([*pair]) for pair in zip(group["dataset"], group["patient"], strict=True)]
        means.append(float(mean_of_defined(values, axis=0)))
        left_out.append(left_out_means(values, patients))
        if min(map(len, left_out)) >= FEW_PATIENTS:
            drawn.append(bootstrap_means(values, patients, draws=draws, seed=(seed, place)))
    value = sum(means) / len(means)
    if len(drawn) == len(kept):
        return value, percentile_interval(np.mean(drawn, axis=0)), undefined
    return value, jackknife_interval(value, left_out, limits=of.limits), undefined


def _finding_rows(table: pd.DataFrame, calibration: Calibration, *, draws: int, seed: int) -> Iterator[tuple[Any, ...]]:
    datasets = [*table["dataset"].unique()]
    for dataset in [*datasets, ALL] if len(datasets) > 1 else datasets:
        rows = table if dataset == ALL else table[table["dataset"] == dataset]
        for row in _Findings.of(rows, calibration, draws=draws, seed=seed).rows():
            yield dataset, *row, ""


@dataclass(frozen=True, eq=False)
class _Findings:
    """The findings of one data set, or of all.

    Attributes:
        findings: their names.
        logits: (N, F), N at least 1.
        labels: (N, F), 0 or 1, or `IGNORE`.
        people: number of each image's patient (N,), from 0 on without gaps.
        calibration: what was fitted on validation.
        draws: draws of the bootstrap.
        seed: seed of the bootstrap.
    """

    findings: tuple[str, ...]
    logits: Floats
    labels: NDArray[np.uint8]
    people: NDArray[np.intp]
    calibration: Calibration
    draws: int
    seed: int

    @classmethod
    def of(cls, table: pd.DataFrame, calibration: Calibration, *, draws: int, seed: int) -> "_Findings":
        logits, labels, images = wide(table)
        people = images.groupby(["dataset", "patient"], sort=True).ngroup()
        return cls(
            tuple(logits.columns),
            logits.to_numpy(),
            labels.fillna(IGNORE).to_numpy().astype(np.uint8),
            np.asarray(people, dtype=np.intp),
            calibration,
            draws,
            seed,
        )

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yields the rows of the means over findings, then those of each finding."""
        known = self.labels != IGNORE
        positives, numbers = (self.labels == 1).sum(0), known.sum(0)
        present = [f for f, count in enumerate(positives) if 0 < count < numbers[f]]
        frequent = [f for f in present if positives[f] >= FEW_POSITIVES]
        means = {MEAN_OF_FINDINGS: present} | ({MEAN_OF_FREQUENT: frequent} if 0 < len(frequent) < len(present) else {})
        columns = {name: [f] for f, name in enumerate(self.findings)}
        values, drawn = self._values(), self._drawn()
        for name, of in (means | columns).items():
            looked_at = known[:, of].any(1) if of else known.any(1)
            people = len(np.unique(self.people[looked_at]))
            counts = (len(of), int(looked_at.sum()), people, int(positives[of].sum()))
            for one, of_findings in values.items():
                value = float(mean_of_defined(of_findings[of], axis=0))
                if name in means and one.endswith("_threshold"):
                    value = math.nan  # thresholds of different findings have no mean
                interval, undefined = UNDEFINED, 0
                if one in drawn:
                    resampled = mean_of_defined(drawn[one][of], axis=0) if name in means else drawn[one][of[0]]
                    is_known = any(self._is_known(f) for f in of)
                    interval = self._interval(value, resampled, metric(one)) if is_known else UNDEFINED
                    undefined = int(np.isnan(resampled).sum())
                yield name, one, value, *interval, *counts, undefined

    @property
    def _few(self) -> bool:
        return int(self.people.max()) + 1 < FEW_PATIENTS

    def _is_known(self, finding: int) -> bool:
        """Whether two patients are on either side: with one, nothing is known of the spread between such patients."""
        sides = (self.people[self.labels[:, finding] == label] for label in (0, 1))
        return all(len(np.unique(side)) > 1 for side in sides)

    def _interval(self, value: float, resampled: Floats, of: Metric) -> Interval:
        if self._few:
            return jackknife_interval(value, [resampled], limits=of.limits)
        return percentile_interval(resampled[~np.isnan(resampled)])

    def _values(self) -> dict[str, Floats]:
        """Returns by metric, and by rule of a threshold and ratio, the values of every finding (F,)."""
        probabilities = probabilities_of(self.logits, self.calibration.temperature)
        found: dict[str, list[float]] = {}
        for f, name in enumerate(self.findings):
            known = self.labels[:, f] != IGNORE
            labels = self.labels[known, f]
            given = {"logit": self.logits[known, f], "probability": probabilities[known, f]}
            values = {
                one.name: one(given[one.scores], labels) if len(labels) else math.nan
                for one in metrics_of("classification")
            }
            values["ece_uncalibrated"] = metric("ece")(probabilities_of(given["logit"]), labels)
            for rule, thresholds in self.calibration.thresholds.items():
                threshold = thresholds[name]
                point = operating_point(given["probability"], labels, math.nan if threshold is None else threshold)
                values |= {f"{rule}_{key}": value for key, value in point._asdict().items()}
            for key, value in values.items():
                found.setdefault(key, []).append(value)
        return {key: np.array(values, dtype=np.float64) for key, values in found.items()}

    def _drawn(self) -> dict[str, Floats]:
        """Returns the metrics of every finding in every resample of the patients, (F, resamples)."""
        if self._few:
            weights = left_out_weights(self.people)
        else:
            weights = bootstrap_weights(self.people, draws=self.draws, seed=self.seed)
        probabilities = probabilities_of(self.logits, self.calibration.temperature)
        given = {"logit": self.logits, "probability": probabilities}
        # All of them as a slice, which copies no weights.
        known = [slice(None) if of.all() else of for of in (self.labels != IGNORE).T]
        return {
            one.name: np.stack(
                [
                    weighted_values(one, given[one.scores][rows, f], self.labels[rows, f], weights[:, rows])
                    for f, rows in enumerate(known)
                ]
            )
            for one in metrics_of("classification")
            if one.bootstrap
        }


def without_repetition(summary: pd.DataFrame) -> pd.DataFrame:
    """Returns a summary without the rows over all data sets where there is one data set, which they repeat."""
    together = summary["dataset"].isin([ALL, MEAN_OF_DATASETS])
    return summary[~together] if summary["dataset"][~together].nunique() == 1 else summary


def wide(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Returns logits and labels of findings, both (images, findings), and dataset, image and patient of every image.

    Labels that are ignored are nan.
    """
    images = table[["dataset", "image", "patient"]].drop_duplicates(["dataset", "image"], ignore_index=True)
    names, findings = pd.MultiIndex.from_frame(images[["dataset", "image"]]), [*table["class"].unique()]

    def of(name: str) -> pd.DataFrame:
        values = table[table["metric"] == name].pivot(index=["dataset", "image"], columns="class", values="value")
        return values.reindex(names)[findings]

    return of("logit"), of("label"), images


def reasons(summary: pd.DataFrame, dataset: str) -> Mapping[str, str]:
    """Returns the findings of a data set, or of `ALL`, that are left out of means, each with the reason."""
    rows = summary[(summary["dataset"] == dataset) & ~summary["class"].isin([MEAN_OF_FINDINGS, MEAN_OF_FREQUENT])]
    rows = rows.drop_duplicates("class")
    found = {}
    for name, positives, images in zip(rows["class"], rows["positives"], rows["images"], strict=True):
        if positives in (0, images):
            found[name] = "no negatives" if positives else "no positives" if images else "no labels"
    return found
