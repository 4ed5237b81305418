"""A trained network on images in memory: arrays in, probabilities out, at the images' own sizes."""

from collections.abc import Sequence
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from medarts.config import Task
from medarts.data.arrays import Layout, as_array, as_hwc, scaled
from medarts.data.manifest import ReadingRules
from medarts.data.reading import fit_channels, resize_image
from medarts.engine.directory import RunDirectory, path_of
from medarts.errors import DataError, RunError, did_you_mean, quoted
from medarts.evaluation.evaluate import load_network

Probabilities = NDArray[np.float32]

_SCALING = (
    "Give uint8 (0..255), uint16 (0..65535) or floats in 0..1, as the network was trained on: of values in 0..255 "
    "images.astype(np.uint8), or images / 255."
)


class TrainedModel:
    """The network of a training run with its best weights.

    Images are scaled, resized and given channels exactly as when they were read for training.

    Attributes:
        name: of the network.
        task: segmentation or classification.
        outputs: names of the findings; of masks the numbers of the classes, or the foreground alone.
        size: height and width in pixels at which the network sees images.
        network: the network in evaluation mode.
    """

    def __init__(self, run: RunDirectory, *, checkpoint: str = "best") -> None:
        data = run.recipe.data
        self.name: str = run.facts["network"]
        self.task: Task = data.task
        self.size: int = data.size
        self.in_channels: int = data.in_channels
        self.network = load_network(run, checkpoint).eval()
        if data.task == "classification":
            self.outputs = tuple(data.findings or ())
        else:
            self.outputs = ("foreground",) if data.classes == 1 else tuple(f"class {n}" for n in range(data.classes))
        self._rules = {source.domain: ReadingRules(source.window, source.percentiles) for source in data.sources}

    def predict(
        self,
        images: ArrayLike | Sequence[ArrayLike],
        *,
        domain: str | None = None,
        channels: Layout | None = None,
        batch: int = 8,
    ) -> Any:
        """Returns the probabilities of one image, of a stack, or of a list of images of any sizes.

        Args:
            images: an image (H x W, H x W x C or C x H x W), a stack (N x H x W x C or N x C x H x W, or N x H x W),
                or a list of images. Nested lists of numbers are arrays. For an array of three axes see ``channels``.
            domain: the training data set whose scaling of intensities to use (its window or percentiles). Default:
                that of all, if they share one.
            channels: axis of the channels of an image, "first" or "last"; with it an array of three axes is one image.
                Default: the one of 1 to 4 entries. Without it an array of three axes is one image if its last axis, or,
                for a network of several channels, its first, is as long as an image has channels; else it is a stack of
                grey images. So N x H x W is always a stack for a network of grey images.
            batch: images in one pass of the network, at least 1.

        Returns:
            float32 in 0..1. Masks with one class: H x W, at the image's own size; with K exclusive classes: K x H x W.
            Findings: one probability for each of ``outputs``, without the temperature that `medarts.evaluate` finds on
            the validation images. A stack gives an array with N in front, a list of images a list.

        Raises:
            DataError: the images hold NaN, have too many channels, a type whose range is not known, or axes that may be
                those of one image or of a stack; ``batch`` is below 1; or the data sets of the run differ in their
                scaling and ``domain`` does not name one of them.
        """
        if not isinstance(batch, int) or batch < 1:
            raise DataError(f"batch is {quoted(batch)}.", fix="Give a whole number of images of at least 1.")
        rules = self._rules_of(domain)
        if isinstance(images, list | tuple) and not all(isinstance(each, list | tuple | Number) for each in images):
            arrays = [as_array(image, f"Image {number}") for number, image in enumerate(images)]
            return self._predict(arrays, rules, channels, batch)
        array = as_array(images, "images")
        if self._is_one(array, channels):
            return self._predict([array], rules, channels, batch)[0]
        return np.stack(self._predict(list(array), rules, channels, batch))

    def _is_one(self, array: NDArray[Any], channels: Layout | None) -> bool:
        """Tells whether an array is one image, not a stack of images.

        Raises:
            DataError: it may be either, or is neither.
        """
        if array.size == 0:
            raise DataError("There are no images.", fix="Give at least one.")
        if array.ndim not in (2, 3, 4):
            raise DataError(
                f"images has the shape {array.shape}.", fix="Give an image, N x H x W, N x H x W x C or N x C x H x W."
            )
        if array.ndim != 3 or channels is not None:
            return array.ndim != 4
        first, last = (array.shape[axis] in {1, self.in_channels} for axis in (0, -1))
        if self.in_channels == 1:
            # A stack of images so narrow is none: H x W x 1, or a colour image, which is converted.
            return array.shape[0] > 4 and array.shape[-1] in (1, 3)
        if first and last:
            raise DataError(
                f"images has the shape {array.shape}, which may be one image or several.",
                fix='Give channels="first" or channels="last" for one image, or a list of images.',
            )
        return first or last

    def _predict(
        self, images: list[NDArray[Any]], rules: ReadingRules, channels: Layout | None, batch: int
    ) -> list[Probabilities]:
        if not images:
            raise DataError("There are no images.", fix="Give at least one.")
        read = [self._read(image, rules, channels, number) for number, image in enumerate(images)]
        found: list[Probabilities] = []
        with torch.inference_mode():
            for start in range(0, len(read), batch):
                part = read[start : start + batch]
                logits = self.network(torch.stack([image for image, _ in part]))
                found += [self._finish(each, shape) for each, (_, shape) in zip(logits, part, strict=True)]
        return found

    def _read(
        self, image: NDArray[Any], rules: ReadingRules, channels: Layout | None, number: int
    ) -> tuple[Tensor, tuple[int, int]]:
        """Returns an image as the network takes it, CHW, and its own height and width."""
        path = Path(f"Image {number}")
        image_hwc = as_hwc(image, channels, number)
        fitting = fit_channels(scaled(image_hwc, rules, number, fix=_SCALING), self.in_channels, path=path)
        # Stores keep float16: a prediction must equal the evaluation of the same image.
        resized = resize_image(fitting, self.size).astype(np.float16).astype(np.float32)
        return torch.from_numpy(resized), (image_hwc.shape[0], image_hwc.shape[1])

    def _finish(self, logits: Tensor, shape: tuple[int, int]) -> Probabilities:
        if self.task == "classification":
            return np.asarray(torch.sigmoid(logits).numpy(), np.float32)
        probabilities = torch.sigmoid(logits) if len(logits) == 1 else torch.softmax(logits, 0)
        # Probabilities are resized, not logits: those of exclusive classes still add up to one.
        own = F.interpolate(probabilities[None], size=shape, mode="bilinear", antialias=True)[0].clamp(0, 1).numpy()
        return np.asarray(own[0] if len(own) == 1 else own, np.float32)

    def _rules_of(self, domain: str | None) -> ReadingRules:
        if domain is not None and domain not in tuple(self._rules):
            raise DataError(
                f"{self.name} was not trained on {quoted(domain)}.", fix=f"Choose one of {', '.join(self._rules)}."
            )
        rules = {self._rules[domain]} if domain is not None else set(self._rules.values())
        if len(rules) > 1:
            raise DataError(
                f"The data sets of {self.name} differ in their scaling of intensities.",
                fix=f"Give domain, one of {', '.join(self._rules)}.",
            )
        return rules.pop()


def load(run: RunDirectory | Path | str, *, checkpoint: str = "best") -> TrainedModel:
    """Loads a trained network.

    Args:
        run: a training run.
        checkpoint: "best", by the validation score, or "last".

    Raises:
        RunError: there is no training run, it has no checkpoint yet, or there is no such kind of checkpoint.
    """
    if checkpoint not in ("best", "last"):
        raise RunError(
            f"There is no checkpoint {quoted(checkpoint)}, but best and last.",
            fix=did_you_mean(str(checkpoint), ("best", "last")),
        )
    return TrainedModel(RunDirectory.open(path_of(run), kind="train"), checkpoint=checkpoint)
