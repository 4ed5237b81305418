"""CheXNet is DenseNet-121 as published, and starts from published weights whatever names they have."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medarts.config import parse
from medarts.config.reading import deciding_values
from medarts.errors import RecipeError
from medarts.models import scaled
from medarts.models.chexnet import SMALLEST, CheXNet, CheXNetSettings
from medarts.profiling.cost import count_parameters
from medarts.spaces import WIDTHS

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def trained() -> CheXNet:
    """A network whose norms have statistics, scales and shifts of their own, as after a training."""
    torch.manual_seed(0)
    network = CheXNet(outputs=5)
    generator = torch.Generator().manual_seed(1)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def monai(trained: CheXNet) -> State:
    return {name: tensor.contiguous() for name, tensor in trained.densenet.state_dict().items()}


def images(channels: int = 3, *, size: int = 64) -> Tensor:
    return torch.rand((2, channels, size, size), generator=torch.Generator().manual_seed(2))


def torchvision(state: State) -> State:
    return {
        key.replace(".layers.", ".").replace("class_layers.out.", "classifier."): tensor
        for key, tensor in state.items()
    }


def old_torchvision(state: State) -> State:
    """The names before 2018, without the batch norms' counts, as in densenet121-a639ec97.pth."""
    named = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): v for key, v in torchvision(state).items()}
    return {key: tensor for key, tensor in named.items() if not key.endswith("num_batches_tracked")}


def public_chexnet(state: State) -> State:
    named = {key.replace("classifier.", "classifier.0."): tensor for key, tensor in old_torchvision(state).items()}
    return {f"module.densenet121.{key}": tensor for key, tensor in named.items()}


def own(state: State) -> State:
    return {f"densenet.{key}": tensor for key, tensor in state.items()}


def written(path: Path, content: object) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def logits(network: CheXNet, x_bchw: Tensor) -> Tensor:
    with torch.inference_mode():
        found = network.eval()(x_bchw)
    return found


@pytest.mark.parametrize(
    ("channels", "outputs", "parameters"),
    [(3, 14, 6_968_206), (3, 1000, 7_978_856)],  # the second is what torchvision states for ImageNet
)
def test_it_has_the_published_number_of_parameters(channels: int, outputs: int, parameters: int) -> None:
    assert count_parameters(CheXNet(in_channels=channels, outputs=outputs)) == parameters


def test_a_budget_scales_it_by_its_growth() -> None:
    widths = scaled(CheXNetSettings())
    assert [settings.growth for settings in widths] == list(WIDTHS)
    narrow = CheXNet(CheXNetSettings(growth=2))
    assert narrow.features(torch.rand(1, 3, 64, 64)).shape == (1, 64, 2, 2)
    assert count_parameters(narrow) < count_parameters(CheXNet(CheXNetSettings(growth=3)))


def test_runs_from_before_it_had_a_growth_keep_their_recipe() -> None:
    content = {"data": {"sources": [{"kind": "table", "path": "clinic"}]}, "train": {"model": "chexnet"}}
    assert "growth" not in deciding_values(parse(content))["train"]["model"]


def test_it_is_drawn_from_the_seed_and_holds_nothing_but_the_densenet() -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(CheXNet(outputs=2).state_dict())
    assert all(key.startswith("densenet.") for key in states[0])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["densenet.features.conv0.weight"], states[2]["densenet.features.conv0.weight"])


def test_it_standardises_by_imagenet_and_is_then_what_monai_computes(trained: CheXNet) -> None:
    x = images()
    standard = torch.stack(
        [(x[:, 0] - 0.485) / 0.229, (x[:, 1] - 0.456) / 0.224, (x[:, 2] - 0.406) / 0.225],
        dim=1,
    )
    with torch.inference_mode():
        expected = trained.densenet(standard)
    torch.testing.assert_close(logits(trained, x), expected)


@pytest.mark.parametrize(("channels", "mean", "std"), [(1, 0.449, 0.226), (4, 0.45, 0.225)])
def test_other_numbers_of_channels_are_standardised_alike(channels: int, mean: float, std: float) -> None:
    network, x = CheXNet(in_channels=channels, outputs=2).eval(), images(channels)
    with torch.inference_mode():
        expected = network.densenet((x - mean) / std)
    torch.testing.assert_close(logits(network, x), expected)


def test_features_are_rectified_maps_and_classify_makes_logits_of_them(trained: CheXNet) -> None:
    x = images()
    with torch.inference_mode():
        maps = trained.features(x)
        before = maps.clone()
        found = trained.classify(maps)
    assert maps.shape == (2, 1024, 2, 2)
    assert maps.min() == 0 < maps.max()
    assert torch.equal(maps, before)
    torch.testing.assert_close(found, logits(trained, x))


def test_it_has_one_head(trained: CheXNet) -> None:
    assert trained.heads == ("last",)
    assert torch.equal(trained(images(), "last"), trained(images()))
    with pytest.raises(ValueError, match="middle"):
        trained(images(), "middle")


def test_it_takes_images_down_to_one_pixel_of_features(trained: CheXNet) -> None:
    trained.check_size(SMALLEST)
    trained.check_size(100)
    assert logits(trained, images(size=SMALLEST)).shape == (2, 5)
    with pytest.raises(RecipeError, match="31 is too small"):
        trained.check_size(31)


@pytest.mark.parametrize("size", [32, 61, 93, 95, 128])
def test_the_smallest_maps_are_the_last(size: int, trained: CheXNet) -> None:
    with torch.inference_mode():
        assert trained.features(images(size=size)).shape[2:] == (trained.smallest_map(size),) * 2


NAMINGS: list[tuple[Callable[[State], State], set[str]]] = [
    (dict, {"features.denseblock1.denselayer1.layers.norm1.weight", "class_layers.out.bias"}),
    (torchvision, {"features.denseblock1.denselayer1.norm1.weight", "classifier.bias"}),
    (old_torchvision, {"features.denseblock1.denselayer1.norm.1.weight", "classifier.bias"}),
    (public_chexnet, {
        "module.densenet121.features.denseblock4.denselayer16.conv.2.weight",
        "module.densenet121.classifier.0.weight",
    }),
    (own, {"densenet.features.denseblock1.denselayer1.layers.norm1.weight", "densenet.class_layers.out.bias"}),
]  # fmt: skip


@pytest.mark.parametrize(("naming", "published"), NAMINGS)
def test_a_file_of_any_naming_gives_equal_outputs(
    naming: Callable[[State], State], published: set[str], trained: CheXNet, monai: State, tmp_path: Path
) -> None:
    state = naming(monai)
    assert published <= set(state)
    network = CheXNet(CheXNetSettings(weights=written(tmp_path / "weights.safetensors", state)), outputs=5)
    assert torch.equal(logits(network, images()), logits(trained, images()))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pth.tar"])
def test_a_checkpoint_of_torch_may_hold_more_than_its_state(
    suffix: str, trained: CheXNet, monai: State, tmp_path: Path
) -> None:
    content = {"epoch": 3, "best_loss": 0.1, "state_dict": public_chexnet(monai), "optimizer": {"state": {}}}
    network = CheXNet(CheXNetSettings(weights=written(tmp_path / f"model{suffix}", content)), outputs=5)
    assert torch.equal(logits(network, images()), logits(trained, images()))


@pytest.mark.parametrize("with_head", [True, False])
def test_a_head_of_other_outputs_starts_afresh_and_the_features_are_taken(
    with_head: bool, trained: CheXNet, monai: State, tmp_path: Path
) -> None:
    state = {key: tensor for key, tensor in monai.items() if with_head or "class_layers" not in key}
    weights = written(tmp_path / "weights.safetensors", torchvision(state))
    torch.manual_seed(7)
    network = CheXNet(CheXNetSettings(weights=weights), outputs=3).eval()
    torch.manual_seed(7)
    fresh = CheXNet(outputs=3)
    assert torch.equal(network.densenet.class_layers.out.weight, fresh.densenet.class_layers.out.weight)
    with torch.inference_mode():
        assert torch.equal(network.features(images()), trained.features(images()))


FIRST, LAST = "features.conv0.weight", "features.norm5.bias"
CHANGES: list[tuple[str, Callable[[State], object], str]] = [
    ("w.safetensors", lambda s: {k: v for k, v in s.items() if k != FIRST}, f"{FIRST} is missing"),
    ("w.safetensors", lambda s: {k: v for k, v in s.items() if k != "class_layers.out.bias"}, "out.bias is missing"),
    ("w.safetensors", lambda s: s | {"features.extra": torch.ones(1)}, "features.extra is unknown"),
    ("w.safetensors", lambda s: s | {LAST: torch.ones(7)}, rf"{LAST} has the shape \(7,\), not \(1024,\)"),
    ("w.safetensors", lambda s: s | {f"module.{LAST}": torch.ones(1024)}, f"{LAST} and module.{LAST} are one"),
    ("w.pt", lambda s: {"model": s, "epoch": 3}, "'model' is not a tensor"),
    ("w.pt", lambda s: [*s.values()], "holds a list"),
    ("w.pt", lambda s: Path("anything but plain values"), "cannot be read"),
    ("w.onnx", lambda s: s, "is not a file of weights"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "words"), CHANGES)
def test_a_file_that_does_not_fit_is_refused_with_its_first_key(
    name: str, change: Callable[[State], object], words: str, monai: State, tmp_path: Path
) -> None:
    weights = written(tmp_path / name, change(monai))
    with pytest.raises(RecipeError, match=words) as caught:
        CheXNet(CheXNetSettings(weights=weights), outputs=5)
    assert str(weights) in caught.value.problem
    assert caught.value.fix


def test_weights_for_colours_do_not_fit_grey_images(monai: State, tmp_path: Path) -> None:
    weights = written(tmp_path / "w.safetensors", torchvision(monai))
    with pytest.raises(RecipeError, match=r"features\.conv0\.weight.* for images of 1 channel\."):
        CheXNet(CheXNetSettings(weights=weights), in_channels=1, outputs=5)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_missing_and_a_damaged_file_are_told_apart(name: str, tmp_path: Path) -> None:
    weights = tmp_path / name
    with pytest.raises(RecipeError, match="There is no file of weights"):
        CheXNet(CheXNetSettings(weights=weights))
    weights.write_bytes(b"no weights at all")
    with pytest.raises(RecipeError, match="cannot be read"):
        CheXNet(CheXNetSettings(weights=weights))


def test_it_learns(trained: CheXNet) -> None:
    """Gradients reach the first convolution past the rectification in place."""
    network = CheXNet(in_channels=1, outputs=2)
    found = network(images(1))
    nn.functional.binary_cross_entropy_with_logits(found, torch.ones_like(found)).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.densenet.features.conv0.weight.grad.abs().max() > 0
