"""One process at a time in a folder that is written.

The lock is one of the operating system on the file ``.lock``: it ends with the process that holds it, however that
ends. Who holds it stands in ``.owner.json``, for the messages of others. Both files are removed with the lock.
"""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import filelock

from medarts.errors import RunError
from medarts.system.files import UNFINISHED, cannot_write, make_folder, read_whole, remove_empty, write_whole
from medarts.system.names import printable

LOCK, OWNER = ".lock", ".owner.json"
FILES = frozenset({LOCK, OWNER, f"{UNFINISHED}{OWNER}"})
"""What is in a folder while it is held, and after its holder was killed."""


class HeldError(RunError):
    """Another process is at work on a folder."""


@contextmanager
def held(folder: Path, work: str, *, patience: float = 0.0) -> Iterator[None]:
    """Keeps all other processes and threads that hold the folder too out of it; may be nested.

    Args:
        folder: the folder, which exists.
        work: what is done in it, such as "search", for the message of others.
        patience: seconds to wait for another holder.

    Raises:
        HeldError: another process holds it.
        RunError: it cannot be written.
    """
    place = folder.resolve()
    if not place.is_dir():  # or it would be made
        raise RunError(f"There is no folder {folder}.", fix="It may have been moved or removed: give its new path.")
    lock = filelock.FileLock(place / LOCK, is_singleton=True)
    if lock.is_locked:  # by this thread
        yield
        return
    try:
        lock.acquire(timeout=patience)
    except filelock.Timeout:
        raise _is_held(folder) from None
    except OSError as error:
        raise cannot_write(folder / LOCK, error) from error
    try:
        write_whole(place / OWNER, json.dumps(_owner(work)) + "\n")
        yield
    finally:
        # Before the release: whoever waits sees that the file which it opened is gone, and makes a new one.
        for name in (OWNER, LOCK):
            with suppress(OSError):  # Windows removes no open file; that of an idle lock does no harm
                (place / name).unlink(missing_ok=True)
        lock.release()


@contextmanager
def held_alone(folder: Path, work: str, *, patience: float) -> Iterator[None]:
    """Makes a folder and holds it, see `held`; where nothing came of the work, it is removed again.

    Args:
        folder: the folder.
        work: what is done in it.
        patience: seconds to wait for another holder, such as one whose parent was killed and that is still saving.

    Raises:
        HeldError: another process holds it.
        RunError: it cannot be written.
    """
    made = make_folder(folder)
    try:
        with held(folder, work, patience=patience):
            yield
    finally:
        remove_empty(made)


def _owner(work: str) -> dict[str, str | int]:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {"work": work, "pid": os.getpid(), "host": platform.node(), "since": since}


def _is_held(folder: Path) -> HeldError:
    """Returns the error of a folder that is held, with what is known of its holder."""
    try:
        owner = json.loads(read_whole(folder / OWNER))
        pid, host, since, work = (printable(str(owner[key])) for key in ("pid", "host", "since", "work"))
    except (OSError, RunError, ValueError, KeyError, TypeError):  # it has not written it yet
        return HeldError(f"Another process is at work on {folder}.", fix="Wait for it to end, or stop it.")
    problem = f"Another process is at work on {folder}: {work}, process {pid} on {host}, since {since}."
    if host == platform.node():
        return HeldError(problem, fix="Wait for it to end, or stop it.")
    fix = f"Wait for it to end, or stop it on {host}. If it is gone, wait until the file server ends its lock."
    return HeldError(problem, fix=fix)
