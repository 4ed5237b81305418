"""The manifest: which image belongs to which mask, patient, domain and split.

Every source (ISIC, CVC-ClinicDB, CHAOS, a plain folder, phantoms) produces one; everything after it reads
nothing else about a data set.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Part = Literal["train", "val", "test", "all"]
PARTS: tuple[Part, ...] = (*SPLITS, "all")
"""A split, or all images whatever their split."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its mask.

    Attributes:
        key: name of the sample, unique within its domain ("ISIC_0000001", "CT/3/017").
        image: file of the image.
        mask: file of the mask.
        patient: whatever must stay on one side of a split: a patient, a video sequence, a lesion.
        domain: name of the data set the sample comes from.
        split: "train", "val" or "test".
        slice_index: the slice along the last axis, for volumes (NIfTI); None for 2-D files.
    """

    key: str
    image: Path
    mask: Path
    patient: str
    domain: str
    split: Split
    slice_index: int | None = None


@dataclass(frozen=True, slots=True)
class ReadingRules:
    """How the files of one domain become numbers; equal for all samples of the domain.

    Attributes:
        window: (low, high) in stored units (Hounsfield for CT) mapped to 0..1 and clipped; None where the file's
            own range is used (8 bit: 0..255, 16 bit: 0..65535).
        percentiles: (low, high) percentiles of the image mapped to 0..1, instead of a window (MR).
        labels: value in the mask file -> class index (0 is background). None: any value above half of the file's
            range is foreground 1 (binary masks stored as 0/255, 0/1 or noisy JPEG-like grey).
    """

    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    labels: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Manifest:
    """The samples of one or several domains, with the rules to read each domain.

    Attributes:
        samples: all samples, sorted by (domain, key).
        rules: reading rules of each domain.
    """

    samples: tuple[Sample, ...]
    rules: dict[str, ReadingRules]

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of the domains, in the order of the recipe."""
        return tuple(self.rules)

    def where(self, keep: Callable[[Sample], bool]) -> "Manifest":
        """Returns the manifest of the samples for which ``keep`` is true."""
        return Manifest(tuple(sample for sample in self.samples if keep(sample)), self.rules)

    def part(self, part: Part) -> "Manifest":
        """Returns the manifest of one split, or this one for "all"."""
        return self if part == "all" else self.of_split(part)

    def of_split(self, split: Split) -> "Manifest":
        """Returns the manifest of one split."""
        return self.where(lambda sample: sample.split == split)

    def to_csv(self) -> str:
        """Returns one row a sample: key, domain, patient, split, image, mask."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["key", "domain", "patient", "split", "image", "mask"])
        for sample in self.samples:
            writer.writerow((sample.key, sample.domain, sample.patient, sample.split, sample.image, sample.mask))
        return text.getvalue()

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that change when a file, its size, a patient, a split or a rule changes.

        Content is represented by file name and size, so that a fingerprint of 100,000 images takes seconds.
        """
        digest = hashlib.sha256(repr(sorted(self.rules.items())).encode())
        for sample in self.samples:
            sizes = (sample.image.stat().st_size, sample.mask.stat().st_size)
            row = (sample.domain, sample.key, sample.patient, sample.split, sample.slice_index, *sizes)
            digest.update(repr(row).encode())
        return digest.hexdigest()[:16]


def join(manifests: Iterable[Manifest]) -> Manifest:
    """Joins manifests of different domains into one; the order of the domains is kept."""
    samples: list[Sample] = []
    rules: dict[str, ReadingRules] = {}
    for manifest in manifests:
        samples.extend(manifest.samples)
        rules.update(manifest.rules)
    return Manifest(tuple(sorted(samples, key=lambda sample: (sample.domain, sample.key))), rules)
