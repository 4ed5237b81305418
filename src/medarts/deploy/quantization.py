"""Exported networks in int8: weights by channel, feature maps by ranges seen on validation images (static QDQ).

What comes before and after the network stays in float, as do norms of groups and the heads' last resizing. So do the
mean over maps and the linear layer that give findings: they take no time, and 256 values do not rank many images.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medarts.config import Recipe
from medarts.data.batches import Batches
from medarts.data.store import ImageStore
from medarts.deploy.engines import IMAGE, LIMITS, Engine, Floats
from medarts.deploy.graphs import quiet, with_metadata
from medarts.deploy.info import ModelInfo
from medarts.deploy.reference_images import spread
from medarts.tasks import make_task

CALIBRATED_ON = 100
"""Images whose feature maps give the ranges."""

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_BETWEEN = ("Relu", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Transpose", "Gather")
"""Quantized between convolutions, so that maps need not become floats there."""


def quantized(content: bytes, info: ModelInfo, store: ImageStore) -> bytes:
    """Returns an exported network in int8.

    Args:
        content: of the ONNX file in float.
        info: of the network.
        store: its images for validation give the ranges of feature maps.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    model = onnx.load_from_string(content)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            _Reader(store, info),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_WEIGHTED, *_BETWEEN],
            per_channel=True,
            # Processors without VNNI add two products in 16 bits, which overflow with weights of 8 bits.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_outside(model.graph, classifies=info.task == "classification"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        return with_metadata(onnx.load(path), info)


def score(engine: Engine, recipe: Recipe, info: ModelInfo, store: ImageStore) -> float:
    """Returns the score of a network on the validation images, as in training: mean Dice, or mean AUROC.

    Args:
        engine: runs the network.
        recipe: of its training.
        info: of the network.
        store: the images, at the size of the recipe.
    """
    task = make_task(recipe, store.manifest, loss=recipe.train.loss, field="train.loss", learned=True)
    part = store.manifest.of_split("val")
    batches = Batches(store, part, batch=recipe.evaluation.batch, name="val", device=torch.device("cpu"))

    def forward(images_bchw: Tensor, *, all_heads: bool = False) -> Tensor | list[Tensor]:
        images, limits = as_stored(images_bchw.numpy(), info)
        found = engine.run(images, limits)
        if info.task == "classification":
            return torch.from_numpy(found["logits"])
        logits = torch.from_numpy(found["probabilities"]).clamp(1e-7, 1 - 1e-7)
        logits = logits.log() if info.exclusive else logits.logit()
        return [logits] if all_heads else logits

    return float(task.validate(forward, batches)[task.score])


def as_stored(images_bchw: Floats, info: ModelInfo) -> tuple[Floats, Floats]:
    """Returns images of 0..1 as an exported network takes them, and the values that become 0 and 1."""
    low, high = info.window or info.expected_range
    images = (images_bchw * (high - low) + low).astype(np.float32)
    limits = np.array([low, high] * len(info.channels_of_parts), np.float32)
    return images, np.tile(limits, (len(images), 1))


class _Reader:
    """Gives validation images one by one, as onnxruntime.quantization asks for them."""

    def __init__(self, store: ImageStore, info: ModelInfo) -> None:
        self._images: Iterator[dict[str, Floats]] = self._all(store, info)

    def get_next(self) -> dict[str, Floats] | None:
        return next(self._images, None)

    @staticmethod
    def _all(store: ImageStore, info: ModelInfo) -> Iterator[dict[str, Floats]]:
        for index in spread(store.indices(store.manifest.of_split("val")).tolist(), CALIBRATED_ON):
            image, limits = as_stored(store.seen(index)[None].astype(np.float32), info)
            yield {IMAGE: image} if info.percentiles is None else {IMAGE: image, LIMITS: limits}


def _outside(graph: Any, *, classifies: bool) -> list[str]:
    """Returns the names of the nodes before the first and behind the last layers with weights.

    Args:
        graph: of the network.
        classifies: whether the last of these layers gives findings, and is outside, too.
    """
    producer = {name: node for node in graph.node for name in node.output}
    weighted = [node for node in graph.node if node.op_type in _WEIGHTED]
    weighted = weighted[:-1] if classifies else weighted
    layers = {node.name for node in weighted}
    behind: set[str] = set()  # what some layer with weights leads to
    for node in graph.node:  # sorted: inputs come first
        before = (producer[name] for name in node.input if name in producer)
        if any(each.name in layers or each.name in behind for each in before):
            behind.add(node.name)
    ahead: set[str] = set()  # what leads to some layer with weights
    waiting = [producer[name] for node in weighted for name in node.input if name in producer]
    while waiting:
        node = waiting.pop()
        if node.name not in ahead:
            ahead.add(node.name)
            waiting += [producer[name] for name in node.input if name in producer]
    kept = layers | (behind & ahead)
    return [node.name for node in graph.node if node.name not in kept]
