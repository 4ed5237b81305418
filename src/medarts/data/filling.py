"""Making a store: what it holds, the room that it needs, and the writing, which goes on where a killed process was.

A store that is being written notes at times how many images are safely on the disk, and with which digests:

.unfinished-v4-.../
    images.npy ...    the arrays, of which the first rows are written
    done.jsonl        a line for each time: the images, lengths and digests of the files, and what was found in masks
"""

import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np

from medarts.config import DataSettings
from medarts.data.cache import MARK, make_room, unfinished_of
from medarts.data.classifying import snapped_words
from medarts.data.crops import POINTS
from medarts.data.formats import shape_of
from medarts.data.levels import DomainLevels, MaskLevel
from medarts.data.manifest import Manifest, Sample
from medarts.data.readers import Read, read_all
from medarts.data.reading import framing_of, shrinking
from medarts.data.rows import RaggedWriter, RowWriter, Written
from medarts.errors import DataError
from medarts.system.console import inform, progress_bar

Forms = Mapping[str, Mapping[str, Any]]
"""The ``dtype`` and ``shape`` of every array of a store by the name of its file, as JSON has them."""

SECONDS_A_NOTE = 10.0
"""Seconds of reading that a killed process loses at most, about."""

DONE = "done.jsonl"

_NAMED = 3
"""Images named in a line that counts many."""


def forms_of(manifest: Manifest, settings: DataSettings) -> Forms:
    """Returns the forms of the arrays, in the order of `Read.rows`: files of rows, and of arrays of several sizes."""
    number, size = len(manifest.samples), settings.size
    if settings.resize == "patches":
        classes = [number, len(settings.class_names)]
        return {
            "images.bin": {"dtype": "float16", "lead": [settings.in_channels]},
            "sizes.npy": {"dtype": "int32", "shape": [number, 2]},
            "masks.bin": {"dtype": "uint8", "lead": classes[1:] if settings.overlap else []},
            "truths.npy": {"dtype": "uint8", "shape": classes},
            "shapes.npy": {"dtype": "int32", "shape": [number, 2]},
            "places.bin": {"dtype": "int32", "lead": []},
            "counts.npy": {"dtype": "int32", "shape": classes},
        }
    forms = {
        "images.npy": {"dtype": "float16", "shape": [number, settings.in_channels, size, size]},
        "sizes.npy": {"dtype": "int32", "shape": [number, 2]},
    }
    if not manifest.findings:
        each = [len(settings.class_names)] if settings.overlap else []
        forms["masks.npy"] = {"dtype": "uint8", "shape": [number, *each, size, size]}
        forms["truths.npy"] = {"dtype": "uint8", "shape": [number, len(settings.class_names)]}
    return forms


def fill(folder: Path, manifest: Manifest, settings: DataSettings, *, threads: int) -> None:
    """Makes a store, whose lock is held and whose folder is not there yet.

    Where the process is killed, or stopped by Ctrl-C, what it has read stays for the next one.

    Raises:
        DataError: see `medarts.data.store.open_store`.
        OSError: the cache cannot be written, or the disk is full.
    """
    forms = forms_of(manifest, settings)
    unfinished = unfinished_of(folder)
    needed = _bytes_of(manifest, settings, forms)
    make_room(folder.parent, needed, limit=round(settings.cache_gb * 1e9), keep=folder.name)
    _check_disk(folder.parent, needed - _taken_by(unfinished))
    unfinished.mkdir(exist_ok=True)
    try:
        digests = _write(unfinished, manifest, settings, forms, threads=threads)
        arrays = {name: {**form, "digest": digests[name]} for name, form in forms.items()}
        about = f"{', '.join(manifest.domains)}: {len(manifest.samples):,} images of {settings.size} px"
        content = json.dumps({"about": about, "arrays": arrays}, indent=1) + "\n"
        (unfinished / DONE).unlink()
        (unfinished / MARK).write_text(content, encoding="utf-8")
        _sync(unfinished / MARK, unfinished)
        unfinished.rename(folder)
        _sync(folder.parent)
    except Exception:  # but not Ctrl-C: what was read is as good as ever
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@dataclass
class _Found:
    """What was found in images, for the lines at the end.

    Attributes:
        stretched: number of images that have lost their aspect ratio.
        lost: numbers of images whose mask has lost a class.
        snapped: number of an image, and the share of its mask that is of no labelled colour, where there is any.
        levels: domain, and level of a mask that is not like those before.
    """

    stretched: int = 0
    lost: list[int] = field(default_factory=list)
    snapped: list[tuple[int, float]] = field(default_factory=list)
    levels: list[tuple[str, MaskLevel]] = field(default_factory=list)

    def add(self, other: "_Found") -> None:
        """Adds what was found in further images."""
        self.stretched += other.stretched
        self.lost += other.lost
        self.snapped += other.snapped
        self.levels += other.levels

    def to_json(self) -> dict[str, Any]:
        """Returns it as `from_json` takes it."""
        levels = [[domain, {**asdict(level), "path": os.fspath(level.path)}] for domain, level in self.levels]
        return {**vars(self), "levels": levels}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "_Found":
        """Returns what `to_json` has made of it.

        Raises:
            LookupError, TypeError, ValueError: it is nothing of the kind.
        """
        found = cls(
            int(content["stretched"]), [*content["lost"]], [(int(i), float(of)) for i, of in content["snapped"]]
        )
        for domain, about in content["levels"]:
            lists = {name: tuple(about[name]) for name in ("value", "colour")}
            found.levels.append((domain, MaskLevel(**{**about, **lists, "path": Path(about["path"])})))
        return found


@dataclass
class _Done:
    """How much of a store is safely written.

    Attributes:
        images: number of images.
        files: what files hold by then; empty where nothing is written.
        found: in these images.
    """

    images: int = 0
    files: dict[str, Written] = field(default_factory=dict)
    found: _Found = field(default_factory=_Found)

    @classmethod
    def noted(cls, path: Path) -> "_Done":
        """Returns what the notes of a store say, up to a line that is not whole.

        Raises:
            LookupError, TypeError, ValueError: they are none.
        """
        done = cls()
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else ():
            if line.endswith("\n"):
                content = json.loads(line)
                done.images = int(content["images"])
                done.files = {name: Written(*about) for name, about in content["files"].items()}
                done.found.add(_Found.from_json(content["found"]))
        return done


class _Filling:
    """A store that is being written; a context.

    Args:
        folder: of the unfinished store.
        forms: of its arrays.
        done: what is written of it.
        levels: of the masks so far.
    """

    def __init__(self, folder: Path, forms: Forms, done: _Done, levels: dict[str, DomainLevels]) -> None:
        self.done = done
        self._new = _Found()
        self._levels = levels
        for domain, level in done.found.levels:
            levels[domain].add([level])
        with ExitStack() as stack:
            self._writers: dict[str, RowWriter | RaggedWriter] = {}
            for name, form in forms.items():
                self._writers[name] = _writer(folder / name, form, done.files.get(name))
                stack.enter_context(self._writers[name])
            self._notes: TextIO = stack.enter_context((folder / DONE).open("a", encoding="utf-8"))
            self._files = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def append(self, number: int, domain: str, read: Read) -> None:
        """Adds an image.

        Raises:
            DataError: masks without labels differ in their foreground.
        """
        for writer, row in zip(self._writers.values(), read.rows, strict=True):
            writer.append(row)
        new = [(domain, level) for level in self._levels[domain].add(read.levels)]
        self._new.add(
            _Found(read.is_stretched, [number] * read.lost, [(number, read.snapped)] * bool(read.snapped), new)
        )
        if (problem := self._levels[domain].problem(domain)) is not None:
            raise problem

    def note(self, images: int) -> None:
        """Notes the number of images written, once they are safely on the disk."""
        files = {name: writer.finish() for name, writer in self._writers.items()}
        line = {"images": images, "files": files, "found": self._new.to_json()}
        self._notes.write(json.dumps(line, default=lambda scalar: scalar.item()) + "\n")
        self._notes.flush()
        os.fsync(self._notes.fileno())
        self.done.images, self.done.files = images, files
        self.done.found.add(self._new)
        self._new = _Found()


def _begun(folder: Path, manifest: Manifest, forms: Forms) -> _Filling:
    """Returns the store that another process has begun, if its files hold what its notes say; else a new one."""
    try:
        filling = _Filling(folder, forms, _Done.noted(folder / DONE), _levels_of(manifest))
    except (LookupError, TypeError, ValueError, FileNotFoundError, FileExistsError):
        shutil.rmtree(folder)
        folder.mkdir()
        return _Filling(folder, forms, _Done(), _levels_of(manifest))
    if filling.done.images:
        number = len(manifest.samples)
        inform(f"{filling.done.images:,} of {number:,} images were read before; reading goes on after them.")
    return filling


def _levels_of(manifest: Manifest) -> dict[str, DomainLevels]:
    return {domain: DomainLevels() for domain in manifest.domains}


def _write(folder: Path, manifest: Manifest, settings: DataSettings, forms: Forms, *, threads: int) -> dict[str, str]:
    """Writes what is left of the arrays, says what was found in masks, and returns the digests of the files."""
    samples, number = manifest.samples, len(manifest.samples)
    with _begun(folder, manifest, forms) as filling, ExitStack() as stack:
        first = filling.done.images
        reads = stack.enter_context(closing(read_all(manifest, settings, threads=threads, first=first)))
        bar = stack.enter_context(progress_bar("reading images", number, done=first))
        noted = time.monotonic()
        for place, read in enumerate(reads, first):
            filling.append(place, samples[place].domain, read)
            bar.advance()
            if place + 1 == number or time.monotonic() - noted >= SECONDS_A_NOTE:
                _check_unchanged(manifest, samples[filling.done.images : place + 1])
                filling.note(place + 1)
                noted = time.monotonic()
    _tell(filling.done.found, manifest, settings)
    return {name: written.digest for name, written in filling.done.files.items()}


def _check_unchanged(manifest: Manifest, samples: Sequence[Sample]) -> None:
    """Refuses files that are not those that the store is named by."""
    if not manifest.is_unchanged(samples):
        raise DataError(
            "Files of the data were changed while they were read.",
            fix="Run the command again when they no longer change.",
        )


def _tell(found: _Found, manifest: Manifest, settings: DataSettings) -> None:
    """Says what has become of images and masks."""
    number, snapped = len(manifest.samples), dict(found.snapped)
    for domain in manifest.domains:
        places = (place for place, sample in enumerate(manifest.samples) if sample.domain == domain)
        shares = [snapped.get(place, 0.0) for place in places] if snapped else []
        if any(shares):
            inform(f"{domain}: {snapped_words(shares)}")
    if found.stretched:
        inform(
            f"{found.stretched:,} of {number:,} images are not square and were stretched to {settings.size} x "
            f"{settings.size} pixels (data.resize: squash)."
        )
    if found.lost:
        lost = found.lost
        keys = (manifest.samples[place].key for place in lost[:_NAMED])
        names = ", ".join([*keys, *["..."] * (len(lost) > _NAMED)])
        what = "all foreground" if settings.outputs == 1 else "a class"
        where, fix = shrinking(settings)
        inform(f"{len(lost)} of {number} masks lose {what} {where} ({names}). {fix}: what cannot be seen scores 0.")


def _writer(path: Path, form: Mapping[str, Any], written: Written | None) -> RowWriter | RaggedWriter:
    if "shape" in form:
        return RowWriter(path, **form, written=written)
    return RaggedWriter(path, dtype=form["dtype"], written=written)


def _bytes_of(manifest: Manifest, settings: DataSettings, forms: Forms) -> int:
    """Returns the size of a store; that of images of several sizes is taken from their headers, and an upper bound."""
    rows = (form for form in forms.values() if "shape" in form)
    known = sum(math.prod(form["shape"]) * np.dtype(form["dtype"]).itemsize for form in rows)
    if settings.resize != "patches":
        return known
    classes = len(settings.class_names)
    each = 2 * settings.in_channels + (classes if settings.overlap else 1)
    with progress_bar("looking at sizes", len(manifest.samples)) as bar:
        pixels = []
        for sample in manifest.samples:
            pixels.append(_stored_pixels(sample.image, settings))
            bar.advance()
    places = sum(min(classes * POINTS, (classes if settings.overlap else 1) * number) for number in pixels)
    return known + sum(pixels) * each + places * 8  # two int32 a place


def _stored_pixels(path: Path, settings: DataSettings) -> int:
    """Returns the pixels of an image that patches are cropped from; 0 where the reader will say what is wrong."""
    try:
        framing = framing_of(path, *shape_of(path), settings)
    except DataError:
        return 0
    return framing.rows * framing.columns


def _taken_by(folder: Path) -> int:
    """Returns the bytes that an unfinished store takes already."""
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.exists() else 0


def _check_disk(cache: Path, needed: int) -> None:
    """Says that a disk is too full before anything is read, also where room cannot be reserved."""
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise DataError(
            f"The cache {cache} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free.",
            fix="Make room, clear the cache (medarts cache --clear), or set data.cache to a folder on another disk.",
        )


def _sync(*paths: Path) -> None:
    """Waits until files or the names in folders are on the disk, where the system can say it."""
    for path in paths:
        if os.name != "nt" or path.is_file():  # Windows does not open folders
            descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
