"""Crops of images that have sizes of their own: how many an epoch has, and where they lie.

An epoch has as many crops as tiles of that size cover all images: every pixel is seen about once, as in epochs of whole
images, whatever the sizes of the images. A crop is a function of (seed, epoch, place in the order).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medarts.config.data import IGNORE
from medarts.data.geometry import padded
from medarts.data.windows import enlarging

POINTS = 1000
"""Pixels of a class of an image that crops are placed at; of more, these are spread evenly."""


class Ragged(Protocol):
    """Images or masks (..., H, W) of several sizes; in memory `RaggedArrays`, on disk `StoredRagged`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Their number, and the sizes of the axes before height and width."""

    def __getitem__(self, row: int, /) -> NDArray[Any]:
        """Returns a whole one."""

    def crop(self, row: int, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Returns a part of one, which lies within it."""


class RaggedArrays:
    """Images or masks of several sizes in memory."""

    def __init__(self, arrays: list[NDArray[Any]]) -> None:
        self._arrays = arrays

    @property
    def shape(self) -> tuple[int, ...]:
        """Their number, and the sizes of the axes before height and width."""
        return len(self._arrays), *self._arrays[0].shape[:-2]

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self._arrays[row]

    def crop(self, row: int, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Returns a part of an array."""
        return self._arrays[row][..., top : top + height, left : left + width]


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """What crops are made of, beside the images.

    Attributes:
        size: height and width of a crop.
        shapes: int32 (N, 2), height and width of the images.
        counts: int32 (N, classes), of each foreground class the number of places.
        places: int32 (places, 2) for every image: row and column of pixels of its classes, class by class.
        images: float16 (C, H, W) each.
        masks: uint8 (H, W) each.
    """

    size: int
    images: Ragged
    masks: Ragged
    shapes: NDArray[np.int32]
    counts: NDArray[np.int32]
    places: Ragged

    @property
    def arrays(self) -> tuple[Ragged, Ragged]:
        """The images and their masks."""
        return self.images, self.masks

    @property
    def tiles(self) -> NDArray[np.int64]:
        """The number of tiles that cover each image, (N,)."""
        return np.asarray((-(-self.shapes // self.size)).prod(1), np.int64)

    def images_and_masks(self, order: NDArray[np.int64]) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Returns crops, (B, C, size, size) and (B, size, size); smaller images are padded, see `enlarging`.

        Args:
            order: rows of `with_places`.
        """
        images, masks = [], []
        for row, on_foreground, number in order.tolist():
            height, width = self.shapes[row].tolist()
            tall, wide = min(height, self.size), min(width, self.size)
            part = (row, *self.corner(row, on_foreground=bool(on_foreground), number=number), tall, wide)
            framing, shape = enlarging((tall, wide), self.size)
            images.append(padded(self.images.crop(*part), framing, shape, fill=0))
            masks.append(padded(self.masks.crop(*part), framing, shape, fill=IGNORE))
        return np.stack(images), np.stack(masks)

    def middle(self, row: int) -> NDArray[np.float16]:
        """Returns the crop (C, size, size) in the middle of an image."""
        height, width = self.shapes[row].tolist()
        tall, wide = min(height, self.size), min(width, self.size)
        framing, shape = enlarging((tall, wide), self.size)
        crop = self.images.crop(row, (height - tall) // 2, (width - wide) // 2, tall, wide)
        return padded(crop, framing, shape, fill=0)

    def corner(self, row: int, *, on_foreground: bool, number: int) -> tuple[int, int]:
        """Returns the upper left corner of a crop.

        Args:
            row: the image.
            on_foreground: the crop contains a random pixel of a random class that the image shows; else it lies
                anywhere.
            number: random, which decides where.
        """
        generator = np.random.default_rng(number)
        last = np.maximum(self.shapes[row] - self.size, 0)
        low, high = np.zeros(2, np.int64), last.astype(np.int64)
        if on_foreground:
            counts = self.counts[row]
            shown = generator.choice(np.flatnonzero(counts))
            place = counts[:shown].sum() + generator.integers(counts[shown])
            pixel = self.places.crop(row, int(place), 0, 1, 2).reshape(2)
            low, high = np.clip(pixel - self.size + 1, 0, last), np.minimum(pixel, last)
        top, left = generator.integers(low, high + 1).tolist()
        return top, left


def with_places(
    drawn: NDArray[np.int64],
    crops: Crops,
    candidates: NDArray[np.int64],
    generator: np.random.Generator,
    *,
    share: float,
) -> NDArray[np.int64]:
    """Returns the crops of an epoch, (T, 3): the image, whether foreground is in the crop, and what decides where.

    Args:
        drawn: images of the crops (T,), in their order.
        crops: of all images.
        candidates: the images that may be drawn.
        generator: of the epoch.
        share: of the crops that contain foreground; none where no image shows any.
    """
    showing = candidates[crops.counts[candidates].any(1)]
    number = round(share * len(drawn)) if len(showing) else 0
    order = np.stack([drawn, np.zeros_like(drawn), generator.integers(0, 2**62, len(drawn))], axis=1)
    if number:
        rounds = [generator.permutation(showing) for _ in range(-(-number // len(showing)))]
        chosen = generator.choice(len(drawn), number, replace=False)
        order[chosen, 0], order[chosen, 1] = np.concatenate(rounds)[:number], 1
    return order


def places_of(mask: NDArray[np.uint8], classes: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Returns rows and columns (P, 2) of at most `POINTS` pixels of every foreground class, and their numbers.

    Args:
        mask: class indices (H, W); or a mask for each class (classes, H, W), where they overlap.
        classes: number of foreground classes.
    """
    found, counts = [], np.zeros(classes, np.int32)
    for index in range(classes):
        pixels = np.argwhere(mask[index] == 1 if mask.ndim == 3 else mask == index + 1)
        if len(pixels) > POINTS:
            pixels = pixels[np.linspace(0, len(pixels) - 1, POINTS, dtype=np.int64)]
        found.append(pixels)
        counts[index] = len(pixels)
    return np.concatenate(found).astype(np.int32), counts
