"""What an image is made of: one file, or several files and neighbouring slices whose channels are stacked."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medarts.data.formats import raw_image, slices_around
from medarts.data.formats.raw import Raw
from medarts.data.images import Image, fit_channels, scale
from medarts.data.manifest import ReadingRules, Sample
from medarts.errors import DataError


class Part(NamedTuple):
    """A file, or a slice of it, that gives channels of an image.

    Attributes:
        path: the file.
        slice_index: slice, frame or page; None for files with a single image.
        beside: the first file of the image, for those that follow it.
    """

    path: Path
    slice_index: int | None = None
    beside: Path | None = None

    def read(self) -> Raw:
        """Reads it as stored; raises a DataError as `raw_image` does."""
        return raw_image(self.path, self.slice_index, beside=self.beside)


def parts_of(sample: Sample, *, context: int = 0) -> list[Part]:
    """Returns the parts of an image in the order of their channels: file by file, of each the slices in their order.

    Args:
        context: neighbouring slices on either side; at the ends of a volume its last slice is repeated.

    Raises:
        DataError: there are to be neighbours, and the image is no slice of a volume; or a header cannot be read.
    """
    files = [(sample.image, None), *((path, sample.image) for path in sample.more)]
    if not context:
        return [Part(path, sample.slice_index, beside) for path, beside in files]
    if sample.series and not sample.more:
        place = sample.series.index(sample.image)
        return [Part(sample.series[number]) for number in neighbours(place, len(sample.series), context=context)]
    if sample.slice_index is None:
        raise DataError(
            f"{sample.image} is no slice of a volume, so it has no neighbours.",
            fix="Set data.context to 0, or give volumes (NIfTI) or series.",
        )
    run = slices_around(sample.image, sample.slice_index)
    numbers = neighbours(run.index(sample.slice_index), len(run), context=context)
    return [Part(path, run[number], beside) for path, beside in files for number in numbers]


def neighbours(place: int, count: int, *, context: int) -> list[int]:
    """Returns a slice with its neighbours; beyond the ends the last slice is repeated.

    >>> neighbours(0, 5, context=1), neighbours(2, 5, context=1)
    ([0, 0, 1], [1, 2, 3])
    """
    return [min(max(number, 0), count - 1) for number in range(place - context, place + context + 1)]


def read_parts(sample: Sample, *, context: int = 0) -> Iterator[tuple[Path, Raw]]:
    """Yields the parts of an image as stored, each with its file.

    Raises:
        DataError: a file cannot be read, or has another size or grid than the first one.
    """
    first: Raw | None = None
    for part in parts_of(sample, context=context):
        raw = part.read()
        first = first or raw
        if raw.values.shape[:2] != first.values.shape[:2]:
            (height, width), (tall, wide) = raw.values.shape[:2], first.values.shape[:2]
            raise DataError(
                f"{part.path} is {height} x {width} pixels but {sample.image}, whose channels it follows, is {tall} x "
                f"{wide}.",
                fix="Resample both to one size; their channels are stacked.",
            )
        yield part.path, raw


def channels_of(sample: Sample, *, context: int = 0) -> tuple[int, ...]:
    """Returns the channels of each part of an image; of an image of one part, which is not read, nothing."""
    if not context and not sample.more:
        return ()
    return tuple(raw.values.shape[2] for _, raw in read_parts(sample, context=context))


def stacked(parts: Sequence[tuple[Path, Raw]], rules: ReadingRules, *, channels: int) -> Image:
    """Returns the parts of an image as one, each scaled by itself.

    Args:
        parts: files and what they hold.
        rules: by which they are scaled.
        channels: channels wanted. A single part may have others, see `fit_channels`.

    Returns:
        float32 (H, W, channels) in 0..1.

    Raises:
        DataError: a range is unknown and the rules give none, or the channels are others.
    """
    scaled = [scale(raw, rules, path=path) for path, raw in parts]
    path = parts[0][0]
    if len(scaled) == 1:
        return fit_channels(scaled[0], channels, path=path)
    image = np.concatenate(scaled, axis=2)
    if image.shape[2] != channels:
        raise DataError(
            f"{path} and the {len(parts) - 1} files or slices that follow it have {image.shape[2]} channels, but "
            f"{channels} are expected.",
            fix=f"Set data.in_channels to {image.shape[2]}.",
        )
    return image
