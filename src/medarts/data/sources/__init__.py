"""The known layouts of data sets, and the one way to open them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from medarts.data.manifest import Manifest, Sample, join
from medarts.data.sources import chaos, cvc, folder, isic
from medarts.data.sources.pairing import Fault, Listing, Pair, refuse, require_folder
from medarts.data.splits import SplitTable, assign_splits, divided, read_splits_csv
from medarts.errors import DataError
from medarts.recipe.sections import SourceSettings

FINDERS: dict[str, Callable[[SourceSettings], Listing]] = {
    "isic": isic.find,
    "cvc": cvc.find,
    "chaos": chaos.find,
    "folder": folder.find,
}
LAYOUTS = {"isic": isic.LAYOUT, "cvc": cvc.LAYOUT, "chaos": chaos.LAYOUT, "folder": folder.LAYOUT}
DIVIDED = "patient in two splits"
_SEED = 0  # of splits that are drawn: the same for every run, so that runs can be compared


@dataclass(frozen=True, slots=True)
class Survey:
    """A data set with all its faults.

    Attributes:
        manifest: the samples without fault.
        faults: what must be mended before the set can be used.
        unused_rows: ids of splits.csv without files.
    """

    manifest: Manifest
    faults: tuple[Fault, ...]
    unused_rows: tuple[str, ...] = ()


def open_sources(sources: Iterable[SourceSettings]) -> Manifest:
    """Lists the data sets and joins them into one manifest; no image is opened.

    Splits come from ``splits.csv`` in the folder of the set, else from the official parts of the download, else
    they are drawn by patient. A set with training samples but none for validation gives up its fraction of the
    training patients.

    Args:
        sources: the data sets; their names differ.

    Raises:
        DataError: two sets have one name, a folder is missing or empty, an image has no mask or a mask no image, or
            splits.csv is wrong, misses an image or divides a patient.
    """
    manifests: list[Manifest] = []
    for settings in sources:
        if any(settings.domain in manifest.domains for manifest in manifests):
            fix = "Give each its own 'name' in a recipe, or take them one at a time."
            raise DataError(
                f"Two data sets have the name '{settings.domain}', the second being {settings.path}.", fix=fix
            )
        found = survey(settings)
        refuse(settings, found.faults)
        manifests.append(found.manifest)
    return join(manifests)


def survey(settings: SourceSettings) -> Survey:
    """Lists one data set with its faults, for the doctor.

    Raises:
        DataError: the folder is missing, has another layout, or holds no images at all.
    """
    require_folder(settings.path, layout=LAYOUTS[settings.kind])
    listing = FINDERS[settings.kind](settings)
    if not listing.pairs and not listing.faults:
        raise DataError(f"{settings.path} holds no images.", fix=f"Expected here: {LAYOUTS[settings.kind]}.")
    table_path = settings.path / "splits.csv"
    table, faults = _table(table_path)
    samples, split_faults = _samples(listing.pairs, table, settings)
    if table and table.grouped:
        split_faults += _divided(samples, table_path)
    manifest = Manifest(tuple(sorted(samples, key=lambda sample: sample.key)), {settings.domain: listing.rules})
    return Survey(manifest, (*listing.faults, *faults, *split_faults), _unused(listing, table))


def _table(path: Path) -> tuple[SplitTable | None, list[Fault]]:
    if not path.exists():
        return None, []
    try:
        return read_splits_csv(path), []
    except DataError as error:
        return None, [Fault(path, "splits.csv cannot be used", error.fix, error.problem.rstrip("."))]


def _samples(
    pairs: Iterable[Pair], table: SplitTable | None, settings: SourceSettings
) -> tuple[list[Sample], list[Fault]]:
    placed: list[Pair] = []
    faults: list[Fault] = []
    for pair in pairs:
        found = _placed(pair, table, settings.path)
        if isinstance(found, Fault):
            faults.append(found)
        elif found:
            placed.append(found)
    return _complete(placed, settings), faults


def _placed(pair: Pair, table: SplitTable | None, path: Path) -> Pair | Fault | None:
    """Returns the pair with what splits.csv says of it; None where that leaves it out."""
    split, patient = pair.split, pair.patient
    if table:
        row = table.row_of(pair.key)
        if row is None:
            fix = "Add a row for each; any other word than train, val and test as split leaves an image out."
            return Fault(pair.image, "image not named in splits.csv", fix, pair.key)
        if row.split is None:
            return None
        split, patient = row.split, row.patient or patient
    if patient is None:
        fix = "Add a splits.csv with the columns id, sequence and split."
        return Fault(pair.image, "frame of no known sequence", fix, pair.key)
    return Pair(pair.key, pair.image, pair.mask, patient, split, pair.slice_index)


def _complete(pairs: list[Pair], settings: SourceSettings) -> list[Sample]:
    """Draws the splits that are not given: all of them, or a validation part of the training patients."""
    given = {pair.split for pair in pairs}
    fractions = settings.fractions if given == {None} else (settings.fractions[0], 0.0)
    open_ones = [] if "val" in given else [pair for pair in pairs if pair.split in (None, "train")]
    drawn = assign_splits((str(pair.patient) for pair in open_ones), fractions=fractions, seed=_SEED)
    redrawn = {pair.key: drawn[str(pair.patient)] for pair in open_ones}
    return [
        Sample(
            key=pair.key,
            image=pair.image,
            mask=pair.mask,
            patient=str(pair.patient),
            domain=settings.domain,
            split=redrawn.get(pair.key) or pair.split or "train",
            slice_index=pair.slice_index,
        )
        for pair in pairs
    ]


def _divided(samples: Iterable[Sample], path: Path) -> list[Fault]:
    found = divided((sample.patient, sample.split) for sample in samples)
    fix = "Move all rows of a patient to one split."
    return [Fault(path, DIVIDED, fix, f"{patient} in {' and '.join(splits)}") for patient, splits in found.items()]


def _unused(listing: Listing, table: SplitTable | None) -> tuple[str, ...]:
    if table is None:
        return ()
    present = {pair.key for pair in listing.pairs}
    parents = {key[:at] for key in present for at, letter in enumerate(key) if letter == "/"}
    return tuple(row for row in table.rows if row not in present and row not in parents)
