"""The doctor: every file of a data set read and looked at, every problem noted, none stopping the examination."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medarts.config import SPLITS, DataSettings, MaskSourceSettings, SourceSettings, Split
from medarts.config.data import IGNORE
from medarts.data.classifying import ReadMask, classify, snapped_words
from medarts.data.examination import Examination, Finding, Level, Summary, common, first_of, kind_of
from medarts.data.formats import raw_mask
from medarts.data.formats.raw import Raw
from medarts.data.images import Image, scale
from medarts.data.levels import DomainLevels, MaskLevel
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.masks import Mask, check_classes, read_mask, stored_mask
from medarts.data.opening import Survey, advice, survey
from medarts.data.parts import read_parts, stacked
from medarts.data.placing import IN_TWO_SPLITS, named_patients
from medarts.data.proposal import MaskValues
from medarts.data.reading import (
    check_labels,
    check_sizes,
    classes_in,
    framing_of,
    resize_mask,
    shrinking,
    vanished_classes,
)
from medarts.data.sources import Fault
from medarts.data.splits import divided, natural
from medarts.errors import DataError

Progress = Callable[[int, int], None]
_TINY_PART = 1 / 16  # an image of 12 bits in a file of 16 uses this part of its range
_FLAT = 1 / 255  # contrast below one grey level of 8 bits
_GREY_PART = 0.05  # of a binary mask; anti-aliased edges and JPEG noise stay below it
_NEVER_FIX = "What no image shows can be neither learnt nor scored."


@dataclass(frozen=True, slots=True)
class _Look:
    """What is kept of a sample after its files were read.

    Attributes:
        sample: the sample.
        findings: what was found, without the slice.
        size: height and width of the image, None where it cannot be read.
        digest: of the pixels of an image that is not constant.
        foreground: part of the mask that is not background.
        levels: the values of a mask without labels.
        classes: those that the mask shows, without background.
        kept: those that it still shows at the size of the recipe.
        snapped: share of the mask's pixels that are of no labelled colour exactly.
    """

    sample: Sample
    findings: tuple[Finding, ...]
    size: tuple[int, ...] | None = None
    digest: str | None = None
    foreground: float | None = None
    levels: tuple[MaskLevel, ...] = ()
    classes: frozenset[int] | None = None
    kept: frozenset[int] | None = None
    snapped: float = 0.0


def examine(
    sources: Iterable[SourceSettings],
    *,
    needs: DataSettings | None = None,
    progress: Progress | None = None,
) -> Examination:
    """Reads every file of the data sets and collects what is wrong or suspicious.

    Errors: unreadable files, image and mask of different size, labels out of range, files without a partner, a wrong
    table, missing images, unknown findings, a patient in two splits where a table names patients, the same image in
    two splits, no training images, channels or classes that the recipe has no room for. Warnings: empty and full masks,
    masks that do not look binary, masks that lose a class at the size of the recipe, classes that no mask of a split
    shows, constant images, 16-bit images that use little of their range, inverted grey values, equal images within a
    split, a patient in two splits where no table names patients, a split without images, files and folders that are
    not read, rows left out by the words of their split, rows of splits.csv without files, columns that may name
    patients and are not used, images without a row, missing images where the source is partial, findings that no image
    of a split shows or every one.

    Args:
        needs: the recipe's section, whose findings, size, channels and classes are then looked at too.
        progress: called with (files looked at, all files) after every sample.
    """
    found: list[Finding] = []
    surveys: list[tuple[Survey, SourceSettings]] = []
    for given in sources:
        settings = given
        if isinstance(given, MaskSourceSettings) and given.labels == "auto":
            settings = given.model_copy(update={"labels": None})
            fix = "Replace the word by the labels below, and name the classes."
            found.append(Finding("error", str(given.path), f"The labels of source '{given.domain}' are auto.", fix))
        try:
            findings, classes = (needs.findings, needs.class_names) if needs else (None, ())
            surveys.append((survey(settings, findings=findings, classes=classes), settings))
        except DataError as error:
            found.append(Finding("error", str(settings.path), error.problem, error.fix))
            continue
        found += _of_listing(*surveys[-1], needs)
    total = sum(len(each.manifest.samples) for each, _ in surveys)
    looks: list[_Look] = []
    values = {settings.domain: MaskValues() for _, settings in surveys}
    for each, _ in surveys:
        names = _names_of(each.manifest.samples)
        for sample in each.manifest.samples:
            looks.append(_look(sample, each.manifest.rules[sample.domain], needs, values[sample.domain], names))
            if progress:
                progress(len(looks), total)
    found += _of_files(looks)
    found += _duplicates(looks)
    for each, settings in surveys:
        found += _of_levels(settings, looks)
        found += _of_classes(each.manifest, settings, looks, needs)
    return Examination(tuple(found), tuple(_summary(each.manifest, looks, values) for each, _ in surveys))


def _of_listing(found: Survey, settings: SourceSettings, needs: DataSettings | None) -> Iterator[Finding]:
    """Yields what is wrong before any file is opened."""
    if needs:
        try:
            check_labels(found.manifest, needs)
        except DataError as error:
            yield Finding("error", str(settings.path), error.problem, error.fix)
    kinds: tuple[tuple[Level, tuple[Fault, ...]], ...] = (("error", found.faults), ("warning", found.doubts))
    for level, faults in kinds:
        for fault in faults:
            yield Finding(level, str(fault.file), fault.problem, fault.fix, fault.detail, fault.count)
    samples, path = found.manifest.samples, str(settings.path)
    if not any(fault.problem == IN_TWO_SPLITS for fault in found.faults):
        for patient, splits in divided((sample.patient, sample.split) for sample in samples).items():
            detail = f"{patient} in {' and '.join(splits)}"
            yield Finding("warning", path, IN_TWO_SPLITS, "Scores will be better than on new patients.", detail)
    yield from _of_patients(found.manifest, settings)
    present = {sample.split for sample in samples}
    for split in SPLITS if samples or not found.faults else ():
        if split not in present:
            level = "error" if split == "train" else "warning"
            fix = "Put the errors above right first." if found.faults else advice(settings, split, samples)
            yield Finding(level, path, f"There are no images in the split {split}.", fix)
    yield from _of_labels(found.manifest, settings)


def _of_patients(manifest: Manifest, settings: SourceSettings) -> Iterator[Finding]:
    """Yields the pattern by which names may say the patients, where nothing else does."""
    if settings.patients is not None or any(sample.patient != sample.key for sample in manifest.samples):
        return
    named = named_patients(settings, manifest)
    if named is not None:
        fix = f"If names say it, give the source patients: '{named.pattern}'; else add a splits.csv with patients."
        yield Finding("warning", str(settings.path), "Every image counts as a patient.", fix, named.text)


def _of_labels(manifest: Manifest, settings: SourceSettings) -> Iterator[Finding]:
    """Yields the findings that no image of a split shows, and those that all of them show."""
    never: dict[str, list[Split]] = {}
    always: dict[str, list[Split]] = {}
    for split in SPLITS:
        part = manifest.of_split(split)
        for finding, share in zip(manifest.findings, part.prevalence(), strict=True):
            if part.samples and not share > 0:  # nor where it is unknown in all of them
                never.setdefault(finding, []).append(split)
            elif share == 1:
                always.setdefault(finding, []).append(split)
    yield from _in_splits(settings, "findings that no image of a split shows", _NEVER_FIX, never)
    yield from _in_splits(
        settings, "findings that every image of a split shows", "Check the table; add others.", always
    )


def _of_classes(
    manifest: Manifest, settings: SourceSettings, looks: Iterable[_Look], needs: DataSettings | None
) -> Iterator[Finding]:
    """Yields the classes that no readable mask of a split shows, as stored or at the size of the recipe."""
    own = [look for look in looks if look.sample.domain == settings.domain and look.classes is not None]
    labels = manifest.rules[settings.domain].labels
    expected = {1} if labels is None else {index for _, index in labels if index > 0}
    named = needs is not None and isinstance(needs.classes, tuple)
    names = needs.class_names if needs and named else _names_of(manifest.samples)
    masks = needs is not None and needs.task == "segmentation"
    expected |= set(range(1, len(names) + 1) if names else range(1, needs.outputs) if needs and masks else ())
    expected -= {IGNORE}
    never: dict[str, list[Split]] = {}
    lost: dict[str, list[Split]] = {}
    for split in SPLITS:
        part = [look for look in own if look.sample.split == split]
        shown = frozenset[int]().union(*(look.classes or () for look in part))
        kept = frozenset[int]().union(*(look.kept or () for look in part))
        for index in sorted(expected) if part else ():
            name = names[index - 1] if index <= len(names) else str(index)
            if index not in shown:
                never.setdefault(name, []).append(split)
            elif needs and index not in kept:
                lost.setdefault(name, []).append(split)
    yield from _in_splits(settings, "classes that no mask of a split shows", _NEVER_FIX, never)
    if needs:
        where, fix = shrinking(needs)
        problem = f"classes that no mask of a split shows {where}"
        yield from _in_splits(settings, problem, f"{_NEVER_FIX} {fix}, or crop the images before.", lost)


def _in_splits(
    settings: SourceSettings, problem: str, fix: str, found: Mapping[str, Sequence[Split]]
) -> Iterator[Finding]:
    """Yields one warning for every class or finding, with the splits that it concerns."""
    for name, splits in found.items():
        yield Finding("warning", str(settings.path), problem, fix, f"{name} in {', '.join(splits)}")


def _of_levels(settings: SourceSettings, looks: Sequence[_Look]) -> Iterator[Finding]:
    """Yields what the masks of a source without labels do not have in common, and how many pixels fit none nearly."""
    levels = DomainLevels()
    for look in looks:
        if look.sample.domain == settings.domain:
            levels.add(look.levels)
    if (problem := levels.problem(settings.domain)) is not None:
        yield Finding("error", str(settings.path), problem.problem, problem.fix)
    shares = [look.snapped for look in looks if look.sample.domain == settings.domain and look.classes is not None]
    if any(shares):
        fix = "Save masks without JPEG, and resize them to the nearest, where you can."
        yield Finding("warning", str(settings.path), snapped_words(shares), fix)


def _of_files(looks: Iterable[_Look]) -> Iterator[Finding]:
    """Yields what was found in the files; what the slices of a volume have in common is one finding."""
    alike: dict[tuple[object, ...], list[tuple[int, Finding]]] = {}
    for look in looks:
        number = look.sample.slice_index
        for finding in look.findings:
            same = (look.sample.key,) if number is None else ()
            key = (finding.level, finding.file, kind_of(finding.problem), *same)
            alike.setdefault(key, []).append((number or 0, finding))
    for (_, _, _, *single), found in alike.items():
        first = found[0][1]
        if single:
            yield from (finding for _, finding in found)
        else:
            file = f"{first.file} ({_slices([number for number, _ in found])})"
            yield Finding(first.level, file, common(finding.problem for _, finding in found), first.fix)


def _slices(numbers: Sequence[int]) -> str:
    """Returns slices in ascending order as text, such as "slices 0 to 4, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    named = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return f"slice{'s' if len(numbers) > 1 else ''} {first_of(named)}"


def _look(
    sample: Sample, rules: ReadingRules, needs: DataSettings | None, values: MaskValues, names: Sequence[str]
) -> _Look:
    findings: list[Finding] = []
    raw = _image(sample, rules, needs, findings)
    mask, levels, snapped = _mask(sample, rules, needs, findings, values, names=names) or (None, (), 0)
    if raw is not None and mask is not None:
        try:
            check_sizes(sample, raw.values.shape, mask.shape)
        except DataError as error:
            findings.append(_error(sample, sample.image, error))
    resized = None if mask is None or needs is None else _resized(sample, mask, needs, findings)
    varied = raw is not None and raw.values.min() != raw.values.max()
    return _Look(
        sample,
        tuple(findings),
        size=raw.values.shape[:2] if raw is not None else None,
        digest=_digest(raw) if raw is not None and varied else None,
        foreground=None if mask is None else _foreground(mask),
        levels=levels,
        classes=_classes(mask),
        kept=_classes(resized),
        snapped=0.0 if mask is None else snapped / (mask.shape[-2] * mask.shape[-1]),
    )


def _resized(sample: Sample, mask: Mask, needs: DataSettings, findings: list[Finding]) -> Mask:
    """Returns the mask as networks see it, and notes the classes that it loses or for which there is no output."""
    try:
        if not needs.overlap:
            check_classes(sample, mask, needs.class_names, named=needs.names_classes)
    except DataError as error:
        findings.append(_error(sample, sample.masks[0], error))
    try:
        framing = framing_of(sample.image, mask.shape[-2], mask.shape[-1], needs)
    except DataError as error:
        findings.append(_error(sample, sample.image, error))
        return mask
    resized = resize_mask(mask, (framing.rows, framing.columns), several=len(needs.class_names) > 1)
    names = needs.class_names if isinstance(needs.classes, tuple) else ()
    where, fix = shrinking(needs)
    for index in vanished_classes(mask, resized):
        name = f"Class {names[index - 1] if index <= len(names) else index}"
        findings.append(
            Finding("warning", str(sample.mask), f"{name} vanishes {where}.", f"{fix}, or crop the images before.")
        )
    return resized


def _classes(mask: Mask | None) -> frozenset[int] | None:
    return None if mask is None else classes_in(mask)


def _foreground(mask: Mask) -> float:
    """Returns the part of the pixels that count and are of any class; 0 where none counts."""
    shown, counted = (mask != 0) & (mask != IGNORE), mask != IGNORE
    if mask.ndim == 3:
        shown, counted = shown.any(0), (counted | shown.any(0)).all(0)
    return float(shown.sum() / max(int(counted.sum()), 1))


def _names_of(samples: Iterable[Sample]) -> tuple[str, ...]:
    """Returns the classes that have mask files of their own, in natural order; some samples may lack one."""
    return tuple(sorted({name for sample in samples for name, _ in sample.class_masks}, key=natural))


def _error(sample: Sample, path: Path, error: DataError) -> Finding:
    """Returns what a reader says of a file, without the paths, so that equal problems of many files are one kind."""
    problem = error.problem.removeprefix(f"{path} ")
    for other in sample.files:
        problem = problem.replace(f" {other}", "")
    return Finding("error", str(path), problem, error.fix)


def _image(sample: Sample, rules: ReadingRules, needs: DataSettings | None, findings: list[Finding]) -> Raw | None:
    parts: list[tuple[Path, Raw]] = []
    try:
        for part in read_parts(sample):
            parts.append(part)
        scaled = [scale(raw, rules, path=path) for path, raw in parts]
        if needs:
            seen = [*read_parts(sample, context=needs.context)] if needs.context else parts
            stacked(seen, rules, channels=needs.in_channels)
    except DataError as error:
        findings.append(_error(sample, sample.image, error))
        return parts[0][1] if parts else None
    for (path, raw), image in zip(parts, scaled, strict=True):
        findings += [Finding("warning", str(path), problem, fix) for problem, fix in _image_doubts(raw, image, rules)]
    return parts[0][1]


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


def _mask(
    sample: Sample,
    rules: ReadingRules,
    needs: DataSettings | None,
    findings: list[Finding],
    values: MaskValues,
    *,
    names: Sequence[str],
) -> ReadMask | None:
    if sample.mask is None:
        return None
    try:
        if sample.class_masks:
            return _mask_of_classes(sample, rules, needs, names)
        raw = stored_mask(sample, rules)
        if rules.labels is None:
            indexed = raw.palette is not None  # whose indices labels name
            values.add(raw_mask(sample.mask, sample.slice_index, indices=True, image=sample.image) if indexed else raw)
        found = classify(raw, rules, path=sample.mask)
    except DataError as error:
        findings.append(_error(sample, sample.mask, error))
        return None
    doubts = _mask_doubts(raw, found.classes, rules)
    findings += [Finding("warning", str(sample.mask), problem, fix) for problem, fix in doubts]
    return found


def _mask_of_classes(sample: Sample, rules: ReadingRules, needs: DataSettings | None, names: Sequence[str]) -> ReadMask:
    """Reads a mask that has a file for every class; without a recipe these may overlap."""
    if needs is not None:
        return read_mask(sample, rules, names=needs.class_names, overlap=needs.overlap)
    return read_mask(sample, rules, names=names, overlap=True)


def _mask_doubts(raw: Raw, mask: Mask, rules: ReadingRules) -> Iterator[tuple[str, str]]:
    if not classes_in(mask):
        yield "The mask is empty.", "Check that nothing is to be found in the image."
    elif mask.all():
        yield "The mask covers the whole image.", "Check that it is the right file."
    if rules.labels is None and raw.range and raw.values.max() > 1:
        low, high = raw.range
        quarter = (high - low) / 4
        grey = float(((raw.values > low + quarter) & (raw.values < high - quarter)).mean())
        if grey > _GREY_PART:  # a photograph, which has no separate values for which it could be refused
            yield (
                f"Unexpected values: {grey:.0%} of the pixels are neither near {low:g} nor near {high:g}.",
                "Check that this is a mask.",
            )


def _duplicates(looks: Iterable[_Look]) -> Iterator[Finding]:
    same: dict[str, list[Sample]] = defaultdict(list)
    for look in looks:
        if look.digest:
            same[look.digest].append(look.sample)
    for first, *others in same.values():
        for other in others:
            apart = first.split != other.split
            names = (f"{_named(each)} ({each.split})" if apart else _named(each) for each in (first, other))
            yield Finding(
                "error" if apart else "warning",
                str(other.image),
                f"images{' of two splits' if apart else ''} that are equal, pixel by pixel",
                "Keep one of them." if not apart else "Keep one of them, or put both in one split.",
                " and ".join(names),
            )


def _summary(manifest: Manifest, looks: Iterable[_Look], values: Mapping[str, MaskValues]) -> Summary:
    (domain,) = manifest.domains
    own = [look for look in looks if look.sample.domain == domain]
    positives = {split: (manifest.of_split(split).labels() == 1).sum(axis=0) for split in SPLITS}
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
        labels=tuple(values[domain].block()) if values[domain].are_several else (),
    )


def _digest(raw: Raw) -> str:
    content = hashlib.blake2b(f"{raw.values.shape} {raw.values.dtype}".encode(), digest_size=16)
    content.update(np.ascontiguousarray(raw.values).tobytes())
    return content.hexdigest()


def _named(sample: Sample) -> str:
    return str(sample.image) if sample.slice_index is None else f"{sample.image} (slice {sample.slice_index})"
