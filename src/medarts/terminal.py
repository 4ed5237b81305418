"""Results as tables on the terminal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from rich.table import Column, Table

from medarts.comparison.overall import of_single_sets, overall
from medarts.comparison.paired import Difference
from medarts.comparison.result import Comparison, MetricScore, Missing
from medarts.comparison.words import excluded_words, missing_lines
from medarts.config import SPLITS
from medarts.data.cache import CachedStore
from medarts.data.examination import Examination
from medarts.evaluation.finding_table import MEANS
from medarts.evaluation.findings import FindingScores
from medarts.evaluation.mask_scores import ALL, MEAN_OF_DOMAINS, Scores, Summary
from medarts.profiling.cost import Cost
from medarts.profiling.plan import Plan
from medarts.reporting.comparison_controls import control_sentences, overall_control_sentences
from medarts.reporting.content import counted, p_text, significant
from medarts.study.generalization import Generalization
from medarts.study.words import excluded_of, means_words, missing_of
from medarts.system.console import columns, make_console, name_column, say, show_table
from medarts.system.names import printable

console = make_console()

DISTANCES = ("hd95", "assd")

SHORT_NAMES = {"dice": "Dice", "hd95": "HD95", "auroc": "AUROC", "average_precision": "AP"}
"""Headings of the scores of a comparison."""


def show_examination(examination: Examination) -> None:
    """Prints a line for every kind of finding, then a table of the data sets."""
    for group in examination.groups:
        console.print(group.level, style="red" if group.level == "error" else "yellow", end=" ")
        say(group.line, to=console)
    table = Table(name_column("data set"), *columns("images", "patients", *SPLITS), "sizes", *columns("foreground"))
    for summary in examination.summaries:
        sizes = ", ".join(list(summary.sizes)[:3]) + (" …" if len(summary.sizes) > 3 else "")
        foreground = "–" if summary.foreground is None else f"{summary.foreground:.1%}"
        counts = [str(summary.splits.get(split, 0)) for split in SPLITS]
        numbers = (str(summary.images), str(summary.patients), *counts)
        table.add_row(printable(summary.domain), *numbers, sizes, foreground)
    show_table(console, table)
    for summary in examination.summaries:
        if summary.findings:
            positives = Table(name_column(printable(f"{summary.domain}: images that show")), *columns(*SPLITS))
            for finding, shown in summary.findings.items():
                positives.add_row(printable(finding), *[str(shown[split]) for split in SPLITS])
            show_table(console, positives)
    errors, warnings = (examination.count(level) for level in ("error", "warning"))
    console.print(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}", highlight=False)


def show_plan(plan: Plan) -> None:
    """Prints the estimates of every stage and of the training."""
    table = Table(*columns("", "parameters", "images\nat once", "accumulate", "peak\nmemory", "time"))
    rows = [(f"search, stage {number}", trial) for number, trial in enumerate(plan.stages, 1)]
    for name, trial in (*rows, ("training, typical", plan.training)):
        counts = [f"{number:,}" for number in (trial.parameters, trial.images_at_once, trial.accumulate)]
        table.add_row(name, *counts, f"{trial.memory_mb:,.0f} MB", str(timedelta(seconds=round(trial.seconds))))
    show_table(console, table)
    console.print(f"search in all: {timedelta(seconds=round(plan.search_seconds))}")
    if plan.budget_mb is not None:
        fitting = (("search RECIPE", plan.search_changes), ("train RUN", plan.training_changes))
        console.print(f"To stay within {plan.budget_mb:,.0f} MB:")
        for words, changes in fitting:
            say(" ".join(("  medarts", words, *changes)), to=console)


def show_cache(folder: Path, held: Sequence[CachedStore]) -> None:
    """Prints what a cache holds, the last used first, and its size."""
    table = Table(name_column("images"), *columns("data", "size", "last used", "state"))
    for kept in held:
        state = "in use" if kept.in_use else "free"
        used = f"{kept.used:%Y-%m-%d %H:%M}"
        table.add_row(printable(kept.about), kept.fingerprint[:8], _megabytes([kept]), used, state)
    if held:
        show_table(console, table)
    say(f"{folder}: {_size_of(held)}.", to=console)


def show_cleared(folder: Path, removed: Sequence[CachedStore], in_use: Sequence[CachedStore]) -> None:
    """Prints what was removed of a cache, and what was left."""
    left = f" Left, because a process uses it: {_size_of(in_use)}." if in_use else ""
    say(f"{folder}: removed {_size_of(removed)}.{left}", to=console)


def _size_of(held: Sequence[CachedStore]) -> str:
    return f"{counted(len(held), 'store')} of images, {_megabytes(held)}"


def _megabytes(held: Sequence[CachedStore]) -> str:
    return f"{sum(kept.nbytes for kept in held) / 1e6:,.1f} MB"


def show_scores(scores: Scores | FindingScores) -> None:
    """Prints mean and interval of the main scores of every data set and class, or finding."""
    if isinstance(scores, FindingScores):
        _show_findings(scores)
    else:
        _show_masks(scores)


def _show_findings(scores: FindingScores) -> None:
    rows = scores.table()
    several = len({row.domain for row in rows}) > 1
    names = [name_column(title) for title in (*["data set"] * several, "finding")]
    table = Table(*names, *columns("positive", "AUROC", "AP", "sens.", "spec."))
    for row in rows:
        ranked = [_interval(summary, digits=3) for summary in (row.auroc, row.average_precision)]
        at = [_number(row.youden.sensitivity), _number(row.youden.specificity)]
        counts = "" if row.finding in MEANS else f"{row.positives} of {row.images}"
        table.add_row(*[row.domain] * several, printable(row.finding), counts, *ranked, *at)
    show_table(console, table)
    for domain, reasons in scores.excluded().items():
        if reasons:
            excluded = "; ".join(f"{name} ({reason})" for name, reason in reasons.items())
            console.print(printable(f"{domain}: excluded from the means: {excluded}."), highlight=False)
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
    names = [name_column(title) for title in (scores.split, *["class"] * several)]
    table = Table(*names, *columns("images", *metrics))
    domains = {row.domain for row in rows} - {ALL, MEAN_OF_DOMAINS}
    for row in rows:
        if len(domains) == 1 and row.domain not in domains:
            continue  # the rows over all domains would repeat it
        values = [_interval(row.metrics[metric], digits=1 if metric in DISTANCES else 3) for metric in metrics]
        table.add_row(*map(printable, (row.domain, *[row.class_name] * several)), str(row.images), *values)
    show_table(console, table)
    for domain, classes in scores.excluded().items():
        say(f"{domain}: excluded, as no image shows it: {', '.join(classes)}.", to=console)
    for domain, counts in scores.vanished().items():
        lost = ", ".join(f"{name} in {counted(number, 'image')}" for name, number in counts.items())
        say(f"{domain}: lost by resizing, and scored 0: {lost}. A larger data.size would show it.", to=console)
    console.print(f"Means, 95 % intervals over patients; distances in pixels; head {scores.head}. All metrics: scores/")


def show_costs(costs: Mapping[str, Cost]) -> None:
    """Prints the costs of networks that were measured in turns, and what the words mean."""
    for name, cost in costs.items():
        _show_cost(name, cost)
    shipped = ""
    if any(cost.shipped for cost in costs.values()):
        shipped = " As shipped for inference the outputs are the same, and images are scored in that form."
    console.print(
        "On the CPU, with the last head alone. Latency is that of a pass of the whole batch: the median, in brackets "
        f"the interquartile range.{shipped}",
        highlight=False,
    )


def _show_cost(name: str, cost: Cost) -> None:
    console.print(printable(name), style="bold", highlight=False, soft_wrap=True)
    console.print(
        f"measured     with {cost.in_channels} channels, {cost.outputs} outputs, images of {cost.size} x {cost.size}"
    )
    console.print(f"parameters   {cost.parameters:,}")
    console.print(f"FLOPs        {cost.flops / 1e9:.2f} G an image, 2 a multiply-add")
    peaks = [f"{peak:,.1f} MB with a batch of {batch}" for batch, peak in cost.memory_mb.items()]
    if peaks:
        console.print(f"peak memory  {', '.join(peaks)}")
    is_shipped = cost.shipped is not None
    words = ("threads", "batch", "as built", *["as shipped"] * is_shipped, "images a second")
    table = Table(*(Column(word, justify="right", no_wrap=True) for word in words))
    for built, used in zip(cost.built, cost.timings, strict=True):
        latencies = [f"{each.median_ms:,.1f} ms ({each.spread_ms:,.1f})" for each in (built, *[used] * is_shipped)]
        table.add_row(str(built.threads), str(built.batch), *latencies, f"{used.images_a_second:,.1f}")
    show_table(console, table)


def show_comparisons(
    comparisons: Mapping[str, Comparison],
    *,
    without_runs: Mapping[str, Sequence[Missing]] | None = None,
    failures: Path | None = None,
) -> None:
    """Prints a table of the networks of every group of data sets, the best first, and what is missing.

    Args:
        comparisons: by group.
        without_runs: the runs of groups of which none has finished.
        failures: folder that holds the reasons of failures; None where no runs were planned but those compared.
    """
    for name, comparison in comparisons.items():
        _show_comparison(name, comparison)
    if comparisons:
        _show_over_all(comparisons)
        console.print(
            "Means, 95 % intervals over patients, p after Holm's correction; ms of one image on one thread; * on the "
            "Pareto front of score and ms. All values: networks.csv of each comparison"
        )
    for name, runs in (without_runs or {}).items():
        console.print(printable(name), style="bold", highlight=False, soft_wrap=True)
        _show_missing(runs)
    missing = [run for of in (without_runs or {}).values() for run in of]
    missing += [run for comparison in comparisons.values() for run in comparison.missing]
    if missing:
        compared = sum(len(network.runs) for comparison in comparisons.values() for network in comparison.networks)
        where = f": see {failures}" if any(run.state == "failed" for run in missing) and failures is not None else "."
        verb = "is" if len(missing) == 1 else "are"
        line = f"{len(missing)} of {counted(compared + len(missing), 'run')} {verb} missing{where}"
        say(line, to=console)


def _show_comparison(name: str, comparison: Comparison) -> None:
    main, *_, other = comparison.metrics
    title = printable(f"{name}, differences to {comparison.reference}")
    console.print(title, style="bold", highlight=False)
    if comparison.planned_reference is not None:
        line = f"The planned reference {comparison.planned_reference} has no finished run."
        say(line, to=console)
    titles = [SHORT_NAMES[main], SHORT_NAMES[other], "difference", "param.", "ms"]
    table = Table(name_column("network"), *columns(*titles))
    for network in sorted(comparison.networks, key=lambda one: -(one.scores[main].mean or 0.0)):
        table.add_row(
            printable(network.name) + "*" * network.front,
            _scored(network.scores[main], digits=3),
            _scored(replace(network.scores[other], low=None, high=None), digits=_digits(other)),
            _against(network.difference),
            f"{significant(network.parameters / 1e6)} M",
            significant(network.latency_ms[1]),
        )
    show_table(console, table)
    for line in excluded_words(comparison.excluded, task=comparison.task):
        say(line, to=console)
    for line in control_sentences(comparison.controls, title=SHORT_NAMES[main], patients=comparison.patients):
        console.print(printable(line), highlight=False)
    _show_missing(comparison.missing)


def _show_over_all(comparisons: Mapping[str, Comparison]) -> None:
    """Prints what several data sets say together of networks against those drawn at random like them."""
    singles = of_single_sets(comparisons)
    if len(singles) > 1:
        title = SHORT_NAMES[next(iter(singles.values())).score]
        for line in overall_control_sentences(overall(singles).controls, title=title):
            console.print(printable(line), highlight=False)


def _show_missing(runs: Sequence[Missing]) -> None:
    for line in missing_lines((run.name, run.seed, run.state, run.reason) for run in runs):
        say(line, to=console)


def _against(found: Difference | None) -> str:
    """Returns a difference to the reference, its corrected p, and below its interval."""
    if found is None:
        return ""
    p = "" if found.p_corrected is None else f"  p {p_text(found.p_corrected)}"
    interval = "" if found.low is None else f"\n{found.low:+.3f} to {found.high:+.3f}"
    return f"{found.mean:+.3f}{p}{interval}"


def show_generalization(found: Generalization) -> None:
    """Prints how networks do when retrained on each data set, and what the study says of its claims."""
    groups = found.retrained.groups
    # The title is no part of the table, which would fold it at the table's width.
    console.print("Trained and tested on", style="italic")
    table = Table(name_column("network"), *map(name_column, map(printable, groups)), *columns("mean", "rank"))
    searched = {network.name: network.searched_on for network in found.networks}
    alone = {group.name: group.domains[0] for group in found.groups}
    for row in found.retrained.rows:
        cells = [_mean_of(row.cells[group]) + "*" * (alone[group] in searched[row.network]) for group in groups]
        rank = "–" if row.rank is None else f"{row.rank:.1f}"
        table.add_row(printable(row.network), *cells, _scored(row.mean, digits=3), rank)
    show_table(console, table)
    lines = ["* searched on this data set; all intervals stand on the page."]
    lines += [words] if (words := means_words(found.retrained)) else []
    lines += excluded_of(found)
    for claim in found.claims:
        lines += ["", *claim.words]
    if found.missing or found.untested:
        lines += ["", "Missing:"]
    lines += missing_of(found)
    for test in found.untested:
        lines.append(
            f"{test.network} on {test.group}, seed {test.seed}, is not tested on {test.domain}: {test.reason}".strip()
        )
    for line in lines:
        say(line, to=console)


def _digits(metric: str) -> int:
    return 1 if metric in DISTANCES else 3


def _mean_of(score: MetricScore | None) -> str:
    return "–" if score is None or score.mean is None else f"{score.mean:.3f}"


def _scored(score: MetricScore | None, *, digits: int) -> str:
    nan = math.nan
    if score is None or score.mean is None:
        return _interval(Summary(nan, nan, nan, 0), digits=digits)
    low, high = (nan if end is None else end for end in (score.low, score.high))
    return _interval(Summary(score.mean, low, high, score.undefined), digits=digits)


def _interval(summary: Summary, *, digits: int) -> str:
    if math.isnan(summary.mean):
        return "–"
    if math.isnan(summary.low):
        return f"{summary.mean:.{digits}f}"
    return f"{summary.mean:.{digits}f}\n{summary.low:.{digits}f}–{summary.high:.{digits}f}"
