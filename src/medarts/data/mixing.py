"""Mixing of images, as in MixSearch: x = sum_k lam_k x_perm_k, the loss mixed by the same lam.

Source: MixSearch (arXiv 2102.13280), section on the mixing of data sets; for k=2 this is mixup (Zhang et al. 2018).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medarts.config import MixingSettings


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixed batch.

    Attributes:
        images: BCHW.
        parts: (lam, targets BHW or BF) of every image that went in; the lam sum to 1.
    """

    images: Tensor
    parts: tuple[tuple[float, Tensor], ...]

    def split(self, number: int) -> list[tuple[float, "Mixture"]]:
        """Splits a batch that has been mixed, for a loop that has no memory for all of it at once.

        Args:
            number: of pieces, 1 to B.

        Returns:
            For each piece its share of the images, and the piece itself, a view of the batch; the sizes differ by at
            most one. The means over the pieces, each times its share, add up to the mean over the batch.

        Raises:
            ValueError: a piece would be empty.
        """
        size = len(self.images)
        if not 1 <= number <= size:
            raise ValueError(f"{size} images cannot be split into {number} pieces")
        images = self.images.tensor_split(number)
        targets = zip(*(whole.tensor_split(number) for _, whole in self.parts), strict=True)
        lams = [lam for lam, _ in self.parts]
        return [
            (len(piece) / size, Mixture(piece, tuple(zip(lams, of_piece, strict=True))))
            for piece, of_piece in zip(images, targets, strict=True)
        ]


def mix(images: Tensor, targets: Tensor, settings: MixingSettings, *, seed: int) -> Mixture:
    """Mixes every image of a batch with others of it.

    Args:
        images: BCHW.
        targets: BHW or BF.
        settings: alpha and the number of images; alpha 0 returns the batch as it is.
        seed: of this step.
    """
    if settings.alpha == 0:
        return Mixture(images, ((1.0, targets),))
    generator = np.random.default_rng(seed)
    lams = mixing_weights(settings, generator)
    mixed = torch.zeros_like(images)
    parts = []
    for number, lam in enumerate(lams):
        order = np.arange(len(images)) if number == 0 else generator.permutation(len(images))
        index = torch.from_numpy(order).to(images.device)
        mixed += lam * images[index]
        parts.append((lam, targets[index]))
    return Mixture(mixed, tuple(parts))


def mixing_weights(settings: MixingSettings, generator: np.random.Generator) -> list[float]:
    """Draws lam: (lam, 1 - lam) of Beta(a, a) for two images, the softmax of k draws for three and four."""
    if settings.images == 2:
        lam = float(generator.beta(settings.alpha, settings.alpha))
        return [lam, 1.0 - lam]
    draws: NDArray[np.float64] = np.exp(generator.beta(settings.alpha, settings.alpha, size=settings.images))
    return [float(draw) for draw in draws / draws.sum()]
