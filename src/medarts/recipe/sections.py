"""The sections of a recipe.

Defaults of search and training are the published values (MixSearch, arXiv 2102.13280, experiments) where there is one.
Not published are: derive (published is moves: all), the augmentation, gradient clipping, and all of evaluation and
compute.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

LossName = Literal["bce", "bce_logits", "dice", "soft_dice", "bce_dice", "ce", "ce_dice"]
NAME = r"^\w[\w .-]*$"
"""Names become folders."""

RESERVED = ("all", "mean of domains")
"""Rows of tables beside those of the domains."""

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, coerce_numbers_to_str=True)


class SourceSettings(Section):
    """One data set on disk.

    Attributes:
        kind: layout of the folder: isic (2016 to 2018), cvc (CVC-ClinicDB), chaos (CT and MR), or folder
            (``images/`` and ``masks/`` with an optional ``splits.csv``).
        path: the folder; ``$NAME`` and ``~`` are expanded.
        name: name of the domain in tables; the kind where not given.
        modality: chaos only: ct, mr (both MR sequences), mr_t1 or mr_t2.
        organ: chaos only: liver, right_kidney, left_kidney or spleen as foreground, or all as classes 1 to 4.
        window: (low, high) in stored units (Hounsfield for CT) mapped to 0..1.
        percentiles: (low, high) percentiles of an image mapped to 0..1, instead of a window.
        labels: value in the mask file: class index, 0 being background; without it a mask is foreground above
            half its range.
        fractions: (validation, test) fractions of the patients where the source brings no splits.csv.
    """

    kind: Literal["isic", "cvc", "chaos", "folder"]
    path: Path
    name: Annotated[str, Field(pattern=NAME)] | None = None
    modality: Literal["ct", "mr", "mr_t1", "mr_t2"] = "ct"
    organ: Literal["liver", "right_kidney", "left_kidney", "spleen", "all"] = "liver"
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    labels: dict[int, int] | None = None
    fractions: tuple[Fraction, Fraction] = (0.1, 0.2)

    @property
    def domain(self) -> str:
        """The name of the domain."""
        return self.name or self.kind

    @model_validator(mode="after")
    def _one_scaling(self) -> "SourceSettings":
        if self.window and self.percentiles:
            raise ValueError("window and percentiles exclude each other; keep one of them")
        if sum(self.fractions) >= 1:
            raise ValueError(f"fractions {self.fractions} leave no training images; their sum must be below 1")
        for low_high in (self.window, self.percentiles):
            if low_high and low_high[0] >= low_high[1]:
                raise ValueError(f"{low_high} is empty; the first value must be below the second")
        if self.percentiles and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"percentiles {self.percentiles} must lie in 0 to 100")
        return self


class AugmentationSettings(Section):
    """Random changes of a training batch, drawn an image at a time (each with probability one half).

    Attributes:
        flip: mirror left-right and top-bottom.
        transpose: exchange rows and columns.
        rotate: rotate by up to so many degrees.
        scale: zoom by a factor up to 1 +- this.
        brightness: add up to +- this to intensities in 0..1.
        contrast: multiply the distance to mid-grey by up to 1 +- this.
        gamma: raise intensities to a power of up to 1 +- this.
    """

    flip: bool = True
    transpose: bool = True
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Fraction = 0.0
    brightness: Fraction = 0.2
    contrast: Fraction = 0.0
    gamma: Fraction = 0.0


class DataSettings(Section):
    """What the networks see.

    Attributes:
        sources: the data sets; several are joined to one.
        size: height and width of the images, in pixels.
        in_channels: channels of the images; grey images are repeated, colour images become luma where 1.
        classes: outputs of the networks. 1: foreground or not (sigmoid). K >= 2: K exclusive classes of which
            0 is background (softmax).
        sampling: by_size draws every image once an epoch; equal draws equally many of every domain.
        augmentation: random changes of training batches.
        cache: folder of the resized images; the user's cache folder where not given.
    """

    sources: Annotated[tuple[SourceSettings, ...], Field(min_length=1)]
    size: Annotated[int, Field(ge=16)] = 256
    in_channels: Count = 3
    classes: Annotated[int, Field(ge=1, le=200)] = 1
    sampling: Literal["by_size", "equal"] = "by_size"
    augmentation: AugmentationSettings = AugmentationSettings()
    cache: Path | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> "DataSettings":
        names = [source.domain for source in self.sources]
        for name in names:
            if name in RESERVED:
                raise ValueError(f"no source can be called '{name}', which is a row of the score tables")
        if len(set(names)) < len(names):
            raise ValueError(f"two sources have the same name in {names}; give each its own 'name'")
        return self


class WeaveSettings(Section):
    """The weaved lattice of NAS-WDAN.

    Attributes:
        name: the search space.
        init_channel: C, channels of a cell's nodes at level 0.
        double_down_channel: C doubles at every level below; otherwise it is C everywhere.
        intermediate_nodes: nodes of a cell between its inputs and its output.
        deep_supervision: the loss is the mean over all heads of the top row; otherwise the last head alone.
        shuffle_groups: groups of the grouped convolution in shuffle_conv; must divide every width used.
        dropout_prob: dropout inside the operations.
    """

    name: Literal["weave"] = "weave"
    init_channel: Annotated[int, Field(ge=2)] = 16
    double_down_channel: bool = True
    intermediate_nodes: Count = 4
    deep_supervision: bool = True
    shuffle_groups: Count = 1
    dropout_prob: Fraction = 0.0

    @model_validator(mode="after")
    def _groups_divide(self) -> "WeaveSettings":
        if self.init_channel % self.shuffle_groups:
            raise ValueError(f"shuffle_groups {self.shuffle_groups} does not divide init_channel {self.init_channel}")
        return self


class BatchSettings(Section):
    """The images of a step, and how many of them are in memory at once.

    Attributes:
        batch: images a step.
        accumulate: parts into which a batch is split; they run one after the other and their gradients are summed.
            In memory are the activations of one part. A network that normalises each image by itself, as with group
            normalisation, makes the same step as without, up to rounding and to what dropout draws. Batch
            normalisation sees the statistics of a part instead of those of the batch, so there the step is another.
    """

    batch: Count
    accumulate: Count = 1

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
        depth: depth D of the lattice, which has 2D-1 layers.
        epochs: passes over the weight half of the training images.
        batch: images a step.
        accumulate: parts of a batch that run one after the other; see BatchSettings.
        keep: operations kept on every edge at the end of the stage, for the next stage: set -> number.
    """

    depth: Annotated[int, Field(ge=3)] = 4
    epochs: Count = 80
    batch: Count = 12
    keep: dict[str, Count] = {}

    @model_validator(mode="after")
    def _sets_exist(self) -> "StageSettings":
        for name in self.keep:
            if name not in ("down", "normal", "up"):
                raise ValueError(f"keep names the unknown set '{name}'; use down, normal or up")
        return self


class MixingSettings(Section):
    """MixSearch: every batch is a mix of images, with the loss mixed alike.

    Attributes:
        alpha: parameter a of Beta(a, a); 0 switches mixing off.
        images: number k of images mixed, 2 to 4.
    """

    alpha: Annotated[float, Field(ge=0)] = 0.5
    images: Annotated[int, Field(ge=2, le=4)] = 2


class SupernetSettings(Section):
    """What a supernet does and the network derived from it does not.

    Attributes:
        partial_channels: K; operations see the first 1/K of a state's channels, the others pass them by and are
            shuffled in (PC-DARTS, arXiv 1907.05737): a step takes less time and memory.
        edge_normalisation: a learned softmax over the edges into a node, which steadies a search by partial channels.
        recompute: cells keep only their inputs for the backward pass and are run again there: less memory, more time.
    """

    partial_channels: Literal[1, 2, 4] = 1
    edge_normalisation: bool = False
    recompute: bool = False


class SearchSettings(Section):
    """The bilevel search.

    Attributes:
        stages: the stages in their order.
        loss: loss of weights, alphas and betas.
        train_portion: part of the training patients the weights learn from; the alphas learn from the rest.
        lr: start of the cosine learning rate of SGD on the weights.
        lr_min: its end.
        momentum: momentum of SGD.
        weight_decay: weight decay of SGD.
        arch_lr: learning rate of Adam on alphas and betas.
        arch_betas: its two moments' decay rates.
        arch_weight_decay: its weight decay.
        arch_after: epochs of each stage for which alphas and betas stay frozen.
        grad_clip: largest norm of the weights' gradient; 0 switches clipping off.
        mixing: mixing of images.
        supernet: partial channels, edge normalisation, recomputation.
    """

    stages: Annotated[tuple[StageSettings, ...], Field(min_length=1)] = (
        StageSettings(depth=4, epochs=80, batch=24, keep={"down": 4, "normal": 4, "up": 2}),
        StageSettings(depth=5, epochs=80, batch=12),
    )
    loss: LossName = "bce_logits"
    train_portion: Annotated[float, Field(gt=0, lt=1)] = 0.5
    lr: Positive = 0.025
    lr_min: Annotated[float, Field(ge=0)] = 1e-5
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 3e-4
    arch_lr: Positive = 2e-4
    arch_betas: tuple[Fraction, Fraction] = (0.5, 0.999)
    arch_weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    arch_after: Annotated[int, Field(ge=0)] = 10
    grad_clip: Annotated[float, Field(ge=0)] = 5.0
    mixing: MixingSettings = MixingSettings()
    supernet: SupernetSettings = SupernetSettings()

    @model_validator(mode="after")
    def _can_learn(self) -> "SearchSettings":
        if self.lr_min > self.lr:
            raise ValueError(f"lr_min {self.lr_min} is above lr {self.lr}")
        return self


class DeriveSettings(Section):
    """How paths are kept when a genotype is derived.

    Attributes:
        moves: all keeps every path of the lattice (as published, betas unused), top_k the strongest moves of
            every node, threshold those of at least a given beta (the strongest always stays).
        top_k: moves kept a node, for top_k.
        threshold: smallest beta kept, for threshold.
    """

    moves: Literal["all", "top_k", "threshold"] = "top_k"
    top_k: Annotated[int, Field(ge=1, le=3)] = 2
    threshold: Fraction = 0.3


class TrainSettings(BatchSettings):
    """Retraining of the derived network from scratch.

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        accumulate: parts of a batch that run one after the other; see BatchSettings.
        loss: the loss; bce_dice is 0.5 BCE + 1 Dice.
        norm: group normalises every image by itself. batch normalises every channel by the batch, and in validation
            and inference by running statistics, which become part of the convolutions: inference is faster. The
            statistics of small batches are noisy, and of images that do not look alike they fit none.
        optimizer: sgd or adamw.
        lr: largest learning rate.
        lr_min: smallest learning rate.
        momentum: momentum of SGD.
        weight_decay: weight decay.
        schedule: cosine from lr to lr_min, or plateau: lr/2 after ``plateau_epochs`` without a better score.
        warmup_epochs: epochs of a linear rise to lr before the cosine.
        plateau_epochs: patience of the plateau schedule.
        patience: epochs without a better validation score after which training stops; 0 never stops early.
        ema: decay of the exponential moving average of the weights that is evaluated; 0 switches it off.
        grad_clip: largest norm of the gradient; 0 switches clipping off.
        mixing: mixing of images, off by default.
    """

    epochs: Count = 1600
    batch: Count = 8
    loss: LossName = "bce_dice"
    norm: Literal["group", "batch"] = "group"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 4e-3
    lr_min: Annotated[float, Field(ge=0)] = 1e-5
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 3e-4
    schedule: Literal["cosine", "plateau"] = "cosine"
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    plateau_epochs: Count = 20
    patience: Annotated[int, Field(ge=0)] = 0
    ema: Fraction = 0.0
    grad_clip: Annotated[float, Field(ge=0)] = 5.0
    mixing: MixingSettings = MixingSettings(alpha=0.0)

    @model_validator(mode="after")
    def _can_learn(self) -> "TrainSettings":
        if self.lr_min > self.lr:
            raise ValueError(f"lr_min {self.lr_min} is above lr {self.lr}")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} leave nothing of {self.epochs} epochs")
        return self


class EvaluationSettings(Section):
    """How scores are made.

    Attributes:
        batch: images a step.
        threshold: probability from which a pixel is foreground (one class).
        bootstrap: draws of the bootstrap over patients.
    """

    batch: Count = 16
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    bootstrap: Annotated[int, Field(ge=100)] = 2000


class ComputeSettings(Section):
    """Where and how the arithmetic runs.

    Attributes:
        device: auto takes a GPU where one is found.
        precision: fp32, bf16 or fp16 (mixed precision: weights stay fp32).
        threads: threads of the CPU; 0 leaves the choice to torch.
        tensorboard: write TensorBoard events into the run directory (needs the tensorboard extra).
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    threads: Annotated[int, Field(ge=0)] = 0
    tensorboard: bool = False


class Recipe(Section):
    """All that decides a run.

    Attributes:
        note: a remark for people, shown on the report.
        seed: seed of everything random.
        data: what the networks see.
        space: the search space.
        search: the bilevel search.
        derive: how a genotype is derived.
        train: retraining.
        evaluation: scoring.
        compute: device and precision.
    """

    note: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataSettings
    space: WeaveSettings = WeaveSettings()
    search: SearchSettings = SearchSettings()
    derive: DeriveSettings = DeriveSettings()
    train: TrainSettings = TrainSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    compute: ComputeSettings = ComputeSettings()
