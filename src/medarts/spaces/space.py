"""What the search knows of a search space, and nothing more.

A search space is three things: a supernet, a rule that derives a genotype from it, and a network built from a
genotype. A new space implements the first two here and the third in ``networks``; the search loop stays as it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from medarts.config import DeriveSettings, StageSettings
from medarts.spaces.genotype import Genotype

Candidates = Mapping[str, tuple[tuple[str, ...], ...]]
"""Operation set -> for each of its edges, the names of the operations still in the search."""


class Supernet(nn.Module, ABC):
    """A continuous network: weights, and architecture parameters that weigh its operations and paths."""

    @abstractmethod
    def forward(self, x_bchw: Tensor) -> list[Tensor]:
        """Returns the logits of every head that counts in the loss, first to last."""

    @abstractmethod
    def architecture(self) -> list[nn.Parameter]:
        """Returns the architecture parameters (alphas, betas)."""

    def weights(self) -> list[nn.Parameter]:
        """Returns all other parameters."""
        architecture = {id(parameter) for parameter in self.architecture()}
        return [parameter for parameter in self.parameters() if id(parameter) not in architecture]

    @abstractmethod
    def strongest(self, keep: Mapping[str, int]) -> Candidates:
        """Returns the candidates that stay when every edge of a set keeps so many of its operations."""

    @abstractmethod
    def derive(self, settings: DeriveSettings, *, name: str, provenance: Mapping[str, Any]) -> Genotype:
        """Returns the genotype that the architecture parameters describe now."""

    @abstractmethod
    def discretise(self, genotype: Genotype | None) -> None:
        """Makes ``forward`` use the operations and paths of ``genotype`` alone, with the weights as they are.

        None returns to the continuous network. The loss of score between the two is the discretisation gap.
        """

    @abstractmethod
    def snapshot(self) -> dict[str, Any]:
        """Returns the architecture weights now, as they are written to ``architecture.jsonl``."""


class SearchSpace(ABC):
    """Makes the supernets of a search, one for each stage."""

    @abstractmethod
    def check(self, stage: StageSettings, size: int, *, fewest: int) -> None:
        """Refuses a stage whose supernet cannot be built, or cannot take the images.

        Args:
            stage: the stage.
            size: height and width of the images.
            fewest: images of the smallest batch, or part of one, that the supernet will see.

        Raises:
            RecipeError: a value does not fit the space, or the size the supernet.
        """

    @abstractmethod
    def supernet(self, stage: StageSettings, candidates: Candidates | None) -> Supernet:
        """Returns a fresh supernet for a stage.

        Args:
            stage: the stage.
            candidates: what the stage before it kept; None starts with all operations.
        """
