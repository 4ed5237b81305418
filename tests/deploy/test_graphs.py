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
import torch.nn.functional as F
from tests.deploy.engines_of_tests import findings_info
from tests.deploy.networks_of_tests import BASELINES, check_exported, deployable
from torch import Tensor, nn

import medarts
from medarts.deploy.deployable import Deployable, TorchEngine
from medarts.deploy.engines import OnnxRuntimeEngine
from medarts.deploy.graphs import Translation, network_to_onnx, to_onnx
from medarts.deploy.info import ModelInfo
from medarts.deploy.model import TrainedModel
from medarts.deploy.quantization import quantized
from medarts.models import build_network
from medarts.network import FindingNetwork, Network
from medarts.network.layers import Norm
from medarts.registry import models
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings
from medarts.spaces.nas_wdan.settings import NasWdanChoices


def test_every_baseline_is_here() -> None:
    assert {*BASELINES} == {*models.names()}


@pytest.mark.parametrize("name", BASELINES)
def test_an_exported_baseline_gives_what_pytorch_gives(name: str, small_densenet: None) -> None:
    check_exported(name, *BASELINES[name], openvino=name in ("multiresunet", "attention-unet"))


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


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_weights_that_are_not_numbers_give_no_masks(
    exported: tuple[Deployable, Path], tmp_path: Path, engine: Any
) -> None:
    model = onnx.load_from_string(exported[1].read_bytes())
    weight = next(each for each in model.graph.initializer if len(each.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(weight.dims, np.nan, np.float32), weight.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(medarts.MedartsError, match=r"not numbers \(NaN\).*export it again"):
        medarts.load(tmp_path / "nan.onnx", engine=engine).predict(np.zeros((8, 9), np.uint8))


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


class ChangedLater(Centred):
    """Reads what an operator has changed in its place."""

    def features(self, x_bchw: Tensor) -> Tensor:
        centred = x_bchw - 0.5
        return centred + 3 * centred.relu_() + centred[:, :1].neg_()


class OfTheBatch(Centred):
    """Has an operator that is translated in parts alone."""

    def features(self, x_bchw: Tensor) -> Tensor:
        return F.batch_norm(x_bchw, None, None, training=True)[:, :, 1:, 1:]


@pytest.mark.parametrize("kind", [Centred, ChangedLater, OfTheBatch])
def test_a_network_alone_is_exported_with_a_dynamic_batch(kind: type[Centred]) -> None:
    network = kind().eval()
    engine = OnnxRuntimeEngine(network_to_onnx(network, in_channels=2, size=16), threads=1)
    for batch in (1, 3):
        images = torch.rand(batch, 2, 16, 16)
        (logits,) = engine.run(images.numpy(), np.zeros((batch, 2), np.float32)).values()
        assert np.allclose(logits, network(images), atol=1e-5)


class WithAConstant(Centred):
    """Has its number of channels in an operator, which the weights of another width do not tell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.convolution = channels, nn.Conv2d(2, channels, 3)

    def features(self, x_bchw: Tensor) -> Tensor:
        return self.convolution(x_bchw) / self.channels


def of_genotype(channels: int, norm: Norm, *, nodes: int = 4, full: bool = False) -> Network:
    """A genotype with every operation that has weights, so that some see each channel by itself."""
    torch.manual_seed(channels)
    choices = NasWdanChoices(depth=(3,), intermediate_nodes=(nodes,), full_size_head=(full,))
    sampled = NasWdan.sample(NasWdanSettings(choices=choices), seed=6)
    return build_network(sampled.with_settings(init_channel=channels), in_channels=2, outputs=1, norm=norm).eval()


@pytest.mark.parametrize("full", [False, True])
def test_another_width_has_the_graph_that_it_would_get_itself(full: bool) -> None:
    first = Translation(of_genotype(3, "batch", full=full), in_channels=2, size=16)
    wider = of_genotype(5, "batch", full=full)
    assert first.of(wider) == network_to_onnx(wider, in_channels=2, size=16)


def test_a_graph_is_not_that_of_a_network_with_other_operators() -> None:
    first = Translation(of_genotype(3, "batch"), in_channels=2, size=16)
    assert first.of(of_genotype(3, "batch", nodes=3)) is None
    assert first.of(of_genotype(4, "group")) is None
    constant = Translation(WithAConstant(2).eval(), in_channels=2, size=16)
    assert constant.of(WithAConstant(2).eval()) is not None
    assert constant.of(WithAConstant(3).eval()) is None


class Classifier(Centred):
    """A convolution, the mean over its maps, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

    def features(self, x_bchw: Tensor) -> Tensor:
        return self.convolution(x_bchw).relu()

    def classify(self, features_bchw: Tensor) -> Tensor:
        return self.linear(features_bchw.mean((2, 3)))


def test_findings_in_int8_are_ranked_by_more_than_256_values() -> None:
    torch.manual_seed(0)
    content = network_to_onnx(Classifier().eval(), in_channels=1, size=16)
    grey = np.random.default_rng(0).random((400, 16, 16), np.float32)
    store = medarts.from_arrays(grey, np.arange(800).reshape(400, 2) % 2, splits=["val"] * 400)
    info = findings_info(expected_range=(0.0, 1.0))
    limits = np.zeros((400, 2), np.float32)
    contents = (content, quantized(content, info, store))
    in_float, in_int8 = (OnnxRuntimeEngine(each, threads=1).run(grey[:, None], limits)["logits"] for each in contents)
    assert all(len(np.unique(logits)) > 390 for logits in in_int8.T)
    assert all(np.corrcoef(one, other)[0, 1] > 0.98 for one, other in zip(in_float.T, in_int8.T, strict=True))
