"""Volumes as pairs of their slices, with a mask and channels on the same voxels."""

from dataclasses import replace
from pathlib import Path

from medarts.data.formats import check_grids, is_volume, slice_count, suffix_of
from medarts.data.formats.grid import GridError
from medarts.data.sources import Fault, Pair
from medarts.errors import DataError
from medarts.system.console import counted


def slices_of(pair: Pair, others: tuple[Path, ...]) -> tuple[list[Pair], list[Fault]]:
    """Returns a volume slice by slice; the pair itself where its files have one.

    Args:
        others: its files beside the image.
    """
    if not any(is_volume(path) for path in (pair.image, *others)):
        return [pair], []  # no file of another kind is opened
    count, fault = _slice_count(pair.image)
    for path in others:
        if fault is None:
            number, fault = _slice_count(path)
            fault = fault or _off_grid(pair.image, path, count, number)
    if fault is not None:
        return [], [fault]
    if count is None:
        return [pair], []
    return [replace(pair, key=f"{pair.key}/{n:03d}", slice_index=n) for n in range(count)], []


def _slice_count(path: Path) -> tuple[int | None, Fault | None]:
    try:
        return slice_count(path) if is_volume(path) else None, None
    except DataError as error:
        return None, _unopened(path, error)


def _off_grid(image: Path, other: Path, count: int | None, number: int | None) -> Fault | None:
    """Returns what keeps a mask or a channel from lying on the voxels of an image."""
    if count is None and number is not None and suffix_of(image) == ".dcm":
        fix = "Convert the series to NIfTI (dcm2niix does), or the mask to a DICOM segmentation (SEG)."
        return Fault(
            image, "DICOM series with a volume as mask", fix, f"{image.parent.name}/{image.name} with {other.name}"
        )
    if count != number:
        detail = f"{image.name} has {counted(count or 1, 'slice')} and {other.name} has {number or 1}"
        return Fault(image, "volume and mask differ in slices", "Save both on the same grid.", detail)
    try:
        check_grids(image, other)
    except GridError as error:
        return Fault(other, "mask off the grid of its volume", error.fix, f"{other.name} ({error.reason})")
    except DataError as error:
        return _unopened(other, error)
    return None


def _unopened(path: Path, error: DataError) -> Fault:
    return Fault(path, "volume cannot be opened", error.fix, error.problem.rstrip("."))
