"""The network for training gives the outputs, gradients and running statistics of the network as built, to 1e-9."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from medarts import create_model
from medarts.models.pruned import Pruned
from medarts.network import Network
from medarts.network.structure import structure_of
from medarts.pruning.units import cut, find_units, half_of_each, small_image
from medarts.spaces import register_operation
from medarts.spaces.darts.network import DartsCell, DartsNetwork
from medarts.spaces.darts.operations import KINDS, OPERATIONS
from medarts.spaces.darts.settings import SPACE
from medarts.spaces.darts.training import DartsTraining
from medarts.spaces.genotype import NONE, Cell, Genotype
from medarts.spaces.genotype import load_genotype as load

ZOO = ("chestxray14_first_order", "darts_v2")

exactly = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def small(name: str = "darts_v2", **settings: int | float | bool | str) -> Genotype:
    return load(name).with_settings(**({"init_channel": 5, "layers": 4, "drop_path_prob": 0.3} | settings))


def network(genotype: Genotype, **options: int) -> DartsNetwork:
    """Returns a network in float64 and training mode, whose norms scale and shift, and which drops paths."""
    torch.manual_seed(0)
    return disturbed(DartsNetwork(genotype, **options))


def disturbed(made: DartsNetwork) -> DartsNetwork:
    for parameter in made.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape)
    made.at(0.8)
    return made.double().train()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def trained(network: Network, x: Tensor, *, steps: int) -> list[Tensor]:
    """Returns the logits of steps, behind each of which weights are moved; all gradients stay in the network."""
    torch.manual_seed(1)  # of the paths that are dropped
    outputs = []
    for _ in range(steps):
        logits = network(x, all_heads=True)
        torch.autograd.backward([(each - 1).square().mean() for each in logits])
        outputs += logits
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.data -= 0.1 * parameter.grad
    return [*outputs, torch.rand(1)]  # as many random numbers were drawn


def assert_equal(plain: DartsNetwork, x: Tensor, *, steps: int = 1) -> None:
    shared = copy.deepcopy(plain)
    form = shared.training_form()
    assert isinstance(form, DartsTraining)
    assert form.heads == plain.heads
    for a, b in zip(trained(form, x, steps=steps), trained(plain, x, steps=steps), strict=True):
        exactly(a, b)
    for (name, a), b in zip(plain.named_parameters(), shared.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name  # AdamW lets weights without a gradient alone
        if a.grad is not None:
            exactly(b.grad, a.grad, msg=name)
        exactly(b, a, msg=name)
    for name, a in plain.named_buffers():
        exactly(shared.get_buffer(name), a, msg=name)


@pytest.mark.parametrize("stem", ["chest", "cifar"])
@pytest.mark.parametrize("name", ZOO)
def test_published_genotypes(name: str, stem: str) -> None:
    plain = network(small(name, stem=stem, layers=6, auxiliary=True), outputs=3)
    assert_equal(plain, images(2, 3, 75, 64) if stem == "chest" else images(2, 3, 21, 16), steps=2)


def every_operation() -> Iterator[Genotype]:
    """Yields genotypes whose cells have each operation twice from one state, from inputs and from a node."""
    names = [name for name in OPERATIONS["normal"].published if name != NONE]
    for one, other in [*[*pairwise(names)][::2], (names[-1], names[0])]:
        cell: Cell = (((one, 0), (one, 1)), ((one, 1), (other, 0)), ((other, 0), (other, 2)), ((one, 2), (other, 1)))
        yield replace(small(layers=3), cells=dict.fromkeys(KINDS, cell))


@pytest.mark.parametrize("genotype", every_operation())
def test_every_operation(genotype: Genotype) -> None:
    assert_equal(network(genotype, in_channels=1), images(3, 1, 13, 18))


@pytest.mark.parametrize("unread", [0, 1])
def test_inputs_that_no_edge_reads(unread: int) -> None:
    """Weights behind them have no gradient, and their norms see the batch all the same."""
    read = 1 - unread
    cell: Cell = ((("sep_conv_3x3", read),), (("max_pool_3x3", read),), (("skip_connect", 2),), (("dil_conv_3x3", 3),))
    assert_equal(network(replace(small(layers=3), cells=dict.fromkeys(KINDS, cell))), images(2, 3, 16, 16))


def test_without_drop_path_in_the_last_cell_with_an_auxiliary_head() -> None:
    plain = network(small(layers=3, auxiliary=True, drop_path_prob=0.0))
    assert plain.frame.auxiliary_layer == 2
    assert_equal(plain, images(2, 3, 12, 12))


def test_networks_of_which_channels_were_cut_away() -> None:
    genotype = small("chestxray14_first_order", init_channel=6, auxiliary=True)
    torch.manual_seed(0)
    pruned = DartsNetwork(genotype)
    image = small_image(pruned, 3)
    units = find_units(pruned, image)
    cut(pruned, half_of_each(units), image, units=units)
    structure = structure_of(pruned, DartsNetwork(genotype))
    assert structure.layers
    made = create_model(Pruned("half", genotype, structure), in_channels=3, outputs=1)
    assert_equal(disturbed(cast(DartsNetwork, made)), images(2, 3, 64, 64))


def test_networks_with_operations_that_users_registered_are_trained_as_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """They see the state, and may draw random numbers."""
    monkeypatch.setattr(OPERATIONS["normal"], "_builders", dict(OPERATIONS["normal"]._builders))
    register_operation(SPACE, "normal", "tanh_of_tests", lambda channels, stride, settings: nn.Tanh())
    normal: Cell = ((("tanh_of_tests", 0), ("skip_connect", 1)), *small().cells["normal"][1:])
    plain = network(replace(small(), cells={**small().cells, "normal": normal}))
    assert plain.training_form() is plain


def test_in_evaluation_mode_and_for_single_heads_it_is_the_network_as_built() -> None:
    plain, x = network(small(auxiliary=True)), images(2, 3, 16, 16)
    form = plain.training_form()
    assert not form.eval().network.training
    for head in (*plain.heads, None):
        assert torch.equal(form(x, head), plain(x, head))


def test_it_learns_how_far_training_is() -> None:
    plain = network(small())
    plain.training_form().at(0.25)
    assert plain.progress == 0.25


def test_nodes_are_not_concatenated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form itself runs, not the cells of the network."""
    form = network(small()).training_form()
    monkeypatch.setattr(DartsCell, "forward", None)
    form(images(2, 3, 16, 16), all_heads=True)


def test_in_bf16_it_is_as_near_to_fp32_as_the_network_as_built() -> None:
    plain, x = network(small(init_channel=8, drop_path_prob=0.0), outputs=8).float(), images(8, 3, 32, 32).float()
    expected = plain(x)
    with torch.autocast("cpu", torch.bfloat16):
        built, found = plain(x), plain.training_form()(x, all_heads=True)[-1]
    assert (found - expected).norm() < 1.5 * (built - expected).norm() < 0.2 * expected.norm()
