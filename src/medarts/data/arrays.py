"""Data sets in memory: NumPy arrays and torch data sets, with the interface of images that were read from disk.

Everything after the store (halves of the search, batches, augmentation, scores) works on them as on files. They are
checked as files are, resized by the same functions, and fingerprinted by their values.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from medarts.config import DataSettings, SourceSettings, Split
from medarts.config.data import IGNORE, Resize
from medarts.config.explaining import explain
from medarts.config.section import MOST_OUTPUTS, Section
from medarts.data.crops import Crops, RaggedArrays, places_of
from medarts.data.digests import new_digest
from medarts.data.geometry import Framing, squashed
from medarts.data.images import Layout, as_array, as_hwc, scaled
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.reading import classes_in, frame_image, frame_mask, framing_of
from medarts.data.sources.arrays import ArraysSettings
from medarts.data.splits import SPLIT_SEED, complete_splits, divided, split_named
from medarts.data.store import ImageStore
from medarts.errors import DataError, did_you_mean, quoted

_OF_SOURCE = ("name", "window", "percentiles", "fractions")
"""Options that are those of a source on disk, too."""

_OF_DATA = ("size", "resize", "classes")
"""Options that are those of the section ``data`` of a recipe."""

_SCALING = "Give window=(low, high) or percentiles=(0.5, 99.5), or uint8, uint16 or floats in 0..1."


class Options(TypedDict, total=False):
    """The description of a data set in memory; see ``from_arrays``."""

    patients: Sequence[str | int] | None
    splits: Sequence[str] | None
    findings: Sequence[str] | None
    classes: int | Sequence[str] | None
    ignore: int | None
    size: int | None
    resize: Resize | None
    channels: Layout | None
    window: tuple[float, float] | None
    percentiles: tuple[float, float] | None
    fractions: tuple[float, float]
    name: str | None


def from_arrays(images: ArrayLike, targets: ArrayLike, **options: Unpack[Options]) -> ImageStore:
    """Makes a data set of arrays.

    Args:
        images: N x H x W (grey), N x H x W x C or N x C x H x W. Floats in 0..1, uint8 (0..255) or uint16 (0..65535);
            other values need a window or percentiles.
        targets: masks, N x H x W, of booleans or class indices (0 is background), or N x K x H x W, of 0 and 1 of K
            classes that may overlap; or labels, N x F, of 0 and 1.

    Keyword Args:
        patients: what must stay on one side of a split, for each image. Default: every image is a patient.
        splits: "train", "val" or "test" for each image. Default: sampled by patient.
        findings: names of the F labels. Default: "finding 1" and so on.
        classes: names of the foreground classes, or the number of outputs, see ``data.classes`` of a recipe. Default:
            from the masks. Classes that may overlap are named.
        ignore: value of targets that marks pixels, or labels, which neither loss nor scores count, such as 255 or -1.
            Default: there are none.
        size: height and width that networks see, in pixels. Default: that of the images, which must be square.
        resize: how images get that size, "fit", "squash" or "patches"; see ``data.resize`` of a recipe. Default: "fit".
        channels: axis of the channels, "first" or "last". Default: the one of 1 to 4 entries.
        window: (low, high) values that become 0 and 1.
        percentiles: (low, high) percentiles of each image that become 0 and 1.
        fractions: (validation, test) fractions of the patients, where ``splits`` does not say it; without "val" in
            ``splits`` the first one is a fraction of the training patients. Default: (0.1, 0.2).
        name: of the data set, in tables. Default: "arrays".

    Raises:
        DataError: arrays of different lengths, sizes or types than these; NaN or infinity; a patient in two splits; or
            an option that the section ``data`` of a recipe would not take either.

    >>> images, masks = np.zeros((30, 32, 32), np.uint8), np.zeros((30, 32, 32), bool)
    >>> store = from_arrays(images, masks)
    >>> store.images.shape, [len(store.manifest.of_split(split).samples) for split in ("train", "val", "test")]
    ((30, 1, 32, 32), [21, 3, 6])
    """
    every, wanted = as_array(images, "images"), as_array(targets, "targets")
    if every.ndim not in (3, 4):
        raise DataError(f"images has the shape {every.shape}.", fix="Give N x H x W, N x H x W x C or N x C x H x W.")
    if wanted.ndim == 0 or len(every) != len(wanted):
        number = len(wanted) if wanted.ndim else "no"
        raise DataError(f"There are {len(every)} images and {number} targets.", fix="Give one target for every image.")
    return _store(zip(every, wanted, strict=True), options)


def from_dataset(dataset: "torch.utils.data.Dataset[Any]", **options: Unpack[Options]) -> ImageStore:
    """Makes a data set of a torch data set, which is read once from its first to its last item.

    Args:
        dataset: a data set with a length whose items are (image, target), each as in ``from_arrays``: tensors, or what
            NumPy takes for an array, such as images of Pillow. Images may differ in size where ``size`` is given.
        options: those of ``from_arrays``.

    Raises:
        DataError: it has no length or other items, or as in ``from_arrays``.
    """
    if not isinstance(dataset, Sized):
        raise DataError("The data set has no length.", fix="Give a map-style data set with __len__ and __getitem__.")
    return _store(_items(dataset), options)


def data_section(store: ImageStore) -> dict[str, Any]:
    """Returns the section ``data`` of a recipe for a store in memory: source, size, channels and outputs.

    How images were resized is left out where they are square, as that is all the same then.
    """
    manifest = store.manifest
    (name,) = manifest.domains
    rules = manifest.rules[name]
    scaling = {"window": rules.window, "percentiles": rules.percentiles}
    if manifest.findings:
        outputs: dict[str, Any] = {"findings": list(manifest.findings)}
    else:
        columns = store.truths.shape[1]
        outputs = {"classes": list(store.class_names) or (1 if columns == 1 else columns + 1)}
        outputs |= {"overlap": True} if store.overlap else {}
    source = {
        "kind": "labelled-arrays" if manifest.findings else "arrays",
        "name": name,
        "path": str(Path.cwd()),
        **{key: list(value) for key, value in scaling.items() if value is not None},
    }
    square = store.sizes is None or bool((store.sizes[:, 0] == store.sizes[:, 1]).all())
    resize = {} if square and store.crops is None else {"resize": store.resize}
    return {
        "sources": [source],
        "size": store.size,
        "in_channels": store.images.shape[1],
        **resize,
        **outputs,
    }


def _items(dataset: Any) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for index in range(len(dataset)):
        item = dataset[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"Item {index} of the data set is not a pair.", fix="Return (image, target) for each.")
        yield as_array(item[0], f"image {index}"), as_array(item[1], f"target {index}")


def _store(items: Iterable[tuple[NDArray[Any], NDArray[Any]]], options: Options) -> ImageStore:
    wanted = _checked(options)
    settings, layout = wanted.sources[0], options.get("channels")
    name, rules = settings.domain, ReadingRules(settings.window, settings.percentiles)
    patches = wanted.resize == "patches"
    images: list[NDArray[np.float16]] = []
    targets: list[NDArray[np.uint8]] = []
    framings: list[Framing] = []
    digests: list[tuple[str, str]] = []
    sizes: list[tuple[int, ...]] = []
    for number, (image, target) in enumerate(items):
        image_hwc = as_hwc(image, layout, number)
        height, width = image_hwc.shape[:2]
        side = _side(image_hwc, number) if options.get("size") is None and not patches else wanted.size
        framing = framing_of(Path(f"Image {number}"), height, width, wanted.model_copy(update={"size": side}))
        image_scaled = scaled(image_hwc, rules, number, fix=_SCALING)
        made = frame_image(image_scaled, framing, size=None if patches else side)
        if target.ndim < 2:
            read = _labels(target, number, ignore=options.get("ignore"))
        else:
            read = _mask(target, image_hwc, number, ignore=options.get("ignore"))
        alike = slice(0, 1 if patches else None)
        if images and (made.shape[alike] != images[0].shape[alike] or read.ndim != targets[0].ndim):
            raise DataError(
                f"Item {number} differs from those before: image {image.shape}, target {target.shape}.",
                fix="Give size to resize all images, equally many channels, and either masks or labels.",
            )
        images.append(made.astype(np.float16))
        targets.append(read)
        framings.append(framing)
        sizes.append((height, width))
        # Runs of before stretched all images: others have to be other data to them.
        form = "" if framing == squashed(height, width, size=side) else wanted.resize
        # What is ignored changes what masks mean; without it they are digested as given, as they always were.
        digests.append((_digest(image, form), _digest(target if options.get("ignore") is None else read)))
    if not images:
        raise DataError(f"The data set {name} is empty.", fix="Give at least one image for training.")
    names = _finding_names(options, targets[0])
    given = tuple(targets)  # before they are resized
    classes: tuple[str, ...] = ()
    truths = np.zeros((len(images), 0), np.uint8)
    if names and patches:
        raise DataError("Patches are for masks, but the targets are labels.", fix='Leave resize="patches" out.')
    if not names:
        classes = _class_names(options, wanted, targets)
        number, stored = len(classes) or _number(options, wanted, targets), None if patches else images[0].shape[-1]
        seen = [frame_mask(mask, at, size=stored, number=number) for mask, at in zip(targets, framings, strict=True)]
        targets, truths = [mask for mask, _ in seen], np.stack([of for _, of in seen])
    about: dict[str, Any] = {"sizes": np.array(sizes, np.int32), "resize": wanted.resize, "class_names": classes}
    about |= {"given": () if names else given, "overlap": not names and given[0].ndim == 3}
    if patches:
        about["crops"] = _crops(images, targets, size=wanted.size, classes=truths.shape[1])
    manifest = _manifest(targets, names, digests, options, settings)
    held: tuple[Any, Any] = (np.stack(images), np.stack(targets)) if not patches else about["crops"].arrays
    store = ImageStore(manifest, held[0], held[1], truths, **about)
    with _as_in_a_recipe(DataSettings):  # what the arrays themselves decide
        DataSettings.model_validate(data_section(store))
    return store


def _manifest(
    targets: list[NDArray[np.uint8]],
    names: tuple[str, ...],
    digests: list[tuple[str, str]],
    options: Options,
    settings: SourceSettings,
) -> Manifest:
    """Returns the manifest of images with their targets and digests."""
    name, rules = settings.domain, ReadingRules(settings.window, settings.percentiles)
    labels = targets if names else [np.zeros(0, np.uint8)] * len(targets)
    shown, unknown = (
        [tuple(name for name, label in zip(names, row, strict=True) if label == of) for row in labels]
        for of in (1, IGNORE)
    )
    samples: list[Sample] = []
    held: dict[Path, str] = {}
    placed = _placed(len(targets), options.get("patients"), options.get("splits"), settings.fractions)
    for number, (patient, split) in enumerate(placed):
        key = f"{number:06d}"
        mask = None if names else Path(name, "targets", key)
        image, found, doubtful = Path(name, "images", key), shown[number], unknown[number]
        samples.append(Sample(key, image, mask, patient, name, split, findings=found, unknown=doubtful))
        held |= zip(samples[-1].files, digests[number], strict=False)  # labels are in the manifest itself
    return Manifest(tuple(samples), {name: rules}, names, digests=held)


def _crops(images: list[NDArray[np.float16]], masks: list[NDArray[np.uint8]], *, size: int, classes: int) -> Crops:
    places, counts = zip(*(places_of(mask, classes) for mask in masks), strict=True)
    shapes = np.array([mask.shape[-2:] for mask in masks], np.int32)
    return Crops(size, RaggedArrays(images), RaggedArrays(masks), shapes, np.stack(counts), RaggedArrays([*places]))


def _checked(options: Options) -> DataSettings:
    """Returns what can be said of the data before an image is seen, by the rules of recipes."""
    for key in options:
        if key not in Options.__annotations__:
            raise DataError(f"Images in memory have no option '{key}'.", fix=did_you_mean(key, Options.__annotations__))
    given = {key: _plain(value) for key, value in options.items() if value is not None}
    with _as_in_a_recipe(ArraysSettings):
        source = ArraysSettings(**{key: given[key] for key in _OF_SOURCE if key in given})
    with _as_in_a_recipe(DataSettings):
        return DataSettings(
            sources=(source,), **{key: given[key] for key in ("size", "resize", "classes") if key in given}
        )


@contextmanager
def _as_in_a_recipe(section: type[Section]) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise DataError(f"Images in memory: {explain(error, section, noun='data set')}", fix="") from None


def _plain(value: Any) -> Any:
    """Returns numbers of NumPy and torch as those of Python, which settings take alone."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


def _side(image_hwc: NDArray[Any], number: int) -> int:
    height, width = image_hwc.shape[:2]
    if height != width:
        raise DataError(
            f"Image {number} is {height} x {width} pixels, and networks take square images.",
            fix="Give size, such as size=256, to which images and masks are resized.",
        )
    return int(height)


def _class_names(options: Options, wanted: DataSettings, targets: Sequence[NDArray[np.uint8]]) -> tuple[str, ...]:
    """Returns the names of the classes; none where they have none."""
    given = wanted.class_names if isinstance(wanted.classes, tuple) else ()
    if targets[0].ndim == 3 and len(given) != len(targets[0]):
        raise DataError(
            f"There are masks of {len(targets[0])} classes that may overlap, and the classes {options.get('classes')}.",
            fix='Name each, as in classes=["liver", "tumour"].',
        )
    highest = max(max(classes_in(mask), default=0) for mask in targets)
    if given and highest > len(given):
        raise DataError(f"The masks hold class {highest}, and classes names {len(given)}.", fix="Name the others, too.")
    return given


def _number(options: Options, wanted: DataSettings, targets: Sequence[NDArray[np.uint8]]) -> int:
    """Returns the number of foreground classes that have no names."""
    given = None if options.get("classes") is None else wanted.outputs
    outputs = _outputs(given, max(max(classes_in(mask), default=0) for mask in targets))
    return max(outputs - 1, 1)


def _mask(mask: NDArray[Any], image_hwc: NDArray[Any], number: int, *, ignore: int | None) -> NDArray[np.uint8]:
    if mask.shape[-2:] != image_hwc.shape[:2] or mask.ndim > 3:
        raise DataError(
            f"Mask {number} has the shape {mask.shape}, its image {image_hwc.shape[0]} x {image_hwc.shape[1]} pixels.",
            fix="Give masks H x W of the size of their images, or K x H x W of K classes that may overlap.",
        )
    if mask.dtype.kind == "f":
        raise DataError(f"Mask {number} holds {mask.dtype} values.", fix="Give booleans or class indices: masks > 0.5.")
    if ignore is not None:
        kept = _mask(np.where(mask == ignore, 0, mask), image_hwc, number, ignore=None)
        return np.where(mask == ignore, np.uint8(IGNORE), kept)
    low, high = int(mask.min()), int(mask.max())
    if mask.ndim == 3 and (low < 0 or high > 1):
        raise DataError(
            f"Mask {number} of classes that may overlap holds values from {low} to {high}.",
            fix="Give 0 and 1 for each class, K x H x W; or class indices, H x W.",
        )
    if low < 0 or high >= MOST_OUTPUTS:
        raise DataError(
            f"Mask {number} holds values from {low} to {high}; class indices go from 0 to {MOST_OUTPUTS - 1}.",
            fix="Give class indices; for masks of 0 and 255, masks > 127.",
        )
    return mask.astype(np.uint8)


def _labels(labels: NDArray[Any], number: int, *, ignore: int | None) -> NDArray[np.uint8]:
    row = np.atleast_1d(labels)
    if ignore is not None:
        kept = _labels(np.where(row == ignore, 0, row), number, ignore=None)
        return np.where(row == ignore, np.uint8(IGNORE), kept)
    if not np.isin(row, (0, 1)).all():
        raise DataError(
            f"Label {number} holds other values than 0 and 1: {row[~np.isin(row, (0, 1))][0]}.",
            fix="Give one column of 0 and 1 for each finding; scikit-learn's label_binarize makes them of classes.",
        )
    return row.astype(np.uint8)


def _finding_names(options: Options, target: NDArray[np.uint8]) -> tuple[str, ...]:
    """Returns the names of the labels; none for masks."""
    given = options.get("findings")
    if target.ndim > 1:
        if given is not None:
            raise DataError("findings are names of labels, but the targets are masks.", fix="Leave findings out.")
        return ()
    if options.get("classes") is not None:
        raise DataError("classes are those of masks, but the targets are labels.", fix="Leave classes out.")
    number = len(target)
    names = tuple(f"finding {n}" for n in range(1, number + 1)) if given is None else _each("findings", given)
    if len(names) != number or len(set(names)) != number:
        raise DataError(f"There are {number} columns of labels and the findings {names}.", fix="Name each column once.")
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(f"The findings are {quoted(names)}.", fix="Give the name of each column as text.")
    return names


def _each(what: str, given: Any) -> tuple[Any, ...]:
    """Returns the items of a list, an array or the like; a text is none."""
    if isinstance(given, str) or not isinstance(given, Sized) or not isinstance(given, Iterable):
        kind = "a text" if isinstance(given, str) else quoted(given)
        raise DataError(f"{what} is {kind}.", fix="Give a list.")
    return tuple(given)


def _outputs(given: int | None, highest: int) -> int:
    """Returns ``data.classes`` for masks with this highest class index."""
    found = 1 if highest <= 1 else highest + 1
    if given is None:
        return found
    if given < found:
        raise DataError(f"The masks hold class {highest}, classes is {given}.", fix=f"Give classes={found}.")
    if given == 2:  # a store of one foreground class does not tell whether there are one or two outputs
        raise DataError(
            "classes is 2, but masks in memory of one class beside the background have one output.",
            fix="Leave classes out.",
        )
    return given


def _placed(
    number: int, patients: Sequence[str | int] | None, splits: Sequence[str] | None, fractions: tuple[float, float]
) -> Iterator[tuple[str, Split]]:
    """Yields patient and split of every image."""
    given = {what: _each(what, of) for what, of in (("patients", patients), ("splits", splits)) if of is not None}
    for what, several in given.items():
        if len(several) != number:
            raise DataError(f"There are {number} images and {len(several)} {what}.", fix=f"Give {what} for each image.")
    if "patients" in given:
        whole = [_patient(patient, n) for n, patient in enumerate(given["patients"])]
    else:
        whole = [f"{n:06d}" for n in range(number)]
    given_splits = [_split(word) for word in given["splits"]] if "splits" in given else [None] * number
    for patient, both in divided(zip(whole, given_splits, strict=True)).items():
        raise DataError(
            f"Patient {patient} is in {' and '.join(both)}.", fix="Put all images of a patient in one split."
        )
    yield from zip(whole, complete_splits(whole, given_splits, fractions=fractions, seed=SPLIT_SEED), strict=True)


def _patient(patient: Any, number: int) -> str:
    """Returns a patient as text; a missing one must not become a patient that all such images share."""
    missing = patient is None or patient != patient or not str(patient).strip()  # noqa: PLR0124  # NaN differs from itself
    if missing:
        raise DataError(f"Image {number} has no patient.", fix="Give each image its patient, or leave patients out.")
    return str(patient).strip()


def _split(word: str) -> Split:
    split = split_named(str(word))
    if split is None:
        raise DataError(f"splits holds '{word}'.", fix="Give train, val or test for each image.")
    return split


def _digest(values: NDArray[Any], form: str = "") -> str:
    digest = new_digest()
    digest.update(f"{values.shape} {values.dtype.str}{form}".encode())
    digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
