"""Results as tables on the terminal."""

import math
from datetime import timedelta

from rich.console import Console
from rich.table import Column, Table

from medarts.data.doctor import Examination
from medarts.data.manifest import SPLITS
from medarts.evaluation.cost import Cost
from medarts.evaluation.finding_table import MEANS
from medarts.evaluation.findings import FindingScores
from medarts.evaluation.plan import Plan
from medarts.evaluation.scores import ALL, MEAN_OF_DOMAINS, Scores, Summary

console = Console()

DISTANCES = ("hd95", "assd")


def show_examination(examination: Examination) -> None:
    """Prints a line a finding, then a table of the data sets."""
    for finding in examination.findings:
        colour = "red" if finding.level == "error" else "yellow"
        console.print(f"[{colour}]{finding.level}[/]", end=" ")
        line = f"{finding.file}: {finding.problem} {finding.fix}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)  # whole file names, for grep
    table = Table("data set", "images", "patients", *SPLITS, "sizes", "foreground")
    for summary in examination.summaries:
        sizes = ", ".join(list(summary.sizes)[:3]) + (" …" if len(summary.sizes) > 3 else "")
        foreground = "–" if summary.foreground is None else f"{summary.foreground:.1%}"
        counts = [str(summary.splits.get(split, 0)) for split in SPLITS]
        table.add_row(summary.domain, str(summary.images), str(summary.patients), *counts, sizes, foreground)
    console.print(table)
    for summary in examination.summaries:
        if summary.findings:
            positives = Table(f"{summary.domain}: images that show", *SPLITS)
            for name, shown in summary.findings.items():
                positives.add_row(name, *[str(shown[split]) for split in SPLITS])
            console.print(positives)
    errors = sum(finding.level == "error" for finding in examination.findings)
    console.print(f"{errors} errors, {len(examination.findings) - errors} warnings")


def show_plan(plan: Plan) -> None:
    """Prints the estimates of every stage and of the training."""
    table = Table(Column(no_wrap=True), "parameters", "images\nat once", "accumulate", "peak\nmemory", "time")
    rows = [(f"search, stage {number}", trial) for number, trial in enumerate(plan.stages, 1)]
    for name, trial in (*rows, ("training, typical", plan.training)):
        counts = [f"{number:,}" for number in (trial.parameters, trial.images_at_once, trial.accumulate)]
        table.add_row(name, *counts, f"{trial.memory_mb:,.0f} MB", str(timedelta(seconds=round(trial.seconds))))
    console.print(table)
    console.print(f"search in all: {timedelta(seconds=round(plan.search_seconds))}")
    if plan.budget_mb is not None:
        fitting = (("search RECIPE", plan.search_changes), ("train RUN", plan.training_changes))
        console.print(f"To stay within {plan.budget_mb:,.0f} MB:")
        for words, changes in fitting:
            console.print("  medarts", words, *changes, markup=False, highlight=False, soft_wrap=True)  # to be copied


def show_scores(scores: Scores | FindingScores) -> None:
    """Prints mean and interval of the main scores of every data set and class, or finding."""
    if isinstance(scores, FindingScores):
        _show_findings(scores)
    else:
        _show_masks(scores)


def _show_findings(scores: FindingScores) -> None:
    rows = scores.table()
    several = len({row.domain for row in rows}) > 1
    values = [Column(name, no_wrap=True) for name in ("positive", "AUROC", "AP", "sens.", "spec.")]
    table = Table(*["data set"] * several, Column("finding", min_width=18), *values)
    for row in rows:
        ranked = [_interval(summary, digits=3) for summary in (row.auroc, row.average_precision)]
        at = [_number(row.youden.sensitivity), _number(row.youden.specificity)]
        counts = "" if row.finding in MEANS else f"{row.positives} of {row.images}"
        table.add_row(*[row.domain] * several, row.finding, counts, *ranked, *at)
    console.print(table)
    for domain, reasons in scores.excluded().items():
        if reasons:
            names = "; ".join(f"{name} ({reason})" for name, reason in reasons.items())
            console.print(f"{domain}: excluded from the means: {names}.", highlight=False)
    console.print(
        f"Split {scores.split}, 95 % intervals over patients; sensitivity and specificity at Youden's threshold, which "
        "comes from the validation images. All values: scores/"
    )


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _show_masks(scores: Scores) -> None:
    metrics = ("dice", "jaccard", "hd95", "assd")
    rows = scores.table()
    several = len({row.class_name for row in rows}) > 1
    table = Table(scores.split, *["class"] * several, "images", *metrics)
    domains = {row.domain for row in rows} - {ALL, MEAN_OF_DOMAINS}
    for row in rows:
        if len(domains) == 1 and row.domain not in domains:
            continue  # the rows over all domains would repeat it
        values = [_interval(row.metrics[metric], digits=1 if metric in DISTANCES else 3) for metric in metrics]
        table.add_row(row.domain, *[row.class_name] * several, str(row.images), *values)
    console.print(table)
    console.print(f"Means, 95 % intervals over patients; distances in pixels; head {scores.head}. All metrics: scores/")


def show_cost(cost: Cost, *, in_channels: int, outputs: int, size: int) -> None:
    """Prints the cost of a network."""
    console.print(f"measured    with {in_channels} channels, {outputs} outputs, images of {size} x {size}")
    console.print(f"parameters  {cost.parameters:,}")
    console.print(f"FLOPs       {cost.flops / 1e9:.2f} G, 2 a multiply-add")
    console.print(f"latency     {cost.latency_ms:.1f} ms an image on the CPU as built (spread {cost.spread:.1f} ms)")
    if cost.inference_ms is not None:
        console.print(
            f"            {cost.inference_ms:.1f} ms as shipped for inference (spread {cost.inference_spread:.1f} ms)"
        )


def _interval(summary: Summary, *, digits: int) -> str:
    if math.isnan(summary.mean):
        return "–"
    if math.isnan(summary.low):
        return f"{summary.mean:.{digits}f}"
    return f"{summary.mean:.{digits}f}\n{summary.low:.{digits}f}–{summary.high:.{digits}f}"
