"""What other ways from a trained network to masks gain over that of its scores, and what they cost.

``decisions.csv`` has the mean Dice and IoU of each way, as ``summary.csv`` has those of the scores, with the gain: the
difference to the scores on the same images, with its interval over patients. Its first way is that of the scores.

Columns: ``head``, ``passes`` (4 where each image is mirrored along both axes), ``flops`` (of all passes of an image,
see ``medarts.profiling.cost``), ``decision`` (see ``medarts.deploy.decisions``), ``dataset``, ``class``, ``metric``,
``value``, ``low``, ``high``, ``gain``, ``gain_low``, ``gain_high``, ``images`` and ``patients``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medarts.config import Recipe
from medarts.data.batches import Batch
from medarts.data.reading import MaskState
from medarts.deploy.decisions import RULES, Rule, check_rule, decide
from medarts.deploy.info import ModelInfo
from medarts.deploy.passes import MIRRORS
from medarts.errors import MedartsError
from medarts.evaluation.scores import Scores, of_images
from medarts.evaluation.summary import of_differences, summarized, without_repetition
from medarts.evaluation.truths import Truth, Truths
from medarts.metrics import MaskPair
from medarts.network import AVERAGE, Network
from medarts.profiling.cost import count_flops

METRICS = ("dice", "jaccard")

TITLES: dict[Rule, str] = {"threshold": "threshold", "validation": "validation threshold", "dice": "Dice-optimal"}

COLUMNS = (
    "head", "passes", "flops", "decision", "dataset", "class", "metric", "value", "low", "high",
    "gain", "gain_low", "gain_high", "images", "patients",
)  # fmt: skip

Floats = NDArray[np.floating[Any]]
Decided = NDArray[np.uint8]


class Way(NamedTuple):
    """A way from a network to masks."""

    head: str
    passes: int
    decision: Rule


class OtherWays:
    """Scores the masks of other decisions, heads and passes beside those that are scored.

    Args:
        model: the network as shipped for inference.
        info: of the network; ``head`` is the one that is scored. Without calibration no other decision is scored.
        flops: operations for one image by head; the heads to score beside that of the scores are those named here.
        flip: whether the mean over the images and their mirrored copies is scored.
    """

    def __init__(self, model: nn.Module, info: ModelInfo, *, flops: dict[str, int], flip: bool) -> None:
        self._model, self._info, self._flops = model, info, flops
        self._values: dict[Way, list[Floats]] = {
            **{Way(info.head, 1, rule): [] for rule in RULES if rule != "threshold" and _is_possible(rule, info)},
            **{Way(head, 1, "threshold"): [] for head in flops if head != info.head},
            **({Way(info.head, len(MIRRORS), "threshold"): []} if flip else {}),
        }

    def probabilities(self, batch: Batch, logits: Tensor) -> dict[tuple[str, int], Tensor]:
        """Returns the probabilities of a batch by head and number of passes, (B, K, H, W); first the scored ones.

        Args:
            batch: the images.
            logits: those that are scored, (B, K, H, W).
        """
        overlap = self._info.overlap
        found = {(self._info.head, 1): probabilities_of(logits, overlap=overlap)}
        if len(self._flops) > 1:
            every = self._model(batch.images, all_heads=True)
            # The average is asked for: of windows, the blend of an average is not the average of blends.
            every = [*every, self._model(batch.images, AVERAGE)]
            names = [*(name for name in self._flops if name != AVERAGE), AVERAGE]
            found |= {
                (name, 1): probabilities_of(each, overlap=overlap) for name, each in zip(names, every, strict=True)
            }
        passes = len(MIRRORS)
        if any(way.passes == passes for way in self._values):
            found[self._info.head, passes] = mirrored(self._model, batch.images, self._info.head, overlap=overlap)
        return {key: of_batch.cpu() for key, of_batch in found.items()}

    def add(self, probabilities: Mapping[tuple[str, int], Floats], truth: Truth, truths: Truths) -> Decided:
        """Scores an image, and returns its mask by the way of the scores.

        Args:
            probabilities: of the image by head and number of passes, (K, H, W) at the size of the true mask.
            truth: the true mask.
            truths: what knows its classes.
        """
        for way, found in self._values.items():
            decided = decide(probabilities[way.head, way.passes], self._info, way.decision)
            found.append(self._scored(decided, truth, truths))
        return decide(probabilities[self._info.head, 1], self._info, "threshold")

    def summary(self, scores: Scores) -> pd.DataFrame:
        """Returns the table of all ways, first that of the scores."""
        base = of_images(scores.table)
        base = base[base["metric"].isin(METRICS)]
        found = [self._rows(scores, base, base, Way(self._info.head, 1, "threshold"))]
        for way, values in self._values.items():
            found.append(self._rows(scores, base, base.assign(value=np.stack(values).ravel()), way))
        return pd.concat(found, ignore_index=True)

    def _rows(self, scores: Scores, base: pd.DataFrame, table: pd.DataFrame, way: Way) -> pd.DataFrame:
        found = summarized(replace(scores, table=table)).summary
        gains = of_differences(replace(scores, table=base.assign(value=table["value"] - base["value"])))
        assert found is not None
        ends = {"gain": "value", "gain_low": "low", "gain_high": "high"}
        about: dict[str, Any] = {name: np.nan if table is base else gains[column] for name, column in ends.items()}
        about |= way._asdict() | {"flops": float(self._flops[way.head] * way.passes)}
        return found.assign(**about)[[*COLUMNS]]

    def _scored(self, decided: Decided, truth: Truth, truths: Truths) -> Floats:
        """Returns the metrics of every foreground class of an image, (C, metrics)."""
        values = np.zeros((len(truth.states), len(METRICS)))
        for number, state in enumerate(truth.states):
            if state != MaskState.VANISHED:
                pair = truths.mask(decided, number), truths.mask(truth.stored, number)
                of = MaskPair(*pair, counted=truths.counted(truth.stored, number)).confusion
                values[number] = of.dice().item(), of.ratio(of.tp, of.tp + of.fp + of.fn).item()
        return values


class Shown(NamedTuple):
    """A way on a data set, as tables show it.

    Attributes:
        dataset: name of the data set, or of a mean.
        name: of the way, in words.
        flops: relative to the way of the scores.
        dice: row of `COLUMNS`.
        jaccard: the same.
    """

    dataset: str
    name: str
    flops: float
    dice: Any
    jaccard: Any


def shown_ways(decisions: pd.DataFrame) -> list[Shown]:
    """Returns the ways on every data set, of several classes their mean; a single way, which is no choice, is none."""
    rows = without_repetition(decisions)
    rows = rows[rows["class"] == rows["class"].iloc[0]]  # the mean comes first
    first = rows.iloc[0]
    if (rows[list(Way._fields)] == first[list(Way._fields)]).all(axis=None):
        return []
    found = []
    for dataset, of_set in rows.groupby("dataset", sort=False):
        for key, of_way in of_set.groupby(list(Way._fields), sort=False):
            dice, jaccard = (of_way[of_way["metric"] == name].iloc[0] for name in METRICS)
            title = _title_of(Way(*key), scored=str(first["head"]))
            found.append(Shown(str(dataset), title, float(dice["flops"] / first["flops"]), dice, jaccard))
    return found


def _title_of(way: Way, *, scored: str) -> str:
    if way.head != scored:
        return "average of heads" if way.head == AVERAGE else f"head {way.head}"
    return TITLES[way.decision] if way.passes == 1 else f"mirrored, {way.passes} passes"


def flops_of(network: Network, recipe: Recipe, heads: Sequence[str]) -> dict[str, int]:
    """Returns the operations of a pass of one image by head.

    Args:
        network: in evaluation mode.
        recipe: channels and size of the images.
        heads: names of heads, `AVERAGE` among them.
    """
    device = next(network.parameters()).device
    channels, size = recipe.data.in_channels, recipe.data.size
    image = torch.zeros(1, channels, size, size, device=device)
    return {
        head: count_flops(partial(network, head=head), in_channels=channels, size=size, images=image) for head in heads
    }


def probabilities_of(logits_bkhw: Tensor, *, overlap: bool = False) -> Tensor:
    """Returns the probabilities of one class, of exclusive ones, or of those that may overlap, float32."""
    values = logits_bkhw.float()
    return torch.sigmoid(values) if overlap or values.shape[1] == 1 else torch.softmax(values, 1)


def mirrored(model: nn.Module, images_bchw: Tensor, head: str, *, overlap: bool = False) -> Tensor:
    """Returns the mean probabilities of images and their mirrored copies."""

    def passes() -> Iterator[Tensor]:
        for axes in MIRRORS:
            logits = model(torch.flip(images_bchw, axes), head)
            yield torch.flip(probabilities_of(logits, overlap=overlap), axes)

    return torch.stack([*passes()]).mean(0)


def _is_possible(rule: Rule, info: ModelInfo) -> bool:
    try:
        check_rule(rule, info)
    except MedartsError:  # of a class that no validation image shows, or without validation images
        return False
    return True
