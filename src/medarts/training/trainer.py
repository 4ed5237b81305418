"""Training of one network, derived or a baseline, from scratch or from a trained network.

for every epoch:
  for every step: forward, loss of all heads and backward, part by part; update, moving average
  validate the weights that will be used, keep the best, save a checkpoint, stop if nothing improves
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from medarts.config import BatchSettings, Recipe
from medarts.config import Task as TaskName
from medarts.data.batches import Batches, check_fills_a_batch, mix
from medarts.data.opening import open_manifest, with_findings
from medarts.data.parts import channels_of
from medarts.data.store import ImageStore, open_store
from medarts.engine import checkpoint
from medarts.engine.device import make_fabric
from medarts.engine.directory import SEARCHED, RunDirectory
from medarts.engine.engine import Job, LoopState, Trial, cosine, resume, start
from medarts.engine.splitting import Of
from medarts.errors import RecipeError, RunError
from medarts.models import Architecture, initial_weights, network_of, task_of, without_weights
from medarts.models.ensemble import Ensemble
from medarts.models.pruned import FILE as STRUCTURE
from medarts.models.pruned import Pruned
from medarts.network import Network
from medarts.network.convolution import check_gradients
from medarts.network.sharing import backward, check_shares, sharing
from medarts.spaces import space_settings
from medarts.spaces.genotype import Genotype
from medarts.system.console import inform
from medarts.system.randomness import seed_of, seed_torch
from medarts.system.ranks import current
from medarts.tasks import Task, make_task
from medarts.training.averaging import MovingAverage
from medarts.training.fine_tuning import InitialWeights, initial_weights_in, initial_weights_of, with_its_norm
from medarts.training.searched import SEEN, images_of_search, tested_patients, text_of
from medarts.training.trained import TrainedNetwork, architecture_of


@dataclass
class TrainingState(LoopState):
    """Where training is; see `LoopState`.

    Attributes:
        best_score: best validation score so far, whether its weights were kept or not.
        best_epoch: its epoch; -1 before the first.
        factor: what the plateau schedule has made of the learning rate.
        waited: epochs since the score rose or the plateau schedule acted.
    """

    best_score: float = -1.0
    best_epoch: int = -1
    factor: float = 1.0
    waited: int = 0


class Training(Job[TrainingState]):
    """A training.

    Args:
        recipe: what to do.
        fabric: device and precision.
        architecture: what the network is made by.
        network: what is trained; its initial weights are sampled with the recipe's seed by the caller.
        task: loss and score.
        store: the images.
        training: those to learn from.
        validation: those to choose by.
        initial: the trained weights that it begins with, which the network has already. Default: from scratch.
        parts: channels of each file, or slice of one, that an image consists of.
        searched: digests of the images that the search of the genotype has seen.
    """

    kind = "train"
    title = "training"

    def __init__(
        self,
        recipe: Recipe,
        *,
        fabric: Fabric,
        architecture: Architecture,
        network: Network,
        task: Task,
        store: ImageStore,
        training: Batches,
        validation: Batches,
        initial: InitialWeights | None = None,
        parts: tuple[int, ...] = (),
        searched: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(recipe, fabric=fabric, task=task, store=store, state=TrainingState())
        self.architecture = architecture
        self.network = network
        self.training = training
        self.validation = validation
        self.initial = initial
        self.parts = parts
        self.searched = searched
        self.averaged = MovingAverage(network, decay=recipe.train.ema) if recipe.train.ema else None

    @staticmethod
    def parts_setting(recipe: Recipe, stage: int | None) -> tuple[str, BatchSettings]:
        """Returns the section of the training."""
        return "train", recipe.train

    @property
    def files(self) -> dict[str, str | bytes]:
        """The genotype and what its search has seen, what was cut away, the weights that a fine-tuning begins with."""
        files: dict[str, str | bytes] = {}
        base = self.architecture
        if isinstance(base, Pruned):
            files[STRUCTURE], base = base.to_json(), base.base
        if isinstance(base, Genotype):
            files["genotype.json"] = base.to_json() + "\n"
        if self.searched:
            files[SEARCHED] = text_of(self.searched)
        return files if self.initial is None else {**files, **self.initial.files}

    @property
    def facts(self) -> dict[str, Any]:
        """Name of the network, fingerprint of its first weights, parts of images, patients that the search has seen."""
        seen = tested_patients(self.store.manifest, self.searched)
        return {
            "network": self.architecture.name,
            "weights_fingerprint": _weights_fingerprint(self.architecture),
            **({} if len(self.parts) < 2 else {"parts": [*self.parts]}),
            **({} if self.initial is None else self.initial.facts),
            **({SEEN: seen} if seen else {}),
        }

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self.network

    @property
    def validated(self) -> tuple[nn.Module, Batches]:
        """The network, or its moving average, in the run's precision, and the validation set."""
        return (self.model if self.averaged is None else self.averaged), self.validation

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.training.steps

    @property
    def epochs(self) -> int:
        """Epochs in all."""
        return self.recipe.train.epochs

    @property
    def parameters(self) -> Iterable[nn.Parameter]:
        """The weights of the network."""
        return self.network.parameters()

    @property
    def has_stopped_early(self) -> bool:
        """Whether the score has not improved for ``patience`` epochs."""
        patience = self.recipe.train.patience
        return bool(patience) and self.state.epoch - 1 - self.state.best_epoch >= patience

    def set_up(self) -> None:
        """Makes the optimizer, and moves everything to the device."""
        settings, parameters = self.recipe.train, self.network.parameters()
        on_cpu = self.fabric.device.type == "cpu"
        # On a GPU the default is fast too, and fp16 cannot clip the gradients of a fused one.
        fused = True if on_cpu else None
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                parameters, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=fused
            )
        else:
            optimizer = torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay, fused=fused)
        form = self.network.training_form() if on_cpu else self.network
        self.model, self.optimizer = self.fabric.setup(form, optimizer)
        if self.averaged is not None:
            self.averaged.to(self.fabric.device)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the optimizer, and the moving average."""
        state = {"optimizer": self.optimizer.state_dict()}
        return state if self.averaged is None else {**state, "averaged": self.averaged.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the state of the optimizer, and the moving average."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])

    def begin_epoch(self) -> None:
        """Samples the order of the images, and tells the network how far training is."""
        epoch, sampling = self.state.epoch, self.recipe.data.sampling
        self.order = self.training.order(epoch, seed=self.recipe.seed, sampling=sampling)
        self.network.at(epoch / self.epochs)
        self.model.train()

    def step(self) -> None:
        """One step on a batch, part by part."""
        state, settings = self.state, self.recipe.train
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        loss = self.splitting.within_memory(self._gradient, of="training")
        self.check_finite(loss, name="training loss")
        self.add_penalties()
        if settings.grad_clip:
            self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=settings.grad_clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        state.train_loss += loss

    def _gradient(self) -> float:
        """Takes the gradient of the batch that the loop state names, and returns its loss."""
        self.optimizer.zero_grad()
        where = ("training", self.state.epoch, self.state.step)
        return backward(self.fabric, self.losses(self.model, self.order, self.state.step, where=where))

    def losses(
        self, model: nn.Module, order: NDArray[np.int64], step: int, *, where: tuple[str | int, ...]
    ) -> Iterator[Tensor]:
        """Yields the losses of the parts of a batch, which add up to that of the batch.

        Args:
            model: the network, as it runs.
            order: of the images; see `Batches.order`.
            step: number of the batch in it.
            where: seeds all that is random, with the seed of the recipe.
        """
        settings, seed, data = self.recipe.train, self.recipe.seed, self.recipe.data
        changes: Any = {"settings": data.augmentation, "resize": data.resize, "seed": seed_of(seed, *where)}
        with self.stopwatch.on("input"):
            batch = self.training.training(order, step, **changes)
        mixture = mix(batch.images, batch.targets, settings.mixing, seed=seed_of(seed, "mixing", *where))
        seed_torch(seed, "dropout", *where)
        for share, part in mixture.split(self.splitting.parts("training")):
            with sharing(part, self.ranks, lambda: [*model.parameters()]) as (own, mine):
                yield share * own * self.task.loss(model(mine.images, all_heads=True), mine)

    def add_penalties(self) -> None:
        """Adds the gradients of terms beside the loss to those of the weights."""

    def check_parts(self, of: Of, images: int) -> None:
        """Refuses parts in which a norm would see a single value; a pass over validation images sees running means."""
        if of == "training":
            accumulate = {"accumulate": self.recipe.train.batch // images}
            train = self.recipe.train.model_copy(update=accumulate)
            check_sizes(self.recipe.model_copy(update={"train": train}), self.network)

    def learning_rate(self) -> float:
        """Returns the learning rate of the step that the loop state names."""
        return self.scheduled_rate() * (1.0 if self.initial is None else self.recipe.train.finetune_lr)

    def scheduled_rate(self) -> float:
        """Returns what the schedule of the recipe makes of the learning rate."""
        state, settings = self.state, self.recipe.train
        if settings.schedule == "plateau":
            return max(settings.lr * state.factor, settings.lr_min)
        epoch = state.epoch + state.step / self.steps
        return cosine(
            epoch, epochs=settings.epochs, start=settings.lr, end=settings.lr_min, warmup=settings.warmup_epochs
        )

    def journals(self, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Returns the line of the metrics."""
        lr = self.optimizer.param_groups[0]["lr"]
        return {"metrics.jsonl": {"train_loss": self.state.train_loss / self.state.step, "lr": lr, **values}}

    def end_epoch(self, values: Mapping[str, Any]) -> None:
        """Keeps the weights if they are the best so far, and counts the epochs since."""
        state, settings, score = self.state, self.recipe.train, values[self.task.score]
        is_better = score > state.best_score
        if is_better:
            state.best_score, state.best_epoch, state.waited = score, state.epoch, 0
        else:
            state.waited += 1
            if settings.schedule == "plateau" and state.waited >= settings.plateau_epochs:
                state.factor, state.waited = state.factor / 2, 0
        if self.are_kept(is_better=is_better):
            self._keep(score)

    def are_kept(self, *, is_better: bool) -> bool:
        """Says whether the weights of an epoch replace those kept before.

        Args:
            is_better: whether their validation score is the best so far.
        """
        return is_better

    def _keep(self, score: float) -> None:
        epoch, best = self.state.epoch, self.network if self.averaged is None else self.averaged.module
        self.save("best", module=best, state={"epoch": epoch, "score": score}, position=(epoch + 1, 0))
        if self.directory.drop_scores():
            inform("The scores of the best weights so far were removed: there are better ones. Evaluate again.")

    def end_stage(self) -> None:
        """Writes the summary."""
        state = self.state
        summary = {
            "best_epoch": state.best_epoch,
            "score": self.task.score.removeprefix("val_"),
            "best_score": state.best_score,
        }
        self.directory.write_json("summary.json", summary)


def start_training(
    recipe: Recipe,
    architecture: Architecture,
    out: Path,
    *,
    data: ImageStore | None = None,
    initial: TrainedNetwork | None = None,
    pause: int | None = None,
) -> RunDirectory:
    """Trains a network from scratch, from a file of weights, or from a trained network, in a new run directory.

    Args:
        recipe: data and training; its space section becomes that of the genotype, its model the baseline.
        architecture: the genotype, the settings of a baseline, or what was pruned of one of them.
        out: folder of the run, new or empty.
        data: the images, in place of the sources of the recipe; see `medarts.data.arrays`.
        initial: a trained network of this architecture that is fine-tuned.
        pause: epochs after which the training is left unfinished, for `resume_training`. Default: all are done.

    Raises:
        MedartsError: see `medarts.engine.engine.start`.
    """
    if initial is not None:
        recipe = with_its_norm(recipe, initial)
    recipe = that_trains(recipe, architecture)

    def prepare() -> Training:
        return _paused(prepare_training(recipe, architecture, data=data, initial=initial), pause)

    return start(Training, recipe, out, prepare)


def that_trains(recipe: Recipe, architecture: Architecture) -> Recipe:
    """Returns a recipe with the space of a genotype, or with a baseline as its model."""
    base = architecture.base if isinstance(architecture, Pruned | Ensemble) else architecture
    if isinstance(base, Genotype):
        changes = {"space": space_settings(base), "train": recipe.train.model_copy(update={"model": None})}
    else:
        changes = {"train": recipe.train.model_copy(update={"model": base})}
    return recipe.model_copy(update=changes)


def resume_training(
    path: Path, changes: Iterable[str] = (), *, data: ImageStore | None = None, pause: int | None = None
) -> RunDirectory:
    """Resumes training from its last checkpoint; a finished run is left as it is, unless it is to be longer.

    Args:
        path: its folder.
        changes: changes of its recipe as key.path=value; see `medarts.engine.changes` for those that are possible.
        data: the images of a training that was started with ``data``.
        pause: see `start_training`.

    Raises:
        RunError: its initial weights have changed.
        MedartsError: see `medarts.engine.engine.resume`.
    """

    def prepare(recipe: Recipe, run: RunDirectory) -> Training:
        return _paused(prepare_to_resume(recipe, run, data=data), pause)

    return resume(Training, path, changes, prepare, data=data)


def _paused(training: Training, pause: int | None) -> Training:
    """Returns a training that pauses after some epochs."""
    training.pause = pause
    return training


def prepare_to_resume(
    recipe: Recipe, run: RunDirectory, *, data: ImageStore | None = None, make: Callable[..., Training] = Training
) -> Training:
    """Returns the training of a run that goes on; see `prepare_training`.

    Raises:
        RunError: its initial weights have changed.
        MedartsError: data, recipe or device do not fit, or the data of the run have changed.
    """
    architecture = architecture_of(run, recipe)
    begun = checkpoint.newest(run.checkpoints, "last") is not None
    initial = initial_weights_in(run, begun=begun)
    if begun or initial is not None:  # which have what came of the weights to start from
        architecture = without_weights(architecture)
    elif _weights_fingerprint(architecture) != run.facts.get("weights_fingerprint"):
        raise RunError(
            f"The initial weights of {run.path} have changed since it began.",
            fix="Restore that file, or start a new run.",
        )
    return prepare_training(recipe, architecture, run, data=data, initial=initial, make=make)


def try_training(
    recipe: Recipe,
    architecture: Architecture,
    *,
    steps: int,
    patience: float = math.inf,
    data: ImageStore | None = None,
) -> Trial:
    """Times a few steps of a training, see `Job.trial`; ``data`` are images in place of the sources of the recipe.

    Raises:
        MedartsError: data, genotype, recipe or device do not fit.
    """
    return prepare_training(recipe, architecture, data=data).trial(steps=steps, patience=patience)


def prepare_training(
    recipe: Recipe,
    architecture: Architecture,
    run: RunDirectory | None = None,
    *,
    data: ImageStore | None = None,
    initial: TrainedNetwork | InitialWeights | None = None,
    make: Callable[..., Training] = Training,
) -> Training:
    """Looks at everything that can be wrong, what is quick to see first, and reads the images last.

    Args:
        recipe: data and training.
        architecture: the network.
        run: the run to resume, unless it is new.
        data: the images, in place of the sources of the recipe.
        initial: the trained network that is fine-tuned, or, of a run to resume, the weights that it began with.
        make: makes the training, with the arguments of `Training`.

    Raises:
        MedartsError: data, network, recipe or device do not fit, or the data of the run have changed.
    """
    check_shares(current(), batch=recipe.train.batch, accumulate=recipe.train.accumulate, field="train")
    fabric = make_fabric(recipe.compute)
    check_task(recipe.data.task, architecture)
    searched = images_of_search(architecture) if run is None else frozenset()  # which the run has noted
    manifest = open_manifest(recipe.data, needs=("train", "val"), data=data)
    if run is not None:
        run.check_unchanged(manifest.fingerprint(), manifest=manifest.to_csv())
    recipe = with_findings(recipe, manifest)
    settings = recipe.train
    task = make_task(recipe, manifest, loss=settings.loss, field="train.loss", head_decay=settings.head_decay)
    seed_torch(recipe.seed, "network")
    network = network_of(recipe, architecture)
    if isinstance(initial, TrainedNetwork):
        initial = initial_weights_of(initial, recipe)
        inform(initial.summary)
    check_sizes(recipe, network)
    check_gradients(network, precision=recipe.compute.precision, device=fabric.device.type)
    training, validation = manifest.of_split("train"), manifest.of_split("val")
    if recipe.data.resize != "patches":  # whose number is not known yet
        check_fills_a_batch(training, recipe.train.batch, name="training set")
    store = data if data is not None else open_store(manifest, recipe.data, threads=recipe.compute.threads)
    check_fills_a_batch(training, recipe.train.batch, name="training set", store=store)
    task.check(store, {"training": training, "validation": validation})
    device = fabric.device
    learned = Batches(store, training, batch=recipe.train.batch, name="training set", device=device)
    if initial_weights(architecture) is None:
        task.begin(network.output_biases, learned)
    if initial is not None and initial.weights:
        initial.fill(network, architecture)
    return make(
        recipe,
        fabric=fabric,
        architecture=architecture,
        network=network,
        task=task,
        store=store,
        training=learned,
        validation=Batches(store, validation, batch=recipe.evaluation.batch, name="validation set", device=device),
        initial=initial,
        parts=() if store.is_in_memory else channels_of(manifest.samples[0], context=recipe.data.context),
        searched=searched,
    )


def check_task(of_the_data: TaskName, architecture: Architecture) -> None:
    """Refuses a network for another task than that of the data.

    Raises:
        RecipeError: it is.
    """
    task = task_of(architecture)
    if task != of_the_data:
        raise RecipeError(
            f"{architecture.name} is a network for {task}, but the data are for {of_the_data}.",
            fix="Train it on images with findings." if task == "classification" else "Train it on images with masks.",
        )


def check_sizes(recipe: Recipe, network: Network) -> None:
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


def _weights_fingerprint(architecture: Architecture) -> str | None:
    """Returns the fingerprint of the file of weights that a network begins with; None if it begins at random."""
    weights = initial_weights(architecture)
    if weights is None:
        return None
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
