"""Images and their targets, read and resized once, then served from the cache.

Every file is read when the store is made, so that a damaged file, a mask of another size or a label out of range is
reported before training. The store lies in a cache folder under the fingerprint of its manifest and is not believed:
its arrays have digests, and are read and compared with them whenever it is opened.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from medarts.config import DataSettings
from medarts.data.cache import MARK, alone, discard, use
from medarts.data.digests import digests_read, user_cache
from medarts.data.filling import Form, fill, forms_of
from medarts.data.manifest import Manifest
from medarts.data.resizing import MaskState
from medarts.data.rows import Rows, StoredRows
from medarts.errors import DataError
from medarts.system.console import inform

FORMAT = 4
"""Part of the cache's name; raise it when reading or resizing changes."""


@dataclass(frozen=True)
class ImageStore:
    """The images of a manifest at one size.

    Attributes:
        manifest: the samples, in the order of the arrays.
        images: float16, sample x channel x height x width, 0..1.
        targets: uint8: class indices of masks, sample x height x width, or labels, sample x finding.
        truths: uint8, sample x foreground class: a `MaskState`, what the mask has of the class; no column for findings.
        held: keeps other processes from removing the store.
    """

    manifest: Manifest
    images: Rows
    targets: Rows
    truths: NDArray[np.uint8]
    held: FileLock | None = field(default=None, repr=False, compare=False)

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

    Images are resized to a square with antialiased bilinear, masks with nearest-neighbour interpolation. A store whose
    arrays are not those that were written is made again.

    Args:
        manifest: the samples.
        settings: size, channels and classes, and the cache.
        threads: files read at a time; 0: as many as there are cores. Fewer where images are large.

    Raises:
        DataError: a file cannot be read, its mask has another size, a label is out of range, masks without labels
            differ in their foreground, the disk is full, or the cache cannot be written.
    """
    form = f"{settings.size}px-{settings.in_channels}ch" + ("" if manifest.findings else f"-{settings.classes}cl")
    folder = cache_folder(settings) / f"v{FORMAT}-{manifest.fingerprint()}-{form}"
    forms = forms_of(manifest, settings)
    try:
        with alone(folder.parent, folder.name):
            problem = _problem(folder, forms)
            if problem is not None:
                if folder.exists():
                    inform(f"The stored images in {folder} are damaged ({problem}); they are read again.")
                    discard(folder)
                fill(folder, manifest, settings, threads=threads)
            return _opened(folder, manifest, held=use(folder.parent, folder.name))
    except OSError as error:
        if _problem(folder, forms) is None:  # a cache that may be read, made by somebody else
            return _opened(folder, manifest, held=None)
        raise DataError(
            f"The cache {folder.parent} cannot be written ({error.strerror or error}).",
            fix="Set data.cache to a folder that can be written, on a disk with room.",
        ) from error


def cache_folder(settings: DataSettings) -> Path:
    """Returns the folder in which the stores of a recipe are kept."""
    return settings.cache or user_cache()


def _problem(folder: Path, forms: Mapping[str, Form]) -> str | None:
    """Returns why a store cannot be used; None where it is whole, and its arrays are those that were written."""
    if not folder.exists():
        return "there is none"
    try:
        content = json.loads((folder / MARK).read_text(encoding="utf-8"))
        noted = {name: content["arrays"][name] for name in forms}
        strange = [name for name, form in forms.items() if noted[name] | form.as_json() != noted[name]]
        digests = digests_read([folder / name for name in forms])
        strange += [name for name in forms if digests[folder / name] != noted[name]["digest"]]
    except (OSError, ValueError, LookupError, TypeError):
        return f"{MARK} cannot be read"
    except DataError:
        return "a file is missing"
    return f"{strange[0]} was changed" if strange else None


def _opened(folder: Path, manifest: Manifest, *, held: FileLock | None) -> ImageStore:
    images = StoredRows(folder / "images.npy")
    if manifest.findings:
        return ImageStore(manifest, images, manifest.labels(), np.zeros((len(manifest.samples), 0), np.uint8), held)
    masks, truths = StoredRows(folder / "masks.npy"), np.asarray(StoredRows(folder / "truths.npy"))
    return ImageStore(manifest, images, masks, truths, held)
