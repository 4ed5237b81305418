"""Images and masks at the size that networks see, and what masks lose on the way there."""

from enum import IntEnum

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray


class MaskState(IntEnum):
    """What the mask of an image has of a foreground class.

    Attributes:
        EMPTY: the file has no pixel of it.
        PRESENT: the resized mask has pixels of it.
        VANISHED: the file has pixels of it, and the resized mask has none.
    """

    EMPTY = 0
    PRESENT = 1
    VANISHED = 2


def resize_image(image_hwc: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Returns an image (H, W, channels) in 0..1 as (channels, size, size): bilinear, antialiased, stretched."""
    image = torch.from_numpy(np.ascontiguousarray(image_hwc)).permute(2, 0, 1)[None]
    resized = F.interpolate(image, size=(size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)
    chw: NDArray[np.float32] = resized.numpy()
    return chw


def resize_mask(mask_hw: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Returns class indices (H, W) as (size, size), each pixel taken from the one nearest to its centre."""
    mask = torch.from_numpy(np.ascontiguousarray(mask_hw))[None, None]
    resized: NDArray[np.uint8] = F.interpolate(mask, size=(size, size), mode="nearest-exact")[0, 0].numpy()
    return resized


def vanished_classes(mask_hw: NDArray[np.uint8], resized_hw: NDArray[np.uint8]) -> tuple[int, ...]:
    """Returns the foreground classes that a mask has and its resized form lacks, in ascending order.

    Args:
        mask_hw: class indices as the file has them (H, W); 0 is background.
        resized_hw: the same mask from `resize_mask`.
    """
    lost = np.setdiff1d(mask_hw, resized_hw)
    return tuple(int(index) for index in lost if index != 0)


def mask_states(mask_hw: NDArray[np.uint8], resized_hw: NDArray[np.uint8], *, classes: int) -> NDArray[np.uint8]:
    """Returns a `MaskState` for every foreground class, (C,): one where ``classes`` is 1, else those from 1 on."""
    truths = np.full(max(classes - 1, 1), MaskState.EMPTY, dtype=np.uint8)
    truths[[index - 1 for index in np.unique(resized_hw).tolist() if index]] = MaskState.PRESENT
    truths[[index - 1 for index in vanished_classes(mask_hw, resized_hw)]] = MaskState.VANISHED
    return truths
