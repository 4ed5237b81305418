"""Verdicts in sentences made from their numbers, and what the numbers mean."""

from medarts.comparison.paired import ALPHA, EXACT_UP_TO, FLIPS
from medarts.comparison.words import missing_lines
from medarts.evaluation.scores import LEVEL
from medarts.recipe import Task
from medarts.study.generalization import Claim, Contrast, Generalization, Pooled, Side
from medarts.tasks import metrics, ranking

_LIMIT = f" (Holm-corrected p below {ALPHA:g})"

TITLES: dict[Task, str] = {"segmentation": "Dice", "classification": "mean AUROC"}
"""What the score is called."""

_SCORES: dict[Task, dict[str, str]] = {
    "segmentation": {
        "dice": metrics.DEFINITIONS["dice"],
        "mean": (
            "A value of an image is the mean over its classes, then over the seeds; a score is the mean over the "
            "images of a data set."
        ),
    },
    "classification": {
        "auroc": ranking.DEFINITIONS["auroc"],
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
        "on the page of the benchmark; only of networks that have a score on all of them."
    ),
    "rank": "Mean of the ranks on these data sets; 1 is the highest score, equal scores share their mean rank.",
    "own": "The one data set that was trained on.",
    "part of the mix": "One of several data sets that were trained on.",
    "unseen": "A data set of the study that was not trained on.",
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
    "search": "A search on several data sets finds networks that generalise better than a search on one",
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


def claim_words(claim: Claim, *, title: str, seeds: int) -> tuple[str, ...]:
    """Returns what the numbers of a claim say, the verdict first.

    Args:
        claim: all but its words.
        title: what the score is called.
        seeds: the largest number of seeds of a training.
    """
    about, unseen, missing = claim.about, claim.unseen, claim.planned - len(_unseen(claim))
    words = _verdict_words(claim, title=title)
    if unseen is None:
        words.append(_LACKING[about] if not claim.planned else f"It plans {_differences(missing)} of that kind.")
    else:
        words.insert(1, _pooled_words(_SIDES[about], unseen, title=title, limit=_LIMIT))
        words += _few_words(unseen)
        if missing:
            are = "is" if missing == 1 else "are"
            words.append(f"Of the {_differences(claim.planned)} that the study plans there, {missing} {are} missing.")
    if claim.neither is not None:
        sides = "On those that neither search had seen, the mixed one"
        words.append(_pooled_words(sides, claim.neither, title=title))
    if claim.own is not None:
        sides = "On the data set of the single search itself, the mixed one"
        words.append(_pooled_words(sides, claim.own, title=title))
    if claim.contrasts:
        words += [*_differing_words(claim), _CAVEATS[about], _seed_words(seeds)]
    return tuple(words)


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
        words.append(f"That is no proof that both are equal: the {title} may differ by as much as the interval says.")
    return words


def _pooled_words(sides: str, pooled: Pooled, *, title: str, limit: str = "") -> str:
    amount = f"{abs(pooled.mean):.3f} {title} {'better' if pooled.mean > 0 else 'worse'} on average"
    if round(abs(pooled.mean), 3) == 0:
        amount = f"as good on average, to three decimals of {title}"
    spread = "its interval is undefined"
    if pooled.low is not None and pooled.high is not None:
        spread = f"{LEVEL:.0%} interval {pooled.low:+.3f} to {pooled.high:+.3f}"
    chance = "not tested" if pooled.p is None else "p below 0.001" if pooled.p < 0.001 else f"p {pooled.p:.3f}"
    counts = f"of {pooled.count} differences {_count(pooled.better)} better and {_count(pooled.worse)} worse"
    if pooled.count == 1:
        which = "better" if pooled.better else "worse" if pooled.worse else "neither better nor worse"
        counts = f"the one difference is {which}"
    return f"{sides} is {amount} ({spread}, {chance}, {_patients(pooled.patients)}); {counts} beyond chance{limit}."


def _few_words(pooled: Pooled) -> list[str]:
    people, least = _patients(pooled.patients), 2 / 2**pooled.patients
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


def _seed_words(seeds: int) -> str:
    if seeds == 1:
        return (
            "Each network was trained with one seed, so intervals and tests do not know how much one training differs "
            "from the next."
        )
    return "Intervals and tests are over patients; how much trainings differ is seen in the scores of the seeds."


def definitions(task: Task, *, draws: int) -> dict[str, str]:
    """Returns what the terms of a generalization mean.

    Args:
        task: what the networks do.
        draws: of the bootstrap.
    """
    return {
        **_SCORES[task],
        "low, high": (
            f"{LEVEL:.0%} percentile bootstrap interval over patients, all images of a drawn patient together; "
            f"{draws:,} draws, the same for all networks. It does not hold the spread between trainings, which the "
            "scores of the seeds show."
        ),
        **_MATRICES,
        "difference": "Score of the side of several data sets minus that of the single one, on the same images.",
        "p_corrected": f"{_TESTS[task]} By Holm's method corrected for all contrasts of the claim.",
        "mean difference": (
            "Every data set with the same weight, and in it every contrast. Its interval comes of the bootstrap, in "
            "which all contrasts of a data set take the same patients; its p of the test named under p_corrected, over "
            "the patients of all these data sets, with the sign of a patient flipped in all contrasts at once."
        ),
        "supported": (
            f"The mean difference on unseen data sets is above 0 (p below {ALPHA:g}), and of the single differences "
            f"with a corrected p below {ALPHA:g} no more are below 0 than above. Refuted: the other way round. "
            "Undecided: neither."
        ),
    }


def missing_of(found: Generalization) -> list[str]:
    """Says which runs are missing; see ``medarts.comparison.words.missing_lines``."""
    return missing_lines((f"{run.network} on {run.group}", run.seed, run.state, run.reason) for run in found.missing)
