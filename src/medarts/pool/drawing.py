"""Where candidates come from: random genotypes, genotypes along searches of supernets, neighbours of the best.

Each is scaled to the budget of the recipe, and no network comes twice. What is proposed follows from the seed of the
recipe, the generation and the number of the proposal.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any, cast

from medarts.config import NormName, Recipe
from medarts.engine.directory import RunDirectory
from medarts.nas import guard
from medarts.pool.candidates import Candidate, Source
from medarts.profiling.budget import BudgetError, Fitted, fit, fit_reduced, measure, unmet, unmet_reduced
from medarts.registry import spaces
from medarts.spaces.base import SearchSpace
from medarts.spaces.genotype import Genotype, from_json, load_genotype
from medarts.system.console import counted, inform
from medarts.system.randomness import seed_of

MISSES = 20
"""Proposals one after the other that give no new network within the budget, after which a generation stays smaller.

Of proposals that do not end, which random genotypes and neighbours are: a small space has no others."""

SEEDS = 2**31
"""Seeds of proposals, and of the recipes of candidates and supernets, are below it, as that of a recipe has to be."""

NORM_CHANGES = 5
"""One neighbour in NORM_CHANGES has another norm: the space has about four other kinds of changes."""


@dataclass(frozen=True)
class Proposal:
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
        pause: is called before a proposal is looked at, which can take seconds of exports and measurements; what it
            raises ends the drawing.
    """

    def __init__(self, recipe: Recipe, known: Iterable[Candidate], *, pause: Callable[[], None] = lambda: None) -> None:
        self.recipe = recipe
        self.space = cast("type[SearchSpace]", spaces.get(recipe.space.name))
        self.norms: tuple[NormName | None, ...] = recipe.search.select.norms or (recipe.train.norm,)
        self._budget = recipe.budget.at(recipe.data.size)
        self._known = {self._identity(each.genotype, each.norm) for each in known}
        self._pause = pause
        self._over: Proposal | None = None

    def first(self, number: int, searched: Iterable[Proposal]) -> list[Candidate]:
        """Returns the first generation: what was searched, and random genotypes for the rest.

        Args:
            number: of its candidates.
            searched: genotypes of supernets; all of them are looked at.

        Raises:
            RecipeError: no network is within the budget.
        """
        found = self._candidates(1, number, searched)
        found += self._candidates(1, number, self._random(), found, endless=True)
        if not found:
            assert self._over is not None  # as no network was known before
            raise self._unmet(self._over)
        return found

    def check_budget(self) -> None:
        """Refuses a budget that random genotypes do not meet; where there are other candidates, before the long work.

        Raises:
            RecipeError: no network is within it.
        """
        for number, proposal in enumerate(self._random(), 1):
            self._pause()
            if self._fitted(proposal) is not None:
                return
            if number == MISSES:
                raise self._unmet(proposal)

    def later(self, generation: int, number: int, parents: Sequence[Candidate]) -> list[Candidate]:
        """Returns a later generation: neighbours of candidates, as many of each; none where no new one is found.

        Args:
            generation: its number, from 2.
            number: of its candidates.
            parents: the best so far.
        """
        return self._candidates(generation, number, self._neighbours(generation, parents), endless=True)

    def along(self, run: RunDirectory, *, number: int, called: str) -> list[Proposal]:
        """Returns genotypes along a search, in equal distances, and last the one that the search has chosen.

        Where its guard goes back to healthy epochs, those before are healthy ones, too.

        Args:
            run: the search, finished.
            number: of genotypes; fewer where the architecture was learned for fewer epochs.
            called: what the search is called in the origin of candidates.
        """
        found = list(self._healthy(run))
        places = dict.fromkeys(len(found) * (step + 1) // number - 1 for step in range(number - 1))
        along = [found[place] for place in places if place >= 0]
        return [
            Proposal(genotype, self._norm("supernet", words), "supernet", f"{called}, {words}")
            for words, genotype in (*along, ("as it was chosen", load_genotype(run.path / "genotype.json")))
        ]

    def _healthy(self, run: RunDirectory) -> Iterator[tuple[str, Genotype]]:
        """Yields the epochs of a search that can give candidates, in words, and their genotypes."""
        settings = run.recipe.search
        limit = None if settings.guard is None or settings.guard.action == "continue" else settings.guard.identity
        values = run.read_journal("metrics.jsonl")
        lines = run.read_journal("architecture.jsonl", numbers=("stage", "epoch"))
        for line, validated in zip(lines, values, strict=True):
            genotype = from_json(json.dumps(line["genotype"]), origin=str(run.path / "architecture.jsonl"))
            is_learned = line["epoch"] >= settings.arch_after  # else it is the chance of the initial weights
            if is_learned and (
                limit is None or guard.illness(genotype, validated, free=self.space.free, limit=limit) is None
            ):
                yield f"stage {line['stage'] + 1}, epoch {line['epoch'] + 1}", genotype

    def _random(self) -> Iterator[Proposal]:
        for number in count():
            seed = seed_of(self.recipe.seed, "random genotype", number) % SEEDS
            genotype = self.space.sample(self.recipe.space, seed=seed)
            yield Proposal(genotype, self._norm("random", number), "random", f"seed {seed}")

    def _neighbours(self, generation: int, parents: Sequence[Candidate]) -> Iterator[Proposal]:
        for number, parent in enumerate(cycle(parents)):
            seed = seed_of(self.recipe.seed, "neighbour", generation, number) % SEEDS
            others = [norm for norm in self.norms if norm != parent.norm]
            if others and seed % NORM_CHANGES == 0:
                words = f"norm: {parent.norm} -> {others[0]}"
                yield Proposal(parent.genotype, others[0], "neighbour", words, parent.name)
            else:
                changed = self.space.neighbour(parent.genotype, self.recipe.space, seed=seed)
                words = str(changed.provenance["change"])
                yield Proposal(changed, parent.norm, "neighbour", words, parent.name)

    def _norm(self, *place: str | int) -> NormName | None:
        """Returns a norm for a genotype whose source has none."""
        return self.norms[seed_of(self.recipe.seed, "norm", *place) % len(self.norms)]

    def _candidates(
        self,
        generation: int,
        number: int,
        proposals: Iterable[Proposal],
        before: Sequence[Candidate] = (),
        *,
        endless: bool = False,
    ) -> list[Candidate]:
        """Returns candidates of proposals until, with those before them, there are as many as wanted.

        Of endless proposals, MISSES in a row end it, too.
        """
        found: list[Candidate] = []
        misses = 0
        for proposal in proposals:
            place = len(before) + len(found)
            if place == number:
                break
            if endless and misses == MISSES:
                inform(
                    f"Generation {generation} has {counted(place, 'candidate')} in place of {number}: "
                    f"{MISSES} proposals in a row gave no new network within the budget."
                )
                break
            fitted = self._new(proposal)
            if fitted is None:
                misses += 1
                continue
            misses, name = 0, f"{generation}-{place + 1:02d}"
            origin = proposal.origin
            if fitted.reduced:
                origin += f"; reduced in {counted(len(fitted.reduced), 'step')}"
            made = (proposal.source, origin, fitted.network, proposal.norm, fitted.cost, proposal.parent)
            found.append(Candidate(name, *made))
        return found

    def _new(self, proposal: Proposal) -> Fitted[Genotype] | None:
        """Returns the network of a proposal; None where it is known already, or over the budget at every width."""
        self._pause()
        identity = self._identity(proposal.genotype, proposal.norm)
        if identity in self._known:
            return None
        self._known.add(identity)
        fitted = self._fitted(proposal)
        if fitted is None:
            self._over = proposal
        elif fitted.reduced:
            identity = self._identity(fitted.network, proposal.norm)
            if identity in self._known:
                return None
            self._known.add(identity)
        return fitted

    @property
    def _outputs(self) -> dict[str, int]:
        return {"in_channels": self.recipe.data.in_channels, "outputs": self.recipe.data.outputs}

    def _fitted(self, proposal: Proposal) -> Fitted[Genotype] | None:
        """Returns a genotype at the width that the budget allows; at its own where nothing is limited.

        What a supernet or a parent has given is reduced where no width is within; in place of a random genotype there
        is another.
        """
        given: Any = {**self._outputs, "norm": proposal.norm}
        if not self._budget.limited:
            return Fitted(proposal.genotype, measure(proposal.genotype, self._budget, **given))
        if proposal.source == "random":
            return fit(proposal.genotype, self._budget, **given)
        return fit_reduced(proposal.genotype, self._budget, space=self.recipe.space, **given)

    def _unmet(self, proposal: Proposal) -> BudgetError:
        """Returns the error of a budget that a proposal exceeds, reduced as `_fitted` reduces it."""
        given: Any = {**self._outputs, "norm": proposal.norm}
        if proposal.source == "random":
            return unmet(proposal.genotype, self._budget, **given)
        return unmet_reduced(proposal.genotype, self._budget, space=self.recipe.space, **given)

    def _identity(self, genotype: Genotype, norm: NormName | None) -> tuple[str, NormName | None]:
        """Returns what is equal for equal networks; a width does not count that the budget is going to choose."""
        if self._budget.limited:
            genotype = self.space.scaled(genotype)[0]
        return self.space.fingerprint(genotype), norm
