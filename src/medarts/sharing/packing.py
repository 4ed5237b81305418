"""Packing a training run: what a colleague needs of it in one file, and nothing that names a person, file or folder.

Left out are the manifest, scores of single images, paths, the note, and names that come from folders: a data set that
is called like its folder becomes "data set 1", a searched network gets the name of its space and digits of its weights.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save as tensor_bytes

from medarts.config import SPLITS, Recipe, parse
from medarts.config.yaml_text import write_yaml
from medarts.data.choosing import labels_of
from medarts.data.manifest import Part
from medarts.data.masks import planes_of
from medarts.data.sources import scaling_of
from medarts.deploy import package
from medarts.deploy.calibration import kept_calibration
from medarts.deploy.info import PACKAGE, Calibration, ModelInfo
from medarts.deploy.overlays import COLOURS
from medarts.deploy.package import package_bytes, read_package
from medarts.deploy.reference_images import observed, of_run
from medarts.deploy.runs import deployable_of
from medarts.engine.directory import RunDirectory
from medarts.engine.listing import read_listing
from medarts.errors import DataError, RunError
from medarts.evaluation.calibrating import calibration_of
from medarts.evaluation.evaluate import evaluate
from medarts.evaluation.files import EXAMPLES
from medarts.evaluation.pictures import from_arrays
from medarts.evaluation.scores import Scores
from medarts.evaluation.stats import LEVEL
from medarts.models import Architecture
from medarts.models.ensemble import FILE as ENSEMBLE
from medarts.models.ensemble import Ensemble
from medarts.models.pruned import FILE as STRUCTURE
from medarts.models.pruned import Pruned
from medarts.profiling.cost import Cost, measure_costs
from medarts.registry import Settings
from medarts.sharing.card import Subjects, card_of, card_text
from medarts.spaces import load_genotype, zoo
from medarts.spaces.genotype import Genotype
from medarts.system.console import inform
from medarts.system.files import check_writable, exists, read_whole, write_whole
from medarts.system.names import name_of
from medarts.training.searched import SEEN
from medarts.training.trained import TrainedNetwork, trained_of

MOST_EXAMPLES = 6

_FINGERPRINTS = (
    "medarts", "recipe_fingerprint", "recipe_fingerprint_without_seed", "data_fingerprint", "seed", "stage", "epoch",
    "parameters_published",
)  # fmt: skip
"""What the provenance of a genotype may say that nobody has written by hand."""

_GREEN, _ORANGE = COLOURS[2], COLOURS[5]
"""Of true and of predicted masks."""


@dataclass(frozen=True)
class _Names:
    """What a package calls what a run names.

    Attributes:
        network: the network.
        datasets: name in the package by name of the data set in the run.
    """

    network: str
    datasets: Mapping[str, str]


def pack(run: RunDirectory, out: Path, *, domain: str | None = None, examples: bool = False) -> Path:
    """Writes a training run as a package; the same run gives the same bytes.

    It has the best weights and the scores of the test images, or, where there are none, of the validation images. The
    run is evaluated where it has no such scores.

    Args:
        run: the training run.
        out: the file, whose name ends in ``.medarts``.
        domain: the data set whose scaling of intensities is used, where those of the run differ.
        examples: adds a few images of the validation set, with true and predicted masks.

    Returns:
        The file.

    Raises:
        RunError: the run has no checkpoint, or cannot be evaluated; or there is another file of that name.
    """
    if out.suffix != PACKAGE:
        raise RunError(f"{out} is not the name of a package.", fix=f"End it in {PACKAGE}.")
    check_writable(out, kind="file")
    content = packed(run, domain=domain, examples=examples)
    read_package(content, out).trained.build()  # what others will do first
    if exists(out) and read_whole(out, fix="Choose another name.") != content:
        raise RunError(f"There is another {out} already.", fix="Choose another file (out; --out on the command line).")
    write_whole(out, content)
    return out


def packed(run: RunDirectory, *, domain: str | None = None, examples: bool = False) -> bytes:
    """Returns the bytes of a package; see `pack`."""
    trained = trained_of(run)
    deployable = deployable_of(run, domain=domain)
    shared = _shared_architecture(trained.architecture, deployable.info)
    names = _Names(shared.name, _dataset_names(trained.recipe))
    scores = _scores(run, "test", deployable.info)
    info = _shared_info(run, _observed(run, deployable.info, domain), names, scores)
    return _content(run, trained, info, names, scores, examples=examples)


def usual_file(run: RunDirectory) -> Path:
    """Returns the file that a run is packed into by default: beside its folder, of the same name."""
    return run.path.parent / f"{name_of(run.path)}{PACKAGE}"


def _content(
    run: RunDirectory, trained: TrainedNetwork, info: ModelInfo, names: _Names, scores: Scores, *, examples: bool
) -> bytes:
    pictures = _examples(run, info) if examples else []
    summary = _summary(scores, names)
    card = card_of(
        trained,
        info,
        summary,
        cost=_cost(trained),
        subjects=_subjects(run, names),
        training=_training(run),
        examples=len(pictures),
    )
    files = {
        package.WEIGHTS: tensor_bytes({name: tensor.contiguous() for name, tensor in trained.weights.items()}),
        package.MODEL: info.model_dump_json(indent=1).encode() + b"\n",
        package.RECIPE: write_yaml(shared_recipe(trained.recipe, names.datasets)).encode(),
        package.SCORES: _json(summary),
        package.CARD: _json(card),
        package.CARD_TEXT: card_text(card).encode(),
        **{f"examples/{number}.png": picture for number, picture in enumerate(pictures, 1)},
    }
    shared = _shared_architecture(trained.architecture, info)
    base = shared.base if isinstance(shared, Pruned | Ensemble) else shared
    if isinstance(shared, Pruned | Ensemble):
        files[STRUCTURE if isinstance(shared, Pruned) else ENSEMBLE] = shared.to_json().encode()
    if isinstance(base, Genotype):
        files[package.GENOTYPE] = base.to_json().encode() + b"\n"
    return package_bytes(files)


def shared_recipe(recipe: Recipe, datasets: Mapping[str, str]) -> dict[str, Any]:
    """Returns what a package has of a recipe: all but paths, the note and this machine.

    Its data sets are images in memory, which whoever has the package gives.

    Args:
        recipe: of the run.
        datasets: name in the package by name of the data set.
    """
    values = _without_paths(recipe.model_dump(), recipe.model_dump(mode="json"))
    sources = []
    for source in recipe.data.sources:
        rules = scaling_of(source)
        scaling = {"window": rules.window, "percentiles": rules.percentiles}
        kind = "arrays" if recipe.data.task == "segmentation" else "labelled-arrays"
        own: dict[str, Any] = {key: list(value) for key, value in scaling.items() if value is not None}
        labels = labels_of(source, recipe.data.class_names)
        own |= {"labels": {str(value): meaning for value, meaning in labels.items()}} if labels else {}
        sources.append({"kind": kind, "name": datasets[source.domain], **own})
    values["data"] = {key: value for key, value in values["data"].items() if key not in ("cache", "cache_gb")}
    values["data"]["sources"] = sources
    values["compute"] = {"precision": recipe.compute.precision}
    del values["note"]
    parse(values, origin="the recipe of the package")
    return dict(values)


def _without_paths(value: Any, as_json: Any) -> Any:
    """Returns the JSON of a value without the keys of mappings whose value is a path."""
    if isinstance(value, Mapping):
        kept = {str(key): each for key, each in value.items() if not isinstance(each, Path)}
        return {key: _without_paths(each, as_json[key]) for key, each in kept.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(*pair) for pair in zip(value, as_json, strict=True)]
    return as_json


def _shared_architecture(architecture: Architecture, info: ModelInfo) -> Architecture:
    """Returns an architecture without what somebody has written by hand: its name, and where it comes from."""
    if isinstance(architecture, Pruned):
        base = architecture.base
        shared = cast(Genotype | Settings, _shared_architecture(base, info))
        # By default its name begins with that of what was pruned.
        rest = architecture.name.removeprefix(base.name) if architecture.name.startswith(base.name) else "-pruned"
        return replace(architecture, name=f"{shared.name}{rest}", base=shared)
    if isinstance(architecture, Ensemble):
        return replace(architecture, base=cast(Genotype | Settings, _shared_architecture(architecture.base, info)))
    if not isinstance(architecture, Genotype):
        return architecture
    if architecture.name in zoo() and load_genotype(architecture.name).cells == architecture.cells:
        return architecture
    provenance = {key: value for key, value in architecture.provenance.items() if key in _FINGERPRINTS}
    name = f"{architecture.space}-{info.provenance.weights[:6]}"
    return replace(architecture, name=name, provenance=provenance)


def _dataset_names(recipe: Recipe) -> dict[str, str]:
    """Returns what data sets are called: as in the recipe, but where a folder on their path has that name."""
    names = {}
    for number, source in enumerate(recipe.data.sources, 1):
        folders = {part.casefold() for part in source.path.absolute().parts}
        own = source.domain == source.kind or source.domain.casefold() not in folders
        names[source.domain] = source.domain if own else f"data set {number}"
    return names


def _shared_info(run: RunDirectory, info: ModelInfo, names: _Names, scores: Scores) -> ModelInfo:
    provenance = info.provenance.model_copy(
        update={
            "architecture": names.network,
            "created": str(run.facts["created"])[:10],  # of the run: a package of tomorrow has the same bytes
            "images": {names.datasets.get(name, name): count for name, count in info.provenance.images.items()},
        }
    )
    changes = {"name": names.network, "calibration": _calibration(run, scores), "provenance": provenance}
    return info.model_copy(update=changes)


def _observed(run: RunDirectory, info: ModelInfo, domain: str | None) -> ModelInfo:
    """Returns the description with the kinds and the spacing of the images; without where these are gone."""
    try:
        return observed(info, of_run(run, domain=domain))
    except DataError as error:
        inform(f"The package will not say which kinds of images it was trained on. {error.problem}")
        return info


def _calibration(run: RunDirectory, scores: Scores) -> Calibration | None:
    """Returns what was fitted to the validation images; None where these are in memory, and nothing was kept."""
    if scores.calibration is not None:  # of findings: they were scored by it
        thresholds = {rule: dict(values) for rule, values in scores.calibration.thresholds.items()}
        return Calibration(temperature=scores.calibration.temperature, thresholds=thresholds)
    kept = kept_calibration(run)
    if kept is None and not any(source.is_in_memory for source in run.recipe.data.sources):
        return calibration_of(run)
    return kept


def _scores(run: RunDirectory, wanted: Part, info: ModelInfo) -> Scores:
    """Returns the scores of a split, as they are where they are those of these weights, else made now."""
    splits = {about["split"] for about in read_listing(run.path / "manifest.csv").values()}
    split: Part = wanted if wanted in splits else "val"
    folder = run.path / "scores" / split
    try:
        scores = Scores.read(folder)
    except RunError:  # none yet, or damaged
        scores = None
    if scores is not None and scores.made_of is not None and scores.made_of.weights == info.provenance.weights:
        return scores
    if any(source.is_in_memory for source in run.recipe.data.sources):
        raise RunError(
            f"{run.path} has no scores of its {split} images.",
            fix=f'Evaluate it with its images first: medarts.evaluate(run, data=..., split="{split}").',
        )
    return evaluate(run.path, split=split)


def _summary(scores: Scores, names: _Names) -> dict[str, Any]:
    """Returns scores.json: means with intervals, and what was scored; nan is null."""
    assert scores.summary is not None
    rows = scores.summary.astype(object).where(scores.summary.notna(), None).to_dict("records")
    for row in rows:
        row["dataset"] = names.datasets.get(row["dataset"], row["dataset"])
    return {
        "split": scores.split,
        "head": scores.head,
        "bootstrap": {"draws": scores.draws, "seed": scores.seed, "level": LEVEL},
        "rows": rows,
    }


def _subjects(run: RunDirectory, names: _Names) -> dict[str, dict[str, Subjects]]:
    """Returns images and patients by data set and split."""
    found: dict[str, dict[str, tuple[int, set[str]]]] = {}
    for (domain, _), about in sorted(read_listing(run.path / "manifest.csv").items()):
        splits = found.setdefault(names.datasets.get(domain, domain), {})
        images, patients = splits.get(about["split"], (0, set()))
        splits[about["split"]] = images + 1, patients | {about["patient"]}
    if run.recipe.data.is_divided:  # whoever is tested in one fold is learned from in the others
        found = {domain: {"train": splits["test"], **splits} for domain, splits in found.items()}
    return {
        domain: {split: Subjects(splits[split][0], len(splits[split][1])) for split in SPLITS if split in splits}
        for domain, splits in found.items()
    }


def _training(run: RunDirectory) -> dict[str, Any]:
    """Returns how training went, in numbers."""
    summary = run.read_json("summary.json") if exists(run.path / "summary.json") else {}
    initial = run.facts.get("initial")
    return {
        "epochs": len(run.read_journal("metrics.jsonl")),
        "best_epoch": summary["best_epoch"] if summary else None,
        "fine_tuned_from": None if initial is None else run.facts["weights_fingerprint"],
        SEEN: run.facts.get(SEEN, 0),
    }


def _cost(trained: TrainedNetwork) -> Cost:
    recipe, name = trained.recipe, trained.architecture.name
    data = recipe.data
    return measure_costs(
        {name: trained.architecture},
        in_channels=data.in_channels,
        outputs=data.outputs,
        size=data.size,
        norm=recipe.train.norm,
        repeats=0,
        memory=False,
    )[name]


def _examples(run: RunDirectory, info: ModelInfo) -> list[bytes]:
    """Returns a few images of the validation set as PNG: the image, and with it what is true and what is predicted."""
    _scores(run, "val", info)
    path = run.path / "scores" / "val" / EXAMPLES
    if not exists(path):
        return []
    with np.load(io.BytesIO(read_whole(path)), allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}  # whose titles, which name the images, are left out
    if "maps" in found:
        rows = [*zip(found["images"], found["maps"], strict=True)][:MOST_EXAMPLES]
        panels = [[_rgb(image), _heated(image, evidence)] for image, evidence in rows]
    else:  # not those of the gallery: the worst alone would say too little of the network
        shown = [each for each in from_arrays(found) if not each.of_gallery][:MOST_EXAMPLES]
        images = [np.divide(each.image, 255, dtype=np.float32) for each in shown]
        panels = [
            [_rgb(image), *(_painted(image, getattr(each, of), by) for of, by in _PAINTS)]
            for image, each in zip(images, shown, strict=True)
        ]
    return [_png(np.concatenate(of_image, axis=1)) for of_image in panels]


_PAINTS = (("target", _GREEN), ("predicted", _ORANGE))


def _rgb(image_hwc: NDArray[np.float32]) -> NDArray[np.uint8]:
    grey = image_hwc if image_hwc.shape[-1] == 3 else image_hwc[..., :1].repeat(3, -1)
    return (grey.clip(0, 1) * 255).round().astype(np.uint8)


def _painted(image: NDArray[np.float32], mask: NDArray[Any], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    rgb = _rgb(image)
    shown = np.any([np.zeros(mask.shape[-2:], bool), *(plane for _, plane in planes_of(mask))], axis=0)
    return np.where(shown[..., None], rgb // 2 + np.array(colour, np.uint8) // 2, rgb).astype(np.uint8)


def _heated(image: NDArray[np.float32], evidence: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns an image with the places that speak for a finding in orange."""
    share = 0.6 * evidence[..., None].clip(0, 1)
    return (_rgb(image) * (1 - share) + np.array(_ORANGE) * share).round().astype(np.uint8)


def _png(picture: NDArray[np.uint8]) -> bytes:
    target = io.BytesIO()
    Image.fromarray(picture).save(target, format="PNG")
    return target.getvalue()


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"
