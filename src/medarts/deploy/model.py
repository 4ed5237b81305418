"""A trained network in use: images in, probabilities out, at the images' own sizes.

Nothing here imports PyTorch unless a training run is loaded: an exported network predicts without it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from medarts.data.formats.raw import Raw, Spacing
from medarts.data.geometry import scaled, zoom
from medarts.data.images import Layout, as_array, as_hwc, as_raw, fit_channels, limits_of, resized
from medarts.data.manifest import ReadingRules
from medarts.data.parts import neighbours
from medarts.deploy.engines import ENGINES, IMAGE, LIMITS, Engine, Outputs, Runtime, Shape
from medarts.deploy.info import METADATA, ModelInfo, is_package
from medarts.deploy.passes import Patchwise
from medarts.errors import OF_TRAINING, DataError, RunError, check_number, did_you_mean, not_installed, quoted
from medarts.system.files import exists

if TYPE_CHECKING:
    from medarts.engine.directory import RunDirectory

Probabilities = NDArray[np.float32]

_SCALING = (
    "Give uint8 (0..255), uint16 (0..65535) or floats in 0..1, as the network was trained on: of values in 0..255 "
    "images.astype(np.uint8), or images / 255."
)


class Prepared(NamedTuple):
    """An image as an engine takes it.

    Attributes:
        values: float32 (C, H, W), as stored.
        limits: float32 (2 x parts,), the values that become 0 and 1, of each file or slice that it consists of.
        shape: height and width of its file, which those of the values differ from where the network asks for a scale.
    """

    values: NDArray[np.float32]
    limits: NDArray[np.float32]
    shape: tuple[int, int]


class TrainedModel:
    """A trained network, ready to predict: of a training run, or an exported file.

    Images are scaled, resized and given channels exactly as when they were read for training.

    Attributes:
        info: what it expects and gives.
        engine: what runs it.
        digest: SHA-256 of an exported file, hexadecimal; None for others.

    Args:
        info: see there.
        engine: see there.
        digest: see there.
    """

    def __init__(self, info: ModelInfo, engine: Engine, *, digest: str | None = None) -> None:
        self.info = info
        self.engine = engine
        self.digest = digest

    def predict(
        self,
        images: ArrayLike | Path | Sequence[ArrayLike | Path],
        *,
        channels: Layout | None = None,
        batch: int = 8,
        spacing: tuple[float, float] | None = None,
    ) -> Any:
        """Returns the probabilities of one image, of a stack, or of a list of images of any sizes.

        Args:
            images: an image (H x W, H x W x C or C x H x W), a stack (N x H x W x C or N x C x H x W, or N x H x W),
                or a list of images. Nested lists of numbers are arrays. For an array of three axes see ``channels``.
                Or the path of an image, of a volume, or of the folder of a DICOM series; these give the stack of their
                slices. A list may hold paths too.
            channels: axis of the channels of an image, "first" or "last"; with it an array of three axes is one image.
                Default: the one of 1 to 4 entries. Without it an array of three axes is one image if its last axis, or,
                for a network of several channels, its first, is as long as an image has channels; else it is a stack of
                grey images. So N x H x W is always a stack for a network of grey images.
            batch: images, or windows of them, in one pass of the network, at least 1.
            spacing: height and width of a pixel of arrays in mm, for networks with ``info.spacing_mm``.

        For a network of several files (``info.files``) an array has the channels of all, one after the other; a path is
        that of the first file, or a folder with the files NAME_0000, NAME_0001 and so on of an image. For one with
        context (``info.context``) an array of three axes is always a volume N x H x W, whose slices are neighbours,
        unless ``channels`` is given.

        Returns:
            float32 in 0..1. Masks with one class: H x W, at the image's own size; with K classes: K x H x W.
            Findings: one probability for each of ``info.outputs``, without the temperature that was found on the
            validation images. A stack gives an array with N in front, a list of images a list.

        Raises:
            DataError: the images hold NaN, have too many channels, a type whose range is not known, or axes that may be
                those of one image or of a stack; a file cannot be read, or there are several images in a folder; or
                ``batch`` is below 1.
        """
        if not isinstance(batch, int) or batch < 1:
            raise DataError(f"batch is {quoted(batch)}.", fix="Give a whole number of images of at least 1.")
        if isinstance(images, str | Path):
            return self._predict_file(Path(images), batch)
        if isinstance(images, list | tuple) and not all(isinstance(each, list | tuple | Number) for each in images):
            return self._predict_each(images, channels, batch, spacing)
        array = as_array(images, "images")
        if self._is_one(array, channels):
            return self._predict([array], channels, batch, spacing)[0]
        if array.ndim == 3 and self.info.context:
            array, channels = _with_neighbours(array, self.info.context), "last"
        return np.stack(self._predict(list(array), channels, batch, spacing))

    def prepare(self, parts: Sequence[Raw], *, path: Path, spacing: Spacing = (None, None, None)) -> Prepared:
        """Returns an image as the engine takes it.

        Args:
            parts: the image as stored; or its files, or neighbouring slices, in the order of their channels.
            path: names it in errors.
            spacing: height and width of a pixel in mm, for networks that were trained at one.

        Raises:
            DataError: its channels do not fit, its type does not say what is black and white, or its spacing is needed
                and unknown.
        """
        info, wanted = self.info, self.info.channels_of_parts
        if len(parts) != len(wanted) or len({raw.values.shape[:2] for raw in parts}) > 1:
            shapes = " and ".join(str(raw.values.shape) for raw in parts)
            raise DataError(
                f"{path} consists of {len(parts)} files or slices ({shapes}), but {info.name} takes {len(wanted)} of "
                "one size.",
                fix="Give images like those of the training.",
            )
        every = [self._part(raw, number, path) for raw, number in zip(parts, wanted, strict=True)]
        values = np.concatenate([each for each, _ in every])
        height, width = values.shape[1:]
        framing = scaled(height, width, factors=(info.scale, info.scale))
        if info.spacing_mm is not None:
            framing = scaled(height, width, factors=zoom(path, spacing, info.spacing_mm))
        values = np.ascontiguousarray(resized(values, (framing.rows, framing.columns)))
        return Prepared(values, np.concatenate([limits for _, limits in every]), (height, width))

    def shown(self, parts: Sequence[Raw], *, path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns what overlays show of an image at the size of its file: values (C, H, W), limits of black and white.

        Of several files the first, of neighbouring slices the one in their middle.
        """
        info = self.info
        values, limits = self._part(parts[info.context], info.channels_of_parts[info.context], path)
        fixed = np.array(info.window or info.expected_range, np.float32)
        return values, limits if info.percentiles is not None else fixed

    def _part(self, raw: Raw, channels: int, path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the values (C, H, W) of a file or slice of an image, and those that become 0 and 1."""
        info = self.info
        try:
            low, high = limits_of(raw, ReadingRules(info.window, info.percentiles), path)
        except DataError as error:  # whose fix is a change of the recipe, which is too late here
            raise DataError(
                error.problem,
                fix="Convert it to 8 bits with the window it is viewed with, or train with a window or percentiles.",
            ) from None
        values = np.clip(raw.values.astype(np.result_type(raw.values.dtype, np.float32)), low, high)
        if raw.inverted:
            values = low + high - values
        if raw.padding is not None:
            values[raw.padding] = low
        values = fit_channels(values, channels, path=path)
        if info.window is None and info.percentiles is None:
            # The graph scales by the range of the training images; another type has another range.
            start, end = info.expected_range
            if (low, high) != (start, end):
                values = (values - low) * ((end - start) / (high - low)) + start
        chw = np.ascontiguousarray(np.moveaxis(values, -1, 0), dtype=np.float32)
        return chw, np.array([low, high], np.float32)

    def run(self, images: Iterable[Prepared], *, batch: int) -> Iterator[Outputs]:
        """Yields all outputs of each image; images of equal sizes that follow each other share a pass.

        Args:
            images: are taken as needed: no more than a batch is held.
            batch: images in one pass of the network, at least 1.
        """
        patches = self.info.resize == "patches"
        engine: Engine = Patchwise(self.engine, self.info, batch=batch) if patches else self.engine
        for _, alike in groupby(images, key=lambda each: each.values.shape):
            while part := list(islice(alike, 1 if patches else batch)):
                found = engine.run(np.stack([each.values for each in part]), np.stack([each.limits for each in part]))
                for row, image in enumerate(part):
                    outputs = {name: values[row] for name, values in found.items()}
                    if patches and image.shape != outputs["probabilities"].shape[1:]:
                        outputs["probabilities"] = np.clip(resized(outputs["probabilities"], image.shape), 0, 1)
                    yield outputs

    def _is_one(self, array: NDArray[Any], channels: Layout | None) -> bool:
        """Tells whether an array is one image, not a stack of images.

        Raises:
            DataError: it may be either, or is neither.
        """
        if array.size == 0:
            raise DataError("There are no images.", fix="Give at least one.")
        if array.ndim not in (2, 3, 4):
            raise DataError(
                f"images has the shape {array.shape}.", fix="Give an image, N x H x W, N x H x W x C or N x C x H x W."
            )
        if array.ndim != 3 or channels is not None:
            return array.ndim != 4
        if self.info.context:
            return False
        if array.shape[-1] in (2, 4) and array.shape[0] > 4:  # no stack: images so narrow are none
            raise DataError(
                f"images has the shape {array.shape}, which is that of an image with an alpha channel.",
                fix=f"Leave it out (images[..., :{array.shape[-1] - 1}]).",
            )
        first, last = (array.shape[axis] in {1, self.info.in_channels} for axis in (0, -1))
        if self.info.in_channels == 1:
            # A stack of images so narrow is none: H x W x 1, or a colour image, which is converted.
            return array.shape[0] > 4 and array.shape[-1] in (1, 3)
        if first and last:
            raise DataError(
                f"images has the shape {array.shape}, which may be one image or several.",
                fix='Give channels="first" or channels="last" for one image, or a list of images.',
            )
        return first or last

    def _predict_each(
        self, images: Sequence[Any], channels: Layout | None, batch: int, spacing: tuple[float, float] | None
    ) -> list[Probabilities]:
        """Returns the probabilities of arrays, which share passes where they follow each other, and of files."""
        found: list[Probabilities] = []
        numbered = enumerate(images)
        for are_paths, part in groupby(numbered, key=lambda each: isinstance(each[1], str | Path)):
            if are_paths:
                found += (self._predict_file(Path(path), batch) for _, path in part)
            else:
                arrays = [as_array(image, f"Image {number}") for number, image in part]
                found += self._predict(arrays, channels, batch, spacing)
        return found

    def _predict_file(self, path: Path, batch: int) -> Probabilities:
        """Returns the probabilities of an image, or of all slices of a volume or series."""
        from medarts.deploy.inputs import check_kind, find

        sources = find([path], files=self.info.files)
        if len(sources) > 1:
            raise DataError(
                f"{path} holds {len(sources)} images or series.",
                fix="Give them as a list of paths, or write masks of all with medarts.predict.",
            )
        source = sources[0]

        def slices() -> Iterator[Prepared]:
            spacing = source.spacing
            for index, parts in enumerate(source.images(self.info)):
                for raw in parts:
                    check_kind(raw, self.info, source.path(index))
                yield self.prepare(parts, path=source.path(index), spacing=spacing)

        count = source.count
        found = [self._shown(each, str(path)) for each in self.run(slices(), batch=batch)]
        if count == 1:
            return found[0]
        if len({each.shape for each in found}) > 1:
            raise DataError(f"{path} holds images of several sizes.", fix="Save them as single files.")
        return np.stack(found)

    def _shown(self, outputs: Outputs, what: str) -> Probabilities:
        """Returns the probabilities of one image, without an axis of a single class."""
        check_finite(outputs, self.info, what)
        found: Probabilities = outputs["probabilities"]
        return found[0] if self.info.task == "segmentation" and len(found) == 1 else found

    def _predict(
        self, images: list[NDArray[Any]], channels: Layout | None, batch: int, spacing: tuple[float, float] | None
    ) -> list[Probabilities]:
        if not images:
            raise DataError("There are no images.", fix="Give at least one.")
        read = [self._read(image, channels, number, spacing) for number, image in enumerate(images)]
        return [self._shown(each, f"image {row}") for row, each in enumerate(self.run(read, batch=batch))]

    def _read(
        self, image: NDArray[Any], channels: Layout | None, number: int, spacing: tuple[float, float] | None
    ) -> Prepared:
        raw, wanted, path = as_raw(as_hwc(image, channels, number), number), self.info.parts, Path(f"Image {number}")
        if spacing is None and self.info.spacing_mm is not None:
            raise DataError(
                f"{path} does not say the size of its pixels, which {self.info.name} needs.",
                fix="Give spacing=(height, width) of a pixel in mm.",
            )
        parts = [raw]
        if wanted and raw.values.shape[2] == sum(wanted):
            ends = np.cumsum(wanted)[:-1].tolist()
            parts = [replace(raw, values=values) for values in np.split(raw.values, ends, axis=2)]
        try:
            return self.prepare(parts, path=path, spacing=(*(spacing or (None, None)), None))
        except DataError as error:
            raise DataError(error.problem, fix=_SCALING if raw.range is None else error.fix) from None


def _with_neighbours(volume_nhw: NDArray[Any], context: int) -> NDArray[Any]:
    """Returns the slices of a volume with their neighbours as channels, (N, H, W, 2 x context + 1)."""
    number = len(volume_nhw)
    return np.stack([volume_nhw[neighbours(place, number, context=context)] for place in range(number)]).transpose(
        0, 2, 3, 1
    )


def check_finite(outputs: Outputs, info: ModelInfo, what: str) -> None:
    """Refuses probabilities that are NaN, which would become an empty mask, or no finding.

    Args:
        outputs: of one image.
        info: of the network.
        what: the image.

    Raises:
        DataError: they are.
    """
    if np.isnan(outputs["probabilities"]).any():
        raise DataError(
            f"{info.name} gives probabilities that are not numbers (NaN) for {what}.",
            fix="Its weights are damaged or have diverged; export it again, or train it again.",
        )


def load(
    model: "RunDirectory | Path | str",
    *,
    checkpoint: str = "best",
    domain: str | None = None,
    head: str | None = None,
    engine: Runtime | None = None,
    threads: int | None = None,
) -> TrainedModel:
    """Loads a trained network.

    Args:
        model: a training run, a package of `medarts.pack`, or an exported file, which needs no PyTorch.
        checkpoint: of a run: "best", by the validation score, or "last".
        domain: of a run: the training data set whose scaling of intensities to use (its window or percentiles).
            Default: that of all, if they share one.
        head: of a run or package: an early, faster head, such as "4,0", or "average", the mean of all. Default: the
            last.
        engine: what runs an exported file, "onnxruntime" or "openvino". Default: ONNX Runtime.
        threads: of the CPU, for an exported file. Default: as the engine chooses.

    Raises:
        RunError: there is no training run, it has no checkpoint yet, or there is no such kind of checkpoint or head.
        DataError: the data sets of the run differ in their scaling and ``domain`` does not name one of them; or the
            file is damaged, or was not written by medarts.
        MedartsError: what runs it is not installed.
    """
    if checkpoint not in ("best", "last"):
        raise RunError(
            f"There is no checkpoint {quoted(checkpoint)}, but best and last.",
            fix=did_you_mean(str(checkpoint), ("best", "last")),
        )
    if isinstance(model, str | Path) and not exists(Path(model)):
        raise RunError(
            f"There is no file or folder {model}.", fix="Give a training run, an exported file or a package."
        )
    check_number("threads", threads, low=1, high=1024)
    if isinstance(model, str | Path) and Path(model).is_file() and not is_package(model):
        if (checkpoint, domain, head) != ("best", None, None):
            raise RunError(
                f"{model} is exported: its checkpoint, domain and head are chosen.",
                fix="Export the run again with others.",
            )
        return _exported(Path(model), engine or "onnxruntime", threads)
    if engine is not None or threads is not None:
        raise RunError(
            "A run or package is predicted with PyTorch.",
            fix="Export it (medarts export), or leave engine and threads out.",
        )
    try:
        return _in_pytorch(model, checkpoint=checkpoint, domain=domain, head=head)
    except ModuleNotFoundError as error:
        if error.name not in OF_TRAINING:
            raise
        raise not_installed(error.name) from None


def _in_pytorch(
    model: "RunDirectory | Path | str", *, checkpoint: str, domain: str | None, head: str | None
) -> TrainedModel:
    """Returns the network of a run or package."""
    if is_package(model):
        from medarts.deploy.deployable import TorchEngine
        from medarts.deploy.package import open_package

        if (checkpoint, domain) != ("best", None):
            raise RunError(
                "A package has the best checkpoint and one scaling of intensities.",
                fix="Leave checkpoint and domain out.",
            )
        packed = open_package(Path(model)).deployable(head)
        return TrainedModel(packed.info, TorchEngine(packed))
    from medarts.engine.directory import RunDirectory, path_of

    run = RunDirectory.open(path_of(model), kind="train")
    # Behind the errors of a path that is wrong, which need no PyTorch.
    from medarts.deploy.deployable import TorchEngine
    from medarts.deploy.runs import deployable_of

    deployable = deployable_of(run, checkpoint=checkpoint, domain=domain, head=head)
    return TrainedModel(deployable.info, TorchEngine(deployable))


def _exported(path: Path, engine: Runtime, threads: int | None) -> TrainedModel:
    """Returns an exported network.

    Raises:
        DataError: the file is damaged, or was not written by medarts.
    """
    if engine not in ENGINES:
        raise RunError(f"There is no engine {quoted(engine)}.", fix=did_you_mean(str(engine), ENGINES))
    running = ENGINES[engine](path, threads=threads)
    if METADATA not in running.metadata:
        raise DataError(
            f"{path} was not written by medarts export: its metadata say nothing of images and outputs.",
            fix="Export the training run.",
        )
    try:
        info = ModelInfo.model_validate_json(running.metadata[METADATA])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DataError(
            f"The metadata of {path} cannot be read ({first['msg']}).",
            fix="It was written by another version of medarts, or changed; export the run again.",
        ) from None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not _fits(running.shapes, info):
        raise DataError(
            f"The graph of {path} has other inputs or outputs than its metadata say.",
            fix="It was changed after its export; export the run again.",
        )
    return TrainedModel(info, running, digest=digest)


def _fits(found: dict[str, Shape], info: ModelInfo) -> bool:
    """Tells whether the inputs and outputs of a graph are those of a network, see ``medarts.deploy.engines``."""
    number = len(info.outputs)
    wanted: dict[str, Shape] = {IMAGE: (None, info.in_channels, None, None)}
    if info.percentiles is not None:
        wanted[LIMITS] = (None, 2 * len(info.channels_of_parts))
    if info.task == "segmentation":
        mask = (None, number, None, None) if info.overlap else (None, None, None)
        wanted |= {"probabilities": (None, number, None, None), "mask": mask}
    else:
        wanted |= dict.fromkeys(("logits", "probabilities", "calibrated", "decisions"), (None, number))
    return found.keys() == wanted.keys() and all(
        len(found[name]) == len(shape)
        and all(None in pair or pair[0] == pair[1] for pair in zip(found[name], shape, strict=True))
        for name, shape in wanted.items()
    )
