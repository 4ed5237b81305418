"""The scores of predicted masks as the page shows them."""

from pathlib import Path

import numpy as np

from medarts.evaluation.files import EXAMPLES, read_scores
from medarts.evaluation.mask_scores import ALL, MEAN_OF_DOMAINS
from medarts.reporting.content import Content, card, counted, listed, score_cell
from medarts.reporting.masks import PREDICTED, TRUE, plot_example, plot_scores
from medarts.reporting.style import inline_png, inline_svg
from medarts.system.files import open_file


def read_mask_scores(folder: Path) -> Content:
    """Returns what ``mask_scores.html`` shows of a folder that ``medarts.evaluation.mask_scores.Scores`` wrote."""
    content = read_scores(folder)
    rows = _without_repetition(content["tables"])
    metrics = list(rows[0]["metrics"])
    cells = [{**row, "cells": [score_cell(row["metrics"][metric]) for metric in metrics]} for row in rows]
    several_domains = len({row["domain"] for row in rows}) > 1
    overall = next(row for row in cells if not several_domains or row["domain"] == MEAN_OF_DOMAINS)
    dice = overall["cells"][metrics.index("dice")]
    return {
        "template": "mask_scores.html",
        "name": folder.name,
        "card": card(
            f"Dice, {folder.name}{', mean of data sets' if several_domains else ''}", dice["mean"], dice["interval"]
        ),
        "checkpoint": content["checkpoint"],
        "head": content["head"],
        "draws": content["bootstrap"]["draws"],
        "definitions": content["definitions"],
        "metrics": metrics,
        "several": len({row["class"] for row in rows}) > 1,
        "several_domains": several_domains,
        "excluded": [f"{listed(names)} of {domain}" for domain, names in content["excluded"].items()],
        "vanished": [
            f"{name} in {counted(number, 'image')} of {domain}"
            for domain, counts in content["vanished"].items()
            for name, number in counts.items()
        ],
        "plot": inline_svg(plot_scores(rows), f"Dice on {folder.name}"),
        "rows": cells,
        "examples": _examples(folder / EXAMPLES) if EXAMPLES in content["files"] else [],
        "true_color": TRUE,
        "predicted_color": PREDICTED,
        "files": ["tables.csv", "images.csv", "scores.json"],
    }


def _without_repetition(rows: list[Content]) -> list[Content]:
    """Leaves out the rows over all domains where there is one domain, whose scores they repeat."""
    together = (ALL, MEAN_OF_DOMAINS)
    single = len({row["domain"] for row in rows} - set(together)) == 1
    return [row for row in rows if not (single and row["domain"] in together)]


def _examples(path: Path) -> list[Content]:
    with open_file(path) as file, np.load(file) as arrays:
        rows = zip(arrays["images"], arrays["targets"], arrays["predictions"], arrays["titles"], strict=True)
        return [
            {"title": str(title), "picture": inline_png(plot_example(image, target, predicted))}
            for image, target, predicted, title in rows
        ]
