"""One image file as an array, in the units the file stores: PNG, JPEG, BMP, TIFF, DICOM and NIfTI.

What the numbers mean (windows, labels) is decided in ``medarts.data.reading`` and ``medarts.data.classifying``. The
formats are known in this package alone, so that the readers and the doctor see the same arrays. The suffix of a name
says which files are images, the content of a file how it is read.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from medarts.data.formats import coco, dicom, drawings, nifti, raster
from medarts.data.formats.grid import GridError
from medarts.data.formats.raw import Raw, Spacing, Wanted, explained
from medarts.data.formats.series import header_of, run_of, spacing_of_frames, spacing_of_stack
from medarts.errors import DataError

Reader = Callable[[Path, Wanted], Raw]
Kind = Literal["raster", "nifti", "dicom"]

_READERS: dict[str, Reader] = {
    ".png": raster.read,
    ".jpg": raster.read,
    ".jpeg": raster.read,
    ".bmp": raster.read,
    ".tif": raster.read_tiff,
    ".tiff": raster.read_tiff,
    ".dcm": dicom.read,
    ".nii": nifti.read,
    ".nii.gz": nifti.read,
}
_FORMATS: tuple[tuple[Callable[[bytes], bool], Reader], ...] = (
    (dicom.recognises, dicom.read),  # first: the preamble of a DICOM file may be the header of another format
    (raster.recognises, raster.read),
    (raster.recognises_tiff, raster.read_tiff),
    (nifti.recognises, nifti.read),
)
_ANNOTATIONS = {".json": coco.read}
"""Formats of masks alone."""
_KINDS: dict[Reader, Kind] = {
    dicom.read: "dicom",
    nifti.read: "nifti",
    raster.read: "raster",
    raster.read_tiff: "raster",
}
_ARE_DEEP: dict[Reader, Callable[[Path], bool]] = {
    dicom.read: dicom.is_deep,
    nifti.read: nifti.is_deep,
    raster.read: raster.is_deep,
    raster.read_tiff: raster.is_deep_tiff,
    coco.read: lambda path: True,
}
_HEAD = 4 * nifti.HEAD  # a gzipped header is shorter, but for odd ones


def suffix_of(path: Path) -> str:
    """Returns the suffix in lower case, ``.nii.gz`` as one."""
    name = path.name.lower()
    if name.endswith(".nii.gz"):
        return ".nii.gz"
    dot = name.rfind(".")  # as pathlib does, which takes several times as long
    return name[dot:] if 0 < dot < len(name) - 1 else ""


def holds_objects(path: Path) -> bool:
    """Tells whether the name is that of annotations, whose objects may overlap."""
    return suffix_of(path) in _ANNOTATIONS


def values_of_objects(path: Path) -> list[int]:
    """Returns the values that masks of annotations may hold beside 0, one for every category, in order.

    Raises:
        DataError: the file is missing, damaged, or of another format.
    """
    return [number + 1 for number in coco.read_annotations(path).categories]


def is_image(path: Path) -> bool:
    """Tells whether the name is that of a readable image; hidden files are none."""
    return suffix_of(path) in _READERS and not path.name.startswith(".")


def is_volume(path: Path) -> bool:
    """Tells whether the name is that of a NIfTI file, which holds a stack of slices."""
    return suffix_of(path) in (".nii", ".nii.gz")


def raw_image(path: Path, slice_index: int | None = None, *, beside: Path | None = None) -> Raw:
    """Reads an image file.

    The orientation that EXIF or a TIFF tag asks for is applied. A NIfTI slice is turned as DICOM shows it: columns run
    to the patient's left, rows to the back; in coronal stacks columns run left and rows down, in sagittal ones back and
    down.

    Args:
        slice_index: slice along the last axis of a NIfTI volume as stored, frame of a DICOM, or page of a TIFF;
            None for files with a single image.
        beside: another file of the same image. Where both say how they lie in space, this one is brought into the
            order of the other, whose slice it then is that is given.

    Raises:
        DataError: the file is missing, no regular file, damaged, truncated, too large, of an unknown format, without
            pixels, compressed in a way that needs a plugin, a stack without slice_index, or holds values that are not
            finite; or it does not lie on the grid of the other.
    """
    try:
        return _read(path, Wanted(slice_index, image=beside))
    except GridError as error:
        if beside is None:
            raise
        raise DataError(error.problem, fix="Resample both to one grid; their channels are stacked.") from None


def raw_mask(
    path: Path,
    slice_index: int | None = None,
    *,
    indices: bool,
    image: Path | None = None,
    segments: tuple[str, ...] = (),
    objects: tuple[int, ...] | None = None,
) -> Raw:
    """Reads a mask file, as ``raw_image`` does.

    Args:
        slice_index: slice, frame or page of the image; that of a NIfTI mask is found by the affines of the two.
        indices: return the indices of a coloured palette, which are the classes of a label mask, and not its
            colours. A grey palette is a grey image either way.
        image: the image the mask belongs to. Where both say how they lie in space, the mask is brought into the order
            of the image.
        segments: of a DICOM segmentation or structure set, the segments or regions that are drawn, as 0 and 1.
        objects: of annotations, the values of the categories whose objects are drawn. Default: all, the smaller on top.

    Raises:
        DataError: as in ``raw_image``, or the mask does not lie on the grid of the image.

    Annotations of many images in one JSON file (COCO) become the mask of ``image``.
    """
    return _read(path, Wanted(slice_index, indices, image, segments, objects))


def slice_count(path: Path) -> int | None:
    """Returns the number of slices of a NIfTI volume, None for any other content; reads the header alone."""
    with explained(path):
        return nifti.slice_count(path) if _reader_of(path) is nifti.read else None


def image_count(path: Path) -> int:
    """Returns the number of slices, frames or pages of a file; reads the headers alone.

    Raises:
        DataError: it is missing, damaged or of an unknown format.
    """
    with explained(path):
        reader = _reader_of(path)
        if reader is nifti.read:
            return nifti.slice_count(path) or 1
        if reader is dicom.read:
            return dicom.frame_count(path)
        return raster.page_count(path) if reader is raster.read_tiff else 1


def shape_of(path: Path) -> tuple[int, int]:
    """Returns height and width of what ``raw_image`` gives of a file; reads the header alone.

    Raises:
        DataError: the file is missing, damaged or of an unknown format.
    """
    with explained(path):
        reader = _reader_of(path)
        if reader is nifti.read:
            return nifti.plane_shape(path)
        if reader is dicom.read:
            return dicom.shape_of(path)
        return raster.shape_of_tiff(path) if reader is raster.read_tiff else raster.shape_of(path)


def is_deep(path: Path) -> bool:
    """Tells whether a file may hold values beyond those of 8 bits; reads the header alone.

    Raises:
        DataError: it is missing, damaged or of an unknown format.
    """
    with explained(path):
        return _ARE_DEEP[_reader_of(path)](path)


def slices_around(path: Path, slice_index: int) -> tuple[int, ...]:
    """Returns the slices of a file among which one has its neighbours, in the order of space; reads the headers alone.

    Raises:
        DataError: it is missing, damaged or of an unknown format.
    """
    with explained(path):
        if _reader_of(path) is dicom.read and (found := run_of(path, slice_index)):
            return found
    return tuple(range(image_count(path)))


def kind_of(path: Path) -> Kind:
    """Returns the kind of a file by its content, or by its suffix where the content is of no known format.

    Raises:
        DataError: it is missing, or neither says what it is.
    """
    with explained(path):
        return _KINDS[_reader_of(path)]


def spacing_of(path: Path) -> Spacing:
    """Returns the distances of rows, columns and slices of what ``raw_image`` gives, in mm; reads the header alone.

    None stands for what the file does not say. A DICOM file of one slice says nothing of its neighbours: see
    ``medarts.data.formats.series``. The distances at the detector of an X-ray (ImagerPixelSpacing) are not those in the
    patient, and resolutions of PNG and JPEG files are those of prints and screens; both are ignored. Those of TIFF
    files count unless they are among the usual ones of prints.

    Raises:
        DataError: the file is missing, damaged or of an unknown format.
    """
    with explained(path):
        reader = _reader_of(path)
        if reader is nifti.read:
            return nifti.voxel_size(path)
        if reader is dicom.read:
            return spacing_of_frames(path)
        found = raster.spacing_of_tiff(path) if reader is raster.read_tiff else None
    return found or (None, None, None)


def spacing_of_files(paths: Sequence[Path]) -> Spacing:
    """Returns the distances in a volume that is one file, or whose slices are files; see ``spacing_of``.

    That of slices is known of DICOM files with even steps.

    Raises:
        DataError: a file is missing, damaged or of an unknown format.
    """
    row, column, between = spacing_of(paths[0])
    if len(paths) == 1 or kind_of(paths[0]) != "dicom":
        return row, column, between if len(paths) == 1 else None
    headers = [header for path in paths if (header := header_of(path)) is not None]
    placed = len(headers) == len(paths) and all(header.position and header.orientation for header in headers)
    return row, column, spacing_of_stack(headers)[2] if placed else None


def check_grids(image: Path, mask: Path) -> None:
    """Compares the grids of a volume and its mask; reads the headers alone.

    Raises:
        DataError: both are NIfTI files and the voxels of the mask are not those of the image, or one is damaged.
    """
    with explained(mask):
        if _reader_of(mask) is nifti.read:
            nifti.check_grids(image, mask)


def _read(path: Path, wanted: Wanted) -> Raw:
    with explained(path):
        raw = (drawings.read if wanted.segments else _reader_of(path))(path, wanted)
    kind = raw.values.dtype.kind
    if kind not in "buif":
        raise DataError(f"{path} holds {raw.values.dtype} values.", fix="Save real numbers: magnitudes, for instance.")
    if kind == "f" and not (strange := ~(np.abs(raw.values) <= np.finfo(np.float32).max)).any():
        return raw
    if kind == "f":
        raise DataError(
            f"{path} holds values that are not finite (NaN or infinity) in {int(strange.sum())} of {strange.size} "
            "places.",
            fix="Replace them in the file (numpy.nan_to_num).",
        )
    return raw


def _reader_of(path: Path) -> Reader:
    """Returns the reader of a file's content; content that none knows is left to the reader of its suffix."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for recognises, read in _FORMATS:
        if recognises(head):
            return read
    suffix = suffix_of(path)
    if suffix in _ANNOTATIONS:
        return _ANNOTATIONS[suffix]
    if suffix not in _READERS:
        raise DataError(f"{path} is of no known format.", fix=f"Known: {', '.join(sorted(_READERS))}.")
    if not head:
        raise ValueError("it is empty")
    return _READERS[suffix]
