"""How a run went, as its page shows it: curves, best epoch, discretisation gaps, weights of the architecture.

The metrics and the sets of weights are those that the journals have: nothing here knows a task or a space. None of it
can be made again, so what is damaged is refused by name.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medarts.engine.directory import Record, RunDirectory
from medarts.errors import RunError
from medarts.nas.guard import ending, verdict
from medarts.reporting.tables import Content, decimals, label_of, reading
from medarts.training.rising import rising_line

_COPY = "Copy the run again."


@dataclass(frozen=True)
class History:
    """The journals of a run, and the summary that it ends with.

    Attributes:
        metrics: the lines of metrics.jsonl.
        architecture: those of architecture.jsonl; empty for a training.
        timing: those of timing.jsonl.
        summary: the content of summary.json; None before there is one.
    """

    metrics: list[Record]
    architecture: list[Record]
    timing: list[Record]
    summary: Content | None


@dataclass(frozen=True)
class Panel:
    """Weights of the architecture that compete with each other, such as the operations on an edge.

    Attributes:
        title: what they compete for.
        series: name -> weight in every epoch of a stage.
    """

    title: str
    series: dict[str, list[float]] = field(default_factory=dict)


def read_history(run: RunDirectory) -> History:
    """Reads the journals of a run, and its summary."""
    searched = run.facts["kind"] == "search"
    epoch = ("stage", "epoch") if searched else ("epoch",)
    numbers = {
        "metrics.jsonl": (*epoch, "train_loss", "val_loss"),
        "architecture.jsonl": epoch,
        "timing.jsonl": (*epoch, "seconds", "peak_memory_mb"),
    }
    if not searched:
        del numbers["architecture.jsonl"]
    lines = {name: run.read_journal(name, numbers=of, parts=("spent",)) for name, of in numbers.items()}
    for name, records in lines.items():
        _check_order(run, name, [tuple(record[key] for key in epoch) for record in records])
        for number, record in enumerate(records, 1):
            lacking = [key for key in records[0] if key not in record]
            if lacking and record["epoch"]:  # another stage may weigh other things
                raise run.damaged_line(name, number, f"it has no {lacking[0]}")
    _check_together(run, {name: len(records) for name, records in lines.items()})
    return History(lines["metrics.jsonl"], lines.get("architecture.jsonl", []), lines["timing.jsonl"], _summary(run))


def scores_of(record: Mapping[str, Any]) -> list[str]:
    """Returns the keys of the validation scores in a line of metrics.jsonl, such as val_dice."""
    return [
        key
        for key, value in record.items()
        if key.startswith("val_") and key != "val_loss" and "_by_" not in key and isinstance(value, int | float)
    ]


def read_curves(run: RunDirectory, history: History) -> Content | None:
    """Returns losses and scores over the epochs, with the best; None before the first epoch has ended."""
    from medarts.reporting import plots, style

    records, summary = history.metrics, history.summary
    if not records:
        return None
    with reading(run.path / "metrics.jsonl", fix=_COPY):
        score, *_ = scores_of(records[0])
        svg = style.inline_svg(plots.plot_curves(records), "losses and validation scores over the epochs")
        highest = max((float(record[score]) for record in records), key=_or_lowest)
    best = rising = None
    if summary is not None and run.facts["kind"] == "train":
        with reading(run.path / "summary.json", fix=_COPY):
            best = None if summary["best_epoch"] is None else int(summary["best_epoch"]) + 1  # folds have their own
            rising = rising_line(run)
    return {
        "score": label_of(score), "epochs": len(records), "highest": decimals(highest), "svg": svg, "best": best,
        "rising": rising,
    }  # fmt: skip


def read_gaps(run: RunDirectory, history: History) -> Content | None:
    """Returns the discretisation gap of every stage of a search; None if none has ended."""
    summary = history.summary
    if summary is None or run.facts["kind"] != "search":
        return None
    with reading(run.path / "summary.json", fix=_COPY):
        stages = [{key: float(stage[key]) for key in ("supernet", "discrete", "gap")} for stage in summary["stages"]]
        return {"score": label_of(summary["score"]), "stages": stages}


def read_architecture(run: RunDirectory, history: History) -> list[Content]:
    """Returns plots of the weights of the architecture, stage by stage; none for a training."""
    stages = []
    with reading(run.path / "architecture.jsonl", fix=_COPY):
        for number in sorted({record["stage"] for record in history.architecture}):
            records = [record for record in history.architecture if record["stage"] == number]
            stages.append({"number": number + 1, "plots": _weight_plots(records, number + 1)})
    return stages


SIGNALS = {
    "identity": "identity and pooling",
    "alpha_entropy": "entropy of alphas",
    "beta_entropy": "entropy of betas",
    "rank_correlation": "rank correlation",
    "gap": "discretisation gap",
    "hessian": "eigenvalue",
}
"""What the signals of a search are called on its page."""


def read_signals(run: RunDirectory, history: History) -> Content | None:
    """Returns the signals of a search over its epochs, and what it collapsed by; None where it noted none."""
    from medarts.reporting import plots, style

    with reading(run.path / "architecture.jsonl", fix=_COPY):
        records = [{"stage": record["stage"], **record.get("signals", {})} for record in history.architecture]
        present = [name for name in SIGNALS if any(record.get(name) is not None for record in records)]
        if not present:
            return None
        titles = {name: SIGNALS[name] for name in present}
        svg = style.inline_svg(plots.plot_signals(records, titles), "signals of the search over the epochs")
    return {"svg": svg, "verdicts": _verdicts(run, history)}


def _verdicts(run: RunDirectory, history: History) -> list[str]:
    """Returns a sentence for every stage that has ended."""
    if history.summary is None:
        return []
    verdicts = []
    with reading(run.path / "summary.json", fix=_COPY):
        for number, stage in enumerate(history.summary["stages"], 1):
            verdicts.append(ending(stage, number))
            if "free_operations" in stage:
                verdicts.append(verdict(stage))
    return verdicts


def _weight_plots(records: Sequence[Record], stage: int) -> list[Content]:
    from medarts.reporting import plots, style

    return [
        {"title": title, "svg": style.inline_svg(plots.plot_weights(panels), f"{title}, stage {stage}")}
        for title, panels in weight_panels(records).items()
        if panels
    ]


def weight_panels(records: Sequence[Record]) -> dict[str, list[Panel]]:
    """Returns all weights of the architecture in a stage by what they are of, whatever a space calls its sets.

    A set of alphas has a panel for each edge. Of other weights, such as betas and gammas, a set is a panel, or where
    its names are edges (``node<-state``), every node is one. Sets in which nothing competes are left out.
    """
    found: dict[str, list[Panel]] = {}
    for kind, sets in records[-1].items():
        if not isinstance(sets, dict) or not all(isinstance(content, dict) for content in sets.values()):
            continue  # no weights: the epoch, or the genotype of the epoch
        for name, content in sets.items():
            if "edges" in content:
                panels = [_edge_panel(records, (kind, name), edge) for edge in range(len(content["edges"]))]
                found[f"{kind.capitalize()}: {name}"] = panels
            else:
                found.setdefault(kind.capitalize(), []).extend(_set_panels(records, kind, name))
    return found


def _edge_panel(records: Sequence[Record], path: tuple[str, str], edge: int) -> Panel:
    sets = [record[path[0]][path[1]] for record in records]
    names = sets[-1]["operations"][edge]
    weights = zip(*(of_epoch["weights"][edge] for of_epoch in sets), strict=True)
    series = {name: list(values) for name, values in zip(names, weights, strict=True)}
    return Panel(_edge_title(sets[-1]["edges"][edge]), series)


def _set_panels(records: Sequence[Record], kind: str, name: str) -> list[Panel]:
    panels: dict[str, Panel] = {}
    for key in records[-1][kind][name]:
        node, arrow, state = key.partition("<-")
        title, series = (f"{name}: into n{node}", f"from {state_name(int(state))}") if arrow else (name, key)
        values = [float(record[kind][name][key]) for record in records]
        panels.setdefault(title, Panel(title)).series[series] = values
    return [panel for panel in panels.values() if len(panel.series) > 1]


def state_name(state: int) -> str:
    """Returns what a state of a cell is called in drawings and tables: s0, s1, then n0, n1, ... for the nodes."""
    return f"s{state}" if state < 2 else f"n{state - 2}"


def _edge_title(edge: str) -> str:
    node, arrow, state = edge.partition("<-")
    return f"{state_name(int(state))} → n{node}" if arrow else edge


def _check_order(run: RunDirectory, name: str, places: list[tuple[Any, ...]]) -> None:
    """Refuses a journal in which a line is not of the next epoch, or of the first of the next stage."""
    follows = {(0, 0), (0,)}
    for number, place in enumerate(places, 1):
        if place not in follows:
            raise run.damaged_line(name, number, "it is of another epoch")
        follows = {(*place[:-1], place[-1] + 1), (place[0] + 1, 0)}


def _check_together(run: RunDirectory, lines: dict[str, int]) -> None:
    """Refuses journals that have lost epochs.

    A line is appended to each in their order; a process that is killed in between leaves the last ones a line shorter.
    """
    longest, later = max(lines.values()), [*lines.values()]
    for name, count in lines.items():
        least = max(longest, 1) if run.facts["finished"] else max(longest - 1, *later)
        if count < least:
            raise RunError(f"{run.path / name} has lost lines: it has {count} of {max(longest, 1)} epochs.", fix=_COPY)
        later.pop(0)


def _summary(run: RunDirectory) -> Content | None:
    path = run.path / "summary.json"
    if not path.exists() and not run.facts["finished"]:
        return None
    return run.read_json(path.name)


def _or_lowest(score: float) -> float:
    """Returns a score by which to sort; one that is undefined is the lowest."""
    return -math.inf if math.isnan(score) else score
