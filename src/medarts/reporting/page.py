"""The HTML page of a run: one file that opens offline, with whatever the run directory holds so far."""

import base64
import csv
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from medarts.recipe import to_yaml
from medarts.reporting.cells import draw_cell
from medarts.reporting.lattice import draw_lattice
from medarts.reporting.plots import (
    PREDICTED,
    TRUE,
    plot_alphas,
    plot_betas,
    plot_curves,
    plot_example,
    plot_scores,
)
from medarts.reporting.style import css_variables, inline_svg, save
from medarts.run.directory import RunDirectory, write_whole
from medarts.spaces.genotype import Genotype, load

Content = dict[str, Any]


def write_report(path: Path) -> Path:
    """Writes ``report.html`` of a run directory.

    Args:
        path: a search or training run, finished or not.

    Returns:
        The file written.

    Raises:
        RunError: the folder is no run.
    """
    run = RunDirectory.open(path)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((resources.files("medarts.reporting") / "page.html").read_text("utf-8"))
    target = path / "report.html"
    write_whole(target, template.render(_content(run)))
    return target


def _content(run: RunDirectory) -> Content:
    facts, recipe = run.facts, run.recipe
    genotype = load(run.path) if (run.path / "genotype.json").exists() else None
    cost, scores = _optional(run, "cost.json"), _scores(run)
    summary = _optional(run, "summary.json")
    records = _lines(run, "metrics.jsonl")
    return {
        "title": _title(facts, genotype),
        "facts": facts,
        "recipe": recipe,
        "recipe_text": to_yaml(recipe),
        "light": Markup(css_variables(0)),
        "dark": Markup(css_variables(1)),
        "true_color": TRUE,
        "predicted_color": PREDICTED,
        "cards": _cards(facts, genotype=genotype, cost=cost, scores=scores, records=records),
        "domains": _domains(run),
        "scores": scores,
        "curves": _svg(plot_curves(records), "loss and validation Dice over the epochs") if records else None,
        "best": _best(summary),
        "gaps": _gaps(summary),
        "lattice": _svg(draw_lattice(genotype), "the lattice") if genotype and genotype.paths else None,
        "cells": [_svg(draw_cell(genotype, kind), f"the {kind} cell") for kind in genotype.cells] if genotype else [],
        "architecture": _architecture(run),
        "cost": _cost(cost),
        "environment": _environment(run, facts),
    }


def _title(facts: Content, genotype: Genotype | None) -> str:
    if facts["kind"] == "search":
        return f"Search {facts['name']}"
    return f"{facts['name']}: training of {genotype.name if genotype else 'a network'}"


def _cards(
    facts: Content, *, genotype: Genotype | None, cost: Content | None, scores: list[Content], records: list[Content]
) -> list[Content]:
    """The numbers a reader looks for first."""
    cards = []
    for table in scores:
        several = len({row["domain"] for row in table["rows"]}) > 1
        row = next(row for row in table["rows"] if not several or row["domain"] == "mean of domains")
        dice = row["cells"][table["metrics"].index("dice")]["mean"]
        cards.append({"name": f"Dice, {table['name']}{', mean of data sets' if several else ''}", "value": dice})
    if records and not scores:
        best = max(record["val_dice"] for record in records)
        cards.append({"name": "best validation Dice", "value": f"{best:.3f}"})
    if cost:
        cards.append({"name": "parameters", "value": f"{cost['parameters'] / 1e6:.2f} M"})
        cards.append({"name": f"CPU latency at {cost['size']} px", "value": f"{cost['latency_ms']:.0f} ms"})
    if genotype and genotype.paths:
        moves = sum(len(kept.moves) for kept in genotype.paths)
        cards.append({"name": "cells kept", "value": str(moves)})
    if records:
        cards.append({"name": "epochs", "value": str(len(records))})
    return cards


def _domains(run: RunDirectory) -> list[Content]:
    path = run.path / "manifest.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        samples = list(csv.DictReader(file))
    rows = []
    for domain in dict.fromkeys(sample["domain"] for sample in samples):
        members = [sample for sample in samples if sample["domain"] == domain]
        counts = {split: sum(sample["split"] == split for sample in members) for split in ("train", "val", "test")}
        rows.append({"domain": domain, "patients": len({sample["patient"] for sample in members}), **counts})
    return rows


def _scores(run: RunDirectory) -> list[Content]:
    tables = []
    for path in sorted((run.path / "scores").glob("*/scores.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = _without_repetition(content["tables"])
        metrics = list(rows[0]["metrics"])
        tables.append(
            {
                "name": path.parent.name,
                "checkpoint": content["checkpoint"],
                "head": content["head"],
                "draws": content["bootstrap"]["draws"],
                "definitions": content["definitions"],
                "metrics": metrics,
                "several": len({row["class"] for row in rows}) > 1,
                "several_domains": len({row["domain"] for row in rows}) > 1,
                "plot": _svg(plot_scores(rows), f"Dice on {path.parent.name}"),
                "rows": [{**row, "cells": [_cell(row["metrics"][metric]) for metric in metrics]} for row in rows],
                "examples": _examples(path.parent / "examples.npz"),
            }
        )
    return tables


def _without_repetition(rows: list[Content]) -> list[Content]:
    """Leaves out the rows over all domains where there is one domain, whose scores they repeat."""
    together = ("all", "mean of domains")
    single = len({row["domain"] for row in rows} - set(together)) == 1
    return [row for row in rows if not (single and row["domain"] in together)]


def _cell(summary: Content) -> Content:
    mean, low, high = summary["mean"], summary["low"], summary["high"]
    return {
        "mean": "–" if mean is None else f"{mean:.3f}",
        "interval": None if low is None or mean is None else f"{low:.3f} to {high:.3f}",
        "undefined": summary["undefined"],
    }


def _examples(path: Path) -> list[Content]:
    if not path.exists():
        return []
    with np.load(path) as arrays:
        rows = zip(arrays["images"], arrays["targets"], arrays["predictions"], arrays["titles"], strict=True)
        return [
            {"title": str(title), "picture": _picture(plot_example(image, target, predicted))}
            for image, target, predicted, title in rows
        ]


def _best(summary: Content | None) -> Content | None:
    if not summary or "best_epoch" not in summary:
        return None
    return {"epoch": summary["best_epoch"] + 1, "dice": f"{summary['best_dice']:.3f}"}


def _gaps(summary: Content | None) -> list[Content]:
    stages = summary.get("stages", []) if summary else []
    return [
        {
            "supernet": f"{stage['supernet_dice']:.3f}",
            "discrete": f"{stage['discrete_dice']:.3f}",
            "gap": f"{stage['gap']:+.3f}",
        }
        for stage in stages
    ]


def _architecture(run: RunDirectory) -> list[Content]:
    records = _lines(run, "architecture.jsonl")
    stages = []
    for number in sorted({record["stage"] for record in records}):
        lines = [record for record in records if record["stage"] == number]
        alphas = [
            {"kind": kind, "svg": _svg(plot_alphas(lines, kind), f"alphas of stage {number + 1}, {kind} operations")}
            for kind in lines[-1]["alphas"]
        ]
        betas = _svg(plot_betas(lines), f"betas of stage {number + 1}")
        stages.append({"number": number + 1, "alphas": alphas, "betas": betas})
    return stages


def _cost(cost: Content | None) -> Content | None:
    if cost is None:
        return None
    return {
        **cost,
        "parameters": f"{cost['parameters']:,}",
        "flops": f"{cost['flops'] / 1e9:.2f}",
        "latency": f"{cost['latency_ms']:.1f}",
        "spread": f"{cost['spread']:.1f}",
        "inference": f"{cost['inference_ms']:.1f}" if cost.get("inference_ms") else None,
    }


def _environment(run: RunDirectory, facts: Content) -> list[tuple[str, str]]:
    rows = [(name, str(value)) for name, value in facts.get("environment", {}).items()]
    timing = _lines(run, "timing.jsonl")
    if timing:
        seconds = sum(line["seconds"] for line in timing)
        rows.append(("time of all epochs", f"{seconds / 60:.1f} minutes"))
        rows.append(("peak memory", f"{max(line['peak_memory_mb'] for line in timing) / 1000:.2f} GB"))
    rows.append(("recipe fingerprint", facts["recipe_fingerprint"]))
    rows.append(("data fingerprint", facts["data_fingerprint"]))
    return rows


def _optional(run: RunDirectory, name: str) -> Content | None:
    return run.read_json(name) if (run.path / name).exists() else None


def _lines(run: RunDirectory, name: str) -> list[Content]:
    path = run.path / name
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _svg(figure: Figure, label: str) -> Markup:
    return Markup(inline_svg(figure, label))


def _picture(figure: Figure) -> str:
    buffer = io.BytesIO()
    save(figure, buffer, file_format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
