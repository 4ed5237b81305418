"""The bilevel search: stages of epochs of steps, each a step of the architecture and one of the weights.

    for every stage:    a fresh supernet of the candidates that the stage before kept
      for every epoch:
        for every step: the architecture on one half of the training set (once it is no longer frozen),
                        the weights on the other
        validate, note the genotype so far and how healthy it is, save a checkpoint
    at the end:         a selection chooses the genotype

Source: DARTS (arXiv 1806.09055). It knows no space, no task and no data set.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from medarts.config import BatchSettings, GuardSettings, Recipe, StageSettings
from medarts.config.reading import fingerprint_without_seed
from medarts.data.batches import Batches, Mixture, check_fills_a_batch, mix, smallest_batch
from medarts.data.opening import open_manifest, with_findings
from medarts.data.splits import halve
from medarts.data.store import ImageStore, open_store
from medarts.engine import checkpoint
from medarts.engine.changes import Change
from medarts.engine.device import make_fabric
from medarts.engine.directory import RunDirectory
from medarts.engine.engine import Job, LoopState, Trial, cosine, resume, start
from medarts.engine.splitting import Of as PartsOf
from medarts.errors import MedartsError, RecipeError
from medarts.nas import guard
from medarts.nas.checks import check_recipe
from medarts.nas.deciding import Deciding, Rehearsal, restriction_of
from medarts.nas.gradients import Objective, first_order
from medarts.nas.regularizers import Of, RegularizerSettings
from medarts.network.convolution import check_gradients
from medarts.network.sharing import check_shares, sharing
from medarts.registry import bound, calling, gradients, regularizers, selections
from medarts.spaces import make_space
from medarts.spaces.base import Candidates, SearchSpace
from medarts.spaces.genotype import Genotype, from_json
from medarts.spaces.relaxations import Draw, make_relaxation
from medarts.system.console import inform, warn
from medarts.system.randomness import seed_of, seed_torch
from medarts.system.ranks import current
from medarts.tasks import Task, make_task

Deliver = Callable[[Genotype, Recipe], tuple[Genotype, Mapping[str, Any]]]
"""What becomes of the chosen genotype before it is returned, and what summary.json says of that. The recipe has the
names of the outputs."""


def as_chosen(genotype: Genotype, recipe: Recipe) -> tuple[Genotype, Mapping[str, Any]]:
    """Returns the genotype as it was chosen."""
    return genotype, {}


Price = Callable[[SearchSpace, StageSettings, Recipe], Mapping[str, float]]
"""What operations cost in the networks of a stage, by the keys of ``SearchSpace.operation_pieces``."""


def unpriced(space: SearchSpace, stage: StageSettings, recipe: Recipe) -> Mapping[str, float]:
    """Refuses a search that needs costs of operations, which measurements give."""
    raise RecipeError(
        "A regularizer of search.regularizers needs the latency of operations, which is not measured here.",
        fix="Search with medarts search or medarts.search, or leave it out.",
    )


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
        alphas: weights of the candidates in the last epoch, see `guard.alpha_rows`.
        illness: why the last epoch of this stage was unhealthy, None if it was not.
        healthy: the last healthy epoch of this stage, its genotype and the candidates it would have handed on.
        continuous: validation of the supernet at the end of this stage, before anything was decided.
        made: the decisions that a selection has made.
        tuned: steps that followed them.
    """

    stage: int = 0
    arch_loss: float = 0.0
    gaps: list[dict[str, Any]] = field(default_factory=list)
    candidates: Candidates | None = None
    alphas: list[list[float]] = field(default_factory=list)
    illness: str | None = None
    healthy: dict[str, Any] | None = None
    continuous: dict[str, Any] | None = None
    made: list[dict[str, Any]] = field(default_factory=list)
    tuned: int = 0

    def next_stage(self) -> None:
        """Begins the next stage, of which nothing is known yet."""
        self.stage, self.epoch, self.step = self.stage + 1, 0, 0
        self.alphas, self.illness, self.healthy, self.continuous = [], None, None, None

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
        deliver: what becomes of the genotype.
        price: what operations cost, for regularizers of costs.
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
        deliver: Deliver = as_chosen,
        price: Price = unpriced,
    ) -> None:
        super().__init__(recipe, fabric=fabric, task=task, store=store, state=SearchState())
        self.space = space
        self.stage_data = data
        self.deliver, self.price = deliver, price
        chosen = recipe.search.gradient
        self.gradient = bound(gradients.get(chosen.name), settings=chosen)
        self.selection = selections.entry(recipe.derive.select.name)

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
            # A selection numbers its decisions as steps after the last epoch.
            done += min(super().progress[0], of_stages[self.state.stage])
        return done, sum(of_stages)

    @property
    def stage_progress(self) -> float:
        """How far the stage is: from 0 to below 1, and 1 at its end."""
        if self.has_stopped_early:
            return 1.0
        # A selection numbers its decisions as steps after the last epoch.
        return min(1.0, (self.state.epoch + self.state.step / self.steps) / self.epochs)

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

    @property
    def has_stopped_early(self) -> bool:
        """Whether the stage has become ill and the guard stops it."""
        settings, state = self.recipe.search.guard, self.state
        is_ill = state.illness is not None and state.healthy is not None
        return settings is not None and settings.action == "stop" and is_ill

    def set_up(self) -> None:
        """Builds supernet and optimizers of the stage."""
        settings, number = self.recipe.search, self.state.stage
        seed_torch(self.recipe.seed, "supernet", number)
        self.supernet = self.space.supernet(settings.stages[number], self.state.candidates)
        precision, device = self.recipe.compute.precision, self.fabric.device.type
        check_gradients(self.supernet, precision=precision, device=device)
        self.task.begin(self.supernet.output_biases, self.data.weights)
        self.supernet.relaxation = make_relaxation(settings.relaxation)
        if self.selection.about["stepwise"]:
            self.supernet.decisions(self.recipe.derive)  # refused now, not when all stages have been trained
            self.supernet.restriction = restriction_of(self.state.made)
        if self._has_costs:
            stage = settings.stages[number]
            self.supernet.costs = self.ranks.first(lambda: self.price(self.space, stage, self.recipe))  # are measured
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

    @property
    def _has_costs(self) -> bool:
        """Whether a regularizer reads what operations cost."""
        return any(regularizers.entry(each.name).about["costs"] for each in self.recipe.search.regularizers)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of both optimizers, and what operations cost, as they would not be measured the same."""
        return {
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "architecture_optimizer": self.architecture_optimizer.state_dict(),
            **({"costs": dict(self.supernet.costs)} if self._has_costs else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the state of both optimizers."""
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.architecture_optimizer.load_state_dict(state["architecture_optimizer"])
        if self._has_costs:
            self.supernet.costs = state["costs"]

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
        training = self.objective(data.weights, self.orders[0], epoch=state.epoch, step=state.step)
        if state.epoch >= settings.arch_after:
            validation = self.objective(data.architecture, self.orders[1], epoch=state.epoch, step=state.step)
            taken = partial(self._architecture_gradient, training, validation)
            loss = self.splitting.within_memory(taken, of="training")
            self.check_finite(loss, name=f"loss of the {data.architecture.name}")
            self._regularize("architecture")
            self.architecture_optimizer.step()
            state.arch_loss += loss
        state.train_loss += self.step_weights(training)

    def _architecture_gradient(self, training: Objective, validation: Objective) -> float:
        """Takes the gradient of the architecture, and returns the loss that it lowers."""
        self.architecture_optimizer.zero_grad()
        self.weight_optimizer.zero_grad()  # or the gradients of the step before would be held meanwhile
        loss: float = self.gradient(
            self.fabric,
            training=training,
            validation=validation,
            weights=self.weights,
            architecture=self.architecture,
            optimizer=self.weight_optimizer,
        )
        return loss

    def _weight_gradient(self, training: Objective) -> float:
        """Takes the gradient of the weights, and returns the loss that it lowers."""
        self.weight_optimizer.zero_grad()
        return first_order(self.fabric, training, held=self.architecture)

    def step_weights(self, training: Objective) -> float:
        """Lowers the loss of the weights by one step, and returns it."""
        settings = self.recipe.search
        loss = self.splitting.within_memory(partial(self._weight_gradient, training), of="training")
        self.check_finite(loss, name=f"loss of the {self.data.weights.name}")
        self._regularize("weights")
        if settings.grad_clip:
            self.fabric.clip_gradients(
                self.model, self.weight_optimizer, max_norm=settings.grad_clip, error_if_nonfinite=False
            )
        self.weight_optimizer.step()
        return loss

    def validate(self) -> dict[str, Any]:
        """Returns the validation values of the supernet as it is; see ``Job.validate``."""
        self.supernet.auxiliary_skip = self.auxiliary_skip
        return super().validate()

    def check_parts(self, of: PartsOf, images: int) -> None:
        """Refuses parts in which a norm of the supernet, which has no running statistics, would see a single value."""
        stage = self.recipe.search.stages[self.state.stage]
        self.space.check(stage, self.recipe.data.size, fewest=images)

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

    def objective(self, half: Batches, order: NDArray[np.int64], *, epoch: int, step: int) -> Objective:
        """Returns the loss on a step's batch of a half, the same function however often it is called."""
        state, recipe = self.state, self.recipe
        where = (half.name, state.stage, epoch, step)
        data, seed = recipe.data, seed_of(recipe.seed, *where)
        with self.stopwatch.on("input"):
            batch = half.training(order, step, settings=data.augmentation, seed=seed, resize=data.resize)
        mixture = mix(batch.images, batch.targets, recipe.search.mixing, seed=seed_of(recipe.seed, "mixing", *where))
        progress, settings = self.stage_progress, recipe.search
        draw = Draw(
            seed_of(recipe.seed, "relaxation", *where),
            progress,
            # The weights are trained at other architectures, the loss of the architecture is that at its own. The
            # second order also differentiates the next step of the weights, with the noise that this step will have.
            perturbation=progress * settings.perturbation if half is self.data.weights else 0.0,
            skip_dropout=(1 - progress) * settings.supernet.skip_dropout,
        )
        self.supernet.auxiliary_skip = self.auxiliary_skip

        def losses() -> Iterator[Tensor]:
            seed_torch(recipe.seed, "dropout", *where)
            for share, part in mixture.split(self.splitting.parts("training")):
                with sharing(part, self.ranks, lambda: [*self.weights, *self.architecture]) as (own, mine):
                    with self.supernet.drawing(draw):
                        loss = share * own * self.task.loss(self.model(mine.images, all_heads=True), mine)
                    yield loss

        return losses

    def journals(self, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Writes the genotype so far, and returns the lines of metrics and architecture."""
        state, genotype, snapshot = self.state, self.derive(), self.supernet.snapshot()
        self._write(genotype)
        frozen = state.epoch < self.recipe.search.arch_after
        signals = self._signals(genotype, snapshot, values)
        if not frozen:  # of a frozen architecture the genotype is one of chance
            state.illness = self._illness(genotype, values)
            if state.illness is None:
                kept = self.supernet.strongest(self.recipe.search.stages[state.stage].keep)
                state.healthy = {"epoch": state.epoch, "genotype": genotype.to_json(), "candidates": kept}
        return {
            "metrics.jsonl": {
                "train_loss": state.train_loss / state.step,
                "arch_loss": None if frozen else state.arch_loss / state.step,
                "lr": self.lr,
                **values,
            },
            "architecture.jsonl": {**snapshot, "genotype": json.loads(genotype.to_json()), "signals": signals},
        }

    def _write(self, genotype: Genotype) -> None:
        """Writes the genotype so far."""
        if self.directory.is_written:
            genotype.save(self.directory.path / "genotype.json")

    def _signals(
        self, genotype: Genotype, snapshot: Mapping[str, Any], values: Mapping[str, Any]
    ) -> dict[str, float | None]:
        """Returns the signals of an epoch, and keeps the alphas for those of the next."""
        state, settings = self.state, self.recipe.search.guard
        alphas, before = guard.alpha_rows(snapshot), state.alphas
        state.alphas = alphas
        signals = {
            "identity": guard.free_share(genotype, self.space.free),
            "alpha_entropy": guard.entropy(alphas),
            "beta_entropy": guard.entropy(guard.beta_rows(snapshot)),
            "rank_correlation": guard.rank_correlation(alphas, before),
        }
        if settings is not None and settings.gap_every:
            due = (state.epoch + 1) % settings.gap_every == 0
            signals["gap"] = values[self.task.score] - self._discretised(genotype) if due else None
        if settings is not None and settings.hessian:
            signals["hessian"] = self._largest_eigenvalue(settings)
        return signals

    def _illness(self, genotype: Genotype, values: Mapping[str, Any]) -> str | None:
        limit = (self.recipe.search.guard or GuardSettings()).identity
        return guard.illness(genotype, values, free=self.space.free, limit=limit)

    def _discretised(self, genotype: Genotype) -> float:
        """Returns the validation score of the supernet's weights in a genotype."""
        self.supernet.discretise(genotype)
        score = float(self.validate()[self.task.score])
        self.supernet.discretise(None)
        return score

    def _largest_eigenvalue(self, settings: GuardSettings) -> float:
        self.model.eval()
        (batch,) = self.fixed_subset(1)

        def losses() -> Iterator[Tensor]:
            for share, part in batch.split(self.splitting.parts("training")):
                yield share * self.task.loss(self.model(part.images, all_heads=True), part)

        return guard.largest_eigenvalue(
            self.fabric,
            losses,
            architecture=self.architecture,
            weights=self.weights,
            iterations=settings.hessian,
        )

    def end_stage(self) -> None:
        """Chooses the genotype, measures the discretisation gap, hands the strongest candidates to the next stage."""
        state, score, stages = self.state, self.task.score, self.recipe.search.stages
        if state.continuous is None:  # a selection that was interrupted goes on with a supernet of less
            state.continuous = self.validate()
        continuous, is_last = state.continuous, state.stage == len(stages) - 1
        candidates = self.supernet.strongest(stages[state.stage].keep)
        genotype = self._selected() if is_last else self.derive()
        decides = self.epochs > self.recipe.search.arch_after or (is_last and self.selection.about["stepwise"])
        collapse = self._illness(genotype, continuous) if decides else None
        outcome: dict[str, Any] = {}
        if collapse is not None:
            outcome = {"collapse": collapse}
            limited = self._limited(continuous) if is_last else None
            if (healthy := self._settle(collapse, is_last=is_last, limited=limited)) is not None:
                genotype = from_json(healthy["genotype"], origin="the last healthy epoch")
                candidates, outcome["returned_epoch"] = healthy["candidates"], healthy["epoch"]
            elif limited is not None:
                genotype, outcome["limited"] = limited, True
        if is_last:
            outcome |= {
                "is_guarded": self.recipe.search.guard is not None,
                "free_operations": guard.free_operations(genotype, self.space.free),
            }
            inform(guard.verdict(outcome))
        discrete = self._discretised(genotype)
        delivered: Mapping[str, Any] = {}
        if is_last:
            self._write(genotype)  # as what is to become of it may be refused
            chosen = genotype
            genotype, delivered = self.ranks.first(lambda: self.deliver(chosen, self.recipe))  # which may be measured
            self._write(genotype)
        state.gaps.append(
            {
                "score": score.removeprefix("val_"),
                "supernet": continuous[score],
                "discrete": discrete,
                "gap": continuous[score] - discrete,
                **outcome,
            }
        )
        state.candidates = candidates
        state.next_stage()
        # Before the checkpoint: a search that is killed behind its last one has nothing left to do.
        selection = {"selection": state.made} if state.made else {}
        self.directory.write_json("summary.json", {**state.gaps[-1], "stages": state.gaps, **selection, **delivered})
        self.save()

    def _limited(self, continuous: Mapping[str, Any]) -> Genotype | None:
        """Returns the genotype with no more identity and pooling than is healthy, for a search that never was healthy.

        None where the guard is to do nothing, an epoch was healthy, or the genotype is not healthy like that either.
        """
        settings = self.recipe.search.guard
        if settings is None or settings.action == "continue" or self.state.healthy is not None:
            return None
        self.supernet.limited = (self.space.free, settings.identity)
        genotype = self.derive()
        self.supernet.limited = None
        return genotype if self._illness(genotype, continuous) is None else None

    def _settle(self, illness: str, *, is_last: bool, limited: Genotype | None) -> dict[str, Any] | None:
        """Tells how a stage has ended ill, and returns the epoch to go back to; None where none is healthy, or wanted.

        Args:
            illness: what has happened.
            is_last: whether this is the last stage.
            limited: what counts where no epoch was healthy.

        Raises:
            MedartsError: the search ends with a supernet that predicts no foreground, and never was healthy.
        """
        settings, healthy = self.recipe.search.guard, self.state.healthy
        what = f"Stage {self.state.stage + 1} of the search has {guard.fate(illness)}: {illness}."
        goes_back = settings is not None and settings.action != "continue"
        blind = guard.is_blind(illness)
        fix = guard.advice(self.recipe, stage=self.state.stage, blind=blind)
        if is_last and goes_back and healthy is None and blind:
            raise MedartsError(what, fix=fix)
        if not goes_back:
            warn(f"{what} {fix}")
            return None
        if healthy is None:
            counts = "the last one counts"
            if limited is not None:
                counts += f", {guard.LIMITED}"
            warn(f"{what} No epoch was healthy, so {counts}. {fix}")
            return None
        warn(f"{what} Epoch {healthy['epoch'] + 1}, the last healthy one, counts instead. {fix}")
        return healthy

    def _selected(self) -> Genotype:
        return self._chosen(Deciding(self))

    def _chosen(self, deciding: Deciding) -> Genotype:
        """Returns the genotype that the selection of the recipe chooses."""
        chosen = self.recipe.derive.select
        with calling("selection", chosen.name):
            genotype: Genotype = bound(self.selection.member, settings=chosen)(deciding)
        return genotype

    def trial(self, *, stage: int = 0, steps: int, patience: float = math.inf) -> Trial:
        """Times a few steps of a stage, and what the selection does after the last one; see `Job.trial`."""
        trial = super().trial(stage=stage, steps=steps, patience=patience)
        if stage < len(self.recipe.search.stages) - 1:
            return trial
        rehearsal = Rehearsal(self)
        self._chosen(rehearsal)
        return dataclasses.replace(trial, selection_seconds=rehearsal.seconds(repeats=steps))

    def fixed_subset(self, batches: int) -> Iterator[Mixture]:
        """Yields batches of the alpha half, unchanged, the same however often it is called."""
        half = self.data.architecture
        order = half.order(0, seed=seed_of(self.recipe.seed, "fixed subset"), sampling=self.recipe.data.sampling)
        for step in range(min(batches, half.steps)):
            batch = half.unchanged(order, step)
            yield Mixture(batch.images, ((1.0, batch.targets),))

    def derive(self) -> Genotype:
        """Returns the genotype of what was decided and, beyond that, of the architecture parameters."""
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
        last, stages = checkpoint.newest(self.directory.checkpoints, "last"), len(self.recipe.search.stages)
        longer = [change for change in changes if change.field.endswith(".epochs")]
        if last is None or not longer:
            return
        # A selection that was interrupted has decided, too; its decisions count as steps after the last epoch.
        selecting = last[:2] == (stages - 1, longer[0].before) and last[2] > 0
        if last[0] == stages or selecting:
            checkpoint.drop_newest(self.directory.checkpoints, "last")


def start_search(
    recipe: Recipe,
    out: Path,
    *,
    data: ImageStore | None = None,
    deliver: Deliver = as_chosen,
    price: Price = unpriced,
    check: Callable[[Search], None] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """Searches a genotype by a recipe, in a new run directory.

    Args:
        recipe: what to do.
        out: folder of the run, new or empty.
        data: the images, in place of the sources of the recipe; see `medarts.data.arrays`.
        deliver: what becomes of the genotype.
        price: what operations cost, for regularizers of costs.
        check: looks at the prepared search, and refuses it before anything is written.
        facts: more for run.json.

    Raises:
        MedartsError: of ``check``, or see `medarts.engine.engine.start`.
    """

    def prepare() -> Search:
        search = prepare_search(recipe, data=data, deliver=deliver, price=price)
        if check is not None:
            check(search)
        return search

    return start(Search, recipe, out, prepare, facts=facts)


def resume_search(
    path: Path,
    changes: Iterable[str] = (),
    *,
    data: ImageStore | None = None,
    deliver: Deliver = as_chosen,
    price: Price = unpriced,
) -> RunDirectory:
    """Resumes a search from its last checkpoint; a finished one is left as it is, unless it is to be longer.

    Args:
        path: its folder.
        changes: changes of its recipe as key.path=value; see `medarts.engine.changes` for those that are possible.
        data: the images of a search that was started with ``data``.
        deliver: as it was started with, as is ``price``.
        price: what operations cost.

    Raises:
        MedartsError: see `medarts.engine.engine.resume`.
    """

    def prepare(recipe: Recipe, run: RunDirectory) -> Search:
        return prepare_search(recipe, run, data=data, deliver=deliver, price=price)

    return resume(Search, path, changes, prepare, data=data)


def try_search(
    recipe: Recipe,
    stage: int,
    *,
    steps: int,
    patience: float = math.inf,
    data: ImageStore | None = None,
    price: Price = unpriced,
) -> Trial:
    """Times a few steps of a stage of a search; those before it pass on the candidates of an untrained supernet.

    Args:
        recipe: what to do.
        stage: the stage, from 0.
        steps: timed steps, after one that warms up.
        patience: seconds after which no further step is timed.
        data: the images, in place of the sources of the recipe.
        price: what operations cost, for regularizers of costs.

    Raises:
        MedartsError: data, recipe or device do not fit.
    """
    job = prepare_search(recipe, data=data, price=price)
    for number in range(stage):
        job.set_up()
        kept = job.supernet.strongest(recipe.search.stages[number].keep)
        job.state = SearchState(stage=number + 1, candidates=kept)
    return job.trial(stage=stage, steps=steps, patience=patience)


def prepare_search(
    recipe: Recipe,
    run: RunDirectory | None = None,
    *,
    data: ImageStore | None = None,
    deliver: Deliver = as_chosen,
    price: Price = unpriced,
) -> Search:
    """Looks at everything that can be wrong, what is quick to see first, and reads the images last.

    Args:
        recipe: what to do.
        run: the run to resume, unless it is new.
        data: the images, in place of the sources of the recipe.
        deliver: what becomes of the genotype.
        price: what operations cost, for regularizers of costs.

    Raises:
        MedartsError: data, recipe or device do not fit, or the data of the run have changed.
    """
    check_recipe(recipe)
    for number, stage in enumerate(recipe.search.stages):
        field = f"search.stages.{number}"
        check_shares(current(), batch=stage.batch, accumulate=stage.accumulate, field=field)
    fabric = make_fabric(recipe.compute)
    manifest = open_manifest(recipe.data, needs=("train", "val"), data=data)
    if run is not None:
        run.check_unchanged(manifest.fingerprint(), manifest=manifest.to_csv())
    recipe = with_findings(recipe, manifest)
    task = make_task(recipe, manifest, loss=recipe.search.loss, field="search.loss")
    space = make_space(recipe)
    training, validation = manifest.of_split("train"), manifest.of_split("val")
    patches = recipe.data.resize == "patches"
    validated = 1 if patches else smallest_batch(len(validation.samples), recipe.evaluation.batch)
    for stage in recipe.search.stages:
        space.check(stage, recipe.data.size, fewest=min(stage.batch // stage.accumulate, validated))
    halves = halve(training, portion=recipe.search.train_portion, seed=seed_of(recipe.seed, "halves"))
    largest = max(stage.batch for stage in recipe.search.stages)
    for half, name in zip(halves, HALVES, strict=True) if not patches else ():  # whose number is not known yet
        check_fills_a_batch(half, largest, name=name)
    store = data if data is not None else open_store(manifest, recipe.data, threads=recipe.compute.threads)
    for half, name in zip(halves, HALVES, strict=True):
        check_fills_a_batch(half, largest, name=name, store=store)
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
    return Search(recipe, fabric=fabric, space=space, task=task, store=store, data=stages, deliver=deliver, price=price)
