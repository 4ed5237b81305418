"""Baselines give the same outputs for inference as they give as built."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from medarts.errors import RecipeError
from medarts.models.attention_unet import AttentionUNet, AttentionUNetSettings
from medarts.models.baseline import BaselineNetwork
from medarts.models.blocks import UpConv, norm_maker
from medarts.models.folded import FoldedNetwork, ImageNorm
from medarts.models.multiresunet import MultiResUNet, MultiResUNetSettings
from medarts.models.r2unet import AttentionR2UNet, AttentionR2UNetSettings, R2UNet, R2UNetSettings
from medarts.models.resenc_unet import ResEncUNet, ResEncUNetSettings
from medarts.models.unet import UNet, UNetSettings
from medarts.models.unetpp import UNetPP, UNetPPSettings
from medarts.network import Network
from medarts.network.inference import for_inference
from medarts.network.layers import Norm
from medarts.network.packed import Convolution
from medarts.spaces.darts.network import DartsNetwork
from medarts.spaces.genotype import load_genotype as load

KINDS: dict[type, type] = {
    UNet: UNetSettings,
    AttentionUNet: AttentionUNetSettings,
    MultiResUNet: MultiResUNetSettings,
    R2UNet: R2UNetSettings,
    AttentionR2UNet: AttentionR2UNetSettings,
    UNetPP: UNetPPSettings,
    ResEncUNet: ResEncUNetSettings,
}

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
every_kind_and_norm = pytest.mark.parametrize(
    ("kind", "norm"),
    # Batch norms are usual for all others.
    [(kind, norm) for kind in KINDS for norm in (None, "group", "batch") if norm != "batch" or kind is ResEncUNet],
)


def make(kind: type, *, width: int = 6, depth: int = 3, norm: Norm | None = None, outputs: int = 2) -> BaselineNetwork:
    """Returns a network in evaluation mode whose norms scale, shift and have statistics, as after a training."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    network = kind(KINDS[kind](width=width, depth=depth), outputs=outputs, norm=norm)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            low, high = (0.5, 1.5) if name.endswith("weight") else (-0.5, 0.5)
            parameter.data.uniform_(low, high, generator=generator)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, 3, 32, 32, generator=generator))
    return cast(BaselineNetwork, network.eval())


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def outputs_of(network: Network, x: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return network(x, all_heads=True)


@every_kind_and_norm
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_outputs_are_equal(kind: type, norm: Norm | None, dtype: torch.dtype, atol: float) -> None:
    network = make(kind, norm=norm).double()
    x = images(2, 3, 16, 40).double()
    expected = outputs_of(network, x)
    found = for_inference(network.to(dtype))(x.to(dtype), all_heads=True)
    assert len(found) == len(expected) == len(network.heads)
    assert float(expected[-1].std()) > 0.02
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=atol, atol=atol)


@every_kind_and_norm
def test_bf16_gives_fp32_logits_nearby(kind: type, norm: Norm | None) -> None:
    network, x = make(kind, norm=norm, width=8), images(2, 3, 32, 32)
    for a, b in zip(
        for_inference(network, dtype=torch.bfloat16)(x, all_heads=True), outputs_of(network, x), strict=True
    ):
        assert a.dtype == torch.float32
        assert float((a - b).square().mean().sqrt()) < 0.08 * float(b.square().mean().sqrt())


@every_kind
def test_a_head_alone_gives_the_same(kind: type) -> None:
    network, x = make(kind), images(1, 3, 32, 32)
    fast = for_inference(network)
    everything = fast(x, all_heads=True)
    assert fast.heads == network.heads
    for head, expected in zip(fast.heads, everything, strict=True):
        alone = fast(x, head)
        assert torch.equal(alone, expected)
    with pytest.raises(ValueError, match="no head 'first'"):
        fast(x, "first")


def test_a_head_alone_runs_the_parts_it_needs() -> None:
    fast, ran = cast(FoldedNetwork, for_inference(make(UNetPP))), set()
    for key, node in cast(UNetPP, fast.network).nodes.items():
        node.register_forward_hook(lambda *_, key=key: ran.add(key))
    fast(images(1, 3, 16, 16), "1")
    assert ran == {"0_0", "1_0", "0_1"}


def test_sizes_are_checked_alike() -> None:
    fast = for_inference(make(UNet))
    fast.check_size(32)
    assert fast.smallest_map(32) == 8
    with pytest.raises(RecipeError, match="size 22 cannot be halved 2 times"):
        fast.check_size(22)


@every_kind_and_norm
def test_the_network_stays_as_it_is_and_the_copy_as_it_was(kind: type, norm: Norm | None) -> None:
    network, x = make(kind, norm=norm).train(), images(2, 3, 16, 16)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fast = for_inference(network)
    first = fast(x)
    assert network.training
    assert not any(part.training for part in fast.modules())
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    for tensor in network.state_dict().values():
        tensor.zero_()
    assert torch.equal(fast(x), first)
    assert not first.requires_grad


@every_kind
def test_norms_become_parts_of_convolutions(kind: type) -> None:
    parts = list(for_inference(make(kind)).modules())
    assert not any(isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.InstanceNorm2d) for part in parts)
    # Two norms of a MultiRes block and one of a step of a path follow no convolution.
    left = sum(isinstance(part, nn.BatchNorm2d) for part in parts)
    assert left == ((3 + 2) * 2 + (2 + 1) if kind is MultiResUNet else 0)


@pytest.mark.parametrize("width", [3, 5, 8, 12, 16, 20, 24, 32])
def test_any_width(width: int) -> None:
    network = make(UNet, width=width)
    fast = for_inference(network)
    for shape in ((1, 3, 32, 32), (2, 3, 64, 96), (1, 3, 128, 128)):
        x = images(*shape)
        torch.testing.assert_close(fast(x), outputs_of(network, x)[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [UNet, AttentionUNet, R2UNet, UNetPP])
def test_maps_stay_channels_last(kind: type) -> None:
    fast = for_inference(make(kind, width=16))
    layouts = []
    for part in fast.modules():
        if isinstance(part, Convolution):
            part.register_forward_hook(lambda _, given, made: layouts.extend([given[0], made]))
    fast(images(2, 3, 32, 32))
    assert len(layouts) > 20
    assert all(map_.is_contiguous(memory_format=torch.channels_last) for map_ in layouts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 5)])
def test_upsampling_and_convolution_are_one_transposed_convolution(size: tuple[int, int], dtype: torch.dtype) -> None:
    """At borders too, where the convolution reads zeros."""
    network = make(UNet, depth=2).to(dtype)
    step = cast(nn.ModuleList, network.decoder)[0]
    fast = cast(nn.ModuleList, cast(FoldedNetwork, for_inference(network)).network.decoder)[0]
    x = images(2, 12, *size).to(dtype)
    with torch.inference_mode():
        expected, found = step.up(x), fast.up(x.contiguous(memory_format=torch.channels_last))
    assert isinstance(step.up, UpConv)
    assert found.shape == expected.shape == (2, 6, 2 * size[0], 2 * size[1])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("batch", [1, 3])
def test_instance_norm_of_every_image(batch: int) -> None:
    torch.manual_seed(0)
    norm = cast(nn.InstanceNorm2d, norm_maker(None, paper="instance")(5))
    norm.weight.data.uniform_(0.5, 2)
    norm.bias.data.uniform_(-1, 1)
    x = (3 * images(batch, 5, 6, 7) + 1).contiguous(memory_format=torch.channels_last)
    found = ImageNorm(norm)(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, norm(x).detach())


def test_networks_for_findings_have_no_such_form() -> None:
    with torch.device("meta"):
        network = DartsNetwork(load("darts_v2").with_settings(layers=4, init_channel=4))
    with pytest.raises(TypeError, match="DartsNetwork has no form"):
        for_inference(network)
