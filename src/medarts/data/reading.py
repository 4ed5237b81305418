"""Images as float32 HWC in 0..1, and with their masks, by the rules of their domain; both at the size of networks."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medarts.data.geometry import Framing, padded
from medarts.data.images import Image
from medarts.data.manifest import ReadingRules, Sample
from medarts.data.masks import IGNORE, Mask, MaskLevel, read_mask
from medarts.data.parts import read_parts, stacked
from medarts.errors import DataError


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


class Pair(NamedTuple):
    """An image and its mask.

    Attributes:
        image: float32 (H, W, channels) in 0..1.
        mask: uint8 (H, W), 0 being background.
        levels: the values of the mask where it was read without labels; see ``medarts.data.masks``.
    """

    image: Image
    mask: Mask
    levels: tuple[MaskLevel, ...]


def read_pair(sample: Sample, rules: ReadingRules, *, channels: int, context: int = 0) -> Pair:
    """Reads an image, see `read_image`, and its mask.

    Raises:
        DataError: a file cannot be read, does not fit the rules, or the two differ in size.
    """
    image = read_image(sample, rules, channels=channels, context=context)
    mask, levels = read_mask(sample, rules)
    check_sizes(sample, image.shape, mask.shape)
    return Pair(image, mask, levels)


def read_image(sample: Sample, rules: ReadingRules, *, channels: int, context: int = 0) -> Image:
    """Reads the image of a sample; channels of further files follow those of the first.

    Args:
        channels: channels wanted. Of a single file grey is repeated and colour becomes its luma (ITU-R BT.601) where 1
            is wanted; other numbers have to be equal.
        context: neighbouring slices on either side whose channels are taken too.

    Returns:
        float32 (H, W, channels) in 0..1.

    Raises:
        DataError: a file cannot be read or has another size than the first, its range is unknown and the rules give
            none, or the channels do not fit.
    """
    return stacked([*read_parts(sample, context=context)], rules, channels=channels)


def check_sizes(sample: Sample, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    """Raises a DataError where image and mask of a sample differ in height or width."""
    if image[:2] != mask[:2]:
        raise DataError(
            f"{sample.image} is {image[0]} x {image[1]} pixels but its mask {sample.mask} is {mask[0]} x {mask[1]}.",
            fix="Put the mask that belongs to the image there, or resize it (nearest neighbour).",
        )


def check_classes(sample: Sample, mask: Mask, classes: int) -> None:
    """Raises a DataError where a mask holds a class that ``data.classes`` has no output for."""
    largest = 1 if classes == 1 else classes - 1
    found = int(mask.max())
    if found > largest:
        raise DataError(
            f"{sample.mask} holds class {found}, data.classes {classes} allows 0 to {largest}.",
            fix=f"Set data.classes={found + 1}, or map its values with the source's 'labels'.",
        )


def check_labels(domain: str, rules: ReadingRules, classes: int) -> None:
    """Raises a DataError where there are several classes and no labels that tell them apart."""
    if classes > 1 and rules.labels is None:
        raise DataError(
            f"data.classes is {classes}, but the source '{domain}' does not say which value of its masks is which "
            "class.",
            fix="Give the source labels, such as {128: 1, 255: 2}, or set data.classes to 1.",
        )


def resize_image(image_hwc: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Returns an image (H, W, channels) in 0..1 as (channels, *shape): bilinear, antialiased."""
    image = torch.from_numpy(np.ascontiguousarray(image_hwc)).permute(2, 0, 1)[None]
    resized = F.interpolate(image, size=shape, mode="bilinear", antialias=True)[0].clamp(0, 1)
    chw: NDArray[np.float32] = resized.numpy()
    return chw


def resize_mask(mask_hw: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns class indices (H, W) as ``shape``, each pixel taken from the one nearest to its centre."""
    mask = torch.from_numpy(np.ascontiguousarray(mask_hw))[None, None]
    resized: NDArray[np.uint8] = F.interpolate(mask, size=shape, mode="nearest-exact")[0, 0].numpy()
    return resized


def frame_image(image_hwc: NDArray[np.float32], framing: Framing, *, size: int) -> NDArray[np.float32]:
    """Returns an image (H, W, channels) in 0..1 as networks see it, (channels, size, size); padding is 0."""
    resized = resize_image(image_hwc, (framing.rows, framing.columns))
    return padded(resized, framing, (size, size), fill=0)


def frame_mask(
    mask_hw: NDArray[np.uint8], framing: Framing, *, size: int, classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns class indices (H, W) as networks learn them, (size, size), and what became of each class, `mask_states`.

    Padding counts neither as background nor as a class (`IGNORE`).
    """
    resized = resize_mask(mask_hw, (framing.rows, framing.columns))
    states = mask_states(mask_hw, resized, classes=classes)
    return padded(resized, framing, (size, size), fill=IGNORE), states


def unframed(values: Tensor, framing: Framing) -> Tensor:
    """Returns probabilities as networks give them (B, K, size, size) at the size of the file (B, K, height, width)."""
    inside: Tensor = framing.inside(values)
    if not framing.is_resized:
        return inside
    shape = (framing.height, framing.width)
    return F.interpolate(inside, size=shape, mode="bilinear", antialias=True).clamp(0, 1)


def vanished_classes(mask_hw: NDArray[np.uint8], resized_hw: NDArray[np.uint8]) -> tuple[int, ...]:
    """Returns the foreground classes that a mask has and its resized form lacks, in ascending order.

    Args:
        mask_hw: class indices as the file has them (H, W); 0 is background.
    """
    lost = np.setdiff1d(mask_hw, resized_hw)
    return tuple(int(index) for index in lost if index != 0)


def mask_states(mask_hw: NDArray[np.uint8], resized_hw: NDArray[np.uint8], *, classes: int) -> NDArray[np.uint8]:
    """Returns a `MaskState` for every foreground class, (C,): one where ``classes`` is 1, else those from 1 on."""
    truths = np.full(max(classes - 1, 1), MaskState.EMPTY, dtype=np.uint8)
    truths[[index - 1 for index in np.unique(resized_hw).tolist() if index]] = MaskState.PRESENT
    truths[[index - 1 for index in vanished_classes(mask_hw, resized_hw)]] = MaskState.VANISHED
    return truths
