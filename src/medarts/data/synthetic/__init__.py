"""Synthetic images of four kinds, in the layouts of real data sets so that the real readers run on them.

The same arguments give the same files. Every image is a function of the seed and of its own number, whatever is made
before it.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from medarts.config import SourceSettings, Split, make_source
from medarts.data.synthetic.chest import FILMS, FINDINGS, chest, seen
from medarts.data.synthetic.chest import patient as chest_patient
from medarts.data.synthetic.phantoms import abdomen, abdomen_patient, dermoscopy, endoscopy, scene
from medarts.errors import DataError
from medarts.system.randomness import seed_of

FEWEST_IMAGES, SMALLEST_SIZE = 25, 32
STAMP = "phantoms.json"
UNFINISHED = "phantoms.unfinished"
"""In a folder while it is written; a folder without it, or the stamp, is somebody else's."""
FRAMES = 5
"""Frames of a sequence, slices of a patient."""
INTERCEPT = -1024

_VERSION = 2
_TABLE = "Data_Entry_2017_v2020.csv"
_HEADER = (  # as published: the last two columns have a comma within their names
    *("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position"),
    *("OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]"),
)
_FILM_MM = 360
_TESTED = 0.25  # share of the patients whose X-rays are for testing


def write_phantoms(folder: Path, *, seed: int, images: int = 120, size: int = 128) -> tuple[SourceSettings, ...]:
    """Writes three data sets with masks (skin lesions, polyps, livers), or finds them written before.

    Splits keep sequences and patients whole.

    Args:
        images: of every data set, from 25.
        size: height and width of the images in pixels, from 32.

    Returns:
        The sources that read them.

    Raises:
        DataError: the folder holds something else, or the images are too few or too small.
    """
    if _begin(folder, "masks", seed=seed, images=images, size=size):
        for write in (_write_isic, _write_cvc, _write_chaos):
            write(folder, seed, images, size)
        _finish(folder)
    return (
        make_source(kind="isic", path=folder / "isic", name="dermoscopy"),
        make_source(kind="cvc", path=folder / "cvc", name="endoscopy"),
        make_source(kind="chaos", path=folder / "chaos", name="ct"),
    )


def write_chest_phantoms(folder: Path, *, seed: int, images: int = 1200, size: int = 64) -> SourceSettings:
    """Writes chest X-rays with findings, of patients with one to six films, or finds them written before.

    Args:
        folder: gets ``images/``, the table of patients and findings, and lists of the films for training and for
            testing, which keep patients whole.
        images: films, from 25.
        size: height and width of the films in pixels, from 32.

    Returns:
        The source that reads them.

    Raises:
        DataError: the folder holds something else, or the films are too few or too small.
    """
    if _begin(folder, "findings", seed=seed, images=images, size=size):
        _write_chests(folder, seed, images, size)
        _finish(folder)
    return make_source(kind="chestxray14", path=folder, name="chest-phantoms")


def _begin(folder: Path, kind: str, *, seed: int, images: int, size: int) -> bool:
    """Makes a folder ready, also one whose writing was interrupted; returns False where it is written already."""
    if images < FEWEST_IMAGES or size < SMALLEST_SIZE:
        raise DataError(
            f"{images} images of {size} pixels are too few or too small.",
            fix=f"Use at least {FEWEST_IMAGES} images of {SMALLEST_SIZE} pixels.",
        )
    stamp = json.dumps({"version": _VERSION, "kind": kind, "seed": seed, "images": images, "size": size}) + "\n"
    for name in (STAMP, UNFINISHED):
        if (folder / name).is_file() and (folder / name).read_text(encoding="utf-8") == stamp:
            return name == UNFINISHED
    if folder.is_dir() and (others := sorted(item.name for item in folder.iterdir())):
        raise DataError(f"{folder} holds {others[0]}, not these synthetic images.", fix="Give an empty folder.")
    (_new(folder) / UNFINISHED).write_text(stamp, encoding="utf-8")
    return True


def _finish(folder: Path) -> None:
    (folder / UNFINISHED).replace(folder / STAMP)


def _random(seed: int, *place: str | int) -> np.random.Generator:
    return np.random.default_rng(seed_of(seed, *place))


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _bytes(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.round(255 * image).astype(np.uint8)


def _groups(images: int) -> Iterator[tuple[int, int, Split]]:
    """Yields (group, position within it, split) for every image; the images of a group stay together."""
    number = -(-images // FRAMES)
    for index in range(images):
        yield index // FRAMES, index % FRAMES, _split(index // FRAMES, number)


def _split(position: int, number: int) -> Split:
    """The first 70 % of patients are for training, the next 10 % for validation, the others for testing."""
    part = (position + 0.5) / number
    return "train" if part < 0.7 else "val" if part < 0.8 else "test"


def _write_isic(folder: Path, seed: int, images: int, size: int) -> None:
    pictures = _new(folder / "isic" / "ISIC-2017_Training_Data")
    masks = _new(folder / "isic" / "ISIC-2017_Training_Part1_GroundTruth")
    rows = []
    for index in range(images):
        image, mask = dermoscopy(_random(seed, "dermoscopy", index), size)
        name = f"ISIC_{index + 1:07d}"
        Image.fromarray(_bytes(image)).save(pictures / f"{name}.jpg", quality=92)
        Image.fromarray(255 * mask.astype(np.uint8)).save(masks / f"{name}_segmentation.png")
        rows.append((name, _split(index, images)))
    _write_table(folder / "isic" / "splits.csv", ("id", "split"), rows)


def _write_cvc(folder: Path, seed: int, images: int, size: int) -> None:
    pictures, masks = _new(folder / "cvc" / "Original"), _new(folder / "cvc" / "Ground Truth")
    rows = []
    for index, (group, frame, split) in enumerate(_groups(images)):
        image, mask = endoscopy(scene(_random(seed, "scene", group)), frame, _random(seed, "endoscopy", index), size)
        tifffile.imwrite(pictures / f"{index + 1}.tif", _bytes(image))
        tifffile.imwrite(masks / f"{index + 1}.tif", 255 * mask.astype(np.uint8))
        rows.append((str(index + 1), str(group + 1), split))
    _write_table(folder / "cvc" / "splits.csv", ("id", "sequence", "split"), rows)


def _write_chaos(folder: Path, seed: int, images: int, size: int) -> None:
    rows = []
    for index, (group, position, split) in enumerate(_groups(images)):
        case = folder / "chaos" / "Train_Sets" / "CT" / str(group + 1)
        slices, masks = _new(case / "DICOM_anon"), _new(case / "Ground")
        person = abdomen_patient(_random(seed, "patient", group))
        image, mask = abdomen(person, position / (FRAMES - 1), _random(seed, "slice", index), size)
        _write_dicom(slices / f"i{position:04d},0000b.dcm", image, patient_number=group + 1, instance=position + 1)
        Image.fromarray(255 * mask.astype(np.uint8)).save(masks / f"liver_GT_{position:03d}.png")
        rows.append((f"CT/{group + 1}/{position:03d}", str(group + 1), split))
    _write_table(folder / "chaos" / "splits.csv", ("id", "patient", "split"), rows)


def _write_dicom(path: Path, image: NDArray[np.float64], *, patient_number: int, instance: int) -> None:
    """Writes a slice in Hounsfield as an uncompressed CT image with the tags that readers look for."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"2.25.{patient_number}{instance:04d}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientID, dataset.Modality, dataset.InstanceNumber = f"phantom{patient_number}", "CT", instance
    dataset.Rows, dataset.Columns = image.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleIntercept, dataset.RescaleSlope = INTERCEPT, 1
    stored = np.clip(np.round(image - INTERCEPT), 0, 4095).astype("<u2")
    dataset.PixelData = stored.tobytes()
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def _write_chests(folder: Path, seed: int, images: int, size: int) -> None:
    pictures = _new(folder / "images")
    counts = _film_counts(seed, images)
    rows: list[tuple[str | int | float, ...]] = []
    lists: tuple[list[str], list[str]] = [], []
    for number, count in enumerate(counts, start=1):
        person = chest_patient(_random(seed, "chest patient", number))
        tested = number - 1 >= round((1 - _TESTED) * len(counts))
        for film in range(count):
            generator, name = _random(seed, "film", number, film), f"{number:08d}_{film:03d}.png"
            findings = seen(person, generator)
            Image.fromarray(_bytes(chest(person, findings, generator, size))).save(pictures / name)
            lists[tested].append(name)
            labels = "|".join(sorted(findings, key=FINDINGS.index)) or "No Finding"
            gender, spacing = "F" if person.female else "M", round(_FILM_MM / size, 3)
            rows.append((name, labels, film, number, person.age, gender, "PA", size, size, spacing, spacing))
    _write_table(folder / _TABLE, _HEADER, rows)
    for path, names in zip(("train_val_list.txt", "test_list.txt"), lists, strict=True):
        (folder / path).write_text("".join(f"{name}\n" for name in names), encoding="utf-8", newline="\n")


def _film_counts(seed: int, images: int) -> list[int]:
    """Samples the number of films of every patient; they add up to ``images``."""
    counts = _random(seed, "films").choice(np.arange(1, len(FILMS) + 1), size=images, p=FILMS)
    patients = int(np.searchsorted(np.cumsum(counts), images)) + 1
    first = counts[: patients - 1].tolist()
    return [*first, images - sum(first)]


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
