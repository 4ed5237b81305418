"""ChestX-ray14: 112,120 chest X-rays of 30,805 patients with up to 14 findings (Wang et al., CVPR 2017).

Layout: ``Data_Entry_2017*.csv`` (the table of 2017 or of 2020), the images in ``images/`` or, as the twelve archives
unpack, in ``images_001/images`` to ``images_012/images``, and the lists of the splits beside the table. Header and rows
of the table do not agree on its last columns (``OriginalImage[Width,Height]`` is written without quotes); nothing of
them is read.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from medarts.config import SPLITS, FindingSourceSettings, Split
from medarts.data.contents import composed, file_named, listed
from medarts.data.sources import (
    NO_PATIENT,
    TWICE,
    Fault,
    Listing,
    Pair,
    Source,
    missing,
    passed_over,
    register_source,
    rules_of,
    unnamed,
    unreadable,
)
from medarts.data.splits import SPLITS_CSV, natural
from medarts.data.tables import Table, read_table, require_regular
from medarts.errors import DataError, did_you_mean

FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
NO_FINDING = "No Finding"
TABLES = "Data_Entry_2017*.csv"
LAYOUT = f"{TABLES}, and images/ or images_001/images to images_012/images"
TOY = "toy_split"

_INDEX, _LABELS, _PATIENT = "Image Index", "Finding Labels", "Patient ID"
_COLUMNS_FIX = "Download the table again; its columns are Image Index, Finding Labels, ..., Patient ID, ..."
_SUFFIX = ".png"
_NO_LIST_FIX = "Complete the lists, or take them all out for splits sampled by patient."
_FOLDER = re.compile(r"images(_\d+)?")
# Lists of names and their split, in the two forms that are in use: validation apart, and as published.
_APART: dict[str, Split] = {"train_list.txt": "train", "val_list.txt": "val", "test_list.txt": "test"}
_PUBLISHED: dict[str, Split] = {"train_val_list.txt": "train", "test_list.txt": "test"}

Lists = dict[str, tuple[Split, ...]]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row of the table; not ``sound`` where it has a fault of its own."""

    key: str
    name: str
    patient: str
    findings: tuple[str, ...]
    sound: bool


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of the download.

    Attributes:
        read: the images, by their names.
        others: files of kinds that are not read, by their names without suffix.
        passed_over: what is not read, for the doctor.
    """

    read: dict[str, Path]
    others: dict[str, Path]
    passed_over: list[Fault]


class ChestXray14Settings(FindingSourceSettings):
    """ChestX-ray14; the other settings are those of ``FindingSourceSettings``.

    Attributes:
        lists: official takes splits.csv where there is one, else the lists of the download; toy takes the published toy
            split, ``toy_split/{train,val,test}.csv``.
    """

    kind: Literal["chestxray14"] = "chestxray14"
    lists: Literal["official", "toy"] = "official"

    @property
    def reads_splits_csv(self) -> bool:
        return self.lists == "official"


@register_source("chestxray14", settings=ChestXray14Settings)
class ChestXray14(Source):
    """X-rays as "00000001_000"; the patient is that of the table.

    The split comes from ``toy_split/`` where the settings ask for it, which leaves out what it does not name;
    else ``splits.csv``, where there is one, is left to say it; else it comes from ``train_list.txt`` and
    ``val_list.txt``, or the published ``train_val_list.txt``, with ``test_list.txt``; without them it is left open. An
    image that is in several folders is taken from the first.
    """

    layout = LAYOUT
    tables = (TABLES, "BBox_List_2017*.csv")

    def recognise(self, path: Path) -> tuple[ChestXray14Settings, ...]:
        return (ChestXray14Settings(path=path),) if file_named(path, TABLES) is not None else ()

    def find(self, settings: ChestXray14Settings, findings: tuple[str, ...] | None = None) -> Listing:
        table = _open_table(settings.path)
        entries, faults = _entries(table)
        lists = _lists(settings)
        files = _files(settings.path)
        pairs: list[Pair] = []
        for entry in entries.values():
            if settings.lists == "toy" and entry.key not in (lists or {}):
                continue
            found = _placed(entry, lists, files, table.path)
            if isinstance(found, Fault):
                faults.append(found)
            elif entry.sound:
                pairs.append(found)
        if lists is not None:
            faults += [missing(table.path, key) for key in sorted(lists.keys() - entries.keys())]
        names = {entry.name for entry in entries.values()}
        faults += [unnamed(table.path, name) for name in sorted(files.read.keys() - names)]
        faults += files.passed_over
        return Listing(tuple(pairs), tuple(faults), rules_of(settings), FINDINGS)


def _open_table(path: Path) -> Table:
    found = file_named(path, TABLES)
    if found is None:
        raise DataError(f"There is no table {TABLES} in {path}.", fix="Download Data_Entry_2017_v2020.csv.")
    table = read_table(found)
    table.require((_INDEX, _LABELS, _PATIENT), fix=_COLUMNS_FIX)
    return table


def _entries(table: Table) -> tuple[dict[str, _Entry], list[Fault]]:
    """Returns the rows by key, the first of several, and what is wrong with them."""
    known: dict[str, tuple[str, ...] | Fault] = {}  # few hundred combinations in 112,120 rows
    entries: dict[str, _Entry] = {}
    faults: list[Fault] = []
    columns = (table.cells[column] for column in (_INDEX, _PATIENT, _LABELS))
    for name, patient, labels in zip(*columns, strict=True):
        if labels not in known:
            known[labels] = _findings_in(labels, table.path)
        findings = known[labels]
        if isinstance(findings, Fault):
            faults.append(Fault(table.path, findings.problem, findings.fix, f"{name}: {findings.detail}"))
        if not patient:
            faults.append(Fault(table.path, NO_PATIENT, f"Fill in the column {_PATIENT}.", name))
        sound = bool(patient) and not isinstance(findings, Fault)
        key = name.removesuffix(_SUFFIX)
        entry = _Entry(key, name, patient, () if isinstance(findings, Fault) else findings, sound)
        if entries.setdefault(key, entry) is not entry:
            faults.append(Fault(table.path, TWICE, "Keep one of the rows.", name))
    return entries, faults


def _findings_in(labels: str, table: Path) -> tuple[str, ...] | Fault:
    """Returns the findings of a cell such as "Mass|Nodule", in the order of ``FINDINGS``."""
    names = {name.strip() for name in labels.split("|")}
    strange = sorted(names - {*FINDINGS, NO_FINDING})
    if strange:
        fix = did_you_mean(strange[0], (*FINDINGS, NO_FINDING))
        return Fault(table, "unknown finding", fix, f"'{strange[0]}'")
    if NO_FINDING in names and len(names) > 1:
        return Fault(table, "findings that contradict each other", "Keep what is true.", f"'{labels}'")
    return tuple(finding for finding in FINDINGS if finding in names)


def _placed(entry: _Entry, lists: Lists | None, files: _Files, table: Path) -> Pair | Fault:
    split: Split | None = None
    if lists is not None:
        splits = lists.get(entry.key, ())
        if not splits:
            return Fault(table, "image in no list", _NO_LIST_FIX, entry.name)
        if len(splits) > 1:
            detail = f"{entry.name} in {' and '.join(splits)}"
            return Fault(table, "image in two lists", "Keep it in one of them.", detail)
        split = splits[0]
    image = files.read.get(entry.name)
    if image is None:
        other = files.others.get(entry.key)
        return missing(table, entry.name) if other is None else unreadable(other, "image")
    return Pair(entry.key, image, None, entry.patient, split, findings=entry.findings)


def _lists(settings: ChestXray14Settings) -> Lists | None:
    """Returns the splits of every image that a list names; None where none is to be used."""
    path = settings.path
    if settings.lists == "toy":
        return _collected((_toy_names(path / TOY / f"{split}.csv"), split) for split in SPLITS)
    if file_named(path, SPLITS_CSV):
        return None
    apart = file_named(path, "train_list.txt") or file_named(path, "val_list.txt")
    files = {file_named(path, name): split for name, split in (_APART if apart else _PUBLISHED).items()}
    present = {file: split for file, split in files.items() if file}
    return _collected((_listed_names(file), split) for file, split in present.items()) if present else None


def _collected(parts: Iterable[tuple[list[str], Split]]) -> Lists:
    found: Lists = {}
    for names, split in parts:
        for name in names:
            key = name.removesuffix(_SUFFIX)
            before = found.get(key, ())
            if split not in before:
                found[key] = (*before, split)
    return found


def _toy_names(path: Path) -> list[str]:
    table = read_table(path)
    table.require((_INDEX,), fix="Copy the toy split again; it has the columns of the download's table.")
    return table.cells[_INDEX]


def _listed_names(path: Path) -> list[str]:
    """Returns the first word of every line; some lists have labels behind it."""
    require_regular(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}.", fix="Download it again.") from None
    return [line.split()[0] for line in lines if line.strip()]


def _files(path: Path) -> _Files:
    parts = sorted(
        (part for part in path.iterdir() if _FOLDER.fullmatch(part.name)), key=lambda part: natural(part.name)
    )
    found = _Files({}, {}, [])
    for part in parts:
        for contents in (listed(part), listed(part / "images")):
            for image in contents.images:
                found.read.setdefault(composed(image.name), image)
            for other in contents.unread:
                found.others.setdefault(composed(other.stem), other)
            unread = tuple(folder for folder in contents.folders if folder != part / "images")
            found.passed_over.extend(passed_over(replace(contents, folders=unread)))
    return found
