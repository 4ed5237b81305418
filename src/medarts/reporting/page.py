"""The HTML page of a run: one file that opens offline, with whatever the run directory holds so far.

The page is made of parts, each with the module that reads it: `journals` (how the run went), `mask_scores` and
`finding_scores` (the scores of a task, each with a template of its own). Here stands what every run has.

What cannot be made again (recipe, manifest, genotype, journals) is refused where it is damaged or missing. Scores and
costs can be made again: the page shows the rest, and says what it lacks and what makes it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from medarts.comparison.candidates import listed_samples
from medarts.config import SPLITS, Recipe, Split, Task, to_yaml
from medarts.config.difference import said
from medarts.engine.directory import RunDirectory
from medarts.engine.seal import check_signed
from medarts.errors import RunError
from medarts.evaluation.files import again
from medarts.profiling.cost import Cost
from medarts.profiling.latency import Timing
from medarts.reporting.cells import draw_cell
from medarts.reporting.content import Content, card, listed, read_json, reading, share
from medarts.reporting.drawings import one_line
from medarts.reporting.finding_scores import read_finding_scores
from medarts.reporting.journals import History, read_architecture, read_curves, read_gaps, read_history
from medarts.reporting.lattice import draw_lattice
from medarts.reporting.mask_scores import read_mask_scores
from medarts.reporting.style import inline_svg
from medarts.reporting.templates import render
from medarts.spaces.genotype import Genotype
from medarts.spaces.reading import load
from medarts.spaces.stack.frame import reductions
from medarts.spaces.stack.genotypes import SPACE as STACK
from medarts.spaces.stack.genotypes import check as check_stack
from medarts.system.console import warn
from medarts.system.files import UNFINISHED, write_whole

T = TypeVar("T")

SCORES: dict[Task, Callable[[Path], Content]] = {
    "segmentation": read_mask_scores,
    "classification": read_finding_scores,
}
"""Reads a folder of scores; the content names its template and has a card."""


def write_report(path: Path) -> Path:
    """Writes ``report.html`` of a run directory. What it lacks is printed too.

    Args:
        path: a search or training run, finished or not.

    Returns:
        The file written.

    Raises:
        RunError: the folder is no run, another process is at work on it, or a file that cannot be made again is damaged
            or missing.
    """
    run = RunDirectory.open(path)
    with run.at_work("report"):
        target, content = path / "report.html", _content(run)
        write_whole(target, render("page.html", content))
    for problem in content["problems"]:
        warn(f"{target} does not show everything. {problem}")
    return target


def _content(run: RunDirectory) -> Content:
    facts, recipe, history = run.facts, run.recipe, read_history(run)
    problems: list[str] = []
    genotype = _read_genotype(run, history)
    curves = read_curves(run, history)
    cost = _optional(problems, partial(_read_cost, run))
    folders = sorted(path for path in (run.path / "scores").glob("*/") if not path.name.startswith(UNFINISHED))
    scores = [_optional(problems, partial(_read_scores, run, folder)) for folder in folders]
    read = [table for table in scores if table is not None]
    domains = _domains(run, recipe)
    run.check_files()  # last, as all other errors say more
    return {
        "title": _title(facts),
        "facts": facts,
        "recipe": recipe,
        "recipe_text": to_yaml(recipe),
        "problems": problems,
        "cards": _cards(genotype, cost=cost, scores=read, curves=curves),
        "domains": domains,
        "scores": read,
        "curves": curves,
        "gaps": read_gaps(run, history),
        "genotype": _genotype(genotype) if genotype else None,
        "architecture": read_architecture(run, history),
        "cost": _cost(cost),
        "environment": _environment(facts, history),
        "changes": [_change(change) for change in facts.get("changes", ())],
    }


def _optional(problems: list[str], read: Callable[[], T | None]) -> T | None:
    """Returns what can be made again, or None and notes why it cannot be read."""
    try:
        return read()
    except RunError as error:
        problems.append(str(error))
        return None


def _read_genotype(run: RunDirectory, history: History) -> Genotype | None:
    """Returns the genotype that is trained, or was found so far; None for other networks, and before the first epoch.

    Raises:
        RunError: it is missing.
        GenotypeError: it is damaged.
    """
    path = run.path / "genotype.json"
    if not path.exists():
        searched = run.facts["kind"] == "search"
        if history.metrics if searched else run.recipe.train.model is None:
            raise RunError(f"{path} is missing.", fix="Copy the run again.")
        return None
    return load(run.path)


def _read_scores(run: RunDirectory, folder: Path) -> Content:
    """Returns the scores of a folder.

    Raises:
        RunError: they are damaged, or those of an evaluation that did not finish.
    """
    with reading(folder, fix=again(folder)):
        return SCORES[run.recipe.data.task](folder)


def _title(facts: Content) -> str:
    if facts["kind"] == "search":
        return f"Search {facts['name']}"
    return f"{facts['name']}: training of {facts['network']}"


def _cards(
    genotype: Genotype | None, *, cost: Cost | None, scores: list[Content], curves: Content | None
) -> list[Content]:
    """The numbers a reader looks for first."""
    cards = [table["card"] for table in scores]
    if curves:
        cards.append(card(f"best validation {curves['score']}", curves["highest"]))
    if cost:
        cards.append(card("parameters", f"{cost.parameters / 1e6:.2f} M"))
        cards.append(card(f"CPU latency at {cost.size} px", f"{cost.timings[0].median_ms:.0f} ms"))
    if genotype and genotype.paths:
        cards.append(card("cells kept", str(sum(len(kept.moves) for kept in genotype.paths))))
    if curves:
        cards.append(card("epochs", str(curves["epochs"])))
    return cards


def _domains(run: RunDirectory, recipe: Recipe) -> list[Content]:
    """Returns for every data set its images and patients, and how often it shows each finding."""
    samples = listed_samples(run)
    rows = []
    for domain in dict.fromkeys(domain for domain, _ in samples):
        members = [sample for (of, _), sample in samples.items() if of == domain]
        rows.append(
            {
                "domain": domain,
                "patients": len({sample["patient"] for sample in members}),
                "findings": _positives(members, recipe.data.findings) if recipe.data.findings else [],
                **{str(split): sum(sample["split"] == split for sample in members) for split in SPLITS},
            }
        )
    return rows


def _positives(samples: list[dict[str, str]], findings: tuple[str, ...]) -> list[Content]:
    """Returns the images with each finding, and with none, by split: number and share."""
    shown = {split: [set(s["findings"].split("|")) for s in samples if s["split"] == split] for split in SPLITS}

    def cell(split: Split, name: str) -> Content:
        number, images = sum(name in of_image for of_image in shown[split]), len(shown[split])
        return {"number": f"{number:,}", "share": share(number, images)}

    # The names of an image without findings are joined to nothing, which is split to the one name "".
    names = {**{name: name for name in findings}, "": "none of them"}
    return [{"finding": words, "cells": [cell(split, name) for split in SPLITS]} for name, words in names.items()]


def _genotype(genotype: Genotype) -> Content:
    kinds = {kind: draw_cell(genotype, kind) for kind in genotype.cells}
    stack = check_stack(genotype) if genotype.space == STACK else None
    layers = [str(layer + 1) for layer in reductions(stack.stem, stack.layers)] if stack else []
    return {
        "lattice": inline_svg(draw_lattice(genotype), "the lattice") if genotype.paths else None,
        "stack": stack and {"layers": stack.layers, "channels": stack.init_channel, "reduce": listed(layers)},
        "cells": [inline_svg(figure, f"the {kind} cell") for kind, figure in kinds.items()],
        "one_line": one_line(genotype),
    }


def _read_cost(run: RunDirectory) -> Cost | None:
    """Returns what the network costs; None before the run has finished.

    Raises:
        RunError: it is damaged, or missing although the run has finished.
    """
    path = run.path / "cost.json"
    if not path.exists() and not run.facts["finished"]:
        return None
    fix = f"Measure it again: medarts {run.facts['kind']} --resume {run.path}."
    with reading(path, fix=fix):
        content = read_json(path)
        check_signed(content)
        try:
            cost = Cost.read(content, origin=str(path))
        except RunError as error:
            raise RunError(error.problem, fix=fix) from error
        if not cost.built:
            raise ValueError("no timing is listed")
        return cost


def _cost(cost: Cost | None) -> Content | None:
    if cost is None:
        return None
    return {
        "size": cost.size,
        "in_channels": cost.in_channels,
        "parameters": f"{cost.parameters:,}",
        "flops": f"{cost.flops / 1e9:.2f}",
        "built": _timing(cost.built[0]),
        "shipped": _timing(cost.shipped[0]) if cost.shipped else None,
        "threads": cost.built[0].threads,
    }


def _timing(timing: Timing) -> Content:
    return {"median": f"{timing.median_ms:.1f}", "spread": f"{timing.spread_ms:.1f}"}


def _change(change: Content) -> Content:
    """Returns a value that was changed when the run went on, and after which of its epochs."""
    *stage, epoch, step = change["place"] or (0, 0)
    after = [f"stage {number + 1}" for number in stage[:1]] + [f"epoch {epoch}"] + [f"step {step}"] * bool(step)
    return {
        "field": change["field"],
        "before": said(change["before"]),
        "after": said(change["after"]),
        "place": ", ".join(after) if change["place"] else "the start",
    }


def _environment(facts: Content, history: History) -> list[tuple[str, str]]:
    rows = [(name, str(value)) for name, value in facts.get("environment", {}).items()]
    if history.timing:
        seconds = sum(line["seconds"] for line in history.timing)
        rows.append(("time of all epochs", f"{seconds / 60:.1f} minutes"))
        rows.append(("peak memory", f"{max(line['peak_memory_mb'] for line in history.timing) / 1000:.2f} GB"))
    rows.append(("recipe fingerprint", facts["recipe_fingerprint"]))
    rows.append(("data fingerprint", facts["data_fingerprint"]))
    return rows
