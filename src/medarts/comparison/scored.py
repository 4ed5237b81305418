"""The scores of a run that takes part in a comparison: those that are there, or made anew where they no longer hold."""

from collections.abc import Sequence

from medarts.comparison.candidates import Candidate, listed_samples
from medarts.config import SourceSettings
from medarts.data.manifest import Part
from medarts.engine.directory import RunDirectory
from medarts.engine.listing import ImageName
from medarts.errors import RunError
from medarts.evaluation.evaluate import evaluate, fingerprints_now, scores_folder
from medarts.evaluation.findings import FindingScores
from medarts.evaluation.mask_scores import Scores
from medarts.system.console import progress_bar

AnyScores = Scores | FindingScores


def scores_of_all(candidates: Sequence[Candidate], split: Part) -> dict[RunDirectory, AnyScores]:
    """Returns the scores of all runs of some networks; see `scores_of`.

    Raises:
        MedartsError: those of a run cannot be had.
    """
    runs = [run for candidate in candidates for run in candidate.runs]
    found = {}
    with progress_bar("scores", len(runs)) as bar:
        for run in runs:
            found[run] = scores_of(run, split)
            bar.advance()
    return found


def scores_of(run: RunDirectory, split: Part, *, sources: tuple[SourceSettings, ...] | None = None) -> AnyScores:
    """Returns the scores of a run on the images of a split, from its folder where they still hold.

    They hold where they were made of the images, targets and weights that are there now; else, and where a file of them
    is damaged or half there, the run is evaluated again.

    Args:
        run: the training run.
        split: the split, or all images.
        sources: data sets that the run was not trained on; None takes its own.

    Raises:
        RunError: the run's own images of the split are no longer those that it was trained beside.
        MedartsError: see ``medarts.evaluation.evaluate``.
    """
    scores = _kept(run, split, sources) or evaluate(run.path, sources=sources, split=split)
    if sources is None:
        _check_listed(run, split, scored_images(scores))
    return scores


def scored_images(scores: AnyScores) -> frozenset[ImageName]:
    """Returns domain and key of the images that were scored."""
    if isinstance(scores, Scores):
        return frozenset((score.domain, score.key) for score in scores.images)
    return frozenset(zip(scores.predictions.domains, scores.predictions.keys, strict=True))


def _kept(run: RunDirectory, split: Part, sources: tuple[SourceSettings, ...] | None) -> AnyScores | None:
    """Returns the scores that a run has; None where they do not hold."""
    if not (run.path / "scores").is_dir():
        return None
    now = fingerprints_now(run, split, sources=sources)
    folder = scores_folder(run, split, now.images, sources=sources)
    if not folder.is_dir():
        return None
    try:
        of_findings = run.recipe.data.task == "classification"
        scores = FindingScores.read(folder) if of_findings else Scores.read(folder)
    except RunError:  # what wrote them was killed, or an older medarts
        return None
    return scores if scores.made_of == now else None


def _check_listed(run: RunDirectory, split: Part, scored: frozenset[ImageName]) -> None:
    """Refuses scores of other images than those that the manifest of the run lists."""
    listed = {name for name, about in listed_samples(run).items() if split in ("all", about["split"])}
    changed = sorted(scored ^ listed)
    if changed:
        domain, key = changed[0]
        raise RunError(
            f"{key} of {domain} has left or joined the split '{split}' since {run.path} began.",
            fix="Restore the images and splits named in its manifest.csv, or train it again.",
        )
