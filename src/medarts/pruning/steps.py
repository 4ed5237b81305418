"""A step of a pruning: what goes is chosen on the trained network, removed, and the network built anew."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from medarts.config import KeepSettings, Recipe
from medarts.models import Architecture, build_network, without_weights
from medarts.models.ensemble import Ensemble
from medarts.models.pruned import Pruned
from medarts.network import Network
from medarts.network.structure import Structure, structure_of
from medarts.pruning.latency import Latency
from medarts.pruning.method import Method, Taken
from medarts.pruning.recalibration import recalibrate
from medarts.training.trainer import Training


class Cut(NamedTuple):
    """A network that was cut.

    Attributes:
        network: with its weights.
        architecture: what it is made by.
        kept: what is kept of the quantity that the target is for, as a share of what there was before this cut.
        uncut: channels that could not be cut -> why.
        latency: of the network before and after, where it was measured to meet the target.
    """

    network: Network
    architecture: Pruned
    kept: float
    uncut: dict[str, str]
    latency: Latency | None


def cut_of(
    training: Training,
    method: Method,
    target: KeepSettings | None,
    *,
    name: str,
    history: tuple[Mapping[str, Any], ...],
) -> Cut:
    """Returns the network of a training, cut; that of the training is of no use afterwards.

    Args:
        training: on its device, with the weights by which is chosen what goes.
        method: chooses it.
        target: what is to be kept. None: all.
        name: of what comes of it.
        history: what was asked for, see `medarts.models.pruned.Pruned`.

    Raises:
        MedartsError: see `medarts.pruning.method.Method.take_away`.
    """
    taken = Taken() if target is None else method.take_away(training, target)
    training.network.take_away(())  # also what nothing runs: operations of absent edges
    architecture = _architecture(training, taken, name=name, history=history)
    # Built anew, as a run that goes on builds it: over the last digits the layout of weights in memory decides.
    rebuilt = _built(architecture, training.recipe)
    rebuilt.load_state_dict(training.network.state_dict())
    rebuilt.to(training.fabric.device)
    if target is not None:
        recalibrate(training, rebuilt)
    return Cut(rebuilt, architecture, taken.kept, taken.uncut, taken.latency)


def score_of(training: Training, network: Network) -> float:
    """Returns the score of a network on the validation images of a training."""
    return float(training.task.validate(network.eval(), training.validation)[training.task.score])


def _architecture(training: Training, taken: Taken, *, name: str, history: tuple[Mapping[str, Any], ...]) -> Pruned:
    """Returns what the network of a training is made by, now that it was cut."""
    given = training.architecture
    before = given.structure if isinstance(given, Pruned) else Structure()
    heads = before.heads if taken.heads is None else taken.heads
    base = without_weights(given.base if isinstance(given, Pruned) else given)
    assert not isinstance(base, Pruned | Ensemble)
    with torch.device("meta"):
        built = _built(base, training.recipe)
    left = None if heads == built.heads else heads
    return Pruned(
        name, base, structure_of(training.network, built, heads=left, without=(*before.without, *taken.parts)), history
    )


def _built(architecture: Architecture, recipe: Recipe) -> Network:
    data = recipe.data
    return build_network(architecture, in_channels=data.in_channels, outputs=data.outputs, norm=recipe.train.norm)
