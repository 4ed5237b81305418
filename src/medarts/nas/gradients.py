"""The gradients of a bilevel search: of the weights, and of the architecture in first and in second order.

A recipe chooses that of the architecture by ``search.gradient``; `register_gradient` adds others. Source of both here:
DARTS (arXiv 1806.09055), section 2.3.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from medarts.network.sharing import backward
from medarts.registry import Settings, gradients

Objective = Callable[[], Iterable[Tensor]]
"""Runs the supernet on the parts of a batch, one when the next is asked for, and gives losses that add up.

Every call is the same function of the parameters: same images, same random numbers."""

DISTANCE = 0.01
"""Length of the step away from the weights by which the second derivative is measured, as in DARTS.

A smaller one is not more exact: at every ReLU the gradient has a jump, and the noise of the jumps that lie on the way
grows with one over the root of the distance."""


class ArchitectureGradient(Protocol):
    """Adds the gradient of the validation loss to the ``grad`` of the architecture."""

    def __call__(
        self,
        fabric: Fabric,
        *,
        training: Objective,
        validation: Objective,
        weights: Sequence[nn.Parameter],
        architecture: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> float:
        """Adds the gradient; weights, their ``grad`` and the optimizer's state are afterwards what they were.

        It takes gradients by `first_order`, which knows of several processes, and not from the losses themselves.

        Args:
            fabric: does the backward passes in the run's precision.
            training: the loss that the weights lower.
            validation: the loss that the architecture lowers.
            weights: parameters of the optimizer.
            architecture: all other parameters.
            optimizer: SGD of the weights.

        Returns:
            The validation loss where its gradient was taken.
        """


G = TypeVar("G", bound=Callable[..., float])


def register_gradient(
    name: str, *, settings: type[Settings] | None = None, needs_fp32: bool = False
) -> Callable[[G], G]:
    """Returns a decorator that registers an `ArchitectureGradient` under a name.

    If the function has a parameter ``settings``, it gets its settings.

    Args:
        name: in recipes.
        settings: class of its settings.
        needs_fp32: whether it takes differences that lower precisions do not resolve.
    """
    return gradients.register(name, settings=settings, needs_fp32=needs_fp32)


def first_order(fabric: Fabric, objective: Objective, *, held: Iterable[nn.Parameter]) -> float:
    """Adds the gradient of an objective to all parameters but ``held``, and returns the objective's value.

    With the training loss and the architecture held it is the gradient of the weights; with the validation loss and
    the weights held it is the first-order gradient of the architecture (xi = 0). Of an objective on images, of which
    every process of a job has some, value and gradient are summed over the processes.

    Args:
        fabric: does the backward pass in the run's precision.
        objective: the loss, in parts.
        held: parameters that get no gradient; nothing is computed for them.
    """
    with _held(list(held)):
        return backward(fabric, objective())


@register_gradient("first_order")
def at_present_weights(
    fabric: Fabric,
    *,
    training: Objective,
    validation: Objective,
    weights: Sequence[nn.Parameter],
    architecture: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> float:
    """First order: the gradient at the weights as they are. See ``ArchitectureGradient``."""
    return first_order(fabric, validation, held=weights)


@register_gradient("second_order", needs_fp32=True)
def at_next_weights(
    fabric: Fabric,
    *,
    training: Objective,
    validation: Objective,
    weights: Sequence[nn.Parameter],
    architecture: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> float:
    """Second order: the gradient through the weights' next step. See ``ArchitectureGradient``.

    With w' = w - lr (momentum * buffer + dL_train/dw + weight_decay * w), the weights that the optimizer's step would
    give (without clipping, as in DARTS), it is eq. 7 of the paper,

        dL_val/dalpha (w') - lr * d2L_train/(dalpha dw) (w) * v,    v = dL_val/dw' (w'),

    whose product is measured by eq. 8 with two more gradients dL_train/dalpha, at w +- 0.01 v / |v|. The product is
    zero where v is. One copy of the weights is held meanwhile, two with v; no derivative is taken twice.

    It holds for models whose forward pass changes nothing but what it returns: with running statistics, the passes
    at other weights would leave their marks. The product is the difference of two almost equal gradients: where
    passes run in less than fp32 it can be more noise than signal.

    Raises:
        ValueError: the optimizer is not one group of SGD as above (dampening, nesterov, maximize).
    """
    settings = _settings(optimizer)
    with _restored(weights, architecture) as values:
        first_order(fabric, training, held=architecture)
        _step(weights, settings, optimizer.state)
        loss = first_order(fabric, validation, held=())
        direct = _taken(architecture)
        vector = _taken(weights)
        product = _product(fabric, training, weights=weights, values=values, architecture=architecture, vector=vector)
    for parameter, of_loss, of_step in zip(architecture, direct, product, strict=True):
        _accumulate(parameter, of_loss)
        _accumulate(parameter, None if of_step is None else of_step * -settings["lr"])
    return loss


def _settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns the settings of plain SGD."""
    if len(optimizer.param_groups) != 1:
        raise ValueError(f"second order needs one group of parameters, not {len(optimizer.param_groups)}")
    settings = optimizer.param_groups[0]
    wrong = [name for name in ("dampening", "nesterov", "maximize") if settings[name]]
    if wrong:
        raise ValueError(f"second order knows SGD without {', '.join(wrong)}")
    return settings


def _step(weights: Sequence[nn.Parameter], settings: dict[str, Any], state: Any) -> None:
    """Moves the weights as SGD would, leaving its buffers alone, and uses up their gradients.

    As in SGD, a weight without a gradient stays where it is, and before the first step there are no buffers.
    """
    moved = [weight for weight in weights if weight.grad is not None]
    steps = [gradient for gradient in _taken(moved) if gradient is not None]
    # Not state[weight]: looking there makes an entry.
    buffers = [state.get(weight, {}).get("momentum_buffer") for weight in moved]
    rolling = [(step, buffer) for step, buffer in zip(steps, buffers, strict=True) if buffer is not None]
    _add(steps, moved, scale=settings["weight_decay"])
    _add([step for step, _ in rolling], [buffer for _, buffer in rolling], scale=settings["momentum"])
    _add(moved, steps, scale=-settings["lr"])


def _product(
    fabric: Fabric,
    training: Objective,
    *,
    weights: Sequence[nn.Parameter],
    values: Sequence[Tensor],
    architecture: Sequence[nn.Parameter],
    vector: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Returns d2L_train/(dalpha dw) at ``values`` times the vector, which is used up; None is zero."""
    moved = [weight for weight, part in zip(weights, vector, strict=True) if part is not None]
    direction = [part for part in vector if part is not None]
    length = get_total_norm(direction)
    if length == 0:
        return [None] * len(architecture)
    torch._foreach_div_(direction, length)
    sides = []
    for distance in (DISTANCE, -DISTANCE):
        _assign(weights, values)
        _add(moved, direction, scale=distance)
        first_order(fabric, training, held=weights)
        sides.append(_taken(architecture))
    return [
        None if above is None or below is None else (above - below) * (length / (2 * DISTANCE))
        for above, below in zip(*sides, strict=True)
    ]


def _taken(parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """Returns the gradients, which the parameters then no longer have."""
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients


def _accumulate(parameter: nn.Parameter, gradient: Tensor | None) -> None:
    if gradient is not None:
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


@torch.no_grad()
def _assign(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    torch._foreach_copy_(list(tensors), list(values))


@torch.no_grad()
def _add(tensors: Sequence[Tensor], others: Sequence[Tensor], *, scale: float) -> None:
    """Adds scale x others in place; unlike PyTorch's function it takes empty lists."""
    if tensors:
        torch._foreach_add_(list(tensors), list(others), alpha=scale)


@contextmanager
def _restored(weights: Sequence[nn.Parameter], architecture: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Gives the values of the weights; puts these and all gradients back, whatever happens meanwhile."""
    values = [weight.detach().clone() for weight in weights]
    parameters = [*weights, *architecture]
    gradients = [parameter.grad for parameter in parameters]
    try:
        _taken(parameters)
        yield values
    finally:
        _assign(weights, values)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


@contextmanager
def _held(parameters: list[nn.Parameter]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
