"""The task of naming findings, several at once: the loss over heads and mixed labels, and the score of a pass."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medarts.config import LossName
from medarts.data.batches import Batches
from medarts.data.manifest import Manifest
from medarts.data.mixing import Mixture
from medarts.data.store import ImageStore
from medarts.errors import DataError
from medarts.metrics.ranking import auroc
from medarts.tasks import Forward
from medarts.tasks.finding_losses import make_finding_loss


class ClassificationTask:
    """What a network for findings is asked to do.

    Args:
        manifest: the findings, the training images that say how frequent each is, and the validation images.
        loss: name of the loss.
        field: of the recipe that names it, for errors.
        auxiliary_weight: share of heads before the last in the loss.

    Raises:
        RecipeError: there is no such loss for findings.
        DataError: no finding is both present and absent among the validation images.
    """

    score = "val_auroc"

    def __init__(
        self, manifest: Manifest, *, loss: LossName, field: str = "loss", auxiliary_weight: float = 0.4
    ) -> None:
        self.findings = manifest.findings
        self.auxiliary_weight = auxiliary_weight
        prevalence = manifest.of_split("train").labels().mean(0)
        self._loss = make_finding_loss(loss, prevalence=prevalence, field=field)
        _check_can_be_scored(manifest)

    def loss(self, outputs: list[Tensor], mixture: Mixture) -> Tensor:
        """Returns the mean over the images; each mixed label counts by its share lam, an early head by its weight."""
        total = outputs[-1].new_zeros((), dtype=torch.float32)
        for number, logits in enumerate(outputs, 1):
            weight = 1.0 if number == len(outputs) else self.auxiliary_weight
            for lam, labels in mixture.parts:
                total = total + weight * lam * self._loss(logits, labels).mean()
        return total

    @torch.no_grad()
    def validate(self, forward: Forward, batches: Batches) -> dict[str, Any]:
        """Scores a network on all images of ``batches``.

        Returns:
            val_loss: mean over all images; val_auroc: mean AUROC over the findings that are present and absent among
            them; val_auroc_by_finding: that of each, None for the others.
        """
        losses, logits, labels = [], [], []
        for batch in batches.all():
            outputs = forward(batch.images)[-1]
            plain = Mixture(batch.images, ((1.0, batch.targets),))
            losses += [float(self.loss([outputs], plain))] * len(batch.images)
            logits.append(outputs.float().cpu().numpy())
            labels.append(batch.targets.cpu().numpy())
        of_images, true = np.concatenate(logits), np.concatenate(labels)
        values = {
            name: auroc(of_images[:, column], true[:, column]) if np.isfinite(of_images).all() else float("nan")
            for column, name in enumerate(self.findings)
        }
        defined = [value for value in values.values() if not np.isnan(value)]
        return {
            "val_loss": sum(losses) / len(losses),
            "val_auroc": sum(defined) / len(defined) if defined else float("nan"),
            "val_auroc_by_finding": {name: None if np.isnan(value) else value for name, value in values.items()},
        }

    def check(self, store: ImageStore, parts: Mapping[str, Manifest]) -> None:
        """Accepts all images: what could be wrong is in the manifest, see the constructor."""


def _check_can_be_scored(manifest: Manifest) -> None:
    shown = manifest.of_split("val").labels().mean(0)
    if not ((shown > 0) & (shown < 1)).any():
        raise DataError(
            "None of the findings is both present and absent among the validation images, so no network can be chosen.",
            fix="Put more patients into the split val.",
        )
