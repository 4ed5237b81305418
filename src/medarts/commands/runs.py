"""What search, train and evaluate do with run directories."""

from collections.abc import Iterable
from pathlib import Path

from medarts.commands.costs import cost
from medarts.config import Recipe, apply_overrides, parse
from medarts.config import load as load_recipe
from medarts.data.manifest import part_named
from medarts.data.opening import choose_sources
from medarts.engine.directory import RunDirectory
from medarts.engine.facts import signed
from medarts.errors import RecipeError
from medarts.evaluation.evaluate import evaluate as evaluate_run
from medarts.evaluation.scores import Scores
from medarts.models import Architecture
from medarts.nas.search import resume_search, start_search
from medarts.reporting.drawings import save_drawings
from medarts.reporting.page import write_report
from medarts.spaces import space_of
from medarts.spaces.genotype import load_genotype
from medarts.system.files import write_whole
from medarts.training.trainer import resume_training, start_training

_REPEATS = 10
"""Timed passes for the page of a run; `cost` takes more."""

_PATIENCE = 10.0
"""Seconds to wait for another process that writes a page of the same run."""


def search(recipe: Recipe, out: Path) -> RunDirectory:
    """Searches a genotype in a new run directory, and writes its drawings, cost and report.

    Raises:
        MedartsError: see ``medarts.nas.search.start_search``.
    """
    return complete(start_search(recipe, out))


def train(recipe: Recipe, architecture: Architecture, out: Path) -> RunDirectory:
    """Trains a network in a new run directory, and writes its drawings, cost and report.

    Args:
        recipe: data and training.
        architecture: a genotype, or the settings of a network made by hand.
        out: folder of the run.

    Raises:
        MedartsError: see ``medarts.training.trainer.start_training``.
    """
    return complete(start_training(recipe, architecture, out))


def resume(path: Path, *, kind: str, changes: Iterable[str] = ()) -> RunDirectory:
    """Goes on with a search or a training from its last checkpoint.

    Args:
        path: the run.
        kind: "search" or "train".
        changes: changes of its recipe as key.path=value; see ``medarts.engine.changes`` for those that there may be.

    Raises:
        RunError: the folder is no run of that kind, another process is at work on it, its data have changed, or its
            recipe in what may not change.
    """
    return complete({"search": resume_search, "train": resume_training}[kind](path, changes))


def training_recipe(
    searched: Path | None, *, recipe: Path | None, changes: Iterable[str], data: tuple[str, ...]
) -> Recipe:
    """Returns the recipe of a training: that of a search run, or of a file, or the published defaults.

    Args:
        searched: a search run.
        recipe: a recipe file; together with ``searched`` it is the one used.
        changes: changes as key.path=value.
        data: domains of the recipe, or folders; all sources of the recipe where empty.

    Raises:
        RecipeError: there is neither a recipe nor data, or the recipe is wrong.
        DataError: ``data`` names what is not there.
    """
    base: Recipe | None = None
    if recipe is not None:
        base = load_recipe(recipe)
    elif searched is not None:
        base = RunDirectory.open(searched).recipe
    elif not data:
        raise RecipeError("There are no data to train on.", fix="Give --data FOLDER, or --recipe FILE.")
    content = base.model_dump(mode="json") if base is not None else {}
    if data:
        sources = choose_sources(data, known=base.data.sources if base is not None else ())
        content.setdefault("data", {})["sources"] = [source.model_dump(mode="json") for source in sources]
    return parse(apply_overrides(content, changes))


def evaluate(path: Path, *, data: tuple[str, ...] = (), split: str = "test", head: str | None = None) -> Scores:
    """Scores a trained network, and renews the report of its run.

    Args:
        path: a training run.
        data: domains of its recipe, or folders; those it was trained on where empty.
        split: train, val, test or all.
        head: the head to use; the last where None.

    Raises:
        MedartsError: see ``medarts.evaluation.evaluate``.
    """
    chosen = part_named(split)
    run = RunDirectory.open(path, kind="train")
    sources = choose_sources(data, known=run.recipe.data.sources) if data else None
    with run.at_work("evaluate"):
        scores = evaluate_run(path, sources=sources, split=chosen, head=head)
        write_report(path)
    return scores


def complete(run: RunDirectory) -> RunDirectory:
    """Writes what can be said of a finished search or training: drawings, cost, report."""
    with run.at_work("report", patience=_PATIENCE):
        if (run.path / "genotype.json").exists():
            genotype = load_genotype(run.path)
            save_drawings(genotype, run.path / "pictures")
            line = space_of(genotype).to_text(genotype)
            if line is not None:
                write_whole(run.path / "genotype.txt", line + "\n")
        # Without memory, for which the network would have to run in a process of its own.
        costs = cost([run.path], threads=(1,), repeats=_REPEATS, memory=False)
        run.write_json("cost.json", signed(costs[str(run.path)].as_json()))
        write_report(run.path)
    return run
