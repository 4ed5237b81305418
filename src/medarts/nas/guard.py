"""The guard: signals of how healthy a search is, epoch by epoch, and what counts as ill.

A search that collapses ends with a network of skips and pooling. One that finds nothing has a supernet that predicts no
foreground, from which alphas learn nothing. Both can be seen long before the end. The signals are those of the
literature: the share of skips (P-DARTS, arXiv 1904.12760), the entropy and the discretisation gap (arXiv 2007.03154),
the rank of the alphas from epoch to epoch, and the largest eigenvalue of the Hessian in the architecture (RobustDARTS,
arXiv 1909.09656).
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from scipy import stats
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from medarts.config import Recipe
from medarts.nas.gradients import Objective, first_order
from medarts.spaces.genotype import Genotype

_BLIND = "predicts no foreground"

LEAST_FOREGROUND = 0.01
"""Predicted foreground of a data set, as a part of the true one, below which the supernet predicts none."""

LEAST_FOUND = 0.1
"""Foreground of a data set among its most probable pixels, from 0 for chance to 1, below which it is not found."""

DISTANCE = 0.01
"""Length of the step in the architecture by which second derivatives are measured, as in `medarts.nas.gradients`."""

Rows = Sequence[Sequence[float]]
"""Weights that compete: of the candidates of every edge."""


def free_operations(genotype: Genotype, free: Collection[str]) -> tuple[int, int]:
    """Returns how many operations of a genotype are among ``free``, and how many it has."""
    operations = [name for cell in genotype.cells.values() for node in cell for name, _ in node]
    return sum(name in free for name in operations), len(operations)


def free_share(genotype: Genotype, free: Collection[str]) -> float:
    """Returns the share of operations of a genotype that are among ``free``, 0 to 1."""
    number, of = free_operations(genotype, free)
    return number / of


def alpha_rows(snapshot: Mapping[str, Any]) -> list[list[float]]:
    """Returns the weights of the candidates of every edge in a line of architecture.jsonl."""
    return [row for of_set in snapshot.get("alphas", {}).values() for row in of_set["weights"]]


def beta_rows(snapshot: Mapping[str, Any]) -> list[list[float]]:
    """Returns the weights of the cells into every node of a lattice in such a line; none where there is no lattice."""
    return [list(row.values()) for row in snapshot.get("betas", {}).values()]


def entropy(rows: Rows) -> float | None:
    """Returns the mean entropy of rows of weights, 0 (decided) to 1 (all equal); None if nothing competes.

    >>> entropy([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0]])
    0.5
    """
    shares = [stats.entropy(row) / math.log(len(row)) for row in rows if len(row) > 1]
    return float(np.mean(shares)) if shares else None


def rank_correlation(rows: Rows, before: Rows) -> float | None:
    """Returns Spearman's rank correlation of the weights of an edge with those of before, mean over the edges.

    Near 1 the order of the candidates has settled. None where no edge has an order, or where there is no before.
    """
    found = [
        stats.spearmanr(row, other).statistic
        for row, other in zip(rows, before, strict=bool(before))
        if np.ptp(row) > 0 and np.ptp(other) > 0
    ]
    return float(np.mean(found)) if found else None


def illness(genotype: Genotype, values: Mapping[str, Any], *, free: Collection[str], limit: float) -> str | None:
    """Returns why an epoch is unhealthy, as half a sentence; None if it is not.

    Args:
        genotype: of the epoch.
        values: of its validation.
        free: names of identity, skips and pooling.
        limit: largest share of them.
    """
    reasons = []
    if silent := without_foreground(values):
        reasons.append(f"the supernet {_BLIND} on {', '.join(silent)}")
    if (share := free_share(genotype, free)) > limit:
        reasons.append(f"{share:.0%} of the genotype's operations are identity or pooling (limit {limit:.0%})")
    return ", and ".join(reasons) or None


def without_foreground(values: Mapping[str, Any]) -> list[str]:
    """Returns the data sets on which a network predicts no foreground, by the values of its validation.

    Where foreground is rare, cross-entropy holds all probabilities below the threshold long after the network has found
    it; its losses then say what operations are worth. So a network that ranks the pixels of the foreground high is none
    of these.
    """
    shares: Mapping[str, float | None] = values.get("val_foreground_by_domain", {})
    found: Mapping[str, float | None] = values.get("val_found_by_domain", {})
    return [
        name
        for name, share in shares.items()
        if share is not None and share < LEAST_FOREGROUND and (found.get(name) or 0.0) < LEAST_FOUND
    ]


def fate(illness: str) -> str:
    """Returns what has become of a stage, in a word: a collapse is one of operations, not of what is predicted.

    >>> fate("the supernet predicts no foreground on isic")
    'found nothing'
    >>> fate("83% of the genotype's operations are identity or pooling (limit 50%)")
    'collapsed'

    Args:
        illness: as `illness` returns it, and summary.json has it.
    """
    words = ["found nothing"] * is_blind(illness) + ["collapsed"] * ("identity or pooling" in illness)
    return " and ".join(words)


def is_blind(illness: str) -> bool:
    """Tells whether the supernet of a stage predicts no foreground."""
    return _BLIND in illness


def advice(recipe: Recipe, *, stage: int, blind: bool) -> str:
    """Returns what to do about a search that is ill: what its recipe has already is left out.

    Args:
        recipe: of the search.
        stage: number of the stage, from 0.
        blind: the supernet predicts no foreground; else its genotype has collapsed.
    """
    return _for_the_blind(recipe, stage) if blind else _for_the_collapsed(recipe)


def _for_the_blind(recipe: Recipe, stage: int) -> str:
    search, data = recipe.search, recipe.data
    raised = f"Raise search.lr ({search.lr:g}) or search.stages.{stage}.epochs ({search.stages[stage].epochs})"
    others = []
    if "dice" not in search.loss.name and search.loss.name != "tversky":
        exclusive = data.outputs > 1 and not data.overlap
        others.append(f"search.loss={'ce_dice' if exclusive else 'bce_dice'}")
    if data.sampling == "by_size":
        drawn = "equal" if len(data.sources) > 1 else "foreground"
        others.append("'data.sampling={foreground: 0.33}'" if data.resize == "patches" else f"data.sampling={drawn}")
    if getattr(recipe.space, "stem_stride", 1) == 2:
        finer = "stem_stride=1" if getattr(recipe.space, "full_size_head", True) else "full_size_head=true"
        others.append(f"space.{finer} where structures are thin")
    return f"{raised}, or use {' or '.join(others)}." if others else f"{raised}."


def _for_the_collapsed(recipe: Recipe) -> str:
    search = recipe.search
    others = ["search.guard={}"] if search.guard is None else []
    others += ["derive.select=perturbation"] if recipe.derive.select.name == "magnitude" else []
    others += ["search.regularizers=[beta_decay]"] if not search.regularizers else []
    lowered = f"ower search.arch_lr ({search.arch_lr:g})"
    return f"Use {' or '.join(others)}, or l{lowered}." if others else f"L{lowered}."


LIMITED = "with other operations in place of its weakest identity and pooling"
"""How the last epoch counts where none was healthy, but its genotype could be made so."""


def ending(stage: Mapping[str, Any], number: int) -> str:
    """Returns whether a stage of a search has ended healthy, and else what counts in place of its end, in a sentence.

    Args:
        stage: from summary.json.
        number: of the stage, from 1.
    """
    if "collapse" not in stage:
        return f"Stage {number} ended healthy."
    counted = "Its last epoch counts"
    if "returned_epoch" in stage:
        counted = f"Epoch {stage['returned_epoch'] + 1} counts instead"
    elif "limited" in stage:
        counted += f", {LIMITED}"
    return f"Stage {number} {fate(stage['collapse'])}: {stage['collapse']}. {counted}."


def verdict(stage: Mapping[str, Any]) -> str:
    """Returns whether a search has collapsed and why, or how healthy its genotype is, and what the guard did.

    What the guard returns is healthy, whatever became of the epochs after it.

    Args:
        stage: the last one in summary.json.
    """
    if "collapse" in stage and not {"returned_epoch", "limited"} & stage.keys():
        state = f"The search has {fate(stage['collapse'])}: {stage['collapse']}"
    else:
        number, of = stage["free_operations"]
        share = f"{number} of {of} operations ({number / of:.0%})"
        state = f"The genotype has not collapsed: {share} are identity or pooling"
    if "returned_epoch" in stage:
        done = f"the guard went back to epoch {stage['returned_epoch'] + 1}"
    elif "limited" in stage:
        done = "the guard put other operations in place of the weakest of them"
    else:
        done = "the guard changed nothing" if stage["is_guarded"] else "there was no guard"
    return f"{state}; {done}."


def largest_eigenvalue(
    fabric: Fabric,
    objective: Objective,
    *,
    architecture: Sequence[nn.Parameter],
    weights: Sequence[nn.Parameter],
    iterations: int,
) -> float:
    """Returns the largest eigenvalue, by size, of the Hessian of a loss in the architecture, by power iteration.

    RobustDARTS (arXiv 1909.09656), section 4. Products with the Hessian are differences of two gradients, as in the
    second order of DARTS, so no operation has to be differentiated twice. Parameters and gradients are left as they
    were.

    Args:
        fabric: does the backward passes.
        objective: the loss, the same function whenever it is called.
        architecture: the parameters.
        weights: all others, which are held.
        iterations: of the power method.
    """
    generator = torch.Generator().manual_seed(0)  # any start that is not orthogonal to the eigenvector
    vector = [torch.randn(each.shape, generator=generator).to(each) for each in architecture]
    value = 0.0
    with _kept(architecture) as before:
        for _ in range(iterations):
            length = get_total_norm(vector)
            if length == 0:
                return 0.0
            vector = [each / length for each in vector]
            sides = []
            for distance in (DISTANCE, -DISTANCE):
                _move(architecture, before, vector, distance)
                first_order(fabric, objective, held=weights)
                sides.append([_taken(each) for each in architecture])
            product = [(above - below) / (2 * DISTANCE) for above, below in zip(*sides, strict=True)]
            # Rayleigh's quotient has the sign of the eigenvalue, which the length of the product has not.
            value = float(sum((each * other).sum() for each, other in zip(vector, product, strict=True)))
            vector = product
    return value


def _taken(parameter: nn.Parameter) -> Tensor:
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    parameter.grad = None
    return gradient


@torch.no_grad()
def _move(parameters: Sequence[nn.Parameter], start: Sequence[Tensor], by: Sequence[Tensor], distance: float) -> None:
    for parameter, origin, direction in zip(parameters, start, by, strict=True):
        parameter.copy_(origin + distance * direction)


@contextmanager
def _kept(parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Gives the values of parameters, and afterwards puts these and the gradients back."""
    values = [each.detach().clone() for each in parameters]
    gradients = [each.grad for each in parameters]
    try:
        for each in parameters:
            each.grad = None
        yield values
    finally:
        _move(parameters, values, values, 0.0)
        for each, gradient in zip(parameters, gradients, strict=True):
            each.grad = gradient
