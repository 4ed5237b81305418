"""Whether several data sets generalise better than one: contrasts of what is otherwise alike, and a verdict."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medarts.comparison.paired import ALPHA, Difference, beyond_chance, holm, least_p
from medarts.comparison.pooled import Paired, counting_sets, mean_of_pairs, mean_over_sets
from medarts.study.generalization import Claim, Contrast, Domain, Group, Network, Pooled, Relation, Verdict
from medarts.study.measures import Measures, Trainee
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
    """A contrast, and its difference as it is taken together with others."""

    contrast: Contrast
    paired: Paired


def search_claim(planned: Planned, measures: Measures, *, title: str) -> Claim:
    """Returns what the study says of searching on several data sets.

    Every network that was searched on several sets is held against every one that was searched on one, both retrained
    and tested on the same set.

    Args:
        planned: the study.
        measures: the scores.
        title: what the score is called.
    """
    pairs = [pair for pair in _search_pairs(planned) if {pair.one, pair.other} <= {*planned.trainings}]
    return _claim("search", pairs, measures, makers=planned.searches, title=title)


def training_claim(planned: Planned, measures: Measures, *, title: str) -> Claim:
    """Returns what the study says of training on several data sets.

    Every network trained on several sets is held against itself trained on one of these, both tested on a set that
    neither was trained on.

    Args:
        planned: the study.
        measures: the scores.
        title: what the score is called.
    """
    pairs = [pair for pair in _training_pairs(planned) if {pair.one, pair.other} <= {*planned.trainings}]
    return _claim("training", pairs, measures, makers=planned.training, title=title)


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
) -> Claim:
    found = _contrasts(pairs, measures)
    contrasts = tuple(one.contrast for one in found)
    unseen = _pooled([one for one in found if one.contrast.relation in UNSEEN], seed=measures.seed)
    left_out = () if unseen is None else unseen.left_out
    counted = [one for one in found if one.contrast.domain not in left_out]
    own, neither = (
        _pooled([one for one in counted if one.contrast.relation in relations], seed=measures.seed)
        for relations in (OWN, NEITHER)
    )
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
    return replace(claim, words=claim_words(claim, title=title))


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
    found: list[tuple[_Pair, Paired, Difference]] = []
    for pair in pairs:
        paired = measures.paired(pair.one, pair.other, pair.domain)
        if paired is not None:
            found.append((pair, paired, paired.difference(seed=measures.seed)))
    tested = [(paired, difference.p) for _, paired, difference in found if difference.p is not None]
    corrected = iter(holm([p for _, p in tested]))
    least = iter(holm([least_p(paired.patients) for paired, _ in tested]))
    contrasts = []
    for pair, paired, difference in found:
        is_tested = difference.p is not None
        contrast = Contrast(
            common=pair.common,
            several=pair.several,
            single=pair.single,
            domain=pair.domain,
            relation=pair.relation,
            patients=paired.patients,
            seeds=measures.common_seeds(pair.one, pair.other, pair.domain),
            difference=replace(difference, p_corrected=next(corrected)) if is_tested else difference,
            decidable=is_tested and next(least) < ALPHA,
        )
        contrasts.append(_Found(contrast, paired))
    return contrasts


def _pooled(found: Sequence[_Found], *, seed: int) -> Pooled | None:
    """Returns contrasts together; None where there is none.

    Those on data sets of one patient are left out, see `counting_sets`. Every other data set has the same weight, and
    in it every contrast. A patient's sign is flipped in all contrasts of the data set at once, as these share the
    network of several sets and the patient.
    """
    if not found:
        return None
    by_domain: dict[str, list[_Found]] = {}
    for one in found:
        by_domain.setdefault(one.contrast.domain, []).append(one)
    domains = counting_sets({domain: of[0].paired.patients for domain, of in by_domain.items()})
    together = mean_over_sets({domain: mean_of_pairs([one.paired for one in by_domain[domain]]) for domain in domains})
    mean = together.difference(seed=seed)
    counted = [one.contrast for domain in domains for one in by_domain[domain]]
    signs = [beyond_chance(contrast.difference) for contrast in counted]
    return Pooled(
        domains=domains,
        left_out=tuple(domain for domain in by_domain if domain not in domains),
        count=len(counted),
        patients=together.patients,
        better=signs.count(1),
        worse=signs.count(-1),
        undecidable=sum(not contrast.decidable for contrast in counted),
        mean=mean.mean,
        low=mean.low,
        high=mean.high,
        p=mean.p,
    )
