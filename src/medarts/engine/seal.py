"""Digests in run.json of the files of a run that no longer change, so that a byte that changes later is noticed.

JSON and CSV have no checksums: a digit that flips on a disk or in a transfer would be another score without a word.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medarts.errors import RunError
from medarts.system.files import open_file

_FROM_THE_START = {"search": ("manifest.csv",), "train": ("manifest.csv", "genotype.json")}
_AT_THE_END = ("manifest.csv", "genotype.json", "metrics.jsonl", "architecture.jsonl", "timing.jsonl", "summary.json")
"""The files that cannot be made again. The recipe stands in run.json itself."""

_DIGEST = "digest"
"""Key of a JSON file's own digest."""


def digests(folder: Path, kind: str, *, finished: bool) -> dict[str, str]:
    """Returns the SHA-256 of the files of a run that no longer change, by name.

    Args:
        folder: of the run.
        kind: "search" or "train".
        finished: whether it has finished.

    Raises:
        RunError: one cannot be read, or is no regular file.
    """
    names = _AT_THE_END if finished else _FROM_THE_START.get(kind, ())
    return {name: _digest(folder / name) for name in names if (folder / name).exists()}


def check(folder: Path, facts: Mapping[str, Any]) -> None:
    """Refuses a run of which a file has changed that no longer should, or is gone.

    Args:
        folder: of the run.
        facts: what its run.json says.

    Raises:
        RunError: names the file.
    """
    fix = "Copy the run again."
    for name, digest in facts["files"].items():
        path = folder / name
        try:
            found = _digest(path)
        except FileNotFoundError:
            raise RunError(f"{path} is missing.", fix=fix) from None
        except OSError as error:
            raise RunError(f"{path} could not be read ({error.strerror}).", fix=fix) from error
        if found != digest:
            raise RunError(f"{path} is damaged: it is not as the run wrote it.", fix=fix)


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a JSON file with a digest of it."""
    return {**content, _DIGEST: _digest_of(content)}


def check_signed(content: Mapping[str, Any]) -> None:
    """Refuses the content of a JSON file that is not as `signed` returned it.

    Raises:
        ValueError: it is not.
    """
    if content.get(_DIGEST) != _digest_of({key: value for key, value in content.items() if key != _DIGEST}):
        raise ValueError("it is not as it was written")


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
