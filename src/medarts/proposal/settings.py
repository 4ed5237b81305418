"""Settings that fit data sets, each with its reason."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from medarts.config import SourceSettings
from medarts.errors import DataError
from medarts.proposal.looking import Look
from medarts.proposal.rules import Patches, folds_for, patches_for, slices_around

_SIZES = (32, 48, 64, 96, 128, 192, 256)
"""Sizes that lattices of a depth of 4 can halve often enough."""

_LARGEST = {"cpu": 128, "cuda": 256}
_OF_FINDINGS = 64
"""Size of images with findings on a CPU, as in recipes/chestxray14-cpu.yaml."""

_RARE = 0.01
"""Share of foreground below which most batches would show next to none."""

_EMPTY = 0.3
"""Share of images without foreground from which they are drawn less often."""

_SEARCH_STEPS, _TRAIN_STEPS = 400, 1500
"""Steps of a stage of a search, and of a training, with which recipes/ came to their scores."""

_FEWEST_EPOCHS, _MOST_EPOCHS = 2, 400


@dataclass
class Draft:
    """A recipe on its way.

    Attributes:
        content: the recipe as it is written.
        reasons: path of a key -> why it has its value.
    """

    content: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def put(self, path: str, value: Any, reason: str = "") -> None:
        """Sets a value by its path, such as "data.size"."""
        *sections, key = path.split(".")
        section = self.content
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
        if reason:
            self.reasons[path] = reason


def draft_for(looks: Sequence[Look], *, device: str, factor: float = 1.0) -> Draft:
    """Returns the recipe for data sets.

    Args:
        looks: what they are.
        device: "cuda" or "cpu".
        factor: times as many epochs as usual.
    """
    draft = Draft({section: {} for section in ("data", "space", "search", "train")})
    draft.put("data.sources", [_source(look.settings) for look in looks])
    for number, look in enumerate(looks):
        if getattr(look.settings, "uncertain", None) is not None:
            draft.reasons[f"data.sources.{number}.uncertain"] = "-1 and empty cells; or positive, or ignore"
    train = sum(sample.split == "train" for look in looks for sample in look.manifest.samples)
    if looks[0].settings.task == "segmentation":
        size = _put_size(draft, looks, _LARGEST[device], device)
        folds, patches = folds_for(looks), patches_for(looks, size)
        _put_masks(draft, looks, patches)
        if folds is not None:
            draft.put("data.folds", folds.number, folds.reason)
            train = folds.train
        drawn = (round(train * patches.each), "patches") if patches is not None else (train, "images")
        _put_search_of_masks(draft, *drawn, factor)
    else:
        _put_findings(draft, looks, device)
        _put_search_of_findings(draft, train, factor)
    return draft


def _source(settings: SourceSettings) -> dict[str, Any]:
    """Returns what differs from the defaults, as a recipe has it: values of masks are numbers there."""
    values = {"kind": settings.kind} | settings.model_dump(mode="json", exclude_defaults=True)
    labels = values.get("labels")
    return (
        values if labels is None else values | {"labels": {_as_number(value): name for value, name in labels.items()}}
    )


def _as_number(value: str) -> int | str:
    """Returns a key of labels as people write it: JSON has texts of digits."""
    return int(value) if str(value).lstrip("-").isdecimal() else value


def _put_masks(draft: Draft, looks: Sequence[Look], patches: Patches | None) -> None:
    if patches is not None:
        _put_patches(draft, patches)
    around = slices_around(looks)
    if around is not None:
        draft.put("data.context", 1, around)
        draft.put("data.in_channels", 3, "a slice and its two neighbours")
    names = {look.names for look in looks}
    classes = max(look.classes for look in looks)
    if len(names) > 1 and () not in names:
        told = "; ".join(f"{look.settings.domain}: {', '.join(look.names)}" for look in looks)
        raise DataError(f"The data sets have different classes ({told}).", fix="Write a recipe for each.")
    if () not in names:
        draft.put("data.classes", list(looks[0].names), "foreground classes")
        if any(look.overlap for look in looks):
            draft.put("data.overlap", True, "some pixels are of several classes")
    elif classes > 1:
        draft.put("data.classes", classes + 1, "background and the values of the masks; or their names, [a, b]")
    if patches is not None:
        draft.put("data.sampling", {"foreground": 0.33}, "a third of the patches show foreground for certain")
    elif _is_rare(looks):
        foreground, empty = _mean_foreground(looks), _mean_empty(looks)
        why = f"foreground is {foreground:.1%} of the pixels, {empty:.0%} of the images have none"
        draft.put("data.sampling", "foreground", why)
    elif len(looks) > 1:
        draft.put("data.sampling", "equal", "all data sets count the same")
    exclusive = classes > 1 and not any(look.overlap for look in looks)
    loss = "ce_dice" if exclusive else "bce_dice"
    draft.put("search.loss", loss, "cross-entropy alone leaves small objects background")
    draft.put("train.loss", loss)


def _put_patches(draft: Draft, patches: Patches) -> None:
    draft.put("data.resize", "patches", patches.reason)
    if patches.spacing_mm is not None:
        draft.put("data.spacing_mm", patches.spacing_mm, "as coarse as the masks allow")
    elif patches.scale < 1:
        draft.put("data.scale", patches.scale, "as small as the masks allow")
    draft.reasons["data.size"] = f"of a patch; {patches.each:.3g} of them cover an image"


def _put_size(draft: Draft, looks: Sequence[Look], largest: int, device: str) -> int:
    """Puts the size and the channels, and returns the size."""
    sides = Counter[int]()
    for look in looks:
        sides.update({max(size): count for size, count in look.sizes.items()})
    middle = sorted(sides.elements())[sides.total() // 2]
    size = max((each for each in _SIZES if each <= min(middle, largest)), default=_SIZES[0])
    longer = f"images have {middle} px, which take longer on a {'GPU' if device == 'cuda' else 'CPU'}"
    draft.put("data.size", size, "as the images" if size >= middle else longer)
    channels = max(look.channels for look in looks)
    draft.put("data.in_channels", channels, "grey" if channels == 1 else "colour" if channels == 3 else "")
    return size


def _put_search_of_masks(draft: Draft, train: int, drawn: str, factor: float) -> None:
    batch = _batch(train, 12)
    stage = _epochs(_SEARCH_STEPS, train / 2, batch, factor)
    draft.put("space", {"init_channel": 8, "double_down_channel": False}, "a small network; 16 is slower and better")
    stages = [
        {"depth": 3, "epochs": stage, "batch": batch, "keep": {"down": 4, "normal": 4, "up": 2}},
        {"depth": 4, "epochs": stage, "batch": batch},
    ]
    draft.put("search.stages", stages, f"half of {train:,} training {drawn} in each epoch")
    draft.put("search.lr", 0.2)
    draft.put("search.arch_lr", 0.02, "so few steps leave alphas near uniform at smaller rates")
    draft.put("search.arch_after", max(1, stage // 5) if stage > 2 else 0)
    draft.put("search.regularizers", ["beta_decay"], "without it, identity takes over")
    draft.put("search.supernet", {"auxiliary_skip": 0.5})
    draft.put("search.mixing", {"alpha": 0.0})
    _put_training(draft, train, _batch(train, 8), factor)
    draft.put("train.norm", "batch", "learns faster than the published group norm in so few steps")


def _put_findings(draft: Draft, looks: Sequence[Look], device: str) -> None:
    findings = {look.manifest.findings for look in looks}
    if len(findings) == 1:
        draft.put("data.findings", [*findings.pop()])
    _put_size(draft, looks, _OF_FINDINGS if device == "cpu" else _LARGEST[device], device)


def _put_search_of_findings(draft: Draft, train: int, factor: float) -> None:
    batch = _batch(train, 16)
    stage = _epochs(_SEARCH_STEPS, train / 2, batch, factor)
    draft.put("space", {"name": "darts", "search_channel": 8, "init_channel": 12, "layers": 6, "drop_path_prob": 0.1})
    draft.put("search.stages", [{"depth": 6, "epochs": stage, "batch": batch}])
    draft.put("search.lr", 0.1)
    draft.put("search.arch_lr", 0.01, "so few steps leave alphas near uniform at smaller rates")
    draft.put("search.arch_after", max(1, stage // 5) if stage > 2 else 0)
    _put_training(draft, train, batch, factor)


def _put_training(draft: Draft, train: int, batch: int, factor: float) -> None:
    epochs = _epochs(_TRAIN_STEPS, train, batch, factor)
    draft.put("train.epochs", epochs, f"{math.ceil(train / batch):,} steps each")
    draft.put("train.batch", batch)
    draft.put("train.optimizer", "adamw")
    draft.put("train.lr", 0.003)
    draft.put("train.weight_decay", 0.01)
    draft.put("train.schedule", "cosine")
    draft.put("train.warmup_epochs", 1)
    draft.put("train.ema", 0.98)


def _batch(train: int, largest: int) -> int:
    """Returns a batch that leaves several steps for an epoch of few images."""
    return min(max(train // 8, 2), largest)


def _epochs(steps: int, images: float, batch: int, factor: float) -> int:
    needed = round(factor * steps / max(images / batch, 1))
    return min(max(needed, _FEWEST_EPOCHS), _MOST_EPOCHS)


def _is_rare(looks: Sequence[Look]) -> bool:
    return _mean_foreground(looks) < _RARE or _mean_empty(looks) > _EMPTY


def _mean_foreground(looks: Sequence[Look]) -> float:
    return sum(look.foreground for look in looks) / len(looks)


def _mean_empty(looks: Sequence[Look]) -> float:
    return sum(look.empty for look in looks) / len(looks)
