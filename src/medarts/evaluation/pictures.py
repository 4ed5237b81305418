"""Images with their masks as pages show them: at the size at which they are scored, as far as a page needs it.

Scores at the size of files are of details that the network has not seen as such; at the size of its input a thin
structure would be drawn as it never was.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medarts.config import Recipe
from medarts.config.data import IGNORE
from medarts.data.geometry import fitted, padded
from medarts.data.reading import read_image, resize_image, resize_mask
from medarts.data.store import ImageStore
from medarts.evaluation.deciding import probabilities_of
from medarts.evaluation.truths import Truths

LONGEST = 512
"""Longer side of a picture in pixels; images of larger files are shrunk, so that a page stays small."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that a page shows, with two masks of its size.

    Attributes:
        image: (H, W, C), 0 to 255.
        target: the true mask: class indices (H, W), or 0 and 1 of classes that may overlap (K, H, W).
        predicted: the same of a network.
        title: below it.
        domain: its data set.
        of_gallery: it is in the gallery of the worst.
        stretch: width of a pixel over its height, as the file has it: 1 where the image is not stretched.
    """

    image: Pixels
    target: Pixels
    predicted: Pixels
    title: str
    domain: str
    of_gallery: bool
    stretch: float


class Pictures:
    """What pages show of the images of a store.

    Args:
        store: the images.
        recipe: classes, threshold and resolution.
    """

    def __init__(self, store: ImageStore, recipe: Recipe) -> None:
        self._store, self._recipe = store, recipe
        self._truths = Truths(store, recipe)

    def image(self, index: int) -> Pixels:
        """Returns the image of a sample, (H, W, C): of several files the first, of neighbouring slices the middle one.

        Raises:
            DataError: its file can no longer be read.
        """
        found = self._sized(self._own(index, self._read(index)), _resized, fill=0)
        return as_bytes(found.transpose(1, 2, 0))

    def _own(self, index: int, image_chw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the channels of the sample's own slice, as those of others beside it would be false colours."""
        context = self._recipe.data.context
        parts = (2 * context + 1) * (1 + len(self._store.manifest.samples[index].more))
        channels, rest = divmod(len(image_chw), parts)
        return image_chw if rest else image_chw[context * channels :][:channels]

    def _read(self, index: int) -> NDArray[np.float32]:
        """Returns the image of a sample (C, H, W) in 0..1, at the size of its file where that is what counts."""
        store, data = self._store, self._recipe.data
        if self._truths.of_files and store.given is None:
            sample = store.manifest.samples[index]
            rules = store.manifest.rules[sample.domain]
            image = read_image(sample, rules, channels=data.in_channels, context=data.context)
            return np.moveaxis(image, -1, 0)
        stored: NDArray[np.float32] = store.images[index].astype(np.float32)
        if not self._truths.of_files:
            return stored
        framing = store.framing(index)  # in memory, where only masks are kept as they were given
        return _resized(framing.inside(stored), (framing.height, framing.width))

    def target(self, index: int) -> Pixels:
        """Returns the true mask of a sample at the size of its image.

        Raises:
            DataError: its file can no longer be read.
        """
        return self._at_its_size(np.asarray(self._truths.of(index).stored))

    def predicted(self, index: int, logits_khw: Tensor) -> Pixels:
        """Returns the mask that a network predicts for a sample at the size of its image.

        Args:
            index: of the sample.
            logits_khw: of the network, (K, H, W).
        """
        data, threshold = self._recipe.data, self._recipe.evaluation.threshold
        probabilities = probabilities_of(logits_khw[None], overlap=data.overlap)[0].cpu()
        values = self._truths.at_its_size(index, probabilities)
        if data.outputs > 1 and not data.overlap:
            decided = values.argmax(0)
        else:
            decided = (values if data.overlap else values[0]) >= threshold
        return self._at_its_size(decided.to(torch.uint8).numpy())

    def stretch(self, index: int) -> float:
        """Returns the width of a pixel of the picture over its height, as the file has it."""
        framing = self._store.framing(index)
        if self._truths.of_files:
            return 1.0
        return (framing.width / framing.columns) / (framing.height / framing.rows)

    def _at_its_size(self, mask: Pixels) -> Pixels:
        # What is thinner than a pixel of a picture is drawn, as of several classes, and not where it happens to be hit.
        several = self._truths.of_files or self._store.truths.shape[1] > 1
        return self._sized(mask, partial(resize_mask, several=several), fill=IGNORE)

    def _sized(self, values: NDArray[Any], resize: Callable[..., NDArray[Any]], *, fill: int) -> NDArray[Any]:
        """Returns an image or mask (..., H, W) at the size of pictures."""
        height, width = values.shape[-2:]
        if self._truths.of_files:
            if max(height, width) <= LONGEST:
                return values
            framing = fitted(height, width, size=LONGEST)
            return resize(values, (framing.rows, framing.columns))
        if self._store.crops is None:
            return values
        size = self._store.size  # of a patch, to which images that patches are cropped from are fitted
        framing = fitted(height, width, size=size)
        return padded(resize(values, (framing.rows, framing.columns)), framing, (size, size), fill=fill)


def _resized(image_chw: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    return resize_image(image_chw.transpose(1, 2, 0), shape)


_ROWS = ("titles", "domains", "of_gallery", "stretch")


def as_arrays(pictures: Sequence[Picture]) -> dict[str, NDArray[Any]]:
    """Returns pictures, each of its own size, as arrays of one file."""
    return {
        **packed("images", (each.image for each in pictures)),
        **packed("targets", (each.target for each in pictures)),
        **packed("predictions", (each.predicted for each in pictures)),
        "titles": np.asarray([each.title for each in pictures], np.str_),
        "domains": np.asarray([each.domain for each in pictures], np.str_),
        "of_gallery": np.asarray([each.of_gallery for each in pictures], np.bool_),
        "stretch": np.asarray([each.stretch for each in pictures]),
    }


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> list[Picture]:
    """Returns the pictures in the arrays of a file."""
    about = zip(*(arrays[name].tolist() for name in _ROWS), strict=True)
    masks = (unpacked(arrays, name) for name in ("targets", "predictions"))
    return [
        Picture(as_bytes(image), target, predicted, *of)
        for image, target, predicted, of in zip(unpacked(arrays, "images"), *masks, about, strict=True)
    ]


def packed(name: str, arrays: Iterable[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Returns arrays, whose shapes may differ, by names of their own."""
    return {f"{name}_{number}": each for number, each in enumerate(arrays)}


def unpacked(arrays: Mapping[str, NDArray[Any]], name: str) -> list[NDArray[Any]]:
    """Returns what `packed` was given, or the rows of the one array that older versions wrote.

    >>> [each.shape for each in unpacked(packed("a", [np.zeros(2), np.zeros(3)]), "a")]
    [(2,), (3,)]
    """
    if name in arrays:
        return [*arrays[name]]
    number = sum(key.rpartition("_")[0] == name for key in arrays)
    return [arrays[f"{name}_{place}"] for place in range(number)]


def as_bytes(image: NDArray[Any]) -> Pixels:
    """Returns an image in 0 to 255; those of older versions are in 0..1."""
    return image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
