"""The networks that can be trained: that of a genotype, or one made by hand."""

from pathlib import Path

from medarts.networks.chexnet import CheXNet
from medarts.networks.network import TrainedNetwork
from medarts.networks.stack import StackNetwork
from medarts.networks.weave import WeaveNetwork
from medarts.recipe import ModelName, Recipe, Task
from medarts.recipe.data import SPACE_OF
from medarts.spaces.genotype import Genotype
from medarts.spaces.layers import Norm

Architecture = Genotype | ModelName
"""A genotype, or the name of a network made by hand."""

MODELS: dict[ModelName, Task] = {"chexnet": "classification"}
"""Networks made by hand, and their tasks."""


def task_of(architecture: Architecture) -> Task:
    """Returns what a network is for."""
    if isinstance(architecture, Genotype):
        return next(task for task, space in SPACE_OF.items() if space == architecture.space)
    return MODELS[architecture]


def usual_outputs(architecture: Architecture) -> int:
    """Returns the outputs of the published networks: the 14 findings of ChestX-ray14, 10 classes of CIFAR, 1 mask."""
    if isinstance(architecture, Genotype) and architecture.space == "weave":
        return 1
    return 10 if _is_cifar(architecture) else 14


def usual_size(architecture: Architecture) -> int:
    """Returns the height and width of the images of the published networks."""
    if isinstance(architecture, Genotype) and architecture.space == "weave":
        return 256
    return 32 if _is_cifar(architecture) else 224


def _is_cifar(architecture: Architecture) -> bool:
    return isinstance(architecture, Genotype) and architecture.settings.get("stem") == "cifar"


def build_network(
    architecture: Architecture, *, in_channels: int, outputs: int, norm: Norm = "group", weights: Path | None = None
) -> TrainedNetwork:
    """Returns a network with fresh weights, or with those of a file.

    Args:
        architecture: a genotype, or the name of a network made by hand.
        in_channels: channels of the images.
        outputs: channels of the logits.
        norm: kind of the norms of a weaved network; others have batch norms.
        weights: file that a network made by hand starts from.

    Raises:
        GenotypeError: the genotype does not fit its space.
        RecipeError: the file does not fit the network.
    """
    if architecture == "chexnet":
        return CheXNet(in_channels=in_channels, outputs=outputs, weights=weights)
    assert isinstance(architecture, Genotype)
    if architecture.space == "stack":
        return StackNetwork(architecture, in_channels=in_channels, outputs=outputs)
    return WeaveNetwork(architecture, in_channels=in_channels, outputs=outputs, norm=norm)


def network_of(recipe: Recipe, architecture: Architecture) -> TrainedNetwork:
    """Returns the network that a recipe trains; see ``build_network``."""
    return build_network(
        architecture,
        in_channels=recipe.data.in_channels,
        outputs=recipe.data.outputs,
        norm=recipe.train.norm,
        weights=recipe.train.weights,
    )
