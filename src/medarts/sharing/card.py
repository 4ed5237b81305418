"""The model card of a packed network: what it is for, and its data, scores, limits and cost in numbers.

Sections follow Mitchell et al., Model Cards for Model Reporting, FAT* 2019 (arXiv 1810.03993). ``card.json`` holds the
numbers; ``MODEL_CARD.md`` is made of it by a template, whose sentences are the same for all networks.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jinja2

from medarts.deploy.info import ModelInfo
from medarts.evaluation.stats import FEW_PATIENTS
from medarts.evaluation.summary import ALL, MEAN_OF_CLASSES, MEAN_OF_DATASETS, MEAN_OF_FINDINGS, MEAN_OF_FREQUENT
from medarts.metrics import Metric, metrics_of
from medarts.models import Architecture
from medarts.models.ensemble import Ensemble
from medarts.models.pruned import Pruned
from medarts.profiling.cost import Cost
from medarts.spaces.genotype import Genotype
from medarts.training.trained import TrainedNetwork

FORMAT = 1

_MEANS = (MEAN_OF_CLASSES, MEAN_OF_FINDINGS, MEAN_OF_FREQUENT)


class Subjects(NamedTuple):
    """Numbers of images and of patients."""

    images: int
    patients: int


def card_of(
    trained: TrainedNetwork,
    info: ModelInfo,
    scores: Mapping[str, Any],
    *,
    cost: Cost,
    subjects: Mapping[str, Mapping[str, Subjects]],
    training: Mapping[str, Any],
    examples: int = 0,
) -> dict[str, Any]:
    """Returns the model card as what JSON can hold.

    Args:
        trained: the network.
        info: what it expects and gives.
        scores: content of ``scores.json``.
        cost: its parameters and FLOPs.
        subjects: images and patients by data set and split.
        training: how training went.
        examples: images that come with it.
    """
    recipe, architecture = trained.recipe, trained.architecture
    return {
        "format": FORMAT,
        "name": info.name,
        "task": info.task,
        "outputs": [*info.outputs],
        "data": {name: {split: of._asdict() for split, of in splits.items()} for name, splits in subjects.items()},
        "preprocessing": _preprocessing(info),
        "network": {
            "kind": _kind(architecture),
            "architecture": info.provenance.architecture,
            "prunings": [dict(asked) for asked in architecture.history] if isinstance(architecture, Pruned) else [],
            "head": info.head,
        },
        "training": {
            "loss": recipe.train.loss.name,
            "optimizer": recipe.train.optimizer,
            "learning_rate": recipe.train.lr * (1 if training["fine_tuned_from"] is None else recipe.train.finetune_lr),
            "batch": recipe.train.batch,
            "seed": recipe.seed,
            **training,
        },
        "decision": {
            "threshold": info.threshold,
            "temperature": None if info.calibration is None else info.calibration.temperature,
            "thresholds": {} if info.calibration is None else info.calibration.thresholds,
        },
        "scores": {"split": scores["split"], "level": scores["bootstrap"]["level"], "rows": _rows(scores, info)},
        "limits": _limits(subjects, scores, info),
        "cost": {
            "parameters": cost.parameters,
            "flops": cost.flops,
            "weights_mb": round(sum(each.numel() * each.element_size() for each in trained.weights.values()) / 1e6, 3),
        },
        "examples": examples,
        "provenance": info.provenance.model_dump(),
    }


def _preprocessing(info: ModelInfo) -> dict[str, Any]:
    """Returns how images become what the network sees."""
    return {
        "channels": info.in_channels,
        "size": info.size,
        "resize": info.resize,
        "scale": info.scale,
        "target_mm": info.spacing_mm,
        "context": info.context,
        "files": info.files,
        "window": info.window,
        "percentiles": info.percentiles,
        "expected_range": info.expected_range,
        "kinds": [kind.model_dump() for kind in info.kinds],
        "spacing_mm": info.spacing,
    }


def _rows(scores: Mapping[str, Any], info: ModelInfo) -> list[Any]:
    """Returns the rows of scores that a card has; those over all data sets repeat those of a single one."""
    rows = [row for row in scores["rows"] if row["metric"] in {one.name for one in _shown(info)}]
    of_sets = [row for row in rows if row["dataset"] not in (ALL, MEAN_OF_DATASETS)]
    return of_sets if len({row["dataset"] for row in of_sets}) == 1 else rows


def card_text(card: Mapping[str, Any]) -> str:
    """Returns the model card as Markdown."""
    environment = jinja2.Environment(  # Markdown: nothing is escaped as in HTML
        loader=jinja2.PackageLoader("medarts.sharing", "."),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = _number
    environment.filters["cell"] = _cell
    environment.filters["json"] = json.dumps
    titles = {one.name: one.title for one in metrics_of(card["task"])}
    return environment.get_template("model_card.md").render(card=card, titles=titles)


def _kind(architecture: Architecture) -> str:
    if isinstance(architecture, Pruned):
        return f"{_kind(architecture.base)}, pruned"
    if isinstance(architecture, Ensemble):
        return f"{_kind(architecture.base)}, ensemble of {architecture.members} folds"
    return f"derived, {architecture.space}" if isinstance(architecture, Genotype) else "baseline"


def _shown(info: ModelInfo) -> tuple[Metric, ...]:
    """Returns the metrics of the card: those with an interval."""
    return tuple(one for one in metrics_of(info.task) if info.task == "segmentation" or one.bootstrap)


def _limits(
    subjects: Mapping[str, Mapping[str, Subjects]], scores: Mapping[str, Any], info: ModelInfo
) -> dict[str, Any]:
    """Returns what restricts how far the scores carry."""
    scored = {name: splits[scores["split"]] for name, splits in subjects.items() if scores["split"] in splits}
    classes = [row for row in scores["rows"] if row["class"] not in _MEANS and row["dataset"] in scored]
    return {
        "trained_patients": sum(splits["train"].patients for splits in subjects.values() if "train" in splits),
        "scored_patients": sum(each.patients for each in scored.values()),
        "few_patients": sorted(name for name, each in scored.items() if each.patients < FEW_PATIENTS),
        "never_shown": sorted({f"{row['class']} ({row['dataset']})" for row in classes if row["positives"] == 0}),
        "without_interval": sum(row["low"] is None for row in classes),
        "spacing_known": info.spacing is not None,
    }


def _number(value: float | None, digits: int = 3) -> str:
    """Writes a number; what is undefined is a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def _cell(value: object) -> str:
    """Writes a text as the cell of a table."""
    return " ".join(str(value).replace("|", "\\|").split())
