"""The networks that can be trained: that of a genotype, or one made by hand."""

from collections.abc import Callable
from typing import Any

from medarts.config import ModelName, ModelSettings, NormName, Recipe, Task
from medarts.config.data import SPACE_OF
from medarts.config.models import MODELS, CheXNetSettings
from medarts.errors import RecipeError
from medarts.models.attention_r2unet import AttentionR2UNet
from medarts.models.attention_unet import AttentionUNet
from medarts.models.chexnet import CheXNet
from medarts.models.multiresunet import MultiResUNet
from medarts.models.network import TrainedNetwork
from medarts.models.r2unet import R2UNet
from medarts.models.resenc_unet import ResEncUNet
from medarts.models.stack import StackNetwork
from medarts.models.unet import UNet
from medarts.models.unetpp import UNetPP
from medarts.models.weave import WeaveNetwork
from medarts.spaces.genotype import Genotype

Architecture = Genotype | ModelSettings
"""A genotype, or the settings of a network made by hand; both have a name."""

BASELINES: dict[ModelName, Callable[..., TrainedNetwork]] = {
    "unet": UNet,
    "attention-unet": AttentionUNet,
    "multiresunet": MultiResUNet,
    "r2unet": R2UNet,
    "attention-r2unet": AttentionR2UNet,
    "unetpp": UNetPP,
    "resenc-unet": ResEncUNet,
}
"""Networks made by hand for images with masks."""


def model_named(name: str) -> ModelSettings | None:
    """Returns a network made by hand as in its paper; None where there is none of that name."""
    return MODELS[name]() if name in MODELS else None


def task_of(architecture: Architecture) -> Task:
    """Returns what a network is for."""
    if isinstance(architecture, Genotype):
        return next(task for task, space in SPACE_OF.items() if space == architecture.space)
    return "classification" if isinstance(architecture, CheXNetSettings) else "segmentation"


def usual_outputs(architecture: Architecture) -> int:
    """Returns the outputs of the published networks: the 14 findings of ChestX-ray14, 10 classes of CIFAR, 1 mask."""
    if task_of(architecture) == "segmentation":
        return 1
    return 10 if _is_cifar(architecture) else 14


def usual_size(architecture: Architecture) -> int:
    """Returns the height and width of the images of the published networks."""
    if task_of(architecture) == "segmentation":
        return 256
    return 32 if _is_cifar(architecture) else 224


def _is_cifar(architecture: Architecture) -> bool:
    return isinstance(architecture, Genotype) and architecture.settings.get("stem") == "cifar"


def build_network(
    architecture: Architecture, *, in_channels: int, outputs: int, norm: NormName | None = None
) -> TrainedNetwork:
    """Returns a network with fresh weights, or with those of the file that its settings name.

    Args:
        architecture: a genotype, or the settings of a network made by hand.
        in_channels: channels of the images.
        outputs: channels of the logits.
        norm: kind of all norms; that of the network's paper where None.

    Raises:
        GenotypeError: the genotype does not fit its space.
        RecipeError: the network has no such norms, or the file of weights does not fit.
    """
    if isinstance(architecture, Genotype) and architecture.space != "stack":
        return WeaveNetwork(architecture, in_channels=in_channels, outputs=outputs, norm=norm or "group")
    options: dict[str, Any] = {"in_channels": in_channels, "outputs": outputs}
    if not isinstance(architecture, Genotype | CheXNetSettings):
        return BASELINES[architecture.name](architecture, **options, norm=norm)
    if norm not in (None, "batch"):
        raise RecipeError(f"train.norm is {norm}, but {architecture.name} has batch norms.", fix="Leave it out.")
    if isinstance(architecture, Genotype):
        return StackNetwork(architecture, **options)
    return CheXNet(**options, weights=architecture.weights)


def network_of(recipe: Recipe, architecture: Architecture) -> TrainedNetwork:
    """Returns the network that a recipe trains; see ``build_network``."""
    return build_network(
        architecture, in_channels=recipe.data.in_channels, outputs=recipe.data.outputs, norm=recipe.train.norm
    )


def without_weights(architecture: Architecture) -> Architecture:
    """Returns the architecture to fill with weights of its own, not with those it began with."""
    if isinstance(architecture, CheXNetSettings):
        return architecture.model_copy(update={"weights": None})
    return architecture
