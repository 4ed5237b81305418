"""Images as arrays, and the rules by which stored values become 0..1. Prediction needs these without PyTorch."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medarts.data.formats.raw import Raw, type_range
from medarts.data.manifest import ReadingRules
from medarts.errors import DataError, quoted

Image = NDArray[np.float32]

Layout = Literal["first", "last"]

_CHANNELS = range(1, 5)
"""Sizes of an axis that is taken for the channels where the layout is not given."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def scale(raw: Raw, rules: ReadingRules, *, path: Path) -> Image:
    """Maps stored values to float32 in 0..1 by window, percentiles, or the range of the file's type.

    Files that say so (``raw.inverted``) are turned, so that bright is always near 1. Padding is left out of the
    percentiles, and 0 under every rule. An image whose percentiles coincide becomes 0.
    """
    low, high = limits_of(raw, rules, path)
    if high <= low:
        return np.zeros(raw.values.shape, dtype=np.float32)
    # 8 and 16 bits fit into float32; wider types lose digits there before their offset is taken away.
    values = raw.values.astype(np.result_type(raw.values.dtype, np.float32))
    values -= low
    values *= 1.0 / (high - low)
    np.clip(values, 0.0, 1.0, out=values)
    if raw.inverted:
        np.subtract(1.0, values, out=values)
    if raw.padding is not None:
        values[raw.padding] = 0.0
    return values.astype(np.float32, copy=False)


def fit_channels(image: Image, channels: int, *, path: Path) -> Image:
    """Returns an image with the channels wanted, see ``read_image``; raises a DataError where its own do not fit."""
    found = image.shape[2]
    if found == channels:
        return image
    if found == 1:
        return np.repeat(image, channels, axis=2)
    if found == 3 and channels == 1:
        return (image @ _LUMA)[..., None]
    raise DataError(
        f"{path} has {found} channels, but {channels} are expected.",
        fix=f"Set data.in_channels to {found}, or convert the images.",
    )


def limits_of(raw: Raw, rules: ReadingRules, path: Path) -> tuple[float, float]:
    """Returns the values that become 0 and 1, by window, percentiles, or the range of the file's type."""
    if rules.window:
        return rules.window
    if rules.percentiles:
        shown = raw.values if raw.padding is None else raw.values[~raw.padding]
        low, high = np.percentile(shown, rules.percentiles) if shown.size else (0.0, 0.0)
        return float(low), float(high)
    if raw.range is None:
        raise DataError(
            f"{path} stores {raw.values.dtype} values from {raw.values.min():g} to {raw.values.max():g}, a type "
            "that does not say what is black and white.",
            fix="Give the source a window, or percentiles such as [0.5, 99.5].",
        )
    return raw.range


def resized(image_chw: Image, shape: tuple[int, int]) -> Image:
    """Returns an image (C, H, W) of any values at another height and width: bilinear, antialiased, as in training."""
    if image_chw.shape[1:] == shape:
        return image_chw
    from PIL import Image as Pillow

    height, width = shape
    planes = [Pillow.fromarray(plane).resize((width, height), Pillow.Resampling.BILINEAR) for plane in image_chw]
    return np.stack([np.asarray(plane, np.float32) for plane in planes])


def as_array(values: Any, what: str) -> NDArray[Any]:
    """Returns tensors, on whatever device, and all else that NumPy takes, as an array of numbers."""
    if values is None:
        raise DataError(f"{what} is None.", fix="Give an array of numbers.")
    try:
        array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    except (TypeError, ValueError) as error:  # lists of unequal lengths, bfloat16
        raise DataError(f"{what} cannot be an array: {error}.", fix="Give an array of numbers.") from None
    if array.dtype.kind not in "buif":
        raise DataError(f"{what} holds {array.dtype} values.", fix="Give real numbers.")
    return np.asarray(array)


def as_hwc(image: NDArray[Any], channels: Layout | None, number: int) -> NDArray[Any]:
    """Returns an image HW, HWC or CHW as HWC."""
    if channels not in (None, "first", "last"):
        raise DataError(f"channels is {quoted(channels)}.", fix='Give "first" or "last".')
    if image.ndim == 2:
        return image[..., None]
    if image.ndim != 3:
        raise DataError(f"Image {number} has the shape {image.shape}.", fix="Give H x W, H x W x C or C x H x W.")
    if channels is None:
        first, last = (image.shape[axis] in _CHANNELS for axis in (0, -1))
        if first == last:
            raise DataError(
                f"Image {number} has the shape {image.shape}, which does not tell which axis is the channels.",
                fix='Give channels="first" or channels="last".',
            )
        channels = "first" if first else "last"
    return np.moveaxis(image, 0, -1) if channels == "first" else image


def as_raw(image_hwc: NDArray[Any], number: int) -> Raw:
    """Returns an image with the range of its type, as if it had been read from a file; refuses NaN and no pixels."""
    if image_hwc.size == 0:
        raise DataError(f"Image {number} has no pixels.", fix="Take it out.")
    if image_hwc.dtype.kind == "f" and not np.isfinite(image_hwc).all():
        raise DataError(f"Image {number} holds NaN or infinity.", fix="Replace them (numpy.nan_to_num).")
    if image_hwc.dtype == np.bool_:
        return Raw(image_hwc.astype(np.uint8), (0.0, 1.0))
    return Raw(image_hwc, type_range(image_hwc))


def scaled(image_hwc: NDArray[Any], rules: ReadingRules, number: int, *, fix: str) -> NDArray[np.float32]:
    """Returns an image as float32 in 0..1; ``fix`` is what to do where its type does not say what is white."""
    raw = as_raw(image_hwc, number)
    try:
        return scale(raw, rules, path=Path(f"Image {number}"))
    except DataError as error:
        raise DataError(error.problem, fix=fix) from None
