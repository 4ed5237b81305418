"""Scores of groups of images, such as centres or devices, and how far groups are apart.

``groups.csv`` has the columns of ``summary.csv``, and the group. ``between_groups.csv`` has the differences of the main
score of masks, the mean over classes, for every two groups of a data set: ``dataset``, ``metric``, ``group``,
``other``, ``value`` (group minus other), and ``low`` and ``high``, the ends of its 95 % interval over the patients of
both, which are taken as independent.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from medarts.evaluation.scores import Scores, image_values, of_images
from medarts.evaluation.stats import (
    FEW_PATIENTS,
    Interval,
    bootstrap_means,
    jackknife_interval,
    left_out_means,
    mean_of_defined,
    percentile_interval,
)
from medarts.evaluation.summary import summary_of
from medarts.metrics import MAIN

BETWEEN_COLUMNS = ("dataset", "metric", "group", "other", "value", "low", "high")


def with_groups(scores: Scores) -> Scores:
    """Returns scores with the summary of every group of their table, and the differences between groups.

    Images without a group are in none. Scores without groups, or with a single one, stay as they are.
    """
    table = of_images(scores.table)
    names = sorted(set(table["group"]) - {""})
    if len(names) < 2:
        return scores
    parts = [summary_of(scores, table[table["group"] == name]).assign(group=name) for name in names]
    between = None
    if scores.task == "segmentation":
        between = pd.DataFrame([*_differences(scores, table)], columns=[*BETWEEN_COLUMNS])
    return replace(scores, groups=pd.concat(parts, ignore_index=True), between=between)


def _differences(scores: Scores, table: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    main = MAIN[scores.task]
    groups = table.drop_duplicates(["dataset", "image"]).set_index(["dataset", "image"])["group"]
    values = image_values(table[table["metric"] == main]).join(groups, on=["dataset", "image"])
    for dataset, of_set in values[values["group"] != ""].groupby("dataset", sort=False):
        parts = {str(name): part for name, part in of_set.groupby("group", sort=True) if part["value"].notna().any()}
        for one, other in combinations(parts, 2):
            value, interval = _difference(parts[one], parts[other], draws=scores.draws, seed=scores.seed)
            yield dataset, main, one, other, value, *interval


def _difference(one: pd.DataFrame, other: pd.DataFrame, *, draws: int, seed: int) -> tuple[float, Interval]:
    parts = [(part["value"].to_numpy(), [*part["patient"]]) for part in (one, other)]
    first, second = (float(mean_of_defined(values, axis=0)) for values, _ in parts)
    left_out = [left_out_means(*part) for part in parts]
    if min(map(len, left_out)) >= FEW_PATIENTS:
        drawn = [bootstrap_means(*part, draws=draws, seed=(seed, place)) for place, part in enumerate(parts)]
        return first - second, percentile_interval(np.subtract(*drawn))
    # The difference is the mean of twice the one and minus twice the other, of which the jackknife knows the error.
    scaled = [2 * left_out[0], -2 * left_out[1]]
    return first - second, jackknife_interval(first - second, scaled, limits=(-1.0, 1.0))
