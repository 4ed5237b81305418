"""Images as float32 HWC in 0..1 and masks as uint8 HW class indices, by the rules of their domain."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.data.files import Raw, raw_image, raw_mask
from medarts.data.manifest import ReadingRules, Sample
from medarts.errors import DataError

Image = NDArray[np.float32]
Mask = NDArray[np.uint8]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_UNKNOWN = -1


def read_pair(sample: Sample, rules: ReadingRules, *, channels: int) -> tuple[Image, Mask]:
    """Reads an image and its mask.

    Args:
        sample: the sample.
        rules: reading rules of its domain.
        channels: channels wanted.

    Returns:
        The image, float32 (H, W, channels) in 0..1, and the mask, uint8 (H, W), 0 being background.

    Raises:
        DataError: a file cannot be read, does not fit the rules, or the two differ in size.
    """
    image = read_image(sample, rules, channels=channels)
    mask = read_mask(sample, rules)
    check_sizes(sample, image.shape, mask.shape)
    return image, mask


def read_image(sample: Sample, rules: ReadingRules, *, channels: int) -> Image:
    """Reads the image of a sample.

    Args:
        sample: the sample.
        rules: reading rules of its domain.
        channels: channels wanted. Grey is repeated, colour becomes its luma (ITU-R BT.601) where 1 is wanted,
            equal numbers are kept.

    Returns:
        float32 (H, W, channels) in 0..1.

    Raises:
        DataError: the file cannot be read, its range is unknown and the rules give none, or its channels do not
            fit.
    """
    raw = raw_image(sample.image, sample.slice_index)
    return _with_channels(scale(raw, rules, path=sample.image), channels, path=sample.image)


def read_mask(sample: Sample, rules: ReadingRules) -> Mask:
    """Reads the mask of a sample.

    Args:
        sample: the sample.
        rules: reading rules of its domain.

    Returns:
        uint8 (H, W): 0 background, 1.. the classes.

    Raises:
        DataError: the file cannot be read, or holds a value that the labels do not name.
        ValueError: the sample has no mask.
    """
    if sample.mask is None:
        raise ValueError(f"{sample.key} has findings, no mask")
    raw = raw_mask(sample.mask, sample.slice_index, indices=rules.labels is not None)
    return classify(raw, rules, path=sample.mask)


def check_sizes(sample: Sample, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    """Raises a DataError where image and mask of a sample differ in height or width."""
    if image[:2] != mask[:2]:
        raise DataError(
            f"{sample.image} is {image[0]} x {image[1]} pixels but its mask {sample.mask} is {mask[0]} x {mask[1]}.",
            fix="Put the mask that belongs to the image there, or resize it (nearest neighbour).",
        )


def scale(raw: Raw, rules: ReadingRules, *, path: Path) -> Image:
    """Maps stored values to float32 in 0..1 by window, percentiles, or the range of the file's type.

    Files that say so (``raw.inverted``) are turned, so that bright is always near 1. An image whose percentiles
    coincide becomes 0.

    Raises:
        DataError: there is neither a rule nor a range of the type.
    """
    low, high = _limits(raw, rules, path)
    if high <= low:
        return np.zeros(raw.values.shape, dtype=np.float32)
    values = raw.values.astype(np.float32)
    values -= np.float32(low)
    values *= np.float32(1.0 / (high - low))
    np.clip(values, 0.0, 1.0, out=values)
    return np.subtract(np.float32(1.0), values) if raw.inverted else values


def classify(raw: Raw, rules: ReadingRules, *, path: Path) -> Mask:
    """Maps stored mask values to class indices.

    Without labels, a pixel is foreground where its brightest channel is above half of the type's range, or above
    0.5 in a mask that holds nothing above 1; a mask of values in between is refused. With labels, 0 is background
    unless they say otherwise.

    Returns:
        uint8 (H, W).

    Raises:
        DataError: a value that the labels do not name, or no labels where they are needed.
    """
    if rules.labels is None:
        return _foreground(raw, path)
    values = raw.values[..., 0]
    if raw.values.shape[2] > 1 and (raw.values != values[..., None]).any():
        raise DataError(
            f"{path} is a coloured mask, but the source has labels.",
            fix="Save the classes as grey values or as indices of a palette.",
        )
    return _looked_up(values, {0: 0} | dict(rules.labels), path)


def _limits(raw: Raw, rules: ReadingRules, path: Path) -> tuple[float, float]:
    if rules.window:
        return rules.window
    if rules.percentiles:
        low, high = np.percentile(raw.values, rules.percentiles)
        return float(low), float(high)
    if raw.range is None:
        raise DataError(
            f"{path} stores {raw.values.dtype} values from {raw.values.min():g} to {raw.values.max():g}, a type "
            "that does not say what is black and white.",
            fix="Give the source a window, or percentiles such as [0.5, 99.5].",
        )
    return raw.range


def _with_channels(image: Image, channels: int, *, path: Path) -> Image:
    found = image.shape[2]
    if found == channels:
        return image
    if found == 1:
        return np.repeat(image, channels, axis=2)
    if found == 3 and channels == 1:
        return (image @ _LUMA)[..., None]
    raise DataError(
        f"{path} has {found} channels, and {channels} are wanted.",
        fix=f"Set data.in_channels to {found}, or convert the images.",
    )


def _foreground(raw: Raw, path: Path) -> Mask:
    values = raw.values.max(axis=2) if raw.values.shape[2] > 1 else raw.values[..., 0]
    if raw.range is not None and raw.inverted:
        values = sum(raw.range) - values
    top = values.max()
    if top <= 1:
        return np.asarray(values > 0.5, dtype=np.uint8)
    if raw.range is None or top <= sum(raw.range) / 2:
        raise DataError(
            f"{path} holds {values.dtype} values up to {top:g}, neither 0 and 1 nor above half of its range, and the "
            "source has no labels.",
            fix=f"Give the source labels, such as {{{top:g}: 1}}.",
        )
    return np.asarray(values > sum(raw.range) / 2, dtype=np.uint8)


def _looked_up(values: NDArray[Any], labels: dict[int, int], path: Path) -> Mask:
    table = np.full(max(labels) + 2, _UNKNOWN, dtype=np.int16)
    for value, index in labels.items():
        table[value] = index
    # The last entry of the table stays unknown and stands for every value beyond it.
    fits = (values >= 0) & (values <= max(labels)) & (values == np.rint(values))
    classes = table[np.where(fits, values, max(labels) + 1).astype(np.int64)]
    if (unknown := classes == _UNKNOWN).any():
        strange = ", ".join(f"{value:g}" for value in np.unique(values[unknown])[:5])
        known = sorted(labels)
        shown = ", ".join(map(str, known)) if len(known) <= 8 else f"{len(known)} values to {known[-1]}"
        raise DataError(
            f"{path} holds the label {strange} in {int(unknown.sum())} pixels; the source knows {shown}.",
            fix="Add the value to the labels of the source, or correct the mask.",
        )
    return classes.astype(np.uint8)
