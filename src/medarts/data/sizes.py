"""Sizes of images that tell cameras, devices or centres apart."""

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

Size = tuple[int, int]
"""Height and width in pixels."""

MOST_SIZES = 4
"""More sizes are those of cropped or scaled images, and say nothing of where these come from."""

LEAST_SHARE, FEWEST = 0.1, 3
"""Share and number of the images of a size; a few of another size are no group."""

DIFFERENCE = 1.05
"""Ratio of the areas of two sizes below which they are one: some devices crop by a few pixels."""


def sizes_apart(sizes: Mapping[Size, int]) -> dict[Size, int]:
    """Returns the sizes that divide images into a few groups, the most frequent first; none where nothing does.

    Images that are turned by a right angle are of one size.

    >>> sizes_apart({(605, 700): 20, (700, 605): 2, (960, 999): 28})
    {(960, 999): 28, (605, 700): 22}
    >>> sizes_apart({(512, 512): 40, (510, 512): 8}), sizes_apart({(512, 512): 40, (64, 64): 1})
    ({}, {})

    Args:
        sizes: (height, width) -> number of images.
    """
    turned = Counter[Size]()
    for (height, width), number in sizes.items():
        turned[min(height, width), max(height, width)] += number
    found = dict(turned.most_common())
    if not 1 < len(found) <= MOST_SIZES:
        return {}
    if min(found.values()) < max(FEWEST, LEAST_SHARE * sum(found.values())):
        return {}
    areas = sorted(height * width for height, width in found)
    return found if all(larger >= DIFFERENCE * one for one, larger in pairwise(areas)) else {}


def sizes_line(domain: str, sizes: Mapping[Size, int]) -> str | None:
    """Returns a sentence about images of several cameras or centres; None where sizes do not tell any apart.

    Args:
        domain: name of the data set.
        sizes: (height, width) -> number of images.
    """
    found = sizes_apart(sizes)
    if not found:
        return None
    *first, last = (f"{height} x {width} ({number:,})" for (height, width), number in found.items())
    return (
        f"{domain}: images are of {len(found)} sizes, {', '.join(first)} and {last}, perhaps of several cameras or "
        "centres. See that each split has images of all. With a column group in splits.csv, medarts evaluate compares "
        "the scores of groups."
    )
