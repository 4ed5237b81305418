"""What shrinking leaves of the structures in masks: the best that any network could score at a smaller size.

>>> outlines = Outlines()
>>> thin, thick = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
>>> thin[:, 9::16], thick[8:40, 8:40] = 1, 1
>>> outlines.add(thin)
>>> outlines.kept(lambda height, width: (height // 4, width // 4)) < 0.5
True
>>> outlines = Outlines()
>>> outlines.add(thick)
>>> outlines.kept(lambda height, width: (height // 4, width // 4)) > 0.95
True
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from medarts.data.masks import Mask, planes_of
from medarts.data.reading import resize_mask

Shape = tuple[int, int]

FEWEST, MOST = 3, 16
"""Masks that are shrunk, spread over all: their mean says enough."""

PIXELS = 30_000_000
"""Pixels of all masks that are shrunk, each class counted, unless they are the fewest: large ones take time."""


@dataclass(frozen=True, slots=True)
class _Outline:
    """Where a mask shows a class.

    Attributes:
        index: of the class, from 1.
        shape: height and width of the mask.
        bits: its pixels, eight a byte.
    """

    index: int
    shape: Shape
    bits: NDArray[np.uint8]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """0 and 1, (H, W)."""
        return np.unpackbits(self.bits, count=self.shape[0] * self.shape[1]).reshape(self.shape)


class Outlines:
    """The masks of a data set, as they are added; a bit a pixel, so that all of them fit into memory."""

    def __init__(self) -> None:
        self._masks: list[list[_Outline]] = []

    def add(self, mask: Mask) -> None:
        """Adds a mask: class indices (H, W), or 0 and 1 of classes that may overlap (K, H, W)."""
        planes = planes_of(mask)
        if planes:
            shape = (mask.shape[-2], mask.shape[-1])
            self._masks.append([_Outline(index, shape, np.packbits(plane)) for index, plane in planes])

    def kept(self, shape_of: Callable[[int, int], Shape]) -> float:
        """Returns the Dice of masks with themselves, once shrunk and enlarged again: the mean of the classes, 0..1.

        Args:
            shape_of: gives height and width after shrinking by those of a mask; a mask that is not shrunk is kept.
        """
        of_class: dict[int, list[float]] = defaultdict(list)
        several = len({outline.index for of_mask in self._masks for outline in of_mask}) > 1
        for outline in self._spread():
            of_class[outline.index].append(_kept(outline, shape_of(*outline.shape), several=several))
        return float(np.mean([np.mean(values) for values in of_class.values()])) if of_class else 1.0

    def _spread(self) -> list[_Outline]:
        """Returns the classes of masks that are spread over all."""
        largest = max((sum(math.prod(each.shape) for each in of_mask) for of_mask in self._masks), default=1)
        most = min(max(PIXELS // largest, FEWEST), MOST)
        return [each for of_mask in self._masks[:: -(-len(self._masks) // most) or 1] for each in of_mask]


def _kept(outline: _Outline, shape: Shape, *, several: bool) -> float:
    if all(after >= before for after, before in zip(shape, outline.shape, strict=True)):
        return 1.0
    pixels = outline.pixels
    small = torch.from_numpy(resize_mask(pixels, shape, several=several)).float()
    # As probabilities of a network that makes no mistake come back to the size of the file.
    again = F.interpolate(small[None, None], size=outline.shape, mode="bilinear")[0, 0].numpy() > 0.5
    return 2 * float((again & (pixels == 1)).sum()) / max(float(again.sum()) + float(pixels.sum()), 1.0)
