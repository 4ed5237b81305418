"""From what a source found to samples: the patient of each image, and its split, by names, a table or chance."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from medarts.config import SourceSettings
from medarts.data.contents import composed, stem_of
from medarts.data.manifest import Manifest, Sample
from medarts.data.patients import NamedPatients, patients_in, patients_in_paths
from medarts.data.patterns import PathPattern
from medarts.data.sources import Fault, Listing, Pair, left_out, unused
from medarts.data.splits import (
    SPLIT_SEED,
    SplitTable,
    complete_splits,
    divided,
    is_doubtful,
    spelled_alike,
    without_suffix,
)

IN_TWO_SPLITS = "patient in two splits"
ALIKE = "patients who may be one"
WITHOUT_FILES = "row without files"


def of_patients(pairs: Sequence[Pair], settings: SourceSettings) -> tuple[Sequence[Pair], list[Fault]]:
    """Returns the pairs with the patients that names or paths of images say, where the recipe has a pattern of them.

    A pair of no such name keeps its own.
    """
    if settings.patients is None:
        return pairs, []
    pattern = PathPattern(settings.patients)
    by_path = "/" in settings.patients
    names = [pattern.named(_path_of(pair.image, settings)) if by_path else stem_of(pair.image) for pair in pairs]
    patients = [next(pattern.readings(name), {}).get("patient") for name in names]
    fix = f"Correct data.sources.N.patients ('{settings.patients}'), or the names."
    problem = f"image whose {'path' if by_path else 'name'} does not say its patient"
    faults = [
        Fault(pair.image, problem, fix, name if by_path else pair.image.name)
        for pair, name, patient in zip(pairs, names, patients, strict=True)
        if patient is None
    ]
    named = zip(pairs, patients, strict=True)
    return [pair if patient is None else replace(pair, patient=patient) for pair, patient in named], faults


def named_patients(settings: SourceSettings, manifest: Manifest) -> NamedPatients | None:
    """Returns the patients as names of images seem to say them, else the folders in their paths; None without any."""
    images = sorted({sample.image for sample in manifest.samples})
    paths = [_path_of(image, settings) for image in images]
    by_path = (composed(path.with_name(stem_of(path)).as_posix()) for path in paths)
    return patients_in([stem_of(path) for path in paths]) or patients_in_paths([*by_path])


def _path_of(image: Path, settings: SourceSettings) -> Path:
    """Returns the path of an image from the folder of its data set; of one that lies elsewhere, the whole."""
    inside = image.is_relative_to(settings.path)
    return image.relative_to(settings.path) if inside else Path(*image.resolve().parts[1:])


def samples_of(
    pairs: Iterable[Pair], rows: SplitTable | None, settings: SourceSettings
) -> tuple[list[Sample], list[Fault]]:
    """Returns the samples of a data set, with splits sampled where nothing says them, and the pairs that have no place.

    Args:
        pairs: as found, with the patients that names say.
        rows: of ``splits.csv``, if there is one.
        settings: of the source.
    """
    placed: list[Pair] = []
    faults: list[Fault] = []
    for pair in pairs:
        found = _placed(pair, rows, settings)
        if isinstance(found, Fault):
            faults.append(found)
        elif found:
            placed.append(found)
    return _complete(placed, settings), faults


def _placed(pair: Pair, rows: SplitTable | None, settings: SourceSettings) -> Pair | Fault | None:
    """Returns the pair with what splits.csv says of it; None where that leaves it out."""
    if rows:
        row = rows.row_of(pair.key) or next(
            (rows.rows[name] for name in _paths(pair, settings) if name in rows.rows), None
        )
        if row is None:
            fix = "Add a row for each; any other word than train, val and test as split leaves an image out."
            return Fault(pair.image, "image not named in splits.csv", fix, pair.key)
        if row.patient and _differs(row.patient, pair, settings):
            detail = f"{pair.key}: {row.patient}, and {pair.patient} in the other table"
            return Fault(rows.path, "patient named differently", "Correct one of the two tables.", detail)
        if row.split is None:
            return None
        pair = replace(pair, split=row.split, patient=row.patient or pair.patient)
    if pair.patient is None:
        fix = "Add a splits.csv with the columns id, sequence and split."
        return Fault(pair.image, "frame of no known sequence", fix, pair.key)
    return pair


def _paths(pair: Pair, settings: SourceSettings) -> tuple[str, ...]:
    """Returns what splits.csv may call an image beside its key: its path from the folder, in either spelling."""
    if not pair.image.is_relative_to(settings.path):
        return ()
    path = composed(without_suffix(pair.image.relative_to(settings.path).as_posix()))
    return path, path.replace("/", "\\")


def _differs(patient: str, pair: Pair, settings: SourceSettings) -> bool:
    """Tells whether the table of findings names another patient; one without patients gives the key of the image."""
    return settings.task == "classification" and pair.patient not in (patient, pair.key)


def _complete(pairs: list[Pair], settings: SourceSettings) -> list[Sample]:
    """Returns samples of the pairs, with splits sampled where none is given."""
    patients = [str(pair.patient) for pair in pairs]
    splits = complete_splits(patients, [pair.split for pair in pairs], fractions=settings.fractions, seed=SPLIT_SEED)
    return [
        Sample(
            pair.key,
            pair.image,
            pair.mask,
            patient,
            settings.domain,
            split,
            pair.slice_index,
            pair.findings,
            more=pair.more,
            series=pair.series,
            class_masks=pair.class_masks,
            unknown=pair.unknown,
        )
        for pair, patient, split in zip(pairs, patients, splits, strict=True)
    ]


def _keys(listing: Listing) -> set[str]:
    """Returns the keys of the images, and the volumes or patients that these begin with."""
    keys = {pair.key for pair in listing.pairs}
    keys |= {key[:at] for key in keys for at, letter in enumerate(key) if letter == "/"}
    return keys | {stem_of(fault.file) for fault in listing.faults}  # of which a part is there


def names_of(listing: Listing, settings: SourceSettings) -> set[str]:
    """Returns all that splits.csv may call the images."""
    return _keys(listing) | {name for pair in listing.pairs for name in _paths(pair, settings)}


def patients_alike(samples: Iterable[Sample], rows: SplitTable | None, settings: SourceSettings) -> list[Fault]:
    """Returns the patients of a table that may be one person under several spellings."""
    if settings.task != "classification" and not (rows and rows.grouped):
        return []
    path = rows.path if rows and rows.grouped else settings.path
    fix = "Write a patient in one way, so that all images of one stay in one split."
    patients = (sample.patient for sample in samples if sample.patient != sample.key)
    return [Fault(path, ALIKE, fix, " and ".join(f"'{name}'" for name in same)) for same in spelled_alike(patients)]


def patients_divided(samples: Iterable[Sample], path: Path) -> list[Fault]:
    """Returns the patients whose images are in two splits; ``path`` is that of the table that says so."""
    found = divided((sample.patient, sample.split) for sample in samples)
    fix = "Move all rows of a patient to one split."
    return [
        Fault(path, IN_TWO_SPLITS, fix, f"{patient} in {' and '.join(splits)}") for patient, splits in found.items()
    ]


def doubts_of_splits(listing: Listing, rows: SplitTable | None, settings: SourceSettings) -> list[Fault]:
    """Returns what of splits.csv is not used."""
    if rows is None:
        return []
    idle = set(rows.rows) - _keys(listing)
    if idle:
        idle -= names_of(listing, settings)
    fix = "Complete the download, or remove the rows."
    return [
        *(Fault(rows.path, WITHOUT_FILES, fix, key) for key in rows.rows if key in idle),
        *(left_out(rows.path, key, row.word) for key, row in rows.rows.items() if is_doubtful(row.word)),
        *(unused(rows.path, column) for column in rows.unused),
    ]
