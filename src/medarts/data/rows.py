"""Arrays in ``.npy`` files, written and read row by row.

They are read, not mapped into memory: where another process cuts a mapped file, this one ends with a signal; where it
is written over, values change without a word; and what was read of it counts as memory of the process.
"""

import errno
import io
import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from medarts.data.digests import new_digest
from medarts.errors import DataError

_BLOCK = 4 * 10**6


class Written(NamedTuple):
    """What a file holds so far.

    Attributes:
        length: in bytes.
        digest: see ``medarts.data.digests``.
    """

    length: int
    digest: str


class Rows(Protocol):
    """An array of which rows are taken: one in memory, or a `StoredRows`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of every axis; rows are along the first."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Returns a row, or those of a list, an array of indices or a slice."""


class _StoredFile:
    """A file that is read in parts; it stays open as long as the object lives, also where it is removed meanwhile.

    Another process that gets the object opens the file anew, which must still be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._one_reads = threading.Lock()
        self._seen = self._stamp()

    def _fill(self, part: memoryview, start: int) -> None:
        """Fills a part of an array with the bytes from ``start`` on."""
        if self._read_into(part, start) < len(part):
            raise self._changed()

    def _check(self) -> None:
        """Refuses a file that was written to since it was opened."""
        if self._stamp() != self._seen:
            raise self._changed()

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


class StoredRows(_StoredFile):
    """The rows of a ``.npy`` file in C order.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            version = np.lib.format.read_magic(self._file)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            self.shape, in_columns, self.dtype = header[version](self._file)
        except (KeyError, ValueError, EOFError) as error:
            raise ValueError(f"{path} has no header of an array") from error
        if in_columns or not self.shape or self.dtype.hasobject:
            raise ValueError(f"{path} is not an array of rows")
        self._begin = self._file.tell()
        if self._seen[0] != self._begin + self.nbytes:
            raise ValueError(f"{path} is not as long as its header says")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._path,)

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
            self._fill(part, self._begin + row * length)
        self._check()
        return found.reshape(*wanted.shape, *self.shape[1:])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Returns all rows."""
        return np.asarray(self[:], dtype=dtype)


class StoredRagged(_StoredFile):
    """Arrays (..., H, W) of several sizes, one after the other in a file without header.

    Args:
        path: the file.
        dtype: of the values.
        lead: sizes of the axes before height and width.
        shapes: height and width of each array, (N, 2).
    """

    def __init__(self, path: Path, dtype: DTypeLike, lead: Sequence[int], shapes: NDArray[np.integer[Any]]) -> None:
        super().__init__(path)
        self.dtype, self._lead = np.dtype(dtype), tuple(lead)
        self._shapes = shapes.astype(np.int64)
        sizes = self._shapes.prod(1) * math.prod(self._lead) * self.dtype.itemsize
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        if self._seen[0] != self._starts[-1]:
            raise ValueError(f"{path} is not as long as the shapes of its arrays say")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._path, self.dtype, self._lead, self._shapes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of arrays, and the sizes of the axes before height and width."""
        return len(self._shapes), *self._lead

    def __getitem__(self, row: int) -> NDArray[Any]:
        """Returns a whole array, in memory of its own."""
        height, width = self._shapes[row].tolist()
        return self.crop(row, 0, 0, height, width)

    def crop(self, row: int, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Returns a part of an array, which lies within it; its rows are read in full."""
        tall, wide = self._shapes[row].tolist()
        found = np.empty((*self._lead, height, wide), self.dtype)
        content, length = found.reshape(-1).view(np.uint8).data, height * wide * self.dtype.itemsize
        for plane in range(math.prod(self._lead) if length else 0):
            start = int(self._starts[row]) + (plane * tall + top) * wide * self.dtype.itemsize
            self._fill(content[plane * length : (plane + 1) * length], start)
        self._check()
        return found[..., left : left + width]


class _Writer:
    """Writes a file, and makes the digest of its content on the way.

    Args:
        path: the file.
        written: what another process has written of it, which stays; None begins a new file.

    Raises:
        LookupError: the file does not begin with what was written.
    """

    def __init__(self, path: Path, written: Written | None = None) -> None:
        self._digest = new_digest()
        self._file: IO[bytes]
        if written is None:
            self._file = path.open("xb")
            self._length = 0
            return
        self._file = path.open("r+b")
        self._length = written.length
        left = written.length
        while left and (block := self._file.read(min(left, _BLOCK))):
            self._digest.update(block)
            left -= len(block)
        if left or self.digest != written.digest:
            self._file.close()
            raise LookupError(f"{path} does not begin with what was written")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def digest(self) -> str:
        """The digest of what was written so far, that of ``medarts.data.digests``."""
        return self._digest.hexdigest()

    def finish(self) -> Written:
        """Waits until everything is on the disk, and returns what that is."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return Written(self._length, self.digest)

    def _write(self, content: bytes) -> None:
        self._digest.update(content)
        self._file.write(content)
        self._length += len(content)


class RaggedWriter(_Writer):
    """Writes arrays of several sizes one after the other, and makes the digest of the file on the way.

    Raises:
        OSError: the file cannot be made, or there is no room.
        LookupError: see `_Writer`.
    """

    def __init__(self, path: Path, *, dtype: DTypeLike, written: Written | None = None) -> None:
        super().__init__(path, written)
        self.dtype = np.dtype(dtype)
        if written is not None:
            self._file.truncate()

    def append(self, row: ArrayLike) -> None:
        """Writes the next array."""
        self._write(np.ascontiguousarray(row, self.dtype).tobytes())


class RowWriter(_Writer):
    """Writes a ``.npy`` file row by row, and makes the digest of its content on the way.

    Raises:
        OSError: the file cannot be made, or there is no room for all of it.
        LookupError: see `_Writer`.
    """

    def __init__(self, path: Path, *, dtype: DTypeLike, shape: Sequence[int], written: Written | None = None) -> None:
        self.dtype, self.shape = np.dtype(dtype), tuple(shape)
        header = io.BytesIO()
        form = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(header, form)
        super().__init__(path, written)
        self._reserve(len(header.getvalue()) + int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize)
        if written is None:
            self._write(header.getvalue())

    def append(self, row: ArrayLike) -> None:
        """Writes the next row."""
        values = np.ascontiguousarray(row, self.dtype)
        if values.shape != self.shape[1:]:
            raise ValueError(f"a row of shape {values.shape} does not fit {self.shape}")
        self._write(values.tobytes())

    def _reserve(self, length: int) -> None:
        """Takes the room on the disk, so that a full one is noticed before everything is read."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._file.fileno(), 0, length)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # file systems that cannot do it
                    self._file.close()
                    raise
