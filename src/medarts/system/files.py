"""Files of a run, written whole or not at all and never through a symbolic link or a pipe; texts from people."""

import codecs
import errno
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal, TextIO

from medarts.errors import MedartsError, RunError, system_fix

UNFINISHED = ".unfinished-"
"""Begins the names of files and folders that are being written."""

_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""Flags of opening: without them a named pipe would wait for its other end, and a link would be followed."""

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def reason_of(error: OSError) -> str:
    """Returns why the system refused, such as "No space left on device"."""
    return error.strerror or str(error) or type(error).__name__


def cannot_write(path: Path, error: OSError) -> RunError:
    """Returns the error of a file or folder that could not be written."""
    return RunError(f"{path} could not be written ({reason_of(error)}).", fix=system_fix(error))


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


def open_file(path: Path, *, fix: str = "Copy the run again.") -> io.BufferedReader:
    """Opens a file of a run for reading.

    Args:
        path: the file.
        fix: what to do where something else has its name.

    Raises:
        FileNotFoundError: it is not there.
        RunError: it is a symbolic link or no regular file, or cannot be opened.
    """
    try:
        _refuse_link(path)  # O_NOFOLLOW is not everywhere
        descriptor = os.open(path, os.O_RDONLY | _AT_ONCE)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise RunError(f"{path} is not a regular file.", fix=fix) from None
        raise RunError(f"{path} could not be read ({reason_of(error)}).", fix=system_fix(error)) from error
    _check_regular(path, descriptor, fix=fix)
    return os.fdopen(descriptor, "rb")


def read_whole(path: Path, *, fix: str = "Copy the run again.") -> bytes:
    """Returns the bytes of a file of a run; see `open_file`.

    Raises:
        FileNotFoundError: it is not there.
        RunError: it is a symbolic link or no regular file, or cannot be read.
    """
    with open_file(path, fix=fix) as file:
        try:
            return file.read()
        except OSError as error:
            raise RunError(f"{path} could not be read ({reason_of(error)}).", fix=system_fix(error)) from error


def read_of_run(path: Path) -> bytes:
    """Returns the content of a file that a run has to have.

    Raises:
        RunError: it is missing, or no regular file.
        OSError: it cannot be read.
    """
    try:
        return read_whole(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing.", fix="Copy the run again.") from None


def open_table(path: Path) -> TextIO:
    """Opens a CSV file of a run for reading; bytes of file names that are not UTF-8 stay as they are.

    Raises:
        FileNotFoundError: it is not there.
        RunError: it is a symbolic link or no regular file, or cannot be opened.
    """
    return io.TextIOWrapper(open_file(path), encoding="utf-8", errors="surrogateescape", newline="")


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file to be written under another name; it gets its own once it is complete.

    Args:
        path: the file; a symbolic link is replaced, what it points to stays.

    Raises:
        RunError: it cannot be written; what was there before stays.
    """
    unfinished = path.with_name(f"{UNFINISHED}{path.name}")
    with writing(path):
        unfinished.unlink(missing_ok=True)
        try:
            with unfinished.open("xb") as file:  # x: never through a link that somebody has put there
                yield file
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave the new name with nothing in it
            unfinished.replace(path)
            flush_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file under another name and renames it, so that it is never half there.

    Args:
        path: the file; a symbolic link is replaced, what it points to stays.
        content: its bytes, or its text, which is encoded as UTF-8; bytes of file names that are none stay as they are.

    Raises:
        RunError: it cannot be written; what was there before stays.
    """
    with whole(path) as file:
        file.write(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))


def flush_folder(path: Path) -> None:
    """Waits until the entries of a folder are on the disk; Windows opens no folders and has no need of it.

    Raises:
        OSError: the folder cannot be read, or the disk fails.
    """
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # file systems without such a flush
            raise
    finally:
        os.close(handle)


def append_line(path: Path, line: str) -> None:
    """Appends a line to a file and waits until it is on the disk.

    Raises:
        RunError: it cannot be written, or is a symbolic link or no regular file.
    """
    with writing(path):
        _refuse_link(path)  # O_NOFOLLOW is not everywhere
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _AT_ONCE, 0o666)
        _check_regular(path, descriptor, fix="Move it away.")
        with os.fdopen(descriptor, "ab") as file:
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


def check_writable(path: Path, *, kind: Literal["folder", "file"] = "folder") -> None:
    """Refuses a place that cannot be written, before the work whose results it is for.

    Args:
        path: what is not there is made and removed again; what a file holds stays.
        kind: "folder" for one that is to hold new files, or "file".

    Raises:
        RunError: it cannot be written.
    """
    new = make_folder(path if kind == "folder" else path.parent)
    try:
        with writing(path):
            if kind == "folder":
                with tempfile.TemporaryFile(dir=path):
                    pass
            else:
                _check_file(path)
    finally:
        remove_empty(new)


def _check_file(path: Path) -> None:
    is_new = not path.exists()
    with path.open("ab"):
        pass
    if is_new:
        path.unlink()


def remove_empty(folders: list[Path]) -> None:
    """Removes folders as far as they are empty, in the order given."""
    for folder in folders:
        with suppress(OSError):  # somebody else has put something there
            folder.rmdir()


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"symbolic link to {path.readlink()}")


def _check_regular(path: Path, descriptor: int, *, fix: str) -> None:
    """Closes what is open where it is not a regular file, and refuses it."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RunError(f"{path} is not a regular file.", fix=fix)


def exists(path: Path) -> bool:
    """Says whether there is something at a path; unlike ``Path.exists`` also for names that no file can have."""
    try:
        path.lstat()
    except (OSError, ValueError):
        return False
    return True


def is_folder(path: Path) -> bool:
    """Says whether there is a folder at a path; unlike ``Path.is_dir`` also for names that no folder can have."""
    return exists(path) and path.is_dir()


def read_text(path: Path, *, largest: int, noun: str, error: type[MedartsError]) -> str:
    """Reads a text file in UTF-8, or in UTF-16 with a byte order mark, as some editors and shells of Windows write it.

    Args:
        path: the file; it exists.
        largest: size in bytes above which it cannot be what it should be.
        noun: what it should be, for errors.
        error: kind of the errors.

    Raises:
        MedartsError: of the kind ``error``: it is not a regular file, cannot be read, is too large, or no text.
    """
    try:
        # Without O_NONBLOCK a named pipe would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise error(f"{path} is not a regular file.", fix=f"Give a {noun} in a file.")
            content = file.read(largest + 1)
    except IsADirectoryError:
        raise error(f"{path} is a folder, not a {noun}.", fix="Give a file.") from None
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror}).", fix=system_fix(problem)) from None
    if len(content) > largest:
        raise error(f"{path} is larger than {largest:,} bytes, too large for a {noun}.", fix=f"Give a {noun}.")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise error(f"{path} is not text in UTF-8: see line {line}.", fix="Save it as UTF-8.") from None
