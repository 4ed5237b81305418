"""Texts from files that people write: recipes, studies, genotypes."""

import codecs
import os
import stat
from pathlib import Path

from medarts.errors import MedartsError, system_fix

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


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
        MedartsError: of the kind ``error``: it is no regular file, cannot be read, is too large, or no text.
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
