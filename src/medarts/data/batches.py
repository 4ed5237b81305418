"""Batches: which samples are in which step of which epoch, and their tensors.

The order is a function of (seed, epoch) and the augmentation of (seed, epoch, step), so that any step can be made
without the ones before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medarts.config import AugmentationSettings
from medarts.data.augmentation import augment
from medarts.data.manifest import Manifest
from medarts.data.store import ImageStore
from medarts.errors import DataError
from medarts.system.randomness import seed_of


def check_fills_a_batch(part: Manifest, batch: int, *, name: str) -> None:
    """Refuses a part of the data that does not fill one batch."""
    if len(part.samples) < batch:
        raise DataError(
            f"The images of the {name} are {len(part.samples)}, fewer than a batch of {batch}.",
            fix="Lower the batch size, or add images.",
        )


def smallest_batch(images: int, batch: int) -> int:
    """Returns the images of the smallest batch when that many images are gone through once; see ``Batches.all``."""
    return images // -(-images // batch)


@dataclass(frozen=True, slots=True)
class Batch:
    """Images with their targets.

    Attributes:
        images: BCHW, float32, 0..1.
        targets: uint8: class indices, BHW, or labels of findings, BF.
        indices: positions in the store.
        truths: uint8: what the masks have of every foreground class, a `MaskState` each, BC; C is 0 for findings.
    """

    images: Tensor
    targets: Tensor
    indices: NDArray[np.int64]
    truths: NDArray[np.uint8]


class Batches:
    """The batches of a part of a store.

    Args:
        name: what errors call the part, and what tells its order from that of another part.
    """

    def __init__(self, store: ImageStore, part: Manifest, *, batch: int, name: str, device: torch.device) -> None:
        self.store = store
        self.samples = part.samples
        self.indices = store.indices(part)
        self.domains = np.asarray([sample.domain for sample in part.samples])
        self.batch = batch
        self.name = name
        self.device = device

    def order(self, epoch: int, *, seed: int, sampling: str) -> NDArray[np.int64]:
        """Returns the positions of an epoch's images, in the order in which they are drawn.

        Args:
            seed: seed of the run.
            sampling: by_size: every image once. equal: as many images, the domains in equal parts, the images of a
                small domain more than once.
        """
        generator = np.random.default_rng(seed_of(seed, "order", self.name, epoch))
        if sampling == "by_size":
            return generator.permutation(self.indices)
        domains = sorted(set(self.domains))
        share = -(-len(self.indices) // len(domains))
        drawn = []
        for domain in domains:
            members = self.indices[self.domains == domain]
            rounds = [generator.permutation(members) for _ in range(-(-share // len(members)))]
            drawn.append(np.concatenate(rounds)[:share])
        return generator.permutation(np.concatenate(drawn))[: len(self.indices)]

    @property
    def steps(self) -> int:
        """Whole batches of an epoch; a smaller rest is left for another epoch's order."""
        return len(self.indices) // self.batch

    def training(self, order: NDArray[np.int64], step: int, *, settings: AugmentationSettings, seed: int) -> Batch:
        """Returns the augmented batch of a step; steps beyond the last start over."""
        start = step % self.steps * self.batch
        batch = self._load(order[start : start + self.batch])
        images, targets = augment(batch.images, batch.targets, settings, seed=seed)
        return Batch(images, targets, batch.indices, batch.truths)

    def all(self) -> Iterator[Batch]:
        """Yields every image once, unchanged, in the order of the manifest.

        The sizes of the batches differ by at most one: norms that use the statistics of a batch would make of a rest of
        one image something else than of the others.
        """
        for indices in np.array_split(self.indices, -(-len(self.indices) // self.batch)):
            yield self._load(indices)

    def _load(self, indices: NDArray[np.int64]) -> Batch:
        images = torch.from_numpy(self.store.images[indices]).to(self.device).float()
        targets = torch.from_numpy(self.store.targets[indices]).to(self.device)
        return Batch(images, targets, indices, self.store.truths[indices])
