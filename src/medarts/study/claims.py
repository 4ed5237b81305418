"""Whether several data sets generalise better than one: contrasts of runs that differ in nothing else, a verdict."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from medarts.comparison.paired import ALPHA, Difference, Measured, bootstrap_p, holm
from medarts.study.generalization import Claim, Contrast, Domain, Group, Network, Pooled, Relation, Verdict
from medarts.study.measures import Measures, Trainee, mean_measured, minus
from medarts.study.words import beyond_chance, search_words, training_words

OWN: tuple[Relation, ...] = ("own",)
NEITHER: tuple[Relation, ...] = ("unseen", "external")
UNSEEN: tuple[Relation, ...] = ("of the mix", *NEITHER)
"""Data sets that the side of one set has not seen."""


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


def search_claim(
    networks: Sequence[Network], groups: Sequence[Group], measures: Measures, *, title: str, seeds: int
) -> Claim:
    """Returns what the study says of searching on several data sets.

    Every network that was searched on several sets is held against every one that was searched on one, both retrained
    and tested on the same set.

    Args:
        networks: of the study.
        groups: those of one data set count.
        measures: the scores.
        title: what the score is called.
        seeds: the largest number of seeds of a training.
    """
    found = _contrasts(_search_pairs(networks, groups), measures)
    unseen, own, neither = (_pooled(found, relations) for relations in (UNSEEN, OWN, NEITHER))
    if unseen is not None and neither is not None and neither.count == unseen.count:
        neither = None
    verdict = verdict_of(unseen)
    words = search_words(verdict, unseen=unseen, own=own, neither=neither, title=title, seeds=seeds)
    contrasts = tuple(contrast for contrast, _ in found)
    return Claim("search", verdict, contrasts, unseen=unseen, own=own, neither=neither, words=words)


def training_claim(
    networks: Sequence[Network],
    groups: Sequence[Group],
    domains: Sequence[Domain],
    measures: Measures,
    *,
    title: str,
    seeds: int,
) -> Claim:
    """Returns what the study says of training on several data sets.

    Every network trained on several sets is held against itself trained on one of these, both tested on a set that
    neither was trained on.

    Args:
        networks: of the study.
        groups: what is trained on.
        domains: what is tested on.
        measures: the scores.
        title: what the score is called.
        seeds: the largest number of seeds of a training.
    """
    found = _contrasts(_training_pairs(networks, groups, domains), measures)
    unseen = _pooled(found, UNSEEN)
    verdict = verdict_of(unseen)
    words = training_words(verdict, unseen=unseen, title=title, seeds=seeds)
    contrasts = tuple(contrast for contrast, _ in found)
    return Claim("training", verdict, contrasts, unseen=unseen, own=None, neither=None, words=words)


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


def _search_pairs(networks: Sequence[Network], groups: Sequence[Group]) -> Iterator[_Pair]:
    mixes = [network for network in networks if len(network.searched_on) > 1]
    singles = [network for network in networks if len(network.searched_on) == 1]
    for group in groups:
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


def _training_pairs(networks: Sequence[Network], groups: Sequence[Group], domains: Sequence[Domain]) -> Iterator[_Pair]:
    mixes = [group for group in groups if len(group.domains) > 1]
    for network in networks:
        for mix in mixes:
            parts = [group for group in groups if len(group.domains) == 1 and group.domains[0] in mix.domains]
            for part, domain in ((part, domain) for part in parts for domain in domains):
                if domain.name not in mix.domains:
                    relation: Relation = "external" if domain.external else "unseen"
                    one, other = (mix.name, network.name), (part.name, network.name)
                    yield _Pair(one, other, network.name, mix.name, part.name, domain.name, relation)


def _contrasts(pairs: Iterable[_Pair], measures: Measures) -> list[tuple[Contrast, Measured]]:
    """Returns the contrasts of which both sides have a score, corrected for all of them, each with its difference."""
    found = []
    for pair in pairs:
        one, other = (measures.get(trainee, pair.domain) for trainee in (pair.one, pair.other))
        if one is not None and other is not None:
            found.append((pair, minus(one, other), measures.p_value(pair.one, pair.other, pair.domain)))
    corrected = iter(holm([p for _, _, p in found if p is not None]))
    contrasts = []
    for pair, measured, p in found:
        low, high = measured.interval()
        difference = Difference(measured.mean, low, high, p=p, p_corrected=None if p is None else next(corrected))
        about = (pair.common, pair.several, pair.single, pair.domain, pair.relation)
        contrasts.append((Contrast(*about, difference=difference), measured))
    return contrasts


def _pooled(found: Sequence[tuple[Contrast, Measured]], relations: tuple[Relation, ...]) -> Pooled | None:
    """Returns the contrasts of some relations together; None where there is none."""
    chosen = [(contrast, measured) for contrast, measured in found if contrast.relation in relations]
    if not chosen:
        return None
    by_domain: dict[str, list[Measured]] = {}
    for contrast, measured in chosen:
        by_domain.setdefault(contrast.domain, []).append(measured)
    mean = mean_measured([mean_measured(of) for of in by_domain.values()])
    low, high = mean.interval()
    signs = [beyond_chance(contrast) for contrast, _ in chosen]
    return Pooled(
        relations=tuple(dict.fromkeys(contrast.relation for contrast, _ in chosen)),
        count=len(chosen),
        better=signs.count(1),
        worse=signs.count(-1),
        mean=mean.mean,
        low=low,
        high=high,
        p=bootstrap_p(mean.drawn),
    )
