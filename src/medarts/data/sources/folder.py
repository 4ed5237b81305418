"""Any folder of images with masks: two patterns say which files are images and which masks, and what their names say.

A NIfTI volume becomes its slices along the last axis, "name/000" onwards, and one patient.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from medarts.config import MaskSourceSettings
from medarts.config.data import IGNORED
from medarts.config.patterns import FilePattern
from medarts.config.section import LATER, Before, Text
from medarts.data.contents import Contents, composed, file_named, listed
from medarts.data.formats import suffix_of
from medarts.data.layouts import Layout, layouts_of
from medarts.data.patterns import PathPattern, split_of
from medarts.data.sources import (
    EMPTY_CLASS,
    IMAGE_ALONE,
    MASK_ALONE,
    PAIR_FIX,
    STACK_PERCENTILES,
    STACKS,
    STRAY,
    WITHOUT_CLASS,
    WITHOUT_MASKS,
    AmbiguousLayoutError,
    Fault,
    Listing,
    Pair,
    Source,
    domain_of,
    passed_over,
    register_source,
    require_folder,
    rules_of,
    unreadable,
)
from medarts.data.sources.table import NAME as TABLE
from medarts.data.splits import natural
from medarts.data.tables import read_json
from medarts.data.volumes import slices_of
from medarts.errors import DataError

IMAGE, MASK = "images/{name}", "masks/{name}"
LAYOUT = "images/ and masks/ with files of the same name, and optionally splits.csv"

_KEY = ("split", "patient", "group", "name")
"""Fields that tell one image from another."""

Key = tuple[str, ...]


class FolderSettings(MaskSourceSettings):
    """Images and masks whose paths have patterns; the other settings are those of ``MaskSourceSettings``.

    In a pattern, {name}, {patient}, {group}, {class} and {channel} are parts of names, {split} is a word such as train,
    valid or Ts, {side} is L, R, left, right, OD, OS or nothing, {n} are digits, * is any text, and ``**/``
    any folders. Suffixes are left out, unless they tell the two apart.

    Attributes:
        image: pattern of the images, from the folder.
        mask: pattern of the masks; an image belongs to the mask of the same {name}, {patient}, {group} and {split}.
        channels: values of {channel} in the order of the channels. Default: all, in natural order.
        absent: what it means that an image lacks the mask file of a {class}: error, the file is missing; empty, the
            image does not show the class, as in data sets that have a file only where there is something to draw. An
            image without the file of any class is an error.
    """

    kind: Literal["folder"] = "folder"
    image: Annotated[FilePattern, LATER] = IMAGE
    mask: Annotated[FilePattern, LATER] = MASK
    channels: Annotated[tuple[Text, ...] | None, Field(min_length=1, max_length=64), LATER] = None
    absent: Annotated[Literal["error", "empty"], Before("empty")] = "error"

    @property
    def identity(self) -> tuple[str, ...]:
        return (*super().identity, self.image, self.mask)

    def is_idle(self, name: str) -> bool:
        """True of ``absent`` where masks have no file for every class."""
        return name == "absent" and "class" not in PathPattern(self.mask).fields

    @model_validator(mode="after")
    def _patterns_fit_together(self) -> Self:
        images, masks = PathPattern(self.image).fields, PathPattern(self.mask).fields
        if set(images) & set(_KEY) != set(masks) & set(_KEY):
            raise ValueError(
                f"image '{self.image}' and mask '{self.mask}' cannot be paired; give both the same of {{name}}, "
                "{patient}, {group} and {split}"
            )
        if "class" in images or "channel" in masks:
            raise ValueError("{class} is for masks and {channel} for images")
        if self.channels is not None and "channel" not in images:
            raise ValueError(f"channels are named, but image '{self.image}' has no {{channel}}")
        if self.patients is not None and "patient" in images:
            raise ValueError("the patient is in both image and patients; keep one of them")
        if self.image == self.mask:
            raise ValueError(f"image and mask are both '{self.image}'")
        return self


_MOST_WAYS = 9
"""Ways to read a folder that are offered."""


@dataclass(slots=True)
class _Found:
    """The files of a folder by what their names say.

    Attributes:
        images: files of every image by channel; "" without channels.
        masks: files of every mask by class; "" without classes.
        faults: what was noted on the way.
        unread: paths, from the folder, of what may be an image or a mask and is not read.
    """

    images: dict[Key, dict[str, Path]] = field(default_factory=dict)
    masks: dict[Key, dict[str, Path]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)


@register_source("folder", settings=FolderSettings)
class Folder(Source):
    """Images and masks by their names; without patients, every image or volume counts as its own."""

    layout = LAYOUT
    tables = ("dataset.json", "dataset_fingerprint.json", "dataset_description.json", "participants.tsv")
    generality = 1

    def recognise(self, path: Path) -> tuple[FolderSettings, ...]:
        images, masks = ((path / name).is_dir() for name in ("images", "masks"))
        if file_named(path, TABLE) is not None and not masks:
            return ()
        found = layouts_of(path)
        if any(len(alternatives) > 1 for alternatives in found):
            ways = list(islice(product(*found), _MOST_WAYS))
            raise AmbiguousLayoutError(path, [_settings(path, way) for way in ways], [_told(way) for way in ways])
        if not found and not (images or masks):
            return ()
        return _settings(path, [alternatives[0] for alternatives in found] or [None])

    def read_as(self, settings: FolderSettings, others: Sequence[FolderSettings]) -> FolderSettings:
        """Takes over what absent files mean, where all of a recipe mean the same."""
        meant = {other.absent for other in others}
        return settings.model_copy(update={"absent": meant.pop()}) if len(meant) == 1 else settings

    def names_of_values(self, settings: FolderSettings) -> Mapping[int, str]:
        """Reads ``dataset.json``: of nnU-Net name: value, of the Medical Segmentation Decathlon value: name."""
        path = file_named(settings.path, "dataset.json")
        content = read_json(path) if path else {}
        labels = content.get("labels") if isinstance(content, dict) else None
        named: dict[int, str] = {}
        for one, other in labels.items() if isinstance(labels, dict) else ():
            value, name = (one, other) if str(one).isdecimal() else (other, one)
            if str(value).isdecimal() and int(value) > 0:
                named[int(value)] = IGNORED if str(name).lower() == IGNORED else str(name)
        return dict(sorted(named.items()))

    def find(self, settings: FolderSettings, findings: tuple[str, ...] | None = None) -> Listing:
        found = _found(settings)
        pairs: list[Pair] = []
        channels = _channels(found, settings)
        faults = [*found.faults, *_alone(found, settings), *_incomplete(found, channels), *_absent(found, settings)]
        for key in sorted(found.images.keys() & found.masks.keys(), key=lambda key: natural("/".join(key))):
            if all(channel in found.images[key] for channel in channels):
                slices, fault = slices_of(_pair(key, found, channels, settings), _beside(key, found, channels))
                pairs += slices
                faults += fault
        return Listing(tuple(pairs), tuple(faults), rules_of(settings))


def _settings(path: Path, layouts: Sequence[Layout | None]) -> tuple[FolderSettings, ...]:
    """Returns the sources of layouts; of None, of folders that are named as usual and are not complete."""
    made = []
    for number, layout in enumerate(layouts, start=1):
        stacks = layout is not None and any(suffix_of(file) in STACKS for file in layout.images)
        made.append(
            FolderSettings(
                path=path,
                name=domain_of(path) + (f"-{number}" if number > 1 else ""),
                percentiles=STACK_PERCENTILES if stacks else None,
                image=IMAGE if layout is None else layout.image,
                mask=MASK if layout is None else layout.mask,
            )
        )
    return tuple(made)


def _told(layouts: Sequence[Layout]) -> str:
    return ", ".join(f"images {layout.image} with masks {layout.mask}" for layout in layouts)


def _found(settings: FolderSettings) -> _Found:
    """Lists the files of both patterns, with what belongs to neither."""
    found = _Found()
    images, masks = PathPattern(settings.image), PathPattern(settings.mask)
    places = {place.folder: place for pattern in (images, masks) for place in _places(settings.path, pattern)}
    drawn: list[tuple[Path, list[dict[str, str]]]] = []
    for path in (path for place in places.values() for path in place.images):
        relative = path.relative_to(settings.path)
        as_image, as_mask = (list(pattern.readings(pattern.named(relative))) for pattern in (images, masks))
        if as_image and (not as_mask or images.literals > masks.literals):
            wanted = settings.channels or ()
            values = next((each for each in as_image if each.get("channel") in wanted), as_image[0])
            _note(path, _key(values, images), values.get("channel", ""), found.images, found)
        elif as_mask:
            drawn.append((path, as_mask))
        else:
            fix = "Rename it, change the patterns image and mask, or take it out."
            found.faults.append(Fault(path, STRAY, fix, relative.as_posix()))
    for path, readings in drawn:  # {name}_{class} can often be read in several ways, of which one is that of an image
        values = next((each for each in readings if _key(each, images) in found.images), readings[0])
        _note(path, _key(values, images), values.get("class", ""), found.masks, found)
    for place in places.values():
        inner = tuple(folder for folder in place.folders if not any(each.is_relative_to(folder) for each in places))
        found.faults += passed_over(replace(place, folders=inner))
        found.unread += [path.relative_to(settings.path) for path in place.unread]
    return found


def _places(root: Path, pattern: PathPattern) -> list[Contents]:
    """Returns the folders of a pattern; refuses a pattern that has none."""
    places = pattern.folders(root)
    if not places:
        folder = root
        for part in pattern.text.split("/")[:-1]:
            if "{" in part or "*" in part:
                raise DataError(
                    f"No folder of {root} is named as in '{pattern.text}'.",
                    fix="Correct image and mask of the source.",
                )
            folder = next((path for path in listed(folder).folders if path.name.lower() == part.lower()), folder / part)
            require_folder(folder, layout=LAYOUT if pattern.text in (IMAGE, MASK) else pattern.text)
        places = [listed(folder)]  # which is there, and holds nothing that may be an image
    return places


def _note(path: Path, key: Key, part: str, files: dict[Key, dict[str, Path]], found: _Found) -> None:
    first = files.setdefault(key, {}).setdefault(part, path)
    if first is not path:
        detail = f"{first.name}, {path.name}"
        found.faults.append(Fault(path, "second file of the same name", "Keep one of them.", detail))


def _key(values: Mapping[str, str], images: PathPattern) -> Key:
    """Returns what tells an image from others, in the order of the pattern of the images."""
    return tuple(
        split_of(values[field]) or "" if field == "split" else values[field] for field in images.fields if field in _KEY
    )


def _alone(found: _Found, settings: FolderSettings) -> Iterator[Fault]:
    """Yields the images without masks and the masks without images, with the partner that is not read."""
    images, masks = PathPattern(settings.image), PathPattern(settings.mask)
    at = images.fields.index("split") if "split" in images.fields else None
    drawn = {key[at] for key in found.masks} if at is not None else set()
    without: dict[str, list[Path]] = {}
    for here, there, pattern, what, problem in (
        (found.images, found.masks, masks, "mask", IMAGE_ALONE),
        (found.masks, found.images, images, "image", MASK_ALONE),
    ):
        unread = {
            _key(values, images): settings.path / path
            for path in found.unread
            for name in (composed(path.name), composed(path.stem))  # "1.2.840" may have no suffix at all
            for values in pattern.readings(composed((path.parent / name).as_posix()))
        }
        for key in sorted(here.keys() - there.keys(), key=lambda key: natural("/".join(key))):
            file = next(iter(here[key].values()))
            if at is not None and what == "mask" and drawn and key[at] not in drawn:
                without.setdefault(key[at], []).append(file)
            elif key in unread:
                yield unreadable(unread[key], what)
            else:
                yield Fault(file, problem, PAIR_FIX)
    for split, files in without.items():
        fix = "Use them with medarts predict, or add their masks."
        yield Fault(files[0].parent, WITHOUT_MASKS, fix, split, len(files))


def _incomplete(found: _Found, channels: tuple[str, ...]) -> Iterator[Fault]:
    """Yields the images that lack a channel."""
    for key, files in found.images.items():
        missing = [channel for channel in channels if channel not in files]
        if missing:
            fix = "Add the files, or name the channels that all images have in channels."
            yield Fault(next(iter(files.values())), "image without a channel", fix, f"{'/'.join(key)}: {missing[0]}")


def _absent(found: _Found, settings: FolderSettings) -> Iterator[Fault]:
    """Yields the classes that have no file in some images, with the number of these."""
    drawn = [found.masks[key] for key in found.images.keys() & found.masks.keys()]
    is_empty = settings.absent == "empty"
    for name in sorted({name for files in drawn for name in files}, key=natural):
        lacking = [files for files in drawn if name not in files]
        if lacking:
            yield Fault(
                settings.path,
                EMPTY_CLASS if is_empty else WITHOUT_CLASS,
                "Add the files; or, if an image does not show a class that has none, set absent: empty for the source.",
                f"{name} in {len(lacking)} of {len(drawn)}",
                len(lacking),
                doubt=is_empty,
            )


def _channels(found: _Found, settings: FolderSettings) -> tuple[str, ...]:
    every = {channel for files in found.images.values() for channel in files}
    return settings.channels or tuple(sorted(every, key=natural))


def _beside(key: Key, found: _Found, channels: tuple[str, ...]) -> tuple[Path, ...]:
    """Returns the files of an image beside its first."""
    return *(found.images[key][channel] for channel in channels[1:]), *found.masks[key].values()


def _pair(key: Key, found: _Found, channels: tuple[str, ...], settings: FolderSettings) -> Pair:
    """Returns an image with its mask, before slices are known."""
    fields = [field for field in PathPattern(settings.image).fields if field in _KEY]
    values = dict(zip(fields, key, strict=True))
    name = "/".join(key)
    image, *more = [found.images[key][channel] for channel in channels]
    classes = tuple(sorted(found.masks[key].items(), key=lambda each: natural(each[0])))
    return Pair(
        name,
        image,
        classes[0][1],
        patient=values.get("patient", name),
        split=split_of(values.get("split", "")),
        more=tuple(more),
        class_masks=classes if classes[0][0] else (),
    )
