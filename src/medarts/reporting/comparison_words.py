"""What a comparison says, in sentences made from its numbers: what is beyond chance, and what is not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from medarts.comparison.front import beats
from medarts.comparison.paired import ALPHA, Difference, beyond_chance, least_corrected_p
from medarts.comparison.result import Comparison, NetworkResult
from medarts.comparison.words import excluded_words
from medarts.reporting.comparison_controls import control_sentences
from medarts.reporting.comparison_points import Point, best_first, place_of, points_of
from medarts.reporting.content import Content, card, decimals, listed
from medarts.reporting.plots import SCORE_NAMES


def ordinal(place: int) -> str:
    """Writes a place.

    >>> [ordinal(place) for place in (1, 2, 3, 4, 11, 12, 21)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st']
    """
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def score_cards(points: Sequence[Point], *, title: str, reference: str | None) -> list[Content]:
    """Returns the cards of the best score and of the reference's place, where there are any."""
    cards = [card(f"best {title}: {points[0].name}", decimals(points[0].score))] if points else []
    place = place_of(reference, points) if reference else None
    return [*cards, card(f"place of {reference}", f"{ordinal(place)} of {len(points)}")] if place else cards


def verdict(comparison: Comparison) -> list[str]:
    """Returns the sentences of one comparison."""
    title, points = SCORE_NAMES[comparison.score], points_of(comparison)
    return [
        *_stand_in(comparison),
        *places(points, title=title, reference=comparison.reference),
        *excluded_words(comparison.excluded, task=comparison.task),
        *what_differs(_by_place(comparison), reference=comparison.reference, patients=comparison.patients),
        *control_sentences(comparison.controls, title=title, patients=comparison.patients),
        *front(points, title=title, reference=comparison.reference),
        *beginnings(comparison.networks),
        _seeds(comparison, title),
        *_fewer_seeds(comparison),
    ]


def places(points: Sequence[Point], *, title: str, reference: str) -> list[str]:
    """Says which network has the highest score, and where the reference stands.

    Args:
        points: the networks, the best first.
        title: what the score is called.
        reference: name of the reference.
    """
    place = place_of(reference, points)
    if place is None:
        return [f"{reference}, the reference, has no {title}."]
    own, best = next(point.score for point in points if point.name == reference), points[0]
    if place == 1:
        return [f"{reference}, the reference, has the highest {title} of {len(points)} networks: {decimals(own)}."]
    return [
        f"The highest {title} is that of {best.name}: {decimals(best.score)}. {reference}, the reference, has "
        f"{decimals(own)} and is {ordinal(place)} of {len(points)}."
    ]


def front(points: Sequence[Point], *, title: str, reference: str) -> list[str]:
    """Says whether the reference is on the Pareto front, and if not, which networks are ahead of it.

    Args:
        points: the networks.
        title: what the score is called.
        reference: name of the reference; nothing is said where it has no score.
    """
    own = next((point for point in points if point.name == reference), None)
    if own is None:
        return []
    line = f"the Pareto front of {title} against latency (one thread)"
    if own.front:
        return [f"{reference} is on {line}: no network is at least as good and as fast as it and ahead in one of them."]
    ahead = [point.name for point in points if beats(point.place, own.place)]
    verb = "is" if len(ahead) == 1 else "are"
    return [f"{reference} is not on {line}: {listed(ahead)} {verb} at least as good and as fast."]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How the comparisons of networks with the reference on the same patients ended; names in the order given.

    Attributes:
        better: beyond chance.
        worse: beyond chance.
        open: neither, though a difference could have been found.
        too_few: those that could not be decided, whatever the networks are: the patients are too few.
        untested: those without a p.
    """

    better: list[str]
    worse: list[str]
    open: list[str]
    too_few: list[str]
    untested: list[str]


def outcomes(found: Mapping[str, Difference | None], *, patients: int) -> Outcomes:
    """Returns how comparisons ended.

    Args:
        found: the differences of all networks but the reference.
        patients: over whom they were tested.
    """
    tested = [name for name, one in found.items() if one is not None and one.p_corrected is not None]
    untested = [name for name in found if name not in tested]
    if tested and least_corrected_p(patients, comparisons=len(tested)) >= ALPHA:
        return Outcomes([], [], [], tested, untested)
    better, worse, open_ = ([name for name in tested if beyond_chance(found[name]) == sign] for sign in (1, -1, 0))
    return Outcomes(better, worse, open_, [], untested)


def what_differs(found: Mapping[str, Difference | None], *, reference: str, patients: int, by: str = "") -> list[str]:
    """Says which networks differ from the reference beyond chance, and of which that cannot be told.

    Args:
        found: the differences of all networks but the reference.
        reference: its name.
        patients: over whom they were tested.
        by: in what they differ, such as " in mean Dice", where it is not the score of one data set.
    """
    ended = outcomes(found, patients=patients)
    sentences = []
    if ended.better or ended.worse or ended.open:
        sentences.append(_differing(ended.better, ended.worse, others=len(found), than=f"{reference}{by}"))
    if ended.open:
        rest = "the other one" if len(ended.open) == 1 else f"the other {len(ended.open)}"
        which = rest if ended.better or ended.worse else "them" if len(ended.open) > 1 else "it"
        sentences.append(
            f"Between {reference} and {which} these images do not decide, which is not a proof that they are equal."
        )
    if ended.too_few:
        sentences.append(_too_few(len(ended.too_few), reference=f"{reference}{by}", patients=patients))
    if ended.untested:
        sentences.append(f"Not tested, for lack of patients, scores or common seeds: {listed(ended.untested)}.")
    return sentences


def _too_few(comparisons: int, *, reference: str, patients: int) -> str:
    several = comparisons > 1
    least = least_corrected_p(patients, comparisons=comparisons)
    return (
        f"Too few patients to decide any single comparison with {reference}: with {patients} patients"
        f"{f' and {comparisons} comparisons' if several else ''} no {'corrected ' if several else ''}p can be below "
        f"{least:.2g}."
    )


def _differing(better: list[str], worse: list[str], *, others: int, than: str) -> str:
    limit = f"beyond chance (corrected p below {ALPHA:g})"
    if not better and not worse:
        none = "The other network does not differ" if others == 1 else f"None of the {others} other networks differs"
        return f"{none} from {than} {limit}."
    parts = [
        f"{listed(names)} {'is' if len(names) == 1 else 'are'} {word}"
        for names, word in ((better, "better"), (worse, "worse"))
        if names
    ]
    count = len(better) + len(worse)
    counted = f"{count} of {others} networks {'differs' if count == 1 else 'differ'}" if others > 1 else "One differs"
    return f"{counted} from {than} {limit}: {'; '.join(parts)}."


def beginnings(networks: Iterable[NetworkResult]) -> list[str]:
    """Says which networks began from trained weights, where some did."""
    files = {network.name: network.began_from for network in networks}
    began = {name: file for name, file in files.items() if file is not None}
    if not began:
        return []
    others = "" if len(began) == len(files) else ", the other from scratch"
    if len(files) - len(began) > 1:
        others = ", the others from scratch"
    weights = listed([*dict.fromkeys(began.values())])
    return [f"{listed([*began])} began from trained weights ({weights}){others}."]


def _by_place(comparison: Comparison) -> dict[str, Difference | None]:
    """Returns the differences to the reference, those of the best network first."""
    ordered = [network.name for network in best_first(comparison)]
    return {name: comparison.differences[name] for name in ordered if name != comparison.reference}


def _seeds(comparison: Comparison, title: str) -> str:
    if max(len(network.seeds) for network in comparison.networks) == 1:
        return (
            "Each network was trained with one seed, so these tests and intervals do not know how much the "
            f"{title} changes from one training to the next."
        )
    return (
        "Intervals and tests are over patients; how much one training differs from the next is seen in the scores "
        "of the seeds."
    )


def _stand_in(comparison: Comparison) -> list[str]:
    """Says that another network than the planned one is the reference."""
    if comparison.planned_reference is None:
        return []
    return [
        f"The planned reference {comparison.planned_reference} has no finished run; {comparison.reference} instead."
    ]


def _fewer_seeds(comparison: Comparison) -> list[str]:
    """Names the networks that lack seeds which others have."""
    seeds = sorted({seed for network in comparison.networks for seed in network.seeds})
    lacking = {n.name: [seed for seed in seeds if seed not in n.seeds] for n in comparison.networks}
    named = [f"{name} lacks {_named_seeds(of)}" for name, of in lacking.items() if of]
    if not named:
        return []
    return [f"Not all were trained with seeds {listed([*map(str, seeds)])}: {'; '.join(named)}. {_COMMON_SEEDS}"]


_COMMON_SEEDS = "A mean is over the seeds that a network has; a difference to the reference, over those that both have."


def _named_seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {listed([*map(str, seeds)])}"
