"""Scores of a trained network on the images of a split."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from medarts.config import Recipe, SourceSettings, Split, Task
from medarts.config.data import make_source
from medarts.data.arrays import data_section
from medarts.data.batches import Batches
from medarts.data.groups import COLUMN, groups_of
from medarts.data.manifest import Manifest, Part
from medarts.data.opening import open_data, open_manifest
from medarts.data.store import ImageStore, open_store
from medarts.deploy.info import Calibration, ModelInfo
from medarts.deploy.package import Package
from medarts.deploy.runs import info_of
from medarts.engine.checkpoint import of_weights
from medarts.engine.device import make_fabric, preserved_process_state
from medarts.engine.directory import RunDirectory
from medarts.engine.listing import Listing, listing_of, read_listing
from medarts.errors import DataError, MedartsError, RunError
from medarts.evaluation.calibrating import FOUND_ON, as_shipped, calibration_of, own_manifest
from medarts.evaluation.deciding import OtherWays, flops_of
from medarts.evaluation.files import Fingerprints, of_images, of_metrics
from medarts.evaluation.folds import fitted_on_folds, pooled_examples, pooled_scores
from medarts.evaluation.pictures import Picture, as_arrays
from medarts.evaluation.scores import Calibration as Fitted
from medarts.evaluation.scores import Scores, names_of_images
from medarts.evaluation.scoring import Extras, examples_of, mask_examples, score_findings, score_masks
from medarts.evaluation.summary import DEFINITIONS
from medarts.evaluation.truths import described
from medarts.metrics import definitions
from medarts.metrics.masks import CONVENTIONS
from medarts.network import AVERAGE, FindingNetwork, Network
from medarts.system.console import progress_bar, warn
from medarts.training.trained import checkpoint_of, folder_of_fold, folds_of, is_ensemble, load_network

FOLDER_DIGITS = 8
"""Hexadecimal digits in the names of folders of scores on other data sets."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is scored and shown beside; see `evaluate`."""

    heads: bool
    flip: bool
    by: str | None
    worst: int | None

    def extras(
        self, recipe: Recipe, sources: tuple[SourceSettings, ...] | None, store: ImageStore, known: Listing | None
    ) -> Extras:
        """Returns groups and external data sets; ``known`` are the images that the network was trained beside."""
        wanted = recipe.data.sources if sources is None else sources
        samples = [] if store.given is not None else store.manifest.samples
        groups = groups_of(wanted, samples, column=self.by)
        external = None if known is None else external_sets(store.manifest, known)
        return Extras(groups, self.by or (COLUMN if groups else None), external, self.worst)


@preserved_process_state()
def evaluate(
    path: Path,
    *,
    sources: tuple[SourceSettings, ...] | None = None,
    split: Part = "test",
    head: str | None = None,
    data: ImageStore | None = None,
    heads: bool = False,
    flip: bool = False,
    by: str | None = None,
    worst: int | None = None,
) -> Scores:
    """Scores the best checkpoint of a training run, and writes the scores into a folder of ``scores`` of the run.

    A run of all folds scores each of its images by the network of the fold that holds the image out.

    Masks are scored at the size of their files, or at that of the recipe where this says so (evaluation.resolution),
    for every image and class, and then averaged; slices also as the volumes that they belong to. Findings are scored
    over all images of a data set; their thresholds and temperature come from the validation images of the run. So do
    those of masks by which other decisions are scored beside, see ``medarts.evaluation.deciding``.

    Args:
        path: the training run.
        sources: data sets to score on, whose names and digits of whose images are part of the folder's name; None takes
            those of the run.
        split: the split to score, or all images.
        head: the head to use, such as "4,0", or "average", which is part of the folder's name; Default: the last.
        data: images in memory: those of the run, or others, which are scored as another data set; ``sources`` is None.
        heads: whether all heads of a network for masks, and their average, are scored beside.
        flip: whether masks from the mean over mirrored copies of the images are scored beside.
        by: column of a table of the data by whose values images are grouped. Default: the column group, if there is.
        worst: images of the gallery. Default: 12, at most a third of the images.

    Raises:
        RunError: the run has no checkpoint yet, or no such head; its recipe was edited, or its data have changed; or
            another process is at work on it.
        DataError: the data cannot be read, are for another task, or have no image in the split.
    """
    run = RunDirectory.open(path, kind="train")
    with run.at_work("evaluate"):
        if data is not None and data.manifest.fingerprint() != run.facts["data_fingerprint"]:
            sources = sources_in_memory(run.recipe, data, of=str(run.path))
        return _evaluate(run, sources, split, head, data, asked=_Asked(heads, flip, by, worst))


def folder_of_package(path: Path) -> Path:
    """Returns the folder of all scores of a package."""
    return path.with_name(f"{path.stem}-scores")


@preserved_process_state()
def evaluate_package(
    package: Package,
    *,
    sources: tuple[SourceSettings, ...] | None = None,
    split: Part = "test",
    head: str | None = None,
    data: ImageStore | None = None,
    heads: bool = False,
    flip: bool = False,
    by: str | None = None,
    worst: int | None = None,
) -> Scores:
    """Scores a packed network on images that are given, and writes the scores into a folder beside its file.

    The folder is called like the file with "-scores" behind, and has a folder for each set of images, see
    `scores_folder`. Thresholds and temperature are those of the package, as its validation images are not there.

    Args:
        package: the packed network.
        sources: data sets to score on.
        split: see `evaluate`.
        head: see `evaluate`.
        data: images in memory, instead of ``sources``.
        heads: see `evaluate`.
        flip: see `evaluate`.
        by: see `evaluate`.
        worst: see `evaluate`.

    Raises:
        DataError: no images are given, or they do not fit.
        RunError: there is no such head, or the package has no thresholds of its findings.
    """
    recipe, origin = package.trained.recipe, str(package.path)
    if data is not None:
        sources = sources_in_memory(recipe, data, of=origin)
    if sources is None:
        raise DataError(f"{origin} has no images to score it on.", fix="Give data (on the command line --data FOLDER).")
    _check_task(recipe.data.task, sources)
    fabric = make_fabric(recipe.compute)
    network = package.trained.build()
    chosen = network.head_named(head)
    if isinstance(network, FindingNetwork):
        head = None  # it has one
    needs: tuple[Split, ...] = () if split == "all" else (split,)
    store = data or open_data(recipe.data.elsewhere(sources), needs=needs, partly=True)
    part = store.manifest.part(split)
    batches = Batches(store, part, batch=recipe.evaluation.batch, name=split, device=fabric.device)
    images = of_images([(store, split)])
    made_of = Fingerprints(images, package.info.provenance.weights, _metrics(recipe))
    folder = folder_of_package(package.path) / _folder_name(split, images, sources, head)
    network = network.to(fabric.device)
    asked = _Asked(heads, flip, by, worst)
    about: Any = {"folder": folder, "made_of": made_of, "extras": asked.extras(recipe, sources, store, None)}
    if not isinstance(network, FindingNetwork):
        info = package.deployable(head).info
        model = as_shipped(network, recipe)
        ways = _other_ways(network, model, recipe, info, heads=heads, flip=flip)
        return score_masks(model, batches, recipe, head=chosen, others=ways, **about)
    _check_masks_alone(heads=heads, flip=flip)
    fitted = package.info.calibration
    if fitted is None:
        raise RunError(f"{origin} has no thresholds of its findings.", fix="Have it packed again.")
    known = Fitted(fitted.temperature, recipe.evaluation.sensitivity, fitted.thresholds, {})
    return score_findings(network, batches, recipe, validation=known, **about)


def sources_in_memory(recipe: Recipe, data: ImageStore, *, of: str) -> tuple[SourceSettings, ...]:
    """Returns what a recipe would say of images in memory, other than those of a run, having checked that they fit.

    Args:
        recipe: of the run or package.
        data: the images.
        of: names the run or package in errors.
    """
    wanted, given = recipe.data, data_section(data)
    if data.overlap != wanted.overlap:
        form = "N x K x H x W, of 0 and 1 of each class" if wanted.overlap else "N x H x W, of class indices"
        raise DataError(
            f"The classes of the images {'may overlap' if data.overlap else 'exclude each other'}, those of the "
            f"network of {of} {'may overlap' if wanted.overlap else 'do not overlap'}.",
            fix=f"Give masks {form}.",
        )
    for key, value in given.items():
        own = getattr(wanted, key)
        if key != "sources" and value != (list(own) if isinstance(own, tuple) else own):
            raise DataError(
                f"The images have {key} {value}, but the network of {of} was trained with {own}.",
                fix=f"Give images with {key} {own}, see from_arrays.",
            )
    return tuple(make_source(**source) for source in given["sources"])


def _evaluate(
    run: RunDirectory,
    sources: tuple[SourceSettings, ...] | None,
    split: Part,
    head: str | None,
    data: ImageStore | None,
    *,
    asked: _Asked,
) -> Scores:
    recipe = run.recipe
    _check_task(recipe.data.task, sources or ())
    run.check_files()
    if is_ensemble(run) and sources is None:
        if asked.heads or asked.flip:
            raise RunError(
                "Heads and mirrored images are scored for single networks.",
                fix=f"Leave heads and flip out, or evaluate one fold: {folder_of_fold(run.path, 1)}.",
            )
        return _out_of_fold(run, split, head, asked)
    fabric = make_fabric(recipe.compute)
    network = load_network(run)
    weights = of_weights(network.state_dict())
    chosen = network.head_named(head)
    if isinstance(network, FindingNetwork):
        head = None  # it has one
    looked_at = _looked_at(run, sources, split, data)
    batches, *others = (
        Batches(store, store.manifest.part(part), batch=recipe.evaluation.batch, name=part, device=fabric.device)
        for store, part in looked_at
    )
    made_of = Fingerprints(of_images(looked_at), weights, _metrics(recipe))
    folder = scores_folder(run, split, made_of.images, sources=sources, head=head)
    network = network.to(fabric.device)
    known = read_listing(run.path / "manifest.csv")
    extras = asked.extras(recipe, sources, looked_at[0][0], known if sources is not None else None)
    about: Any = {"folder": folder, "made_of": made_of, "extras": extras}
    if not isinstance(network, FindingNetwork):
        model = as_shipped(network, recipe)
        # Scaling, the one thing of it that may differ between data sets, is no matter here: images come scaled.
        info = info_of(run, network, domain=recipe.data.sources[0].domain, head=chosen)
        info = info.model_copy(update={"calibration": _calibration(run, model, looked_at[0][0], sources, head)})
        ways = _other_ways(network, model, recipe, info, heads=asked.heads, flip=asked.flip)
        return score_masks(model, batches, recipe, head=chosen, others=ways, **about)
    _check_masks_alone(heads=asked.heads, flip=asked.flip)
    validation = others[0] if others else fitted_on_folds(calibration_of(run), recipe)
    return score_findings(network, batches, recipe, validation=validation, **about)


def external_sets(manifest: Manifest, known: Listing) -> tuple[str, ...]:
    """Returns the data sets that share no image with those that a network was trained beside, by their content.

    Args:
        manifest: the images that are scored.
        known: what the network's run lists.
    """
    seen = {cells["image_digest"] for cells in known.values()}
    shared = {name for (name, _), cells in listing_of(manifest.to_csv().splitlines()).items()
              if cells["image_digest"] in seen}  # fmt: skip
    return tuple(name for name in manifest.domains if name not in shared)


def _out_of_fold(run: RunDirectory, split: Part, head: str | None, asked: _Asked) -> Scores:
    """Scores every image of a run of all folds by the network that has neither learned from it nor was chosen by it."""
    folds = folds_of(run)
    images = of_images(_looked_at(run, None, split))
    scores = [_of_fold(fold, head, asked) for fold in folds]
    made_of = Fingerprints(images, of_weights(checkpoint_of(run).weights), _metrics(run.recipe))
    pooled = pooled_scores(scores, run.recipe, split=split, made_of=made_of)
    if run.recipe.data.task == "segmentation":
        pictures = _pictures_of_folds(folds, scores, examples_of(pooled.table, worst=asked.worst), head)
        examples = as_arrays(pictures) if pictures else None
    else:
        examples = pooled_examples([scores_folder(fold, "test", "", head=head) for fold in folds])
    pooled.write(scores_folder(run, split, images, head=head), examples=examples)
    return pooled


def _of_fold(fold: RunDirectory, head: str | None, asked: _Asked) -> Scores:
    """Returns the scores of a fold: those that it has, if they have the groups that are asked for."""
    kept = _kept(fold, "test", None, None) if head is None else None
    if kept is not None and (kept.about["by"] or COLUMN) == (asked.by or COLUMN):
        return kept
    return evaluate(fold.path, split="test", head=head, by=asked.by, worst=asked.worst)


def _pictures_of_folds(
    folds: Sequence[RunDirectory], scores: Sequence[Scores], chosen: pd.DataFrame, head: str | None
) -> list[Picture]:
    """Returns images of all folds for the report, each with what the network predicts that has not seen it.

    Args:
        folds: the trainings.
        scores: of the test images of each.
        chosen: rows of `examples_of`, of the images of all folds.
        head: the head to use.
    """
    found: dict[int, Picture] = {}
    for number, (fold, of_fold) in enumerate(zip(folds, scores, strict=True), 1):
        names = {*zip(of_fold.table["dataset"], of_fold.table["image"], strict=True)}
        own = [name in names for name in zip(chosen["dataset"], chosen["image"], strict=True)]
        if not any(own):
            continue
        network, recipe = load_network(fold), fold.recipe
        device = make_fabric(recipe.compute).device
        store, part = _looked_at(fold, None, "test")[0]
        batches = Batches(store, store.manifest.part(part), batch=recipe.evaluation.batch, name=part, device=device)
        titled = chosen[own].assign(title=f"fold {number} · " + chosen["title"])
        model = as_shipped(network.to(device), recipe)
        pictures = mask_examples(model, batches, recipe, titled, head=network.head_named(head))
        found |= zip(np.flatnonzero(own).tolist(), pictures, strict=True)
    return [found[row] for row in sorted(found)]


def _other_ways(
    network: Network, model: nn.Module, recipe: Recipe, info: ModelInfo, *, heads: bool, flip: bool
) -> OtherWays:
    beside = (*network.heads, AVERAGE) if heads and len(network.heads) > 1 else (info.head,)
    return OtherWays(model, info, flops=flops_of(network, recipe, beside), flip=flip)


def _check_masks_alone(*, heads: bool, flip: bool) -> None:
    if heads or flip:
        raise RunError("Heads and mirrored images are scored for masks alone.", fix="Leave out heads and flip.")


def _calibration(
    run: RunDirectory,
    model: nn.Module,
    store: ImageStore,
    sources: tuple[SourceSettings, ...] | None,
    head: str | None,
) -> Calibration | None:
    """Returns the calibration of a network for masks; None where other images are scored and its own are gone."""
    try:
        return calibration_of(run, head=head, data=store if sources is None else None, model=model)
    except MedartsError as error:
        if sources is None:
            raise
        warn(f"Only the decision by threshold is scored: the validation images of {run.path} cannot be used. {error}")
        return None


def scores_folder(
    run: RunDirectory,
    split: Part,
    images: str,
    *,
    sources: tuple[SourceSettings, ...] | None = None,
    head: str | None = None,
) -> Path:
    """Returns where ``evaluate`` writes the scores.

    Names of data sets are those of their folders, which others have as well: digits of the images tell them apart.

    Args:
        run: the training run.
        split: the split, or all images.
        images: fingerprint of the images that are scored.
        sources: see ``evaluate``.
        head: see ``evaluate``.
    """
    return run.path / "scores" / _folder_name(split, images, sources, head)


def _folder_name(split: Part, images: str, sources: tuple[SourceSettings, ...] | None, head: str | None) -> str:
    domains = [] if sources is None else [source.domain for source in sources]
    parts = [split, *domains, *([] if head is None else [f"head-{head}"])]
    if sources is not None:
        about = json.dumps([images, domains, head])  # the list, as names may hold the dashes that join them
        parts.append(hashlib.sha256(about.encode()).hexdigest()[:FOLDER_DIGITS])
    return "-".join(parts)


def fingerprints_now(
    run: RunDirectory,
    split: Part,
    *,
    sources: tuple[SourceSettings, ...] | None = None,
    data: ImageStore | None = None,
) -> Fingerprints:
    """Returns the fingerprints of what ``evaluate`` would score now; the arguments are its own.

    Raises:
        RunError: the run has no checkpoint yet.
        DataError: the data cannot be read, or have no image in the split.
    """
    images = of_images(_looked_at(run, sources, split, data))
    return Fingerprints(images, of_weights(checkpoint_of(run).weights), _metrics(run.recipe))


def _metrics(recipe: Recipe) -> str:
    of_masks = recipe.data.task == "segmentation"
    rules = {**CONVENTIONS, "scored": json.dumps(described(recipe.evaluation))} if of_masks else {}
    return of_metrics({**definitions(recipe.data.task), **rules, **DEFINITIONS})


def _looked_at(
    run: RunDirectory, sources: tuple[SourceSettings, ...] | None, split: Part, data: ImageStore | None = None
) -> list[tuple[ImageStore, Part]]:
    """Returns the images to score and, of findings, those that their thresholds and temperature come from.

    Raises:
        RunError: the run's own images, targets or splits have changed since it began.
    """
    recipe = run.recipe
    if data is not None:
        if recipe.data.task == "segmentation" or is_ensemble(run):
            return [(data, split)]
        own = data if sources is None else open_store(own_manifest(run, (FOUND_ON,)), recipe.data)
        return [(data, split), (own, FOUND_ON)]
    settings = recipe.data if sources is None else recipe.data.elsewhere(sources)
    threads = recipe.compute.threads
    needs: tuple[Split, ...] = () if split == "all" else (split,)
    if recipe.data.task == "segmentation" or is_ensemble(run):
        manifest = own_manifest(run, needs) if sources is None else open_manifest(settings, needs=needs, partly=True)
        return [(open_store(manifest, settings, threads=threads), split)]
    own = open_store(own_manifest(run, (*needs, FOUND_ON)), recipe.data, threads=threads)
    store = own if sources is None else open_data(settings, needs=needs, threads=threads, partly=True)
    return [(store, split), (own, FOUND_ON)]


def _check_task(task: Task, sources: tuple[SourceSettings, ...]) -> None:
    for source in sources:
        if source.task != task:
            raise DataError(
                f"The images of {source.domain} are for {source.task}, but the network is for {task}.",
                fix="Give images with findings." if task == "classification" else "Give images with masks.",
            )


def load_scores(
    runs: Mapping[str, Sequence[RunDirectory | Path | str]],
    *,
    split: Part = "test",
    sources: tuple[SourceSettings, ...] | None = None,
) -> pd.DataFrame:
    """Returns the scores of several networks as one long table; see ``medarts.evaluation.scores``.

    Scores that a run has are taken where they were made of the images, targets, current weights and metrics; where they
    are stale, damaged or half written, and where there are none, the run is evaluated.

    Args:
        runs: training runs by the name of their network, one a seed.
        split: the split, or all images.
        sources: data sets that the runs were not trained on; None takes those of each run.

    Raises:
        RunError: the images of a run's split are no longer those that it was trained beside.
        MedartsError: a run cannot be evaluated.
    """
    opened = [
        (name, run if isinstance(run, RunDirectory) else RunDirectory.open(Path(run), kind="train"))
        for name, of in runs.items()
        for run in of
    ]
    tables = []
    with progress_bar("scores", len(opened)) as bar:
        for name, run in opened:
            table = current_scores(run, split, sources=sources)
            about = pd.DataFrame({"network": name, "seed": run.recipe.seed, "split": split}, index=table.index)
            tables.append(pd.concat([about, table], axis=1))
            bar.advance()
    return pd.concat(tables, ignore_index=True)


def current_scores(
    run: RunDirectory,
    split: Part,
    *,
    sources: tuple[SourceSettings, ...] | None = None,
    data: ImageStore | None = None,
) -> pd.DataFrame:
    """Returns the table of scores of a run, evaluated now where what it has does not hold; see `load_scores`.

    Args:
        run: the run.
        split: the split, or all images.
        sources: other data sets than those of the run.
        data: the images of a run that was started with arrays.

    Raises:
        RunError: ``data`` are not the images of the run.
    """
    if data is not None:
        run.check_unchanged(data.manifest.fingerprint(), manifest=data.manifest.to_csv())
    scores = _kept(run, split, sources, data) or evaluate(run.path, sources=sources, split=split, data=data)
    table = scores.table
    if sources is None:
        _check_listed(run, split, names_of_images(table))
    return table


def _kept(
    run: RunDirectory, split: Part, sources: tuple[SourceSettings, ...] | None, data: ImageStore | None
) -> Scores | None:
    """Returns the scores that a run has where they are those of now, whatever their groups and examples."""
    if not (run.path / "scores").is_dir():
        return None
    now = fingerprints_now(run, split, sources=sources, data=data)
    folder = scores_folder(run, split, now.images, sources=sources)
    if not folder.is_dir():
        return None
    try:
        scores = Scores.read(folder)
    except RunError:  # what wrote them was killed, or an older medarts
        return None
    return scores if scores.made_of == now else None


def _check_listed(run: RunDirectory, split: Part, scored: frozenset[tuple[str, str]]) -> None:
    """Refuses scores of other images than those that the manifest of the run lists."""
    listing = read_listing(run.path / "manifest.csv")
    changed = sorted(scored ^ {name for name, about in listing.items() if split in ("all", about["split"])})
    if changed:
        dataset, key = changed[0]
        raise RunError(
            f"{key} of {dataset} has left or joined the split '{split}' since {run.path} began.",
            fix="Restore the images and splits named in its manifest.csv, or train it again.",
        )
