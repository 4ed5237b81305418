"""Tables of a run's scores beside that of single images: volumes, groups, and images with an empty truth."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from medarts.evaluation.scores import Scores
from medarts.evaluation.summary import ALL, MEAN_OF_CLASSES, MEAN_OF_DATASETS, MEAN_OF_FINDINGS, without_repetition
from medarts.metrics import Metric, metrics_of
from medarts.reporting.tables import Column, Table, table


def unit_text(unit: str) -> str:
    """Returns a unit as it is read, such as mm² of mm2; nothing of ratios.

    >>> unit_text("mm2"), unit_text("at 2 mm"), unit_text("")
    ('mm²', 'at 2 mm', '')
    """
    return unit.replace("mm2", "mm²").replace("mm3", "mm³")


def titled(one: Metric, rows: pd.DataFrame) -> str:
    """Returns the header of a metric: its title and its unit, where all rows of a summary have one."""
    units = [*rows.loc[rows["metric"] == one.name, "unit"].unique()]
    return f"{one.title}, {unit_text(units[0])}" if len(units) == 1 and units[0] else one.title


def volumes_table(scores: Scores) -> Table | None:
    """Returns the table of volumes; None where no image is a slice."""
    if scores.volumes is None:
        return None
    rows = without_repetition(scores.volumes)
    keys = ["dataset", *(["class"] if rows["class"].nunique() > 1 else [])]
    return _summary_table(rows, _shown(scores, rows), keys, caption="scores of volumes", images="volumes")


def empties_table(scores: Scores) -> Table | None:
    """Returns the table of images whose truth is empty; None where there is none."""
    assert scores.summary is not None
    rows = without_repetition(scores.summary)
    metrics = [one for one in metrics_of(scores.task) if one.of_empty]
    rows = rows[rows["metric"].isin([one.name for one in metrics]) & (rows["images"] > 0)]
    if rows.empty:
        return None
    keys = ["dataset", *(["class"] if rows["class"].nunique() > 1 else [])]
    return _summary_table(rows, metrics, keys, caption="images with an empty truth", images="images with empty truth")


def groups_table(scores: Scores) -> Table | None:
    """Returns the table of groups, each with the mean over its classes or findings; None without groups."""
    if scores.groups is None:
        return None
    rows = scores.groups
    means = rows["class"].isin([MEAN_OF_CLASSES, MEAN_OF_FINDINGS])
    rows = rows[means] if means.any() else rows
    of_one = rows["dataset"][~rows["dataset"].isin([ALL, MEAN_OF_DATASETS])].nunique() == 1
    rows = rows[~rows["dataset"].isin([ALL, MEAN_OF_DATASETS] if of_one else [MEAN_OF_DATASETS])]
    keys = ["group", *([] if of_one else ["dataset"])]
    return _summary_table(rows, _shown(scores, rows), keys, caption="scores of groups", images="images")


def apart(scores: Scores) -> list[tuple[str, str]]:
    """Returns the smallest and the largest difference between groups of every data set, in words, each with its kind.

    Two groups have one difference.
    """
    if scores.between is None or scores.between.empty:
        return []
    found = []
    for dataset, of_set in scores.between.groupby("dataset", sort=False):
        ordered = of_set.assign(size=of_set["value"].abs()).sort_values("size", kind="stable")
        ends = (("largest", -1),) if len(ordered) == 1 else (("smallest", 0), ("largest", -1))
        where = f" on {dataset}" if scores.between["dataset"].nunique() > 1 else ""
        found += [(f"{kind}{where}", _difference(ordered.iloc[place])) for kind, place in ends]
    return found


def _difference(row: Any) -> str:
    one, other, value = row["group"], row["other"], float(row["value"])
    low, high = float(row["low"]), float(row["high"])
    if value < 0:
        one, other, value, low, high = other, one, -value, -high, -low
    interval = "" if math.isnan(low) else f" ({low:+.3f} to {high:+.3f})"
    return f"{one} is {value:.3f}{interval} above {other}"


def _shown(scores: Scores, rows: pd.DataFrame) -> list[Metric]:
    there = {*rows["metric"]}
    return [one for one in metrics_of(scores.task) if one.compared and one.name in there]


def _summary_table(
    rows: pd.DataFrame, metrics: Iterable[Metric], keys: list[str], *, caption: str, images: str
) -> Table:
    """Returns rows of a summary as a table with a column for each metric."""
    metrics, records = list(metrics), []
    for _, of in rows.groupby(keys, sort=False):
        cells: Any = of.set_index("metric")
        first = of.iloc[0]
        record: dict[str, Any] = {key: str(first[key]) for key in keys}
        record |= {name: int(first[name]) for name in ("images", "patients")}
        for one in metrics:
            record |= {one.name: float(cells.loc[one.name, "value"])}
            record |= {f"{one.name} {end}": float(cells.loc[one.name, end]) for end in ("low", "high")}
        records.append(record)
    titles = {"dataset": "data set"}
    columns = {key: Column(titles.get(key, key), first="ascending", words=True) for key in keys}
    columns |= {"images": Column(images), "patients": Column("patients")}
    columns |= {
        one.name: Column(
            titled(one, rows),
            first="descending" if one.larger_is_better else "ascending",
            form=".3f" if one.limits[1] == 1 else ".1f",
            below=(f"{one.name} low", f"{one.name} high"),
        )
        for one in metrics
    }
    return table(pd.DataFrame(records), columns, caption=caption, note=_note(rows))


def _note(rows: pd.DataFrame) -> str:
    """Returns what a table says of metrics that have no mean because of their units."""
    mixed = [*dict.fromkeys(unit for unit in rows["unit"] if " and " in unit)]
    return (
        f"Images differ in their unit ({'; '.join(map(unit_text, mixed))}), and have no common mean." if mixed else ""
    )
