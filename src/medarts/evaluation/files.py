"""The files of a folder of scores: what they were made of, written whole and in order, read only as written."""

import hashlib
import io
import json
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.data.manifest import Part
from medarts.data.store import FORMAT as STORE_FORMAT
from medarts.data.store import ImageStore
from medarts.errors import RunError
from medarts.system.files import UNFINISHED, flush_folder, make_folder, read_whole, write_whole, writing

FILE = "scores.json"
"""Written last: where it exists, the other files of its folder are whole. It has their digests, and one of its own."""

EXAMPLES = "examples.npz"

_BEFORE = ".before"
"""The scores that are replaced, until the new ones are in their place."""

FORMAT = 3
"""Raise it when the files mean something else."""

DIGITS = 16


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """What scores were made of.

    Attributes:
        images: 16 hexadecimal digits of the data and of how they are resized.
        weights: 16 of the weights of the network.
        metrics: 16 of what the scores are, in words.
    """

    images: str
    weights: str
    metrics: str


def of_images(parts: Iterable[tuple[ImageStore, Part]]) -> str:
    """Returns the digits of images as networks see them.

    Args:
        parts: stores, each with the part of it that is looked at.

    Raises:
        DataError: a file of the data is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for store, name in parts:
        form = [STORE_FORMAT, *store.form]
        digest.update(json.dumps([store.manifest.part(name).fingerprint(), form]).encode())
    return digest.hexdigest()[:DIGITS]


def of_metrics(rules: Mapping[str, str]) -> str:
    """Returns the digits of the set of metrics, by what each means; scores by other metrics are made again."""
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:DIGITS]


def write_files(folder: Path, content: Mapping[str, Any], files: Mapping[str, str | bytes]) -> None:
    """Writes a folder of scores beside the one that is there, and then puts it in its place.

    A kill or a full disk in between leaves the scores that were there.

    Args:
        folder: new, or with earlier scores; all that it holds is replaced.
        content: of ``scores.json``.
        files: the others, by name.

    Raises:
        RunError: one cannot be written.
    """
    unfinished = folder.with_name(f"{UNFINISHED}{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed process
    make_folder(unfinished)
    try:
        digests = {}
        for name, given in files.items():
            data = given if isinstance(given, bytes) else given.encode(errors="surrogateescape")
            write_whole(unfinished / name, data)
            digests[name] = _digest(data)
        whole = {"format": FORMAT, **content, "files": digests}
        text = json.dumps(whole | {"digest": _digest(_canonical(whole))}, indent=2, allow_nan=False)
        write_whole(unfinished / FILE, text + "\n")
        with writing(folder):
            _put_in_place(unfinished, folder)
            flush_folder(folder.parent)
    except RunError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(folder / _BEFORE, ignore_errors=True)


def _put_in_place(unfinished: Path, folder: Path) -> None:
    before = unfinished / _BEFORE
    if folder.exists():
        folder.rename(before)
    try:
        unfinished.rename(folder)
    except OSError:
        if before.exists():
            before.rename(folder)
        raise


def read_files(folder: Path) -> dict[str, Any]:
    """Returns the content of ``scores.json``, after it and the files it names were found to be as they were written.

    Raises:
        RunError: one is missing, was cut or changed, or is of another version.
    """
    name = FILE
    try:
        content = json.loads(read_whole(folder / FILE, fix=again(folder)))
        if "split" in content and content.get("format") != FORMAT:
            raise RunError(f"{folder / FILE} was written by another version of medarts.", fix=again(folder))
        whole = {key: value for key, value in content.items() if key != "digest"}
        damaged = [FILE] if _digest(_canonical(whole)) != content["digest"] else []
        for name, digest in content["files"].items():
            damaged += [name] if _digest(read_whole(folder / name, fix=again(folder))) != digest else []
    except FileNotFoundError:
        raise RunError(f"{folder / name} does not exist.", fix=again(folder)) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        damaged = [FILE]
    if damaged:
        raise RunError(f"{folder / damaged[0]} is damaged: it is not as it was written.", fix=again(folder))
    return dict(content)


def again(folder: Path) -> str:
    """Returns what to do about a folder of scores that cannot be used: the command, with the options of its name."""
    split, _, rest = folder.name.partition("-")
    data = re.sub(r"-[0-9a-f]{8}$", "", rest)  # digits of images stand behind names of data sets alone
    found = re.fullmatch(r"(.*?)-?(?:head-([\d,]+|average))?", data)
    data, head = found.groups() if found else (data, None)
    options = ["--split", split, *([] if head is None else ["--head", head])]
    command = shlex.join(["medarts", "evaluate", str(folder.parent.parent), *options])
    return f"Evaluate again: {command}" + f" --data DATA, where DATA is what is called {data} here" * bool(data)


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Returns a compressed ``.npz`` file of arrays."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return content.getvalue()


def _canonical(content: Mapping[str, Any]) -> bytes:
    """Returns the bytes that distinguish content from other content, before and after it was JSON."""
    return json.dumps(content, sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
