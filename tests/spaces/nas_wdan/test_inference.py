"""The network for inference gives what the network of training gives, whatever it is made of."""

from dataclasses import replace
from functools import partial
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from medarts.errors import RecipeError
from medarts.network.inference import for_inference
from medarts.network.layers import ChannelShuffle, Norm
from medarts.network.packed import Form, NormedConvolution
from medarts.spaces.genotype import NONE, Cell, Genotype, KeptCells, zoo
from medarts.spaces.genotype import load_genotype as load
from medarts.spaces.nas_wdan.inference import InferenceCell, NasWdanInference
from medarts.spaces.nas_wdan.network import NasWdanCell, NasWdanNetwork
from medarts.spaces.nas_wdan.operations import (
    OPERATIONS,
    TRANSITIONS,
    OperationSettings,
    Transition,
    make_operation,
    set_of_edge,
)

NORMS: tuple[Norm, ...] = ("group", "batch")

FP64 = Form(torch.float64, torch.channels_last)

exactly = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
nearly = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


def varied(module: nn.Module) -> nn.Module:
    """Returns a module in evaluation mode whose norms, gates and heads scale and shift, as after a training."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            low, high = {"weight": (-1.5, 1.5), "scale": (0.5, 2.0), "running_var": (0.3, 3.0)}.get(name, (-0.5, 0.5))
            if tensor.is_floating_point() and tensor.ndim < 2:
                tensor.data.uniform_(low, high, generator=generator)
    return module.eval()


def network(genotype: Genotype, **options: int | Norm) -> NasWdanNetwork:
    torch.manual_seed(0)
    return cast(NasWdanNetwork, varied(NasWdanNetwork(genotype, **options)))


def small(name: str = "alpha0_5_stage1_double_deep_ep80", **settings: int | bool | float) -> Genotype:
    return load(name).with_settings(**({"init_channel": 4, "absent_edges": False} | settings))


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=dtype)


def assert_equal(network: NasWdanNetwork, x: Tensor) -> None:
    with torch.inference_mode():
        expected = network(x, all_heads=True)
    found = for_inference(network)(x, all_heads=True)
    assert len(found) == len(expected) == len(network.heads)
    for a, b in zip(found, expected, strict=True):
        (exactly if x.dtype == torch.float64 else nearly)(a, b)


def assert_equal_cells(cell: NasWdanCell, s0: Tensor | None, s1: Tensor) -> list[Tensor | None]:
    """Compares a cell with its plain form, and returns its nodes."""
    read = cell.input0(s0) if cell.input0 is not None and s0 is not None else None
    with torch.inference_mode():
        plain = cell(read, cell.input1(s1))
        nodes = InferenceCell(cell, form=Form(s1.dtype, torch.channels_last))(
            None if s0 is None else s0.relu(), s1.relu()
        )
    for node, part in zip(nodes, plain.split(cell.channels, dim=1), strict=True):
        exactly(torch.zeros_like(part) if node is None else node, part)
    return list(nodes)


EVERY_OPERATION = [
    (transition, name) for transition in TRANSITIONS for name in OPERATIONS[transition].published if name != NONE
]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("transition", "name"), EVERY_OPERATION)
def test_every_operation(transition: Transition, name: str, groups: int, norm: Norm) -> None:
    """Two edges of an operation from one state, one of them summed with a third edge."""
    torch.manual_seed(0)
    state = 1 if transition != "normal" else 0
    edges: Cell = (((name, state),), ((name, state), ("conv", 2), ("cweight", 2)))
    settings = OperationSettings(affine=True, norm=norm, shuffle_groups=groups, dropout_prob=0.1)
    cell = NasWdanCell(transition, edges, s0_channels=6, s1_channels=10, channels=8, settings=settings)
    varied(cell).double()
    s0, s1 = images(3, 6, 8, 12, dtype=torch.float64), images(3, 10, 8, 12, dtype=torch.float64)
    assert_equal_cells(cell, s0, s1)


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_absent_s0(transition: Transition) -> None:
    """Node 0 reads s0 alone, node 1 node 0 alone: zeros. Node 2 reads s1 too."""
    of_s1 = {"down": "down_conv", "normal": "conv", "up": "up_conv"}[transition]
    edges: Cell = ((("conv", 0),), (("dil_conv", 2),), (("cweight", 0), (of_s1, 1)), (("conv", 3), ("identity", 4)))
    assert set_of_edge(transition, 1) == transition
    settings = OperationSettings(affine=True)
    cell = NasWdanCell(
        transition, edges, s0_channels=None, s1_channels=6, channels=4, settings=settings, absent_edges=True
    )
    varied(cell).double()
    nodes = assert_equal_cells(cell, None, images(1, 6, 4, 8, dtype=torch.float64))
    assert [node is None for node in nodes] == [True, True, False, False]


def test_inputs_and_edges_that_share_a_state_do_not_change_it() -> None:
    """Sums in place would reach into what other edges still read."""
    edges: Cell = ((("identity", 0),), (("identity", 0), ("identity", 1)), (("identity", 0), ("identity", 2)))
    cell = NasWdanCell(
        "normal", edges, s0_channels=4, s1_channels=4, channels=4, settings=OperationSettings(affine=True)
    )
    varied(cell).double()
    assert_equal_cells(cell, images(1, 4, 4, 4, dtype=torch.float64), images(1, 4, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [name for name in zoo() if load(name).space == "nas-wdan"])
def test_published_genotypes(name: str, norm: Norm) -> None:
    genotype = small(name, absent_edges=True)
    assert_equal(network(genotype, norm=norm), images(1, 3, 64, 32))
    assert_equal(network(genotype, norm=norm).double(), images(3, 3, 32, 32, dtype=torch.float64))


@pytest.mark.parametrize("norm", NORMS)
def test_wide_genotype_with_several_groups_a_norm(norm: Norm) -> None:
    genotype = small(init_channel=16, shuffle_groups=2, dropout_prob=0.2)
    assert_equal(network(genotype, in_channels=1, outputs=3, norm=norm), images(2, 1, 32, 32))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("stride", [1, 2])
def test_head_at_full_size(norm: Norm, stride: int) -> None:
    whole = small()
    settings = {**whole.settings, "full_size_head": True, "stem_stride": stride, "stem_channels": 8}
    plain = network(replace(whole, settings=settings), outputs=2, norm=norm)
    assert_equal(plain, images(2, 3, 64 // (3 - stride), 32))
    assert_equal(plain.double(), images(2, 3, 32, 32, dtype=torch.float64))


@pytest.mark.parametrize(("stride", "channels"), [(1, 6), (2, 64)])
def test_lattice_nodes_of_zeros(stride: int, channels: int) -> None:
    """No edge reads s1, and s0 of the only cell into (1,1) is absent: its state is zeros, and so on downwards."""
    whole = small()
    edges: Cell = ((("conv", 0),), (("conv", 0),), (("conv", 0),), (("conv", 0),))
    settings = {**whole.settings, "stem_stride": stride, "stem_channels": channels}
    genotype = Genotype(whole.name, whole.space, dict.fromkeys(TRANSITIONS, edges), settings, whole.paths, {})
    assert_equal(network(genotype), images(2, 3, 64 // (3 - stride), 32))


def test_dropped_paths() -> None:
    whole = small()
    kept = tuple(KeptCells(item.layer, item.level, item.transitions[-1:]) for item in whole.paths)
    genotype = Genotype(whole.name, whole.space, whole.cells, whole.settings, kept, {})
    assert_equal(network(genotype), images(2, 3, 32, 32))


@pytest.mark.parametrize("head", ["2,0", "4,0", "6,0", "8,0"])
def test_a_head_alone_gives_the_same_with_the_cells_it_needs(head: str) -> None:
    plain = network(small())
    fast, x, runs = for_inference(plain), images(2, 3, 32, 32), set()
    assert fast.heads == plain.heads
    for key, cell in fast.cells.items():
        cell.register_forward_hook(lambda *_, key=key: runs.add(key))
    everything = fast(x, all_heads=True)
    assert len(runs) == 30
    runs.clear()
    alone = fast(x, head)
    assert torch.equal(alone, everything[fast.heads.index(head)])
    assert len(runs) == {"2,0": 3, "4,0": 9, "6,0": 18, "8,0": 30}[head]


def test_no_such_head() -> None:
    with pytest.raises(ValueError, match="there is no head '3,0'"):
        for_inference(network(small()))(images(1, 3, 32, 32), "3,0")


def test_sizes_are_checked_alike() -> None:
    fast = for_inference(network(small()))
    fast.check_size(64)
    with pytest.raises(RecipeError, match="size 33 cannot be halved 5 times"):
        fast.check_size(33)


@pytest.mark.parametrize("norm", NORMS)
def test_the_network_stays_as_it_is_and_the_copy_as_it_was(norm: Norm) -> None:
    plain, x = network(small(), norm=norm), images(1, 3, 32, 32)
    plain.train()
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    fast = for_inference(plain)
    first = fast(x)
    assert plain.training
    assert not fast.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    for parameter in plain.parameters():
        parameter.data.zero_()
    assert torch.equal(fast(x), first)
    assert not first.requires_grad


@pytest.mark.parametrize("norm", NORMS)
def test_bf16_gives_fp32_logits_nearby(norm: Norm) -> None:
    plain, x = network(small(init_channel=16), norm=norm), images(2, 3, 64, 64)
    with torch.inference_mode():
        expected = plain(x, all_heads=True)
    for a, b in zip(for_inference(plain, dtype=torch.bfloat16)(x, all_heads=True), expected, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).square().mean().sqrt() < 0.05 * b.square().mean().sqrt()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("channels", [5, 6, 12])
def test_any_number_of_channels(channels: int, norm: Norm) -> None:
    plain = network(small("alpha0_5_stage1_nodouble_deep_ep80", init_channel=channels), norm=norm)
    assert_equal(plain, images(1, 3, 32, 64))
    assert_equal(plain, images(2, 3, 64, 64))


@pytest.mark.parametrize(
    ("channels", "norm", "dtype", "is_channels_last"),
    [
        (8, "batch", torch.float32, True),
        (6, "batch", torch.float32, False),
        (16, "group", torch.float32, True),
        (8, "group", torch.float32, False),
        (4, "group", torch.bfloat16, True),
    ],
)
def test_maps_are_channels_last_where_these_fill_a_vector(
    channels: int, norm: Norm, dtype: torch.dtype, is_channels_last: bool
) -> None:
    fast = cast(NasWdanInference, for_inference(network(small(init_channel=channels), norm=norm), dtype=dtype))
    assert (fast.form.maps == torch.channels_last) is is_channels_last


def test_batch_norms_vanish_and_group_norms_do_not() -> None:
    for norm, there in (("batch", False), ("group", True)):
        parts = for_inference(network(small(), norm=norm)).modules()
        assert {part.norm is not None for part in parts if isinstance(part, NormedConvolution)} == {there}


def test_batch_norm_behind_a_shuffle_is_folded_in_the_order_before_it() -> None:
    torch.manual_seed(0)
    settings = OperationSettings(affine=True, norm="batch", shuffle_groups=3)
    operation = cast(nn.Sequential, varied(make_operation("normal", "shuffle_conv", 6, settings)).double())
    _, conv, shuffle, norm = operation
    assert isinstance(shuffle, ChannelShuffle)
    fused = NormedConvolution(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm), form=FP64, shuffle=3)
    x = images(2, 6, 4, 4, dtype=torch.float64).relu()
    with torch.inference_mode():
        exactly(fused(x), operation(x))
