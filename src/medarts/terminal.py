"""Results as tables on the terminal."""

import math
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Column, Table

from medarts.comparison.compare import Comparison
from medarts.comparison.overall import OVERALL
from medarts.config import SPLITS
from medarts.config.reference import Key
from medarts.data.cache import CachedStore
from medarts.data.examination import SHOWN, Examination
from medarts.data.sizes import sizes_line
from medarts.deploy.info import is_package
from medarts.engine.directory import RunDirectory
from medarts.engine.listing import read_listing
from medarts.evaluation.deciding import shown_ways
from medarts.evaluation.scores import IMAGES_AS_PATIENTS, Scores, excluded, vanished, without_patients
from medarts.evaluation.summary import (
    MEAN_OF_CLASSES,
    MEAN_OF_DATASETS,
    MEAN_OF_FINDINGS,
    YOUDEN,
    without_repetition,
)
from medarts.metrics import metrics_of
from medarts.pool.result import Retrained, read_retrained
from medarts.profiling.budget import read_kept
from medarts.profiling.cost import Cost
from medarts.profiling.load import Load
from medarts.profiling.plan import Plan, between
from medarts.proposal import Proposal, Question
from medarts.proposal.describing import described
from medarts.proposal.writing import SCHEMA
from medarts.pruning.record import read_record
from medarts.reporting.comparison_tables import (
    budget_text,
    claim_tables,
    methods_table,
    network_table,
    noise_lines,
    pairs_table,
    random_table,
    reference_of,
    retrained_table,
)
from medarts.reporting.score_tables import apart, titled, unit_text
from medarts.reporting.tables import Table as PageTable
from medarts.study.folds import FoldScores, read_fold_scores
from medarts.study.generalize import Generalization
from medarts.study.noise import Noise
from medarts.study.planning import StudyPlan
from medarts.system.console import columns, counted, inform, make_console, name_column, say, show_table, wrapped
from medarts.system.names import printable
from medarts.training.rising import rising_line
from medarts.training.searched import search_line
from medarts.training.trained import is_ensemble

console = make_console()


def show_examination(examination: Examination) -> None:
    """Prints a line for every kind of finding, then a table of the data sets."""
    for group in examination.groups:
        first, *others = wrapped(f"{group.level} {group.line}", to=console)
        console.print(group.level, style="red" if group.level == "error" else "yellow", end="")
        say("\n".join((first.removeprefix(group.level), *others)), to=console)
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
        if summary.labels:
            say(f"{summary.domain}: values of the masks, for its source in a recipe and data.classes:", to=console)
            for line in summary.labels:
                console.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)
        told = sizes_line(summary.domain, {_size(words): number for words, number in summary.sizes.items()})
        if told is not None:
            say(told, to=console)
    errors, warnings = (examination.count(level) for level in ("error", "warning"))
    say(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}", to=console)


def _size(words: str) -> tuple[int, int]:
    """Returns height and width as a summary of the doctor writes them."""
    height, width = map(int, words.split(" x "))
    return height, width


def say_next(command: str, *words: Path | str) -> None:
    """Prints the command that usually comes next, to be copied into a shell.

    Like progress it goes to standard error: on standard output a script finds the path of the run.
    """
    inform(f"Next: {shlex.join(['medarts', command, *map(str, words)])}")


def scored_split(run: RunDirectory) -> tuple[str, ...]:
    """Returns the option by which a training is scored: none where there are test images, as in a run of folds."""
    splits = {cells["split"] for cells in read_listing(run.path / "manifest.csv").values()}
    return () if is_ensemble(run) or "test" in splits else ("--split", "val")


def ask(question: Question) -> int | None:
    """Asks a question on the terminal; where there is none, nobody answers."""
    if not sys.stdin.isatty():
        return None
    say(question.text, to=sys.stderr)
    for number, choice in enumerate(question.choices, start=1):
        say(f"  {number}. {choice}", to=sys.stderr)
    while True:
        print(f"1 to {len(question.choices)} [1]: ", end="", file=sys.stderr, flush=True)
        try:
            answer = input().strip() or "1"
        except EOFError:  # Ctrl-D
            print(file=sys.stderr)
            return None
        if answer.isdecimal() and 1 <= int(answer) <= len(question.choices):
            return int(answer) - 1


def show_proposal(proposal: Proposal, recipe: Path) -> None:
    """Prints what was understood of the data, and the commands that come next."""
    for look in proposal.looks:
        table = Table(name_column(printable(look.settings.domain)), Column(overflow="fold"), show_header=True)
        for name, text in described(look, folds=proposal.recipe.data.folds):
            table.add_row(name, printable(text))
        show_table(console, table)
        for doubt in look.doubts[:SHOWN]:
            say(f"not used: {doubt}", to=console)
        if len(look.doubts) > SHOWN:
            say(f"not used: {len(look.doubts) - SHOWN:,} more, see medarts doctor", to=console)
        if line := sizes_line(look.settings.domain, look.sizes):
            say(line, to=console)
    for question, answer in proposal.answers:
        say(f"{question} Taken: {answer}.", to=console)
    if reason := proposal.draft.reasons.get("data.findings"):
        say(f"findings: {reason}", to=console)
    schema = recipe.with_name(SCHEMA)
    size = f"{schema.stat().st_size / 1000:.0f} kB"
    say(f"{schema} ({size}) is for editors, which check and complete keys by it.", to=console)
    say(f"{recipe} is written. Next:", to=console)
    search, train = (
        ("", "") if proposal.times is None else (f"  # {_minutes(*between(each))}" for each in proposal.times)
    )
    say(f"  medarts search {shlex.quote(str(recipe))}{search}", to=console)
    say(f"  medarts train {shlex.quote(str(Path('runs') / recipe.stem))}{train}", to=console)
    if proposal.is_too_long:
        baseline = "unet" if proposal.recipe.data.task == "segmentation" else "chexnet"
        say(
            f"No shorter search makes sense; it is longer than {proposal.budget:g} min. A baseline takes less: medarts "
            f"train {shlex.quote(str(recipe))} --model {baseline}",
            to=console,
        )
    if proposal.load is not None:
        _say_busy(proposal.load)


def _minutes(low: float, high: float) -> str:
    """Writes between what a time lies, of two lengths in seconds."""
    if high < 2 * 3600:
        first, last = max(round(low / 60), 1), max(round(high / 60), 1)
        return f"{first} to {last} min" if last > first else f"about {last} min"
    return f"{low / 3600:.1f} to {high / 3600:.1f} h"


def show_keys(keys: Sequence[Key]) -> None:
    """Prints what keys of a recipe mean."""
    for key in keys:
        about = ", ".join(filter(None, (key.kind, f"default {key.default}" if key.default not in ("", "–") else "")))
        say(f"{key.path}: {about}", to=console)
        for line in textwrap.wrap(key.meaning, max(console.width - 4, 20), break_long_words=False):
            say(f"    {line}", to=console)


def show_plan(plan: Plan) -> None:
    """Prints the estimates of every stage, of every rung of a search by training, and of the training after it."""
    table = Table(*columns("", "parameters", "images\nat once", "accumulate", "peak\nmemory", "time"))
    rows = [*zip(plan.stage_names, plan.stages, plan.stage_seconds, strict=True)]
    if plan.candidate is not None:
        rows.append(("candidate, typical", plan.candidate, plan.candidate.seconds))
    training = "training, typical" if plan.folds == 1 else f"training, typical, {plan.folds} folds"
    for name, trial, seconds in (*rows, (training, plan.training, plan.training_seconds)):
        counts = [f"{number:,}" for number in (trial.parameters, trial.images_at_once, trial.accumulate)]
        table.add_row(name, *counts, f"{trial.memory_mb:,.0f} MB", _time(seconds))
    show_table(console, table)
    if plan.selection_seconds:
        say(f"selection: {_time(plan.selection_seconds)}", to=console)
    if plan.fitting_seconds:
        say(f"scaling to the budget: {_time(plan.fitting_seconds)}", to=console)
    if plan.rungs:
        _show_rungs(plan)
    at_once = ", with one training at a time" if plan.candidate is not None else ""
    say(f"search in all: {_time(plan.search_seconds)}{at_once}", to=console)
    say(f"reading images: {_time(plan.reading_seconds)}, done", to=console)
    say(f"scoring the test images: {_time(plan.folds * plan.scoring_seconds)}", to=console)
    say(f"still to come, with the scores: {_minutes(*plan.bounds)}", to=console)
    _say_busy(plan.load)
    if plan.budget_mb is not None:
        fitting = (("search RECIPE", plan.search_changes), ("train RUN", plan.training_changes))
        say(f"To stay within {plan.budget_mb:,.0f} MB:", to=console)
        for words, changes in fitting:
            say(" ".join(("  medarts", words, *changes)), to=console)


def _say_busy(load: Load) -> None:
    if load.is_busy:
        words = f"load {load.processes:.1f} on {counted(load.cores, 'core')}"
        say(f"The machine is busy ({words}): times may be longer or shorter.", to=console)


def _show_rungs(plan: Plan) -> None:
    """Prints what the candidates of a search by training take."""
    table = Table(*columns("", "candidates", "epochs", "time"))
    table.add_row("drawing", "", "", _time(plan.drawing_seconds))
    for rung in plan.rungs:
        numbers = (f"{rung.candidates:,}", f"{rung.epochs:,}")
        table.add_row(f"generation {rung.generation}, to epoch {rung.epoch}", *numbers, _time(rung.seconds))
    if plan.retrained:
        table.add_row("winner retrained", str(plan.retrained), "", _time(plan.retrained_seconds))
    show_table(console, table)


def show_study_plan(plan: StudyPlan) -> None:
    """Prints how long the runs of a study will take."""
    table = Table(name_column(""), *columns("runs", "time of each", "of all"))
    for part in plan.parts:
        table.add_row(printable(part.name), f"{part.runs:,}", _time(part.seconds), _time(part.runs * part.seconds))
    show_table(console, table)
    within = _minutes(*plan.bounds)
    say(f"{counted(plan.runs, 'run')} with their scores, one after the other: {within}", to=console)
    _say_busy(plan.load)


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def show_search(run: RunDirectory) -> None:
    """Prints what a search has chosen, by what score, and what that costs of its budget."""
    summary = run.read_json("summary.json")
    if "candidate" in summary:
        chosen = f"{summary['candidate']} ({summary['source']}), validation {summary['score']}"
        say(f"chosen: {chosen} {summary['best_score']:.3f}", to=console)
        _show_retrained(read_retrained(run), score=summary["score"])
    show_kept(run)


def show_training(run: RunDirectory) -> None:
    """Prints the scores of all folds, whether a training ended too early, and what its search has seen of patients."""
    if line := rising_line(run):
        inform(line)
    found = read_fold_scores(run) if is_ensemble(run) else None
    if found is not None:
        _show_folds(found)
    if line := search_line(run):
        say(line, to=console)


def _show_folds(found: FoldScores) -> None:
    titles = ("images", "patients", "best\nepoch", *(titled(one, found.summary) for one in found.metrics))
    table = Table(*columns("fold", *titles))

    def cells(values: Mapping[Any, Any]) -> list[str]:
        return [_digits(values[one.name], one.limits) for one in found.metrics]

    for row in found.folds.to_dict("records"):
        about = [f"{row[name]:,d}" for name in ("fold", "images", "patients", "best_epoch")]
        table.add_row(*about, *cells(row))
    images, patients = (f"{int(found.folds[name].sum()):,d}" for name in ("images", "patients"))
    table.add_row("all", images, patients, "", *cells(found.pooled))
    table.add_row("SD of folds", "", "", "", *cells(found.spread))
    show_table(console, table)
    say("Each image is scored by the network that has not seen it. medarts evaluate gives intervals.", to=console)


def show_noise(noise: Noise) -> None:
    """Prints how much each metric differs by chance."""
    titles = [f"{number} training{'s' * (number > 1)}\nof each" for number in noise.metrics[0].smallest]
    table = Table(*columns("", "mean", "SD of\nseeds", "SE of\npatients", *titles))
    for one in noise.metrics:
        numbers = (one.mean, one.between_seeds, one.between_patients, *one.smallest.values())
        table.add_row(one.title, *("–" if math.isnan(number) else f"{number:.3g}" for number in numbers))
    show_table(console, table)
    say(
        f"{noise.network}, {counted(len(noise.seeds), 'training')} by one recipe, {counted(noise.images, 'image')} of "
        f"{counted(noise.patients, 'patient')}. The last columns: the smallest difference between two networks that is "
        "more than chance, 95 %.",
        to=console,
    )


def _digits(value: float, limits: tuple[float, float]) -> str:
    return "–" if math.isnan(value) else f"{value:.{3 if limits[1] == 1 else 1}f}"


def _show_retrained(retrained: Retrained | None, *, score: str) -> None:
    """Prints the scores of the trainings of the winner, if there are any."""
    if retrained is None:
        return
    scores = ", ".join(f"{value:.3f} (seed {seed})" for seed, value in retrained.scores.items())
    spread = "" if math.isnan(retrained.spread) else f" ± {retrained.spread:.3f}"
    if scores:
        say(f"retrained: best validation {score} {retrained.mean:.3f}{spread}: {scores}", to=console)
    for seed, reason in retrained.failures.items():
        say(f"retrained with seed {seed}: failed: {reason}", to=console)


def show_kept(run: RunDirectory) -> None:
    """Prints the limits of a search beside what its genotype costs; nothing where there are none."""
    kept = read_kept(run)
    if not kept:
        return
    budget = run.recipe.budget.at(run.recipe.data.size)
    table = Table(*columns(f"budget, at {budget.size} px, {counted(budget.threads, 'thread')}", "limit", "measured"))
    for one in kept:
        table.add_row(one.title, f"{one.limit:,.4g}", f"{one.measured:,.4g}")
    show_table(console, table)


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


def show_scores(scores: Scores, *, folder: str = "scores/", remark: str = "") -> None:
    """Prints value and interval of the compared metrics of every data set and class, or finding.

    Args:
        scores: the scores.
        folder: where they were written.
        remark: what else is to be known of them.
    """
    assert scores.summary is not None
    summary = without_repetition(scores.summary)
    several = [name for name in ("dataset", "class") if summary[name].nunique() > 1 or name == "dataset"]
    _show_summary(summary, scores, several, counts="positive")
    if scores.volumes is not None:
        say("Volumes, scored in three dimensions:", to=console)
        _show_summary(without_repetition(scores.volumes), scores, several, counts="positive")
    if scores.groups is not None:
        say(f"By {scores.about['by']}:", to=console)
        means = scores.groups["class"].isin([MEAN_OF_CLASSES, MEAN_OF_FINDINGS])
        rows = without_repetition(scores.groups[means] if means.any() else scores.groups)
        rows = rows[rows["dataset"] != MEAN_OF_DATASETS]
        keys = ["group", *(["dataset"] if rows["dataset"].nunique() > 1 else [])]
        _show_summary(rows, scores, keys, counts="images")
        for kind, words in apart(scores):
            say(f"{kind.capitalize()} difference of Dice: {words}.", to=console)
    if scores.decisions is not None:
        _show_decisions(scores.decisions)
    _show_remarks(scores, summary)
    head = "" if scores.head is None else f", head {scores.head}"
    if scores.external:
        say(f"External, not trained on: {', '.join(scores.external)}.", to=console)
    if remark:
        say(remark, to=console)
    say(f"Split {scores.split}{head}; 95 % intervals over patients. All values: {folder}", to=console)


def _show_summary(rows: pd.DataFrame, scores: Scores, keys: list[str], *, counts: str) -> None:
    """Prints a table with a row for every value of the columns ``keys``."""
    there = {*rows["metric"]}
    metrics = [one for one in metrics_of(scores.task) if one.compared and one.name in there]
    of_findings = scores.task == "classification"
    points = ("sens.", "spec.") if of_findings else ()
    titles = {"dataset": "data set", "class": "finding" if of_findings else "class"}
    names = [name_column(titles.get(name, name)) for name in keys]
    table = Table(*names, *columns(counts, *(titled(one, rows) for one in metrics), *points))
    for _, row in rows.groupby([*dict.fromkeys((*keys, "dataset", "class"))], sort=False):
        cells: Any = row.set_index("metric")
        about = row.iloc[0]
        values = [_with_interval(cells.loc[one.name], digits=3 if one.limits[1] == 1 else 1) for one in metrics]
        at = [
            _number(cells.loc[f"{YOUDEN}_{ratio}", "value"]) for ratio in ("sensitivity", "specificity") if of_findings
        ]
        positive = f"{about['positives']} of {about['images']}" if about["classes"] == 1 else ""
        count = positive if counts == "positive" else f"{about['images']:,}"
        table.add_row(*(printable(str(about[name])) for name in keys), count, *values, *at)
    show_table(console, table)


def _show_remarks(scores: Scores, summary: pd.DataFrame) -> None:
    """Prints what is left out of the means, what has none, and what was found where there is nothing."""
    rates = summary[(summary["metric"] == "false_positive") & (summary["images"] > 0)]
    for row in rates[rates["dataset"] != MEAN_OF_DATASETS].to_dict("records"):
        where = f"{row['dataset']}, {row['class']}" if summary["class"].nunique() > 1 else str(row["dataset"])
        found, images = round(row["value"] * row["images"]), counted(row["images"], "image")
        say(f"{where}: something was found in {found} of {images} with an empty truth.", to=console)
    for unit in dict.fromkeys(summary["unit"]):
        if " and " in unit:
            say(f"Images differ in their unit ({unit_text(unit)}), so these scores have no mean.", to=console)
    for dataset, classes in excluded(scores.table).items():
        named = "; ".join(f"{name} ({reason})" for name, reason in classes.items())
        say(f"{dataset}: excluded from the means: {named}.", to=console)
    for dataset, counts_of in vanished(scores.table).items():
        lost = ", ".join(f"{name} in {counted(number, 'image')}" for name, number in counts_of.items())
        say(f"{dataset}: lost by resizing, and scored 0: {lost}. Larger images would show it.", to=console)
    if unknown := without_patients(scores.table):
        say(f"{', '.join(unknown)}: {IMAGES_AS_PATIENTS}", to=console)


def _show_decisions(decisions: pd.DataFrame) -> None:
    """Prints what other ways to masks gain over that of the scores."""
    shown = shown_ways(decisions)
    if not shown:
        return
    with_cost = any(one.flops != 1 for one in shown)
    table = Table(name_column("data set"), name_column("decision"), *columns("Dice", "gain", "IoU"))
    if with_cost:
        table.add_column("FLOPs", justify="right")
    for one in shown:
        gain = "–" if math.isnan(one.dice["gain"]) else f"{one.dice['gain']:+.3f}"
        if not math.isnan(one.dice["gain_low"]):
            gain += f"\n{one.dice['gain_low']:+.3f} to {one.dice['gain_high']:+.3f}"
        cells = [_with_interval(one.dice, digits=3), gain, _with_interval(one.jaccard, digits=3)]
        table.add_row(printable(one.dataset), one.name, *cells, *([f"{one.flops:.0%}"] if with_cost else []))
    show_table(console, table)


def _with_interval(row: Any, *, digits: int) -> str:
    """Writes a row of a summary: its value, and its interval below."""
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    if math.isnan(value):
        return "–"
    return f"{value:.{digits}f}" + ("" if math.isnan(low) else f"\n{low:.{digits}f}–{high:.{digits}f}")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def show_pruning(run: RunDirectory, *, of: Path) -> None:
    """Prints what a pruning has made of a network, and what can be done with that.

    Args:
        run: of the pruned network.
        of: the run or package that was pruned.
    """
    record = read_record(run)
    last, before, after = record.last, record.size, record.last.size
    table = Table(*columns("", f"validation\n{record.score}", "parameters", "FLOPs"))
    sizes = (f"{after.parameters:,}", f"{after.flops / 1e9:.3g} G")
    table.add_row("before", f"{record.original:.3f}", f"{before.parameters:,}", f"{before.flops / 1e9:.3g} G")
    table.add_row("after the cut", f"{last.cut:.3f}", *sizes)
    table.add_row("fine-tuned", f"{last.fine_tuned:.3f}", *sizes)
    show_table(console, table)
    if (latency := record.latency) is not None:
        measured = f"{latency.cut_ms:.3g} of {latency.before_ms:.3g} ms ({last.kept:.0%})"
        say(f"Latency in ONNX Runtime: {measured} for an image of {latency.size} px on one thread.", to=console)
    if record.removed or record.heads is not None:
        heads = f"heads left: {', '.join(record.heads)}" if record.heads is not None else ""
        gone = f"removed: {', '.join(record.removed)}" if record.removed else ""
        say("; ".join(filter(None, (gone, heads))), to=console)
    say("Next:", to=console)
    path = shlex.quote(str(run.path))
    compared = [] if is_package(of) else [f"compare {shlex.quote(str(of))} {path}"]
    for command in (f"evaluate {path}", *compared, f"export {path}"):
        say(f"  medarts {command}", to=console)


def show_costs(costs: Mapping[str, Cost]) -> None:
    """Prints the costs of networks that were measured in turns, and what the words mean."""
    for name, cost in costs.items():
        _show_cost(name, cost)
    if not any(cost.timings for cost in costs.values()):
        return
    say(
        "Latency on the CPU in ms, of a pass of the whole batch through the network alone, last head: the median, in "
        "brackets the interquartile range. The inference form scores images; exported networks run in ONNX Runtime "
        "and OpenVINO.",
        to=console,
    )


def _show_cost(name: str, cost: Cost) -> None:
    console.print(printable(name), style="bold", highlight=False, soft_wrap=True)
    channels, outputs = counted(cost.in_channels, "channel"), counted(cost.outputs, "output")
    say(f"measured     with {channels}, {outputs}, images of {cost.size} x {cost.size}", to=console)
    say(f"parameters   {cost.parameters:,}", to=console)
    say(f"FLOPs        {cost.flops / 1e9:.2f} G an image, 2 a multiply-add", to=console)
    peaks = [f"{peak:,.1f} MB with a batch of {batch}" for batch, peak in cost.memory_mb.items()]
    if peaks:
        say(f"peak memory  {', '.join(peaks)}", to=console)
    if not cost.timings:
        return
    headings = {
        "torch": "PyTorch\nas built", "inference form": "inference\nform", "onnxruntime": "ONNX\nRuntime",
        "openvino": "OpenVINO",
    }  # fmt: skip
    words = ("threads", "batch", *(headings[backend] for backend in cost.timings), "images\na second")
    table = Table(*(Column(word, justify="right", no_wrap=True) for word in words))
    for of_one in zip(*cost.timings.values(), strict=True):
        latencies = [f"{each.median_ms:,.1f} ({each.spread_ms:,.1f})" for each in of_one]
        exported = dict(zip(cost.timings, of_one, strict=True))["onnxruntime"]
        table.add_row(str(exported.threads), str(exported.batch), *latencies, f"{exported.images_a_second:,.1f}")
    show_table(console, table)


def show_comparison(comparison: Comparison, *, failures: Path | None = None) -> None:
    """Prints a table of the networks of every group of data sets, the best first, and the missing runs.

    Args:
        comparison: the comparison.
        failures: folder with the reasons of failures; None where no runs were planned but those compared.
    """
    for group in [*comparison.groups, *[OVERALL] * (OVERALL in set(comparison.networks.group))]:
        about = comparison.about["groups"].get(group, {})
        reference = reference_of(comparison, group)
        _title(group if reference is None else f"{group}, differences to {reference}")
        _print_table(network_table(comparison, group, brief=True))
        planned = about.get("planned_reference")
        if planned not in (None, reference):
            say(f"The planned reference {planned} has no finished run.", to=console)
        for dataset, classes in about.get("excluded", {}).items():
            say(f"{dataset}: excluded from the means: {', '.join(classes)}.", to=console)
        if unknown := about.get("without_patients"):
            say(f"{', '.join(unknown)}: {IMAGES_AS_PATIENTS}", to=console)
    for title, shown in (("Methods", methods_table(comparison)), ("What the search adds", random_table(comparison))):
        if shown is not None:
            _title(title)
            _print_table(shown)
    if (pairs := pairs_table(comparison)) is not None:
        say(f"{counted(len(pairs.rows), 'pair')} of methods, p corrected for all of them: differences.csv", to=console)
    if budget := budget_text(comparison):
        say(budget, to=console)
    for line in noise_lines(comparison):
        say(line, to=console)
    missing = comparison.about["missing"]
    show_missing(missing)
    say(
        "95 % intervals, p after Holm's correction, ms of one image in ONNX Runtime on one thread. All values: "
        "networks.csv",
        to=console,
    )
    if missing:
        compared = sum(
            len(one["runs"]) for of in comparison.about["groups"].values() for one in of["networks"].values()
        )
        where = (
            f": see {failures}" if failures is not None and any(run["state"] == "failed" for run in missing) else "."
        )
        verb = "is" if len(missing) == 1 else "are"
        say(f"{len(missing)} of {counted(compared + len(missing), 'run')} {verb} missing{where}", to=console)


def show_generalization(found: Generalization) -> None:
    """Prints the scores of networks retrained on each data set, the verdict on each claim, and what is missing."""
    for title, shown in (("Trained and tested on", retrained_table(found)), *claim_tables(found)):
        _title(title)
        if shown is not None:
            _print_table(shown)
    for name, one in found.about["datasets"].items():
        if one["excluded"]:
            say(f"{name}: excluded from the scores: {', '.join(one['excluded'])}.", to=console)
    show_missing([*found.about["missing"], *found.about["untested"]])
    say("95 % intervals, p after Holm's correction. All values: the tables beside the page", to=console)


def _title(text: str) -> None:
    # No part of the table, which would fold it at the table's width.
    console.print(printable(text), style="bold", highlight=False, soft_wrap=True)


def _print_table(shown: PageTable) -> None:
    """Prints a table of a page: what stands small below a value there is a second line here."""
    words = [number == 0 or column.words for number, column in enumerate(shown.columns)]
    heads = [
        name_column(printable(column.title)) if number == 0 else Column(printable(column.title), no_wrap=not is_text)
        for number, (column, is_text) in enumerate(zip(shown.columns, words, strict=True))
    ]
    printed = Table(*heads)
    for row in shown.rows:
        printed.add_row(*(printable(cell.text) + (f"\n{printable(cell.below)}" if cell.below else "") for cell in row))
    show_table(console, printed)
    if shown.note:
        say(shown.note, to=console)


def show_missing(missing: Sequence[Mapping[str, Any]]) -> None:
    """Prints runs that could not be compared or tested; those of one state and reason in one line."""
    alike: dict[tuple[str, str], list[str]] = {}
    for run in missing:
        state = run["state"] if "state" in run else f"not tested on {run['dataset']}"
        alike.setdefault((state, run["reason"]), []).append(f"{run['network']} on {run['group']}, seed {run['seed']}")
    for (state, reason), runs in alike.items():
        say(printable(f"{state}: {'; '.join(runs)}. {reason}".strip()), to=console)
