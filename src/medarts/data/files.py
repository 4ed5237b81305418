"""One image file as an array, in the units the file stores: PNG, JPEG, BMP, TIFF, DICOM and NIfTI.

What the numbers mean (windows, labels) is decided in ``reading.py``. Here alone the formats are known, so that
the readers and the doctor see the same arrays.
"""

import contextlib
import functools
import struct
import textwrap
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from medarts.errors import DataError

Array = NDArray[Any]

# What Pillow, tifffile, pydicom and nibabel raise on damaged content; their own error classes are turned into
# ValueError where they are used.
_DAMAGED = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    ArithmeticError,
    NotImplementedError,  # of pydicom, for what a damaged header asks
    MemoryError,  # sizes in a damaged header
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_TIFF_COMPRESSIONS = {1, 8, 32946}  # none and deflate, which tifffile decodes without another package
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB = 0, 1, 2  # TIFF photometric interpretations
_SIDEWAYS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
_ONE_UNPACKS = threading.Lock()  # threads that want slices of one volume would each unpack it


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """An image as stored.

    Attributes:
        values: array HWC in stored units; for DICOM and NIfTI after the rescale slope and intercept of the file
            (Hounsfield for CT). Palettes are resolved, alpha is dropped.
        range: (low, high) the file's type can hold: 0..1 for 1 bit, 0..255 for 8, 0..65535 for 16, the stored
            bits of an unsigned DICOM, 0..1 for floats within it. None for signed and other types, where
            the type says nothing about black and white.
        inverted: the file says that low values are white (DICOM MONOCHROME1, TIFF MinIsWhite); ``values`` are
            left as stored.
    """

    values: Array
    range: tuple[float, float] | None
    inverted: bool = False


Reader = Callable[[Path, int | None, bool], Raw]


def suffix_of(path: Path) -> str:
    """Returns the suffix in lower case, ``.nii.gz`` as one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def is_image(path: Path) -> bool:
    """Tells whether the name is that of a readable image; hidden files are none."""
    return suffix_of(path) in _READERS and not path.name.startswith(".")


def is_volume(path: Path) -> bool:
    """Tells whether the name is that of a NIfTI file, which holds a stack of slices."""
    return suffix_of(path) in (".nii", ".nii.gz")


def raw_image(path: Path, slice_index: int | None = None) -> Raw:
    """Reads an image file.

    The EXIF orientation is applied. A NIfTI slice is turned as DICOM shows it: columns run to the patient's
    left, rows to the back; in coronal stacks columns run left and rows down, in sagittal ones back and down.

    Args:
        path: the file; its suffix tells the format.
        slice_index: slice along the last axis of a NIfTI volume as stored, frame of a DICOM, or page of a TIFF;
            None for files with a single image.

    Raises:
        DataError: the file is missing, damaged, truncated, of an unknown format, or a stack without slice_index.
    """
    return _read(path, slice_index, False)


def raw_mask(path: Path, slice_index: int | None = None, *, indices: bool) -> Raw:
    """Reads a mask file, as ``raw_image`` does.

    Args:
        path: the file.
        slice_index: as in ``raw_image``.
        indices: return the indices of a coloured palette, which are the classes of a label mask, and not its
            colours. A grey palette is a grey image either way.

    Raises:
        DataError: as in ``raw_image``.
    """
    return _read(path, slice_index, indices)


def slice_count(path: Path) -> int | None:
    """Returns the number of slices of a NIfTI volume, None for a single 2-D slice; reads the header alone.

    Raises:
        DataError: the file is damaged, or has more than three axes.
    """
    with _explained(path):
        shape = _volume_shape(path, _open_nifti(path).shape)
    return shape[2] if len(shape) == 3 else None


def _read(path: Path, slice_index: int | None, indices: bool) -> Raw:
    reader = _READERS.get(suffix_of(path))
    if reader is None:
        raise DataError(f"{path} is of no known format.", fix=f"Known: {', '.join(sorted(_READERS))}.")
    with _explained(path):
        raw = reader(path, slice_index, indices)
    if raw.values.dtype.kind == "f" and not np.isfinite(raw.values).all():
        raise DataError(f"{path} holds values that are not finite (NaN).", fix="Replace them in the file.")
    return raw


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns what a library raises on a missing or damaged file into a DataError that names the file."""
    if not path.is_file():
        raise DataError(f"There is no file {path}.", fix="Restore it or take it out of the data set.")
    try:
        yield
    except _DAMAGED as error:
        # Some messages quote the damaged bytes at length.
        reason = textwrap.shorten(str(error), 200) or type(error).__name__
        raise DataError(
            f"{path} cannot be read: {reason.rstrip('.')}.",
            fix="It is damaged or incomplete; download or copy it again.",
        ) from None


def _only(path: Path, count: int, index: int | None) -> int:
    """Returns the index to read of ``count`` frames; refuses to choose one of several."""
    if index is None and count > 1:
        raise DataError(
            f"{path} holds {count} images where one is expected.",
            fix="Save its frames as single files, or as a NIfTI volume.",
        )
    if index is not None and index >= count:
        raise DataError(f"{path} has no image {index}, only {count}.", fix="Use an image and mask of equal length.")
    return index or 0


def _as_hwc(values: Array) -> Array:
    return values[..., None] if values.ndim == 2 else values


def _type_range(values: Array) -> tuple[float, float] | None:
    if values.dtype == np.uint8:
        return 0.0, 255.0
    if values.dtype == np.uint16:
        return 0.0, 65535.0
    if values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
        return 0.0, 1.0
    return None


# --- PNG, JPEG, BMP ---------------------------------------------------------------------------------------------


def _read_pillow(path: Path, slice_index: int | None, indices: bool) -> Raw:
    with Image.open(path) as image:
        if slice_index:
            image.seek(slice_index)
        rawmode = image.tile[0].args if image.tile else None
        if rawmode in ("RGB;16B", "RGBA;16B"):
            values: Array = _sixteen_bit_colour(path, image, str(rawmode))
        else:
            values = _pillow_array(ImageOps.exif_transpose(image), indices)
    if values.dtype == np.bool_:
        return Raw(_as_hwc(values.astype(np.uint8)), (0.0, 1.0))
    return Raw(_as_hwc(values), _type_range(values))


def _pillow_array(image: Image.Image, indices: bool) -> Array:
    if image.mode in ("P", "PA"):
        palette = np.asarray(image.getpalette("RGB")).reshape(-1, 3)
        coloured = bool((palette != palette[:, :1]).any())
        if not (indices and coloured):
            image = image.convert("RGB" if coloured else "L")
    elif image.mode in ("LA", "La"):
        image = image.getchannel(0)
    elif image.mode in ("RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"):
        # convert() would blend a transparent image with nothing; it keeps the colours and drops the alpha.
        image = image.convert("RGB")
    return np.asarray(image)


def _sixteen_bit_colour(path: Path, image: Image.Image, rawmode: str) -> Array:
    """Returns HW3 uint16. Pillow keeps the high bytes of 16-bit colour alone, so the low ones are read apart."""
    high = np.asarray(ImageOps.exif_transpose(image))[..., :3].astype(np.uint16)
    with Image.open(path) as again:
        again.tile = [again.tile[0]._replace(args=rawmode.replace("16B", "16L"))]
        low = np.asarray(ImageOps.exif_transpose(again))[..., :3]
    return np.asarray((high << 8) | low)


# --- TIFF -------------------------------------------------------------------------------------------------------


def _read_tiff(path: Path, slice_index: int | None, indices: bool) -> Raw:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series, page = file.series[0], file.pages[0]
            plain = page.compression in _TIFF_COMPRESSIONS
            if slice_index is None and series.axes == "CYX" and plain:  # microscopes store channels as pages
                values = np.moveaxis(series.asarray(), 0, -1)
                return Raw(values, _type_range(values))
            index = _only(path, max(len(file.pages), series.size // page.size), slice_index)
            return _tiff_page(path, file.pages[index], index, indices)
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from None


def _tiff_page(path: Path, page: Any, index: int, indices: bool) -> Raw:
    white_is_zero = page.photometric == _MIN_IS_WHITE
    wide = page.bitspersample > 8
    simple = wide or (page.bitspersample == 8 and page.photometric in (_MIN_IS_BLACK, _RGB))
    if simple and page.compression in _TIFF_COMPRESSIONS:
        values = _tiff_array(path, page)
        return Raw(values, _type_range(values), white_is_zero)
    if wide and page.samplesperpixel > 1:
        raise DataError(
            f"{path} is a compressed TIFF of {page.samplesperpixel} channels of {page.bitspersample} bits.",
            fix="Save it without compression or with deflate.",
        )
    # Pillow knows the other compressions and, up to 8 bits, palettes and YCbCr; MinIsWhite it turns itself there.
    raw = _read_pillow(path, index, indices)
    return Raw(raw.values, raw.range, inverted=white_is_zero and wide)


def _tiff_array(path: Path, page: Any) -> Array:
    values = page.asarray()
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise DataError(f"{path} has the axes {page.axes}.", fix="Save it as rows, columns and channels.")
    values = _as_hwc(values)
    if page.photometric == _RGB:  # whatever follows the colours is alpha or unspecified
        return np.asarray(values[..., :3])
    alphas = sum(int(extra) in (1, 2) for extra in page.extrasamples)
    return np.asarray(values[..., : values.shape[2] - alphas])


# --- DICOM ------------------------------------------------------------------------------------------------------


def _read_dicom(path: Path, slice_index: int | None, indices: bool) -> Raw:
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        return _dicom_image(path, slice_index, indices)
    except InvalidDicomError:
        raise ValueError("it has no DICOM header") from None
    except BytesLengthException as error:
        raise ValueError(str(error)) from None


def _dicom_image(path: Path, slice_index: int | None, indices: bool) -> Raw:
    import pydicom
    from pydicom.pixels import apply_color_lut, pixel_array

    dataset = pydicom.dcmread(path)
    index = _only(path, int(dataset.get("NumberOfFrames") or 1), slice_index)
    try:
        stored = pixel_array(dataset, index=index)
    except (NotImplementedError, RuntimeError) as error:  # of pydicom, where no decoder is installed
        raise DataError(
            f"{path} cannot be decompressed: {' '.join(str(error).split())}",
            fix="Install the plugin named there, or decompress the file (gdcmconv --raw).",
        ) from None
    if dataset.PhotometricInterpretation == "PALETTE COLOR" and not indices:
        stored = apply_color_lut(stored, dataset)
        return Raw(stored, _type_range(stored))
    if stored.ndim == 3:
        return Raw(stored, _type_range(stored))
    values, limits = _rescaled(stored, dataset)
    return Raw(values[..., None], limits, dataset.PhotometricInterpretation == "MONOCHROME1")


def _rescaled(stored: Array, dataset: Any) -> tuple[Array, tuple[float, float] | None]:
    """Returns the values after the modality transform, and the range of the stored bits after it."""
    from pydicom.pixels import apply_modality_lut

    limits = None
    if dataset.PixelRepresentation == 0:
        ends = apply_modality_lut(np.array([0, 2**dataset.BitsStored - 1], dtype=stored.dtype), dataset)
        limits = (float(ends.min()), float(ends.max()))
    values = apply_modality_lut(stored, dataset)
    return values.astype(np.float32) if values.dtype == np.float64 else values, limits


# --- NIfTI ------------------------------------------------------------------------------------------------------


def _read_nifti(path: Path, slice_index: int | None, indices: bool) -> Raw:
    with _ONE_UNPACKS:
        volume, codes = _volume(path, path.stat().st_mtime_ns)
    index = _only(path, volume.shape[2], slice_index)
    values = _turned(volume[:, :, index], codes)
    return Raw(values[..., None], _type_range(values))


@functools.lru_cache(maxsize=4)  # two images and masks: neighbouring slices do not unpack the file again
def _volume(path: Path, _changed: int) -> tuple[Array, tuple[str | None, ...]]:
    import nibabel

    image = _open_nifti(path)
    shape = _volume_shape(path, image.shape)
    values = np.asanyarray(image.dataobj)
    if values.dtype.fields:
        raise DataError(f"{path} holds colours.", fix="Save its slices as PNG files.")
    return values.reshape(*shape[:2], -1), nibabel.aff2axcodes(image.affine)


def _open_nifti(path: Path) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        return nibabel.load(path)
    except (ImageFileError, HeaderDataError) as error:
        raise ValueError(str(error).removeprefix(f"{path} ")) from None


def _volume_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise DataError(
            f"{path} has {len(shape)} axes {shape}; slices are read from 2 or 3.",
            fix="Save every time point or sequence as its own volume.",
        )
    return shape


def _turned(plane: Array, codes: tuple[str | None, ...]) -> Array:
    """Turns a stored plane (first axis, second axis) into rows and columns as DICOM shows them."""
    for axis, code in enumerate(codes[:2]):
        if code in ("R", "A", "S"):
            plane = np.flip(plane, axis)
    ranks = [_SIDEWAYS.get(code or "", 3) for code in codes[:2]]
    return plane if ranks[1] < ranks[0] else plane.T


_READERS: dict[str, Reader] = {
    ".png": _read_pillow,
    ".jpg": _read_pillow,
    ".jpeg": _read_pillow,
    ".bmp": _read_pillow,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".dcm": _read_dicom,
    ".nii": _read_nifti,
    ".nii.gz": _read_nifti,
}
