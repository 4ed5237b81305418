"""Files written whole or not at all, never through a symbolic link, and what to do where the system refuses."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medarts.errors import RunError

UNFINISHED = ".unfinished-"
"""Begins the names of files and folders that are being written."""

_ELSEWHERE = "Use a folder that you may write to, or change its permissions."
_FIXES = {
    "ENOSPC": "Make room on the disk, then resume or run the command again.",
    "EDQUOT": "Your quota on that disk is used up: remove files of yours, then resume or run the command again.",
    "EFBIG": "Files may not be that large here: raise the limit (ulimit -f) or use another disk.",
    "EACCES": _ELSEWHERE,
    "EPERM": _ELSEWHERE,
    "EROFS": "That file system is read-only: use a folder on another disk.",
    "ENOTDIR": "A part of that path is a file: use another folder.",
    "EEXIST": "Something else of that name is in the way: move it, or use another folder.",
    "EISDIR": "A folder of that name is in the way: move it, or use another folder.",
    "ENAMETOOLONG": "Use a shorter name.",
    "EILSEQ": "That file system does not take such names: use another name.",
    "ENOENT": "It is not there, or was moved or removed meanwhile: put it back, or give its new place.",
    "ELOOP": "It is a symbolic link: put a file of its own in its place.",
    "ENOMEM": "Memory ran out: end other programs, or give it smaller images or batches.",
    "EMFILE": "Too many files are open: raise the limit (ulimit -n).",
    "ENFILE": "Too many files are open: end other programs.",
    "EIO": "The disk reports an error: check it, and copy what is on it.",
    "ESTALE": "The network share was lost: mount it again.",
    "ENOLCK": "That file system has no locks: use a folder on another disk.",
    "ENOTSUP": "That file system cannot do it: use a folder on another disk.",
    "EOPNOTSUPP": "That file system cannot do it: use a folder on another disk.",
}


def reason_of(error: OSError) -> str:
    """Returns why the system refused, such as "No space left on device"."""
    return error.strerror or str(error) or type(error).__name__


def fix_of(error: OSError) -> str:
    """Returns what a user can do about an error of the system; nothing where only its reason helps."""
    return _FIXES.get(errno.errorcode.get(error.errno or 0, ""), "")


def cannot_write(path: Path, error: OSError) -> RunError:
    """Returns the error of a file or folder that could not be written."""
    return RunError(f"{path} could not be written ({reason_of(error)}).", fix=fix_of(error))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names a file or folder in the errors of what writes it.

    Raises:
        RunError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file under another name and renames it, so that it is never half there.

    Args:
        path: the file; a symbolic link is replaced, what it points to stays.
        content: its bytes, or its text, which is encoded as UTF-8; bytes of file names that are none stay as they are.

    Raises:
        RunError: it cannot be written; what was there before stays.
    """
    unfinished = path.with_name(f"{UNFINISHED}{path.name}")
    with writing(path):
        try:
            unfinished.unlink(missing_ok=True)
            with unfinished.open("xb") as file:  # x: never through a link that somebody has put there
                file.write(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
            unfinished.replace(path)
        except OSError:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise


def append_line(path: Path, line: str) -> None:
    """Appends a line to a file and waits until it is on the disk.

    Raises:
        RunError: it cannot be written, or is a symbolic link.
    """
    with writing(path):
        _refuse_link(path)  # O_NOFOLLOW is not everywhere
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags, 0o666), "ab") as file:  # noqa: PTH123 - Path.open takes no flags
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())  # a checkpoint counts on what stands here


def refuse_links(folder: Path) -> None:
    """Refuses a folder that holds symbolic links: what is written into it might overwrite files elsewhere.

    Raises:
        RunError: it does.
    """
    for parent, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            path = Path(parent, name)
            if path.is_symlink():
                raise RunError(
                    f"{path} is a symbolic link to {path.readlink()}, and a run is never written through links.",
                    fix="Remove it, or put a copy of what it points to in its place.",
                )


def make_folder(path: Path) -> list[Path]:
    """Makes a folder with its parents, and returns those that were not there, the deepest first.

    Raises:
        RunError: it cannot be made.
    """
    with writing(path):
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
    return new


def remove_empty(folders: list[Path]) -> None:
    """Removes folders as far as they are empty, in the order given."""
    for folder in folders:
        with suppress(OSError):  # somebody else has put something there
            folder.rmdir()


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"symbolic link to {path.readlink()}")
