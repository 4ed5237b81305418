"""The task of segmentation: the loss over heads and mixed targets, and the score of a pass over images."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medarts.config import DataSettings, LossName
from medarts.data.batches import Batches
from medarts.data.manifest import Manifest
from medarts.data.mixing import Mixture
from medarts.data.resizing import MaskState
from medarts.data.store import ImageStore
from medarts.errors import DataError
from medarts.metrics.masks import dice_per_image, shown_classes
from medarts.tasks import Forward
from medarts.tasks.losses import make_loss


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
            images; val_dice_by_domain: the same in each domain. Classes that no image of a domain shows are excluded
            there, as in the scores of an evaluation; None for a domain where that leaves none.
        """
        losses: list[float] = []
        dice: list[NDArray[np.floating[Any]]] = []
        indices: list[int] = []
        for batch in batches.all():
            outputs = forward(batch.images)
            plain = Mixture(batch.images, ((1.0, batch.targets),))
            losses += [float(self.loss(outputs, plain))] * len(batch.images)
            logits, targets = outputs[-1], batch.targets
            dice.append(dice_per_image(logits, targets, batch.truths, classes=self.classes, threshold=self.threshold))
            indices += batch.indices.tolist()
        domains = [batches.store.manifest.samples[index].domain for index in indices]
        shown = shown_classes(batches.store.truths[indices], domains)
        # The mean over the classes of an image is over those that its domain shows; some domain shows one.
        means = np.ma.masked_where(~shown, np.concatenate(dice)).mean(1)
        by_domain = {name: means[np.asarray(domains) == name].mean() for name in sorted(set(domains))}
        return {
            "val_loss": sum(losses) / len(losses),
            "val_dice": float(means.mean()),
            "val_dice_by_domain": {
                name: None if mean is np.ma.masked else float(mean) for name, mean in by_domain.items()
            },
        }

    def check(self, store: ImageStore, parts: Mapping[str, Manifest]) -> None:
        """Refuses parts of the data in which no mask shows anything at the size of the store.

        Args:
            store: the images.
            parts: what errors call each part, such as "training", and its samples.

        Raises:
            DataError: there is such a part.
        """
        for name, part in parts.items():
            truths = store.truths[store.indices(part)]
            if (truths == MaskState.PRESENT).any():
                continue
            size = store.images.shape[-1]
            if (truths == MaskState.VANISHED).any():
                raise DataError(
                    f"No mask of the {name} images shows anything once it is resized to data.size {size}.",
                    fix="Raise data.size, or cut the images to what is to be found.",
                )
            raise DataError(
                f"All masks of the {name} images are empty.", fix="Put images that show something into that split."
            )
