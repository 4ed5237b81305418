"""Phantom chest X-rays on disk, in the layout of ChestX-ray14.

Which findings a patient has is drawn as in life: half of the films show none, some findings come together, and what
a patient has mostly shows on all of his films, more or less plainly.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from medarts.config import SourceSettings
from medarts.data.phantom.chest import FINDINGS, Patient, chest, chest_patient
from medarts.data.phantom.folder import finish, generator_at, new_folder, text_of, to_bytes, written
from medarts.errors import DataError

VERSION = 1
UNFINISHED = "phantoms.unfinished"
"""Stands in a folder while it is written; without it nothing of a folder is taken for a phantom."""
TABLE = "Data_Entry_2017_v2020.csv"
HEADER = (
    *("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position"),
    *("OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]"),
)
"""As published: the last two columns have a comma within their names."""
TEST = 0.25
"""Share of the patients whose films are the test."""
FIELD_MM = 360
"""Height of a film."""

ILL = 0.50
"""Share of the patients with a finding."""
SEEN = 0.88
"""Probability that what a patient has shows on one of his films."""
FILMS = (0.36, 0.20, 0.15, 0.12, 0.09, 0.08)
"""Probabilities of 1 to 6 films of a patient."""
SHARES: Mapping[str, float] = {
    "Cardiomegaly": 0.24,
    "Edema": 0.14,
    "Effusion": 0.12,
    "Emphysema": 0.16,
    "Pneumothorax": 0.14,
    "Atelectasis": 0.20,
    "Mass": 0.15,
    "Nodule": 0.19,
    "Consolidation": 0.16,
    "Fibrosis": 0.14,
    "Pleural_Thickening": 0.16,
    "Hernia": 0.12,
}
"""Probability of a finding in an ill patient; in the order in which they are drawn."""
TOGETHER: Mapping[str, Mapping[str, float]] = {
    "Edema": {"Cardiomegaly": 0.15},
    "Effusion": {"Cardiomegaly": 0.25, "Edema": 0.25},
    "Pneumothorax": {"Emphysema": 0.22},
}
"""By how much another finding makes one likelier."""

Row = tuple[str | int | float, ...]


def write_chest_phantoms(folder: Path, *, seed: int, images: int = 1200, size: int = 64) -> SourceSettings:
    """Writes generated chest X-rays of patients with one to six films, or finds them written before.

    The same arguments give the same files: ``images/``, the table of patients and findings, and the lists of the
    films for training and validation and for the test, which keep patients whole.

    Args:
        folder: gets them.
        seed: of all that is drawn.
        images: films, from 25 up.
        size: height and width of the films, from 32 up.

    Returns:
        The source that reads them.

    Raises:
        DataError: the folder holds something else, or too few or too small films were asked for.
    """
    if images < 25 or size < 32:
        raise DataError(
            f"{images} phantoms of {size} pixels are too few or too small.", fix="Ask for 25 and 32 or more."
        )
    stamp = {"version": VERSION, "seed": seed, "images": images, "size": size}
    if not written(folder, stamp, own=_begun(folder, text_of(stamp))):
        (new_folder(folder) / UNFINISHED).write_text(text_of(stamp), encoding="utf-8")
        _write(folder, seed, images, size)
        finish(folder, stamp)
        (folder / UNFINISHED).unlink()
    return SourceSettings(kind="chestxray14", path=folder, name="chest-phantoms")


def _begun(folder: Path, stamp: str) -> tuple[str, ...]:
    """The names that a writing of the same phantoms, broken off, has left; none where there was no such writing."""
    mark = folder / UNFINISHED
    begun = mark.is_file() and mark.read_text(encoding="utf-8") == stamp
    return (UNFINISHED, "images", TABLE, "train_val_list.txt", "test_list.txt") if begun else ()


def _write(folder: Path, seed: int, images: int, size: int) -> None:
    pictures = new_folder(folder / "images")
    films = _films(seed, images)
    rows: list[Row] = []
    lists: tuple[list[str], list[str]] = [], []
    for number, count in enumerate(films, start=1):
        person = chest_patient(generator_at(seed, "chest patient", number))
        test = number - 1 >= round((1 - TEST) * len(films))
        for film, findings in enumerate(_course(generator_at(seed, "course", number), count)):
            name = f"{number:08d}_{film:03d}.png"
            image, _ = chest(person, findings, generator_at(seed, "film", number, film), size)
            Image.fromarray(to_bytes(image)).save(pictures / name)
            lists[test].append(name)
            rows.append(_row(name, person, findings, number=number, film=film, size=size))
    _write_table(folder / TABLE, rows)
    for path, names in zip(("train_val_list.txt", "test_list.txt"), lists, strict=True):
        (folder / path).write_text("".join(f"{name}\n" for name in names), encoding="utf-8", newline="\n")


def _films(seed: int, images: int) -> list[int]:
    """Draws the number of films of every patient; they add up to ``images``."""
    counts = generator_at(seed, "films").choice(np.arange(1, 7), size=images, p=FILMS)
    patients = int(np.searchsorted(np.cumsum(counts), images)) + 1
    first = counts[: patients - 1].tolist()
    return [*first, images - sum(first)]


def _course(generator: np.random.Generator, films: int) -> Iterator[dict[str, float]]:
    """Yields findings and their severities for every film of a patient."""
    severities = _illness(generator) if generator.uniform() < ILL else {}
    for _ in range(films):
        yield {
            name: float(np.clip(severity + generator.normal(0, 0.1), 0, 1))
            for name, severity in severities.items()
            if generator.uniform() < SEEN
        }


def _illness(generator: np.random.Generator) -> dict[str, float]:
    """Draws one or more findings and how severe they are."""
    drawn: list[str] = []
    while not drawn:
        for name, share in SHARES.items():
            more = sum(gain for other, gain in TOGETHER.get(name, {}).items() if other in drawn)
            if generator.uniform() < share + more:
                drawn.append(name)
    return {name: float(generator.uniform(0.1, 1.0)) for name in drawn}


def _row(name: str, person: Patient, findings: Mapping[str, float], *, number: int, film: int, size: int) -> Row:
    labels = "|".join(sorted(findings, key=FINDINGS.index)) or "No Finding"
    gender, spacing = "F" if person.female else "M", round(FIELD_MM / size, 3)
    return (name, labels, film, number, person.age + film // 2, gender, "PA", size, size, spacing, spacing)


def _write_table(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(rows)
