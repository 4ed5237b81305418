"""Where training begins or goes on: everything that can be wrong is looked at before anything long is done."""

from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import Fabric

from medarts.data.batches import Batches, check_fills_a_batch
from medarts.data.opening import open_manifest
from medarts.data.store import ImageStore, open_store
from medarts.errors import RecipeError
from medarts.networks.weave import WeaveNetwork
from medarts.recipe import Recipe
from medarts.run.device import environment, make_fabric
from medarts.run.directory import RunDirectory
from medarts.run.job import Trial, with_images
from medarts.run.randomness import seed_torch
from medarts.spaces.genotype import Genotype
from medarts.spaces.genotype import load as load_genotype
from medarts.spaces.weave.genotypes import space_settings
from medarts.tasks.segmentation import SegmentationTask
from medarts.training.loop import TrainingData, TrainingLoop


def start_training(recipe: Recipe, genotype: Genotype, out: Path) -> RunDirectory:
    """Trains the network of a genotype from scratch, in a new run directory.

    Args:
        recipe: data and training; its space section becomes that of the genotype.
        genotype: the architecture.
        out: folder of the run, new or empty.

    Raises:
        MedartsError: data, genotype, recipe, device or folder do not fit; nothing was written then.
        DivergedError: the loss became NaN or infinite.
        InterruptedRunError: the run was asked to stop; it can be resumed.
    """
    RunDirectory.check_free(out)
    recipe = recipe.model_copy(update={"space": space_settings(genotype)})
    job = _prepare(recipe, genotype)
    manifest = job.store.manifest
    run = RunDirectory.create(
        out,
        recipe,
        kind="train",
        data_fingerprint=manifest.fingerprint(),
        files={"manifest.csv": manifest.to_csv(), "genotype.json": genotype.to_json() + "\n"},
        environment=environment(job.fabric, recipe.compute),
        genotype=genotype.name,
    )
    job.loop(run).run()
    return run


def resume_training(path: Path) -> RunDirectory:
    """Goes on with training from its last checkpoint; a finished run is left as it is.

    Raises:
        RunError: the folder is no training run, or its data have changed.
    """
    run = RunDirectory.open(path, kind="train")
    job = _prepare(run.recipe, load_genotype(path))
    run.check_unchanged(job.store.manifest.fingerprint())
    job.loop(run).run()
    return run


def try_training(recipe: Recipe, genotype: Genotype, *, steps: int) -> Trial:
    """Times a few steps of a training.

    Raises:
        MedartsError: data, genotype, recipe or device do not fit.
    """
    job = _prepare(recipe, genotype)
    return with_images(job.loop(None).trial(steps=steps), job.store.nbytes, job.fabric.device)


@dataclass(frozen=True)
class _Job:
    """A training whose recipe, genotype and data have been found to fit."""

    recipe: Recipe
    fabric: Fabric
    network: WeaveNetwork
    task: SegmentationTask
    store: ImageStore
    data: TrainingData

    def loop(self, run: RunDirectory | None) -> TrainingLoop:
        return TrainingLoop(run, self.recipe, fabric=self.fabric, network=self.network, task=self.task, data=self.data)


def _prepare(recipe: Recipe, genotype: Genotype) -> _Job:
    """Looks at everything that can be wrong, what is quick to see first, and reads the images last."""
    fabric = make_fabric(recipe.compute)
    task = SegmentationTask(
        recipe.data, loss=recipe.train.loss, field="train.loss", threshold=recipe.evaluation.threshold
    )
    seed_torch(recipe.seed, "network")
    network = WeaveNetwork(
        genotype, in_channels=recipe.data.in_channels, outputs=recipe.data.classes, norm=recipe.train.norm
    )
    network.check_size(recipe.data.size)
    _check_statistics(recipe, network)
    manifest = open_manifest(recipe.data, needs=("train", "val"))
    training, validation = manifest.of_split("train"), manifest.of_split("val")
    check_fills_a_batch(training, recipe.train.batch, name="training set")
    store, device = open_store(manifest, recipe.data), fabric.device
    data = TrainingData(
        training=Batches(store, training, batch=recipe.train.batch, name="training set", device=device),
        validation=Batches(store, validation, batch=recipe.evaluation.batch, name="validation set", device=device),
    )
    return _Job(recipe, fabric, network, task, store, data)


def _check_statistics(recipe: Recipe, network: WeaveNetwork) -> None:
    """Refuses batch norms that would see a single value: one image at a time, one pixel at the lowest level."""
    settings = recipe.train
    smallest = settings.batch // settings.accumulate
    if settings.norm == "batch" and smallest == 1 and recipe.data.size == network.divisor:
        raise RecipeError(
            f"train.norm is batch, but with train.batch {settings.batch} in {settings.accumulate} parts and data.size "
            f"{recipe.data.size} a norm sees one image of one pixel.",
            fix="Use train.norm=group, or a larger batch, fewer parts or larger images.",
        )
