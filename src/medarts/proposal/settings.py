"""Settings that fit data sets, each with its reason."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medarts.config import SourceSettings
from medarts.errors import DataError
from medarts.proposal.looking import Look
from medarts.proposal.rules import Patches, folds_for, patches_for, slices_around, whole_top_row
from medarts.spaces.nas_wdan.lattice import divisor_of

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
"""Steps of a stage of a supernet, and of a training, with which recipes/ came to their scores."""

_CANDIDATE_STEPS = 600
"""Steps of the whole training of a candidate: in docs/table.md half as many told candidates apart."""

_CANDIDATES = 24
"""Random ones. Neighbours of the best in place of some gained nothing (docs/results.md)."""

_SHORT = 0.5
"""Times the usual number of epochs below which there are half as many candidates, compared once before their end."""

_FEW = 6
"""Epochs of a candidate below which it is the same."""

_RUNGS = (1 / 6, 1 / 2, 1)
"""Shares of that training after which candidates are compared."""

_FEWEST_EPOCHS, _MOST_EPOCHS = 2, 400

_DEPTHS = (3, 4, 5)
"""Of lattices. On small images a deeper one halves them to a pixel."""

_SMALLEST = 2
"""Pixels that the lowest level of a lattice has at least, each side."""

_WIDTH = {"cpu": 8, "cuda": 16}
"""Width of the U-Net whose latency is the budget; a training on two cores takes a minute with the small one."""


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
    draft = Draft({section: {} for section in ("data", "space", "budget", "search", "train")})
    draft.put("data.sources", [_source(look.settings) for look in looks])
    for number, look in enumerate(looks):
        if getattr(look.settings, "uncertain", None) is not None:
            draft.reasons[f"data.sources.{number}.uncertain"] = "-1 and empty cells; or positive, or ignore"
        if look.absent:
            draft.reasons[f"data.sources.{number}.absent"] = "no mask file of a class: it is not in the image; or error"
    train = sum(sample.split == "train" for look in looks for sample in look.manifest.samples)
    if looks[0].settings.task == "segmentation":
        size = _put_size(draft, looks, _LARGEST[device], device)
        folds, patches = folds_for(looks), patches_for(looks, size)
        _put_masks(draft, looks, patches)
        if folds is not None:
            draft.put("data.folds", folds.number, folds.reason)
            train = folds.train
        drawn = (round(train * patches.each), "patches") if patches is not None else (train, "images")
        _put_choices(draft, size, device, whole=whole_top_row(looks, size, patches))
        _put_search_of_masks(draft, *drawn, factor)
    else:
        del draft.content["budget"]
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
    draft.put("train.loss", loss, "cross-entropy alone leaves small objects background")


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
    draft.put("data.size", size, _why_size(size, middle, largest, device))
    channels = max(look.channels for look in looks)
    draft.put("data.in_channels", channels, "grey" if channels == 1 else "colour" if channels == 3 else "")
    return size


def _why_size(size: int, middle: int, largest: int, device: str) -> str:
    if size == middle:
        return "as the images"
    if size == largest:
        return f"images have {middle} px, which take longer on a {'GPU' if device == 'cuda' else 'CPU'}"
    return f"images have {middle} px; networks need a size that they can halve often"


def _put_choices(draft: Draft, size: int, device: str, *, whole: str | None) -> None:
    """Puts what networks may look like: the macro settings of candidates, and their latency.

    Args:
        draft: the recipe.
        size: height and width of what networks see.
        device: "cuda" or "cpu".
        whole: why the top row of lattices has that size; None where half of it will do.
    """
    stride = 2 if whole is None else 1
    depths = [depth for depth in _DEPTHS if size % (_SMALLEST * divisor_of(depth, stem_stride=stride)) == 0]
    draft.put("space.init_channel", 8, "the budget chooses that of each network")
    draft.put("space.double_down_channel", False)
    choices = {"depth": depths, "intermediate_nodes": [2, 3, 4], "double_down_channel": [False, True]}
    choices["stem_channels"] = [16, 32, 64]
    if whole is None:
        choices["full_size_head"] = [True]
    else:
        draft.put("space.stem_stride", stride, whole)
        choices["stem_stride"] = [stride]
    draft.put("space.choices", choices)
    width = _WIDTH[device]
    draft.put("budget.latency_of", {"name": "unet", "width": width}, "networks as fast as a small U-Net")


def _put_search_of_masks(draft: Draft, train: int, drawn: str, factor: float) -> None:
    batch = _batch(train, 16)
    last = _epochs(_CANDIDATE_STEPS, train, batch, factor)
    draft.put("search.method", "random", "trains candidates; a supernet's alphas tell less")
    is_short = factor < _SHORT or last < _FEW
    rungs = [math.ceil(share * last) for share in (_RUNGS[1:] if is_short else _RUNGS)]
    candidates = _CANDIDATES // 2 if is_short else _CANDIDATES
    select = {"candidates": candidates, "rungs": rungs, "keep": 0.33}
    draft.put("search.select", select, f"epochs of {train:,} training {drawn}")
    _put_training(draft, train, batch, factor)
    draft.put("train.norm", "batch", "learns faster than the published group norm in so few steps")


def _put_findings(draft: Draft, looks: Sequence[Look], device: str) -> None:
    findings = {look.manifest.findings for look in looks}
    if len(findings) == 1:
        names = findings.pop()
        labels = np.concatenate([look.manifest.of_split("train").labels() for look in looks])
        differ = (labels == 0).any(0) & (labels == 1).any(0)
        kept = [name for name, is_told in zip(names, differ, strict=True) if is_told] or [*names]
        others = [name for name in names if name not in kept]
        reason = f"without {', '.join(others)}: all training images are alike in that" if others else ""
        draft.put("data.findings", kept, reason)
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
