"""Relaxations: how the logits of a supernet's architecture (alphas, betas) become the weights of its mixture.

A relaxation makes weights of logits in three ways: those of a training step, which may be random; those of validation;
and those that say how strongly the architecture prefers each candidate, from which the genotype is derived. The
simplest makes one of them for all:

    >>> @register_relaxation("square")
    ... class Square(Relaxation):
    ...     def preferences(self, logits: Tensor) -> Tensor:
    ...         return logits.softmax(-1).square()
    >>> relaxations.remove("square")

In a recipe that is ``search.relaxation: square``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medarts.config.section import Number
from medarts.network.sharing import unshared
from medarts.registry import Settings, bound, relaxations


class Relaxation(ABC):
    """Makes weights of the logits of edges (R x N: R edges with N candidates each) or of a node's cells (1 x N).

    Attributes:
        sparse: a weight of 0 means that the operation or the cell is not run at all, in training and in validation.
            Then it has no gradient either.
        competing: the weights of an edge share a sum of 1. Otherwise each is one by itself, whatever the others are.
    """

    sparse: ClassVar[bool] = False
    competing: ClassVar[bool] = True

    @abstractmethod
    def preferences(self, logits: Tensor) -> Tensor:
        """Returns how strongly each candidate is preferred, without chance; the genotype is derived from it."""

    def training(self, logits: Tensor, progress: float) -> Tensor:
        """Returns the weights of a training step, differentiable. Default: the preferences.

        What it draws has to come from torch's generator of the CPU, which is seeded for the step: ``logits.cpu()``.

        Args:
            logits: of alphas or betas.
            progress: how far the stage is, 0 to 1.
        """
        return self.preferences(logits)

    def validation(self, logits: Tensor) -> Tensor:
        """Returns the weights of validation, without chance. Default: the preferences."""
        return self.preferences(logits)


R = TypeVar("R", bound=Callable[..., Relaxation])


def register_relaxation(name: str, *, settings: type[Settings] | None = None) -> Callable[[R], R]:
    """Returns a decorator that registers a class of `Relaxation` under a name.

    If its ``__init__`` has a parameter ``settings``, it gets its settings.

    Args:
        name: in recipes.
        settings: class of its settings.
    """
    return relaxations.register(name, settings=settings)


def make_relaxation(settings: Settings) -> Relaxation:
    """Returns the relaxation that a recipe has chosen."""
    relaxation: Relaxation = bound(relaxations.get(settings.name), settings=settings)()
    return relaxation


@register_relaxation("softmax")
class Softmax(Relaxation):
    """The softmax over the candidates (DARTS, arXiv 1806.09055, section 2.2)."""

    def preferences(self, logits: Tensor) -> Tensor:
        """Returns the softmax."""
        return torch.softmax(logits, dim=-1)


@register_relaxation("sigmoid")
class Sigmoid(Relaxation):
    """The sigmoid of every logit, so that candidates do not compete (FairDARTS, arXiv 1911.12126).

    Under a softmax a skip can only grow at the cost of the others, and it grows first. Here each weight is learnt by
    itself; the regularizer ``zero_one`` pushes it to 0 or to 1. FairDARTS then drops edges whose strongest operation
    is below a threshold. Here the genotype is derived as under a softmax: every node keeps two edges, however weak.
    """

    competing = False

    def preferences(self, logits: Tensor) -> Tensor:
        """Returns the sigmoids."""
        return torch.sigmoid(logits)


class GumbelSettings(Settings):
    """One candidate at a time.

    Attributes:
        temperature: at the start of a stage; high makes all candidates equally likely to get gradient.
        temperature_end: at its end; low makes the gradient that of the drawn candidate.
    """

    temperature: Annotated[Number, Field(gt=0, le=1000)] = 10.0
    temperature_end: Annotated[Number, Field(gt=0, le=1000)] = 0.1


@register_relaxation("gumbel", settings=GumbelSettings)
class Gumbel(Relaxation):
    """One candidate of each edge, drawn with the probabilities of the softmax (GDAS, arXiv 1910.04465).

    The candidate with the largest logit + Gumbel noise has weight 1 and alone is run; its gradient is that of the
    softmax of these sums over the temperature (straight through). So a step costs a fraction of the mixed one, and no
    operation has to share its edge. The temperature falls linearly from one value to the other over a stage.

    What a step trains is close to what is derived, but not the same: it has all edges of a cell, where the genotype
    keeps two into every node; one cell into every node of a lattice, where the genotype may keep several
    (``derive.paths``); and ``none`` can be drawn, which is never derived.

    Validation runs the most likely candidates.
    """

    sparse = True

    def __init__(self, settings: GumbelSettings) -> None:
        self.start, self.end = settings.temperature, settings.temperature_end

    def preferences(self, logits: Tensor) -> Tensor:
        """Returns the probabilities of the candidates."""
        return torch.softmax(logits, dim=-1)

    def training(self, logits: Tensor, progress: float) -> Tensor:
        """Returns 1 for the drawn candidate of every row, 0 for the others, with the gradient of the soft weights."""
        temperature = self.start + (self.end - self.start) * progress
        return F.gumbel_softmax(logits.cpu(), tau=temperature, hard=True).to(logits.device)

    def validation(self, logits: Tensor) -> Tensor:
        """Returns 1 for the most likely candidate of every row, 0 for the others."""
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)


def concentration(logits: Tensor) -> Tensor:
    """Returns the concentrations of the Dirichlet distribution of every row, ELU(alpha) + 1 > 0; 1 is uniform."""
    # ELU(a) + 1 is exp(a) below 0, which as a sum rounds to 0 where a is very small.
    return torch.where(logits > 0, logits + 1, logits.clamp(max=0).exp())


@register_relaxation("dirichlet")
class Dirichlet(Relaxation):
    """Weights drawn from a Dirichlet distribution of every edge, Dir(ELU(alpha) + 1) (DrNAS, arXiv 2006.10355).

    The logits are learnt through the draw (pathwise derivatives). What is drawn explores around the mean, and the
    regularizer ``dirichlet_kl`` holds the distribution near the uniform one.

    Validation uses the mean.
    """

    def preferences(self, logits: Tensor) -> Tensor:
        """Returns the mean of the distribution."""
        concentrations = concentration(logits)
        return concentrations / concentrations.sum(-1, keepdim=True)

    def training(self, logits: Tensor, progress: float) -> Tensor:
        """Returns weights drawn for every row."""
        # In float64: of small concentrations, draws in float32 may all be 0.
        distribution = torch.distributions.Dirichlet(concentration(logits.cpu().double()))
        drawn: Tensor = distribution.rsample()
        return drawn.to(logits)


@dataclass(frozen=True, slots=True)
class Draw:
    """What the mixture of a training step follows from, besides the parameters.

    Attributes:
        seed: of what is drawn. Parts of a batch, and passes at other weights, have the same and so the same mixture.
        progress: how far the stage is, 0 to 1.
        perturbation: e; uniform noise between -e and e is added to the weights (SDARTS-RS).
        skip_dropout: probability of dropping the skip of an edge (P-DARTS).
    """

    seed: int
    progress: float
    perturbation: float = 0.0
    skip_dropout: float = 0.0


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's generator of the CPU inside; afterwards it goes on as if nothing had been drawn."""
    # torch.manual_seed would seed those of accelerators as well, which dropout draws from.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def relaxed(
    relaxation: Relaxation, logits: Sequence[Tensor], draw: Draw | None, *, skips: Sequence[Tensor] = ()
) -> list[Tensor]:
    """Returns the weights of sets of logits, in their order.

    Args:
        relaxation: how.
        logits: sets of R x N.
        draw: of a training step; None gives the weights of validation.
        skips: of the first sets, R x N, where a candidate is a skip.
    """
    if draw is None:
        return [relaxation.validation(rows) for rows in logits]
    with seeded(draw.seed), unshared():
        weights = [relaxation.training(rows, draw.progress) for rows in logits]
        if draw.perturbation:
            weights = [perturbed(each, draw.perturbation, competing=relaxation.competing) for each in weights]
        if draw.skip_dropout:
            with_skips = zip(weights, skips, strict=False)
            weights[: len(skips)] = [without_skips(each, skip, draw.skip_dropout) for each, skip in with_skips]
    return weights


def perturbed(weights: Tensor, most: float, *, competing: bool) -> Tensor:
    """Returns weights with uniform noise: what is trained at them works around the architecture, not at it alone.

    Source: SDARTS-RS (arXiv 2002.05283), as in its published code: the noise is added to the weights
    behind the softmax, which are kept within 0 and 1 and share a sum of 1 again.

    Args:
        weights: of the candidates of every edge.
        most: largest noise, 0 to 1.
        competing: whether the weights of an edge share a sum of 1.
    """
    noise = (2 * torch.rand(weights.shape, dtype=weights.dtype) - 1) * most
    moved = (weights + noise.to(weights.device)).clamp(0, 1)
    if not competing:
        return moved
    # Noise as large as the weights can leave an edge nothing; it then stays as it was.
    total = moved.sum(-1, keepdim=True)
    return torch.where(total > 0, moved / total.clamp(min=torch.finfo(moved.dtype).tiny), weights)


def without_skips(weights: Tensor, skips: Tensor, probability: float) -> Tensor:
    """Returns weights with the skip of each edge dropped with a probability, and scaled by 1 / (1 - p) otherwise.

    Skips win early as they need no training; without them the others learn (P-DARTS, arXiv 1904.12760, section 3.3).
    Here the skip of an edge is dropped as a whole for a step, where P-DARTS drops single activations of it. And
    the probability falls linearly over a stage; the published code lets it fall exponentially once the architecture
    learns.

    Args:
        weights: R x N.
        skips: where a candidate is a skip, R x N.
        probability: 0 to below 1.
    """
    kept = (torch.rand(len(weights), 1, dtype=weights.dtype) >= probability) / (1 - probability)
    return weights * torch.where(skips, kept, 1.0).to(weights)
