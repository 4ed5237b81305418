"""A store is filled: every file of a manifest read, resized and written, under another name until all is whole."""

import json
import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medarts.config import DataSettings
from medarts.data.cache import MARK, discard, make_room, unfinished_of
from medarts.data.gate import Gate, pixels_of
from medarts.data.levels import DomainLevels, MaskLevel
from medarts.data.manifest import Manifest, Sample
from medarts.data.reading import check_classes, read_image, read_pair
from medarts.data.resizing import MaskState, mask_states, resize_image, resize_mask
from medarts.data.rows import RowWriter
from medarts.errors import DataError
from medarts.system.console import inform, progress_bar

_NAMED = 3
"""Images named in a line that counts many."""


@dataclass(frozen=True, slots=True)
class Form:
    """What an array of a store looks like.

    Attributes:
        dtype: name of the type of its values.
        shape: its size along every axis.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The size of its values in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def as_json(self) -> dict[str, object]:
        """Returns its attributes as JSON has them."""
        return {"dtype": self.dtype, "shape": list(self.shape)}


class _Read(NamedTuple):
    """What a sample gives the store.

    Attributes:
        rows: those of its arrays.
        lost: the mask has lost a class by resizing.
        levels: the values of a mask without labels.
    """

    rows: tuple[NDArray[Any], ...]
    lost: bool = False
    levels: tuple[MaskLevel, ...] = ()


def forms_of(manifest: Manifest, settings: DataSettings) -> dict[str, Form]:
    """Returns what the arrays of a store look like, by the names of their files."""
    number, size = len(manifest.samples), settings.size
    forms = {"images.npy": Form("float16", (number, settings.in_channels, size, size))}
    if not manifest.findings:
        forms["masks.npy"] = Form("uint8", (number, size, size))
        forms["truths.npy"] = Form("uint8", (number, max(settings.classes - 1, 1)))
    return forms


def fill(folder: Path, manifest: Manifest, settings: DataSettings, *, threads: int) -> None:
    """Makes a store, whose lock is held.

    Args:
        folder: of the store; it is not there yet.
        manifest: the samples.
        settings: size, channels, classes, and the limit of the cache.
        threads: files read at a time; 0: as many as there are cores.

    Raises:
        DataError: a file cannot be read, or changes meanwhile; its mask has another size; a label is out of range;
            masks without labels differ in their foreground; the disk has too little room.
        OSError: the cache cannot be written.
    """
    forms = forms_of(manifest, settings)
    needed = sum(form.nbytes for form in forms.values())
    make_room(folder.parent, needed, limit=round(settings.cache_gb * 1e9), keep=folder.name)
    _check_disk(folder.parent, needed)
    unfinished = unfinished_of(folder)
    discard(unfinished)  # of a process that was killed
    unfinished.mkdir()
    try:
        digests = _write(unfinished, manifest, settings, forms, threads=threads)
        if replace(manifest).fingerprint() != manifest.fingerprint():
            raise DataError(
                "Files of the data were changed while they were read.", fix="Run the command again when they stay."
            )
        arrays = {name: form.as_json() | {"digest": digests[name]} for name, form in forms.items()}
        about = f"{', '.join(manifest.domains)}: {len(manifest.samples):,} images of {settings.size} px"
        content = json.dumps({"about": about, "arrays": arrays}, indent=1) + "\n"
        (unfinished / MARK).write_text(content, encoding="utf-8")
        _sync(unfinished / MARK, unfinished)
        unfinished.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(
    folder: Path, manifest: Manifest, settings: DataSettings, forms: Mapping[str, Form], *, threads: int
) -> dict[str, str]:
    """Writes the arrays, says which masks have lost classes, and returns the digests of the files."""
    number = len(manifest.samples)
    lost: list[Sample] = []
    levels = {domain: DomainLevels() for domain in manifest.domains}
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar("reading images", number))
        writers = {
            name: stack.enter_context(RowWriter(folder / name, dtype=form.dtype, shape=form.shape))
            for name, form in forms.items()
        }
        for sample, read in zip(manifest.samples, _read_all(manifest, settings, threads=threads), strict=True):
            for writer, row in zip(writers.values(), read.rows, strict=True):
                writer.append(row)
            if read.lost:
                lost.append(sample)
            levels[sample.domain].add(read.levels)
            if (problem := levels[sample.domain].problem(sample.domain)) is not None:
                raise problem
            bar.advance()
        for writer in writers.values():
            writer.finish()
    if lost:
        names = ", ".join([*(sample.key for sample in lost[:_NAMED]), *["..."] * (len(lost) > _NAMED)])
        what = "all foreground" if settings.classes == 1 else "a class"
        inform(
            f"{len(lost)} of {number} masks lose {what} at data.size {settings.size} ({names}). Raise data.size: what "
            "is too small to be seen scores 0."
        )
    return {name: writer.digest for name, writer in writers.items()}


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
                pixels = pixels_of(sample.image)
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
    rules, size = manifest.rules[sample.domain], settings.size
    if sample.mask is None:
        image_hwc = read_image(sample, rules, channels=settings.in_channels)
        return _Read((resize_image(image_hwc, size),))
    image_hwc, mask_hw, levels = read_pair(sample, rules, channels=settings.in_channels)
    check_classes(sample, mask_hw, settings.classes)
    resized = resize_mask(mask_hw, size)
    truths = mask_states(mask_hw, resized, classes=settings.classes)
    return _Read((resize_image(image_hwc, size), resized, truths), bool((truths == MaskState.VANISHED).any()), levels)


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
