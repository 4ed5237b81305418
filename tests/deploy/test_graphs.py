"""Exported networks: they give what PyTorch gives, whatever the network, size, range or batch."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import medarts
from medarts import create_model, list_models
from medarts.deploy.deployable import Deployable, TorchEngine
from medarts.deploy.engines import Engine, OnnxRuntimeEngine, OpenVinoEngine
from medarts.deploy.graphs import network_to_onnx, to_onnx
from medarts.deploy.info import ModelInfo, Provenance
from medarts.deploy.model import TrainedModel
from medarts.models import architecture_named, task_of
from medarts.network import FindingNetwork

PROVENANCE = Provenance(
    medarts="1", torch="2", created="2026-01-01", recipe="0" * 64, weights="1", architecture="x", seed=0, images={}
)


def deployable(name: str, *, outputs: int = 1, size: int = 32, network: Any = (), **about: Any) -> Deployable:
    """Returns a network with weights and statistics that no layer could be left out for."""
    about = {"task": "segmentation", "in_channels": 1, **about}
    torch.manual_seed(0)
    built = create_model(name, in_channels=about["in_channels"], outputs=outputs, **dict(network))
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


@pytest.fixture(scope="session")
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


def largest_difference(
    one: Deployable, content: bytes, photo: NDArray[np.uint8], engine: Callable[..., Engine] = OnnxRuntimeEngine
) -> float:
    """Returns how far an engine is from PyTorch on parts of odd sizes, alone and in batches."""
    differences = []
    exported, built = engine(content, threads=1), TorchEngine(one)
    for number, height, width in ((1, 137, 161), (3, one.info.size, one.info.size), (2, 50, 19), (1, 301, 287)):
        starts = [(17 * row, 23 * row) for row in range(number)]
        parts = [photo[top : top + height, left : left + width, : one.info.in_channels] for top, left in starts]
        images = np.stack(parts).transpose(0, 3, 1, 2).astype(np.float32)
        # Percentiles of the image itself, and some that are given.
        limits = np.array([[np.nan, np.nan], [20, 190], [np.nan, np.nan]], np.float32)[:number]
        found, wanted = exported.run(images, limits), built.run(images, limits)
        assert list(found) == list(one.output_names)
        differences.append(np.abs(found["probabilities"] - wanted["probabilities"]).max())
        assert np.ptp(wanted["probabilities"]) > 1e-3, "all probabilities are the same"
    return float(max(differences))


NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # Settings of the network; outputs, scaling and size.
    "unet": ({"width": 4, "depth": 3}, {"window": (20.0, 200.0)}),
    "attention-unet": ({"width": 4, "depth": 3}, {"outputs": 3, "in_channels": 3}),
    "multiresunet": ({"width": 4, "depth": 3}, {"percentiles": (1.0, 99.0)}),
    "r2unet": ({"width": 4, "depth": 3}, {}),
    "attention-r2unet": ({"width": 4, "depth": 3}, {"head": "average"}),
    "resenc-unet": ({"width": 4, "depth": 4, "deep_supervision": True}, {"percentiles": (0.5, 99.5), "in_channels": 3}),
    "unetpp": ({"width": 4, "depth": 3}, {"in_channels": 3, "head": "average"}),
    "alpha0_5_stage1_double_deep_ep80": ({"init_channel": 4}, {"in_channels": 3}),
    "alpha0_5_stage1_nodouble_deep_ep80": ({"init_channel": 4, "norm": "batch"}, {"window": (0.0, 180.0)}),
    "layer7_double_deep": ({"init_channel": 4, "norm": "batch"}, {"outputs": 4, "percentiles": (2.0, 98.0)}),
    "stage0_double_deep_ep80_newim": ({"init_channel": 4, "norm": "batch"}, {"head": "average"}),
    "stage1_layer9_110epoch_double_deep_final": ({"init_channel": 4, "norm": "batch"}, {}),
    "chexnet": ({}, {"outputs": 14, "size": 64}),
    "chestxray14_first_order": ({"init_channel": 4, "layers": 5}, {"outputs": 5, "size": 64}),
    "darts_v2": ({"init_channel": 4, "layers": 5}, {"outputs": 5, "percentiles": (1.0, 99.0)}),
}


def test_every_network_is_here() -> None:
    assert set(NETWORKS) == set(list_models())


@pytest.fixture
def without_collecting() -> Iterator[None]:
    """Collects no garbage while a graph is traced, which takes a fifth of the time."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collecting")
@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_network_gives_what_pytorch_gives(name: str, photo: NDArray[np.uint8]) -> None:
    network, about = NETWORKS[name]
    one = deployable(name, network=network, task=task_of(architecture_named(name)), **about)
    content = to_onnx(one)
    assert largest_difference(one, content, photo) < 1e-4
    if name in ("multiresunet", "attention-unet", "darts_v2"):
        assert largest_difference(one, content, photo, OpenVinoEngine) < 1e-4


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployable, Path]:
    one = deployable("unet", network={"width": 2, "depth": 2})
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    path.write_bytes(to_onnx(one))
    return one, path


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_exported_file_predicts_as_its_network(exported: tuple[Deployable, Path], engine: Any) -> None:
    one, path = exported
    image = np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8)
    model = medarts.load(path, engine=engine, threads=1)
    assert model.info == one.info
    seen = np.zeros((1, one.info.in_channels, 8, 9), np.float32)
    assert [*model.engine.run(seen, np.zeros((1, 2), np.float32))] == [*one.output_names]
    assert np.allclose(model.predict(image), TrainedModel(one.info, TorchEngine(one)).predict(image), atol=1e-4)


def test_predicting_with_an_exported_file_needs_no_pytorch(exported: tuple[Deployable, Path]) -> None:
    code = (
        "import sys, numpy, medarts; "
        f"medarts.load({str(exported[1])!r}).predict(numpy.zeros((8, 9), numpy.uint8)); "
        "assert not {'torch', 'onnx', 'pandas', 'scipy', 'monai', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["empty", "text", "cut", "foreign", "other version"])
def test_a_file_that_is_no_exported_network_is_one_error(
    exported: tuple[Deployable, Path], tmp_path: Path, engine: Any, kind: str
) -> None:
    content = exported[1].read_bytes()
    model = onnx.load_from_string(content)
    if kind == "foreign":
        del model.metadata_props[:]
    if kind == "other version":
        onnx.helper.set_model_props(model, {"medarts": '{"format": 99}'})
    bad = {"empty": b"", "text": b"hello", "cut": content[: len(content) // 2]}.get(kind, model.SerializeToString())
    path = tmp_path / "bad.onnx"
    path.write_bytes(bad)
    with pytest.raises(medarts.MedartsError, match=r"bad\.onnx"):
        medarts.load(path, engine=engine)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "about",
    [
        {"task": "classification"},
        {"outputs": ["background", "a", "b"]},
        {"in_channels": 3},
        {"percentiles": [1, 99]},
    ],
)
def test_metadata_of_another_graph_are_one_error(
    exported: tuple[Deployable, Path], tmp_path: Path, engine: Any, about: dict[str, Any]
) -> None:
    model = onnx.load_from_string(exported[1].read_bytes())
    info = {each.key: each.value for each in model.metadata_props}["medarts"]
    onnx.helper.set_model_props(model, {"medarts": json.dumps({**json.loads(info), **about})})
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(medarts.MedartsError, match=r"other\.onnx has other inputs or outputs than its metadata"):
        medarts.load(tmp_path / "other.onnx", engine=engine)


def test_an_exported_file_has_one_head_and_engine(exported: tuple[Deployable, Path]) -> None:
    for options in ({"head": "1"}, {"checkpoint": "last"}, {"domain": "isic"}):
        with pytest.raises(medarts.MedartsError, match="is exported"):
            medarts.load(exported[1], **options)
    with pytest.raises(medarts.MedartsError, match=r"'openvin'.*Did you mean 'openvino'"):
        medarts.load(exported[1], engine="openvin")


def test_metadata_describe_the_network(exported: tuple[Deployable, Path]) -> None:
    one, path = exported
    model = onnx.load(path)
    onnx.checker.check_model(model)
    about = {each.key: each.value for each in model.metadata_props}
    assert ModelInfo.model_validate(json.loads(about["medarts"])) == one.info
    assert about["classes"] == "foreground"
    assert [axis.dim_param for axis in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        "",
        "height",
        "width",
    ]


class Centred(FindingNetwork):
    """Has a buffer of the name that PyTorch gives an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(1))

    def check_size(self, size: int) -> None:
        pass

    def smallest_map(self, size: int) -> int:
        return size

    def features(self, x_bchw: Tensor) -> Tensor:
        return x_bchw - self.mean

    def classify(self, features_bchw: Tensor) -> Tensor:
        return 2 * features_bchw.mean((2, 3))


def test_a_network_alone_is_exported_with_a_dynamic_batch() -> None:
    network = Centred().eval()
    engine = OnnxRuntimeEngine(network_to_onnx(network, in_channels=2, size=16), threads=1)
    for batch in (1, 3):
        images = torch.rand(batch, 2, 16, 16)
        (logits,) = engine.run(images.numpy(), np.zeros((batch, 2), np.float32)).values()
        assert np.allclose(logits, network(images), atol=1e-5)
