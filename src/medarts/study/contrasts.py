"""Whether several data sets generalise better than one: contrasts of two sides on the same images, and their mean.

Two claims are examined. Search: a network searched on several data sets against one searched on a single set, both
retrained and tested on the same set. Training: a network trained on several sets against itself trained on one of them,
both tested on a set outside of the mix.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pandas as pd

from medarts.comparison.measures import Measures
from medarts.comparison.overall import OVERALL, difference_cells
from medarts.config import Recipe
from medarts.config.reading import as_text, differences
from medarts.config.study import Study, group_recipe, search_recipe
from medarts.evaluation.stats import (
    Contrast,
    Difference,
    corrected,
    counting_sets,
    mean_of_contrasts,
    mean_over_sets,
)
from medarts.study.networks import search_behind

Claim = Literal["search", "training"]

UNSEEN = ("of the mix", "unseen", "external")
"""Relations of data sets that the side of one set has not seen: only the side of several sets has seen it, neither has,
or neither has and nothing in the study was trained on it. A data set that the single side has seen is its "own"."""

UNUSED: Mapping[Claim, tuple[str, ...]] = {"search": ("train",), "training": ("search", "derive", "space", "seed")}
"""Sections of a recipe that have no effect on it; trainings have the same seeds."""

CONTRAST_COLUMNS = (
    *("claim", "common", "several", "single", "dataset", "relation", "difference", "low", "high", "p", "p_corrected"),
    *("patients", "seeds", "verdict"),
)
_NUMBERS = ("difference", "low", "high", "p", "p_corrected")

Trainee = tuple[str, str]
"""A group of data sets, and a network trained on it."""


class Pair(NamedTuple):
    """Two trainees and the data set on which they are compared.

    Attributes:
        one: of the side of several data sets.
        other: of the side of one.
        common: what both share: the group they are retrained on (search) or the network (training).
        several: the network searched on several sets, or the group trained on.
        single: that of one set.
        dataset: the data set tested.
        relation: of the data set to both sides.
    """

    one: Trainee
    other: Trainee
    common: str
    several: str
    single: str
    dataset: str
    relation: str


def search_pairs(study: Study, searched_on: Mapping[str, Sequence[str]]) -> Iterator[Pair]:
    """Yields what is compared to examine the search: every network of a mix with every one of a single set.

    Args:
        searched_on: by network the data sets of its search.
    """
    mixes = [name for name, of in searched_on.items() if len(of) > 1]
    singles = [name for name, of in searched_on.items() if len(of) == 1]
    for group in study.trained_on:
        if len(group.data) == 1:
            (dataset,) = group.data
            there = set(study.networks_of(group))
            for mix, single in ((mix, single) for mix in mixes for single in singles if {mix, single} <= there):
                seen = [name for name in (single, mix) if dataset in searched_on[name]]
                relation = "unseen" if not seen else "own" if seen[0] == single else "of the mix"
                yield Pair((group.name, mix), (group.name, single), group.name, mix, single, dataset, relation)


def training_pairs(study: Study) -> Iterator[Pair]:
    """Yields what is compared to examine the training: every network on a mix with itself on every part of the mix."""
    mixes = [group for group in study.trained_on if len(group.data) > 1]
    for network in study.names:
        groups = [group for group in study.trained_on if network in study.networks_of(group)]
        for mix in (group for group in mixes if group in groups):
            parts = [group for group in groups if len(group.data) == 1 and group.data[0] in mix.data]
            for part, dataset in ((part, dataset) for part in parts for dataset in study.domains):
                if dataset not in mix.data:
                    relation = "external" if dataset in study.external else "unseen"
                    one, other = (mix.name, network), (part.name, network)
                    yield Pair(one, other, network, mix.name, part.name, dataset, relation)


def contrasts_of(claim: Claim, pairs: Sequence[Pair], measures: Mapping[str, Measures], *, seed: int) -> pd.DataFrame:
    """Returns the contrasts of a claim, corrected for their number, then their means over data sets.

    Every data set has the same weight in a mean, and in it every contrast; the sign of a patient flips in all contrasts
    at once. Data sets of one patient do not count, see ``counting_sets``. The mean over the data sets that the single
    side has not seen answers the claim; means over its own ones, and over those that no side has seen where these are
    not all, stand beside it.

    Args:
        pairs: what is compared; pairs without scores are left out.
    """
    found = {pair: contrast for pair in pairs if (contrast := _contrast(pair, measures)) is not None}
    tested = corrected(contrast.difference(seed=seed) for contrast in found.values())
    rows = [_row(claim, pair, one) for pair, one in zip(found, tested, strict=True)]
    patients = {pair.dataset: contrast.patients for pair, contrast in found.items() if pair.relation in UNSEEN}
    counting = counting_sets(patients) if patients else tuple(pair.dataset for pair in found)
    means: dict[str, dict[Pair, Contrast]] = {
        relation: {pair: one for pair, one in found.items() if pair.dataset in counting and pair.relation in relations}
        for relation, relations in (("not seen by one", UNSEEN), ("own", ("own",)), ("seen by neither", UNSEEN[1:]))
    }
    if means["seen by neither"] == means["not seen by one"]:
        del means["seen by neither"]
    for relation, of in means.items():
        if of:
            (mean,) = corrected([_mean(of).difference(seed=seed)])
            rows.append(_row(claim, Pair(("", ""), ("", ""), "", "", "", OVERALL, relation), mean))
    return pd.DataFrame(rows, columns=CONTRAST_COLUMNS).astype(dict.fromkeys(_NUMBERS, float))


def _contrast(pair: Pair, measures: Mapping[str, Measures]) -> Contrast | None:
    of_dataset, names = measures.get(pair.dataset), ["/".join(pair.one), "/".join(pair.other)]
    if of_dataset is None or not {*names} <= {*of_dataset.networks}:
        return None
    return of_dataset.contrast(*names)


def _mean(found: Mapping[Pair, Contrast]) -> Contrast:
    by_dataset: dict[str, list[Contrast]] = {}
    for pair, contrast in found.items():
        by_dataset.setdefault(pair.dataset, []).append(contrast)
    return mean_over_sets({dataset: mean_of_contrasts(of) for dataset, of in by_dataset.items()})


def _row(claim: Claim, pair: Pair, found: Difference) -> dict[str, Any]:
    parts = {name: getattr(pair, name) for name in ("common", "several", "single", "dataset", "relation")}
    return {"claim": claim, **parts, **difference_cells(found)}


@dataclass(frozen=True)
class Maker:
    """How a side of contrasts was made.

    Attributes:
        recipe: of its search, or of its trainings.
        sizes: how the size of a searched network was chosen.
        images: training images; None where unknown.
    """

    recipe: Recipe
    sizes: Mapping[str, object]
    images: int | None


def makers(study: Study, images: Mapping[tuple[Claim, str], int]) -> dict[tuple[Claim, str], Maker]:
    """Returns how the searched networks and the groups of a study are made, networks searched elsewhere included.

    Args:
        images: training images of searches, by network, and of groups, where they are known.
    """
    found: dict[tuple[Claim, str], Maker] = {}
    for entry in study.networks:
        run = search_behind(entry)
        sizes = {name: getattr(entry, name) for name in ("init_channel", "parameters")}
        for network in entry.names:
            recipe = search_recipe(study, network) if entry.searched_on is not None else run.recipe if run else None
            if recipe is not None:
                found["search", network] = Maker(recipe, sizes, images.get(("search", network)))
    for group in study.trained_on:
        recipe = group_recipe(study, group, seed=group.seeds[0])
        found["training", group.name] = Maker(recipe, {}, images.get(("training", group.name)))
    return found


def sides_of(contrasts: pd.DataFrame, made: Mapping[tuple[Claim, str], Maker]) -> pd.DataFrame:
    """Returns in what the sides of contrasts differ besides their data sets: claim, field, several, single."""
    rows: dict[tuple[str, ...], None] = {}
    for claim, several, single in contrasts[["claim", "several", "single"]].drop_duplicates().itertuples(index=False):
        if several:
            one, other = made[claim, several], made[claim, single]
            for values in _differing(one, other, without=UNUSED[claim]):
                rows[claim, *values] = None
    return pd.DataFrame(sorted(rows), columns=["claim", "field", "several", "single"])


def _differing(one: Maker, other: Maker, *, without: Collection[str]) -> Iterator[tuple[str, str, str]]:
    for field, value, changed in differences(one.recipe, other.recipe, without=without):
        if not f"{field}.".startswith(("data.sources.", "data.findings.")):
            yield field, value, changed
    for name, size in one.sizes.items():
        if size != other.sizes[name]:
            yield name, _as_text(size), _as_text(other.sizes[name])
    if one.images != other.images:
        yield "training images", _as_text(one.images), _as_text(other.images)


def _as_text(value: object) -> str:
    return "not given" if value is None else as_text(value)
