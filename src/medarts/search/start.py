"""Where a search begins or goes on: everything that can be wrong is looked at before anything long is done."""

from pathlib import Path

import torch
from lightning_fabric import Fabric

from medarts.data.batches import Batches
from medarts.data.opening import open_data
from medarts.data.splits import halve
from medarts.data.store import ImageStore
from medarts.recipe import Recipe
from medarts.run.device import environment, make_fabric
from medarts.run.directory import RunDirectory
from medarts.run.job import Trial
from medarts.run.randomness import seed_of
from medarts.search.loop import SearchLoop, StageData
from medarts.spaces.weave.supernet import WeaveSpace
from medarts.tasks.segmentation import SegmentationTask


def start_search(recipe: Recipe, out: Path) -> RunDirectory:
    """Searches a genotype by a recipe, in a new run directory.

    Args:
        recipe: what to do.
        out: folder of the run, new or empty.

    Raises:
        MedartsError: data, recipe, device or folder do not fit; nothing was written then.
        DivergedError: the loss became NaN or infinite.
        InterruptedRunError: the run was asked to stop; it can be resumed.
    """
    RunDirectory.check_free(out)
    fabric, store, data = _prepare(recipe)
    run = RunDirectory.create(
        out,
        recipe,
        kind="search",
        data_fingerprint=store.manifest.fingerprint(),
        environment=environment(fabric, recipe.compute),
    )
    store.manifest.write_csv(out / "manifest.csv")
    _loop(run, recipe, fabric, data).run()
    return run


def resume_search(path: Path) -> RunDirectory:
    """Goes on with a search from its last checkpoint; a finished one is left as it is.

    Raises:
        RunError: the folder is no search, or its data have changed.
    """
    run = RunDirectory.open(path, kind="search")
    recipe = run.recipe
    fabric, store, data = _prepare(recipe)
    run.check_unchanged(store.manifest.fingerprint())
    _loop(run, recipe, fabric, data).run()
    return run


def try_search(recipe: Recipe, stage: int, *, steps: int) -> Trial:
    """Times a few steps of a stage of a search.

    Raises:
        MedartsError: data, recipe or device do not fit.
    """
    fabric, _, data = _prepare(recipe)
    return _loop(None, recipe, fabric, data).trial(stage, steps=steps)


def _prepare(recipe: Recipe) -> tuple[Fabric, ImageStore, list[StageData]]:
    fabric = make_fabric(recipe.compute)
    store = open_data(recipe.data, needs=("train", "val"))
    return fabric, store, _stage_data(recipe, store, device=fabric.device)


def _loop(run: RunDirectory | None, recipe: Recipe, fabric: Fabric, data: list[StageData]) -> SearchLoop:
    space = WeaveSpace(recipe.space, in_channels=recipe.data.in_channels, outputs=recipe.data.classes)
    task = SegmentationTask(recipe.data, loss=recipe.search.loss)
    return SearchLoop(run, recipe, fabric=fabric, space=space, task=task, data=data)


def _stage_data(recipe: Recipe, store: ImageStore, *, device: torch.device) -> list[StageData]:
    """Returns the batches of every stage; patients are whole wherever there are several (see ``halve``)."""
    training = store.manifest.of_split("train")
    portion, seed = recipe.search.train_portion, seed_of(recipe.seed, "halves")
    weights, architecture = halve(training, portion=portion, seed=seed)
    validation = store.manifest.of_split("val")
    return [
        StageData(
            weights=Batches(store, weights, batch=stage.batch, name="weight half", device=device).check_fills_a_batch(),
            architecture=Batches(
                store, architecture, batch=stage.batch, name="alpha half", device=device
            ).check_fills_a_batch(),
            validation=Batches(
                store,
                validation,
                batch=recipe.evaluation.batch,
                name="validation set",
                device=device,
            ),
        )
        for stage in recipe.search.stages
    ]
