"""The training loop of a derived network.

for every epoch:
  for every step: forward, loss of all heads and backward, part by part; update, moving average
  validate the weights that will be used, keep the best, save a checkpoint, stop where nothing improves
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from medarts.config import Recipe, TrainSettings
from medarts.data.batches import Batches
from medarts.data.mixing import mix
from medarts.engine.checkpoint import Checkpoint
from medarts.engine.device import peak_memory_mb
from medarts.engine.directory import RunDirectory
from medarts.engine.events import write_events
from medarts.engine.job import (
    Trial,
    backward,
    check_finite,
    leave,
    load_point,
    median_seconds,
    restored,
    restoring,
    save_point,
)
from medarts.engine.schedule import cosine
from medarts.models.network import TrainedNetwork
from medarts.system.console import Bar, inform, progress_bar
from medarts.system.memory import FEWER_AT_ONCE, memory_named, smaller_parts
from medarts.system.process import Interruption, interruption
from medarts.system.randomness import seed_of, seed_torch
from medarts.tasks.task import Task


@dataclass(frozen=True)
class TrainingData:
    """The images to learn from, and those to choose by."""

    training: Batches
    validation: Batches


@dataclass
class Place:
    """Where training stands.

    Attributes:
        epoch: epochs done.
        step: steps of the epoch done.
        train_loss: sum of the losses in this epoch.
        best_score: best validation score so far.
        best_epoch: its epoch; -1 before the first.
        factor: what the plateau schedule has made of the learning rate.
        waited: epochs since the score rose or the plateau schedule acted.
    """

    epoch: int = 0
    step: int = 0
    train_loss: float = 0.0
    best_score: float = -1.0
    best_epoch: int = -1
    factor: float = 1.0
    waited: int = 0


class TrainingLoop:
    """Training in a run directory.

    Args:
        run: where everything is written; None for a trial, which writes nothing.
        recipe: what to do.
        fabric: device and precision.
        network: what is trained; its initial weights are drawn from the recipe's seed by the caller.
        task: loss and score.
        data: the images.
    """

    def __init__(
        self,
        run: RunDirectory | None,
        recipe: Recipe,
        *,
        fabric: Fabric,
        network: TrainedNetwork,
        task: Task,
        data: TrainingData,
    ) -> None:
        self._run = run
        self.recipe = recipe
        self.settings: TrainSettings = self.recipe.train
        self.fabric = fabric
        self.network = network
        self.task = task
        self.data = data
        self.place = Place()
        self.averaged = self._moving_average() if self.settings.ema else None

    @property
    def run_directory(self) -> RunDirectory:
        """Where everything is written."""
        if self._run is None:
            raise ValueError("a loop without a run directory can only be tried")
        return self._run

    def run(self) -> None:
        """Trains from the last checkpoint, or from the start where there is none, to the end.

        Raises:
            DivergedError: the loss is no longer finite.
            InterruptedRunError: the run was asked to stop; it can be resumed.
            OutOfMemoryError: memory ran out; what was saved stays.
        """
        self._set_up(load_point(self.run_directory, fabric=self.fabric))
        settings, steps = self.settings, self.data.training.steps
        total, done = settings.epochs * steps, self.place.epoch * steps + self.place.step
        fix = smaller_parts("train.accumulate", accumulate=settings.accumulate, batch=settings.batch)
        with (
            interruption() as stop,
            progress_bar("train", total, done=done) as bar,
            memory_named("training", fix=fix),
        ):
            while self.place.epoch < self.settings.epochs and not self._is_stale():
                self._epoch(stop, bar)
        self.run_directory.write_json(
            "summary.json",
            {
                "best_epoch": self.place.best_epoch,
                "score": self.task.score.removeprefix("val_"),
                "best_score": self.place.best_score,
            },
        )
        self.run_directory.finish()

    def trial(self, *, steps: int) -> Trial:
        """Times a few steps, without writing anything; the loop cannot be run afterwards.

        Args:
            steps: timed steps, after one that warms up.
        """
        self._set_up(None)
        order = self._order()
        step = median_seconds(lambda: self._step(order), repeats=steps)
        validation = median_seconds(self._validate, repeats=1)
        seconds = self.settings.epochs * (self.data.training.steps * step + validation)
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        return Trial(
            parameters,
            seconds=seconds,
            memory_mb=peak_memory_mb(self.fabric.device),
            accumulate=self.settings.accumulate,
            images_at_once=self.settings.images_at_once,
        )

    def _order(self) -> NDArray[np.int64]:
        training = self.data.training
        return training.order(self.place.epoch, seed=self.recipe.seed, sampling=self.recipe.data.sampling)

    def _set_up(self, point: Checkpoint | None) -> None:
        settings, parameters = self.settings, self.network.parameters()
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                parameters, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
            )
        else:
            optimizer = torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)
        self.model, self.optimizer = self.fabric.setup(self.network, optimizer)
        if self.averaged is not None:
            self.averaged.to(self.fabric.device)
        # After the set-up: an optimizer puts what it loads where its parameters are, and set-up moves these alone.
        if point is None:
            return
        with restoring(point):
            self.place = restored(Place, point.state["place"])
            self.network.load_state_dict(point.weights)
            self.optimizer.load_state_dict(point.state["optimizer"])
            if self.averaged is not None:
                self.averaged.load_state_dict(point.state["averaged"])

    def _epoch(self, stop: Interruption, bar: Bar) -> None:
        """Does what is left of the epoch, then validates, keeps the best, and saves."""
        place, training = self.place, self.data.training
        began = time.perf_counter()
        order = self._order()
        self.network.at(place.epoch / self.settings.epochs)
        self.model.train()
        while place.step < training.steps:
            self._step(order)
            if stop.requested and place.step < training.steps:
                self._save()
                leave(self.run_directory, "medarts train")
            bar.advance()  # after the saving: a terminal that was closed takes no more output
        values = self._validate()
        record = {
            "epoch": place.epoch,
            "train_loss": place.train_loss / place.step,
            "lr": self.optimizer.param_groups[0]["lr"],
            **values,
        }
        seconds, memory = time.perf_counter() - began, peak_memory_mb(self.fabric.device)
        self.run_directory.append("metrics.jsonl", record)
        if self.recipe.compute.tensorboard:
            write_events(self.run_directory.path / "tensorboard", record, step=place.epoch)
        self.run_directory.append("timing.jsonl", {"epoch": place.epoch, "seconds": seconds, "peak_memory_mb": memory})
        score = values[self.task.score]
        self._compare(score)
        place.epoch, place.step, place.train_loss = place.epoch + 1, 0, 0.0
        self._save()
        if stop.requested:
            leave(self.run_directory, "medarts train")
        bar.note(f"epoch {place.epoch}: {self.task.score} {score:.3f}")

    def _step(self, order: NDArray[np.int64]) -> None:
        place, settings, seed = self.place, self.settings, self.recipe.seed
        where = ("training", place.epoch, place.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        batch = self.data.training.training(
            order, place.step, settings=self.recipe.data.augmentation, seed=seed_of(seed, *where)
        )
        mixture = mix(batch.images, batch.targets, settings.mixing, seed=seed_of(seed, "mixing", *where))
        seed_torch(seed, "dropout", *where)
        self.optimizer.zero_grad()
        parts = mixture.split(settings.accumulate)
        losses = (share * self.task.loss(self.model(part.images), part) for share, part in parts)
        value = backward(self.fabric, losses)
        check_finite(self._run, value, name="training loss", place=self._where())
        if settings.grad_clip:
            self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=settings.grad_clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        place.train_loss += value
        place.step += 1

    def _moving_average(self) -> AveragedModel:
        # The running statistics of batch norms are averaged too, as they must fit the averaged weights.
        return AveragedModel(self.network, avg_fn=self._average, use_buffers=True)

    def _average(self, averaged: Tensor, new: Tensor, number: Tensor | int) -> Tensor:
        """Returns the moving average, with a decay that warms up.

        A constant decay, and the plain mean as well, keep the random weights of the start for many epochs: networks
        that learn fast had a Dice of 0 until these had faded. With (1 + n) / (10 + n) after n steps the average spans
        about the last ninth of them, until the decay of the recipe is reached.
        """
        if not new.is_floating_point():  # the number of batches that a batch norm has seen
            return new
        decay = min(self.settings.ema, (1 + float(number)) / (10 + float(number)))
        return torch.lerp(new, averaged, decay)

    def _learning_rate(self) -> float:
        place, settings = self.place, self.settings
        if settings.schedule == "plateau":
            return max(settings.lr * place.factor, settings.lr_min)
        epoch = place.epoch + place.step / self.data.training.steps
        return cosine(
            epoch, epochs=settings.epochs, start=settings.lr, end=settings.lr_min, warmup=settings.warmup_epochs
        )

    def _validate(self) -> dict[str, Any]:
        model = self.model if self.averaged is None else self.averaged
        model.eval()
        with memory_named("the validation", fix=FEWER_AT_ONCE):
            values = self.task.validate(model, self.data.validation)
        check_finite(self._run, values["val_loss"], name="validation loss", place=self._where())
        return values

    def _compare(self, score: float) -> None:
        """Keeps the weights where they are the best so far, and counts the epochs since."""
        place = self.place
        if score > place.best_score:
            place.best_score, place.best_epoch, place.waited = score, place.epoch, 0
            best = self.network if self.averaged is None else self.averaged.module
            facts = {"epoch": place.epoch, "score": score}
            self._save_as("best", best, facts, place=(place.epoch + 1, 0))
            if self.run_directory.drop_scores():
                inform("The scores of the best weights so far were removed: there are better ones. Evaluate again.")
            return
        place.waited += 1
        if self.settings.schedule == "plateau" and place.waited >= self.settings.plateau_epochs:
            place.factor, place.waited = place.factor / 2, 0

    def _is_stale(self) -> bool:
        return bool(self.settings.patience) and self.place.epoch - 1 - self.place.best_epoch >= self.settings.patience

    def _save(self) -> None:
        state = {"place": asdict(self.place), "optimizer": self.optimizer.state_dict()}
        if self.averaged is not None:
            state["averaged"] = self.averaged.state_dict()
        self._save_as("last", self.network, state, place=(self.place.epoch, self.place.step))

    def _save_as(self, kind: str, network: nn.Module, state: dict[str, Any], *, place: tuple[int, int]) -> None:
        run, fabric, where = self.run_directory, self.fabric, self._where()
        save_point(run, network, state, fabric=fabric, place=place, where=where, kind=kind)

    def _where(self) -> str:
        return f"epoch {self.place.epoch}, step {self.place.step}"
