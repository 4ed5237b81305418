"""The sections of a recipe, apart from that of the data.

A recipe starts from the published values of its search space (``published``); the defaults here are for what no paper
has, and for spaces that name no values.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from medarts.config.data import DataSettings, Task
from medarts.config.section import (
    LARGEST_SIZE,
    LATER,
    MOST_LAYERS,
    Batch,
    Before,
    Duration,
    Epochs,
    Flag,
    Fraction,
    Norm,
    Number,
    Rate,
    Section,
    Seed,
    Settings,
    Text,
    Tolerance,
    Weight,
    Whole,
)
from medarts.errors import RecipeError
from medarts.registry import Choice, criteria, gradients, losses, models, regularizers, relaxations, selections, spaces
from medarts.registry import sources as registered

NormName = Literal["group", "batch"]
AnyLoss = Annotated[Settings, Choice(losses)]
AnyGradient = Annotated[Settings, Choice(gradients)]
AnyRelaxation = Annotated[Settings, Choice(relaxations)]
AnyRegularizer = Annotated[Settings, Choice(regularizers)]
AnySelection = Annotated[Settings, Choice(selections)]
AnyCriterion = Annotated[Settings, Choice(criteria)]


def _named(name: str) -> Any:
    """Returns the default of a field that is chosen from a registry; it is looked up when a recipe is read."""
    return Field(default_factory=lambda: name)


class BatchSettings(Section):
    """The images of a step, and how many of them are in memory at once.

    Attributes:
        batch: images per step.
        accumulate: parts into which a batch is split; they run one after the other and their gradients are summed.
            In memory are the activations of one part. A network that normalises each image by itself, as with group
            normalisation, makes the same step as without, up to rounding and to what dropout draws. Batch
            normalisation sees the statistics of a part instead of those of the batch, so there the step is another.
    """

    batch: Batch
    accumulate: Batch = 1

    @property
    def images_at_once(self) -> int:
        """Images of the largest part."""
        return -(-self.batch // self.accumulate)

    @model_validator(mode="after")
    def _no_part_is_empty(self) -> "BatchSettings":
        if self.accumulate > self.batch:
            raise ValueError(
                f"accumulate {self.accumulate} makes more parts than the batch has images; "
                f"use 1 to {self.batch}, or a larger batch"
            )
        return self


class StageSettings(BatchSettings):
    """One stage of the search; the weights start afresh in each.

    Attributes:
        depth: of the supernet: depth D of a lattice, which has 2D-1 layers; of darts, the number of its cells.
        epochs: passes over the weight half of the training images.
        batch: images per step.
        accumulate: parts of a batch that run one after the other; see BatchSettings.
        keep: operations kept on every edge at the end of the stage, for the next stage: set (down, normal, up; of
            darts normal, reduce) -> number.
    """

    depth: Annotated[Whole, Field(ge=3, le=MOST_LAYERS)] = 4
    epochs: Epochs = 80
    batch: Batch = 12
    keep: Annotated[dict[str, Annotated[Whole, Field(ge=1, le=100)]], Field(max_length=10)] = Field(default={})


class MixingSettings(Section):
    """MixSearch: every batch is a mix of images, with the loss mixed alike.

    Attributes:
        alpha: parameter a of Beta(a, a); 0 switches mixing off.
        images: number k of images mixed, 2 to 4.
    """

    alpha: Weight = 0.5
    images: Annotated[Whole, Field(ge=2, le=4)] = 2


def _whole(value: Any) -> Any:
    """Refuses what Python takes for one of some whole numbers: to it, True is 1."""
    if type(value) in (bool, float):
        raise ValueError(f"{value} is not a whole number")
    return value


class SupernetSettings(Section):
    """What a supernet does and the network derived from it does not.

    Attributes:
        partial_channels: K; operations see the first 1/K of a state's channels, the others bypass them and are
            shuffled in (PC-DARTS, arXiv 1907.05737): a step takes less time and memory.
        edge_normalisation: a learned softmax over the edges into a node, which stabilizes partial channels.
        recompute: cells keep only their inputs for the backward pass and are run again there: less memory, more time.
        auxiliary_skip: b at the start of a stage; every edge carries b times what it reads beside its operations, and b
            falls to 0 (DARTS-, arXiv 2009.01027, where it starts at 1): skips are not preferred for training more
            easily. 0 has none.
        skip_dropout: probability at the start of a stage of dropping the skip of an edge in a step; it falls to 0
            (P-DARTS, arXiv 1904.12760, where the decay is exponential; here it is linear).
    """

    partial_channels: Annotated[Literal[1, 2, 4], BeforeValidator(_whole)] = 1
    edge_normalisation: Flag = False
    recompute: Flag = False
    auxiliary_skip: Annotated[Weight, LATER] = 0.0
    skip_dropout: Annotated[Fraction, LATER] = 0.0


def _supernets(value: Any) -> Any:
    """Refuses what is neither a number of supernets nor a list of what they differ in."""
    is_number = type(value) is int and 0 <= value <= _MOST_SUPERNETS  # here, so that there is one message
    is_list = (
        isinstance(value, list | tuple)
        and 0 < len(value) <= _MOST_SUPERNETS
        and all(isinstance(each, Mapping) for each in value)
    )
    if not (is_number or is_list):
        raise ValueError(
            f"write a number of supernets, 0 to {_MOST_SUPERNETS}, or a list of what each has of its own in the "
            "section search, such as [{relaxation: softmax}, {relaxation: gumbel}]"
        )
    return value


_MOST_SUPERNETS = 100


class SelectSettings(Section):
    """Choosing by training: at every rung the better candidates are kept and trained on (successive halving).

    Attributes:
        candidates: candidates of the first generation.
        rungs: epochs after which the candidates are compared, rising. The last is the length of their training, over
            which the learning rate falls; all else of it is as in ``train``.
        keep: share of the candidates that go on from a rung to the next.
        generations: of pool: number of generations. Later ones hold neighbours of the best so far.
        neighbours: of pool: candidates of every later generation.
        supernets: of pool: searches of supernets, each with a seed of its own, whose genotypes are candidates. It is a
            number, or a list with a mapping for each of what it has of its own in the section search, such as
            [{relaxation: softmax}, {relaxation: gumbel, arch_lr: 0.01}].
        checkpoints: of pool: genotypes of each of these searches, taken along it, the last one included.
        norms: kinds of norms that candidates may have. Default: train.norm.
        epochs: of random: as many candidates as this number of epochs of training allows. Default: ``candidates``.
        retrain: trainings of the winner by ``train`` at the end, with the seed of the recipe and those after it. They
            choose nothing: their mean is free of the luck of the seed by which the winner was chosen, but still of the
            best epoch on the images that chose it. The score to report is that of ``medarts evaluate``.
    """

    candidates: Annotated[Whole, Field(ge=1, le=100_000)] = 16
    rungs: Annotated[tuple[Epochs, ...], Field(min_length=1, max_length=20)] = (2, 6, 12)
    keep: Annotated[Number, Field(gt=0, lt=1)] = 0.33
    generations: Annotated[Whole, Field(ge=1, le=1000)] = 2
    neighbours: Annotated[Whole, Field(ge=1, le=100_000)] = 8
    supernets: Annotated[
        Annotated[Whole, Field(ge=0, le=_MOST_SUPERNETS)] | tuple[dict[str, Any], ...], BeforeValidator(_supernets)
    ] = 2
    checkpoints: Annotated[Whole, Field(ge=1, le=100)] = 3
    norms: Annotated[tuple[NormName, ...], Field(max_length=2)] = ()
    epochs: Annotated[Whole, Field(ge=1, le=10_000_000)] | None = None
    retrain: Annotated[Annotated[Whole, Field(ge=0, le=100)], LATER] = 0

    @property
    def variants(self) -> tuple[Mapping[str, Any], ...]:
        """What every supernet has of its own in the section search."""
        return ({},) * self.supernets if isinstance(self.supernets, int) else self.supernets

    @model_validator(mode="after")
    def _fits_together(self) -> "SelectSettings":
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs {', '.join(map(str, self.rungs))} do not rise; write them as [2, 6, 12]")
        if len(set(self.norms)) < len(self.norms):
            raise ValueError("norms names one twice")
        return self


class GuardSettings(Section):
    """What a search does when it collapses or finds nothing.

    Once the architecture learns, an epoch is unhealthy if too many operations of its genotype are identity or pooling
    (a collapse), or if the supernet predicts no foreground on a data set (it finds nothing).

    Attributes:
        action: roll_back goes on to the end and returns the last healthy genotype; stop ends a stage that is no longer
            healthy and returns the same; continue returns the last genotype, healthy or not. In a stage before the last
            it is the candidates for the next one that are rolled back.
        identity: largest share of identity, skips and pooling among the operations of a healthy genotype.
        gap_every: epochs between measurements of the discretisation gap, each a validation; 0 measures it at the end of
            a stage alone.
        hessian: steps of the power iteration for the largest eigenvalue of the Hessian in the architecture, each of the
            cost of two architecture steps an epoch; 0 leaves it out.
    """

    action: Literal["roll_back", "stop", "continue"] = "roll_back"
    identity: Annotated[Number, Field(gt=0, le=1)] = 0.5
    gap_every: Duration = 0
    hessian: Annotated[Whole, Field(ge=0, le=100)] = 0


class SearchSettings(Section):
    """The search: bilevel, of a supernet, or by training candidates.

    Attributes:
        method: supernet; pool, which trains genotypes of supernets, random ones and neighbours of the best, and keeps
            the better ones; or random, its control, which does the same with random genotypes alone.
        select: choosing by training, for pool and random.
        stages: the stages in their order.
        loss: loss of weights, alphas and betas; a name, or a mapping with the name and its settings.
        gradient: of the architecture: first_order at the weights as they are, or second_order at the weights one step
            ahead (DARTS, arXiv 1806.09055, section 2.3): 2.6 times the time of a step.
        relaxation: how alphas and betas become weights: softmax, sigmoid, gumbel (one operation of an edge at a time)
            or dirichlet; a name, or a mapping with the name and its settings.
        perturbation: e; the weights are trained with uniform noise on those of operations and paths, whose largest
            grows from 0 to e over a stage (SDARTS-RS, arXiv 2002.05283, where it is 0.03). 0 has none.
        regularizers: terms added to the loss, such as {name: entropy, weight: 0.1}. Default: none.
        guard: against collapse. Default: none; a stage that ends unhealthy is reported, and the search goes on.
        train_portion: part of the training patients the weights learn from; the alphas learn from the rest.
        lr: initial learning rate of SGD on the weights, with cosine decay.
        lr_min: final learning rate.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
        arch_lr: learning rate of Adam on alphas and betas.
        arch_steps: steps of the architecture that arch_lr is for. A stage of fewer has a rate larger in proportion, of
            more a smaller one: Adam moves an alpha by at most about the rate in a step, so they can move as far.
            Default: arch_lr as it is, however many the steps.
        arch_betas: decay rates of the two moments of Adam.
        arch_weight_decay: weight decay of Adam.
        arch_after: epochs of each stage for which alphas and betas stay frozen.
        grad_clip: maximum norm of the weights' gradient; 0 switches clipping off.
        mixing: mixing of images.
        supernet: partial channels, edge normalisation, recomputation.
    """

    method: Annotated[Literal["supernet", "random", "pool"], LATER] = "supernet"
    select: Annotated[SelectSettings, LATER] = SelectSettings()
    stages: Annotated[tuple[StageSettings, ...], Field(min_length=1, max_length=20)] = (
        StageSettings(depth=4, epochs=80, batch=24, keep={"down": 4, "normal": 4, "up": 2}),
        StageSettings(depth=5, epochs=80, batch=12),
    )
    loss: AnyLoss = _named("bce_logits")
    gradient: AnyGradient = _named("first_order")
    relaxation: Annotated[AnyRelaxation, LATER] = _named("softmax")
    perturbation: Annotated[Number, Field(ge=0, le=1), LATER] = 0.0
    regularizers: Annotated[tuple[AnyRegularizer, ...], Field(max_length=20)] = ()
    guard: Annotated[GuardSettings | None, LATER] = None
    train_portion: Annotated[Number, Field(gt=0, lt=1)] = 0.5
    lr: Rate = 0.025
    lr_min: Weight = 1e-5
    momentum: Fraction = 0.9
    weight_decay: Weight = 3e-4
    arch_lr: Rate = 2e-4
    arch_steps: Annotated[Annotated[Whole, Field(ge=1, le=10**9)] | None, LATER] = None
    arch_betas: tuple[Fraction, Fraction] = (0.5, 0.999)
    arch_weight_decay: Weight = 1e-3
    arch_after: Duration = 10
    grad_clip: Norm = 5.0
    mixing: MixingSettings = MixingSettings()
    supernet: SupernetSettings = SupernetSettings()

    @model_validator(mode="after")
    def _can_learn(self) -> "SearchSettings":
        if self.lr_min > self.lr:
            raise ValueError(f"lr_min {self.lr_min} is above lr {self.lr}")
        return self


class DeriveSettings(Section):
    """How a genotype is chosen, and what it keeps. Paths are those of a lattice, which networks of darts do not have.

    Attributes:
        select: magnitude takes the largest weights; perturbation, at the end of the last stage, edge by edge what is
            missed most when it is left out; a name, or a mapping with the name and its settings.
        paths: all keeps every path (as published, betas unused); top_k the transitions of each node with the largest
            betas; threshold those whose beta is at least the threshold, and always the largest.
        top_k: transitions kept at each node, for top_k.
        threshold: smallest beta kept, for threshold.
        skips: largest number of skips (identity, skip_connect) in a cell; weaker ones make way for the next strongest
            operation or edge (P-DARTS, arXiv 1904.12760, where it is 2, for normal cells alone; here for every kind of
            cell). Default: any number.
    """

    select: Annotated[AnySelection, LATER] = _named("magnitude")
    paths: Literal["all", "top_k", "threshold"] = "top_k"
    top_k: Annotated[Whole, Field(ge=1, le=3)] = 2
    threshold: Fraction = 0.3
    skips: Annotated[Annotated[Whole, Field(ge=0, le=1000)] | None, LATER] = None


class TrainSettings(BatchSettings):
    """Training of the derived network, or of a baseline, from scratch or from a trained network.

    Attributes:
        model: a baseline, instead of the network that a genotype describes; its name alone takes its defaults.
        epochs: passes over the training images.
        batch: images per step.
        accumulate: parts of a batch that run one after the other; see BatchSettings.
        loss: the loss, as in the search; bce_dice is 0.5 BCE + 1 Dice.
        auxiliary_weight: share of an auxiliary classifier in the loss.
        head_decay: weight of a head in the loss of masks as a share of that of the next one, which is deeper. 1 weighs
            all heads alike, as published; 0.5 gives the last one, which predicts, at least half of the loss.
        norm: kind of all norms. Default: that of the network's paper, which is group for nas-wdan, instance
            for resenc-unet, batch for all others. group normalises every image by itself. batch normalises every
            channel by the batch, and in validation and inference by running statistics, which become part of the
            convolutions: inference is faster. The statistics of small batches are noisy, and of images that do not look
            alike they fit none.
        optimizer: sgd or adamw.
        lr: largest learning rate.
        lr_min: smallest learning rate.
        finetune_lr: factor of lr and lr_min where training begins with a trained network (``--from``).
        momentum: momentum of SGD.
        weight_decay: weight decay.
        schedule: cosine from lr to lr_min, or plateau: lr/2 after ``plateau_epochs`` without a better score.
        warmup_epochs: epochs of a linear rise to lr before the cosine.
        plateau_epochs: patience of the plateau schedule.
        patience: epochs without a better validation score after which training stops; 0 never stops early.
        ema: decay of the exponential moving average of the weights that is evaluated; 0 switches it off.
        grad_clip: maximum norm of the gradient; 0 switches clipping off.
        mixing: mixing of images. Default: off.
    """

    model: Annotated[Settings, Choice(models)] | None = None
    epochs: Epochs = 1600
    batch: Batch = 8
    loss: AnyLoss = _named("bce_dice")
    auxiliary_weight: Weight = 0.4
    head_decay: Annotated[Number, Field(gt=0, le=1), LATER] = 1.0
    norm: NormName | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Rate = 4e-3
    lr_min: Weight = 1e-5
    finetune_lr: Annotated[Number, Field(gt=0, le=1), LATER] = 0.1
    momentum: Fraction = 0.9
    weight_decay: Weight = 3e-4
    schedule: Literal["cosine", "plateau"] = "cosine"
    warmup_epochs: Duration = 0
    plateau_epochs: Epochs = 20
    patience: Duration = 0
    ema: Fraction = 0.0
    grad_clip: Norm = 5.0
    mixing: MixingSettings = MixingSettings(alpha=0.0)

    @model_validator(mode="after")
    def _can_learn(self) -> "TrainSettings":
        if self.lr_min > self.lr:
            raise ValueError(f"lr_min {self.lr_min} is above lr {self.lr}")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} leave nothing of {self.epochs} epochs")
        return self


Kept = Annotated[Number, Field(gt=0, lt=1)]
"""A fraction of what a network had before it was pruned."""


class KeepSettings(Section):
    """How much of a network pruning keeps, as one fraction of what it has.

    Attributes:
        flops: of its floating point operations.
        parameters: of its parameters, without those that only training uses, as an auxiliary head does.
        latency: of its latency, exported, in ONNX Runtime on one thread.
        channels: of the channels of its feature maps that can be removed.
    """

    flops: Kept | None = None
    parameters: Kept | None = None
    latency: Kept | None = None
    channels: Kept | None = None

    @property
    def given(self) -> dict[str, float]:
        """The fraction by its name; empty where none is given."""
        return {name: value for name, value in self if value is not None}

    @property
    def quantity(self) -> str:
        """The name of the fraction that is given.

        Raises:
            RecipeError: none is.
        """
        if not self.given:
            raise RecipeError(
                "How much of the network is kept is not given.",
                fix="Give keep_flops=0.5 (--keep-flops 0.5 on the command line), or keep_parameters, keep_latency or "
                "keep_channels.",
            )
        return next(iter(self.given))

    @property
    def share(self) -> float:
        """The fraction that is given."""
        return self.given[self.quantity]

    @model_validator(mode="after")
    def _is_one(self) -> "KeepSettings":
        if len(self.given) > 1:
            raise ValueError(f"{' and '.join(self.given)} are given; give one of them")
        return self


class PruneSettings(Section):
    """Pruning of a trained network, with the fine-tuning after it.

    Attributes:
        method: by what channels are chosen; its name, or a mapping with the name and its settings.
        keep: how much is kept, one of flops, parameters, latency and channels.
        steps: in how many steps it is pruned, each by the same factor and with its share of the epochs; 1 prunes at
            once.
        epochs: of the fine-tuning, at train.finetune_lr times the learning rate. Default: train.epochs.
        sparse_epochs: of the training before a cut that slim, soft and gradual need; slim at the whole learning rate,
            the others at train.finetune_lr times it. Default: epochs.
    """

    method: AnyCriterion = _named("taylor")
    keep: KeepSettings = KeepSettings()
    steps: Annotated[Whole, Field(ge=1, le=100)] = 1
    epochs: Epochs | None = None
    sparse_epochs: Epochs | None = None


Limit = Annotated[Number, Field(gt=0, le=1e15)]


class BudgetSettings(Section):
    """What a network may cost, as measured; what is not given is not limited.

    Attributes:
        latency_ms: milliseconds of one image, exported, in ONNX Runtime on the CPU of this machine, as if nothing else
            were running: what is measured is divided by how much slower than usual a fixed network is in between.
        latency_of: in place of it a baseline whose latency is the limit, with the norms of its paper, such as
            {name: unet, width: 8}: a budget that means the same on every machine.
        flops: floating point operations of one image, 2 per multiply-add, as ``medarts cost`` counts them.
        parameters: trainable parameters.
        memory_mb: peak memory of that inference, in MB (10^6 bytes).
        size: height and width of the image. Default: data.size.
        threads: threads of the CPU.
    """

    latency_ms: Limit | None = None
    latency_of: Annotated[Annotated[Settings, Choice(models)] | None, LATER] = None
    flops: Limit | None = None
    parameters: Limit | None = None
    memory_mb: Limit | None = None
    size: Annotated[Whole, Field(ge=16, le=LARGEST_SIZE)] | None = None
    threads: Annotated[Whole, Field(ge=1, le=1024)] = 1

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given as numbers, by name, those that are quick to check first."""
        names = ("parameters", "flops", "latency_ms", "memory_mb")
        return {name: limit for name in names if (limit := getattr(self, name)) is not None}

    @property
    def limited(self) -> tuple[str, ...]:
        """The names of the fields that limit something."""
        return (*self.limits, *(("latency_of",) if self.latency_of is not None else ()))

    def at(self, size: int) -> "BudgetSettings":
        """Returns the same budget with its size filled in where none is given."""
        return self if self.size is not None else self.model_copy(update={"size": size})

    @model_validator(mode="after")
    def _limits_something(self) -> "BudgetSettings":
        if not self.limited and (self.size is not None or self.threads != 1):
            raise ValueError(
                "size and threads say how costs are measured, but nothing is limited; give latency_ms, "
                "latency_of, flops, parameters or memory_mb"
            )
        if self.latency_ms is not None and self.latency_of is not None:
            raise ValueError("latency_ms and latency_of exclude each other; keep one of them")
        return self


class EvaluationSettings(Section):
    """How scores are made.

    Attributes:
        batch: images per step; the batch norms of a supernet of darts use the statistics of these.
        threshold: probability from which a pixel is foreground (one class of masks).
        bootstrap: draws of the bootstrap over patients.
        sensitivity: at which a second threshold of each finding is chosen, beside Youden's.
        resolution: where masks are scored: file, at the size of each mask's file, with distances in mm where the
            spacing is known; or network, at data.size, with distances in pixels of that size.
        tolerance_mm: of the normalised surface distance, in mm, where the spacing is known.
        tolerance_px: of the same in pixels, where it is not.
    """

    batch: Batch = 16
    threshold: Annotated[Number, Field(gt=0, lt=1)] = 0.5
    bootstrap: Annotated[Whole, Field(ge=100, le=100_000)] = 2000
    sensitivity: Annotated[Number, Field(gt=0, lt=1)] = 0.9
    resolution: Annotated[Literal["file", "network"], Before("network")] = "file"
    tolerance_mm: Annotated[Tolerance, LATER] = 2.0
    tolerance_px: Annotated[Tolerance, LATER] = 2.0


class ComputeSettings(Section):
    """Where and how the arithmetic runs.

    Attributes:
        device: auto uses a GPU if there is one.
        precision: fp32, bf16 or fp16 (mixed precision: weights stay fp32).
        threads: CPU threads; 0 leaves the choice to torch.
        tensorboard: write TensorBoard events into the run directory (needs the tensorboard extra).
        timeout: seconds that the processes of a job wait for each other, where it has several.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    threads: Annotated[Whole, Field(ge=0, le=1024)] = 0
    tensorboard: Flag = False
    timeout: Annotated[Whole, Field(ge=5, le=86_400), LATER] = 300


class Recipe(Section):
    """Everything that determines a run.

    Attributes:
        note: a remark for people, shown on the report.
        seed: seed of everything random.
        data: what the networks see.
        space: the search space. Default: nas-wdan for images with masks, darts for images with findings.
        search: the bilevel search.
        derive: how a genotype is derived.
        train: training from scratch.
        prune: pruning of a trained network.
        budget: what a searched network may cost. Default: anything.
        evaluation: scoring.
        compute: device and precision.
    """

    note: Text = ""
    seed: Seed = 0
    data: DataSettings
    space: Annotated[Settings, Choice(spaces)] = Field(
        default_factory=lambda: spaces.choose(usual_space("segmentation"))
    )
    search: SearchSettings = Field(default_factory=SearchSettings)
    derive: DeriveSettings = Field(default_factory=DeriveSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    prune: Annotated[PruneSettings, LATER] = Field(default_factory=PruneSettings)
    budget: Annotated[BudgetSettings, LATER] = BudgetSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    compute: ComputeSettings = ComputeSettings()

    @model_validator(mode="before")
    @classmethod
    def _published(cls, content: Any) -> Any:
        return with_published_defaults(content) if isinstance(content, dict) else content

    @model_validator(mode="after")
    def _candidates_can_be_trained(self) -> "Recipe":
        last = self.search.select.rungs[-1]
        if self.search.method != "supernet" and self.train.warmup_epochs >= last:
            raise ValueError(
                f"train.warmup_epochs {self.train.warmup_epochs} leave nothing of the {last} epochs of the last rung, "
                "search.select.rungs"
            )
        return self

    @model_validator(mode="after")
    def _space_fits_the_task(self) -> "Recipe":
        wanted = self.data.task
        if spaces.entry(self.space.name).about["task"] != wanted:
            raise ValueError(
                f"space {self.space.name} does not fit the data: images with "
                f"{'masks' if wanted == 'segmentation' else 'findings'} need space.name "
                f"{' or '.join(spaces.names(task=wanted))}"
            )
        return self


def usual_space(task: Task) -> str:
    """Returns the search space of recipes for a task that name none."""
    return spaces.names(task=task, default=True)[0]


def space_of(content: Mapping[str, Any]) -> str:
    """Returns the search space of a recipe: the one it names, else the usual one for its sources."""
    space = content.get("space")
    named = space if isinstance(space, str) else _of(space, "name")
    if named is not None:
        return str(named)
    sources = _of(content.get("data"), "sources")
    kinds = [_of(source, "kind") for source in sources] if _is_list(sources) else []
    tasks = {_task_of(kind) for kind in kinds if isinstance(kind, str) and kind in registered}
    return usual_space("classification" if "classification" in tasks else "segmentation")


def _task_of(kind: str) -> Task:
    settings: Any = registered.entry(kind).settings
    task: Task = settings.task
    return task


def with_published_defaults(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a recipe with its space named, and with the published values that it does not give."""
    content, name = dict(content), space_of(content)
    if not isinstance(content.get("space"), BaseModel | str):
        content["space"] = _merged({"name": name}, content.get("space", {}))
    if name not in spaces:
        return content  # refused later
    space = spaces.get(name)
    merged: dict[str, Any] = _merged(space.defaults, content)
    for key, default in space.item_defaults.items():
        section, _, field = key.partition(".")
        items = _of(merged.get(section), field)
        if _is_list(items) and isinstance(merged[section], dict):
            merged[section][field] = [_merged(default, item) for item in items]
    return merged


def _merged(defaults: Mapping[str, Any], given: Any) -> Any:
    """Returns ``given`` with what ``defaults`` has beyond it; what is no mapping stays, to be refused later."""
    if not isinstance(given, Mapping):
        return given
    merged = dict(given)
    for key, default in defaults.items():
        if key not in merged:
            merged[key] = deepcopy(default)
        elif isinstance(default, Mapping):
            merged[key] = _merged(default, merged[key])
    return merged


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _of(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, Mapping) else getattr(section, key, None)
