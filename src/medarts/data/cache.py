"""The folder in which resized images are kept: who uses what, what is oldest, and how it stays below a size.

cache/
    v4-<fingerprint of the data>-<form>/   a store, whole; see ``medarts.data.store``
    .unfinished-v4-.../                    a store that is being written, or was when its process was killed
    .locks/v4-...                          held while a store is looked for, made or removed
    .locks/v4-....<number>                 held by a process as long as it uses the store

Locks are the system's: they end with the process that holds them.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from medarts.errors import DataError
from medarts.system.cached import user_cache
from medarts.system.console import inform

MARK = "store.json"
"""Written last into a store; its time is that of the last use."""

LEFT_FOR = timedelta(days=1)
"""How long what a killed process has read stays for another that goes on with it."""

_UNFINISHED = ".unfinished-"
_LOCKS = ".locks"
_SHORT = 0.5
_STORE = re.compile(r"v\d+-[0-9a-f]{16}-")
"""What names of stores begin with. A cache may be a folder that holds other things, which are left alone."""


@dataclass(frozen=True, slots=True)
class CachedStore:
    """A store, or what a killed process left of one.

    Attributes:
        path: its folder.
        nbytes: the size of its files.
        used: when it was last opened.
        about: its images in words; of what a killed process left, that it did.
        in_use: a process uses it, or makes it.
    """

    path: Path
    nbytes: int
    used: datetime
    about: str
    in_use: bool

    @property
    def fingerprint(self) -> str:
        """That of the images and masks, which tells stores of one data set apart; 16 hexadecimal digits."""
        return str(_name(self.path)).split("-")[1]

    @property
    def is_whole(self) -> bool:
        """False for what a killed process left."""
        return not self.path.name.startswith(_UNFINISHED)


def stores_in(cache: Path) -> list[CachedStore]:
    """Returns what a cache holds, the last used first."""
    if not cache.is_dir():
        return []
    found = [kept for path in cache.iterdir() if _name(path) is not None and (kept := _look(path)) is not None]
    return sorted(found, key=lambda kept: kept.used, reverse=True)


def remove(kept: CachedStore) -> bool:
    """Removes a store, or what is left of one; returns False where a process uses it."""
    cache, name = kept.path.parent, _name(kept.path)
    with contextlib.suppress(Timeout), alone(cache, str(name), timeout=0):
        if not _users(cache, str(name)):
            discard(kept.path)
            return True
    return False


def discard(folder: Path) -> None:
    """Removes a folder of the cache whose lock is held; it is never there by its name while half removed."""
    unfinished = unfinished_of(folder)
    if folder != unfinished and folder.exists():
        if unfinished.exists():
            shutil.rmtree(unfinished)
        folder.rename(unfinished)
    if unfinished.exists():
        shutil.rmtree(unfinished)


def unfinished_of(folder: Path) -> Path:
    """Returns where a store is written before it gets its name."""
    return folder if folder.name.startswith(_UNFINISHED) else folder.with_name(f"{_UNFINISHED}{folder.name}")


def make_room(cache: Path, needed: int, *, limit: int, keep: str) -> None:
    """Removes what killed processes left and the stores longest unused until a cache has room; says which.

    Args:
        needed: bytes of the store that is to be made.
        limit: bytes that all together may take. Stores that are in use stay, also above it.
        keep: name of the store that is to be made, whose lock is held.
    """
    everything = [kept for kept in stores_in(cache) if _name(kept.path) != keep]
    # Nobody waits for what was left long ago; what was left just now may be gone on with.
    old = datetime.now() - LEFT_FOR
    stores = [kept for kept in everything if kept.is_whole or kept.used > old or not remove(kept)]
    taken = sum(kept.nbytes for kept in stores)
    removed = []
    for kept in sorted(stores, key=lambda kept: (kept.is_whole, kept.used)):
        if taken + needed <= limit:
            break
        if remove(kept):
            taken -= kept.nbytes
            removed.append(kept)
    if removed:
        freed = sum(kept.nbytes for kept in removed)
        stores_removed = f"{len(removed)} {'store' if len(removed) == 1 else 'stores'} of images"
        inform(
            f"Removed {stores_removed} ({freed / 1e9:.2f} GB) from {cache}, last used {removed[-1].used:%d %B %Y}: the "
            f"limit data.cache_gb is {limit / 1e9:g}."
        )


@contextlib.contextmanager
def alone(cache: Path, name: str, *, timeout: float = -1) -> Iterator[None]:
    """Lets one process at a time look for, make or remove a store; others wait.

    Args:
        timeout: seconds to wait; no limit where negative.
    """
    lock = FileLock(_locks(cache) / name)
    try:
        lock.acquire(timeout=0 if timeout == 0 else _SHORT)  # whoever lists the cache holds it for a moment
    except Timeout:
        if timeout == 0:
            raise
        inform(f"Another process reads the same images into {cache}; waiting for it.")
        lock.acquire(timeout=timeout)
    try:
        yield
    finally:
        lock.release()


def use(cache: Path, name: str) -> FileLock:
    """Marks a store as in use, for as long as the lock that is returned lives; the lock of the store is held."""
    _users(cache, name)  # removes the marks of processes that have ended
    lock = FileLock(_locks(cache) / f"{name}.{uuid4().hex[:12]}", thread_local=False)
    lock.acquire(timeout=0)
    with contextlib.suppress(OSError):
        os.utime(cache / name / MARK)
    return lock


def _locks(cache: Path) -> Path:
    folder = cache / _LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _users(cache: Path, name: str) -> int:
    """Returns the number of processes that use a store, and removes the marks of those that have ended."""
    users = 0
    for mark in (cache / _LOCKS).glob(f"{name}.*"):
        lock = FileLock(mark)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            users += 1
            continue
        mark.unlink(missing_ok=True)
        lock.release()
    return users


def _name(path: Path) -> str | None:
    """Returns the name of a store from its folder, whole or not; None where it is something else."""
    name = path.name.removeprefix(_UNFINISHED)
    return name if _STORE.match(name) else None


def _look(path: Path) -> CachedStore | None:
    """Returns what is kept in a folder; None where it has just been removed."""
    cache, name = path.parent, str(_name(path))
    try:
        sizes = [file.stat().st_size for file in path.iterdir()]
        mark = path / MARK
        used = datetime.fromtimestamp((mark if mark.exists() else path).stat().st_mtime)
        try:
            with alone(cache, name, timeout=0):
                in_use = _users(cache, name) > 0
        except Timeout:
            in_use = True
        return CachedStore(path, sum(sizes), used, _about(path), in_use)
    except FileNotFoundError:
        return None


def _about(path: Path) -> str:
    if path.name.startswith(_UNFINISHED):
        return "left unfinished"
    try:
        return str(json.loads((path / MARK).read_text(encoding="utf-8"))["about"])
    except (OSError, ValueError, LookupError, TypeError):
        return "of another version, or damaged"


def listed(folder: Path | None = None) -> tuple[Path, list[CachedStore]]:
    """Returns a cache and what it holds, the last used first.

    Args:
        folder: the cache. Default: the user's cache.
    """
    path = folder or user_cache()
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is not a folder.", fix="Give the folder that data.cache names.")
    try:
        return path, stores_in(path)
    except OSError as error:
        raise _locked(path, error) from error


def cleared(folder: Path | None = None) -> tuple[Path, list[CachedStore], list[CachedStore]]:
    """Removes what a cache holds, apart from what a process uses; of the user's also digests of files and latencies.

    Args:
        folder: the cache. Default: the user's cache.

    Returns:
        The cache, what was removed, and what was left because a process uses it.
    """
    path, held = listed(folder)
    removed: list[CachedStore] = []
    left: list[CachedStore] = []
    try:
        for kept in held:
            (removed if remove(kept) else left).append(kept)
        if path == user_cache():
            for database in path.glob("*.sqlite"):
                database.unlink()
    except OSError as error:
        raise _locked(path, error) from error
    return path, removed, left


def _locked(path: Path, error: OSError) -> DataError:
    return DataError(
        f"The cache {path} cannot be written ({error.strerror or error}).", fix="Ask the owner of the folder to do it."
    )
