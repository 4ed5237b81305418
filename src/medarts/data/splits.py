"""Who is in which part: splits.csv, splits by patient, and the two halves of the search.

Whatever is drawn here is drawn from a hash of (seed, patient), so that it depends neither on the order of the
files nor on the other patients' names.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medarts.data.files import is_image, suffix_of
from medarts.data.manifest import SPLITS, Manifest, Sample, Split
from medarts.data.tables import read_table
from medarts.errors import DataError

ID_COLUMNS = ("id", "image")
GROUP_COLUMNS = ("patient", "subject", "sequence", "case", "lesion")  # a csv with two of them: the coarser counts
ORIGIN_COLUMNS = ("source", "dataset", "site")
_OTHER_NAMES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_FEW_PATIENTS = 4  # below it a half of whole patients is too lopsided


@dataclass(frozen=True, slots=True)
class SplitRow:
    """One row of splits.csv.

    Attributes:
        split: the split; None leaves the sample out ("gap" slices between two splits).
        patient: the value of the group column, None where the file has none.
    """

    split: Split | None
    patient: str | None


@dataclass(frozen=True, slots=True)
class SplitTable:
    """A read splits.csv.

    Attributes:
        rows: id -> row.
        grouped: the file has a group column, so that a patient in two splits is an error.
    """

    rows: dict[str, SplitRow]
    grouped: bool

    def row_of(self, key: str) -> SplitRow | None:
        """Returns the row of a sample: its own, or that of the volume or patient its key begins with."""
        while key not in self.rows:
            key, slash, _ = key.rpartition("/")
            if not slash:
                return None
        return self.rows[key]


def read_splits_csv(path: Path) -> SplitTable:
    """Reads a splits.csv.

    Columns: ``id`` or ``image`` (a name with or without the suffix of its file); ``split`` (train, val or test,
    anything else leaves the sample out); and optionally one of ``GROUP_COLUMNS`` that names what must stay whole.
    Where a column of ``ORIGIN_COLUMNS`` stands beside it, the two together are the patient, as subject 1 of two data
    sets is two people.

    Raises:
        DataError: no such columns, no rows, an id twice, or a row without its patient.
    """
    table = read_table(path)
    named = next((column for column in ID_COLUMNS if column in table.columns), "id")
    table.require((named, "split"), fix="Write the columns id and split, one row an image.")
    group = next((column for column in GROUP_COLUMNS if column in table.columns), None)
    origin = next((column for column in ORIGIN_COLUMNS if column in table.columns), None)
    blank = [""] * len(table.lines)
    patients, origins = (table.cells[column] if column else blank for column in (group, origin))
    parsed: dict[str, SplitRow] = {}
    for name, word, patient, home in zip(table.cells[named], table.cells["split"], patients, origins, strict=True):
        key = without_suffix(name)
        if key in parsed:
            raise DataError(f"{path} names the id '{key}' twice.", fix="Keep one of the two rows.")
        if group and not patient:
            raise DataError(f"{path}: id '{key}' has no {group}.", fix=f"Fill in the column {group}.")
        parsed[key] = SplitRow(split_named(word), _patient(patient, home, grouped=bool(group), located=bool(origin)))
    return SplitTable(parsed, grouped=group is not None)


def split_named(text: str) -> Split | None:
    """Returns the split that a cell names, by its name here or another usual one; None for any other word."""
    wanted = text.strip().lower()
    return next((split for split in SPLITS if split == _OTHER_NAMES.get(wanted, wanted)), None)


def without_suffix(name: str) -> str:
    """Returns the name of an image file without its suffix, and any other name as it is.

    >>> without_suffix("a/1.2.png"), without_suffix("a/1.2")
    ('a/1.2', 'a/1.2')
    """
    path = Path(name)
    return name[: -len(suffix_of(path))] if is_image(path) else name


def assign_splits(groups: Iterable[str], *, fractions: tuple[float, float], seed: int) -> dict[str, Split]:
    """Draws a split for every patient.

    Args:
        groups: the patients; a name may come several times.
        fractions: (validation, test) fractions of the patients.
        seed: seed of the draw.

    Returns:
        Patient -> split. From three patients up, a split with a fraction above 0 has at least one, and training
        always does. Fewer are all training: one cannot hold out a person and still learn from others.
    """
    patients = sorted(set(groups), key=lambda patient: draw(seed, patient))
    count = len(patients)
    if count < 3:
        return dict.fromkeys(patients, "train")
    val, test = (max(1, round(part * count)) if part > 0 else 0 for part in fractions)
    while val + test >= count:
        val, test = (val - 1, test) if val > test else (val, test - 1)
    ends: tuple[tuple[int, Split], ...] = ((test, "test"), (test + val, "val"), (count, "train"))
    return {patient: next(split for end, split in ends if n < end) for n, patient in enumerate(patients)}


def halve(manifest: Manifest, *, portion: float, seed: int) -> tuple[Manifest, Manifest]:
    """Divides the training samples of every domain for the search.

    Patients stay whole in a domain of four or more. With fewer, the samples in the order of their keys are cut
    once, so that all slices but those at the cut have their neighbours on their own side; interleaved slices
    would show the alphas nearly the images that the weights were trained on.

    Args:
        manifest: samples of all splits; the training ones are divided.
        portion: part of the patients that goes to the first half.
        seed: seed of the draw.

    Returns:
        The samples the weights learn from, and those the alphas learn from.

    Raises:
        DataError: a domain has fewer than two training samples.
    """
    first: set[tuple[str, str]] = set()
    train = manifest.of_split("train")
    for domain in manifest.domains:
        samples = [sample for sample in train.samples if sample.domain == domain]
        if len(samples) < 2:
            raise DataError(
                f"Domain {domain} has {len(samples)} training images; the search divides them in two halves.",
                fix="Give it at least two, or take it out of data.sources.",
            )
        first.update((domain, sample.key) for sample in _first_half(samples, portion, seed))
    return (
        train.where(lambda sample: (sample.domain, sample.key) in first),
        train.where(lambda sample: (sample.domain, sample.key) not in first),
    )


def divided(members: Iterable[tuple[str, Split | None]]) -> dict[str, tuple[Split, ...]]:
    """Returns the patients that are in more than one split, with these splits; None is no split."""
    found: dict[str, set[Split]] = {}
    for patient, split in members:
        if split is not None:
            found.setdefault(patient, set()).add(split)
    return {
        patient: tuple(split for split in SPLITS if split in splits)
        for patient, splits in found.items()
        if len(splits) > 1
    }


def draw(seed: int, name: str) -> str:
    """Returns what names are sorted by where some of them are drawn: a hash of (seed, name)."""
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Returns a key that sorts numbers in names by value: 2 before 10.

    >>> sorted(["10", "9b", "9a"], key=natural)
    ['9a', '9b', '10']
    """
    parts = re.findall(r"(\d+)|(\D+)", name)
    return tuple((int(digits), "") if digits else (-1, text) for digits, text in parts)


def _first_half(samples: Sequence[Sample], portion: float, seed: int) -> list[Sample]:
    patients = sorted({sample.patient for sample in samples}, key=lambda patient: draw(seed, f"half/{patient}"))
    if len(patients) < _FEW_PATIENTS:
        ordered = sorted(samples, key=lambda sample: natural(sample.key))
        return ordered[: _share(portion, len(ordered))]
    chosen = set(patients[: _share(portion, len(patients))])
    return [sample for sample in samples if sample.patient in chosen]


def _share(portion: float, count: int) -> int:
    """Returns a rounded share of ``count`` that leaves at least one on either side."""
    return min(max(round(portion * count), 1), count - 1)


def _patient(patient: str, home: str, *, grouped: bool, located: bool) -> str | None:
    if not grouped:
        return None
    return f"{home}/{patient}" if located else patient
