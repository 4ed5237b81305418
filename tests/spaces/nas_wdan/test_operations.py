import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.network.layers import ChannelShuffle, group_norm
from medarts.spaces.genotype import NONE
from medarts.spaces.nas_wdan import operations
from medarts.spaces.nas_wdan.operations import (
    OPERATIONS,
    TRANSITIONS,
    OperationSettings,
    SqueezeExcite,
    preprocess,
    set_of_edge,
)

REFERENCE = OperationSettings(affine=False)
SET_OF = {name: kind for kind in TRANSITIONS for name in OPERATIONS[kind].published if name != NONE}
WITHOUT_NORM = {"identity", "cweight", "avg_pool", "max_pool"}


def make_operation(name: str, channels: int, settings: OperationSettings) -> nn.Module:
    return operations.make_operation(SET_OF[name], name, channels, settings)


def weights_of(operation: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in operation.parameters()]


def normed(x: Tensor) -> Tensor:
    """One group: the images' own mean and (biased) variance."""
    mean = x.mean((1, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((1, 2, 3), keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5)


def gated(x: Tensor, w0: Tensor, b0: Tensor, w1: Tensor, b1: Tensor) -> Tensor:
    mean = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
    gate = 1 / (1 + torch.exp(-((mean @ w0.T + b0).clamp(min=0) @ w1.T + b1)))
    return torch.einsum("bchw,bc->bchw", x, gate)


def test_sets_are_the_published_ones() -> None:
    assert {kind: set(operations.published) for kind, operations in OPERATIONS.items()} == {
        "normal": {"none", "identity", "cweight", "dil_conv", "dep_conv", "shuffle_conv", "conv"},
        "down": {"avg_pool", "max_pool", "down_cweight", "down_dil_conv", "down_dep_conv", "down_conv"},
        "up": {"up_cweight", "up_dep_conv", "up_conv", "up_dil_conv"},
    }
    assert all(NONE not in operations for operations in OPERATIONS.values())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [(2, 2), (8, 8), (4, 6), (10, 2)])
@pytest.mark.parametrize("name", sorted(SET_OF))
def test_sizes_are_kept_halved_or_doubled_exactly(name: str, size: tuple[int, int], groups: int) -> None:
    operation = make_operation(name, 4, OperationSettings(affine=True, shuffle_groups=groups))
    out = operation(torch.randn(2, 4, *size))
    factor = 1.0 if SET_OF[name] == "normal" else 0.5 if SET_OF[name] == "down" else 2.0
    assert out.shape == (2, 4, size[0] * factor, size[1] * factor)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(("channels", "groups"), [(2, 1), (8, 1), (16, 1), (24, 1), (32, 2), (40, 1), (256, 16)])
def test_norm_has_sixteen_channels_a_group_or_one_group(channels: int, groups: int) -> None:
    assert group_norm(channels, affine=False).num_groups == groups
    assert group_norm(channels, affine=False).weight is None
    assert group_norm(channels, affine=True).weight.shape == (channels,)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("c", [4, 16, 48])
def test_parameter_counts_follow_the_formulas(c: int, groups: int, affine: bool) -> None:
    hidden = max(1, c // 16)
    squeeze = c * hidden + hidden + hidden * c + c
    dep, conv = 9 * c + c * c, 9 * c * c
    expected = {
        "identity": 0,
        "cweight": squeeze,
        "dil_conv": conv,
        "dep_conv": dep,
        "shuffle_conv": conv // groups,
        "conv": conv,
        "avg_pool": 0,
        "max_pool": 0,
        "down_cweight": squeeze + conv,
        "down_dil_conv": conv,
        "down_dep_conv": dep,
        "down_conv": conv,
        "up_cweight": squeeze + conv,
        "up_dep_conv": dep,
        "up_conv": conv,
        "up_dil_conv": conv,
    }
    settings = OperationSettings(affine=affine, shuffle_groups=groups)
    found = {name: sum(p.numel() for p in make_operation(name, c, settings).parameters()) for name in SET_OF}
    norms = {name: 2 * c if affine and name not in WITHOUT_NORM else 0 for name in SET_OF}
    assert found == {name: count + norms[name] for name, count in expected.items()}


@pytest.mark.parametrize("name", sorted(SET_OF))
def test_values_against_formulas(name: str) -> None:
    torch.manual_seed(0)
    c = 4
    operation = make_operation(name, c, OperationSettings(affine=False, shuffle_groups=2)).double()
    x = torch.randn(2, c, 6, 8, dtype=torch.float64)
    r, w = x.clamp(min=0), weights_of(operation)
    pooled = r.view(2, c, 3, 2, 4, 2)
    up = {"stride": 2, "output_padding": 1}
    expected = {
        "identity": lambda: r,
        "cweight": lambda: gated(r, *w),
        "dil_conv": lambda: normed(F.conv2d(r, w[0], padding=2, dilation=2)),
        "dep_conv": lambda: normed(F.conv2d(F.conv2d(r, w[0], padding=1, groups=c), w[1])),
        "shuffle_conv": lambda: normed(F.conv2d(r, w[0], padding=1, groups=2)[:, [0, 2, 1, 3]]),
        "conv": lambda: normed(F.conv2d(r, w[0], padding=1)),
        "avg_pool": lambda: pooled.mean((3, 5)),
        "max_pool": lambda: pooled.amax((3, 5)),
        "down_cweight": lambda: normed(F.conv2d(gated(r, *w[:4]), w[4], padding=1, stride=2)),
        "down_dil_conv": lambda: normed(F.conv2d(r, w[0], padding=2, dilation=2, stride=2)),
        "down_dep_conv": lambda: normed(F.conv2d(F.conv2d(r, w[0], padding=1, groups=c, stride=2), w[1])),
        "down_conv": lambda: normed(F.conv2d(r, w[0], padding=1, stride=2)),
        "up_cweight": lambda: normed(F.conv_transpose2d(gated(r, *w[:4]), w[4], padding=1, **up)),
        "up_dep_conv": lambda: normed(F.conv2d(F.conv_transpose2d(r, w[0], padding=1, groups=c, **up), w[1])),
        "up_conv": lambda: normed(F.conv_transpose2d(r, w[0], padding=1, **up)),
        "up_dil_conv": lambda: normed(F.conv_transpose2d(r, w[0], padding=2, dilation=2, **up)),
    }[name]()
    torch.testing.assert_close(operation(x), expected, rtol=1e-10, atol=1e-10)


def test_input_is_left_as_it_was() -> None:
    x = torch.randn(1, 4, 8, 8)
    before = x.clone()
    for name in SET_OF:
        make_operation(name, 4, REFERENCE)(x)
    assert torch.equal(x, before)


def test_shuffle_interleaves_the_groups_and_loses_nothing() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert ChannelShuffle(2)(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert ChannelShuffle(3)(x).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert ChannelShuffle(1)(x).flatten().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("channels", "hidden"), [(2, 1), (15, 1), (16, 1), (33, 2), (256, 16)])
def test_squeeze_has_at_least_one_hidden_channel(channels: int, hidden: int) -> None:
    assert SqueezeExcite(channels).squeeze.out_features == hidden


@pytest.mark.parametrize("name", sorted(set(SET_OF) - {"identity", "avg_pool", "max_pool"}))
def test_dropout_acts_only_while_training(name: str) -> None:
    torch.manual_seed(0)
    operation = make_operation(name, 4, OperationSettings(affine=False, dropout_prob=0.5))
    x = 1 + torch.rand(2, 4, 16, 16)
    quiet = operation.eval()(x)
    assert torch.equal(quiet, operation(x))
    dropped = operation.train()(x)
    share = (dropped == 0).float().mean().item()
    assert 0.35 < share < 0.65
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * quiet[kept])


def test_no_dropout_module_without_a_probability() -> None:
    for name in SET_OF:
        assert not any(isinstance(part, nn.Dropout) for part in make_operation(name, 4, REFERENCE).modules())


def test_only_s1_of_down_and_up_cells_changes_the_resolution() -> None:
    assert {
        (transition, state): set_of_edge(transition, state) for transition in TRANSITIONS for state in range(4)
    } == {
        ("down", 0): "normal",
        ("down", 1): "down",
        ("down", 2): "normal",
        ("down", 3): "normal",
        ("normal", 0): "normal",
        ("normal", 1): "normal",
        ("normal", 2): "normal",
        ("normal", 3): "normal",
        ("up", 0): "normal",
        ("up", 1): "up",
        ("up", 2): "normal",
        ("up", 3): "normal",
    }


def test_preprocess_is_relu_pointwise_norm() -> None:
    torch.manual_seed(0)
    part = preprocess(6, 4, affine=False).double()
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    (weight,) = weights_of(part)
    torch.testing.assert_close(part(x), normed(torch.einsum("oi,bihw->bohw", weight[:, :, 0, 0], x.clamp(min=0))))
