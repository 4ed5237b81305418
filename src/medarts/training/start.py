"""Where training begins or goes on: everything that can be wrong is looked at before anything long is done."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from medarts.config import Recipe
from medarts.config.models import CheXNetSettings
from medarts.data.batches import Batches, check_fills_a_batch
from medarts.data.opening import open_manifest, with_findings
from medarts.data.store import ImageStore, open_store
from medarts.engine import checkpoint
from medarts.engine.changes import Change, changed_recipe, check_places, go_on, with_its_threads
from medarts.engine.device import environment, make_fabric
from medarts.engine.directory import RunDirectory
from medarts.engine.job import Trial
from medarts.errors import RecipeError, RunError
from medarts.models.network import TrainedNetwork
from medarts.models.registry import Architecture, network_of, task_of
from medarts.spaces.genotype import Genotype
from medarts.spaces.reading import load as load_genotype
from medarts.spaces.registry import space_settings
from medarts.system.memory import OutOfMemoryError, memory_named, smaller_parts
from medarts.system.randomness import seed_torch
from medarts.tasks.segmentation import check_masks
from medarts.tasks.task import Task, make_task
from medarts.training.loop import TrainingData, TrainingLoop


def start_training(recipe: Recipe, architecture: Architecture, out: Path) -> RunDirectory:
    """Trains a network from scratch, or from a file of weights, in a new run directory.

    Args:
        recipe: data and training; its space section becomes that of the genotype, its model that made by hand.
        architecture: the genotype, or the settings of a network made by hand.
        out: folder of the run, new or empty.

    Raises:
        MedartsError: data, genotype, recipe, device or folder do not fit; nothing was written then.
        DivergedError: the loss became NaN or infinite.
        InterruptedRunError: the run was asked to stop; it can be resumed.
        OutOfMemoryError: memory ran out; where no checkpoint was saved, nothing is left of the run.
    """
    of_network: dict[str, str] = {}
    changes: dict[str, Any]
    if isinstance(architecture, Genotype):
        of_network["genotype.json"] = architecture.to_json() + "\n"
        settings = recipe.train.model_copy(update={"model": None})
        changes = {"space": space_settings(architecture), "train": settings}
    else:
        changes = {"train": recipe.train.model_copy(update={"model": architecture})}
    recipe = recipe.model_copy(update=changes)
    with RunDirectory.reserved(out, "train"), memory_named("training", fix=_smaller(recipe)):
        job = _prepare(recipe, architecture)
        manifest = job.store.manifest
        run = RunDirectory.create(
            out,
            job.recipe,
            kind="train",
            data_fingerprint=manifest.fingerprint(),
            files={"manifest.csv": manifest.to_csv(), **of_network},
            environment=environment(job.fabric, recipe.compute),
            network=architecture.name,
            weights_fingerprint=_weights_fingerprint(architecture),
        )
        try:
            job.loop(run).run()
        except OutOfMemoryError:
            run.discard()
            raise
    return run


def architecture_of(run: RunDirectory) -> Architecture:
    """Returns what a training run trains."""
    return run.recipe.train.model or load_genotype(run.path)


def without_weights(architecture: Architecture) -> Architecture:
    """Returns the architecture to fill with weights of its own, not with those it began with."""
    if isinstance(architecture, CheXNetSettings):
        return architecture.model_copy(update={"weights": None})
    return architecture


def resume_training(path: Path, changes: Iterable[str] = ()) -> RunDirectory:
    """Goes on with training from its last checkpoint; a finished run is left as it is, unless it is to be longer.

    Args:
        path: its folder.
        changes: changes of its recipe as key.path=value; see ``medarts.engine.changes`` for those that there may be.

    Raises:
        RunError: the folder is no training run, another process is at work on it, its data or initial weights have
            changed, or its recipe in what may not change.
    """
    run = RunDirectory.open(path, kind="train")
    with run.at_work("train"):
        recipe, changed = changed_recipe(run, changes)
        with memory_named("training", fix=_smaller(recipe)):
            _go_on(run, recipe, changed)
    return run


def _go_on(run: RunDirectory, recipe: Recipe, changed: list[Change]) -> None:
    architecture = recipe.train.model or load_genotype(run.path)
    begun = checkpoint.newest(run.checkpoints, "last") is not None
    if begun:  # it has what came of the weights to start from
        architecture = without_weights(architecture)
    check_places(run, recipe)
    if not begun and _weights_fingerprint(architecture) != run.facts.get("weights_fingerprint"):
        raise RunError(
            f"The initial weights of {run.path} have changed since it began.",
            fix="Restore that file, or start a new run.",
        )
    job = _prepare(with_its_threads(run, recipe, changed), architecture, run)
    manifest, now = job.store.manifest, environment(job.fabric, recipe.compute)
    go_on(run, recipe, changed, manifest=manifest.to_csv(), environment=now)
    job.loop(run).run()


def _weights_fingerprint(architecture: Architecture) -> str | None:
    """Returns the fingerprint of the file of weights that a network begins with; None where it begins at random."""
    if not isinstance(architecture, CheXNetSettings) or architecture.weights is None:
        return None
    with architecture.weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _smaller(recipe: Recipe) -> str:
    return smaller_parts("train.accumulate", accumulate=recipe.train.accumulate, batch=recipe.train.batch)


def try_training(recipe: Recipe, architecture: Architecture, *, steps: int) -> Trial:
    """Times a few steps of a training.

    Raises:
        MedartsError: data, genotype, recipe or device do not fit.
    """
    return _prepare(recipe, architecture).loop(None).trial(steps=steps)


@dataclass(frozen=True)
class _Job:
    """A training whose recipe, with the names of its outputs, network and data have been found to fit."""

    recipe: Recipe
    fabric: Fabric
    network: TrainedNetwork
    task: Task
    store: ImageStore
    data: TrainingData

    def loop(self, run: RunDirectory | None) -> TrainingLoop:
        return TrainingLoop(run, self.recipe, fabric=self.fabric, network=self.network, task=self.task, data=self.data)


def _prepare(recipe: Recipe, architecture: Architecture, run: RunDirectory | None = None) -> _Job:
    """Looks at everything that can be wrong, what is quick to see first, and reads the images last.

    Args:
        recipe: data and training.
        architecture: the network.
        run: the run that goes on, if it is not new.
    """
    fabric = make_fabric(recipe.compute)
    check_task(recipe, architecture)
    manifest = open_manifest(recipe.data, needs=("train", "val"))
    if run is not None:
        run.check_unchanged(manifest.fingerprint(), manifest=manifest.to_csv())
    recipe = with_findings(recipe, manifest)
    task = make_task(recipe, manifest, loss=recipe.train.loss, field="train.loss")
    seed_torch(recipe.seed, "network")
    network = network_of(recipe, architecture)
    check_sizes(recipe, network)
    training, validation = manifest.of_split("train"), manifest.of_split("val")
    check_fills_a_batch(training, recipe.train.batch, name="training set")
    store, device = open_store(manifest, recipe.data, threads=recipe.compute.threads), fabric.device
    check_masks(store, {"training": training, "validation": validation})
    data = TrainingData(
        training=Batches(store, training, batch=recipe.train.batch, name="training set", device=device),
        validation=Batches(store, validation, batch=recipe.evaluation.batch, name="validation set", device=device),
    )
    return _Job(recipe, fabric, network, task, store, data)


def check_task(recipe: Recipe, architecture: Architecture) -> None:
    """Refuses a network for another task than that of the data.

    Raises:
        RecipeError: it is.
    """
    task = task_of(architecture)
    if task != recipe.data.task:
        raise RecipeError(
            f"{architecture.name} is a network for {task}, but the data are for {recipe.data.task}.",
            fix="Train it on images with findings." if task == "classification" else "Train it on images with masks.",
        )


def check_sizes(recipe: Recipe, network: TrainedNetwork) -> None:
    """Refuses images that a network cannot take, and norms over the batch or an image that would see a single value.

    Raises:
        RecipeError: there are such.
    """
    network.check_size(recipe.data.size)
    settings, smallest = recipe.train, network.smallest_map(recipe.data.size)
    norms: tuple[type[nn.Module], ...] = (nn.InstanceNorm2d,)
    if settings.batch // settings.accumulate == 1:
        norms = (nn.InstanceNorm2d, nn.BatchNorm2d)
    if smallest == 1 and any(isinstance(module, norms) for module in network.modules()):
        raise RecipeError(
            f"With train.batch {settings.batch} in {settings.accumulate} parts and data.size {recipe.data.size} a norm "
            "of the network sees one pixel alone.",
            fix="Use larger images, a larger batch or fewer parts; or train.norm=group, where the network has it.",
        )
