"""Exported networks: they give what PyTorch gives, whatever the network, size, range or batch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import medarts
from medarts import create_model
from medarts.deploy.deployable import Deployable, TorchEngine
from medarts.deploy.engines import OnnxRuntimeEngine
from medarts.deploy.export import network_to_onnx, to_onnx
from medarts.deploy.info import ModelInfo, Provenance
from medarts.deploy.model import TrainedModel
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


def largest_difference(one: Deployable, content: bytes) -> float:
    """Returns how far ONNX Runtime is from PyTorch on images of odd sizes, in batches."""
    generator, differences = np.random.default_rng(0), []
    exported, built = OnnxRuntimeEngine(content, threads=1), TorchEngine(one)
    for shape in ((1, 37, 61), (3, 32, 32), (2, 50, 19)):
        images = generator.integers(0, 256, (shape[0], one.info.in_channels, *shape[1:])).astype(np.float32)
        limits = np.full((shape[0], 2), np.nan, np.float32)
        found, wanted = exported.run(images, limits), built.run(images, limits)
        assert list(found) == list(one.output_names)
        differences.append(np.abs(found["probabilities"] - wanted["probabilities"]).max())
    return float(max(differences))


@pytest.mark.parametrize(
    ("outputs", "about"),
    [(1, {}), (3, {"percentiles": (1.0, 99.0), "in_channels": 3}), (1, {"window": (20.0, 200.0)})],
)
def test_an_exported_network_gives_what_pytorch_gives(outputs: int, about: dict[str, Any]) -> None:
    one = deployable("unet", outputs=outputs, network={"width": 4, "depth": 2}, **about)
    assert largest_difference(one, to_onnx(one)) < 1e-4


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
