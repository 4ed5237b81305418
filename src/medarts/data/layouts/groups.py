"""The files of a folder by the places where they lie: folders that differ in a split, a patient or a group are one."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Literal

from medarts.data.contents import composed
from medarts.data.formats import is_image, suffix_of
from medarts.data.patterns import split_of
from medarts.data.splits import natural

Role = Literal["image", "mask"]

_MASKS = {
    "mask", "masks", "label", "labels", "gt", "gts", "truth", "truths", "groundtruth", "groundtruths", "annotation",
    "annotations", "annot", "ground", "seg", "segs", "segm", "segmentation", "segmentations", "dseg", "contour",
    "contours", "roi", "rois", "manual", "target", "targets",
}  # fmt: skip
_IMAGES = {
    "image", "images", "img", "imgs", "original", "originals", "data", "input", "inputs", "frame", "frames", "photo",
    "photos", "picture", "pictures", "scan", "scans", "raw", "dicom",
}  # fmt: skip
_NEARLY_ALL = 0.9

_VISIT = re.compile(r"(ses|session|visit|exam|study|series|time|day)[-_ ]?\d", re.IGNORECASE)
"""Folders of one patient that are not of different kinds, even where every patient has them."""

_ORDER = re.compile(r"(?:\d+|[A-Za-z])[.)] *(?=\D)|\d+[_-] *(?=\D)")
"""What orders folders in listings, such as "2. " and "b. ", and is no part of what they are called."""

_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def tokens(name: str) -> list[str]:
    """Returns the words and numbers of a name.

    >>> tokens("ISIC-2017_Training_Part1_GroundTruth"), tokens("imagesTr")
    (['ISIC', '2017', 'Training', 'Part', '1', 'Ground', 'Truth'], ['images', 'Tr'])
    """
    return _TOKEN.findall(name)


def role_of(name: str) -> Role | None:
    """Returns what the words of a name say it is; a mask where both are named."""
    words = {word.lower() for word in tokens(name)}
    return "mask" if words & _MASKS else "image" if words & _IMAGES else None


def named_as_masks(mask: str, *, beside: str) -> bool:
    """Tells whether a pattern has a word for masks that the pattern of the images beside them does not have.

    >>> named_as_masks("{name}_seg", beside="{name}"), named_as_masks("labels/{name}_b", beside="labels/{name}_a")
    (True, False)
    """
    own, others = ({word.lower() for word in tokens(re.sub(r"\{\w+\}", " ", text))} for text in (mask, beside))
    return bool((own - others) & _MASKS)


@dataclass(frozen=True)
class File:
    """An image file in a group.

    Attributes:
        path: from the root.
        values: what its folders say: split, patient, group, class.
    """

    path: Path
    values: Mapping[str, str]

    @cached_property
    def stem(self) -> str:
        """The name without its suffix, as it is compared."""
        return composed(self.path.name[: len(self.path.name) - len(suffix_of(self.path))])


@dataclass
class Group:
    """The image files of one kind of folder.

    Attributes:
        template: the folders as the beginning of a pattern, "" or ending in "/".
        shared: number of folders that all image files lie in, whose names tell nothing apart.
        suffix: of all files, where other files of these folders have the same names; "" where it says nothing.
        files: in natural order of their paths.
    """

    template: str
    suffix: str = ""
    files: list[File] = field(default_factory=list)
    shared: int = 0

    @property
    def fields(self) -> frozenset[str]:
        """The fields of the template."""
        return frozenset(re.findall(r"\{(\w+)\}", self.template))

    @property
    def role(self) -> Role | None:
        """What its deepest folder with a word for it says, else nearly all names of its files; None without words."""
        parts = [re.sub(r"\{\w+\}", "", part) for part in self.template.split("/")[self.shared : -1]]
        by_folder = next((role for part in reversed(parts) if (role := role_of(part))), None)
        if by_folder is None and sum(role_of(file.stem) == "mask" for file in self.files) > _NEARLY_ALL * len(
            self.files
        ):
            return "mask"
        return by_folder


class _Tree(dict[Path, tuple[list[str], list[str]]]):
    """The folders below a root that hold images at any depth, with the (folders, image files) of each."""

    @cached_property
    def beside_masks(self) -> frozenset[str]:
        """Names, in lower case, of all folders that are in no folder of masks."""
        return frozenset(path.name.lower() for path in self if all(role_of(part) != "mask" for part in path.parts))


@dataclass
class _Node:
    """Folders that are one in a pattern, with what led to each."""

    folders: list[tuple[Path, Mapping[str, str]]]
    template: str = ""
    in_masks: bool = False


def groups_of(root: Path) -> list[Group]:
    """Returns the image files below a folder by the kinds of folders they lie in, in the order of the templates."""
    tree = _tree(root)
    groups: dict[str, Group] = {}
    nodes = [_Node([(Path(), {})])]
    while nodes:
        node = nodes.pop()
        for folder, values in node.folders:
            for name in tree[folder][1]:
                group = groups.setdefault(node.template, Group(node.template))
                group.files.append(File(folder / name, values))
        nodes += _inner(node, tree)
    found = [part for group in groups.values() for part in _by_suffix(group)]
    shared = _shared_folders(found)
    for group in found:
        group.shared = shared
        group.files.sort(key=lambda file: natural(file.path.as_posix()))
    return sorted(found, key=lambda group: (group.template, group.suffix))


def _shared_folders(groups: Sequence[Group]) -> int:
    """Returns the number of folders at the beginning of all templates."""
    parts = [group.template.split("/")[:-1] for group in groups]
    alike = (len(set(names)) == 1 for names in zip(*parts, strict=False))
    return sum(1 for _ in takewhile(bool, alike))


def _tree(root: Path) -> _Tree:
    tree = _Tree()
    for at, inner, names in os.walk(root, topdown=False):
        folder = Path(at).relative_to(root)
        files = [name for name in names if is_image(Path(name))]
        kept = [name for name in inner if not name.startswith(".") and folder / name in tree]
        if files or kept:
            tree[folder] = (sorted(kept, key=natural), files)
    return tree or _Tree({Path(): ([], [])})


def _inner(node: _Node, tree: _Tree) -> list[_Node]:
    """Returns the folders in those of a node, with those that are one put together."""
    places: dict[str, list[tuple[Path, Mapping[str, str]]]] = defaultdict(list)
    for folder, values in node.folders:
        for name in tree[folder][0]:
            places[name].append((folder, values))
    templates = dict(_templates(node, places, tree))
    merged: dict[str, _Node] = {}
    for name, (template, values) in templates.items():
        masks = node.in_masks or role_of(template) == "mask"
        inner = merged.setdefault(template, _Node([], f"{node.template}{template}/", masks))
        inner.folders += [(folder / name, {**before, **values}) for folder, before in places[name]]
    return list(merged.values())


def _templates(
    node: _Node, places: Mapping[str, list[tuple[Path, Mapping[str, str]]]], tree: _Tree
) -> Iterator[tuple[str, tuple[str, dict[str, str]]]]:
    """Yields for every name of a folder its part of a pattern and the values of fields that it has."""
    by_split: dict[str, dict[str, str]] = defaultdict(dict)
    for name in places if "{split}" not in node.template else ():
        for template, word in _with_split(name):
            by_split[template][name] = word
    done: set[str] = set()
    for template, words in by_split.items():
        if len({split_of(word) for word in words.values()}) > 1:
            yield from ((name, (template, {"split": word})) for name, word in words.items() if name not in done)
            done |= words.keys()
    classes = _classes(node, [name for name in places if name not in done and role_of(name) is None], places, tree)
    yield from classes.items()
    rest = [name for name in places if name not in done and name not in classes]
    half = len(node.folders) / 2 if len(node.folders) > 1 else len(node.folders)
    common = {name for name in rest if role_of(name) or (len(places[name]) > half and not _VISIT.match(name))}
    yield from ((name, (composed(name), {})) for name in rest if name in common)
    free = [name for name in rest if name not in common]
    numbered = [name for name in free if any(letter.isdigit() for letter in name)]
    if 2 * len(numbered) > len(free):  # the others are of other kinds
        yield from ((name, (composed(name), {})) for name in free if name not in numbered)
        free = numbered
    kind = _variable(node, free, places, tree)
    for name in free:
        if kind is None:
            yield name, (composed(name), {})
        else:
            before = _shared_start(free)
            yield name, (f"{before}{{{kind}}}", {kind: composed(name)[len(before) :]})


def _classes(
    node: _Node, names: list[str], places: Mapping[str, list[tuple[Path, Mapping[str, str]]]], tree: _Tree
) -> dict[str, tuple[str, dict[str, str]]]:
    """Returns the parts of a pattern and the classes of folders of masks, of which each has a class of its own.

    They have files of the same images, but for what ends the names in each, and no folders beside the masks are called
    like them, as those of patients are. An image may have no file in some of them.
    """
    of_images = [name for name in names if name.lower() in tree.beside_masks]
    if not node.in_masks or len(names) < 2 or 2 * len(of_images) > len(names):
        return {}
    images = Counter(
        image for name in names for image in {(at, each) for at, _ in places[name] for each in _images(at / name, tree)}
    )
    if max(images.values()) < 2:
        return {}
    orders = [_ORDER.match(composed(name)) for name in names]
    separators = {order[0].lstrip("0123456789") if order and order[0][0].isdigit() else None for order in orders}
    (separator,) = separators if len(separators) == 1 else (None,)
    if separator is None:
        return {name: ("{class}", {"class": composed(name)}) for name in names}
    called = {name: composed(name)[order.end() :] for name, order in zip(names, orders, strict=True) if order}
    return {name: (f"{{n}}{separator}{{class}}", {"class": of}) for name, of in called.items()}


def _images(folder: Path, tree: _Tree) -> set[str]:
    """Returns the names of the files in a folder without the words that all end in."""
    stems = {Path(file).stem for file in _files(folder, tree)}
    end = re.search(r"[-_. ].*", start_of([stem[::-1] for stem in stems])[::-1]) if len(stems) > 1 else None
    return {stem.removesuffix(end[0] if end else "") for stem in stems}


def _variable(
    node: _Node, names: list[str], places: Mapping[str, list[tuple[Path, Mapping[str, str]]]], tree: _Tree
) -> str | None:
    """Returns the field that names of folders are values of; None where each is a kind of folder of its own."""
    if len(names) < 2:
        return None
    stems = {
        name: Counter(Path(file).stem for folder, _ in places[name] for file in _files(folder / name, tree))
        for name in names
    }
    drawn = {name: sum(role_of(stem) == "mask" for stem in each) for name, each in stems.items()}
    masks = {name for name, count in drawn.items() if count > _NEARLY_ALL * len(stems[name])}
    if masks and len(masks) < len(names):
        return None
    shared = sum(1 for count in sum((Counter(set(each)) for each in stems.values()), Counter()).values() if count > 1)
    alike = 2 * shared > len(set().union(*stems.values()))
    complete = all({"image", "mask"} <= _roles_in(places[name], name, tree) for name in names)
    numbered = sum(any(letter.isdigit() for letter in name) for name in names)
    free = [field for field in ("patient", "group") if f"{{{field}}}" not in node.template]
    if 2 * numbered > len(names) and free:
        return free[0]
    return "group" if (complete or not alike) and "group" in free else None


def _roles_in(places: Sequence[tuple[Path, Mapping[str, str]]], name: str, tree: _Tree) -> set[Role | None]:
    """Returns what the folders in folders of a name say they are."""
    return {role_of(inner) for folder, _ in places for inner in tree[folder / name][0]}


def _files(folder: Path, tree: _Tree) -> Iterator[str]:
    inner, files = tree[folder]
    yield from files
    for name in inner:
        yield from _files(folder / name, tree)


def _with_split(name: str) -> Iterator[tuple[str, str]]:
    """Yields a name with {split} in place of each word of it that is one, and this word.

    Where something orders it, as in "b. Testing Set", also with * in its place.
    """
    order = _ORDER.match(name)
    for found in _TOKEN.finditer(name):
        if split_of(found[0]):
            yield composed(f"{name[: found.start()]}{{split}}{name[found.end() :]}"), found[0]
            if order and order.end() <= found.start():
                yield composed(f"*{name[order.end() - 1 : found.start()]}{{split}}{name[found.end() :]}"), found[0]


def _shared_start(names: Iterable[str]) -> str:
    """Returns what names begin with, such as "sub-"; "" where that would cut a word or a number.

    >>> _shared_start(["sub-01", "sub-02"]), _shared_start(["p10", "p11"])
    ('sub-', '')
    """
    found = re.match(r".*[-_. ]", start_of([composed(name) for name in names]))
    return found[0] if found else ""


def start_of(texts: Sequence[str]) -> str:
    """Returns what all texts begin with."""
    low, high = min(texts), max(texts)
    return low[: next((n for n, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))]


def _by_suffix(group: Group) -> list[Group]:
    """Divides a group by the suffixes of its files where most names appear with several of them."""
    names = Counter((file.path.parent, file.stem) for file in group.files)
    if 2 * sum(count > 1 for count in names.values()) <= len(names):
        return [group]
    parts: dict[str, Group] = {}
    for file in group.files:
        suffix = suffix_of(file.path)
        parts.setdefault(suffix, Group(group.template, suffix)).files.append(file)
    return list(parts.values())
