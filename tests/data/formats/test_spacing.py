"""Distances of pixels in mm: of an ellipse of known size, every format gives the same area."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from tests.deploy.dicoms import AXIAL, OBLIQUE, dataset, write

from medarts.data.formats import raw_image, shape_of, spacing_of
from medarts.errors import DataError

ROW, COLUMN, SLICE = 0.4, 0.9, 3.0
LONG, SHORT = 30.0, 20.0
"""Semi-axes in mm, along rows and along columns of the picture."""

Mask = NDArray[np.uint8]


def ellipse(row: float = ROW, column: float = COLUMN) -> Mask:
    """Returns an ellipse as seen: ``LONG`` along columns of the picture (its height), ``SHORT`` along its rows."""
    y, x = (np.arange(number) - (number - 1) / 2 for number in (180, 90))
    return ((y[:, None] * row / LONG) ** 2 + (x * column / SHORT) ** 2 <= 1).astype(np.uint8) * 200


def dicom(path: Path, orientation: tuple[float, ...]) -> Path:
    about = {"ImageOrientationPatient": list(orientation), "ImagePositionPatient": [0, 0, 0]}
    return write(path / "a.dcm", dataset(ellipse(), PixelSpacing=[ROW, COLUMN], **about))


def nifti(path: Path, codes: str) -> Path:
    """Writes one slice as seen, stored in axes of these codes."""
    seen = np.repeat(ellipse()[..., None], 2, axis=2)  # rows to the back, columns to the left, as DICOM shows it
    start = nibabel.Nifti1Image(seen.swapaxes(0, 1), np.diag([-COLUMN, -ROW, SLICE, 1]))  # L, P, S
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(start.affine), nibabel.orientations.axcodes2ornt(codes)
    )
    nibabel.save(start.as_reoriented(turn), path / "a.nii.gz")
    return path / "a.nii.gz"


def tiff(path: Path, unit: str) -> Path:
    size = {"centimetre": 10.0, "inch": 25.4}[unit]
    tifffile.imwrite(
        path / "a.tif",
        ellipse(),
        resolution=(size / COLUMN, size / ROW),
        resolutionunit={"centimetre": 3, "inch": 2}[unit],
    )
    return path / "a.tif"


def imagej(path: Path) -> Path:
    about = {"unit": "micron", "spacing": 1000 * SLICE, "axes": "ZYX"}
    resolution = (1 / (1000 * COLUMN), 1 / (1000 * ROW))
    tifffile.imwrite(path / "a.tif", np.stack([ellipse()] * 2), imagej=True, resolution=resolution, metadata=about)
    return path / "a.tif"


@pytest.mark.parametrize(
    ("make", "of_slices"),
    [
        (lambda path: dicom(path, AXIAL), None),
        (lambda path: dicom(path, OBLIQUE), None),
        (lambda path: nifti(path, "LPS"), SLICE),
        (lambda path: nifti(path, "RAS"), SLICE),
        (lambda path: nifti(path, "PRS"), SLICE),
        (lambda path: tiff(path, "centimetre"), None),
        (lambda path: tiff(path, "inch"), None),
        (imagej, SLICE),
    ],
    ids=["dicom", "oblique dicom", "nifti LPS", "nifti RAS", "nifti PRS", "tiff cm", "tiff inch", "imagej"],
)
def test_an_ellipse_has_its_area_in_every_format(
    tmp_path: Path, make: Callable[[Path], Path], of_slices: float | None
) -> None:
    path = make(tmp_path)
    row, column, between = spacing_of(path)
    assert row is not None
    assert column is not None
    assert between == (None if of_slices is None else pytest.approx(of_slices, rel=1e-4))
    seen = raw_image(path, None if of_slices is None else 1).values[..., 0] > 0
    assert seen.sum() * row * column == pytest.approx(np.pi * LONG * SHORT, rel=0.01)
    heights = np.flatnonzero(seen.any(1))
    assert (heights[-1] - heights[0] + 1) * row == pytest.approx(2 * LONG, rel=0.02)


@pytest.mark.parametrize(("orientation", "seen"), [(1, (ROW, COLUMN)), (3, (ROW, COLUMN)), (6, (COLUMN, ROW))])
def test_a_turned_tiff_is_measured_as_it_is_seen(tmp_path: Path, orientation: int, seen: tuple[float, float]) -> None:
    tags = [(274, 3, 1, orientation, False)]
    resolution = (10 / COLUMN, 10 / ROW)
    tifffile.imwrite(tmp_path / "a.tif", ellipse(), resolution=resolution, resolutionunit=3, extratags=tags)
    assert spacing_of(tmp_path / "a.tif")[:2] == pytest.approx(seen, rel=1e-4)


@pytest.mark.parametrize(
    ("resolution", "unit"), [((300, 300), 2), ((118.11, 118.11), 3), ((72, 72), 2), ((1, 1), 1), ((2000, 2000), 1)]
)
def test_resolutions_of_prints_and_without_a_unit_say_nothing(
    tmp_path: Path, resolution: tuple[float, float], unit: int
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", ellipse(), resolution=resolution, resolutionunit=unit)
    Image.fromarray(ellipse()).save(tmp_path / "b.tif")
    for name in ("a.tif", "b.tif"):
        assert spacing_of(tmp_path / name) == (None, None, None)


def test_frames_have_the_spacing_of_their_groups_and_a_missing_file_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", dataset(np.stack([ellipse()] * 3), NumberOfFrames=3, PixelSpacing=[ROW, COLUMN]))
    assert spacing_of(path) == (ROW, COLUMN, None)
    with pytest.raises(DataError, match="There is no file"):
        spacing_of(tmp_path / "b.dcm")


@pytest.mark.parametrize("orientation", [1, 4, 5, 6, 8])
def test_headers_tell_the_shape_of_what_is_read(tmp_path: Path, orientation: int) -> None:
    values = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9)
    tag = (274, "H", 1, orientation, False)
    tifffile.imwrite(tmp_path / "a.tif", values, extratags=[tag])
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(values).save(tmp_path / "a.jpg", exif=exif)
    for path in (tmp_path / "a.tif", tmp_path / "a.jpg"):
        assert shape_of(path) == raw_image(path).values.shape[:2]


@pytest.mark.parametrize("codes", ["LPS", "PLS", "SLA", "RAI"])
def test_headers_tell_the_shape_of_slices(tmp_path: Path, codes: str) -> None:
    volume, axial = nifti(tmp_path, codes), dicom(tmp_path, AXIAL)
    assert shape_of(volume) == raw_image(volume, 0).values.shape[:2]
    assert shape_of(axial) == raw_image(axial).values.shape[:2]
    with pytest.raises(DataError, match=r"gone\.png"):
        shape_of(tmp_path / "gone.png")
