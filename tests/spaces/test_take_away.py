"""Cells of the lattice and heads that are taken away from a network for good."""

import copy
import random

import pytest
import torch
from torch import Tensor, nn

from medarts.errors import RunError
from medarts.network.inference import for_inference
from medarts.network.layers import Norm
from medarts.spaces.genotype import Genotype, load_genotype, zoo
from medarts.spaces.nas_wdan import NasWdan
from medarts.spaces.nas_wdan.lattice import all_paths, cell_key, head_name
from medarts.spaces.nas_wdan.network import NasWdanNetwork

LATTICES = [name for name in zoo() if load_genotype(name).space == "nas-wdan"]
WIDTHS = dict(zip(LATTICES, (2, 3, 4, 2, 3), strict=True))

every_lattice = pytest.mark.parametrize("name", LATTICES)


def genotype(name: str = LATTICES[0], **settings: int | bool) -> Genotype:
    return load_genotype(name).with_settings(init_channel=WIDTHS[name], **settings)


def network(name: str = LATTICES[0], **settings: int | bool) -> NasWdanNetwork:
    torch.manual_seed(0)
    made = NasWdanNetwork(genotype(name, **settings)).eval()
    for parameter in made.parameters():
        if parameter.ndim == 1:  # scales and shifts, which are ones and zeros at first
            nn.init.normal_(parameter, 1.0, 0.3)
    return made


def images() -> Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class Zero(nn.Module):
    """A cell whose output is zeros."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.input0, self.input1 = cell, cell.input0, cell.input1

    def forward(self, s0: Tensor | None, s1: Tensor) -> Tensor:
        output: Tensor = self.cell(s0, s1)
        return torch.zeros_like(output)


def with_zeros(net: NasWdanNetwork, cells: list[str]) -> NasWdanNetwork:
    masked = copy.deepcopy(net)
    for key in cells:
        masked.frame.cells[key] = Zero(masked.frame.cells[key])
    return masked


@every_lattice
@torch.no_grad()
def test_a_cut_after_an_early_head_leaves_its_logits_as_they_are(name: str) -> None:
    whole, x = network(name), images()
    expected = dict(zip(whole.heads, whole(x, all_heads=True), strict=True))
    for last in range(1, len(whole.heads)):
        cut = copy.deepcopy(whole)
        cut.take_away((), whole.heads[:last])
        assert cut.heads == whole.heads[:last]
        assert torch.equal(cut(x), expected[cut.heads[-1]])
        for head, logits in zip(cut.heads, cut(x, all_heads=True), strict=True):
            assert torch.equal(logits, expected[head])
        assert cut.state_dict().keys() < whole.state_dict().keys()
        assert count(cut) < count(whole)
        assert cells_run(cut, x) == {*cut.frame.cells}


def cells_run(net: NasWdanNetwork, x: Tensor) -> set[str]:
    """Returns the cells that the last head needs."""
    ran: set[str] = set()
    for key, cell in net.frame.cells.items():
        cell.register_forward_hook(lambda *_, key=key: ran.add(key))
    net(x)
    return ran


@every_lattice
@torch.no_grad()
def test_a_cell_that_is_gone_is_a_cell_of_zeros(name: str) -> None:
    whole, x = network(name), images()
    for key in whole.removable_parts[7:8]:
        cut = copy.deepcopy(whole)
        cut.take_away((key,))
        assert key not in cut.frame.cells
        assert not any(f".{key}." in weight for weight in cut.state_dict())
        masked = with_zeros(whole, [key])
        for a, b in zip(cut(x, all_heads=True), masked(x, all_heads=True), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


@every_lattice
@torch.no_grad()
def test_cells_go_one_by_one_until_every_node_has_one(name: str) -> None:
    whole, x = network(name), images()
    cut, taken, pick = copy.deepcopy(whole), [], random.Random(0)
    while cut.removable_parts:
        taken.append(pick.choice(cut.removable_parts))
        cut.take_away(taken[-1:])
    assert all(len(transitions) == 1 for transitions in cut.frame.paths.values())
    masked = with_zeros(whole, taken)
    for a, b in zip(cut(x, all_heads=True), masked(x, all_heads=True), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    # All at once, in any order, it is the same network; the names may be of cells that went with others.
    again = network(name)
    again.take_away(sorted(taken))
    assert again.state_dict().keys() == cut.state_dict().keys()
    assert torch.equal(again(x), cut(x))
    with pytest.raises(RunError, match="would keep no cell"):
        cut.take_away([next(iter(cut.frame.cells))])


@torch.no_grad()
def test_cells_and_heads_go_together_and_one_after_the_other() -> None:
    together, x = network(), images()
    heads = together.heads[:2]
    parts = ("2_0_up", "4_0_normal")
    together.take_away(parts, heads)
    after = network()
    after.take_away((), heads)
    after.take_away(parts)
    assert together.frame.paths == after.frame.paths
    assert torch.equal(together(x), after(x))


def test_early_heads_can_go_alone() -> None:
    net, x = network(), images()
    cells, expected = len(net.frame.cells), net(x)
    net.take_away((), net.heads[-1:])
    assert (len(net.frame.heads), len(net.frame.cells)) == (1, cells)
    assert net.heads == ("8,0",)
    assert torch.equal(net(x), expected)


def test_a_cut_network_takes_the_sizes_that_its_levels_halve() -> None:
    net = network()
    net.take_away((), ("2,0",))
    assert net.divisor == 4
    net.check_size(36)
    assert net.smallest_map(36) == 9
    assert net(torch.rand(1, 3, 36, 36)).shape == (1, 1, 36, 36)
    net.take_away([part for part in net.removable_parts if part.endswith("up")])
    assert [*net.frame.cells] == ["2_0_normal"]
    assert net(torch.rand(1, 3, 6, 6)).shape == (1, 1, 6, 6)


@pytest.mark.parametrize(
    ("parts", "heads", "message", "fix"),
    [
        (("4_0_upp",), None, "no cell '4_0_upp'", "'4_0_up'"),
        ((), ("4,1",), "no head '4,1'", "'4,0'"),
        ((), (), "No head", "2,0, 4,0, 6,0, 8,0"),
        (("2_0_up", "2_0_normal"), None, r"Node \(2,0\)", "2_0_normal, 2_0_up"),
    ],
)
def test_what_cannot_go_is_refused_and_leaves_the_network_whole(
    parts: tuple[str, ...], heads: tuple[str, ...] | None, message: str, fix: str
) -> None:
    net = network()
    before = [*net.state_dict()]
    with pytest.raises(RunError, match=message) as caught:
        net.take_away(parts, heads)
    assert fix in caught.value.fix
    assert [*net.state_dict()] == before
    assert net.heads == network().heads


@pytest.mark.parametrize("norm", ["group", "batch"])
@torch.no_grad()
def test_the_inference_form_of_a_cut_network(norm: Norm) -> None:
    torch.manual_seed(0)
    net, x = NasWdanNetwork(genotype(), norm=norm).eval(), images()
    net.take_away(net.removable_parts[1:6:4], net.heads[:3])
    form = for_inference(net)
    assert form.heads == net.heads
    for a, b in zip(form(x, all_heads=True), net(x, all_heads=True), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_operations_that_nothing_runs_go_with_whatever_goes() -> None:
    net, x = network(absent_edges=True), images()
    unused = {name for name in net.state_dict() if ".absent." in name}
    assert unused
    names, before = {*net.state_dict()}, net(x, all_heads=True)
    net.take_away(())
    assert {*net.state_dict()} == names - unused
    assert all(torch.equal(a, b) for a, b in zip(net(x, all_heads=True), before, strict=True))


def test_gradients_reach_all_that_is_left() -> None:
    net = network(absent_edges=False)
    net.take_away(net.removable_parts[:1], net.heads[:2])
    sum(logits.square().mean() for logits in net.train()(images(), all_heads=True)).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_the_lattice_is_drawn_as_it_is() -> None:
    net, own = network(), genotype()
    assert NasWdan.lattice_of(own).heads == net.head_nodes
    parts, heads = net.removable_parts[:3:2], net.heads[:-1] or net.heads
    net.take_away(parts, heads)
    drawn = NasWdan.lattice_of(own, without=parts, heads=heads)
    assert tuple(map(head_name, drawn.heads)) == net.heads
    kept = {cell_key(path.target, path.kind) for path in drawn.paths if path.kept}
    assert kept == {*net.frame.cells}
    assert len(drawn.paths) == sum(map(len, all_paths(int(own.settings["depth"])).values()))
