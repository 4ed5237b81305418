"""The moving average of a network that is trained, whose weights are validated and kept."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """The moving average of a network's weights, and of the running statistics of its batch norms, which must fit them.

    A constant decay, and the plain mean as well, keep the random weights of the start for many epochs: networks that
    learn fast had a Dice of 0 until these had faded. With (1 + n) / (10 + n) after n steps the average spans about the
    last ninth of them, until ``decay`` is reached.

    >>> network = nn.Linear(1, 1)
    >>> average = MovingAverage(network, decay=0.99)
    >>> average.update_parameters(network)
    >>> torch.equal(average.module.weight, network.weight)
    True

    Args:
        network: the network; it is copied.
        decay: the largest decay, 0 to 1.
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self.decay = decay
        self._tensors: tuple[list[Tensor], ...] | None = None

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Takes over the weights of the first step, and averages those of all later ones.

        Args:
            model: the network, always the same one.
        """
        # AveragedModel looks all tensors up again in each step, and updates them one by one. For a network of hundreds
        # of small layers that takes longer than the arithmetic. No tensor is replaced while a network is trained.
        self._tensors = self._tensors or _paired(self.module, model)
        averages, values, counts, new_counts = self._tensors
        number = int(self.n_averaged)
        decay = min(self.decay, (1 + number) / (10 + number)) if number else 0.0
        torch._foreach_lerp_(averages, values, 1 - decay)
        if counts:
            torch._foreach_copy_(counts, new_counts)
        self.n_averaged += 1


def _paired(average: nn.Module, network: nn.Module) -> tuple[list[Tensor], ...]:
    """Returns what is averaged, in both networks, then what is counted: the batches that a batch norm has seen."""
    sides = [[*module.parameters(), *module.buffers()] for module in (average, network)]
    kept = [[tensor for tensor in side if tensor.is_floating_point()] for side in sides]
    counted = [[tensor for tensor in side if not tensor.is_floating_point()] for side in sides]
    return *kept, *counted
