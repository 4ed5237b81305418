"""Tiny images for the golden runs: NumPy and Pillow alone, whole numbers alone, so that no version draws others.

Nothing here may come from medarts, whose own phantoms may change. Raw numbers of PCG64 never change, as those of
NumPy's distributions may.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 32
FINDINGS = ("disc", "bar", "bright")

POLYPS = {"train": [2] * 6, "val": [2] * 4, "test": [2, 1] * 6}
"""Images of every patient, by split: twelve patients are tested."""

CELLS = {"train": [3] * 4, "val": [2] * 3, "test": [2, 3, 1, 3]}
"""Few patients are tested, four."""

FILMS = {"train": [2] * 12, "val": [2] * 6, "test": [3, 2, 4] * 4}


class Drawn:
    """Whole numbers from a seed."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def below(self, high: int, *shape: int) -> NDArray[np.int64]:
        """Returns numbers of 0 to ``high`` - 1."""
        raw = np.asarray(self._bits.random_raw(int(np.prod(shape)))) >> np.uint64(16)
        return (raw % np.uint64(high)).astype(np.int64).reshape(shape)

    def between(self, low: int, high: int) -> int:
        """Returns a number of ``low`` to ``high`` - 1."""
        return low + int(self.below(high - low, 1)[0])


def write_masks(root: Path, patients: dict[str, list[int]], *, seed: int, squares: bool) -> None:
    """Writes images of a bright disc, or a square, on noise, with masks and their patients and splits."""
    drawn = Drawn(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    rows = ["id,patient,split"]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number, (patient, split) in enumerate(_patients(patients)):
        row, column, radius = drawn.between(10, 22), drawn.between(10, 22), drawn.between(5, 12)
        down, right = abs(y - row), abs(x - column)
        mask = np.maximum(down, right) < radius if squares else down**2 + right**2 < radius**2
        ground = drawn.below(80, SIZE, SIZE, 3) + drawn.below(40, 3)
        image = ground + drawn.between(70, 140) * mask[..., None]
        name = f"image_{number:02d}"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / "masks" / f"{name}.png")
        rows.append(f"{name},{patient},{split}")
    (root / "splits.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_findings(root: Path, patients: dict[str, list[int]], *, seed: int) -> None:
    """Writes grey images that show a disc, a bar or a bright ground, or several, with their table."""
    drawn = Drawn(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    (root / "images").mkdir(parents=True)
    rows = ["image,patient,split," + ",".join(FINDINGS)]
    for number, (patient, split) in enumerate(_patients(patients)):
        disc, bar, bright = labels = [drawn.between(0, 2) for _ in FINDINGS]
        row, column = drawn.between(8, 24), drawn.between(8, 24)
        image = drawn.below(120, SIZE, SIZE) + 20 * bright
        image = image + drawn.between(20, 90) * disc * ((y - row) ** 2 + (x - column) ** 2 < 36)
        image = image + drawn.between(20, 90) * bar * (abs(y - column) < 2)
        name = f"image_{number:02d}.png"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / name)
        rows.append(f"{name},{patient},{split},{','.join(map(str, labels))}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_all(root: Path) -> None:
    """Writes the three data sets, each in a folder of its name."""
    write_masks(root / "polyps", POLYPS, seed=1, squares=False)
    write_masks(root / "cells", CELLS, seed=2, squares=True)
    write_findings(root / "films", FILMS, seed=3)


def digest(root: Path) -> str:
    """Returns a digest of all pixels and tables."""
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.*")):
        found.update(path.relative_to(root).as_posix().encode())
        if path.suffix == ".png":
            with Image.open(path) as image:
                found.update(np.asarray(image).tobytes())
        else:
            found.update(path.read_bytes())
    return found.hexdigest()


def _patients(patients: dict[str, list[int]]) -> Iterator[tuple[str, str]]:
    """Yields the patient and the split of every image."""
    number = 0
    for split, counts in patients.items():
        for count in counts:
            number += 1
            yield from [(f"p{number:02d}", split)] * count
