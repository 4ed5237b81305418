"""Where training begins or goes on: everything that can be wrong is looked at before anything long is done."""

from pathlib import Path

import torch
from lightning_fabric import Fabric

from medarts.data.batches import Batches
from medarts.data.opening import open_data
from medarts.data.store import ImageStore
from medarts.networks.weave import WeaveNetwork
from medarts.recipe import Recipe
from medarts.run.device import environment, make_fabric
from medarts.run.directory import RunDirectory
from medarts.run.job import Trial
from medarts.run.randomness import seed_torch
from medarts.spaces.genotype import Genotype
from medarts.spaces.genotype import load as load_genotype
from medarts.tasks.segmentation import SegmentationTask
from medarts.training.loop import TrainingData, TrainingLoop


def start_training(recipe: Recipe, genotype: Genotype, out: Path) -> RunDirectory:
    """Trains the network of a genotype from scratch, in a new run directory.

    Args:
        recipe: data and training; its space section is not used, the genotype brings its own settings.
        genotype: the architecture.
        out: folder of the run, new or empty.

    Raises:
        MedartsError: data, genotype, recipe, device or folder do not fit; nothing was written then.
        DivergedError: the loss became NaN or infinite.
        InterruptedRunError: the run was asked to stop; it can be resumed.
    """
    RunDirectory.check_free(out)
    network = _network(recipe, genotype)
    fabric, store, data = _prepare(recipe)
    run = RunDirectory.create(
        out,
        recipe,
        kind="train",
        data_fingerprint=store.manifest.fingerprint(),
        environment=environment(fabric, recipe.compute),
        genotype=genotype.name,
    )
    store.manifest.write_csv(out / "manifest.csv")
    genotype.save(out / "genotype.json")
    TrainingLoop(run, recipe, fabric=fabric, network=network, task=_task(recipe), data=data).run()
    return run


def resume_training(path: Path) -> RunDirectory:
    """Goes on with training from its last checkpoint; a finished run is left as it is.

    Raises:
        RunError: the folder is no training run, or its data have changed.
    """
    run = RunDirectory.open(path, kind="train")
    recipe = run.recipe
    network = _network(recipe, load_genotype(path))
    fabric, store, data = _prepare(recipe)
    run.check_unchanged(store.manifest.fingerprint())
    TrainingLoop(run, recipe, fabric=fabric, network=network, task=_task(recipe), data=data).run()
    return run


def try_training(recipe: Recipe, genotype: Genotype, *, steps: int) -> Trial:
    """Times a few steps of a training.

    Raises:
        MedartsError: data, genotype, recipe or device do not fit.
    """
    network = _network(recipe, genotype)
    fabric, _, data = _prepare(recipe)
    return TrainingLoop(None, recipe, fabric=fabric, network=network, task=_task(recipe), data=data).trial(steps=steps)


def _prepare(recipe: Recipe) -> tuple[Fabric, ImageStore, TrainingData]:
    fabric = make_fabric(recipe.compute)
    store = open_data(recipe.data, needs=("train", "val"))
    return fabric, store, _data(recipe, store, device=fabric.device)


def _network(recipe: Recipe, genotype: Genotype) -> WeaveNetwork:
    seed_torch(recipe.seed, "network")
    network = WeaveNetwork(genotype, in_channels=recipe.data.in_channels, outputs=recipe.data.classes)
    network.check_size(recipe.data.size)
    return network


def _task(recipe: Recipe) -> SegmentationTask:
    return SegmentationTask(recipe.data, loss=recipe.train.loss)


def _data(recipe: Recipe, store: ImageStore, *, device: torch.device) -> TrainingData:
    training, validation = store.manifest.of_split("train"), store.manifest.of_split("val")
    return TrainingData(
        training=Batches(
            store, training, batch=recipe.train.batch, name="training set", device=device
        ).check_fills_a_batch(),
        validation=Batches(store, validation, batch=recipe.evaluation.batch, name="validation set", device=device),
    )
