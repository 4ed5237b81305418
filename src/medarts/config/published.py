"""Published defaults that depend on the search space.

The sections have those of the weaved space. A recipe on the stack starts from what DARTS on ChestX-ray14 used (images
of 224 px cropped from 256 px, batches of 16 and 32, plateau schedule); its number of training epochs is this project's.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from medarts.config.data import SPACE_OF, Task
from medarts.registry import sources as registered

STAGE = {"depth": 12, "epochs": 50, "batch": 16}

STACK: dict[str, Any] = {
    "data": {
        "size": 224,
        # A crop of 224 from 256 pixels moves the image by up to 16, which is 7 % of 224.
        "augmentation": {"flip": "horizontal", "transpose": False, "brightness": 0.0, "shift": 0.07},
    },
    "search": {
        "stages": [STAGE],
        "loss": "bce_logits",
        "lr_min": 1e-4,
        "arch_lr": 3e-4,
        "arch_after": 0,
        "mixing": {"alpha": 0.0},
    },
    "train": {
        "epochs": 100,
        "batch": 32,
        "loss": "bce_logits",
        "lr": 0.025,
        "schedule": "plateau",
        "plateau_epochs": 5,
    },
}


def space_of(content: Mapping[str, Any]) -> str:
    """Returns the search space of a recipe: the one it names, else the one that fits its sources."""
    named = _of(content.get("space"), "name")
    if named is not None:
        return str(named)
    sources = _of(content.get("data"), "sources")
    kinds = [_of(source, "kind") for source in sources] if _is_list(sources) else []
    tasks = {_task_of(kind) for kind in kinds if isinstance(kind, str) and kind in registered}
    return SPACE_OF["classification" if "classification" in tasks else "segmentation"]


def _task_of(kind: str) -> Task:
    settings: Any = registered.entry(kind).settings
    task: Task = settings.task
    return task


def with_published_defaults(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a recipe with its space named, and with the published values that it does not give."""
    content, space = dict(content), space_of(content)
    if not isinstance(content.get("space"), BaseModel):
        content["space"] = _merged({"name": space}, content.get("space", {}))
    return _merged(STACK, content) if space == "stack" else content


def _merged(defaults: Mapping[str, Any], given: Any) -> Any:
    """Returns ``given`` with what ``defaults`` has beyond it; what is no mapping stays, to be refused later."""
    if not isinstance(given, Mapping):
        return given
    merged = dict(given)
    for key, default in defaults.items():
        if key not in merged:
            merged[key] = deepcopy(default)
        elif key == "stages":
            merged[key] = [_merged(STAGE, stage) for stage in merged[key]] if _is_list(merged[key]) else merged[key]
        elif isinstance(default, Mapping):
            merged[key] = _merged(default, merged[key])
    return merged


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _of(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, Mapping) else getattr(section, key, None)
