"""A selection at work: what it may ask of a search, and what its decisions do to the supernet.

Decisions are part of the search's state: a search that was interrupted goes on with the next one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from medarts.engine.timing import timed
from medarts.nas.selection import Made
from medarts.spaces.decisions import Decision, Restriction
from medarts.spaces.genotype import Genotype
from medarts.system.console import inform
from medarts.system.randomness import seed_torch

if TYPE_CHECKING:
    from medarts.nas.search import Search


def restriction_of(records: Sequence[Mapping[str, Any]]) -> Restriction:
    """Returns what decisions leave out, in the form in which a search keeps them."""
    return Restriction({record["decision"]: tuple(record["kept"]) for record in records})


class Deciding:
    """What a selection sees of a search, see `medarts.nas.selection.Selecting`.

    Args:
        search: at the end of its last stage.
    """

    def __init__(self, search: "Search") -> None:
        self._search = search

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self._search.recipe.seed

    @property
    def made(self) -> list[Made]:
        """The decisions made so far."""
        records = self._search.state.made
        return [Made(record["decision"], tuple(record["kept"]), record["losses"]) for record in records]

    def decisions(self) -> list[Decision]:
        """Returns everything that the genotype decides."""
        return self._search.supernet.decisions(self._search.recipe.derive)

    def derive(self) -> Genotype:
        """Returns the genotype of the decisions made and, where none was, of the architecture parameters."""
        return self._search.derive()

    @torch.no_grad()
    def loss(self, *, without: tuple[str, str], batches: int) -> float:
        """Returns the mean loss of the supernet without an option on batches of the alpha half."""
        search = self._search
        search.leave_if_asked()
        restriction = search.supernet.restriction
        search.supernet.restriction = replace(restriction, without=without)
        search.model.eval()
        parts = search.fixed_subset(batches)
        seed_torch(self.seed, "selection")  # operations that draw, as noise does, draw alike for all options
        losses = [float(search.task.loss(search.model(part.images, all_heads=True), part)) for part in parts]
        search.supernet.restriction = restriction
        # That of the first process, as all are to decide alike, whatever kinds of processors they have.
        value: float = search.ranks.gathered(sum(losses) / len(losses))[0]
        search.check_finite(value, name=f"loss without {' '.join(without)}")
        return value

    def make(self, made: Made, *, tune: int, lr: float) -> None:
        """Restricts the supernet to a decision, tunes its weights, and saves the search."""
        search, state = self._search, self._search.state
        state.made.append({"decision": made.decision, "kept": list(made.kept), "losses": dict(made.losses)})
        search.supernet.restriction = restriction_of(state.made)
        if made.losses:
            losses = ", ".join(f"{option} {value:.4f}" for option, value in made.losses.items())
            number = f"{len(state.made)} of {len(self.decisions())}"
            inform(f"selection {number}: {made.decision} keeps {', '.join(made.kept)}; loss without {losses}")
        self.tune(tune, lr=lr * search.recipe.search.lr)
        state.step = len(state.made)
        search.save()

    def tune(self, steps: int, *, lr: float) -> None:
        """Takes some steps of the weights, whose images go on where those of the epochs ended."""
        search, state = self._search, self._search.state
        half = search.data.weights
        for group in search.weight_optimizer.param_groups:
            group["lr"] = lr
        search.model.train()
        for _ in range(steps):
            search.leave_if_asked()
            epoch, step = search.epochs + state.tuned // search.steps, state.tuned % search.steps
            order = half.order(epoch, seed=self.seed, sampling=search.recipe.data.sampling)
            search.step_weights(search.objective(half, order, epoch=epoch, step=step))
            state.tuned += 1


class Rehearsal(Deciding):
    """A selection that decides without looking, and counts what looking would have taken; see `Selecting`.

    Attributes:
        batches: on which losses would have been measured.
        steps: of the weights that would have followed decisions.
    """

    def __init__(self, search: "Search") -> None:
        super().__init__(search)
        self.batches = self.steps = 0
        self._made: list[Made] = []

    @property
    def made(self) -> list[Made]:
        """The decisions made so far."""
        return self._made

    def derive(self) -> Genotype:
        """Returns the genotype of the architecture parameters."""
        return self._search.supernet.derive(self._search.recipe.derive, name="rehearsal", provenance={})

    def loss(self, *, without: tuple[str, str], batches: int) -> float:
        """Returns 0, whatever is left out."""
        self.batches += min(batches, self._search.data.architecture.steps)
        return 0.0

    def make(self, made: Made, *, tune: int, lr: float) -> None:
        """Notes a decision."""
        self._made.append(made)
        self.steps += tune

    def seconds(self, *, repeats: int) -> float:
        """Returns the time of what was counted: half of it at the speed of the whole supernet, half of the decided one.

        Args:
            repeats: timed batches and steps, after one that warms up.
        """
        search, found = self._search, 0.0
        if not (self.batches or self.steps):
            return found
        for decided in ([], self.made):
            kept = {made.decision: made.kept for made in decided}
            search.supernet.restriction = Restriction(kept)
            loss, tune = partial(super().loss, without=("", ""), batches=1), partial(self.tune, 1, lr=search.lr)
            found += self.batches * timed(loss, repeats=repeats).seconds / 2
            found += self.steps * timed(tune, repeats=repeats).seconds / 2
        return found
