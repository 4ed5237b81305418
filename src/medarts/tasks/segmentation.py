"""The task of segmentation: the loss over heads and mixed targets, and the score of a pass over images."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from medarts.data.batches import Batches
from medarts.data.mixing import Mixture
from medarts.recipe import DataSettings, LossName
from medarts.tasks import Forward
from medarts.tasks.losses import make_loss
from medarts.tasks.metrics import dice_per_image


class SegmentationTask:
    """What a network for segmentation is asked to do.

    Args:
        data: number of classes.
        loss: name of the loss.
        field: of the recipe that names it, for errors.
        threshold: probability from which a pixel is foreground (one class).
    """

    score = "val_dice"

    def __init__(self, data: DataSettings, *, loss: LossName, field: str = "loss", threshold: float = 0.5) -> None:
        self.classes = data.classes
        self.threshold = threshold
        self._loss = make_loss(loss, classes=data.classes, field=field)

    def loss(self, outputs: Iterable[Tensor], mixture: Mixture) -> Tensor:
        """Returns the mean over the heads and images; each mixed target counts by its share lam."""
        heads = [lam * self._loss(logits, targets).mean() for logits in outputs for lam, targets in mixture.parts]
        return torch.stack(heads).sum() * (len(mixture.parts) / len(heads))

    @torch.no_grad()
    def validate(self, forward: Forward, batches: Batches) -> dict[str, Any]:
        """Scores a network on all images of ``batches``.

        Returns:
            val_loss: mean over all heads and images; val_dice: Dice of the last head, averaged over classes and
            images; val_dice_by_domain: the same in each domain.
        """
        losses: list[float] = []
        scores: dict[str, list[float]] = defaultdict(list)
        for batch in batches.all():
            outputs = forward(batch.images)
            plain = Mixture(batch.images, ((1.0, batch.targets),))
            losses += [float(self.loss(outputs, plain))] * len(batch.images)
            dice = dice_per_image(outputs[-1], batch.targets, classes=self.classes, threshold=self.threshold).mean(1)
            for index, value in zip(batch.indices, dice.tolist(), strict=True):
                scores[batches.store.manifest.samples[index].domain].append(value)
        everything = [value for values in scores.values() for value in values]
        return {
            "val_loss": sum(losses) / len(losses),
            "val_dice": sum(everything) / len(everything),
            "val_dice_by_domain": {name: sum(values) / len(values) for name, values in sorted(scores.items())},
        }
