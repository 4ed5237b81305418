"""The doctor: every file of a data set read and looked at, every problem noted, none stopping the examination."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from medarts.data.files import raw_image, suffix_of
from medarts.data.formats.raw import Raw
from medarts.data.manifest import SPLITS, Manifest, ReadingRules, Sample, Split
from medarts.data.masks import Mask, classify, stored_mask
from medarts.data.reading import Image, check_sizes, scale
from medarts.data.sources import DIVIDED, LAYOUTS, Survey, chaos, chestxray14, cvc, folder, isic, survey, table
from medarts.data.sources.labelled import MISSING
from medarts.data.sources.pairing import Fault, image_files, require_folder
from medarts.data.splits import divided
from medarts.errors import DataError
from medarts.recipe import SourceSettings

Progress = Callable[[int, int], None]
Level = Literal["error", "warning"]

_TINY_PART = 1 / 16  # an image of 12 bits in a file of 16 uses this part of its range
_FLAT = 1 / 255  # contrast below one grey level of 8 bits
_GREY_PART = 0.05  # of a binary mask; anti-aliased edges and JPEG noise stay below it
_SHOWN = 5  # names in a finding that counts many
_STACKS = {".dcm", ".nii", ".nii.gz"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong or suspicious.

    Attributes:
        level: an error keeps the data set from being used, or its scores from being believed; a warning is worth
            a look.
        file: the file, or the folder where it is no single one.
        problem: what was found.
        fix: what to do about it.
    """

    level: Level
    file: str
    problem: str
    fix: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A data set in numbers.

    Attributes:
        domain: its name.
        images: samples listed.
        patients: patients or sequences.
        splits: samples of every split.
        sizes: "height x width" -> readable images of that size, the most frequent first.
        foreground: mean part of the pixels that is not background, over the readable masks; None without one.
        findings: what the images could show -> images of every split that show it; empty for images with masks.
    """

    domain: str
    images: int
    patients: int
    splits: dict[Split, int]
    sizes: dict[str, int]
    foreground: float | None
    findings: dict[str, dict[Split, int]]


@dataclass(frozen=True, slots=True)
class Examination:
    """What the doctor found.

    Attributes:
        findings: in the order of the files.
        summaries: one a domain that could be listed.
    """

    findings: tuple[Finding, ...]
    summaries: tuple[Summary, ...]

    @property
    def failed(self) -> bool:
        """True where there is an error among the findings."""
        return any(finding.level == "error" for finding in self.findings)


@dataclass(frozen=True, slots=True)
class _Look:
    """What is kept of a sample after its files were read."""

    sample: Sample
    findings: tuple[Finding, ...]
    size: tuple[int, ...] | None = None
    digest: str | None = None
    foreground: float | None = None


def recognise(path: Path) -> tuple[SourceSettings, ...]:
    """Guesses from its layout what a folder holds.

    Args:
        path: the folder of a data set.

    Returns:
        Settings that read it: one source, or two for a CHAOS download with CT and MR. DICOM and NIfTI files
        of a plain folder or table get percentiles, as their types do not say what is black and white. The domain of
        these two has the folder's name.

    Raises:
        DataError: there is no such folder, or it has none of the known layouts.
    """
    known = "; ".join(f"{kind}: {layout}" for kind, layout in LAYOUTS.items())
    require_folder(path, layout=known)
    if isic.recognises(path):
        return (SourceSettings(kind="isic", path=path),)
    if cvc.recognises(path):
        return (SourceSettings(kind="cvc", path=path),)
    if chaos.recognises(path):
        ct = SourceSettings(kind="chaos", path=path, name="chaos-ct")
        mr = SourceSettings(kind="chaos", path=path, name="chaos-mr", modality="mr")
        present = tuple(s for s in (ct, mr) if (path / chaos.ROOT / s.modality.upper()).is_dir())
        return present or (ct,)
    if chestxray14.recognises(path):
        return (SourceSettings(kind="chestxray14", path=path),)
    if table.recognises(path) or folder.recognises(path):
        kind: Literal["table", "folder"] = "table" if table.recognises(path) else "folder"
        images = path / folder.IMAGES
        stacks = any(suffix_of(file) in _STACKS for file in image_files(images if images.is_dir() else path))
        percentiles = (0.5, 99.5) if stacks else None
        return (SourceSettings(kind=kind, path=path, name=path.resolve().name, percentiles=percentiles),)
    raise DataError(f"{path} has no known layout.", fix=f"Known: {known}.")


def examine(sources: Iterable[SourceSettings], *, progress: Progress | None = None) -> Examination:
    """Reads every file of the data sets and collects what is wrong or suspicious.

    Errors: unreadable files, image and mask of different size, labels out of range, files without a
    partner, a wrong table, missing images, unknown findings, a patient in two splits where a table names patients, the
    same image in two splits, no training images. Warnings: empty and full masks, masks that do not look binary,
    constant images, 16-bit images that use little of their range, inverted grey values, equal images within a split, a
    patient in two splits where no table names patients, a split without images, rows of splits.csv without files,
    images without a row, missing images where the source is partial, findings that no image of a split
    shows or every one.

    Args:
        sources: the data sets.
        progress: called with (files looked at, all files) after every sample.
    """
    findings: list[Finding] = []
    surveys: list[Survey] = []
    for settings in sources:
        try:
            surveys.append(survey(settings))
        except DataError as error:
            findings.append(Finding("error", str(settings.path), error.problem, error.fix))
            continue
        findings += _of_listing(surveys[-1], settings)
    total = sum(len(found.manifest.samples) for found in surveys)
    looks: list[_Look] = []
    for found in surveys:
        for sample in found.manifest.samples:
            looks.append(_look(sample, found.manifest.rules[sample.domain]))
            if progress:
                progress(len(looks), total)
    findings += [finding for look in looks for finding in look.findings]
    findings += _duplicates(looks)
    summaries = tuple(_summary(found.manifest, looks) for found in surveys)
    return Examination(tuple(findings), summaries)


def _of_listing(found: Survey, settings: SourceSettings) -> Iterator[Finding]:
    """Yields what is wrong before any file is opened."""
    for fault in found.faults:
        if fault.problem != MISSING:  # of which there can be 100,000
            detail = f": {fault.detail}" if fault.detail else ""
            yield Finding("error", str(fault.file), f"{fault.problem}{detail}.", fault.fix)
    yield from _counted("error", [fault for fault in found.faults if fault.problem == MISSING])
    yield from _counted("warning", found.doubts)
    samples = found.manifest.samples
    if not any(fault.problem == DIVIDED for fault in found.faults):
        for patient, splits in divided((sample.patient, sample.split) for sample in samples).items():
            problem = f"Patient {patient} is in the splits {' and '.join(splits)}."
            yield Finding("warning", str(settings.path), problem, "Scores will be better than on new patients.")
    present = {sample.split for sample in samples}
    for split in SPLITS:
        if split not in present:
            level: Level = "error" if split == "train" else "warning"
            fix = "Add patients, or a splits.csv that names some."
            yield Finding(level, str(settings.path), f"There are no images in the split {split}.", fix)
    if found.unused_rows:
        shown = ", ".join(found.unused_rows[:_SHOWN])
        problem = f"{len(found.unused_rows)} rows have no files: {shown}."
        yield Finding("warning", str(settings.path / "splits.csv"), problem, "Complete the download.")
    yield from _of_labels(found.manifest, settings)


def _counted(level: Level, faults: Iterable[Fault]) -> Iterator[Finding]:
    """Yields one finding for all faults of a kind, with their number and the first names."""
    alike: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        alike[fault.problem].append(fault)
    for problem, same in alike.items():
        names = ", ".join(fault.detail for fault in same[:_SHOWN])
        more = f" and {len(same) - _SHOWN} more" if len(same) > _SHOWN else ""
        yield Finding(level, str(same[0].file), f"{problem} ({len(same)}): {names}{more}.", same[0].fix)


def _of_labels(manifest: Manifest, settings: SourceSettings) -> Iterator[Finding]:
    """Yields the findings that no image of a split shows, and those that all of them show."""
    for split in SPLITS:
        part = manifest.of_split(split)
        if not part.samples:
            continue
        for finding, positives in zip(manifest.findings, part.labels().sum(axis=0), strict=True):
            if positives == 0:
                problem, fix = f"No image of the split {split} shows {finding}.", "It cannot be scored or learnt there."
            elif positives == len(part.samples):
                problem, fix = f"Every image of the split {split} shows {finding}.", "Check the table; add others."
            else:
                continue
            yield Finding("warning", str(settings.path), problem, fix)


def _look(sample: Sample, rules: ReadingRules) -> _Look:
    findings: list[Finding] = []
    raw = _image(sample, rules, findings)
    mask = _mask(sample, rules, findings)
    if raw is not None and mask is not None:
        try:
            check_sizes(sample, raw.values.shape, mask.shape)
        except DataError as error:
            findings.append(Finding("error", _named(sample, sample.image), error.problem, error.fix))
    varied = raw is not None and raw.values.min() != raw.values.max()
    return _Look(
        sample,
        tuple(findings),
        size=raw.values.shape[:2] if raw is not None else None,
        digest=_digest(raw) if raw is not None and varied else None,
        foreground=None if mask is None else float(np.count_nonzero(mask) / mask.size),
    )


def _image(sample: Sample, rules: ReadingRules, findings: list[Finding]) -> Raw | None:
    name = _named(sample, sample.image)
    raw = None
    try:
        raw = raw_image(sample.image, sample.slice_index)
        image = scale(raw, rules, path=sample.image)
    except DataError as error:
        findings.append(Finding("error", name, error.problem, error.fix))
        return raw
    findings += [Finding("warning", name, problem, fix) for problem, fix in _image_doubts(raw, image, rules)]
    return raw


def _image_doubts(raw: Raw, image: Image, rules: ReadingRules) -> Iterator[tuple[str, str]]:
    low, high = float(raw.values.min()), float(raw.values.max())
    if low == high:
        yield f"The image is constant ({low:g}).", "Take it out, or copy the file again."
    elif rules.window and image.max() - image.min() < _FLAT:
        yield (
            f"The window {rules.window} leaves nothing of the values {low:g} to {high:g}.",
            "Choose the window of the source to fit its stored units.",
        )
    elif raw.range and raw.range[1] > 255 and not (rules.window or rules.percentiles):
        span = raw.range[1] - raw.range[0]
        if high - low < _TINY_PART * span:
            yield (
                f"The values {low:g} to {high:g} use {(high - low) / span:.1%} of the file's range.",
                "Give the source a window, or percentiles such as [0.5, 99.5].",
            )
    if raw.inverted:
        yield "Grey values are stored inverted (MONOCHROME1 or MinIsWhite).", "None needed: they are turned."


def _mask(sample: Sample, rules: ReadingRules, findings: list[Finding]) -> Mask | None:
    if sample.mask is None:
        return None
    name = _named(sample, sample.mask)
    try:
        raw = stored_mask(sample, rules)
        mask = classify(raw, rules, path=sample.mask)
    except DataError as error:
        findings.append(Finding("error", name, error.problem, error.fix))
        return None
    findings += [Finding("warning", name, problem, fix) for problem, fix in _mask_doubts(raw, mask, rules)]
    return mask


def _mask_doubts(raw: Raw, mask: Mask, rules: ReadingRules) -> Iterator[tuple[str, str]]:
    if not mask.any():
        yield "The mask is empty.", "Check that nothing is to be found in the image."
    elif mask.all():
        yield "The mask covers the whole image.", "Check that it is the right file."
    if rules.labels is None and raw.range and raw.values.max() > 1:
        low, high = raw.range
        quarter = (high - low) / 4
        grey = float(((raw.values > low + quarter) & (raw.values < high - quarter)).mean())
        if grey > _GREY_PART:
            yield (
                f"Unexpected label values: {grey:.0%} of the pixels are neither near {low:g} nor near {high:g}.",
                "Check that this is a mask; if its values are classes, give the source labels.",
            )


def _duplicates(looks: Iterable[_Look]) -> Iterator[Finding]:
    same: dict[str, list[Sample]] = defaultdict(list)
    for look in looks:
        if look.digest:
            same[look.digest].append(look.sample)
    for first, *others in same.values():
        for other in others:
            apart = first.split != other.split
            where = f"{first.image} ({first.split})" if apart else str(first.image)
            yield Finding(
                "error" if apart else "warning",
                _named(other, other.image),
                f"The image{f' (split {other.split})' if apart else ''} is equal, pixel by pixel, to {where}.",
                "Keep one of them." if not apart else "Keep one of them, or put both in one split.",
            )


def _summary(manifest: Manifest, looks: Iterable[_Look]) -> Summary:
    (domain,) = manifest.domains
    own = [look for look in looks if look.sample.domain == domain]
    positives = {split: manifest.of_split(split).labels().sum(axis=0) for split in SPLITS}
    sizes = Counter(f"{look.size[0]} x {look.size[1]}" for look in own if look.size)
    parts = [look.foreground for look in own if look.foreground is not None]
    return Summary(
        domain=domain,
        images=len(own),
        patients=len({look.sample.patient for look in own}),
        splits={split: sum(look.sample.split == split for look in own) for split in SPLITS},
        sizes=dict(sizes.most_common()),
        foreground=float(np.mean(parts)) if parts else None,
        findings={
            finding: {split: int(positives[split][n]) for split in SPLITS}
            for n, finding in enumerate(manifest.findings)
        },
    )


def _digest(raw: Raw) -> str:
    content = hashlib.blake2b(f"{raw.values.shape} {raw.values.dtype}".encode(), digest_size=16)
    content.update(np.ascontiguousarray(raw.values).tobytes())
    return content.hexdigest()


def _named(sample: Sample, path: Path) -> str:
    return str(path) if sample.slice_index is None else f"{path} (slice {sample.slice_index})"
