"""The scores of a run as the page shows them, from the long table and its summary."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from medarts.evaluation.deciding import shown_ways
from medarts.evaluation.files import EXAMPLES, read_files
from medarts.evaluation.pictures import from_arrays
from medarts.evaluation.scores import IMAGES_AS_PATIENTS, Scores, excluded, vanished, without_patients
from medarts.evaluation.summary import (
    ALL,
    DEFINITIONS,
    MEAN_OF_DATASETS,
    MEAN_OF_FINDINGS,
    MEAN_OF_FREQUENT,
    RATIOS,
    SENSITIVE,
    YOUDEN,
    reasons,
    wide,
    without_repetition,
)
from medarts.metrics import MAIN, Metric, calibration, metrics_of, ranking
from medarts.metrics.calibration import probabilities_of, reliability
from medarts.metrics.masks import CONVENTIONS
from medarts.metrics.ranking import Curve, precision_recall_curve, roc_curve
from medarts.reporting.pictures import SCALE, inline_jpeg, outline
from medarts.reporting.score_plots import (
    PREDICTED,
    TRUE,
    plot_cam,
    plot_precision_recall,
    plot_reliability,
    plot_roc,
    plot_summary,
)
from medarts.reporting.score_tables import apart, empties_table, groups_table, titled, unit_text, volumes_table
from medarts.reporting.style import inline_png, inline_svg
from medarts.reporting.tables import Content, card, decimals, listed, share
from medarts.system.console import counted
from medarts.system.files import open_file

CURVE_POINTS = 200


def read_run_scores(folder: Path) -> Content:
    """Returns what the page shows of a folder of scores; the content names its template and has a card."""
    scores, has_examples = Scores.read(folder), EXAMPLES in read_files(folder)["files"]
    if scores.summary is None:
        raise ValueError("summary.csv is missing")
    summary = without_repetition(scores.summary)
    metrics = metrics_of(scores.task)
    main = summary[summary["metric"] == MAIN[scores.task]]
    content: Content = {
        "name": folder.name,
        "checkpoint": scores.checkpoint,
        "head": scores.head,
        "draws": f"{scores.draws:,}",
        "definitions": {one.title: one.definition for one in metrics} | DEFINITIONS,
        "files": scores.files,
        "external": listed([*scores.external]) if scores.external else "",
        "by": scores.about.get("by"),
        "by_group": groups_table(scores),
        "apart": apart(scores),
    }
    if scores.task == "segmentation":
        return content | _masks(scores, summary, main, metrics, folder if has_examples else None)
    return content | _findings(scores, summary, main, metrics, folder if has_examples else None)


def _masks(
    scores: Scores, summary: pd.DataFrame, main: pd.DataFrame, metrics: tuple[Metric, ...], examples: Path | None
) -> Content:
    several_sets = summary["dataset"].nunique() > 1
    overall = main[(main["dataset"] == MEAN_OF_DATASETS) | (not several_sets)].iloc[0]
    name = f"Dice, {scores.split}{', mean of data sets' if several_sets else ''}"
    name += ", external" if scores.external and {*scores.external} >= {*scores.table["dataset"]} else ""
    cell = _cell(overall)
    metrics_of_all = [one for one in metrics if not one.of_empty]
    return {
        "template": "mask_scores.html",
        "card": card(name, cell["mean"], cell["interval"]),
        "definitions": {one.title: one.definition for one in metrics} | CONVENTIONS | DEFINITIONS,
        "metrics": [titled(one, summary) for one in metrics_of_all],
        "resolution": scores.about["resolution"],
        "mixed": [unit_text(unit) for unit in summary["unit"].unique() if " and " in unit],
        "volumes": volumes_table(scores),
        "empties": empties_table(scores),
        "several": summary["class"].nunique() > 1,
        "several_sets": several_sets,
        "without_patients": _without_patients(scores),
        "excluded": [f"{listed([*names])} of {dataset}" for dataset, names in excluded(scores.table).items()],
        "vanished": [
            f"{name} in {counted(number, 'image')} of {dataset}"
            for dataset, counts in vanished(scores.table).items()
            for name, number in counts.items()
        ],
        "plot": inline_svg(plot_summary(main, title="Dice"), f"Dice on {scores.split}"),
        "rows": [
            {
                "dataset": dataset,
                "class": name,
                "images": row["images"].iloc[0],
                "patients": row["patients"].iloc[0],
                "cells": [_cell(cells.loc[one.name]) for one in metrics_of_all if one.name in cells.index],
            }
            for (dataset, name), row in summary.groupby(["dataset", "class"], sort=False)
            for cells in [row.set_index("metric")]
        ],
        "ways": [] if scores.decisions is None else _ways(scores.decisions),
        **_mask_examples(examples),
        "true_color": TRUE,
        "predicted_color": PREDICTED,
    }


def _ways(decisions: pd.DataFrame) -> list[Content]:
    """Returns what other ways to masks gain over that of the scores."""
    return [
        {
            "dataset": one.dataset,
            "name": one.name,
            "dice": _cell(one.dice),
            "gain": _difference(*(float(one.dice[name]) for name in ("gain", "gain_low", "gain_high"))),
            "jaccard": _cell(one.jaccard),
            "flops": f"{one.flops:.0%}",
        }
        for one in shown_ways(decisions)
    ]


def _difference(value: float, low: float, high: float) -> Content:
    mean = "–" if math.isnan(value) else f"{value:+.3f}"
    return {"mean": mean, "interval": None if math.isnan(low) else f"{low:+.3f} to {high:+.3f}"}


def _mask_examples(folder: Path | None) -> Content:
    """Returns the pictures of the best, median and worst images, and those of the gallery."""
    found: Content = {"examples": [], "gallery": []}
    if folder is None:
        return found
    with open_file(folder / EXAMPLES) as file, np.load(file) as arrays:
        pictures = from_arrays({name: arrays[name] for name in arrays.files})
    for one in pictures:
        height, width = (SCALE * side for side in one.image.shape[:2])
        found["gallery" if one.of_gallery else "examples"].append(
            {
                "title": one.title,
                "height": height,
                "width": f"{width * one.stretch:.6g}",
                "columns": width,
                "stretch": f"{one.stretch:.6g}",
                "source": Markup(inline_jpeg(one.image)),
                "truth": outline(one.target),
                "predicted": outline(one.predicted),
            }
        )
    return found


def _findings(
    scores: Scores, summary: pd.DataFrame, main: pd.DataFrame, metrics: tuple[Metric, ...], examples: Path | None
) -> Content:
    assert scores.calibration is not None
    datasets = [*summary["dataset"].unique()]
    overall = _cell(main[(main["dataset"] == datasets[-1]) & (main["class"] == MEAN_OF_FINDINGS)].iloc[0])
    return {
        "template": "finding_scores.html",
        "card": card(f"mean AUROC, {scores.split}", overall["mean"], overall["interval"]),
        "definitions": {one.title: one.definition for one in metrics}
        | ranking.DEFINITIONS | calibration.DEFINITIONS | DEFINITIONS,
        "without_patients": _without_patients(scores),
        "metrics": [one.title for one in metrics if one.bootstrap],
        "sensitivity": f"sensitivity {scores.calibration.sensitivity:g}",
        "temperature": f"{scores.calibration.temperature:.2f}",
        "several": len(datasets) > 1,
        "groups": [_group(summary[summary["dataset"] == name], metrics, split=scores.split) for name in datasets],
        "without_thresholds": _words(scores.calibration.without_thresholds),
        **_curves(scores, main[main["dataset"] == datasets[-1]], summary[summary["dataset"] == datasets[-1]]),
        "reliability": _reliability(scores),
        "examples": _finding_examples(examples),
    }  # fmt: skip


def _without_patients(scores: Scores) -> str:
    """Returns the sentence about data sets whose patients are not known; "" without such."""
    unknown = without_patients(scores.table)
    return f"{', '.join(unknown)}: {IMAGES_AS_PATIENTS}" if unknown else ""


def _group(rows: pd.DataFrame, metrics: tuple[Metric, ...], *, split: str) -> Content:
    """Returns the tables of a data set, or of all together."""
    dataset = str(rows["dataset"].iloc[0])
    title = "all data sets together" if dataset == ALL else dataset
    main = rows[(rows["metric"] == "auroc") & rows["value"].notna()]
    figure = plot_summary(main, title="AUROC", chance=0.5) if len(main) else None
    return {
        "title": title,
        "images": f"{rows['images'].iloc[0]:,}",
        "patients": f"{rows['patients'].iloc[0]:,}",
        "excluded": _words(reasons(rows, dataset)),
        "plot": None if figure is None else inline_svg(figure, f"AUROC by finding on {split}, {title}"),
        "rows": [
            _row(str(name), of_class.set_index("metric"), metrics)
            for name, of_class in rows.groupby("class", sort=False)
        ],
    }


def _row(name: str, cells: Any, metrics: tuple[Metric, ...]) -> Content:
    is_mean, about = name in (MEAN_OF_FINDINGS, MEAN_OF_FREQUENT), cells.iloc[0]

    def number(metric: str) -> str:
        return _decimals(float(cells.loc[metric, "value"]))

    def threshold(rule: str) -> str:
        """Writes a threshold; that of a rare finding can be far below what three decimals show."""
        value = float(cells.loc[f"{rule}_threshold", "value"])
        return f"{value:.2g}" if value < 0.01 else number(f"{rule}_threshold")

    return {
        "finding": name,
        "is_mean": is_mean,
        "count": f"{about['classes']} findings" if is_mean else f"{about['positives']:,}",
        "share": None if is_mean else share(about["positives"], about["images"]),
        "cells": [_cell(cells.loc[one.name]) for one in metrics if one.bootstrap],
        "ece": [number("ece_uncalibrated"), number("ece")],
        "points": [[threshold(rule), *(number(f"{rule}_{ratio}") for ratio in RATIOS)] for rule in (YOUDEN, SENSITIVE)],
    }


def _cell(row: Any) -> Content:
    """Writes a value of a summary with its interval, and how many values it lacks."""
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    is_known = not (math.isnan(value) or math.isnan(low))
    return {
        "mean": _decimals(value),
        "interval": f"{low:.3f} to {high:.3f}" if is_known else None,
        "undefined": row.get("undefined", 0),
    }


def _decimals(value: float) -> str:
    return decimals(None if math.isnan(value) else value)


def _words(given: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({reason})" for name, reason in given.items())


def _curves(scores: Scores, areas: pd.DataFrame, summary: pd.DataFrame) -> Content:
    """Returns the ROC and the precision-recall curves over all images."""
    logits, labels, _ = wide(scores.table)
    values = summary.set_index(["class", "metric"])["value"]

    def curves(make: Callable[[Any, Any], Curve], score: str) -> Content:
        found: Content = {}
        for name in logits.columns:
            known = labels[name].notna()
            value, truth = float(values[name, score]), labels[name][known].to_numpy()
            curve = Curve(*[np.empty(0)] * 3)
            if not math.isnan(value):
                curve = make(logits[name][known].to_numpy(), truth).thinned(CURVE_POINTS)
            prevalence = float(truth.mean()) if len(truth) else math.nan
            found[name] = {"x": curve.x, "y": curve.y, score: value, "prevalence": prevalence}
        return found

    roc, recall = curves(roc_curve, "auroc"), curves(precision_recall_curve, "average_precision")
    return {
        "roc": inline_svg(plot_roc(roc), f"ROC curves on {scores.split}"),
        "precision_recall": inline_svg(plot_precision_recall(recall), f"precision-recall curves on {scores.split}"),
    }


def _reliability(scores: Scores) -> str:
    assert scores.calibration is not None
    logits, labels, _ = (of.to_numpy() for of in wide(scores.table))
    known = ~np.isnan(labels)

    def stage(temperature: float) -> Content:
        edges, *columns = reliability(probabilities_of(logits[known], temperature), labels[known])
        names = ("predictions", "mean_probability", "observed")
        return {"low": edges[:-1], "high": edges[1:], **dict(zip(names, columns, strict=True))}

    figure = plot_reliability(stage(1.0), stage(scores.calibration.temperature))
    return inline_svg(figure, f"reliability on {scores.split}")


def _finding_examples(folder: Path | None) -> list[Content]:
    if folder is None:
        return []
    with open_file(folder / EXAMPLES) as file, np.load(file) as arrays:
        return [
            {"title": str(title), "picture": inline_png(plot_cam(image, cam))}
            for image, cam, title in zip(arrays["images"], arrays["maps"], arrays["titles"], strict=True)
        ]
