"""What is in files, as digests: a file is read once, and again only where its size or times have changed.

The digests are kept in one database of the user's cache folder. Losing it costs time alone.
"""

import contextlib
import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from medarts.errors import DataError
from medarts.system.cached import ask, user_cache
from medarts.system.console import Bar, progress_bar

T = TypeVar("T")

DIGEST_BYTES = 16
SETTLED_NS = 3 * 10**9
"""A digest is kept once the file's times lie this far back; a rewrite in the same tick of the clock would go unnoticed.

FAT has the coarsest clock, of two seconds.
"""

_FILE = "contents-2.sqlite"
_TABLE = (
    "files (path BLOB PRIMARY KEY, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL, "
    "digest TEXT NOT NULL, code TEXT NOT NULL) WITHOUT ROWID"
)
_BLOCK = 4 * 10**6
_LARGE = 10**9
"""Bytes that take about a second to read, from which on progress is shown."""

_AT_ONCE = 10_000
"""Files whose times are in memory at one time, as there may be millions."""

_ROWS = 500
"""Files of one query; SQLite takes some hundred variables in every version."""


class _Stamp(NamedTuple):
    """What changes when a file is written anew.

    Attributes:
        size: bytes.
        modified_ns: time of writing, which programs can set.
        changed_ns: time of the last change of status, which no program sets; 0 on Windows, which has none.
    """

    size: int
    modified_ns: int
    changed_ns: int

    def is_settled(self, now_ns: int) -> bool:
        return self.changed_ns < now_ns - SETTLED_NS and abs(now_ns - self.modified_ns) > SETTLED_NS


def digests_of(paths: Iterable[Path]) -> dict[Path, str]:
    """Returns a digest of the content of every file: 32 hexadecimal digits, of BLAKE2b.

    A file whose size and times are those of before is not read again. On Windows this overlooks content that was
    replaced by as many bytes with the old time of writing.
    """
    every = [*dict.fromkeys(paths)]
    found: dict[Path, str] = {}
    with contextlib.ExitStack() as stack:
        bar: Bar | None = None
        for start in range(0, len(every), _AT_ONCE):
            now_ns = time.time_ns()
            stamps = {path: _stamp(path) for path in every[start : start + _AT_ONCE]}
            keys = {path: os.fsencode(path.absolute()) for path in stamps}
            known = _recall([*keys.values()])
            found |= {
                path: known[keys[path]][1] for path in stamps if known.get(keys[path], (None,))[0] == stamps[path]
            }
            unknown = [path for path in stamps if path not in found]
            if unknown and bar is None:
                bar = stack.enter_context(progress_bar("checking files", len(every) - start))
            if bar is not None:
                bar.advance(len(stamps) - len(unknown))
                found |= _read(unknown, bar)
            settled = (path for path in unknown if stamps[path].is_settled(now_ns) and _stamp(path) == stamps[path])
            _keep({keys[path]: (stamps[path], found[path]) for path in settled})
    return {path: found[path] for path in every}


def digests_read(paths: Sequence[Path]) -> dict[Path, str]:
    """Returns the digests of files as `digests_of` does, and reads all of them, whatever is known.

    Bits that rot on a disk change neither sizes nor times.
    """
    nbytes = sum(_stamp(path).size for path in paths)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(max(len(paths), 1)))
        advance = None
        if nbytes > _LARGE:
            advance = stack.enter_context(progress_bar("checking the cache (MB)", nbytes // 10**6)).advance
        return dict(zip(paths, pool.map(lambda path: _digest(path, advance), paths), strict=True))


def database() -> Path:
    """Returns the file in which digests are kept, which need not exist."""
    return user_cache() / _FILE


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise DataError(f"{path} is not a file.", fix="Put the file there, or take it out of the data set.")
    # On Windows st_ctime is the time of creation, which says nothing about later changes.
    return _Stamp(status.st_size, status.st_mtime_ns, 0 if os.name == "nt" else status.st_ctime_ns)


def _unreadable(path: Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"There is no file {path}.", fix="Restore it or take it out of the data set.")
    reason = error.strerror or type(error).__name__
    return DataError(f"{path} cannot be read ({reason}).", fix="Give the file read permission, or copy it again.")


def _read(paths: Sequence[Path], bar: Bar) -> dict[Path, str]:
    workers = min(8, os.cpu_count() or 1)  # hashing and waiting for disks both let other threads work
    with ThreadPoolExecutor(workers) as pool:
        found = {}
        for path, digest in zip(paths, pool.map(_digest, paths), strict=True):
            found[path] = digest
            bar.advance()
        return found


def _digest(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Returns the digest of a file; calls ``advance`` with the millions of bytes that were read."""
    digest = new_digest()
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                if advance is not None:
                    advance(len(block) // 10**6)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest()


def new_digest() -> "hashlib.blake2b":
    """Returns the digest of nothing, to be updated with the bytes of a file."""
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def _recall(keys: Sequence[bytes]) -> dict[bytes, tuple[_Stamp, str]]:
    """Returns the stamps and digests that are kept of some files."""

    def work(connection: sqlite3.Connection) -> dict[bytes, tuple[_Stamp, str]]:
        found: dict[bytes, tuple[_Stamp, str]] = {}
        for start in range(0, len(keys), _ROWS):
            some = keys[start : start + _ROWS]
            places = ", ".join("?" * len(some))
            rows = connection.execute(
                f"SELECT path, size, modified_ns, changed_ns, digest, code FROM files WHERE path IN ({places})", some
            )
            for path, *numbers, digest, code in rows:
                stamp = _Stamp(*numbers)
                if code == _check_value(path, stamp, digest):  # else the file is read again
                    found[path] = (stamp, digest)
        return found

    return (_ask(work) if database().exists() else None) or {}


def _check_value(path: bytes, stamp: _Stamp, digest: object) -> str:
    """Returns what shows that a row is as it was written: one wrong digit would say that good data have changed."""
    content = repr((path, tuple(stamp), digest)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def _keep(entries: Mapping[bytes, tuple[_Stamp, str]]) -> None:
    rows = [(path, *stamp, digest, _check_value(path, stamp, digest)) for path, (stamp, digest) in entries.items()]
    if rows:
        _ask(lambda connection: connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", rows))


def _ask(work: Callable[[sqlite3.Connection], T]) -> T | None:
    """Returns what the database answers, None where it cannot: digests are then made again."""
    return ask(database(), work, table=_TABLE)
