"""The scores of a classifier of findings: its predictions for every image, and what is made of them."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.errors import RunError
from medarts.evaluation import finding_table
from medarts.evaluation.files import EXAMPLES, again, csv_text, npz_bytes, read_scores, write_files
from medarts.evaluation.finding_table import SENSITIVE, YOUDEN, FindingRow, Group, mean_of_defined
from medarts.evaluation.fingerprints import Fingerprints
from medarts.evaluation.mask_scores import ALL, LEVEL, number, read_made_of
from medarts.metrics import calibration, definitions, ranking
from medarts.metrics.calibration import fit_temperature, probabilities_of, reliability
from medarts.metrics.ranking import (
    auroc,
    precision_recall_curve,
    roc_curve,
    threshold_for_sensitivity,
    threshold_youden,
)
from medarts.system.files import open_table

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.uint8]

CURVE_POINTS = 200

RULES = (
    definitions("classification")
    | ranking.DEFINITIONS
    | calibration.DEFINITIONS
    | finding_table.DEFINITIONS
    | {ALL: "All images of all domains together; patients of different domains are different people."}
)
"""What the scores of findings are, in words."""

_IMAGE_COLUMNS = ("domain", "key", "patient")
_OF_A_FINDING = ("label", "logit", "probability")


@dataclass(eq=False)
class Predictions:
    """What a network says of the images of a split, beside what is known of them.

    Attributes:
        keys: name of every image, unique within its domain.
        domains: name of the data set of every image.
        patients: patient of every image, unique within its domain.
        logits: (N, F), kept in float64.
        labels: (N, F), 0 or 1, kept in uint8.

    Raises:
        RunError: a logit is not finite.
        ValueError: the parts differ in size.
    """

    keys: Sequence[str]
    domains: Sequence[str]
    patients: Sequence[str]
    logits: Floats
    labels: Labels

    def __post_init__(self) -> None:
        self.logits = np.asarray(self.logits, dtype=np.float64)
        self.labels = np.asarray(self.labels, dtype=np.uint8)
        sizes = {len(self.keys), len(self.domains), len(self.patients), len(self.logits)}
        if len(sizes) > 1 or self.logits.ndim != 2 or self.logits.shape != self.labels.shape:
            raise ValueError(f"{sizes} images have logits {self.logits.shape} and labels {self.labels.shape}")
        broken = int((~np.isfinite(self.logits)).any(1).sum())
        if broken:
            raise RunError(
                f"The network's outputs for {broken} of {len(self.keys)} images are not finite.",
                fix="Evaluate it in fp32, or train it again with a smaller learning rate.",
            )

    def groups(self) -> dict[str, NDArray[np.intp]]:
        """Returns the positions of the images of every domain and, where there are several, of `ALL`."""
        domains = np.asarray(self.domains, dtype=np.str_)
        found = {name: np.flatnonzero(domains == name) for name in dict.fromkeys(self.domains)}
        return found if len(found) < 2 else found | {ALL: np.arange(len(domains))}

    def people(self, members: NDArray[np.intp]) -> NDArray[np.intp]:
        """Returns a number for each image's patient, from 0 on; patient "1" of two domains is two people."""
        names = [(self.domains[i], self.patients[i]) for i in members]
        numbers = {name: place for place, name in enumerate(sorted(set(names)))}
        return np.array([numbers[name] for name in names], dtype=np.intp)


@dataclass(frozen=True, eq=False)
class FindingScores:
    """Scores of a checkpoint on a split.

    Attributes:
        split: the split scored.
        checkpoint: the checkpoint scored.
        findings: names of the network's outputs.
        predictions: what the network says of the images of the split.
        temperature: divides the logits before the sigmoid; chosen on validation.
        sensitivity: what the thresholds of `SENSITIVE` reach on validation.
        thresholds: by `YOUDEN` and `SENSITIVE`, one for every finding (F,), chosen on validation; nan where undefined.
        without_thresholds: the findings without thresholds, each with the reason.
        draws: draws of the bootstrap.
        seed: seed of the bootstrap.
        made_of: the images, those of validation among them, the weights and the metrics; None in tests alone.

    Raises:
        ValueError: a name occurs twice, or the predictions or thresholds are not those of the findings.
    """

    split: str
    checkpoint: str
    findings: tuple[str, ...]
    predictions: Predictions
    temperature: float
    sensitivity: float
    thresholds: dict[str, Floats]
    without_thresholds: dict[str, str]
    draws: int = 2000
    seed: int = 0
    made_of: Fingerprints | None = None

    def __post_init__(self) -> None:
        outputs = [self.predictions.logits.shape[1], *(len(self.thresholds[rule]) for rule in (YOUDEN, SENSITIVE))]
        if {len(set(self.findings)), *outputs} != {len(self.findings)}:
            raise ValueError(f"the findings {self.findings} do not fit predictions and thresholds of {outputs}")

    @classmethod
    def of(
        cls,
        predictions: Predictions,
        validation: Predictions,
        *,
        findings: Sequence[str],
        split: str,
        checkpoint: str,
        sensitivity: float,
        draws: int = 2000,
        seed: int = 0,
        made_of: Fingerprints | None = None,
    ) -> "FindingScores":
        """Chooses temperature and thresholds on the validation images, for the images to score.

        Args:
            predictions: of the images to score.
            validation: of the validation images.
            findings: names of the network's outputs.
            split: the split scored.
            checkpoint: the checkpoint scored.
            sensitivity: what the second threshold of every finding is to reach, above 0, at most 1.
            draws: draws of the bootstrap.
            seed: seed of the bootstrap.
            made_of: the images and weights that were scored.
        """
        temperature = fit_temperature(validation.logits, validation.labels)
        probabilities = probabilities_of(validation.logits, temperature)
        absent = _absent(findings, validation.labels)
        thresholds = {rule: np.full(len(findings), np.nan) for rule in (YOUDEN, SENSITIVE)}
        for f, name in enumerate(findings):
            if name not in absent:
                column = (probabilities[:, f], validation.labels[:, f])
                thresholds[YOUDEN][f] = threshold_youden(*column)
                thresholds[SENSITIVE][f] = threshold_for_sensitivity(*column, sensitivity)
        return cls(
            split=split,
            checkpoint=checkpoint,
            findings=tuple(findings),
            predictions=predictions,
            temperature=temperature,
            sensitivity=sensitivity,
            thresholds=thresholds,
            without_thresholds={name: f"{reason} in validation" for name, reason in absent.items()},
            draws=draws,
            seed=seed,
            made_of=made_of,
        )

    @cached_property
    def probabilities(self) -> Floats:
        """Probabilities after temperature, (N, F) in 0..1."""
        return probabilities_of(self.predictions.logits, self.temperature)

    @property
    def mean_auroc(self) -> float:
        """Mean AUROC over all images of the findings that some and not all of them have; nan where there is none."""
        columns = zip(self.predictions.logits.T, self.predictions.labels.T, strict=True)
        return float(mean_of_defined(np.array([auroc(*column) for column in columns]), axis=0))

    def excluded(self) -> dict[str, dict[str, str]]:
        """Returns the findings left out of the means of every domain, each with the reason."""
        labels = self.predictions.labels
        return {name: _absent(self.findings, labels[rows]) for name, rows in self.predictions.groups().items()}

    def table(self) -> list[FindingRow]:
        """Returns the rows of each domain, then of `ALL` where there are several; the means come first in each.

        Domains and findings keep their order. The mean of frequent findings is there where it is another than that
        of all. The rows are made once, as a bootstrap of many images takes seconds.
        """
        return list(self._rows)

    @cached_property
    def _rows(self) -> list[FindingRow]:
        return [
            row
            for domain, members in self.predictions.groups().items()
            for row in Group(
                domain=domain,
                findings=self.findings,
                logits=self.predictions.logits[members],
                probabilities=self.probabilities[members],
                labels=self.predictions.labels[members],
                people=self.predictions.people(members),
            ).rows(self.thresholds, draws=self.draws, seed=self.seed)
        ]

    def write(self, folder: Path, *, examples: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Writes the scores; undefined values are empty in CSV and null in JSON.

        * ``examples.npz``: the examples.
        * ``predictions.csv``: label, logit and probability after temperature of every image and finding.
        * ``findings.csv``: the table.
        * ``calibration.csv``: reliability over all images and findings, before and after temperature.
        * ``curves.csv``: ROC (x 1 - specificity, y sensitivity, from an infinite threshold on) and precision-recall
          curve (x recall, y precision) over all images of every finding that some and not all have, each thinned to
          `CURVE_POINTS`; thresholds are probabilities after temperature.
        * ``scores.json``, last: the table with everything needed to read it.

        Args:
            folder: gets the files.
            examples: arrays for the page.

        Raises:
            RunError: a file cannot be written.
        """
        table = self.table()
        files: dict[str, str | bytes] = {} if examples is None else {EXAMPLES: npz_bytes(examples)}
        files["predictions.csv"] = csv_text(_prediction_columns(self.findings), self._prediction_cells())
        columns = [*table[0].as_cells()] if table else []
        files["findings.csv"] = csv_text(columns, (row.as_cells().values() for row in table))
        columns = ["stage", "low", "high", "predictions", "mean_probability", "observed"]
        files["calibration.csv"] = csv_text(columns, self._calibration_cells())
        files["curves.csv"] = csv_text(["finding", "curve", "x", "y", "threshold"], self._curve_cells())
        content = {
            "split": self.split,
            "checkpoint": self.checkpoint,
            "made_of": None if self.made_of is None else asdict(self.made_of),
            "bootstrap": {"draws": self.draws, "seed": self.seed, "level": LEVEL},
            "findings": self.findings,
            "temperature": self.temperature,
            "sensitivity": self.sensitivity,
            "thresholds": {
                rule: dict(zip(self.findings, map(number, of.tolist()), strict=True))
                for rule, of in self.thresholds.items()
            },
            "without_thresholds": self.without_thresholds,
            "excluded": self.excluded(),
            "definitions": RULES,
            "tables": [row.as_json() for row in table],
        }
        write_files(folder, content, files)

    @classmethod
    def read(cls, folder: Path) -> "FindingScores":
        """Reads what `write` wrote; the tables are made again from the predictions and are equal.

        Raises:
            RunError: a file is missing, damaged, or not one that `write` wrote.
        """
        content = read_scores(folder)
        try:
            findings = tuple(content["findings"])
            return cls(
                split=content["split"],
                checkpoint=content["checkpoint"],
                findings=findings,
                predictions=_read_predictions(folder / "predictions.csv", findings),
                temperature=float(content["temperature"]),
                sensitivity=float(content["sensitivity"]),
                thresholds={
                    rule: np.array([of[name] for name in findings], dtype=np.float64)
                    for rule, of in content["thresholds"].items()
                },
                without_thresholds=content["without_thresholds"],
                draws=int(content["bootstrap"]["draws"]),
                seed=int(content["bootstrap"]["seed"]),
                made_of=read_made_of(content),
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
            raise RunError(f"{folder} holds no scores of findings ({error!r}).", fix=again(folder)) from error

    def _prediction_cells(self) -> Iterator[list[object]]:
        given = self.predictions
        columns = (given.labels.tolist(), given.logits.tolist(), self.probabilities.tolist())
        for domain, key, patient, *row in zip(given.domains, given.keys, given.patients, *columns, strict=True):
            yield [domain, key, patient, *(cell for finding in zip(*row, strict=True) for cell in finding)]

    def _calibration_cells(self) -> Iterator[list[object]]:
        stages = {"before": probabilities_of(self.predictions.logits), "after": self.probabilities}
        for stage, probabilities in stages.items():
            edges, *columns = reliability(probabilities, self.predictions.labels)
            bins = zip(edges[:-1].tolist(), edges[1:].tolist(), *(column.tolist() for column in columns), strict=True)
            for low, high, count, mean, observed in bins:
                yield [stage, low, high, count, number(mean), number(observed)]

    def _curve_cells(self) -> Iterator[list[object]]:
        absent = _absent(self.findings, self.predictions.labels)
        for f, name in enumerate(self.findings):
            for kind, curve in (("roc", roc_curve), ("pr", precision_recall_curve)) if name not in absent else ():
                points = curve(self.probabilities[:, f], self.predictions.labels[:, f]).thinned(CURVE_POINTS)
                for point in zip(*(column.tolist() for column in points), strict=True):
                    yield [name, kind, *point]


def _absent(findings: Sequence[str], labels: Labels) -> dict[str, str]:
    """Returns the findings that cannot be ranked on these images, each with the reason."""
    seen, lacking = (labels == 1).any(0), (labels == 0).any(0)
    reasons = np.where(seen, "no negatives", "no positives").tolist()
    return {name: reason for name, reason, usable in zip(findings, reasons, seen & lacking, strict=True) if not usable}


def _prediction_columns(findings: Sequence[str]) -> list[str]:
    return [*_IMAGE_COLUMNS, *(f"{finding} {of}" for finding in findings for of in _OF_A_FINDING)]


def _read_predictions(path: Path, findings: Sequence[str]) -> Predictions:
    columns = _prediction_columns(findings)
    with open_table(path) as file:
        header, *lines = csv.reader(file, strict=True)
    if header != columns or any(len(line) != len(columns) for line in lines):
        raise ValueError(f"{path.name} does not have the columns of the findings in every line")
    about, step = len(_IMAGE_COLUMNS), len(_OF_A_FINDING)
    shape = (len(lines), len(findings))
    labels = [[("0", "1").index(cell) for cell in line[about::step]] for line in lines]
    logits = [[float(cell) for cell in line[about + 1 :: step]] for line in lines]
    return Predictions(
        domains=[line[0] for line in lines],
        keys=[line[1] for line in lines],
        patients=[line[2] for line in lines],
        logits=np.array(logits, dtype=np.float64).reshape(shape),
        labels=np.array(labels, dtype=np.uint8).reshape(shape),
    )
