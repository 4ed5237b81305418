"""Names of images and masks: what stands before and behind the part that they have in common."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from medarts.data.layouts.groups import File, role_of, start_of

Core = tuple[str, ...]
"""What tells an image from others: the values of its folders, and the part of its name."""

_MOST = 40
"""Affixes of a group that are tried."""

_RARE = 0.05
"""Share of the files below which an affix is that of single files."""

_COVERED = 0.9
"""Share of the names that have a channel from which it is one of all."""

_SEPARATORS = "_-. "


@dataclass(frozen=True, slots=True)
class Affix:
    """What surrounds the name.

    >>> Affix("mask_", "").of("mask_7"), Affix("", "_mask").of("7")
    ('7', None)
    """

    before: str = ""
    behind: str = ""

    def of(self, stem: str) -> str | None:
        """Returns the name in a stem, "" where the stem is the affix alone; None where it has another affix."""
        fits = len(stem) >= self.size and stem.startswith(self.before) and stem.endswith(self.behind)
        return stem[len(self.before) : len(stem) - len(self.behind)] if fits else None

    @property
    def text(self) -> str:
        """The text before or behind, of which an affix has one."""
        return self.before + self.behind

    @property
    def size(self) -> int:
        """The number of letters."""
        return len(self.text)

    @property
    def is_number(self) -> bool:
        """True without a letter, as of slices or channels."""
        return self.size > 0 and not re.search(r"[^\W\d_]", self.text)

    @property
    def is_mask(self) -> bool:
        """True where its words say that it is a mask."""
        return role_of(self.text) == "mask"


@dataclass(frozen=True)
class Pairing:
    """How two sets of files belong together.

    Attributes:
        image: pattern of the names of images, with {channel} where there are several files an image.
        mask: pattern of the names of masks, with {class} where there are several files a mask.
        cores: of the images that have a mask.
        named: the words of the affix tell masks from images.
    """

    image: str
    mask: str
    cores: frozenset[Core]
    named: bool


Series = dict[Affix, set[Core]]


def series_of(files: Sequence[File], *, fields: Sequence[str]) -> Series:
    """Returns the affixes that several files have, with the cores of these; the shortest first.

    Args:
        fields: of the folders that tell images apart.
    """
    counts = Counter(affix for file in files for affix in _affixes(file.stem))
    least = max(_RARE * len(files), 1 if len(files) < 4 else 2)
    frequent = [affix for affix, count in counts.most_common(_MOST) if count >= least]
    named = [_named(file, fields) for file in files]
    return {affix: {*_cores(named, affix)} for affix in sorted({Affix(), *frequent}, key=_order)}


def _order(affix: Affix) -> tuple[int, str]:
    return affix.size, affix.text


_Named = tuple[Core, str]
"""The values of the folders of a file, and its stem."""


def _named(file: File, fields: Sequence[str]) -> _Named:
    return tuple(file.values[field].lower() for field in fields), file.stem


def _cores(files: Iterable[_Named], affix: Affix) -> Iterator[Core]:
    """Yields what tells the images of files from others, without those that have another affix or nothing else."""
    before, behind, size = affix.before, affix.behind, affix.size
    for folders, stem in files:
        # As `Affix.of` says, but this is done for each of many affixes and files.
        if len(stem) >= size and stem.startswith(before) and stem.endswith(behind) and (folders or len(stem) > size):
            yield (*folders, stem[len(before) : len(stem) - len(behind)])


def pair(
    of_images: Sequence[File], of_masks: Sequence[File], *, fields: Sequence[str], together: bool = False
) -> Pairing | None:
    """Returns how most masks belong to images; None where no two names have a part in common.

    Args:
        of_images: the files that may be images.
        of_masks: those that may be masks; the same files where they lie together.
        fields: of the folders that tell images apart.
        together: they do, so that the words of affixes tell them apart, else the longer one is that of masks.
    """
    images = series_of(of_images, fields=fields)
    masks = images if together else series_of(of_masks, fields=fields)
    ranked = (
        ((len(named & drawn), mask.is_mask, -(image.size + mask.size)), image, mask)
        for image, named in images.items()
        for mask, drawn in masks.items()
        if not named.isdisjoint(drawn) and (not together or _are_different(image, mask))
    )
    best = max(ranked, key=lambda each: each[0], default=None)
    if best is None:
        return None
    _, image, mask = best
    named = images[image]

    def of_classes(series: Series) -> list[Affix]:
        unlike = {affix for affix in series if together and affix.is_mask != mask.is_mask}
        return _several(series, mask, named, least=1, besides=unlike | ({image} if together else set()))

    classes = of_classes(masks)
    cores = named & set().union(*(masks[affix] for affix in (mask, *classes)))
    rare = _rare(of_masks, named, fields=fields, known=cores, by=(image, mask, *classes))
    classes = of_classes(dict(sorted((masks | rare).items(), key=lambda each: _order(each[0]))))
    cores |= named & set().union(*(rare.get(affix, set()) for affix in classes))
    channels = _several(
        images, image, cores, least=_COVERED * len(cores), besides={mask, *classes} if together else set()
    )
    return Pairing(
        _pattern([image, *channels], "channel", cores),
        _pattern([mask, *classes], "class", cores),
        frozenset(cores),
        mask.is_mask or image.is_mask,
    )


def _rare(
    files: Sequence[File],
    named: Collection[Core],
    *,
    fields: Sequence[str],
    known: Collection[Core],
    by: Sequence[Affix],
) -> Series:
    """Returns the affixes of masks that few images have, as of a rare class; that of a single file is of no class.

    Args:
        files: that may be masks.
        named: of the images.
        fields: of the folders that tell images apart.
        known: of the images that have a mask so far.
        by: affixes of these images and masks, whose files are recognised already.
    """
    found: Series = {}
    for file in files:
        one = [_named(file, fields)]
        if any(core in known for affix in by for core in _cores(one, affix)):
            continue
        for affix in _affixes(file.stem):
            core = next(_cores(one, affix), None)
            variant = any(affix.text.startswith(other.text) for other in by if other.behind)  # such as _mask_old
            if core is not None and core in named and not affix.is_number and not variant:
                found.setdefault(affix, set()).add(core)
    return {affix: cores for affix, cores in found.items() if len(cores) > 1}


def _are_different(image: Affix, mask: Affix) -> bool:
    """Tells whether two affixes of one folder can be that of images and that of masks, in this order."""
    if image == mask or mask.is_number or mask.size == 0 or image.is_mask:
        return False
    return mask.is_mask or mask.size >= image.size


def _several(
    series: Series, first: Affix, partners: set[Core], *, least: float, besides: Collection[Affix]
) -> list[Affix]:
    """Returns the affixes of further files of the same names, of other channels or classes.

    Args:
        least: names that have one of them.
    """
    found: list[Affix] = []
    for affix, cores in series.items() if first.size else ():
        same_side = bool(affix.behind) == bool(first.behind)
        nested = any(_is_part(affix, other) or _is_part(other, affix) for other in (first, *found))
        if affix.size and affix not in besides and same_side and not nested and len(cores & partners) >= least:
            found.append(affix)
    return found


def _is_part(one: Affix, other: Affix) -> bool:
    return one.before.startswith(other.before) and one.behind.endswith(other.behind)


def _pattern(affixes: Sequence[Affix], field: str, cores: Collection[Core]) -> str:
    """Returns the pattern of names with one of some affixes; with several, what they differ in is a field."""
    texts = [affix.text for affix in affixes]
    text = texts[0]
    if len(texts) > 1:
        before, behind = _common(texts)
        text = f"{before}{{{field}}}{behind}"
    if all(core[-1] == "" for core in cores):
        return text
    return f"{text}{{name}}" if affixes[0].before else f"{{name}}{text}"


def _common(texts: Sequence[str]) -> tuple[str, str]:
    """Returns what texts begin and end with, up to a separator."""
    before = _up_to_separator(start_of(texts))
    behind = _up_to_separator(start_of([text[::-1] for text in texts]))[::-1]
    return before, behind if all(len(text) > len(before) + len(behind) for text in texts) else ""


def _up_to_separator(text: str) -> str:
    found = re.match(rf".*[{re.escape(_SEPARATORS)}]", text)
    return found[0] if found else ""


def _affixes(stem: str) -> list[Affix]:
    """Returns what may surround the name in a stem: words behind it, words before it, or the stem itself."""
    places = [n for n, letter in enumerate(stem) if letter in _SEPARATORS]
    behind = [Affix("", stem[place:]) for place in places[-3:] if place > 0]
    before = [Affix(stem[: place + 1], "") for place in places[:2] if place + 1 < len(stem)]
    word = re.fullmatch(r".*[^\W_]([A-Z][a-z]+)", stem)  # 7Mask
    return [*behind, *before, Affix("", stem), *([Affix("", word[1])] if word else [])]
