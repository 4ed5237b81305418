"""What a network is asked to do: the loss over heads and mixed targets, and the score of a pass over images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medarts.config import DataSettings, Recipe
from medarts.config.data import IGNORE
from medarts.data.batches import Batch, Batches, Mixture
from medarts.data.manifest import Manifest, Sample
from medarts.data.reading import MaskState, shrinking
from medarts.data.store import ImageStore
from medarts.errors import DataError, quoted
from medarts.losses import make_loss
from medarts.metrics.masks import (
    counted_pixels,
    dice_per_image,
    foreground_masks,
    predicted_classes,
    shown_classes,
)
from medarts.metrics.ranking import auroc
from medarts.registry import Settings
from medarts.system.ranks import current

IMAGES_COUNTED = 256
"""Images at most by which the share of every class is measured; more would take the time of reading them."""

RARE = 0.05
"""Share of the pixels below which a class is rare. At 2 % heads have to begin at it; at 9 %, networks that did so had a
validation Dice lower by 0.12 after 12 epochs (docs/method.md)."""

LEAST_SHARE = 1e-3
"""Smallest probability with which a class begins, so that Dice losses have a gradient."""

BINS, LARGEST_LOGIT = 1024, 16.0
"""Bins of logits, from minus the largest to it, in which pixels are ranked."""

NO_BACKGROUND = (
    "Give other masks; or, where these hold background in another value, say so: data.sources.0.labels={1: 0, 2: 1}."
)
"""What to do where masks show a class and nothing else."""

_NAMED = 3
"""Patients that an error names."""

Scored = TypeVar("Scored")

Forward = Callable[..., Any]
"""A network: images -> the logits of its last head; with ``all_heads=True`` those of all, early to last."""


class Task(Protocol):
    """What a network is asked to do.

    Attributes:
        score: the value of ``validate`` by which networks are chosen; larger is better.
    """

    score: str

    def loss(self, outputs: list[Tensor], mixture: Mixture) -> Tensor:
        """Returns the loss of a (mixed) batch; ``outputs`` are the logits of all heads, early to last."""

    def validate(self, forward: Forward, batches: Batches) -> dict[str, Any]:
        """Returns validation values, among them ``val_loss`` and the one named ``score``."""

    def check(self, store: ImageStore, parts: Mapping[str, Manifest]) -> None:
        """Refuses parts of the data that nothing can be learned from or validated on.

        Args:
            store: the images.
            parts: what errors call each part, such as "training", and its samples.

        Raises:
            DataError: there is such a part.
        """

    def begin(self, biases: Iterable[nn.Parameter], training: Batches) -> None:
        """Makes the heads of a new network begin where learning goes well from.

        Args:
            biases: what each head adds to its logits.
            training: the images to learn from.
        """


def _of_all(batches: Batches, score: Callable[[Batch], Scored]) -> list[Scored]:
    """Returns what is counted of every batch, in order; of several processes each counts some batches, for all."""
    ranks = current()
    mine = [score(batch) for batch in batches.all(ranks.rank, ranks.size)]
    of_ranks = ranks.gathered(mine)
    # Batch number b is the (b // size)-th of process b % size.
    return [of_rank[turn] for turn in range(len(of_ranks[0])) for of_rank in of_ranks if turn < len(of_rank)]


def make_task(
    recipe: Recipe,
    manifest: Manifest,
    *,
    loss: Settings | str,
    field: str,
    head_decay: float = 1.0,
    learned: bool = False,
) -> Task:
    """Returns the task of a recipe.

    Args:
        recipe: its data.
        manifest: of these data.
        loss: settings of the loss, or its name.
        field: of the recipe that names it, for errors.
        head_decay: see `SegmentationTask`.
        learned: by a network that is trained already.

    Raises:
        RecipeError: the loss does not fit the task.
        DataError: no finding can be scored on the validation images, or one cannot be learned from those of the
            training.
    """
    if recipe.data.task == "segmentation":
        threshold = recipe.evaluation.threshold
        return SegmentationTask(recipe.data, loss=loss, field=field, threshold=threshold, head_decay=head_decay)
    weight, fold = recipe.train.auxiliary_weight, recipe.data.fold
    if not learned:
        _check_are_learned(manifest, fold)
    return ClassificationTask(manifest, loss=loss, field=field, auxiliary_weight=weight, fold=fold)


class SegmentationTask:
    """What a network for segmentation is asked to do.

    Args:
        data: the classes.
        loss: settings of the loss, or its name.
        field: of the recipe that names it, for errors.
        threshold: probability from which a pixel is foreground (one class, or each of those that may overlap).
        head_decay: weight of a head in the loss as a share of that of the next one; 1 weighs all alike.
    """

    score = "val_dice"

    def __init__(
        self,
        data: DataSettings,
        *,
        loss: Settings | str,
        field: str = "loss",
        threshold: float = 0.5,
        head_decay: float = 1.0,
    ) -> None:
        self.classes, self.overlap, self.names = data.outputs, data.overlap, data.class_names
        self.threshold = threshold
        self.head_decay = head_decay
        self._shrinking, self._fold = shrinking(data), data.fold
        self._loss = make_loss(loss, task="segmentation", outputs=data.outputs, overlap=data.overlap, field=field)

    def loss(self, outputs: Sequence[Tensor], mixture: Mixture) -> Tensor:
        """Returns the weighted mean over the heads and images; each mixed target counts by its share lam."""
        weights = [self.head_decay**later for later in reversed(range(len(outputs)))]
        heads = [
            weight * lam * self._loss(logits, targets).mean()
            for weight, logits in zip(weights, outputs, strict=True)
            for lam, targets in mixture.parts
        ]
        return torch.stack(heads).sum() * (1 / sum(weights))

    @torch.no_grad()
    def validate(self, forward: Forward, batches: Batches) -> dict[str, Any]:
        """Scores a network on all images of ``batches``.

        Returns:
            val_loss: mean over all heads and images; val_dice: Dice of the last head, averaged over classes and
            images; val_dice_by_domain: the same in each domain. Classes that no image of a domain shows are excluded
            there, as in the scores of an evaluation; None for a domain where that leaves none.
            val_foreground_by_domain: pixels predicted as foreground by the last head, as a multiple of those that are;
            None for a domain without any.
            val_found_by_domain: whether it knows the foreground, whatever its probabilities: the part of the foreground
            that is among the most probable pixels, as many as are foreground, with 0 for chance and 1 for all of it.
        """
        forward = batches.over_images(forward)
        samples = batches.store.manifest.samples
        ranked: dict[str, NDArray[np.int64]] = {}

        def domains_of(indices: NDArray[np.int64]) -> list[str]:
            return [samples[index].domain for index in indices.tolist()]

        def scored(batch: Batch) -> tuple[NDArray[Any], ...]:
            *of_images, pixels = self._scored(forward(batch.images, all_heads=True), batch)
            _add(ranked, domains_of(batch.indices), pixels)  # which would take 16 KB an image
            return tuple(of_images)

        losses, dice, foreground, indices = map(np.concatenate, zip(*_of_all(batches, scored), strict=True))
        domains = domains_of(indices)
        shown = shown_classes(batches.store.truths[indices], domains)
        # The mean over the classes of an image is over those that its domain shows; some domain shows one.
        means = np.ma.masked_where(~shown, dice).mean(1)
        by_domain = {name: means[np.asarray(domains) == name].mean() for name in sorted(set(domains))}
        return {
            "val_loss": sum(losses.tolist()) / len(losses),
            "val_dice": float(means.mean()),
            "val_dice_by_domain": {
                name: None if mean is np.ma.masked else float(mean) for name, mean in by_domain.items()
            },
            "val_foreground_by_domain": _foreground(foreground, np.asarray(domains)),
            "val_found_by_domain": _found(current().gathered(ranked)),
        }

    def _scored(self, outputs: list[Tensor], batch: Batch) -> tuple[NDArray[Any], ...]:
        """Returns what validation counts of a batch, a row an image.

        That is the loss, Dice of every class, pixels of foreground predicted and true, positions in the store, and
        pixels by their logit (see `_by_logit`).
        """
        loss = float(self.loss(outputs, Mixture(batch.images, ((1.0, batch.targets),))))
        logits, targets = outputs[-1], batch.targets
        dice = dice_per_image(logits, targets, batch.truths, classes=self.classes, threshold=self.threshold)
        true = self._any_class(targets)
        predicted = self._any_class(
            predicted_classes(logits, classes=self.classes, threshold=self.threshold, overlap=self.overlap)
        )
        counted = counted_pixels(targets)
        if counted is not None:  # of overlapping classes one that is there makes foreground of an ignored pixel
            predicted &= (counted := counted.all(1) | true)
        foreground = torch.stack([each.sum((1, 2)) for each in (predicted, true)], 1).cpu().numpy()
        ranked = _by_logit(logits, true, counted, overlap=self.overlap).cpu().numpy()
        return np.full(len(batch.images), loss), dice, foreground, np.asarray(batch.indices), ranked

    def _any_class(self, targets: Tensor) -> Tensor:
        """Returns where targets show any foreground (B, H, W)."""
        return foreground_masks(targets, classes=self.classes).any(1)

    def check(self, store: ImageStore, parts: Mapping[str, Manifest]) -> None:
        """Refuses parts of the data in which no mask shows anything at the size of the store, and training images whose
        masks show nothing else.

        Args:
            store: the images.
            parts: what errors call each part, such as "training", and its samples.

        Raises:
            DataError: there is such a part.
        """
        where, fix = self._shrinking
        for name, part in parts.items():
            truths = store.truths[store.indices(part)]
            if (truths == MaskState.PRESENT).any():
                if name == "training":
                    self._check_every_class(truths, part, store)
                    self._check_background(part, store)
                continue
            if (truths == MaskState.VANISHED).any():
                raise DataError(
                    f"All masks of the {name} images{_of(self._fold)} are empty once resized {where}.",
                    fix=f"{fix}, or crop the images around the objects.",
                )
            raise DataError(
                f"All masks of the {name} images{_of(self._fold)} are empty.",
                fix="Add images with objects to that split." if self._fold is None else _OTHER_PATIENTS,
            )

    def _check_every_class(self, truths: NDArray[np.uint8], training: Manifest, store: ImageStore) -> None:
        """Refuses training images whose masks never show one of the classes.

        Also in a fold: its network would call the class nowhere, on the only patients who show it, and pull the mean of
        all folds down where the others are sure.
        """
        shown = (truths == MaskState.PRESENT).any(0)
        if shown.all():
            return
        number = int(np.flatnonzero(~shown)[0])
        labels = [
            str(value) for rules in training.rules.values() for value, of in rules.labels or () if of == number + 1
        ]
        values = f" (labels {', '.join(dict.fromkeys(labels))})" if labels else ""
        found = ", ".join(name for name, is_shown in zip(self.names, shown, strict=True) if is_shown)
        if (truths[:, number] == MaskState.VANISHED).any():
            where, fix = self._shrinking
            raise DataError(
                f"The class '{self.names[number]}' is lost in all masks of the training images {where}.",
                fix=f"{fix}, or crop the images around the objects.",
            )
        elsewhere = _shown_by(store, number)
        raise DataError(
            f"No mask of the training images{_of(self._fold)} shows the class '{self.names[number]}'{values}, "
            f"only {found}." + (f" It is shown by {elsewhere} alone." if elsewhere else ""),
            fix="Correct the labels of the source, add images that show it, or leave it out of data.classes."
            if self._fold is None or not elsewhere
            else "The networks of all folds have to learn every class: add patients who show it, or leave it out of "
            "data.classes.",
        )

    def _check_background(self, training: Manifest, store: ImageStore) -> None:
        """Refuses training images whose masks show a single class and no background: all else is padding or ignored."""
        if len(self.names) == 1 and all(store.targets[index].all() for index in store.indices(training)):
            raise DataError(
                f"All masks of the training images{_of(self._fold)} are foreground everywhere.", fix=NO_BACKGROUND
            )

    def begin(self, biases: Iterable[nn.Parameter], training: Batches) -> None:
        """Makes the heads of a new network predict every class with the probability that the masks show it.

        Only if one of them is rare. Where all classes begin as equally likely, the first steps do nothing but push its
        logits down, by every feature that is there. Of 2 % foreground the features were then dead, and nothing was
        learned any more.
        Source: RetinaNet (Lin 2017, arXiv 1708.02002, section 4.1), where the probability is 0.01; here it is measured.
        """
        number = len(training.indices)
        some = training.indices[np.linspace(0, number - 1, min(number, IMAGES_COUNTED), dtype=np.int64)]
        masks = (training.store.targets[index] for index in some)  # one at a time: counting widens a mask to int64
        exclusive = self.classes > 1 and not self.overlap
        if exclusive:
            counts = np.array([np.bincount(mask[mask != IGNORE], minlength=self.classes) for mask in masks]).sum(0)
            shares = counts / counts.sum()
        else:
            planes = (mask.reshape(self.classes, -1) for mask in masks)
            of_each = np.array([[((p != 0) & (p != IGNORE)).sum(1), (p != IGNORE).sum(1)] for p in planes]).sum(0)
            shares = of_each[0] / of_each[1].clip(1)
        if shares[1 if exclusive else 0 :].min() >= RARE:
            return
        shares = shares.clip(LEAST_SHARE, 1 - LEAST_SHARE)
        logits = np.log(shares) if exclusive else np.log(shares / (1 - shares))
        with torch.no_grad():
            for bias in biases:
                bias.copy_(torch.from_numpy(logits))


def _shown_by(store: ImageStore, number: int) -> str:
    """Returns the patients whose masks show a foreground class, with their split, in words; "" without any."""
    rows = np.flatnonzero(store.truths[:, number] == MaskState.PRESENT)
    return _named_patients(store.manifest.samples[row] for row in rows.tolist())


def _named_patients(samples: Iterable[Sample]) -> str:
    """Returns the patients of samples with their split, in words; "" without any."""
    named = [*dict.fromkeys(f"patient {sample.patient} ({sample.split})" for sample in samples)]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + more


def _by_logit(logits: Tensor, shown: Tensor, counted: Tensor | None, *, overlap: bool) -> Tensor:
    """Returns how many pixels of every image are background and foreground in each bin of logits, (B, 2, BINS).

    Args:
        logits: (B, K, H, W).
        shown: where there is foreground (B, H, W).
        counted: pixels that count (B, H, W); None: all.
        overlap: the classes may overlap; the logit of foreground is the largest of theirs.
    """
    z = logits.float()
    foreground = z.amax(1) if overlap or z.shape[1] == 1 else z[:, 1:].logsumexp(1) - z[:, 0]
    places = ((foreground + LARGEST_LOGIT) * (BINS / (2 * LARGEST_LOGIT))).long().clamp(0, BINS - 1)
    images = torch.arange(len(z), device=z.device)[:, None, None]
    places = places + BINS * (shown.long() + 2 * images)
    places = places.flatten() if counted is None else places[counted]
    return places.bincount(minlength=2 * BINS * len(z)).view(len(z), 2, BINS)


def _add(sums: dict[str, NDArray[np.int64]], domains: Sequence[str], pixels: NDArray[np.int64]) -> None:
    """Adds the pixels of images by the bin of their logit, see `_by_logit`, to the sums of their domains."""
    for name, of_image in zip(domains, pixels, strict=True):
        sums[name] = sums[name] + of_image if name in sums else of_image


def _found(of_ranks: Sequence[Mapping[str, NDArray[np.int64]]]) -> dict[str, float | None]:
    """Returns how much foreground of every domain is found, whatever the threshold.

    Args:
        of_ranks: of every process the background and foreground of its images by the bin of their logit, (2, BINS), by
            domain.
    """
    found = {}
    for name in sorted({name for sums in of_ranks for name in sums}):
        pixels = np.sum([sums[name] for sums in of_ranks if name in sums], axis=0)
        negative, positive = pixels[:, ::-1]  # the most probable first
        total, every = positive.sum(), positive.sum() + negative.sum()
        left = total - np.concatenate([[0], np.cumsum(positive + negative)[:-1]])
        taken = np.clip(left / np.maximum(positive + negative, 1), 0, 1)  # of the last bin as many as are still wanted
        share = total / every
        found[name] = float(((positive * taken).sum() / total - share) / (1 - share)) if 0 < share < 1 else None
    return found


def _foreground(pixels: NDArray[np.int64], domains: NDArray[np.str_]) -> dict[str, float | None]:
    """Returns the foreground predicted in every domain as a multiple of the true one.

    Args:
        pixels: predicted and true ones of every image, (N, 2).
        domains: of the images.
    """
    found = {}
    for name in sorted(set(domains.tolist())):
        predicted, true = pixels[domains == name].sum(0).tolist()
        found[name] = predicted / true if true else None
    return found


class ClassificationTask:
    """What a network for findings is asked to do.

    Args:
        manifest: the findings, the training images that say how frequent each is, and the validation images.
        loss: settings of the loss, or its name.
        field: of the recipe that names it, for errors.
        auxiliary_weight: share of heads before the last in the loss.
        fold: of the data, where they are divided.

    Raises:
        RecipeError: there is no such loss for findings.
        DataError: no finding is both present and absent among the validation images, or one is unknown in all training
            images.
    """

    score = "val_auroc"

    def __init__(
        self,
        manifest: Manifest,
        *,
        loss: Settings | str,
        field: str = "loss",
        auxiliary_weight: float = 0.4,
        fold: int | None = None,
    ) -> None:
        self.findings = manifest.findings
        self.auxiliary_weight = auxiliary_weight
        prevalence = manifest.of_split("train").prevalence()
        if manifest.of_split("train").samples:
            _check_is_known(manifest.findings, prevalence, fold)
        self._loss = make_loss(
            loss, task="classification", outputs=len(self.findings), prevalence=prevalence, field=field
        )
        _check_can_be_scored(manifest, fold)

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
        found = _of_all(batches, lambda batch: self._scored(forward(batch.images), batch))
        losses, of_images, true = map(np.concatenate, zip(*found, strict=True))
        values = {
            name: _area(of_images[:, column], true[:, column]) if np.isfinite(of_images).all() else float("nan")
            for column, name in enumerate(self.findings)
        }
        defined = [value for value in values.values() if not np.isnan(value)]
        return {
            "val_loss": sum(losses.tolist()) / len(losses),
            "val_auroc": sum(defined) / len(defined) if defined else float("nan"),
            "val_auroc_by_finding": {name: None if np.isnan(value) else value for name, value in values.items()},
        }

    def _scored(self, logits: Tensor, batch: Batch) -> tuple[NDArray[Any], ...]:
        """Returns loss, logits and labels of the images of a batch."""
        loss = float(self.loss([logits], Mixture(batch.images, ((1.0, batch.targets),))))
        return np.full(len(batch.images), loss), logits.float().cpu().numpy(), batch.targets.cpu().numpy()

    def check(self, store: ImageStore, parts: Mapping[str, Manifest]) -> None:
        """Accepts all images: what could be wrong is in the manifest, see the constructor."""

    def begin(self, biases: Iterable[nn.Parameter], training: Batches) -> None:
        """Leaves the heads as they are: every loss of findings weighs the rare in its own way."""


def _area(logits: NDArray[np.floating[Any]], labels: NDArray[np.uint8]) -> float:
    """Returns the AUROC of a finding over the images of which it is known."""
    known = labels != IGNORE
    return auroc(logits[known], labels[known])


_OTHER_PATIENTS = (
    "Have other patients there: another number of data.folds, or a larger share for validation, the first number of "
    "fractions of the source, such as [0.2, 0.2]."
)


def _of(fold: int | None) -> str:
    return "" if fold is None else f" of fold {fold}"


def _check_is_known(findings: Sequence[str], prevalence: NDArray[np.float64], fold: int | None) -> None:
    """Refuses a finding that no training image is known to show or not to show."""
    for name in (name for name, share in zip(findings, prevalence, strict=True) if np.isnan(share)):
        raise DataError(
            f"No training image{_of(fold)} says whether it shows '{name}': all of its labels are ignored.",
            fix="Leave it out of data.findings, or let its labels count (uncertain or blank of the source).",
        )


def _check_are_learned(manifest: Manifest, fold: int | None) -> None:
    """Refuses findings that no training image shows, or that all of them show.

    Also in a fold: its network would learn nothing of them, and score the only patients on whom they can be scored.
    """
    prevalence = manifest.of_split("train").prevalence()
    for share, images in ((0, "No training image"), (1, "Every training image")):
        names = [name for name, known in zip(manifest.findings, prevalence, strict=True) if known == share]
        if not names:
            continue
        rows = [sample for sample in manifest.samples if (names[0] in sample.findings) == (share == 0)]
        others = _named_patients(sample for sample in rows if names[0] not in sample.unknown)
        told = f" {quoted(names[0])} is {'shown' if share == 0 else 'absent'} in {others} alone." if others else ""
        leave = f"leave {'it' if len(names) == 1 else 'them'} out: data.findings=[...] with the others"
        raise DataError(
            f"{images}{_of(fold)} shows {', '.join(map(quoted, names))}, so a network cannot learn to tell it.{told}",
            fix=f"Add images, or {leave}."
            if fold is None
            else f"The networks of all folds have to learn every finding: add patients, or {leave}.",
        )


def _check_can_be_scored(manifest: Manifest, fold: int | None) -> None:
    shown = manifest.of_split("val").prevalence()
    if not ((shown > 0) & (shown < 1)).any():
        raise DataError(
            f"None of the findings is both present and absent among the validation images{_of(fold)}, so no network "
            "can be chosen.",
            fix="Move more patients to the split val." if fold is None else _OTHER_PATIENTS,
        )
