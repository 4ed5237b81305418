"""Images in a folder for each diagnosis, as of ImageFolder in torchvision: the name of the folder is the finding.

benign/1.png, malignant/2.png              splits are sampled
train/benign/1.png, test/malignant/2.png   or those of the folders above
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from medarts.config import FindingSourceSettings
from medarts.data.contents import Contents, composed, contents_of
from medarts.data.formats import suffix_of
from medarts.data.layouts import layouts_of, look_like_masks
from medarts.data.layouts.groups import role_of
from medarts.data.patterns import SIDES, split_of
from medarts.data.sources import (
    ALONE,
    NOT_READ,
    STACK_PERCENTILES,
    STACKS,
    TWICE,
    Fault,
    Listing,
    Pair,
    Source,
    domain_of,
    passed_over,
    register_source,
    require_folder,
    rules_of,
)
from medarts.data.sources.table import shows_nothing
from medarts.data.splits import natural, without_suffix
from medarts.system.console import counted

LAYOUT = "a folder for each diagnosis with its images, or such folders in train/, val/ and test/"


class DiagnosesSettings(FindingSourceSettings):
    """Images in a folder for each diagnosis; see ``FindingSourceSettings``."""

    kind: Literal["diagnoses"] = "diagnoses"


@register_source("diagnoses", settings=DiagnosesSettings)
class DiagnosesSource(Source):
    """Images by their paths without suffix; each is a patient of its own, unless ``patients`` says which part is.

    An image shows the finding that its folder is named after; one in normal/, none/ or no_finding/ shows none. Names
    that differ in case alone, as in two splits, are one finding.
    """

    layout = LAYOUT
    generality = 2
    split_fix = "Set the source's fractions above 0, or move images into folders of that split."

    def recognise(self, path: Path) -> tuple[DiagnosesSettings, ...]:
        """Returns the settings of folders that are diagnoses, and not patients.

        Folders that all of several splits have are. Others count as diagnoses where there are two or more and at least
        half of their names have no digit: patients have numbers. Sides are no diagnoses, nor are folders in which the
        images look like masks, with partners or without.
        """
        splits = defaultdict[str, set[str]](set)
        images: list[tuple[Path, ...]] = []
        for folder in _folders(path) if path.is_dir() else ():
            contents = contents_of(folder)
            if contents.folders or not contents.images or role_of(folder.name):
                return ()
            splits[folder.parent.name if folder.parent != path else ""].add(folder.name.casefold())
            images.append(contents.images)
        names = set[str]().union(*splits.values())
        repeat = len(splits) > 1 and all(of_split == names for of_split in splits.values())
        numbered = sum(any(character.isdigit() for character in name) for name in names)
        sides = all(name in SIDES for name in names)
        if len(names) < 2 or not (repeat or 2 * numbered <= len(names)) or sides:
            return ()
        if any(look_like_masks(Path(), files) for files in images) or layouts_of(path):
            return ()
        stacks = any(suffix_of(file) in STACKS for files in images for file in files)
        percentiles = STACK_PERCENTILES if stacks else None
        return (DiagnosesSettings(path=path, name=domain_of(path), percentiles=percentiles),)

    def find(self, settings: DiagnosesSettings, findings: tuple[str, ...] | None = None) -> Listing:
        root = require_folder(settings.path, layout=LAYOUT)
        pairs: dict[str, Pair] = {}
        faults: list[Fault] = []
        names: dict[str, str] = {}
        whole, *splits = _places(root)
        for place in (whole, *splits):
            faults += _beside(place, splits=splits if place is whole else ())
        for folder in _folders(root):
            contents, name = contents_of(folder), composed(folder.name)
            name = names.setdefault(name.casefold(), name)
            split = None if folder.parent == root else split_of(folder.parent.name)
            shown = (name,) if not shows_nothing(name) and (findings is None or name in findings) else ()
            for image in contents.images:
                key = composed(without_suffix(image.relative_to(root).as_posix()))
                pair = Pair(key, image, None, patient=key, split=split, findings=shown)
                if pairs.setdefault(key, pair) is not pair:
                    faults.append(Fault(image, TWICE, "Keep one of the files.", key))
            faults += passed_over(contents)
        fix = "Give the source patients, if names say them: else images of one can come into several splits."
        faults.append(Fault(root, ALONE, fix, "every image counts as a patient of its own"))
        known = tuple(sorted((name for name in names.values() if not shows_nothing(name)), key=natural))
        return Listing(tuple(pairs.values()), tuple(faults), rules_of(settings), known)


def _places(root: Path) -> list[Contents]:
    """Returns the root, and after it its folders of splits, which hold those of diagnoses where there are any."""
    whole = contents_of(root)
    return [whole, *(contents_of(folder) for folder in whole.folders if split_of(folder.name))]


def _folders(root: Path) -> Iterator[Path]:
    """Yields the folders of diagnoses: those of the root, or of its folders of splits where it has any."""
    whole, *splits = _places(root)
    for place in splits or [whole]:
        yield from place.folders


def _beside(place: Contents, *, splits: Sequence[Contents]) -> list[Fault]:
    """Returns what lies beside the folders of diagnoses, or beside those of splits, and is not read."""
    read = [each.folder for each in splits] or place.folders
    beside = tuple(folder for folder in place.folders if folder not in read)
    faults = passed_over(replace(place, folders=beside))
    if place.images:
        fix = "Move them into the folder of their diagnosis, or take them out."
        images = f"{counted(len(place.images), 'image')} in {place.folder.name}, outside the folders of diagnoses"
        faults.append(Fault(place.folder, NOT_READ, fix, images, len(place.images)))
    return faults
