"""The data section of a recipe: sources, augmentation, size."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from medarts.config.patterns import PatientPattern
from medarts.config.section import (
    LARGEST_SIZE,
    LATER,
    MOST_OUTPUTS,
    Before,
    Flag,
    Fraction,
    Name,
    Number,
    Section,
    Text,
    Whole,
)
from medarts.errors import did_you_mean, quoted
from medarts.registry import Choice, sources

RESERVED = ("all", "mean of data sets")
"""Rows of tables beside those of the domains."""

BACKGROUND, IGNORED = "background", "ignore"
"""Words for what is no class of its own: pixels of none, and pixels that count for nothing."""

IGNORE = 255
"""Class index of pixels, and label of findings, that neither losses nor scores count."""

_NO_CLASSES = (BACKGROUND, IGNORED, "foreground", "mean of classes")
"""Names that tables and labels use for something else."""

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Task = Literal["segmentation", "classification"]

Resize = Literal["fit", "squash", "patches"]

Intensity = Annotated[Number, Field(ge=-1e9, le=1e9)]
Percentile = Annotated[Number, Field(ge=0, le=100)]
Label = Annotated[int, Field(ge=-(2**31), lt=2**31)]
"""A value of a mask file. In JSON, and so in the recipe of a run, keys are texts of digits."""
Colour = Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]
"""A colour of a mask file."""
LabelOf = Annotated[
    Annotated[Whole, Field(ge=0, lt=MOST_OUTPUTS), Tag("index")] | Annotated[str, Field(max_length=80), Tag("name")],
    Discriminator(lambda given: "name" if isinstance(given, str) else "index"),
]
"""What a value of a mask means: the index or name of a class, `BACKGROUND` or `IGNORED`."""


def _checked_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuses names of classes that are empty, mean something else, or cannot be told apart."""
    names = tuple(name.strip() for name in names)
    for name in names:
        if not name.isprintable() or not name:
            raise ValueError(f"{quoted(name)} is no name of a class; use printable characters")
        if name.casefold() in _NO_CLASSES:
            raise ValueError(f"no class can be called '{name}', which means something else; name the foreground alone")
    if len({name.casefold() for name in names}) < len(names):
        raise ValueError(f"{', '.join(names)} name a class twice")
    return names


ClassNames = Annotated[
    tuple[Annotated[Text, Field(max_length=80)], ...],
    Field(min_length=1, max_length=MOST_OUTPUTS - 1),
    AfterValidator(_checked_names),
]

Classes = Annotated[
    Annotated[Whole, Field(ge=1, le=MOST_OUTPUTS), Tag("number")] | Annotated[ClassNames, Tag("names")],
    Discriminator(lambda given: "names" if isinstance(given, list | tuple) else "number"),
]
"""The number of outputs of a segmentation, or the names of its foreground classes."""


def _read_labels(given: Any) -> Any:
    """Refuses keys that are neither whole numbers nor colours, and those that are the same."""
    if not isinstance(given, dict):
        return given
    read: dict[int | str, Any] = {}
    for key, value in given.items():
        known = _label(key)
        if known is None:
            raise ValueError(
                f"{quoted(key)} is not a value of a mask; write whole numbers, as in {{255: 1}}, or colours in quotes, "
                'as in {"#ff0000": 1}'
            )
        if known in read:
            raise ValueError(f"{known} appears twice")
        read[known] = value
    return read


def _label(key: Any) -> int | str | None:
    """Returns a key of labels as a number, or as a colour of six digits; None where it is neither."""
    if type(key) is int:
        return key
    if not isinstance(key, str):
        return None
    if re.fullmatch(r"0|-?[1-9][0-9]{0,9}", key):
        return int(key)
    if re.fullmatch(r"#[0-9a-fA-F]{3}", key):
        key = "#" + "".join(2 * digit for digit in key[1:])
    return key.lower() if re.fullmatch(r"#[0-9a-fA-F]{6}", key) else None


Labels = Annotated[
    Annotated[dict[Label | Colour, LabelOf], BeforeValidator(_read_labels), Field(max_length=65_536), Tag("mapping")]
    | Annotated[Literal["auto"], Tag("word")],
    Discriminator(lambda given: "word" if isinstance(given, str) else "mapping"),
]
"""What the values of masks mean. The word is refused where masks are read: only a person knows."""


class SourceSettings(Section):
    """One data set on disk. Each kind of source has further settings of its own.

    Attributes:
        kind: layout of the folder; sources register themselves under it, see ``medarts.data.sources``.
        path: the folder; ``$NAME`` and ``~`` are expanded.
        name: name of the domain in tables. Default: the kind.
        window: (low, high) in stored units (Hounsfield for CT) mapped to 0..1.
        percentiles: (low, high) percentiles of an image mapped to 0..1, instead of a window.
        fractions: (validation, test) fractions of the patients where the source brings no splits.csv.
        patients: which part of the names of images is the patient, such as "{patient}_{n}", {n} being digits, {side} a
            side such as L, R or nothing, and * any text; with a slash, of their paths from the folder, such as
            "**/{patient}/*". Default: as the layout says it, else every image is its own patient. A column of
            splits.csv decides over it.
    """

    task: ClassVar[Task] = "segmentation"
    """What its images are for."""

    is_in_memory: ClassVar[bool] = False
    """Whether the images were given by a program, and are on no disk."""

    kind: str
    path: Path
    name: Name | None = None
    window: tuple[Intensity, Intensity] | None = None
    percentiles: tuple[Percentile, Percentile] | None = None
    fractions: tuple[Fraction, Fraction] = (0.1, 0.2)
    patients: Annotated[PatientPattern | None, LATER] = None

    @property
    def domain(self) -> str:
        """The name of the domain."""
        return self.name or self.kind

    @property
    def own_tables(self) -> tuple[str, ...]:
        """Names of tables that it reads beside those of its kind."""
        return ()

    @property
    def reads_splits_csv(self) -> bool:
        """Whether a ``splits.csv`` in the folder decides the splits."""
        return not self.is_in_memory

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells its images from those of other sources, whatever they are called."""
        return (self.kind, str(self.path.resolve()))

    @model_validator(mode="after")
    def _one_scaling(self) -> Self:
        if self.window and self.percentiles:
            raise ValueError("window and percentiles exclude each other; keep one of them")
        if sum(self.fractions) >= 1:
            raise ValueError(f"fractions {self.fractions} leave no training images; their sum must be below 1")
        for low_high in (self.window, self.percentiles):
            if low_high and low_high[0] >= low_high[1]:
                raise ValueError(f"{low_high} is empty; the first value must be below the second")
        return self


class MaskSourceSettings(SourceSettings):
    """A data set of images with masks.

    Attributes:
        labels: value or colour ("#ff0000") in the mask file: name or index of its class, background (or 0), or ignore
            for pixels that neither loss nor scores count; without it a mask is foreground above half its range.
            medarts doctor prints the block for the values that it finds.
    """

    labels: Labels | None = None


class FindingSourceSettings(SourceSettings):
    """A data set of images with findings.

    Attributes:
        images: number of images, sampled by patient with the findings as frequent as in all. Default: all.
        partial: leave out rows of the table whose image is not there, instead of refusing them.
    """

    task = "classification"

    images: Annotated[Whole, Field(ge=10, le=100_000_000)] | None = None
    partial: Flag = False


def make_source(kind: str, path: Path | str, **settings: Any) -> SourceSettings:
    """Returns the settings of a data set as a recipe would give them."""
    chosen: Any = sources.entry(kind).settings
    made: SourceSettings = chosen(path=Path(path), **settings)
    return made


AnySource = Annotated[SourceSettings, Choice(sources)]
"""A source of any kind that is registered."""


class AugmentationSettings(Section):
    """Random changes of a training batch, drawn an image at a time (each with probability one half).

    Attributes:
        flip: mirror left-right and top-bottom; horizontal mirrors left-right alone.
        transpose: exchange rows and columns.
        rotate: rotate by up to this many degrees.
        scale: zoom by a factor up to 1 +- this.
        shift: move by up to this part of the size, along both axes, as random crops do.
        brightness: add up to +- this to intensities in 0..1.
        contrast: multiply the distance to mid-grey by up to 1 +- this.
        gamma: raise intensities to a power of up to 1 +- this.
    """

    flip: Flag | Literal["horizontal"] = True
    transpose: Flag = True
    rotate: Annotated[Number, Field(ge=0, le=180)] = 0.0
    scale: Fraction = 0.0
    shift: Fraction = 0.0
    brightness: Fraction = 0.2
    contrast: Fraction = 0.0
    gamma: Fraction = 0.0


_MOST_FOLDS = 100


class CropSampling(Section):
    """How crops are drawn from the images of an epoch.

    Attributes:
        foreground: share of the crops that contain a random foreground pixel, of a random class that the image shows.
    """

    foreground: Annotated[Number, Field(ge=0, le=1)] = 0.33


Sampling = Annotated[
    Annotated[Literal["by_size", "equal", "foreground"], Tag("images")] | Annotated[CropSampling, Tag("crops")],
    Discriminator(lambda given: "crops" if isinstance(given, dict | CropSampling) else "images"),
]
"""Which images an epoch shows, or how its crops are drawn."""


def are_unnamed(classes: Sequence[str]) -> bool:
    """Tells whether the names of foreground classes are those that a recipe without names gives them.

    >>> are_unnamed(["class 1", "class 2"]), are_unnamed(["liver"])
    (True, False)
    """
    return tuple(classes) in ((), ("foreground",), _numbered(len(classes)))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(1, count + 1))


class DataSettings(Section):
    """What the networks see.

    Attributes:
        sources: the data sets; several are joined to one.
        size: height and width of what networks see, in pixels.
        resize: how images get this size: fit keeps their aspect ratio and pads what is left, squash stretches them to a
            square, patches crops it from images of any size at their own resolution (for masks); an epoch has as many
            crops as tiles of that size cover the images, and predictions slide over an image.
        scale: factor by which images are shrunk before patches are cropped.
        spacing_mm: height and width of a pixel, in mm, to which images are resized before patches are cropped, so that
            those of all scanners have one; the files have to say theirs.
        context: neighbouring slices on either side of a slice that become further channels: of grey volumes 2 x context
            + 1 in all. At the ends of a volume the last slice is repeated.
        in_channels: channels of the images; grey images are repeated, colour images become luma where 1.
        classes: what is segmented: the names of the foreground classes, such as [liver, tumour], which tables, pages
            and predictions show; or the number of outputs, with classes called by number. One name, or 1: foreground or
            not (sigmoid). Several names, or K >= 2: exclusive classes of which 0 is background (softmax).
        overlap: a pixel may be of several classes, each of which has an output of its own (sigmoid). The classes are
            named.
        findings: outputs of a classification (sigmoid, several at once), by name and in order. Default: those of
            the sources.
        sampling: by_size draws every image once an epoch; equal draws equally many of every domain; foreground equally
            many of every class (or finding) and of images without any, an image counting for the rarest that it shows.
            It holds for training and for both halves of a search. For patches also {foreground: 0.33}, the share of
            crops that contain a random foreground pixel, of a random class that the image shows.
        folds: number of folds, for small data (cross-validation): the patients are divided into as many parts, which
            replace the splits of the data. Training makes a network for each fold, and all are used as one, by the mean
            of their probabilities.
        fold: the fold, from 1 on, whose images are the test set: one network is trained, on the rest. Default: all.
        augmentation: random changes of training batches.
        cache: folder of the resized images. Default: the user's cache folder.
        cache_gb: gigabytes that the folder may take; the images longest unused are removed first, those in use never.
    """

    sources: Annotated[tuple[AnySource, ...], Field(min_length=1, max_length=100)]
    size: Annotated[Whole, Field(ge=16, le=LARGEST_SIZE)] = 256
    resize: Annotated[Resize, Before("squash")] = "fit"
    scale: Annotated[Number, Field(gt=0, le=1), LATER] = 1.0
    spacing_mm: Annotated[Annotated[Number, Field(gt=0, le=100)] | None, LATER] = None
    context: Annotated[Annotated[Whole, Field(ge=0, le=10)], LATER] = 0
    in_channels: Annotated[Whole, Field(ge=1, le=64)] = 3
    classes: Classes = 1
    overlap: Annotated[Flag, LATER] = False
    findings: Annotated[tuple[Text, ...], Field(min_length=1, max_length=MOST_OUTPUTS)] | None = None
    sampling: Sampling = "by_size"
    folds: Annotated[Annotated[Whole, Field(ge=2, le=_MOST_FOLDS)] | None, LATER] = None
    fold: Annotated[Annotated[Whole, Field(ge=1, le=_MOST_FOLDS)] | None, LATER] = None
    augmentation: AugmentationSettings = AugmentationSettings()
    cache: Path | None = None
    cache_gb: Annotated[Number, Field(gt=0, le=1_000_000)] = 50.0

    @property
    def task(self) -> Task:
        """What the networks are to do."""
        return self.sources[0].task

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the foreground classes of a segmentation, in the order of their indices, from 1 on."""
        if isinstance(self.classes, tuple):
            return self.classes
        return ("foreground",) if self.classes == 1 else _numbered(self.classes - 1)

    @property
    def names_classes(self) -> bool:
        """Whether the foreground classes are named, and not given by number."""
        return isinstance(self.classes, tuple)

    @property
    def outputs(self) -> int:
        """The number of outputs of the networks."""
        if self.task == "segmentation":
            if isinstance(self.classes, int):
                return self.classes
            return len(self.classes) if self.overlap or len(self.classes) == 1 else len(self.classes) + 1
        if self.findings is None:
            raise ValueError("the findings of the sources have not been read; see medarts.data.opening.with_findings")
        return len(self.findings)

    @property
    def is_divided(self) -> bool:
        """Whether the images belong to several trainings, one a fold."""
        return self.folds is not None and self.fold is None

    def of_fold(self, fold: int) -> "DataSettings":
        """Returns the data of the training that holds out a fold, from 1 on."""
        return self.model_copy(update={"fold": fold})

    def elsewhere(self, sources: tuple[SourceSettings, ...]) -> "DataSettings":
        """Returns the same reading of other data sets, with their own splits."""
        return self.model_copy(update={"sources": sources, "folds": None, "fold": None})

    def has_outputs_of(self, other: "DataSettings") -> bool:
        """Whether the outputs of a network mean the same for these data as for others.

        Classes that are given by number may be any.
        """
        named = isinstance(self.classes, tuple) and isinstance(other.classes, tuple)
        alike = self.classes == other.classes if named else True
        mine, others = ((data.outputs, data.findings, data.overlap) for data in (self, other))
        return alike and mine == others

    @model_validator(mode="after")
    def _one_task(self) -> "DataSettings":
        tasks = {source.task for source in self.sources}
        if len(tasks) > 1:
            raise ValueError("sources with masks and sources with findings cannot be joined; use one recipe for each")
        if tasks == {"segmentation"} and self.findings is not None:
            raise ValueError("findings are for sources with findings; the outputs of a segmentation are its classes")
        if tasks == {"classification"} and self.classes != 1:
            raise ValueError("classes are for masks; name the outputs of a classification in findings")
        if self.overlap and not (isinstance(self.classes, tuple) and len(self.classes) > 1):
            raise ValueError("overlap is for several classes; name them, as in classes: [liver, tumour]")
        if self.findings is not None and len(set(self.findings)) < len(self.findings):
            raise ValueError(f"findings {self.findings} name one twice")
        return self

    @model_validator(mode="after")
    def _labels_name_classes(self) -> "DataSettings":
        known = (*self.class_names, BACKGROUND, IGNORED)
        for source in self.sources:
            labels = source.labels if isinstance(source, MaskSourceSettings) else None
            given = labels.values() if isinstance(labels, dict) else ()
            named = [name for name in given if isinstance(name, str)]
            for name in named:
                if name in known:
                    continue
                if isinstance(self.classes, tuple):
                    fix = did_you_mean(name, known)
                else:
                    classes = dict.fromkeys(name for name in named if name not in known)
                    fix = f"Set classes: [{', '.join(classes)}]."
                raise ValueError(f"the labels of source '{source.domain}' name the class {quoted(name)}. {fix}")
        return self

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> "DataSettings":
        if self.fold is not None and self.folds is None:
            raise ValueError(f"fold is {self.fold}, but there are no folds; give their number in folds")
        if self.fold is not None and self.folds is not None and self.fold > self.folds:
            raise ValueError(f"fold is {self.fold}, but there are {self.folds} folds; use 1 to {self.folds}")
        return self

    @model_validator(mode="after")
    def _patches_alone(self) -> "DataSettings":
        if self.resize == "patches":
            if self.task != "segmentation":
                raise ValueError("resize: patches is for masks; findings are those of whole images, use fit")
            if self.spacing_mm is not None and self.scale != 1:
                raise ValueError("scale and spacing_mm exclude each other; keep one of them")
            return self
        given = {"scale": self.scale != 1, "spacing_mm": self.spacing_mm is not None}
        given["sampling.foreground"] = isinstance(self.sampling, CropSampling)
        for name in (name for name, is_given in given.items() if is_given):
            raise ValueError(f"{name} is for resize: patches; leave it out, or set resize: patches")
        return self

    @model_validator(mode="after")
    def _context_fits(self) -> "DataSettings":
        slices = 2 * self.context + 1
        if self.in_channels % slices:
            raise ValueError(
                f"context {self.context} takes {slices} slices, which give {slices} channels (of grey volumes) or a "
                f"multiple, not in_channels {self.in_channels}; set in_channels to {slices}"
            )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> "DataSettings":
        paths: dict[str, Path] = {}
        for source in self.sources:
            name = source.domain
            if name in RESERVED:
                raise ValueError(f"no source can be called '{name}', which is a row of the score tables")
            if name in paths:
                raise ValueError(
                    f"two sources have the name '{name}', {paths[name]} and {source.path}; give each its own 'name'"
                )
            paths[name] = source.path
        return self
