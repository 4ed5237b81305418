"""The files of a result: a small JSON file with the digests of all others, tidy CSV tables, and arrays."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medarts.errors import RunError
from medarts.system.files import make_folder, read_whole, write_whole

Arrays = Mapping[str, NDArray[Any]]

FORMAT = 5
"""Raise it when the files change their meaning."""

_WHOLE = ("seed", "seeds", "networks", "patients", "images", "undefined", "parameters", "flops", "epochs")
_FLAGS = ("front", "external")


def write_result(
    folder: Path, name: str, about: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], arrays: Arrays | None = None
) -> None:
    """Writes a result: ``<name>.json`` last, so that a result that was being written is not taken for a whole one.

    Args:
        name: of the JSON file.
    """
    make_folder(folder)
    files = {f"{key}.csv": _csv(table) for key, table in tables.items()}
    if arrays:
        content, parts = io.BytesIO(), dict[str, Any](arrays)
        np.savez_compressed(content, **parts)
        files["overlays.npz"] = content.getvalue()
    for file, data in files.items():
        write_whole(folder / file, data)
    content_of = {"format": FORMAT, **about, "files": {file: _digest(data) for file, data in files.items()}}
    text = json.dumps(content_of, indent=1, allow_nan=False)  # in ASCII, as paths need not be UTF-8
    write_whole(folder / f"{name}.json", text + "\n")


def read_result(
    folder: Path, name: str, tables: Iterable[str], *, needs: Iterable[str], fix: str
) -> tuple[dict[str, Any], dict[str, pd.DataFrame], dict[str, NDArray[Any]]]:
    """Reads what `write_result` wrote: content of the JSON file, tables, arrays.

    Args:
        name: of the JSON file.
        needs: keys of the JSON file.
    """
    file = f"{name}.json"
    try:
        about = json.loads(read_whole(folder / file, fix=fix))
        if about["format"] != FORMAT:
            raise RunError(f"{folder / file} was written by another version of medarts.", fix=fix)
        if lacking := [key for key in (*needs, "files") if key not in about]:
            raise ValueError(f"it lacks {lacking[0]}")
        contents = {}
        for file, digest in about["files"].items():
            contents[file] = read_whole(folder / file, fix=fix)
            if _digest(contents[file]) != digest:
                raise ValueError("it is not as it was written")
        file = f"{name}.json"
        read = {key: _table(contents[f"{key}.csv"]) for key in tables}
        arrays = {}
        if "overlays.npz" in contents:
            with np.load(io.BytesIO(contents["overlays.npz"])) as archive:
                arrays = dict(archive)
    except FileNotFoundError:
        raise RunError(f"{folder / file} does not exist.", fix=fix) from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{folder / file} is damaged ({type(error).__name__}: {reason}).", fix=fix) from error
    return about, read, arrays


def _csv(table: pd.DataFrame) -> bytes:
    text = table.to_csv(index=False, lineterminator="\n")
    return str(text).encode(errors="surrogateescape")


def _table(content: bytes) -> pd.DataFrame:
    """Reads a table; names stay text even where they look like numbers."""
    text = io.StringIO(content.decode(errors="surrogateescape"), newline="")
    table = pd.read_csv(text, dtype=str, keep_default_na=False, lineterminator="\n")
    for column in table:
        if column in _FLAGS:
            table[column] = table[column] == "True"
        elif column not in TEXT:
            numbers = table[column].replace("", "nan").astype(float)
            table[column] = numbers.astype(int) if column in _WHOLE and not numbers.isna().any() else numbers
    return table


TEXT = frozenset(
    (
        *("group", "network", "reference", "metric", "dataset", "image", "patient", "family", "verdict", "kind"),
        *("began_from", "method", "settings", "pruned_from", "target", "unit"),
        *("claim", "common", "several", "single", "relation", "mark", "field"),
    )
)
"""Columns of text; all others hold numbers."""


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
