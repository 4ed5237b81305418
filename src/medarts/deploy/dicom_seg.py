"""Masks as DICOM Segmentation objects (DICOM-SEG), made by highdicom: they refer to the images they lie on."""

import hashlib
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import medarts
from medarts.data.formats.dicom import opened
from medarts.data.formats.raw import explained
from medarts.deploy.info import ModelInfo
from medarts.errors import DataError, MedartsError

_NEEDED = ("Rows", "Columns", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_COPIED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName", "SliceThickness"),
)
"""Copied from the images; highdicom lets them be empty, but not missing."""
_SEXES = ("M", "F", "O")
_REFUSALS = (ValueError, TypeError, LookupError, AttributeError)
"""What highdicom raises on headers that lack what it needs."""
_NAMESPACE = uuid.UUID("6f3a9a0e-9d0c-5b0e-8f0a-3d9f5c1f7b64")
_SERIES_NUMBER = 900
"""Added to the number of the series that is segmented."""


def headers_of(paths: Sequence[Path]) -> list[Any]:
    """Reads the headers of images, as highdicom needs them; what may be empty but is missing is set to empty.

    Raises:
        DataError: a file is missing or damaged.
    """
    headers = []
    for path in paths:
        with explained(path):
            header = opened(path, pixels=False)
        for name in _COPIED:
            if name not in header:
                setattr(header, name, None)
        if header.PatientSex not in _SEXES:
            header.PatientSex = None
        if (header.get("NumberOfFrames") or 1) == 1 and "SharedFunctionalGroupsSequence" not in header:
            header.pop("NumberOfFrames", None)  # highdicom takes it for a sign of functional groups
        headers.append(header)
    if len(headers) > 1 and headers[0].SliceThickness is None:  # readers need one to make a volume
        first, second = (np.asarray(header.ImagePositionPatient, float) for header in headers[:2])
        headers[0].SliceThickness = round(float(np.linalg.norm(second - first)), 6)
    for header in headers[1:]:  # they may differ in the last digit, which highdicom refuses
        header.ImageOrientationPatient = headers[0].ImageOrientationPatient
    return headers


def refusal(paths: Sequence[Path], slices: int, info: ModelInfo) -> str | None:
    """Returns why a segmentation cannot refer to images, None where it can; reads the first header, and all UIDs.

    Raises:
        DataError: the file is missing or damaged.
        MedartsError: highdicom is not installed.
    """
    headers = headers_of(paths[:1])
    missing = [name for name in _NEEDED if not headers[0].get(name)]
    if missing:
        return f"its header has no {missing[0]}"
    if len({_instance(path) for path in paths}) < len(paths):
        return "several of its files have the same SOPInstanceUID"
    frames = slices if len(paths) == 1 else 1
    trial = np.zeros((frames, int(headers[0].Rows), int(headers[0].Columns)), np.uint8)
    trial[0, 0, 0] = 1
    try:
        _made(headers, trial, info)
    except _REFUSALS as error:
        return " ".join(str(error).split()).rstrip(".")
    return None


def _instance(path: Path) -> str:
    with explained(path):
        return str(opened(path, pixels=False, tags=["SOPInstanceUID"]).get("SOPInstanceUID", ""))


def segmentation(paths: Sequence[Path], masks_nhw: NDArray[np.uint8], info: ModelInfo) -> Any:
    """Returns a binary segmentation: a segment for each class but the background, frames without pixels left out.

    It belongs to the study, patient and frame of reference of the images, and its series gets a number of its own.
    Equal masks of equal images by the same network have equal UIDs.

    Args:
        paths: the slices in order, or one file with several frames.
        masks_nhw: indices of classes; 0 is background.
        info: names the classes and the network.

    Raises:
        DataError: highdicom refuses the images.
    """
    try:
        return _made(headers_of(paths), masks_nhw, info)
    except _REFUSALS as error:
        raise DataError(
            f"{paths[0]} cannot have a DICOM segmentation: {' '.join(str(error).split()).rstrip('.')}.",
            fix="Correct its header, or convert it to NIfTI or PNG.",
        ) from None


def _made(headers: Sequence[Any], masks_nhw: NDArray[np.uint8], info: ModelInfo) -> Any:
    try:
        import highdicom
    except ImportError:
        raise MedartsError(
            "Masks of DICOM images need highdicom, which is not installed.", fix='pip install "medarts[runtime]"'
        ) from None
    first = headers[0]
    digest = hashlib.sha256(masks_nhw.tobytes()).hexdigest()
    origin = f"{first.SeriesInstanceUID} {first.SOPInstanceUID} {info.provenance.weights} {digest}"
    with warnings.catch_warnings(action="ignore"):  # about the style of what is copied from the images
        return highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=masks_nhw,
            omit_empty_frames=bool(masks_nhw.any()),  # there must be a frame
            segmentation_type="BINARY",
            segment_descriptions=_segments(info),
            series_instance_uid=_uid("series", origin),
            series_number=_SERIES_NUMBER + max(int(first.get("SeriesNumber") or 0), 0),
            sop_instance_uid=_uid("instance", origin),
            instance_number=1,
            manufacturer="medarts",
            manufacturer_model_name=_short(info.name),
            software_versions=medarts.__version__,
            device_serial_number=_short(info.provenance.weights) or "unknown",
            series_description=_short(f"Segmentation by {info.name}"),
            content_label="SEGMENTATION",
            content_description=_short(f"medarts {medarts.__version__}: {info.name}"),
            specific_character_set="ISO_IR 192",
        )


def _segments(info: ModelInfo) -> list[Any]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    algorithm = AlgorithmIdentificationSequence(
        name=_short(f"medarts {info.name}"), family=codes.DCM.ArtificialIntelligence, version=medarts.__version__
    )
    return [
        SegmentDescription(
            segment_number=number,
            segment_label=_short(label),
            segmented_property_category=codes.SCT.Tissue,
            # No code is known for what a user's classes are, so they have one of their own.
            segmented_property_type=Code(f"class-{number}", "99MEDARTS", _short(label)),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, label in enumerate(info.foreground, 1)
    ]


def _uid(what: str, origin: str) -> str:
    return f"2.25.{uuid.uuid5(_NAMESPACE, f'{what} {origin}').int}"


def _short(text: str) -> str:
    """Returns a text as an attribute of 64 characters holds it; a backslash would part it."""
    return text.replace("\\", "/")[:64]
