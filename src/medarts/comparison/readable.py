"""The runs of a study that can be read: a damaged one is said to be missing, and the others are compared."""

from collections.abc import Callable, Sequence

from medarts.comparison.candidates import Candidate, listed_samples, training_seconds
from medarts.comparison.result import Missing
from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError
from medarts.training.trainer import architecture_of


def readable(
    candidates: Sequence[Candidate], read: Callable[[RunDirectory], None]
) -> tuple[tuple[Candidate, ...], tuple[Missing, ...]]:
    """Leaves out the runs that cannot be read, and the networks of which no run is left.

    Args:
        candidates: the networks.
        read: reads a run.

    Returns:
        The networks with the other runs, and those left out, each with the reason.
    """
    kept: list[Candidate] = []
    failed: list[Missing] = []
    for candidate in candidates:
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
    return tuple(kept), tuple(failed)


def read_files(run: RunDirectory) -> None:
    """Reads what a comparison takes from a run beside its scores.

    Raises:
        MedartsError: a file is not there or damaged.
    """
    run.check_files()
    architecture_of(run)
    listed_samples(run)
    training_seconds(run)
