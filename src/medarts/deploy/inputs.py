"""Files to predict on: images, volumes and DICOM series, found in what a user names, read slice by slice.

    for source in find(["scans/", "more/*.png"]):
        for index in range(source.count):  # DataError where the file is bad
            raw = source.read(index)       # DataError where the slice is
            check_kind(raw, info, source.path(index))

Finding reads headers of DICOM files alone, so its memory does not grow with the images.
"""

import glob
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medarts.data.formats import Kind, image_count, is_image, kind_of, raw_image, slices_around, spacing_of, suffix_of
from medarts.data.formats.dicom import recognises
from medarts.data.formats.raw import Raw, Spacing
from medarts.data.formats.series import Header, header_of, spacing_of_stack, stacks
from medarts.data.parts import neighbours
from medarts.data.recognising import masks_below
from medarts.deploy.info import ModelInfo
from medarts.errors import DataError
from medarts.system.console import counted, inform, progress_bar
from medarts.system.files import reason_of
from medarts.system.names import name_of, portable

PROBABILITIES, OVERLAY = "_probabilities", "_overlay"
"""End the names of files of probabilities, and of overlays or their folder."""

_MAGIC = frozenset("*?[")
_NUMBER = re.compile(r"_[0-9]{4}$")
"""Ends the name of a file of an image of several."""
_PREAMBLE = 132
_MANY = 200
"""Headers that take a second or more on a slow disk."""
_EIGHT_BITS = 255.0
"""Width of the range of 8 bits."""


@dataclass(frozen=True, slots=True)
class Source:
    """One image, volume or series.

    Attributes:
        name: relative, with "/" between folders and without suffix, and such that every system takes it; unique among
            the sources found together.
        kind: "raster" (PNG, JPEG, BMP, TIFF), "nifti" or "dicom".
        files: its files, those of a DICOM series in the order of its slices; as texts, which take less memory.
        stack_spacing: of a DICOM series of several files; None for a single file, which says its own. See `spacing`.
        more: further files of the same image or volume, whose channels follow those of the first.
    """

    name: str
    kind: Kind
    files: tuple[str, ...]
    stack_spacing: Spacing | None = None
    more: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths of its files."""
        return tuple(map(Path, self.files + self.more))

    @property
    def count(self) -> int:
        """The number of slices, frames or pages; 1 for a single image. Reads the header.

        Raises:
            DataError: the file is missing, damaged, or has other axes than an image or a volume.
        """
        return len(self.files) if len(self.files) > 1 else image_count(self.path(0))

    @property
    def spacing(self) -> Spacing:
        """The distances of rows, columns and slices in mm, None where unknown. Reads the header.

        See `medarts.data.formats.spacing_of`; that of slices is also known of DICOM stacks with even steps.

        Raises:
            DataError: the file is missing or damaged.
        """
        return spacing_of(self.path(0)) if self.stack_spacing is None else self.stack_spacing

    def path(self, index: int) -> Path:
        """Returns the file of a slice."""
        return Path(self.files[index if len(self.files) > 1 else 0])

    def images(self, info: ModelInfo) -> Iterator[list[Raw]]:
        """Yields every slice as a network takes it: all files of the image, and the neighbours of the slice.

        Raises:
            DataError: the image has another number of files; or see `read`.
        """
        self._check_files(info)
        held: dict[tuple[str | None, int], Raw] = {}
        for index in range(self.count):
            near = self._near(index, info.context)
            held = {place: raw for place, raw in held.items() if place[1] in near}  # slices of a volume are read once
            yield [self._held(held, path, number) for path in (None, *self.more) for number in near]

    def image(self, index: int, info: ModelInfo) -> list[Raw]:
        """Reads one slice as `images` yields it."""
        self._check_files(info)
        near = self._near(index, info.context)
        held: dict[tuple[str | None, int], Raw] = {}
        return [self._held(held, path, number) for path in (None, *self.more) for number in near]

    def _near(self, index: int, context: int) -> list[int]:
        """Returns a slice with its neighbours in space; frames of a DICOM file may be in another order."""
        single = context > 0 and len(self.files) == 1
        run = slices_around(self.path(0), index) if single else range(self.count)
        return [run[place] for place in neighbours(run.index(index), len(run), context=context)]

    def _held(self, held: dict[tuple[str | None, int], Raw], path: str | None, number: int) -> Raw:
        """Returns a slice of a further file, or of the first where ``path`` is None."""
        if (path, number) not in held:
            if path is None:
                held[path, number] = self.read(number)
            else:
                single = None if self.count == 1 else number
                held[path, number] = raw_image(Path(path), single, beside=self.path(0))
        return held[path, number]

    def _check_files(self, info: ModelInfo) -> None:
        if 1 + len(self.more) != info.files:
            fix = f"Put all {info.files} files of an image into one folder, as NAME_0000 to NAME_{info.files - 1:04}."
            raise DataError(
                f"{self.path(0)} is one of {1 + len(self.more)} files of an image; {info.name} takes {info.files}.",
                fix=fix,
            )

    def read(self, index: int) -> Raw:
        """Reads a slice as the training does, in the same orientation.

        Raises:
            DataError: see `medarts.data.formats.raw_image`.
        """
        single = len(self.files) > 1 or self.count == 1
        return raw_image(self.path(index), None if single else index)


def find(paths: Sequence[str | Path], *, leave_out: Path | None = None, files: int = 1) -> list[Source]:
    """Returns all that can be predicted on, sorted by name.

    Files of one DICOM series that have equal sizes and orientations are one source, in the order of their positions;
    others of the series (localizers, further times or echoes at the same places) are sources of their own, as are files
    that say nothing of their place. Volumes and files with several pages or frames are one source each.

    Args:
        paths: files, folders, which are searched with all that is in them, and patterns such as "scans/**/*.png". Of
            folders and patterns, hidden files, files of other kinds, and DICOM objects that are no images, or
            segmentations, are left out; of folders also masks of the images there, which a line says. A file that is
            named is kept, whatever it is: reading it says what is wrong.
        leave_out: a folder whose files are not taken, such as that of the results.
        files: files of an image. Where there are several, NAME_0000.png, NAME_0001.png and so on, of any format but
            DICOM, are one source called NAME.

    Raises:
        DataError: a path does not exist, a folder cannot be read, a folder or pattern holds no images, or there are no
            paths.
    """
    chosen = _Chosen(leave_out)
    for path in [paths] if isinstance(paths, str | Path) else paths:
        chosen.add(Path(path).expanduser())
    if not chosen.files:
        raise DataError("There are no images.", fix="Give files, folders or patterns.")
    return _named(list(_sources(chosen, files)), chosen.base())


def check_kind(raw: Raw, info: ModelInfo, path: Path) -> None:
    """Refuses an image of a kind that the network was not trained on; where that is not known, none.

    Kinds are colour or grey (a colour image whose channels are equal is grey, too) and, where intensities are scaled by
    the range of the file's type, 8 bits or more.

    Raises:
        DataError: it is one.
    """
    if not info.kinds:
        return
    trained, found = {kind.channels for kind in info.kinds}, raw.values.shape[2]
    if found not in trained and not (trained & {1} and _is_grey(raw)):
        here, there = ("colour", "grey") if found > 1 else ("grey", "colour")
        convert = 'Convert it to grey (Pillow: image.convert("L"))' if found > 1 else "Give colour images"
        raise DataError(
            f"{path} is a {here} image; {info.name} was trained on {there} images.",
            fix=f"{convert}, or train a network on {here} images.",
        )
    if info.window or info.percentiles or raw.range is None:
        return
    widths = [kind.range[1] - kind.range[0] for kind in info.kinds if kind.range]
    if widths and max(widths) <= _EIGHT_BITS < raw.range[1] - raw.range[0]:
        raise DataError(
            f"{path} has values from {raw.range[0]:g} to {raw.range[1]:g} by its type; {info.name} was trained on "
            "images of 8 bits.",
            fix="Convert it to 8 bits with the window it is viewed with, or train with a window or percentiles.",
        )


def _is_grey(raw: Raw) -> bool:
    return bool((raw.values == raw.values[..., :1]).all())


class _Chosen:
    """The files of what a user names, each once.

    Attributes:
        files: in the order found, by absolute path: the path as named.
        named: the absolute paths of those that were named themselves.
    """

    def __init__(self, leave_out: Path | None) -> None:
        self.files: dict[str, str] = {}
        self.named: set[str] = set()
        self._roots: set[str] = set()
        self._leave_out = leave_out.resolve() if leave_out else None

    def add(self, path: Path) -> None:
        """Adds a file, a folder or a pattern."""
        if path.is_dir():
            self._add_folder(path)
        elif not os.path.lexists(path) and _MAGIC & set(str(path)):
            self._add_pattern(path)
        elif not os.path.lexists(path):
            raise DataError(f"There is no file or folder {path}.", fix="Check the path.")
        else:
            full = _full(path)
            self.files.setdefault(full, str(path))
            self.named.add(full)
            self._roots.add(_folder(full))

    def base(self) -> str | None:
        """Returns the deepest folder that holds all that was named; None where drives differ."""
        try:
            return os.path.commonpath(self._roots)
        except ValueError:
            return None

    def _add_pattern(self, pattern: Path) -> None:
        found = sorted(glob.glob(str(pattern), recursive=True))  # noqa: PTH207  # Path.glob takes no absolute patterns
        fixed = Path(*itertools.takewhile(lambda part: not _MAGIC & set(part), pattern.parts))
        images = False
        for path in map(Path, found):
            if path.is_dir():
                images |= self._add_all(_files_of(path, self._leave_out))
            elif path.is_file() and _may_be_image(path):
                images |= self._add_all([path])
        self._roots.add(_full(fixed))
        if not images:
            raise DataError(f"No images match {pattern}.", fix="Check the pattern.")

    def _add_folder(self, folder: Path) -> None:
        if folder.resolve() == self._leave_out:
            raise DataError(
                f"{folder} is the folder of the images and of the results.", fix="Choose another for the results."
            )
        self._roots.add(_full(folder))
        files = list(_files_of(folder, self._leave_out))
        masks = _masks_among(files, folder)
        if not self._add_all(path for path in files if path not in masks):
            raise DataError(f"{folder} holds no images.", fix="Check the folder.")
        if masks:
            inform(
                f"{folder}: left out as masks of the others: {counted(len(masks), 'file')}, such as "
                f"{min(masks).relative_to(folder)}. To predict them, too, name them, or a pattern."
            )

    def _add_all(self, paths: Iterable[Path]) -> bool:
        """Adds files, and tells whether there are any."""
        found = False
        for path in paths:
            self.files.setdefault(_full(path), str(path))
            found = True
        return found


def _masks_among(files: Sequence[Path], folder: Path) -> set[Path]:
    """Returns which files of a folder are masks by its layout; DICOM objects say themselves what they are."""
    if all(suffix_of(path) == ".dcm" or not is_image(path) for path in files):
        return set()
    return {*files} & masks_below(folder)


def _full(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  # Path.absolute keeps ".."


def _folder(path: str) -> str:
    return str(Path(path).parent)


def _files_of(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    """Yields what may be an image, sorted within its folder; links to folders are followed, each folder once."""

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read: {reason_of(error)}.", fix="Change its permissions, or leave it out."
        ) from None

    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = Path(parent).resolve()
        if real in seen or real == leave_out:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if _may_be_image(path):
                yield path


def _may_be_image(path: Path) -> bool:
    """Tells by its suffix, or for DICOM by its first bytes; a directory of DICOM files (DICOMDIR) is none."""
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return False
    if is_image(path):
        return True
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return recognises(file.read(_PREAMBLE))
    except OSError:
        return False


def _sources(chosen: _Chosen, files: int) -> Iterator[tuple[Source, str | None]]:
    """Yields sources, yet without their names, and what tells a series from others in its folder."""
    dicom: list[tuple[str, str]] = []
    others: dict[str, list[tuple[str, Kind]]] = {}
    for full, name in chosen.files.items():
        kind = _kind(Path(name))
        if kind == "dicom":
            dicom.append((full, name))
        else:
            others.setdefault(_numberless(full) if files > 1 else full, []).append((name, kind))
    for together in others.values():
        (first, kind), *more = sorted(together)
        yield Source("", kind, (first,), more=tuple(name for name, _ in more)), None
    series: dict[str, list[Header]] = {}
    for full, name in _with_progress(dicom):
        try:
            header = header_of(Path(name))
        except DataError:  # raised again when it is read
            yield Source("", "dicom", (name,)), None
            continue
        if header is not None and header.series:
            series.setdefault(header.series, []).append(header)
        elif header is not None or full in chosen.named:
            yield Source("", "dicom", (name,)), None
    for headers in series.values():
        for stack in stacks(headers):
            number = stack[0].series_number
            note = None if number is None else f"series-{number}"
            spacing = spacing_of_stack(stack) if len(stack) > 1 else None
            yield Source("", "dicom", tuple(str(each.path) for each in stack), spacing), note


def _numberless(path: str) -> str:
    """Returns a path without the number of the file, as in NAME_0001.nii.gz; the path itself where it has none."""
    suffix = path[len(path) - len(suffix_of(Path(path))) :]
    return _NUMBER.sub("", path[: len(path) - len(suffix)]) + suffix


def _with_progress(files: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yields files whose headers are read, which takes a while where they are many."""
    if len(files) < _MANY:
        yield from files
        return
    with progress_bar("read headers", len(files)) as bar:
        for file in files:
            yield file
            bar.advance()


def _kind(path: Path) -> Kind:
    """Returns the kind by the suffix where it is that of an image, else by the content."""
    if is_image(path) and suffix_of(path) != ".dcm":
        return "nifti" if suffix_of(path) in (".nii", ".nii.gz") else "raster"
    try:
        return kind_of(path)
    except DataError:  # raised again when it is read
        return "dicom" if suffix_of(path) == ".dcm" else "raster"


def _named(found: list[tuple[Source, str | None]], base: str | None) -> list[Source]:
    """Gives sources their names: relative to what holds all, longer ones where two would be equal."""
    names = ["/".join(map(portable, _name(source, base).split("/"))) for source, _ in found]
    names = _apart(names, lambda row: _suffixed(names[row], *found[row]))
    order = sorted(range(len(found)), key=lambda row: (names[row], found[row][0].files[0]))
    taken: set[str] = set()
    sources = []
    for row in order:
        name, number = names[row], 2
        while name.casefold() in taken or _is_overlay(name, taken):
            name, number = f"{names[row]}-{number}", number + 1
        taken |= {f"{name}{end}".casefold() for end in ("", PROBABILITIES, OVERLAY)}
        source = found[row][0]
        sources.append(replace(source, name=name))
    return sources


def _is_overlay(name: str, taken: set[str]) -> bool:
    """Tells whether the overlay of a slice of another source may have a name."""
    folder, _, last = name.casefold().rpartition("/")
    return last.isdigit() and folder.endswith(OVERLAY) and folder in taken


def _apart(names: Sequence[str], longer: Callable[[int], str]) -> list[str]:
    """Returns names with all that are equal made longer; case does not count, as on many disks."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name.casefold(), []).append(row)
    return [longer(row) if len(rows[name.casefold()]) > 1 else name for row, name in enumerate(names)]


def _name(source: Source, base: str | None) -> str:
    full = _full(source.path(0))
    if len(source.files) > 1:
        folder = _common(_folder(_full(each)) for each in source.paths)
        return _relative(folder, base) or name_of(Path(folder))
    name, suffix = _relative(full, base), _suffix(source)
    name = name.removesuffix(name[-len(suffix) :]) if suffix else name
    return _NUMBER.sub("", name) if source.more else name


def _suffixed(name: str, source: Source, note: str | None) -> str:
    if len(source.files) > 1:
        return f"{name}_{note}" if note else name
    return name + _suffix(source).replace(".", "_")


def _suffix(source: Source) -> str:
    """Returns the suffix of an image in lower case; "" of other names, whose last point may belong to a UID."""
    path = source.path(0)
    return suffix_of(path) if is_image(path) else ""


def _relative(path: str, base: str | None) -> str:
    """Returns a path below a folder with "/" between its parts; "" for the folder itself."""
    return Path(path).name if base is None else path.removeprefix(base).strip(os.sep).replace(os.sep, "/")


def _common(folders: Iterable[str]) -> str:
    found = sorted(set(folders))
    try:
        return os.path.commonpath(found)
    except ValueError:  # on several drives
        return found[0]
