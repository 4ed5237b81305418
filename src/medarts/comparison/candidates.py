"""The networks of a comparison, each with its runs, and the checks of what may be compared."""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple, cast

from medarts.config import Recipe, apply_overrides, parse
from medarts.config.reading import differences
from medarts.engine.directory import RunDirectory
from medarts.engine.listing import Listing, about, changed_files, counted_names, read_listing
from medarts.errors import MedartsError, RunError
from medarts.models import Architecture, initial_weights
from medarts.models.ensemble import Ensemble
from medarts.models.pruned import Pruned
from medarts.network.structure import Structure
from medarts.pruning.record import FILE as PRUNING
from medarts.pruning.record import PruningRecord, read_record
from medarts.registry import Settings
from medarts.spaces.genotype import RANDOM, Genotype, load_genotype, zoo
from medarts.system.console import warn
from medarts.system.files import exists
from medarts.system.names import printable
from medarts.training.trained import architecture_of

Kind = Literal["searched", "random", "published", "baseline", "pruned"]
"""Where a network comes from."""

MAY_DIFFER = ("seed", "space", "search", "derive", "prune", "budget")
"""Sections of a recipe, beside ``train.model``, that decide neither training nor scores: the network and its seed."""


_SEARCH = ("recipe_fingerprint_without_seed", "data_fingerprint", "stage", "epoch")
"""What the provenance of a genotype says of its search, beside the seed."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One network, trained once a seed.

    Attributes:
        name: unique in a comparison.
        runs: its training runs by seed, at least one.
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

    @cached_property
    def records(self) -> tuple[PruningRecord, ...]:
        """What was done by the pruning that every run came of; empty for networks that were not pruned."""
        return tuple(read_record(run) for run in self.runs if _was_pruned(run))

    @property
    def began_from(self) -> str | None:
        """What the runs began from, a file or a trained network, also to prune it; None for training from scratch."""
        if self.records:
            return f"{self.records[0].network} ({self.records[0].weights})"
        if "initial" in (facts := self.runs[0].facts):
            return f"{facts['initial']['network']} ({facts['weights_fingerprint']})"
        weights = initial_weights(self.architecture)
        return None if weights is None else weights.name

    @cached_property
    def kind(self) -> Kind:
        """Where the network comes from, by the provenance of its genotype."""
        network = self.architecture.base if isinstance(self.architecture, Ensemble) else self.architecture
        if isinstance(network, Pruned):
            return "pruned"
        if not isinstance(network, Genotype):
            return "baseline"
        if network.provenance.get("source") == RANDOM:
            return "random"
        published = any(load_genotype(name).provenance == network.provenance for name in zoo())
        return "published" if published else "searched"


class Missing(NamedTuple):
    """A planned run that cannot be compared.

    Attributes:
        network: its network.
        seed: its seed.
        state: what became of it.
        reason: why; empty where unknown.
    """

    network: str
    seed: int
    state: Literal["failed", "unfinished", "not started"]
    reason: str


class Group(NamedTuple):
    """The networks trained and tested on the same data sets.

    Attributes:
        candidates: the networks with their finished runs.
        missing: all other planned runs.
    """

    candidates: tuple[Candidate, ...]
    missing: tuple[Missing, ...] = ()

    def without_damaged(self, read: Callable[[RunDirectory], None]) -> "Group":
        """Returns the group with the runs that ``read`` cannot read among the missing ones."""
        kept: list[Candidate] = []
        failed: list[Missing] = []
        for candidate in self.candidates:
            runs = []
            for run, seed in zip(candidate.runs, candidate.seeds, strict=True):
                try:
                    read(run)
                except MedartsError as error:
                    failed.append(Missing(candidate.name, seed, "failed", reason=str(error)))
                else:
                    runs.append(run)
            if runs:
                kept.append(Candidate(candidate.name, tuple(runs)))
        return Group(tuple(kept), (*self.missing, *failed))


def read_files(run: RunDirectory) -> None:
    """Reads all files that a comparison takes from a run, except for its scores."""
    run.check_files()
    architecture_of(run)
    listed_samples(run)
    training_seconds(run)


def group_runs(paths: Sequence[Path]) -> tuple[Candidate, ...]:
    """Groups training runs by architecture: runs of one architecture are one network with several seeds.

    Where different networks share a name, as U-Nets of two widths do, the end of the path of their first run is added.
    Fine-tuning of other weights makes another network, unless these weights were pruned alike: then they are seeds.

    Returns:
        The candidates, in the order of their first runs; the runs of each by their seeds.

    Raises:
        RunError: a path is no training run, one is given twice, or there is none.
    """
    if not paths:
        raise RunError("There is no run to compare.", fix="Give training runs.")
    resolved_paths = [path.resolve() for path in paths]
    for path, resolved in zip(paths, resolved_paths, strict=True):
        if resolved_paths.count(resolved) > 1:
            raise RunError(f"The run {path} is given twice.", fix="Give every run once.")
    groups: list[tuple[tuple[Architecture, str | None], list[RunDirectory]]] = []
    opened = [RunDirectory.open(path, kind="train") for path in paths]
    alike = _pruned_alike(opened)
    for run in opened:
        # A network that was fine-tuned is another than the same one trained from scratch.
        began = run.facts["weights_fingerprint"] if _was_fine_tuned(run) else None
        network = _nameless(architecture_of(run)), next((min(of) for of in alike if began in of), began)
        members = next((runs for known, runs in groups if known == network), None)
        if members is None:
            groups.append((network, [run]))
        else:
            members.append(run)
    names = _unique_names([runs[0] for _, runs in groups])
    return tuple(
        Candidate(name, tuple(sorted(runs, key=lambda run: run.recipe.seed)))
        for name, (_, runs) in zip(names, groups, strict=True)
    )


def check_comparable(
    candidates: Sequence[Candidate], *, same_seeds: bool = True, own: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Refuses runs with different recipes, images or splits, and two runs of one network with one seed.

    Args:
        candidates: the networks.
        same_seeds: whether all networks need the same seeds.
        own: by network the changes of the recipe that its trainings alone have, as key.path=value: they have to have
            them, and are compared in all else.
    """
    runs = [run for candidate in candidates for run in candidate.runs]
    for run in runs:
        if not run.facts["finished"]:
            command = f"medarts train --resume {shlex.quote(str(run.path))}"
            raise RunError(f"{run.path} has not finished.", fix=f"Continue it: {command}.")
    _check_trainings(
        [
            _Trained(run, recipe, _own_fields(run, recipe, (own or {}).get(candidate.name, ())))
            for candidate in candidates
            for run, recipe in zip(candidate.runs, candidate.recipes, strict=True)
        ]
    )
    for run in runs[1:]:
        _check_data(runs[0], run)
    for run in runs:
        run.check_files()
    for candidate in candidates:
        _check_beginning(candidate)
        _check_repeated(candidate)
    if same_seeds:
        _check_seeds(candidates)


def repeats_by_provenance(candidates: Sequence[Candidate]) -> list[tuple[str, ...]]:
    """Returns the names of networks whose searches differ in their seed alone, by the provenance of their genotypes.

    These searches had one recipe but for the seed, the same data, and were derived after as many epochs; settings of
    their networks, such as the number of channels, are equal. A genotype whose provenance does not say all of this is
    left out.
    """
    found: dict[tuple[object, ...], dict[object, str]] = {}
    repeated: set[tuple[object, ...]] = set()
    for candidate in candidates:
        if isinstance(candidate.architecture, Genotype):
            genotype, provenance = candidate.architecture, candidate.architecture.provenance
            if provenance.keys() >= {"seed", *_SEARCH}:
                search = tuple(provenance[name] for name in _SEARCH)
                alike = (genotype.space, *sorted(genotype.settings.items()), *search)
                names = found.setdefault(alike, {})
                if provenance["seed"] in names:  # one of them was changed by hand, or made on another machine
                    repeated.add(alike)
                names[provenance["seed"]] = candidate.name
    return [tuple(names.values()) for alike, names in found.items() if len(names) > 1 and alike not in repeated]


def listed_samples(run: RunDirectory) -> Listing:
    """Returns the images of a run by manifest.csv."""
    return read_listing(run.path / "manifest.csv")


def training_seconds(run: RunDirectory) -> float:
    """Returns the time of all epochs of a training run; of one that was pruned also of all cuts and trainings before.

    The training of the network that was pruned is not among them.
    """
    lines = run.read_journal("timing.jsonl", numbers=("seconds",))
    if not lines:
        raise RunError(f"{run.path / 'timing.jsonl'} is missing or empty.", fix="Copy the run again.")
    return sum(float(line["seconds"]) for line in lines) + (
        read_record(run).seconds_before if _was_pruned(run) else 0.0
    )


def _nameless(architecture: Architecture) -> Architecture:
    """Returns an architecture without what does not change the network.

    Pruned ones are known by all that was asked for: other seeds have other channels left.
    """
    if isinstance(architecture, Pruned):
        structure = Structure() if architecture.history else architecture.structure
        base = cast(Genotype | Settings, _nameless(architecture.base))
        return replace(architecture, name="", base=base, structure=structure)
    if isinstance(architecture, Ensemble):
        return replace(architecture, base=cast(Genotype | Settings, _nameless(architecture.base)))
    return replace(architecture, name="", provenance={}) if isinstance(architecture, Genotype) else architecture


def _was_pruned(run: RunDirectory) -> bool:
    """Whether a run is the end of a pruning, and began with what that has left of the network."""
    return "initial" in run.facts and exists(run.path / PRUNING)


def _was_fine_tuned(run: RunDirectory) -> bool:
    """Whether a run began with trained weights, and is not the end of a pruning."""
    return "initial" in run.facts and not _was_pruned(run)


def _pruned_alike(runs: Sequence[RunDirectory]) -> list[set[str]]:
    """Returns the fingerprints of weights that are one network's at several seeds, as they were pruned alike."""
    pruned: list[tuple[Architecture, set[str]]] = []
    for run in filter(_was_pruned, runs):
        network, weights = _nameless(architecture_of(run)), read_record(run).weights
        known = next((prints for one, prints in pruned if one == network), None)
        if known is None:
            pruned.append((network, {weights}))
        else:
            known.add(weights)
    joined: list[set[str]] = []
    for _, prints in pruned:
        joined = [*(of for of in joined if not of & prints), prints.union(*(of for of in joined if of & prints))]
    return joined


def _unique_names(runs: Sequence[RunDirectory]) -> list[str]:
    """Returns unique names; networks that share one get the shortest ends of their paths that differ."""
    plain = [str(run.facts["network"]) for run in runs]
    shared = {name for name, count in Counter(plain).items() if count > 1}
    names, depth = plain, 0
    while len(set(names)) < len(names):
        depth += 1
        # With its backslashes doubled, a path is shown as no other is.
        ends = [printable("/".join(run.path.resolve().parts[-depth:]).replace("\\", "\\\\")) for run in runs]
        names = [f"{name} ({end})" if name in shared else name for name, end in zip(plain, ends, strict=True)]
    return names


class _Trained(NamedTuple):
    """A run, its recipe, and the fields of that which its network has for itself."""

    run: RunDirectory
    recipe: Recipe
    own: frozenset[str] = frozenset()


def _own_fields(run: RunDirectory, recipe: Recipe, changes: Sequence[str]) -> frozenset[str]:
    """Returns the fields that changes set, after looking that the recipe of a run has their values."""
    changed = parse(apply_overrides(recipe.model_dump(mode="json"), changes)) if changes else recipe
    for field, value, wanted in differences(recipe, changed):
        raise RunError(
            f"{field} is {value} in {run.path}, but {wanted} in its study.",
            fix="Undo that change of the study, or train the network again.",
        )
    return frozenset(change.partition("=")[0] for change in changes)


def _check_trainings(runs: Sequence[_Trained]) -> None:
    """Refuses different trainings, wherever in the order of the runs they stand."""
    # One without fields of its own comes first, so that no field is left out for all.
    ordered = sorted(runs, key=lambda one: bool(one.own))
    whole, pruned = ([one for one in ordered if _was_pruned(one.run) is after_cut] for after_cut in (False, True))
    for one in whole[1:]:
        _check_recipes(whole[0], one, may_differ=r"train\.model\b")
    # Fine-tuning after a cut is not the training of the network that was cut: it has epochs of its own.
    base = (whole or pruned)[0]
    for one in pruned:
        _check_recipes(base, one, may_differ=r"train\.(model|epochs|finetune_lr)\b")
    for alike in (whole, pruned):
        for one in alike[1:]:
            _check_schedules(alike[0].run, one.run)
    _tell_splits([one.run for one in runs])


def _check_recipes(first: _Trained, other: _Trained, *, may_differ: str) -> None:
    for field, value, changed in differences(first.recipe, other.recipe, without=MAY_DIFFER):
        if not re.match(may_differ, field) and field not in first.own | other.own:
            raise RunError(
                f"{field} is {value} in {first.run.path}, but {changed} in {other.run.path}.",
                fix="Compare runs that were trained with one recipe.",
            )


def _check_schedules(first: RunDirectory, other: RunDirectory) -> None:
    """Refuses runs whose recipe changed on the way, such as one that was extended, unless the others did so, too.

    Its first epochs had the learning rates of a shorter run; after other ``accumulate``, batch norms saw other batches.
    """
    one, two = _schedule(first), _schedule(other)
    for field in {**one, **two}:
        ways = one.get(field, ()), two.get(field, ())
        if ways[0] != ways[1]:
            ways_of_runs = [
                f"{', then '.join(way) or 'unchanged'} in {run.path}"
                for way, run in zip(ways, (first, other), strict=True)
            ]
            raise RunError(
                f"{field} was {ways_of_runs[0]}, but {ways_of_runs[1]}: these are different trainings.",
                fix="Compare runs whose epochs and accumulate changed alike, or train one of them again.",
            )


def _tell_splits(runs: Sequence[RunDirectory]) -> None:
    """Warns where memory ran out in some of the trainings, whose batch norms saw smaller parts from then on."""
    split = [str(run.path) for run in runs if any(one["of"] == "training" for one in run.facts.get("splits", ()))]
    if split and len(split) < len(runs):
        warn(
            f"Memory ran out in {', '.join(split)}: batches were in more parts from then on than in others, so "
            "batch norms saw other batches."
        )


def _schedule(run: RunDirectory) -> dict[str, tuple[str, ...]]:
    """Returns by field how its value changed after the first step of a run."""
    changed: dict[str, tuple[str, ...]] = {}
    for change in run.facts.get("changes", ()):
        field, position = change["field"], change["position"]
        if position is not None and field.endswith((".epochs", ".accumulate")):
            at = f"after epoch {position[0]}" + (f", step {position[-1]}" if position[-1] else "")
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
    """Refuses seeds of one network that began from different weights."""
    first, *others = candidate.runs
    if "initial" in first.facts:
        return  # a network of its own for every seed, see `group_runs`
    for run in others:
        one, two = (of.facts.get("weights_fingerprint") or "not given" for of in (first, run))
        if one != two:
            raise RunError(
                f"The initial weights of {candidate.name} have fingerprint {one} in {first.path}, but {two} in "
                f"{run.path}.",
                fix="Start all seeds of a network from the same weights, or all from scratch.",
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
