"""Annotations in COCO's format: a JSON file with the polygons or run lengths of the objects in many images.

Format: https://cocodataset.org/#format-data. A mask holds the number of the category of every pixel plus 1, and 0
where there is none; where objects overlap, the smaller one is on top.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.data.formats.polygons import fill_all
from medarts.data.formats.raw import Raw, Wanted, explained

_CODE_BITS = 5
"""Bits of a run length in one letter of COCO's compressed texts."""


@dataclass(frozen=True)
class Annotations:
    """What a file says.

    Attributes:
        path: the file.
        categories: number -> name.
        images: name of its file -> number, height and width of an image.
        objects: number of an image -> (category, segmentation) of its objects.
    """

    path: Path
    categories: dict[int, str]
    images: dict[str, tuple[int, int, int]]
    objects: dict[int, list[tuple[int, Any]]]

    def named(self, image: Path) -> str | None:
        """Returns the name under which an image file appears: the longest that its path ends in."""
        parts = image.as_posix().split("/")
        names = ("/".join(parts[at:]) for at in range(len(parts)))
        return next((name for name in names if name in self.images), None)


def read_annotations(path: Path) -> Annotations:
    """Reads the annotations of a file, which is kept for the next call.

    Raises:
        DataError: it is missing, no JSON, or not in COCO's format.
    """
    with explained(path):
        about = path.stat()
        return _read(path, about.st_mtime_ns, about.st_size)


def is_annotations(path: Path) -> bool:
    """Tells whether a JSON file has the keys of COCO's format."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.keys() >= {"images", "annotations", "categories"}


def read(path: Path, wanted: Wanted) -> Raw:
    """Reads the mask of an image: the numbers of categories plus 1, as a category may have the number 0."""
    annotations = read_annotations(path)
    name = None if wanted.image is None else annotations.named(wanted.image)
    if name is None:
        raise ValueError(f"it does not name {wanted.image}")
    number, height, width = annotations.images[name]
    drawn = [
        (category, _drawn(segmentation, (height, width)))
        for category, segmentation in annotations.objects.get(number, [])
        if wanted.objects is None or category + 1 in wanted.objects
    ]
    values = np.zeros((height, width, 1), dtype=np.int32)
    for category, mask in sorted(drawn, key=lambda each: -int(each[1].sum())):
        values[mask] = category + 1
    return Raw(values, range=None)


@lru_cache(maxsize=4)
def _read(path: Path, _modified: int, _size: int) -> Annotations:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    objects: dict[int, list[tuple[int, Any]]] = defaultdict(list)
    for each in content["annotations"]:
        if each.get("segmentation"):
            objects[each["image_id"]].append((int(each["category_id"]), each["segmentation"]))
    images: dict[str, tuple[int, int, int]] = {}
    for each in content["images"]:
        name = str(each["file_name"]).replace("\\", "/").removeprefix("./")
        images[name] = (each["id"], int(each["height"]), int(each["width"]))
    used = {category for each in objects.values() for category, _ in each}
    categories = {int(each["id"]): str(each["name"]) for each in content["categories"]}
    unknown = used - categories.keys()
    if unknown:
        raise ValueError(f"it has objects of the category {min(unknown)}, which it does not name")
    return Annotations(path, dict(sorted(categories.items())), images, dict(objects))


def _drawn(segmentation: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        return _of_runs(_decoded(counts) if isinstance(counts, str) else counts, shape)
    return fill_all([np.asarray(ring, dtype=float).reshape(-1, 2) for ring in segmentation], shape)


def _of_runs(counts: list[int], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns the mask of runs of background and foreground by turns, down the columns."""
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    if values.size != shape[0] * shape[1]:
        raise ValueError(f"run lengths of {values.size} pixels for an image of {shape[0]} x {shape[1]}")
    return values.reshape(shape, order="F")


def _decoded(text: str) -> list[int]:
    """Returns run lengths from COCO's compressed text: groups of five bits, from the third number on as differences."""
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        value |= (code & 0x1F) << shift
        shift += _CODE_BITS
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
