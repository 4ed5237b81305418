"""The network for training gives the outputs, gradients and running statistics of the network as built, to 1e-9."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medarts.network import Network
from medarts.network.layers import Norm
from medarts.spaces import register_operation
from medarts.spaces.genotype import NONE, Cell, Genotype, KeptCells, zoo
from medarts.spaces.genotype import load_genotype as load
from medarts.spaces.nas_wdan import settings as nas_wdan
from medarts.spaces.nas_wdan.network import NasWdanNetwork
from medarts.spaces.nas_wdan.operations import OPERATIONS, TRANSITIONS, Transition, set_of_edge
from medarts.spaces.nas_wdan.training import NasWdanTraining
from medarts.spaces.sampling import random_cells

NORMS: tuple[Norm, ...] = ("group", "batch")
ZOO = [name for name in zoo() if load(name).space == "nas-wdan"]

exactly = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def small(name: str = "alpha0_5_stage1_double_deep_ep80", **settings: int | bool | float) -> Genotype:
    return load(name).with_settings(**({"init_channel": 4} | settings))


def with_cells(cells: dict[str, Cell], **settings: int | bool) -> Genotype:
    whole = small(**settings)
    return Genotype(whole.name, whole.space, cells, whole.settings, whole.paths, {})


def network(genotype: Genotype, **options: int | Norm) -> NasWdanNetwork:
    """Returns a network in float64 and training mode, whose norms and heads scale and shift."""
    torch.manual_seed(0)
    made = NasWdanNetwork(genotype, **options)
    for parameter in made.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape)
    return made.double().train()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def trained(network: Network, x: Tensor, *, steps: int) -> list[Tensor]:
    """Returns the logits of steps, behind each of which weights are moved; all gradients stay in the network."""
    torch.manual_seed(1)  # of the heads' dropout
    outputs = []
    for _ in range(steps):
        logits = network(x, all_heads=True)
        torch.autograd.backward([each.square().mean() for each in logits])
        outputs += logits
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.data -= 0.1 * parameter.grad
    return outputs


def assert_equal(plain: NasWdanNetwork, x: Tensor, *, steps: int = 1) -> NasWdanTraining:
    shared = copy.deepcopy(plain)
    form = shared.training_form()
    assert isinstance(form, NasWdanTraining)
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
    return form


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ZOO)
def test_published_genotypes(name: str, norm: Norm) -> None:
    genotype = small(name, deep_supervision=True)
    form = assert_equal(network(genotype, norm=norm), images(2, 3, 64, 32))
    convolutions = sum(isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)) for part in form.network.frame.modules())
    assert len(form.joined) < 0.8 * convolutions  # they are joined at all


def published(kind: str, state: int) -> list[str]:
    names = OPERATIONS[set_of_edge(cast(Transition, kind), state)].published
    return [name for name in names if name != NONE]


def random_genotype(seed: int, **settings: int | bool) -> Genotype:
    cells = random_cells(TRANSITIONS, 3, candidates=published, generator=np.random.default_rng(seed))
    return with_cells(cells, intermediate_nodes=3, **settings)


@pytest.mark.parametrize("seed", range(3))
def test_random_genotypes(seed: int) -> None:
    """With and without groups in a norm and a convolution."""
    genotype = random_genotype(
        seed, init_channel=(4, 32)[seed % 2], shuffle_groups=1 + seed % 2, double_down_channel=False
    )
    options = {"norm": NORMS[seed // 2], "in_channels": 1, "outputs": 3}
    assert_equal(network(genotype, **options), images(2, 1, 32, 64), steps=2)


def every_operation() -> Iterator[Genotype]:
    """Yields genotypes whose cells have, in turns, each operation twice from one state, and all kinds of edges."""
    for number in range(6):
        names = {kind: [name for name in OPERATIONS[kind].published if name != NONE] for kind in TRANSITIONS}
        cells: dict[str, Cell] = {}
        for kind in TRANSITIONS:
            one, other = names[kind][number % len(names[kind])], names["normal"][number % len(names["normal"])]
            cells[kind] = (((one, 1), (other, 0)), ((one, 1), (other, 0)), ((other, 2), (other, 3)))
        yield with_cells(cells, intermediate_nodes=3)


@pytest.mark.parametrize("genotype", every_operation())
def test_every_operation(genotype: Genotype) -> None:
    assert_equal(network(genotype, norm="batch"), images(2, 3, 32, 32))


@pytest.mark.parametrize(("norm", "stride"), [("group", 1), ("batch", 2)])
def test_head_at_full_size(norm: Norm, stride: int) -> None:
    whole = small()
    settings = {**whole.settings, "full_size_head": True, "stem_stride": stride, "stem_channels": 8}
    assert_equal(
        network(replace(whole, settings=settings), outputs=2, norm=norm), images(2, 3, 64 // (3 - stride), 32), steps=2
    )


@pytest.mark.parametrize(("norm", "stride"), [("group", 2), ("batch", 1)])
def test_nodes_of_zeros(norm: Norm, stride: int) -> None:
    """Where s0 is absent, the first two nodes are zeros."""
    cells: dict[str, Cell] = {
        kind: ((("conv", 0),), (("cweight", 2), ("conv", 0)), ((of_s1, 1),))
        for kind, of_s1 in (("down", "down_conv"), ("normal", "conv"), ("up", "up_conv"))
    }
    genotype = with_cells(cells, intermediate_nodes=3)
    genotype = replace(genotype, settings={**genotype.settings, "stem_stride": stride})
    form = assert_equal(network(genotype, norm=norm), images(2, 3, 64, 32))
    assert form.smallest_map(64) == {2: 2, 1: 4}[stride]


def test_a_network_with_inputs_that_no_edge_reads_is_trained_as_built() -> None:
    """Its weights behind them have no gradient."""
    edges: Cell = ((("conv", 0),), (("conv", 0),), (("conv", 0),), (("conv", 0),))
    plain = network(with_cells(dict.fromkeys(TRANSITIONS, edges)))
    assert plain.training_form() is plain


def test_networks_of_which_cells_and_heads_were_taken_away() -> None:
    plain = network(small(), norm="batch")
    plain.take_away(plain.removable_parts[1:6:4], plain.heads[:3])
    assert_equal(plain, images(2, 3, 32, 32))


def test_dropped_paths() -> None:
    whole = small()
    kept = tuple(KeptCells(item.layer, item.level, item.transitions[-1:]) for item in whole.paths)
    genotype = Genotype(whole.name, whole.space, whole.cells, whole.settings, kept, {})
    assert_equal(network(genotype, norm="batch"), images(2, 3, 32, 32))


def test_operations_that_users_registered_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """They see the state, of which the published ones see the ReLU."""

    class Sine(nn.Module):
        def forward(self, x_bchw: Tensor) -> Tensor:
            return torch.sin(3 * x_bchw)

    monkeypatch.setattr(OPERATIONS["normal"], "_builders", dict(OPERATIONS["normal"]._builders))
    register_operation(nas_wdan.SPACE, "normal", "sine_of_tests", lambda channels, settings: Sine())
    cells = dict(small().cells)
    cells["normal"] = ((("sine_of_tests", 0), ("sine_of_tests", 1)), *cells["normal"][1:])
    assert_equal(network(with_cells(cells), norm="batch"), images(2, 3, 32, 32))


def test_dropped_activations_are_those_of_the_network_as_built() -> None:
    plain = network(small(dropout_prob=0.1))
    assert plain.training_form() is plain


def test_in_evaluation_mode_and_for_single_heads_it_is_the_network_as_built() -> None:
    plain, x = network(small(), norm="batch"), images(2, 3, 32, 32)
    form = plain.training_form()
    assert not form.eval().network.training
    for head in (*plain.heads, None):
        assert torch.equal(form(x, head), plain(x, head))


def test_in_bf16_it_is_as_near_to_fp32_as_the_network_as_built() -> None:
    plain, x = network(small(init_channel=8), norm="batch").float(), images(4, 3, 32, 32).float()
    for head in plain.frame.heads.values():
        head.dropout.p = 0.0
    expected = plain(x)
    with torch.autocast("cpu", torch.bfloat16):
        built, found = plain(x), plain.training_form()(x, all_heads=True)[-1]
    assert (found - expected).norm() < 1.5 * (built - expected).norm() < 0.2 * expected.norm()
