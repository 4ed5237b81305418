"""The images on which networks differ most, and the masks that each network predicts there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from medarts.comparison.candidates import Candidate, listed_samples
from medarts.config import Recipe, SourceSettings, Split
from medarts.data.batches import Batches
from medarts.data.manifest import Part
from medarts.data.opening import open_manifest
from medarts.data.store import ImageStore, open_store
from medarts.engine.device import make_fabric, preserved_process_state
from medarts.engine.listing import ImageName
from medarts.evaluation.calibrating import as_shipped
from medarts.evaluation.pictures import Pictures, as_bytes, packed, unpacked
from medarts.network import Network
from medarts.system.console import progress_bar
from medarts.training.trained import folds_of, is_ensemble, load_network

IMAGES = 8
IMAGES_A_PATIENT = 3
"""More of one patient would be neighbours: frames of a video, slices of a volume."""

PARTS = ("images", "targets", "predictions")


@dataclass(frozen=True, eq=False)
class Overlays:
    """Images with their masks, and those that the networks predict; each image has a size of its own.

    Attributes:
        images: (H, W, C) of each, 0 to 255.
        targets: class indices (H, W), or 0 and 1 of classes that may overlap (C, H, W).
        predictions: the same of the K networks of the group in their order, (K, ..., H, W).
    """

    images: Sequence[NDArray[np.uint8]]
    targets: Sequence[NDArray[np.uint8]]
    predictions: Sequence[NDArray[np.uint8]]


def most_differing(images: pd.DataFrame) -> pd.DataFrame:
    """Returns the images on which the networks' scores lie furthest apart, at most `IMAGES`, the furthest first.

    Args:
        images: a row for each image and network of a group, with dataset, image, patient and value.

    Returns:
        dataset, image, patient and spread, the largest score minus the smallest, which is above 0; of one patient at
        most `IMAGES_A_PATIENT` images.
    """
    of_images = images.groupby(["dataset", "image", "patient"], sort=False).value
    spread = (of_images.max() - of_images.min()).rename("spread").reset_index()
    spread = spread[spread.spread > 0].sort_values("spread", ascending=False, kind="stable")
    return spread.groupby(["dataset", "patient"], sort=False).head(IMAGES_A_PATIENT).head(IMAGES)


@preserved_process_state()
def predict_overlays(
    candidates: Sequence[Candidate],
    images: Sequence[ImageName],
    *,
    split: Part,
    data: ImageStore | None = None,
    sources: tuple[SourceSettings, ...] | None = None,
) -> Overlays:
    """Lets the run of the lowest seed of every network predict some images.

    Args:
        images: data set and name of at least one image of the split; the overlays have their order.
        split: the split.
        data: the images of runs that were started with arrays.
        sources: other data sets than those of the runs.
    """
    recipe = candidates[0].recipes[0]
    needs: tuple[Split, ...] = () if split == "all" else (split,)
    settings = recipe.data if sources is None else recipe.data.elsewhere(sources)
    manifest = open_manifest(settings, needs=needs, data=data, partly=sources is not None)
    if sources is None:
        candidates[0].runs[0].check_unchanged(manifest.fingerprint(), manifest=manifest.to_csv())
    store = data if data is not None else open_store(manifest, settings, threads=recipe.compute.threads)
    wanted = set(images)
    part = store.manifest.where(lambda sample: (sample.domain, sample.key) in wanted)
    device = make_fabric(recipe.compute).device
    batches = Batches(store, part, batch=recipe.evaluation.batch, name=split, device=device)
    positions = {(sample.domain, sample.key): position for position, sample in enumerate(part.samples)}
    order = [positions[name] for name in images]
    predictions = []
    with progress_bar("overlays", len(candidates)) as bar:
        for candidate in candidates:
            found = _predict(candidate, batches, of_run=sources is None)
            predictions.append([found[position] for position in order])
            bar.advance()
    pictures, rows = Pictures(store, recipe), batches.indices[order].tolist()
    return Overlays(
        images=[pictures.image(row) for row in rows],
        targets=[pictures.target(row) for row in rows],
        predictions=[np.stack(of_image) for of_image in zip(*predictions, strict=True)],
    )


def as_arrays(overlays: Sequence[tuple[int, Overlays]]) -> dict[str, NDArray[Any]]:
    """Returns the overlays of several groups, by the number of the group, as arrays of one file."""
    arrays: dict[str, NDArray[Any]] = {}
    for number, one in overlays:
        for part in PARTS:
            arrays |= packed(f"{number}_{part}", getattr(one, part))
    return arrays


def from_arrays(arrays: dict[str, NDArray[Any]], number: int) -> Overlays | None:
    """Returns the overlays of a group; None where it has none."""
    parts = {part: unpacked(arrays, f"{number}_{part}") for part in PARTS}
    if not parts["images"]:
        return None
    return Overlays(**parts | {"images": [as_bytes(image) for image in parts["images"]]})


def _predict(candidate: Candidate, batches: Batches, *, of_run: bool) -> list[NDArray[np.uint8]]:
    """Returns the predicted masks of every image, in the order of the batches.

    Args:
        candidate: the network.
        batches: the images.
        of_run: whether they are those of its runs.
    """
    lowest = min(range(len(candidate.seeds)), key=candidate.seeds.__getitem__)
    run, recipe = candidate.runs[lowest], candidate.recipes[lowest]
    if not is_ensemble(run) or not of_run:
        return _predicted(load_network(run), recipe, batches)
    # Each image by the network that has not seen it, as it is scored.
    named = [(sample.domain, sample.key) for sample in (batches.store.manifest.samples[i] for i in batches.indices)]
    folds = [(_predicted(load_network(fold), recipe, batches), listed_samples(fold)) for fold in folds_of(run)]
    return [
        next(found[row] for found, listed in folds if listed[name]["split"] == "test") for row, name in enumerate(named)
    ]


def _predicted(network: Network, recipe: Recipe, batches: Batches) -> list[NDArray[np.uint8]]:
    model, pictures = as_shipped(network.to(batches.device), recipe), Pictures(batches.store, recipe)
    with torch.inference_mode():
        return [
            pictures.predicted(index, logits)
            for batch in batches.all()
            for index, logits in zip(batch.indices.tolist(), model(batch.images), strict=True)
        ]
