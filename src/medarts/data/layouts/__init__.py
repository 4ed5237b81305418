"""The layout of a folder of images with masks, recognised by its structure: folders and names that repeat.

Folders that differ in a split, a patient or a group are taken as one kind of folder. Of two kinds, or within one,
images and masks are those whose names are alike but for what surrounds them. Words such as masks, labels or _seg say
which of the two are masks; where there are none, the content of some files does.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medarts.data.formats import image_count, raw_image
from medarts.data.layouts.affixes import Pairing, pair
from medarts.data.layouts.groups import Group, groups_of
from medarts.data.patterns import PathPattern, split_of
from medarts.errors import DataError

_KEY = ("split", "patient", "group")
"""Fields of folders that tell one image from another."""

_OPENED = 3
"""Files of a group that are opened to see whether they are masks."""

_FEW = 12
"""Values that a mask may have."""

_ALL = 0.99
"""Share of the pixels of a mask that have its values; the rest is noise of JPEG."""

_CLOSE = 0.5
"""Share of the images of a layout from which another that has the same images is a choice."""


@dataclass(frozen=True)
class Layout:
    """Patterns of images and masks, and what they reach.

    Attributes:
        image: pattern of the images.
        mask: pattern of the masks.
        pairs: number of images with a mask.
        images: their files.
        masks: the files of their masks.
        sure: words or the content of files say which of the two are masks.
    """

    image: str
    mask: str
    pairs: int
    images: frozenset[Path]
    masks: frozenset[Path]
    sure: bool

    @property
    def files(self) -> frozenset[Path]:
        """All files."""
        return self.images | self.masks

    @property
    def turned(self) -> "Layout":
        """The layout in which the images are the masks."""
        return replace(self, image=self.mask, mask=self.image, images=self.masks, masks=self.images)


def layouts_of(root: Path) -> list[list[Layout]]:
    """Returns the layouts of a folder: one for each set of images, with its alternatives where it is ambiguous.

    Returns:
        Sets of images without a file in common, the largest first; of each the possible layouts, the likeliest first.
    """
    found = sorted(_candidates(root, groups_of(root)), key=_rank, reverse=True)
    chosen: list[list[Layout]] = []
    while found:
        first = found[0]
        same = [
            each for each in found if not each.images.isdisjoint(first.files) and each.pairs >= _CLOSE * first.pairs
        ]
        clear = first.sure and all(not each.sure or each.images.isdisjoint(first.images) for each in same[1:])
        alternatives = [first] if clear else [each for each in same if each.sure == first.sure]
        chosen.append(_distinct(alternatives))
        taken: frozenset[Path] = frozenset().union(*(each.files for each in same))
        found = [each for each in found if each.files.isdisjoint(taken)]
    return chosen


def _rank(layout: Layout) -> tuple[bool, int, int]:
    return layout.sure, layout.pairs, -len(layout.image + layout.mask)


def _distinct(layouts: Iterable[Layout]) -> list[Layout]:
    return list({(each.images, each.masks): each for each in reversed(list(layouts))}.values())[::-1]


def _candidates(root: Path, groups: Sequence[Group]) -> Iterator[Layout]:
    """Yields the layouts that pairs of groups, or groups by themselves, can have."""
    for group in groups:
        if group.role != "mask":
            yield from _within(root, group)
    drawn = [group for group in groups if group.role == "mask"]
    others = [group for group in groups if group.role != "mask"]
    for mask in drawn:
        for image in others:
            yield from _across(image, mask, sure=True)
    unclear = [group for group in others if group.role is None] if not drawn else []
    paths = {id(group): [file.path for file in group.files] for group in unclear} if len(unclear) > 1 else {}
    looks = {name: look_like_masks(root, files) for name, files in paths.items()}
    for mask in unclear:
        for image in others:
            if image is not mask and looks.get(id(mask)) is not False:
                is_mask, is_image = looks.get(id(mask)), image.role == "image" or looks.get(id(image)) is False
                yield from _across(image, mask, sure=bool(is_mask and is_image))


def _within(root: Path, group: Group) -> Iterator[Layout]:
    """Yields the layouts of images and masks that lie in the same folders; both ways round where nothing tells."""
    fields = sorted(group.fields & set(_KEY))
    found = pair(group.files, group.files, fields=fields, together=True)
    if found is None:
        return
    for layout in _layout(group, group, found, fields, sure=found.named or found.image == "{name}"):
        if len(layout.files) <= _CLOSE * len(group.files):
            continue
        if layout.sure:
            yield layout
            continue
        looks = [look_like_masks(root, sorted(files)) for files in (layout.images, layout.masks)]
        if looks[1] is not False:
            yield replace(layout, sure=looks == [False, True])
        if looks[0] is not False and "{class}" not in layout.mask and "{channel}" not in layout.image:
            yield replace(layout.turned, sure=looks == [True, False])


def _across(image: Group, mask: Group, *, sure: bool) -> Iterator[Layout]:
    """Yields the layout of images and masks of different folders, or of different formats."""
    for one, other in _alike(*_without_split(image, mask)):
        fields = sorted(one.fields & set(_KEY))
        found = pair(one.files, other.files, fields=fields)
        if found is not None:
            yield from _layout(one, other, found, fields, sure=sure)


def _without_split(image: Group, mask: Group) -> tuple[Group, Group]:
    """Returns the two groups without their split where all is for training, so that splits are sampled."""
    if "split" not in image.fields & mask.fields:
        return image, mask
    words = {file.values["split"] for group in (image, mask) for file in group.files}
    if {split_of(word) for word in words} != {"train"} or len(words) > 1:
        return image, mask
    return _of_splits(image)[0], _of_splits(mask)[0]


def _alike(image: Group, mask: Group) -> Iterator[tuple[Group, Group]]:
    """Yields the two groups with the same fields: a split that only one of them has is a folder of its own."""
    different = (image.fields ^ mask.fields) & set(_KEY)
    if not different:
        yield image, mask
    elif different == {"split"}:
        for one in _of_splits(image) if "split" in image.fields else [image]:
            for other in _of_splits(mask) if "split" in mask.fields else [mask]:
                yield one, other


def _of_splits(group: Group) -> list[Group]:
    words = dict.fromkeys(file.values["split"] for file in group.files)
    return [
        Group(
            group.template.replace("{split}", word),
            group.suffix,
            [file for file in group.files if file.values["split"] == word],
            group.shared,
        )
        for word in words
    ]


def _layout(image: Group, mask: Group, found: Pairing, fields: Sequence[str], *, sure: bool) -> Iterator[Layout]:
    """Yields the layout of a pairing, with the files that its patterns reach."""
    suffixes = (image.suffix, mask.suffix) if image.template == mask.template else ("", "")
    drawn = found.mask.replace("{class}", "*") if "class" in mask.fields else found.mask  # folders say the class
    patterns = (f"{image.template}{found.image}{suffixes[0]}", f"{mask.template}{drawn}{suffixes[1]}")
    if any("{name}" not in text and "{patient}" not in text for text in patterns) or patterns[0] == patterns[1]:
        return
    reached = [_reached(group, PathPattern(text)) for group, text in zip((image, mask), patterns, strict=True)]
    if image is mask:  # what fits both is what more of its letters say
        first, second = sorted((0, 1), key=lambda n: PathPattern(patterns[n]).literals)
        reached[first] = reached[first] - reached[second]
    yield Layout(*patterns, len(found.cores), frozenset(reached[0]), frozenset(reached[1]), sure)


def _reached(group: Group, pattern: PathPattern) -> set[Path]:
    return {file.path for file in group.files if pattern.fits(pattern.named(file.path))}


def look_like_masks(root: Path, files: Sequence[Path]) -> bool | None:
    """Tells whether some of the files hold few values, as masks do; None where none can be read."""
    looks: list[bool] = []
    for file in files[:: max(1, len(files) // _OPENED)][:_OPENED]:
        path = root / file
        try:
            count = image_count(path)
            raw = raw_image(path, count // 2 if count > 1 else None)
        except DataError:
            continue
        values = raw.values.reshape(-1, raw.values.shape[-1])[:, 0]
        counts = np.sort(np.unique(values, return_counts=True)[1])
        looks.append(bool(len(counts) <= _FEW or counts[-_FEW:].sum() > _ALL * values.size))
    return all(looks) if looks else None
