"""DICOM files made for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

AXIAL = (1, 0, 0, 0, 1, 0)
NEGATIVE = (1, 0, 0, 0, -1, 0)
"""Column cosines that run against those of axial images."""
OBLIQUE = (0.8, 0.6, 0, -0.36, 0.48, 0.8)


def dataset(stored: Any, *, instance: str = "1.2.3.4.1", without: Sequence[str] = (), **more: Any) -> FileDataset:
    """Returns an image of a patient, with all that a segmentation must refer to."""
    values = np.asarray(stored)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("a.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, instance
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
    data.PatientID, data.PatientName, data.Modality, data.SeriesNumber = "p1", "Doe^Jane", "CT", 4
    data.PatientBirthDate, data.PatientSex, data.AccessionNumber, data.StudyID = "", "", "", ""
    data.StudyDate, data.StudyTime, data.ReferringPhysicianName, data.InstanceNumber = "20200101", "120000", "", 1
    data.Rows, data.Columns = values.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * values.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(values.dtype.kind == "i")
    data.PixelData = values.tobytes()
    for name, value in more.items():
        setattr(data, name, value)
    for name in without:
        delattr(data, name)
    return data


def write(path: Path, data: FileDataset) -> Path:
    """Writes a file with its file meta information."""
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    volume: Any,
    *,
    orientation: Sequence[float] = AXIAL,
    step: float = 2.5,
    seed: int = 0,
    root: str = "1.2.3.4",
    **more: Any,
) -> list[Path]:
    """Writes slices (N, H, W) along their normal under names in another order; returns the files in that of space."""
    normal = np.cross(orientation[:3], orientation[3:])
    names = np.random.default_rng(seed).permutation(len(volume))
    return [
        write(
            folder / f"i{names[n]:04d}.dcm",
            dataset(
                plane,
                instance=f"{root}.{n + 1}",
                ImageOrientationPatient=list(orientation),
                ImagePositionPatient=[round(float(each), 6) for each in np.array([-10.0, 5, 7]) + n * step * normal],
                PixelSpacing=[0.5, 0.75],
                InstanceNumber=int(names[n]) + 1,
                **more,
            ),
        )
        for n, plane in enumerate(volume)
    ]
