"""Volumes: the predicted and true masks of slices put together, and scored in three dimensions.

Slices of a volume are those of one file, or of the files of one series. They come in the order of the samples, in which
a volume is held until all of its slices are there.

A volume whose slices are not all among the scored ones has overlap, but no distances where a slice between two is
missing: the boundary there is not known.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medarts.data.formats import slices_around, spacing_of_files
from medarts.data.manifest import Sample
from medarts.data.reading import MaskState
from medarts.evaluation.truths import Stored, Truth, Truths
from medarts.metrics import metrics_of


@dataclass
class _Volume:
    members: list[Sample] = field(default_factory=list)
    slices: dict[int, tuple[Stored, Truth]] = field(default_factory=dict)


class Volumes:
    """The volumes that scored images belong to.

    Args:
        truths: of the images.
        indices: positions of the images in their store.
        names: of the foreground classes.
    """

    def __init__(self, truths: Truths, indices: Sequence[int], names: Sequence[str]) -> None:
        self._truths, self._names = truths, names
        volumes: dict[Hashable, _Volume] = defaultdict(_Volume)
        for index in indices if truths.of_files else ():
            sample = truths.store.manifest.samples[index]
            if (key := _volume_of(sample)) is not None:
                volumes[key].members.append(sample)
        self._volumes = {key: volume for key, volume in volumes.items() if len(volume.members) > 1}

    def add(self, index: int, decided: Stored, truth: Truth) -> Iterator[tuple[Any, ...]]:
        """Adds a slice; with the last of a volume, yields the rows of this volume and forgets it.

        Args:
            index: position of the image in its store.
            decided: the predicted mask.
            truth: the true one.
        """
        sample = self._truths.store.manifest.samples[index]
        key = _volume_of(sample)
        volume = self._volumes.get(key)
        if volume is None:
            return
        volume.slices[_place(sample)] = decided, truth
        if len(volume.slices) == len(volume.members):
            del self._volumes[key]
            yield from self._rows(volume)

    def _rows(self, volume: _Volume) -> Iterator[tuple[Any, ...]]:
        first, slices = volume.members[0], _in_order(volume)
        places = sorted(slices)
        decided, true = (np.stack([part(slices[place]) for place in places]) for part in (_decided, _stored))
        has_gaps = places[-1] - places[0] + 1 > len(places)
        in_mm = slices[places[0]][1].spacing is not None
        spacing = _spacing(first) if in_mm else None
        metrics = metrics_of("segmentation")
        for number, name in enumerate(self._names):
            found = self._truths.scores(decided, true, number, vanished=False, spacing=spacing)
            shown = any(truth.states[number] != MaskState.EMPTY for _, truth in slices.values())
            for one in metrics:
                undefined = has_gaps and one.measures in ("length", "share within")
                value = math.nan if undefined else found[one.name]
                about = (first.domain, _name(volume.members), first.patient, name, "present" if shown else "empty")
                yield *about, one.name, value, "volume", self._truths.unit(one, spacing, axes=3)


def _decided(of_slice: tuple[Stored, Truth]) -> Stored:
    return of_slice[0]


def _stored(of_slice: tuple[Stored, Truth]) -> Stored:
    return of_slice[1].stored


def _volume_of(sample: Sample) -> Hashable:
    """Returns what the slices of a volume have in common; None for an image that is no slice."""
    if sample.slice_index is not None:
        return sample.domain, sample.image, sample.key.rpartition("/")[0]  # a file may hold volumes of several times
    return (sample.domain, sample.series) if len(sample.series) > 1 else None


def _in_order(volume: _Volume) -> dict[int, tuple[Stored, Truth]]:
    """Returns the slices by their places in the volume; frames of a DICOM file may be in another order."""
    first = volume.members[0]
    if first.slice_index is None:
        return volume.slices
    run = slices_around(first.image, first.slice_index)
    return {run.index(number): of_slice for number, of_slice in volume.slices.items()}


def _place(sample: Sample) -> int:
    return sample.series.index(sample.image) if sample.slice_index is None else sample.slice_index


def _spacing(sample: Sample) -> tuple[float, float, float] | None:
    """Returns the distances of slices, rows and columns in mm; None where one is unknown."""
    files = sample.series if sample.slice_index is None else (sample.image,)
    row, column, between = spacing_of_files(files)
    return None if row is None or column is None or between is None else (between, row, column)


def _name(members: Sequence[Sample]) -> str:
    """Returns what the names of all slices begin with, such as "CT/3" of "CT/3/017"; else that of the first file."""
    found = {sample.key.rpartition("/")[0] for sample in members}
    common = next(iter(found)) if len(found) == 1 else ""
    return common or members[0].image.name
