"""What the numbers of a comparison mean, in words that stand beside them."""

from collections.abc import Iterable, Mapping, Sequence

from medarts.comparison.costs import REPEATS
from medarts.comparison.paired import ALPHA, EXACT_UP_TO, FLIPS, Difference, least_corrected_p
from medarts.config import EvaluationSettings, Task
from medarts.evaluation.mask_scores import LEVEL
from medarts.metrics import definitions as of_task
from medarts.metrics.masks import CONVENTIONS

_SCORES = {
    "segmentation": {
        name: (of_task("segmentation") | CONVENTIONS)[name] for name in ("dice", "jaccard", "hd95", "empty masks")
    },
    "classification": {name: of_task("classification")[name] for name in ("auroc", "average_precision")},
}

_MEANS = {
    "segmentation": (
        "A value of an image is the mean over its classes, then over the seeds; a score is the mean over the images "
        "of a domain, then over the domains, each with the same weight."
    ),
    "classification": (
        "A score of a run is the mean over the findings that some and not all images of a domain show, then over the "
        "domains, each with the same weight; that of a network is the mean over its seeds."
    ),
}

_UNDEFINED = {
    "segmentation": (
        "Values left out of a mean because they are undefined, of all seeds together. An HD95 is undefined where one "
        "of the two masks is empty, so a network that finds nothing in hard images loses them from its mean: HD95 can "
        "be compared only between networks that leave out about as many."
    ),
    "classification": "Findings of a domain left out of the means because all of its images show them, or none.",
}

_COSTS = {
    "parameters": "Trainable parameters.",
    "flops": (
        "Floating point operations of convolutions and matrix products for one image, 2 per multiply-add; what papers "
        "call MACs, and often FLOPs, is half of it."
    ),
    "memory_mb": (
        "Peak memory of inference of one image on the CPU, in MB: weights, image and maps, without Python and its "
        "libraries; in a process of its own for every network."
    ),
    "training_seconds": "Time of all epochs of a run with their validation, on its own machine; mean over the seeds.",
    "front": (
        "On the Pareto front: no other network is at least as good and as fast on one thread, and better or faster. "
        "A network is faster where its median latency is lower by more than half an interquartile range, the larger "
        "one of the two networks; within that they count as equally fast. Scores count as they are, without a test."
    ),
}


_CONTRIBUTION = (
    "The main score of a network minus the mean of those of networks drawn at random from its space, with its settings "
    "and, within 5 %, as many parameters; over the seeds that both have. Where chance exchanges the predictions of a "
    "patient, it does so with all drawn ones at once; p is corrected for the number of networks with such drawn ones."
)

_DRAWS = {
    "segmentation": "An undefined value is left out of the mean of a draw, too.",
    "classification": (
        "A draw in which a finding has no image with it, or none without it, has no value for that finding: its mean "
        "is over the other findings. A draw without a value for any finding of a domain is left out."
    ),
}

_TERMS = {
    "segmentation": "a patient's part of the difference of the mean Dice changes its sign",
    "classification": (
        "the two networks exchange their predictions of a patient, as ranks among all images of the domain, for every "
        "finding and seed at once, and the mean AUROC is taken again"
    ),
}


def excluded_words(excluded: Mapping[str, Sequence[str]], *, task: Task) -> list[str]:
    """Returns a sentence for every data set with classes or findings that are left out of the means.

    Args:
        excluded: their names, by data set.
        task: what the networks do.

    >>> excluded_words({"skin": ("class 2", "class 3")}, task="segmentation")
    ['skin: left out of the means, as no image shows it: class 2, class 3.']
    """
    reason = "no image shows it" if task == "segmentation" else "all images show it, or none"
    return [f"{domain}: left out of the means, as {reason}: {', '.join(names)}." for domain, names in excluded.items()]


def definitions(
    task: Task, settings: EvaluationSettings, *, size: int, reference: str, controls: bool
) -> dict[str, str]:
    """Returns what the terms of a comparison mean.

    Args:
        task: what the networks do.
        settings: how they were scored.
        size: height and width of the images, in pixels.
        reference: name of the reference.
        controls: whether networks are compared with those drawn at random like them.
    """
    found = _SCORES[task] | {"mean": _MEANS[task], "undefined": _UNDEFINED[task]}
    found["low, high"] = (
        f"{100 * LEVEL:g} % percentile bootstrap interval over patients, all images of a drawn patient together, "
        f"within each domain; {settings.bootstrap:,} draws. Undefined where a domain has one patient. It does not hold "
        f"the spread between trainings, which by_seed shows. {_DRAWS[task]}"
    )
    found["difference"] = (
        f"The main score minus that of {reference}, over the seeds that both were trained with; where these are not "
        "all seeds of both, it is not the difference of the means that stand in the table. Its interval is that of the "
        "difference in the same draws, so that what is hard for all networks does not widen it."
    )
    found["p"] = (
        "How often chance alone brings a difference at least as far from 0, if it were chance which of the two "
        f"networks made which predictions of a patient: {_TERMS[task]}. p_corrected is for all comparisons by Holm's "
        "method."
    )
    if controls:
        found["the search's own contribution"] = _CONTRIBUTION
    found |= _COSTS
    found["latency_spread_ms"] = "Interquartile range of the passes of latency_ms."
    found["latency_ms"] = (
        f"Median of {REPEATS} passes of one image on the CPU, all networks in turns, of the form for inference where "
        f"the network has one; {size} px, by number of threads."
    )
    if task == "segmentation":
        found["hd95"] += f" Here in pixels of images of {size} x {size}."
        found["spread"] = (
            "Largest minus smallest score of the networks on an image, means over the seeds; the overlays are "
            "predicted by the runs of the lowest seed."
        )
    return found


def name_test(task: Task, found: Mapping[str, Difference | None], *, reference: str, patients: int) -> str:
    """Returns sentences on how the differences were tested, and what a test of so few patients cannot show.

    Args:
        task: what the networks do.
        found: the differences of all networks but the reference.
        reference: its name.
        patients: of all domains.
    """
    tested = sum(one is not None and one.p is not None for one in found.values())
    if not tested:
        lacking = f"no other network has a seed in common with {reference}"
        why = "there is only one network" if not found else "there is only one patient" if patients < 2 else lacking
        return f"Nothing was tested: {why}."
    test, what = {
        "segmentation": ("sign-flip permutation test", "flips"),
        "classification": ("permutation test that exchanges the predictions of patients", "exchanges"),
    }[task]
    tried = f"all {2**patients:,}" if patients <= EXACT_UP_TO else f"{FLIPS:,} random"
    correction = f", with Holm's correction for {tested} comparisons" if tested > 1 else ""
    least = least_corrected_p(patients, comparisons=tested)
    limit = f"No {'corrected ' * (tested > 1)}p can be below {least:.2g}"
    undecided = ": so few patients cannot decide any single comparison" if least >= ALPHA else ""
    return (
        f"Differences to {reference}: two-sided {test}, over {patients:,} patients ({tried} {what}){correction}. "
        f"{limit}{undecided}."
    )


def missing_lines(runs: Iterable[tuple[str, int, str, str]]) -> list[str]:
    """Says what is missing: a line for each run that has a reason, and one a state for all others.

    Args:
        runs: network, seed, state and reason of each; the reason empty where there is none.

    >>> missing_lines([("a", 0, "failed", "It diverged."), ("a", 1, "not begun", ""), ("b", 1, "not begun", "")])
    ['a, seed 0: failed. It diverged.', 'not begun, by network and seed: a (1), b (1)']
    """
    lines: list[str] = []
    silent: dict[str, dict[str, list[str]]] = {}
    for network, seed, state, reason in runs:
        if reason:
            lines.append(f"{network}, seed {seed}: {state}. {reason}")
        else:
            silent.setdefault(state, {}).setdefault(network, []).append(str(seed))
    for state, seeds in silent.items():
        networks = ", ".join(f"{network} ({' '.join(numbers)})" for network, numbers in seeds.items())
        lines.append(f"{state}, by network and seed: {networks}")
    return lines
