"""The trainings of all folds of small data, and what they are together: a run whose network is their ensemble.

    folds/1/ ...   the training of each fold, a run as any other
    logs/          output of their processes
    failures/      reasons of those that failed

Beside these, the folder is the run of a training: its best weights are those of all networks, its metrics the means
over the folds, and its scores those of the images outside of what each network has seen.
"""

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medarts.config import SPLITS, Recipe
from medarts.data.manifest import Manifest
from medarts.data.opening import open_manifest, with_findings
from medarts.data.store import ways_of_reading
from medarts.engine import checkpoint
from medarts.engine.changes import changed_recipe, changes_on_the_way, check_places, go_on, with_its_threads
from medarts.engine.checkpoint import Checkpoint
from medarts.engine.device import environment, make_fabric, preserved_process_state
from medarts.engine.directory import SEARCHED, Record, RunDirectory, is_begun
from medarts.errors import RunError
from medarts.evaluation.calibrating import calibration_of
from medarts.evaluation.evaluate import current_scores
from medarts.evaluation.files import FILE
from medarts.evaluation.folds import main_scores
from medarts.evaluation.scores import Scores, names_of_images
from medarts.metrics import Metric, metrics_of
from medarts.models import Architecture
from medarts.models.ensemble import FILE as ENSEMBLE
from medarts.models.ensemble import Ensemble
from medarts.models.pruned import Pruned
from medarts.spaces.genotype import Genotype
from medarts.study.jobs import Job, RunPaths
from medarts.study.trainings import check_jobs, train_all, with_shared_threads
from medarts.system.files import write_whole
from medarts.system.place import refuse_several
from medarts.training.searched import SEEN, images_of_search, tested_patients, text_of
from medarts.training.trained import (
    architecture_of,
    checkpoint_of,
    folder_of_fold,
    folds_of,
    member_prefix,
)
from medarts.training.trainer import prepare_training, that_trains

_BESIDE = ("folds", "logs", "failures")


@preserved_process_state()
def train_folds(
    recipe: Recipe, architecture: Architecture, out: Path, *, jobs: int = 1, cluster: str | None = None
) -> RunDirectory:
    """Trains a network for every fold of the data, and makes one of them; the same call goes on where it was stopped.

    Args:
        recipe: of every training, with ``data.folds``.
        architecture: what is trained.
        out: folder of the run, new, empty, or of the same trainings.
        jobs: trainings that run in parallel.
        cluster: address of the cluster that trains them. Default: processes of this machine.

    Raises:
        MedartsError: recipe, network, data, device or folder do not fit; nothing was trained then.
        RunError: the training of a fold failed; the others are done, and the same call tries it again.
        InterruptedRunError: it was asked to stop; all is saved.
    """
    refuse_several("A training of folds")
    check_jobs(jobs)
    if isinstance(architecture, Pruned | Ensemble):
        raise RunError(
            f"{architecture.name} is trained already.", fix="Train a genotype or a baseline, or leave data.folds out."
        )
    if is_begun(out):
        _check_same(RunDirectory.open(out, kind="train"), recipe, architecture)
        return resume_folds(out, jobs=jobs, cluster=cluster)
    recipe = that_trains(with_shared_threads(recipe, jobs, cluster), architecture)
    with RunDirectory.reserved(out, "train", beside=_BESIDE):
        searched = images_of_search(architecture)
        manifest = open_manifest(recipe.data, needs=("test",))
        _check(recipe, architecture, manifest)
        run = _create(with_findings(recipe, manifest), architecture, out, manifest, searched=searched)
        _train(run, jobs, cluster)
    return run


@preserved_process_state()
def resume_folds(path: Path, changes: Iterable[str] = (), *, jobs: int = 1, cluster: str | None = None) -> RunDirectory:
    """Goes on with the trainings of all folds, or takes over what has been trained on since.

    Args:
        path: folder of the run.
        changes: changes of its recipe, as of any training that is resumed.
        jobs: trainings that run in parallel.
        cluster: address of the cluster that trains them.

    Raises:
        RunError, MedartsError: see `train_folds`; or the data have changed.
    """
    refuse_several("A training of folds")
    check_jobs(jobs)
    run = RunDirectory.open(path, kind="train")
    with run.at_work("train"):
        recipe, changed = changed_recipe(run, changes)
        check_places(run, recipe)
        recipe = with_its_threads(run, recipe, changed)
        manifest = open_manifest(recipe.data, needs=("test",))
        run.check_unchanged(manifest.fingerprint(), manifest=manifest.to_csv())
        now = environment(make_fabric(recipe.compute), recipe.compute)
        ways = ways_of_reading(manifest, overlap=recipe.data.overlap)
        go_on(run, recipe, changed, manifest=manifest.to_csv(), environment=now, ways=ways)
        _train(run, jobs, cluster)
    return run


def _check(recipe: Recipe, architecture: Architecture, manifest: Manifest) -> None:
    """Looks at everything that can be wrong with the training of any fold, and reads the images."""
    assert recipe.data.folds is not None
    folds = range(1, recipe.data.folds + 1)
    for fold in folds:  # quick to see, for all of them, before any image is read
        open_manifest(recipe.data.of_fold(fold), needs=SPLITS)
    for fold in folds:
        prepare_training(_of_fold(recipe, fold), architecture)


def _of_fold(recipe: Recipe, fold: int) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.of_fold(fold)})


def _create(
    recipe: Recipe, architecture: Architecture, out: Path, manifest: Manifest, *, searched: frozenset[str]
) -> RunDirectory:
    assert isinstance(architecture, Genotype) or recipe.train.model is not None
    assert not isinstance(architecture, Pruned | Ensemble)
    data = recipe.data
    exclusive = data.task == "segmentation" and data.outputs > 1 and not data.overlap
    ensemble = Ensemble(architecture, members=data.folds or 0, exclusive=exclusive)
    files: dict[str, str | bytes] = {"manifest.csv": manifest.to_csv(), ENSEMBLE: ensemble.to_json()}
    if isinstance(architecture, Genotype):
        files["genotype.json"] = architecture.to_json() + "\n"
    if searched:
        files[SEARCHED] = text_of(searched)
    seen = tested_patients(manifest, searched)
    return RunDirectory.create(
        out,
        recipe,
        kind="train",
        data_fingerprint=manifest.fingerprint(),
        files=files,
        beside=_BESIDE,
        environment=environment(make_fabric(recipe.compute), recipe.compute),
        ways=ways_of_reading(manifest, overlap=recipe.data.overlap),
        network=ensemble.name,
        **({SEEN: seen} if seen else {}),
    )


def _check_same(run: RunDirectory, recipe: Recipe, architecture: Architecture) -> None:
    """Refuses the folder of other trainings."""
    found, wanted = architecture_of(run), that_trains(recipe, architecture)
    if wanted.data.findings is None:  # those of the sources, which the run has filled in
        data = wanted.data.model_copy(update={"findings": run.recipe.data.findings})
        wanted = wanted.model_copy(update={"data": data})
    if not isinstance(found, Ensemble) or found.base != architecture or list(run.differences(wanted)):
        RunDirectory.check_free(run.path)  # says that another run is there


def _changes(fold: Path, recipe: Recipe) -> tuple[str, ...]:
    """Returns the changes by which the training of a fold that has begun gets the recipe that it is to have."""
    if not is_begun(fold):
        return ()
    run, epochs = RunDirectory(fold), recipe.train.epochs
    longer = (f"train.epochs={epochs}",) if run.recipe_file().train.epochs < epochs else ()
    return (*changes_on_the_way(run, recipe), *longer)


def _train(run: RunDirectory, jobs: int, cluster: str | None) -> None:
    """Trains what is left of the folds, and makes one network of theirs."""
    recipe, architecture = run.recipe, architecture_of(run)
    assert isinstance(architecture, Ensemble)
    command = f"medarts train --resume {shlex.quote(str(run.path))}"
    works = []
    for fold in range(1, architecture.members + 1):
        name = f"fold {fold}"
        paths = RunPaths(
            name,
            folder_of_fold(run.path, fold),
            log=run.path / "logs" / f"{fold}.log",
            failure=run.path / "failures" / f"{fold}.txt",
        )
        of_fold = _of_fold(recipe, fold)
        works.append(Job(paths, of_fold, architecture.base, changes=_changes(paths.run, of_fold)))
    train_all(works, folder=run.path, title=str(run.path), at_once=jobs, command=command, cluster=cluster)
    folds = [RunDirectory.open(job.paths.run, kind="train") for job in works]
    if not (run.facts["finished"] and _is_up_to_date(run)):
        _join(run, folds)
    calibration_of(run)
    current_scores(run, "test")


def _is_up_to_date(run: RunDirectory) -> bool:
    try:
        folds_of(run)
    except RunError:
        return False
    return checkpoint.newest(run.checkpoints, "best") is not None


def _join(run: RunDirectory, folds: Sequence[RunDirectory]) -> None:
    """Writes the weights of all folds as those of one network, and the means of their journals."""
    points = [checkpoint_of(fold) for fold in folds]
    weights = {
        f"{member_prefix(number)}{name}": tensor
        for number, point in enumerate(points)
        for name, tensor in point.weights.items()
    }
    summaries = [fold.read_json("summary.json") for fold in folds]
    score = float(np.mean([summary["best_score"] for summary in summaries]))
    metrics, timing = (_epochs(folds, name) for name in ("metrics.jsonl", "timing.jsonl"))
    _write_journal(run, "metrics.jsonl", [_mean(lines) for lines in metrics])
    _write_journal(run, "timing.jsonl", [_together(lines) for lines in timing])
    run = RunDirectory.open(run.path, kind="train")
    run.write_json("summary.json", {"best_epoch": None, "score": summaries[0]["score"], "best_score": score})
    state = {"score": score, "journals": run.journal_lengths(), "digests": run.journal_digests()}
    checkpoint.save(run.checkpoints, "best", Checkpoint(weights, state), position=(len(metrics), 0))
    run.drop_scores()
    run.finish()


def _epochs(folds: Sequence[RunDirectory], name: str) -> list[list[Record]]:
    """Returns for every epoch the lines of a journal of the folds that have come so far."""
    numbers = ("epoch", "seconds", "peak_memory_mb") if name == "timing.jsonl" else ("epoch",)
    journals = [fold.read_journal(name, numbers=numbers, parts=("spent",)) for fold in folds]
    return [[lines[epoch] for lines in journals if epoch < len(lines)] for epoch in range(max(map(len, journals)))]


def _mean(lines: Sequence[Record]) -> Record:
    """Returns the means of the numbers of several lines, of those that are defined; all else is left out."""
    found: dict[str, Any] = {"epoch": lines[0]["epoch"]}
    for key, value in lines[0].items():
        numbers = [line.get(key) for line in lines]
        known = [number for number in numbers if isinstance(number, int | float) and math.isfinite(number)]
        if key != "epoch" and known and isinstance(value, int | float):
            found[key] = float(np.mean(known))
    return found


def _together(lines: Sequence[Record]) -> Record:
    """Returns the seconds of several lines in all, what they were spent on, and their largest peak of memory."""
    spent: Counter[str] = Counter()
    for line in lines:
        spent.update(line.get("spent", {}))
    known = all("spent" in line for line in lines)  # earlier versions wrote none
    return {
        "epoch": lines[0]["epoch"],
        "seconds": sum(line["seconds"] for line in lines),
        **({"spent": dict(spent)} if known else {}),
        "peak_memory_mb": max(line["peak_memory_mb"] for line in lines),
    }


def _write_journal(run: RunDirectory, name: str, lines: Sequence[Record]) -> None:
    write_whole(run.path / name, "".join(json.dumps(line) + "\n" for line in lines))


@dataclass(frozen=True)
class FoldScores:
    """Scores of the folds of a run, and of all their images together.

    Attributes:
        metrics: that are compared, the main one first.
        folds: the rows of the folds: fold, images, patients, best_epoch (from 1 on), and a column for each metric.
        pooled: by metric, over all images, each scored by the network that has not seen it.
        spread: by metric the standard deviation between folds; nan where a fold has no value.
        summary: means over all images, with their units.
    """

    metrics: tuple[Metric, ...]
    folds: pd.DataFrame
    pooled: dict[str, float]
    spread: dict[str, float]
    summary: pd.DataFrame


def read_fold_scores(run: RunDirectory) -> FoldScores | None:
    """Returns the scores of the folds of a run; None where they are not all there.

    Raises:
        RunError: a file is damaged.
    """
    folders = [folder_of_fold(run.path, fold) for fold in range(1, 1 + (run.recipe.data.folds or 0))]
    if not all((folder / "scores" / "test" / FILE).is_file() for folder in (*folders, run.path)):
        return None
    rows = []
    for number, folder in enumerate(folders, 1):
        scores = Scores.read(folder / "scores" / "test")
        patients = scores.table[["dataset", "patient"]].drop_duplicates()
        best = RunDirectory.open(folder).read_json("summary.json")["best_epoch"] + 1
        rows.append(
            {
                "fold": number,
                "images": len(names_of_images(scores.table)),
                "patients": len(patients),
                "best_epoch": best,
            }
            | main_scores(scores)
        )
    pooled, folds = Scores.read(run.path / "scores" / "test"), pd.DataFrame(rows)
    metrics = tuple(one for one in metrics_of(pooled.task) if one.compared)
    spread = {one.name: float(folds[one.name].std(ddof=1, skipna=False)) for one in metrics}
    assert pooled.summary is not None
    return FoldScores(metrics, folds, main_scores(pooled), spread, pooled.summary)
