"""The rows of a classifier's table: scores of every finding, their means, intervals by a bootstrap over patients."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.evaluation.mask_scores import LEVEL, Summary, number
from medarts.evaluation.statistics import draw_patients, percentile_interval
from medarts.metrics.calibration import expected_calibration_error, probabilities_of
from medarts.metrics.ranking import OperatingPoint, auroc, average_precision, operating_point, weighted_ranking

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.uint8]
Indices = NDArray[np.intp]

MEAN_OF_FINDINGS = "mean of findings"
FEW = 5
MEAN_OF_FREQUENT = f"mean of findings with {FEW} or more positives"
MEANS = (MEAN_OF_FINDINGS, MEAN_OF_FREQUENT)
YOUDEN = "youden"
SENSITIVE = "sensitive"

DEFINITIONS: dict[str, str] = {
    MEAN_OF_FINDINGS: (
        "Unweighted mean over the findings that some and not all images of the domain have; the others are excluded, "
        "and listed with the reason. A value that a finding lacks is left out of its mean."
    ),
    MEAN_OF_FREQUENT: f"The same over the findings with {FEW} or more positive images in the domain.",
    "low, high": (
        f"{100 * LEVEL:g} % percentile bootstrap interval: patients are drawn with replacement, all images of a drawn "
        "patient together, the same draws for all findings. A draw that leaves a finding without positive or without "
        "negative images has no value for it (undefined counts such draws), and the mean over findings is then that "
        "of the others. Null where fewer than two patients have an image with the finding, or one without it; for a "
        "mean, where that is so of all its findings."
    ),
    YOUDEN: "Threshold at which sensitivity + specificity is largest on the validation images.",
    SENSITIVE: "Largest threshold that reaches the chosen sensitivity on the validation images.",
    "threshold": "Probability after temperature from which an image counts as positive.",
    "ece before, after": "Expected calibration error before and after temperature.",
}
"""What the rows and intervals mean."""


@dataclass(frozen=True, slots=True)
class FindingRow:
    """One finding, or the mean of several, in one domain or in all.

    Attributes:
        domain: name of the domain, or of all together.
        finding: name of the finding, `MEAN_OF_FINDINGS` or `MEAN_OF_FREQUENT`.
        findings: number of findings averaged; 1 for a finding.
        images: number of images.
        patients: number of patients.
        positives: number of images with the finding; of a mean, the sum over its findings.
        auroc: area under the ROC curve; ``undefined`` counts the draws of the bootstrap without a value.
        average_precision: likewise.
        youden: what the threshold of `YOUDEN` does here; a mean has no threshold.
        sensitive: what the threshold of `SENSITIVE` does here.
        ece_before: expected calibration error before temperature.
        ece_after: and after it.
    """

    domain: str
    finding: str
    findings: int
    images: int
    patients: int
    positives: int
    auroc: Summary
    average_precision: Summary
    youden: OperatingPoint
    sensitive: OperatingPoint
    ece_before: float
    ece_after: float

    def as_json(self) -> dict[str, Any]:
        """Returns the row as in ``scores.json``; undefined values are None."""
        counts = ("domain", "finding", "findings", "images", "patients", "positives")
        summaries = {
            name: {"mean": one.mean, "low": one.low, "high": one.high, "undefined": one.undefined}
            for name, one in (("auroc", self.auroc), ("average_precision", self.average_precision))
        }
        points = {YOUDEN: self.youden._asdict(), SENSITIVE: self.sensitive._asdict()}
        ece = {"ece": {"before": self.ece_before, "after": self.ece_after}}
        values: dict[str, dict[str, float]] = summaries | points | ece
        return {name: getattr(self, name) for name in counts} | {
            name: {key: number(value) for key, value in of.items()} for name, of in values.items()
        }

    def as_cells(self) -> dict[str, object]:
        """Returns the row as in ``findings.csv``, by column: `as_json` with names as ``auroc_low``."""
        cells: dict[str, object] = {}
        for name, value in self.as_json().items():
            cells |= {f"{name}_{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        return cells


@dataclass(frozen=True, eq=False)
class Group:
    """The images of one domain, or of all.

    Attributes:
        domain: name of the domain.
        findings: names of the network's outputs.
        logits: (N, F), N at least 1.
        probabilities: after temperature (N, F).
        labels: (N, F), 0 or 1.
        people: number of each image's patient (N,), from 0 on without gaps.
    """

    domain: str
    findings: tuple[str, ...]
    logits: Floats
    probabilities: Floats
    labels: Labels
    people: Indices

    def rows(self, thresholds: dict[str, Floats], *, draws: int, seed: int) -> list[FindingRow]:
        """Returns the rows of the group, the means before the findings.

        Args:
            thresholds: by `YOUDEN` and `SENSITIVE`, (F,) each; nan where undefined.
            draws: draws of the bootstrap.
            seed: seed of the bootstrap.
        """
        drawn = self.draw(draws=draws, seed=seed)
        rows = [
            self._row(f, {rule: of[f] for rule, of in thresholds.items()}, drawn[:, f])
            for f in range(len(self.findings))
        ]
        present = [f for f, row in enumerate(rows) if 0 < row.positives < row.images]
        frequent = [f for f in present if rows[f].positives >= FEW]
        means = {MEAN_OF_FINDINGS: present} | ({MEAN_OF_FREQUENT: frequent} if 0 < len(frequent) < len(present) else {})
        return [*(self._mean_row(name, [rows[f] for f in of], drawn[:, of]) for name, of in means.items()), *rows]

    def draw(self, *, draws: int, seed: int) -> Floats:
        """Returns AUROC and average precision of every finding in every draw of the bootstrap, (2, F, draws)."""
        weights = draw_patients(self.people, draws=draws, seed=seed)
        columns = zip(self.logits.T, self.labels.T, strict=True)
        return np.stack([weighted_ranking(*column, weights) for column in columns], axis=1)

    def _row(self, f: int, thresholds: dict[str, float], drawn: Floats) -> FindingRow:
        logits, probabilities, labels = self.logits[:, f], self.probabilities[:, f], self.labels[:, f]
        points = {rule: operating_point(probabilities, labels, value) for rule, value in thresholds.items()}
        # With one patient on a side, nothing is known of the spread between such patients.
        known = all(len(np.unique(self.people[labels == label])) > 1 for label in (0, 1))
        return FindingRow(
            domain=self.domain,
            finding=self.findings[f],
            findings=1,
            images=len(labels),
            patients=len(np.unique(self.people)),
            positives=int(labels.sum(dtype=np.int64)),
            auroc=_summary(auroc(logits, labels), drawn[0], known=known),
            average_precision=_summary(average_precision(logits, labels), drawn[1], known=known),
            youden=points[YOUDEN],
            sensitive=points[SENSITIVE],
            ece_before=expected_calibration_error(probabilities_of(logits), labels),
            ece_after=expected_calibration_error(probabilities, labels),
        )

    def _mean_row(self, name: str, rows: Sequence[FindingRow], drawn: Floats) -> FindingRow:
        """Returns the mean of rows, given their draws (2, rows, draws)."""
        known = any(not math.isnan(row.auroc.low) for row in rows)
        areas, precisions = mean_of_defined(drawn, axis=1)
        return FindingRow(
            domain=self.domain,
            finding=name,
            findings=len(rows),
            images=len(self.labels),
            patients=len(np.unique(self.people)),
            positives=sum(row.positives for row in rows),
            auroc=_summary(_mean(row.auroc.mean for row in rows), areas, known=known),
            average_precision=_summary(_mean(row.average_precision.mean for row in rows), precisions, known=known),
            youden=_mean_point([row.youden for row in rows]),
            sensitive=_mean_point([row.sensitive for row in rows]),
            ece_before=_mean(row.ece_before for row in rows),
            ece_after=_mean(row.ece_after for row in rows),
        )


def mean_of_defined(values: Floats, *, axis: int) -> Floats:
    """Returns the mean over an axis of the values that are not nan; nan where there is none."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(defined, values, 0).sum(axis) / defined.sum(axis)
    return means


def _mean(values: Iterable[float]) -> float:
    return float(mean_of_defined(np.array([*values], dtype=np.float64), axis=0))


def _mean_point(points: Sequence[OperatingPoint]) -> OperatingPoint:
    ratios = OperatingPoint._fields[1:]
    return OperatingPoint(math.nan, *(_mean(getattr(point, name) for point in points) for name in ratios))


def _summary(value: float, drawn: Floats, *, known: bool) -> Summary:
    defined = drawn[~np.isnan(drawn)]
    low, high = percentile_interval(defined, level=LEVEL) if known and len(defined) else (math.nan, math.nan)
    return Summary(mean=value, low=low, high=high, undefined=len(drawn) - len(defined))
