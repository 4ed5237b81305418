"""The long table of scores: a row for every image, class and metric, from which everything else is made.

Where images are slices, a row for every volume, class and metric follows them.

Columns:

* ``dataset``: name of the data set.
* ``image``: name of the image, or of the volume, unique within its data set.
* ``patient``: its patient, unique within its data set.
* ``class``: the class of a mask, or the finding.
* ``truth``: what the image truly has of it: "present", "empty", or "vanished" for a class that was lost when the mask
  was resized to the evaluated size; "unknown" for a finding whose label is ignored.
* ``metric``: of masks every metric of an image, as "dice"; of findings "label" (0 or 1; nan where it is ignored),
  "logit" and "probability" (after temperature), from which the metrics of a whole set are computed.
* ``value``: nan where undefined.
* ``kind``: "image" or "volume".
* ``unit``: of the value: "mm" or "px" of distances, "mm2", "mm3" or "px" of areas and volumes, "at 2 mm" of shares
  within a tolerance; empty of others. Values of different units are not averaged together.
* ``group``: what the image belongs to by a column of its data set's table, such as a centre or a device; may be empty.

Where scores of several runs are loaded, ``network``, ``seed`` and ``split`` come first:

    table = load_scores({"ours": ["runs/ours-0", "runs/ours-1"], "unet": ["runs/unet-0"]}, split="test")
    image_values(table).query("metric == 'dice'").groupby(["network", "dataset"]).value.mean()
"""

import csv
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medarts.errors import RunError
from medarts.evaluation.files import EXAMPLES, Fingerprints, again, npz_bytes, read_files, write_files
from medarts.evaluation.stats import LEVEL
from medarts.metrics import Task, definitions, metrics_of
from medarts.system.files import open_file

COLUMNS = ("dataset", "image", "patient", "class", "truth", "metric", "value", "kind", "unit", "group")
"""Of the table of one run."""

_USUAL = {"kind": "image", "unit": "", "group": ""}
"""Of rows that end before."""

RUN_COLUMNS = ("network", "seed", "split")
"""What is added where several runs are loaded."""

DECISIONS, VOLUMES, GROUPS, BETWEEN = "decisions.csv", "volumes.csv", "groups.csv", "between_groups.csv"

IMAGES_AS_PATIENTS = "every image counts as a patient; intervals may be too narrow."
TRUTHS = ("present", "empty", "vanished", "unknown")

_TEXTS = (
    *("dataset", "image", "patient", "class", "truth", "metric", "kind", "unit", "group", "other", "head", "decision"),
)


@dataclass(frozen=True)
class Calibration:
    """What was fitted to the validation images of a network for findings.

    Attributes:
        temperature: divides the logits before the sigmoid.
        sensitivity: what the thresholds of the rule "sensitive" reach on validation.
        thresholds: by rule ("youden", "sensitive") and finding the probability from which it is called; None where
            validation cannot rank the finding.
        without_thresholds: the findings without thresholds, each with the reason.
    """

    temperature: float
    sensitivity: float
    thresholds: Mapping[str, Mapping[str, float | None]]
    without_thresholds: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a checkpoint on a split.

    Attributes:
        table: the long table.
        split: the split scored.
        checkpoint: the checkpoint scored.
        head: the head of a network for masks.
        draws: draws of the bootstrap.
        seed: seed of the bootstrap.
        made_of: the images, weights and metrics; None in tests alone.
        calibration: of a network for findings.
        summary: means with intervals, see ``medarts.evaluation.summary``.
        decisions: of masks, what other ways from the network to them gain, see ``medarts.evaluation.deciding``.
        volumes: the summary of volumes; None where no image is a slice.
        groups: the summary of every group, with the column ``group``; None without groups.
        between: differences between groups, see ``medarts.evaluation.grouping``.
        about: of masks how they were scored (resolution, tolerances), and what the groups are (by).
        external: data sets of which the network was not trained on any image; None where that is not known.
    """

    table: pd.DataFrame
    split: str
    checkpoint: str = "best"
    head: str | None = None
    draws: int = 2000
    seed: int = 0
    made_of: Fingerprints | None = None
    calibration: Calibration | None = None
    summary: pd.DataFrame | None = None
    decisions: pd.DataFrame | None = None
    volumes: pd.DataFrame | None = None
    groups: pd.DataFrame | None = None
    between: pd.DataFrame | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    external: tuple[str, ...] | None = None

    @property
    def task(self) -> Task:
        """What the network does."""
        return "segmentation" if self.calibration is None else "classification"

    @property
    def _tables(self) -> dict[str, pd.DataFrame | None]:
        """The tables made of the long one, by the names of their files."""
        return {
            "summary.csv": self.summary,
            DECISIONS: self.decisions,
            VOLUMES: self.volumes,
            GROUPS: self.groups,
            BETWEEN: self.between,
        }

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the tables that are written, and of the file that says what was scored."""
        return (*(name for name, table in self._tables.items() if table is not None), "scores.csv", "scores.json")

    def write(self, folder: Path, *, examples: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Writes the scores into a folder, in place of earlier ones; a kill or a full disk leaves those.

        * ``scores.csv``: the long table; undefined values are empty.
        * ``summary.csv``: means with intervals.
        * ``decisions.csv``: of masks, those of other decisions, heads and passes.
        * ``volumes.csv``: means of volumes, where images are slices.
        * ``groups.csv`` and ``between_groups.csv``: means of groups and their differences, where there are groups.
        * ``examples.npz``: the examples.
        * ``scores.json``, last: what was scored, what was fitted, and digests of the other files.

        Args:
            folder: gets the files.
            examples: arrays for the page.

        Raises:
            RunError: a file cannot be written.
        """
        files: dict[str, str | bytes] = {} if examples is None else {EXAMPLES: npz_bytes(examples)}
        files["scores.csv"] = _csv(self.table)
        for name, table in self._tables.items():
            if table is not None:
                files[name] = _csv(table)
        content = {
            "task": self.task,
            "split": self.split,
            "checkpoint": self.checkpoint,
            "head": self.head,
            "made_of": None if self.made_of is None else asdict(self.made_of),
            "bootstrap": {"draws": self.draws, "seed": self.seed, "level": LEVEL},
            "excluded": excluded(self.table),
            "vanished": vanished(self.table),
            "without_patients": [*without_patients(self.table)],
            "calibration": None if self.calibration is None else asdict(self.calibration),
            "metrics": definitions(self.task),
            "about": dict(self.about),
            "external": None if self.external is None else list(self.external),
        }
        write_files(folder, content, files)

    @classmethod
    def read(cls, folder: Path) -> "Scores":
        """Reads what `write` wrote, every value as it was.

        Raises:
            RunError: a file is missing, damaged, or not one that `write` wrote.
        """
        content = read_files(folder)
        try:
            calibration, made_of = content["calibration"], content["made_of"]
            return cls(
                table=_checked(_read_csv(folder / "scores.csv", numbers=("value",))),
                split=content["split"],
                checkpoint=content["checkpoint"],
                head=content["head"],
                draws=int(content["bootstrap"]["draws"]),
                seed=int(content["bootstrap"]["seed"]),
                made_of=None if made_of is None else Fingerprints(**made_of),
                calibration=None if calibration is None else Calibration(**calibration),
                about=content["about"],
                external=None if content["external"] is None else tuple(content["external"]),
                **_read_tables(folder, content["files"]),
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(f"{folder} holds no scores ({error!r}).", fix=again(folder)) from error


def read_summary(folder: Path) -> pd.DataFrame:
    """Returns ``summary.csv`` of a folder of scores.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    return _read_summary(folder / "summary.csv")


def _read_tables(folder: Path, files: Collection[str]) -> dict[str, pd.DataFrame | None]:
    names = {"summary": "summary.csv", "volumes": VOLUMES, "groups": GROUPS}
    found = {key: _read_summary(folder / name) if name in files else None for key, name in names.items()}
    found["decisions"] = _read_decisions(folder) if DECISIONS in files else None
    numbers = ("value", "low", "high")
    found["between"] = _read_csv(folder / BETWEEN, numbers=numbers) if BETWEEN in files else None
    return found


def _read_summary(path: Path) -> pd.DataFrame:
    counts = ("classes", "images", "patients", "positives", "undefined")
    summary = _read_csv(path, numbers=("value", "low", "high", *counts))
    return summary.astype(dict.fromkeys(counts, np.int64))


def _read_decisions(folder: Path) -> pd.DataFrame:
    counts = ("passes", "images", "patients")
    numbers = ("flops", "value", "low", "high", "gain", "gain_low", "gain_high", *counts)
    return _read_csv(folder / DECISIONS, numbers=numbers).astype(dict.fromkeys(counts, np.int64))


def _csv(table: pd.DataFrame) -> str:
    """Returns a table as CSV, every number with all of its digits."""
    text = table.to_csv(index=False, lineterminator="\n")
    # Some versions of Python do not quote it, and readers take it for the end of a line.
    return text if "\r" not in text else table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def _read_csv(path: Path, *, numbers: tuple[str, ...]) -> pd.DataFrame:
    """Reads a table in which an empty cell of numbers is nan, and every other cell is text."""
    with open_file(path) as file:
        table: pd.DataFrame = pd.read_csv(
            file,
            dtype=dict.fromkeys(_TEXTS, str) | dict.fromkeys(numbers, np.float64),
            keep_default_na=False,
            na_values={name: [""] for name in numbers},
            float_precision="round_trip",
            encoding_errors="surrogateescape",  # bytes of file names that are not UTF-8 stay as they are
        )
    return table


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the table.

    Raises:
        ValueError: it has other columns, or words of the truth that there are not.
    """
    if tuple(table.columns) != COLUMNS or not table["truth"].isin(TRUTHS).all():
        raise ValueError(f"scores.csv has the columns {[*table.columns]}")
    return table


def table_of(rows: Iterable[Iterable[Any]]) -> pd.DataFrame:
    """Returns a table of rows of `COLUMNS`; the last three may be left out, of images without unit and group."""
    usual = tuple(_USUAL.values())
    first = len(COLUMNS) - len(usual)
    table = pd.DataFrame([(*row, *usual[len(row) - first :]) for row in map(tuple, rows)], columns=[*COLUMNS])
    return table.astype({name: str if name != "value" else np.float64 for name in COLUMNS})


def of_images(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of images, without those of the volumes that they are slices of."""
    return table[table["kind"] == "image"] if "kind" in table else table


def names_of_images(table: pd.DataFrame) -> frozenset[tuple[str, str]]:
    """Returns data set and name of every image of a table, without the volumes that these are slices of."""
    images = of_images(table)
    return frozenset(zip(images["dataset"], images["image"], strict=True))


def of_volumes(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of volumes."""
    return table[table["kind"] == "volume"]


def excluded(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Returns for every data set the classes that its images say nothing of, each with the reason.

    A class of masks that no image of a data set shows is excluded there ("no positives"), and so is a finding that no
    image shows, or every image ("no negatives"), of those of which it is known ("no labels" without any). Data sets
    without such are absent.
    """
    images = of_images(table).drop_duplicates(["dataset", "image", "class"])
    findings = bool((table["metric"] == "label").any())
    found: dict[str, dict[str, str]] = {}
    for key, truths in images.groupby(["dataset", "class"], sort=False)["truth"]:
        dataset, name = map(str, key)
        known = truths[truths != "unknown"]
        empty = known == "empty"
        if empty.all():
            found.setdefault(dataset, {})[name] = "no positives" if len(known) else "no labels"
        elif findings and not empty.any():
            found.setdefault(dataset, {})[name] = "no negatives"
    return found


def vanished(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Returns for every data set the number of images in which resizing lost a class, by class; without those of 0."""
    images = of_images(table).drop_duplicates(["dataset", "image", "class"])
    found: dict[str, dict[str, int]] = {}
    for key, rows in images[images["truth"] == "vanished"].groupby(["dataset", "class"], sort=False):
        dataset, name = map(str, key)
        found.setdefault(dataset, {})[name] = len(rows)
    return found


def without_patients(table: pd.DataFrame) -> tuple[str, ...]:
    """Returns the data sets in which nothing says who the patients are, so that every image counts as one.

    There the name of a patient is that of its image.
    """
    alone = (table["image"] == table["patient"]).groupby(table["dataset"], sort=False).all()
    return tuple(str(dataset) for dataset, is_alone in alone.items() if is_alone)


def counted(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the values of masks as they enter means: nan in data sets that exclude the class.

    Metrics that count correct background too, as accuracy does, stay. The rows of volumes count like their images.
    """
    out = [(dataset, name) for dataset, names in excluded(table).items() for name in names]
    if not out:
        return table
    of_examples = [one.name for one in metrics_of("segmentation") if one.needs_examples]
    without = pd.MultiIndex.from_frame(table[["dataset", "class"]]).isin(out) & table["metric"].isin(of_examples)
    return table.assign(value=table["value"].where(~without))


def image_values(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a value of every image of masks and metric: the mean over its classes, of those defined and counted.

    The columns are dataset, image, patient, metric and value, and those of runs; the order of images is kept. A metric
    whose unit is not the same in all images is undefined.
    """
    table = of_images(table)
    by = [*(name for name in RUN_COLUMNS if name in table), "dataset", "image", "patient", "metric"]
    means: pd.DataFrame = without_mixed_units(counted(table)).groupby(by, sort=False)["value"].mean().reset_index()
    return means


def without_mixed_units(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a table in which the metrics with several units are undefined: mm and pixels have no mean."""
    mixed = [name for name, units in units_of(table).items() if len(units) > 1]
    return table.assign(value=table["value"].where(~table["metric"].isin(mixed))) if mixed else table


def units_of(table: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Returns the units of every metric of a table."""
    if "unit" not in table:
        return {}
    pairs = table[["metric", "unit"]].drop_duplicates()
    return {str(name): tuple(of["unit"]) for name, of in pairs.groupby("metric", sort=False)}
