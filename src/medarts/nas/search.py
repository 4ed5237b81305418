"""The bilevel search: stages of epochs of steps, each a step of the architecture and one of the weights.

    for every stage:    a fresh supernet of the candidates that the stage before kept
      for every epoch:
        for every step: the architecture on one half of the training set (once it is no longer frozen),
                        the weights on the other
        validate, note the genotype so far, save a checkpoint

Source: DARTS (arXiv 1806.09055). It knows no space, no task and no data set.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from medarts.config import BatchSettings, Recipe
from medarts.config.reading import fingerprint_without_seed
from medarts.data.batches import Batches, check_fills_a_batch, mix, smallest_batch
from medarts.data.opening import open_manifest, with_findings
from medarts.data.splits import halve
from medarts.data.store import ImageStore, open_store
from medarts.engine import checkpoint
from medarts.engine.changes import Change
from medarts.engine.device import make_fabric
from medarts.engine.directory import RunDirectory
from medarts.engine.engine import Job, LoopState, Trial, cosine, resume, start
from medarts.errors import MedartsError, RecipeError
from medarts.nas.gradients import Objective, first_order
from medarts.nas.regularizers import Of, RegularizerSettings, check_regularizers
from medarts.registry import bound, calling, gradients, regularizers, relaxations, spaces
from medarts.spaces import make_space
from medarts.spaces.base import Candidates, SearchSpace
from medarts.spaces.genotype import Genotype
from medarts.spaces.relaxations import Draw, Relaxation, make_relaxation
from medarts.system.randomness import seed_of, seed_torch
from medarts.tasks import Task, make_task

HALVES = ("weight half", "alpha half")


class StageData(NamedTuple):
    """The images of a stage: the two halves of the training set, and the validation set."""

    weights: Batches
    architecture: Batches
    validation: Batches


@dataclass
class SearchState(LoopState):
    """Where a search is; see `LoopState`.

    Attributes:
        stage: stages done.
        arch_loss: sum of the architecture's losses in this epoch.
        gaps: discretisation gap at the end of every stage done.
        candidates: operations of every edge that the last stage done has kept.
    """

    stage: int = 0
    arch_loss: float = 0.0
    gaps: list[dict[str, Any]] = field(default_factory=list)
    candidates: Candidates | None = None

    def next_epoch(self) -> None:
        """Begins the next epoch with empty sums."""
        super().next_epoch()
        self.arch_loss = 0.0


class Search(Job[SearchState]):
    """A search.

    Args:
        recipe: what to do.
        fabric: device and precision.
        space: makes supernets.
        task: loss and score.
        store: the images.
        data: those of every stage.
    """

    kind = "search"
    title = "the search"
    validations_at_end = 2  # of the supernet, and of what is derived from it

    def __init__(
        self,
        recipe: Recipe,
        *,
        fabric: Fabric,
        space: SearchSpace,
        task: Task,
        store: ImageStore,
        data: list[StageData],
    ) -> None:
        super().__init__(recipe, fabric=fabric, task=task, store=store, state=SearchState())
        self.space = space
        self.stage_data = data
        chosen = recipe.search.gradient
        self.gradient = bound(gradients.get(chosen.name), settings=chosen)

    @staticmethod
    def parts_setting(recipe: Recipe, stage: int | None) -> tuple[str, BatchSettings]:
        """Returns the section of a stage, or of the one with most images at a time."""
        stages = recipe.search.stages
        if stage is None:
            stage = max(range(len(stages)), key=lambda each: stages[each].images_at_once)
        return f"search.stages.{stage}", stages[stage]

    @property
    def data(self) -> StageData:
        """The images of the current stage."""
        return self.stage_data[self.state.stage]

    @property
    def module(self) -> nn.Module:
        """The supernet."""
        return self.supernet

    @property
    def validated(self) -> tuple[nn.Module, Batches]:
        """The supernet in the run's precision, and the validation set."""
        return self.model, self.data.validation

    @property
    def steps(self) -> int:
        """Steps of an epoch: batches of the weight half."""
        return self.data.weights.steps

    @property
    def epochs(self) -> int:
        """Epochs of the current stage."""
        return self.recipe.search.stages[self.state.stage].epochs

    @property
    def parameters(self) -> Iterable[nn.Parameter]:
        """The weights, without the architecture."""
        return self.weights

    @property
    def stages_left(self) -> Iterable[int]:
        """The stages from the current one on."""
        return range(self.state.stage, len(self.recipe.search.stages))

    @property
    def counters(self) -> dict[str, int]:
        """Where the search is: stage, epoch, step."""
        return {"stage": self.state.stage, **super().counters}

    @property
    def phases(self) -> list[tuple[int, int]]:
        """The epochs with a frozen architecture, and those after them."""
        frozen = min(self.recipe.search.arch_after, self.epochs)
        return [(first, epochs) for first, epochs in ((0, frozen), (frozen, self.epochs - frozen)) if epochs]

    @property
    def progress(self) -> tuple[int, int]:
        """Steps done and steps in all."""
        steps = [data.weights.steps for data in self.stage_data]
        of_stages = [stage.epochs * number for stage, number in zip(self.recipe.search.stages, steps, strict=True)]
        done = sum(of_stages[: self.state.stage])
        if self.stages_left:
            done += super().progress[0]
        return done, sum(of_stages)

    @property
    def stage_progress(self) -> float:
        """How far the stage is, from 0 to below 1."""
        return (self.state.epoch + self.state.step / self.steps) / self.epochs

    @property
    def architecture_lr(self) -> float:
        """The architecture's learning rate in this stage.

        A step of Adam moves a parameter by about the rate, whatever the size of the gradient. So a tenth of the steps
        at the same rate would move alphas a tenth as far, and leave them near uniform.
        """
        settings = self.recipe.search
        if settings.arch_steps is None:
            return settings.arch_lr
        steps = max(1, (self.epochs - settings.arch_after) * self.steps)
        return settings.arch_lr * settings.arch_steps / steps

    @property
    def auxiliary_skip(self) -> float:
        """What every edge of the supernet carries now beside its operations; the last step of a stage all but ends it.

        Validation sees what there is then, so that its score is that of what has been trained.
        """
        return (1 - self.stage_progress) * self.recipe.search.supernet.auxiliary_skip

    @property
    def epochs_done(self) -> int:
        """Epochs done in all stages."""
        return sum(stage.epochs for stage in self.recipe.search.stages[: self.state.stage]) + self.state.epoch

    def set_up(self) -> None:
        """Builds supernet and optimizers of the stage."""
        settings, number = self.recipe.search, self.state.stage
        seed_torch(self.recipe.seed, "supernet", number)
        self.supernet = self.space.supernet(settings.stages[number], self.state.candidates)
        self.supernet.relaxation = make_relaxation(settings.relaxation)
        # Walking over the modules of a supernet takes long enough to be felt in every step.
        self.weights, self.architecture = self.supernet.weights(), self.supernet.architecture()
        self.model, self.weight_optimizer, self.architecture_optimizer = self.fabric.setup(
            self.supernet,
            torch.optim.SGD(self.weights, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay),
            torch.optim.Adam(
                self.architecture,
                settings.arch_lr,
                betas=settings.arch_betas,
                weight_decay=settings.arch_weight_decay,
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of both optimizers."""
        return {
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "architecture_optimizer": self.architecture_optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the state of both optimizers."""
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.architecture_optimizer.load_state_dict(state["architecture_optimizer"])

    def begin_epoch(self) -> None:
        """Sets the learning rate of the epoch and the order of its images."""
        settings, seed, sampling = self.recipe.search, self.recipe.seed, self.recipe.data.sampling
        self.lr = cosine(self.state.epoch, epochs=self.epochs, start=settings.lr, end=settings.lr_min)
        for group in self.weight_optimizer.param_groups:
            group["lr"] = self.lr
        for group in self.architecture_optimizer.param_groups:
            group["lr"] = self.architecture_lr
        self.orders = [
            half.order(self.state.epoch, seed=seed, sampling=sampling)
            for half in (self.data.weights, self.data.architecture)
        ]
        self.model.train()

    def step(self) -> None:
        """One bilevel step: the architecture first, as in DARTS, then the weights."""
        state, settings, data = self.state, self.recipe.search, self.data
        training = self._objective(data.weights, self.orders[0])
        if state.epoch >= settings.arch_after:
            self.architecture_optimizer.zero_grad()
            self.weight_optimizer.zero_grad()  # or the gradients of the step before would be held meanwhile
            loss = self.gradient(
                self.fabric,
                training=training,
                validation=self._objective(data.architecture, self.orders[1]),
                weights=self.weights,
                architecture=self.architecture,
                optimizer=self.weight_optimizer,
            )
            self.check_finite(loss, name=f"loss of the {data.architecture.name}")
            self._regularize("architecture")
            self.architecture_optimizer.step()
            state.arch_loss += loss
        self.weight_optimizer.zero_grad()
        loss = first_order(self.fabric, training, held=self.architecture)
        self.check_finite(loss, name=f"loss of the {data.weights.name}")
        self._regularize("weights")
        if settings.grad_clip:
            self.fabric.clip_gradients(
                self.model, self.weight_optimizer, max_norm=settings.grad_clip, error_if_nonfinite=False
            )
        self.weight_optimizer.step()
        state.train_loss += loss

    def validate(self) -> dict[str, Any]:
        """Returns the validation values of the supernet as it is; see ``Job.validate``."""
        self.supernet.auxiliary_skip = self.auxiliary_skip
        return super().validate()

    def _regularize(self, of: Of) -> None:
        """Adds the gradients of the regularizers of the architecture, or of the weights."""
        free, held = (self.architecture, self.weights) if of == "architecture" else (self.weights, self.architecture)
        for settings in cast("tuple[RegularizerSettings, ...]", self.recipe.search.regularizers):
            if regularizers.entry(settings.name).about["of"] == of:
                value = first_order(self.fabric, partial(self._term, settings, free), held=held)
                self.check_finite(value, name=f"regularizer {settings.name}")

    def _term(self, settings: RegularizerSettings, free: Sequence[nn.Parameter]) -> Iterator[Tensor]:
        """Yields what a regularizer adds to the loss of some parameters."""
        function = bound(regularizers.get(settings.name), settings=settings)
        with calling("regularizer", settings.name):
            value = torch.as_tensor(function(self.supernet, self.stage_progress), device=self.fabric.device)
        if value.ndim or not value.is_floating_point():
            raise MedartsError(
                f"The regularizer '{settings.name}' returned a tensor {tuple(value.shape)} of {value.dtype}.",
                fix="Return one number: a mean or a sum.",
            )
        # A term that is off at this point of the search may be a constant, which has no gradient.
        yield settings.weight * (value if value.requires_grad else value + 0 * free[0].sum())

    def _objective(self, half: Batches, order: NDArray[np.int64]) -> Objective:
        """Returns the loss on this step's batch of a half, the same function however often it is called."""
        state, recipe = self.state, self.recipe
        where = (half.name, state.stage, state.epoch, state.step)
        batch = half.training(order, state.step, settings=recipe.data.augmentation, seed=seed_of(recipe.seed, *where))
        mixture = mix(batch.images, batch.targets, recipe.search.mixing, seed=seed_of(recipe.seed, "mixing", *where))
        parts = mixture.split(recipe.search.stages[state.stage].accumulate)
        progress, settings = self.stage_progress, recipe.search
        draw = Draw(
            seed_of(recipe.seed, "relaxation", *where),
            progress,
            # Weights alone are trained at other architectures; the architecture's gradient is taken where it is.
            perturbation=progress * settings.perturbation if half is self.data.weights else 0.0,
            skip_dropout=(1 - progress) * settings.supernet.skip_dropout,
        )
        self.supernet.auxiliary_skip = self.auxiliary_skip

        def losses() -> Iterator[Tensor]:
            seed_torch(recipe.seed, "dropout", *where)
            for share, part in parts:
                with self.supernet.drawing(draw):
                    loss = share * self.task.loss(self.model(part.images, all_heads=True), part)
                yield loss

        return losses

    def journals(self, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Writes the genotype so far, and returns the lines of metrics and architecture."""
        state, genotype = self.state, self._derive()
        genotype.save(self.directory.path / "genotype.json")
        frozen = state.epoch < self.recipe.search.arch_after
        return {
            "metrics.jsonl": {
                "train_loss": state.train_loss / state.step,
                "arch_loss": None if frozen else state.arch_loss / state.step,
                "lr": self.lr,
                **values,
            },
            "architecture.jsonl": {**self.supernet.snapshot(), "genotype": json.loads(genotype.to_json())},
        }

    def end_stage(self) -> None:
        """Measures the discretisation gap, then hands the strongest candidates to the next stage."""
        state, score = self.state, self.task.score
        genotype = self._derive()
        continuous = self.validate()
        self.supernet.discretise(genotype)
        discrete = self.validate()
        self.supernet.discretise(None)
        state.gaps.append(
            {
                "score": score.removeprefix("val_"),
                "supernet": continuous[score],
                "discrete": discrete[score],
                "gap": continuous[score] - discrete[score],
            }
        )
        state.candidates = self.supernet.strongest(self.recipe.search.stages[state.stage].keep)
        state.stage, state.epoch = state.stage + 1, 0
        # Before the checkpoint: a search that is killed behind its last one has nothing left to do.
        self.directory.write_json("summary.json", {**state.gaps[-1], "stages": state.gaps})
        self.save()

    def _derive(self) -> Genotype:
        facts = self.directory.facts
        return self.supernet.derive(
            self.recipe.derive,
            name=facts["name"],
            provenance={
                "medarts": facts["medarts"],
                "recipe_fingerprint": facts["recipe_fingerprint"],
                "recipe_fingerprint_without_seed": fingerprint_without_seed(self.recipe),
                "data_fingerprint": facts["data_fingerprint"],
                "seed": self.recipe.seed,
                "stage": self.state.stage,
                "epoch": self.state.epoch,
            },
        )

    def prepare_for(self, changes: Iterable[Change]) -> None:
        """Goes back before the end of the last stage if this is to be longer: the end has chosen already."""
        last = checkpoint.newest(self.directory.checkpoints, "last")
        ended = last is not None and last[0] == len(self.recipe.search.stages)
        if ended and any(change.field.endswith(".epochs") for change in changes):
            checkpoint.drop_newest(self.directory.checkpoints, "last")


def start_search(recipe: Recipe, out: Path, *, data: ImageStore | None = None) -> RunDirectory:
    """Searches a genotype by a recipe, in a new run directory.

    Args:
        recipe: what to do.
        out: folder of the run, new or empty.
        data: the images, in place of the sources of the recipe; see `medarts.data.arrays`.

    Raises:
        MedartsError: see `medarts.engine.engine.start`.
    """
    return start(Search, recipe, out, lambda: prepare_search(recipe, data=data))


def resume_search(path: Path, changes: Iterable[str] = (), *, data: ImageStore | None = None) -> RunDirectory:
    """Resumes a search from its last checkpoint; a finished one is left as it is, unless it is to be longer.

    Args:
        path: its folder.
        changes: changes of its recipe as key.path=value; see `medarts.engine.changes` for those that are possible.
        data: the images of a search that was started with ``data``.

    Raises:
        MedartsError: see `medarts.engine.engine.resume`.
    """
    return resume(Search, path, changes, lambda recipe, run: prepare_search(recipe, run, data=data), data=data)


def try_search(recipe: Recipe, stage: int, *, steps: int, data: ImageStore | None = None) -> Trial:
    """Times a few steps of a stage of a search; those before it pass on the candidates of an untrained supernet.

    Args:
        recipe: what to do.
        stage: the stage, from 0.
        steps: timed steps, after one that warms up.
        data: the images, in place of the sources of the recipe.

    Raises:
        MedartsError: data, recipe or device do not fit.
    """
    job = prepare_search(recipe, data=data)
    for number in range(stage):
        job.set_up()
        kept = job.supernet.strongest(recipe.search.stages[number].keep)
        job.state = SearchState(stage=number + 1, candidates=kept)
    return job.trial(stage=stage, steps=steps)


def prepare_search(recipe: Recipe, run: RunDirectory | None = None, *, data: ImageStore | None = None) -> Search:
    """Looks at everything that can be wrong, what is quick to see first, and reads the images last.

    Args:
        recipe: what to do.
        run: the run to resume, unless it is new.
        data: the images, in place of the sources of the recipe.

    Raises:
        MedartsError: data, recipe or device do not fit, or the data of the run have changed.
    """
    gradient = gradients.entry(recipe.search.gradient.name)
    if gradient.about["needs_fp32"] and recipe.compute.precision != "fp32":
        raise RecipeError(
            f"search.gradient {gradient.name} takes the difference of almost equal gradients, which "
            f"{recipe.compute.precision} does not resolve.",
            fix="Use compute.precision=fp32, or search.gradient=first_order.",
        )
    _check_relaxation(recipe)
    fabric = make_fabric(recipe.compute)
    manifest = open_manifest(recipe.data, needs=("train", "val"), data=data)
    if run is not None:
        run.check_unchanged(manifest.fingerprint(), manifest=manifest.to_csv())
    recipe = with_findings(recipe, manifest)
    task = make_task(recipe, manifest, loss=recipe.search.loss, field="search.loss")
    space = make_space(recipe)
    training, validation = manifest.of_split("train"), manifest.of_split("val")
    validated = smallest_batch(len(validation.samples), recipe.evaluation.batch)
    for stage in recipe.search.stages:
        space.check(stage, recipe.data.size, fewest=min(stage.batch // stage.accumulate, validated))
    halves = halve(training, portion=recipe.search.train_portion, seed=seed_of(recipe.seed, "halves"))
    largest = max(stage.batch for stage in recipe.search.stages)
    for half, name in zip(halves, HALVES, strict=True):
        check_fills_a_batch(half, largest, name=name)
    store = data if data is not None else open_store(manifest, recipe.data, threads=recipe.compute.threads)
    task.check(store, {"training": training, "validation": validation})
    validated_batches = Batches(
        store, validation, batch=recipe.evaluation.batch, name="validation set", device=fabric.device
    )
    stages = []
    for stage in recipe.search.stages:
        weights, architecture = (
            Batches(store, half, batch=stage.batch, name=name, device=fabric.device)
            for half, name in zip(halves, HALVES, strict=True)
        )
        stages.append(StageData(weights, architecture, validated_batches))
    return Search(recipe, fabric=fabric, space=space, task=task, store=store, data=stages)


def _check_relaxation(recipe: Recipe) -> None:
    """Refuses ways to weigh operations and paths that do not go with the space or with each other.

    Raises:
        RecipeError: names the first of them.
    """
    settings, space = recipe.search, spaces.get(recipe.space.name)
    name = settings.relaxation.name
    if (name != "softmax" or settings.perturbation) and not space.relaxes:
        raise RecipeError(
            f"The supernets of the space {recipe.space.name} have weights of their own, which search.relaxation {name} "
            f"and search.perturbation {settings.perturbation} would not change.",
            fix="Leave both out, or have the supernet weigh by Supernet.relaxed and set relaxes=True in the space.",
        )
    if settings.perturbation and cast("type[Relaxation]", relaxations.get(name)).sparse:
        raise RecipeError(
            f"search.perturbation {settings.perturbation} would run all operations, of which search.relaxation {name} "
            "runs some.",
            fix="Use search.perturbation=0, or another relaxation.",
        )
    check_regularizers(settings.regularizers, relaxation=name, has_paths=space.has_paths)
