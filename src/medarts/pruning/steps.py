"""A step of a pruning: what goes is chosen on the trained network, removed, and the network built anew."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medarts.config import Recipe
from medarts.errors import RecipeError
from medarts.models import Architecture, build_network, without_weights
from medarts.models.pruned import Pruned
from medarts.network import Network
from medarts.network.structure import Structure, structure_of
from medarts.pruning.criteria import Criterion, FilterMasks, scores_of
from medarts.pruning.depth import Depth, DepthSelection
from medarts.pruning.recalibration import recalibrate
from medarts.pruning.selection import Target, check_reachable, choose_for
from medarts.pruning.sparse_training import gradients_of
from medarts.pruning.units import Joined, Unit, cut, examine, small_image
from medarts.system.console import progress_bar
from medarts.training.trainer import Training


class Cut(NamedTuple):
    """A network that was cut.

    Attributes:
        network: with its weights.
        architecture: what it is made by.
        kept: what is kept of the quantity that the target is for, as a share of what there was before this cut.
        uncut: channels that could not be cut -> why.
    """

    network: Network
    architecture: Pruned
    kept: float
    uncut: dict[str, str]


Method = Criterion | Depth
"""By which it is chosen what goes."""


def cut_of(
    training: Training,
    method: Method,
    target: Target | None,
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
        MedartsError: see `medarts.pruning.selection.choose_for` and `medarts.pruning.depth.choose_parts`.
    """
    network, kept, uncut = training.network, 1.0, dict[str, str]()
    heads, parts = _taken_away(training.architecture)
    if isinstance(method, Depth) and target is not None:
        chosen = _chosen_parts(training, method, target)
        network.take_away(chosen.without, chosen.heads)
        kept, heads, parts = chosen.kept, chosen.heads, (*parts, *chosen.without)
    elif isinstance(method, Criterion) and target is not None:
        kept, uncut = _cut_channels(training, method, target)
    architecture = _architecture(training, heads=heads, parts=parts, name=name, history=history)
    # Built anew, as a run that goes on builds it: over the last digits the layout of weights in memory decides.
    rebuilt = _built(architecture, training.recipe)
    rebuilt.load_state_dict(network.state_dict())
    rebuilt.to(training.fabric.device)
    if target is not None:
        recalibrate(training, rebuilt)
    return Cut(rebuilt, architecture, kept, uncut)


def _chosen_parts(training: Training, depth: Depth, target: Target) -> DepthSelection:
    return depth.choose(
        target,
        training.network.eval(),
        task=training.task,
        validation=training.validation,
        seed=training.recipe.seed,
        image=_image(training),
    )


def _cut_channels(training: Training, criterion: Criterion, target: Target) -> tuple[float, dict[str, str]]:
    """Removes channels of a network; returns what is kept of the target's quantity, and what could not be cut."""
    network, (units, fixed) = training.network, _examined(training)
    scores = _scores(training, criterion, units)
    selection = choose_for(target, network, units, scores, scope=criterion.scope, image=_image(training))
    cut(network, selection.removals, _small(training))
    return selection.kept, fixed


def rate_for(training: Training, criterion: Criterion, target: Target) -> float:
    """Returns the rate at which a cut will meet a target, as far as the training before the cut has to know it.

    Args:
        training: on its device, with the weights that it begins with.
        criterion: that wants the training.
        target: of the cut.

    Returns:
        The rate, or 0 where the training has no use for one.

    Raises:
        RunError: the target cannot be reached, or nothing can be cut.
    """
    units, _ = _examined(training)
    options: dict[str, Any] = {"scope": criterion.scope, "image": _image(training)}
    scores = _scores(training, criterion, units)
    if isinstance(criterion.training, FilterMasks):
        return choose_for(target, training.network, units, scores, **options).rate
    check_reachable(target, training.network, units, scores, **options)
    return 0.0


def score_of(training: Training, network: Network) -> float:
    """Returns the score of a network on the validation images of a training."""
    return float(training.task.validate(network.eval(), training.validation)[training.task.score])


def _examined(training: Training) -> Joined:
    """Returns the units of the network of a training.

    Raises:
        RecipeError: its maps are so small that the norms of a cut network could see a single value.
    """
    network, size = training.network, training.recipe.data.size
    if network.smallest_map(size) == 1 and any(isinstance(module, nn.GroupNorm) for module in network.modules()):
        raise RecipeError(
            f"With data.size {size} the smallest maps of {training.architecture.name} are one pixel, on which a group "
            "of one channel, as a cut may leave it, has no norm.",
            fix="Train it on larger images, or prune it by depth.",
        )
    return examine(network, _small(training))


def _scores(training: Training, criterion: Criterion, units: list[Unit]) -> dict[str, Tensor]:
    with progress_bar("gradients", criterion.batches) as bar:
        return scores_of(criterion, units, gradients_of(training, after_each=bar.advance))


def _taken_away(architecture: Architecture) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Returns the heads that are left, None for all, and the parts that were taken away, when it was pruned before."""
    structure = architecture.structure if isinstance(architecture, Pruned) else Structure()
    return structure.heads, structure.without


def _architecture(
    training: Training,
    *,
    heads: tuple[str, ...] | None,
    parts: tuple[str, ...],
    name: str,
    history: tuple[Mapping[str, Any], ...],
) -> Pruned:
    """Returns what the network of a training is made by, now that it was cut."""
    given = training.architecture
    base = without_weights(given.base if isinstance(given, Pruned) else given)
    assert not isinstance(base, Pruned)
    with torch.device("meta"):
        built = _built(base, training.recipe)
    left = None if heads == built.heads else heads
    return Pruned(name, base, structure_of(training.network, built, heads=left, without=parts), history)


def _built(architecture: Architecture, recipe: Recipe) -> Network:
    data = recipe.data
    return build_network(architecture, in_channels=data.in_channels, outputs=data.outputs, norm=recipe.train.norm)


def _small(training: Training) -> Tensor:
    return small_image(training.network, training.recipe.data.in_channels)


def _image(training: Training) -> Tensor:
    data = training.recipe.data
    return torch.zeros(1, data.in_channels, data.size, data.size, device=training.fabric.device)
