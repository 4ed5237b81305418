"""Names from the disk: the one way to make a name of a path, and to show a text that may hold anything.

A file system allows almost every byte in a name. Domains, runs and genotypes need names that can be a folder, a cell of
a table and a part of a command everywhere, so they take a cleaned one; the path itself is never changed.
"""

import re
import unicodedata
from pathlib import Path

NAME = r"\w[\w .-]*"
"""What a name looks like."""

_ODD = re.compile(r" *[^\w .-]+[^\w.-]*")
_LONGEST = 80
"""Characters of a name; file systems allow 255 bytes, and prefixes and suffixes are added."""


def name_of(path: Path, *, default: str = "unnamed") -> str:
    """Returns a name for what lies at a path: its last part, with all that a name cannot hold replaced by "-".

    Args:
        path: a file or folder, which need not exist; "." and ".." are resolved.
        default: the name where nothing is left of it.

    >>> name_of(Path("data/archive (1)")), name_of(Path("runs/lr=0.1")), name_of(Path("x/.hidden"))
    ('archive-1', 'lr-0.1', 'hidden')
    """
    last = path.name if path.name not in ("", "..") else path.resolve().name
    cleaned = _ODD.sub("-", unicodedata.normalize("NFC", last))
    return cleaned[: _LONGEST + 1].strip(" .-")[:_LONGEST].rstrip(" .-") or default


_REFUSED = re.compile(r'[<>:"\\|?*\x00-\x1f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d) *(\.|$)", re.IGNORECASE)


def portable(part: str) -> str:
    """Returns a part of a path as every system takes it; Windows refuses some letters, ends and names of devices.

    >>> portable("a:b"), portable("scan. "), portable("con.x"), portable("contrast")
    ('a-b', 'scan', '_con.x', 'contrast')
    """
    cleaned = _REFUSED.sub("-", part).rstrip(" .") or "_"
    return f"_{cleaned}" if _DEVICES.match(cleaned) else cleaned


def printable(text: str) -> str:
    r"""Returns a text with its control characters, line breaks and undecodable bytes written as escapes.

    Names of files and findings are printed this way: a terminal obeys control characters, and an output stream fails
    on the surrogates that stand for bytes that are not UTF-8.

    >>> printable("a\x1b[31m\nb\udce9")
    'a\\x1b[31m\\nb\\xe9'
    """
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a file name that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return letter.encode("unicode_escape", "backslashreplace").decode("ascii")
