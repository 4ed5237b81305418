"""Phantoms on disk, in the layouts of ISIC 2017, CVC-ClinicDB and CHAOS."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from medarts.config import SourceSettings, Split
from medarts.data.phantom.abdomen import abdomen, patient
from medarts.data.phantom.dermoscopy import dermoscopy
from medarts.data.phantom.endoscopy import endoscopy, scene
from medarts.data.phantom.folder import finish, generator_at, new_folder, to_bytes, written
from medarts.errors import DataError

VERSION = 1
FRAMES = 5
"""Frames of a sequence, slices of a patient."""
INTERCEPT = -1024


def write_phantoms(folder: Path, *, seed: int, images: int = 120, size: int = 128) -> tuple[SourceSettings, ...]:
    """Writes three domains of generated images, or finds them written before.

    The same arguments give the same files. Splits keep sequences and patients whole.

    Args:
        folder: gets the folders isic, cvc and chaos.
        seed: of all that is drawn.
        images: of every domain, from 25 up.
        size: height and width of the images, from 32 up.

    Returns:
        The sources that read them.

    Raises:
        DataError: the folder holds something else, or too few or too small images were asked for.
    """
    if images < 5 * FRAMES or size < 32:
        raise DataError(
            f"{images} phantoms of {size} pixels are too few or too small.", fix="Ask for 25 and 32 or more."
        )
    stamp = {"version": VERSION, "seed": seed, "images": images, "size": size}
    if not written(folder, stamp, own=("isic", "cvc", "chaos")):
        for write in (_write_isic, _write_cvc, _write_chaos):
            write(folder, seed, images, size)
        finish(folder, stamp)
    return (
        SourceSettings(kind="isic", path=folder / "isic", name="dermoscopy"),
        SourceSettings(kind="cvc", path=folder / "cvc", name="endoscopy"),
        SourceSettings(kind="chaos", path=folder / "chaos", name="ct"),
    )


def _split(position: int, number: int) -> Split:
    """The first 70 % of patients are for training, the next 10 % for validation, the others for the test."""
    part = (position + 0.5) / number
    return "train" if part < 0.7 else "val" if part < 0.8 else "test"


def _groups(images: int) -> Iterator[tuple[int, int, Split]]:
    """Yields (group, position within it, split) for every image; the images of a group stay together."""
    number = -(-images // FRAMES)
    for index in range(images):
        group = index // FRAMES
        yield group, index % FRAMES, _split(group, number)


def _write_isic(folder: Path, seed: int, images: int, size: int) -> None:
    pictures = new_folder(folder / "isic" / "ISIC-2017_Training_Data")
    masks = new_folder(folder / "isic" / "ISIC-2017_Training_Part1_GroundTruth")
    rows = []
    for index in range(images):
        image, mask = dermoscopy(generator_at(seed, "dermoscopy", index), size)
        name = f"ISIC_{index + 1:07d}"
        Image.fromarray(to_bytes(image)).save(pictures / f"{name}.jpg", quality=92)
        Image.fromarray(255 * mask.astype(np.uint8)).save(masks / f"{name}_segmentation.png")
        rows.append((name, _split(index, images)))
    _write_splits(folder / "isic", ("id", "split"), rows)


def _write_cvc(folder: Path, seed: int, images: int, size: int) -> None:
    pictures, masks = new_folder(folder / "cvc" / "Original"), new_folder(folder / "cvc" / "Ground Truth")
    rows = []
    for index, (group, frame, split) in enumerate(_groups(images)):
        seen = scene(generator_at(seed, "scene", group))
        image, mask = endoscopy(seen, frame, generator_at(seed, "endoscopy", index), size)
        tifffile.imwrite(pictures / f"{index + 1}.tif", to_bytes(image))
        tifffile.imwrite(masks / f"{index + 1}.tif", 255 * mask.astype(np.uint8))
        rows.append((str(index + 1), str(group + 1), split))
    _write_splits(folder / "cvc", ("id", "sequence", "split"), rows)


def _write_chaos(folder: Path, seed: int, images: int, size: int) -> None:
    rows = []
    for index, (group, position, split) in enumerate(_groups(images)):
        case = folder / "chaos" / "Train_Sets" / "CT" / str(group + 1)
        slices, masks = new_folder(case / "DICOM_anon"), new_folder(case / "Ground")
        person = patient(generator_at(seed, "patient", group))
        image, mask = abdomen(person, position / (FRAMES - 1), generator_at(seed, "slice", index), size)
        _write_dicom(slices / f"i{position:04d},0000b.dcm", image, patient_number=group + 1, instance=position + 1)
        Image.fromarray(255 * mask.astype(np.uint8)).save(masks / f"liver_GT_{position:03d}.png")
        rows.append((f"CT/{group + 1}/{position:03d}", str(group + 1), split))
    _write_splits(folder / "chaos", ("id", "patient", "split"), rows)


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


def _write_splits(folder: Path, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    with (folder / "splits.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
