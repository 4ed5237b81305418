"""Scores of predicted masks: every image by itself, and the best, median and worst of each data set as examples."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medarts.data.batches import Batches
from medarts.data.manifest import Sample
from medarts.evaluation.fingerprints import Fingerprints
from medarts.evaluation.scores import ImageScore, Scores
from medarts.recipe import Recipe
from medarts.run.progress import progress_bar
from medarts.tasks.metrics import mask_scores, predicted_classes

EXAMPLES = ("best", "median", "worst")


def score_masks(
    model: nn.Module, batches: Batches, recipe: Recipe, *, head: str, folder: Path, made_of: Fingerprints
) -> Scores:
    """Scores the masks that a network predicts, and writes scores and examples.

    Args:
        model: the network as shipped for inference.
        batches: the images; their name is that of the split.
        recipe: classes, threshold and bootstrap.
        head: the head to use.
        folder: gets the files.
        made_of: of the images and the network's weights.
    """
    predictions = _predict(model, batches, recipe, head=head)
    settings, store = recipe.evaluation, batches.store
    scores = Scores(
        split=batches.name,
        checkpoint="best",
        head=head,
        draws=settings.bootstrap,
        seed=recipe.seed,
        made_of=made_of,
    )
    for index, prediction in zip(batches.indices, predictions, strict=True):
        sample, target = store.manifest.samples[index], store.targets[index]
        for score in _score(sample, prediction, target, classes=recipe.data.classes):
            scores.add(score)
    scores.write(folder)
    _save_examples(folder, batches, predictions, scores)
    return scores


def _predict(model: nn.Module, batches: Batches, recipe: Recipe, *, head: str) -> NDArray[np.uint8]:
    """Returns the predicted class indices of all images, in their order."""
    predictions = []
    with progress_bar(f"evaluate {batches.name}", len(batches.indices)) as bar, torch.inference_mode():
        for batch in batches.all():
            logits = model(batch.images, head)[-1]
            predicted = predicted_classes(logits, classes=recipe.data.classes, threshold=recipe.evaluation.threshold)
            predictions.append(predicted.cpu().numpy())
            bar.advance(len(batch.images))
    return np.concatenate(predictions)


def _score(
    sample: Sample, prediction: NDArray[np.uint8], target: NDArray[np.uint8], *, classes: int
) -> Iterator[ImageScore]:
    """Yields the scores of every foreground class of an image."""
    names = {1: "foreground"} if classes == 1 else {number: f"class {number}" for number in range(1, classes)}
    for number, name in names.items():
        yield ImageScore(
            key=sample.key,
            domain=sample.domain,
            patient=sample.patient,
            class_index=number,
            class_name=name,
            metrics=mask_scores(prediction == number, target == number),
        )


def _save_examples(folder: Path, batches: Batches, predictions: NDArray[np.uint8], scores: Scores) -> None:
    """Keeps the images with the best, the median and the worst Dice of every domain, for the report."""
    dice: dict[str, list[float]] = {}
    for score in scores.images:
        dice.setdefault(f"{score.domain} · {score.key}", []).append(score.metrics["dice"])
    samples = [batches.store.manifest.samples[index] for index in batches.indices]
    means = np.asarray([np.mean(dice[f"{sample.domain} · {sample.key}"]) for sample in samples])
    rows: list[int] = []
    titles: list[str] = []
    for domain in sorted({sample.domain for sample in samples}):
        members = [row for row, sample in enumerate(samples) if sample.domain == domain]
        ranked = sorted(members, key=lambda row: (-means[row], samples[row].key))
        for title, row in zip(EXAMPLES, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True):
            rows.append(row)
            titles.append(f"{domain} · {title} · {samples[row].key} · Dice {means[row]:.3f}")
    positions = batches.indices[rows]
    images = batches.store.images[positions].transpose(0, 2, 3, 1).astype(np.float32)
    np.savez_compressed(
        folder / "examples.npz",
        images=images,
        targets=batches.store.targets[positions],
        predictions=predictions[rows],
        titles=np.asarray(titles),
        domains=np.asarray([samples[row].domain for row in rows]),
    )
