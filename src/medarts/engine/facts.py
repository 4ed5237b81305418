"""run.json: what it says, whether it says it as medarts writes it, and the digests of the files of a run.

JSON and CSV have no checksums: a digit that flips on a disk or in a transfer would be another score without a word.
The digests in run.json notice it in the files of a run that no longer change.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medarts.errors import RunError
from medarts.system.files import open_file

FORMAT = 1
"""Of run.json; raise it when what a run holds changes."""

Kind = Literal["search", "train", "prune"]
_Name = Annotated[str, Field(pattern=r"\S")]
_Position = Annotated[list[int], Field(min_length=2)]

_OF_TRAINING = ("manifest.csv", "genotype.json", "structure.json", "ensemble.json", "searched.txt")
_FROM_THE_START = {"search": ("manifest.csv",), "train": _OF_TRAINING, "prune": _OF_TRAINING}
_AT_THE_END = (
    "manifest.csv", "genotype.json", "structure.json", "ensemble.json", "searched.txt", "metrics.jsonl",
    "architecture.jsonl", "timing.jsonl", "candidates.jsonl", "supernets.json", "summary.json",
)  # fmt: skip
"""The files that cannot be made again. The recipe is in run.json itself."""

_DIGEST = "digest"
"""Key of a JSON file's own digest."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Environment(_Part):
    threads: Annotated[int, Field(ge=0)] = 0


class _Change(_Part):
    field: _Name
    before: Any
    after: Any
    position: _Position | None
    time: str


class _Split(_Part):
    of: Literal["training", "validation"]
    before: int
    after: int
    position: _Position


class _Initial(_Part):
    network: _Name
    tensors: int
    replaced: list[str]


class _Facts(_Part):
    format: int
    kind: Kind
    name: _Name
    created: str
    medarts: str
    recipe: dict[str, Any]
    recipe_fingerprint: str
    data_fingerprint: str
    finished: bool
    files: dict[str, str]
    environment: _Environment = _Environment()
    network: _Name = "-"
    weights_fingerprint: str | None = None
    initial: _Initial | None = None
    parts: list[Annotated[int, Field(ge=1)]] = []
    changes: list[_Change] = []
    splits: list[_Split] = []


def check_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Refuses facts of another format, and such as medarts does not write.

    Raises:
        RunError: names the file and the key.
    """
    found = facts.get("format")
    if type(found) is int and found != FORMAT:
        fix = "Start a new run."
        raise RunError(f"{path} has format {found}, but this medarts reads format {FORMAT}.", fix=fix)
    try:
        _Facts.model_validate(facts)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        lacks = first["type"] == "missing" and len(first["loc"]) == 1
        raise damaged_facts(path, f"it lacks {first['loc'][0]}" if lacks else str(first["loc"][0])) from None


def damaged_facts(path: Path, what: str) -> RunError:
    """Returns the error of a run.json that has a key, or lacks one, other than medarts writes it."""
    return RunError(f"{path} is damaged: {what}.", fix="Copy the run again.")


def file_digests(folder: Path, kind: str, *, finished: bool) -> dict[str, str]:
    """Returns the SHA-256 of the files of a run of a kind that no longer change, by name.

    Raises:
        RunError: one cannot be read, or is not a regular file.
    """
    names = _AT_THE_END if finished else _FROM_THE_START.get(kind, ())
    return {name: _file_digest(folder / name) for name in names if (folder / name).exists()}


def check_file_digests(folder: Path, digests: Mapping[str, str]) -> None:
    """Refuses a run if a file that no longer changes has changed or is missing.

    Args:
        folder: of the run.
        digests: of its files by name, as ``file_digests`` returned them.

    Raises:
        RunError: names the file.
    """
    fix = "Copy the run again."
    for name, digest in digests.items():
        path = folder / name
        try:
            found = _file_digest(path)
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


def _file_digest(path: Path) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
