"""Methods of pruning: each takes something away of a trained network until a target is met.

Criteria take channels (``criteria.py``), depth takes whole parts (``depth.py``). What they ask of a trained network
comes from the training that has it: images, gradients and scores.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medarts.config import KeepSettings
from medarts.pruning.latency import Latency
from medarts.registry import Settings, calling, criteria
from medarts.training.trainer import Training

if TYPE_CHECKING:
    from medarts.pruning.criteria import Criterion


@dataclass(frozen=True)
class Taken:
    """What was taken away of a network.

    Attributes:
        kept: what is kept of the quantity that the target is for, as a share of what there was.
        parts: that went whole.
        heads: that are left, early to last. None: those that there were.
        uncut: channels that could not be cut -> why.
        latency: of the network before and after, where it was measured to meet the target.
    """

    kept: float = 1.0
    parts: tuple[str, ...] = ()
    heads: tuple[str, ...] | None = None
    uncut: dict[str, str] = field(default_factory=dict)
    latency: Latency | None = None


class Method(ABC):
    """A method of pruning.

    Args:
        settings: those of the class that it was registered with.
    """

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    def sparse(self) -> "Criterion | None":
        """The criterion of the training before a cut; None where the method wants no such training."""
        return None

    @abstractmethod
    def check(self, training: Training, target: KeepSettings) -> None:
        """Refuses what cannot be done, as far as this can be said without images, before anything is scored.

        Args:
            training: see `take_away`.
            target: see `take_away`.

        Raises:
            MedartsError: see `take_away`.
        """

    @abstractmethod
    def take_away(self, training: Training, target: KeepSettings) -> Taken:
        """Takes away of the network of a training, in place, until a target is met.

        Args:
            training: on its device, with the weights by which is chosen what goes.
            target: what is to be kept.

        Raises:
            MedartsError: the network cannot be exported, for a target of the latency.
            RecipeError: the target or the network is none for this method.
            RunError: nothing can be taken away, or the target cannot be met.
        """


def make_method(settings: Settings | str) -> Method:
    """Returns the method that a section of a recipe names."""
    chosen = criteria.choose(settings)
    with calling("criterion", chosen.name):
        method: Method = criteria.get(chosen.name)(chosen)
    return method


def image_of(training: Training) -> Tensor:
    """Returns an image of zeros of the size that costs are counted for, (1, C, H, W)."""
    data = training.recipe.data
    return torch.zeros(1, data.in_channels, data.size, data.size, device=training.fabric.device)


def gradients_of(training: Training, *, after_each: Callable[[], object] = lambda: None) -> Callable[[int], None]:
    """Returns what leaves the gradients of the loss of a training batch in a network.

    The batch is one as in training, by its number from 0 on. The network is in evaluation mode, so that its statistics
    stay as they are.

    Args:
        training: its network is on its device.
        after_each: called after each batch.
    """
    network, recipe = training.network, training.recipe

    def gradients(number: int) -> None:
        network.eval()
        network.zero_grad()
        epoch, step = divmod(number, training.steps)
        order = training.training.order(epoch, seed=recipe.seed, sampling=recipe.data.sampling)
        for loss in training.losses(network, order, step, where=("pruning", number)):
            training.fabric.backward(loss)
        after_each()

    return gradients
