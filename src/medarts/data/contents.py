"""What lies in a folder: images, and what is not read."""

import fnmatch
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medarts.data.formats import is_image, suffix_of
from medarts.data.splits import natural
from medarts.errors import DataError
from medarts.system.names import printable

_UNDECODED = re.compile("[\ud800-\udfff]")  # surrogates, as which Python keeps such bytes
_NOTES = {
    ".txt", ".md", ".rst", ".html", ".htm", ".pdf", ".rtf", ".doc", ".docx", ".odt", ".py", ".ipynb", ".sh", ".bat",
}  # fmt: skip
_TABLES = {".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".toml", ".ini", ".xls", ".xlsx", ".ods"}
_LISTS = ("split.txt", "splits.txt", "split.csv.txt", "splits.csv.txt")
"""Names of tables of splits whose suffix says that they are notes, which some systems append and hide."""
_REMAINS = {".log", ".db", ".sha256", ".md5", ".part", ".crdownload", ".bak", ".tmp"}
_NO_IMAGES = _NOTES | _TABLES | _REMAINS
"""Suffixes of what lies beside images and is none: notes, tables, thumbnails of the system (Thumbs.db), ..."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of a folder, without hidden ones.

    Attributes:
        folder: the folder.
        images: the files that are read, by their suffix, in natural order.
        others: files that may be images and are not read, in natural order.
        folders: the folders in it that may hold images, in natural order.
        irregular: what is called as an image and is a folder, pipe or device, in natural order.
    """

    folder: Path
    images: tuple[Path, ...]
    others: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    irregular: tuple[Path, ...] = ()

    @property
    def unread(self) -> tuple[Path, ...]:
        """What may be meant as an image and is not read, folders of other names apart."""
        return self.others + self.irregular

    def kinds(self) -> str:
        """Returns how many of the other files have which suffix, such as ".webp 6, .gif 2"."""
        counts = Counter(suffix_of(path) or "without a suffix" for path in self.others)
        return ", ".join(f"{suffix} {count:,}" for suffix, count in counts.most_common())


def composed(name: str) -> str:
    """Returns a file name as it is compared and as a key: in Unicode's composed form (NFC), without spaces at its ends.

    Some systems decompose the names of files, so that "é" is one letter on one disk and two on the other. Cells of
    tables are read without spaces at their ends. Bytes that are not UTF-8, which no text file can hold, become escapes.
    """
    stripped = name.strip()
    if stripped.isascii():
        return stripped
    return _UNDECODED.sub(lambda found: printable(found[0]), unicodedata.normalize("NFC", stripped))


def contents_of(folder: Path) -> Contents:
    """Lists a folder.

    A link that leads nowhere, or to itself, counts as the file it names, so that it is not passed over in silence.
    """
    try:
        return _listed(folder)
    except OSError as error:
        raise _unlisted(folder, error) from None


def file_named(folder: Path, pattern: str) -> Path | None:
    """Returns what a folder holds under a name in any case, None without it; a link that leads nowhere counts.

    Args:
        pattern: the name, or a pattern such as "Data*.csv".
    """
    found = [path for path in _visible(folder) if _matches(path, (pattern,))]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DataError(f"{folder} holds several tables: {names}.", fix="Keep one of them.")
    return found[0] if found else None


def stem_of(path: Path) -> str:
    """Returns the name without its suffix, ``.nii.gz`` being one, as it is compared with others."""
    return composed(path.name[: len(path.name) - len(suffix_of(path))])


def tables_in(folder: Path, *, known: Iterable[str]) -> list[Path]:
    """Returns the tables in a folder, in natural order, without those that have a known name in any case."""
    patterns = tuple(known)
    found = (path for path in _visible(folder) if suffix_of(path).strip() in _TABLES or _matches(path, _LISTS))
    return [path for path in found if not _matches(path, patterns)]


def listed(folder: Path) -> Contents:
    """Lists a folder; empty where there is no such folder."""
    return contents_of(folder) if folder.is_dir() else Contents(folder, ())


def _visible(folder: Path) -> list[Path]:
    """Returns what a folder holds, without hidden files and the locks of open office files ("~$labels.xlsx")."""
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith((".", "~$"))]
    except OSError as error:
        raise _unlisted(folder, error) from None
    return sorted(found, key=_by_name)


def _matches(path: Path, patterns: Iterable[str]) -> bool:
    name = path.name.strip().casefold()
    return any(fnmatch.fnmatchcase(name, pattern.casefold()) for pattern in patterns)


def _unlisted(folder: Path, error: OSError) -> DataError:
    reason = error.strerror or type(error).__name__
    return DataError(f"{folder} cannot be listed: {reason}.", fix="Make it readable for you.")


def _listed(folder: Path) -> Contents:
    images: list[Path] = []
    others: list[Path] = []
    folders: list[Path] = []
    irregular: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if is_image(path):
                (images if _is_file(entry) or not path.exists() else irregular).append(path)
            elif _is_dir(entry):
                folders += [path] if _holds_images(path) else []
            elif _may_be_image(path.name):
                others.append(path)
    every = (images, others, folders, irregular)
    return Contents(folder, *(tuple(sorted(paths, key=_by_name)) for paths in every))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which is the fault of one file and not of the folder
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _by_name(path: Path) -> tuple[tuple[int, str], ...]:
    return natural(path.name)


def _may_be_image(name: str) -> bool:
    return not name.startswith(".") and suffix_of(Path(name)) not in _NO_IMAGES


def _holds_images(folder: Path) -> bool:
    """Tells whether there is anything below a folder that may be an image."""
    return any(_may_be_image(name) for _, _, names in os.walk(folder) for name in names)
