"""Baselines: sizes, parameters, heads, gradients."""

import copy
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.errors import RecipeError, RunError
from medarts.models.attention_unet import AttentionUNet, AttentionUNetSettings
from medarts.models.baseline import BaselineNetwork, EncoderDecoder
from medarts.models.blocks import AttentionGate, ConvNorm, UpConv, norm_maker
from medarts.models.multiresunet import MultiResBlock, MultiResUNet, MultiResUNetSettings, PathStep, block_channels
from medarts.models.r2unet import (
    AttentionR2UNet,
    AttentionR2UNetSettings,
    R2UNet,
    R2UNetSettings,
    RecurrentConv,
    StepBatchNorm,
)
from medarts.models.resenc_unet import ResEncUNet, ResEncUNetSettings, ResidualBlock
from medarts.models.unet import UNet, UNetSettings
from medarts.models.unetpp import UNetPP, UNetPPSettings
from medarts.network.layers import Norm

KINDS: dict[type, type] = {
    UNet: UNetSettings,
    AttentionUNet: AttentionUNetSettings,
    MultiResUNet: MultiResUNetSettings,
    R2UNet: R2UNetSettings,
    AttentionR2UNet: AttentionR2UNetSettings,
    UNetPP: UNetPPSettings,
    ResEncUNet: ResEncUNetSettings,
}
NORMS: tuple[Norm | None, ...] = (None, "group", "batch")

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
every_norm = pytest.mark.parametrize("norm", NORMS)
every_kind_and_norm = pytest.mark.parametrize(
    ("kind", "norm"),
    # Batch norms are usual for all others.
    [(kind, norm) for kind in KINDS for norm in NORMS if norm != "batch" or kind is ResEncUNet],
)


def make(
    kind: type,
    *,
    in_channels: int = 3,
    outputs: int = 1,
    norm: Norm | None = None,
    **settings: int | bool,
) -> BaselineNetwork:
    torch.manual_seed(0)
    chosen = KINDS[kind](**({"width": 4, "depth": 3} | settings))
    return cast(BaselineNetwork, kind(chosen, in_channels=in_channels, outputs=outputs, norm=norm))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


class Broken(nn.Module):
    def forward(self, *_: Tensor) -> Tensor:
        raise AssertionError("this part is not needed")


# Millions as published, or as the reference table of NAS-WDAN has them; see the docstring of every network.
PUBLISHED: list[tuple[type, dict[str, Any], float]] = [
    (UNet, {"width": 64}, 34.53),
    (AttentionUNet, {"width": 64, "deep_supervision": False}, 34.89),
    (AttentionUNet, {"width": 64}, 34.89),
    (MultiResUNet, {"width": 32}, 7.26),
    (MultiResUNet, {"width": 70}, 34.84),
    (R2UNet, {"width": 64}, 39.09),
    (R2UNet, {"width": 64, "steps": 3}, 39.09),
    (AttentionR2UNet, {"width": 64}, 39.44),
    (UNetPP, {"width": 64}, 36.63),
]


@pytest.mark.parametrize(("kind", "settings", "millions"), PUBLISHED)
def test_parameters_at_full_width(kind: type, settings: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        assert count(make(kind, depth=5, **settings)) == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "settings", "exact"),
    [
        (UNet, {}, 34_527_041),
        (AttentionUNet, {"deep_supervision": False}, 34_878_573),
        (R2UNet, {}, 39_091_393),
        (AttentionR2UNet, {}, 39_442_925),
        (UNetPP, {"deep_supervision": False}, 36_629_633),
    ],
)
def test_parameters_of_the_public_forms(kind: type, settings: dict[str, Any], exact: int) -> None:
    with torch.device("meta"):
        assert count(make(kind, width=64, depth=5, **settings)) == exact


def test_defaults_are_those_of_the_papers() -> None:
    with torch.device("meta"):
        assert count(UNet(UNetSettings())) == 34_527_041
        assert count(UNetPP(UNetPPSettings())) == count(make(UNetPP, width=64, depth=5))


def test_residual_encoder_has_nnunets_blocks_and_widths() -> None:
    with torch.device("meta"):
        net = cast(ResEncUNet, make(ResEncUNet, width=32, depth=7))
    blocks = [[part for part in stage.modules() if isinstance(part, ResidualBlock)] for stage in net.encoder]
    assert [len(stage) for stage in blocks] == [1, 3, 4, 6, 6, 6, 6]
    assert [stage[-1].conv2.conv.out_channels for stage in blocks] == [32, 64, 128, 256, 512, 512, 512]
    assert all(isinstance(part.norm, nn.InstanceNorm2d) for part in net.modules() if isinstance(part, ConvNorm))


@every_kind
def test_width_and_depth(kind: type) -> None:
    with torch.device("meta"):
        counts = [count(make(kind, width=width, depth=4)) for width in (16, 32)]
        deeper = [count(make(kind, depth=depth)) for depth in (2, 3, 4)]
    assert counts[1] / counts[0] == pytest.approx(4, rel=0.05)
    assert all(after > 3 * before for before, after in pairwise(deeper))


@every_kind_and_norm
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_shapes(kind: type, norm: Norm | None, depth: int) -> None:
    net = make(kind, depth=depth, in_channels=2, outputs=3, norm=norm)
    outs = net(images(2, 2, 32, 64), all_heads=True)
    assert [tuple(out.shape) for out in outs] == [(2, 3, 32, 64)] * len(net.heads)
    assert all(torch.isfinite(out).all() for out in outs)


@every_kind
def test_heads_are_named_from_early_to_last(kind: type) -> None:
    expected = {
        AttentionUNet: ("1/8", "1/4", "1/2", "1"),
        UNetPP: ("1", "2", "3", "4"),
        ResEncUNet: ("1/2", "1"),
    }
    assert make(kind, depth=5).heads == expected.get(kind, ("last",))
    assert make(kind, depth=2).heads == ("last",)


@pytest.mark.parametrize("kind", [AttentionUNet, UNetPP, ResEncUNet])
def test_without_deep_supervision_there_is_the_last_head_alone(kind: type) -> None:
    net = make(kind, depth=5, deep_supervision=False)
    assert net.heads == ("last",)
    assert len(net(images(2, 3, 32, 32), all_heads=True)) == 1
    assert count(net) < count(make(kind, depth=5))


@every_kind
def test_a_head_alone_gives_the_same(kind: type) -> None:
    net, x = make(kind, depth=5).eval(), images(2, 3, 32, 48)
    everything = net(x, all_heads=True)
    assert len(everything) == len(net.heads)
    for head, expected in zip(net.heads, everything, strict=True):
        alone = net(x, head)
        assert torch.equal(alone, expected)


@every_kind
def test_the_average_is_the_mean_of_the_logits_of_all_heads(kind: type) -> None:
    net, x = make(kind, depth=3).eval(), images(2, 3, 32, 48)
    assert torch.allclose(net(x, "average"), sum(net(x, head) for head in net.heads) / len(net.heads), atol=1e-6)


@every_kind
def test_no_such_head(kind: type) -> None:
    with pytest.raises(ValueError, match="no head '2,0'"):
        make(kind)(images(1, 3, 8, 8), "2,0")
    with pytest.raises(RunError, match="no head '2,0'"):
        make(kind).head_named("2,0")
    assert make(kind).head_named(None) == make(kind).heads[-1]


@pytest.mark.parametrize("end", [1, 2, 3, 4])
def test_a_nested_network_runs_without_what_is_deeper(end: int) -> None:
    net = cast(UNetPP, make(UNetPP, depth=5).eval())
    x = images(1, 3, 32, 32)
    expected = net(x, all_heads=True)[end - 1]
    for key in net.nodes:
        level, place = map(int, key.split("_"))
        if level + place > end:
            net.nodes[key] = Broken()
    for head in net.heads:
        if head != str(end):
            net.head_convs[head] = Broken()
    assert torch.equal(net(x, str(end)), expected)
    if end < 4:
        with pytest.raises(AssertionError, match="not needed"):
            net(x, str(end + 1))


def test_a_nested_network_is_a_unet_plus_plus_of_less_depth() -> None:
    deep, small = make(UNetPP, depth=4).eval(), make(UNetPP, depth=3).eval()
    small.load_state_dict({key: deep.state_dict()[key] for key in small.state_dict()})
    x = images(1, 3, 16, 16)
    for a, b in zip(deep(x, all_heads=True), small(x, all_heads=True), strict=False):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", [AttentionUNet, ResEncUNet])
def test_a_head_of_the_decoder_runs_without_what_follows(kind: type) -> None:
    net = cast(EncoderDecoder, make(kind, depth=5).eval())
    x = images(1, 3, 32, 32)
    expected = net(x, all_heads=True)
    for place, head in enumerate(net.heads[:-1]):
        cut = copy.deepcopy(net)
        for step in range(net.depth - 1 - net.head_levels[place], net.depth - 1):
            cut.decoder[step] = Broken()
        for other in range(len(net.heads)):
            if other != place:
                cut.head_convs[other] = Broken()
        assert torch.equal(cut(x, head), expected[place])


@every_kind
def test_sizes(kind: type) -> None:
    net = make(kind, depth=4)
    assert net.divisor == 8
    for size in (8, 24, 96):
        net.check_size(size)
    assert (net.smallest_map(96), net.smallest_map(8)) == (12, 1)
    for size, fix in ((20, "Use 16 or 24."), (4, "Use 8."), (0, "Use 8."), (-8, "Use 8.")):
        with pytest.raises(RecipeError, match=f"size {size} cannot be halved 3 times") as caught:
            net.check_size(size)
        assert caught.value.fix == fix


def test_a_network_of_two_resolutions_halves_once() -> None:
    with pytest.raises(RecipeError, match="size 7 cannot be halved once"):
        make(UNet, depth=2).check_size(7)


@every_kind
@every_norm
def test_norms(kind: type, norm: Norm | None) -> None:
    usual: set[type] = {nn.InstanceNorm2d} if kind is ResEncUNet else {nn.BatchNorm2d, StepBatchNorm}
    expected = {None: usual, "batch": {nn.BatchNorm2d, StepBatchNorm}, "group": {nn.GroupNorm}}[norm]
    norms = [
        part for part in make(kind, norm=norm).modules()
        if isinstance(part, nn.GroupNorm | nn.BatchNorm2d | nn.InstanceNorm2d | StepBatchNorm)
    ]  # fmt: skip
    assert norms
    assert {type(part) for part in norms} <= expected
    assert all(part.weight is not None and part.bias is not None for part in norms)


@every_kind_and_norm
@pytest.mark.parametrize(("width", "dtype"), [(4, torch.float32), (16, torch.float32), (8, torch.float64)])
def test_gradients_channels_last_are_those_of_contiguous_float64(
    kind: type, norm: Norm | None, width: int, dtype: torch.dtype
) -> None:
    """At odd maps too, in the lowest levels; the memory layouts that meet in a backward pass have been wrong before.

    In float32 single ReLUs close to zero switch, which wrong gradients exceed by far.
    """
    rtol, atol = (2e-3, 1e-5) if dtype == torch.float32 else (1e-9, 1e-10)
    net = make(kind, width=width, norm=norm).to(dtype)
    exact = copy.deepcopy(net).double().to(memory_format=torch.contiguous_format)
    x = images(3, 3, 20, 12).to(dtype).requires_grad_()
    x64 = x.detach().double().requires_grad_()
    outs, outs64 = net(x, all_heads=True), exact(x64, all_heads=True)
    weights = [images(*out.shape) for out in outs]
    sum((out * weight).sum() for out, weight in zip(outs, weights, strict=True)).backward()
    sum((out * weight).sum() for out, weight in zip(outs64, weights, strict=True)).backward()
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in net.parameters() if p.ndim == 4)
    pairs = [(x, x64), *zip(net.parameters(), exact.parameters(), strict=True)]
    largest = max(float(expected.grad.norm()) for _, expected in pairs if expected.grad is not None)
    for a, b in zip(outs, outs64, strict=True):
        assert float((a - b).detach().norm()) < rtol * float(b.detach().norm())
    for found, expected in pairs:
        assert found.grad is not None
        assert expected.grad is not None
        assert float((found.grad - expected.grad).norm()) < rtol * float(expected.grad.norm()) + atol * largest


@every_kind
def test_gradients_reach_all_weights(kind: type) -> None:
    """All but the biases that a norm takes away again."""
    net = make(kind, depth=4).double()
    sum(out.square().mean() for out in net(images(2, 3, 32, 32).double(), all_heads=True)).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith(("conv.bias", "widen.bias")):
            assert float(parameter.grad.abs().max()) > 1e-12, name


@every_kind_and_norm
def test_bf16_autocast(kind: type, norm: Norm | None) -> None:
    net, x = make(kind, norm=norm), images(2, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outs = net(x, all_heads=True)
        loss = sum(F.binary_cross_entropy_with_logits(out, torch.ones_like(out)) for out in outs)
    cast(Tensor, loss).backward()
    assert all(out.dtype == torch.float32 and torch.isfinite(out).all() for out in outs)
    assert all(torch.isfinite(cast(Tensor, parameter.grad)).all() for parameter in net.parameters())


@every_kind
def test_a_few_steps_of_training_lower_the_loss(kind: type) -> None:
    net, target = make(kind), torch.zeros(4, 1, 16, 16)
    for image, mask in enumerate(target):
        mask[:, image + 2 : image + 9, 3 : 7 + image] = 1
    x = target + 0.3 * images(4, 3, 16, 16)
    optimizer, losses = torch.optim.Adam(net.parameters(), 1e-2), []
    for _ in range(12):
        optimizer.zero_grad()
        loss = torch.stack([F.binary_cross_entropy_with_logits(out, target) for out in net(x, all_heads=True)]).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_up_convolution_is_nearest_upsampling() -> None:
    up, x = UpConv(3, 4, make_norm=norm_maker("group")), images(1, 3, 3, 5)
    doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(up(x), up.conv(doubled))


@every_norm
def test_gates_weigh_pixels_from_0_to_1(norm: Norm | None) -> None:
    gate = AttentionGate(8, make_norm=norm_maker(norm))
    gating, skip = 10 * images(2, 8, 5, 7), images(2, 8, 7, 5).transpose(2, 3)
    weights = gate.weights(gating, skip).detach()
    assert weights.shape == (2, 1, 5, 7)
    assert 0 <= float(weights.min()) < 0.4
    assert 0.6 < float(weights.max()) <= 1
    torch.testing.assert_close(gate(gating, skip), skip * weights)


@pytest.mark.parametrize("kind", [R2UNet, AttentionR2UNet])
def test_steps_change_outputs_but_not_parameters(kind: type) -> None:
    nets, x = [make(kind, steps=steps) for steps in (1, 2, 3)], images(2, 3, 16, 16)
    outs = [net(x) for net in nets]
    first = dict(nets[0].named_parameters())
    for net in nets[1:]:
        assert {name: p.shape for name, p in net.named_parameters()} == {name: p.shape for name, p in first.items()}
        assert all(torch.equal(p, first[name]) for name, p in net.named_parameters())
    assert not torch.allclose(outs[0], outs[1], atol=1e-3)
    assert not torch.allclose(outs[1], outs[2], atol=1e-3)


@pytest.mark.parametrize("norm", [None, "group"])
def test_recurrent_convolution_by_its_formula(norm: Norm | None) -> None:
    torch.manual_seed(0)
    block, x = RecurrentConv(4, steps=2, norm=norm), images(3, 4, 6, 6)
    plain = nn.BatchNorm2d(4) if norm is None else nn.GroupNorm(1, 4)

    def once(given: Tensor) -> Tensor:
        return F.relu(plain(F.conv2d(given, block.conv.weight, block.conv.bias, padding=1)))

    torch.testing.assert_close(block(x), once(x + once(x + once(x))))


def test_every_recurrent_step_has_its_own_statistics() -> None:
    """Statistics shared by the steps fit none of them: in evaluation mode other maps would come out."""
    torch.manual_seed(0)
    block, x = RecurrentConv(4, steps=2, norm=None), images(16, 4, 8, 8)
    for _ in range(200):
        in_training = block(x)
    torch.testing.assert_close(block.eval()(x), in_training, rtol=0.02, atol=0.02)
    means = cast(StepBatchNorm, block.norm).running_mean
    assert means.shape == (3, 4)
    assert not torch.allclose(means[0], means[2], atol=1e-2)


def test_multires_blocks_split_their_channels() -> None:
    assert block_channels(32) == (8, 17, 26)  # of 53.44
    block = MultiResBlock(3, 32, make_norm=norm_maker(None))
    assert [cast(ConvNorm, conv).conv.out_channels for conv in block.convs] == [8, 17, 26]
    assert block(images(2, 3, 8, 8)).shape == (2, 51, 8, 8)


def test_paths_are_longer_where_they_are_farther_from_the_decoder() -> None:
    net = cast(MultiResUNet, make(MultiResUNet, depth=5))
    paths = [cast(nn.Sequential, cast(PathStep, step).path) for step in net.decoder]
    assert [len(path) for path in paths] == [1, 2, 3, 4]


@pytest.mark.parametrize(("before", "stride"), [(4, 1), (4, 2), (6, 1), (6, 2)])
def test_residual_block_by_its_formula(before: int, stride: int) -> None:
    torch.manual_seed(0)
    block = ResidualBlock(before, 4, stride=stride, make_norm=norm_maker(None, paper="instance"))
    x = images(2, before, 6, 10)

    def normed(part: ConvNorm, given: Tensor, **options: int) -> Tensor:
        return F.instance_norm(F.conv2d(given, part.conv.weight, part.conv.bias, **options))

    inner = normed(block.conv2, F.leaky_relu(normed(block.conv1, x, stride=stride, padding=1), 0.01), padding=1)
    kept = F.avg_pool2d(x, 2) if stride == 2 else x
    kept = kept if block.project is None else normed(block.project, kept)
    torch.testing.assert_close(block(x), F.leaky_relu(inner + kept, 0.01), rtol=1e-4, atol=1e-5)


def test_nodes_of_unet_plus_plus_read_their_row_and_the_node_below() -> None:
    net = cast(UNetPP, make(UNetPP, depth=4))
    assert len(net.nodes) == 4 + 3 + 2 + 1
    for key, node in net.nodes.items():
        level, place = map(int, key.split("_"))
        width = 4 * 2**level
        expected = place * width + 2 * width if place else width // 2 if level else 3
        assert cast(ConvNorm, cast(nn.Sequential, node)[0]).conv.in_channels == expected
