"""CHAOS abdominal CT and MR (Kavur et al., Medical Image Analysis 2021): DICOM slices with PNG masks.

Layout below ``Train_Sets``: ``CT/<id>/DICOM_anon`` and ``CT/<id>/Ground``; ``MR/<id>/T1DUAL`` with
``DICOM_anon/InPhase``, ``DICOM_anon/OutPhase`` and one ``Ground`` for both; ``MR/<id>/T2SPIR`` with ``DICOM_anon``
and ``Ground``. The n-th mask by name belongs to the n-th slice by name, as published. CT and MR are different
people. The official test sets have no masks and are not read.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from medarts.config import MaskSourceSettings
from medarts.data.contents import composed, contents_of
from medarts.data.formats import suffix_of
from medarts.data.manifest import ReadingRules
from medarts.data.sources import Fault, Listing, Pair, Source, passed_over, register_source, require_folder, rules_of
from medarts.data.splits import natural
from medarts.errors import DataError

ROOT = "Train_Sets"
LAYOUT = f"{ROOT}/CT/<id>/DICOM_anon and Ground, or {ROOT}/MR/<id>/T1DUAL and T2SPIR"
CT_WINDOW = (-160.0, 240.0)  # a common abdominal soft-tissue window, in Hounsfield units
MR_PERCENTILES = (0.5, 99.5)

# Values of the organs in MR masks: the ranges (inclusive) of the challenge's own evaluation, in class order.
MR_ORGANS = {
    "liver": (55, 70),
    "right_kidney": (110, 135),
    "left_kidney": (175, 200),
    "spleen": (240, 255),
}

# Sequences of a modality: (name in keys, folder of the slices, folder of the masks), below the patient.
_T1 = (
    ("T1DUAL/InPhase/", "T1DUAL/DICOM_anon/InPhase", "T1DUAL/Ground"),
    ("T1DUAL/OutPhase/", "T1DUAL/DICOM_anon/OutPhase", "T1DUAL/Ground"),
)
_T2 = (("T2SPIR/", "T2SPIR/DICOM_anon", "T2SPIR/Ground"),)
_SERIES = {"ct": (("", "DICOM_anon", "Ground"),), "mr_t1": _T1, "mr_t2": _T2, "mr": _T1 + _T2}


class ChaosSettings(MaskSourceSettings):
    """CHAOS; the other settings are those of ``MaskSourceSettings``.

    Attributes:
        modality: ct, mr (both MR sequences), mr_t1 or mr_t2.
        organ: liver, right_kidney, left_kidney or spleen as foreground, or all as classes 1 to 4.
    """

    kind: Literal["chaos"] = "chaos"
    modality: Literal["ct", "mr", "mr_t1", "mr_t2"] = "ct"
    organ: Literal["liver", "right_kidney", "left_kidney", "spleen", "all"] = "liver"

    @property
    def identity(self) -> tuple[str, ...]:
        return (*super().identity, self.modality, self.organ)


@register_source("chaos", settings=ChaosSettings)
class Chaos(Source):
    """Slices of a modality as "CT/3/017" or "MR/3/T2SPIR/017"; the patient is "CT/3" or "MR/3"."""

    layout = LAYOUT

    def recognise(self, path: Path) -> tuple[ChaosSettings, ...]:
        if not (path / ROOT).is_dir():
            return ()
        ct = ChaosSettings(path=path, name="chaos-ct")
        mr = ChaosSettings(path=path, name="chaos-mr", modality="mr")
        return tuple(s for s in (ct, mr) if (path / ROOT / s.modality.upper()).is_dir()) or (ct,)

    def find(self, settings: ChaosSettings, findings: tuple[str, ...] | None = None) -> Listing:
        kind = settings.modality.partition("_")[0].upper()
        folder = require_folder(settings.path / ROOT / kind, layout=LAYOUT)
        if kind == "CT" and settings.organ != "liver":
            raise DataError(
                f"Source {settings.domain} asks for organ '{settings.organ}', but CT masks have the liver alone.",
                fix="Set organ to liver, or modality to mr.",
            )
        pairs: list[Pair] = []
        faults: list[Fault] = []
        folders = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        for patient in sorted(folders, key=lambda path: natural(path.name)):
            for prefix, slices, masks in _SERIES[settings.modality]:
                name = f"{kind}/{composed(patient.name)}"
                fault, found = _series(name, prefix, patient / slices, patient / masks)
                pairs += found
                faults += fault
        return Listing(tuple(pairs), tuple(faults), rules_of(settings, defaults=self.usual_rules(settings)))

    def usual_rules(self, settings: ChaosSettings) -> ReadingRules:
        """Returns the window of CT; of MR percentiles, and the values of the organs that are looked for."""
        if settings.modality == "ct":
            return ReadingRules(window=CT_WINDOW)
        classes = {organ: index for index, organ in enumerate(MR_ORGANS, start=1)}
        if settings.organ != "all":
            classes = {organ: int(organ == settings.organ) for organ in MR_ORGANS}
        labels = _spread((MR_ORGANS[organ], index) for organ, index in classes.items())
        return ReadingRules(percentiles=MR_PERCENTILES, labels=labels)


def _series(patient: str, prefix: str, slices: Path, masks: Path) -> tuple[list[Fault], list[Pair]]:
    for folder in (slices, masks):
        if not folder.is_dir():
            return [Fault(folder, "folder missing", "Download the patient again.", str(folder))], []
    stored, drawn = contents_of(slices), contents_of(masks)
    images = [path for path in stored.images if suffix_of(path) == ".dcm"]
    others = tuple(path for path in stored.images if suffix_of(path) != ".dcm")
    faults = passed_over(replace(stored, others=stored.others + others)) + passed_over(drawn)
    if len(images) != len(drawn.images):
        count = f"{patient}/{prefix}".rstrip("/") + f" has {len(images)} slices and {len(drawn.images)} masks"
        faults.append(Fault(slices, "slices and masks differ in number", "Download the patient again.", count))
        return faults, []
    series = tuple(images)
    paired = enumerate(zip(images, drawn.images, strict=True))
    return faults, [
        Pair(f"{patient}/{prefix}{n:03d}", image, mask, patient, series=series) for n, (image, mask) in paired
    ]


def _spread(ranges: Iterable[tuple[tuple[int, int], int]]) -> tuple[tuple[int, int], ...]:
    return tuple((value, index) for (low, high), index in ranges for value in range(low, high + 1))
