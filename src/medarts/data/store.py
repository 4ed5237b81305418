"""Images and their targets, read and resized once, then served from the cache.

Every file is read when the store is made, so that a damaged file, a mask of another size or a label out of range is
reported before training; it is written under another name until all is whole. The store lies in a cache folder under
the fingerprint of its manifest and is not believed: its arrays have digests, and are read and compared with them
whenever it is opened.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from medarts.config import DataSettings
from medarts.config.data import Resize
from medarts.data.cache import MARK, alone, discard, use
from medarts.data.classifying import are_mixed
from medarts.data.crops import Crops, Ragged
from medarts.data.digests import digests_read
from medarts.data.filling import Forms, fill, forms_of
from medarts.data.folds import undivided
from medarts.data.formats import holds_objects, is_deep
from medarts.data.geometry import Framing, framed
from medarts.data.manifest import Manifest
from medarts.data.masks import Mask
from medarts.data.reading import MaskState
from medarts.data.rows import Rows, StoredRagged, StoredRows
from medarts.errors import DataError
from medarts.system.cached import user_cache
from medarts.system.console import inform

FORMAT = 4
"""Part of the cache's name; raise it when reading or resizing changes."""


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
        given: of data in memory the masks as they were given, uint8, none of labels; None where files are read.
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
    given: Sequence[Mask] | Ragged | None = field(default=None, repr=False, compare=False)

    @property
    def is_in_memory(self) -> bool:
        """Whether images were given as arrays, and not as files."""
        return self.given is not None

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
    forms = forms_of(manifest, settings)
    try:
        with alone(folder.parent, folder.name):
            problem = _problem(folder, forms)
            if problem is not None:
                if folder.exists():
                    inform(f"The stored images in {folder} are damaged ({problem}); they are read again.")
                    discard(folder)
                fill(folder, manifest, settings, threads=threads)
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


def _problem(folder: Path, forms: Forms) -> str | None:
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
    forms = forms_of(manifest, settings)

    def ragged(name: str, shapes: NDArray[np.integer[Any]]) -> StoredRagged:
        return StoredRagged(folder / name, forms[name]["dtype"], forms[name]["lead"], shapes)

    images, masks = ragged("images.bin", shapes), ragged("masks.bin", shapes)
    places = ragged("places.bin", np.stack([counts.sum(1), np.full(len(counts), 2)], axis=1))
    crops = Crops(settings.size, images, masks, shapes, counts, places)
    about: Any = {"crops": crops, "overlap": settings.overlap}
    return ImageStore(manifest, images, masks, truths, held, sizes, settings.resize, **about)
