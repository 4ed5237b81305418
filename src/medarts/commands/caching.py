"""What is kept of images that were read: listed and cleared."""

from pathlib import Path

from medarts.data.cache import CachedStore, remove, stores_in
from medarts.data.digests import database, user_cache
from medarts.errors import DataError


def cache(folder: Path | None = None) -> tuple[Path, list[CachedStore]]:
    """Returns a cache and what it holds, the last used first.

    Args:
        folder: the cache; the user's where None.

    Raises:
        DataError: it cannot be looked at.
    """
    path = folder or user_cache()
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is not a folder.", fix="Give the folder that data.cache names.")
    try:
        return path, stores_in(path)
    except OSError as error:
        raise _locked(path, error) from error


def clear_cache(folder: Path | None = None) -> tuple[Path, list[CachedStore], list[CachedStore]]:
    """Removes what a cache holds, apart from what a process uses; of the user's also the digests of files.

    Args:
        folder: the cache; the user's where None.

    Returns:
        The cache, what was removed, and what was left because a process uses it.

    Raises:
        DataError: it cannot be written.
    """
    path, held = cache(folder)
    removed: list[CachedStore] = []
    left: list[CachedStore] = []
    try:
        for kept in held:
            (removed if remove(kept) else left).append(kept)
        if path == user_cache():
            database().unlink(missing_ok=True)
    except OSError as error:
        raise _locked(path, error) from error
    return path, removed, left


def _locked(path: Path, error: OSError) -> DataError:
    return DataError(
        f"The cache {path} cannot be written ({error.strerror or error}).", fix="Ask the owner of the folder to do it."
    )
