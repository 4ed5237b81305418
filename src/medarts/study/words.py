"""Verdicts in sentences made from their numbers, and what the numbers mean."""

from medarts.comparison.paired import ALPHA, EXACT_UP_TO, FLIPS
from medarts.evaluation.scores import LEVEL
from medarts.recipe import Task
from medarts.study.generalization import Contrast, Pooled, Verdict
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
    "mean over sets": "Unweighted mean over the data sets on which every network that has any score has one.",
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
    "classification": "Two-sided, of the paired bootstrap over the patients of the data set.",
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


def search_words(
    verdict: Verdict | None,
    *,
    unseen: Pooled | None,
    own: Pooled | None,
    neither: Pooled | None,
    title: str,
    seeds: int,
) -> tuple[str, ...]:
    """Returns the verdict on searching on several data sets; the arguments are those of `Claim`.

    Args:
        verdict: what was found; None where the study holds no contrast on an unseen set.
        unseen: contrasts on sets that the single search has not seen.
        own: contrasts on the set that it has seen.
        neither: contrasts on sets that neither search has seen.
        title: what the score is called.
        seeds: the largest number of seeds of a training.
    """
    words = _verdict_words("search", verdict, unseen, title=title)
    if verdict is None:
        words.append(
            "This takes a network searched on several data sets, one searched on a single set, and both retrained on a "
            "set that the latter was not searched on."
        )
    elif unseen is not None:
        sides = "Retrained and tested on data sets that the single search had not seen, the mixed search"
        words.insert(1, _pooled_words(sides, unseen, title=title, limit=_LIMIT))
    if neither is not None:
        words.append(_pooled_words("On those that neither search had seen, the mixed one", neither, title=title))
    if own is not None:
        words.append(_pooled_words("On the data set of the single search itself, the mixed one", own, title=title))
    if unseen is not None or own is not None:
        words.append("Every search ran once: this is a verdict on the networks found, and another search finds others.")
        words.append(_seed_words(seeds))
    return tuple(words)


def training_words(verdict: Verdict | None, *, unseen: Pooled | None, title: str, seeds: int) -> tuple[str, ...]:
    """Returns the verdict on training on several data sets; the arguments are those of `search_words`."""
    words = _verdict_words("training", verdict, unseen, title=title)
    if unseen is None:
        words.append(
            "This takes a network trained on several data sets and, by itself, on one of them, and another data set to "
            "test both on."
        )
    else:
        sides = "On data sets that neither was trained on, the same network trained on several sets"
        words.insert(1, _pooled_words(sides, unseen, title=title, limit=_LIMIT))
        words.append("It is held against itself trained on each one of these sets, which are fewer images.")
        words.append(_seed_words(seeds))
    return tuple(words)


def beyond_chance(contrast: Contrast) -> int:
    """Returns 1 where the side of several sets is better beyond chance, -1 where it is worse, 0 for neither."""
    difference = contrast.difference
    if difference.p_corrected is None or difference.p_corrected >= ALPHA:
        return 0
    return 1 if difference.mean > 0 else -1


def _verdict_words(about: str, verdict: Verdict | None, unseen: Pooled | None, *, title: str) -> list[str]:
    if verdict is None or unseen is None:
        return [f"{_HEADS[about]}: this study cannot tell."]
    words = [f"{_HEADS[about]}: {_VERDICTS[verdict]}."]
    if verdict != "undecided":
        against = unseen.worse if verdict == "supported" else unseen.better
        if not unseen.better and not unseen.worse:
            words.append("No difference by itself is beyond chance; the verdict rests on their mean.")
        elif against:
            points = "points" if against == 1 else "point"
            words.append(f"It does not hold everywhere: {against} of the differences {points} the other way.")
    elif unseen.p is None:
        words.append("With so few patients nothing can be tested.")
    elif unseen.p < ALPHA:
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
    return f"{sides} is {amount} ({spread}, {chance}); {counts} beyond chance{limit}."


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
            "Every data set with the same weight, and in it every contrast. Its interval and its p come of the "
            "bootstrap, in which all contrasts of a data set take the same patients."
        ),
        "supported": (
            f"The mean difference on unseen data sets is above 0 (p below {ALPHA:g}), and of the single differences "
            f"with a corrected p below {ALPHA:g} no more are below 0 than above. Refuted: the other way round. "
            "Undecided: neither."
        ),
    }
