"""How a run went, as the page shows it: curves, best epoch, discretisation gaps, alphas, betas and gammas."""

from medarts.reporting.content import Content, decimals, json_lines, listed, optional_json
from medarts.reporting.plots import (
    SCORE_NAMES,
    plot_alphas,
    plot_betas,
    plot_curves,
    plot_gammas,
    score_of,
)
from medarts.reporting.style import inline_svg
from medarts.run.directory import RunDirectory

_WEIGHED = {
    "alphas": "the operations on every edge (alphas)",
    "betas": "the moves into every node of the lattice (betas)",
    "gammas": "the edges into every node of a cell (gammas)",
}


def read_curves(run: RunDirectory) -> Content | None:
    """Returns losses and scores over the epochs, with the best; None before the first epoch has ended."""
    records = json_lines(run, "metrics.jsonl")
    if not records:
        return None
    score = score_of(records[0])
    name = SCORE_NAMES[score]
    return {
        "score": name,
        "epochs": len(records),
        "highest": decimals(max(record[f"val_{score}"] for record in records)),
        "svg": inline_svg(plot_curves(records), f"loss and validation {name} over the epochs"),
        "best": _best(optional_json(run, "summary.json")),
    }


def read_gaps(run: RunDirectory) -> Content | None:
    """Returns what every stage of a search lost by keeping the strongest alone; None where none has ended."""
    summary = optional_json(run, "summary.json")
    if summary is None or "stages" not in summary:
        return None
    stages = [
        {
            "supernet": decimals(stage["supernet"]),
            "discrete": decimals(stage["discrete"]),
            "gap": f"{stage['gap']:+.3f}",
        }
        for stage in summary["stages"]
    ]
    return {"score": SCORE_NAMES[summary["score"]], "stages": stages}


def read_architecture(run: RunDirectory) -> Content | None:
    """Returns the weights of the architecture, stage by stage; None for a training."""
    records = json_lines(run, "architecture.jsonl")
    if not records:
        return None
    weights = [name for name in _WEIGHED if name in records[-1]]
    sets = "cells" if run.recipe.space.name == "stack" else "operations"
    return {
        "title": listed(weights).capitalize(),
        "weighed": listed([_WEIGHED[name] for name in weights]),
        "stages": [
            _stage([record for record in records if record["stage"] == number], number + 1, sets=sets)
            for number in sorted({record["stage"] for record in records})
        ],
    }


def _stage(records: list[Content], number: int, *, sets: str) -> Content:
    last, of_stage = records[-1], f"of stage {number}"
    plots = []
    if "betas" in last:
        figure = plot_betas(records)
        plots.append({"title": "Betas: moves into a node", "svg": inline_svg(figure, f"betas {of_stage}")})
    for kind in last["alphas"]:
        svg = inline_svg(plot_alphas(records, kind), f"alphas {of_stage}, {kind} {sets}")
        plots.append({"title": f"Alphas: {kind} {sets}", "svg": svg})
    if "gammas" in last:
        figure = plot_gammas(records)
        plots.append({"title": "Gammas: edges into a node", "svg": inline_svg(figure, f"gammas {of_stage}")})
    return {"number": number, "plots": plots}


def _best(summary: Content | None) -> Content | None:
    if summary is None or "best_epoch" not in summary:
        return None
    score = SCORE_NAMES[summary["score"]]
    return {"epoch": summary["best_epoch"] + 1, "score": score, "value": decimals(summary["best_score"])}
