"""The scores of a data set: one row per image and class, and tables with intervals made from them."""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medarts.errors import RunError
from medarts.evaluation.fingerprints import Fingerprints
from medarts.evaluation.statistics import bootstrap_means, percentile_interval
from medarts.run.directory import write_whole
from medarts.tasks.metrics import DEFINITIONS

ALL = "all"
MEAN_OF_DOMAINS = "mean of domains"
MEAN_OF_CLASSES = "mean of classes"
LEVEL = 0.95

FILE = "scores.json"
"""Written last: where it stands, the other files of its folder are whole."""

_IMAGE_COLUMNS = ("domain", "key", "patient", "class_index", "class_name")
_MEANS = {
    ALL: "Mean over the images of all domains; bootstrap over all patients.",
    MEAN_OF_DOMAINS: "Unweighted mean of the domains' means; bootstrap over patients within every domain.",
    "low, high": (
        f"{100 * LEVEL:g} % percentile bootstrap interval over patients, all images of a drawn patient together; "
        "null where fewer than two patients (of any domain, for the mean of domains) have a value."
    ),
}


@dataclass(frozen=True, slots=True)
class ImageScore:
    """The scores of one class in one image.

    Attributes:
        key: name of the image, unique within its domain.
        domain: name of its data set.
        patient: its patient, unique within its domain.
        class_index: index of the foreground class, from 1.
        class_name: name of the class.
        metrics: score of every metric; nan where undefined.
    """

    key: str
    domain: str
    patient: str
    class_index: int
    class_name: str
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Summary:
    """One metric over the images of a table row.

    Attributes:
        mean: mean of the defined values; nan where there is none.
        low: lower end of the interval; nan where undefined.
        high: upper end of the interval; nan where undefined.
        undefined: images left out of the mean because their value is undefined.
    """

    mean: float
    low: float
    high: float
    undefined: int


@dataclass(frozen=True, slots=True)
class TableRow:
    """One class in one domain, in all domains (`ALL`) or as the mean of the domains (`MEAN_OF_DOMAINS`).

    Attributes:
        domain: name of the domain, `ALL` or `MEAN_OF_DOMAINS`.
        class_name: name of the class.
        images: number of images.
        patients: number of patients.
        metrics: summary of every metric.
    """

    domain: str
    class_name: str
    images: int
    patients: int
    metrics: dict[str, Summary]


@dataclass
class Scores:
    """Scores of a checkpoint on a split.

    Attributes:
        split: the split scored.
        checkpoint: the checkpoint scored.
        head: the head of the network scored.
        draws: draws of the bootstrap.
        seed: seed of the bootstrap.
        images: the scores collected.
        made_of: the images and weights that were scored; None where that was not noted.
    """

    split: str
    checkpoint: str
    head: str
    draws: int = 2000
    seed: int = 0
    images: list[ImageScore] = field(default_factory=list)
    made_of: Fingerprints | None = None

    def add(self, score: ImageScore) -> None:
        """Collects the scores of one class in one image.

        Raises:
            ValueError: its metrics are not those of the scores before it, in the same order.
        """
        if self.images and [*self.images[0].metrics] != [*score.metrics]:
            raise ValueError(f"{score.key} has metrics {[*score.metrics]}, not {[*self.images[0].metrics]}")
        self.images.append(score)

    def table(self) -> list[TableRow]:
        """Returns the rows of every class: each domain, then `ALL`, then `MEAN_OF_DOMAINS`.

        Where there are several classes, their mean comes first, as the class `MEAN_OF_CLASSES`. Domains stand in the
        order of collection, classes in that of their indices.
        """
        rows: list[TableRow] = []
        images = self._with_mean_of_classes()
        for index, name in sorted({(score.class_index, score.class_name) for score in images}):
            by_domain: dict[str, list[ImageScore]] = {}
            for score in images:
                if (score.class_index, score.class_name) == (index, name):
                    by_domain.setdefault(score.domain, []).append(score)
            together = [score for scores in by_domain.values() for score in scores]
            rows += [self._row(domain, name, [scores]) for domain, scores in by_domain.items()]
            rows.append(self._row(ALL, name, [together]))
            rows.append(self._row(MEAN_OF_DOMAINS, name, list(by_domain.values())))
        return rows

    def _with_mean_of_classes(self) -> list[ImageScore]:
        """Returns the scores and, where there are several classes, each image's mean over those that are defined."""
        by_image: dict[tuple[str, str], list[ImageScore]] = {}
        for score in self.images:
            by_image.setdefault((score.domain, score.key), []).append(score)
        if max((len(scores) for scores in by_image.values()), default=1) == 1:
            return self.images
        return [*self.images, *(_mean_of_classes(scores) for scores in by_image.values())]

    def write(self, folder: Path) -> None:
        """Writes ``images.csv``, ``tables.csv`` and, last, ``scores.json``; undefined values are empty or null."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).unlink(missing_ok=True)  # it is about the other files, which are now written anew
        table = self.table()
        metrics = [*self.images[0].metrics] if self.images else []
        image_rows = [_image_cells(score) for score in self.images]
        write_csv(folder / "images.csv", [*_IMAGE_COLUMNS, *metrics], image_rows)
        columns = ["domain", "class", "images", "patients", "metric", "mean", "low", "high", "undefined"]
        write_csv(folder / "tables.csv", columns, [cells for row in table for cells in _table_cells(row)])
        content = {
            "split": self.split,
            "checkpoint": self.checkpoint,
            "head": self.head,
            "made_of": None if self.made_of is None else asdict(self.made_of),
            "bootstrap": {"draws": self.draws, "seed": self.seed, "level": LEVEL},
            "definitions": DEFINITIONS | _MEANS,
            "tables": [_as_json(row) for row in table],
        }
        write_whole(folder / FILE, json.dumps(content, indent=2, allow_nan=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Scores":
        """Reads what `write` wrote; the tables are made again from the images and are equal.

        Raises:
            RunError: a file is missing or is not one that `write` wrote.
        """
        fix = "Evaluate the run again to write it anew."
        try:
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
            with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
                images = [_image_of(cells) for cells in csv.DictReader(file, strict=True)]
            return cls(
                split=content["split"],
                checkpoint=content["checkpoint"],
                head=content["head"],
                draws=content["bootstrap"]["draws"],
                seed=content["bootstrap"]["seed"],
                images=images,
                made_of=read_made_of(content),
            )
        except FileNotFoundError as error:
            raise RunError(f"{error.filename} does not exist.", fix=fix) from error
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise RunError(f"The scores in {folder} cannot be read: {error!r}.", fix=fix) from error

    def _row(self, domain: str, class_name: str, groups: Sequence[Sequence[ImageScore]]) -> TableRow:
        scores = [score for group in groups for score in group]
        return TableRow(
            domain=domain,
            class_name=class_name,
            images=len(scores),
            patients=len({(score.domain, score.patient) for score in scores}),
            metrics={name: self._summary(name, groups) for name in scores[0].metrics},
        )

    def _summary(self, metric: str, groups: Sequence[Sequence[ImageScore]]) -> Summary:
        """Summarises the mean of the groups' means; a row of one domain has one group."""
        means: list[float] = []
        drawn = np.zeros(self.draws)
        undefined = 0
        for index, group in enumerate(groups):
            values = np.array([score.metrics[metric] for score in group])
            missing = np.isnan(values)
            undefined += int(missing.sum())
            means.append(float("nan") if missing.all() else float(values[~missing].mean()))
            # Patient "1" of two domains is two people; JSON keeps ("a", "b/c") and ("a/b", "c") apart.
            patients = [json.dumps([score.domain, score.patient]) for score in group]
            # A seed of its own for every domain: equal draws would make independent domains move together.
            seed = (self.seed, index)
            drawn += bootstrap_means(values, patients, draws=self.draws, seed=seed) / len(groups)
        interval = percentile_interval(drawn, level=LEVEL)
        return Summary(mean=sum(means) / len(means), low=interval.low, high=interval.high, undefined=undefined)


def _mean_of_classes(scores: Sequence[ImageScore]) -> ImageScore:
    """Returns the mean over the classes of one image, of each metric's defined values."""
    metrics = {}
    for name in scores[0].metrics:
        values = [score.metrics[name] for score in scores if not math.isnan(score.metrics[name])]
        metrics[name] = sum(values) / len(values) if values else float("nan")
    return replace(scores[0], class_index=0, class_name=MEAN_OF_CLASSES, metrics=metrics)


def read_made_of(content: dict[str, Any]) -> Fingerprints | None:
    """Returns what ``scores.json`` says of images and weights; None where it was written before that was noted.

    Raises:
        TypeError: it says something else.
    """
    given = content.get("made_of")
    return None if given is None else Fingerprints(**given)


def number(value: float) -> float | None:
    """Returns the value, or None for nan, which JSON does not know."""
    return None if math.isnan(value) else value


def _numbers(summary: Summary) -> list[float | None]:
    return [number(summary.mean), number(summary.low), number(summary.high)]


def _as_json(row: TableRow) -> dict[str, object]:
    metrics = {
        name: dict(zip(("mean", "low", "high"), _numbers(summary), strict=True)) | {"undefined": summary.undefined}
        for name, summary in row.metrics.items()
    }
    return {
        "domain": row.domain,
        "class": row.class_name,
        "images": row.images,
        "patients": row.patients,
        "metrics": metrics,
    }


def _table_cells(row: TableRow) -> list[list[object]]:
    return [
        [row.domain, row.class_name, row.images, row.patients, name, *_numbers(summary), summary.undefined]
        for name, summary in row.metrics.items()
    ]


def _image_cells(score: ImageScore) -> list[object]:
    about = [score.domain, score.key, score.patient, score.class_index, score.class_name]
    return [*about, *(number(value) for value in score.metrics.values())]


def _image_of(cells: dict[str, str]) -> ImageScore:
    if None in cells or None in cells.values():  # how csv says that a line is too long or too short
        raise ValueError("a line of images.csv has more or fewer cells than its first")
    about = {column: cells.pop(column) for column in _IMAGE_COLUMNS}
    return ImageScore(
        key=about["key"],
        domain=about["domain"],
        patient=about["patient"],
        class_index=int(about["class_index"]),
        class_name=about["class_name"],
        metrics={name: float(value) if value else float("nan") for name, value in cells.items()},
    )


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Writes a CSV file with a header; None becomes an empty cell."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
