"""Regularizers of the search: terms beside the loss, of the architecture or of the weights.

A regularizer is a function of the supernet and of how far the stage is, from 0 to 1, that returns a scalar. It is
differentiated by itself, at the present weights, whatever gradient the search uses, and added with its weight:

    >>> class SpreadSettings(RegularizerSettings):
    ...     target: float = 0.0
    >>> @register_regularizer("spread", settings=SpreadSettings)
    ... def spread(supernet: Supernet, progress: float, *, settings: SpreadSettings) -> Tensor:
    ...     return progress * sum((alpha - settings.target).square().mean() for alpha in supernet.architecture())
    >>> regularizers.remove("spread")

In a recipe that is ``search.regularizers: [{name: spread, weight: 0.5, target: 1.0}]``. The losses in the journals are
without regularizers, so that searches with and without them can be compared.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from medarts.config.section import Weight
from medarts.errors import RecipeError
from medarts.registry import Settings, regularizers
from medarts.spaces.base import Supernet
from medarts.spaces.relaxations import concentration

Of = Literal["architecture", "weights"]
R = TypeVar("R", bound=Callable[..., Tensor])


class RegularizerSettings(Settings):
    """What every regularizer has.

    Attributes:
        weight: its factor.
    """

    weight: Weight = 0.1


def register_regularizer(
    name: str,
    *,
    of: Of = "architecture",
    settings: type[RegularizerSettings] = RegularizerSettings,
    relaxations: tuple[str, ...] = (),
    paths: bool = False,
    costs: bool = False,
) -> Callable[[R], R]:
    """Returns a decorator that registers a regularizer under a name.

    If the function has a parameter ``settings``, it gets its settings.

    Args:
        name: in recipes.
        of: the parameters that it is a term for: the architecture, once it is no longer frozen, or the weights.
        settings: class of its settings.
        relaxations: those that it is for; searches with another are refused. Default: all.
        paths: whether it is for paths, so that searches in a space without them are refused.
        costs: whether it reads ``Supernet.costs``, the latencies of operations as shares of the budget.
    """
    return regularizers.register(name, settings=settings, of=of, relaxations=relaxations, paths=paths, costs=costs)


def check_regularizers(chosen: Sequence[Settings], *, relaxation: str, has_paths: bool) -> None:
    """Refuses regularizers that have nothing to act on.

    Args:
        chosen: those of a recipe.
        relaxation: name of its relaxation.
        has_paths: whether its space has paths.

    Raises:
        RecipeError: names the first of them.
    """
    for settings in chosen:
        about = regularizers.entry(settings.name).about
        fitting = about["relaxations"]
        if fitting and relaxation not in fitting:
            raise RecipeError(
                f"The regularizer {settings.name} of search.regularizers is for the relaxation {' or '.join(fitting)}, "
                f"not {relaxation}.",
                fix=f"Use search.relaxation={fitting[0]}, or leave it out.",
            )
        if about["paths"] and not has_paths:
            raise RecipeError(
                f"The regularizer {settings.name} of search.regularizers is for paths, which the space does not have.",
                fix="Leave it out.",
            )


@register_regularizer("entropy")
def entropy(supernet: Supernet, progress: float) -> Tensor:
    """Entropy of the operations' preferences on an edge, mean over the edges in nats, growing with the stage.

    It drives edges to decide for an operation, so that less is lost when the others are cut off. Source:
    discretisation-aware search (Tian 2020, arXiv 2007.03154), with a weight that grows linearly.
    """
    return progress * torch.cat([_entropies(supernet, logits) for logits in alphas_of(supernet)]).mean()


@register_regularizer("path_entropy", paths=True)
def path_entropy(supernet: Supernet, progress: float) -> Tensor:
    """Entropy of the preferences of paths into a node, mean over nodes with a choice in nats, growing with the stage.

    It drives nodes to decide for a path. Source: DiNTS (arXiv 2103.15954), whose entropy is that of paths
    too; here it grows linearly, and the derivation takes the strongest path or paths of each node.
    """
    return progress * torch.stack([_entropies(supernet, betas) for betas in supernet.path_logits()]).mean()


class LatencySettings(RegularizerSettings):
    """Expected latency.

    Attributes:
        weight: what a network that is as slow as the budget allows adds to the loss.
    """

    weight: Weight = 1.0


@register_regularizer("latency", settings=LatencySettings, costs=True)
def latency(supernet: Supernet, progress: float) -> Tensor:
    """Expected latency of the operations of the derived network, exported, as a share of the budget's.

    Every candidate counts by its preference with what its pieces take in the table of latencies, at the C of the
    recipe. Source: ProxylessNAS (arXiv 1812.00332, section 3.2.2), whose sum over edges is that of one path.
    """
    return supernet.expected_cost()


class BetaDecaySettings(RegularizerSettings):
    """Beta-decay.

    Attributes:
        weight: its factor at the end of the stage; 50 as published.
    """

    weight: Weight = 50.0


@register_regularizer("beta_decay", settings=BetaDecaySettings, relaxations=("softmax", "gumbel"))
def beta_decay(supernet: Supernet, progress: float) -> Tensor:
    """Smooth maximum of the alphas of an edge, log sum exp, mean over the edges, growing linearly with the stage.

    Its gradient is the softmax itself: the larger a weight, the more its alpha is pulled down, so that none runs away
    from the others, as skips do. A shift of all alphas of an edge does not change their softmax; sigmoids and the
    concentrations of a Dirichlet distribution would all be pulled to 0. Source: beta-DARTS (arXiv 2203.01665).
    """
    return progress * torch.cat([torch.logsumexp(logits, dim=1) for logits in alphas_of(supernet)]).mean()


class ZeroOneSettings(RegularizerSettings):
    """Pushes to 0 or 1.

    Attributes:
        weight: its factor; 10 as published.
    """

    weight: Weight = 10.0


@register_regularizer("zero_one", settings=ZeroOneSettings, relaxations=("sigmoid",))
def zero_one(supernet: Supernet, progress: float) -> Tensor:
    """Minus the squared distance of the sigmoid weights from 0.5, mean over all weights of operations and paths.

    It pushes each to 0 or to 1, so that little is lost when the genotype keeps some whole and drops the others. Source:
    FairDARTS (arXiv 1911.12126).
    """
    logits = [*alphas_of(supernet), *supernet.path_logits()]
    weights = torch.cat([each.flatten() for each in logits]).sigmoid()
    return -(weights - 0.5).square().mean()


class DirichletKLSettings(RegularizerSettings):
    """Distance from the uniform Dirichlet distribution.

    Attributes:
        weight: its factor; 0.001 as published.
    """

    weight: Weight = 1e-3


@register_regularizer("dirichlet_kl", settings=DirichletKLSettings, relaxations=("dirichlet",))
def dirichlet_kl(supernet: Supernet, progress: float) -> Tensor:
    """KL divergence of the Dirichlet distributions from the uniform Dir(1), sum over edges and nodes with a choice.

    It holds the concentrations near 1, so that draws go on exploring. Source: DrNAS (arXiv 2006.10355).
    """
    total = torch.zeros(())
    for logits in [*alphas_of(supernet), *supernet.path_logits()]:
        drawn_from = Dirichlet(concentration(logits))
        total = total.to(logits) + kl_divergence(drawn_from, Dirichlet(torch.ones_like(logits))).sum()
    return total


def alphas_of(supernet: Supernet) -> list[Tensor]:
    """Returns the alphas of every set, edges x operations."""
    # What weighs paths has other names.
    return [logits for name, logits in supernet.named_parameters() if name.startswith("alphas")]


def _entropies(supernet: Supernet, logits: Tensor) -> Tensor:
    """Returns the entropy of the preferences of every row, in nats; those without a sum of 1 are scaled to it."""
    preferences = supernet.relaxation.preferences(logits)
    shares = preferences / preferences.sum(-1, keepdim=True)
    # The logarithm of a share that has become 0 would have an infinite gradient.
    return -(shares * shares.clamp(min=torch.finfo(shares.dtype).tiny).log()).sum(-1)
