"""Digests of what a finished run is read from, so that a byte that changes later is noticed.

JSON and CSV have no checksums: a digit that flips on a disk or in a transfer would be another score without a word.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from medarts.errors import RunError

SEALED = ("manifest.csv", "genotype.json", "metrics.jsonl", "architecture.jsonl", "timing.jsonl", "summary.json")
"""The files that cannot be made again. The recipe has a fingerprint of its own, which passes over paths."""


def digests(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file of `SEALED` that is in a folder, by name.

    Raises:
        OSError: one cannot be read.
    """
    return {name: _digest(folder / name) for name in SEALED if (folder / name).exists()}


def check(folder: Path, sealed: Mapping[str, str]) -> None:
    """Refuses a finished run of which a file has changed or is gone.

    Args:
        folder: of the run.
        sealed: what `digests` returned when it finished.

    Raises:
        RunError: names the file.
    """
    for name, digest in sealed.items():
        path = folder / name
        try:
            found = _digest(path)
        except FileNotFoundError:
            raise RunError(f"{path} is missing.", fix="Copy the run again.") from None
        except OSError as error:
            raise RunError(f"{path} cannot be read ({error.strerror}).", fix="Copy the run again.") from error
        if found != digest:
            raise RunError(f"{path} is damaged: it has changed since the run finished.", fix="Copy the run again.")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
