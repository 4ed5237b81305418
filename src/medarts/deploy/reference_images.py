"""Images that a network is exported with: it is verified on them, and what it expects is read off them."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.data.formats import spacing_of
from medarts.data.formats.raw import Raw, Spacing
from medarts.data.images import limits_of
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.opening import open_manifest
from medarts.data.parts import read_parts
from medarts.data.store import ImageStore
from medarts.deploy.info import ImageKind, ModelInfo
from medarts.deploy.inputs import Source, find
from medarts.engine.directory import RunDirectory
from medarts.errors import DataError
from medarts.system.console import warn

OF_TRAINING, OF_VALIDATION, OF_FILES = 12, 8, 20
"""Images that are looked at."""


@dataclass(frozen=True, slots=True)
class Example:
    """An image, read when it is needed.

    Attributes:
        name: names it in errors.
        read: gives it as stored, by its files and neighbouring slices.
        spacing: gives height and width of a pixel in mm; None where unknown.
    """

    name: Path
    read: Callable[[], list[Raw]]
    spacing: Callable[[], tuple[float, float] | None] = lambda: None


def of_run(run: RunDirectory, *, domain: str | None) -> list[Example]:
    """Returns training and validation images of a run; of a run of all folds images of all.

    Args:
        run: a training run.
        domain: the data set whose images are taken. Default: all.

    Raises:
        DataError: its folders are gone, or its images were in memory.
    """
    check_present(run)
    manifest = open_manifest(run.recipe.data, needs=())
    if domain is not None:
        manifest = manifest.where(lambda sample: sample.domain == domain)
    context = run.recipe.data.context
    if run.recipe.data.is_divided:
        return [_of_sample(sample, context) for sample in spread(manifest.samples, OF_TRAINING + OF_VALIDATION)]
    parts = ((manifest.of_split("train"), OF_TRAINING), (manifest.of_split("val"), OF_VALIDATION))
    return [_of_sample(sample, context) for part, number in parts for sample in spread(part.samples, number)]


def check_present(run: RunDirectory, data: ImageStore | None = None) -> None:
    """Refuses a run whose images cannot be read any more, where none are given in memory.

    Raises:
        DataError: its folders are gone, or its images were in memory.
    """
    if data is not None:
        return
    sources = run.recipe.data.sources
    gone = [source.path for source in sources if source.is_in_memory or not source.path.is_dir()]
    if gone:
        in_memory = sources[0].is_in_memory
        where = "were in memory" if in_memory else f"are no longer in {gone[0]}"
        command = f"medarts train --resume {shlex.quote(str(run.path))} data.sources.0.path=FOLDER"
        moved = f" If they were moved: {command}."
        raise DataError(
            f"The images of {run.path} {where}; an exported network is verified on some.",
            fix="Give such images: --images FOLDER (images=FOLDER), or in Python data=(images, targets)."
            + ("" if in_memory else moved),
        )


def of_files(paths: Sequence[Path | str], info: ModelInfo) -> list[Example]:
    """Returns images of files and folders; those that cannot be read are reported on standard error and left out.

    Args:
        paths: see ``medarts.deploy.inputs.find``.
        info: of the network, which says how many files an image has.

    Raises:
        DataError: there are none, or none can be read.
    """
    found, bad = [], []
    for source in spread(find(paths, files=info.files), OF_FILES):
        try:
            example = _of_source(source, info)
            example.read()
        except DataError as error:
            bad.append(error)
        else:
            found.append(example)
    if not found:
        more = f", nor can {len(bad) - 1} more" if len(bad) > 1 else ""
        raise DataError(f"{bad[0].problem.removesuffix('.')}{more}.", fix=bad[0].fix)
    for each in bad:
        warn(f"skipped: {each}")
    return found


def of_store(store: ImageStore, info: ModelInfo) -> list[Example]:
    """Returns images in memory, which are 0..1, as a network takes them that scales intensities itself."""
    manifest: Manifest = store.manifest
    low, high = info.window or info.expected_range

    def read(index: int) -> list[Raw]:
        image = np.moveaxis(store.images[index], 0, -1).astype(np.float32) * (high - low) + low
        ends = np.cumsum(info.channels_of_parts)[:-1].tolist()
        return [Raw(part, (low, high)) for part in np.split(image, ends, axis=2)]

    chosen = spread(range(len(manifest.samples)), OF_FILES)
    return [Example(manifest.samples[index].image, partial(read, index)) for index in chosen]


def observed(info: ModelInfo, examples: Iterable[Example]) -> ModelInfo:
    """Returns a description with the kinds, the range and the spacing of images.

    Raises:
        DataError: an image cannot be read.
    """
    kinds: Counter[ImageKind] = Counter()
    limits, spacings = [], []
    for example in examples:
        for raw in example.read():
            kinds[ImageKind(channels=raw.values.shape[2], dtype=str(raw.values.dtype), range=raw.range)] += 1
            limits.append(limits_of(raw, ReadingRules(info.window, info.percentiles), example.name))
        if (spacing := example.spacing()) is not None:
            spacings.append(spacing)
    if info.window or info.percentiles:
        # Percentiles differ from image to image; all lie between these.
        found = min(low for low, _ in limits), max(high for _, high in limits)
    else:
        found = Counter(limits).most_common(1)[0][0]
    height, width = np.median(spacings, axis=0).tolist() if spacings else (None, None)
    changes: dict[str, Any] = {
        "kinds": tuple(kind for kind, _ in kinds.most_common()),
        "expected_range": found,
        "spacing": (height, width) if spacings else None,
    }
    return info.model_copy(update=changes)


def spread(items: Sequence[Any], number: int) -> list[Any]:
    """Returns at most ``number`` items, evenly spread."""
    if len(items) <= number:
        return list(items)
    places: NDArray[np.int64] = np.linspace(0, len(items) - 1, number).astype(np.int64)
    return [items[place] for place in places]


def _of_sample(sample: Sample, context: int) -> Example:
    return Example(
        sample.image,
        lambda: [raw for _, raw in read_parts(sample, context=context)],
        lambda: _in_plane(spacing_of(sample.image)),
    )


def _of_source(source: Source, info: ModelInfo) -> Example:
    middle = source.count // 2
    return Example(source.path(middle), lambda: source.image(middle, info), lambda: _in_plane(source.spacing))


def _in_plane(spacing: Spacing) -> tuple[float, float] | None:
    height, width, _ = spacing
    return None if height is None or width is None else (height, width)
