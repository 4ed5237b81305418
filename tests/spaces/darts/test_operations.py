"""The operations of darts against sums written out here, and their sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.spaces.darts.operations import (
    IN_NETWORK,
    IN_SUPERNET,
    OPERATIONS,
    FactorizedReduce,
    OperationSettings,
    make_operation,
    preprocess,
    stride_of,
)


def images(h: int = 7, w: int = 10, *, channels: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, channels, h, w, generator=generator, dtype=torch.float64)


def make(name: str, *, stride: int, settings: OperationSettings = IN_SUPERNET) -> nn.Module:
    torch.manual_seed(0)
    return make_operation("normal", name, 4, stride=stride, settings=settings).double()


def normed(x: Tensor) -> Tensor:
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt()


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]


def test_the_candidates_are_those_of_the_paper_in_its_order() -> None:
    assert OPERATIONS["normal"].published == OPERATIONS["reduce"].published == (
        "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect",
        "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
    )  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS["normal"])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (75, 3), (1, 2), (1, 1)])
def test_sizes(name: str, size: tuple[int, int]) -> None:
    x = images(*size)
    assert make(name, stride=1)(x).shape == x.shape
    assert make(name, stride=2)(x).shape == (2, 4, -(-size[0] // 2), -(-size[1] // 2))


@pytest.mark.parametrize("stride", [1, 2])
def test_average_pool_leaves_the_border_out_of_its_means(stride: int) -> None:
    x = images()
    ones = F.avg_pool2d(torch.ones_like(x), 3, stride, padding=1)
    expected = normed(F.avg_pool2d(x, 3, stride, padding=1) / ones)
    torch.testing.assert_close(make("avg_pool_3x3", stride=stride)(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_max_pool(stride: int) -> None:
    x = images()
    windows = F.unfold(F.pad(x, (1, 1, 1, 1), value=-torch.inf), 3, stride=stride)
    peaks = windows.view(2, 4, 9, -1).amax(2).view(2, 4, -(-7 // stride), -1)
    torch.testing.assert_close(make("max_pool_3x3", stride=stride)(x), normed(peaks), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_separable_convolution_is_two_of_which_the_first_has_the_stride(size: int, stride: int) -> None:
    module, x = make(f"sep_conv_{size}x{size}", stride=stride), images()
    first, mix1, second, mix2 = (conv.weight for conv in convolutions(module))
    assert first.shape == second.shape == (4, 1, size, size)
    y = F.conv2d(F.conv2d(x.relu(), first, stride=stride, padding=size // 2, groups=4), mix1)
    y = F.conv2d(F.conv2d(normed(y).relu(), second, padding=size // 2, groups=4), mix2)
    torch.testing.assert_close(module(x), normed(y), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_dilated_convolution(size: int, stride: int) -> None:
    module, x = make(f"dil_conv_{size}x{size}", stride=stride), images()
    spatial, mix = (conv.weight for conv in convolutions(module))
    y = F.conv2d(F.conv2d(x.relu(), spatial, stride=stride, padding=size - 1, dilation=2, groups=4), mix)
    torch.testing.assert_close(module(x), normed(y), rtol=1e-10, atol=1e-10)


def test_skip_is_the_identity_where_nothing_is_reduced() -> None:
    x = images()
    assert make("skip_connect", stride=1)(x) is x


@pytest.mark.parametrize("size", [(8, 6), (7, 10), (7, 5)])
def test_factorized_reduce_reads_every_pixel_once(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = FactorizedReduce(6, 5, IN_SUPERNET).double()
    x = images(*size, channels=6).relu()
    padded = torch.zeros(2, 6, 2 * -(-size[0] // 2), 2 * -(-size[1] // 2), dtype=torch.float64)
    padded[:, :, : size[0], : size[1]] = x
    even = torch.einsum("bchw,oc->bohw", padded[:, :, ::2, ::2], module.even.weight[:, :, 0, 0])
    odd = torch.einsum("bchw,oc->bohw", padded[:, :, 1::2, 1::2], module.odd.weight[:, :, 0, 0])
    assert (even.shape[1], odd.shape[1]) == (2, 3)
    torch.testing.assert_close(module(x), normed(torch.cat([even, odd], dim=1)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("halve", [False, True])
def test_preprocessing_brings_channels_and_size(halve: bool) -> None:
    module = preprocess(6, 4, settings=IN_SUPERNET, halve=halve).double()
    assert module(images(7, 9, channels=6)).shape == ((2, 4, 4, 5) if halve else (2, 4, 7, 9))


def test_only_the_inputs_of_a_reduce_cell_are_reduced() -> None:
    assert [stride_of("reduce", state) for state in range(4)] == [2, 2, 1, 1]
    assert [stride_of("normal", state) for state in range(4)] == [1, 1, 1, 1]


@pytest.mark.parametrize("name", OPERATIONS["normal"])
@pytest.mark.parametrize("stride", [1, 2])
def test_norms_of_the_supernet_have_neither_parameters_nor_memory(name: str, stride: int) -> None:
    module = make(name, stride=stride)
    assert not list(module.buffers())
    assert len(list(module.parameters())) == len(convolutions(module))
    x = images()
    assert torch.equal(module.train()(x), module.eval()(x))


@pytest.mark.parametrize("name", OPERATIONS["normal"])
def test_norms_of_the_network_remember_and_those_of_pools_are_not_affine(name: str) -> None:
    norms = [part for part in make(name, stride=2, settings=IN_NETWORK).modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert norm.track_running_stats
        assert norm.affine == ("pool" not in name)
