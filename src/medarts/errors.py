"""The one error a user sees: what was wrong, where, and what to do about it."""

import difflib
import errno
import reprlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any


class MedartsError(Exception):
    """Something the user can fix; the command line prints it as one line and exits with status 1.

    Args:
        problem: what is wrong, naming the file or field.
        fix: what to do about it.
    """

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(f"{problem} {fix}".strip())
        self.problem = problem
        self.fix = fix

    def __reduce__(self) -> tuple[Callable[..., "MedartsError"], tuple[str, str]]:
        """Lets the error cross from one process to another with its two parts."""
        return partial(_rebuild, type(self)), (self.problem, self.fix)


def _rebuild(kind: type[MedartsError], problem: str, fix: str) -> MedartsError:
    return kind(problem, fix=fix)


class DataError(MedartsError):
    """A data set or one of its files cannot be used."""


class RecipeError(MedartsError):
    """A recipe has an unknown key, a wrong value, or values that do not fit together."""


class GenotypeError(MedartsError):
    """A genotype cannot be read, or does not belong to the space it is used in."""


class RunError(MedartsError):
    """A run directory cannot be opened, resumed or written."""


class EngineError(MedartsError):
    """What runs a network failed on images, as where memory ran out."""


class DivergedError(MedartsError):
    """The loss became NaN or infinite; the last good checkpoint was kept."""


OF_TRAINING = frozenset({
    "torch", "scipy", "pandas", "lightning_fabric", "kornia", "safetensors", "monai", "matplotlib", "contourpy",
    "jinja2", "onnx", "onnxscript", "torch_pruning",
})  # fmt: skip
"""Packages that prediction with an exported network does not need."""


def not_installed(package: str) -> MedartsError:
    """Returns the error where one of `OF_TRAINING` is missing."""
    return MedartsError(
        f"{package} is not installed; without it, medarts can only predict with exported networks.",
        fix='pip install "medarts[train]"',
    )


def did_you_mean(name: object, valid: Iterable[str]) -> str:
    """Returns a fix that names the nearest of ``valid``, or all of them where none is near.

    >>> did_you_mean("epoch", ["epochs", "seed"])
    "Did you mean 'epochs'?"
    """
    choices = sorted(valid)
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    return f"Did you mean '{near[0]}'?" if near else f"Valid here: {', '.join(choices)}."


_FIXES = {
    errno.ENOSPC: "Make room on the disk.",
    errno.EDQUOT: "Make room: your quota of the disk is used up.",
    errno.EFBIG: "Raise the limit of the size of files (ulimit -f), or choose another disk.",
    errno.EROFS: "The disk can only be read; choose another folder.",
    errno.EACCES: "Change its permissions, or choose another folder.",
    errno.EPERM: "Change its permissions, or choose another folder.",
    errno.ENOTDIR: "A part of this path is a file, not a folder; choose another path.",
    errno.EISDIR: "This is a folder; give a file.",
    errno.EEXIST: "Choose another path, or move away what has this name.",
    errno.ENOENT: "Check the path: it is not there, or was moved or removed.",
    errno.ELOOP: "Put the file itself in place of the symbolic link.",
    errno.ENAMETOOLONG: "Use a shorter name.",
    errno.EILSEQ: "Use another name; this disk cannot hold this one.",
    errno.EMFILE: "Raise the limit of open files: ulimit -n 4096.",
    errno.ENFILE: "Close other programs: the system has no more open files.",
    errno.ENOMEM: "Free memory, or use smaller images or batches.",
    errno.EIO: "The disk fails; check it, or use another.",
    errno.ESTALE: "Mount the network share again.",
    errno.ENOLCK: "Choose another disk; this one has no locks.",
    errno.EOPNOTSUPP: "Choose another disk; this one cannot do it.",
    errno.EBUSY: "Another program uses it; try again later.",
    errno.ETXTBSY: "Another program uses it; try again later.",
}


OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk, and of a quota that is used up."""


def system_fix(error: OSError) -> str:
    """Returns what to do about an error of the operating system."""
    return _FIXES.get(error.errno or 0, "Check the disk and the permissions of the folder.")


def of_system(error: OSError, *, default: object = None) -> MedartsError:
    """Returns an error of the operating system with the file, the cause and the fix.

    Args:
        error: of the system.
        default: the file that is meant where the error names none.
    """
    reason = error.strerror or type(error).__name__
    named = default if error.filename is None else error.filename
    if named is None:
        return MedartsError(f"The operating system says: {reason}.", fix=system_fix(error))
    name = named if isinstance(named, str | bytes) else str(named)
    if isinstance(name, bytes):
        name = name.decode(errors="surrogateescape")
    return MedartsError(f"{shortened(name)}: {reason}.", fix=system_fix(error))


_LONGEST = 200

_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxlist, _REPR.maxtuple, _REPR.maxset = 2, 4, 6, 6, 6
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def shortened(value: Any, *, longest: int = _LONGEST) -> str:
    """Returns a value as an error says it: the beginning of a text, anything else as Python writes its first parts.

    >>> shortened([1, 2, 3, 4, 5, 6, 7, 8]), shortened("x" * 300) == "x" * 197 + "..."
    ('[1, 2, 3, 4, 5, 6, ...]', True)
    """
    text = value if isinstance(value, str) else _REPR.repr(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def quoted(value: Any) -> str:
    """Returns a value as Python writes it, with the middle of long ones left out.

    >>> quoted("fast"), len(quoted("x" * 300))
    ("'fast'", 60)
    """
    return _REPR.repr(value)


def check_number(option: str, number: int | None, *, low: int, high: int, reason: str = "") -> None:
    """Refuses a number of an option that is out of range; None is an option that is not given.

    Args:
        option: its name, as in Python.
        number: what was given.
        low: the smallest number allowed.
        high: the largest.
        reason: why there are no more, as the end of a sentence.

    Raises:
        RecipeError: it is out of range.
    """
    if number is not None and (not isinstance(number, int) or not low <= number <= high):
        because = f", {reason}" if reason else ""
        raise RecipeError(f"{option} is {quoted(number)}.", fix=f"Use {low:,} to {high:,}{because}.")
