"""DICOM: classic, enhanced (attributes in functional groups) and parametric maps, one frame at a time."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.data.formats.grid import Grid, refuse_apart
from medarts.data.formats.raw import Array, OtherContentError, Raw, Wanted, check_pixels, explained, only, type_range
from medarts.errors import DataError

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_SINGLE = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelPaddingValue", "PixelPaddingRangeLimit"),
)
"""Attributes that the reader needs and that have one value."""
_FIRST_GROUPS = (b"\x02\0", b"\x08\0")  # of a file that lacks the preamble: file meta information, or the data at once
_PLUGINS = {
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg-openjpeg",
}
"""Transfer syntax -> what decodes it. JPEG Lossless is not here: its only plugin on PyPI is under the GPL."""


def recognises(head: bytes) -> bool:
    """Tells whether a file that begins like this is a DICOM file with its preamble."""
    return head[128:132] == b"DICM"


def is_dicom(path: Path) -> bool:
    """Tells whether a file has the preamble of DICOM; False where it cannot be read."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return recognises(file.read(132))
    except OSError:
        return False


def object_name(path: Path) -> str:
    """Returns what a DICOM file is in the words of the standard, such as "RT Plan Storage"."""
    with explained(path):
        return object_of(opened(path, pixels=False, tags=["SOPClassUID"]))


def object_of(dataset: Any) -> str:
    """Returns what a data set is in the words of the standard."""
    return getattr(dataset.get("SOPClassUID"), "name", "") or "object of an unknown class"


def read(path: Path, wanted: Wanted) -> Raw:
    """Reads a frame after its modality transform; a mask must lie where its image does, where both say so."""
    from pydicom.errors import BytesLengthException

    try:
        return _image(path, wanted)
    except BytesLengthException as error:
        raise ValueError(str(error)) from None


def frame_count(path: Path) -> int:
    """Returns the number of frames; reads the header alone."""
    return int(opened(path, pixels=False).get("NumberOfFrames") or 1)


def shape_of(path: Path) -> tuple[int, int]:
    """Returns the rows and columns of an image or frame; reads the header alone."""
    header = opened(path, pixels=False, tags=("Rows", "Columns"))
    return int(header.get("Rows") or 0), int(header.get("Columns") or 0)


def is_deep(path: Path) -> bool:
    """Tells whether stored values are other than bytes; reads the header alone."""
    header = opened(path, pixels=False, tags=("BitsStored", "PixelRepresentation"))
    return int(header.get("BitsStored") or 0) > 8 or bool(header.get("PixelRepresentation"))


def _image(path: Path, wanted: Wanted) -> Raw:
    dataset = opened(path) if wanted.index is None else _held(path)
    if not any(name in dataset for name in _PIXELS):
        raise DataError(
            f"{path} holds no pixels: it is a DICOM {object_of(dataset)}.", fix="Take it out, or export it as an image."
        )
    for name in _SINGLE:
        _require_single(path, name, dataset.get(name))
    index = only(path, int(dataset.get("NumberOfFrames") or 1), wanted.index)
    check_pixels(path, int(dataset.Rows), int(dataset.Columns))
    if wanted.image is not None:
        _check_place(path, dataset, index, wanted)
    stored = decoded(path, dataset, index)
    _check_header(path, dataset)
    if dataset.PhotometricInterpretation == "PALETTE COLOR" and not (wanted.indices and _is_coloured(dataset)):
        return _looked_up(stored, dataset)
    if stored.ndim == 3:
        limits = (0.0, 2.0**dataset.BitsStored - 1) if stored.dtype.kind == "u" else None
        return Raw(stored, limits)
    values, limits = _rescaled(path, stored, dataset, index)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    return Raw(values[..., None], limits, inverted, padding=_padding(stored, dataset))


def opened(path: Path, *, pixels: bool = True, tags: Sequence[str] | None = None) -> Any:
    """Opens a file, also one without preamble or file meta information, as old systems write them.

    Args:
        pixels: read them too.
        tags: keywords of what is read; None for all.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    with path.open("rb") as file:
        head = file.read(132)
    bare = not recognises(head) and head[:2] in _FIRST_GROUPS
    try:
        dataset = pydicom.dcmread(path, force=bare, stop_before_pixels=not pixels, specific_tags=tags and [*tags])
    except InvalidDicomError:
        raise OtherContentError("it is not a DICOM file") from None
    if "TransferSyntaxUID" not in dataset.file_meta:
        if len(dataset) == 0:
            raise OtherContentError("it is not a DICOM file")
        implicit, little = dataset.original_encoding
        syntaxes = {(True, True): pydicom.uid.ImplicitVRLittleEndian, (False, True): pydicom.uid.ExplicitVRLittleEndian}
        syntax = syntaxes.get((implicit, little), pydicom.uid.ExplicitVRBigEndian)
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _held(path: Path) -> Any:
    """Opens a file of which further frames will be read, whose pixels are many."""
    about = path.stat()
    return _cached(path, about.st_mtime_ns, about.st_ctime_ns, about.st_size)


@functools.lru_cache(maxsize=1)
def _cached(path: Path, *_changed: int) -> Any:
    return opened(path)


def decoded(path: Path, dataset: Any, index: int) -> Array:
    """Returns the stored values of a frame; raises a DataError where its compression needs a plugin."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if dataset.get("BitsAllocated") == 1 and syntax.is_little_endian and not syntax.is_encapsulated:
        return _unpacked(dataset, index)
    from pydicom.pixels import pixel_array

    try:
        return np.asarray(pixel_array(dataset, index=index))
    except (NotImplementedError, RuntimeError) as error:  # of pydicom, where no decoder is installed or one fails
        if "missing dependencies" in str(error):
            plugin = _PLUGINS.get(str(syntax))
            problem = f"{path} is compressed as {syntax.name}, which needs a plugin."
            decompress = "Decompress the file (gdcmconv --raw)"
            fix = f'{decompress}, or: pip install "medarts[dicom]" ({plugin}).' if plugin else f"{decompress}."
            raise DataError(problem, fix=fix) from None
        if "is not supported" in str(error):
            raise DataError(
                f"{path} is compressed in an unknown way ({syntax}).", fix="Decompress it (gdcmconv --raw)."
            ) from None
        raise ValueError(" ".join(str(error).split())) from None


def _unpacked(dataset: Any, index: int) -> Array:
    """Returns a frame of single bits, which may begin within a byte; pydicom 3.0 cuts such frames short."""
    shape = (int(dataset.Rows), int(dataset.Columns))
    pixels = shape[0] * shape[1]
    first = index * pixels
    content = dataset.PixelData[first // 8 : -(-(first + pixels) // 8)]
    bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
    return bits[first % 8 :][:pixels].reshape(shape)


def _require_single(path: Path, name: str, value: Any) -> None:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) > 1:
        raise DataError(f"{path} has {len(value)} values in {name}, where one is allowed.", fix="Correct its header.")


def _check_header(path: Path, dataset: Any) -> None:
    """Raises a DataError where the pixels are others than the header describes; the decoders cut what is too much."""
    from pydicom.encaps import parse_basic_offsets
    from pydicom.pixels.utils import get_expected_length

    name = next(name for name in _PIXELS if name in dataset)
    content = dataset[name].value
    fix = "Its header is wrong; export it again."
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        frames = len(parse_basic_offsets(content))
        described = int(dataset.get("NumberOfFrames") or 1)
        if frames > described:
            raise DataError(f"{path} holds {frames} frames of pixels; its header says {described}.", fix=fix)
        return
    expected = get_expected_length(dataset)
    if len(content) > expected + 1:  # one byte makes an odd length even
        size = f"{dataset.Rows} x {dataset.Columns} pixels"
        raise DataError(
            f"{path} holds {len(content):,} bytes of pixels; its header says {size}, which are {expected:,}.", fix=fix
        )
    stored, high = dataset.get("BitsStored"), dataset.get("HighBit")
    if name == "PixelData" and high is not None and high != stored - 1:
        raise DataError(
            f"{path} has the HighBit {high}; with BitsStored {stored} only {stored - 1} is read.",
            fix="Correct HighBit, or shift the stored values where they do lie that high.",
        )


def _is_coloured(dataset: Any) -> bool:
    """Tells whether a palette has colours; a grey one makes a grey image, as in the other formats."""
    red, green, blue = (
        dataset.get(f"{name}PaletteColorLookupTableData") or dataset.get(f"Segmented{name}PaletteColorLookupTableData")
        for name in ("Red", "Green", "Blue")
    )
    return red is None or not red == green == blue  # without tables the palette is a known one, of colours


def _looked_up(stored: Array, dataset: Any) -> Raw:
    from pydicom.pixels import apply_color_lut

    colours = apply_color_lut(stored, dataset)
    values = colours if _is_coloured(dataset) else colours[..., :1]
    return Raw(values, type_range(values))


def _rescaled(path: Path, stored: Array, dataset: Any, frame: int) -> tuple[Array, tuple[float, float] | None]:
    """Returns the values after the modality transform, and the range of the stored bits after it."""
    transform = _transform(path, dataset, frame)
    limits = None
    if stored.dtype.kind == "u":
        ends = transform(np.array([0, 2**dataset.BitsStored - 1], dtype=stored.dtype))
        limits = (float(ends.min()), float(ends.max()))
    values = transform(stored)
    values = values.astype(np.float32) if values.dtype == np.float64 else values
    return values, limits if stored.dtype.kind != "f" else type_range(values)


def _transform(path: Path, dataset: Any, frame: int) -> Callable[[Array], Array]:
    """Returns the function from stored to modality values: a table, or slope and intercept, or neither.

    Slope and intercept that are missing or empty are 1 and 0.
    """
    from pydicom.pixels import apply_modality_lut

    if dataset.get("ModalityLUTSequence"):
        return lambda values: np.asarray(apply_modality_lut(values, dataset))
    found = [
        attribute(dataset, frame, "PixelValueTransformationSequence", name)
        for name in ("RescaleSlope", "RescaleIntercept")
    ]
    for name, value in zip(("RescaleSlope", "RescaleIntercept"), found, strict=True):
        _require_single(path, name, value)
    if found == [None, None]:
        return lambda values: values
    if found[0] == 0:
        raise DataError(f"{path} has the rescale slope 0, which makes all values equal.", fix="Correct RescaleSlope.")
    slope = 1.0 if found[0] is None else float(found[0])
    intercept = 0.0 if found[1] is None else float(found[1])
    return lambda values: values.astype(np.float64) * slope + intercept


def attribute(dataset: Any, frame: int, sequence: str, name: str) -> Any:
    """Returns an attribute of a frame, from its own functional groups, the shared ones, or the top; None without one.

    Enhanced objects have in functional groups what classic ones have at the top.
    """
    own, shared = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
    groups = [*([own[frame]] if own and frame < len(own) else []), *([shared[0]] if shared else [])]
    items = [group[sequence].value[0] for group in groups if group.get(sequence)]
    for item in [*items, dataset]:
        value = item.get(name)
        if value is not None and value != "":
            return value
    return None


def _padding(stored: Array, dataset: Any) -> NDArray[np.bool_] | None:
    """Returns where the stored values are padding: a value, or a range of values."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None or stored.dtype.kind == "f":
        return None
    ends = [_as_stored(int(end), stored.dtype) for end in (value, value if limit is None else limit)]
    padding = (stored >= min(ends)) & (stored <= max(ends))
    return padding if padding.any() else None


def _as_stored(value: int, dtype: np.dtype[Any]) -> int:
    """Returns a padding value as pixels would have it; some writers give that of signed pixels as unsigned, or reverse.

    The attribute has 16 bits: in pixels of 16 the same bits are meant. Pixels of another width never have what is
    beyond their type.
    """
    return int(np.array(value).astype(dtype)) if dtype.itemsize == 2 else value


def _check_place(path: Path, dataset: Any, index: int, wanted: Wanted) -> None:
    image = wanted.image
    if image is None or not image.is_file():
        return
    with image.open("rb") as file:
        if not recognises(file.read(132)):
            return
    with explained(image):
        there = _grid(opened(image, pixels=False), wanted.index or 0)
    here = _grid(dataset, index)
    if here is not None and there is not None:
        refuse_apart(path, here, image, there)


def _grid(dataset: Any, frame: int) -> Grid | None:
    def numbers(sequence: str, name: str, count: int) -> NDArray[np.float64] | None:
        value = attribute(dataset, frame, sequence, name)
        return np.asarray(value, dtype=np.float64) if value is not None and len(value) == count else None

    position = numbers("PlanePositionSequence", "ImagePositionPatient", 3)
    directions = numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    if position is None or directions is None or spacing is None or "Rows" not in dataset:
        return None
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = directions[:3] * spacing[1], directions[3:] * spacing[0]
    affine[:3, 2] = np.cross(directions[:3], directions[3:]) * spacing.mean()
    affine[:3, 3] = position
    return Grid((int(dataset.Columns), int(dataset.Rows), 1), affine)
