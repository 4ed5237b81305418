"""NIfTI, plain or gzipped whatever its name: a volume is read slice by slice, so that memory does not grow with it."""

import functools
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from medarts.data.formats.grid import Grid, Placement, placement
from medarts.data.formats.raw import Array, OtherContentError, Raw, Wanted, check_pixels, explained, only, type_range
from medarts.errors import DataError

HEAD = 352
"""Bytes of a header with its magic, which ``recognises`` needs at most."""

_SIDEWAYS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


def recognises(head: bytes) -> bool:
    """Tells whether a file that begins like this is a NIfTI file of either version, gzipped or not."""
    return _version(head) is not None


def read(path: Path, wanted: Wanted) -> Raw:
    """Reads a slice along the last axis, turned as DICOM shows it; that of a mask is the one on the image's slice."""
    volume = open_volume(path)
    shape = _shape(path, volume.shape)
    index = only(path, shape[2] if len(shape) == 3 else 1, wanted.index)
    check_pixels(path, shape[0], shape[1])
    order = _placement(path, wanted.image) if wanted.image is not None else None
    if order is None or wanted.image is None:
        values = _turned(_plane(volume, index), volume)
    else:
        values = _turned(order.plane(_plane(volume, order.index(index))), open_volume(wanted.image))
    if values.dtype.fields:
        raise DataError(f"{path} holds colours.", fix="Save its slices as PNG files.")
    return Raw(values[..., None], type_range(values))


def slice_count(path: Path) -> int | None:
    """Returns the number of slices of a volume, None for a single 2-D slice; reads the header alone."""
    shape = _shape(path, open_volume(path).shape)
    return shape[2] if len(shape) == 3 else None


def plane_shape(path: Path) -> tuple[int, int]:
    """Returns the rows and columns of what ``read`` gives; reads the header alone."""
    volume = open_volume(path)
    first, second, *_ = _shape(path, volume.shape)
    return (second, first) if _turn(volume)[1] else (first, second)


def is_deep(path: Path) -> bool:
    """Tells whether values are other than bytes as stored; reads the header alone."""
    header = open_volume(path).header
    slope, intercept = header.get_slope_inter()
    return bool(header.get_data_dtype() != np.uint8 or (slope or 1.0, intercept or 0.0) != (1.0, 0.0))


def check_grids(image: Path, mask: Path) -> None:
    """Raises a GridError where the voxels of a mask are not those of its image."""
    _placement(mask, image)


def _placement(path: Path, image: Path) -> Placement | None:
    """Returns how a mask lies on its image; None where the image is of another format, which has no such grid."""
    if not is_nifti(image):
        return None
    with explained(image):
        there = _grid(image)
    return placement(path, _grid(path), image, there)


def is_nifti(path: Path) -> bool:
    """Tells by its first bytes whether a file is a NIfTI file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return recognises(file.read(4 * HEAD))


def _grid(path: Path) -> Grid:
    volume = open_volume(path)
    shape = _shape(path, volume.shape)
    codes = (int(volume.header["qform_code"]), int(volume.header["sform_code"]))
    return Grid(
        (shape[0], shape[1], shape[2] if len(shape) == 3 else 1),
        np.asarray(volume.affine, dtype=np.float64),
        placed=codes != (0, 0),
    )


def open_volume(path: Path) -> Any:
    """Returns a volume as nibabel has it, with the header alone in memory."""
    about = path.stat()
    return _cached(path, about.st_mtime_ns, about.st_ctime_ns, about.st_size)


@functools.lru_cache(maxsize=4)  # two images and masks: neighbouring slices do not look for their place again
def _cached(path: Path, *_changed: int) -> Any:
    """Opens a file without reading its voxels."""
    import nibabel
    from indexed_gzip import IndexedGzipFile
    from nibabel.filebasedimages import ImageFileError
    from nibabel.fileholders import FileHolder
    from nibabel.spatialimages import HeaderDataError

    with path.open("rb") as file:
        head = file.read(4 * HEAD)
    version = _version(head)
    if version is None:
        if head[344:348] == b"ni1\0":
            raise DataError(f"{path} is the header of a pair of files.", fix="Save the two (.hdr, .img) as one .nii.")
        raise OtherContentError("it is not a NIfTI file")
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    # As an open file, since indexed_gzip takes no names that are not UTF-8.
    stream = IndexedGzipFile(fileobj=path.open("rb")) if _is_gzip(head) else path.open("rb")
    try:
        volume = kind.from_file_map({"header": FileHolder(fileobj=stream), "image": FileHolder(fileobj=stream)})
    except (ImageFileError, HeaderDataError) as error:
        raise ValueError(str(error).removeprefix(f"{path} ")) from None
    first, least = int(volume.dataobj.offset), int(volume.header.single_vox_offset)
    if first < least:  # nibabel takes 0 at its word and reads the header as voxels
        raise DataError(
            f"{path} says that its voxels begin at byte {first}, within its header.",
            fix=f"Set vox_offset to the byte where they do begin ({least} without extensions), or save it again.",
        )
    return volume


def _is_gzip(head: bytes) -> bool:
    return head.startswith(b"\x1f\x8b")


def _version(head: bytes) -> int | None:
    """Returns 1 or 2 for the first bytes of a NIfTI file, None for any other."""
    if _is_gzip(head):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, HEAD)
        except zlib.error:
            return None
    if head[344:348] == b"n+1\0":
        return 1
    return 2 if head[4:8] == b"n+2\0" else None


def _shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise DataError(
            f"{path} has {len(shape)} axes {shape}; slices are read from 2 or 3.",
            fix="Save every time point or sequence as its own volume.",
        )
    return shape


def _plane(volume: Any, index: int) -> Array:
    """Returns a slice as stored (first axis, second axis)."""
    further = [index, *([0] * (len(volume.shape) - 3))] if len(volume.shape) > 2 else []
    values = np.asarray(volume.dataobj[(slice(None), slice(None), *further)])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def as_stored(values_hw: Array, volume: Any) -> Array:
    """Returns rows and columns, as ``read`` gives them, as the plane of the volume (first axis, second axis)."""
    flips, transposed = _turn(volume)
    return np.flip(values_hw.T if transposed else values_hw, flips)


def voxel_size(path: Path) -> tuple[float, float, float]:
    """Returns the distances of rows, columns and slices of what ``read`` gives, in mm; reads the header alone.

    Units that are not stated are mm; a volume without slices has the thickness of its header.
    """
    from nibabel.affines import voxel_sizes

    volume = open_volume(path)
    unit = {"meter": 1000.0, "micron": 0.001}.get(volume.header.get_xyzt_units()[0], 1.0)
    first, second, third = (float(size) * unit for size in voxel_sizes(volume.affine))
    return (second, first, third) if _turn(volume)[1] else (first, second, third)


def _turned(plane: Array, volume: Any) -> Array:
    """Turns a stored plane into rows and columns as DICOM shows them."""
    flips, transposed = _turn(volume)
    plane = np.flip(plane, flips)
    return plane.T if transposed else plane


def _turn(volume: Any) -> tuple[tuple[int, ...], bool]:
    """Returns which axes of a stored plane are reversed, and whether they are swapped afterwards."""
    import nibabel

    codes = nibabel.aff2axcodes(volume.affine)[:2]
    ranks = [_SIDEWAYS.get(code or "", 3) for code in codes]
    return tuple(axis for axis, code in enumerate(codes) if code in ("R", "A", "S")), ranks[1] >= ranks[0]
