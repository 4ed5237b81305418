"""Masks as files of their image's own kind, size and geometry, written whole or not at all.

    output = open_output(source, folder, info, probabilities=True)
    output.paths, output.note   # what will be written, and why not in the image's own kind; nothing is on disk yet
    for index in range(source.count):
        output.add(mask_hw, probabilities_khw)
    output.finish()             # or output.close(), which writes nothing; "with" closes, too

| image | mask | probabilities |
| --- | --- | --- |
| PNG, JPEG, BMP, TIFF | NAME.png: 0 and 255 for one class, else the indices of a palette | one class: NAME_probabilities.png, 16 bits, 65535 is 1 |
| TIFF of several pages | NAME.tif, a page for each: 0 and 255, or indices | one class: NAME_probabilities.tif, 16 bits |
| NIfTI | NAME.nii or .nii.gz, as the image: uint8 indices, with its shape, qform, sform and units | the same in float32; a fourth axis for several classes |
| DICOM file, frames or series | NAME.dcm: DICOM-SEG, a segment for each class | NAME_probabilities.npz |
| DICOM that a DICOM-SEG cannot refer to | as PNG, or TIFF for several frames | as these |

Classes that may overlap have files of their own, NAME_CLASS, each as that of one class.

Probabilities of several classes beside PNG and TIFF are NAME_probabilities.npz. Such an archive holds ``outputs``, the
names of the classes, and ``probabilities``, float32 (K, H, W), or ``slice_0000`` and so on in the order of the slices.
Masks of images that EXIF or a TIFF tag turns are upright, as the image is shown.

DICOM that a DICOM-SEG cannot refer to: several frames without a place in space or at one place (ultrasound loops, beating
hearts), kinds that must have a FrameOfReferenceUID but lack it, and files without UIDs. Single images without a place (X-rays) have a DICOM-SEG.
"""  # noqa: E501  # rows of a table cannot be broken

import errno
import gzip
import io
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import medarts
from medarts.data.formats import nifti, suffix_of
from medarts.data.formats.raw import explained
from medarts.deploy.info import ModelInfo
from medarts.deploy.inputs import PROBABILITIES, Source
from medarts.deploy.overlays import COLOURS
from medarts.errors import DataError
from medarts.system.files import UNFINISHED, make_folder, whole, writing
from medarts.system.names import name_of, portable

Mask = NDArray[np.uint8]
Probabilities = NDArray[np.float32]

_IN_MEMORY = 32 * 2**20
"""Bytes of masks or probabilities of one source that are held; what is more waits on the disk."""


def open_outputs(source: Source, folder: Path, info: ModelInfo, *, probabilities: bool = False) -> tuple["Output", ...]:
    """Returns where the masks of a source go: one place, or of classes that may overlap one each, NAME_CLASS.

    Args:
        source: see `open_output`.
        folder: see there.
        info: see there.
        probabilities: see there.

    Raises:
        DataError, MedartsError: as there.
    """
    if not info.overlap:
        return (open_output(source, folder, info, probabilities=probabilities),)
    return tuple(
        open_output(
            replace(source, name=f"{source.name}_{name_of(Path(portable(name)))}"),
            folder,
            info.model_copy(update={"outputs": (name,), "overlap": False}),
            probabilities=probabilities,
        )
        for name in info.outputs
    )


def open_output(source: Source, folder: Path, info: ModelInfo, *, probabilities: bool = False) -> "Output":
    """Returns where the masks of a source go; makes nothing on the disk yet.

    Args:
        source: the image, volume or series.
        folder: what ``source.name`` is relative to.
        info: names the classes and the network.
        probabilities: write them, too.

    Raises:
        DataError: a file of the source is missing or damaged, the mask would replace it, or its name is too long.
        MedartsError: highdicom is needed and not installed.
    """
    output = _output(source, folder, info, probabilities=probabilities)
    for path in output.paths:
        check_name(path, folder, source)
        if path.exists() and any(path.samefile(file) for file in source.paths if file.exists()):
            raise DataError(f"The mask of {path} would replace it.", fix="Choose another folder for the results.")
    return output


def check_name(path: Path, folder: Path, source: Source) -> None:
    """Refuses a name of a result that is too long for its disk.

    Args:
        path: the file; neither it nor its folder has to be there.
        folder: of all results; it is there.
        source: what it is made of.

    Raises:
        DataError: it is.
    """
    name = f"{UNFINISHED}{path.name}"
    for probe in (folder / name, path.with_name(name)):  # the folder of the second may be missing yet
        try:
            probe.lstat()
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise DataError(
                    f"{source.path(0)} has too long a name for its results.", fix="Shorten it, or move it up."
                ) from None


def _output(source: Source, folder: Path, info: ModelInfo, *, probabilities: bool) -> "Output":
    if source.kind == "nifti":
        return _NiftiOutput(source, folder, info, suffix_of(source.paths[0]), probabilities=probabilities)
    if source.kind == "raster":
        return _RasterOutput(source, folder, info, probabilities=probabilities)
    from medarts.deploy.dicom_seg import refusal

    reason = refusal(source.paths, source.count, info)
    if reason is None:
        return _DicomOutput(source, folder, info, ".dcm", probabilities=probabilities)
    note = f"The mask is no DICOM segmentation: {reason}."
    return _RasterOutput(source, folder, info, note=note, probabilities=probabilities)


class Output(ABC):
    """The masks of one source, slice by slice.

    Attributes:
        paths: what ``finish`` will write, the mask first.
        note: why the mask is not of the image's own kind; None where it is.

    Args:
        source: see `open_output`.
        folder: see there.
        info: see there.
        suffix: of the mask.
        probabilities: suffix of their file; None without.
        note: see above.
    """

    def __init__(
        self,
        source: Source,
        folder: Path,
        info: ModelInfo,
        *,
        suffix: str,
        probabilities: str | None,
        note: str | None = None,
    ) -> None:
        self.note = note
        self._source, self._info, self._slices = source, info, source.count
        mask = folder / f"{source.name}{suffix}"
        further = [] if probabilities is None else [folder / f"{source.name}{PROBABILITIES}{probabilities}"]
        self.paths = (mask, *further)
        self._masks = _Waiting(folder)
        self._probabilities = _Waiting(folder) if further else None

    def add(self, mask_hw: Mask, probabilities_khw: Probabilities | None = None) -> None:
        """Adds the next slice.

        Args:
            mask_hw: indices of classes; for one class 0 and 1.
            probabilities_khw: of the network's outputs; needed where they are written.

        Raises:
            RunError: the disk is full, or the folder cannot be written.
        """
        self._masks.append(mask_hw.astype(np.uint8, copy=False))
        if self._probabilities is not None:
            if probabilities_khw is None:
                raise ValueError("probabilities are to be written, but were not given")
            self._probabilities.append(probabilities_khw.astype(np.float32, copy=False))

    def finish(self) -> None:
        """Writes the files, the mask last, so that it is there only where all is.

        Raises:
            RunError: a file cannot be written.
            DataError: the source has changed or been removed.
        """
        if len(self._masks) != self._slices:
            raise ValueError(f"{len(self._masks)} of {self._slices} slices were added")
        make_folder(self.paths[0].parent)
        if self._probabilities is not None:
            with whole(self.paths[1]) as file:
                self._write_probabilities(file, self._probabilities)
        with whole(self.paths[0]) as file:
            self._write_masks(file, self._masks)
        self.close()

    def close(self) -> None:
        """Forgets what was added."""
        self._masks.close()
        if self._probabilities is not None:
            self._probabilities.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _write_masks(self, file: IO[bytes], masks: "_Waiting") -> None:
        """Writes the file of the masks."""

    def _write_probabilities(self, file: IO[bytes], probabilities: "_Waiting") -> None:
        """Writes an archive of NumPy, one array a slice."""
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            _put(archive, "outputs", np.array(self._info.outputs))
            for index, values in enumerate(probabilities):
                _put(archive, "probabilities" if len(probabilities) == 1 else f"slice_{index:04d}", values)


class _RasterOutput(Output):
    def __init__(
        self, source: Source, folder: Path, info: ModelInfo, *, probabilities: bool, note: str | None = None
    ) -> None:
        suffix = ".png" if source.count == 1 else ".tif"
        self._one = len(info.outputs) == 1
        further = (suffix if self._one else ".npz") if probabilities else None
        super().__init__(source, folder, info, suffix=suffix, probabilities=further, note=note)

    def _write_masks(self, file: IO[bytes], masks: "_Waiting") -> None:
        self._write_pages(file, (mask * np.uint8(255) if self._one else mask for mask in masks))

    def _write_probabilities(self, file: IO[bytes], probabilities: "_Waiting") -> None:
        if self._one:
            self._write_pages(file, (np.rint(values[0] * 65535.0).astype(np.uint16) for values in probabilities))
        else:
            super()._write_probabilities(file, probabilities)

    def _write_pages(self, file: IO[bytes], pages: Iterator[NDArray[Any]]) -> None:
        if self._slices == 1:
            (values,) = pages
            image = Image.fromarray(values)
            if not self._one:
                image.putpalette(_palette())
            image.save(file, "PNG")
            return
        import tifffile

        with tifffile.TiffWriter(file) as writer:
            for values in pages:
                writer.write(values, photometric="minisblack", compression="zlib", contiguous=False, metadata=None)


class _NiftiOutput(Output):
    def __init__(self, source: Source, folder: Path, info: ModelInfo, suffix: str, *, probabilities: bool) -> None:
        super().__init__(source, folder, info, suffix=suffix, probabilities=suffix if probabilities else None)
        self._packed = suffix == ".nii.gz"

    def _write_masks(self, file: IO[bytes], masks: "_Waiting") -> None:
        self._write(file, np.dtype(np.uint8), 1, lambda index, _: masks[index])

    def _write_probabilities(self, file: IO[bytes], probabilities: "_Waiting") -> None:
        outputs = len(self._info.outputs)
        self._write(file, np.dtype(np.float32), outputs, lambda index, output: probabilities[index][output])

    def _write(
        self, file: IO[bytes], dtype: np.dtype[Any], volumes: int, plane: Callable[[int, int], NDArray[Any]]
    ) -> None:
        """Writes volumes plane by plane: the first stored axis runs fastest, so that a slice is one piece."""
        path = self._source.paths[0]
        with explained(path):
            volume = nifti.open_volume(path)
            header = _header(volume, dtype, volumes)
        stored = dtype.newbyteorder(header.endianness)
        packed = gzip.GzipFile("", "wb", 1, file, mtime=0) if self._packed else None
        into = packed or file
        header.write_to(into)
        for number in range(volumes):
            for index in range(self._slices):
                values = nifti.as_stored(plane(index, number), volume)
                into.write(values.astype(stored, copy=False).tobytes(order="F"))
        if packed is not None:
            packed.close()


class _DicomOutput(Output):
    def __init__(self, source: Source, folder: Path, info: ModelInfo, suffix: str, *, probabilities: bool) -> None:
        super().__init__(source, folder, info, suffix=suffix, probabilities=".npz" if probabilities else None)

    def _write_masks(self, file: IO[bytes], masks: "_Waiting") -> None:
        from medarts.deploy.dicom_seg import segmentation

        first = masks[0]
        stack = np.empty((len(masks), *first.shape), np.uint8)
        for index, mask in enumerate(masks):
            stack[index] = mask
        segmentation(self._source.paths, stack, self._info).save_as(file)


class _Waiting:
    """Arrays of one source until it is complete: in memory, or in a file without a name where they are many."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._about: list[tuple[int, tuple[int, ...], np.dtype[Any]]] = []

    def __len__(self) -> int:
        return len(self._about)

    def append(self, values: NDArray[Any]) -> None:
        with writing(self._folder):
            if self._file is None:
                make_folder(self._folder)
                self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(self._folder))  # noqa: SIM115  # see close
            self._file.seek(0, io.SEEK_END)
            self._about.append((self._file.tell(), values.shape, values.dtype))
            self._file.write(values.tobytes())

    def __getitem__(self, index: int) -> NDArray[Any]:
        start, shape, dtype = self._about[index]
        if self._file is None:
            raise IndexError(index)
        self._file.seek(start)
        content = self._file.read(int(np.prod(shape)) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(shape)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[index] for index in range(len(self)))

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file, self._about = None, []


def _header(volume: Any, dtype: np.dtype[Any], volumes: int) -> Any:
    """Returns the header of an image for values of another kind: geometry and units stay, what the values were goes."""
    header = volume.header.copy()
    header.extensions.clear()  # may hold names of patients
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0
    header["aux_file"] = b""
    header["descrip"] = f"medarts {medarts.__version__}".encode()
    header["vox_offset"] = header.single_vox_offset
    if volumes > 1:
        shape = (*volume.shape, *([1] * (3 - len(volume.shape))))[:3]
        header.set_data_shape((*shape, volumes))
    return header


def _palette() -> list[int]:
    """Returns 256 colours; classes beyond those that all eyes tell apart get greys."""
    known = [(0, 0, 0), *COLOURS]
    return [value for colour in (*known, *((grey,) * 3 for grey in range(len(known), 256))) for value in colour]


def _put(archive: zipfile.ZipFile, name: str, values: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, values, allow_pickle=False)
