"""Every finished run of a study, scored on every data set of the study."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from medarts.comparison.candidates import Group
from medarts.config import SourceSettings
from medarts.config.study import Study
from medarts.data.manifest import Part
from medarts.data.opening import open_manifest
from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError, RunError
from medarts.evaluation.evaluate import current_scores
from medarts.system.console import progress_bar


class Untested(NamedTuple):
    """A finished run that could not be scored on a data set, and why."""

    group: str
    network: str
    seed: int
    dataset: str
    reason: str


@dataclass(frozen=True)
class _Target:
    """A data set to score on.

    Attributes:
        source: where it is.
        part: its test images; all of an external one, since nothing was trained on it.
        images: data set and name of these images; None where they cannot be listed.
        reason: why not.
    """

    source: SourceSettings
    part: Part
    images: frozenset[tuple[str, str]] | None
    reason: str = ""


def score_everything(study: Study, groups: Mapping[str, Group]) -> tuple[pd.DataFrame, list[Untested]]:
    """Scores every run on the test images of every data set, and on all images of the external ones.

    Current scores of a run are reused. All scores of a data set are of the same images.

    Args:
        groups: by name the groups of data sets, with their finished runs.

    Returns:
        The long table with the columns group, network and seed, and what could not be scored.
    """
    targets = [_target(study, source) for source in study.recipe.data.sources]
    runs = [
        (name, candidate, run, seed)
        for name, group in groups.items()
        for candidate in group.candidates
        for run, seed in zip(candidate.runs, candidate.seeds, strict=True)
    ]
    tables: list[pd.DataFrame] = []
    untested: list[Untested] = []
    with progress_bar("tests", len(targets) * len(runs)) as bar:
        for group, candidate, run, seed in runs:
            for target in targets:
                try:
                    table = _score(run, target)
                    tables.append(table.assign(group=group, network=candidate.name, seed=seed))
                except MedartsError as error:
                    untested.append(Untested(group, candidate.name, seed, target.source.domain, reason=str(error)))
                bar.advance()
    empty = pd.DataFrame(columns=["group", "network", "seed", "dataset"])
    return pd.concat(tables, ignore_index=True) if tables else empty, untested


def _target(study: Study, source: SourceSettings) -> _Target:
    part: Part = "all" if source.domain in study.external else "test"
    settings = study.recipe.data.model_copy(update={"sources": (source,)})
    try:
        samples = open_manifest(settings, needs=()).part(part).samples
    except MedartsError as error:
        return _Target(source, part, images=None, reason=str(error))
    return _Target(source, part, frozenset((sample.domain, sample.key) for sample in samples))


def _score(run: RunDirectory, target: _Target) -> pd.DataFrame:
    """Returns the scores of a run on a data set."""
    if target.images is None:
        raise RunError(target.reason, fix="")
    name = target.source.domain
    own = name in (source.domain for source in run.recipe.data.sources)
    table = current_scores(run, target.part, sources=None if own else (target.source,))
    table = table[table.dataset == name]
    if frozenset(zip(table.dataset, table.image, strict=True)) != target.images:
        raise RunError(
            f"The images of {name} that {run.path} is scored on are not those that the study now finds there.",
            fix="Restore the images and splits named in the manifest.csv of the run, or train it again.",
        )
    return table
