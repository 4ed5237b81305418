"""From the values of a mask file to class indices: by labels that are numbers or colours, or as black and white."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medarts.config.data import BACKGROUND, IGNORED
from medarts.data.formats.raw import Raw
from medarts.data.levels import NEAR, MaskLevel
from medarts.data.manifest import ReadingRules
from medarts.data.meanings import as_labels, labels_text, meanings_of
from medarts.data.regions import Region, Regions, find_regions, surrounded
from medarts.errors import DataError

_Classes = NDArray[np.uint8]

_UNKNOWN = -1
_WHOLE = 1e-3
"""How near a stored value must be to a whole number to be that number: scaled and averaged masks are off by less."""

_SHOWN = 8

_LISTED = 16
"""Distinct colours beside those of labels that a mask without noise and smooth edges has at most."""

NEAR_LABEL = 48
"""Levels of 255 by which a colour may differ from that of a label, in every channel, and still be it."""

_FLAT = 16
"""Levels of 255 that the colours around a pixel span at most in an area of one colour, and seldom on an edge."""

_FAR = 0.25
"""Share of the pixels of a mask that may be far from all labels; the edges of all but the smallest objects are less."""

_BLOCK = 64
"""Pixels of a block of JPEG, which may be flat and of any value where it holds a part of something small."""


class ReadMask(NamedTuple):
    """A mask, and what it takes to tell whether the masks of a domain are alike.

    Attributes:
        classes: uint8 (H, W): 0 background, 1.. the classes; or 0 and 1 of classes that may overlap (K, H, W). Ignored
            pixels are `IGNORE`.
        levels: the values that it holds where it was read without labels; see `DomainLevels`.
        snapped: pixels that are of no labelled colour exactly, and count as of the nearest.
    """

    classes: _Classes
    levels: tuple[MaskLevel, ...] = ()
    snapped: int = 0


def by_index(rules: ReadingRules) -> bool:
    """Whether the labels are for the indices of palettes: they are numbers, and no colours."""
    return rules.labels is not None and not any(isinstance(value, str) for value, _ in rules.labels)


def classify(raw: Raw, rules: ReadingRules, *, path: Path) -> ReadMask:
    """Maps stored mask values to class indices.

    Without labels, a pixel is foreground where its brightest channel is above half of the type's range, or above
    0.5 in a mask that holds nothing above 1. The noise of JPEG and smooth edges are allowed; a mask with a third value
    or a second colour of its own is refused, as is one of values in between. With labels, 0 is background unless they
    say otherwise, and a value is the whole number within 0.001 of it. With colours among the labels, black is
    background, a number is that grey, and a pixel is of the nearest colour, see `_by_colour`; so it is with labels of
    greys that are far enough apart in JPEG files. In grey masks of more than 8 bits numbers are the values as stored
    nevertheless.

    Raises:
        DataError: a value that the labels do not name, no labels where they are needed, or a mask that is in the
            alpha channel.
    """
    if raw.veiled:
        raise DataError(
            f"All colours of {path} are alike, but not its transparency: the mask may lie in the alpha channel.",
            fix="Save the alpha channel as a grey mask (with Pillow: image.getchannel('A')).",
        )
    coloured = _is_coloured(raw.values)
    if rules.labels is not None and not coloured and _is_deep(raw) and are_mixed(rules.labels):
        return ReadMask(_looked_up(raw.values[..., 0], _greys(rules.labels, raw), raw, path))
    if rules.labels is not None and (not by_index(rules) or (not coloured and _are_apart(raw, rules.labels))):
        return _by_colour(raw, rules.labels, path)
    if rules.labels is None:
        return _foreground(_whole(raw.values if coloured else raw.values[..., :1]), raw, path)
    if coloured:
        found = find_regions(raw.values, limits=raw.range, lossy=raw.lossy)
        raise DataError(
            f"{path} is coloured ({_listed(found)}), but the labels of the source are numbers.",
            fix='Give the colours as labels, such as {"#ff0000": 1}; medarts doctor lists them.',
        )
    labels = {value: index for value, index in rules.labels if isinstance(value, int)}
    return ReadMask(_looked_up(raw.values[..., 0], {0: 0} | labels, raw, path))


def colour_of(value: int | str) -> tuple[int, int, int]:
    """Returns red, green and blue of a label: a colour, or a number that stands for a grey.

    >>> colour_of("#ff8000"), colour_of(7)
    ((255, 128, 0), (7, 7, 7))
    """
    if isinstance(value, int):
        return value, value, value
    red, green, blue = bytes.fromhex(value[1:])
    return red, green, blue


def _is_deep(raw: Raw) -> bool:
    """Whether a mask has values beyond those of 8 bits, which are no levels of colours."""
    return raw.range is None or raw.range[1] > 255


def are_mixed(labels: Sequence[tuple[int | str, int]]) -> bool:
    """Whether there are numbers among colours."""
    return {type(value) for value, _ in labels} == {int, str}


def _greys(labels: Sequence[tuple[int | str, int]], raw: Raw) -> dict[int, int]:
    """Returns labels for a grey mask of more than 8 bits: numbers, and the greys among colours by their part of it.

    The numbers are values as stored; black and the greys are what is seen, in an inverted file too.
    """
    white = 255 if raw.range is None else raw.range[1]
    inverted = raw.range is not None and raw.inverted
    colours = {colour_of(value): index for value, index in labels if isinstance(value, str)}
    greys = {
        round((255 - red if inverted else red) * white / 255): index
        for (red, *others), index in colours.items()
        if {red} == {*others}
    }
    return (
        {round(white) if inverted else 0: 0}
        | greys
        | {value: index for value, index in labels if isinstance(value, int)}
    )


def _are_apart(raw: Raw, labels: Sequence[tuple[int | str, int]]) -> bool:
    """Whether a file is compressed with loss, and its labels so far apart that each value is near one alone."""
    values = np.sort([0, *(value for value, _ in labels if isinstance(value, int))])
    steps = np.diff(np.unique(values))
    return raw.lossy and raw.range == (0.0, 255.0) and len(steps) > 0 and bool(steps.min() > 2 * NEAR_LABEL)


def snapped_words(shares: Sequence[float]) -> str:
    """Returns how much of the masks of a data set is of no labelled colour exactly, as a sentence.

    Args:
        shares: of the pixels of every mask.

    >>> snapped_words([0.0, 0.02, 0.04])
    '2.0% of the mask pixels (in 2 of 3 masks) are of no labelled colour and count as of the nearest.'
    """
    share = sum(shares) / len(shares)
    number = sum(each > 0 for each in shares)
    return (
        f"{share:.1%} of the mask pixels (in {number} of {len(shares)} masks) are of no labelled colour and count as "
        "of the nearest."
    )


def _by_colour(raw: Raw, labels: Sequence[tuple[int | str, int]], path: Path) -> ReadMask:
    """Returns the classes of a mask by the nearest labelled colour.

    JPEG and resizing change colours, slightly within an area and to anything between two colours at its edge. So a
    pixel farther than `NEAR_LABEL` from all labels is taken for an edge, unless it lies in an area of one colour, or
    the file has so few colours that it has no such edges; and unless such pixels are more than `_FAR` of all.

    Raises:
        DataError: there is a colour that the labels do not name.
    """
    of_8_bits = (label for label in labels if isinstance(label[0], str) or label[0] <= 255)
    known = {colour_of(value): index for value, index in (("#000000", 0), *of_8_bits)}
    table = np.array([*known], np.int16)
    rgb = _rgb(raw, path)
    codes = (rgb.astype(np.uint32) * np.array([1 << 16, 1 << 8, 1], np.uint32)).sum(2, dtype=np.uint32)
    classes = np.zeros(codes.shape, np.uint8)
    exact = np.zeros(codes.shape, np.bool_)
    for colour, index in known.items():
        here = codes == (colour[0] << 16 | colour[1] << 8 | colour[2])
        classes[here] = index
        exact |= here
    if exact.all():
        return ReadMask(classes)
    others, places = np.unique(codes[~exact], return_inverse=True)
    colours = np.stack([others >> 16, others >> 8 & 255, others & 255], 1).astype(np.int16)
    apart = np.abs(colours[:, None] - table[None]).max(2)
    classes[~exact] = np.array([*known.values()], np.uint8)[apart.argmin(1)][places]
    far = np.zeros(codes.shape, np.bool_)
    far[~exact] = (apart.min(1) > NEAR_LABEL)[places]
    if far.any():
        noisy = raw.lossy or len(others) > _LISTED
        _refuse_colours(rgb, codes, far, noisy=noisy, known=known, path=path)
    return ReadMask(classes, snapped=int((~exact).sum()))


def _rgb(raw: Raw, path: Path) -> NDArray[np.uint8]:
    """Returns a mask as red, green and blue in levels of 255; a grey one has all three alike."""
    if raw.range is None:
        raise DataError(
            f"{path} stores {raw.values.dtype} values, which are no colours.",
            fix="Give the labels of the source as numbers, or save the mask in 8 bits.",
        )
    low, high = raw.range
    values = raw.values[..., :3] if raw.values.shape[2] >= 3 else raw.values[..., :1]
    if (low, high) != (0.0, 255.0):
        values = np.rint((values.astype(np.float64) - low) * (255 / (high - low)))
    values = (255 - values if raw.inverted else values).astype(np.uint8)
    return np.asarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def _refuse_colours(
    rgb: NDArray[np.uint8],
    codes: NDArray[np.uint32],
    far: NDArray[np.bool_],
    *,
    noisy: bool,
    known: Collection[tuple[int, int, int]],
    path: Path,
) -> None:
    """Raises a DataError where pixels far from all labels are of a colour of their own, see `_by_colour`."""
    from scipy import ndimage

    own = far
    if noisy:
        around = (3, 3, 1)
        spans = ndimage.maximum_filter(rgb, around) - ndimage.minimum_filter(rgb, around)
        own = far & (spans.max(2) <= _FLAT)
        if own.sum() < _BLOCK and far.mean() <= _FAR:
            return
        own = own if own.any() else far
    held, counts = np.unique(codes[own], return_counts=True)
    first = [f"#{code:06x}" for code in held[np.argsort(-counts, kind="stable")][:3].tolist()]
    labels = ", ".join("#" + bytes(colour).hex() for colour in [*known][:_SHOWN])
    raise DataError(
        f"{path} holds the {'colours' if len(first) > 1 else 'colour'} {', '.join(first)} in {int(own.sum())} pixels; "
        f"the labels of the source know {labels}.",
        fix="Add them to the labels, as a class, background or ignore; medarts doctor lists all.",
    )


def _is_coloured(values: NDArray[Any]) -> bool:
    """Tells whether the channels of an array HWC differ anywhere."""
    return any(not np.array_equal(values[..., 0], values[..., channel]) for channel in range(1, values.shape[2]))


def _whole(values: NDArray[Any]) -> NDArray[Any]:
    """Returns the values with those that are whole but for rounding made whole."""
    if values.dtype.kind != "f":
        return values
    values = values.astype(np.result_type(values.dtype, np.float32), copy=False)  # half precision has few functions
    rounded = np.rint(values)
    return np.where(np.abs(values - rounded) <= _WHOLE, rounded, values)


def _foreground(values: NDArray[Any], raw: Raw, path: Path) -> ReadMask:
    """Returns the foreground of a mask HWC as class 1."""
    if values.min() < 0:
        raise DataError(
            f"{path} holds negative values (down to {_digits(values.min())}), which no mask has.",
            fix="Save its classes as 0, 1, 2 and so on.",
        )
    brightest = values.max(axis=2) if values.shape[2] > 1 else values[..., 0]
    if raw.range is not None and raw.inverted:
        brightest = sum(raw.range) - brightest
    top = brightest.max()
    limits = raw.range or ((0.0, 1.0) if top <= 1 else None)
    found = find_regions(values, limits=limits, lossy=raw.lossy)
    half = 0.5 if top <= 1 else sum(limits) / 2 if limits else np.inf
    if top > 1 and top <= half:
        raise DataError(
            f"{path} holds {raw.values.dtype} values up to {_digits(top)}, neither 0 and 1 nor above half of its "
            "range, and the source has no labels.",
            fix=_advice(found, raw),
        )
    mask = brightest > half
    if len(found.found) > 2:
        raise DataError(
            f"{path} holds {_listed(found)}, more than a background and one class.", fix=_advice(found, raw)
        )
    if len(found.found) == 2 and (mask.all() or not mask.any()):
        raise DataError(
            f"{path} holds {_listed(found)}, which lie on the same side of half its range.",
            fix=_advice(found, raw),
        )
    white = (0.0, 1.0) if top <= 1 else limits or (0.0, 1.0)
    levels = tuple(_levels(values, found, raw, path, white=white))
    return ReadMask(np.asarray(mask, dtype=np.uint8), levels)


def _levels(
    values: NDArray[Any], found: Regions, raw: Raw, path: Path, *, white: tuple[float, float]
) -> Iterator[MaskLevel]:
    """Yields the regions that fill an area; black and white are taken to do, as no edge and no noise ends there.

    Args:
        values: array HWC.
    """
    exact = len(found.every) == len(found.found) and not raw.lossy
    for region in found.found:
        parts = [(number - white[0]) / (white[1] - white[0]) for number in region.value]
        parts = [1 - part for part in parts] if raw.inverted else parts
        red, green, blue = parts[:3] if len(parts) >= 3 else [max(parts)] * 3
        brightest = max(red, green, blue)
        if NEAR < brightest < 1 and surrounded(values, region.value) <= (0 if exact else _BLOCK):
            continue
        colour = len(set(region.value)) > 1
        label = None
        if colour and raw.palette is not None:
            label = _index_of(region.value, raw.palette)
        elif not colour and not raw.inverted and region.value[0] == int(region.value[0]):
            label = int(region.value[0])
        yield MaskLevel(path, region.value, (red, green, blue), brightest > 0.5, label, exact)


def _index_of(colour: tuple[float, ...], palette: NDArray[np.uint8]) -> int:
    return int((palette == np.asarray(colour)).all(axis=1).argmax())


def _listed(regions: Regions) -> str:
    """Returns the values or colours of regions in words."""
    values = [region.value for region in regions.every or regions.found]
    names = [_digits(value[0]) if len(set(value)) == 1 else f"({', '.join(map(_digits, value))})" for value in values]
    shown = ", ".join(names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"the {'colours' if any(len(set(value)) > 1 for value in values) else 'values'} {shown}{more}"


def _advice(regions: Regions, raw: Raw) -> str:
    """Returns what makes classes of the regions of a mask: the labels to give, after what they need first."""
    found = regions.every or regions.found
    first = "" if regions.every else "Save it without JPEG noise and smooth edges. "
    if any(len(set(region.value)) > 1 for region in found):
        if raw.palette is None:
            return f"{first}Give the source labels, such as {_colour_labels(found, raw)}."
        found = _indexed(found, raw.palette)
    labels = {} if any(region.value[0] != int(region.value[0]) for region in found) else _labels(found)
    if not labels:
        return f"{first}Save its classes as whole numbers, and give the source labels."
    noise = ""
    if labels == {1: 1, 255: IGNORED}:  # what JPEG of the best quality, saved again as PNG, can leave too
        noise = ", or {1: 0, 255: 1} where 1 is noise"
    text = ", ".join(f"{value}: {meaning}" for value, meaning in labels.items())
    return f"{first}Give the source labels, such as {{{text}}}{noise}."


def _colour_labels(found: tuple[Region, ...], raw: Raw) -> str:
    """Returns labels for the colours of regions, the black one being background, as a recipe has them."""
    low, high = raw.range or (0.0, 255.0)
    levels = [[round((part - low) * 255 / (high - low)) for part in region.value[:3]] for region in found]
    return labels_text([bytes(level) for level in levels])


def _indexed(found: tuple[Region, ...], palette: NDArray[np.uint8]) -> tuple[Region, ...]:
    """Returns the regions with indices of the palette in place of its colours."""
    indices = [_index_of(region.value, palette) for region in found]
    pairs = sorted(zip(indices, found, strict=True), key=lambda pair: pair[0])
    return tuple(Region((float(index),), region.pixels) for index, region in pairs)


def _labels(found: Sequence[Region]) -> dict[int, int | str]:
    """Returns the likely classes of values, 0 for background."""
    pixels = {int(region.value[0]): region.pixels for region in found}
    if not any(pixels):
        return {}
    return {value: 0 if meaning == BACKGROUND else meaning for value, meaning in as_labels(meanings_of(pixels)).items()}


def _looked_up(values: NDArray[Any], labels: dict[int, int], raw: Raw, path: Path) -> _Classes:
    """Returns the classes of a grey mask HW."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        table = np.full(np.iinfo(values.dtype).max + 1, _UNKNOWN, dtype=np.int16)
        for value, index in labels.items():
            table[value : value + 1] = index  # a label beyond the type, as of 16 bits in a mask of 8, changes nothing
        classes = table[values]
    else:
        table = np.full(max(labels) + 2, _UNKNOWN, dtype=np.int16)
        for value, index in labels.items():
            table[value] = index
        values = _whole(values)
        # The last entry of the table stays unknown and stands for every value beyond it.
        fits = (values >= 0) & (values <= max(labels)) & (values == np.rint(values))
        classes = table[np.where(fits, values, max(labels) + 1).astype(np.int64)]
    if (unknown := classes == _UNKNOWN).any():
        raise _unknown_label(values[unknown], labels, raw, path)
    return np.asarray(classes, dtype=np.uint8)


def _unknown_label(strange: NDArray[Any], labels: dict[int, int], raw: Raw, path: Path) -> DataError:
    names = ", ".join(map(_digits, np.unique(strange)[:5]))
    known = sorted(labels)
    shown = ", ".join(map(str, known)) if len(known) <= _SHOWN else f"{len(known)} values to {known[-1]}"
    problem = f"{path} holds the label {names} in {strange.size} pixels; the source knows {shown}."
    if raw.palette is not None:  # of greys, for those of a coloured palette would be indices here
        return DataError(
            f"{problem} Its palette is grey, so that its grey values are read and not its indices.",
            fix="Give labels for the grey values.",
        )
    return DataError(problem, fix="Add the value to the labels of the source, or correct the mask.")


def _digits(value: Any) -> str:
    """Returns a number with all the digits that tell it from its neighbours."""
    return str(int(value)) if value == int(value) else str(value)
