"""Images and masks by a list of their paths: a CSV file with a row an image, or a JSON file with an entry an image.

JSON: a list of entries, or a list for each split, as MONAI and the Medical Segmentation Decathlon have them.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from medarts.config import MaskSourceSettings, Split
from medarts.config.section import Text
from medarts.data.contents import composed
from medarts.data.formats import is_image, suffix_of
from medarts.data.naming import files_of_splits, images_below, tables_given
from medarts.data.patterns import split_of
from medarts.data.sources import (
    TWICE,
    AmbiguousLayoutError,
    Fault,
    Listing,
    Pair,
    Source,
    domain_of,
    left_out,
    register_source,
    rules_of,
    unreadable,
)
from medarts.data.splits import group_columns, is_doubtful, split_named, without_splits, without_suffix
from medarts.data.tables import read_json, read_table
from medarts.data.volumes import slices_of
from medarts.errors import DataError

LAYOUT = "a CSV or JSON file with the paths of images and masks"

_IMAGE = {"image", "images", "img", "scan", "input", "file", "path", "filename", ""}
_MASK = {"mask", "masks", "label", "labels", "seg", "segmentation", "annotation", "gt", "groundtruth", "target"}
_SPLIT = {"split", "set", "subset", "partition", "phase", "usage"}
_ENDS = re.compile(r"(paths?|files?|names?|filenames?)$")
GONE = "entry whose file is not there"
_TABLES = (".csv", ".tsv", ".json")


def _is_table(text: str) -> str:
    if not text.lower().endswith(_TABLES):
        raise ValueError(f"'{text}' is not the name of a CSV, TSV or JSON file")
    return text


class ListSettings(MaskSourceSettings):
    """A list of images and masks; the other settings are those of ``MaskSourceSettings``.

    Attributes:
        table: the list, from the folder; a CSV, TSV or JSON file. With {split} in it, one list for each split.
        image: column, or key in JSON, of the path of the image, from the list or the folder. Default: one of a usual
            name, such as image or filename.
        mask: that of the mask. Default: one of a usual name, such as mask or label.
        patient: that of the patient. Default: one of a usual name, such as patient or PatientID; none, and every image
            is its own patient.
        split: that of the split. Default: one of a usual name, such as split.
    """

    kind: Literal["list"] = "list"
    table: Annotated[Text, AfterValidator(_is_table)]
    image: Text | None = None
    mask: Text | None = None
    patient: Text | None = None
    split: Text | None = None

    @property
    def identity(self) -> tuple[str, ...]:
        return (*super().identity, self.table)


@dataclass(frozen=True)
class _Entries:
    """The entries of a list.

    Attributes:
        path: the file.
        columns: of all entries.
        rows: values by column.
        splits: the split that the list says for each entry by itself, "" where it says none.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    splits: list[str]


@dataclass
class _Files:
    """The image files that a list can mean."""

    root: Path
    table: Path
    found: dict[str, Path | None] = field(default_factory=dict)

    def find(self, name: str) -> Path | None:
        """Returns the file of a path from the list or the folder, else the one below the folder with the likest path.

        Lists are moved from one machine to another with the paths of the first.
        """
        if name not in self.found:
            spelled = Path(name.replace("\\", "/"))
            near = (base / spelled for base in (self.table.parent, self.root))
            self.found[name] = next((path for path in near if path.is_file()), self._named(spelled))
        return self.found[name]

    def _named(self, path: Path) -> Path | None:
        shared = {each: _shared(each, path) for each in self._below.get(composed(path.name), [])}
        best = [each for each, count in shared.items() if count == max(shared.values())]
        return best[0] if len(best) == 1 else None

    @cached_property
    def _below(self) -> dict[str, list[Path]]:
        return images_below(self.root)


def _shared(one: Path, other: Path) -> int:
    """Returns the number of parts that two paths end in alike."""
    alike = (a == b for a, b in zip(reversed(one.parts), reversed(other.parts), strict=False))
    return sum(1 for _ in takewhile(bool, alike))


@register_source("list", settings=ListSettings)
class ListSource(Source):
    """Images by their paths without suffix."""

    layout = LAYOUT
    takes_files = True
    tables = ("*.csv", "*.tsv", "*.json")
    split_fix = "Write {split} in the column split of the list for some patients."

    def recognise(self, path: Path) -> tuple[ListSettings, ...]:
        root, tables = tables_given(path, _TABLES)
        lists = [file for file in tables if _lists_pairs(file)]
        lists = [file for file in lists if file.name.lower() != "dataset.json" or path.is_file()]
        words = [split_of(file.stem) for file in lists]
        if len(lists) > 1 and None not in words and len({file.suffix for file in lists}) == 1:
            return (ListSettings(path=root, name=domain_of(root), table=f"{{split}}{lists[0].suffix}"),)
        if len(lists) > 1:
            told = [f"the list {file.name}" for file in lists]
            raise AmbiguousLayoutError(root, [(_settings(root, file),) for file in lists], told)
        return tuple(_settings(root, file) for file in lists)

    def find(self, settings: ListSettings, findings: tuple[str, ...] | None = None) -> Listing:
        pairs: list[Pair] = []
        faults: list[Fault] = []
        seen: set[str] = set()
        files = sorted(settings.path.iterdir())
        for path, split in files_of_splits(settings.path, settings.table, files, field="table"):
            entries = _read(path, split)
            for pair in _pairs(entries, _Files(settings.path, path), settings):
                if isinstance(pair, Fault):
                    faults.append(pair)
                elif pair.key in seen:
                    faults.append(Fault(path, TWICE, "Keep one of the entries.", pair.key))
                else:
                    seen.add(pair.key)
                    slices, fault = slices_of(pair, (*pair.more, *((pair.mask,) if pair.mask else ())))
                    pairs += slices
                    faults += fault
        return Listing(tuple(pairs), tuple(faults), rules_of(settings))


def _settings(root: Path, file: Path) -> ListSettings:
    return ListSettings(path=root, name=domain_of(root), table=file.name)


def _pairs(entries: _Entries, files: _Files, settings: ListSettings) -> Iterator[Pair | Fault]:
    image, mask = _column(entries, settings.image, _IMAGE), _column(entries, settings.mask, _MASK)
    for what, column in (("image", image), ("mask", mask)):
        if column is None:
            raise DataError(
                f"{entries.path} has no column of the {what}s; its columns are {', '.join(entries.columns)}.",
                fix=f"Name it in {what} of the source.",
            )
    patient = _given(entries, settings.patient) or next(iter(group_columns(entries.columns)), None)
    split = _split_column(entries, settings)
    for row, told in zip(entries.rows, entries.splits, strict=True):
        word = row.get(split or "", "") or told
        if word and split_named(word) is None and split_of(word) is None:
            if is_doubtful(word):
                yield left_out(entries.path, row[str(image)], word)
            continue
        found = [_file(row, str(column), files, entries.path) for column in (image, mask)]
        faults = [each for each in found if isinstance(each, Fault)]
        paths = [each for each in found if isinstance(each, Path)]
        if faults:
            yield faults[0]
        else:
            key = _key(paths[0], settings.path)
            whole = row.get(patient or "", "") or key
            yield Pair(key, paths[0], paths[1], patient=whole, split=_split(word))


def _split_column(entries: _Entries, settings: ListSettings) -> str | None:
    """Returns the column of the splits; one that is only called as usual has to hold words for them."""
    split = _column(entries, settings.split, _SPLIT)
    words = [word for row in entries.rows if (word := row.get(split or "", ""))]
    if not any(is_doubtful(word) for word in words) or any(_split(word) for word in words):
        return split
    if settings.split is not None:
        raise without_splits(entries.path, words, column=settings.split)
    return None


def _split(word: str) -> Split | None:
    return split_of(word) if word else None


def _file(row: dict[str, str], column: str, files: _Files, table: Path) -> Path | Fault:
    name = row.get(column, "")
    if not name:
        fix = "Complete the list, or take the entry out."
        return Fault(table, f"entry without {column}", fix, ", ".join(filter(None, row.values())))
    found = files.find(name)
    if found is None:
        return Fault(table, GONE, "Complete the folder, or take the entries out.", name)
    return found if is_image(found) else unreadable(found, column)


def _key(image: Path, root: Path) -> str:
    path = image.relative_to(root) if image.is_relative_to(root) else Path(*image.resolve().parts[1:])
    return composed(without_suffix(path.as_posix()))


def _column(entries: _Entries, given: str | None, usual: set[str]) -> str | None:
    """Returns the column that a recipe names, else one that is called as usual; None without one."""
    return _given(entries, given) or next((column for column in entries.columns if _plain(column) in usual), None)


def _given(entries: _Entries, column: str | None) -> str | None:
    """Returns the column that a recipe names; refuses one that the list does not have."""
    if column is not None and column not in entries.columns:
        raise DataError(
            f"{entries.path} has no column {column}; its columns are {', '.join(entries.columns)}.",
            fix="Correct the name of the column in the source.",
        )
    return column


def _plain(column: str) -> str:
    """Returns the name of a column without what all names of files end in.

    >>> _plain("Image_Path"), _plain("maskFileName")
    ('image', 'mask')
    """
    plain = re.sub(r"[\W_]", "", column).casefold()
    return _ENDS.sub("", _ENDS.sub("", plain)) or "file"


def _lists_pairs(path: Path) -> bool:
    """Tells whether a table names images and masks."""
    try:
        entries = _read(path, "")
    except DataError:
        return False
    image, mask = _column(entries, None, _IMAGE), _column(entries, None, _MASK)
    files = [row.get(column or "", "") for row in entries.rows[:5] for column in (image, mask)]
    return image is not None and mask is not None and bool(files) and all(is_image(Path(name)) for name in files)


def _read(path: Path, split: str) -> _Entries:
    """Reads a list; ``split`` is that of all entries, "" where they or nothing says it."""
    if suffix_of(path) != ".json":
        table = read_table(path)
        rows = [{column: table.cells[column][number] for column in table.columns} for number in range(len(table.lines))]
        return _Entries(path, table.columns, rows, [split] * len(rows))
    parts = _parts(path, read_json(path))
    rows = [{key: str(value) for key, value in row.items() if isinstance(value, str | int)} for row, _ in parts]
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return _Entries(path, columns, rows, [split or word for _, word in parts])


def _parts(path: Path, content: Any) -> Sequence[tuple[dict[str, Any], str]]:
    """Returns the entries of a JSON list with the words for their splits."""
    if isinstance(content, list):
        return [(row, "") for row in content if isinstance(row, dict)]
    if isinstance(content, dict):
        named = {word: rows for word, rows in content.items() if isinstance(rows, list) and split_of(word)}
        alone = len(named) == 1  # as of the training images of a challenge, whose others have no masks
        found = [(row, word) for word, rows in named.items() for row in rows if isinstance(row, dict)]
        alone = alone or len({word for _, word in found}) == 1
        return [(row, "" if alone else word) for row, word in found]
    raise DataError(f"{path} is no list of images.", fix="Write a list of entries with image and mask.")
