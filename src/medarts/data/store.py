"""Images and their targets, read and resized once, then served from a memory map.

Every file is read when the store is made, so that a damaged file, a mask of another size or a label out of range is
said before any training. The store is kept in a cache folder under the fingerprint of its manifest.
"""

import hashlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from medarts.data.manifest import Manifest, Sample
from medarts.data.reading import read_image, read_pair
from medarts.data.resizing import resize_image, resize_mask
from medarts.errors import DataError
from medarts.recipe import DataSettings
from medarts.run.progress import progress_bar

FORMAT = 1
"""Part of the cache's name; raise it when reading or resizing changes."""


UNFINISHED = ".unfinished-"
LEFT_BEHIND = 24 * 3600.0
"""Seconds after which an unfinished store is taken for one of a process that was killed."""


@dataclass(frozen=True)
class ImageStore:
    """The images of a manifest at one size.

    Attributes:
        manifest: the samples, in the order of the arrays.
        images: float16, sample x channel x height x width, 0..1.
        targets: uint8: class indices of masks, sample x height x width, or labels, sample x finding.
    """

    manifest: Manifest
    images: NDArray[np.float16]
    targets: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """The size of images and targets in bytes."""
        return self.images.nbytes + self.targets.nbytes

    def indices(self, part: Manifest) -> NDArray[np.int64]:
        """Returns the positions of the samples of ``part``."""
        position = {(sample.domain, sample.key): i for i, sample in enumerate(self.manifest.samples)}
        found = [position[(sample.domain, sample.key)] for sample in part.samples]
        return np.asarray(found, dtype=np.int64)


def open_store(manifest: Manifest, settings: DataSettings) -> ImageStore:
    """Returns the store of a manifest, made now or found in the cache.

    Images are resized to a square with antialiased bilinear, masks with nearest-neighbour interpolation.

    Raises:
        DataError: a file cannot be read, its mask has another size, a label is out of range, or the disk is full.
    """
    form = f"{settings.size}px-{settings.in_channels}ch" + ("" if manifest.findings else f"-{settings.classes}cl")
    name = f"v{FORMAT}-{manifest.fingerprint()}-{_stamp(manifest)}-{form}"
    folder = (settings.cache or default_cache()) / name
    if not folder.exists():
        _make(manifest, settings, folder)
    images = np.load(folder / "images.npy", mmap_mode="r")
    if manifest.findings:
        return ImageStore(manifest, images, manifest.labels())
    return ImageStore(manifest, images, np.load(folder / "masks.npy", mmap_mode="r"))


def default_cache() -> Path:
    """Returns the user's cache folder of medarts."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "medarts"


def _stamp(manifest: Manifest) -> str:
    """Returns what changes when a file is written anew; its size, in the fingerprint, may stay as it was."""
    digest = hashlib.sha256()
    for sample in manifest.samples:
        for path in sample.files:
            digest.update(repr((str(path.absolute()), path.stat().st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


def _make(manifest: Manifest, settings: DataSettings, folder: Path) -> None:
    """Writes the arrays under another name and renames the folder when they are whole."""
    unfinished = folder.with_name(f"{UNFINISHED}{uuid4().hex}-{folder.name}")
    number, size, channels = len(manifest.samples), settings.size, settings.in_channels
    folder.parent.mkdir(parents=True, exist_ok=True)
    _tidy(folder.parent)
    _check_room(folder.parent, number * size**2 * (2 * channels + (0 if manifest.findings else 1)))
    unfinished.mkdir()
    arrays = [
        _map(unfinished / "images.npy", dtype=np.float16, shape=(number, channels, size, size)),
        *([] if manifest.findings else [_map(unfinished / "masks.npy", dtype=np.uint8, shape=(number, size, size))]),
    ]

    def read(sample: Sample) -> list[NDArray[Any]]:
        return _read(sample, manifest, settings)

    try:
        with progress_bar("reading images", number) as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
            for position, parts in enumerate(pool.map(read, manifest.samples)):
                for array, part in zip(arrays, parts, strict=True):
                    array[position] = part
                bar.advance()
        for array in arrays:
            array.flush()
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster, and has written the same
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _map(path: Path, *, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _tidy(cache: Path) -> None:
    """Removes what killed processes left a day ago or longer; anything younger may still be written."""
    for leftover in cache.glob(f"{UNFINISHED}*"):
        if time.time() - leftover.stat().st_mtime > LEFT_BEHIND:
            shutil.rmtree(leftover, ignore_errors=True)


def _check_room(cache: Path, needed: int) -> None:
    """Says that a disk is too full while it can still be said; a full memory map ends the process."""
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise DataError(
            f"The cache {cache} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free.",
            fix="Make room, or set data.cache to a folder on another disk.",
        )


def _read(sample: Sample, manifest: Manifest, settings: DataSettings) -> list[NDArray[Any]]:
    """Returns the image and, where it has one, the mask of a sample at the size of the store."""
    rules, size = manifest.rules[sample.domain], settings.size
    if sample.mask is None:
        image_hwc = read_image(sample, rules, channels=settings.in_channels)
        return [resize_image(image_hwc, size)]
    image_hwc, mask_hw = read_pair(sample, rules, channels=settings.in_channels)
    largest = 1 if settings.classes == 1 else settings.classes - 1
    if int(mask_hw.max()) > largest:
        raise DataError(
            f"{sample.mask} holds class {int(mask_hw.max())}, data.classes {settings.classes} allows 0 to {largest}.",
            fix=f"Set data.classes={int(mask_hw.max()) + 1}, or map its values with the source's 'labels'.",
        )
    return [resize_image(image_hwc, size), resize_mask(mask_hw, size)]
