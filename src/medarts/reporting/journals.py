"""How a run went, as the page shows it: curves, best epoch, discretisation gaps, alphas, betas and gammas.

Nothing of it can be made again, so what is damaged is refused by name.
"""

import math
from dataclasses import dataclass
from typing import Any

from medarts.engine.directory import RunDirectory
from medarts.engine.journals import Record, damaged_line, read_journal
from medarts.errors import RunError
from medarts.reporting.content import Content, counted, decimals, listed, reading
from medarts.reporting.plots import (
    SCORE_NAMES,
    plot_alphas,
    plot_betas,
    plot_curves,
    plot_gammas,
    score_of,
)
from medarts.reporting.style import inline_svg

_WEIGHED = {
    "alphas": "the operations on every edge (alphas)",
    "betas": "the moves into every node of the lattice (betas)",
    "gammas": "the edges into every node of a cell (gammas)",
}


_COPY = "Copy the run again."


@dataclass(frozen=True)
class History:
    """What the journals of a run say, and the summary that it ends with.

    Attributes:
        metrics: the lines of metrics.jsonl.
        architecture: those of architecture.jsonl; empty for a training.
        timing: those of timing.jsonl.
        summary: what summary.json says; None before there is one.
    """

    metrics: list[Record]
    architecture: list[Record]
    timing: list[Record]
    summary: Content | None


def read_history(run: RunDirectory) -> History:
    """Reads the journals of a run, and its summary.

    Raises:
        RunError: one is damaged, or has fewer epochs than another.
    """
    searched = run.facts["kind"] == "search"
    place = ("stage", "epoch") if searched else ("epoch",)
    score = "val_dice" if run.recipe.data.task == "segmentation" else "val_auroc"
    numbers = {
        "metrics.jsonl": (*place, "train_loss", "val_loss", score),
        "architecture.jsonl": place,
        "timing.jsonl": (*place, "seconds", "peak_memory_mb"),
    }
    if not searched:
        del numbers["architecture.jsonl"]
    lines = {name: read_journal(run, name, numbers=of) for name, of in numbers.items()}
    for name, records in lines.items():
        _check_order(run, name, [tuple(record[key] for key in place) for record in records])
    _check_together(run, {name: len(records) for name, records in lines.items()})
    for number, record in enumerate(lines.get("architecture.jsonl", ()), 1):
        if not isinstance(record.get("alphas"), dict):
            raise damaged_line(run, "architecture.jsonl", number, "it has no alphas")
    architecture = lines.get("architecture.jsonl", [])
    return History(lines["metrics.jsonl"], architecture, lines["timing.jsonl"], _summary(run))


def read_curves(run: RunDirectory, history: History) -> Content | None:
    """Returns losses and scores over the epochs, with the best; None before the first epoch has ended.

    Raises:
        RunError: a line of the journal is damaged.
    """
    records = history.metrics
    if not records:
        return None
    score = score_of(records[0])
    name = SCORE_NAMES[score]
    with reading(run.path / "metrics.jsonl", fix=_COPY):
        figure = plot_curves(records)
    return {
        "score": name,
        "epochs": len(records),
        "highest": decimals(max((record[f"val_{score}"] for record in records), key=_or_lowest)),
        "svg": inline_svg(figure, f"loss and validation {name} over the epochs"),
        "best": _best(run, history.summary),
    }


def read_gaps(run: RunDirectory, history: History) -> Content | None:
    """Returns what every stage of a search lost by keeping the strongest alone; None if none has ended.

    Raises:
        RunError: the summary is damaged.
    """
    summary = history.summary
    if summary is None or run.facts["kind"] != "search":
        return None
    with reading(run.path / "summary.json", fix=_COPY):
        stages = [
            {
                "supernet": decimals(stage["supernet"]),
                "discrete": decimals(stage["discrete"]),
                "gap": f"{stage['gap']:+.3f}",
            }
            for stage in summary["stages"]
        ]
        return {"score": SCORE_NAMES[summary["score"]], "stages": stages}


def read_architecture(run: RunDirectory, history: History) -> Content | None:
    """Returns the weights of the architecture, stage by stage; None for a training, and before the first epoch.

    Raises:
        RunError: a line of the journal is damaged.
    """
    records = history.architecture
    if not records:
        return None
    weights = [name for name in _WEIGHED if name in records[-1]]
    sets = "cells" if run.recipe.space.name == "stack" else "operations"
    with reading(run.path / "architecture.jsonl", fix=_COPY):
        stages = [
            _stage([record for record in records if record["stage"] == number], number + 1, sets=sets)
            for number in sorted({record["stage"] for record in records})
        ]
    return {
        "title": listed(weights).capitalize(),
        "weighed": listed([_WEIGHED[name] for name in weights]),
        "stages": stages,
    }


def _check_order(run: RunDirectory, name: str, places: list[tuple[Any, ...]]) -> None:
    """Refuses a journal in which a line is not of the next epoch, or of the first of the next stage."""
    follows = {(0, 0), (0,)}
    for number, place in enumerate(places, 1):
        if place not in follows:
            raise damaged_line(run, name, number, "it is of another epoch")
        follows = {(*place[:-1], place[-1] + 1), (place[0] + 1, 0)}


def _check_together(run: RunDirectory, lines: dict[str, int]) -> None:
    """Refuses journals that have lost epochs.

    A line is appended to each in their order; a process that is killed in between leaves the last ones a line shorter.
    """
    longest, later = max(lines.values()), [*lines.values()]
    for name, count in lines.items():
        least = max(longest, 1) if run.facts["finished"] else max(longest - 1, *later)
        if count < least:
            raise RunError(
                f"{run.path / name} has lost lines: it has {counted(count, 'epoch')} of {max(longest, 1)}.", fix=_COPY
            )
        later.pop(0)


def _summary(run: RunDirectory) -> Content | None:
    path = run.path / "summary.json"
    if not path.exists() and not run.facts["finished"]:
        return None
    return run.read_json(path.name)


def _or_lowest(score: float) -> float:
    """Returns a score by which to sort; one that is undefined is the lowest."""
    return -math.inf if math.isnan(score) else score


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


def _best(run: RunDirectory, summary: Content | None) -> Content | None:
    if summary is None or run.facts["kind"] != "train":
        return None
    with reading(run.path / "summary.json", fix=_COPY):
        score = SCORE_NAMES[summary["score"]]
        return {"epoch": summary["best_epoch"] + 1, "score": score, "value": decimals(summary["best_score"])}
