"""Fine-tuning: a training that begins with the weights of a trained network instead of random ones.

All tensors are taken over, except for those of the heads where the data have other classes or findings. The run keeps
the weights it begins with in `FILE`, so that it can be resumed when the network they came from is gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors
from safetensors.torch import load, save
from torch import Tensor

from medarts.config import Recipe
from medarts.engine.checkpoint import of_weights
from medarts.engine.directory import INITIAL_WEIGHTS as FILE
from medarts.engine.directory import RunDirectory
from medarts.errors import RecipeError, RunError
from medarts.models import Architecture, build_network
from medarts.network import Network
from medarts.system.files import read_whole
from medarts.training.trained import TrainedNetwork, put_weights

FACTS = "initial"
"""Key of run.json."""


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """What a fine-tuning begins with.

    Attributes:
        network: name of the trained network.
        fingerprint: of its weights.
        replaced: its tensors that are not taken over, as the outputs differ.
        weights: its tensors; empty in a run whose checkpoint has what came of them.
    """

    network: str
    fingerprint: str
    replaced: tuple[str, ...]
    weights: Mapping[str, Tensor]

    @property
    def facts(self) -> dict[str, Any]:
        """What the run.json of a run says of them."""
        about = {"network": self.network, "tensors": len(self.weights), "replaced": [*self.replaced]}
        return {FACTS: about, "weights_fingerprint": self.fingerprint}

    @property
    def summary(self) -> str:
        """What is taken over, for the terminal."""
        kept = len(self.weights) - len(self.replaced)
        new = f"; new, for the other outputs: {', '.join(self.replaced)}" if self.replaced else ", heads included"
        return f"Fine-tuning {self.network} ({self.fingerprint}): {kept} tensors are taken over{new}."

    @property
    def files(self) -> dict[str, bytes]:
        """The file of a run that holds them."""
        return {FILE: save({name: tensor.contiguous() for name, tensor in self.weights.items()})}

    def fill(self, network: Network, architecture: Architecture) -> None:
        """Puts the weights into a network; what is replaced keeps its random ones.

        Args:
            network: in place.
            architecture: what it was built by.

        Raises:
            RunError: the weights are those of another network.
        """
        kept = {name: tensor for name, tensor in self.weights.items() if name not in self.replaced}
        put_weights(kept, network, architecture, origin=self.network, strict=not self.replaced)


def with_its_norm(recipe: Recipe, trained: TrainedNetwork) -> Recipe:
    """Returns a recipe with the norm and the channels of images of a trained network.

    Raises:
        RecipeError: it asks for others.
    """
    own = trained.recipe
    if recipe.data.in_channels != own.data.in_channels:
        raise RecipeError(
            f"{trained.origin} takes images of {_channels(own)}, but the recipe has {_channels(recipe)}.",
            fix=f"Set data.in_channels={own.data.in_channels}; images are converted when they are read.",
        )
    if recipe.train.norm not in (None, own.train.norm):
        raise RecipeError(
            f"train.norm is {recipe.train.norm}, but {trained.origin} was trained with "
            f"{own.train.norm or 'the norms of its paper'}.",
            fix="Leave train.norm out.",
        )
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"norm": own.train.norm})})


def initial_weights_of(trained: TrainedNetwork, recipe: Recipe) -> InitialWeights:
    """Returns what a training by a recipe begins with.

    Args:
        trained: the trained network.
        recipe: of the new training, with the names of its outputs.
    """
    replaced = () if recipe.data.has_outputs_of(trained.recipe.data) else _of_the_outputs(trained, recipe)
    return InitialWeights(trained.architecture.name, of_weights(trained.weights), replaced, trained.weights)


def initial_weights_in(run: RunDirectory, *, begun: bool) -> InitialWeights | None:
    """Returns what a run began with; None for a training from scratch.

    Args:
        run: the run.
        begun: whether it has a checkpoint, so that the weights themselves are not needed.

    Raises:
        RunError: they are needed, and missing or damaged.
    """
    facts = run.facts
    if FACTS not in facts:
        return None
    weights: dict[str, Tensor] = {}
    if not begun:
        try:
            weights = load(read_whole(run.path / FILE))
        except (FileNotFoundError, safetensors.SafetensorError):
            weights = {}
        if of_weights(weights) != facts["weights_fingerprint"]:
            raise RunError(f"{run.path / FILE} is missing or damaged.", fix="Copy the run again, or start a new run.")
    about = facts[FACTS]
    return InitialWeights(about["network"], facts["weights_fingerprint"], tuple(about["replaced"]), weights)


def _of_the_outputs(trained: TrainedNetwork, recipe: Recipe) -> tuple[str, ...]:
    """Returns the names of the tensors whose shape depends on the number of outputs: those of all heads."""
    # One more than either has: with as many, but other, findings all shapes would be equal.
    outputs = max(trained.recipe.data.outputs, recipe.data.outputs) + 1
    other = build_network(
        trained.architecture, in_channels=recipe.data.in_channels, outputs=outputs, norm=recipe.train.norm
    ).state_dict()
    return tuple(name for name, tensor in trained.weights.items() if other[name].shape != tensor.shape)


def _channels(recipe: Recipe) -> str:
    number = recipe.data.in_channels
    return "one channel" if number == 1 else f"{number} channels"
