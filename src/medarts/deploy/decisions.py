"""From probabilities to a mask: three rules, each for one foreground class or for several exclusive ones.

Of classes that may overlap, each is decided as one foreground class by itself.

* ``threshold``: pixels whose probability reaches ``info.threshold``; of several classes the most probable one.
* ``validation``: pixels whose probability reaches the threshold of the largest mean Dice on the validation images. Of
  several classes each has its own; a pixel that several reach goes to the most probable of these, one that none reaches
  is background. A class that no validation image shows is called where it is the most probable of all.
* ``dice``: the mask of the largest expected Dice, decided for each image from its calibrated probabilities, with the
  pixels taken as independent. It consists of the k most probable pixels (Dai and Li, RankDice, JMLR 2023), so k alone
  is chosen. Each of several classes has its own mask; a pixel in several goes to the most probable of these.

The expected Dice of k pixels is approximated by the ratio of expectations, 2 (p_1 + ... + p_k) / (k + sum of all p). At
its largest value D the mask holds the pixels of p >= D / 2 (Lipton et al., Optimal Thresholding of Classifiers to
Maximize F1 Measure, 2014), so its threshold is below 0.5 where a network is unsure. The error is of the order of one
in the number of pixels. Where fewer than `FEW` pixels are expected, it is integrated instead:

    E[Dice of k] = 2 * integral over z in 0..1 of z^k * G(z) * sum over i <= k of p_i / (1 - p_i + p_i z)

with G(z) the product of all 1 - p_j + p_j z, as E[1 / (m + N)] is the integral of z^(m-1) E[z^N]. There the empty mask
is a choice, too: its expected Dice is the probability that the image shows nothing, the product of all 1 - p. Where
more pixels are expected, that is below exp(-`FEW`).
"""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medarts.deploy.info import MASK_THRESHOLD, ModelInfo
from medarts.errors import DataError, MedartsError, did_you_mean, quoted

Rule = Literal["threshold", "validation", "dice"]
RULES: tuple[Rule, ...] = get_args(Rule)

FEW = 16.0
"""Expected foreground pixels below which the expected Dice is integrated."""

MOST = 256
"""Pixels of the largest mask whose expected Dice is integrated."""

_NODES = 160
"""Nodes of Gauss and Legendre: exact for polynomials of degree 319, and z^k G(z) is no steeper."""

_SMALL, _TERMS = 0.05, 6
"""Smaller probabilities enter log G(z) by this many terms of its series: their error is below 1e-8."""

_ROUNDING = 1e-9
"""By how much a mask has to be better than the empty one."""

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.uint8]


def decide(probabilities: Floats, info: ModelInfo, rule: Rule) -> Mask:
    """Returns the class of each pixel (H, W), 0 for background; of classes that may overlap 0 or 1 of each (K, H, W).

    Args:
        probabilities: float32 (H, W) or (K, H, W) in 0..1, as the network gives them, without temperature.
        info: of the network: its threshold and what was fitted on validation images.
        rule: one of `RULES`.

    Raises:
        MedartsError: there is no such rule, or the network has no calibration, which ``validation`` and ``dice`` need.
        DataError: the probabilities are not those of a mask by this network.
    """
    check_rule(rule, info)
    kxhxw = probabilities[None] if probabilities.ndim == 2 else probabilities
    if kxhxw.ndim != 3 or len(kxhxw) != len(info.outputs):
        raise DataError(
            f"The probabilities have the shape {probabilities.shape}, but the network has {len(info.outputs)} outputs.",
            fix="Give those of one image, K x H x W.",
        )
    if rule == "threshold" and info.exclusive:
        mask: Mask = kxhxw.argmax(0).astype(np.uint8)
        return mask
    called = _called(kxhxw, info, rule)
    if info.overlap:
        return called.astype(np.uint8)
    return _exclusive(called, kxhxw[-len(called) :])


def _called(probabilities_khw: Floats, info: ModelInfo, rule: Rule) -> NDArray[np.bool_]:
    """Returns where each foreground class is called, by itself (C, H, W)."""
    if rule == "threshold":
        return np.asarray(probabilities_khw >= info.threshold)
    return _reaching(probabilities_khw, info) if rule == "validation" else _dice_optimal(probabilities_khw, info)


def check_rule(rule: str, info: ModelInfo) -> None:
    """Refuses a rule that a network cannot follow; `decide` does so, too.

    Raises:
        MedartsError: see `decide`.
    """
    if rule not in RULES:
        raise MedartsError(f"There is no decision {quoted(rule)}.", fix=did_you_mean(str(rule), RULES))
    if info.task != "segmentation":
        raise MedartsError(
            f"{info.name} finds no masks, whose pixels are decided by {rule}.",
            fix="Leave the decision out: findings have thresholds of their own.",
        )
    if rule == "threshold":
        return
    given = info.calibration
    thresholds = {} if given is None else given.thresholds.get(MASK_THRESHOLD, {})
    # Of several classes one may lack a threshold, not a single one: what it could be called by instead is no threshold.
    known = all(name in thresholds for name in info.foreground) and any(
        each is not None for each in thresholds.values()
    )
    if given is None or (rule == "validation" and not known):
        raise MedartsError(
            f"{info.name} has no calibration on validation images, which the decision {rule} needs.",
            fix="Use the decision threshold, or a run with validation images that show what is to be found.",
        )


def calibrated(probabilities_khw: Floats, temperature: float, *, overlap: bool = False) -> Floats:
    """Returns probabilities after a temperature: sigmoid or softmax of the logits divided by it.

    Args:
        probabilities_khw: (1, H, W) of one class, else those of all exclusive classes, which add up to one.
        temperature: above 0.
        overlap: the classes may overlap, and each has a probability of its own.
    """
    if temperature == 1:
        return probabilities_khw
    powers = probabilities_khw ** np.float32(1 / temperature)
    of_others = (1 - probabilities_khw) ** np.float32(1 / temperature) if overlap or len(powers) == 1 else None
    found: Floats = powers / (powers.sum(0) if of_others is None else powers + of_others)
    return found


def dice_optimal(probabilities: Floats) -> NDArray[np.bool_]:
    """Returns the mask of the largest expected Dice; pixels of equal probability are decided alike.

    Args:
        probabilities: calibrated, of any shape.
    """
    expected = float(probabilities.sum(dtype=np.float64))
    if expected < FEW:
        most = max(0, probabilities.size - MOST)
        ordered = np.sort(np.partition(probabilities, most, axis=None)[most:])[::-1]
        values = integrated_dice(probabilities, ordered)
        if values.max() <= _nothing(probabilities) + _ROUNDING:
            return np.zeros(probabilities.shape, np.bool_)
    else:
        # No pixel below half of the largest expected Dice is in the mask: they need not be sorted.
        ordered = np.sort(probabilities[probabilities >= _ratio_of_likely(probabilities, expected) / 2], axis=None)[
            ::-1
        ]
        values = np.cumsum(ordered, dtype=np.float64) / (np.arange(1, len(ordered) + 1) + expected)
    count = len(values) - int(values[::-1].argmax())
    found: NDArray[np.bool_] = probabilities >= ordered[count - 1]
    return found


def integrated_dice(probabilities: Floats, ordered: Floats) -> Floats:
    """Returns the expected Dice of the 1, 2, ... most probable pixels of an image; see the module.

    Args:
        probabilities: of all pixels, of any shape.
        ordered: the largest of them, in descending order.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    z, weights = (nodes + 1) / 2, weights / 2
    below = 1 - z
    small = probabilities[probabilities < _SMALL].astype(np.float64)
    large = probabilities[probabilities >= _SMALL].astype(np.float64)
    log_g = np.log1p(-np.outer(below, large)).sum(1)
    for power in range(1, _TERMS + 1):
        log_g -= below**power * float((small**power).sum()) / power
    tops = ordered.astype(np.float64)
    terms = np.cumsum(tops / (1 - np.outer(below, tops)), axis=1)
    powers = z[:, None] ** np.arange(1, len(tops) + 1)
    found: Floats = 2 * (weights * np.exp(log_g)) @ (powers * terms)
    return found


def _ratio_of_likely(probabilities: Floats, expected: float) -> float:
    """Returns the ratio of expectations of the pixels of 0.5 and more; the largest ratio is not below it."""
    chosen = probabilities[probabilities >= 0.5]
    return 2 * float(chosen.sum(dtype=np.float64)) / (len(chosen) + expected) if len(chosen) else 0.0


def _nothing(probabilities: Floats) -> float:
    """Returns the probability that no pixel is foreground."""
    with np.errstate(divide="ignore"):  # a certain pixel
        return float(np.exp(np.log1p(-probabilities.astype(np.float64)).sum()))


def _reaching(probabilities_khw: Floats, info: ModelInfo) -> NDArray[np.bool_]:
    """Returns where the probability of each foreground class reaches its threshold of validation."""
    assert info.calibration is not None
    thresholds = info.calibration.thresholds[MASK_THRESHOLD]
    first = len(info.outputs) - len(info.foreground)
    called = []
    for number, name in enumerate(info.foreground, first):
        threshold = thresholds[name]
        if threshold is None:
            alone = probabilities_khw[number] >= info.threshold
            called.append(alone if not info.exclusive else probabilities_khw.argmax(0) == number)
        else:
            called.append(probabilities_khw[number] >= threshold)
    return np.stack(called)


def _dice_optimal(probabilities_khw: Floats, info: ModelInfo) -> NDArray[np.bool_]:
    """Returns the masks of the largest expected Dice of all foreground classes."""
    assert info.calibration is not None  # see `check_rule`
    found = calibrated(probabilities_khw, info.calibration.temperature, overlap=info.overlap)
    return np.stack([dice_optimal(each) for each in found[1 if info.exclusive else 0 :]])


def _exclusive(called: NDArray[np.bool_], probabilities: Floats) -> Mask:
    """Returns one class for each pixel: the most probable of those that are called.

    Args:
        called: of the foreground classes, (C, H, W).
        probabilities: of the same.
    """
    winners = np.where(called, probabilities, -1.0).argmax(0) + 1
    return np.where(called.any(0), winners, 0).astype(np.uint8)
