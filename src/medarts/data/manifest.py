"""The manifest: which image belongs to which mask or findings, patient, domain and split.

Every source (ISIC, CVC-ClinicDB, CHAOS, ChestX-ray14, a plain folder, a table) produces one; everything after it
reads nothing else about a data set.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medarts.config import SPLITS, Split
from medarts.config.data import IGNORE
from medarts.data.digests import digests_of
from medarts.errors import DataError, did_you_mean

Part = Literal["train", "val", "test", "all"]
PARTS: tuple[Part, ...] = (*SPLITS, "all")
"""A split, or all images whatever their split."""


def part_named(name: str) -> Part:
    """Returns the split of a name, or "all"."""
    for part in PARTS:
        if part == name:
            return part
    raise DataError(f"There is no split '{name}'.", fix=did_you_mean(name, PARTS))


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its mask or its findings.

    Attributes:
        key: name of the sample, unique within its domain ("ISIC_0000001", "CT/3/017").
        image: file of the image.
        mask: file of the mask, or of its first class; None for images with findings.
        patient: whatever must stay on one side of a split: a patient, a video sequence, a lesion.
        domain: name of the data set the sample comes from.
        split: "train", "val" or "test".
        slice_index: the slice along the last axis, for volumes (NIfTI); None for 2-D files.
        findings: names of what the image shows; empty for images with masks, and where nothing is found.
        unknown: names of what it may or may not show, in the same order: labels that count nothing.
        more: further files of the same size, whose channels follow those of ``image``.
        series: where the slices of a volume are files, all of these in their order, ``image`` among them; empty for
            other files.
        class_masks: name and file of every class, where each has a mask file of its own; else empty.
    """

    key: str
    image: Path
    mask: Path | None
    patient: str
    domain: str
    split: Split
    slice_index: int | None = None
    findings: tuple[str, ...] = ()
    more: tuple[Path, ...] = ()
    series: tuple[Path, ...] = field(default=(), repr=False)
    class_masks: tuple[tuple[str, Path], ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def masks(self) -> tuple[Path, ...]:
        """The files of its mask: one, or one a class; none for images with findings."""
        if self.class_masks:
            return tuple(path for _, path in self.class_masks)
        return () if self.mask is None else (self.mask,)

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files; slices of its series that are samples themselves are none of them."""
        return (self.image, *self.masks, *self.more)


@dataclass(frozen=True, slots=True)
class ReadingRules:
    """How the files of one domain become numbers; equal for all samples of the domain.

    Attributes:
        window: (low, high) in stored units (Hounsfield for CT) mapped to 0..1 and clipped; None where the file's
            own range is used (8 bit: 0..255, 16 bit: 0..65535).
        percentiles: (low, high) percentiles of the image mapped to 0..1, instead of a window (MR).
        labels: value in the mask file, or its colour ("#ff0000") -> class index (0 is background). None: any value
            above half of the file's range is foreground 1 (binary masks stored as 0/255, 0/1 or noisy JPEG-like grey).
        segments: name of a segment or region in DICOM, as it is compared -> class; empty for other masks.
    """

    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    labels: tuple[tuple[int | str, int], ...] | None = None
    segments: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # fingerprints are made of the others' repr


@dataclass(frozen=True)
class Manifest:
    """The samples of one or several domains, with the rules to read each domain.

    Attributes:
        samples: all samples, sorted by (domain, key).
        rules: reading rules of each domain.
        findings: names of all that is looked for, in the order of a network's outputs; empty for images with masks.
        digests: of the content of every "file", for data that are not files; None where files are read.
    """

    samples: tuple[Sample, ...]
    rules: dict[str, ReadingRules]
    findings: tuple[str, ...] = ()
    digests: Mapping[Path, str] | None = field(default=None, repr=False)

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of the domains, in the order of the recipe."""
        return tuple(self.rules)

    def where(self, keep: Callable[[Sample], bool]) -> "Manifest":
        """Returns the manifest of the samples for which ``keep`` is true."""
        return replace(self, samples=tuple(sample for sample in self.samples if keep(sample)))

    def part(self, part: Part) -> "Manifest":
        """Returns the manifest of one split, or this one for "all"."""
        return self if part == "all" else self.of_split(part)

    def of_split(self, split: Split) -> "Manifest":
        """Returns the manifest of one split."""
        return self.where(lambda sample: sample.split == split)

    def labels(self) -> NDArray[np.uint8]:
        """Returns 1 where a sample shows a finding, `IGNORE` where that is unknown, else 0, samples x findings."""
        rows = [[finding in sample.findings for finding in self.findings] for sample in self.samples]
        labels = np.asarray(rows, dtype=np.uint8).reshape(len(rows), len(self.findings))
        for row, sample in enumerate(self.samples):
            labels[row, [self.findings.index(finding) for finding in sample.unknown]] = IGNORE
        return labels

    def prevalence(self) -> NDArray[np.float64]:
        """Returns the share of the samples that show each finding, of those of which it is known; nan without any."""
        labels = self.labels()
        known = (labels != IGNORE).sum(0)
        return np.where(known > 0, (labels == 1).sum(0) / known.clip(1), np.nan)

    def to_csv(self) -> str:
        """Returns one row a sample: key, domain, patient, split, image, mask, slice, findings, digests of its files.

        Where a sample has more files of channels, two columns name these, divided by "|", and their digests; where one
        has findings that are unknown, a column names these.

        Bytes of names that are not UTF-8 are surrogates, as everywhere in Python; write it with ``surrogateescape``.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = ["key", "domain", "patient", "split", "image", "mask", "slice", "findings"]
        several = any(sample.more for sample in self.samples)
        names += ["image_digest", "mask_digest", *(["more", "more_digests"] if several else [])]
        doubtful = any(sample.unknown for sample in self.samples)
        writer.writerow([*names, *(["unknown"] if doubtful else [])])
        for sample in self.samples:
            about = (sample.key, sample.domain, sample.patient, sample.split)
            number = "" if sample.slice_index is None else sample.slice_index
            masks = "|".join(map(str, sample.masks))
            digests = (self._digests[sample.image], "|".join(self._digests[path] for path in sample.masks))
            cells = [*about, sample.image, masks, number, "|".join(sample.findings), *digests]
            if several:
                cells += ["|".join(map(str, sample.more)), "|".join(self._digests[path] for path in sample.more)]
            cells += ["|".join(sample.unknown)] if doubtful else []
            writer.writerow(cells)
        return text.getvalue()

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that change with the content of files, keys, patients, splits and rules.

        Places of files are not part of it: data that were moved as a whole stay the same. A file is read once, and
        again where its size or times have changed; see ``medarts.data.digests``.
        """
        return self._fingerprint

    def is_unchanged(self, samples: Iterable[Sample]) -> bool:
        """Tells whether the files of some samples are still those that the fingerprint was made of."""
        now = digests_of(path for sample in samples for path in sample.files)
        return all(self._digests[path] == digest for path, digest in now.items())

    @cached_property
    def _digests(self) -> Mapping[Path, str]:
        if self.digests is not None:
            return self.digests
        return digests_of(path for sample in self.samples for path in sample.files)

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((sorted(self.rules.items()), self.findings)).encode())
        segments = {domain: rules.segments for domain, rules in sorted(self.rules.items()) if rules.segments}
        digest.update(repr(segments).encode() if segments else b"")
        for sample in self.samples:
            about: tuple[object, ...] = (sample.domain, sample.key, sample.patient, sample.split)
            about += (sample.slice_index, sample.findings)
            about += (("more", len(sample.more)),) if sample.more else ()
            about += (("classes", *(name for name, _ in sample.class_masks)),) if sample.class_masks else ()
            about += (("unknown", *sample.unknown),) if sample.unknown else ()
            digest.update(repr((about, [self._digests[path] for path in sample.files])).encode())
        return digest.hexdigest()[:16]


def join(manifests: Iterable[Manifest]) -> Manifest:
    """Joins manifests of different domains, which have the same findings, into one; the order of domains is kept."""
    samples: list[Sample] = []
    rules: dict[str, ReadingRules] = {}
    findings: tuple[str, ...] = ()
    for manifest in manifests:
        samples.extend(manifest.samples)
        rules.update(manifest.rules)
        findings = manifest.findings
    return Manifest(tuple(sorted(samples, key=lambda sample: (sample.domain, sample.key))), rules, findings)
