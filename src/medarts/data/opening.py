"""From the sources of a recipe to a manifest that can be used, and to its images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from medarts.config import (
    DataSettings,
    FindingSourceSettings,
    MaskSourceSettings,
    Recipe,
    SourceSettings,
    Split,
    parse,
)
from medarts.config.data import BACKGROUND, IGNORE, IGNORED, are_unnamed
from medarts.data.contents import file_named, tables_in
from medarts.data.examination import first_of
from medarts.data.folds import divided_into
from medarts.data.manifest import Manifest, Sample, join
from medarts.data.placing import doubts_of_splits, names_of, of_patients, patients_alike, patients_divided, samples_of
from medarts.data.reading import check_labels
from medarts.data.sampling import sample_patients
from medarts.data.sources import (
    ALONE,
    FOLDERS,
    IRREGULAR,
    LEFT_OUT,
    MISNAMED,
    MISSING,
    NOT_READ,
    OTHER_NAME,
    RENAMED,
    STRAY,
    TABLES,
    UNNAMED,
    UNUSED,
    WITHOUT_MASKS,
    Fault,
    Listing,
    Source,
    require_folder,
    scaling_of,
)
from medarts.data.splits import (
    FEWEST,
    SPLIT_SEED,
    SPLITS_CSV,
    SplitTable,
    read_splits_csv,
)
from medarts.data.store import ImageStore, open_store
from medarts.errors import DataError, RecipeError, did_you_mean, quoted
from medarts.registry import sources as registered
from medarts.system.console import inform, told_if_long


@dataclass(frozen=True, slots=True)
class Survey:
    """A data set with all its faults.

    Attributes:
        manifest: the samples without fault.
        faults: what must be put right before the set can be used.
        doubts: what may be as it should: what is not read, images without a row or a patient, rows left out or without
            files, columns that are not used, and missing images where the settings allow them.
    """

    manifest: Manifest
    faults: tuple[Fault, ...]
    doubts: tuple[Fault, ...] = ()


def open_sources(
    sources: Iterable[SourceSettings],
    *,
    findings: tuple[str, ...] | None = None,
    classes: tuple[str, ...] = (),
    partly: bool = False,
) -> Manifest:
    """Lists the data sets and joins them into one manifest; no image is opened.

    Splits come from ``splits.csv`` (its name in any case) in the folder of the set, else from the official parts of
    the download, else they are sampled by patient. A set with training samples but none for validation gives up its
    fraction of the training patients.

    Args:
        findings: what is looked for, in this order; None takes those of the sources, which must then be the same.
        classes: names of the foreground classes of masks, which labels may use.
        partly: a source need not know all of the findings, but one: the others are unknown in its images.

    Raises:
        DataError: two sets have one name, a folder is missing or empty, an image has no mask or a mask no image,
            a table is wrong or names an image that is not there, splits.csv is wrong, misses an image or divides a
            patient, more images are asked for than there are, a source does not know one of the findings, or the
            sources do not have the same ones.
    """
    manifests: list[Manifest] = []
    for settings in sources:
        if any(settings.domain in manifest.domains for manifest in manifests):
            fix = "Give each its own 'name' in a recipe, or take them one at a time."
            raise DataError(
                f"Two data sets have the name '{settings.domain}', the second being {settings.path}.", fix=fix
            )
        found = survey(settings, findings=findings, classes=classes, partly=partly)
        refuse(settings, found.faults)
        manifests.append(found.manifest)
    if findings is None:
        wanted = _common(manifests)
        manifests = [_looking_for(manifest, wanted) for manifest in manifests]
    return join(manifests)


def survey(
    settings: SourceSettings,
    *,
    findings: tuple[str, ...] | None = None,
    classes: tuple[str, ...] = (),
    partly: bool = False,
) -> Survey:
    """Lists one data set with its faults, for the doctor.

    Args:
        findings: what is looked for, in this order; None looks for all that its table has.
        classes: names of the foreground classes of masks, which labels may use.
        partly: see `open_sources`.

    Raises:
        DataError: the folder is missing, has another layout, or holds no images at all; or the source does not know
            one of the findings.
    """
    with told_if_long(f"listing {settings.path}"):
        return _surveyed(settings, findings=findings, classes=classes, partly=partly)


def _surveyed(
    settings: SourceSettings, *, findings: tuple[str, ...] | None, classes: tuple[str, ...], partly: bool
) -> Survey:
    source = _source(settings.kind)
    settings = with_class_indices(with_own_labels(settings, classes), classes)
    require_folder(settings.path, layout=source.layout)
    listing = source.in_classes(source.find(settings, findings), classes)
    _check_scaling(listing, settings)
    expected, doubts = _sorted_out(listing.faults, settings)
    if not listing.pairs and not expected:
        raise _without_images(settings, doubts)
    path = file_named(settings.path, SPLITS_CSV)
    rows, faults = (
        _table(path, lambda: names_of(listing, settings)) if path and settings.reads_splits_csv else (None, [])
    )
    misnamed, unread = _unread_tables(settings, path)
    pairs, unnamed_patients = of_patients(listing.pairs, settings)
    samples, split_faults = samples_of(pairs, rows, settings)
    if settings.task == "classification" or (rows and rows.grouped):  # whose tables name the patients
        split_faults += patients_divided(samples, rows.path if rows else settings.path)
    faults = [*expected, *faults, *misnamed, *unnamed_patients, *split_faults]
    if settings.patients is not None:  # which says what the table does not
        doubts = [doubt for doubt in doubts if doubt.problem != ALONE]
    doubts += [*patients_alike(samples, rows, settings), *unread]
    if isinstance(settings, FindingSourceSettings) and settings.images is not None and not faults:
        samples = sample_patients(samples, images=settings.images, seed=SPLIT_SEED)
    samples = sorted(samples, key=lambda sample: sample.key)
    manifest = Manifest(tuple(samples), {settings.domain: listing.rules}, listing.findings)
    if findings is not None:
        manifest = _looking_for(_knowing(manifest, findings, settings) if partly else manifest, findings)
    return Survey(manifest, tuple(faults), (*doubts, *doubts_of_splits(listing, rows, settings)))


def advice(settings: SourceSettings, split: Split, samples: Sequence[Sample]) -> str:
    """Returns what to do where a data set, of which these are the samples, has no images in a split."""
    named = file_named(settings.path, SPLITS_CSV)
    if settings.reads_splits_csv and named:
        return f"Write {split} in the column split of {named} for some patients."
    patients = len({sample.patient for sample in samples})
    if patients < FEWEST:
        found = "is one patient" if patients == 1 else f"are {patients} patients"
        by_hand = "give splits" if settings.is_in_memory else "divide the images in a splits.csv"
        return f"There {found}; sampled splits need {FEWEST}. Add others, or {by_hand}."
    return _source(settings.kind).split_fix.format(split=split)


def open_manifest(
    settings: DataSettings, *, needs: tuple[Split, ...], data: ImageStore | None = None, partly: bool = False
) -> Manifest:
    """Lists the data sets of a recipe; no image is opened.

    Args:
        settings: the sources.
        needs: splits that must have images.
        data: images in memory, or those of a store that is open, which are listed in place of the sources.
        partly: see `open_sources`.

    Raises:
        DataError: a folder, a mask or a split is missing, or masks of several classes have no labels.
        RecipeError: the images are divided into folds, and what is asked for has one training set.
    """
    _check_folds(settings, needs, in_memory=data is not None and data.is_in_memory)
    if data is not None:
        manifest = data.manifest
    else:
        findings, classes = settings.findings, settings.class_names
        manifest = open_sources(settings.sources, findings=findings, classes=classes, partly=partly)
        check_labels(manifest, settings)
        if settings.folds is not None:
            fractions = {source.domain: source.fractions[0] for source in settings.sources}
            manifest = divided_into(manifest, settings.folds, fold=settings.fold, fractions=fractions, seed=SPLIT_SEED)
    for split in needs:
        if not manifest.of_split(split).samples:
            raise DataError(
                f"No image of {', '.join(manifest.domains)} is in the split '{split}'.",
                fix=advice(settings.sources[0], split, manifest.samples),
            )
    return manifest


def fingerprint_of_sources(recipe: Mapping[str, Any]) -> str:
    """Returns fingerprints of all data sets of a recipe, each by itself, as another host would have to find them.

    Args:
        recipe: its values, as JSON has them.

    Raises:
        DataError: a data set cannot be listed.
    """
    data = parse(dict(recipe), origin="recipe").data
    about: dict[str, Any] = {"findings": data.findings, "classes": data.class_names, "partly": True}
    return " ".join(open_sources([source], **about).fingerprint() for source in data.sources)


def _check_folds(settings: DataSettings, needs: tuple[Split, ...], *, in_memory: bool) -> None:
    """Refuses folds where there is to be one training set, and of images that are on no disk."""
    if settings.folds is not None and in_memory:
        raise RecipeError(
            "Images in memory are not divided into folds.", fix="Save them in a folder (see from_arrays)."
        )
    if settings.is_divided and set(needs) - {"test"}:
        raise RecipeError(
            f"data.folds is {settings.folds}: every image is held out in one of as many trainings, so that there is no "
            "single training set.",
            fix="Leave data.folds out here, as it is for medarts train; or take the images of one fold: data.fold=1.",
        )


def with_findings(recipe: Recipe, manifest: Manifest) -> Recipe:
    """Returns the recipe with the names of the outputs that its sources gave it; a segmentation stays as it is."""
    if not manifest.findings:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"findings": manifest.findings})})


def open_data(
    settings: DataSettings, *, needs: tuple[Split, ...], threads: int = 0, partly: bool = False
) -> ImageStore:
    """Lists the data sets of a recipe and reads their images.

    Args:
        settings: the sources and the size of the images.
    """
    return open_store(open_manifest(settings, needs=needs, partly=partly), settings, threads=threads)


def refuse(settings: SourceSettings, faults: Iterable[Fault]) -> None:
    """Raises a DataError that tells the first kind of fault, its count and some names; nothing without faults."""
    every = tuple(faults)
    if not every:
        return
    alike = [fault for fault in every if fault.problem == every[0].problem]
    names = [fault.detail or fault.file.name for fault in alike]
    count = sum(fault.count for fault in alike)
    others = sum(fault.count for fault in every) - count
    raise DataError(
        f"{settings.path}: {alike[0].problem} ({count:,}): {first_of(names)}."
        + (f" There are {others:,} faults of other kinds; medarts doctor lists all." if others else ""),
        fix=alike[0].fix,
    )


def with_own_labels(settings: SourceSettings, classes: Sequence[str]) -> SourceSettings:
    """Returns the settings with the labels that the data set says by itself, where the recipe names its classes."""
    if not isinstance(settings, MaskSourceSettings) or settings.labels is not None or not settings.path.is_dir():
        return settings
    named = names_of_values(settings)
    if not named:
        return settings
    shown = [name for name in named.values() if name not in (BACKGROUND, IGNORED)]
    others = [name for name in shown if name not in classes]
    unnamed = are_unnamed(classes) or len(classes) == len(shown) == 1
    if len(others) == len(shown) and unnamed:  # values in the order of the classes, if there is more than one
        return settings if len(shown) == len(named) else settings.model_copy(update={"labels": _in_order(named)})
    if others:
        values = ", ".join(f"{value}: background" for value, name in named.items() if name in others)
        raise DataError(
            f"{settings.path} has the {'class' if len(others) == 1 else 'classes'} "
            f"{', '.join(map(quoted, others))}, which the recipe does not name.",
            fix=f"Add {'it' if len(others) == 1 else 'them'} to data.classes; or give the source labels for all, "
            f"with {values} for what is not looked for.",
        )
    return settings.model_copy(update={"labels": dict(named)})


def _in_order(named: Mapping[int, str]) -> dict[int, int | str]:
    """Returns labels by which the classes have their indices in the order of their values."""
    indices = count(1)
    return {value: name if name in (BACKGROUND, IGNORED) else next(indices) for value, name in named.items()}


def with_class_indices(settings: SourceSettings, classes: Sequence[str]) -> SourceSettings:
    """Returns the settings of a source whose labels say indices in place of names.

    Args:
        settings: of the source.
        classes: names of the foreground classes, in the order of their indices.

    Raises:
        DataError: a label names another class.
    """
    if not isinstance(settings, MaskSourceSettings) or settings.labels is None:
        return settings
    if settings.labels == "auto":
        raise DataError(
            f"The labels of source '{settings.domain}' are auto, but only you know which value means what.",
            fix="Run medarts doctor on the recipe: it prints the labels block to fill in.",
        )
    indices = {BACKGROUND: 0, IGNORED: IGNORE} | {name: index for index, name in enumerate(classes, 1)}
    labels = {}
    for value, name in settings.labels.items():
        if isinstance(name, str) and name not in indices:
            raise DataError(
                f"The labels of source '{settings.domain}' name the class {quoted(name)}.",
                fix=did_you_mean(name, indices),
            )
        labels[value] = indices[name] if isinstance(name, str) else name
    return settings.model_copy(update={"labels": labels})


def _source(kind: str) -> Source:
    source: Source = registered.get(kind)()
    return source


def names_of_values(settings: SourceSettings) -> Mapping[int, str]:
    """Returns what the values of masks mean, where the data set says it; see `Source.names_of_values`."""
    return _source(settings.kind).names_of_values(settings)


def findings_in(settings: SourceSettings) -> tuple[str, ...] | None:
    """Returns the findings that a data set seems to have; see `Source.findings_in`."""
    return _source(settings.kind).findings_in(settings)


def _without_images(settings: SourceSettings, doubts: Iterable[Fault]) -> DataError:
    """Returns the error of a data set without an image; what lies there instead is the likely reason."""
    problem = f"{settings.path} holds no images"
    unread = [doubt for doubt in doubts if doubt.problem in (NOT_READ, IRREGULAR, FOLDERS)]
    if not unread:
        return DataError(f"{problem}.", fix=f"Expected here: {_source(settings.kind).layout}.")
    alike = [doubt.detail for doubt in unread if doubt.problem == unread[0].problem]
    return DataError(f"{problem}, but {unread[0].problem}: {first_of(alike)}.", fix=unread[0].fix)


def _sorted_out(faults: Iterable[Fault], settings: SourceSettings) -> tuple[list[Fault], list[Fault]]:
    """Divides what a source noted into faults and doubts."""
    allowed = {UNNAMED, LEFT_OUT, ALONE, RENAMED, UNUSED, NOT_READ, IRREGULAR, FOLDERS}
    allowed |= {OTHER_NAME, STRAY, WITHOUT_MASKS}
    allowed |= {MISSING} if isinstance(settings, FindingSourceSettings) and settings.partial else set()
    sorted_out: tuple[list[Fault], list[Fault]] = [], []
    for fault in faults:
        sorted_out[fault.doubt or fault.problem in allowed].append(fault)
    return sorted_out


def _common(manifests: Sequence[Manifest]) -> tuple[str, ...]:
    if not manifests:
        return ()
    first, *others = manifests
    for other in others:
        odd = sorted(set(first.findings) ^ set(other.findings))
        if odd:
            domains = " and ".join((*first.domains, *other.domains))
            raise DataError(
                f"{domains} do not have the same findings: {', '.join(odd)} only one of them has.",
                fix="Name those that all have in data.findings, or take the data sets one at a time.",
            )
    return first.findings


def _knowing(manifest: Manifest, findings: tuple[str, ...], settings: SourceSettings) -> Manifest:
    """Returns a manifest with all of some findings, of which those that its source does not know are unknown."""
    lacking = tuple(name for name in findings if name not in manifest.findings)
    if not lacking or len(lacking) == len(findings):
        return manifest
    others = [name for name in manifest.findings if name not in findings]
    meant = f" Not looked for: {first_of(others)}." if others else ""
    _tell(f"{settings.path} says nothing of {', '.join(lacking)}: its images have no scores of that.{meant}")
    samples = (replace(sample, unknown=(*sample.unknown, *lacking)) for sample in manifest.samples)
    return replace(manifest, samples=tuple(samples), findings=(*manifest.findings, *lacking))


@cache
def _tell(text: str) -> None:
    """Says something once, however often data are opened."""
    inform(text)


def _looking_for(manifest: Manifest, findings: tuple[str, ...]) -> Manifest:
    """Returns the manifest with these findings alone, in this order."""
    for name in findings:
        if name not in manifest.findings:
            raise DataError(
                f"{' and '.join(manifest.domains)} has no finding '{name}'.", fix=did_you_mean(name, manifest.findings)
            )
    if findings == manifest.findings:
        return manifest
    samples = (
        replace(
            sample,
            findings=tuple(name for name in findings if name in sample.findings),
            unknown=tuple(name for name in findings if name in sample.unknown),
        )
        for sample in manifest.samples
    )
    return replace(manifest, samples=tuple(samples), findings=findings)


def _check_scaling(listing: Listing, settings: SourceSettings) -> None:
    """Refuses a registered kind of source that scales images as nobody could know who has its settings alone."""
    usual = scaling_of(settings)
    for name in ("window", "percentiles"):
        found, said = getattr(listing.rules, name), getattr(usual, name)
        if found != said:
            raise DataError(
                f"The source '{settings.kind}' reads {settings.path} with the {name} {found}, and says {said}: "
                "exported networks would scale images otherwise than training does.",
                fix="Return it from the method usual_rules of the source, and begin with it in find: "
                "rules_of(settings, defaults=self.usual_rules(settings)).",
            )


def _table(path: Path, names: Callable[[], set[str]]) -> tuple[SplitTable | None, list[Fault]]:
    try:
        return read_splits_csv(path, names=names), []
    except DataError as error:
        return None, [Fault(path, "splits.csv cannot be used", error.fix, error.problem.rstrip("."))]


def _unread_tables(settings: SourceSettings, splits: Path | None) -> tuple[list[Fault], list[Fault]]:
    """Returns the tables that are called nearly as splits.csv where there is none, and the others that are not read."""
    expected = splits is None and settings.reads_splits_csv
    found = tables_in(settings.path, known=(SPLITS_CSV, *_source(settings.kind).tables, *settings.own_tables))
    # Named as splits.csv is, but for the plural, the suffix or a second suffix.
    near = [path for path in found if path.name.strip().casefold().partition(".")[0].strip() in ("split", "splits")]
    near = near if expected else []
    fix = f"Save it as {SPLITS_CSV}, or remove it to have splits sampled by patient."
    unread_fix = f"Splits are read from {SPLITS_CSV}, findings from labels.csv. Remove what is not meant to be read."
    unread = [Fault(path, TABLES, unread_fix, path.name) for path in found if path not in near]
    return [Fault(path, MISNAMED, fix) for path in near], unread
