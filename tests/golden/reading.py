"""Numbers out of runs and comparisons: the only place that knows files, folders, names and modules of medarts.

Where the redesign changes a format, change it here, and nothing under ``frozen/``: what these functions return is the
same before and after. Where a name of an operation, a move or a metric changes, translate it back here.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

Number = float | int | None
Numbers = dict[str, Number]
"""By a readable name; None where undefined."""

SECTIONS = ("image scores", "means", "differences", "p values", "intervals", "ranks", "counts")
"""Kinds of numbers of scores and comparisons."""

Sections = dict[str, Numbers]

_LATER = ("nsd", "false_positive", "false_area")
"""The frozen program had none of these metrics."""
_INTERVAL = {"low", "high"}
_P = {"p", "p_corrected"}
_FROZEN_METRICS = ("dice", "jaccard", "hd95", "auroc", "average_precision")


# --- runs -----------------------------------------------------------------------------------------------------------


def runs_of(folder: Path) -> dict[str, Path]:
    """Returns the runs below a folder by the names that the frozen numbers have for them."""
    found = sorted(path.parent for path in folder.rglob("run.json"))
    names = (path.relative_to(folder).as_posix() for path in found)
    return {name.removeprefix("study/").removeprefix("runs/"): path for name, path in zip(names, found, strict=True)}


def is_search(run: Path) -> bool:
    """Tells a search from a training."""
    return bool(json.loads((run / "run.json").read_text(encoding="utf-8"))["kind"] == "search")


def has_genotype(run: Path) -> bool:
    """Tells whether a run found or trained a genotype, and no network made by hand."""
    return (run / "genotype.json").is_file()


def weights_of(run: Path, which: str) -> list[Tensor]:
    """Returns the weights, architecture included, at the end (last) or of the best epoch (best); no counters."""
    newest = max((run / "checkpoints").glob(f"{which}-*"))
    return [tensor for tensor in load_file(newest / "weights.safetensors").values() if tensor.is_floating_point()]


def genotype_of(run: Path) -> dict[str, Any]:
    """Returns the operations and inputs of every cell, ``[operation, state]``, and the moves into every node."""
    content = json.loads((run / "genotype.json").read_text(encoding="utf-8"))
    return {"cells": content["cells"], "moves": [[*node, sorted(moves)] for *node, moves in content["paths"]]}


def epochs_of(run: Path) -> Numbers:
    """Returns losses, learning rate and scores of every epoch."""
    found: Numbers = {}
    for record in _journal(run / "metrics.jsonl"):
        for name in ("val_foreground_by_domain", "val_found_by_domain"):
            record.pop(name, None)  # the frozen program did not count them
        place = "/".join(f"{part} {record.pop(part)}" for part in ("stage", "epoch") if part in record)
        found |= {f"{place}/{name}": value for name, value in _flat(record)}
    return found


def architecture_of(run: Path) -> Numbers:
    """Returns the weights of operations, moves and edges at the end of every stage of a search."""
    found: Numbers = {}
    for record in _journal(run / "architecture.jsonl"):  # a later epoch of a stage replaces an earlier one
        stage = f"stage {record['stage']}"
        for cell, content in record["alphas"].items():
            for edge, names, weights in zip(content["edges"], content["operations"], content["weights"], strict=True):
                for name, weight in zip(names, weights, strict=True):
                    found[f"{stage}/alpha/{cell}/{edge}/{name}"] = weight
        for kind in ("betas", "gammas"):
            found |= {f"{stage}/{kind[:-1]}/{name}": value for name, value in _flat(record.get(kind) or {})}
    return found


def summary_of(run: Path) -> Numbers:
    """Returns the best epoch of a training, or the scores with and without the supernet of a search."""
    found = {name: value for name, value in _flat(_json(run / "summary.json")) if isinstance(value, int | float)}
    later = ("is_guarded", "free_operations")  # the frozen program did not write them
    return {name: value for name, value in found.items() if not any(part in name for part in later)}


# --- scores ---------------------------------------------------------------------------------------------------------


def image_scores(run: Path) -> Numbers:
    """Returns every score of every image: of classes of masks, or logit and probability of findings."""
    found: Numbers = {}
    for folder in _scores_of(run):
        for row in _rows(folder, "scores.csv"):
            if row["metric"] not in ("specificity", "f1", "accuracy", *_LATER):
                name = "/".join((_split_of(folder), row["dataset"], row["image"], row["class"], row["metric"]))
                found[name] = _number(row["value"])
    return found


_FINDING_METRICS = ("auroc", "average_precision")
_MEANS = {"mean of data sets": "mean of domains"}
_ECE = {"ece_uncalibrated": "ece_before", "ece": "ece_after"}


def mean_scores(run: Path) -> Sections:
    """Returns means over images with intervals over patients, and what was counted."""
    found = _sections()
    for folder in _scores_of(run):
        is_of_masks = _json(folder / "scores.json")["task"] == "segmentation"
        for row in _rows(folder, "summary.csv"):
            name = "/".join((_split_of(folder), _MEANS.get(row["dataset"], row["dataset"]), row["class"]))
            value = _number(row["value"])
            if row["metric"] in _LATER:
                continue
            if is_of_masks or row["metric"] in _FINDING_METRICS:
                parts = {part: _number(row[part]) for part in ("low", "high", "undefined")}
                _sort_in(found, f"{name}/{row['metric']}", {"mean": value, **parts})
            elif row["metric"] in _ECE:
                found["means"][f"{name}/{_ECE[row['metric']]}"] = value
            else:
                found["means"][f"{name}/{row['metric'].replace('_', '/', 1)}"] = value
            if not is_of_masks:
                found["counts"][f"{name}/positives"] = _number(row["positives"])
    return found


# --- comparisons ----------------------------------------------------------------------------------------------------


def comparison_numbers(folder: Path) -> Sections:
    """Returns the numbers of the comparison below a folder, over several data sets too, and of a generalisation."""
    found = _sections()
    for file in folder.rglob("comparison.json"):
        _add_comparison(found, file.parent)
    for file in folder.rglob("generalization.json"):
        _add_generalization(found, file.parent)
    return found


def _add_comparison(found: Sections, folder: Path) -> None:
    about = _json(folder / "comparison.json")
    groups = about["groups"]
    where = {group: "+".join(one["datasets"]) for group, one in groups.items()}
    names = {(group, name): _own_name(name, one) for group in groups for name, one in groups[group]["networks"].items()}
    for group, one in groups.items():
        found["counts"] |= {f"{where[group]}/{name}": one[name] for name in ("images", "patients")}
    for row in _rows(folder, "networks.csv"):
        group, name, metric = row["group"], row["network"], row["metric"]
        if group in where and metric in _FROZEN_METRICS:
            seeds = _seeds(folder, metric=metric, group=group, network=name)
            _sort_in(found, f"{where[group]}/{names[group, name]}/{metric}", _score(row) | {"by_seed": seeds})
        elif group not in where and metric == about["score"]:
            found["counts"]["all sets/patients"] = _number(row["patients"])
            found["means"][f"all sets/{name}"] = _number(row["mean"])
            found["ranks"][f"all sets/{name}"] = _number(row["rank"])
    for row in _rows(folder, "differences.csv"):
        group, pair = row["group"], (row["network"], row["reference"])
        if group in where:
            one, reference = (names[group, name] for name in pair)
            _add_difference(found, f"{where[group]}/{one} vs {reference}/{row['metric']}", row)
        else:
            _add_difference(found, f"all sets/{pair[0]} vs {pair[1]}", row)
    for row in _rows(folder, "costs.csv"):
        if row["group"] in where:
            name = f"{where[row['group']]}/{names[row['group'], row['network']]}"
            found["counts"] |= {f"{name}/{part}": _number(row[part]) for part in ("parameters", "flops")}
    chosen = {(row["group"], row["dataset"], row["image"]): row["spread"] for row in _rows(folder, "differing.csv")}
    for (group, dataset, image), spread in chosen.items():
        found["image scores"][f"{where[group]}/{dataset}/{image}/spread"] = _number(spread)
    for row in _rows(folder, "images.csv"):
        if (row["group"], row["dataset"], row["image"]) in chosen:
            image = f"{where[row['group']]}/{row['dataset']}/{row['image']}"
            found["image scores"][f"{image}/{names[row['group'], row['network']]}"] = _number(row["value"])


def _add_generalization(found: Sections, folder: Path) -> None:
    groups = _json(folder / "generalization.json")["groups"]
    for row in _rows(folder, "retrained.csv"):
        group, name = row["group"], f"retrained/{row['network']}"
        if group in groups:
            (dataset,) = groups[group]
            seeds = _seeds(folder, group=group, network=row["network"], dataset=dataset)
            _sort_in(found, f"{name}/{group}", _score(row) | {"by_seed": seeds})
        else:
            _sort_in(found, name, _score(row))
            found["ranks"][name] = _number(row["rank"])
    for row in _rows(folder, "tested.csv"):
        seeds = _seeds(folder, **{part: row[part] for part in ("group", "network", "dataset")})
        name = f"trained on {row['group']}, tested on {row['dataset']}/{row['network']}"
        _sort_in(found, name, _score(row) | {"by_seed": seeds})


def _score(row: Mapping[str, str]) -> dict[str, Any]:
    return {part: _number(row[part]) for part in ("mean", "low", "high", "undefined")}


def _seeds(folder: Path, **of: str) -> list[float | None]:
    rows = _rows(folder, "seeds.csv")
    return [_number(row["value"]) for row in rows if all(row[part] == value for part, value in of.items())]


def _own_name(name: str, network: Mapping[str, Any]) -> str:
    """Returns the name by which frozen numbers call a network: that of its run; in a study, that in the study."""
    run = str(network["runs"][0])
    return name if run.startswith("study/") else run


def _add_difference(found: Sections, name: str, row: Mapping[str, str]) -> None:
    found["differences"][name] = _number(row["difference"])
    found["intervals"] |= {f"{name}/{part}": _number(row[part]) for part in sorted(_INTERVAL)}
    found["p values"] |= {f"{name}/{part}": _number(row[part]) for part in sorted(_P)}


# --- networks -------------------------------------------------------------------------------------------------------


def parameters_by_network() -> dict[str, int]:
    """Returns the trainable parameters of all genotypes of the zoo and of all networks made by hand, full size."""
    import torch

    from medarts.models import build_network, published_outputs
    from medarts.registry import models
    from medarts.spaces.genotype import load_genotype as load
    from medarts.spaces.genotype import zoo

    found = {}
    with torch.device("meta"):
        for architecture in (*map(load, zoo()), *(models.choose(name) for name in models.names())):
            network = build_network(architecture, in_channels=3, outputs=published_outputs(architecture))
            found[architecture.name] = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return found


# --- files ----------------------------------------------------------------------------------------------------------


def _sections() -> Sections:
    return {section: {} for section in SECTIONS}


def _sort_in(found: Sections, name: str, score: Mapping[str, Any]) -> None:
    """Adds mean, interval, values by seed and what is undefined, each to its section."""
    found["means"][name] = score["mean"]
    found["means"] |= {f"{name}/seed {place}": value for place, value in enumerate(score.get("by_seed", ()))}
    found["intervals"] |= {f"{name}/{part}": score[part] for part in sorted(_INTERVAL)}
    found["counts"][f"{name}/undefined"] = score["undefined"]


def _scores_of(run: Path) -> list[Path]:
    return sorted(path.parent for path in run.glob("scores/*/scores.json"))


def _split_of(scores: Path) -> str:
    """Returns what was scored, without the digits that tell data sets of one name apart."""
    return scores.name.rpartition("-")[0] or scores.name


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _journal(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _rows(folder: Path, name: str) -> list[dict[str, str]]:
    """Returns the rows of a table; none where there is no such table."""
    path = folder / name
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]


def _number(cell: str) -> float | None:
    return float(cell) if cell else None


def _flat(content: Any, *before: str) -> Iterator[tuple[str, Any]]:
    """Yields what nested mappings and lists hold, by the path to it."""
    if isinstance(content, dict | list):
        for name, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _flat(value, *before, str(name))
    else:
        yield "/".join(before), content
