"""Whether several data sets generalise better than one: contrasts of what is otherwise alike, and a verdict."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medarts.comparison.paired import ALPHA, Difference, Floats, Measured, beyond_chance, flip_p, holm
from medarts.study.generalization import Claim, Contrast, Domain, Group, Network, Pooled, Relation, Verdict
from medarts.study.measures import Measures, Trainee, mean_measured
from medarts.study.sides import UNUSED, Maker, differing
from medarts.study.words import claim_words

OWN: tuple[Relation, ...] = ("own",)
NEITHER: tuple[Relation, ...] = ("unseen", "external")
UNSEEN: tuple[Relation, ...] = ("of the mix", *NEITHER)
"""Data sets that the side of one set has not seen."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What a study plans.

    Attributes:
        networks: of the study.
        groups: what is trained on.
        domains: what is tested on.
        trainings: all of them.
        searches: what its searched networks are made by.
        training: what the trainings on its groups are made by.
    """

    networks: Sequence[Network]
    groups: Sequence[Group]
    domains: Sequence[Domain]
    trainings: Collection[Trainee]
    searches: Mapping[str, Maker]
    training: Mapping[str, Maker]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two trainees and the data set on which they are compared; see `Contrast` for the other attributes."""

    one: Trainee
    other: Trainee
    common: str
    several: str
    single: str
    domain: str
    relation: Relation


@dataclass(frozen=True, eq=False, slots=True)
class _Found:
    """A contrast with its difference in the draws, and what every patient adds to it (patients,)."""

    contrast: Contrast
    measured: Measured
    contributions: Floats


def search_claim(planned: Planned, measures: Measures, *, title: str, seeds: int) -> Claim:
    """Returns what the study says of searching on several data sets.

    Every network that was searched on several sets is held against every one that was searched on one, both retrained
    and tested on the same set.

    Args:
        planned: the study.
        measures: the scores.
        title: what the score is called.
        seeds: the largest number of seeds of a training.
    """
    pairs = [pair for pair in _search_pairs(planned) if {pair.one, pair.other} <= {*planned.trainings}]
    return _claim("search", pairs, measures, makers=planned.searches, title=title, seeds=seeds)


def training_claim(planned: Planned, measures: Measures, *, title: str, seeds: int) -> Claim:
    """Returns what the study says of training on several data sets.

    Every network trained on several sets is held against itself trained on one of these, both tested on a set that
    neither was trained on.

    Args:
        planned: the study.
        measures: the scores.
        title: what the score is called.
        seeds: the largest number of seeds of a training.
    """
    pairs = [pair for pair in _training_pairs(planned) if {pair.one, pair.other} <= {*planned.trainings}]
    return _claim("training", pairs, measures, makers=planned.training, title=title, seeds=seeds)


def verdict_of(unseen: Pooled | None) -> Verdict | None:
    """Returns the verdict on the claim that several sets are better where one has not been.

    It takes both the mean of all differences and the single ones: the claim is supported where the mean is above 0
    beyond chance and no more differences are below 0 beyond chance than above; refuted the other way round; else it is
    undecided.
    """
    if unseen is None:
        return None
    if unseen.p is not None and unseen.p < ALPHA:
        if unseen.mean > 0 and unseen.better >= unseen.worse:
            return "supported"
        if unseen.mean < 0 and unseen.worse >= unseen.better:
            return "refuted"
    return "undecided"


def _claim(
    about: Literal["search", "training"],
    pairs: Sequence[_Pair],
    measures: Measures,
    *,
    makers: Mapping[str, Maker],
    title: str,
    seeds: int,
) -> Claim:
    found = _contrasts(pairs, measures)
    contrasts = tuple(one.contrast for one in found)
    unseen, own, neither = (_pooled(found, relations, seed=measures.seed) for relations in (UNSEEN, OWN, NEITHER))
    if unseen is not None and neither is not None and neither.count == unseen.count:
        neither = None
    sides = [(one.several, one.single) for one in contrasts]
    claim = Claim(
        about,
        verdict_of(unseen),
        planned=sum(pair.relation in UNSEEN for pair in pairs),
        contrasts=contrasts,
        differing=differing(((makers[one], makers[other]) for one, other in sides), without=UNUSED[about]),
        sides=tuple(makers[name].side for name in dict.fromkeys(name for pair in sides for name in pair)),
        unseen=unseen,
        own=own,
        neither=neither,
        words=(),
    )
    return replace(claim, words=claim_words(claim, title=title, seeds=seeds))


def _search_pairs(planned: Planned) -> Iterator[_Pair]:
    mixes = [network for network in planned.networks if len(network.searched_on) > 1]
    singles = [network for network in planned.networks if len(network.searched_on) == 1]
    for group in planned.groups:
        for mix, single in ((mix, single) for mix in mixes for single in singles):
            if len(group.domains) == 1:
                domain = group.domains[0]
                relation: Relation = "unseen"
                if domain in single.searched_on:
                    relation = "own"
                elif domain in mix.searched_on:
                    relation = "of the mix"
                one, other = (group.name, mix.name), (group.name, single.name)
                yield _Pair(one, other, group.name, mix.name, single.name, domain, relation)


def _training_pairs(planned: Planned) -> Iterator[_Pair]:
    groups = planned.groups
    mixes = [group for group in groups if len(group.domains) > 1]
    for network in planned.networks:
        for mix in mixes:
            parts = [group for group in groups if len(group.domains) == 1 and group.domains[0] in mix.domains]
            for part, domain in ((part, domain) for part in parts for domain in planned.domains):
                if domain.name not in mix.domains:
                    relation: Relation = "external" if domain.external else "unseen"
                    one, other = (mix.name, network.name), (part.name, network.name)
                    yield _Pair(one, other, network.name, mix.name, part.name, domain.name, relation)


def _contrasts(pairs: Iterable[_Pair], measures: Measures) -> list[_Found]:
    """Returns the contrasts of which both sides have scores, corrected for all of them."""
    found = []
    for pair in pairs:
        trainees = (pair.one, pair.other, pair.domain)
        measured, contributions = measures.difference(*trainees), measures.contributions(*trainees)
        if measured is not None and contributions is not None:
            found.append((pair, measured, contributions, measures.p_value(*trainees)))
    corrected = iter(holm([p for *_, p in found if p is not None]))
    contrasts = []
    for pair, measured, contributions, p in found:
        difference = Difference(
            measured.mean, *measured.interval(), p=p, p_corrected=None if p is None else next(corrected)
        )
        about = (pair.common, pair.several, pair.single, pair.domain, pair.relation)
        contrasts.append(_Found(Contrast(*about, difference=difference), measured, contributions))
    return contrasts


def _pooled(found: Sequence[_Found], relations: tuple[Relation, ...], *, seed: int) -> Pooled | None:
    """Returns the contrasts of some relations together; None where there is none.

    Every data set has the same weight, and in it every contrast. A patient's sign is flipped in all contrasts of the
    data set at once, as these share the network of several sets and the patient.
    """
    chosen = [one for one in found if one.contrast.relation in relations]
    if not chosen:
        return None
    by_domain: dict[str, list[_Found]] = {}
    for one in chosen:
        by_domain.setdefault(one.contrast.domain, []).append(one)
    mean = mean_measured([mean_measured([one.measured for one in of]) for of in by_domain.values()])
    contributions = np.concatenate(
        [np.mean([one.contributions for one in of], axis=0) / len(by_domain) for of in by_domain.values()]
    )
    low, high = mean.interval()
    signs = [beyond_chance(one.contrast.difference) for one in chosen]
    return Pooled(
        relations=tuple(dict.fromkeys(one.contrast.relation for one in chosen)),
        count=len(chosen),
        patients=len(contributions),
        better=signs.count(1),
        worse=signs.count(-1),
        mean=mean.mean,
        low=low,
        high=high,
        p=float(flip_p(contributions, seed=seed)) if len(contributions) > 1 else None,
    )
