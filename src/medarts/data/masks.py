"""Masks as class indices: by the labels of their source, or as foreground and background where they are binary.

A single mask that holds one class looks binary whatever its value is; that there are several classes shows only where
another file has another value. So the values of masks without labels are compared over all files of a domain, for
foreground and background alike:

- Values are compared as parts of their type's range, so that 1 of 1 bit, 255 of 8 and 65535 of 16 are all white, and as
  colours, so that red and green differ. Those within ``NEAR`` are one: JPEG and rounding move values by less.
- A file that holds nothing above 1 is taken for 0 and 1. Sets with 0/1 in some files and 0/255 in others exist, written
  by two programs, and 1 and 255 are then the same. They are not where a file has both of them: 1 would be background
  there and foreground elsewhere.
- Only values that fill some area count. A soft spot has a peak of any value, and JPEG makes blocks of any value.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medarts.data.formats import raw_mask
from medarts.data.formats.raw import Raw
from medarts.data.manifest import ReadingRules, Sample
from medarts.data.regions import Region, Regions, find_regions, surrounded
from medarts.errors import DataError

Mask = NDArray[np.uint8]

IGNORE = 255
"""Class index of pixels that neither losses nor metrics count."""

NEAR = 32 / 255
"""Parts of the range by which values may differ and still be one; colours of palettes differ by 64 of 255 or more."""

_UNKNOWN = -1
_WHOLE = 1e-3
"""How near a stored value must be to a whole number to be that number: scaled and averaged masks are off by less."""

_INDEX = 64
"""Values below it are taken for class indices where the only other value is the highest one, a mark for void."""

_SHOWN = 8

_BLOCK = 64
"""Pixels of a block of JPEG, which may be flat and of any value where it holds a part of something small."""


@dataclass(frozen=True, slots=True)
class MaskLevel:
    """A value that fills an area of a mask without labels.

    Attributes:
        path: the file.
        value: as stored: one number, or one a channel.
        colour: red, green and blue as parts of the range, 0 black and 1 white.
        foreground: it is read as foreground.
        label: the number that a label of the source would name, None where none can.
        exact: the file has no noise and no smooth edges.
        of: the class whose mask the file is, where every class has a file of its own.
    """

    path: Path
    value: tuple[float, ...]
    colour: tuple[float, float, float]
    foreground: bool
    label: int | None
    exact: bool
    of: str = ""

    @property
    def name(self) -> str:
        """The value in words, such as "128" or "(255, 0, 0)"."""
        numbers = [f"{number:g}" for number in self.value]
        return numbers[0] if len(set(numbers)) == 1 else f"({', '.join(numbers)})"

    def is_near(self, other: "MaskLevel") -> bool:
        """Tells whether two levels are one."""
        return all(abs(one - two) <= NEAR for one, two in zip(self.colour, other.colour, strict=True))


class DomainLevels:
    """The levels of a domain's masks, taken together as they are read."""

    def __init__(self) -> None:
        self._groups: list[dict[int | None, MaskLevel]] = []  # near each other, the first of every label
        self._sides: dict[tuple[str, int, bool], MaskLevel] = {}  # of exact files, by class, label and side

    def add(self, levels: Iterable[MaskLevel]) -> None:
        """Adds the levels of a mask."""
        for level in levels:
            if level.exact and level.label is not None:
                self._sides.setdefault((level.of, level.label, level.foreground), level)
            for group in self._groups:
                first = next(iter(group.values()))
                if (first.of, first.foreground) == (level.of, level.foreground) and first.is_near(level):
                    group.setdefault(level.label, level)
                    break
            else:
                self._groups.append({level.label: level})

    def problem(self, domain: str) -> DataError | None:
        """Returns what is wrong with the masks of a domain, None where they are binary as far as they were added."""
        sides: dict[tuple[str, bool], list[MaskLevel]] = {}
        for group in self._groups:
            first = next(iter(group.values()))
            sides.setdefault((first.of, not first.foreground), []).append(first)
        for _, levels in sorted(sides.items(), key=lambda side: side[0]):
            if len(levels) > 1:
                return self._several(levels, domain)
        for (of, label, foreground), level in self._sides.items():
            other = self._sides.get((of, label, not foreground))
            if foreground and other is not None:
                return DataError(
                    f"The value {level.name} is the foreground of some masks of {domain} ({level.path}) and the "
                    f"background of others ({other.path}).",
                    fix=f"Give the source labels, such as {{{label}: 1, 255: 2}}, or {{{label}: 1, 255: 0}} where 255 "
                    "marks no class.",
                )
        return None

    def _several(self, levels: list[MaskLevel], domain: str) -> DataError:
        levels = sorted(levels, key=lambda level: level.value)
        what = "colours" if any(len(set(level.value)) > 1 for level in levels) else "values"
        side = "foreground" if levels[0].foreground else "background"
        shown = ", ".join(f"{level.name} ({level.path})" for level in levels[:_SHOWN])
        more = f" and {len(levels) - _SHOWN} more" if len(levels) > _SHOWN else ""
        return DataError(
            f"The masks of {domain} have different {side} {what}, which may be several classes: {shown}{more}.",
            fix=self._advice(),
        )

    def _advice(self) -> str:
        every = [level for group in self._groups for level in group.values()]
        first = "" if all(level.exact for level in every) else "Save the masks without JPEG noise and smooth edges. "
        labels = self._labels()
        if labels is None:
            return f"{first}Save the classes as grey values or as indices of one palette, and give the source labels."
        return f"{first}Give the source labels, such as {labels}."

    def _labels(self) -> dict[int, int] | None:
        """Returns a class for every value, the black ones being background; None where numbers do not tell them."""
        labels: dict[int, int] = {}
        groups = sorted(self._groups, key=lambda group: next(iter(group.values())).value)
        classes = iter(range(1, len(groups) + 1))
        for group in groups:
            black = max(next(iter(group.values())).colour) <= NEAR
            index = 0 if black else next(classes)
            for label in group:
                if label is None or labels.setdefault(label, index) != index:
                    return None
        return {label: labels[label] for label in sorted(labels) if label != 0 or labels[label] != 0}


class ReadMask(NamedTuple):
    """A mask, and what it takes to tell whether the masks of a domain are alike.

    Attributes:
        classes: uint8 (H, W): 0 background, 1.. the classes; or 0 and 1 of classes that may overlap (K, H, W). Ignored
            pixels are `IGNORE`.
        levels: the values that it holds where it was read without labels; see `DomainLevels`.
    """

    classes: Mask
    levels: tuple[MaskLevel, ...] = ()


def read_mask(sample: Sample, rules: ReadingRules, *, names: Sequence[str] = (), overlap: bool = False) -> ReadMask:
    """Reads the mask of a sample, in the order of its image.

    Where every class has a file of its own, each is read as a mask of one class; a class without a file is not there.

    Args:
        sample: with its file or files.
        rules: how they are read.
        names: of the foreground classes, in the order of their indices; needed for several files, and for overlap.
        overlap: a pixel may be of several classes.

    Raises:
        DataError: a file cannot be read, does not lie on the grid of the image, holds a value that the labels do not
            name, or more than two classes without labels; of several files, one is of no known class, or a pixel is of
            two classes and may not.
    """
    if sample.mask is None:
        raise ValueError(f"{sample.key} has findings, no mask")
    if sample.class_masks:
        return _of_files(sample, rules, names=names, overlap=overlap)
    found = classify(stored_mask(sample, rules), rules, path=sample.mask)
    if not overlap:
        return found
    check_classes(sample, found.classes, names)
    return found._replace(classes=_separated(found.classes, len(names)))


def stored_mask(sample: Sample, rules: ReadingRules) -> Raw:
    """Reads the mask of a sample, or that of its first class, as stored, in the order of its image.

    Raises:
        DataError: the file cannot be read, or does not lie on the grid of the image.
    """
    if sample.mask is None:
        raise ValueError(f"{sample.key} has findings, no mask")
    return raw_mask(sample.mask, sample.slice_index, indices=rules.labels is not None, image=sample.image)


def check_classes(sample: Sample, mask: Mask, names: Sequence[str]) -> None:
    """Raises a DataError where a mask holds the index of a class that is none.

    Args:
        sample: it belongs to.
        mask: class indices (H, W).
        names: of the foreground classes.
    """
    found = int(mask[mask != IGNORE].max(initial=0))
    if found > len(names):
        raise DataError(
            f"{sample.mask} holds class {found}, data.classes allows 0 to {len(names)}, {_in_words(names)}.",
            fix=f"Set data.classes={found + 1}, or map its values with the source's 'labels'.",
        )


def planes_of(mask: Mask) -> list[tuple[int, NDArray[np.bool_]]]:
    """Returns the foreground classes that a mask shows, each with where it does (H, W).

    Args:
        mask: class indices (H, W), or 0 and 1 of classes that may overlap (K, H, W).
    """
    if mask.ndim == 3:
        planes = [(index, plane == 1) for index, plane in enumerate(mask, 1)]
        return [(index, plane) for index, plane in planes if plane.any()]
    return [(int(index), mask == index) for index in np.unique(mask) if index not in (0, IGNORE)]


def _in_words(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _separated(indices: Mask, number: int) -> Mask:
    """Returns class indices (H, W) as a mask of every class (K, H, W); what is ignored is so in all."""
    planes: Mask = (indices == np.arange(1, number + 1).reshape(-1, 1, 1)).astype(np.uint8)
    planes[:, indices == IGNORE] = IGNORE
    return planes


def _of_files(sample: Sample, rules: ReadingRules, *, names: Sequence[str], overlap: bool) -> ReadMask:
    """Reads a mask that has a file for every class, each with all that is not background in it as its class."""
    planes: dict[str, Mask] = {}
    levels: list[MaskLevel] = []
    for name, path in sample.class_masks:
        if name not in names:
            raise DataError(
                f"{path} is a mask of '{name}', and data.classes has {_in_words(names)}.",
                fix=f"Name the classes: data.classes=[{', '.join(each for each, _ in sample.class_masks)}].",
            )
        raw = raw_mask(path, sample.slice_index, indices=rules.labels is not None, image=sample.image)
        read = classify(raw, rules, path=path)
        planes[name] = np.where(read.classes == IGNORE, np.uint8(IGNORE), np.minimum(read.classes, np.uint8(1)))
        levels += (replace(level, of=name) for level in read.levels)
        first = sample.class_masks[0]
        if planes[name].shape != planes[first[0]].shape:
            one, other = (" x ".join(map(str, planes[each].shape)) for each in (name, first[0]))
            raise DataError(
                f"{path} is {one} pixels but {first[1]}, of the same image, is {other}.", fix="Save both in one size."
            )
    empty = np.zeros_like(next(iter(planes.values())))
    whole = np.stack([planes.get(name, empty) for name in names])
    return ReadMask(whole if overlap else _joined(whole, sample, names), tuple(levels))


def _joined(planes: Mask, sample: Sample, names: Sequence[str]) -> Mask:
    """Returns the class of every pixel; what is ignored in one file is of no other class only if none shows it.

    Raises:
        DataError: a pixel is of two classes.
    """
    shown = planes == 1
    if (several := shown.sum(0) > 1).any():
        paths = dict(sample.class_masks)
        row, column = np.argwhere(several)[0]
        one, other = (names[index] for index in np.flatnonzero(shown[:, row, column])[:2])
        raise DataError(
            f"{paths[one]} and {paths[other]} overlap in {int(several.sum())} pixels.",
            fix="Set data.overlap=true, so that a pixel may be of several classes, or correct the masks.",
        )
    indices = np.where(shown.any(0), shown.argmax(0) + 1, 0)
    return np.where((planes == IGNORE).any(0) & ~shown.any(0), IGNORE, indices).astype(np.uint8)


def classify(raw: Raw, rules: ReadingRules, *, path: Path) -> ReadMask:
    """Maps stored mask values to class indices.

    Without labels, a pixel is foreground where its brightest channel is above half of the type's range, or above
    0.5 in a mask that holds nothing above 1. The noise of JPEG and smooth edges are allowed; a mask with a third value
    or a second colour of its own is refused, as is one of values in between. With labels, 0 is background unless they
    say otherwise, and a value is the whole number within 0.001 of it.

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
    if rules.labels is None:
        return _foreground(_whole(raw.values if coloured else raw.values[..., :1]), raw, path)
    if coloured:
        raise DataError(
            f"{path} is a coloured mask, but the source has labels.",
            fix="Save the classes as grey values or as indices of a palette.",
        )
    return ReadMask(_looked_up(raw.values[..., 0], {0: 0} | dict(rules.labels), raw, path))


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
            return f"{first}Save its classes as grey values or as indices of a palette, and give the source labels."
        found = _indexed(found, raw.palette)
    labels = {} if any(region.value[0] != int(region.value[0]) for region in found) else _labels(found, raw)
    if not labels:
        return f"{first}Save its classes as whole numbers, and give the source labels."
    if labels == {1: 1, 255: 0}:  # what JPEG of the best quality, saved again as PNG, can leave too
        return "Give the source labels, such as {1: 1, 255: 0}, or {1: 0, 255: 1} where 1 is noise."
    return f"{first}Give the source labels, such as {labels}."


def _indexed(found: tuple[Region, ...], palette: NDArray[np.uint8]) -> tuple[Region, ...]:
    """Returns the regions with indices of the palette in place of its colours."""
    indices = [_index_of(region.value, palette) for region in found]
    pairs = sorted(zip(indices, found, strict=True), key=lambda pair: pair[0])
    return tuple(Region((float(index),), region.pixels) for index, region in pairs)


def _labels(found: tuple[Region, ...], raw: Raw) -> dict[int, int]:
    """Returns the likely classes of values: a lone highest value is void, else the ground may be white."""
    values = [int(region.value[0]) for region in found]
    if not any(values):
        return {}
    largest = int(max(found, key=lambda region: region.pixels).value[0])
    highest = raw.range is not None and values[-1] == raw.range[1]
    void = highest and len(values) > 2 and values[0] == 0 and values[-2] < _INDEX
    if void or (values[0] == 0 and not (highest and largest == values[-1])) or len(values) == 1:
        ground = {0}
    else:
        ground = {largest}
    ground |= {values[-1]} if void else set()
    classes = iter(range(1, len(values) + 1))
    return {value: 0 if value in ground else next(classes) for value in values if value != 0 or 0 not in ground}


def _looked_up(values: NDArray[Any], labels: dict[int, int], raw: Raw, path: Path) -> Mask:
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
