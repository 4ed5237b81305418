"""Any data set as ``images/`` and ``masks/`` with files of the same name, and an optional ``splits.csv``.

A NIfTI volume becomes its slices along the last axis, "name/000" onwards, and one patient.
"""

from pathlib import Path

from medarts.config import SourceSettings
from medarts.data.files import check_grids, is_volume, slice_count
from medarts.data.formats.grid import GridError
from medarts.data.sources.contents import contents_of
from medarts.data.sources.pairing import Fault, Listing, Pair, pair_by_name, require_folder, rules_of
from medarts.errors import DataError

IMAGES, MASKS = "images", "masks"
LAYOUT = f"{IMAGES}/ and {MASKS}/ with files of the same name, and optionally splits.csv"


def recognises(path: Path) -> bool:
    """Tells whether a folder has this layout."""
    return (path / IMAGES).is_dir() or (path / MASKS).is_dir()


def find(settings: SourceSettings) -> Listing:
    """Lists images and masks of the same name; every image or volume counts as its own patient.

    Raises:
        DataError: a folder is missing.
    """
    images = contents_of(require_folder(settings.path / IMAGES, layout=LAYOUT))
    masks = contents_of(require_folder(settings.path / MASKS, layout=LAYOUT))
    named, faults = pair_by_name(images, masks)
    pairs: list[Pair] = []
    for name, image, mask in named:
        if is_volume(image) or is_volume(mask):
            slices, fault = _slices(name, image, mask)
            pairs += slices
            faults += fault
        else:
            pairs.append(Pair(name, image, mask, patient=name))
    return Listing(tuple(pairs), tuple(faults), rules_of(settings))


def _slices(name: str, image: Path, mask: Path) -> tuple[list[Pair], list[Fault]]:
    counts = []
    for path in (image, mask):
        try:
            counts.append(slice_count(path) if is_volume(path) else None)
        except DataError as error:
            return [], [Fault(path, "volume cannot be opened", error.fix, error.problem.rstrip("."))]
    if counts[0] != counts[1]:
        detail = f"{image.name} has {counts[0] or 1} slices and {mask.name} has {counts[1] or 1}"
        return [], [Fault(image, "volume and mask differ in slices", "Save both on the same grid.", detail)]
    try:
        check_grids(image, mask)
    except GridError as error:
        return [], [Fault(mask, "mask off the grid of its volume", error.fix, f"{mask.name} ({error.reason})")]
    except DataError as error:
        return [], [Fault(mask, "volume cannot be opened", error.fix, error.problem.rstrip("."))]
    if counts[0] is None:
        return [Pair(name, image, mask, patient=name)], []
    return [Pair(f"{name}/{n:03d}", image, mask, patient=name, slice_index=n) for n in range(counts[0])], []
