"""Networks of a study scaled to its budget, each once: what was measured and chosen is kept in a file of the study.

    {"of": "<digest of the budget>", "limits": {"latency_ms": 2.4},
     "networks": {"unet": {"of": "<digest of what was asked for>", "model": {"name": "unet", ...}, "genotype": null,
                           "cost": {...}}, ...}}

Latency is measured, so that a network that was scaled again could be of another width than its first trainings, and a
limit that is the latency of a network (``latency_of``) another one for every network.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from medarts.config import BudgetSettings, Recipe
from medarts.config.reading import values_of, values_of_drawing
from medarts.config.study import NetworkEntry
from medarts.errors import RunError
from medarts.models import scaled
from medarts.pool.candidates import Candidate
from medarts.pool.drawing import SEEDS, Drawing
from medarts.profiling.budget import BudgetCost, BudgetError, fit, in_numbers, unmet
from medarts.registry import Settings, models
from medarts.spaces.genotype import Genotype, from_json
from medarts.system.console import inform
from medarts.system.files import exists, read_whole, write_whole
from medarts.system.randomness import seed_of

N = TypeVar("N", Genotype, Settings)


@dataclass(frozen=True)
class Sized:
    """A network within the budget of a study.

    Attributes:
        of: digest of what was asked for: the network without its width, and the budget.
        network: at its width.
        cost: as measured.
    """

    of: str
    network: Genotype | Settings
    cost: BudgetCost

    def as_json(self) -> dict[str, Any]:
        """Returns it as what JSON can hold."""
        return {
            "of": self.of,
            "model": self.network.model_dump(mode="json") if isinstance(self.network, Settings) else None,
            "genotype": json.loads(self.network.to_json()) if isinstance(self.network, Genotype) else None,
            "cost": self.cost.as_json(),
        }

    @classmethod
    def read(cls, content: Mapping[str, Any], *, origin: str) -> "Sized":
        """Returns it from what `as_json` made."""
        network: Genotype | Settings
        if content["model"] is not None:
            network = models.choose(content["model"])
        else:
            network = from_json(json.dumps(content["genotype"]), origin=origin)
        return cls(content["of"], network, BudgetCost.read(content["cost"]))


@dataclass(frozen=True)
class SizedNetworks:
    """What the budget of a study has made of its networks.

    Attributes:
        of: digest of the budget.
        limits: of it, in numbers, the same for all networks.
        networks: those that were scaled so far, by name.
    """

    of: str
    limits: Mapping[str, float]
    networks: Mapping[str, Sized]


def read_sized(path: Path) -> SizedNetworks | None:
    """Returns what the budget of a study has made of its networks; None without the file.

    Raises:
        RunError: it is damaged.
    """
    if not exists(path):
        return None
    try:
        content = json.loads(read_whole(path))
        limits = {str(name): float(limit) for name, limit in content["limits"].items()}
        networks = {str(name): Sized.read(one, origin=str(path)) for name, one in content["networks"].items()}
        return SizedNetworks(str(content["of"]), limits, networks)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"{path} is damaged ({type(error).__name__}: {reason}).",
            fix="Copy it again, or remove it: networks are then scaled anew, and runs of another width refused.",
        ) from error


class Fitting:
    """Scales networks of a study to its budget.

    What the file has of another budget is not used, and left out when it is written.

    Args:
        recipe: of the study, with the names of its outputs.
        path: of the file, which is written from `keep` on.
    """

    def __init__(self, recipe: Recipe, path: Path) -> None:
        self._recipe = recipe
        self._budget = recipe.budget.at(recipe.data.size)
        self._shape = {"in_channels": recipe.data.in_channels, "outputs": recipe.data.outputs}
        self._path = path
        self._of = self._digest({})
        kept = read_sized(path) if self.is_needed else None
        self._kept = kept if kept is not None and kept.of == self._of else None
        self._known = {} if self._kept is None else dict(self._kept.networks)
        self._keeps = False

    @property
    def is_needed(self) -> bool:
        """Whether there is a budget."""
        return bool(self._budget.limited)

    @cached_property
    def _limited(self) -> BudgetSettings:
        """The budget in numbers, those of an earlier call if there was one."""
        if self._kept is None:
            return in_numbers(self._budget, **self._shape)
        return self._budget.model_copy(update={"latency_of": None, **self._kept.limits})

    def keep(self) -> None:
        """Writes the limits and what was scaled so far, and from now on whatever is.

        Raises:
            MedartsError: the latency that is a limit cannot be measured.
        """
        self._keeps = True
        self._write()

    def sized(self, name: str, network: N) -> N:
        """Returns a network at the width that the budget allows.

        Args:
            name: of it in the study.
            network: a genotype, or the settings of a baseline.

        Raises:
            BudgetError: no width is within the budget.
            MedartsError: it cannot be measured.
        """
        of, norm = self._digest(_widthless(network)), self._recipe.train.norm
        known = self._known.get(name)
        if known is None or known.of != of:
            found = fit(network, self._limited, **self._shape, norm=norm)
            if found is None:
                raise unmet(network, self._limited, **self._shape, norm=norm)
            known = self._add(name, of, found.network, found.cost)
        return cast(N, known.network)

    def sampled(self, entry: NetworkEntry) -> list[Genotype]:
        """Returns random genotypes within the budget, from the space of the recipe with its choices.

        Those of a smaller number are the first of a larger one.

        Raises:
            BudgetError: there are not as many within the budget.
        """
        seed = seed_of(self._recipe.seed, "study", entry.name) % SEEDS
        of = self._digest({"space": values_of_drawing(self._recipe.space), "seed": seed})
        known = [one for name in entry.names if (one := self._known.get(name)) is not None and one.of == of]
        if len(known) < len(entry.names):
            drawn = self._drawn(len(entry.names), seed)
            for name, candidate in [*zip(entry.names, drawn, strict=True)][len(known) :]:
                known.append(self._add(name, of, candidate.genotype, candidate.cost))
        return [cast(Genotype, one.network) for one in known]

    def _drawn(self, number: int, seed: int) -> list[Candidate]:
        """Returns random candidates, as a search by training draws them."""
        select = self._recipe.search.select.model_copy(update={"norms": ()})  # all have that of the training
        search = self._recipe.search.model_copy(update={"select": select})
        recipe = self._recipe.model_copy(update={"seed": seed, "search": search, "budget": self._limited})
        found = Drawing(recipe, ()).first(number, ())
        if len(found) < number:
            raise BudgetError(
                f"Only {len(found)} different random genotypes within the budget were found; {number} are needed.",
                fix="Sample fewer, raise the budget, or give the space more choices (space.choices).",
            )
        return found

    def _add(self, name: str, of: str, network: Genotype | Settings, cost: BudgetCost) -> Sized:
        sized = self._known[name] = Sized(of, network, cost)
        shown = ", ".join(
            f"{key} {cost.amounts[key]:,.4g} of {limit:,.4g}" for key, limit in self._limited.limits.items()
        )
        inform(f"{name}: {shown}")
        if self._keeps:
            self._write()
        return sized

    def _write(self) -> None:
        networks = {name: one.as_json() for name, one in self._known.items()}
        content = {"of": self._of, "limits": self._limited.limits, "networks": networks}
        write_whole(self._path, json.dumps(content, indent=1) + "\n")

    def _digest(self, asked: Mapping[str, Any]) -> str:
        """Returns a digest of what was asked for and the budget, which later fields of either do not change."""
        content = {
            "asked": asked,
            "budget": values_of(self._budget, exclude_none=True),
            "norm": self._recipe.train.norm,
            **self._shape,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _widthless(network: Genotype | Settings) -> dict[str, Any]:
    """Returns what is equal for networks that differ in their width alone."""
    narrowest = scaled(network)[0]
    if isinstance(narrowest, Settings):
        return values_of(narrowest)
    content: dict[str, Any] = json.loads(replace(narrowest, provenance={}).to_json())
    return content | {"name": ""}
