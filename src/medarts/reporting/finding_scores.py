"""The scores of a classifier of findings as the page shows them."""

from pathlib import Path

import numpy as np
from markupsafe import Markup

from medarts.evaluation.files import EXAMPLES, read_scores
from medarts.evaluation.finding_table import MEAN_OF_FINDINGS, MEAN_OF_FREQUENT, SENSITIVE, YOUDEN
from medarts.evaluation.mask_scores import ALL
from medarts.reporting.content import Content, card, csv_rows, decimals, score_cell, share
from medarts.reporting.findings import plot_cam, plot_findings, plot_precision_recall, plot_reliability, plot_roc
from medarts.reporting.style import inline_png, inline_svg
from medarts.system.files import open_file

RULES = (YOUDEN, SENSITIVE)

_WORDS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "ppv": "PPV",
    "npv": "NPV",
    "ece": "ECE",
    "ece before, after": "ECE as trained, after temperature",
    "low, high": "interval",
    YOUDEN: "Youden’s threshold",
    ALL: "all data sets together",
}
"""What columns and rows of the files are called on the page, where it is not their name."""


def read_finding_scores(folder: Path) -> Content:
    """Returns what ``finding_scores.html`` shows of a folder that ``FindingScores.write`` filled."""
    content = read_scores(folder)
    domains = list(dict.fromkeys(row["domain"] for row in content["tables"]))
    groups = [_group(content, domain, name=folder.name) for domain in domains]
    sensitivity = f"sensitivity {content['sensitivity']:g}"
    words = {**_WORDS, SENSITIVE: f"threshold for {sensitivity}"}
    overall = next(row for row in groups[-1]["rows"] if row["finding"] == MEAN_OF_FINDINGS)
    return {
        "template": "finding_scores.html",
        "name": folder.name,
        "card": card(f"mean AUROC, {folder.name}", overall["auroc"]["mean"], overall["auroc"]["interval"]),
        "checkpoint": content["checkpoint"],
        "draws": f"{content['bootstrap']['draws']:,}",
        "sensitivity": sensitivity,
        "temperature": f"{content['temperature']:.2f}",
        "several": len(groups) > 1,
        "groups": groups,
        "without_thresholds": _reasons(content["without_thresholds"]),
        **_curves(folder, content, domain=domains[-1]),
        "reliability": _reliability(folder),
        "examples": _examples(folder / EXAMPLES) if EXAMPLES in content["files"] else [],
        "definitions": {words.get(name, name): text for name, text in content["definitions"].items()},
        "files": ["findings.csv", "curves.csv", "calibration.csv", "predictions.csv", "scores.json"],
    }


def _group(content: Content, domain: str, *, name: str) -> Content:
    """Returns the tables of a data set, or of all together."""
    rows = [row for row in content["tables"] if row["domain"] == domain]
    excluded = content["excluded"][domain]
    drawn = [row for row in rows if row["auroc"]["mean"] is not None]
    title = _WORDS.get(domain, domain)
    return {
        "title": title,
        "images": f"{rows[0]['images']:,}",
        "patients": f"{rows[0]['patients']:,}",
        "excluded": _reasons(excluded),
        "plot": inline_svg(plot_findings(drawn), f"AUROC by finding on {name}, {title}") if drawn else None,
        "rows": [_row(row) for row in rows],
    }


def _row(row: Content) -> Content:
    is_mean = row["finding"] in (MEAN_OF_FINDINGS, MEAN_OF_FREQUENT)
    return {
        "finding": row["finding"],
        "is_mean": is_mean,
        "count": f"{row['findings']} findings" if is_mean else f"{row['positives']:,}",
        "share": None if is_mean else share(row["positives"], row["images"]),
        "auroc": score_cell(row["auroc"]),
        "average_precision": score_cell(row["average_precision"]),
        "ece": [decimals(row["ece"][when]) for when in ("before", "after")],
        "points": [
            [_threshold(row[rule]["threshold"])]
            + [decimals(row[rule][ratio]) for ratio in ("sensitivity", "specificity", "ppv", "npv")]
            for rule in RULES
        ],
    }


def _threshold(value: float | None) -> str:
    """Writes a threshold; that of a rare finding can be far below what three decimals show."""
    return decimals(value) if value is None or value >= 0.01 else f"{value:.2g}"


def _reasons(names: dict[str, str]) -> str:
    return ", ".join(f"{name} ({reason})" for name, reason in names.items())


def _curves(folder: Path, content: Content, *, domain: str) -> dict[str, Markup]:
    """Returns the ROC and the precision-recall curves, which are those over all images: the last domain's."""
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for line in csv_rows(folder / "curves.csv"):
        points.setdefault((line["curve"], line["finding"]), []).append((float(line["x"]), float(line["y"])))
    rows = {row["finding"]: row for row in content["tables"] if row["domain"] == domain}

    def curves(kind: str, score: str) -> dict[str, Content]:
        found: dict[str, Content] = {}
        for name in content["findings"]:
            row, of_finding = rows[name], points.get((kind, name), [])
            if (row[score]["mean"] is None) != (not of_finding):
                raise ValueError(f"curves.csv does not have the {kind} curve of {name} that scores.json tells of")
            found[name] = {
                "x": [x for x, _ in of_finding],
                "y": [y for _, y in of_finding],
                score: row[score]["mean"],
                "prevalence": row["positives"] / row["images"],
            }
        return found

    roc, recall = curves("roc", "auroc"), curves("pr", "average_precision")
    return {
        "roc": inline_svg(plot_roc(roc), f"ROC curves on {folder.name}"),
        "precision_recall": inline_svg(plot_precision_recall(recall), f"precision-recall curves on {folder.name}"),
    }


def _reliability(folder: Path) -> Markup:
    lines = csv_rows(folder / "calibration.csv")

    def of(stage: str) -> dict[str, list[float | None]]:
        bins = [line for line in lines if line["stage"] == stage]
        columns = ("low", "high", "predictions", "mean_probability", "observed")
        return {name: [float(line[name]) if line[name] else None for line in bins] for name in columns}

    return inline_svg(plot_reliability(of("before"), of("after")), f"reliability on {folder.name}")


def _examples(path: Path) -> list[Content]:
    with open_file(path) as file, np.load(file) as arrays:
        return [
            {"title": str(title), "picture": inline_png(plot_cam(image, cam))}
            for image, cam, title in zip(arrays["images"], arrays["maps"], arrays["titles"], strict=True)
        ]
