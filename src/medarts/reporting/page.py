"""The HTML page of a run: one file that opens offline, with whatever the run directory holds so far.

Its parts come from the modules that read them: `journals` (how the run went), `drawings` (the genotype), `scores` (the
scores, with a template for each task).

What cannot be made again (recipe, manifest, genotype, journals) is refused where it is damaged or missing. Scores and
costs can be made again: the page shows the rest, and says what it lacks and what makes it.
"""

import shlex
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pandas as pd

from medarts.comparison.candidates import listed_samples
from medarts.config import SPLITS, Recipe, to_yaml
from medarts.config.reading import as_text
from medarts.engine.directory import RunDirectory
from medarts.engine.facts import check_signed
from medarts.errors import RunError
from medarts.evaluation.files import again
from medarts.network.structure import Structure
from medarts.profiling.budget import read_kept
from medarts.profiling.cost import BACKENDS, Cost
from medarts.pruning.record import FILE as PRUNING
from medarts.reporting.journals import History, read_architecture, read_curves, read_gaps, read_history, read_signals
from medarts.reporting.pool import pool_of
from medarts.reporting.pruning import pruning_of
from medarts.reporting.score_tables import titled
from medarts.reporting.scores import read_run_scores
from medarts.reporting.style import render
from medarts.reporting.tables import (
    Column,
    Content,
    Table,
    card,
    read_json,
    reading,
    share,
    significant,
    table,
)
from medarts.spaces import space_of
from medarts.spaces.genotype import Genotype
from medarts.spaces.genotype import load_genotype as load
from medarts.study.folds import read_fold_scores
from medarts.system.console import counted, warn
from medarts.system.files import UNFINISHED, exists, write_whole
from medarts.training.searched import search_line
from medarts.training.trained import is_ensemble, structure_in

T = TypeVar("T")


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
    facts, recipe = run.facts, run.recipe
    by_training = facts["kind"] == "search" and recipe.search.method != "supernet"
    history = History([], [], [], None) if by_training else read_history(run)
    pool = pool_of(run) if by_training else None
    problems: list[str] = []
    genotype = _read_genotype(run, history)
    curves = read_curves(run, history)
    cost = _optional(problems, partial(_read_cost, run))
    folders = sorted(path for path in (run.path / "scores").glob("*/") if not path.name.startswith(UNFINISHED))
    scores = [_optional(problems, partial(_read_scores, run, folder)) for folder in folders]
    read = [scored for scored in scores if scored is not None]
    data = _data(run, recipe)
    run.check_files()  # last, as all other errors say more
    return {
        "title": facts["name"] if facts["kind"] == "search" else f"{facts['network']} ({facts['name']})",
        "facts": facts,
        "recipe": recipe,
        "recipe_text": to_yaml(recipe),
        "problems": problems,
        "cards": _cards(cost=cost, scores=read, curves=curves, pool=pool),
        "data": data,
        "scores": read,
        "curves": curves,
        "pool": pool,
        "signals": read_signals(run, history),
        "gaps": _gaps(read_gaps(run, history)),
        "genotype": _genotype(genotype, structure_in(run)) if genotype else None,
        "seen": search_line(run),
        "folds": _folds(run),
        "pruning": pruning_of(run) if exists(run.path / PRUNING) else None,
        "architecture": read_architecture(run, history),
        "cost": _cost(cost) if cost else None,
        "budget": _budget(run),
        "environment": _environment(facts, history),
        "changes": _changes(facts),
    }


def _optional(problems: list[str], read: Callable[[], T | None]) -> T | None:
    """Returns what can be made again, or None and notes why it cannot be read."""
    try:
        return read()
    except RunError as error:
        problems.append(str(error))
        return None


def _read_genotype(run: RunDirectory, history: History) -> Genotype | None:
    """Returns the genotype that is trained, or was found so far; None for baselines and before the first epoch."""
    path = run.path / "genotype.json"
    if not path.exists():
        searched = run.facts["kind"] == "search"
        if history.metrics if searched else run.recipe.train.model is None:
            raise RunError(f"{path} is missing.", fix="Copy the run again.")
        return None
    return load(run.path)


def _read_scores(run: RunDirectory, folder: Path) -> Content:
    """Returns the scores of a folder."""
    with reading(folder, fix=again(folder)):
        return read_run_scores(folder)


def _cards(*, cost: Cost | None, scores: list[Content], curves: Content | None, pool: Content | None) -> list[Content]:
    """Returns the numbers a reader looks for first."""
    cards = [scored["card"] for scored in scores]
    if curves or pool:
        shown = curves or pool or {}
        cards.append(card(f"best validation {shown['score']}", shown["highest"]))
    if cost:
        cards.append(card("parameters", f"{cost.parameters / 1e6:.2f} M"))
        cards.append(card("FLOPs", f"{significant(cost.flops / 1e9)} G"))
        exported = cost.timings["onnxruntime"][0]
        threads = counted(exported.threads, "thread")
        cards.append(card(f"ONNX Runtime at {cost.size} px, {threads}", f"{significant(exported.median_ms)} ms"))
    if curves:
        best = "" if curves["best"] is None else f", {curves['best']} best"
        cards.append(card(f"epochs{best}", str(curves["epochs"])))
    if pool:
        cards.append(card("candidates", str(pool["candidates"])))
    return cards


_SPLIT_TITLES = {"train": "training", "val": "validation", "test": "test"}


def _data(run: RunDirectory, recipe: Recipe) -> Content:
    """Returns a table of the images and patients of every data set, and of its findings where there are some."""
    listing = listed_samples(run)
    samples = pd.DataFrame([{"unknown": "", "domain": domain, **sample} for (domain, _), sample in listing.items()])
    counts = samples.groupby("domain", sort=False)["split"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=SPLITS, fill_value=0).reindex(samples["domain"].unique())
    counts["patients"] = samples.groupby("domain")["patient"].nunique()
    titles = {"domain": "data set", **_SPLIT_TITLES, "patients": "patients"}
    columns = {key: Column(title, form="" if key == "domain" else ",d") for key, title in titles.items()}
    findings = {}
    if recipe.data.findings:
        for domain, members in samples.groupby("domain", sort=False):
            findings[domain] = _findings(members, recipe.data.findings)
    return {"table": table(counts.reset_index(), columns, caption="images and patients"), "findings": findings}


def _findings(samples: pd.DataFrame, findings: tuple[str, ...]) -> Table:
    """Returns the images with each finding, and with none, by split: number, and share below."""
    rows: dict[str, Content] = {name: {"finding": name or "none of them"} for name in (*findings, "")}
    for split in SPLITS:
        of_split = samples[samples["split"] == split]
        found, unknown = (
            Counter(name for names in of_split[column] for name in set(names.split("|")))  # "" is split to the name ""
            for column in ("findings", "unknown")
        )
        # An image that may show something is not known to show none.
        found[""], unknown[""] = int(((of_split["findings"] == "") & (of_split["unknown"] == "")).sum()), 0
        for name, row in rows.items():
            row |= {split: found[name], f"{split}_share": share(found[name], len(of_split) - unknown[name])}
    columns = {"finding": Column("finding", words=True)} | {
        split: Column(_SPLIT_TITLES[split], form=",d", below=f"{split}_share") for split in SPLITS
    }
    return table(pd.DataFrame(rows.values()), columns, caption="findings")


def _folds(run: RunDirectory) -> Content | None:
    """Returns a table of the scores of every fold, of all images together, and the spread between folds."""
    found = read_fold_scores(run) if run.facts["kind"] == "train" and is_ensemble(run) else None
    if found is None:
        return None
    about = {"fold": Column("fold", sorted="ascending", first="ascending")}
    about |= {name: Column(name, form=",d") for name in ("images", "patients")}
    about |= {"best_epoch": Column("best epoch", form=",d")}
    called = {one.name: titled(one, found.summary) for one in found.metrics}
    forms = {one.name: ".3f" if one.limits[1] == 1 else ".1f" for one in found.metrics}
    scores = {name: Column(called[name], form=form) for name, form in forms.items()}
    spread = [
        {"title": title, "pooled": found.pooled[name], "sd": found.spread[name]} for name, title in called.items()
    ]
    titles = {"title": Column("score", words=True)}
    titles |= {"pooled": Column("all images", form=".3f"), "sd": Column("SD between folds", form=".3f")}
    return {
        "number": len(found.folds),
        "table": table(found.folds, about | scores, caption="folds"),
        "pooled": table(pd.DataFrame(spread), titles, caption="all folds"),
    }


def _gaps(gaps: Content | None) -> Content | None:
    if gaps is None:
        return None
    columns = {
        "stage": Column("stage"),
        "supernet": Column("supernet", form=".3f"),
        "discrete": Column("discrete", form=".3f"),
        "gap": Column("gap", form="+.3f", first="ascending"),
    }
    frame = pd.DataFrame(gaps["stages"]).assign(stage=range(1, 1 + len(gaps["stages"])))
    return gaps | {"table": table(frame, columns, caption="discretisation gap")}


def _genotype(genotype: Genotype, structure: Structure | None) -> Content:
    from medarts.reporting import drawings, style

    figures = drawings.drawings(genotype, structure)
    return {
        "name": genotype.name,
        "space": genotype.space,
        "settings": genotype.settings,
        "figures": [style.inline_svg(figure, name.replace("_", " ")) for name, figure in figures.items()],
        "one_line": space_of(genotype).to_text(genotype),
    }


def has_cost(run: RunDirectory) -> bool:
    """Tells whether a run holds what its network costs, in a form that can be read."""
    try:
        return (run.path / "cost.json").exists() and _read_cost(run) is not None
    except RunError:
        return False


def _read_cost(run: RunDirectory) -> Cost | None:
    """Returns what the network costs; None before the run has finished."""
    path = run.path / "cost.json"
    if not path.exists() and not run.facts["finished"]:
        return None
    fix = f"Measure it again: medarts report {shlex.quote(str(run.path))}."
    with reading(path, fix=fix):
        content = read_json(path)
        check_signed(content)
        try:
            cost = Cost.read(content, origin=str(path))
        except RunError as error:
            raise RunError(error.problem, fix=fix) from error
        if not cost.timings:
            raise ValueError("no timing is listed")
        return cost


def _cost(cost: Cost) -> Content:
    """Returns a table of latencies: a row for each number of threads, a column for each backend."""
    rows = []
    for of_one in zip(*cost.timings.values(), strict=True):
        row: Content = {"threads": of_one[0].threads}
        for backend, timing in zip(cost.timings, of_one, strict=True):
            row |= {backend: timing.median_ms, f"{backend} spread": f"± {significant(timing.spread_ms / 2)}"}
        rows.append(row)
    columns = {"threads": Column("threads")} | {
        backend: Column(f"{BACKENDS[backend]}, ms", "ascending", form=significant, below=f"{backend} spread")
        for backend in cost.timings
    }
    return {"cost": cost, "table": table(pd.DataFrame(rows), columns, caption="latency on the CPU")}


def _budget(run: RunDirectory) -> Content | None:
    """Returns a table of the limits of a search, and of what its genotype costs."""
    kept = read_kept(run)
    if not kept:
        return None
    columns = {"title": Column("limited", words=True)} | {
        name: Column(name, form=significant) for name in ("limit", "measured")
    }
    frame = pd.DataFrame([one._asdict() for one in kept])
    shown = table(frame, columns, caption="budget")
    return {"settings": run.recipe.budget.at(run.recipe.data.size), "table": shown}


def _changes(facts: Content) -> Table | None:
    """Returns the values that were changed on the way, by the user or as memory ran out, and after which epochs."""
    rows = []
    splits = [
        {**split, "field": f"parts of a {split['of']} batch, as memory ran out"} for split in facts.get("splits", ())
    ]
    for change in (*facts.get("changes", ()), *splits):
        *stage, epoch, step = change["position"] or (0, 0)
        after = [f"stage {number + 1}" for number in stage[:1]] + [f"epoch {epoch}"] + [f"step {step}"] * bool(step)
        values = {key: as_text(change[key]) for key in ("before", "after")}
        rows.append({"field": change["field"], **values, "at": ", ".join(after) if change["position"] else "the start"})
    titles = {"field": "field", "before": "before", "after": "after", "at": "changed after"}
    columns = {key: Column(title, words=True) for key, title in titles.items()}
    return table(pd.DataFrame(rows), columns, caption="changes on the way") if rows else None


def _spent(history: History) -> str:
    """Returns what the epochs were spent on, the most first."""
    seconds: Counter[str] = Counter()
    for line in history.timing:
        seconds.update(line["spent"])
    total = seconds.total() or 1.0
    return ", ".join(f"{name} {part / total:.0%}" for name, part in seconds.most_common())


def _environment(facts: Content, history: History) -> list[tuple[str, str]]:
    rows = [(name, str(value)) for name, value in facts.get("environment", {}).items()]
    if history.timing:
        seconds = sum(line["seconds"] for line in history.timing)
        rows.append(("time of all epochs", f"{seconds / 60:.1f} minutes"))
        if all("spent" in line for line in history.timing):  # earlier versions wrote none
            rows.append(("spent on", _spent(history)))
        rows.append(("peak memory", f"{max(line['peak_memory_mb'] for line in history.timing) / 1000:.2f} GB"))
    rows.append(("recipe fingerprint", facts["recipe_fingerprint"]))
    rows.append(("data fingerprint", facts["data_fingerprint"]))
    return rows
