"""What is asked of a pruning: of which network, by which method, to which target, in how many steps."""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from medarts.config import KeepSettings, Recipe, apply_overrides, parse
from medarts.config.reading import deciding_values
from medarts.engine.checkpoint import of_weights
from medarts.errors import RecipeError
from medarts.models.pruned import Pruned
from medarts.pruning.method import make_method
from medarts.system.console import counted
from medarts.training.fine_tuning import with_its_norm
from medarts.training.trained import TrainedNetwork

_FORMAT = 1


class Request:
    """What is asked of a pruning. Steps are counted from 1 on.

    Args:
        source: the trained network.
        recipe: data, training, and what its section ``prune`` says.

    Attributes:
        source: as given.
        recipe: with what it leaves to the network, and to its other sections.
        method: that it names.
        recipes: of the trainings before and after the cut of each step; only those after it count where the method
            wants none before.

    Raises:
        RecipeError: the recipe has no target, or does not fit the network.
    """

    def __init__(self, source: TrainedNetwork, recipe: Recipe) -> None:
        self.source = source
        self.recipe = recipe = _resolved(source, recipe)
        settings = recipe.prune
        self._quantity, self._keep = settings.keep.quantity, settings.keep.share
        self.method = make_method(settings.method)
        fine = _recipes(recipe, settings.epochs or 0, field="prune.epochs")
        is_sparse = self.method.sparse is not None
        sparse = _recipes(recipe, self._sparse_epochs, field="prune.sparse_epochs") if is_sparse else fine
        self.recipes = [*zip(sparse, fine, strict=True)]

    @cached_property
    def weights(self) -> str:
        """The fingerprint of the weights of the network."""
        return of_weights(self.source.weights)

    @property
    def plan(self) -> dict[str, Any]:
        """What tells the pruning from others, as JSON."""
        return {
            "format": _FORMAT,
            "source": self.source.origin,
            "network": self.source.architecture.name,
            "weights": self.weights,
            "recipe": json.loads(json.dumps(deciding_values(self.recipe))),
        }

    @property
    def history(self) -> tuple[Mapping[str, Any], ...]:
        """What was asked for so far, see `medarts.models.pruned.Pruned`."""
        given, settings = self.source.architecture, self.recipe.prune
        asked = {
            "method": settings.method.model_dump(mode="json"),
            "keep": settings.keep.given,
            "steps": settings.steps,
            "epochs": settings.epochs,
            **({} if self.method.sparse is None else {"sparse_epochs": self._sparse_epochs}),
            "finetune_lr": self.recipe.train.finetune_lr,
        }
        return (*(given.history if isinstance(given, Pruned) else ()), asked)

    def target(self, number: int, kept: float) -> KeepSettings | None:
        """Returns what a step is to keep of what there is before it.

        Args:
            number: of the step.
            kept: what the steps before have kept, as a share.

        Returns:
            The target; None where the steps before have cut enough.
        """
        share = self._share(number) / kept
        return KeepSettings(**{self._quantity: share}) if share < 1 else None

    def name(self, number: int) -> str:
        """Returns the name of the network after a step."""
        return f"{self.source.architecture.name}-{self._method_name}-{100 * self._share(number):.3g}"

    def training_words(self, number: int) -> str:
        """Returns what the training before a cut is, for the terminal."""
        sparse, _ = self.recipes[number - 1]
        return f"{self._of(number)}training for {self._method_name}, {counted(sparse.train.epochs, 'epoch')}."

    def cut_words(self, number: int) -> str:
        """Returns what a cut is, for the terminal."""
        quantity = "FLOPs" if self._quantity == "flops" else self._quantity
        return f"{self._of(number)}cut by {self._method_name} to {self._share(number):.1%} of the {quantity}."

    @property
    def _method_name(self) -> str:
        return self.recipe.prune.method.name

    @property
    def _sparse_epochs(self) -> int:
        settings = self.recipe.prune
        return settings.sparse_epochs or settings.epochs or 0

    def _share(self, number: int) -> float:
        """Returns what is to be kept after a step; every step keeps the same share of what there is before it."""
        return float(self._keep ** (number / len(self.recipes)))

    def _of(self, number: int) -> str:
        steps = f", step {number} of {len(self.recipes)}" if len(self.recipes) > 1 else ""
        return f"{self.source.architecture.name}{steps}: "


def _resolved(source: TrainedNetwork, recipe: Recipe) -> Recipe:
    """Returns a recipe with what it leaves to the network, and to its other sections.

    Raises:
        RecipeError: it does not fit the network.
    """
    if not recipe.data.has_outputs_of(source.recipe.data):
        raise RecipeError(
            f"{source.origin} was trained for other classes or findings than the data have, and pruning keeps heads.",
            fix="Fine-tune it on these data first: medarts train --from.",
        )
    recipe = with_its_norm(recipe, source)
    # Written out, as the epochs of a run are those of its last step.
    prune = recipe.prune.model_copy(update={"epochs": recipe.prune.epochs or recipe.train.epochs})
    return recipe.model_copy(update={"prune": prune})


def _recipes(recipe: Recipe, epochs: int, *, field: str) -> list[Recipe]:
    """Returns the recipes of the trainings of all steps, among which the epochs are divided.

    Raises:
        RecipeError: the epochs are fewer than the steps, or than those of the warm-up.
    """
    steps, values = recipe.prune.steps, recipe.model_dump(mode="json")
    if epochs < steps:
        raise RecipeError(f"{field} is {epochs}, fewer than the {steps} steps.", fix="Give more epochs or fewer steps.")
    shares = [epochs * number // steps - epochs * (number - 1) // steps for number in range(1, steps + 1)]
    return [parse(apply_overrides(values, [f"train.epochs={share}"])) for share in shares]
