"""Every finished run of a study, scored on every data set of the study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medarts.comparison.candidates import Candidate
from medarts.comparison.scored import AnyScores, scored_images, scores_of
from medarts.config import SourceSettings
from medarts.config.study import Study
from medarts.data.manifest import Part
from medarts.data.opening import open_manifest
from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError, RunError
from medarts.study.generalization import MissingTest
from medarts.study.measures import Scored, of_domain
from medarts.system.console import progress_bar


@dataclass(frozen=True)
class _Target:
    """A data set to score on.

    Attributes:
        source: where it is.
        part: its test images; all of an external one, since nothing was trained on it.
        images: domain and key of these images; None where they cannot be listed.
        reason: why not.
    """

    source: SourceSettings
    part: Part
    images: frozenset[tuple[str, str]] | None
    reason: str = ""


def score_everything(study: Study, groups: Mapping[str, Sequence[Candidate]]) -> tuple[list[Scored], list[MissingTest]]:
    """Scores every run on the test images of every data set, and on all images of the external ones.

    Scores that a run has are taken where they still hold, see ``scores_of``. All scores of a data set are of the same
    images.

    Args:
        study: names the data sets.
        groups: by group of data sets the networks with their finished runs.

    Returns:
        The scores, and what could not be scored.
    """
    targets = _targets(study)
    tested: list[Scored] = []
    missing: list[MissingTest] = []
    trained = [(group, candidate) for group, candidates in groups.items() for candidate in candidates]
    with progress_bar("tests", len(targets) * sum(len(candidate.runs) for _, candidate in trained)) as bar:
        for (group, candidate), target in ((one, target) for one in trained for target in targets):
            domain = target.source.domain
            found: dict[int, AnyScores] = {}
            for run, seed in zip(candidate.runs, candidate.seeds, strict=True):
                try:
                    found[seed] = _score(run, target)
                except MedartsError as error:
                    missing.append(MissingTest(group, candidate.name, seed, domain, reason=str(error)))
                bar.advance()
            if found:
                tested.append(Scored(group, candidate.name, domain, tuple(found.values()), tuple(found)))
    return tested, missing


def _targets(study: Study) -> list[_Target]:
    targets = []
    for source in study.recipe.data.sources:
        part: Part = "all" if source.domain in study.external else "test"
        settings = study.recipe.data.model_copy(update={"sources": (source,)})
        try:
            samples = open_manifest(settings, needs=()).part(part).samples
        except MedartsError as error:
            targets.append(_Target(source, part, images=None, reason=str(error)))
        else:
            images = frozenset((sample.domain, sample.key) for sample in samples)
            targets.append(_Target(source, part, images))
    return targets


def _score(run: RunDirectory, target: _Target) -> AnyScores:
    """Returns the scores of a run on a data set.

    Raises:
        MedartsError: the data cannot be read, do not fit the network, or have changed since the run was trained.
    """
    if target.images is None:
        raise RunError(target.reason, fix="")
    domain = target.source.domain
    if domain in (source.domain for source in run.recipe.data.sources):
        scores = of_domain(scores_of(run, target.part), domain)
    else:
        scores = scores_of(run, target.part, sources=(target.source,))
    if scored_images(scores) != target.images:
        raise RunError(
            f"The images of {domain} that {run.path} is scored on are not those that the study now finds there.",
            fix="Restore the images and splits named in the manifest.csv of the run, or train it again.",
        )
    return scores
