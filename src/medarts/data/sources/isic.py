"""ISIC skin lesions: the segmentation tasks of the challenges of 2016, 2017 and 2018.

Official names: https://challenge.isic-archive.com/data. One challenge a folder; its validation and test parts are
used where they were downloaded, otherwise the training part is divided.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from medarts.config import MaskSourceSettings, Split
from medarts.data.contents import contents_of, stem_of
from medarts.data.sources import OTHER_NAME, Fault, Listing, Pair, Source, pair_by_name, register_source, rules_of
from medarts.errors import DataError

_ENDING = "_segmentation"  # 2016 writes _Segmentation

# (images, masks) of every part of every year.
PARTS: dict[str, dict[Split, tuple[str, str]]] = {
    "2016": {
        "train": ("ISBI2016_ISIC_Part1_Training_Data", "ISBI2016_ISIC_Part1_Training_GroundTruth"),
        "test": ("ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth"),
    },
    "2017": {
        "train": ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"),
        "val": ("ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth"),
        "test": ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth"),
    },
    "2018": {
        "train": ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"),
        "val": ("ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth"),
        "test": ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth"),
    },
}
LAYOUT = "ISIC-2017_Training_Data and ISIC-2017_Training_Part1_GroundTruth, or those of 2016 or 2018"


class IsicSettings(MaskSourceSettings):
    """ISIC 2016 to 2018; see ``MaskSourceSettings``."""

    kind: Literal["isic"] = "isic"


@register_source("isic", settings=IsicSettings)
class Isic(Source):
    """One challenge; every image counts as its own patient, as the sets name none."""

    layout = LAYOUT
    tables = ("ISIC*_GroundTruth.csv", "ISBI2016_ISIC_*_GroundTruth.csv", "ISIC*_metadata.csv")

    def recognise(self, path: Path) -> tuple[IsicSettings, ...]:
        return (IsicSettings(path=path),) if _years(path) else ()

    def find(self, settings: IsicSettings, findings: tuple[str, ...] | None = None) -> Listing:
        years = _years(settings.path)
        if len(years) != 1:
            what = f"parts of several challenges ({', '.join(years)})" if years else "no part of an ISIC challenge"
            raise DataError(f"{settings.path} holds {what}.", fix=f"Expected here: {LAYOUT}.")
        present = {
            split: folders
            for split, folders in PARTS[years[0]].items()
            if any((settings.path / folder).is_dir() for folder in folders)
        }
        pairs: list[Pair] = []
        faults: list[Fault] = []
        for split, folders in present.items():
            official = split if len(present) > 1 else None
            part_pairs, part_faults = _part(settings.path, folders, official)
            pairs += part_pairs
            faults += part_faults
        return Listing(tuple(pairs), tuple(faults), rules_of(settings))


def _part(path: Path, folders: tuple[str, str], split: Split | None) -> tuple[list[Pair], list[Fault]]:
    for folder in folders:
        if not (path / folder).is_dir():
            raise DataError(f"There is no folder {path / folder}.", fix="Download this part of the challenge too.")
    images, masks = (contents_of(path / folder) for folder in folders)
    photographs = tuple(file for file in images.images if not file.stem.endswith("_superpixels"))
    segmentations = tuple(file for file in masks.images if stem_of(file).lower().endswith(_ENDING))
    named_masks = set(segmentations)
    named, faults = pair_by_name(
        replace(images, images=photographs), replace(masks, images=segmentations), mask_name=_image_name
    )
    fix = f"Rename them if they are masks: the one of ISIC_1.jpg is ISIC_1{_ENDING}.png."
    faults += [Fault(file, OTHER_NAME, fix) for file in masks.images if file not in named_masks]
    return [Pair(name, image, mask, patient=name, split=split) for name, image, mask in named], faults


def _image_name(mask: Path) -> str:
    stem = stem_of(mask)
    return stem[: -len(_ENDING)] if stem.lower().endswith(_ENDING) else stem


def _years(path: Path) -> list[str]:
    return [
        year
        for year, parts in PARTS.items()
        if any((path / folder).is_dir() for folders in parts.values() for folder in folders)
    ]
