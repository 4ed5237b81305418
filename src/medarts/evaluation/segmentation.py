"""Scores of predicted masks: every image by itself, and the best, median and worst of each data set as examples."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medarts.config import Recipe
from medarts.data.batches import Batch, Batches
from medarts.data.manifest import Sample
from medarts.data.reading import MaskState
from medarts.evaluation.finding_table import mean_of_defined
from medarts.evaluation.fingerprints import Fingerprints
from medarts.evaluation.mask_scores import ImageScore, Scores, TruthWord
from medarts.metrics.masks import mask_scores, predicted_classes
from medarts.system.console import progress_bar

EXAMPLES = ("best", "median", "worst")

_WORDS: dict[int, TruthWord] = {MaskState.EMPTY: "empty", MaskState.PRESENT: "present", MaskState.VANISHED: "vanished"}


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
        made_of: of the images, the network's weights and the metrics.
    """
    settings, samples = recipe.evaluation, batches.store.manifest.samples
    scores = Scores(
        split=batches.name,
        checkpoint="best",
        head=head,
        draws=settings.bootstrap,
        seed=recipe.seed,
        made_of=made_of,
    )
    with progress_bar(f"evaluate {batches.name}", len(batches.indices)) as bar:
        for batch in batches.all():
            predictions, targets = _predict(model, batch, recipe, head=head), batch.targets.cpu().numpy()
            for row, index in enumerate(batch.indices):
                found = _score(samples[index], predictions[row], targets[row], batch.truths[row], recipe.data.classes)
                for score in found:
                    scores.add(score)
            bar.advance(len(batch.images))
    scores.write(folder, examples=_examples(model, batches, recipe, scores, head=head))
    return scores


def _predict(model: nn.Module, batch: Batch, recipe: Recipe, *, head: str) -> NDArray[np.uint8]:
    """Returns the predicted class indices of a batch (B, H, W)."""
    with torch.inference_mode():
        logits = model(batch.images, head)
        predicted = predicted_classes(logits, classes=recipe.data.classes, threshold=recipe.evaluation.threshold)
        indices: NDArray[np.uint8] = predicted.cpu().numpy()
    return indices


def _score(
    sample: Sample, prediction: NDArray[np.uint8], target: NDArray[np.uint8], truths: NDArray[np.uint8], classes: int
) -> Iterator[ImageScore]:
    """Yields the scores of every foreground class of an image."""
    names = {1: "foreground"} if classes == 1 else {number: f"class {number}" for number in range(1, classes)}
    for (number, name), truth in zip(names.items(), truths.tolist(), strict=True):
        yield ImageScore(
            key=sample.key,
            domain=sample.domain,
            patient=sample.patient,
            class_index=number,
            class_name=name,
            metrics=mask_scores(prediction == number, target == number, vanished=truth == MaskState.VANISHED),
            truth=_WORDS[truth],
        )


def _examples(
    model: nn.Module, batches: Batches, recipe: Recipe, scores: Scores, *, head: str
) -> dict[str, NDArray[Any]]:
    """Returns the images with the best, the median and the worst Dice of every domain, for the report.

    They are predicted again, so that the predictions of all images need not be kept until the scores are known.
    """
    dice: dict[tuple[str, str], list[float]] = {}
    for score in scores.counted():
        dice.setdefault((score.domain, score.key), []).append(score.metrics["dice"])
    means = {name: float(mean_of_defined(np.array(values), axis=0)) for name, values in dice.items()}
    chosen: list[tuple[str, str]] = []
    titles: list[str] = []
    for domain in sorted({domain for domain, _ in means}):
        ranked = sorted((name for name in means if name[0] == domain), key=lambda name: (-means[name], name))
        for title, name in zip(EXAMPLES, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True):
            chosen.append(name)
            worth = "undefined" if math.isnan(means[name]) else f"{means[name]:.3f}"
            titles.append(f"{domain} · {title} · {name[1]} · Dice {worth}")
    part = batches.store.manifest.where(lambda sample: (sample.domain, sample.key) in set(chosen))
    few = Batches(batches.store, part, batch=batches.batch, name=batches.name, device=batches.device)
    predictions = np.concatenate([_predict(model, batch, recipe, head=head) for batch in few.all()])
    place = {(sample.domain, sample.key): row for row, sample in enumerate(part.samples)}
    rows = [place[name] for name in chosen]
    return {
        "images": batches.store.images[few.indices[rows]].transpose(0, 2, 3, 1).astype(np.float32),
        "targets": batches.store.targets[few.indices[rows]],
        "predictions": predictions[rows],
        "titles": np.asarray(titles),
        "domains": np.asarray([domain for domain, _ in chosen]),
    }
