"""The masks of samples as class indices: of one file, a file for every class, or annotations of objects."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medarts.config.data import IGNORE
from medarts.data.classifying import ReadMask, by_index, classify
from medarts.data.formats import holds_objects, raw_mask, values_of_objects
from medarts.data.formats.raw import Raw
from medarts.data.levels import MaskLevel
from medarts.data.manifest import ReadingRules, Sample
from medarts.errors import DataError

Mask = NDArray[np.uint8]

_SHOWN = 8


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
    if overlap and holds_objects(sample.mask):
        return ReadMask(_of_objects(sample, sample.mask, rules, names))
    found = classify(stored_mask(sample, rules), rules, path=sample.mask)
    if not overlap:
        return found
    check_classes(sample, found.classes, names, named=True)
    return found._replace(classes=_separated(found.classes, len(names)))


def _of_objects(sample: Sample, path: Path, rules: ReadingRules, names: Sequence[str]) -> Mask:
    """Returns annotations of objects as a mask of every class, also where these overlap.

    What lies under an object that is ignored counts only where it is of a class.

    Args:
        sample: it belongs to.
        path: of the annotations.
        rules: with the classes of categories.
        names: of the foreground classes.

    Raises:
        DataError: an object is of a category that the labels do not name, or of a class that is none.
    """
    known = {value: of for value, of in rules.labels or () if isinstance(value, int)}

    def raw_of(values: Iterable[int]) -> Raw:
        return raw_mask(path, indices=True, image=sample.image, objects=tuple(values))

    def drawn(index: int) -> NDArray[np.bool_]:
        return np.asarray(raw_of(value for value, of in known.items() if of == index).values[..., 0] != 0)

    read = {0, IGNORE, *range(1, len(names) + 1)}
    others = [value for value in values_of_objects(path) if known.get(value) not in read]
    if others:  # which no plane has; objects that are known do not hide them here
        check_classes(sample, classify(raw_of(others), rules, path=path).classes, names, named=True)
    planes: Mask = np.stack([drawn(index) for index in range(1, len(names) + 1)]).astype(np.uint8)
    return np.where(drawn(IGNORE) & (planes == 0), np.uint8(IGNORE), planes)


def stored_mask(sample: Sample, rules: ReadingRules) -> Raw:
    """Reads the mask of a sample, or that of its first class, as stored, in the order of its image.

    Raises:
        DataError: the file cannot be read, or does not lie on the grid of the image.
    """
    if sample.mask is None:
        raise ValueError(f"{sample.key} has findings, no mask")
    return raw_mask(sample.mask, sample.slice_index, indices=by_index(rules), image=sample.image)


def raw_of_class(sample: Sample, rules: ReadingRules, name: str, path: Path) -> Raw:
    """Reads the mask of one class of a sample as stored, in the order of its image.

    Args:
        sample: with a mask file for every class; files of segments that have names may be the same.
        rules: how it is read.
        name: of the class.
        path: of its file.

    Raises:
        DataError: the file cannot be read, or does not lie on the grid of the image.
    """
    segments = tuple(segment for segment, of in rules.segments if of == name)
    return raw_mask(path, sample.slice_index, indices=by_index(rules), image=sample.image, segments=segments)


def check_classes(sample: Sample, mask: Mask, names: Sequence[str], *, named: bool) -> None:
    """Raises a DataError where a mask holds the index of a class that is none.

    Args:
        sample: it belongs to.
        mask: class indices (H, W).
        names: of the foreground classes.
        named: whether the recipe names them, not their number alone.
    """
    found = int(mask[mask != IGNORE].max(initial=0))
    if found > len(names):
        more = "Name the others in data.classes, too" if named else f"Set data.classes={found + 1}"
        raise DataError(
            f"{sample.mask} holds class {found}, data.classes allows 0 to {len(names)}, {_in_words(names)}.",
            fix=f"{more}, or map its values with the source's 'labels'.",
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
    snapped = 0
    for name, path in sample.class_masks:
        if name not in names:
            raise DataError(
                f"{path} is a mask of '{name}', and data.classes has {_in_words(names)}.",
                fix=f"Name the classes: data.classes=[{', '.join(each for each, _ in sample.class_masks)}].",
            )
        read = classify(raw_of_class(sample, rules, name, path), rules, path=path)
        planes[name] = np.where(read.classes == IGNORE, np.uint8(IGNORE), np.minimum(read.classes, np.uint8(1)))
        levels += (replace(level, of=name) for level in read.levels)
        snapped += read.snapped
        first = sample.class_masks[0]
        if planes[name].shape != planes[first[0]].shape:
            one, other = (" x ".join(map(str, planes[each].shape)) for each in (name, first[0]))
            raise DataError(
                f"{path} is {one} pixels but {first[1]}, of the same image, is {other}.", fix="Save both in one size."
            )
    empty = np.zeros_like(next(iter(planes.values())))
    whole = np.stack([planes.get(name, empty) for name in names])
    return ReadMask(whole if overlap else _joined(whole, sample, names), tuple(levels), snapped)


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
