"""The scores of a run that takes part in a comparison: those that are there, or made anew where they no longer hold."""

from pathlib import Path

from medarts.comparison.candidates import ImageName, listed_samples
from medarts.data.manifest import Part
from medarts.errors import RunError
from medarts.evaluation.evaluate import evaluate
from medarts.evaluation.findings import FindingScores
from medarts.evaluation.scores import Scores
from medarts.run.checkpoint import WEIGHTS
from medarts.run.directory import RunDirectory


def scores_of(run: RunDirectory, split: Part) -> Scores | FindingScores:
    """Returns the scores of a run on its own images of a split, from ``scores/<split>`` where they still hold.

    They hold where they are not older than the best checkpoint, which may have been replaced by later epochs since,
    and are of the images that the run's manifest lists; else the run is evaluated again.

    Raises:
        RunError: the images of the split are no longer those that the run was trained beside.
        MedartsError: see ``medarts.evaluation.evaluate``.
    """
    listed = {name for name, about in listed_samples(run).items() if split in ("all", about["split"])}
    folder = run.path / "scores" / split
    if is_newer_than_best(run, folder / "scores.json"):
        of_findings = run.recipe.data.task == "classification"
        scores = FindingScores.read(folder) if of_findings else Scores.read(folder)
        if _scored(scores) == listed:
            return scores
    scores = evaluate(run.path, split=split)
    changed = sorted(_scored(scores) ^ listed)
    if changed:
        domain, key = changed[0]
        raise RunError(
            f"{key} of {domain} has left or joined the split '{split}' since {run.path} began.",
            fix="Restore the images and splits named in its manifest.csv, or train it again.",
        )
    return scores


def is_newer_than_best(run: RunDirectory, path: Path) -> bool:
    """Returns whether a file of scores is there and was written after the weights that it is about."""
    if not path.is_file():
        return False
    written = [weights.stat().st_mtime_ns for weights in run.checkpoints.glob(f"best-[0-9]*/{WEIGHTS}")]
    return path.stat().st_mtime_ns >= max(written, default=0)


def _scored(scores: Scores | FindingScores) -> set[ImageName]:
    if isinstance(scores, Scores):
        return {(score.domain, score.key) for score in scores.images}
    return set(zip(scores.predictions.domains, scores.predictions.keys, strict=True))
