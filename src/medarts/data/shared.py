"""Images that several processes train on: listed, checked and in memory once for all.

A process that lists a large data set anew, and makes sure that nothing has changed, takes longer than for an epoch of a
small network. So it gets what the process that started it knows. Images themselves are read from files: the system
keeps what was read in memory, for all processes together, as long as nothing else needs it.
"""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.data.crops import Crops, Ragged
from medarts.data.rows import RaggedWriter, Rows, StoredRagged, StoredRows
from medarts.data.store import ImageStore
from medarts.errors import DataError


@contextmanager
def images_for_processes(data: ImageStore) -> Iterator[Path]:
    """Notes in a temporary file what images there are, for processes of this one that take them by `read_images`.

    Args:
        data: those of files, which stay in the cache meanwhile, or in memory, which are written beside.

    Raises:
        DataError: there is no room.
    """
    with TemporaryDirectory(prefix="medarts-images-") as folder:
        path = Path(folder) / "images.pickle"
        try:
            noted = _in_files(data, path.parent) if data.is_in_memory else data
            with path.open("wb") as file:
                pickle.dump(replace(noted, held=None), file, protocol=pickle.HIGHEST_PROTOCOL)
        except OSError as error:
            raise DataError(
                f"The images cannot be written to {folder} for other processes ({error.strerror or error}).",
                fix="Set TMPDIR to a folder on a disk with room.",
            ) from error
        yield path


def read_images(path: Path) -> ImageStore:
    """Returns the images that another process has noted there."""
    with path.open("rb") as file:
        store: ImageStore = pickle.load(file)
    return store


def _in_files(data: ImageStore, folder: Path) -> ImageStore:
    """Returns images in memory as images in files."""
    given = data.given and _ragged(folder / "given.bin", data.given)
    if data.crops is not None:
        crops = _crops_in_files(data.crops, folder)
        return replace(data, crops=crops, images=crops.images, targets=crops.masks, given=given)
    images, targets = _rows(folder / "images.npy", data.images), data.targets
    if not data.manifest.findings:  # labels are few
        targets = _rows(folder / "masks.npy", targets)
    return replace(data, images=images, targets=targets, given=given)


def _crops_in_files(crops: Crops, folder: Path) -> Crops:
    number = len(crops.shapes)
    images, masks, places = (
        _ragged(folder / f"{name}.bin", [of[row] for row in range(number)])
        for name, of in (("images", crops.images), ("masks", crops.masks), ("places", crops.places))
    )
    return replace(crops, images=images, masks=masks, places=places)


def _rows(path: Path, array: Rows) -> Rows:
    np.save(path, np.asarray(array))
    return StoredRows(path)


def _ragged(path: Path, arrays: "Sequence[NDArray[Any]] | Ragged") -> Ragged:
    if not isinstance(arrays, Sequence):  # which are in a file already
        return arrays
    with RaggedWriter(path, dtype=arrays[0].dtype) as writer:
        for array in arrays:
            writer.append(array)
    return StoredRagged(path, arrays[0].dtype, arrays[0].shape[:-2], np.array([array.shape[-2:] for array in arrays]))
