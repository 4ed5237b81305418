"""The long table of scores: a row for every image, class and metric, from which everything else is made.

Columns:

* ``dataset``: name of the data set.
* ``image``: name of the image, unique within its data set.
* ``patient``: its patient, unique within its data set.
* ``class``: the class of a mask, or the finding.
* ``truth``: what the image truly has of it: "present", "empty", or "vanished" for a class that was lost when the mask
  was resized to the evaluated size.
* ``metric``: of masks every metric of an image, as "dice"; of findings "label" (0 or 1), "logit" and "probability"
  (after temperature), from which the metrics of a whole set are computed.
* ``value``: nan where undefined.

Where scores of several runs are loaded, ``network``, ``seed`` and ``split`` come first:

    table = load_scores({"ours": ["runs/ours-0", "runs/ours-1"], "unet": ["runs/unet-0"]}, split="test")
    dice = counted(table).query("metric == 'dice'")
    dice.groupby(["network", "dataset"]).value.mean()
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from medarts.metrics import metrics_of

COLUMNS = ("dataset", "image", "patient", "class", "truth", "metric", "value")
"""Of the table of one run."""

RUN_COLUMNS = ("network", "seed", "split")
"""What is added where several runs are loaded."""


def excluded(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Returns for every data set the classes that its images say nothing of, each with the reason.

    A class of masks that no image of a data set shows is excluded there ("no positives"), and so is a finding that no
    image shows, or every image ("no negatives"). Data sets without such are absent.
    """
    images = table.drop_duplicates(["dataset", "image", "class"])
    findings = bool((table["metric"] == "label").any())
    found: dict[str, dict[str, str]] = {}
    for key, truths in images.groupby(["dataset", "class"], sort=False)["truth"]:
        dataset, name = map(str, key)
        empty = truths == "empty"
        if empty.all():
            found.setdefault(dataset, {})[name] = "no positives"
        elif findings and not empty.any():
            found.setdefault(dataset, {})[name] = "no negatives"
    return found


def vanished(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Returns for every data set the number of images in which resizing lost a class, by class; without those of 0."""
    images = table.drop_duplicates(["dataset", "image", "class"])
    found: dict[str, dict[str, int]] = {}
    for key, rows in images[images["truth"] == "vanished"].groupby(["dataset", "class"], sort=False):
        dataset, name = map(str, key)
        found.setdefault(dataset, {})[name] = len(rows)
    return found


def counted(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the values of masks as they enter means: nan in data sets that exclude the class.

    Metrics that count correct background too, as accuracy does, stay.
    """
    out = pd.MultiIndex.from_tuples(
        [(dataset, name) for dataset, names in excluded(table).items() for name in names], names=["dataset", "class"]
    )
    if not len(out):
        return table
    of_examples = [one.name for one in metrics_of("segmentation") if one.needs_examples]
    without = pd.MultiIndex.from_frame(table[["dataset", "class"]]).isin(out) & table["metric"].isin(of_examples)
    return table.assign(value=table["value"].where(~without))


def image_values(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a value of every image of masks and metric: the mean over its classes, of those defined and counted.

    The columns are those of the table without ``class`` and ``truth``; the order of images is kept.
    """
    by = [*(name for name in RUN_COLUMNS if name in table), "dataset", "image", "patient", "metric"]
    means: pd.DataFrame = counted(table).groupby(by, sort=False)["value"].mean().reset_index()
    return means


def table_of(rows: Iterable[Iterable[Any]]) -> pd.DataFrame:
    """Returns a table of rows of `COLUMNS`."""
    table = pd.DataFrame([*map(tuple, rows)], columns=[*COLUMNS])
    return table.astype({name: str if name != "value" else np.float64 for name in COLUMNS})
