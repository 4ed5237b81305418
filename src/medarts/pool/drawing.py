"""Where candidates come from: random genotypes, genotypes along searches of supernets, neighbours of the best.

Each is scaled to the budget of the recipe, and no network comes twice. What is drawn follows from the seed of the
recipe, the generation and the number of the draw.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from typing import cast

from medarts.config import NormName, Recipe
from medarts.engine.directory import RunDirectory
from medarts.pool.candidates import Candidate, Source
from medarts.profiling.budget import Fitted, fit, measure, unmet
from medarts.registry import spaces
from medarts.spaces.base import SearchSpace
from medarts.spaces.genotype import Genotype, from_json
from medarts.system.console import inform
from medarts.system.randomness import seed_of

MISSES = 20
"""Draws one after the other that give no new network within the budget, after which a generation stays smaller."""

SEEDS = 2**31
"""Seeds of draws are below it, so that people can read them."""

NORM_CHANGES = 5
"""One of so many neighbours has another norm: the space has about four other kinds of changes."""


@dataclass(frozen=True)
class Draw:
    """A genotype that may become a candidate; see `Candidate`."""

    genotype: Genotype
    norm: NormName | None
    source: Source
    origin: str
    parent: str | None = None


class Drawing:
    """Makes candidates.

    Args:
        recipe: of the search, with the names of its outputs.
        known: the candidates that there are.
    """

    def __init__(self, recipe: Recipe, known: Iterable[Candidate]) -> None:
        self.recipe = recipe
        self.space = cast("type[SearchSpace]", spaces.get(recipe.space.name))
        self.norms: tuple[NormName | None, ...] = recipe.search.select.norms or (recipe.train.norm,)
        self._budget = recipe.budget.at(recipe.data.size)
        self._known = {self._identity(each.genotype, each.norm) for each in known}

    def first(self, number: int, searched: Iterable[Draw]) -> list[Candidate]:
        """Returns the first generation: what was searched, and random genotypes for the rest.

        Args:
            number: of its candidates.
            searched: genotypes of supernets.

        Raises:
            RecipeError: no network is within the budget.
        """
        found = self._candidates(1, number, searched)
        return [*found, *self._candidates(1, number, self._random(), found)]

    def check_budget(self) -> None:
        """Refuses a budget that random genotypes do not meet; where there are other candidates, before the long work.

        Raises:
            RecipeError: no network is within it.
        """
        for number, draw in enumerate(self._random(), 1):
            if self._fitted(draw) is not None:
                return
            if number == MISSES:
                raise unmet(draw.genotype, self._budget, **self._outputs, norm=draw.norm)

    def later(self, generation: int, number: int, parents: Sequence[Candidate]) -> list[Candidate]:
        """Returns a later generation: neighbours of candidates, as many of each; none where all are known.

        Args:
            generation: its number, from 2.
            number: of its candidates.
            parents: the best so far.
        """
        return self._candidates(generation, number, self._neighbours(generation, parents))

    def along(self, run: RunDirectory, *, number: int, called: str) -> list[Draw]:
        """Returns genotypes along a search, in equal distances, of which the last is that of its end.

        Args:
            run: the search, finished.
            number: of genotypes; fewer where the architecture was learned for fewer epochs.
            called: what the search is called in the origin of candidates.
        """
        lines = run.read_journal("architecture.jsonl", numbers=("stage", "epoch"))
        # Before, the genotype is the chance of the initial weights.
        learned = [line for line in lines if line["epoch"] >= run.recipe.search.arch_after] or lines[-1:]
        places = dict.fromkeys(len(learned) * (step + 1) // number - 1 for step in range(number))
        draws = []
        for line in (learned[place] for place in places if place >= 0):
            words = f"{called}, stage {line['stage'] + 1}, epoch {line['epoch'] + 1}"
            genotype = from_json(json.dumps(line["genotype"]), origin=str(run.path / "architecture.jsonl"))
            draws.append(Draw(genotype, self._norm("supernet", words), "supernet", words))
        return draws

    def _random(self) -> Iterator[Draw]:
        for number in count():
            seed = seed_of(self.recipe.seed, "random genotype", number) % SEEDS
            genotype = self.space.sample(self.recipe.space, seed=seed)
            yield Draw(genotype, self._norm("random", number), "random", f"seed {seed}")

    def _neighbours(self, generation: int, parents: Sequence[Candidate]) -> Iterator[Draw]:
        for number, parent in enumerate(cycle(parents)):
            seed = seed_of(self.recipe.seed, "neighbour", generation, number) % SEEDS
            others = [norm for norm in self.norms if norm != parent.norm]
            if others and seed % NORM_CHANGES == 0:
                words = f"norm: {parent.norm} -> {others[0]}"
                yield Draw(parent.genotype, others[0], "neighbour", words, parent.name)
            else:
                changed = self.space.neighbour(parent.genotype, self.recipe.space, seed=seed)
                words = str(changed.provenance["change"])
                yield Draw(changed, parent.norm, "neighbour", words, parent.name)

    def _norm(self, *place: str | int) -> NormName | None:
        """Returns a norm for a genotype whose source has none."""
        return self.norms[seed_of(self.recipe.seed, "norm", *place) % len(self.norms)]

    def _candidates(
        self, generation: int, number: int, draws: Iterable[Draw], before: Sequence[Candidate] = ()
    ) -> list[Candidate]:
        """Returns candidates of draws until, with those before them, there are as many as wanted.

        Raises:
            RecipeError: there are none, as no network is within the budget.
        """
        found: list[Candidate] = []
        misses, over = 0, None
        for draw in draws:
            if len(before) + len(found) == number or misses == MISSES:
                break
            misses += 1
            identity = self._identity(draw.genotype, draw.norm)
            if identity in self._known:
                continue
            self._known.add(identity)
            fitted = self._fitted(draw)
            if fitted is None:
                over = draw
                continue
            misses, name = 0, f"{generation}-{len(before) + len(found) + 1:02d}"
            genotype = fitted.genotype
            found.append(Candidate(name, draw.source, draw.origin, genotype, draw.norm, fitted.cost, draw.parent))
        if misses == MISSES:
            if not (before or found) and over is not None:
                raise unmet(over.genotype, self._budget, **self._outputs, norm=over.norm)
            inform(
                f"Generation {generation} has {len(before) + len(found)} candidates in place of {number}: "
                f"{MISSES} draws in a row gave no new network within the budget."
            )
        return found

    @property
    def _outputs(self) -> dict[str, int]:
        return {"in_channels": self.recipe.data.in_channels, "outputs": self.recipe.data.outputs}

    def _fitted(self, draw: Draw) -> Fitted | None:
        """Returns a genotype at the width that the budget allows; at its own where nothing is limited."""
        if self._budget.limits:
            return fit(draw.genotype, self._budget, **self._outputs, norm=draw.norm)
        return Fitted(draw.genotype, measure(draw.genotype, self._budget, **self._outputs, norm=draw.norm))

    def _identity(self, genotype: Genotype, norm: NormName | None) -> tuple[str, NormName | None]:
        """Returns what is equal for equal networks; a width does not count that the budget is going to choose."""
        if self._budget.limits:
            genotype = self.space.scaled(genotype)[0]
        return self.space.fingerprint(genotype), norm
