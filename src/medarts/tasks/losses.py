"""Losses of a segmentation, one value per image, chosen by the name a recipe gives them.

One value per image, not per batch: mixing weights the losses of an image's parts by that image's factors, and
a Dice pooled over a batch lets large lesions hide missed small ones.
"""

from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from medarts.config import LossName, MaskLoss
from medarts.errors import RecipeError, did_you_mean

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, K, H, W) and class indices (B, H, W) -> the loss of every image (B,)."""

SMOOTHING = 1.0
"""Pixels added to numerator and denominator of Dice: an empty mask with an empty prediction has loss 0."""


def make_loss(name: LossName, *, classes: int, field: str = "loss") -> Loss:
    """Returns the loss of that name.

    The loss takes logits (B, K, H, W) and class indices (B, H, W) of any integer type, and returns one value
    per image (B,), at least 0; the caller averages. It is computed in float32 (float64 for float64 logits),
    also inside autocast. With one class, K = 1 and every index but 0 is foreground; otherwise K = ``classes``
    exclusive classes of which 0 is background.

    * ``bce``, ``bce_logits``: binary cross-entropy, mean over pixels. ``bce`` takes the sigmoid first, so the
      loss of a pixel is at most 100 and a saturated pixel has no gradient; ``bce_logits`` is exact.
    * ``ce``: cross-entropy over all classes, mean over pixels.
    * ``dice``: 1 - (2 sum(p t) + s) / (sum(p) + sum(t) + s), sums over the pixels of one image and class,
      s = `SMOOTHING`; with several classes the mean over the foreground classes.
    * ``soft_dice``: the same with squares in the denominator, sum(p^2) + sum(t^2) (Milletari 2016, V-Net).
    * ``bce_dice``: 0.5 ``bce_logits`` + ``dice`` (MixSearch, retraining).
    * ``ce_dice``: ``ce`` + ``dice``.

    Args:
        name: name of the loss.
        classes: outputs of the network, as in the recipe.
        field: of the recipe that names the loss, for errors.

    Raises:
        RecipeError: unknown name, or a loss of one class for several or the reverse.
    """
    if name not in _TERMS:
        if name in get_args(LossName):
            fix = f"Use one of {', '.join(get_args(MaskLoss))}."
            raise RecipeError(f"{field} '{name}' is a loss of findings, not of masks.", fix=fix)
        raise RecipeError(f"There is no loss '{name}'.", fix=did_you_mean(name, get_args(MaskLoss)))
    binary, exclusive = name.startswith("bce"), name.startswith("ce")
    if (binary and classes > 1) or (exclusive and classes == 1):
        raise RecipeError(
            f"{field} '{name}' does not fit data.classes {classes}.",
            fix="Use ce, ce_dice, dice or soft_dice." if binary else "Use bce_logits, bce_dice, dice or soft_dice.",
        )
    terms = _TERMS[name]

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        # Sums over thousands of pixels lose all precision in half precision, and autocast forbids BCE.
        with torch.autocast(logits.device.type, enabled=False):
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return torch.stack([weight * term(wide, target) for weight, term in terms]).sum(0)

    return loss


def _bce(logits: Tensor, target: Tensor) -> Tensor:
    mask = (target != 0).to(logits.dtype)
    return F.binary_cross_entropy(logits[:, 0].sigmoid(), mask, reduction="none").mean((1, 2))


def _bce_logits(logits: Tensor, target: Tensor) -> Tensor:
    mask = (target != 0).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits[:, 0], mask, reduction="none").mean((1, 2))


def _ce(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target.long(), reduction="none").mean((1, 2))


# MONAI's DiceLoss gives the same numbers (the tests compare them), but takes 1.5 s to import and twice the
# time of a step with one class.
def _dice(logits: Tensor, target: Tensor) -> Tensor:
    probability, mask = _foreground(logits, target)
    return _one_minus_dice(probability, mask, probability.sum((2, 3)) + mask.sum((2, 3)))


def _soft_dice(logits: Tensor, target: Tensor) -> Tensor:
    probability, mask = _foreground(logits, target)
    return _one_minus_dice(probability, mask, probability.square().sum((2, 3)) + mask.sum((2, 3)))


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


_TERMS: dict[LossName, tuple[tuple[float, Loss], ...]] = {
    "bce": ((1.0, _bce),),
    "bce_logits": ((1.0, _bce_logits),),
    "dice": ((1.0, _dice),),
    "soft_dice": ((1.0, _soft_dice),),
    "bce_dice": ((0.5, _bce_logits), (1.0, _dice)),
    "ce": ((1.0, _ce),),
    "ce_dice": ((1.0, _ce), (1.0, _dice)),
}
