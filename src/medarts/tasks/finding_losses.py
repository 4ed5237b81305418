"""Losses of a classification of findings, one value per image, chosen by the name a recipe gives them.

Every output is a question of its own, so each loss is a mean over the findings of a loss of one logit z with
probability p = sigmoid(z) and label y. The constants are those of the papers named beside them.
"""

from typing import get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from medarts.config import FindingLoss, LossName
from medarts.errors import RecipeError, did_you_mean
from medarts.tasks.losses import Loss

FOCAL_GAMMA = 2.0
FOCAL_ALPHA = 0.25
"""Lin 2017, "Focal loss for dense object detection", section 5.1."""

ASYMMETRIC_GAMMA = 4.0
ASYMMETRIC_MARGIN = 0.05
"""Ridnik 2021, "Asymmetric loss for multi-label classification", values for MS-COCO; gamma of positives is 0."""


def make_finding_loss(name: LossName, *, prevalence: ArrayLike | None = None, field: str = "loss") -> Loss:
    """Returns the loss of that name.

    The loss takes logits (B, F) and labels (B, F), 0 or 1 in any type, and returns the mean over the findings of
    every image (B,), at least 0; the caller averages. It is computed in float32 (float64 for float64 logits),
    also inside autocast.

    * ``bce_logits``: binary cross-entropy, -y log p - (1 - y) log(1 - p).
    * ``weighted_bce``: the same with w+ = 1 - prevalence before the first term and w- = prevalence before the
      second, for every finding (Rajpurkar 2017, "CheXNet", section 2.1). A finding that no training image shows has
      w- = 0: nothing is learnt about it.
    * ``focal``: -a (1 - q)^2 log q, where q is the probability of the label and a is 0.25 for positives and 0.75
      for negatives (Lin 2017).
    * ``asymmetric``: -log p for positives and -m^4 log(1 - m), m = max(p - 0.05, 0), for negatives (Ridnik 2021).

    Args:
        name: name of the loss.
        prevalence: share of the training images that show each finding (F,), 0..1; ``weighted_bce`` needs it, the
            others have no use for it.
        field: of the recipe that names the loss, for errors.

    Raises:
        RecipeError: unknown name, or a loss of segmentation.
        ValueError: ``weighted_bce`` without a prevalence in 0..1 for every finding.
    """
    names = get_args(FindingLoss)
    if name not in names:
        if name in get_args(LossName):
            fix = f"Use one of {', '.join(names)}."
            raise RecipeError(f"{field} '{name}' is a loss of segmentation, not of findings.", fix=fix)
        raise RecipeError(f"There is no loss '{name}'.", fix=did_you_mean(name, names))
    term = _weighted_bce(prevalence) if name == "weighted_bce" else _TERMS[name]

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        # Half precision rounds p to 1 from a logit of 8 on, and with it the loss of confident mistakes.
        with torch.autocast(logits.device.type, enabled=False):
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return term(wide, labels.to(wide.dtype)).mean(1)

    return loss


def _weighted_bce(prevalence: ArrayLike | None) -> Loss:
    shares = np.atleast_1d(np.asarray(np.nan if prevalence is None else prevalence, dtype=np.float64))
    if shares.ndim != 1 or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"weighted_bce needs a prevalence in 0..1 for every finding, not {prevalence!r}")
    negative = torch.from_numpy(shares)

    def term(logits: Tensor, labels: Tensor) -> Tensor:
        if logits.shape[1] != len(negative):
            raise ValueError(f"there are {logits.shape[1]} findings, but {len(negative)} prevalences")
        share = negative.to(logits)
        weights = torch.where(labels > 0, 1 - share, share)
        return weights * F.binary_cross_entropy_with_logits(logits, labels, reduction="none")

    return term


def _bce_logits(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def _focal(logits: Tensor, labels: Tensor) -> Tensor:
    towards_label = logits * (2 * labels - 1)
    alpha = FOCAL_ALPHA * labels + (1 - FOCAL_ALPHA) * (1 - labels)
    # sigmoid(-z) is 1 - sigmoid(z) without its cancellation.
    return -alpha * (-towards_label).sigmoid() ** FOCAL_GAMMA * F.logsigmoid(towards_label)


def _asymmetric(logits: Tensor, labels: Tensor) -> Tensor:
    shifted = (logits.sigmoid() - ASYMMETRIC_MARGIN).clamp(min=0)
    # 1 - m is at least the margin, so its logarithm needs no care.
    return -torch.where(labels > 0, F.logsigmoid(logits), shifted**ASYMMETRIC_GAMMA * torch.log1p(-shifted))


_TERMS: dict[LossName, Loss] = {"bce_logits": _bce_logits, "focal": _focal, "asymmetric": _asymmetric}
