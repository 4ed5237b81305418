"""The gradients of a bilevel search: of one set of parameters while the other is held."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from lightning_fabric import Fabric
from torch import Tensor, nn


def first_order(fabric: Fabric, objective: Callable[[], Tensor], *, held: Iterable[nn.Parameter]) -> float:
    """Adds the gradient of an objective to all parameters but ``held``, and returns the objective's value.

    With the training loss and the architecture held it is the gradient of the weights; with the validation loss and
    the weights held it is the first-order gradient of the architecture (DARTS, arXiv 1806.09055, section 2.3, xi = 0).

    Args:
        fabric: does the backward pass in the run's precision.
        objective: runs the supernet and returns the loss.
        held: parameters that get no gradient; nothing is computed for them.
    """
    with _held(list(held)):
        loss = objective()
        fabric.backward(loss)
    return float(loss.detach())


@contextmanager
def _held(parameters: list[nn.Parameter]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
