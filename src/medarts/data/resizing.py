"""Images and masks at the size that networks see, and what masks lose on the way there."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray


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
