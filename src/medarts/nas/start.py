"""Where a search begins or goes on: everything that can be wrong is looked at before anything long is done."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric

from medarts.config import Recipe
from medarts.data.batches import Batches, check_fills_a_batch, smallest_batch
from medarts.data.manifest import Manifest
from medarts.data.opening import open_manifest, with_findings
from medarts.data.splits import halve
from medarts.data.store import ImageStore, open_store
from medarts.engine import checkpoint
from medarts.engine.changes import Change, changed_recipe, check_places, go_on, with_its_threads
from medarts.engine.device import environment, make_fabric
from medarts.engine.directory import RunDirectory
from medarts.engine.job import Trial
from medarts.errors import RecipeError
from medarts.nas.loop import SearchLoop, StageData
from medarts.spaces.registry import make_space
from medarts.spaces.space import SearchSpace
from medarts.system.memory import OutOfMemoryError, memory_named, smaller_parts
from medarts.system.randomness import seed_of
from medarts.tasks.segmentation import check_masks
from medarts.tasks.task import Task, make_task

HALVES = ("weight half", "alpha half")


def start_search(recipe: Recipe, out: Path) -> RunDirectory:
    """Searches a genotype by a recipe, in a new run directory.

    Args:
        recipe: what to do.
        out: folder of the run, new or empty.

    Raises:
        MedartsError: data, recipe, device or folder do not fit; nothing was written then.
        DivergedError: the loss became NaN or infinite.
        InterruptedRunError: the run was asked to stop; it can be resumed.
        OutOfMemoryError: memory ran out; where no checkpoint was saved, nothing is left of the run.
    """
    with RunDirectory.reserved(out, "search"), memory_named("the search", fix=_smaller(recipe)):
        job = prepare_search(recipe)
        manifest = job.store.manifest
        run = RunDirectory.create(
            out,
            job.recipe,
            kind="search",
            data_fingerprint=manifest.fingerprint(),
            files={"manifest.csv": manifest.to_csv()},
            environment=environment(job.fabric, recipe.compute),
        )
        try:
            job.loop(run).run()
        except OutOfMemoryError:
            run.discard()
            raise
    return run


def resume_search(path: Path, changes: Iterable[str] = ()) -> RunDirectory:
    """Goes on with a search from its last checkpoint; a finished one is left as it is, unless it is to be longer.

    Args:
        path: its folder.
        changes: changes of its recipe as key.path=value; see ``medarts.engine.changes`` for those that there may be.

    Raises:
        RunError: the folder is no search, another process is at work on it, its data have changed, or its recipe in
            what may not change.
    """
    run = RunDirectory.open(path, kind="search")
    with run.at_work("search"):
        recipe, changed = changed_recipe(run, changes)
        with memory_named("the search", fix=_smaller(recipe)):
            _go_on(run, recipe, changed)
    return run


def _go_on(run: RunDirectory, recipe: Recipe, changed: list[Change]) -> None:
    check_places(run, recipe)
    job = prepare_search(with_its_threads(run, recipe, changed), run)
    manifest, now = job.store.manifest, environment(job.fabric, recipe.compute)
    stages, last = len(recipe.search.stages), checkpoint.newest(run.checkpoints, "last")
    if last is not None and last[0] == stages and any(change.field.endswith(".epochs") for change in changed):
        checkpoint.drop_newest(run.checkpoints, "last")  # it has chosen already; that of the last epoch goes on
    go_on(run, recipe, changed, manifest=manifest.to_csv(), environment=now)
    job.loop(run).run()


def _smaller(recipe: Recipe) -> str:
    stages = recipe.search.stages
    number = max(range(len(stages)), key=lambda each: stages[each].images_at_once)
    stage = stages[number]
    return smaller_parts(f"search.stages.{number}.accumulate", accumulate=stage.accumulate, batch=stage.batch)


def try_search(recipe: Recipe, stage: int, *, steps: int) -> Trial:
    """Times a few steps of a stage of a search.

    Raises:
        MedartsError: data, recipe or device do not fit.
    """
    return prepare_search(recipe).loop(None).trial(stage, steps=steps)


@dataclass(frozen=True)
class SearchJob:
    """A search whose recipe, with the names of its outputs, and data have been found to fit."""

    recipe: Recipe
    fabric: Fabric
    space: SearchSpace
    task: Task
    store: ImageStore
    data: list[StageData]

    def loop(self, run: RunDirectory | None) -> SearchLoop:
        """Returns the search, to be run in a run directory or, without one, to be tried."""
        return SearchLoop(run, self.recipe, fabric=self.fabric, space=self.space, task=self.task, data=self.data)


def prepare_search(recipe: Recipe, run: RunDirectory | None = None) -> SearchJob:
    """Looks at everything that can be wrong, what is quick to see first, and reads the images last.

    Args:
        recipe: what to do.
        run: the run that goes on, if it is not new.

    Raises:
        MedartsError: data, recipe or device do not fit, or the data of the run have changed.
    """
    if recipe.search.gradient == "second_order" and recipe.compute.precision != "fp32":
        raise RecipeError(
            "search.gradient second_order takes the difference of almost equal gradients, which "
            f"{recipe.compute.precision} does not resolve.",
            fix="Use compute.precision=fp32, or search.gradient=first_order.",
        )
    fabric = make_fabric(recipe.compute)
    manifest = open_manifest(recipe.data, needs=("train", "val"))
    if run is not None:
        run.check_unchanged(manifest.fingerprint(), manifest=manifest.to_csv())
    recipe = with_findings(recipe, manifest)
    task = make_task(recipe, manifest, loss=recipe.search.loss, field="search.loss")
    space = make_space(recipe)
    validated = smallest_batch(len(manifest.of_split("val").samples), recipe.evaluation.batch)
    for stage in recipe.search.stages:
        space.check(stage, recipe.data.size, fewest=min(stage.batch // stage.accumulate, validated))
    halves = halve(manifest.of_split("train"), portion=recipe.search.train_portion, seed=seed_of(recipe.seed, "halves"))
    largest = max(stage.batch for stage in recipe.search.stages)
    for half, name in zip(halves, HALVES, strict=True):
        check_fills_a_batch(half, largest, name=name)
    store = open_store(manifest, recipe.data, threads=recipe.compute.threads)
    check_masks(store, {"training": manifest.of_split("train"), "validation": manifest.of_split("val")})
    data = [_stage_data(store, halves, stage.batch, recipe, device=fabric.device) for stage in recipe.search.stages]
    return SearchJob(recipe, fabric, space, task, store, data)


def _stage_data(
    store: ImageStore, halves: tuple[Manifest, Manifest], batch: int, recipe: Recipe, *, device: torch.device
) -> StageData:
    """Returns the batches of a stage; patients are whole wherever there are several (see ``halve``)."""
    weights, architecture = (
        Batches(store, half, batch=batch, name=name, device=device) for half, name in zip(halves, HALVES, strict=True)
    )
    validation = Batches(
        store,
        store.manifest.of_split("val"),
        batch=recipe.evaluation.batch,
        name="validation set",
        device=device,
    )
    return StageData(weights=weights, architecture=architecture, validation=validation)
