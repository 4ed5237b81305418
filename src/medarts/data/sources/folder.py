"""Any data set as ``images/`` and ``masks/`` with files of the same name, and an optional ``splits.csv``.

A NIfTI volume becomes its slices along the last axis, "name/000" onwards, and one patient.
"""

from pathlib import Path
from typing import Literal

from medarts.config import MaskSourceSettings
from medarts.data.contents import contents_of, file_named
from medarts.data.formats import check_grids, is_volume, slice_count
from medarts.data.formats.grid import GridError
from medarts.data.sources import (
    Fault,
    Listing,
    Pair,
    Source,
    domain_of,
    pair_by_name,
    percentiles_of,
    register_source,
    require_folder,
    rules_of,
)
from medarts.data.sources.table import NAME as TABLE
from medarts.errors import DataError

IMAGES, MASKS = "images", "masks"
LAYOUT = f"{IMAGES}/ and {MASKS}/ with files of the same name, and optionally splits.csv"


class FolderSettings(MaskSourceSettings):
    """Images and masks of the same name; see ``MaskSourceSettings``."""

    kind: Literal["folder"] = "folder"


@register_source("folder", settings=FolderSettings)
class Folder(Source):
    """Images and masks of the same name; every image or volume counts as its own patient."""

    layout = LAYOUT
    is_general = True

    def recognise(self, path: Path) -> tuple[FolderSettings, ...]:
        images = (path / IMAGES).is_dir() and file_named(path, TABLE) is None
        if not (images or (path / MASKS).is_dir()):
            return ()
        return (FolderSettings(path=path, name=domain_of(path), percentiles=percentiles_of(path)),)

    def find(self, settings: FolderSettings, findings: tuple[str, ...] | None = None) -> Listing:
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
