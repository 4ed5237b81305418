"""Images with annotations in COCO's format: polygons or run lengths in one JSON file, or in one for each split."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from medarts.config import MaskSourceSettings
from medarts.config.section import Text
from medarts.data.contents import composed
from medarts.data.formats import suffix_of
from medarts.data.formats.coco import Annotations, is_annotations, read_annotations
from medarts.data.manifest import ReadingRules
from medarts.data.naming import files_of_splits, images_below
from medarts.data.patterns import PathPattern, split_of
from medarts.data.sources import (
    AmbiguousLayoutError,
    Fault,
    Listing,
    Pair,
    Source,
    domain_of,
    missing,
    register_source,
    rules_of,
)
from medarts.data.splits import without_suffix
from medarts.errors import DataError

LAYOUT = "a JSON file of annotations in COCO's format, with the images it names"

_DEEPEST = 3
"""Folders below which no annotations are looked for."""


def _is_json(text: str) -> str:
    if not text.lower().endswith(".json"):
        raise ValueError(f"'{text}' is not the path of a JSON file")
    return text


class CocoSettings(MaskSourceSettings):
    """Images with COCO's annotations; the other settings are those of ``MaskSourceSettings``.

    A category is a class; ``labels`` are the numbers of categories plus 1. Default: every category that has objects, in
    the order of their numbers.

    Attributes:
        annotations: the JSON file, from the folder; with {split} in its path, one for each split.
    """

    kind: Literal["coco"] = "coco"
    annotations: Annotated[Text, AfterValidator(_is_json)] = "annotations.json"

    @property
    def identity(self) -> tuple[str, ...]:
        return (*super().identity, self.annotations)


@register_source("coco", settings=CocoSettings)
class Coco(Source):
    """Images that the annotations name, wherever they lie below the folder; an image without objects is background."""

    layout = LAYOUT
    tables = ("*.json",)
    takes_files = True

    def recognise(self, path: Path) -> tuple[CocoSettings, ...]:
        root = path.parent if path.is_file() else path
        files = [path] if path.is_file() else list(_json_files(root))
        found = [file.relative_to(root) for file in files if suffix_of(file) == ".json" and is_annotations(file)]
        patterns = {pattern for file in found for pattern in _with_split(file)}
        shared = [text for text in patterns if sum(PathPattern(text).fits(file.as_posix()) for file in found) > 1]
        if len(found) > 1 and len(shared) == 1:
            return (CocoSettings(path=root, name=domain_of(root), annotations=shared[0]),)
        if len(found) > 1:
            told = [f"the annotations {file.as_posix()}" for file in found]
            raise AmbiguousLayoutError(root, [(_settings(root, file),) for file in found], told)
        return tuple(_settings(root, file) for file in found)

    def names_of_values(self, settings: CocoSettings) -> Mapping[int, str]:
        parts = [(read_annotations(file), word) for file, word in _files(settings)]
        return {number + 1: name for number, name in categories_of(parts).items()}

    def find(self, settings: CocoSettings, findings: tuple[str, ...] | None = None) -> Listing:
        parts = [(read_annotations(file), word) for file, word in _files(settings)]
        images = images_below(settings.path)
        pairs: list[Pair] = []
        faults: list[Fault] = []
        for annotations, word in parts:
            for name in annotations.images:
                image = _image(name, annotations.path, word, images)
                if image is None:
                    faults.append(missing(annotations.path, name))
                else:
                    key = composed(without_suffix(image.relative_to(settings.path).as_posix()))
                    pairs.append(
                        Pair(key, image, annotations.path, patient=key, split=split_of(word) if word else None)
                    )
        rules = ReadingRules(labels=tuple((number + 1, n) for n, number in enumerate(categories_of(parts), start=1)))
        return Listing(tuple(pairs), tuple(faults), rules_of(settings, defaults=rules))


def _settings(root: Path, file: Path) -> CocoSettings:
    return CocoSettings(path=root, name=domain_of(root), annotations=file.as_posix())


def categories_of(parts: list[tuple[Annotations, str]]) -> dict[int, str]:
    """Returns number and name of the categories that have objects, in the order of their numbers."""
    names: dict[int, str] = {}
    for annotations, _ in parts:
        for number, name in annotations.categories.items():
            if names.setdefault(number, name) != name:
                raise DataError(
                    f"{annotations.path} calls category {number} '{name}', another file '{names[number]}'.",
                    fix="Give categories the same numbers in all files.",
                )
    used = {number for each, _ in parts for found in each.objects.values() for number, _ in found}
    return {number: names[number] for number in sorted(used)}


def _files(settings: CocoSettings) -> Iterator[tuple[Path, str]]:
    """Yields the files of annotations with the word for their split."""
    yield from files_of_splits(settings.path, settings.annotations, _json_files(settings.path), field="annotations")


def _json_files(root: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(root):
        inner.sort()
        if len(Path(folder).relative_to(root).parts) >= _DEEPEST:
            inner.clear()
        yield from (Path(folder) / name for name in sorted(names) if name.endswith(".json") and name[0] != ".")


def _with_split(path: Path) -> Iterator[str]:
    """Yields a path with {split} in place of each word of it that is one."""
    text = path.as_posix()
    for found in re.finditer(r"[A-Za-z]+", text):
        word = re.match(r"train|valid(ation)?|val|test", found[0], re.IGNORECASE)  # also that of train2017
        if word and split_of(word[0]):
            yield f"{text[: found.start()]}{{split}}{text[found.start() + len(word[0]) :]}"


def _image(name: str, annotations: Path, word: str, images: dict[str, list[Path]]) -> Path | None:
    """Returns the image of a name: the only one below the folder, the one beside the annotations, or of their split."""
    parts = tuple(name.split("/"))
    same = [path for path in images.get(composed(parts[-1]), []) if path.parts[-len(parts) :] == parts]
    beside = [path for path in same if annotations.parent in path.parents]
    of_split = [path for path in same if word and any(split_of(part) == split_of(word) for part in path.parent.parts)]
    return next((found[0] for found in (same, beside, of_split) if len(found) == 1), None)
