"""Scores of a trained network on the images of a split."""

from pathlib import Path

import torch

from medarts.data.batches import Batches
from medarts.data.manifest import Part, Split
from medarts.data.opening import open_data
from medarts.errors import DataError, RunError, did_you_mean
from medarts.evaluation.classification import score_findings
from medarts.evaluation.findings import FindingScores
from medarts.evaluation.scores import Scores
from medarts.evaluation.segmentation import score_masks
from medarts.networks.inference import for_inference
from medarts.networks.network import FindingNetwork, TrainedNetwork
from medarts.networks.registry import network_of
from medarts.recipe import SourceSettings, Task
from medarts.run import checkpoint
from medarts.run.device import make_fabric
from medarts.run.directory import RunDirectory
from medarts.training.start import architecture_of, without_weights

FOUND_ON: Split = "val"
"""Split on which the thresholds and the temperature of a classifier are found."""


def evaluate(
    path: Path,
    *,
    sources: tuple[SourceSettings, ...] | None = None,
    split: Part = "test",
    head: str | None = None,
) -> Scores | FindingScores:
    """Scores the best checkpoint of a training run, and writes the scores into a folder of ``scores`` of the run.

    Masks are scored at the size of the recipe, for every image and class, and then averaged. Findings are scored over
    all images of a data set; their thresholds and temperature come from the validation images of the run.

    Args:
        path: the training run.
        sources: data sets to score on, which are part of the folder's name; None takes those of the run.
        split: the split to score, or all images.
        head: the head to use, such as "4,0", which is part of the folder's name; the last where None.

    Raises:
        RunError: the run has no checkpoint yet, or no such head.
        DataError: the data cannot be read, are for another task, or have no image in the split.
    """
    run = RunDirectory.open(path, kind="train")
    recipe = run.recipe
    _check_task(recipe.data.task, sources or ())
    fabric = make_fabric(recipe.compute)
    network = load_network(run)
    chosen = _checked_head(network, head)
    if isinstance(network, FindingNetwork):
        head = None  # it has one
    settings = recipe.data if sources is None else recipe.data.model_copy(update={"sources": sources})
    store = open_data(settings, needs=() if split == "all" else (split,))
    batches = Batches(
        store, store.manifest.part(split), batch=recipe.evaluation.batch, name=split, device=fabric.device
    )
    others = [] if sources is None else [source.domain for source in sources]
    folder = path / "scores" / "-".join([split, *others, *([] if head is None else [f"head-{head}"])])
    # fp16 is for training: inference keeps the range of its weights.
    dtype = torch.bfloat16 if recipe.compute.precision == "bf16" else None
    network = network.to(fabric.device)
    if not isinstance(network, FindingNetwork):
        return score_masks(for_inference(network, dtype=dtype), batches, recipe, head=chosen, folder=folder)
    own = store if sources is None else open_data(recipe.data, needs=(FOUND_ON,))
    validation = Batches(
        own, own.manifest.of_split(FOUND_ON), batch=recipe.evaluation.batch, name=FOUND_ON, device=fabric.device
    )
    return score_findings(network, batches, recipe, validation=validation, folder=folder)


def load_network(run: RunDirectory, kind: str = "best") -> TrainedNetwork:
    """Returns the network of a training run with the weights of a checkpoint.

    Raises:
        RunError: there is no checkpoint yet.
    """
    point = checkpoint.load(run.checkpoints, kind)
    if point is None:
        raise RunError(f"{run.path} has no checkpoint yet.", fix=f"Train it: medarts train --resume {run.path}")
    network = network_of(run.recipe, without_weights(architecture_of(run)))
    network.load_state_dict(point.weights)
    return network


def _check_task(task: Task, sources: tuple[SourceSettings, ...]) -> None:
    for source in sources:
        if source.task != task:
            raise DataError(
                f"The images of {source.domain} are for {source.task}, but the network is for {task}.",
                fix="Give images with findings." if task == "classification" else "Give images with masks.",
            )


def _checked_head(network: TrainedNetwork, head: str | None) -> str:
    if head is not None and head not in network.heads:
        raise RunError(f"The network has no head '{head}'.", fix=did_you_mean(head, network.heads))
    return head or network.heads[-1]
