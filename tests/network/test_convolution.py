"""Gradients in bf16 on a CPU: of dilated convolutions, wherever they are computed, and of all operations."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from medarts.config import Recipe, apply_overrides, parse
from medarts.errors import RecipeError
from medarts.nas.search import start_search
from medarts.network.convolution import DilatedConv2d
from medarts.spaces import register_operation
from medarts.spaces.darts import operations as of_darts
from medarts.spaces.darts.depthwise import depthwise
from medarts.spaces.kernels import Dense
from medarts.spaces.nas_wdan import NasWdan
from medarts.spaces.nas_wdan import operations as of_nas_wdan
from medarts.spaces.nas_wdan.training import Joined, NormValues
from medarts.spaces.weighted_sum import Chain, Kind, Normed, weighted_sum

CHANNELS = 20
"""More than 16 and no multiple of it, for which PyTorch's kernels are wrong."""


def maps() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(4, CHANNELS, 32, 32).contiguous(memory_format=torch.channels_last)


def rounded(x: Tensor) -> Tensor:
    """Returns maps in bf16 where autocast is on."""
    return x.bfloat16() if torch.is_autocast_enabled("cpu") else x


def check(function: Callable[[Tensor], Tensor], parameters: Sequence[Tensor]) -> None:
    """Checks all gradients of a function of maps in bf16 against those in fp32."""
    found = []
    for is_half in (False, True):
        x = maps().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            y = function(x)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        found.append(torch.autograd.grad((y.float() * weights).sum(), [x, *parameters]))
    for exact, half in zip(*found, strict=True):
        assert half.dtype == exact.dtype
        assert (half - exact).norm() < 0.15 * exact.norm()  # wrong ones are off by more than their norm


@pytest.mark.parametrize("groups", [1, 4, CHANNELS])
@pytest.mark.parametrize(("size", "dilation"), [(3, 2), (3, 3), (5, 2)])
def test_dilated_convolutions(size: int, dilation: int, groups: int) -> None:
    padding = dilation * (size // 2)
    conv = DilatedConv2d(CHANNELS, CHANNELS, size, padding=padding, dilation=dilation, groups=groups)
    check(conv.to(memory_format=torch.channels_last), [*conv.parameters()])


def test_without_gradients_and_in_fp32_they_are_those_of_pytorch() -> None:
    conv = DilatedConv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2)
    plain = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2)
    plain.load_state_dict(conv.state_dict())
    assert torch.equal(conv(maps()), plain(maps()))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv(maps()), plain(maps()))


@pytest.mark.parametrize("name", [name for name in of_nas_wdan.OPERATIONS["normal"].published if name != "none"])
def test_operations_of_nas_wdan(name: str) -> None:
    settings = of_nas_wdan.OperationSettings(affine=True, shuffle_groups=4)
    operation = of_nas_wdan.OPERATIONS["normal"][name](CHANNELS, settings)
    operation.to(memory_format=torch.channels_last)
    check(operation, [*operation.parameters()])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", [name for name in of_darts.OPERATIONS["normal"].published if name != "none"])
def test_operations_of_darts(name: str, stride: int) -> None:
    settings = of_darts.OperationSettings(affine=True, running=True)
    operation = of_darts.make_operation("reduce", name, CHANNELS, stride=stride, settings=settings)
    operation.to(memory_format=torch.channels_last)
    check(operation, [*operation.parameters()])


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("size", [3, 5])
def test_depthwise_convolutions(size: int, stride: int, dilation: int) -> None:
    weight = torch.randn(CHANNELS, 1, size, size, requires_grad=True)
    check(lambda x: depthwise(rounded(x), weight, stride=stride, dilation=dilation), [weight])


@pytest.mark.parametrize("number", [1, 2])
def test_convolutions_of_the_form_for_training(number: int) -> None:
    convs = [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2, bias=False) for _ in range(number)]
    norms = [nn.BatchNorm2d(CHANNELS) for _ in convs]
    joined = Joined(convs, norms)
    check(
        lambda x: torch.cat([*joined(x, NormValues([joined]))], 1),
        [conv.weight for conv in convs] + [norm.weight for norm in norms],
    )


@pytest.mark.parametrize("transposed", [False, True])
def test_weighted_sums(*, transposed: bool) -> None:
    modules = [nn.Conv2d(CHANNELS, CHANNELS, 3) for _ in range(2)]
    chain = Chain(
        (Kind("a", (0, 1), Dense(modules)),), nn.GroupNorm(1, CHANNELS), dilation=2, stride=1 + transposed,
        transposed=transposed,
    )  # fmt: skip
    scales = torch.rand(2, requires_grad=True)

    check(
        lambda x: cast(Tensor, weighted_sum(None, [Normed(chain, rounded(x), scales)], edges=2)),
        [scales, *(module.weight for module in modules)],
    )


def test_dilated_convolutions_of_users_are_refused(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations = NasWdan.operations["normal"]
    monkeypatch.setattr(operations, "_builders", dict(operations._builders))
    register_operation("nas-wdan", "normal", "wide", lambda c, _: nn.Conv2d(c, c, 3, padding=2, dilation=2))
    changes = ["space.operations={normal: [identity, wide]}", "compute.precision=bf16"]
    recipe = parse(apply_overrides(small_recipe.model_dump(mode="json"), changes))
    with pytest.raises(RecipeError, match=r"cells\..*\.wide is a dilated .* bf16\. Use .*fp32"):
        start_search(recipe, tmp_path / "run")
