"""What a study will take: its searches, and its trainings with their scores, from a few trial steps of each.

The time of comparing is not in it.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from medarts.config import SPLITS, Recipe
from medarts.config.study import NetworkEntry, Study, group_recipe, search_recipe, training_recipe
from medarts.data.opening import open_manifest, with_findings
from medarts.data.store import open_store
from medarts.engine.device import preserved_process_state
from medarts.engine.timing import Span
from medarts.models import Architecture
from medarts.pool import search
from medarts.profiling.budget import BudgetError
from medarts.profiling.load import UNKNOWN, Load
from medarts.profiling.plan import Known, TrainingAttempt, between, tried
from medarts.profiling.scoring import scoring_seconds
from medarts.registry import Settings
from medarts.spaces.genotype import Genotype
from medarts.study.jobs import Layout, is_finished
from medarts.study.networks import Networks, searches_of
from medarts.system.console import inform


@dataclass(frozen=True, slots=True)
class Part:
    """Runs of a study that take about as long as each other.

    Attributes:
        name: such as "search of pool", or "unet on isic".
        runs: their number.
        seconds: of each of them.
        low: times ``seconds`` that each takes where all steps are as fast as the fastest that was timed, 0 to 1.
        high: the same with the slowest, from 1.
    """

    name: str
    runs: int
    seconds: float
    low: float = 1.0
    high: float = 1.0


@dataclass(frozen=True)
class StudyPlan:
    """The estimates of a study.

    Attributes:
        parts: its runs; those of networks that are over the budget are left out.
        load: how busy the machine was when the trials began.
    """

    parts: tuple[Part, ...]
    load: Load = UNKNOWN

    @property
    def runs(self) -> int:
        """The number of runs."""
        return sum(part.runs for part in self.parts)

    @property
    def seconds(self) -> float:
        """Time of all runs, one after the other."""
        return math.fsum(part.runs * part.seconds for part in self.parts)

    @property
    def bounds(self) -> tuple[float, float]:
        """Between what the time of all runs lies, in seconds; see `medarts.profiling.plan.between`."""
        low, high = (
            math.fsum(part.runs * part.seconds * getattr(part, side) for part in self.parts) for side in ("low", "high")
        )
        return between(Span(low, self.seconds, high))

    def to_json(self) -> str:
        """Returns the plan as JSON."""
        of_all = {"seconds": self.seconds, "seconds_from_to": self.bounds, "runs": self.runs}
        return json.dumps({**of_all, "parts": [asdict(part) for part in self.parts]})


@preserved_process_state()
def plan_study(study: Study, out: Path) -> StudyPlan:
    """Estimates what the searches and the trainings of a study will take, whatever has been done of it.

    A network that is not known before a search has finished, its own or that of the network whose size it takes, is
    planned as a typical one of the space of that search, at the C of its recipe. Of random ones, and of searches that
    differ in their seed alone, one is tried for all, and of all that is alike the first; see
    `medarts.profiling.plan.Attempt.alike`.

    Args:
        study: the study.
        out: its folder, which need not exist: networks that were searched or scaled there are taken from it.

    Raises:
        MedartsError: data, a recipe or a network does not fit.
    """
    load, recipes, stores = Load.now(), {}, {}
    for group in study.trained_on:
        recipe = group_recipe(study, group, seed=study.recipe.seed)
        manifest = open_manifest(recipe.data, needs=SPLITS)
        recipes[group.name] = with_findings(recipe, manifest)
        stores[group.name] = open_store(manifest, recipe.data, threads=recipe.compute.threads)
    layout = Layout(out)
    networks = Networks(study, layout, next(iter(recipes.values())).data)
    known: dict[str, Architecture | None] = {}
    for entry in study.networks:
        searches = searches_of(study, entry.names[0])
        if not all(is_finished(layout.search(name).run, scored=False) for name in searches):
            known[entry.name] = None
            continue
        try:
            known[entry.name] = networks.architecture(entry.names[0])
        except BudgetError as error:
            inform(f"{error}")
    parts, found = [], Known()
    for entry in study.networks:
        if entry.searched_on is not None:
            recipe = search_recipe(study, entry.names[0])
            # One seed for all, as typical networks of other seeds are others, which take about as long.
            planned = search.plan(recipe.model_copy(update={"seed": study.recipe.seed}), known=found)
            parts.append(_part(f"search of {entry.name}", len(entry.names), planned.search_span))
    attempts = {}
    for group in study.trained_on:
        there = set(study.networks_of(group))
        for entry in study.networks:
            names = [name for name in entry.names if name in there]
            if names and entry.name in known:
                recipe = training_recipe(study, recipes[group.name], names[0])
                network = known[entry.name]
                if network is None:
                    network, _ = found.untrained(_as_searched(study, entry, recipe))
                attempt = _attempt(recipe, network)
                runs = len(names) * len(group.seeds)
                attempts[f"{entry.name} on {group.name}"] = runs, attempt, stores[group.name]
    trials = tried([attempt for _, attempt, _ in attempts.values()], budget_mb=None, known=found)
    for (name, (runs, attempt, store)), (trial, _) in zip(attempts.items(), trials, strict=True):
        scoring = scoring_seconds(attempt.recipe, store, trial)
        span = trial.span(trial.seconds)
        parts.append(_part(name, runs, span.plus(Span(scoring, scoring, scoring))))
    return StudyPlan(tuple(parts), load)


def _part(name: str, runs: int, span: Span) -> Part:
    return Part(name, runs, span.seconds, low=span.low / span.seconds, high=span.high / span.seconds)


def _as_searched(study: Study, entry: NetworkEntry, recipe: Recipe) -> Recipe:
    """Returns the recipe of a training with the space and the stages of the search behind its network."""
    source = entry if entry.like is None else study.entry_of(entry.like)
    if source.searched_on is None:
        return recipe
    search_of = search_recipe(study, source.names[0])
    return recipe.model_copy(update={name: getattr(search_of, name) for name in ("space", "search", "derive")})


def _attempt(recipe: Recipe, network: Architecture) -> TrainingAttempt:
    model = network if isinstance(network, Settings) else None
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"model": model})})
    return TrainingAttempt(recipe, None, network if isinstance(network, Genotype) else None)
