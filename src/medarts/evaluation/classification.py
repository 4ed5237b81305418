"""Scores of predicted findings, and what the network looks at in example images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medarts.config import Recipe
from medarts.data.batches import Batches
from medarts.evaluation.cam import grad_cam
from medarts.evaluation.findings import FindingScores, Predictions
from medarts.evaluation.fingerprints import Fingerprints
from medarts.network import FindingNetwork
from medarts.system.console import progress_bar


def score_findings(
    network: FindingNetwork,
    batches: Batches,
    recipe: Recipe,
    *,
    validation: Batches,
    folder: Path,
    made_of: Fingerprints,
) -> FindingScores:
    """Scores the findings that a network predicts, and writes scores and examples.

    Args:
        network: the network.
        batches: the images to score; their name is that of the split.
        recipe: bootstrap and sensitivity.
        validation: images by which thresholds and temperature are chosen.
        folder: gets the files.
        made_of: of all of these images and the network's weights.
    """
    network.eval()
    dtype = torch.bfloat16 if recipe.compute.precision == "bf16" else None
    scores = FindingScores.of(
        _predict(network, batches, dtype=dtype),
        _predict(network, validation, dtype=dtype),
        findings=batches.store.manifest.findings,
        split=batches.name,
        checkpoint="best",
        sensitivity=recipe.evaluation.sensitivity,
        draws=recipe.evaluation.bootstrap,
        seed=recipe.seed,
        made_of=made_of,
    )
    scores.write(folder, examples=_examples(network, batches, scores))
    return scores


def _predict(network: FindingNetwork, batches: Batches, *, dtype: torch.dtype | None) -> Predictions:
    """Returns the logits of all images, in their order; ``dtype`` is that of mixed precision, None for none."""
    logits = []
    device = batches.device.type
    with (
        progress_bar(f"evaluate {batches.name}", len(batches.indices)) as bar,
        torch.inference_mode(),
        torch.autocast(device, dtype=dtype, enabled=dtype is not None),
    ):
        for batch in batches.all():
            logits.append(network(batch.images).float().cpu().numpy())
            bar.advance(len(batch.images))
    samples = [batches.store.manifest.samples[index] for index in batches.indices]
    return Predictions(
        keys=[sample.key for sample in samples],
        domains=[sample.domain for sample in samples],
        patients=[sample.patient for sample in samples],
        logits=np.concatenate(logits),
        labels=np.asarray(batches.store.targets[batches.indices]),
    )


def _examples(network: FindingNetwork, batches: Batches, scores: FindingScores) -> dict[str, NDArray[Any]] | None:
    """Returns an image of every finding with the places that speak for it; None where no image shows a finding.

    The image is the one that shows least else, the first of these by name: the same for every network.
    """
    labels, keys = scores.predictions.labels, scores.predictions.keys
    rows: list[int] = []
    shown: list[int] = []
    for finding in range(labels.shape[1]):
        having = np.flatnonzero(labels[:, finding]).tolist()
        if having:
            rows.append(min(having, key=lambda row: (labels[row].sum(), keys[row])))
            shown.append(finding)
    if not rows:
        return None
    images = torch.from_numpy(batches.store.images[batches.indices[rows]]).to(batches.device).float()
    maps = torch.cat([grad_cam(network, images[at : at + 1], [finding]) for at, finding in enumerate(shown)])
    titles = [
        f"{scores.findings[finding]} · {keys[row]} · probability {scores.probabilities[row, finding]:.2f}"
        for row, finding in zip(rows, shown, strict=True)
    ]
    return {
        "images": images.cpu().numpy().transpose(0, 2, 3, 1),
        "maps": maps.cpu().numpy(),
        "titles": np.asarray(titles),
    }
