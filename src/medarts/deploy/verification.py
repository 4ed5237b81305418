"""Exported networks against the network in PyTorch, on real images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medarts.deploy.deployable import Deployable, TorchEngine
from medarts.deploy.engines import Engine, Floats
from medarts.deploy.model import Prepared, TrainedModel
from medarts.deploy.reference_images import Example
from medarts.errors import DataError

TOLERANCE = 1e-4
"""Of probabilities."""

_TOGETHER = 3
"""Images of one batch."""


@dataclass(frozen=True, slots=True)
class Verification:
    """How far an exported network is from the network in PyTorch.

    Attributes:
        images: number of images that both predicted.
        difference: the largest one of two probabilities.
        decisions: share of pixels of masks, or of findings, that differ.
    """

    images: int
    difference: float
    decisions: float


def verify(deployable: Deployable, exported: Engine, examples: Sequence[Example]) -> Verification:
    """Compares an exported network with the network in PyTorch.

    Every image is predicted at its own size, and as a part of odd height and width in a batch with others; of networks
    that take windows of one size, a window of every image.

    Args:
        deployable: the network in PyTorch.
        exported: the exported one.
        examples: real images.

    Raises:
        DataError: an image cannot be read or does not fit, or there is none.
    """
    if not examples:
        raise DataError("There are no images to verify the exported network on.", fix="Give some: --images FOLDER.")
    built = TorchEngine(deployable)
    model = TrainedModel(deployable.info, built)
    largest = different = decided = 0.0
    for images, limits in _batches(model, examples):
        found, wanted = exported.run(images, limits), built.run(images, limits)
        for name in ("probabilities", "calibrated"):
            if name in wanted:
                # NaN is the largest: an exported network that gives it where PyTorch does not is refused.
                differences = np.nan_to_num(np.abs(found[name] - wanted[name]), nan=np.inf)
                largest = max(largest, float(differences.max()))
        choice = "mask" if "mask" in wanted else "decisions"
        different += float((found[choice] != wanted[choice]).sum())
        decided += wanted[choice].size
    return Verification(len(examples), largest, different / decided)


def _batches(model: TrainedModel, examples: Sequence[Example]) -> Iterator[tuple[Floats, Floats]]:
    waiting: list[Prepared] = []
    for number, example in enumerate(examples, 1):
        spacing = (*(example.spacing() or (None, None)), None)
        image = model.prepare(example.read(), path=example.name, spacing=spacing)
        if model.info.resize == "patches":
            image = image._replace(values=_window(image.values, model.info.size))
        yield image.values[None], image.limits[None]
        waiting.append(image)
        if len(waiting) == _TOGETHER or number == len(examples):
            yield _cut(waiting, odd=model.info.resize != "patches")
            waiting = []


def _window(image_chw: Floats, size: int) -> Floats:
    """Returns the middle of an image, repeated where it is smaller than a window."""
    top, left = (max(0, (side - size) // 2) for side in image_chw.shape[1:])
    rows = np.take(image_chw, range(top, top + size), 1, mode="wrap")
    return np.ascontiguousarray(np.take(rows, range(left, left + size), 2, mode="wrap"))


def _cut(images: Sequence[Prepared], *, odd: bool) -> tuple[Floats, Floats]:
    """Returns the upper left parts of images, of one (odd) size, with the limits of the parts."""
    height, width = (min(image.values.shape[axis] for image in images) for axis in (1, 2))
    if odd:
        height, width = max(1, (height - 1) // 2 * 2 - 1), max(1, (width - 3) // 2 * 2 - 1)
    parts = [image.values[:, :height, :width] for image in images]
    return np.stack(parts), np.full((len(parts), len(images[0].limits)), np.nan, np.float32)
