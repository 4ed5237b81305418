"""Scores of a trained network on the images of a split."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medarts.data.batches import Batches
from medarts.data.manifest import Part, Sample
from medarts.data.opening import open_data
from medarts.errors import RunError, did_you_mean
from medarts.evaluation.scores import ImageScore, Scores
from medarts.networks.inference import for_inference
from medarts.networks.weave import WeaveNetwork
from medarts.recipe import Recipe, SourceSettings
from medarts.run import checkpoint
from medarts.run.device import make_fabric
from medarts.run.directory import RunDirectory
from medarts.run.progress import progress_bar
from medarts.spaces.genotype import load as load_genotype
from medarts.tasks.metrics import mask_scores, predicted_classes

EXAMPLES = ("best", "median", "worst")


def evaluate(
    path: Path,
    *,
    sources: tuple[SourceSettings, ...] | None = None,
    split: Part = "test",
    head: str | None = None,
) -> Scores:
    """Scores the best checkpoint of a training run, and writes the scores into a folder of ``scores`` of the run.

    Scores are made at the size of the recipe, for every image and class, and then averaged.

    Args:
        path: the training run.
        sources: data sets to score on, which are part of the folder's name; None takes those of the run.
        split: the split to score, or all images.
        head: the head to use, such as "4,0", which is part of the folder's name; the last where None.

    Raises:
        RunError: the run has no checkpoint yet, or no such head.
        DataError: the data cannot be read, or have no image in the split.
    """
    run = RunDirectory.open(path, kind="train")
    recipe = run.recipe
    fabric = make_fabric(recipe.compute)
    network = load_network(run)
    chosen = _checked_head(network, head)
    settings = recipe.data if sources is None else recipe.data.model_copy(update={"sources": sources})
    store = open_data(settings, needs=() if split == "all" else (split,))
    batches = Batches(
        store, store.manifest.part(split), batch=recipe.evaluation.batch, name=split, device=fabric.device
    )
    # fp16 is for training: inference keeps the range of its weights.
    dtype = torch.bfloat16 if recipe.compute.precision == "bf16" else None
    model = for_inference(network.to(fabric.device), dtype=dtype)
    predictions = _predict(model, batches, recipe, head=chosen)
    scores = Scores(split=split, checkpoint="best", head=chosen, draws=recipe.evaluation.bootstrap, seed=recipe.seed)
    for index, prediction in zip(batches.indices, predictions, strict=True):
        for score in _score(store.manifest.samples[index], prediction, store.masks[index], classes=settings.classes):
            scores.add(score)
    others = [] if sources is None else [source.domain for source in sources]
    folder = path / "scores" / "-".join([split, *others, *([] if head is None else [f"head-{head}"])])
    scores.write(folder)
    _save_examples(folder, batches, predictions, scores)
    return scores


def load_network(run: RunDirectory, kind: str = "best") -> WeaveNetwork:
    """Returns the network of a training run with the weights of a checkpoint.

    Raises:
        RunError: there is no checkpoint yet.
    """
    point = checkpoint.load(run.checkpoints, kind)
    if point is None:
        raise RunError(f"{run.path} has no checkpoint yet.", fix=f"Train it: medarts train --resume {run.path}")
    recipe = run.recipe
    genotype = load_genotype(run.path)
    network = WeaveNetwork(
        genotype, in_channels=recipe.data.in_channels, outputs=recipe.data.classes, norm=recipe.train.norm
    )
    network.load_state_dict(point.weights)
    return network


def _checked_head(network: WeaveNetwork, head: str | None) -> str:
    if head is not None and head not in network.heads:
        raise RunError(f"The network has no head '{head}'.", fix=did_you_mean(head, network.heads))
    return head or network.heads[-1]


def _predict(model: torch.nn.Module, batches: Batches, recipe: Recipe, *, head: str) -> NDArray[np.uint8]:
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
        targets=batches.store.masks[positions],
        predictions=predictions[rows],
        titles=np.asarray(titles),
        domains=np.asarray([samples[row].domain for row in rows]),
    )
