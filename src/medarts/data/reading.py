"""Images as float32 HWC in 0..1, and with their masks, by the rules of their domain; both at the size of networks."""

from collections.abc import Collection, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medarts.config import DataSettings
from medarts.config.data import IGNORE
from medarts.data.formats import spacing_of
from medarts.data.geometry import Framing, framed, padded, scaled, zoom
from medarts.data.images import Image
from medarts.data.levels import MaskLevel
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.masks import Mask, planes_of, read_mask
from medarts.data.parts import read_parts, stacked
from medarts.errors import DataError

_LEAST_SHARE = 1e-4
"""Shares of a pixel that differ by less are equal."""


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
        mask: uint8 (H, W), 0 being background, or (K, H, W), see `medarts.data.classifying.ReadMask`.
        levels: the values of the mask where it was read without labels; see ``medarts.data.levels``.
        snapped: share of the mask's pixels that are of no labelled colour exactly.
    """

    image: Image
    mask: Mask
    levels: tuple[MaskLevel, ...]
    snapped: float = 0.0


def read_pair(
    sample: Sample,
    rules: ReadingRules,
    *,
    channels: int,
    context: int = 0,
    names: Sequence[str] = (),
    overlap: bool = False,
) -> Pair:
    """Reads an image, see `read_image`, and its mask, see `medarts.data.masks.read_mask`.

    Raises:
        DataError: a file cannot be read, does not fit the rules, or the two differ in size.
    """
    image = read_image(sample, rules, channels=channels, context=context)
    mask, levels, snapped = read_mask(sample, rules, names=names, overlap=overlap)
    check_sizes(sample, image.shape, mask.shape)
    return Pair(image, mask, levels, snapped / (mask.shape[-2] * mask.shape[-1]))


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
    """Raises a DataError where image (H, W, ...) and mask (..., H, W) of a sample differ in height or width."""
    if image[:2] != mask[-2:]:
        raise DataError(
            f"{sample.image} is {image[0]} x {image[1]} pixels but its mask {sample.mask} is {mask[-2]} x {mask[-1]}.",
            fix="Put the mask that belongs to the image there, or resize it (nearest neighbour).",
        )


def check_labels(manifest: Manifest, data: DataSettings) -> None:
    """Raises a DataError where masks are of several classes and nothing tells which pixels are of which class."""
    if manifest.findings or data.outputs == 1:
        return
    told = {sample.domain for sample in manifest.samples if sample.class_masks}
    for domain, rules in manifest.rules.items():
        if rules.labels is None and domain not in told:
            words = data.classes if isinstance(data.classes, tuple) else range(1, data.classes)
            labels = ", ".join(f"{value}: {word}" for value, word in zip((128, 255), words, strict=False))
            raise DataError(
                f"There are several classes ({', '.join(data.class_names)}), but the source '{domain}' does not say "
                "which value of its masks is which.",
                fix=f"Give the source labels, such as {{{labels}}}; medarts doctor lists the values.",
            )


def resize_image(image_hwc: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Returns an image (H, W, channels) in 0..1 as (channels, *shape): bilinear, antialiased."""
    image = torch.from_numpy(np.ascontiguousarray(image_hwc)).permute(2, 0, 1)[None]
    resized = F.interpolate(image, size=shape, mode="bilinear", antialias=True)[0].clamp(0, 1)
    chw: NDArray[np.float32] = resized.numpy()
    return chw


def resize_mask(mask: NDArray[np.uint8], shape: tuple[int, int], *, several: bool = False) -> NDArray[np.uint8]:
    """Returns a mask (..., H, W) as (..., *shape), without a value that it did not have.

    Of one class each pixel is taken from the one nearest to its centre. Of several it goes to the class that covers
    most of it (antialiased bilinear, as images are resized), so that borders are smooth and lie where they were. A
    class that is narrower than a pixel covers most of none, and has less than its share of the pixels then: it gets as
    many as it lacks, those that it covers most.

    Args:
        mask: class indices, or 0 and 1 of classes that may overlap; `IGNORE` is resized as a class is.
        shape: height and width of the result.
        several: there are several classes.
    """
    if several:
        planes = mask.reshape(-1, *mask.shape[-2:])
        made = np.stack([_by_coverage(plane, shape) for plane in planes])
        return made.reshape(*mask.shape[:-2], *shape)
    return _nearest(mask, shape)


def _nearest(mask_hw: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    mask = torch.from_numpy(np.ascontiguousarray(mask_hw))[None, None]
    resized: NDArray[np.uint8] = F.interpolate(mask, size=shape, mode="nearest-exact")[0, 0].numpy()
    return resized


def framing_of(path: Path, height: int, width: int, settings: DataSettings) -> Framing:
    """Returns where an image lies in what is stored of it; images that patches are cropped from are not padded.

    Args:
        path: its file, which has to say the size of its pixels where the recipe asks for another.
        height: of the image in its file.
        width: of the image in its file.
        settings: the rule, the size, and how images are scaled before patches are cropped.

    Raises:
        DataError: the file does not say the size of its pixels, or the image would be enlarged beyond reason.
    """
    if settings.resize != "patches":
        return framed(height, width, size=settings.size, resize=settings.resize)
    if settings.spacing_mm is None:
        return scaled(height, width, factors=(settings.scale, settings.scale))
    return scaled(height, width, factors=zoom(path, spacing_of(path), settings.spacing_mm))


def shrinking(settings: DataSettings) -> tuple[str, str]:
    """Returns, in words, the setting by which small objects vanish from masks, and the change that keeps them.

    >>> from medarts.config import make_source
    >>> shrinking(DataSettings(sources=(make_source("folder", "."),), size=64))
    ('at data.size 64', 'Raise data.size')
    """
    if settings.resize != "patches":
        return f"at data.size {settings.size}", "Raise data.size"
    if settings.spacing_mm is None:
        return f"at data.scale {settings.scale:g}", "Raise data.scale"
    return f"at data.spacing_mm {settings.spacing_mm:g}", "Lower data.spacing_mm"


def frame_image(image_hwc: NDArray[np.float32], framing: Framing, *, size: int | None) -> NDArray[np.float32]:
    """Returns an image (H, W, channels) in 0..1 as networks see it, (channels, size, size); padding is 0.

    Args:
        image_hwc: the image.
        framing: how it is framed.
        size: of the square; None without padding.
    """
    shape = (framing.rows, framing.columns)
    resized = resize_image(image_hwc, shape)
    return padded(resized, framing, shape if size is None else (size, size), fill=0)


def frame_mask(
    mask: NDArray[np.uint8], framing: Framing, *, size: int | None, number: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns a mask (..., H, W) as networks learn it, (..., size, size), and what became of each class, `mask_states`.

    Padding counts neither as background nor as a class (`IGNORE`).

    Args:
        mask: class indices, or 0 and 1 of classes that may overlap.
        framing: of its image.
        size: height and width that networks see; None without padding.
        number: of foreground classes.
    """
    shape = (framing.rows, framing.columns)
    resized = resize_mask(mask, shape, several=number > 1)
    states = mask_states(classes_in(mask), resized, number=number)
    return padded(resized, framing, shape if size is None else (size, size), fill=IGNORE), states


def unframed(values: Tensor, framing: Framing) -> Tensor:
    """Returns probabilities as networks give them (B, K, size, size) at the size of the file (B, K, height, width)."""
    inside: Tensor = framing.inside(values)
    if not framing.is_resized:
        return inside
    shape = (framing.height, framing.width)
    return F.interpolate(inside, size=shape, mode="bilinear", antialias=True).clamp(0, 1)


def _by_coverage(mask_hw: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Resizes a mask of several classes, see `resize_mask`."""
    values, areas = np.unique(mask_hw, return_counts=True)
    if len(values) == 1:
        return np.full(shape, values[0])
    coverage = np.stack([_covered(mask_hw == value, shape) for value in values])
    found = coverage.argmax(0)  # the first, which is background, where several cover as much
    for place in np.argsort(-areas, kind="stable"):  # the smallest last, so that it keeps what it gets
        if values[place] == 0:
            continue
        wanted = max(1, round(areas[place] / mask_hw.size * shape[0] * shape[1]))
        _add(found, int(place), coverage[place], wanted - np.count_nonzero(found == place))
    return np.asarray(values[found])


def _covered(inside_hw: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Returns the share of every pixel of the result that an area covers."""
    mask = torch.from_numpy(inside_hw.astype(np.float32))[None, None]
    share: NDArray[np.float32] = F.interpolate(mask, size=shape, mode="bilinear", antialias=True)[0, 0].numpy()
    return share


def _add(found: NDArray[np.intp], place: int, share: NDArray[np.float32], lacking: int) -> None:
    """Gives a class the pixels that it lacks, those of the largest share; of equal ones some, evenly spread."""
    others = np.flatnonzero((found != place) & (share > _LEAST_SHARE))
    if lacking <= 0 or not len(others):
        return
    shares = share.ravel()[others]
    last = np.sort(shares)[-min(lacking, len(others))]
    above, equal = others[shares > last + _LEAST_SHARE], others[np.abs(shares - last) <= _LEAST_SHARE]
    spread = np.linspace(0, len(equal) - 1, min(lacking - len(above), len(equal))).round().astype(np.intp)
    found.ravel()[np.concatenate([above, equal[spread]])] = place


def classes_in(mask: NDArray[np.uint8]) -> frozenset[int]:
    """Returns the foreground classes of a mask, class indices (H, W) or a mask of each (K, H, W)."""
    return frozenset(index for index, _ in planes_of(mask))


def vanished_classes(mask: NDArray[np.uint8], resized: NDArray[np.uint8]) -> tuple[int, ...]:
    """Returns the foreground classes that a mask has and its resized form lacks, in ascending order."""
    return tuple(sorted(classes_in(mask) - classes_in(resized)))


def mask_states(shown: Collection[int], resized: NDArray[np.uint8], *, number: int) -> NDArray[np.uint8]:
    """Returns a `MaskState` for every foreground class, (C,).

    Args:
        shown: the foreground classes that the mask has in its file.
        resized: the mask as it is stored.
        number: of foreground classes.
    """
    truths = np.full(number, MaskState.EMPTY, dtype=np.uint8)
    kept = classes_in(resized)
    truths[[index - 1 for index in kept]] = MaskState.PRESENT
    truths[[index - 1 for index in shown if index not in kept]] = MaskState.VANISHED
    return truths
