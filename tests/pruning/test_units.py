import copy
import gc
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medarts.deploy.engines import OnnxRuntimeEngine
from medarts.deploy.graphs import network_to_onnx
from medarts.errors import RunError
from medarts.models import build_network, create_model
from medarts.network import LAST, Network
from medarts.network.structure import structure_of
from medarts.pruning.graph import unused_parameters
from medarts.pruning.units import (
    Member,
    Unit,
    cut,
    examine,
    find_units,
    half_of_each,
    masked,
    small_image,
    zero_filters,
)
from medarts.registry import models
from medarts.spaces import load_genotype
from medarts.spaces.nas_wdan.genotypes import operations_of
from medarts.spaces.nas_wdan.lattice import all_paths, to_kept
from medarts.spaces.nas_wdan.operations import TRANSITIONS

TINY = {"chexnet": {}, "multiresunet": {"width": 6, "depth": 3}, "resenc-unet": {"width": 4, "depth": 4}}


def tiny(name, **settings):
    return create_model(name, outputs=2, **(TINY.get(name, {"width": 4, "depth": 3}) | settings))


def lattice(*, offset=0, norm="group", depth=3, **settings):
    """Returns a lattice whose cells have other operations for every offset, all of them together."""
    base = load_genotype("layer7_double_deep")
    cells = {}
    for kind in TRANSITIONS:
        edges = [(node, state) for node in range(4) for state in (node, node + 1)]
        names = [operations_of(kind, state) for _, state in edges]
        chosen = [(of[(place + offset) % len(of)], edges[place][1]) for place, of in enumerate(names)]
        cells[kind] = tuple(zip(chosen[::2], chosen[1::2], strict=True))
    genotype = replace(base, cells=cells, paths=to_kept(all_paths(depth)))
    settings = {"init_channel": 8, "depth": depth, "absent_edges": False} | settings
    return build_network(genotype.with_settings(**settings), in_channels=3, outputs=2, norm=norm)


def darts(**settings):
    genotype = load_genotype("chestxray14_first_order").with_settings(init_channel=4, layers=4, **settings)
    return build_network(genotype, in_channels=3, outputs=2)


@torch.no_grad()
def disturbed(network):
    """Returns a network whose scales and shifts are not those that it began with, with statistics of noise."""
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.rand_like(parameter))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    size = small_image(network, 3).shape[-1]
    network.train()(torch.rand(4, 3, size, size), all_heads=True)
    return network.eval()


def largest_difference(outputs, others):
    assert len(outputs) == len(others)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(outputs, others, strict=True))


def heads_of(network, image):
    with torch.no_grad():
        return network(image, all_heads=True)


def gradients_of(network, image):
    """Returns the largest gradient of each parameter that a step of training changes."""
    network.train().zero_grad()
    sum(output.square().mean() for output in network(torch.cat([image, image.flip(3)]), all_heads=True)).backward()
    network.eval()
    gradients = {name: each.grad for name, each in network.named_parameters() if each.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    return {name: float(gradient.abs().max()) for name, gradient in gradients.items()}


def check(network, *, part=0.5):
    """Cuts half of every unit, and compares with the masked network; returns what was examined, and the image."""
    disturbed(network)
    image = small_image(network, 3)
    whole, found = copy.deepcopy(network), examine(network, image)
    removals = half_of_each(found.units, seed=1)
    with masked(network, found.units, removals):
        expected = heads_of(network, image)
    assert largest_difference(expected, heads_of(network, image)) > 1e-2
    cut(network, removals, image)
    assert largest_difference(heads_of(network, image), expected) < 1e-5
    numbers = [
        sum(each.numel() for name, each in one.named_parameters() if "auxiliary" not in name)
        for one in (network, whole)
    ]
    assert numbers[0] < part * numbers[1]
    of_cut, of_whole = gradients_of(copy.deepcopy(network), image), gradients_of(whole, image)
    assert of_cut.keys() == of_whole.keys()
    rounding = 1e-6 * max(of_whole.values())  # which is all that biases before batch norms have
    without = [name for name, gradient in of_whole.items() if gradient > rounding and not of_cut[name]]
    assert len(without) < 0.03 * len(of_whole)
    assert all(re.search("squeeze|excite", name) for name in without)  # a ReLU of one unit, which is closed
    return found, image


def check_exported(network, image):
    """Compares a cut network with what it is exported as."""
    gc.disable()  # takes a fifth of the time while a graph is traced
    try:
        content = network_to_onnx(network, in_channels=3, size=image.shape[-1])
    finally:
        gc.enable()
    images = torch.cat([image, image.flip(3)])  # exported with one
    (logits,) = OnnxRuntimeEngine(content, threads=1).run(images.numpy(), np.empty((2, 2), np.float32)).values()
    assert largest_difference([torch.from_numpy(logits)], [network(images).detach()]) < 1e-4


EXPORTED = ("multiresunet", "resenc-unet")
"""Baselines with convolutions of all kinds. What others are exported as, tests of exports hold."""

ZOO = ("layer7_double_deep", "darts_v2", "chestxray14_first_order")
"""One of each space and stem, as tracing takes long; all operations have tests of their own below."""


@pytest.mark.parametrize("name", models.names())
def test_the_cut_baseline_computes_what_the_masked_one_does(name, small_densenet):
    torch.manual_seed(0)
    network = tiny(name)
    found, image = check(network)
    assert {*found.fixed.values()} <= {"outputs of the network", "one channel"}
    if name in EXPORTED:
        check_exported(network, image)


@pytest.mark.parametrize(("name", "full"), [*((name, False) for name in ZOO), ("layer7_double_deep", True)])
def test_the_cut_network_of_the_zoo_computes_what_the_masked_one_does_and_is_exported_as_it_is(name, full):
    """Its own operations, in fewer cells and nodes, as tracing takes most of the time."""
    torch.manual_seed(0)
    genotype = load_genotype(name).with_settings(init_channel=4)
    if genotype.space == "darts":
        genotype = genotype.with_settings(layers=4)
    else:
        cells = {kind: cell[:2] for kind, cell in genotype.cells.items()}
        settings = {**genotype.settings, "depth": 3, "intermediate_nodes": 2, "full_size_head": full}
        genotype = replace(genotype, cells=cells, settings=settings, paths=to_kept(all_paths(3)))
    network = build_network(genotype, in_channels=3, outputs=2)
    found, image = check(network, part=0.6)
    assert {*found.fixed.values()} <= {"outputs of the network", "one channel"}
    check_exported(network, image)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("unet", {"width": 32}), ("attention-unet", {"width": 32}), ("r2unet", {"width": 32, "depth": 2}),
        ("unetpp", {"width": 32, "depth": 2}), ("resenc-unet", {"width": 32, "depth": 2}),
        ("multiresunet", {"width": 20, "depth": 2}), ("multiresunet", {"width": 48, "depth": 2}),
    ],
)  # fmt: skip
def test_groups_of_norms_stay_of_equal_sizes(name, settings):
    torch.manual_seed(0)
    network = tiny(name, norm="group", **settings)
    check(network)
    assert max(module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)) > 1


@pytest.mark.parametrize(
    ("offset", "settings"),
    [
        (0, {"shuffle_groups": 2}), (1, {"shuffle_groups": 4, "norm": "batch"}), (2, {"init_channel": 32}),
        (4, {"shuffle_groups": 4}),
    ],
)  # fmt: skip
def test_every_operation_of_the_lattice(offset, settings):
    torch.manual_seed(0)
    found, _ = check(lattice(offset=offset, **settings), part=0.7)
    assert {*found.fixed.values()} <= {"outputs of the network", "one channel", "groups that leave no choice"}


def test_the_lattices_above_have_every_operation():
    kinds = {kind: set[str]() for kind in TRANSITIONS}
    for offset in (0, 1, 2, 4):
        for cell in lattice(offset=offset).frame.cells.values():
            kinds[cell.transition] |= {name for node in cell.edges for name, _ in node}
    for kind in TRANSITIONS:
        assert kinds[kind] >= {*operations_of(kind, 1)} | {*operations_of(kind, 2)}


def test_an_auxiliary_head_stays_as_it_is():
    torch.manual_seed(0)
    network = darts(auxiliary=True)
    found, image = check(network)
    assert [name for name, reason in found.fixed.items() if reason == "outputs of the network"] == [
        "frame.classifier",
        "frame.auxiliary.8",
    ]
    alone = [name for name, reason in found.fixed.items() if reason == "only run in training"]
    assert alone == ["frame.auxiliary.2", "frame.auxiliary.5"]
    assert not any(unit.name.startswith("frame.auxiliary") for unit in found.units)
    assert {name.rsplit(".", 1)[0] for name in unused_parameters(network, image)} == {
        f"frame.auxiliary.{place}" for place in (2, 3, 5, 8)
    }
    readers = [member for unit in found.units for member in unit.members if "auxiliary" in member.module_name]
    assert {(member.module_name, member.side) for member in readers} == {("frame.auxiliary.2", "in")}
    assert [output.shape for output in network.train()(torch.cat([image, image]), all_heads=True)] == [(2, 2)] * 2


def test_zeros_of_the_lattice_stay_as_they_are():
    torch.manual_seed(0)
    network = lattice()
    genotype = replace(load_genotype("layer7_double_deep"), paths=to_kept(all_paths(3)))
    first = (("identity", 0), ("conv", 0))
    genotype = replace(genotype, cells={kind: (first, *cell[1:]) for kind, cell in genotype.cells.items()})
    settings = {"init_channel": 4, "depth": 3, "absent_edges": False}
    network = build_network(genotype.with_settings(**settings), in_channels=3, outputs=2)
    found, _ = check(network, part=0.7)
    assert "channels that the network makes of constants" in found.fixed.values()


class OfAUser(Network):
    """Layers of all kinds between a stem and a head."""

    heads = (LAST,)

    def __init__(self, *layers, channels=8, read=8):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.layers = nn.Sequential(*layers)
        self.unused = nn.Conv2d(channels, 2, 1)
        self.head = nn.Conv2d(read, 2, 1)

    def check_size(self, size):
        pass

    def smallest_map(self, size):
        return size // 4

    def forward_heads(self, x_bchw, heads=None):
        x = F.relu(self.norm(self.stem(x_bchw)))
        self.unused(x)
        return [self.head(self.layers(x))]


class Scaled(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x_bchw):
        return x_bchw * self.scale


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x_bchw):
        return self.function(x_bchw)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.PReLU(8)],
        [nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.PReLU(), nn.Conv2d(16, 8, 1)],
        [nn.ConvTranspose2d(8, 16, 2, 2, groups=8), nn.InstanceNorm2d(16, affine=True), nn.Conv2d(16, 8, 1)],
        [nn.ConvTranspose2d(8, 12, 3, groups=2, bias=False), nn.GroupNorm(3, 12), nn.Conv2d(12, 8, 1)],
        [Scaled(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, affine=False)],
        [Function(lambda x: torch.cat([x, x * x.mean((2, 3), keepdim=True)], 1)), nn.Conv2d(16, 8, 3)],
    ],
    ids=["grouped", "depthwise", "depthwise-transposed", "grouped-transposed", "scaled", "concatenated"],
)
def test_layers_of_other_kinds(layers):
    torch.manual_seed(0)
    found, _ = check(OfAUser(*copy.deepcopy(layers)), part=0.8)
    assert "stem" in {unit.name for unit in found.units}
    assert (
        found.fixed == {"head": "outputs of the network", "unused": "outputs of the network"} or "head" in found.fixed
    )


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: torch.cat([x[:, 4:], x[:, :4]], 1), "channels that cannot be followed through an operation"),
        (lambda x: torch.softmax(x, 1), "a cut that changes the outputs"),
        (lambda x: 1 - x, "a cut that changes the outputs"),
        (lambda x: x.flip(1) + x, "a cut that changes the outputs"),
    ],
    ids=["sliced", "softmax", "shifted", "flipped"],
)
def test_what_cannot_be_cut_is_found(function, reason):
    torch.manual_seed(0)
    network = OfAUser(Function(function), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    found, _ = check(network, part=1.0)
    assert found.fixed["stem"] == reason
    assert [unit.name for unit in found.units if unit.name != "unused"] == ["layers.1"]


def test_nothing_of_the_network_changes_where_its_units_are_found():
    torch.manual_seed(0)
    network = lattice(offset=2).train()
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    image = small_image(network, 3)
    units = find_units(network, image)
    with masked(network, units, half_of_each(units)):
        network.forward_heads(image)
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())
    assert modes == [module.training for module in network.modules()]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [unit.name for unit in find_units(copy.deepcopy(network), image)] == [unit.name for unit in units]
    network(image, all_heads=True)


@pytest.mark.parametrize(
    ("removals", "problem"),
    [
        ({"head_convs.0": [0]}, "has no channels 'head_convs.0' that can be cut"),
        ({"decoder.0": [0]}, "has no channels 'decoder.0' that can be cut"),
        ({"encoder.0.0.conv": [32]}, "has no such channels"),
        ({"encoder.0.0.conv": [1, 1]}, "has no such channels"),
        ({"encoder.0.0.conv": range(32)}, "Nothing would be left of the 32 channels"),
        ({"encoder.0.0.conv": [0, 1, 16]}, "lie in 2 blocks"),
    ],
)
def test_cuts_that_are_impossible_are_one_message(removals, problem):
    network = tiny("unet", width=32, depth=2, norm="group")
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(RunError, match=problem):
        cut(network, removals, small_image(network, 3))
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())


def test_a_cut_that_changes_outputs_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    network = disturbed(OfAUser(Function(lambda x: 1 - x)))
    image = small_image(network, 3)
    before = heads_of(network, image)
    with pytest.raises(RunError, match="would give other outputs"):
        cut(network, {"stem": [0, 1]}, image)
    assert torch.equal(heads_of(network, image)[0], before[0])


def test_filters_that_are_zeroed_grow_again():
    torch.manual_seed(0)
    network = disturbed(tiny("attention-r2unet"))
    image = small_image(network, 3)
    units = find_units(network, image)
    removals = half_of_each(units)
    with masked(network, units, removals):
        expected = heads_of(network, image)
    zero_filters(network, units, removals)
    with masked(network, units, removals):
        assert largest_difference(heads_of(network, image), expected) < 1e-6
    conv, (removed, *_) = network.encoder[0].widen, removals["encoder.0.widen"]
    assert conv.weight[removed].abs().sum() == conv.bias[removed] == 0
    gradients_of(network, image)
    assert conv.weight.grad[removed].any()


@pytest.mark.parametrize("grows", [True, False])
def test_zeroed_filters_have_gradients_unless_depthwise_ones_behind_them_are_zeroed_too(grows):
    torch.manual_seed(0)
    conv, norm, depthwise = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4)
    network = nn.Sequential(conv, norm, nn.ReLU(), depthwise, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))
    nn.init.constant_(norm.bias, 0.1)
    each = tuple((channel,) for channel in range(4))
    sides = {"0": "out", "1": "both", "3": "both", "4": "both", "6": "in"}
    unit = Unit("unit", 4, tuple(Member(name, network[int(name)], side, each) for name, side in sides.items()))
    zero_filters(network, [unit], {"unit": (1, 2)}, depthwise=not grows)
    assert [bool(one.any()) for one in conv.weight] == [True, False, False, True]
    network(torch.rand(2, 3, 8, 8)).square().mean().backward()
    assert [bool(one.any()) for one in conv.weight.grad] == [True, grows, grows, True]
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    assert [bool(one.any()) for one in conv.weight] == [True, grows, grows, True]


def test_statistics_of_a_masked_group_norm_are_those_of_the_channels_that_are_kept():
    torch.manual_seed(0)
    network = disturbed(tiny("unet", norm="group"))
    image = small_image(network, 3)
    units, removals = find_units(network, image), {"encoder.0.0.conv": [0, 2]}
    with masked(network, units, removals):
        expected = heads_of(network, image)
    zeroed = copy.deepcopy(network)
    layer = zeroed.encoder[0][0]
    for parameter in (*layer.conv.parameters(), *layer.norm.parameters()):
        parameter.data[removals["encoder.0.0.conv"]] = 0.0
    assert largest_difference(heads_of(zeroed, image), expected) > 1e-3
    cut(network, removals, image)
    assert largest_difference(heads_of(network, image), expected) < 1e-5


def test_a_cut_network_is_built_again_bit_for_bit_and_can_be_cut_again():
    torch.manual_seed(0)
    network, built, fresh = disturbed(tiny("attention-unet")), tiny("attention-unet"), tiny("attention-unet")
    image = small_image(network, 3)
    for seed in (1, 2):
        cut(network, half_of_each(find_units(network, image), seed=seed), image)
    structure_of(network, built).apply(fresh)
    fresh.load_state_dict(network.state_dict())
    for output, other in zip(heads_of(fresh.eval(), image), heads_of(network, image), strict=True):
        assert torch.equal(output, other)


def test_parameters_that_no_head_depends_on():
    torch.manual_seed(0)
    genotype = load_genotype("layer7_double_deep").with_settings(init_channel=2)
    whole = build_network(genotype, in_channels=3, outputs=2)
    unused = unused_parameters(whole, small_image(whole, 3))
    assert unused
    assert all(".absent." in name for name in unused)
    without = build_network(genotype.with_settings(absent_edges=False), in_channels=3, outputs=2)
    assert {name for name, _ in whole.named_parameters()} - unused == {name for name, _ in without.named_parameters()}
    network = OfAUser(nn.Conv2d(8, 8, 1))
    network.never_run, network.layers[0].bias.requires_grad = nn.Linear(2, 2), False
    before = [module.training for module in network.modules()]
    assert unused_parameters(network, torch.rand(1, 3, 8, 8)) == {
        "unused.weight", "unused.bias", "never_run.weight", "never_run.bias"
    }  # fmt: skip
    assert [module.training for module in network.modules()] == before
    assert all(parameter.grad is None for parameter in network.parameters())
