"""What compare, benchmark and generalize do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medarts.comparison.candidates import check_comparable, group_runs
from medarts.comparison.compare import compare as compare_candidates
from medarts.comparison.costs import costs_of_groups
from medarts.comparison.readable import read_files, readable
from medarts.comparison.result import Comparison, Missing
from medarts.comparison.scored import AnyScores, scores_of
from medarts.config.study import Study, load_study
from medarts.data.manifest import Part, part_named
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError, did_you_mean
from medarts.reporting.comparison import write_comparisons
from medarts.reporting.generalization import write_generalization
from medarts.study.benchmark import GroupRuns, what_is_there
from medarts.study.benchmark import benchmark as run_study
from medarts.study.generalization import Generalization
from medarts.study.generalize import generalize as generalize_runs
from medarts.study.layout import Layout
from medarts.system.console import progress_bar
from medarts.system.files import check_writable


def compare(
    paths: Sequence[Path], *, out: Path, reference: str | None = None, split: str = "test"
) -> tuple[Comparison, Path]:
    """Compares training runs of one recipe, one split and the same seeds, and writes a page.

    Args:
        paths: the runs; those of one network with several seeds belong together.
        out: folder of the comparison, new or that of an earlier one.
        reference: name of the network with which the others are compared; that of the first run where None.
        split: train, val, test or all.

    Returns:
        The comparison, and its page.

    Raises:
        RunError: the runs may not be compared, or the folder holds something else.
        MedartsError: see ``medarts.comparison.compare``.
    """
    part = part_named(split)
    _check_folder(out, of_comparisons="comparison.json")
    comparison = compare_candidates(group_runs(paths), reference=reference, split=part)
    comparison.write(out)
    name = ", ".join(comparison.domains)
    return comparison, write_comparisons({name: out}, out / "report.html", title=f"Comparison on {name}")


@dataclass(frozen=True)
class StudyComparison:
    """What there is of a study.

    Attributes:
        comparisons: by group of data sets.
        without_runs: by group the runs of those groups of which none has finished.
        failures: folder that holds the reasons of failures.
        page: the page.
    """

    comparisons: Mapping[str, Comparison]
    without_runs: Mapping[str, tuple[Missing, ...]]
    failures: Path
    page: Path

    @property
    def is_whole(self) -> bool:
        """Whether no run is missing."""
        return not self.without_runs and not any(one.missing for one in self.comparisons.values())


def compare_study(
    study: Path, *, out: Path | None = None, reference: str | None = None, split: str = "test"
) -> StudyComparison:
    """Compares what there is of a study, finished or not, and writes its page.

    Costs are measured once for all groups of data sets. A run that cannot be read is missing, with the reason, and the
    others are compared.

    Args:
        study: folder of the study.
        out: where comparisons and page are written, new or with those of an earlier call; the folder of the study
            where None.
        reference: name of the network with which the others are compared, in groups that have it; that of the study
            where None.
        split: train, val, test or all.

    Raises:
        RunError: there is no study, none of its runs has finished or none can be read, it has no such network, or
            ``out`` holds something else.
        MedartsError: see ``medarts.comparison.compare``.
    """
    part = part_named(split)
    finished = what_is_there(study)
    settings = load_study(Layout(study).study)
    layout = Layout(out or study)
    if not any(group.candidates for group in finished.values()):
        raise RunError(f"No run of {study} has finished yet.", fix="Go on with it; failures/ says what failed.")
    if reference is not None and reference not in settings.names:
        raise RunError(f"{study} has no network '{reference}'.", fix=did_you_mean(reference, settings.names))
    if out is not None:
        _check_folder(out, of_comparisons="comparisons")
    check_writable(layout.out)
    there, scores = _read(finished, part)
    begun = {name: group for name, group in there.items() if group.candidates}
    if not begun:
        reason = next(run.reason for group in there.values() for run in group.missing if run.reason)
        raise RunError(f"No finished run of {study} can be read. The first of them: {reason}", fix="Fix that first.")
    costs = costs_of_groups([group.candidates for group in begun.values()])
    comparisons = {}
    for (name, group), of_group in zip(begun.items(), costs, strict=True):
        comparisons[name] = compare_candidates(
            group.candidates,
            reference=_planned_in(group, reference or settings.reference),
            split=part,
            missing=group.missing,
            controls=_drawn_like(settings),
            scores=scores,
            costs=of_group,
        )
        comparisons[name].write(layout.comparison(name))
    without_runs = {name: group.missing for name, group in there.items() if not group.candidates}
    page = write_comparisons(
        {name: layout.comparison(name) for name in comparisons},
        layout.out / "report.html",
        title=f"Benchmark {study.resolve().name}",
        note=settings.note,
        without_runs=without_runs,
    )
    return StudyComparison(comparisons, without_runs, failures=study / "failures", page=page)


def _read(finished: Mapping[str, GroupRuns], split: Part) -> tuple[dict[str, GroupRuns], dict[RunDirectory, AnyScores]]:
    """Reads all runs of a study, what is quick first; those that cannot be read count as failed.

    Args:
        finished: what there is of it.
        split: the images that are scored.

    Returns:
        The groups with the runs that could be read, and the scores of these.

    Raises:
        RunError: runs of a group may not be compared.
    """
    groups = {name: _without_damaged(group, read_files) for name, group in finished.items()}
    for group in groups.values():
        if group.candidates:
            check_comparable(group.candidates, same_seeds=not group.missing)
    scores: dict[RunDirectory, AnyScores] = {}
    runs = [run for group in groups.values() for candidate in group.candidates for run in candidate.runs]
    with progress_bar("scores", len(runs)) as bar:

        def score(run: RunDirectory) -> None:
            bar.advance()
            scores[run] = scores_of(run, split)

        return {name: _without_damaged(group, score) for name, group in groups.items()}, scores


def _without_damaged(group: GroupRuns, read: Callable[[RunDirectory], None]) -> GroupRuns:
    """Returns a group without the runs that cannot be read, which are missing."""
    candidates, damaged = readable(group.candidates, read)
    return GroupRuns(candidates, (*group.missing, *damaged))


def _drawn_like(study: Study) -> dict[str, tuple[str, ...]]:
    """Returns by network the names of those that the study draws at random like it."""
    drawn: dict[str, tuple[str, ...]] = {}
    for entry in study.networks:
        if entry.like is not None:
            drawn[entry.like] = (*drawn.get(entry.like, ()), *entry.names)
    return drawn


def _check_folder(out: Path, *, of_comparisons: str) -> None:
    """Refuses a folder that cannot be written, or that holds files but none that an earlier comparison leaves."""
    check_writable(out)
    if out.is_dir() and any(out.iterdir()) and not (out / of_comparisons).exists():
        raise RunError(f"{out} already holds files.", fix="Give another --out.")


def _planned_in(group: GroupRuns, network: str | None) -> str | None:
    """Returns the network if it belongs to the group, whether or not it has finished there."""
    planned = [*(one.name for one in group.candidates), *(run.name for run in group.missing)]
    return network if network in planned else None


def benchmark(study: Study, out: Path, *, jobs: int = 1) -> StudyComparison:
    """Trains, scores and compares all networks of a study, and writes its page; see ``compare_study``.

    Args:
        study: the study.
        out: its folder, new or with what an earlier call has left, which is not done again.
        jobs: trainings at once.

    Raises:
        MedartsError: see ``medarts.study.benchmark``.
    """
    run_study(study, out, jobs=jobs)
    return compare_study(out)


def generalize(study: Study, out: Path, *, jobs: int = 1) -> tuple[Generalization, Path]:
    """Trains all networks of a study, and does what ``generalize_study`` does.

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
        What was found, and the page.

    Raises:
        MedartsError: see ``medarts.study.generalize``.
    """
    found = generalize_runs(out)
    return found, write_generalization(found, out / "generalization.html", title=f"Generalisation in {out.name}")
