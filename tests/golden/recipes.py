"""What the golden runs do: recipes, and the words of their commands. Keys and options of today stand here alone.

Settings may be spelled otherwise, and never mean anything else.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Words = list[str]
"""A command, without the name of the program."""

COMPUTE = {"device": "cpu", "threads": 1}
EVALUATION = {"batch": 8, "bootstrap": 200, "resolution": "network"}
STRONG = {
    "flip": True,
    "transpose": True,
    "rotate": 20,
    "scale": 0.1,
    "shift": 0.1,
    "brightness": 0.2,
    "contrast": 0.2,
    "gamma": 0.2,
}
NAS_WDAN = {
    "name": "nas-wdan",
    "init_channel": 2,
    "double_down_channel": True,
    "intermediate_nodes": 2,
    "deep_supervision": True,
}


def masks(folder: Path) -> list[Words]:
    """Returns a search of two stages, second order and mixed; three trainings; a comparison of two.

    What was found is trained with batch norm, AdamW, cosine, warm-up and EMA, and a U-Net likewise; then once more, on
    one data set, with group norm, SGD, plateau and mixing.
    """
    search = {
        "stages": [
            {"depth": 3, "epochs": 2, "batch": 6, "keep": {"down": 3, "normal": 3, "up": 2}},
            {"depth": 4, "epochs": 2, "batch": 6},
        ],
        "gradient": "second_order",
        "lr": 0.05,
        "arch_lr": 0.05,
        "arch_after": 1,
        "mixing": {"alpha": 0.5, "images": 2},
    }
    train = {
        "epochs": 4,
        "batch": 3,
        "norm": "batch",
        "optimizer": "adamw",
        "lr": 0.02,
        "schedule": "cosine",
        "warmup_epochs": 1,
        "ema": 0.7,
    }
    recipe = {
        "seed": 3,
        "data": _mask_data(folder) | {"sampling": "equal", "augmentation": STRONG},
        "space": NAS_WDAN,
        "search": search,
        "train": train,
        "evaluation": EVALUATION,
        "compute": COMPUTE,
    }
    file = _write(folder / "masks.yaml", recipe)
    plateau = ["train.norm=group", "train.optimizer=sgd", "train.schedule=plateau", "train.plateau_epochs=1"]
    plateau += ["train.epochs=4", "train.lr=0.05", "train.ema=0", "train.warmup_epochs=0", "train.mixing.alpha=0.4"]
    return [
        ["search", file, "--out", "search"],
        ["train", "search", "--out", "searched"],
        ["train", "--model", "unet", "--recipe", file, "train.model.width=4", "train.model.depth=3", "--out", "unet"],
        ["train", "search", "--data", "cells", *plateau, "--out", "plateau"],
        *(["evaluate", run] for run in ("searched", "unet", "plateau")),
        ["compare", "searched", "unet", "--against", "unet", "--out", "comparison"],
    ]


def findings(folder: Path) -> list[Words]:
    """Returns a search of first order, trainings of what it finds and of a genotype of the zoo, and a comparison."""
    recipe = {
        "seed": 5,
        "data": {
            "sources": [{"kind": "table", "path": str(folder / "data" / "films"), "name": "films"}],
            "size": 32,
            "in_channels": 1,
            "augmentation": {"flip": "horizontal", "shift": 0.07, "brightness": 0.1},
            "cache": str(folder / "cache"),
        },
        "space": {
            "name": "darts",
            "search_channel": 4,
            "init_channel": 4,
            "layers": 5,
            "intermediate_nodes": 2,
            "drop_path_prob": 0.2,
            "auxiliary": True,
        },
        "search": {
            "stages": [
                {"depth": 4, "epochs": 1, "batch": 6, "keep": {"normal": 4, "reduce": 4}},
                {"depth": 5, "epochs": 2, "batch": 6},
            ],
            "gradient": "first_order",
            "arch_lr": 0.05,
            "supernet": {"partial_channels": 2, "edge_normalisation": True},
        },
        "train": {"epochs": 3, "batch": 6, "optimizer": "sgd", "lr": 0.05, "schedule": "plateau", "plateau_epochs": 1},
        "evaluation": EVALUATION,
        "compute": COMPUTE,
    }
    file = _write(folder / "findings.yaml", recipe)
    genotype = ["--genotype", "chestxray14_first_order", "--init-channel", "4", "--recipe", file]
    return [
        ["search", file, "--out", "search"],
        ["train", "search", "--out", "searched"],
        ["train", *genotype, "space.layers=5", "--out", "zoo"],
        ["evaluate", "searched"],
        ["evaluate", "zoo"],
        ["compare", "searched", "zoo", "--against", "chestxray14_first_order", "--out", "comparison"],
    ]


def benchmark(folder: Path) -> list[Words]:
    """Returns a benchmark of two networks on two data sets, of many and of few patients, with two seeds.

    Then the same networks are tested on the other data set.
    """
    recipe = {
        "data": _mask_data(folder),
        "space": NAS_WDAN,
        "search": {"stages": [{"depth": 3, "epochs": 1, "batch": 4}], "arch_after": 0, "arch_lr": 0.05},
        "train": {"epochs": 2, "batch": 2, "optimizer": "adamw", "lr": 0.02, "norm": "group"},
        "evaluation": EVALUATION,
        "compute": COMPUTE,
    }
    study = {
        "recipe": recipe,
        "networks": [
            {"name": "found", "searched_on": ["polyps", "cells"]},
            {"model": {"name": "unet", "width": 4, "depth": 3}},
        ],
        "trained_on": [{"data": name, "seeds": [0, 1]} for name in ("polyps", "cells")],
        "reference": "unet",
    }
    file = _write(folder / "study.yaml", study)
    return [
        ["benchmark", file, "--out", "study"],
        ["generalize", file, "--out", "study"],
    ]


def _mask_data(folder: Path) -> dict[str, Any]:
    sources = [{"kind": "folder", "path": str(folder / "data" / name), "name": name} for name in ("polyps", "cells")]
    return {"sources": sources, "size": 32, "resize": "squash", "cache": str(folder / "cache")}


def _write(path: Path, content: Mapping[str, Any]) -> str:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path.name
