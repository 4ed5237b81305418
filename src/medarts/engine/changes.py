"""What of a recipe may change when a run is resumed, and what was changed.

The values that decide a run stand in its run.json as well, so that an edited recipe.yaml is noticed. On purpose,
``--resume RUN KEY=VALUE``, may change: where things are (paths of the data, the cache, initial weights), the note, the
device, threads, TensorBoard and the timeout of processes, the parts of a batch, and the number of epochs, which may
grow.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from medarts.config import Recipe, apply_overrides, fingerprint, parse, to_yaml
from medarts.config.reading import as_text, deciding_values, value_differences
from medarts.config.yaml_text import read_yaml
from medarts.engine import checkpoint
from medarts.engine.checkpoint import Position
from medarts.engine.directory import RunDirectory
from medarts.engine.facts import file_digests
from medarts.errors import DataError, RunError
from medarts.system.console import counted, inform
from medarts.system.files import write_whole
from medarts.system.ranks import current

_ANY_KIND = (
    r"note|data\.cache|data\.sources\.\d+\.path|train\.model\.weights|compute\.(device|threads|tensorboard|timeout)"
)
_OF_KIND = {
    "search": r"search\.stages\.\d+\.(accumulate|epochs)",
    "train": r"train\.(accumulate|epochs)",
    "prune": r"train\.accumulate",
    "search by training": r"(?!)",
}
_ALLOWED = {
    "search": ", search.stages.N.accumulate, and more epochs of the last stage",
    "train": ", train.accumulate, and more train.epochs",
    "prune": ", train.accumulate",
    "search by training": "",
}


_BITS = ("device", "threads", "torch", "processes")
"""What of the environment the last digits depend on."""


@dataclass(frozen=True)
class Change:
    """A value of a recipe that differs when the run is resumed."""

    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.field}: {as_text(self.before)} -> {as_text(self.after)}"


def changed_recipe(run: RunDirectory, words: Iterable[str]) -> tuple[Recipe, list[Change]]:
    """Returns the recipe by which a run is resumed, and what differs from the one it was started with.

    Args:
        run: the run.
        words: changes as key.path=value.

    Raises:
        RunError: recipe.yaml was edited, or a value may not change in a run that has begun.
        RecipeError: a change is none of a recipe.
    """
    words, edited = list(words), run.recipe_file()
    recipe = parse(apply_overrides(edited.model_dump(mode="json"), words)) if words else edited
    asked = tuple(word.partition("=")[0] for word in words)
    differences = list(run.differences(recipe))
    unasked = [each for each in differences if not _is_in(each[0], asked)]
    if unasked:
        raise run.was_edited(unasked)
    decided = [Change(*each) for each in differences]
    given = value_differences(edited.model_dump(mode="json"), recipe.model_dump(mode="json"))
    changes = [*decided, *(Change(*each) for each in given if re.fullmatch(_ANY_KIND, each[0]))]
    _check(run.facts["kind"], recipe, changes)
    return recipe, changes


def changes_on_the_way(run: RunDirectory, recipe: Recipe) -> list[str]:
    """Returns the changes, as key.path=value, by which a begun run has a recipe, of those that are possible on the way.

    That is what may change in any run, and the parts of a batch. Other differences are left out.
    """
    values = run.recipe_file().model_dump(mode="json"), recipe.model_dump(mode="json")
    return [
        f"{field}={json.dumps(after)}"
        for field, _, after in value_differences(*values)
        if re.fullmatch(rf"{_ANY_KIND}|train\.accumulate", field)
    ]


def check_places(run: RunDirectory, recipe: Recipe) -> None:
    """Refuses a recipe whose data folders are gone, as those of data that were moved.

    Raises:
        DataError: names the first folder that is gone, and how to give its new path.
    """
    for number, source in enumerate(recipe.data.sources):
        if not source.path.is_dir():
            command = f"medarts {run.facts['kind']} --resume {shlex.quote(str(run.path))}"
            raise DataError(
                f"There is no folder {source.path}, which held the data of {run.path}.",
                fix=f"If the data moved: {command} data.sources.{number}.path=NEW.",
            )


def with_its_threads(run: RunDirectory, recipe: Recipe, changes: Iterable[Change]) -> Recipe:
    """Returns the recipe with the number of threads that the run was started with, on which the last digits depend.

    Args:
        run: the run.
        recipe: its recipe; a number of threads that it gives stays.
        changes: what has changed; a number of threads that was given on purpose stays.

    Where there are more or fewer processes now each has other threads: theirs is a share of the cores.
    """
    before = run.facts.get("environment", {})
    threads = before.get("threads", 0) if before.get("processes", 1) == current().size else 0
    if recipe.compute.threads or any(change.field == "compute.threads" for change in changes):
        return recipe
    return recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"threads": threads})})


_OLD_WAYS = {
    "objects": "the smaller of two annotated objects covered the other; now a pixel is of the classes of both",
    "greys": "numbers beside colours in labels were levels of 255 in grey masks of 16 bits, too; now they are the "
    "values as stored",
}
"""How masks were read before each of the ways."""


def go_on(
    run: RunDirectory,
    recipe: Recipe,
    changes: list[Change],
    *,
    manifest: str,
    environment: Mapping[str, Any],
    ways: Iterable[str],
) -> None:
    """Says what is not as it was when a run was begun, and writes down what was changed on purpose.

    Args:
        run: the run.
        recipe: its recipe from now on.
        changes: what has changed.
        manifest: its samples, where they are now, as CSV.
        environment: of this process.
        ways: in which its masks are read, see `ImageStore.ways`.

    Raises:
        RunError: it cannot be written.
    """
    before = {"processes": 1, **run.facts.get("environment", {})}  # runs of before had one, and do not say so
    differing = (name for name in _BITS if before.get(name, environment[name]) != environment[name])
    others = [f"{name} {before[name]} (now {environment[name]})" for name in differing]
    if others:
        inform(f"{run.path} was started with {', '.join(others)}: from here on the last digits of numbers may differ.")
    if _had_other_borders(run, recipe):
        inform(
            f"{run.path} began when masks of several classes were resized to the nearest pixel; now a pixel is of the "
            "class that covers most of it: from here on borders lie up to half a pixel elsewhere. Train it anew for "
            "one rule from first to last."
        )
    for way in ways:
        if way not in run.facts.get("ways", ()):
            inform(
                f"{run.path} began when {_OLD_WAYS[way]}: from here on it sees other masks. Train it anew for one rule "
                "from first to last."
            )
    if changes:
        position = checkpoint.newest(run.checkpoints, "last")
        for line in consequences(recipe, changes, position=position):
            inform(line)
        _record(run, recipe, changes, manifest=manifest, position=position)


def _had_other_borders(run: RunDirectory, recipe: Recipe) -> bool:
    """Whether a run is older than the way in which its masks are resized now.

    ``data.overlap`` came with that, and recipes of runs hold all keys.
    """
    data = recipe.data
    if data.task != "segmentation" or data.outputs == 1:
        return False
    values = read_yaml((run.path / "recipe.yaml").read_text(encoding="utf-8"))
    return isinstance(values, dict) and "overlap" not in values.get("data", {})


def _record(
    run: RunDirectory, recipe: Recipe, changes: list[Change], *, manifest: str, position: Position | None
) -> None:
    """Writes down by which recipe a run goes on, and what was changed where.

    Args:
        run: the run.
        recipe: its recipe from now on.
        changes: what has changed.
        manifest: its manifest from now on, as CSV.
        position: of the last checkpoint; None if there is none yet.
    """
    facts, now = run.facts, datetime.now(UTC).isoformat(timespec="seconds")
    finished = facts["finished"] and not any(each.field.endswith("epochs") for each in changes)
    records = [
        {"field": each.field, "before": each.before, "after": each.after, "position": position, "time": now}
        for each in changes
    ]
    write_whole(run.path / "recipe.yaml", to_yaml(recipe))
    write_whole(run.path / "manifest.csv", manifest)
    run.write_json(  # last: before it the same command can be given again
        "run.json",
        {
            **facts,
            "recipe": deciding_values(recipe),
            "recipe_fingerprint": fingerprint(recipe),
            "finished": finished,
            "files": file_digests(run.path, facts["kind"], finished=finished),
            "changes": [*facts.get("changes", []), *records],
        },
    )


def consequences(recipe: Recipe, changes: Iterable[Change], *, position: Position | None) -> list[str]:
    """Returns a line for every change that says what it means for the rest of the run.

    Args:
        recipe: the recipe from now on.
        changes: what has changed.
        position: of the last checkpoint; None if there is none yet.
    """
    return [f"{change}{_meaning(change, recipe, position)}" for change in changes]


def _meaning(change: Change, recipe: Recipe, position: Position | None) -> str:
    if change.field.endswith(".accumulate"):
        return "; the steps stay the same up to rounding, except that batch norms see the parts alone."
    if not change.field.endswith(".epochs"):
        return "."
    if change.field == "train.epochs":
        if recipe.train.schedule == "plateau":
            return "; the learning rate falls as before, when the score no longer rises."
        epoch = position[0] if position else 0
    else:
        in_last = position is not None and position[0] == len(recipe.search.stages) - 1
        epoch = position[1] if position and in_last else 0
    return f"; from epoch {epoch + 1} on the learning rate is that of a run of {counted(change.after, 'epoch')}."


def _check(kind: str, recipe: Recipe, changes: Iterable[Change]) -> None:
    """Refuses changes that would make it another run.

    Raises:
        RunError: names them, with both values.
    """
    if kind == "search" and recipe.search.method != "supernet":
        kind = "search by training"
    allowed, last = f"{_ANY_KIND}|{_OF_KIND[kind]}", len(recipe.search.stages) - 1
    refused = [change for change in changes if not re.fullmatch(allowed, change.field)]
    if refused:
        raise RunError(
            f"A started run cannot change {'; '.join(map(str, refused))}.",
            fix=f"It can change paths, the note, compute.device, .threads, .tensorboard and .timeout{_ALLOWED[kind]}. "
            "Start a new run for the rest.",
        )
    for change in changes:
        if not change.field.endswith(".epochs"):
            continue
        if kind == "search" and change.field != f"search.stages.{last}.epochs":
            raise RunError(
                f"{change}: only the last stage of a started search can get more epochs.",
                fix=f"Change search.stages.{last}.epochs.",
            )
        if change.after < change.before:
            raise RunError(f"{change}: a started run cannot get fewer epochs.", fix="Stop it with Ctrl-C instead.")


def _is_in(field: str, keys: tuple[str, ...]) -> bool:
    return any(field == key or field.startswith(f"{key}.") for key in keys)
