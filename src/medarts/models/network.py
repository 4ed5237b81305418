"""What training and evaluation know of any network, derived or made by hand."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class TrainedNetwork(nn.Module, ABC):
    """A network that is trained from scratch."""

    @property
    @abstractmethod
    def heads(self) -> tuple[str, ...]:
        """The names of the heads, early to last."""

    @abstractmethod
    def check_size(self, size: int) -> None:
        """Refuses images of a height and width that the network cannot take.

        Raises:
            RecipeError: it cannot.
        """

    @abstractmethod
    def smallest_map(self, size: int) -> int:
        """Returns the height and width of the smallest feature maps that images of a size lead to."""

    @abstractmethod
    def forward(self, x_bchw: Tensor, head: str | None = None) -> list[Tensor]:
        """Returns the logits of all heads, early to last, or those of one alone.

        Raises:
            ValueError: there is no such head.
        """

    def at(self, progress: float) -> None:
        """Tells a network that changes while it is trained how far training is, from 0 to 1."""

    def _lay_out(self) -> None:
        """Lays weights out channels-last, which feature maps then are too; called by constructors at their end.

        On a CPU depthwise convolutions are several times faster like that, and dense ones not slower.
        """
        # PyTorch's annotations do not know that modules take a memory format alone.
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]


class FindingNetwork(TrainedNetwork):
    """A network that tells which findings an image shows, several at once.

    ``forward`` returns logits (B, F), before them those of an auxiliary head where one is trained with the network; in
    evaluation mode there is the last alone.
    """

    @property
    def heads(self) -> tuple[str, ...]:
        """One head: an auxiliary one serves training alone."""
        return ("last",)

    @abstractmethod
    def features(self, x_bchw: Tensor) -> Tensor:
        """Returns the last feature maps, BCHW, whose means over height and width are classified."""

    @abstractmethod
    def classify(self, features_bchw: Tensor) -> Tensor:
        """Returns the logits of feature maps, (B, F)."""
