"""What a trained network expects and gives, in numbers: all that its user has to know beside the weights.

It travels with the network, in the metadata of an exported file or in a packed one, and is JSON. Nothing of it names a
person, a file or a folder.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from medarts.config import Task
from medarts.config.data import Resize
from medarts.config.section import LATER, Section

METADATA = "medarts"
"""The key of a description in the metadata of an ONNX file."""

PACKAGE = ".medarts"
"""Suffix of packages, see ``medarts.deploy.package``."""


def is_package(model: Any) -> bool:
    """Returns whether a model is given as the path of a package; its content is checked when it is opened."""
    return isinstance(model, str | Path) and Path(model).suffix.lower() == PACKAGE and not Path(model).is_dir()


MASK_THRESHOLD = "validation"
"""The rule of `Calibration.thresholds` for masks: the threshold of the largest mean Dice on validation images."""


class ImageKind(Section):
    """A kind of image that the network was trained on.

    Attributes:
        channels: as stored in its files, 1 for grey.
        dtype: of the stored values, such as "uint8".
        range: (low, high) that its type can hold; None where that says nothing.
    """

    channels: int
    dtype: str
    range: tuple[float, float] | None = None


class Calibration(Section):
    """What was fitted to the validation images.

    Attributes:
        temperature: divides the logits before the sigmoid or softmax; 1 where nothing was fitted.
        thresholds: by rule and output the probability from which it is called; None where validation images cannot
            tell. Rules of masks: "validation", of the probability. Rules of findings: "youden" and "sensitive", of the
            calibrated probability.
    """

    temperature: float = 1.0
    thresholds: dict[str, dict[str, float | None]] = Field(default_factory=dict)


class Provenance(Section):
    """Where a network comes from.

    Attributes:
        medarts: version that exported it.
        torch: version of PyTorch.
        created: day of the export, ISO 8601.
        recipe: SHA-256 of the recipe, hexadecimal.
        weights: fingerprint of the weights.
        architecture: name of the genotype or baseline.
        seed: of the training.
        images: number of images by data set and split.
    """

    medarts: str
    torch: str
    created: str
    recipe: str
    weights: str
    architecture: str
    seed: int
    images: dict[str, dict[str, int]]


class ModelInfo(Section):
    """A trained network as its user sees it.

    Attributes:
        format: version of this description.
        name: of the network.
        task: segmentation or classification.
        outputs: names of the findings; of masks that of one class, those of classes that may overlap, or those of
            exclusive classes of which the first is background.
        overlap: of masks: the classes may overlap, each has a probability of its own.
        in_channels: 1 for grey images, 3 for colour.
        size: height and width in pixels at which the network sees images.
        resize: how they get it: stretched (squash), with their aspect ratio kept and padded (fit), or in windows that
            are blended (patches); an exported network takes single windows then.
        scale: factor by which images are shrunk before windows.
        spacing_mm: height and width of a pixel in mm to which images are resized before windows; None for any.
        context: neighbouring slices on either side of one, which are further channels.
        parts: channels of each file, or slice of one, that an image consists of; empty for a single one.
        head: the head that gives the output; "average" is the mean of the logits of all.
        window: (low, high) stored values that become 0 and 1; None without.
        percentiles: (low, high) percentiles of an image that become 0 and 1; None without. With neither, the range of
            the file's type does.
        expected_range: (low, high) of the values that an exported network takes.
        kinds: the kinds of images that it was trained on.
        spacing: median height and width of a pixel of the training images in mm; None where unknown.
        threshold: probability from which a pixel is foreground, where no other rule is asked for.
        calibration: what was fitted to the validation images; None where there were none.
        provenance: where it comes from.
    """

    format: Literal[1] = 1
    name: str
    task: Task
    outputs: tuple[str, ...]
    overlap: Annotated[bool, LATER] = False
    in_channels: int
    size: int
    resize: Annotated[Resize, LATER] = "squash"
    scale: Annotated[float, LATER] = 1.0
    spacing_mm: Annotated[float | None, LATER] = None
    context: Annotated[int, LATER] = 0
    parts: Annotated[tuple[int, ...], LATER] = ()
    head: str
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    expected_range: tuple[float, float] = (0.0, 255.0)
    kinds: tuple[ImageKind, ...] = ()
    spacing: tuple[float, float] | None = None
    threshold: float = 0.5
    calibration: Calibration | None = None
    provenance: Provenance

    @property
    def channels_of_parts(self) -> tuple[int, ...]:
        """The channels of each file, or slice of one, that an image consists of."""
        return self.parts or (self.in_channels,)

    @property
    def files(self) -> int:
        """The number of files of an image."""
        return len(self.channels_of_parts) // (2 * self.context + 1)

    @property
    def black(self) -> float:
        """The value that becomes 0, but for percentiles, whose values differ from image to image."""
        return (self.window or self.expected_range)[0]

    @property
    def foreground(self) -> tuple[str, ...]:
        """The outputs that a mask can show: all but the background."""
        return self.outputs[1:] if self.exclusive else self.outputs

    @property
    def exclusive(self) -> bool:
        """Whether the outputs are classes of which every pixel has one, the first being background (softmax)."""
        return self.task == "segmentation" and len(self.outputs) > 1 and not self.overlap

    @property
    def finding_thresholds(self) -> tuple[float, ...]:
        """The calibrated probability from which each finding is called: Youden's, else ``threshold``."""
        given = {} if self.calibration is None else self.calibration.thresholds.get("youden", {})
        found = (given.get(name) for name in self.outputs)
        return tuple(self.threshold if each is None or math.isnan(each) else each for each in found)
