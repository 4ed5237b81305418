"""Networks of a wanted number of parameters: genotypes at another C, and genotypes drawn until they fit."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator

from medarts.errors import GenotypeError
from medarts.spaces.genotype import Genotype
from medarts.spaces.registry import random_genotype

Count = Callable[[Genotype], int]
"""Genotype -> trainable parameters of its network."""

TOLERANCE = 0.05
"""Part by which the parameters of a genotype that is drawn may be off."""

DRAWS = 2000
"""Draws for one network before it is given up."""

SEEDS = 1_000_000
"""Seeds of draws that belong to a seed of a study."""


def nearest_channel(genotype: Genotype, parameters: int, count: Count) -> Genotype:
    """Returns a genotype at the even C with which its parameters are nearest to a number.

    Args:
        genotype: the genotype; every group of its grouped convolutions stays whole.
        parameters: the wanted number.
        count: tells the number of a genotype; it grows with C.

    Raises:
        GenotypeError: it does not fit its space.
    """
    step = math.lcm(2, int(genotype.settings.get("shuffle_groups", 1)))

    def at(number: int) -> Genotype:
        return genotype.with_settings(init_channel=step * number)

    largest = 1
    while count(at(largest)) < parameters:
        largest *= 2
    above = 1 + bisect_left(range(1, largest + 1), parameters, key=lambda number: count(at(number)))
    return min((at(number) for number in (above - 1, above) if number), key=lambda each: abs(count(each) - parameters))


def draw_matching(like: Genotype, *, number: int, seed: int, count: Count) -> Iterator[Genotype]:
    """Draws genotypes from the space of another until as many have its number of parameters, within 5 %.

    Args:
        like: the other; gives settings and number of parameters.
        number: genotypes that are wanted.
        seed: of a study. The first genotypes are the same, however many are wanted.
        count: tells the number of parameters of a genotype.

    Yields:
        The genotypes; the seed of each stands in its provenance.

    Raises:
        GenotypeError: too few fit.
    """
    wanted, found = count(like), 0
    for draw in range(DRAWS * number):
        genotype = random_genotype(like, seed=SEEDS * seed + draw)
        if abs(count(genotype) - wanted) <= TOLERANCE * wanted:
            found += 1
            yield genotype
            if found == number:
                return
    raise GenotypeError(
        f"Of {DRAWS * number} genotypes drawn like '{like.name}' only {found} have its {wanted:,} parameters within "
        f"{TOLERANCE:.0%}; {number} are wanted.",
        fix="Draw fewer, or like a network with less extreme operations.",
    )
