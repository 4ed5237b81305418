"""Runs side by side: those that are named, or all of a study as far as they have finished."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from medarts.comparison.candidates import (
    Candidate,
    Group,
    check_comparable,
    group_runs,
    read_files,
    repeats_by_provenance,
)
from medarts.comparison.compare import Comparison, reference_of
from medarts.comparison.compare import compare as compare_groups
from medarts.comparison.costs import costs_of_groups
from medarts.comparison.design import Budget, Design, repeated
from medarts.config.study import Study, load_study
from medarts.data.choosing import sources_alike
from medarts.data.manifest import Part
from medarts.data.opening import open_manifest
from medarts.data.store import ImageStore
from medarts.engine.directory import RunDirectory
from medarts.engine.listing import ImageName, read_listing
from medarts.errors import MedartsError, RunError, did_you_mean
from medarts.evaluation.evaluate import current_scores, external_sets
from medarts.pool.result import compute_of
from medarts.study.benchmark import available_runs
from medarts.study.fitting import read_sized
from medarts.study.jobs import Layout, is_finished
from medarts.study.noise import read_noise
from medarts.system.console import progress_bar


def compare_runs(
    paths: Sequence[Path],
    *,
    reference: str | None = None,
    split: Part = "test",
    data: ImageStore | None = None,
    words: tuple[str, ...] = (),
) -> Comparison:
    """Compares training runs with one recipe, one split and the same seeds.

    Networks whose searches differ in their seed alone are compared one by one, and together as repeats of one method.

    Args:
        paths: the runs; runs of one architecture with several seeds are one network.
        reference: name of the network with which the others are compared. Default: that of the first run.
        split: the split, or all images.
        data: the images of runs that were started with arrays.
        words: other data sets to compare on: folders, or names in the recipe of the runs.
    """
    group = Group(group_runs(paths))
    reference_of(group, reference)
    check_comparable(group.candidates)
    recipe = group.candidates[0].recipes[0]
    sources = sources_alike(words, recipe.data) if words else None
    runs = [run for candidate in group.candidates for run in candidate.runs]
    scores: dict[RunDirectory, pd.DataFrame] = {}
    for run in runs:
        read_files(run)
    with progress_bar("scores", len(runs)) as bar:
        for run in runs:
            scores[run] = current_scores(run, split, sources=sources, data=data)
            bar.advance()
    external: tuple[str, ...] = ()
    if sources is not None:
        manifest = open_manifest(recipe.data.elsewhere(sources), needs=(), partly=True)
        seen = {name: cells for run in runs for name, cells in _listed(run)}
        external = external_sets(manifest, seen)
    domains = [source.domain for source in sources or recipe.data.sources]
    name = ", ".join(f"{domain} (external)" if domain in external else domain for domain in dict.fromkeys(domains))
    compared = compare_groups(
        {name: group},
        title=f"Comparison on {name}",
        scores=scores,
        costs=costs_of_groups([group.candidates]),
        references={} if reference is None else {name: reference},
        design=Design(methods=repeated(repeats_by_provenance(group.candidates))),
        split=split,
        data=data,
        sources=sources,
        external=external,
    )
    return replace(compared, about=compared.about | {"noise": _noise_of(group.candidates, compared, split)})


def _noise_of(candidates: Sequence[Candidate], compared: Comparison, split: Part) -> list[dict[str, Any]]:
    """Returns what two trainings of one network differ by in the main score, of the networks of which it is known."""
    found = []
    for candidate in candidates:
        known = (read_noise(run) for run in candidate.runs)
        for noise in (each for each in known if each is not None and each.split == split):
            of_score = next((one for one in noise.metrics if one.metric == compared.about["score"]), None)
            if of_score is not None:
                number = len(candidate.runs)
                largest = max((n for n in of_score.smallest if n <= number), default=1)
                about = {"network": candidate.name, "trainings": len(noise.seeds), "of_each": largest}
                found.append({**about, "smallest": of_score.smallest[largest]})
                break
    return found


def _listed(run: RunDirectory) -> Iterator[tuple[ImageName, dict[str, str]]]:
    """Yields the images that a run was trained beside, under names that those of other runs do not have."""
    for (domain, key), cells in read_listing(run.path / "manifest.csv").items():
        yield (f"{run.path}/{domain}", key), cells


def compare_study(study: Path, *, reference: str | None = None, split: Part = "test") -> Comparison:
    """Compares the finished runs of a study, complete or not.

    A run that cannot be read is listed as missing, with the reason, and the others are compared.

    Args:
        reference: name of the network with which the others are compared, in groups that have it. Default: that of the
            study.

    Raises:
        RunError: there is no study, none of its runs has finished or can be read, or it has no such network.
    """
    finished = available_runs(study)
    settings, layout = load_study(Layout(study).study, kept=True), Layout(study)
    if not any(group.candidates for group in finished.values()):
        raise RunError(f"No run of {study} has finished yet.", fix="Continue it; see failures/ for the reasons.")
    design = design_of(settings, layout)
    known = (*settings.names, *design.methods)
    if reference is not None and reference not in known:
        raise RunError(f"{study} has no network '{reference}'.", fix=did_you_mean(reference, known))
    groups = {name: group.without_damaged(read_files) for name, group in finished.items()}
    for group in groups.values():
        if group.candidates:
            check_comparable(group.candidates, same_seeds=not group.missing, own=design.own)
    scores: dict[RunDirectory, pd.DataFrame] = {}
    groups = _with_scores(groups, split, scores)
    if not any(group.candidates for group in groups.values()):
        reason = next(run.reason for group in groups.values() for run in group.missing if run.reason)
        raise RunError(f"No finished run of {study} can be read. The first of them: {reason}", fix="Fix that first.")
    wanted = reference or settings.reference
    return compare_groups(
        groups,
        title=f"Benchmark {study.resolve().name}",
        note=settings.note,
        scores=scores,
        costs=costs_of_groups([group.candidates for group in groups.values() if group.candidates]),
        references={
            name: wanted for name, group in groups.items() if wanted is not None and _is_planned(wanted, group, design)
        },
        design=design,
        split=split,
    )


def _with_scores(
    groups: Mapping[str, Group], split: Part, scores: dict[RunDirectory, pd.DataFrame]
) -> dict[str, Group]:
    """Adds the scores of all runs; returns the groups without the runs that have none."""
    runs = sum(len(candidate.runs) for group in groups.values() for candidate in group.candidates)
    with progress_bar("scores", runs) as bar:

        def score(run: RunDirectory) -> None:
            bar.advance()
            scores[run] = current_scores(run, split)

        return {name: group.without_damaged(score) for name, group in groups.items()}


def design_of(study: Study, layout: Layout) -> Design:
    """Returns what a study knows of its networks, those that are not trained yet included."""
    methods = {entry.name: entry.names for entry in study.networks if entry.is_several and entry.like is None}
    methods |= study.methods | repeated(repeated_searches(study))
    searched = {name for entry in study.networks if entry.searched_on is not None for name in entry.names}
    return Design(
        controls=_sampled_like(study) | _sampled_within_budget(study, methods),
        methods=methods,
        own={name: entry.train for entry in study.networks for name in entry.names if entry.train},
        search_seconds={
            name: seconds for name in searched if (seconds := _seconds_of(layout.search(name).run)) is not None
        },
        budget=_budget(study, layout),
    )


def _seconds_of(search: Path) -> float | None:
    """Returns how long a search took to choose; None where it has not finished, or cannot be read."""
    with suppress(MedartsError):
        if is_finished(search, scored=False):
            return compute_of(RunDirectory(search)).all_seconds
    return None


def _budget(study: Study, layout: Layout) -> Budget | None:
    """Returns the budget of a study and what its networks were measured to cost; None where it has none."""
    sized = read_sized(layout.sized) if study.recipe.budget.limited else None
    if sized is None:
        return None
    settings = study.recipe.budget.at(study.recipe.data.size)
    assert settings.size is not None
    amounts = {name: one.cost.amounts for name, one in sized.networks.items()}
    return Budget(sized.limits, settings.size, settings.threads, amounts)


def _sampled_like(study: Study) -> dict[str, tuple[str, ...]]:
    """Returns by network the names of the random networks that the study samples like it."""
    sampled: dict[str, tuple[str, ...]] = {}
    for entry in study.networks:
        if entry.like is not None:
            sampled[entry.like] = (*sampled.get(entry.like, ()), *entry.names)
    return sampled


def _sampled_within_budget(study: Study, methods: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Returns the random networks within the budget for every genotype that belongs to no method, as methods are
    compared with that of random networks."""
    if not study.recipe.budget.limited:
        return {}
    sampled = tuple(name for entry in study.networks if entry.random is not None for name in entry.names)
    of_methods = {name for names in methods.values() for name in names}
    alone = [entry.name for entry in study.networks if entry.is_genotype and not {*entry.names} & of_methods]
    return dict.fromkeys(alone, sampled) if sampled else {}


def repeated_searches(study: Study) -> list[tuple[str, ...]]:
    """Returns the networks of searches that differ in their seed alone, as ``changes: [seed=1]`` makes them."""
    found: dict[tuple[object, ...], tuple[str, ...]] = {}
    for entry in study.networks:
        if entry.searched_on is not None and not entry.is_several and entry.method is None:
            changes = tuple(change for change in entry.changes if not change.startswith("seed="))
            alike = (entry.searched_on, entry.parameters, entry.init_channel, changes, entry.train)
            found[alike] = (*found.get(alike, ()), entry.name)
    return [names for names in found.values() if len(names) > 1]


def _is_planned(wanted: str, group: Group, design: Design) -> bool:
    """Whether a network, or one of a method, belongs to a group, finished or not."""
    planned = [*(one.name for one in group.candidates), *(run.network for run in group.missing)]
    return bool(design.members(wanted, planned))
