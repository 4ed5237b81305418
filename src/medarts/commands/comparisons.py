"""What compare, benchmark and generalize do."""

from collections.abc import Sequence
from pathlib import Path

from medarts.comparison.candidates import group_runs
from medarts.comparison.compare import compare as compare_candidates
from medarts.comparison.result import Comparison
from medarts.data.manifest import part_named
from medarts.errors import RunError
from medarts.recipe.study import Study, load_study
from medarts.reporting.comparison import write_comparisons
from medarts.reporting.generalization import write_generalization
from medarts.study.benchmark import benchmark as run_study
from medarts.study.benchmark import what_is_there
from medarts.study.generalization import Generalization
from medarts.study.generalize import generalize as generalize_study
from medarts.study.layout import Layout


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
    if out.is_dir() and any(out.iterdir()) and not (out / "comparison.json").is_file():
        raise RunError(f"{out} already holds files.", fix="Give another --out.")
    comparison = compare_candidates(group_runs(paths), reference=reference, split=part)
    comparison.write(out)
    name = ", ".join(comparison.domains)
    return comparison, write_comparisons({name: out}, out / "report.html", title=f"Comparison on {name}")


def compare_study(out: Path) -> tuple[dict[str, Comparison], Path]:
    """Compares what there is of a study, finished or not, and writes its page.

    Args:
        out: folder of the study.

    Returns:
        The comparisons by group of data sets, without groups that have no finished run, and the page.

    Raises:
        RunError: there is no study, or none of its runs has finished.
        MedartsError: see ``medarts.comparison.compare``.
    """
    layout = Layout(out)
    there = what_is_there(out)
    study = load_study(layout.study)
    if not any(group.candidates for group in there.values()):
        raise RunError(f"No run of {out} has finished yet.", fix="Go on with it; failures/ says what failed.")
    comparisons = {}
    for name, group in there.items():
        if group.candidates:
            known = {candidate.name for candidate in group.candidates}
            comparisons[name] = compare_candidates(
                group.candidates,
                reference=study.reference if study.reference in known else None,
                missing=group.missing,
            )
            comparisons[name].write(layout.comparison(name))
    folders = {name: layout.comparison(name) for name in comparisons}
    return comparisons, write_comparisons(folders, out / "report.html", title=f"Benchmark {out.name}", note=study.note)


def benchmark(study: Study, out: Path, *, jobs: int = 1) -> tuple[dict[str, Comparison], Path]:
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
    """Trains all networks of a study, tests them on all of its data sets, and writes a page.

    Args:
        study: the study.
        out: its folder, that of its benchmark.
        jobs: trainings at once.

    Returns:
        What was found, and the page.

    Raises:
        MedartsError: see ``medarts.study.generalize``.
    """
    found = generalize_study(study, out, jobs=jobs)
    return found, write_generalization(found, out / "generalization.html", title=f"Generalisation in {out.name}")
