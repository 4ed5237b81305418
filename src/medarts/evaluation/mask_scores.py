"""The scores of a data set: one row per image and class, and tables with intervals made from them."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medarts.errors import RunError
from medarts.evaluation.files import EXAMPLES, again, csv_text, npz_bytes, read_scores, write_files
from medarts.evaluation.fingerprints import Fingerprints
from medarts.evaluation.statistics import bootstrap_means, percentile_interval
from medarts.metrics import definitions, metrics_of
from medarts.metrics.masks import CONVENTIONS
from medarts.system.files import open_table

ALL = "all"
MEAN_OF_DOMAINS = "mean of domains"
MEAN_OF_CLASSES = "mean of classes"
LEVEL = 0.95

TruthWord = Literal["empty", "present", "vanished"]
"""What the mask of an image has of a class: nothing, something, or something that resizing lost."""

_IMAGE_COLUMNS = ("domain", "key", "patient", "class_index", "class_name", "truth")
_MEANS = {
    ALL: "Mean over the images of all domains; bootstrap over all patients.",
    MEAN_OF_DOMAINS: (
        "Unweighted mean of the domains' means, of those that do not exclude the class; bootstrap over patients within "
        "every domain."
    ),
    MEAN_OF_CLASSES: "Mean over the classes of each image, of the values that are defined, then over images.",
    "low, high": (
        f"{100 * LEVEL:g} % percentile bootstrap interval over patients, all images of a drawn patient together; "
        "null where fewer than two patients (of any domain, for the mean of domains) have a value."
    ),
}
OF_EXAMPLES = tuple(one.name for one in metrics_of("segmentation") if one.needs_examples)
RULES = definitions("segmentation") | CONVENTIONS | _MEANS
"""What the scores of masks are, in words."""


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
        truth: what the true mask has of the class.
    """

    key: str
    domain: str
    patient: str
    class_index: int
    class_name: str
    metrics: dict[str, float]
    truth: TruthWord = "present"


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
        made_of: the images, weights and metrics; None in tests alone.
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

    def excluded(self) -> dict[str, list[str]]:
        """Returns for every domain the classes that none of its images shows; without domains that show all."""
        shown = self._shown()
        found: dict[str, dict[str, None]] = {}
        for score in self.images:
            if (score.domain, score.class_index) not in shown:
                found.setdefault(score.domain, {})[score.class_name] = None
        return {domain: list(names) for domain, names in found.items()}

    def vanished(self) -> dict[str, dict[str, int]]:
        """Returns for every domain the images in which resizing lost a class, by its name; without those without."""
        found: dict[str, dict[str, int]] = {}
        for score in self.images:
            if score.truth == "vanished":
                of_domain = found.setdefault(score.domain, {})
                of_domain[score.class_name] = of_domain.get(score.class_name, 0) + 1
        return found

    def counted(self) -> list[ImageScore]:
        """Returns the scores as they enter means: nan where the domain excludes the class (`OF_EXAMPLES`)."""
        shown = self._shown()
        return [
            score
            if (score.domain, score.class_index) in shown
            else replace(
                score, metrics=score.metrics | {name: math.nan for name in OF_EXAMPLES if name in score.metrics}
            )
            for score in self.images
        ]

    def table(self) -> list[TableRow]:
        """Returns the rows of every class: each domain, then `ALL`, then `MEAN_OF_DOMAINS`.

        Where there are several classes, their mean comes first, as the class `MEAN_OF_CLASSES`. Domains stand in the
        order of collection, classes in that of their indices. Classes without examples have rows without values.
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

    def _shown(self) -> set[tuple[str, int]]:
        """Returns the domains and indices of the classes that some image of the domain shows."""
        return {(score.domain, score.class_index) for score in self.images if score.truth != "empty"}

    def _with_mean_of_classes(self) -> list[ImageScore]:
        """Returns what is counted and, where there are several classes, each image's mean over those defined."""
        counted = self.counted()
        by_image: dict[tuple[str, str], list[ImageScore]] = {}
        for score in counted:
            by_image.setdefault((score.domain, score.key), []).append(score)
        if max((len(scores) for scores in by_image.values()), default=1) == 1:
            return counted
        return [*counted, *(_mean_of_classes(scores) for scores in by_image.values())]

    def write(self, folder: Path, *, examples: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Writes the scores; undefined values are empty in CSV and null in JSON.

        * ``examples.npz``: the examples.
        * ``images.csv``: the scores of every image and class, before classes are excluded.
        * ``tables.csv``: the table.
        * ``scores.json``, last: the table with everything needed to read it.

        Args:
            folder: gets the files.
            examples: arrays for the page.

        Raises:
            RunError: a file cannot be written.
        """
        table = self.table()
        metrics = [*self.images[0].metrics] if self.images else []
        columns = ["domain", "class", "images", "patients", "metric", "mean", "low", "high", "undefined"]
        files: dict[str, str | bytes] = {} if examples is None else {EXAMPLES: npz_bytes(examples)}
        files["images.csv"] = csv_text([*_IMAGE_COLUMNS, *metrics], map(_image_cells, self.images))
        files["tables.csv"] = csv_text(columns, (cells for row in table for cells in _table_cells(row)))
        content = {
            "split": self.split,
            "checkpoint": self.checkpoint,
            "head": self.head,
            "made_of": None if self.made_of is None else asdict(self.made_of),
            "bootstrap": {"draws": self.draws, "seed": self.seed, "level": LEVEL},
            "excluded": self.excluded(),
            "vanished": self.vanished(),
            "definitions": RULES,
            "tables": [_as_json(row) for row in table],
        }
        write_files(folder, content, files)

    @classmethod
    def read(cls, folder: Path) -> "Scores":
        """Reads what `write` wrote; the tables are made again from the images and are equal.

        Raises:
            RunError: a file is missing, damaged, or not one that `write` wrote.
        """
        content = read_scores(folder)
        try:
            with open_table(folder / "images.csv") as file:
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
        except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
            raise RunError(f"{folder} holds no scores of masks ({error!r}).", fix=again(folder)) from error

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
        drawn: list[NDArray[np.floating[Any]]] = []
        undefined = 0
        without = [metric in OF_EXAMPLES and all(score.truth == "empty" for score in group) for group in groups]
        for index, group in enumerate(groups):
            if without[index] and not all(without):  # the mean of domains is over those that show the class
                undefined += len(group)
                continue
            values = np.array([score.metrics[metric] for score in group])
            missing = np.isnan(values)
            undefined += int(missing.sum())
            means.append(float("nan") if missing.all() else float(values[~missing].mean()))
            # Patient "1" of two domains is two people; JSON keeps ("a", "b/c") and ("a/b", "c") apart.
            patients = [json.dumps([score.domain, score.patient]) for score in group]
            # A seed of its own for every domain: equal draws would make independent domains move together.
            seed = (self.seed, index)
            drawn.append(bootstrap_means(values, patients, draws=self.draws, seed=seed))
        interval = percentile_interval(np.mean(drawn, axis=0), level=LEVEL)
        return Summary(mean=sum(means) / len(means), low=interval.low, high=interval.high, undefined=undefined)


def _mean_of_classes(scores: Sequence[ImageScore]) -> ImageScore:
    """Returns the mean over the classes of one image, of each metric's defined values."""
    metrics = {}
    for name in scores[0].metrics:
        values = [score.metrics[name] for score in scores if not math.isnan(score.metrics[name])]
        metrics[name] = sum(values) / len(values) if values else float("nan")
    truths = {score.truth for score in scores}
    truth: TruthWord = "present" if "present" in truths else "vanished" if "vanished" in truths else "empty"
    return replace(scores[0], class_index=0, class_name=MEAN_OF_CLASSES, metrics=metrics, truth=truth)


def read_made_of(content: dict[str, Any]) -> Fingerprints | None:
    """Returns what ``scores.json`` says of images, weights and metrics.

    Raises:
        LookupError, TypeError: it says nothing of them, or something else.
    """
    given = content["made_of"]
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
    about = [score.domain, score.key, score.patient, score.class_index, score.class_name, score.truth]
    return [*about, *(number(value) for value in score.metrics.values())]


def _image_of(cells: dict[str, str]) -> ImageScore:
    if None in cells or None in cells.values():  # how csv says that a line is too long or too short
        raise ValueError("a line of images.csv has more or fewer cells than its first")
    about = {column: cells.pop(column) for column in _IMAGE_COLUMNS}
    (truth,) = (word for word in get_args(TruthWord) if word == about["truth"])
    return ImageScore(
        key=about["key"],
        domain=about["domain"],
        patient=about["patient"],
        class_index=int(about["class_index"]),
        class_name=about["class_name"],
        metrics={name: float(value) if value else float("nan") for name, value in cells.items()},
        truth=truth,
    )
