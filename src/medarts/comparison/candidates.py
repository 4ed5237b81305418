"""The networks of a comparison, each with its runs, and whether these may be compared."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

from medarts.config import Recipe
from medarts.config.difference import differences
from medarts.config.models import CheXNetSettings
from medarts.engine.directory import RunDirectory
from medarts.engine.listing import Listing, about, changed_files, counted_names, read_listing
from medarts.errors import RunError
from medarts.models.registry import Architecture
from medarts.spaces.drawing import SOURCE
from medarts.spaces.genotype import Genotype
from medarts.spaces.reading import load as load_genotype
from medarts.spaces.reading import zoo
from medarts.system.names import printable
from medarts.training.trainer import architecture_of

Kind = Literal["searched", "random", "published", "made by hand"]
"""Where a network comes from."""

MAY_DIFFER = ("seed", "space", "search", "derive")
"""Sections of a recipe, beside ``train.model`` and what ``medarts.config.difference`` passes over, that neither decide
how a network is trained nor how it is scored: they are the network itself or its seed."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One network, trained once a seed.

    Attributes:
        name: what tables call it, unique in a comparison.
        runs: its training runs in the order of their seeds, at least one.
    """

    name: str
    runs: tuple[RunDirectory, ...]

    @cached_property
    def recipes(self) -> tuple[Recipe, ...]:
        """The recipe of every run."""
        return tuple(run.recipe for run in self.runs)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of every run."""
        return tuple(recipe.seed for recipe in self.recipes)

    @cached_property
    def architecture(self) -> Architecture:
        """What the runs train."""
        return architecture_of(self.runs[0])

    @property
    def began_from(self) -> str | None:
        """Name of the file of trained weights that the runs began from; None where they began from scratch."""
        weights = self.architecture.weights if isinstance(self.architecture, CheXNetSettings) else None
        return None if weights is None else weights.name

    @cached_property
    def kind(self) -> Kind:
        """Where the network comes from, as the provenance of its genotype tells."""
        if not isinstance(self.architecture, Genotype):
            return "made by hand"
        if self.architecture.provenance.get("source") == SOURCE:
            return "random"
        published = any(load_genotype(name).provenance == self.architecture.provenance for name in zoo())
        return "published" if published else "searched"


def group_runs(paths: Sequence[Path]) -> tuple[Candidate, ...]:
    """Makes candidates of training runs: those of the same architecture are one network with several seeds.

    The architecture counts, not what it is called. Where networks that differ have one name, as U-Nets of two widths
    have, the end of the path of the first run of each is appended.

    Args:
        paths: the runs.

    Returns:
        The candidates, in the order of their first runs; the runs of each by their seeds.

    Raises:
        RunError: a path is no training run, one is given twice, or there is none.
    """
    if not paths:
        raise RunError("There is no run to compare.", fix="Give training runs.")
    places = [path.resolve() for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise RunError(f"The run {path} is given twice.", fix="Give every run once.")
    groups: list[tuple[Architecture, list[RunDirectory]]] = []
    for run in (RunDirectory.open(path, kind="train") for path in paths):
        architecture = _nameless(architecture_of(run))
        members = next((runs for known, runs in groups if known == architecture), None)
        if members is None:
            groups.append((architecture, [run]))
        else:
            members.append(run)
    names = _unique_names([runs[0] for _, runs in groups])
    return tuple(
        Candidate(name, tuple(sorted(runs, key=lambda run: run.recipe.seed)))
        for name, (_, runs) in zip(names, groups, strict=True)
    )


def check_comparable(candidates: Sequence[Candidate], *, same_seeds: bool = True) -> None:
    """Refuses runs that were not trained and scored by the same recipe, on the same images in the same splits.

    Two runs of one network with one seed are refused, too.

    Recipes are compared as they are read now, so that defaults that an older medarts did not know yet count as such.

    Args:
        candidates: the networks.
        same_seeds: whether all must have been trained with the same seeds.

    Raises:
        RunError: names the first difference, with both values and both runs.
    """
    runs = [run for candidate in candidates for run in candidate.runs]
    for run in runs:
        if not run.facts["finished"]:
            raise RunError(f"{run.path} has not finished.", fix=f"Go on with it: medarts train --resume {run.path}.")
    recipes = [recipe for candidate in candidates for recipe in candidate.recipes]
    for run, recipe in zip(runs[1:], recipes[1:], strict=True):
        _check_recipes((runs[0], recipes[0]), (run, recipe))
    for run in runs[1:]:
        _check_schedules(runs[0], run)
    for run in runs[1:]:
        _check_data(runs[0], run)
    for run in runs:
        run.check_files()
    for candidate in candidates:
        _check_beginning(candidate)
        _check_repeated(candidate)
    if same_seeds:
        _check_seeds(candidates)


def listed_samples(run: RunDirectory) -> Listing:
    """Returns what manifest.csv of a run says of every image.

    Raises:
        RunError: the file is not there, or is not one that a run begins with.
    """
    return read_listing(run.path / "manifest.csv")


def training_seconds(run: RunDirectory) -> float:
    """Returns the time of all epochs of a training run.

    Raises:
        RunError: the file that holds it is not there, or is damaged.
    """
    lines = run.read_journal("timing.jsonl", numbers=("seconds",))
    if not lines:
        raise RunError(f"{run.path / 'timing.jsonl'} is missing or empty.", fix="Copy the run again.")
    return sum(float(line["seconds"]) for line in lines)


def _nameless(architecture: Architecture) -> Architecture:
    """Returns an architecture without what does not change the network."""
    return replace(architecture, name="", provenance={}) if isinstance(architecture, Genotype) else architecture


def _unique_names(runs: Sequence[RunDirectory]) -> list[str]:
    """Returns the names of networks that differ; where some share one, as much of their paths as tells them apart."""
    plain = [str(run.facts["network"]) for run in runs]
    shared = {name for name, count in Counter(plain).items() if count > 1}
    names, depth = plain, 0
    while len(set(names)) < len(names):
        depth += 1
        # With its backslashes doubled, a path is shown as no other is.
        ends = [printable("/".join(run.path.resolve().parts[-depth:]).replace("\\", "\\\\")) for run in runs]
        names = [f"{name} ({end})" if name in shared else name for name, end in zip(plain, ends, strict=True)]
    return names


def _check_recipes(first: tuple[RunDirectory, Recipe], other: tuple[RunDirectory, Recipe]) -> None:
    for field, value, changed in differences(first[1], other[1], without=MAY_DIFFER):
        if not re.match(r"train\.model\b", field):
            raise RunError(
                f"{field} is {value} in {first[0].path}, but {changed} in {other[0].path}.",
                fix="Compare runs that were trained by one recipe.",
            )


def _check_schedules(first: RunDirectory, other: RunDirectory) -> None:
    """Refuses runs that came to the same recipe in other ways, such as one that was made longer in the middle.

    Its epochs before had the learning rates of a shorter run, and batch norms see the parts of a batch alone.
    """
    one, two = _schedule(first), _schedule(other)
    for field in {**one, **two}:
        ways = one.get(field, ()), two.get(field, ())
        if ways[0] != ways[1]:
            said = [
                f"{', then '.join(way) or 'the same from the start'} in {run.path}"
                for way, run in zip(ways, (first, other), strict=True)
            ]
            raise RunError(
                f"{field} was {said[0]}, but {said[1]}: these are not the same training.",
                fix="Compare runs whose epochs and parts of a batch were changed alike, or train one of them anew.",
            )


def _schedule(run: RunDirectory) -> dict[str, tuple[str, ...]]:
    """Returns by field how its value changed after the first step of a run."""
    changed: dict[str, tuple[str, ...]] = {}
    for change in run.facts.get("changes", ()):
        field, place = change["field"], change["position"]
        if place is not None and field.endswith((".epochs", ".accumulate")):
            at = f"after epoch {place[0]}" + (f", step {place[-1]}" if place[-1] else "")
            changed[field] = (*changed.get(field, ()), f"{change['before']} -> {change['after']} {at}")
    return changed


def _check_data(first: RunDirectory, other: RunDirectory) -> None:
    one, two = listed_samples(first), listed_samples(other)
    fix = "Compare runs on the same images in the same splits, as the same splits.csv makes them."
    for name in {**one, **two}:
        domain, key = name
        for run, without, listed in ((first, other, two), (other, first, one)):
            if name not in listed:
                raise RunError(f"{key} of {domain} is among the images of {run.path}, not of {without.path}.", fix=fix)
        others = about(two[name])
        for field, value in about(one[name]).items():
            if value != others[field]:
                raise RunError(
                    f"The {field} of {key} of {domain} is '{value}' in {first.path}, but '{others[field]}' in "
                    f"{other.path}.",
                    fix=fix,
                )
    prints = [run.facts["data_fingerprint"] for run in (first, other)]
    if prints[0] != prints[1]:
        words = "file had other contents", "files had other contents"
        reason = counted_names(changed_files(one, two), one=words[0], several=words[1])
        raise RunError(
            f"The data of {first.path} and {other.path} differ ({prints[0]} and {prints[1]}): "
            f"{reason or 'they were read by other rules'}.",
            fix="Compare runs that were trained on the same files.",
        )


def _check_beginning(candidate: Candidate) -> None:
    """Refuses seeds of one network of which some began from other weights than others, or from none."""
    first, *others = candidate.runs
    for run in others:
        one, two = (of.facts.get("weights_fingerprint") or "not given" for of in (first, run))
        if one != two:
            raise RunError(
                f"The weights that {candidate.name} began from have fingerprint {one} in {first.path}, but {two} in "
                f"{run.path}.",
                fix="Begin all seeds of a network from the same file of weights, or all from scratch.",
            )


def _check_repeated(candidate: Candidate) -> None:
    """Refuses two runs of one network with one seed."""
    numbered = [*zip(candidate.seeds, candidate.runs, strict=True)]
    for (seed, one), (other_seed, other) in pairwise(numbered):
        if seed == other_seed:
            raise RunError(
                f"{one.path} and {other.path} train the same network with the same seed {seed}.",
                fix="Leave one of them out.",
            )


def _check_seeds(candidates: Sequence[Candidate]) -> None:
    first, *others = candidates
    for other in others:
        if sorted(first.seeds) != sorted(other.seeds):
            one, two = (", ".join(map(str, sorted(candidate.seeds))) for candidate in (first, other))
            raise RunError(
                f"The seeds of {first.name} are {one} ({first.runs[0].path}), but those of {other.name} are {two} "
                f"({other.runs[0].path}).",
                fix="Train every network with the same seeds, or leave out the runs of the others.",
            )
