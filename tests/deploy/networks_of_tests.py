"""Networks whose weights and statistics all matter, and how far their exported graphs are from PyTorch."""

import gc
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from medarts import create_model
from medarts.deploy import graphs
from medarts.deploy.deployable import Deployable, TorchEngine
from medarts.deploy.engines import Engine, OnnxRuntimeEngine, OpenVinoEngine
from medarts.deploy.info import ModelInfo, Provenance
from medarts.models import architecture_named, task_of
from medarts.spaces import load_genotype
from medarts.spaces.genotype import Genotype
from medarts.spaces.nas_wdan.lattice import all_paths, to_kept

PROVENANCE = Provenance(
    medarts="1", torch="2", created="2026-01-01", recipe="0" * 64, weights="1", architecture="x", seed=0, images={}
)


def shallow(name: str) -> Genotype:
    """Returns a genotype of the zoo with its cells in a lattice of depth 3, as tracing the whole one takes long."""
    genotype = load_genotype(name)
    return replace(genotype, settings={**genotype.settings, "depth": 3}, paths=to_kept(all_paths(3)))


def deployable(name: str, *, outputs: int = 1, size: int = 32, network: Any = (), **about: Any) -> Deployable:
    """Returns a network with weights and statistics that no layer could be left out for.

    Args:
        name: of the network.
        outputs: its number of them.
        size: of the images, in pixels.
        network: settings of the network, and its ``architecture`` where that is not the one of the name.
        about: other parts of the description.
    """
    about = {"task": "segmentation", "in_channels": 1, **about}
    torch.manual_seed(0)
    settings = {"architecture": name, **dict(network)}
    built = create_model(in_channels=about["in_channels"], outputs=outputs, **settings)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d) and module.weight is not None:
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    masks = about["task"] == "segmentation" and outputs == 1
    names = ("foreground",) if masks else tuple(f"output {number}" for number in range(outputs))
    about = {"head": built.heads[-1], **about}
    info = ModelInfo(name=name, outputs=names, size=size, provenance=PROVENANCE, **about)
    return Deployable(built.eval(), info).eval()


@cache
def photo() -> NDArray[np.uint8]:
    """A dermoscopic image where there is one, else shapes with noise; H x W x 3."""
    folder = Path(os.environ.get("MEDARTS_DATA", "")) / "isic2017"
    found = next(folder.rglob("ISIC_*.jpg"), None) if folder.is_dir() else None
    if found is not None:
        return np.asarray(Image.open(found).convert("RGB"))
    rows, columns = np.mgrid[:400, :500]
    shape = ((rows - 180) ** 2 / 2 + (columns - 260) ** 2 < 10_000) * 120.0
    noise = np.random.default_rng(0).normal(60, 20, (400, 500, 3))
    return (shape[..., None] + noise).clip(0, 255).astype(np.uint8)


def largest_difference(one: Deployable, content: bytes, engine: Callable[..., Engine] = OnnxRuntimeEngine) -> float:
    """Returns how far an engine is from PyTorch on parts of odd sizes, alone and in batches."""
    differences = []
    exported, built = engine(content, threads=1), TorchEngine(one)
    for number, height, width in (
        (1, 137, 161),
        (3, one.info.size, one.info.size),
        (2, 50, 19),
        (1, 301, 287),
        (1, 3, 160),
    ):
        starts = [(17 * row, 23 * row) for row in range(number)]
        parts = [photo()[top : top + height, left : left + width, : one.info.in_channels] for top, left in starts]
        images = np.stack(parts).transpose(0, 3, 1, 2).astype(np.float32)
        # Percentiles of the image itself, and some that are given.
        limits = np.array([[np.nan, np.nan], [20, 190], [np.nan, np.nan]], np.float32)[:number]
        found, wanted = exported.run(images, limits), built.run(images, limits)
        assert list(found) == list(one.output_names)
        differences.append(np.abs(found["probabilities"] - wanted["probabilities"]).max())
        if min(height, width) > 3:  # a strip may be all of one colour
            assert np.ptp(wanted["probabilities"]) > 1e-3, "all probabilities are the same"
    return float(max(differences))


BASELINES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # Settings of the network; outputs, scaling and size.
    "unet": ({"width": 4, "depth": 3}, {"window": (20.0, 200.0)}),
    "attention-unet": ({"width": 4, "depth": 3}, {"outputs": 3, "in_channels": 3, "resize": "fit"}),
    "multiresunet": ({"width": 4, "depth": 3}, {"percentiles": (1.0, 99.0)}),
    "r2unet": ({"width": 4, "depth": 3}, {}),
    "attention-r2unet": ({"width": 4, "depth": 3}, {"head": "average"}),
    "resenc-unet": (
        {"width": 4, "depth": 4, "deep_supervision": True},
        {"percentiles": (0.5, 99.5), "in_channels": 3, "resize": "fit"},
    ),
    "unetpp": ({"width": 4, "depth": 3}, {"in_channels": 3, "head": "average"}),
    "mednext": ({"width": 4, "depth": 2}, {"in_channels": 3}),
    "chexnet": ({}, {"outputs": 14, "size": 64, "resize": "fit"}),
}

ZOO: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "alpha0_5_stage1_nodouble_deep_ep80": (
        {"architecture": shallow("alpha0_5_stage1_nodouble_deep_ep80"), "init_channel": 4, "norm": "batch"},
        {"window": (0.0, 180.0), "resize": "fit"},
    ),
    "layer7_double_deep": (
        {"architecture": shallow("layer7_double_deep"), "init_channel": 4},
        {"in_channels": 3, "outputs": 4, "percentiles": (2.0, 98.0), "head": "average"},
    ),
    "chestxray14_first_order": ({"init_channel": 4, "layers": 4}, {"outputs": 5, "size": 64}),
    "darts_v2": ({"init_channel": 4, "layers": 4}, {"outputs": 5, "percentiles": (1.0, 99.0)}),
}


def check_exported(name: str, network: dict[str, Any], about: dict[str, Any], *, openvino: bool = False) -> None:
    """Fails where an exported network gives other probabilities than PyTorch, or its graph is traced more than once."""
    one = deployable(name, network=network, task=task_of(architecture_named(name)), **about)
    gc.disable()  # takes a fifth of the time while a graph is traced
    try:
        with mock.patch.object(graphs, "_as_onnx", wraps=graphs._as_onnx) as translated:
            content = graphs.to_onnx(one)
    finally:
        gc.enable()
    assert translated.call_count == 1, "an operator that has no translation: the graph is traced once more"
    for engine in (OnnxRuntimeEngine, OpenVinoEngine) if openvino else (OnnxRuntimeEngine,):
        assert largest_difference(one, content, engine) < 1e-4
