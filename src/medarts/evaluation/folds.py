"""Scores of cross-validation: those of the images of all folds in one table, each by the network that has not seen it.

Of findings, logits of different networks are put into one ranking: each is divided by the temperature of its network
first. Thresholds are the medians of those that the networks have from their validation images.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medarts.config import Recipe
from medarts.deploy.info import Calibration
from medarts.evaluation.files import EXAMPLES, Fingerprints
from medarts.evaluation.grouping import with_groups
from medarts.evaluation.scores import Calibration as Fitted
from medarts.evaluation.scores import Scores
from medarts.evaluation.summary import ALL, MEAN_OF_DATASETS, summarized
from medarts.metrics import metrics_of


def joined_calibration(of_folds: Sequence[Calibration]) -> Calibration:
    """Returns the calibration of an ensemble: geometric mean of the temperatures, medians of the thresholds.

    >>> joined_calibration([Calibration(temperature=1.0), Calibration(temperature=4.0)]).temperature
    2.0
    """
    thresholds = _medians([each.thresholds for each in of_folds])
    return Calibration(temperature=geometric_mean(each.temperature for each in of_folds), thresholds=thresholds)


def fitted_on_folds(calibration: Calibration, recipe: Recipe) -> Fitted:
    """Returns the calibration of an ensemble for findings as that of its scores on other data sets."""
    return Fitted(calibration.temperature, recipe.evaluation.sensitivity, calibration.thresholds, {})


def pooled_scores(of_folds: Sequence[Scores], recipe: Recipe, *, split: str, made_of: Fingerprints) -> Scores:
    """Returns the scores of all folds as one, with intervals over the patients of all.

    Args:
        of_folds: of the test images of every fold.
        recipe: bootstrap.
        split: what the scores are called.
        made_of: of the images, the ensemble and the metrics.
    """
    first = of_folds[0]
    calibrations = [each.calibration for each in of_folds if each.calibration is not None]
    tables = [each.table for each in of_folds]
    calibration = None
    if calibrations:
        tables = [_as_probable(each.table, one.temperature) for each, one in zip(of_folds, calibrations, strict=True)]
        calibration = _pooled_calibration(calibrations)
    table = pd.concat(tables, ignore_index=True).sort_values(["dataset", "image"], kind="stable", ignore_index=True)
    return with_groups(
        summarized(
            Scores(
                table=table,
                split=split,
                head=first.head,
                draws=recipe.evaluation.bootstrap,
                seed=recipe.seed,
                made_of=made_of,
                calibration=calibration,
                about=first.about,
            )
        )
    )


def pooled_examples(folders: Sequence[Path]) -> dict[str, NDArray[Any]] | None:
    """Returns the examples of the findings of all folds, one fold after the other; None where none has any.

    Args:
        folders: the scores of every fold.
    """
    found: list[dict[str, NDArray[Any]]] = []
    for number, folder in enumerate(folders, 1):
        if not (folder / EXAMPLES).is_file():  # no image of the fold shows a finding
            continue
        with np.load(folder / EXAMPLES, allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in arrays.files}
        held["titles"] = np.asarray([f"fold {number} · {title}" for title in held["titles"].tolist()])
        found.append(held)
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]} if found else None


def main_scores(scores: Scores) -> dict[str, float]:
    """Returns every compared metric as a mean over classes or findings, and over data sets if there are several."""
    assert scores.summary is not None
    summary = scores.summary[scores.summary["class"] == scores.summary["class"].iloc[0]]
    over = MEAN_OF_DATASETS if scores.task == "segmentation" else ALL
    datasets = [*summary["dataset"].unique()]
    chosen = summary[summary["dataset"] == (over if over in datasets else datasets[0])].set_index("metric")["value"]
    return {one.name: float(chosen[one.name]) for one in metrics_of(scores.task) if one.compared}


def _as_probable(table: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """Returns a table of findings whose logits are those of its probabilities, which come after the temperature."""
    return table.assign(value=table["value"].where(table["metric"] != "logit", table["value"] / temperature))


def _pooled_calibration(calibrations: Sequence[Fitted]) -> Fitted:
    thresholds = _medians([each.thresholds for each in calibrations])
    first, names = calibrations[0], {name for rule in thresholds.values() for name in rule}
    without = {
        name: next(each.without_thresholds[name] for each in calibrations if name in each.without_thresholds)
        for name in sorted(names)
        if all(name in each.without_thresholds for each in calibrations)
    }
    return Fitted(1.0, first.sensitivity, thresholds, without)


def _medians(every: Sequence[Any]) -> dict[str, dict[str, float | None]]:
    """Returns the medians of thresholds by rule and output, of those that there are."""
    found: dict[str, dict[str, float | None]] = {}
    for rule, names in every[0].items():
        for name in names:
            known = [each[rule][name] for each in every if each[rule][name] is not None]
            found.setdefault(rule, {})[name] = median(known) if known else None
    return found
