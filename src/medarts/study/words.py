"""Verdicts in sentences made from their numbers, and what the numbers mean."""

from collections.abc import Iterable, Sequence

from medarts.comparison.paired import ALPHA, EXACT_UP_TO, FLIPS, least_p
from medarts.comparison.words import excluded_words, missing_lines
from medarts.config import Task
from medarts.evaluation.mask_scores import LEVEL
from medarts.metrics import definitions as of_task
from medarts.study.generalization import Claim, Contrast, Generalization, Pooled, Retrained, Side

_LIMIT = f" (Holm-corrected p below {ALPHA:g})"

TITLES: dict[Task, str] = {"segmentation": "Dice", "classification": "mean AUROC"}
"""What the score is called."""

_SCORES: dict[Task, dict[str, str]] = {
    "segmentation": {
        "dice": of_task("segmentation")["dice"],
        "mean": (
            "A value of an image is the mean over its classes, then over the seeds; a score is the mean over the "
            "images of a data set."
        ),
    },
    "classification": {
        "auroc": of_task("classification")["auroc"],
        "mean": (
            "A score of a run is the mean over the findings that some and not all images of the data set show; that "
            "of a network is the mean over its seeds."
        ),
    },
}

_MATRICES = {
    "images tested": "The test images of a data set; all images of an external one, as nothing was trained on it.",
    "mean over sets": (
        "Unweighted mean over those data sets that make the table of networks and data sets without gaps largest, as "
        "on the page of the benchmark; only of networks that have a score on all of them. Data sets with one patient "
        "tested do not count, unless all are such: one patient has neither an interval nor a test."
    ),
    "rank": "Mean of the ranks on these data sets; 1 is the highest score, equal scores share their mean rank.",
    "own": "The one data set that was trained on.",
    "part of the mix": "One of several data sets that were trained on.",
    "unseen": "A data set that was not trained on, in the row where it says so; external ones are told apart.",
    "external": "A data set that nothing in the study was trained on.",
}

_TESTS: dict[Task, str] = {
    "segmentation": (
        "Two-sided sign-flip permutation test over the patients of the data set: all flips up to "
        f"{EXACT_UP_TO} patients, else {FLIPS:,} random ones."
    ),
    "classification": (
        "Two-sided permutation test over the patients of the data set, whose ranks the two networks exchange: all "
        f"exchanges up to {EXACT_UP_TO} patients, else {FLIPS:,} random ones."
    ),
}

_HEADS = {
    "search": "On data sets that a search on one set has not seen, a search on several sets finds better networks",
    "training": "Training on several data sets generalises better to an unseen one than training on a single set",
}

_VERDICTS = {
    "supported": "supported by these data",
    "refuted": "refuted by these data, which say the opposite",
    "undecided": "undecided by these data",
}


_LACKING = {
    "search": (
        "This takes a network searched on several data sets, one searched on a single set, and both retrained on a "
        "set that the latter was not searched on."
    ),
    "training": (
        "This takes a network trained on several data sets and, by itself, on one of them, and another data set to "
        "test both on."
    ),
}

_SIDES = {
    "search": "Retrained and tested on data sets that the single search had not seen, the mixed search",
    "training": "On data sets that neither was trained on, the same network trained on several sets",
}

_CAVEATS = {
    "search": "Every search ran once: this is a verdict on the networks found, and another search finds others.",
    "training": "It is held against itself trained on each one of these sets, which are fewer images.",
}

_FEW = 10
"""Fewer patients are said to be few."""


def claim_words(claim: Claim, *, title: str) -> tuple[str, ...]:
    """Returns what the numbers of a claim say, the verdict first.

    Args:
        claim: all but its words.
        title: what the score is called.
    """
    about, unseen, missing = claim.about, claim.unseen, claim.planned - len(_unseen(claim))
    words = _verdict_words(claim, title=title)
    if unseen is None:
        words.append(_LACKING[about] if not claim.planned else f"It plans {_differences(missing)} of that kind.")
    else:
        words.insert(1, _pooled_words(_SIDES[about], unseen, title=title, limit=_LIMIT))
        words += [*_set_words(claim, unseen), *_few_words(unseen)]
        if missing:
            are = "is" if missing == 1 else "are"
            words.append(f"Of the {_differences(claim.planned)} that the study plans there, {missing} {are} missing.")
    if claim.neither is not None:
        sides = "Where neither search had seen the data set, the mixed one"
        words.append(_pooled_words(sides, claim.neither, title=title))
    if claim.own is not None:
        sides = "On the data set of the single search itself, the mixed one"
        words += [_pooled_words(sides, claim.own, title=title), *_left_out_words(claim.own.left_out)]
    if claim.contrasts:
        words += [*_differing_words(claim), _CAVEATS[about], _seed_words(claim.contrasts)]
    return tuple(words)


def means_words(retrained: Retrained) -> str:
    """Says what the means and ranks of a matrix of retrained networks are over; empty where there are none."""
    if not retrained.shared:
        return ""
    words = f"Means and ranks are over {', '.join(retrained.shared)}, of the networks that have a score on all of them."
    told = (f" {name} has 1 patient: it is shown, and not counted in means and ranks." for name in retrained.left_out)
    return words + "".join(told)


def _verdict_words(claim: Claim, *, title: str) -> list[str]:
    verdict, unseen, head = claim.verdict, claim.unseen, _HEADS[claim.about]
    if verdict is None or unseen is None:
        yet = " yet, as runs or tests are missing" if claim.planned else ""
        return [f"{head}: this study cannot tell{yet}."]
    words = [f"{head}: {_VERDICTS[verdict]}."]
    if verdict != "undecided":
        against = unseen.worse if verdict == "supported" else unseen.better
        if not unseen.better and not unseen.worse:
            words.append("No difference by itself is beyond chance; the verdict rests on their mean.")
        elif against:
            points = "points" if against == 1 else "point"
            words.append(f"It does not hold everywhere: {against} of the differences {points} the other way.")
    elif unseen.p is not None and unseen.p < ALPHA:
        words.append(
            "The mean points one way beyond chance, most of the single differences beyond chance the other way."
        )
    else:
        much = "" if unseen.low is None else f": the {title} may differ by as much as the interval says"
        words.append(f"That is no proof that both are equal{much}.")
    return words


def _pooled_words(sides: str, pooled: Pooled, *, title: str, limit: str = "") -> str:
    amount = f"{abs(pooled.mean):.3f} {title} {'better' if pooled.mean > 0 else 'worse'} on average"
    if round(abs(pooled.mean), 3) == 0:
        amount = f"as good on average, to three decimals of {title}"
    spread = "its interval is undefined"
    if pooled.low is not None and pooled.high is not None:
        spread = f"{100 * LEVEL:g} % interval {pooled.low:+.3f} to {pooled.high:+.3f}"
    chance = "not tested" if pooled.p is None else "p below 0.001" if pooled.p < 0.001 else f"p {pooled.p:.3f}"
    counts = _count_words(pooled, limit=limit)
    return f"{sides} is {amount} ({spread}, {chance}, {_patients(pooled.patients)}); {counts}."


def _count_words(pooled: Pooled, *, limit: str) -> str:
    """Returns how many differences are beyond chance, and how many cannot be."""
    if pooled.undecidable == pooled.count:
        none = "the one difference cannot" if pooled.count == 1 else f"none of {pooled.count} differences can"
        return f"{none} be beyond chance by itself{limit}, as patients are too few"
    if pooled.count == 1:
        which = "better" if pooled.better else "worse" if pooled.worse else "neither better nor worse"
        return f"the one difference is {which} beyond chance{limit}"
    few = f"; {pooled.undecidable} cannot be, as patients are too few" if pooled.undecidable else ""
    better, worse = _count(pooled.better), _count(pooled.worse)
    return f"of {pooled.count} differences {better} better and {worse} worse beyond chance{limit}{few}"


def _set_words(claim: Claim, unseen: Pooled) -> list[str]:
    """Returns what is to be known of the data sets that a verdict rests on, or does not."""
    words = _left_out_words(unseen.left_out)
    counted = [contrast for contrast in _unseen(claim) if contrast.domain in unseen.domains]
    few = {contrast.domain: _patients(contrast.patients) for contrast in counted if not contrast.decidable}
    if few and unseen.undecidable < unseen.count:
        told = ", ".join(f"{domain} ({patients})" for domain, patients in few.items())
        words.append(f"Single differences on {told} cannot be decided by themselves.")
    if claim.about == "search":
        words.append(_seen_words(counted, unseen.domains))
    return words


def _left_out_words(domains: Iterable[str]) -> list[str]:
    return [f"{domain} has 1 patient: its differences are shown, and not counted." for domain in domains]


def _seen_words(counted: Sequence[Contrast], domains: Sequence[str]) -> str:
    """Returns which of some data sets the mixed search had seen, where the single one had seen none of them."""
    of_mix = [contrast for contrast in counted if contrast.relation == "of the mix"]
    seen = [domain for domain in domains if any(contrast.domain == domain for contrast in of_mix)]
    these = f"of these {len(domains)} data sets"
    if not of_mix:
        return f"Neither search had seen {'this data set' if len(domains) == 1 else f'any {these}'}."
    if len(of_mix) == len(counted):
        return (
            f"The mixed search had seen {'this data set' if len(domains) == 1 else f'all {these}'}: the verdict is on "
            "whether one search serves several data sets, not on whether it carries over to new ones."
        )
    others = [domain for domain in domains if domain not in seen]
    if len(of_mix) < sum(contrast.domain in seen for contrast in counted):  # several mixed searches
        return (
            f"In {len(of_mix)} of these {len(counted)} differences the mixed search had seen the data set; in the "
            "others neither had."
        )
    return f"The mixed search had seen {len(seen)} {these} ({', '.join(seen)}); neither had seen {', '.join(others)}."


def _few_words(pooled: Pooled) -> list[str]:
    people, least = _patients(pooled.patients), least_p(pooled.patients)
    if pooled.patients == 1:
        return ["It rests on 1 patient, so that nothing can be tested."]
    if least >= ALPHA:
        return [f"It rests on {people}, of whom no p can be below {least:g}: they cannot decide it."]
    if pooled.patients < _FEW:
        return [f"It rests on {people} alone; intervals of so few are too narrow."]
    return []


def _differing_words(claim: Claim) -> list[str]:
    """Returns what both sides differ in besides the data sets, that of several sets first, and what each has seen."""
    words = []
    fields: dict[str, list[str]] = {}
    for one in claim.differing:
        fields.setdefault(one.field, []).append(f"{one.several} and {one.single}")
    if fields:
        told = "; ".join(f"{field}: {', '.join(values)}" for field, values in fields.items())
        words.append(f"Besides the data sets, both sides differ in {told}; the side of several sets first.")
    if len({(side.epochs, side.images) for side in claim.sides}) > 1:
        told = "; ".join(f"{side.name} {_seen(side)}" for side in claim.sides)
        words.append(f"Epochs and training images: {told}.")
    return words


def _seen(side: Side) -> str:
    if side.images is None:
        return f"{side.epochs} epochs"
    return f"{side.epochs} x {side.images:,} = {side.epochs * side.images:,}"


def _unseen(claim: Claim) -> list[Contrast]:
    return [contrast for contrast in claim.contrasts if contrast.relation != "own"]


def _differences(count: int) -> str:
    return f"{count} difference{'s' * (count != 1)}"


def _patients(count: int) -> str:
    return f"{count:,} patient{'s' * (count != 1)}"


def _count(number: int) -> str:
    return "none is" if number == 0 else "1 is" if number == 1 else f"{number} are"


def _seed_words(contrasts: Sequence[Contrast]) -> str:
    seeds = [contrast.seeds for contrast in contrasts]
    least, most, single = min(seeds), max(seeds), seeds.count(1)
    unknown = "intervals and tests do not know how much one training differs from the next"
    if most == 1:
        return f"Every difference is over one seed, so {unknown}."
    if least == 1:
        which = "1 is over one seed: its" if single == 1 else f"{single} are over one seed: their"
        return f"Of {len(seeds)} differences {which} {unknown}."
    over = f"{least} seeds" if least == most else f"{least} to {most} seeds"
    return (
        f"Every difference is over {over}. Intervals and tests are over patients; how much trainings differ is seen in "
        "the scores of the seeds."
    )


def definitions(task: Task, *, draws: int) -> dict[str, str]:
    """Returns what the terms of a generalization mean.

    Args:
        task: what the networks do.
        draws: of the bootstrap.
    """
    return {
        **_SCORES[task],
        "low, high": (
            f"{100 * LEVEL:g} % percentile bootstrap interval over patients, all images of a drawn patient together; "
            f"{draws:,} draws, the same for all networks. It does not hold the spread between trainings, which the "
            "scores of the seeds show."
        ),
        **_MATRICES,
        "difference": "Score of the side of several data sets minus that of the single one, on the same images.",
        "p_corrected": f"{_TESTS[task]} By Holm's method corrected for all contrasts of the claim.",
        "too few": (
            f"So few patients that the corrected p of a contrast cannot be below {ALPHA:g}, were all contrasts of the "
            "claim as clear as their patients allow. With one patient nothing is tested."
        ),
        "mean difference": (
            "Every data set of several patients with the same weight, and in it every contrast; where no data set has "
            "several, all count. Its interval comes of the bootstrap, in which all contrasts of a data set take the "
            "same patients; its p of the test named under p_corrected, over the patients of all these data sets, with "
            "the sign of a patient flipped in all contrasts at once."
        ),
        "supported": (
            "The mean difference on data sets that the single side has not seen, in its search or its training, is "
            f"above 0 (p below {ALPHA:g}), whether or not the mixed search has seen them; and of the single "
            f"differences with a corrected p below {ALPHA:g} no more are below 0 than above. Refuted: the other way "
            "round. Undecided: neither."
        ),
    }


def missing_of(found: Generalization) -> list[str]:
    """Says which runs are missing; see ``medarts.comparison.words.missing_lines``."""
    return missing_lines((f"{run.network} on {run.group}", run.seed, run.state, run.reason) for run in found.missing)


def excluded_of(found: Generalization) -> list[str]:
    """Returns a sentence for every data set with classes or findings that are left out of its scores."""
    return excluded_words({one.name: one.excluded for one in found.domains if one.excluded}, task=found.task)
