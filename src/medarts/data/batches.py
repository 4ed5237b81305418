"""Batches: which images a step sees, their random changes, and mixtures of them.

The order is a function of (seed, epoch) and the augmentation of (seed, epoch, step), so that any step can be made
without the ones before it.

Changes are made on the batch and on its device. Every number is drawn on the CPU from a generator seeded for the step,
so that a step's augmentation depends on its seed alone, not on the device or on what ran before. Mirrors, transposes
and intensities are plain torch: kornia's containers take several times as long for them on a CPU. The affine warp is
kornia's.

Mixing is that of MixSearch (arXiv 2102.13280): x = sum_k lam_k x_perm_k, the loss mixed by the same lam; for k = 2 this
is mixup (Zhang et al. 2018).
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medarts.config import AugmentationSettings, MixingSettings
from medarts.config.data import IGNORE, CropSampling, Resize
from medarts.data.crops import with_places
from medarts.data.manifest import Manifest
from medarts.data.reading import MaskState
from medarts.data.store import ImageStore
from medarts.data.windows import corners, enlarging
from medarts.errors import DataError
from medarts.system.randomness import seed_of


def number_drawn(store: ImageStore, indices: NDArray[np.int64]) -> int:
    """Returns how many images, or crops of images with sizes of their own, an epoch has."""
    return len(indices) if store.crops is None else int(store.crops.tiles[indices].sum())


def check_fills_a_batch(part: Manifest, batch: int, *, name: str, store: ImageStore | None = None) -> None:
    """Refuses a part of the data that does not fill one batch.

    Args:
        part: the part.
        batch: images of a batch.
        name: of the part.
        store: the images, where crops are counted. Default: whole images are.
    """
    number = len(part.samples) if store is None else number_drawn(store, store.indices(part))
    if number < batch:
        what = "images" if store is None or store.crops is None else "patches"
        raise DataError(
            f"The {what} of the {name} are {number}, fewer than a batch of {batch}.",
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
        targets: uint8: class indices, BHW; 0 and 1 of classes that may overlap, BCHW; or labels of findings, BF. Those
            of `medarts.config.data.IGNORE` count nothing.
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

    def few(self, number: int) -> "Batches":
        """Returns the batches of at most ``number`` of the images, evenly spaced."""
        chosen = np.unique(np.linspace(0, len(self.indices) - 1, min(number, len(self.indices))).round().astype(int))
        part = copy.copy(self)
        part.__dict__.pop("rarest_shown", None)  # of the images of the whole
        part.samples = tuple(self.samples[place] for place in chosen)
        part.indices, part.domains = self.indices[chosen], self.domains[chosen]
        return part

    def order(self, epoch: int, *, seed: int, sampling: str | CropSampling) -> NDArray[np.int64]:
        """Returns the positions of an epoch's images, in the order in which they are drawn; of crops see `with_places`.

        Args:
            seed: seed of the run.
            sampling: by_size: every image once. equal: as many images, the domains in equal parts, the images of a
                small domain more than once. foreground: the same with what images show (``rarest_shown``) for domains.
                A share of crops with foreground: by_size, but for these.
        """
        generator = np.random.default_rng(seed_of(seed, "order", self.name, epoch))
        crops = self.store.crops
        if crops is None:
            return self._drawn(self.indices, sampling, generator)
        drawn = self._drawn(np.repeat(self.indices, crops.tiles[self.indices]), sampling, generator)
        share = sampling.foreground if isinstance(sampling, CropSampling) else 0.0
        return with_places(drawn, crops, self.indices, generator, share=share)

    def _drawn(
        self, pool: NDArray[np.int64], sampling: str | CropSampling, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Returns as many images as a pool has, in which each is as often as it has crops."""
        if sampling == "by_size" or isinstance(sampling, CropSampling):
            return generator.permutation(pool)
        groups = self.domains if sampling == "equal" else self.rarest_shown
        names = np.unique(groups)
        share = -(-len(pool) // len(names))
        drawn = []
        for name in names:
            members = pool[np.isin(pool, self.indices[groups == name])]
            rounds = [generator.permutation(members) for _ in range(-(-share // len(members)))]
            drawn.append(np.concatenate(rounds)[:share])
        return generator.permutation(np.concatenate(drawn))[: len(pool)]

    @cached_property
    def rarest_shown(self) -> NDArray[np.int64]:
        """The class or finding, of those that each image shows, that fewest images show; -1 where it shows none."""
        if self.store.truths.shape[1]:
            shown = self.store.truths[self.indices] == MaskState.PRESENT
        else:
            shown = self.store.targets[self.indices] == 1
        rarest_first = np.argsort(shown.sum(0), kind="stable")
        return np.where(shown.any(1), rarest_first[shown[:, rarest_first].argmax(1)], -1)

    @property
    def steps(self) -> int:
        """Whole batches of an epoch; a smaller rest is left for another epoch's order."""
        return number_drawn(self.store, self.indices) // self.batch

    def training(
        self,
        order: NDArray[np.int64],
        step: int,
        *,
        settings: AugmentationSettings,
        seed: int,
        resize: Resize = "squash",
    ) -> Batch:
        """Returns the augmented batch of a step; steps beyond the last start over.

        Args:
            order: of the images.
            step: number of the batch in it.
            settings: the changes.
            seed: of the changes.
            resize: that of the recipe. What comes in from outside is background where images are stretched, as it was
                in the runs of before; else it counts nothing: it may lie within an object, or in padding.
        """
        batch = self.unchanged(order, step)
        outside = 0 if resize == "squash" else IGNORE
        images, targets = augment(batch.images, batch.targets, settings, seed=seed, outside=outside)
        return Batch(images, targets, batch.indices, batch.truths)

    def unchanged(self, order: NDArray[np.int64], step: int) -> Batch:
        """Returns the batch of a step as it is; steps beyond the last start over."""
        start = step % self.steps * self.batch
        return self._load(order[start : start + self.batch])

    def all(self, first: int = 0, every: int = 1) -> Iterator[Batch]:
        """Yields every image once, unchanged, in the order of the manifest.

        The sizes of the batches differ by at most one: norms that use the statistics of a batch would make of a rest of
        one image something else than of the others. Images with sizes of their own come one by one, whole; networks see
        them by `over_images`.

        Args:
            first: number of the first batch that is yielded.
            every: yield every batch of that many.
        """
        if self.store.crops is not None:
            for index in self.indices[first::every]:
                yield self._whole(index)
            return
        for indices in np.array_split(self.indices, -(-len(self.indices) // self.batch))[first::every]:
            yield self._load(indices)

    def over_images(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a network that takes the images of `all`, in tiles where they have sizes of their own."""
        return forward if self.store.crops is None else tiled(forward, self.store.size, batch=self.batch)

    def _whole(self, index: np.int64) -> Batch:
        image, mask = (
            torch.from_numpy(of[index][None]).to(self.device) for of in (self.store.images, self.store.targets)
        )
        return Batch(image.float(), mask, np.array([index]), self.store.truths[[index]])

    def _load(self, indices: NDArray[np.int64]) -> Batch:
        if self.store.crops is not None:
            arrays = self.store.crops.images_and_masks(indices)
            crops, masks = (torch.from_numpy(of).to(self.device) for of in arrays)
            return Batch(crops.float(), masks, indices[:, 0], self.store.truths[indices[:, 0]])
        images = torch.from_numpy(self.store.images[indices]).to(self.device).float()
        targets = torch.from_numpy(self.store.targets[indices]).to(self.device)
        return Batch(images, targets, indices, self.store.truths[indices])


def tiled(forward: Callable[..., Any], window: int, *, batch: int) -> Callable[..., Any]:
    """Returns a network of images of one size as one of an image of any size, seen in as few tiles as cover it.

    Args:
        forward: gives a tensor (B, K, window, window), or several.
        window: height and width that it takes.
        batch: tiles at a time, at most; numbers differ by at most one, see `Batches.all`.
    """

    def over(image_1chw: Tensor, *more: Any, **options: Any) -> Any:
        height, width = image_1chw.shape[-2:]
        framing, (tall, wide) = enlarging((height, width), window)
        image = image_1chw.new_zeros(*image_1chw.shape[:2], tall, wide)
        image[(..., *framing.window)] = image_1chw
        places = corners(tall, wide, window, step=window)
        found: list[Tensor] = []
        is_one = False
        for part in np.array_split(np.array(places), -(-len(places) // batch)):
            tiles = torch.cat([image[..., top : top + window, left : left + window] for top, left in part.tolist()])
            outputs = forward(tiles, *more, **options)
            is_one = isinstance(outputs, Tensor)
            outputs = [outputs] if is_one else outputs
            found = found or [each.new_empty(1, each.shape[1], tall, wide) for each in outputs]
            for whole, each in zip(found, outputs, strict=True):
                for (top, left), tile in zip(part.tolist(), each, strict=True):
                    whole[0, :, top : top + window, left : left + window] = tile
        found = [framing.inside(whole) for whole in found]
        return found[0] if is_one else found

    return over


def augment(
    images: Tensor, targets: Tensor, settings: AugmentationSettings, *, seed: int, outside: int = 0
) -> tuple[Tensor, Tensor]:
    """Changes every image of a batch at random, its mask with it; each change comes with probability one half.

    Args:
        images: BCHW, float32, 0..1, square.
        targets: masks, BHW or BCHW, uint8, see `Batch`; or labels of whole images, BF, which stay as they are.
        settings: the changes.
        seed: decides all.
        outside: what masks are where the image has moved away, and repeats its border.

    Returns:
        Images in 0..1 and targets, of the same shapes. Masks are moved by nearest neighbour.
    """
    dice = _Dice(seed, len(images), images.device)
    if settings.flip:
        images, targets = _where(dice.coin(), images, targets, lambda x: x.flip(-1))
    if settings.flip is True:
        images, targets = _where(dice.coin(), images, targets, lambda x: x.flip(-2))
    if settings.transpose:
        images, targets = _where(dice.coin(), images, targets, lambda x: x.transpose(-1, -2))
    if settings.rotate or settings.scale or settings.shift:
        images, targets = _warp(images, targets, settings, dice, outside=outside)
    if settings.gamma:
        images = images ** (1 + dice.number(settings.gamma))
    if settings.contrast:
        images = 0.5 + (images - 0.5) * (1 + dice.number(settings.contrast))
    if settings.brightness:
        images = images + dice.number(settings.brightness)
    return images.clamp(0, 1), targets


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixed batch.

    Attributes:
        images: BCHW.
        parts: (lam, targets as in `Batch`) of every image that went in; the lam sum to 1.
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
        targets: as in `Batch`.
        settings: alpha and the number of images; alpha 0 returns the batch as it is.
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


class _Dice:
    """Draws for a batch, one number an image."""

    def __init__(self, seed: int, number: int, device: torch.device) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._number = number
        self._device = device

    def coin(self) -> Tensor:
        """Returns true or false for every image, B."""
        return (torch.rand(self._number, generator=self._generator) < 0.5).to(self._device)

    def number(self, largest: float) -> Tensor:
        """Returns a number in +-``largest`` for half of the images and 0 for the others, B111."""
        drawn = (2 * torch.rand(self._number, generator=self._generator) - 1) * largest
        return (drawn.to(self._device) * self.coin()).view(-1, 1, 1, 1)


def _where(
    chosen: Tensor, images: Tensor, targets: Tensor, change: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    images = torch.where(chosen.view(-1, 1, 1, 1), change(images), images)
    if targets.ndim > 2:
        targets = torch.where(chosen.view(-1, *[1] * (targets.ndim - 1)), change(targets), targets)
    return images, targets


def _warp(
    images: Tensor, targets: Tensor, settings: AugmentationSettings, dice: _Dice, *, outside: int
) -> tuple[Tensor, Tensor]:
    """Moves, rotates and zooms about the centre; outside, images take their border's colour, masks what is given."""
    from kornia.geometry.transform import get_affine_matrix2d, warp_affine

    b, _, h, w = images.shape
    centre = images.new_tensor([[(w - 1) / 2, (h - 1) / 2]]).expand(b, 2)
    angle = dice.number(settings.rotate).view(b)
    scale = 1 + dice.number(settings.scale).view(b, 1).expand(b, 2)
    shift = torch.zeros_like(centre)
    if settings.shift:
        shift = torch.stack([dice.number(settings.shift).view(b) * side for side in (w, h)], dim=1)
    matrix = get_affine_matrix2d(shift, centre, scale, angle)[:, :2]
    warped = warp_affine(images, matrix, (h, w), padding_mode="border", align_corners=True)
    if targets.ndim == 2:
        return warped, targets
    counted = targets.reshape(b, -1, h, w).float() + 1  # 0 is outside
    moved = warp_affine(counted, matrix, (h, w), mode="nearest", padding_mode="zeros", align_corners=True).round()
    labels = torch.where(moved == 0, outside, moved - 1)
    return warped, labels.reshape(targets.shape).to(targets.dtype)
