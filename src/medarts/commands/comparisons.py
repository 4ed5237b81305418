"""The commands compare, benchmark and generalize."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from medarts.comparison.candidates import Group, check_comparable, group_runs, read_files
from medarts.comparison.compare import Comparison, reference_of
from medarts.comparison.compare import compare as compare_groups
from medarts.comparison.costs import costs_of_groups
from medarts.config.study import Study, load_study
from medarts.data.manifest import Part, part_named
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError, did_you_mean
from medarts.evaluation.evaluate import current_scores
from medarts.reporting.comparison import write_comparison
from medarts.reporting.generalization import write_generalization
from medarts.study.benchmark import available_runs
from medarts.study.benchmark import benchmark as run_study
from medarts.study.generalize import Generalization
from medarts.study.generalize import generalize as generalize_runs
from medarts.study.jobs import Layout
from medarts.system.console import progress_bar
from medarts.system.files import check_writable


def compare(
    paths: Sequence[Path], *, out: Path, reference: str | None = None, split: str = "test"
) -> tuple[Comparison, Path]:
    """Compares training runs with one recipe, one split and the same seeds, and writes a page.

    Args:
        paths: the runs; runs of one architecture with several seeds are one network.
        out: folder of the comparison, new or of an earlier one.
        reference: name of the network with which the others are compared. Default: that of the first run.
        split: train, val, test or all.

    Returns:
        The comparison, and its page.

    Raises:
        RunError: the runs may not be compared, or the folder holds something else.
        MedartsError: a run cannot be evaluated, or a network not be measured.
    """
    part = part_named(split)
    _check_folder(out)
    group = Group(group_runs(paths))
    reference_of(group, reference)
    check_comparable(group.candidates)
    runs = [run for candidate in group.candidates for run in candidate.runs]
    scores: dict[RunDirectory, pd.DataFrame] = {}
    for run in runs:
        read_files(run)
    with progress_bar("scores", len(runs)) as bar:
        for run in runs:
            scores[run] = current_scores(run, part)
            bar.advance()
    name = ", ".join(dict.fromkeys(source.domain for source in group.candidates[0].recipes[0].data.sources))
    found = compare_groups(
        {name: group},
        title=f"Comparison on {name}",
        scores=scores,
        costs=costs_of_groups([group.candidates]),
        references={} if reference is None else {name: reference},
        split=part,
    )
    found.write(out)
    return found, write_comparison(found, out)


def compare_study(
    study: Path, *, out: Path | None = None, reference: str | None = None, split: str = "test"
) -> tuple[Comparison, Path]:
    """Compares the finished runs of a study, complete or not, and writes a page.

    A run that cannot be read is listed as missing, with the reason, and the others are compared.

    Args:
        study: folder of the study.
        out: folder of the comparison, new or of an earlier one. Default: comparison/ in the study.
        reference: name of the network with which the others are compared, in groups that have it. Default: that of the
            study.
        split: train, val, test or all.

    Returns:
        The comparison, and its page.

    Raises:
        RunError: there is no study, none of its runs has finished or can be read, it has no such network, or ``out``
            holds something else.
        MedartsError: a network cannot be measured.
    """
    part = part_named(split)
    finished = available_runs(study)
    settings = load_study(Layout(study).study)
    if not any(group.candidates for group in finished.values()):
        raise RunError(f"No run of {study} has finished yet.", fix="Continue it; failures/ has the reason of failures.")
    if reference is not None and reference not in settings.names:
        raise RunError(f"{study} has no network '{reference}'.", fix=did_you_mean(reference, settings.names))
    folder = out or study / "comparison"
    _check_folder(folder)
    groups = {name: group.without_damaged(read_files) for name, group in finished.items()}
    for group in groups.values():
        if group.candidates:
            check_comparable(group.candidates, same_seeds=not group.missing)
    scores: dict[RunDirectory, pd.DataFrame] = {}
    groups = _with_scores(groups, part, scores)
    if not any(group.candidates for group in groups.values()):
        reason = next(run.reason for group in groups.values() for run in group.missing if run.reason)
        raise RunError(f"No finished run of {study} can be read. The first of them: {reason}", fix="Fix that first.")
    wanted = reference or settings.reference
    found = compare_groups(
        groups,
        title=f"Benchmark {study.resolve().name}",
        note=settings.note,
        scores=scores,
        costs=costs_of_groups([group.candidates for group in groups.values() if group.candidates]),
        references={
            name: wanted for name, group in groups.items() if wanted is not None and _is_planned(wanted, group)
        },
        controls=_sampled_like(settings),
        searches=repeated_searches(settings),
        split=part,
    )
    found.write(folder)
    return found, write_comparison(found, folder)


def benchmark(study: Study, out: Path, *, jobs: int = 1) -> tuple[Comparison, Path]:
    """Trains, scores and compares all networks of a study, and writes a page; see ``compare_study``.

    Args:
        study: the study.
        out: its folder, new or of an earlier call; finished runs are kept.
        jobs: trainings at once.

    Raises:
        MedartsError: see ``medarts.study.benchmark``.
    """
    run_study(study, out, jobs=jobs)
    return compare_study(out)


def generalize(study: Study, out: Path, *, jobs: int = 1) -> tuple[Generalization, Path]:
    """Trains all networks of a study, tests them on all of its data sets, and writes a page; see ``generalize_study``.

    Args:
        study: the study.
        out: its folder, that of its benchmark.
        jobs: trainings at once.

    Raises:
        MedartsError: see ``medarts.study.benchmark``.
    """
    run_study(study, out, jobs=jobs)
    return generalize_study(out)


def generalize_study(out: Path) -> tuple[Generalization, Path]:
    """Tests the networks of a study, as far as they are trained, on all of its data sets, and writes a page.

    Args:
        out: folder of the study.

    Returns:
        The result, and its page.

    Raises:
        MedartsError: see ``medarts.study.generalize``.
    """
    found = generalize_runs(out)
    folder = out / "generalization"
    found.write(folder)
    return found, write_generalization(found, folder)


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


def _sampled_like(study: Study) -> dict[str, tuple[str, ...]]:
    """Returns by network the names of the random networks that the study samples like it."""
    sampled: dict[str, tuple[str, ...]] = {}
    for entry in study.networks:
        if entry.like is not None:
            sampled[entry.like] = (*sampled.get(entry.like, ()), *entry.names)
    return sampled


def repeated_searches(study: Study) -> dict[str, tuple[str, ...]]:
    """Returns the networks of searches that differ in their seed alone, as ``changes: [seed=1]`` makes them."""
    found: dict[tuple[object, ...], tuple[str, ...]] = {}
    for entry in study.networks:
        if entry.searched_on is not None:
            changes = tuple(change for change in entry.changes if not change.startswith("seed="))
            alike = (entry.searched_on, entry.parameters, entry.init_channel, changes)
            found[alike] = (*found.get(alike, ()), entry.name)
    several = [names for names in found.values() if len(names) > 1]
    return {f"{len(names)} searches: {', '.join(names)}": names for names in several}


def _check_folder(out: Path) -> None:
    """Refuses a folder that cannot be written, or that holds other files than an earlier comparison."""
    check_writable(out)
    if out.is_dir() and any(out.iterdir()) and not (out / "comparison.json").exists():
        raise RunError(f"{out} already holds files.", fix="Give another --out.")


def _is_planned(network: str, group: Group) -> bool:
    """Whether a network belongs to a group, finished or not."""
    return network in {*(one.name for one in group.candidates), *(run.network for run in group.missing)}
