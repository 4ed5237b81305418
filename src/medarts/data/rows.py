"""Arrays in ``.npy`` files, written and read row by row.

They are read, not mapped into memory: where another process cuts a mapped file, this one ends with a signal; where it
is written over, values change without a word; and what was read of it counts as memory of the process.
"""

import errno
import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from medarts.data.digests import new_digest
from medarts.errors import DataError


class Rows(Protocol):
    """An array of which rows are taken: one in memory, or a `StoredRows`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of every axis; rows are along the first."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Returns a row, or those of a list, an array of indices or a slice."""


class StoredRows:
    """The rows of a ``.npy`` file in C order.

    Args:
        path: the file; it stays open as long as the object lives, also where it is removed meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._one_reads = threading.Lock()
        try:
            version = np.lib.format.read_magic(self._file)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            self.shape, in_columns, self.dtype = header[version](self._file)
        except (KeyError, ValueError, EOFError) as error:
            raise ValueError(f"{path} has no header of an array") from error
        if in_columns or not self.shape or self.dtype.hasobject:
            raise ValueError(f"{path} is not an array of rows")
        self._begin = self._file.tell()
        self._seen = self._stamp()
        if self._seen[0] != self._begin + self.nbytes:
            raise ValueError(f"{path} is not as long as its header says")

    @property
    def nbytes(self) -> int:
        """The size of the values in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Returns a row, or those of a list, an array of indices or a slice, in memory of their own."""
        wanted = np.arange(len(self))[rows]
        found = np.empty((wanted.size, *self.shape[1:]), self.dtype)
        length = self.nbytes // max(len(self), 1)
        content = found.reshape(-1).view(np.uint8).data
        for place, row in enumerate(wanted.ravel().tolist()):
            part = content[place * length : (place + 1) * length]
            if self._read_into(part, self._begin + row * length) < length:
                raise self._changed()
        if self._stamp() != self._seen:
            raise self._changed()
        return found.reshape(*wanted.shape, *self.shape[1:])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Returns all rows."""
        return np.asarray(self[:], dtype=dtype)

    def _read_into(self, part: memoryview, start: int) -> int:
        """Fills a part of an array with the bytes from ``start`` on, and returns how many there were."""
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [part], start)
        with self._one_reads:  # threads share the position in the file
            self._file.seek(start)
            return self._file.readinto(part)

    def _stamp(self) -> tuple[int, int]:
        """Returns what changes when the file is written to, and stays when it is removed."""
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def _changed(self) -> DataError:
        return DataError(
            f"{self._path} was changed while it was in use.",
            fix="Run the command again, with --resume for a run that has begun; the images are then read anew.",
        )


class RowWriter:
    """Writes a ``.npy`` file row by row, and makes the digest of its content on the way.

    Raises:
        OSError: the file cannot be made, or there is no room for all of it.
    """

    def __init__(self, path: Path, *, dtype: DTypeLike, shape: Sequence[int]) -> None:
        self.dtype, self.shape = np.dtype(dtype), tuple(shape)
        header = io.BytesIO()
        form = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(header, form)
        self._digest = new_digest()
        self._file = path.open("xb")
        self._reserve(len(header.getvalue()) + int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize)
        self._write(header.getvalue())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def digest(self) -> str:
        """The digest of what was written so far, that of ``medarts.data.digests``."""
        return self._digest.hexdigest()

    def append(self, row: ArrayLike) -> None:
        """Writes the next row."""
        values = np.ascontiguousarray(row, self.dtype)
        if values.shape != self.shape[1:]:
            raise ValueError(f"a row of shape {values.shape} does not fit {self.shape}")
        self._write(values.tobytes())

    def finish(self) -> None:
        """Waits until everything is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write(self, content: bytes) -> None:
        self._digest.update(content)
        self._file.write(content)

    def _reserve(self, length: int) -> None:
        """Takes the room on the disk, so that a full one is noticed before everything is read."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._file.fileno(), 0, length)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # file systems that cannot do it
                    self._file.close()
                    raise
