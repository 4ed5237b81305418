"""The gradients of a bilevel search: of one set of parameters while the other is held."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from lightning_fabric import Fabric
from torch import Tensor, nn

from medarts.run.job import backward

Objective = Callable[[], Iterable[Tensor]]
"""Runs the supernet on the parts of a batch, one when the next is asked for, and gives losses that add up."""


def first_order(fabric: Fabric, objective: Objective, *, held: Iterable[nn.Parameter]) -> float:
    """Adds the gradient of an objective to all parameters but ``held``, and returns the objective's value.

    With the training loss and the architecture held it is the gradient of the weights; with the validation loss and
    the weights held it is the first-order gradient of the architecture (DARTS, arXiv 1806.09055, section 2.3, xi = 0).

    Args:
        fabric: does the backward pass in the run's precision.
        objective: the loss, in parts.
        held: parameters that get no gradient; nothing is computed for them.
    """
    with _held(list(held)):
        return backward(fabric, objective())


@contextmanager
def _held(parameters: list[nn.Parameter]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
