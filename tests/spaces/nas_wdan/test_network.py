from collections import Counter
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from medarts.errors import GenotypeError, RecipeError
from medarts.spaces.genotype import Genotype, KeptCells, zoo
from medarts.spaces.genotype import load_genotype as load
from medarts.spaces.nas_wdan import lattice
from medarts.spaces.nas_wdan.frame import FullSizeHead, Head
from medarts.spaces.nas_wdan.network import NasWdanCell, NasWdanNetwork
from medarts.spaces.nas_wdan.operations import TRANSITIONS, OperationSettings, Transition

# Source: the figures published with NAS-WDAN / MixSearch.
PARAMETERS = {
    "stage1_layer9_110epoch_double_deep_final": 8_111_396,
    "layer7_double_deep": 10_397_912,
    "stage0_double_deep_ep80_newim": 4_362_538,
    "alpha0_5_stage1_double_deep_ep80": 12_758_582,
    "alpha0_5_stage1_nodouble_deep_ep80": 592_904,
}


def small(name: str = "alpha0_5_stage1_double_deep_ep80", **settings: int | bool) -> Genotype:
    return load(name).with_settings(**({"init_channel": 2, "absent_edges": False} | settings))


def network(genotype: Genotype | None = None, **options: int) -> NasWdanNetwork:
    torch.manual_seed(0)
    return NasWdanNetwork(genotype or small(), **options).eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_published_genotypes_have_the_published_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert count(NasWdanNetwork(load(name))) == parameters


def test_the_table_covers_the_zoo() -> None:
    assert set(PARAMETERS) == {name for name in zoo() if load(name).space == "nas-wdan"}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_absent_edges_add_parameters_that_nothing_uses(name: str) -> None:
    without = network(small(name))
    with_them = network(small(name, absent_edges=True))
    own, more = without.state_dict(), with_them.state_dict()
    extra = set(more) - set(own)
    assert set(own) < set(more)
    assert all(".absent." in key for key in extra)
    with_them.load_state_dict(own, strict=False)
    x = torch.rand(1, 3, 32, 32)
    for a, b in zip(without(x, all_heads=True), with_them(x, all_heads=True), strict=True):
        assert torch.equal(a, b)
    sum(out.sum() for out in with_them(x, all_heads=True)).backward()
    assert all((p.grad is None) == (".absent." in key) for key, p in with_them.named_parameters())


def test_heads_are_named_from_early_to_last() -> None:
    assert network().heads == ("2,0", "4,0", "6,0", "8,0")
    assert network(small(deep_supervision=False)).heads == ("8,0",)


def test_the_last_head_reads_the_stem_where_it_works_at_full_size() -> None:
    """And it alone: a change of what it reads there changes its logits and no others."""
    whole = small()
    net = NasWdanNetwork(replace(whole, settings={**whole.settings, "full_size_head": True})).eval()
    assert [type(head) for head in net.frame.heads.values()] == [Head, Head, Head, FullSizeHead]
    x = torch.rand(1, 3, 32, 32)
    before = net(x, all_heads=True)
    with torch.no_grad():
        for parameter in net.frame.heads["8_0"].get_submodule("fine").parameters():
            parameter.mul_(2)
    after = net(x, all_heads=True)
    assert [torch.equal(one, other) for one, other in zip(before, after, strict=True)] == [True, True, True, False]


@pytest.mark.parametrize("head", ["2,0", "4,0", "6,0", "8,0"])
def test_a_head_alone_gives_the_same_with_the_cells_it_needs(head: str) -> None:
    net = network()
    x = torch.rand(2, 3, 32, 32)
    everything = net(x, all_heads=True)
    runs: Counter[str] = Counter()
    for key, cell in net.frame.cells.items():
        cell.register_forward_hook(lambda *_, key=key: runs.update([key]))
    alone = net(x, head=head)
    assert torch.equal(alone, everything[net.heads.index(head)])
    layer, _ = map(int, head.split(","))
    end = lattice.Node(layer, 0)
    needed = lattice.reaching(lattice.all_paths(5), (end,))
    assert sum(runs.values()) == len(runs) == sum(map(len, needed.values()))
    assert len(runs) == {"2,0": 3, "4,0": 9, "6,0": 18, "8,0": 30}[head]
    runs.clear()
    net(x)
    assert len(runs) == sum(runs.values()) == 30


@pytest.mark.parametrize("size", [32, 64, 256])
def test_sizes_that_the_lattice_halves_are_taken(size: int) -> None:
    network().check_size(size)


@pytest.mark.parametrize(("size", "fix"), [(250, "Use 224 or 256."), (33, "Use 32 or 64."), (20, "Use 32.")])
def test_other_sizes_are_refused_with_the_next_ones(size: int, fix: str) -> None:
    net = network()
    with pytest.raises(RecipeError, match=f"size {size} cannot be halved 5 times") as caught:
        net.check_size(size)
    assert caught.value.fix == fix


@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (3, 5), (4, 2)])
def test_channels_and_classes(channels: int, classes: int) -> None:
    net = network(in_channels=channels, outputs=classes)
    outs = net(torch.rand(2, channels, 32, 64), all_heads=True)
    assert [tuple(out.shape) for out in outs] == [(2, classes, 32, 64)] * 4
    assert all(torch.isfinite(out).all() for out in outs)


def test_every_class_adds_what_the_heads_need() -> None:
    one, three = network(), network(outputs=3)
    assert count(three) - count(one) == 2 * 4 * (4 * 2 + 2)  # heads x (nodes x C weights, a scale, a shift)


def test_the_last_head_alone() -> None:
    net = network(small(deep_supervision=False))
    outs = net(torch.rand(1, 3, 32, 32), all_heads=True)
    assert [tuple(out.shape) for out in outs] == [(1, 1, 32, 32)]
    assert len(net.frame.heads) == 1


def test_dropped_paths_have_no_cells() -> None:
    whole = small()
    kept = tuple(
        KeptCells(item.layer, item.level, item.transitions[:1]) for item in whole.paths
    )  # down where there is one, else normal
    genotype = Genotype(whole.name, whole.space, whole.cells, whole.settings, kept, {})
    net = network(genotype)
    assert set(net.frame.cells) == {"2_0_normal", "4_0_normal", "6_0_normal", "8_0_normal"}
    assert len(net(torch.rand(1, 3, 32, 32), all_heads=True)) == 4


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_nodes_that_read_only_an_absent_s0_are_zeros(transition: Transition) -> None:
    """Node 0 reads s0 alone, node 1 node 0 alone; node 2 reads s1."""
    of_s1 = {"down": "down_conv", "normal": "conv", "up": "up_conv"}[transition]
    edges = ((("conv", 0),), (("dil_conv", 2),), (("cweight", 0), (of_s1, 1)))
    settings = OperationSettings(affine=True)
    cell = NasWdanCell(transition, edges, s0_channels=None, s1_channels=6, channels=4, settings=settings)
    out = cell(None, cell.input1(torch.rand(2, 6, 8, 12)))
    h, w = {"down": (4, 6), "normal": (8, 12), "up": (16, 24)}[transition]
    assert out.shape == (2, 12, h, w)
    assert (out[:, :8] == 0).all()
    assert (out[:, 8:] != 0).any()


def test_cell_sums_its_edges_and_concatenates_its_nodes() -> None:
    torch.manual_seed(0)
    edges = ((("conv", 0), ("down_conv", 1)), (("avg_pool", 1), ("identity", 2)))
    settings = OperationSettings(affine=True)
    cell = NasWdanCell("down", edges, s0_channels=5, s1_channels=6, channels=4, settings=settings)
    s0, s1 = torch.randn(2, 5, 4, 4), torch.randn(2, 6, 8, 8)
    operations = cast(list[list[nn.Module]], cell.operations)
    assert cell.input0 is not None
    a: Tensor = cell.input0(s0)
    b: Tensor = cell.input1(s1)
    node0 = operations[0][0](a) + operations[0][1](b)
    pooled = b.clamp(min=0).view(2, 4, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(cell(a, b), torch.cat([node0, pooled + node0.clamp(min=0)], dim=1))


def test_training_reaches_every_weight() -> None:
    net = network().train()
    sum(out.pow(2).mean() for out in net(torch.rand(2, 3, 32, 32), all_heads=True)).backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


def test_norms_have_a_scale_and_a_shift() -> None:
    norms = [part for part in network().modules() if isinstance(part, nn.GroupNorm)]
    assert norms
    assert all(norm.weight is not None for norm in norms)


def test_heads_do_not_equalise_the_images() -> None:
    """A norm on the logits would give each image the same mean, whatever it shows."""
    out = network()(torch.stack([torch.zeros(3, 32, 32), torch.rand(3, 32, 32)]))
    assert not torch.isclose(out[0].mean(), out[1].mean(), atol=1e-4)


def test_dropout_of_heads_and_operations_only_while_training() -> None:
    net = network(small(dropout_prob=0.2))
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(net(x), net(x))
    net.train()
    assert not torch.equal(net(x), net(x))


def test_a_genotype_of_another_space_is_refused() -> None:
    genotype = small()
    other = Genotype(genotype.name, "darts", genotype.cells, genotype.settings, genotype.paths)
    with pytest.raises(GenotypeError, match="of the space 'darts', not 'nas-wdan'"):
        NasWdanNetwork(other)


def test_groups_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(GenotypeError, match="shuffle_groups 3 does not divide"):
        NasWdanNetwork(small(shuffle_groups=3))
