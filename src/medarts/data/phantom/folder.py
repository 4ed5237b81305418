"""What all writers of phantoms share: the stamp of a finished folder, generators by place, bytes of an image."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medarts.errors import DataError
from medarts.system.randomness import seed_of

STAMP = "phantoms.json"

Stamp = dict[str, int]


def written(folder: Path, stamp: Stamp, *, own: Collection[str]) -> bool:
    """Whether the phantoms of a stamp are there; a folder whose writing was broken off is to be written again.

    Args:
        folder: where they are looked for.
        stamp: the arguments they were drawn with.
        own: names that a writing that was broken off may have left.

    Raises:
        DataError: the folder holds something else.
    """
    path = folder / STAMP
    if path.is_file() and path.read_text(encoding="utf-8") == text_of(stamp):
        return True
    others = {item.name for item in folder.iterdir()} - set(own) if folder.is_dir() else set()
    if others:
        raise DataError(f"{folder} holds {min(others)}, not these phantoms.", fix="Give an empty folder.")
    return False


def finish(folder: Path, stamp: Stamp) -> None:
    """Marks a folder as written to its end."""
    (folder / STAMP).write_text(text_of(stamp), encoding="utf-8")


def text_of(stamp: Stamp) -> str:
    """Returns a stamp as it stands in its file."""
    return json.dumps(stamp) + "\n"


def generator_at(seed: int, domain: str, *place: int) -> np.random.Generator:
    """Returns the generator of one thing that is drawn, whatever was drawn before."""
    return np.random.default_rng(seed_of(seed, domain, *place))


def to_bytes(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Returns an image in 0..1 as bytes."""
    return np.round(255 * image).astype(np.uint8)


def new_folder(folder: Path) -> Path:
    """Returns the folder, made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder
