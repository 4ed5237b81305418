"""The search loop: stages of epochs of bilevel steps. It knows no space, no task and no data set.

for every stage:    a fresh supernet of the candidates that the stage before kept
  for every epoch:
    for every step: the architecture on one half of the training set (once it is no longer frozen),
                    the weights on the other
    validate, note the genotype so far, save a checkpoint
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from medarts.config import Recipe
from medarts.data.batches import Batches
from medarts.data.mixing import mix
from medarts.engine.checkpoint import Checkpoint
from medarts.engine.device import peak_memory_mb
from medarts.engine.directory import RunDirectory
from medarts.engine.events import write_events
from medarts.engine.job import Trial, check_finite, leave, load_point, median_seconds, restored, restoring, save_point
from medarts.engine.schedule import cosine
from medarts.nas.gradients import GRADIENTS, Objective, first_order
from medarts.spaces.genotype import Genotype
from medarts.spaces.reading import load as load_genotype
from medarts.spaces.space import Candidates, SearchSpace
from medarts.system.console import Bar, progress_bar
from medarts.system.memory import FEWER_AT_ONCE, memory_named, smaller_parts
from medarts.system.process import Interruption, interruption
from medarts.system.randomness import seed_of, seed_torch
from medarts.tasks.task import Task


@dataclass(frozen=True)
class StageData:
    """The images of a stage: the two halves of the training set, and the validation set."""

    weights: Batches
    architecture: Batches
    validation: Batches


@dataclass
class Place:
    """Where a search stands, with the sums of the epoch in hand.

    Attributes:
        stage: stages done.
        epoch: epochs of the stage done.
        step: steps of the epoch done.
        train_loss: sum of the weights' losses in this epoch.
        arch_loss: sum of the architecture's losses in this epoch.
        gaps: discretisation gap at the end of every stage done.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    train_loss: float = 0.0
    arch_loss: float = 0.0
    gaps: list[dict[str, Any]] = field(default_factory=list)


class SearchLoop:
    """A search in a run directory.

    Args:
        run: where everything is written; None for a trial, which writes nothing.
        recipe: what to do.
        fabric: device and precision.
        space: makes supernets.
        task: loss and score.
        data: the images of every stage.
    """

    def __init__(
        self,
        run: RunDirectory | None,
        recipe: Recipe,
        *,
        fabric: Fabric,
        space: SearchSpace,
        task: Task,
        data: list[StageData],
    ) -> None:
        self._run = run
        self.recipe = recipe
        self.fabric = fabric
        self.space = space
        self.task = task
        self.data = data
        self.place = Place()
        self.candidates: Candidates | None = None

    @property
    def run_directory(self) -> RunDirectory:
        """Where everything is written."""
        if self._run is None:
            raise ValueError("a loop without a run directory can only be tried")
        return self._run

    def run(self) -> Genotype:
        """Searches from the last checkpoint, or from the start where there is none, to the end.

        Raises:
            DivergedError: a loss is no longer finite.
            InterruptedRunError: the run was asked to stop; it can be resumed.
            OutOfMemoryError: memory ran out; what was saved stays.
        """
        stages = self.recipe.search.stages
        point = load_point(self.run_directory, fabric=self.fabric)
        if point is not None:
            with restoring(point):
                self.place = restored(Place, point.state["place"])
                self.candidates = point.state["candidates"]
        steps = [stage.epochs * data.weights.steps for stage, data in zip(stages, self.data, strict=True)]
        with interruption() as stop, progress_bar("search", sum(steps), done=self._steps_done(steps)) as bar:
            while self.place.stage < len(stages):
                with memory_named("the search", fix=self._smaller_parts()):
                    self._start_stage(point)
                    while self.place.epoch < stages[self.place.stage].epochs:
                        self._epoch(stop, bar)
                    self._end_stage()
                point = None
        self.run_directory.finish()
        return load_genotype(self.run_directory.path)

    def trial(self, stage: int, *, steps: int) -> Trial:
        """Times a few steps of a stage, without writing anything; the loop cannot be run afterwards.

        Args:
            stage: the stage; those before it are passed over with the candidates of an untrained supernet.
            steps: timed steps, after one that warms up.
        """
        settings = self.recipe.search
        for number in range(stage + 1):
            self.place = Place(stage=number)
            self._start_stage(None)
            self.candidates = self.supernet.strongest(settings.stages[number].keep)
        data, epochs = self.data[stage], settings.stages[stage].epochs
        orders = self._orders()
        seconds = {}
        for name, epoch in (("frozen", 0), ("free", settings.arch_after)):
            self.place.epoch = epoch
            seconds[name] = median_seconds(lambda: self._step(orders), repeats=steps)
        validation = median_seconds(lambda: self._validate(data.validation), repeats=1)
        frozen = min(settings.arch_after, epochs)
        per_epoch = data.weights.steps
        total = per_epoch * (frozen * seconds["frozen"] + (epochs - frozen) * seconds["free"])
        parameters = sum(parameter.numel() for parameter in self.weights)
        # Two more validations end the stage: of the supernet, and of what is derived from it.
        return Trial(
            parameters,
            seconds=total + (epochs + 2) * validation,
            memory_mb=peak_memory_mb(self.fabric.device),
            accumulate=settings.stages[stage].accumulate,
            images_at_once=settings.stages[stage].images_at_once,
        )

    def _start_stage(self, point: Checkpoint | None) -> None:
        """Builds supernet and optimizers of the stage, fresh or as a checkpoint of it left them."""
        settings = self.recipe.search
        seed_torch(self.recipe.seed, "supernet", self.place.stage)
        self.supernet = self.space.supernet(settings.stages[self.place.stage], self.candidates)
        # Walking over the modules of a supernet takes long enough to be felt in every step.
        self.weights, self.architecture = self.supernet.weights(), self.supernet.architecture()
        weight_optimizer = torch.optim.SGD(
            self.weights, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        architecture_optimizer = torch.optim.Adam(
            self.architecture,
            settings.arch_lr,
            betas=settings.arch_betas,
            weight_decay=settings.arch_weight_decay,
        )
        self.model, self.weight_optimizer, self.architecture_optimizer = self.fabric.setup(
            self.supernet, weight_optimizer, architecture_optimizer
        )
        # After the set-up: an optimizer puts what it loads where its parameters are, and set-up moves these alone.
        if point is not None and point.state["place"]["epoch"] + point.state["place"]["step"]:
            with restoring(point):
                self.supernet.load_state_dict(point.weights)
                self.weight_optimizer.load_state_dict(point.state["weight_optimizer"])
                self.architecture_optimizer.load_state_dict(point.state["architecture_optimizer"])

    def _epoch(self, stop: Interruption, bar: Bar) -> None:
        """Does what is left of the epoch, then validates, notes the genotype so far, and saves."""
        place, settings, data = self.place, self.recipe.search, self.data[self.place.stage]
        stage = settings.stages[place.stage]
        began = time.perf_counter()
        lr = cosine(place.epoch, epochs=stage.epochs, start=settings.lr, end=settings.lr_min)
        for group in self.weight_optimizer.param_groups:
            group["lr"] = lr
        orders = self._orders()
        self.model.train()
        while place.step < data.weights.steps:
            self._step(orders)
            if stop.requested and place.step < data.weights.steps:
                self._save()
                leave(self.run_directory, "medarts search")
            bar.advance()  # after the saving: a terminal that was closed takes no more output
        steps = place.step
        frozen = place.epoch < settings.arch_after
        values = self._validate(data.validation)
        record = {
            "stage": place.stage,
            "epoch": place.epoch,
            "train_loss": place.train_loss / steps,
            "arch_loss": None if frozen else place.arch_loss / steps,
            "lr": lr,
            **values,
        }
        self._note(record, seconds=time.perf_counter() - began)
        place.epoch, place.step, place.train_loss, place.arch_loss = place.epoch + 1, 0, 0.0, 0.0
        self._save()
        if stop.requested:
            leave(self.run_directory, "medarts search")
        bar.note(f"stage {place.stage + 1} epoch {place.epoch}: {self.task.score} {values[self.task.score]:.3f}")

    def _orders(self) -> list[NDArray[np.int64]]:
        data = self.data[self.place.stage]
        return [
            half.order(self.place.epoch, seed=self.recipe.seed, sampling=self.recipe.data.sampling)
            for half in (data.weights, data.architecture)
        ]

    def _step(self, orders: list[NDArray[np.int64]]) -> None:
        """One bilevel step: the architecture first, as in DARTS, then the weights."""
        place, settings, data = self.place, self.recipe.search, self.data[self.place.stage]
        training = self._objective(data.weights, orders[0])
        if place.epoch >= settings.arch_after:
            self.architecture_optimizer.zero_grad()
            self.weight_optimizer.zero_grad()  # or the gradients of the step before would be held meanwhile
            loss = GRADIENTS[settings.gradient](
                self.fabric,
                training=training,
                validation=self._objective(data.architecture, orders[1]),
                weights=self.weights,
                architecture=self.architecture,
                optimizer=self.weight_optimizer,
            )
            check_finite(self._run, loss, name=f"loss of the {data.architecture.name}", place=self._where())
            self.architecture_optimizer.step()
            place.arch_loss += loss
        self.weight_optimizer.zero_grad()
        loss = first_order(self.fabric, training, held=self.architecture)
        check_finite(self._run, loss, name=f"loss of the {data.weights.name}", place=self._where())
        if settings.grad_clip:
            self.fabric.clip_gradients(
                self.model, self.weight_optimizer, max_norm=settings.grad_clip, error_if_nonfinite=False
            )
        self.weight_optimizer.step()
        place.train_loss += loss
        place.step += 1

    def _objective(self, half: Batches, order: NDArray[np.int64]) -> Objective:
        """Returns the loss on this step's batch of a half, the same function however often it is called."""
        place, recipe = self.place, self.recipe
        where = (half.name, place.stage, place.epoch, place.step)
        batch = half.training(order, place.step, settings=recipe.data.augmentation, seed=seed_of(recipe.seed, *where))
        mixture = mix(batch.images, batch.targets, recipe.search.mixing, seed=seed_of(recipe.seed, "mixing", *where))
        parts = mixture.split(recipe.search.stages[place.stage].accumulate)

        def losses() -> Iterator[Tensor]:
            seed_torch(recipe.seed, "dropout", *where)
            for share, part in parts:
                yield share * self.task.loss(self.model(part.images), part)

        return losses

    def _validate(self, validation: Batches) -> dict[str, Any]:
        self.model.eval()
        with memory_named("the validation", fix=FEWER_AT_ONCE):
            values = self.task.validate(self.model, validation)
        check_finite(self._run, values["val_loss"], name="validation loss", place=self._where())
        return values

    def _note(self, record: dict[str, Any], *, seconds: float) -> None:
        """Writes the lines of an epoch and the genotype so far."""
        genotype = self._derive()
        genotype.save(self.run_directory.path / "genotype.json")
        here = {"stage": record["stage"], "epoch": record["epoch"]}
        self.run_directory.append("metrics.jsonl", record)
        if self.recipe.compute.tensorboard:
            stages = self.recipe.search.stages[: record["stage"]]
            step = sum(stage.epochs for stage in stages) + record["epoch"]
            write_events(self.run_directory.path / "tensorboard", record, step=step)
        self.run_directory.append(
            "architecture.jsonl",
            {**here, **self.supernet.snapshot(), "genotype": json.loads(genotype.to_json())},
        )
        memory = peak_memory_mb(self.fabric.device)
        self.run_directory.append("timing.jsonl", {**here, "seconds": seconds, "peak_memory_mb": memory})

    def _end_stage(self) -> None:
        """Measures the discretisation gap, then hands the strongest candidates to the next stage."""
        place, validation = self.place, self.data[self.place.stage].validation
        genotype = self._derive()
        score = self.task.score
        continuous = self._validate(validation)
        self.supernet.discretise(genotype)
        discrete = self._validate(validation)
        self.supernet.discretise(None)
        place.gaps.append(
            {
                "score": score.removeprefix("val_"),
                "supernet": continuous[score],
                "discrete": discrete[score],
                "gap": continuous[score] - discrete[score],
            }
        )
        self.candidates = self.supernet.strongest(self.recipe.search.stages[place.stage].keep)
        place.stage, place.epoch = place.stage + 1, 0
        # Before the checkpoint: a search that is killed behind its last one has nothing left to do.
        self.run_directory.write_json("summary.json", {**place.gaps[-1], "stages": place.gaps})
        self._save()

    def _derive(self) -> Genotype:
        facts = self.run_directory.facts
        return self.supernet.derive(
            self.recipe.derive,
            name=facts["name"],
            provenance={
                "medarts": facts["medarts"],
                "recipe_fingerprint": facts["recipe_fingerprint"],
                "data_fingerprint": facts["data_fingerprint"],
                "seed": self.recipe.seed,
                "stage": self.place.stage,
                "epoch": self.place.epoch,
            },
        )

    def _save(self) -> None:
        state = {
            "place": asdict(self.place),
            "candidates": self.candidates,
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "architecture_optimizer": self.architecture_optimizer.state_dict(),
        }
        place = (self.place.stage, self.place.epoch, self.place.step)
        save_point(self.run_directory, self.supernet, state, fabric=self.fabric, place=place, where=self._where())

    def _smaller_parts(self) -> str:
        stage = self.recipe.search.stages[self.place.stage]
        field = f"search.stages.{self.place.stage}.accumulate"
        return smaller_parts(field, accumulate=stage.accumulate, batch=stage.batch)

    def _where(self) -> str:
        return f"stage {self.place.stage}, epoch {self.place.epoch}, step {self.place.step}"

    def _steps_done(self, steps: list[int]) -> int:
        done = sum(steps[: self.place.stage])
        if self.place.stage < len(steps):
            done += self.place.epoch * self.data[self.place.stage].weights.steps + self.place.step
        return done
