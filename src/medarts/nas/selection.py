"""Selections: how the genotype is chosen at the end of a search, once the last stage has been trained.

A selection is a function that gets the search and returns a genotype. The simplest takes that of the architecture
parameters, as every epoch does:

    >>> @register_selection("as_it_is")
    ... def as_it_is(search: Selecting) -> Genotype:
    ...     return search.derive()
    >>> selections.remove("as_it_is")

In a recipe that is ``derive.select: as_it_is``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar

import numpy as np
from pydantic import Field

from medarts.config.section import Number, Whole
from medarts.registry import Settings, selections
from medarts.spaces.decisions import Decision
from medarts.spaces.genotype import Genotype
from medarts.system.randomness import seed_of


@dataclass(frozen=True, slots=True)
class Made:
    """A decision that was made.

    Attributes:
        decision: its name.
        kept: the options that the genotype has.
        losses: option -> loss of the supernet without it; empty where there was nothing to choose.
    """

    decision: str
    kept: tuple[str, ...]
    losses: Mapping[str, float]


class Selecting(Protocol):
    """What a selection sees of the search."""

    @property
    def seed(self) -> int:
        """Seed of the run."""

    @property
    def made(self) -> list[Made]:
        """The decisions made so far, also those of before an interruption."""

    def decisions(self) -> list[Decision]:
        """Returns everything that the genotype decides, see ``Supernet.decisions``."""

    def loss(self, *, without: tuple[str, str], batches: int) -> float:
        """Returns the loss of the supernet without an option.

        Args:
            without: name of a decision that is open and was not made, and the option.
            batches: of the alpha half, always the same images, unchanged.
        """

    def make(self, made: Made, *, tune: int, lr: float) -> None:
        """Restricts the supernet to a decision, tunes its weights, and saves the search.

        Args:
            made: the decision.
            tune: steps of the weights.
            lr: learning rate, as a factor of search.lr.
        """

    def derive(self) -> Genotype:
        """Returns the genotype of the decisions made and, where none was, of the architecture parameters."""


S = TypeVar("S", bound=Callable[..., Genotype])


def register_selection(
    name: str, *, settings: type[Settings] | None = None, stepwise: bool = False
) -> Callable[[S], S]:
    """Returns a decorator that registers a selection under a name.

    If the function has a parameter ``settings``, it gets its settings.

    Args:
        name: in recipes.
        settings: class of its settings.
        stepwise: whether it makes the decisions of the supernet one by one.
    """
    return selections.register(name, settings=settings, stepwise=stepwise)


@register_selection("magnitude")
def magnitude(search: Selecting) -> Genotype:
    """Takes what has the largest weights (DARTS, arXiv 1806.09055, section 2.4)."""
    return search.derive()


class PerturbationSettings(Settings):
    """Selection by what the supernet misses.

    Attributes:
        batches: of the alpha half, on whose images losses are compared; the same for all.
        tune: steps of the weights after every decision. The paper has 5 epochs.
        lr: learning rate of these steps, as a factor of search.lr.
    """

    batches: Annotated[Whole, Field(ge=1, le=10_000)] = 4
    tune: Annotated[Whole, Field(ge=0, le=1_000_000)] = 20
    lr: Annotated[Number, Field(gt=0, le=1)] = 0.1


@register_selection("perturbation", settings=PerturbationSettings, stepwise=True)
def perturbation(search: Selecting, *, settings: PerturbationSettings) -> Genotype:
    """Keeps of every decision the options without which the loss is largest (DARTS-PT, arXiv 2108.04392, section 4).

    An alpha says how often an operation was worth its gradient, not how much the supernet needs it: skips gain weight
    while they carry least. Operations are decided first, then the edges into every node, then the paths of a lattice,
    each in a random order. After each the other weights adapt to it, so that what comes later is judged in a network
    more like the derived one.
    """
    decided = {made.decision for made in search.made}
    for decision in in_order(search.decisions(), seed=search.seed):
        if decision.name in decided:
            continue
        if not decision.is_open:
            search.make(Made(decision.name, decision.options, {}), tune=0, lr=settings.lr)
            continue
        losses = {
            option: search.loss(without=(decision.name, option), batches=settings.batches)
            for option in decision.options
        }
        made = Made(decision.name, most_missed(losses, keep=decision.keep), losses)
        search.make(made, tune=settings.tune, lr=settings.lr)
    return search.derive()


def in_order(decisions: list[Decision], *, seed: int) -> list[Decision]:
    """Returns decisions kind by kind, as the edges of a node can be compared only once their operations are known.

    Within a kind the order is random, as in the paper: those decided last are judged in a network that has adapted, and
    a fixed order would give the same places that advantage in every search.
    """
    generator = np.random.default_rng(seed_of(seed, "selection"))
    kinds = list(dict.fromkeys(decision.kind for decision in decisions))
    shuffled = [decisions[place] for place in generator.permutation(len(decisions))]
    return sorted(shuffled, key=lambda decision: kinds.index(decision.kind))


def most_missed(losses: Mapping[str, float], *, keep: int) -> tuple[str, ...]:
    """Returns the options whose absence costs most, in their own order; of equal ones the first.

    Args:
        losses: option -> loss without it.
        keep: number of them.

    >>> most_missed({"identity": 0.5, "conv": 0.9, "pool": 0.6}, keep=2)
    ('conv', 'pool')
    """
    ranked = sorted(losses, key=lambda option: -losses[option])[:keep]
    return tuple(option for option in losses if option in ranked)
