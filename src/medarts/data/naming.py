"""Images by the names that a table has for them: from the folder, its ``images/``, or below it."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from medarts.data.contents import Contents, composed, listed, stem_of
from medarts.data.formats import is_image, suffix_of
from medarts.data.patterns import PathPattern
from medarts.data.sources import Fault, passed_over
from medarts.data.splits import without_suffix
from medarts.errors import DataError

IMAGES = "images"


def images_below(root: Path) -> dict[str, list[Path]]:
    """Returns all images in a folder and its inner ones by their names."""
    found: dict[str, list[Path]] = {}
    for folder, inner, names in os.walk(root):
        inner.sort()
        for name in names:
            if is_image(Path(name)):
                found.setdefault(composed(name), []).append(Path(folder) / name)
    return found


def tables_given(path: Path, suffixes: Collection[str]) -> tuple[Path, list[Path]]:
    """Returns the folder that a path of ``--data`` means, and its tables: the one that the path is, or all in it."""
    root = path.parent if path.is_file() else path
    files = [path] if path.is_file() else sorted(root.iterdir()) if root.is_dir() else []
    return root, [file for file in files if suffix_of(file) in suffixes and file.is_file()]


def files_of_splits(root: Path, text: str, files: Iterable[Path], *, field: str) -> Iterator[tuple[Path, str]]:
    """Yields the file that a source names, or, where its path has {split} in it, those of all splits.

    Args:
        root: the folder of the data set.
        text: path of the file from the folder.
        files: in which those of splits are looked for.
        field: of the source that names it, for errors.

    Yields:
        The file and the word for its split; "" for that of all.

    Raises:
        DataError: there is none.
    """
    if "{split}" not in text:
        yield root / text, ""
        return
    pattern = PathPattern(text)
    found = [
        (file, values["split"])
        for file in files
        for values in pattern.readings(composed(file.relative_to(root).as_posix()))
    ]
    if not found:
        raise DataError(f"{root} holds no '{text}'.", fix=f"Correct {field} of the source.")
    yield from found


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder, with its files by their names, and by their stems in small letters."""

    contents: Contents
    named: dict[str, Path]
    stems: dict[str, list[Path]]


@dataclass
class NamedImages:
    """The images of a data set; every folder is listed once, when it is first asked for.

    Attributes:
        root: the folder of the data set.
        names: what the table calls the images.
        folders: those listed so far.
        found: the file of every name that was asked for.
    """

    root: Path
    names: Sequence[str] = ()
    folders: dict[Path, _Folder] = field(default_factory=dict)
    found: dict[str, Path | None] = field(default_factory=dict)

    def find(self, name: str) -> Path | None:
        """Returns the image of this name below the folder or its ``images/``, None where it is not or leads out.

        Where there is none of this very name, it is one that differs in its suffix, in capitals, or in backslashes,
        if there is a single one.
        """
        if name not in self.found:
            exact = (folder.named.get(last) for folder, last in self._places(name))
            alike = (_single(folder.stems, last) for folder, last in self._places(name))
            near = (path for paths in (exact, alike) for path in paths if path)
            self.found[name] = next(near, None) or self._below(name)
        return self.found[name]

    def _below(self, name: str) -> Path | None:
        """Returns the only image of a name in any inner folder, as the archives of MIMIC-CXR have them.

        Only of a table whose names say no folders and are of no image where they are looked for otherwise: copies in
        other folders do not stand in for some that are missing.
        """
        if not self._are_nested or not is_inside(name):
            return None
        return _single(self._nested, name)

    @cached_property
    def _are_nested(self) -> bool:
        plain = bool(self.names) and not any("/" in name.replace("\\", "/") for name in self.names)
        here = {stem for folder in (self.root, self.root / IMAGES) for stem in self._listed(folder).stems}
        return plain and not any(without_suffix(name).casefold() in here for name in self.names)

    @cached_property
    def _nested(self) -> dict[str, list[Path]]:
        stems: dict[str, list[Path]] = {}
        for path in (path for paths in images_below(self.root).values() for path in paths):
            stems.setdefault(stem_of(path).casefold(), []).append(path)
        return stems

    def unread(self, name: str) -> Path | None:
        """Returns the file of this name, with or without its suffix, that is of a kind that is not read."""
        for folder, last in self._places(name):
            for path in folder.contents.unread:
                if last in (composed(path.name), composed(path.stem)):
                    return path
        return None

    def others(self, used: set[Path]) -> list[str]:
        """Returns the images of the folders listed that are not ``used``, as paths from the root."""
        found = (path for folder in self.folders.values() for path in folder.contents.images)
        return sorted(path.relative_to(self.root).as_posix() for path in found if path not in used)

    def passed_over(self, used: set[Path]) -> list[Fault]:
        """Returns what is not read of the folders that hold images in use, counted."""
        parents = {parent for path in used for parent in path.parents}
        faults = []
        for path, folder in self.folders.items():
            if path in parents:
                inner = () if path == self.root else folder.contents.folders
                unused_folders = tuple(each for each in inner if each not in parents)
                faults += passed_over(replace(folder.contents, folders=unused_folders))
        return faults

    def _places(self, name: str) -> Iterator[tuple[_Folder, str]]:
        """Yields the folders in which an image may be, and its name there."""
        spellings = [name, name.replace("\\", "/")]
        first, _, rest = spellings[1].partition("/")
        if rest and first.casefold() == self.root.resolve().name.casefold():  # a path from the folder above
            spellings.append(rest)
        for spelled in dict.fromkeys(spellings):
            if is_inside(spelled):
                for path in (self.root / spelled, self.root / IMAGES / spelled):
                    yield self._listed(path.parent), path.name

    def _listed(self, path: Path) -> _Folder:
        if path not in self.folders:
            contents = listed(path)
            stems: dict[str, list[Path]] = {}
            for image in contents.images:
                stems.setdefault(stem_of(image).casefold(), []).append(image)
            self.folders[path] = _Folder(contents, {composed(image.name): image for image in contents.images}, stems)
        return self.folders[path]


def is_inside(name: str) -> bool:
    """Tells whether a path from a folder, with slashes or backslashes, stays in it."""
    path = PurePosixPath(name.replace("\\", "/"))
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _single(stems: dict[str, list[Path]], name: str) -> Path | None:
    """Returns the only image of this name without suffix, in whatever case; None without one or with several."""
    for stem in (name, PurePosixPath(name).stem):
        found = stems.get(stem.casefold(), [])
        same_case = [path for path in found if stem_of(path) == stem]
        for paths in (same_case, found):
            if len(paths) == 1:
                return paths[0]
    return None
