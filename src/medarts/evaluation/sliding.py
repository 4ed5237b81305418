"""Networks that were trained on patches, on whole images: windows are blended as in predictions."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medarts.data.geometry import padded
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
