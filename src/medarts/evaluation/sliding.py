"""Networks that were trained on patches, on whole images: windows are blended as in predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medarts.config.data import IGNORE
from medarts.data.geometry import fitted, padded
from medarts.data.reading import frame_image, resize_mask
from medarts.data.store import ImageStore
from medarts.data.windows import Floats, blended, enlarging

_EPSILON = 1e-7
"""Of probabilities, whose logits are finite then."""


class Sliding(nn.Module):
    """A network on images of any size: the probabilities of windows that overlap by half are blended by a Gaussian.

    What it returns are the logits of the blended probabilities.

    Args:
        network: takes images of one size.
        window: this size.
        batch: windows at a time.
        exclusive: whether the classes exclude each other.
    """

    def __init__(self, network: nn.Module, window: int, *, batch: int, exclusive: bool) -> None:
        super().__init__()
        self.network = network
        self._window = window
        self._batch = batch
        self._exclusive = exclusive

    def forward(self, images_bchw: Tensor, *more: Any, **options: Any) -> Any:
        """Returns what the network returns: logits (B, K, H, W), or those of several heads."""
        device = images_bchw.device
        every = [self._of_image(image, device, more, options) for image in images_bchw.cpu().numpy()]
        heads = [self._logits(torch.from_numpy(np.stack(of))).to(device) for of in zip(*every, strict=True)]
        return heads if options.get("all_heads") else heads[0]

    def _of_image(
        self, image_chw: Floats, device: torch.device, more: tuple[Any, ...], options: dict[str, Any]
    ) -> list[Floats]:
        """Returns the probabilities of an image by each head."""
        number = 0

        def of_windows(tiles: Floats) -> Floats:
            nonlocal number
            outputs = self.network(torch.from_numpy(tiles).to(device), *more, **options)
            heads = [outputs] if isinstance(outputs, Tensor) else outputs
            number = len(heads)
            return torch.cat([self._probabilities(each.float()) for each in heads], 1).cpu().numpy()

        framing, shape = enlarging(image_chw.shape[1:], self._window)
        whole = blended(padded(image_chw, framing, shape, fill=0), self._window, of_windows, batch=self._batch)
        return np.split(framing.inside(whole), number)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(1) if self._exclusive else logits.sigmoid()

    def _logits(self, probabilities: Tensor) -> Tensor:
        p = probabilities.clamp(_EPSILON, 1 - _EPSILON)
        return p.log() if self._exclusive else p.logit()


def shown(store: ImageStore, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Returns images (N, H, W, C) and targets (N, ..., H, W) of one size, for pages.

    Images with sizes of their own are fitted to the size of a patch.

    Args:
        store: the images.
        rows: which of them.
    """
    size = store.size
    if store.crops is None:
        images = store.images[rows].transpose(0, 2, 3, 1).astype(np.float32)
        return images, np.asarray(store.targets[rows])
    images = []
    for row in rows.tolist():
        image = store.images[row].transpose(1, 2, 0).astype(np.float32)
        images.append(frame_image(image, fitted(*image.shape[:2], size=size), size=size).transpose(1, 2, 0))
    return np.stack(images), shown_masks(store, [store.targets[row] for row in rows.tolist()])


def shown_masks(store: ImageStore, masks: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Returns masks, each of its stored size (..., H, W), at the size of the images that `shown` gives."""
    if store.crops is None:
        return np.stack(masks)
    size, several = store.size, store.truths.shape[1] > 1
    found = []
    for mask in masks:
        framing = fitted(*mask.shape[-2:], size=size)
        resized = resize_mask(mask, (framing.rows, framing.columns), several=several)
        found.append(padded(resized, framing, (size, size), fill=IGNORE))
    return np.stack(found)
