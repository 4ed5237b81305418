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

from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import Tensor

from medarts.config.section import Weight
from medarts.registry import Settings, regularizers
from medarts.spaces.base import Supernet

Of = Literal["architecture", "weights"]
R = TypeVar("R", bound=Callable[..., Tensor])


class RegularizerSettings(Settings):
    """What every regularizer has.

    Attributes:
        weight: its factor.
    """

    weight: Weight = 0.1


def register_regularizer(
    name: str, *, of: Of = "architecture", settings: type[RegularizerSettings] = RegularizerSettings
) -> Callable[[R], R]:
    """Returns a decorator that registers a regularizer under a name.

    If the function has a parameter ``settings``, it gets its settings.

    Args:
        name: in recipes.
        of: the parameters that it is a term for: the architecture, once it is no longer frozen, or the weights.
        settings: class of its settings.
    """
    return regularizers.register(name, settings=settings, of=of)


@register_regularizer("entropy")
def entropy(supernet: Supernet, progress: float) -> Tensor:
    """Entropy of the operations' weights on an edge, mean over the edges in nats, growing with the stage.

    It drives edges to decide for an operation, so that less is lost when the others are cut off. Source:
    discretisation-aware search (Tian 2020, arXiv 2007.03154), with a weight that grows linearly.
    """
    entropies = []
    for name, logits in supernet.named_parameters():
        if name.startswith("alphas"):  # edges x operations; what weighs paths has other names
            log_weights = torch.log_softmax(logits, dim=1)
            entropies.append(-(log_weights.exp() * log_weights).sum(1))
    return progress * torch.cat(entropies).mean()
