"""Losses of masks and of findings, chosen by the name that a recipe gives them.

A loss is a function of logits and targets that returns one value per image, at least 0. One per image, not per batch:
mixing weights the losses of an image's parts by that image's factors, and a Dice pooled over a batch lets large lesions
hide missed small ones.

    >>> class PowerSettings(Settings):
    ...     power: Annotated[Number, Field(gt=0, le=4)] = 2.0
    >>> @register_loss("power_error", task="segmentation", outputs="binary", settings=PowerSettings)
    ... def power_error(logits: Tensor, target: Tensor, *, settings: PowerSettings) -> Tensor:
    ...     mask = (target != 0).to(logits.dtype)
    ...     return ((logits[:, 0].sigmoid() - mask).abs() ** settings.power).mean((1, 2))
    >>> loss = make_loss(losses.choose({"name": "power_error", "power": 1.0}), task="segmentation", outputs=1)
    >>> loss(torch.zeros(2, 1, 4, 4), torch.ones(2, 4, 4, dtype=torch.uint8))
    tensor([0.5000, 0.5000])
    >>> losses.remove("power_error")

In a recipe that is ``train.loss: {name: power_error, power: 1.0}``, or the bare name for its defaults.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from medarts.config.data import IGNORE, Task
from medarts.config.section import Number
from medarts.errors import MedartsError, RecipeError
from medarts.registry import Settings, bound, calling, losses

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits and targets of a batch -> the loss of every image (B,)."""

Outputs = Literal["binary", "exclusive", "any"]
"""For which outputs of a segmentation a loss is: one class (sigmoid), several exclusive ones (softmax), or both. Of
classes that may overlap, each is one class."""

L = TypeVar("L", bound=Callable[..., Tensor])

SMOOTHING = 1.0
"""Pixels added to numerator and denominator of Dice: an empty mask with an empty prediction has loss 0."""

SURE = 30.0
"""Logit by which ignored pixels are background: their probability of foreground, 1e-13, adds nothing to a sum."""

FOCAL_GAMMA = 2.0
FOCAL_ALPHA = 0.25
"""Lin 2017, "Focal loss for dense object detection", section 5.1."""

ASYMMETRIC_GAMMA = 4.0
ASYMMETRIC_MARGIN = 0.05
"""Ridnik 2021, "Asymmetric loss for multi-label classification", values for MS-COCO; gamma of positives is 0."""


def register_loss(
    name: str, *, task: Task | None = None, outputs: Outputs = "any", settings: type[Settings] | None = None
) -> Callable[[L], L]:
    """Returns a decorator that registers a loss under a name.

    The function gets logits in float32 (float64 if the network computes in it), also inside autocast, and

    * for segmentation, logits (B, K, H, W) and class indices (B, H, W) of any integer type. With one class, K = 1 and
      every index but 0 is foreground; otherwise there are K exclusive classes of which 0 is background. Of classes
      that may overlap it gets each by itself, as one class, and their mean is taken.
    * for classification, logits (B, F) and labels (B, F), 0 or 1, in the type of the logits.

    If it has a parameter ``settings``, it gets its settings; if it has one called ``prevalence``, the share of the
    training images that show each finding, (F,) in float64.

    Pixels that are ignored come as background of which the network is sure: they add nothing to sums over probabilities
    or losses, and have no gradient. A mean over pixels is to be over the others: a loss with a parameter ``counted``
    gets where they are, boolean (B, H, W), or None where all pixels count. Findings of which it is not known whether an
    image shows them come as absent, of which the network is sure.

    Args:
        name: in recipes.
        task: the only task that it is for. Default: both.
        outputs: for segmentation, the outputs that it is for.
        settings: class of its settings.
    """
    return losses.register(name, settings=settings, task=task, outputs=outputs)


def make_loss(
    loss: Settings | str,
    *,
    task: Task,
    outputs: int,
    overlap: bool = False,
    prevalence: ArrayLike | None = None,
    field: str = "loss",
) -> Loss:
    """Returns the loss that a recipe names, which takes logits of any precision and stored targets.

    Targets of masks are class indices (B, H, W) or, of classes that may overlap, 0 and 1 of each (B, K, H, W); pixels
    and labels of `medarts.config.data.IGNORE` count nothing. See `register_loss`.

    Args:
        loss: its settings, or its name alone.
        task: of the data.
        outputs: number K of classes, or F of findings.
        overlap: whether the classes may overlap.
        prevalence: share of the training images that show each finding (F,), 0..1.
        field: of the recipe that names the loss, for errors.

    Raises:
        RecipeError: it is for another task, or for one class and there are several, or the reverse.
        ValueError: the loss needs a prevalence and there is none in 0..1 for every finding.
    """
    entry = losses.entry(loss if isinstance(loss, str) else loss.name, where=field)
    settings = losses.choose(loss)
    kind: Outputs = "binary" if outputs == 1 or overlap else "exclusive"
    if entry.about["task"] not in (None, task):
        noun = {"segmentation": "masks", "classification": "findings"}
        raise RecipeError(
            f"{field} '{entry.name}' is a loss of {noun[entry.about['task']]}, not of {noun[task]}.",
            fix=f"Use one of {', '.join(_names(task, kind))}.",
        )
    if task == "segmentation" and entry.about["outputs"] not in ("any", kind):
        several = "classes that may overlap" if overlap else f"{outputs} exclusive classes, of which one is background"
        what = "data.classes 1" if outputs == 1 else several
        raise RecipeError(
            f"{field} '{entry.name}' does not fit {what}.",
            fix=f"Use one of {', '.join(_names(task, kind))}.",
        )
    function = bound(entry.member, settings=settings, prevalence=prevalence)

    def of_images(logits: Tensor, targets: Tensor) -> Tensor:
        # Sums over thousands of pixels lose all precision in half precision, which also rounds p to 1 from a logit of 8
        # on, and with it the loss of confident mistakes; and autocast forbids BCE.
        with torch.autocast(logits.device.type, enabled=False):
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if task == "segmentation":
                return _of_masks(entry.name, function, wide, targets)
            return _of_findings(entry.name, function, wide, targets)

    return of_images


def _of_masks(name: str, function: Loss, logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the loss of every image (B,): of overlapping classes the mean of each, without ignored pixels."""
    if targets.ndim == 4:
        one_each = _of_masks(name, function, logits.flatten(0, 1).unsqueeze(1), targets.flatten(0, 1))
        return one_each.view(logits.shape[:2]).mean(1)
    ignored = targets == IGNORE
    if not ignored.any():
        return _called(name, function, logits, targets)
    sure = logits.new_full((logits.shape[1],), -SURE)
    if len(sure) > 1:
        sure[0] = SURE
    logits = torch.where(ignored.unsqueeze(1), sure.view(1, -1, 1, 1), logits)
    return _called(name, bound(function, counted=~ignored), logits, targets.masked_fill(ignored, 0))


def _of_findings(name: str, function: Loss, logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the loss of every image (B,), to which findings that are ignored add nothing.

    The mean stays one over all findings, so that every label that is known counts alike, however many others of its
    image are not. Source: the policy U-Ignore of Irvin 2019, "CheXpert" (arXiv 1901.07031), section 3.1.
    """
    ignored = targets == IGNORE
    logits = torch.where(ignored, -SURE, logits)
    return _called(name, function, logits, targets.masked_fill(ignored, 0).to(logits.dtype))


def _called(name: str, function: Loss, logits: Tensor, targets: Tensor) -> Tensor:
    with calling("loss", name):
        value = function(logits, targets)
    _check_values(name, value, logits)
    return value


def _check_values(name: str, value: Any, logits: Tensor) -> None:
    """Refuses what is not a value per image, or does not depend on the logits."""
    if not isinstance(value, Tensor) or value.shape != logits.shape[:1]:
        given = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise MedartsError(
            f"The loss '{name}' returned {given} for {len(logits)} images.",
            fix="Return one value per image: take means over pixels, not over the batch.",
        )
    if logits.requires_grad and not value.requires_grad:
        raise MedartsError(f"The loss '{name}' has no gradient.", fix="Compute it from the logits by torch functions.")


def _names(task: Task, outputs: Outputs) -> list[str]:
    """Returns the losses that fit."""
    entries = [losses.entry(name) for name in losses.names()]
    fitting = [entry for entry in entries if entry.about["task"] in (None, task)]
    if task == "segmentation":
        fitting = [entry for entry in fitting if entry.about["outputs"] in ("any", outputs)]
    return [entry.name for entry in fitting]


# Losses of both tasks


@register_loss("bce_logits", outputs="binary")
def bce_logits(logits: Tensor, targets: Tensor, *, counted: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, -y log p - (1 - y) log(1 - p), mean over pixels or findings."""
    of_targets = logits[:, 0] if logits.ndim == 4 else logits
    true = (targets != 0).to(logits.dtype)
    return _mean(F.binary_cross_entropy_with_logits(of_targets, true, reduction="none"), counted)


def _mean(values: Tensor, counted: Tensor | None) -> Tensor:
    """Returns the mean of every image (B,), over the pixels that count."""
    axes = tuple(range(1, values.ndim))
    if counted is None:
        return values.mean(axes)
    return (values * counted).sum(axes) / counted.sum(axes).clamp(min=1)


# Losses of masks


@register_loss("bce", task="segmentation", outputs="binary")
def bce(logits: Tensor, target: Tensor, *, counted: Tensor | None = None) -> Tensor:
    """Binary cross-entropy after a sigmoid: the loss of a pixel is at most 100, a saturated one has no gradient."""
    mask = (target != 0).to(logits.dtype)
    return _mean(F.binary_cross_entropy(logits[:, 0].sigmoid(), mask, reduction="none"), counted)


@register_loss("ce", task="segmentation", outputs="exclusive")
def ce(logits: Tensor, target: Tensor, *, counted: Tensor | None = None) -> Tensor:
    """Cross-entropy over all classes, mean over pixels."""
    return _mean(F.cross_entropy(logits, target.long(), reduction="none"), counted)


# MONAI's DiceLoss gives the same numbers (the tests compare them), but takes 1.5 s to import and twice the
# time of a step with one class.
@register_loss("dice", task="segmentation")
def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 sum(p t) + s) / (sum(p) + sum(t) + s), sums over the pixels of one image and class, s = `SMOOTHING`.

    With several classes it is the mean over the foreground classes.
    """
    probability, mask = _foreground(logits, target)
    return _one_minus_dice(probability, mask, probability.sum((2, 3)) + mask.sum((2, 3)))


@register_loss("soft_dice", task="segmentation")
def soft_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Dice with squares in the denominator, sum(p^2) + sum(t^2) (Milletari 2016, V-Net)."""
    probability, mask = _foreground(logits, target)
    return _one_minus_dice(probability, mask, probability.square().sum((2, 3)) + mask.sum((2, 3)))


@register_loss("bce_dice", task="segmentation", outputs="binary")
def bce_dice(logits: Tensor, target: Tensor, *, counted: Tensor | None = None) -> Tensor:
    """0.5 binary cross-entropy + Dice (MixSearch, retraining)."""
    return 0.5 * bce_logits(logits, target, counted=counted) + dice(logits, target)


@register_loss("ce_dice", task="segmentation", outputs="exclusive")
def ce_dice(logits: Tensor, target: Tensor, *, counted: Tensor | None = None) -> Tensor:
    """Cross-entropy + Dice."""
    return ce(logits, target, counted=counted) + dice(logits, target)


class TverskySettings(Settings):
    """Tversky loss.

    Attributes:
        alpha: weight of false positives; that of false negatives is 1 - alpha. At 0.5 it is the Dice loss, below it
            missed pixels cost more.
    """

    alpha: Annotated[Number, Field(ge=0, le=1)] = 0.3


@register_loss("tversky", task="segmentation", settings=TverskySettings)
def tversky(logits: Tensor, target: Tensor, *, settings: TverskySettings) -> Tensor:
    """1 - TP / (TP + alpha FP + (1 - alpha) FN) with probabilities as counts (Salehi 2017, arXiv 1706.05721)."""
    probability, mask = _foreground(logits, target)
    return _one_minus_dice(
        probability,
        mask,
        2 * (settings.alpha * probability.sum((2, 3)) + (1 - settings.alpha) * mask.sum((2, 3))),
    )


def _one_minus_dice(probability: Tensor, mask: Tensor, total: Tensor) -> Tensor:
    overlap = (probability * mask).sum((2, 3))
    return (1 - (2 * overlap + SMOOTHING) / (total + SMOOTHING)).mean(1)


def _foreground(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Returns probabilities and 0/1 masks of the foreground classes, both (B, C, H, W)."""
    classes = logits.shape[1]
    if classes == 1:
        return logits.sigmoid(), (target != 0).unsqueeze(1).to(logits.dtype)
    indices = torch.arange(1, classes, device=target.device).view(1, -1, 1, 1)
    return logits.softmax(1)[:, 1:], (target.unsqueeze(1) == indices).to(logits.dtype)


# Losses of findings: every output is a question of its own, so each is a mean over the findings of a loss of one logit


@register_loss("weighted_bce", task="classification")
def weighted_bce(logits: Tensor, labels: Tensor, *, prevalence: ArrayLike | None) -> Tensor:
    """-w+ y log p - w- (1 - y) log(1 - p) with w+ = 1 - prevalence and w- = prevalence of every finding.

    Source: Rajpurkar 2017, "CheXNet", section 2.1. A finding that no training image shows has w- = 0: nothing is learnt
    about it.
    """
    shares = np.atleast_1d(np.asarray(np.nan if prevalence is None else prevalence, dtype=np.float64))
    if shares.shape != (logits.shape[1],) or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"weighted_bce needs a prevalence in 0..1 for each of {logits.shape[1]} findings: {shares}")
    share = torch.from_numpy(shares).to(logits)
    weights = torch.where(labels > 0, 1 - share, share)
    return (weights * F.binary_cross_entropy_with_logits(logits, labels, reduction="none")).mean(1)


@register_loss("focal", task="classification")
def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """-a (1 - q)^2 log q, where q is the probability of the label and a is 0.25 for positives, 0.75 for negatives."""
    towards_label = logits * (2 * labels - 1)
    alpha = FOCAL_ALPHA * labels + (1 - FOCAL_ALPHA) * (1 - labels)
    # sigmoid(-z) is 1 - sigmoid(z) without its cancellation.
    return (-alpha * (-towards_label).sigmoid() ** FOCAL_GAMMA * F.logsigmoid(towards_label)).mean(1)


@register_loss("asymmetric", task="classification")
def asymmetric(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p for positives and -m^4 log(1 - m), m = max(p - 0.05, 0), for negatives (Ridnik 2021)."""
    shifted = (logits.sigmoid() - ASYMMETRIC_MARGIN).clamp(min=0)
    # 1 - m is at least the margin, so its logarithm needs no care.
    of_negatives = shifted**ASYMMETRIC_GAMMA * torch.log1p(-shifted)
    return -torch.where(labels > 0, F.logsigmoid(logits), of_negatives).mean(1)
