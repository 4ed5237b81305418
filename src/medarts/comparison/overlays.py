"""The images on which networks differ most, and what each network makes of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medarts.comparison.candidates import Candidate
from medarts.config import Split
from medarts.data.batches import Batches
from medarts.data.manifest import Part
from medarts.data.opening import open_manifest
from medarts.data.store import open_store
from medarts.engine.device import make_fabric, preserved_process_state
from medarts.engine.listing import ImageName
from medarts.evaluation.evaluate import load_network
from medarts.metrics.masks import predicted_classes
from medarts.models.shipping import shipped
from medarts.system.console import progress_bar

Floats = NDArray[np.floating[Any]]

IMAGES = 8
IMAGES_A_PATIENT = 3
"""More of one patient would be neighbours: frames of a video, slices of a volume."""


@dataclass(frozen=True, eq=False)
class Overlays:
    """Images with their masks, and those that the networks predict.

    Attributes:
        images: (N, H, W, C) in 0..1, float32.
        targets: class indices (N, H, W), uint8.
        predictions: class indices (N, K, H, W), uint8.
        networks: names of the K networks.
    """

    images: NDArray[np.float32]
    targets: NDArray[np.uint8]
    predictions: NDArray[np.uint8]
    networks: tuple[str, ...]

    def as_arrays(self) -> dict[str, NDArray[Any]]:
        """Returns the attributes as arrays, by name."""
        return {
            "images": self.images,
            "targets": self.targets,
            "predictions": self.predictions,
            "networks": np.asarray(self.networks),
        }


def most_differing(
    values: Mapping[str, Floats], images: Sequence[ImageName], patients: Sequence[str]
) -> list[tuple[int, float]]:
    """Returns the images on which the networks' scores lie furthest apart, at most `IMAGES`, the furthest first.

    Args:
        values: a score of every image (N,) of each network.
        images: domain and key of every image.
        patients: patient of every image; at most `IMAGES_A_PATIENT` of each are taken.

    Returns:
        Positions of images with the spread of their scores, largest minus smallest, which is above 0.
    """
    table = np.stack([*values.values()])
    spread = table.max(0) - table.min(0)
    taken: Counter[tuple[str, str]] = Counter()
    chosen: list[tuple[int, float]] = []
    for position in np.argsort(-spread, kind="stable").tolist():
        person = (images[position][0], patients[position])
        if len(chosen) == IMAGES or not spread[position] > 0:
            break
        if taken[person] < IMAGES_A_PATIENT:
            taken[person] += 1
            chosen.append((position, float(spread[position])))
    return chosen


@preserved_process_state()
def predict_overlays(candidates: Sequence[Candidate], images: Sequence[ImageName], *, split: Part) -> Overlays | None:
    """Lets the run of the lowest seed of every network predict some images; None where there are none.

    Args:
        candidates: networks for masks that may be compared.
        images: domain and key of images of the split; the overlays have their order.
        split: the split.

    Raises:
        RunError: the data have changed since the networks were trained.
        MedartsError: the data or a checkpoint cannot be read.
    """
    if not images:
        return None
    recipe = candidates[0].recipes[0]
    needs: tuple[Split, ...] = () if split == "all" else (split,)
    manifest = open_manifest(recipe.data, needs=needs)
    candidates[0].runs[0].check_unchanged(manifest.fingerprint(), manifest=manifest.to_csv())
    store = open_store(manifest, recipe.data, threads=recipe.compute.threads)
    wanted = set(images)
    part = store.manifest.where(lambda sample: (sample.domain, sample.key) in wanted)
    device = make_fabric(recipe.compute).device
    batches = Batches(store, part, batch=recipe.evaluation.batch, name=split, device=device)
    place = {(sample.domain, sample.key): position for position, sample in enumerate(part.samples)}
    order = [place[name] for name in images]
    with progress_bar("overlays", len(candidates)) as bar:
        predictions = []
        for candidate in candidates:
            predictions.append(_predict(candidate, batches)[order])
            bar.advance()
    rows = batches.indices[order]
    return Overlays(
        images=store.images[rows].transpose(0, 2, 3, 1).astype(np.float32),
        targets=np.asarray(store.targets[rows]),
        predictions=np.stack(predictions, axis=1),
        networks=tuple(candidate.name for candidate in candidates),
    )


def _predict(candidate: Candidate, batches: Batches) -> NDArray[np.uint8]:
    """Returns the predicted class indices of all images (N, H, W), in the order of the batches."""
    lowest = min(range(len(candidate.seeds)), key=candidate.seeds.__getitem__)
    recipe, network = candidate.recipes[lowest], load_network(candidate.runs[lowest])
    dtype = torch.bfloat16 if recipe.compute.precision == "bf16" else None
    about = {"in_channels": recipe.data.in_channels, "size": recipe.data.size}
    model = shipped(network.to(batches.device), **about, dtype=dtype)
    classes, threshold = recipe.data.classes, recipe.evaluation.threshold
    with torch.inference_mode():
        logits = [model(batch.images, network.heads[-1])[-1] for batch in batches.all()]
        return predicted_classes(torch.cat(logits), classes=classes, threshold=threshold).cpu().numpy()
