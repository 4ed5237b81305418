"""Images and their targets, read and resized once, then served from the cache.

Every file is read when the store is made, so that a damaged file, a mask of another size or a label out of range is
reported before training; it is written under another name until all is whole. The store lies in a cache folder under
the fingerprint of its manifest and is not believed: its arrays have digests, and are read and compared with them
whenever it is opened.
"""

import hashlib
import json
import math
import os
import pickle
import shutil
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike, NDArray

from medarts.config import DataSettings
from medarts.config.data import Resize
from medarts.data.cache import MARK, alone, discard, make_room, unfinished_of, use
from medarts.data.classifying import are_mixed, snapped_words
from medarts.data.crops import POINTS, Crops, places_of
from medarts.data.digests import digests_read
from medarts.data.folds import undivided
from medarts.data.formats import holds_objects, is_deep, shape_of
from medarts.data.geometry import Framing, framed
from medarts.data.levels import DomainLevels, MaskLevel
from medarts.data.manifest import Manifest, Sample
from medarts.data.masks import Mask, check_classes
from medarts.data.reading import MaskState, frame_image, frame_mask, framing_of, read_image, read_pair, shrinking
from medarts.data.rows import RaggedWriter, Rows, RowWriter, StoredRagged, StoredRows
from medarts.errors import DataError
from medarts.system.cached import user_cache
from medarts.system.console import inform, progress_bar

FORMAT = 4
"""Part of the cache's name; raise it when reading or resizing changes."""

PIXELS = 50_000_000
"""Pixels of all images that are read at one time, unless a single one has more.

Reading takes some 23 bytes a pixel of three channels, so that this is about 1.2 GB.
"""

_COMPRESSION = 10

_NAMED = 3
"""Images named in a line that counts many."""


_Forms = Mapping[str, Mapping[str, Any]]
"""The ``dtype`` and ``shape`` of every array of a store by the name of its file, as JSON has them."""


class _Read(NamedTuple):
    """What a sample gives the store.

    Attributes:
        rows: of the arrays, in the order of their forms.
        is_stretched: the image has lost its aspect ratio.
        lost: the mask has lost a class.
        levels: see ``medarts.data.levels``.
    """

    rows: tuple[ArrayLike, ...]
    is_stretched: bool = False
    lost: bool = False
    levels: tuple[MaskLevel, ...] = ()
    snapped: float = 0.0


@dataclass(frozen=True)
class ImageStore:
    """The images of a manifest, at one size or, where patches are cropped from them, at sizes of their own.

    Attributes:
        manifest: the samples, in the order of the arrays.
        images: float16, sample x channel x height x width, 0..1. Of images and masks with sizes of their own one is
            taken at a time.
        targets: uint8: class indices of masks, sample x height x width; of classes that may overlap 0 and 1 of each,
            sample x class x height x width; or labels, sample x finding. `medarts.config.data.IGNORE` marks pixels and
            labels that count nothing.
        truths: uint8, sample x foreground class: a `MaskState`, what the mask has of the class; no column for findings.
        held: keeps other processes from removing the store.
        sizes: int32, sample x 2: height and width of the image in its file, in pixels. Default: those of the store.
        resize: how images got the size of the store.
        class_names: of the foreground classes of masks in memory, where they were named.
        crops: what crops of images with sizes of their own are made of; None where all have one.
        overlap: the classes of masks may overlap.
        given: of data in memory the masks as they were given, uint8; None where files are read.
    """

    manifest: Manifest
    images: Rows
    targets: Rows
    truths: NDArray[np.uint8]
    held: FileLock | None = field(default=None, repr=False, compare=False)
    sizes: NDArray[np.int32] | None = field(default=None, repr=False, compare=False)
    resize: Resize = "squash"
    class_names: tuple[str, ...] = ()
    crops: Crops | None = field(default=None, repr=False, compare=False)
    overlap: bool = False
    given: Sequence[Mask] | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Height and width of what networks see, in pixels."""
        return self.images.shape[-1] if self.crops is None else self.crops.size

    @property
    def form(self) -> list[int | str]:
        """What beside the data decides what is stored: channels, size, number of classes, and the way of resizing.

        The `ways` in which masks are read follow.
        """
        form: list[int | str] = [self.images.shape[1], self.size, self.size, self.truths.shape[1]]
        form += [] if self.resize == "squash" else [self.resize]
        return [*form, *self.ways]

    @property
    def ways(self) -> list[str]:
        """Ways in which masks are read that older versions did not know: of "objects" and "greys", or neither."""
        return ways_of_reading(self.manifest, overlap=self.overlap)

    def framing(self, index: int) -> Framing:
        """Returns where the image of a sample, as in its file, lies in the stored one."""
        if self.crops is not None and self.sizes is not None:
            return Framing(*self.sizes[index].tolist(), *self.crops.shapes[index].tolist())
        size = self.size
        height, width = (size, size) if self.sizes is None else self.sizes[index].tolist()
        return framed(height, width, size=size, resize=self.resize)

    def seen(self, index: int) -> NDArray[np.float16]:
        """Returns an image as networks see it, (C, size, size); of one with a size of its own the middle."""
        image: NDArray[np.float16] = self.images[index] if self.crops is None else self.crops.middle(index)
        return image

    @property
    def vanished(self) -> NDArray[np.bool_]:
        """True where a mask has a class in its file and lost it by resizing, sample x foreground class."""
        return np.asarray(self.truths == MaskState.VANISHED)

    def indices(self, part: Manifest) -> NDArray[np.int64]:
        """Returns the positions of the samples of ``part``."""
        position = {(sample.domain, sample.key): i for i, sample in enumerate(self.manifest.samples)}
        found = [position[(sample.domain, sample.key)] for sample in part.samples]
        return np.asarray(found, dtype=np.int64)


def open_store(manifest: Manifest, settings: DataSettings, *, threads: int = 0) -> ImageStore:
    """Returns the store of a manifest, made now or found in the cache.

    Images are resized, by the rule ``data.resize``, with antialiased bilinear interpolation, masks as `resize_mask`
    does. A store whose arrays are not those that were written is made again.

    Args:
        threads: files read at a time; 0: as many as there are cores. Fewer where images are large.

    Raises:
        DataError: a file cannot be read, its mask has another size, a label is out of range, masks without labels
            differ in their foreground, the disk is full, or the cache cannot be written.
    """
    patches = settings.resize == "patches"  # which are cropped from what is stored, whatever their size
    form = f"{'whole' if patches else f'{settings.size}px'}-{settings.in_channels}ch"
    form += "" if manifest.findings else _classes_of(manifest, settings)
    form += f"-{settings.resize}" + (f"-{settings.context}ctx" if settings.context else "")
    if patches:
        form += f"-{settings.scale:g}x" if settings.spacing_mm is None else f"-{settings.spacing_mm:g}mm"
    # Every fold has the same images: they are stored once.
    stored = manifest.fingerprint() if settings.fold is None else undivided(manifest).fingerprint()
    folder = cache_folder(settings) / f"v{FORMAT}-{stored}-{form}"
    forms = _forms_of(manifest, settings)
    try:
        with alone(folder.parent, folder.name):
            problem = _problem(folder, forms)
            if problem is not None:
                if folder.exists():
                    inform(f"The stored images in {folder} are damaged ({problem}); they are read again.")
                    discard(folder)
                _fill(folder, manifest, settings, threads=threads)
            return _opened(folder, manifest, settings, held=use(folder.parent, folder.name))
    except OSError as error:
        if _problem(folder, forms) is None:  # a cache that may be read, made by somebody else
            return _opened(folder, manifest, settings, held=None)
        raise DataError(
            f"The cache {folder.parent} cannot be written ({error.strerror or error}).",
            fix="Set data.cache to a folder that can be written, on a disk with room.",
        ) from error


def _classes_of(manifest: Manifest, settings: DataSettings) -> str:
    """Returns the part of a store's name that tells masks of the same files apart."""
    form = f"-{settings.outputs}cl"
    if len(settings.class_names) > 1:
        form += "-overlap" if settings.overlap else "-coverage"  # before, they were resized to the nearest
    form += "".join(f"-{way}" for way in ways_of_reading(manifest, overlap=settings.overlap))
    if any(sample.class_masks for sample in manifest.samples):  # whose order is that of the names
        form += f"-{hashlib.sha256(repr(settings.class_names).encode()).hexdigest()[:8]}"
    return form


def ways_of_reading(manifest: Manifest, *, overlap: bool) -> list[str]:
    """Returns marks of masks that are read otherwise than at first, which what was made of them before has not."""
    ways = []
    if overlap and any(sample.mask and holds_objects(sample.mask) for sample in manifest.samples):
        ways.append("objects")  # before, the smaller one covered the others
    mixed = {domain for domain, rules in manifest.rules.items() if are_mixed(rules.labels or ())}
    if any(is_deep(path) for sample in manifest.samples if sample.domain in mixed for path in sample.masks):
        ways.append("greys")  # before, those of more than 8 bits were read as levels of 8
    return ways


def cache_folder(settings: DataSettings) -> Path:
    """Returns the folder in which the stores of a recipe are kept."""
    return settings.cache or user_cache()


def _problem(folder: Path, forms: _Forms) -> str | None:
    """Returns why a store cannot be used; None where it is whole, and its arrays are those that were written."""
    if not folder.exists():
        return "there is none"
    try:
        content = json.loads((folder / MARK).read_text(encoding="utf-8"))
        noted = {name: content["arrays"][name] for name in forms}
        strange = [name for name, form in forms.items() if noted[name] | form != noted[name]]
        digests = digests_read([folder / name for name in forms])
        strange += [name for name in forms if digests[folder / name] != noted[name]["digest"]]
    except (OSError, ValueError, LookupError, TypeError):
        return f"{MARK} cannot be read"
    except DataError:
        return "a file is missing"
    return f"{strange[0]} was changed" if strange else None


@contextmanager
def images_for_processes(data: ImageStore | None) -> Iterator[Path | None]:
    """Keeps images in memory in a temporary file, from which each process of this one takes them by `read_images`."""
    if data is None:
        yield None
        return
    with TemporaryDirectory(prefix="medarts-images-") as folder:
        path = Path(folder) / "images.pickle"
        with path.open("wb") as file:
            pickle.dump(data, file, protocol=pickle.HIGHEST_PROTOCOL)
        yield path


def read_images(path: Path | None) -> ImageStore | None:
    """Returns images in memory that another process has put there; None where the recipe names the data sets."""
    if path is None:
        return None
    with path.open("rb") as file:
        store: ImageStore = pickle.load(file)
    return store


def _opened(folder: Path, manifest: Manifest, settings: DataSettings, *, held: FileLock | None) -> ImageStore:
    sizes = np.asarray(StoredRows(folder / "sizes.npy"))
    if settings.resize == "patches":
        return _opened_crops(folder, manifest, settings, held=held, sizes=sizes)
    images = StoredRows(folder / "images.npy")
    if manifest.findings:
        truths = np.zeros((len(manifest.samples), 0), np.uint8)
        return ImageStore(manifest, images, manifest.labels(), truths, held, sizes, settings.resize)
    masks, truths = StoredRows(folder / "masks.npy"), np.asarray(StoredRows(folder / "truths.npy"))
    return ImageStore(manifest, images, masks, truths, held, sizes, settings.resize, overlap=settings.overlap)


def _opened_crops(
    folder: Path, manifest: Manifest, settings: DataSettings, *, held: FileLock | None, sizes: NDArray[np.int32]
) -> ImageStore:
    shapes, truths, counts = (np.asarray(StoredRows(folder / f"{name}.npy")) for name in ("shapes", "truths", "counts"))
    forms = _forms_of(manifest, settings)

    def ragged(name: str, shapes: NDArray[np.integer[Any]]) -> StoredRagged:
        return StoredRagged(folder / name, forms[name]["dtype"], forms[name]["lead"], shapes)

    images, masks = ragged("images.bin", shapes), ragged("masks.bin", shapes)
    places = ragged("places.bin", np.stack([counts.sum(1), np.full(len(counts), 2)], axis=1))
    crops = Crops(settings.size, images, masks, shapes, counts, places)
    about: Any = {"crops": crops, "overlap": settings.overlap}
    return ImageStore(manifest, images, masks, truths, held, sizes, settings.resize, **about)


def _forms_of(manifest: Manifest, settings: DataSettings) -> _Forms:
    """Returns the forms of the arrays, in the order of `_Read.rows`: files of rows, and of arrays of several sizes."""
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


def _fill(folder: Path, manifest: Manifest, settings: DataSettings, *, threads: int) -> None:
    """Makes a store, whose lock is held and whose folder is not there yet; raises as `open_store` does, and OSError."""
    forms = _forms_of(manifest, settings)
    needed = _bytes_of(manifest, settings, forms)
    make_room(folder.parent, needed, limit=round(settings.cache_gb * 1e9), keep=folder.name)
    _check_disk(folder.parent, needed)
    unfinished = unfinished_of(folder)
    discard(unfinished)  # of a process that was killed
    unfinished.mkdir()
    try:
        digests = _write(unfinished, manifest, settings, forms, threads=threads)
        if replace(manifest).fingerprint() != manifest.fingerprint():
            raise DataError(
                "Files of the data were changed while they were read.",
                fix="Run the command again when they no longer change.",
            )
        arrays = {name: {**form, "digest": digests[name]} for name, form in forms.items()}
        about = f"{', '.join(manifest.domains)}: {len(manifest.samples):,} images of {settings.size} px"
        content = json.dumps({"about": about, "arrays": arrays}, indent=1) + "\n"
        (unfinished / MARK).write_text(content, encoding="utf-8")
        _sync(unfinished / MARK, unfinished)
        unfinished.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(folder: Path, manifest: Manifest, settings: DataSettings, forms: _Forms, *, threads: int) -> dict[str, str]:
    """Writes the arrays, says which masks have lost classes, and returns the digests of the files."""
    number = len(manifest.samples)
    lost: list[Sample] = []
    snapped: dict[str, list[float]] = {}
    stretched = 0
    levels = {domain: DomainLevels() for domain in manifest.domains}
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar("reading images", number))
        writers: dict[str, RowWriter | RaggedWriter] = {}
        for name, form in forms.items():
            writers[name] = _writer(folder / name, form)
            stack.enter_context(writers[name])
        for sample, read in zip(manifest.samples, _read_all(manifest, settings, threads=threads), strict=True):
            for writer, row in zip(writers.values(), read.rows, strict=True):
                writer.append(row)
            if read.lost:
                lost.append(sample)
            stretched += read.is_stretched
            snapped.setdefault(sample.domain, []).append(read.snapped)
            levels[sample.domain].add(read.levels)
            if (problem := levels[sample.domain].problem(sample.domain)) is not None:
                raise problem
            bar.advance()
        for writer in writers.values():
            writer.finish()
    for domain, shares in snapped.items():
        if any(shares):
            inform(f"{domain}: {snapped_words(shares)}")
    if stretched:
        inform(
            f"{stretched:,} of {number:,} images are not square and were stretched to {settings.size} x "
            f"{settings.size} pixels (data.resize: squash)."
        )
    if lost:
        names = ", ".join([*(sample.key for sample in lost[:_NAMED]), *["..."] * (len(lost) > _NAMED)])
        what = "all foreground" if settings.outputs == 1 else "a class"
        where, fix = shrinking(settings)
        inform(f"{len(lost)} of {number} masks lose {what} {where} ({names}). {fix}: what cannot be seen scores 0.")
    return {name: writer.digest for name, writer in writers.items()}


def _writer(path: Path, form: Mapping[str, Any]) -> RowWriter | RaggedWriter:
    return RowWriter(path, **form) if "shape" in form else RaggedWriter(path, dtype=form["dtype"])


def _bytes_of(manifest: Manifest, settings: DataSettings, forms: _Forms) -> int:
    """Returns the size of a store; that of images of several sizes is taken from their headers, and an upper bound."""
    rows = (form for form in forms.values() if "shape" in form)
    known = sum(math.prod(form["shape"]) * np.dtype(form["dtype"]).itemsize for form in rows)
    if settings.resize != "patches":
        return known
    classes = len(settings.class_names)
    each = 2 * settings.in_channels + (classes if settings.overlap else 1)
    pixels = [_stored_pixels(sample.image, settings) for sample in manifest.samples]
    places = sum(min(classes * POINTS, (classes if settings.overlap else 1) * number) for number in pixels)
    return known + sum(pixels) * each + places * 8  # two int32 a place


def _stored_pixels(path: Path, settings: DataSettings) -> int:
    """Returns the pixels of an image that patches are cropped from; 0 where the reader will say what is wrong."""
    try:
        framing = framing_of(path, *shape_of(path), settings)
    except DataError:
        return 0
    return framing.rows * framing.columns


def _read_all(manifest: Manifest, settings: DataSettings, *, threads: int) -> Iterator[_Read]:
    """Yields the samples in their order; some are read ahead, few where they are large."""
    workers, gate = threads or _cores(), Gate()

    def work(sample: Sample, pixels: int) -> _Read:
        try:
            return _read(sample, manifest, settings)
        finally:
            gate.leave(pixels)

    waiting: deque[Future[_Read]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for sample in manifest.samples:
                if len(waiting) == 2 * workers:
                    yield waiting.popleft().result()
                pixels = pixels_of(sample.image) * (1 + len(sample.more)) * (1 + 2 * settings.context)
                gate.enter(pixels)
                waiting.append(pool.submit(work, sample, pixels))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(sample: Sample, manifest: Manifest, settings: DataSettings) -> _Read:
    rules = manifest.rules[sample.domain]
    about = {"channels": settings.in_channels, "context": settings.context}
    mask_read: Mask | None = None
    levels: tuple[MaskLevel, ...] = ()
    snapped = 0.0
    if sample.mask is None:
        image_hwc = read_image(sample, rules, **about)
    else:
        names, overlap = settings.class_names, settings.overlap
        image_hwc, mask_read, levels, snapped = read_pair(sample, rules, **about, names=names, overlap=overlap)
        if not overlap:
            check_classes(sample, mask_read, names, named=settings.names_classes)
    height, width = image_hwc.shape[:2]
    framing = framing_of(sample.image, height, width, settings)
    size = None if settings.resize == "patches" else settings.size
    rows: tuple[ArrayLike, ...] = frame_image(image_hwc, framing, size=size), (height, width)
    lost = False
    if mask_read is not None:
        mask, truths = frame_mask(mask_read, framing, size=size, number=len(settings.class_names))
        rows, lost = (*rows, mask, truths), bool((truths == MaskState.VANISHED).any())
        if size is None:
            rows = (*rows, mask.shape[-2:], *places_of(mask, len(truths)))
    return _Read(rows, settings.resize == "squash" and height != width, lost, levels, snapped)


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


class Gate:
    """Lets images through while those that are being read have few pixels together.

    Args:
        pixels: how many; an image that has more goes through alone.
    """

    def __init__(self, pixels: int = PIXELS) -> None:
        self._limit = pixels
        self._inside = 0
        self._changed = threading.Condition()

    def enter(self, pixels: int) -> None:
        """Waits until an image of this many pixels may be read."""
        with self._changed:
            self._changed.wait_for(lambda: self._inside == 0 or self._inside + pixels <= self._limit)
            self._inside += pixels

    def leave(self, pixels: int) -> None:
        """Lets others take the place of an image that has been read."""
        with self._changed:
            self._inside -= pixels
            self._changed.notify_all()


def pixels_of(path: Path) -> int:
    """Returns how many pixels an image or slice has: from its header, or about as many as its file may hold."""
    try:
        return math.prod(shape_of(path))
    except DataError:  # the reader reports whatever is wrong with the file
        return path.stat().st_size * _COMPRESSION if path.is_file() else 0
