"""Who is in which part: splits.csv, splits by patient, and the two halves of the search.

Random choices are hashes of (seed, patient), so that they depend neither on the order of the files nor on the names of
other patients.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medarts.config import SPLITS, Split
from medarts.data.formats import is_image, suffix_of
from medarts.data.manifest import Manifest, Sample
from medarts.data.tables import Table, read_table
from medarts.errors import DataError

ID_COLUMNS = ("id", "image")
GROUPS = ("patient", "subject", "participant", "person", "sequence", "video", "case", "lesion")
"""What must stay whole, as columns call it; of two in one table the coarser counts, which stands first here."""
ORIGIN_COLUMNS = ("source", "dataset", "site")
NO_SPLIT = frozenset({"gap", "none", "out", "unused", "exclude", "excluded", "ignore", "ignored", "skip"})
"""Words in a column split that leave an image out on purpose; others may be typing errors."""

SPLITS_CSV = "splits.csv"
"""The table that decides the splits; its name may be in any case."""

SPLIT_SEED = 0
"""Seed of sampled splits: the same for every run, so that runs can be compared."""

FEWEST = 3
"""Patients of which some can be held out."""

_ID_WORDS = ("", "id", "uid", "name", "no", "nr", "num", "number", "code", "key")
_GROUP_COLUMNS = {f"{group}{word}": rank for rank, group in enumerate(GROUPS) for word in _ID_WORDS}
_IDENTIFYING = {*_ID_WORDS[1:], "pid", "mrn", "identifier", "family", "donor", "animal", "mouse"}
_IDENTIFYING |= {"study", "exam", "visit", "series", "scan", "volume", "slide"}
_OTHER_NAMES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_FEW_PATIENTS = 4  # below it a half of whole patients is too lopsided


@dataclass(frozen=True, slots=True)
class SplitRow:
    """One row of splits.csv.

    Attributes:
        split: the split; None leaves the sample out ("gap" slices between two splits).
        patient: the value of the group column, None where the file has none.
        word: the word in the column split.
    """

    split: Split | None
    patient: str | None
    word: str


@dataclass(frozen=True, slots=True)
class SplitTable:
    """A read splits.csv.

    Attributes:
        path: the file.
        rows: id -> row.
        grouped: the file has a group column, so that a patient in two splits is an error.
        unused: columns that are not used although they may say which images belong together.
    """

    path: Path
    rows: dict[str, SplitRow]
    grouped: bool
    unused: tuple[str, ...] = ()

    def row_of(self, key: str) -> SplitRow | None:
        """Returns the row of a sample: its own, or that of the volume or patient its key begins with."""
        while key not in self.rows:
            key, slash, _ = key.rpartition("/")
            if not slash:
                return None
        return self.rows[key]


def read_splits_csv(path: Path, *, names: Callable[[], Collection[str]] = tuple) -> SplitTable:
    """Reads a splits.csv.

    Columns, in any case: ``id`` or ``image`` (a name with or without the suffix of its file), of two the one that
    names more images; ``split`` (train, val or
    test, anything else leaves the sample out); and optionally one that names what must stay whole, see
    ``group_columns``. Where a column of ``ORIGIN_COLUMNS`` stands beside it, the two together are the patient, as
    subject 1 of two data sets is two people.

    Args:
        names: gives what the images of the set may be called; asked for where there are both columns.

    Raises:
        DataError: no such columns, no rows, no row with a split, an id twice, or a row without its patient.
    """
    table = read_table(path)
    named, word_column = _naming(table, names), table.column("split")
    table.require((named or "id", word_column or "split"), fix="Write the columns id and split, one row an image.")
    group = next(iter(group_columns(table.columns)), None)
    origin = table.column(*ORIGIN_COLUMNS)
    blank = [""] * len(table.lines)
    columns = (table.cells[column] if column else blank for column in (named, word_column, group, origin))
    parsed: dict[str, SplitRow] = {}
    for name, word, patient, home in zip(*columns, strict=True):
        key = without_suffix(name)
        if key in parsed:
            raise DataError(f"{path} names the id '{key}' twice.", fix="Keep one of the two rows.")
        if group and not patient:
            raise DataError(f"{path}: id '{key}' has no {group}.", fix=f"Fill in the column {group}.")
        whole = _patient(patient, home, grouped=bool(group), located=bool(origin))
        parsed[key] = SplitRow(split_named(word), whole, word)
    if all(row.split is None for row in parsed.values()):
        raise without_splits(path, (row.word for row in parsed.values()))
    return SplitTable(path, parsed, group is not None, unused_groups(table, {named, word_column, origin}, group))


def _naming(table: Table, names: Callable[[], Collection[str]]) -> str | None:
    """Returns the column of the images: some tables number their rows in ``id`` and name the files in ``image``."""
    present = [column for name in ID_COLUMNS if (column := table.column(name))]
    if len(present) < 2:
        return next(iter(present), None)
    known = set(names())
    return max(present, key=lambda column: sum(without_suffix(cell) in known for cell in table.cells[column]))


def group_columns(columns: Iterable[str]) -> tuple[str, ...]:
    """Returns the columns that name what must stay whole, the coarsest first.

    They are called as ``GROUPS`` are, or so with ``id``, ``name`` or ``number`` behind; case and separators do not
    matter.

    >>> group_columns(["image", "Lesion ID", "patient_id", "Sex"])
    ('patient_id', 'Lesion ID')
    """
    ranks = {column: _GROUP_COLUMNS.get(re.sub(r"[\W_]", "", column).casefold()) for column in columns}
    found = sorted((rank, column) for column, rank in ranks.items() if rank is not None)
    return tuple(column for _, column in found)


def without_splits(path: Path, words: Iterable[str], *, column: str = "split") -> DataError:
    """Returns the error of a table of which no row has a split.

    Args:
        path: the table.
        words: the cells of the column.
        column: its name.
    """
    doubtful = list(dict.fromkeys(word for word in words if is_doubtful(word)))
    fix = f"Write train, val or test in the column {column}."
    if not doubtful:
        return DataError(f"{path} leaves every image out.", fix=fix)
    shown = ", ".join(f"'{word}'" for word in doubtful[:4]) + (", ..." if len(doubtful) > 4 else "")
    return DataError(f"{path}: {shown} {'is not a split' if len(doubtful) == 1 else 'are not splits'}.", fix=fix)


def unused_groups(table: Table, used: Collection[str | None], group: str | None) -> tuple[str, ...]:
    """Returns columns that are not used and may say which images belong together: identifiers that several have."""
    known = group_columns(table.columns)
    wholes = table.cells[group] if group else [str(line) for line in table.lines]
    return tuple(
        column
        for column in table.columns
        if column not in used
        and column not in known
        and _IDENTIFYING.intersection(_words(column))
        and len(set(table.cells[column])) > 1
        and _several(zip(table.cells[column], wholes, strict=True))
    )


def _several(members: Iterable[tuple[str, str]]) -> bool:
    """Tells whether one of the names stands beside two wholes."""
    whole_of: dict[str, str] = {}
    return any(name and whole_of.setdefault(name, whole) != whole for name, whole in members)


def split_named(text: str) -> Split | None:
    """Returns the split that a cell names, by its name here or another usual one; None for any other word."""
    wanted = text.strip().lower()
    return next((split for split in SPLITS if split == _OTHER_NAMES.get(wanted, wanted)), None)


def is_doubtful(word: str) -> bool:
    """Tells whether a word in a column split leaves an image out, and perhaps not on purpose."""
    return split_named(word) is None and word.strip().lower() not in NO_SPLIT


def without_suffix(name: str) -> str:
    """Returns the name of an image file without its suffix, and any other name as it is.

    >>> without_suffix("a/1.2.png"), without_suffix("a/1.2")
    ('a/1.2', 'a/1.2')
    """
    path = Path(name)
    return name[: -len(suffix_of(path))] if is_image(path) else name


def assign_splits(groups: Iterable[str], *, fractions: tuple[float, float], seed: int) -> dict[str, Split]:
    """Returns a random split for every patient.

    From three patients up, a split with a fraction above 0 has at least one, and training always does. Fewer are all
    training: one cannot hold out a person and still learn from others.

    Args:
        groups: the patients; a name may come several times.
    """
    patients = sorted(set(groups), key=lambda patient: random_rank(seed, patient))
    count = len(patients)
    if count < FEWEST:
        return dict.fromkeys(patients, "train")
    val, test = (max(1, round(part * count)) if part > 0 else 0 for part in fractions)
    while val + test >= count:
        val, test = (val - 1, test) if val > test else (val, test - 1)
    ends: tuple[tuple[int, Split], ...] = ((test, "test"), (test + val, "val"), (count, "train"))
    return {patient: next(split for end, split in ends if n < end) for n, patient in enumerate(patients)}


def complete_splits(
    patients: Sequence[str], splits: Sequence[Split | None], *, fractions: tuple[float, float], seed: int
) -> list[Split]:
    """Returns the splits of all images: those given, and sampled ones where none is given.

    Where splits are given and none is validation, a fraction of the training patients becomes it.
    """
    given = set(splits)
    fractions = fractions if given == {None} else (fractions[0], 0.0)
    members = list(zip(patients, splits, strict=True))
    free = [] if "val" in given else [patient for patient, split in members if split in (None, "train")]
    sampled = assign_splits(free, fractions=fractions, seed=seed)
    kept = {split: "val" in given or split == "test" for split in given}
    return [(split if kept[split] else sampled[patient]) or "train" for patient, split in members]


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
    """
    first: set[tuple[str, str]] = set()
    train = manifest.of_split("train")
    for domain in manifest.domains:
        samples = [sample for sample in train.samples if sample.domain == domain]
        if len(samples) < 2:
            raise DataError(
                f"Domain {domain} has {len(samples)} training images; the search splits them into two halves.",
                fix="Give it at least two, or take it out of data.sources.",
            )
        first.update((domain, sample.key) for sample in _first_half(samples, portion, seed))
    return (
        train.where(lambda sample: (sample.domain, sample.key) in first),
        train.where(lambda sample: (sample.domain, sample.key) not in first),
    )


def divided(members: Iterable[tuple[str, Split | None]]) -> dict[str, tuple[Split, ...]]:
    """Returns the patients that are in more than one split, with these splits; None is not a split."""
    found: dict[str, set[Split]] = {}
    for patient, split in members:
        if split is not None:
            found.setdefault(patient, set()).add(split)
    return {
        patient: tuple(split for split in SPLITS if split in splits)
        for patient, splits in found.items()
        if len(splits) > 1
    }


def spelled_alike(patients: Iterable[str]) -> list[tuple[str, ...]]:
    """Returns the patients that may be one: they differ in capitals, leading zeros, spaces or a decimal ".0" alone.

    >>> spelled_alike(["7", "P1", "007", "8", "7.0", "p1"])
    [('7', '007', '7.0'), ('P1', 'p1')]
    """
    found: dict[str, list[str]] = {}
    for patient in dict.fromkeys(patients):
        plain = re.sub(r"\.0+$", "", re.sub(r"\s", "", patient.casefold()))
        found.setdefault(re.sub(r"(?<!\d)0+(?=\d)", "", plain), []).append(patient)
    return [tuple(same) for same in found.values() if len(same) > 1]


def random_rank(seed: int, name: str) -> str:
    """Returns a key that sorts names at random: a hash of (seed, name)."""
    # Names of files may hold bytes that are not UTF-8, which Python keeps as surrogates.
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).hexdigest()


_NUMBERS = re.compile(r"(\d+)|(\D+)")


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Returns a key that sorts numbers in names by value: 2 before 10.

    >>> sorted(["10", "9b", "9a"], key=natural)
    ['9a', '9b', '10']
    """
    parts = _NUMBERS.findall(name)
    return tuple((int(digits), "") if digits else (-1, text) for digits, text in parts)


def _first_half(samples: Sequence[Sample], portion: float, seed: int) -> list[Sample]:
    patients = sorted({sample.patient for sample in samples}, key=lambda patient: random_rank(seed, f"half/{patient}"))
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


def _words(name: str) -> list[str]:
    """Returns the words of a name, as in "scan_id", "ScanID" and "Scan ID"."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
