"""Relaxations: what weights they give, with which gradients, and that both backends run them alike, in both spaces."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medarts.config import DeriveSettings, SupernetSettings
from medarts.spaces.base import Limit, Supernet
from medarts.spaces.cells import CellWeights, derive_cell
from medarts.spaces.darts import DartsSettings
from medarts.spaces.darts import supernet as darts
from medarts.spaces.darts.supernet import DartsSupernet
from medarts.spaces.genotype import NONE, Cell
from medarts.spaces.nas_wdan import supernet as nas_wdan
from medarts.spaces.nas_wdan.settings import LatticeSettings
from medarts.spaces.nas_wdan.supernet import NasWdanSupernet
from medarts.spaces.relaxations import (
    Dirichlet,
    Draw,
    Gumbel,
    GumbelSettings,
    Relaxation,
    Sigmoid,
    Softmax,
    concentration,
    perturbed,
    relaxed,
    seeded,
    without_skips,
)

RELAXATIONS: dict[str, Relaxation] = {
    "softmax": Softmax(),
    "sigmoid": Sigmoid(),
    "gumbel": Gumbel(GumbelSettings()),
    "dirichlet": Dirichlet(),
}
SPACES = ("nas-wdan", "darts")
LATTICE = LatticeSettings(depth=3, init_channel=4, double_down_channel=False, intermediate_nodes=2)
CELLS = DartsSettings(stem="cifar", search_channel=4, intermediate_nodes=2)


def supernet(space: str, relaxation: str, *, fused: bool = True, **settings: Any) -> Supernet:
    """Returns a small supernet in float64 whose alphas and betas are far from equal."""
    torch.manual_seed(0)
    of_supernet = SupernetSettings(**settings)
    made: Supernet
    if space == "nas-wdan":
        backend = nas_wdan.FUSED if fused else nas_wdan.REFERENCE
        made = NasWdanSupernet(LATTICE, supernet=of_supernet, backend=backend)
        for head in made.frame.heads.values():
            head.get_submodule("dropout").eval()
    else:
        made = DartsSupernet(CELLS, depth=3, supernet=of_supernet, backend=darts.FUSED if fused else darts.REFERENCE)
    made = made.double()
    with torch.no_grad():
        for parameter in made.architecture():
            parameter.normal_()
    made.relaxation = RELAXATIONS[relaxation]
    return made


def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def passed(made: Supernet, draw: Draw | None) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Returns the logits of all heads, and the gradients of an uneven function of them."""
    if draw is None:
        heads = made.forward_heads(images())
    else:
        with made.drawing(draw):
            heads = made.forward_heads(images())
    logits = torch.stack(heads)
    wave = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    torch.autograd.backward((logits * wave).sum() + logits.square().sum())
    return logits.detach(), {name: parameter.grad for name, parameter in made.named_parameters()}


def assert_close(found: Tensor, wanted: Tensor, name: str = "logits") -> None:
    assert (found - wanted).abs().max() <= 1e-9 * wanted.abs().max().clamp_min(1e-12), name


@pytest.mark.parametrize("draw", [Draw(seed=3, progress=0.5), None], ids=["training", "validation"])
@pytest.mark.parametrize("relaxation", ["sigmoid", "gumbel", "dirichlet"])
@pytest.mark.parametrize("space", SPACES)
def test_both_backends_run_it_alike(space: str, relaxation: str, draw: Draw | None) -> None:
    wanted, of_reference = passed(supernet(space, relaxation, fused=False, edge_normalisation=True), draw)
    found, of_fused = passed(supernet(space, relaxation, edge_normalisation=True), draw)
    assert wanted.abs().max() > 0.01
    assert_close(found, wanted)
    for name, gradient in of_reference.items():
        other = of_fused[name]
        assert (gradient is None) == (other is None), name
        if gradient is not None and other is not None:
            assert_close(other, gradient, name)
    if relaxation != "gumbel" or draw is not None:
        alphas = [gradient for name, gradient in of_fused.items() if name.startswith(("alphas", "betas"))]
        assert all(gradient is not None and gradient.abs().max() > 0 for gradient in alphas)


@pytest.mark.parametrize("partial_channels", [1, 2])
@pytest.mark.parametrize("space", SPACES)
def test_a_node_for_which_none_is_drawn_on_every_edge_is_zero(space: str, partial_channels: int) -> None:
    results = []
    for fused in (False, True):
        made = supernet(space, "gumbel", fused=fused, partial_channels=partial_channels)
        assert isinstance(made, NasWdanSupernet | DartsSupernet)
        with torch.no_grad():
            for kind, rows in made.candidates.items():
                if NONE in rows[0]:
                    made.alphas[kind][:, rows[0].index(NONE)] = 100.0
        results.append(passed(made, Draw(seed=3, progress=0.5))[0])
        assert torch.isfinite(results[-1]).all()
    assert_close(results[1], results[0])


@pytest.fixture
def run() -> Iterator[list[nn.Module]]:
    """The modules that run, in any supernet."""
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, out: seen.append(module))
    yield seen
    handle.remove()


@pytest.mark.parametrize("space", SPACES)
def test_gumbel_runs_one_operation_of_an_edge(space: str, run: list[nn.Module]) -> None:
    """Where others would be run, they would have a gradient; and a cell that is not drawn is not run at all."""
    made = supernet(space, "gumbel", fused=False)
    _, gradients = passed(made, Draw(seed=3, progress=0.5))
    cells = [module for module in made.modules() if isinstance(module, nas_wdan.MixedCell | darts.MixedCell)]
    seen = {id(module) for module in run}
    numbers = []
    for cell in cells:
        for operations in cell.operations:
            numbers.append(sum(id(operation) in seen for operation in operations.children()))
    assert set(numbers) <= {0, 1}
    assert sum(numbers) > len(cells)
    trained = {name for name, gradient in gradients.items() if gradient is not None and ".operations." in name}
    fused = passed(supernet(space, "gumbel"), Draw(seed=3, progress=0.5))[1]
    assert trained == {name for name, gradient in fused.items() if gradient is not None and ".operations." in name}
    assert 0 < len(trained) < sum(".operations." in name for name in gradients) / 2


def test_gumbel_draws_with_the_probabilities_of_the_softmax() -> None:
    torch.manual_seed(0)
    logits, gumbel = torch.randn(1, 5).expand(20_000, 5), Gumbel(GumbelSettings())
    for progress in (0.0, 0.9):  # whatever the temperature
        drawn = gumbel.training(logits, progress)
        torch.testing.assert_close(drawn.mean(0), torch.softmax(logits[0], -1), rtol=0, atol=0.02)
        assert ((drawn - 1).abs().min(1).values < 1e-6).all()


def test_gumbel_sharpens_with_its_temperature() -> None:
    """The gradient of a straight-through draw is that of the soft weights, which are nearly one-hot when cold."""
    found = []
    for progress in (0.0, 0.999):
        logits = torch.zeros(64, 5, requires_grad=True)
        with seeded(3):
            drawn = Gumbel(GumbelSettings()).training(logits, progress)
        torch.autograd.backward((drawn * drawn.detach()).sum())  # the gradient of the drawn candidate's soft weight
        assert logits.grad is not None
        found.append(logits.grad.abs().median())
    # Warm, every logit has a gradient of about 1 / (5 x temperature); cold, most have none.
    assert found[0] == pytest.approx(0.2 / 10 / 5, rel=0.5)
    assert found[1] < found[0] / 10


def test_dirichlet_has_the_mean_and_the_gradient_of_its_distribution() -> None:
    torch.manual_seed(0)
    row = torch.tensor([-3.0, -0.5, 0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(concentration(row), torch.nn.functional.elu(row) + 1)
    logits = row.expand(50_000, 4).clone().requires_grad_()
    drawn = Dirichlet().training(logits, 0.0)
    torch.testing.assert_close(drawn.sum(-1), torch.ones(50_000, dtype=torch.float64))
    wanted = row.clone().requires_grad_()
    mean = Dirichlet().preferences(wanted)
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.01)
    torch.autograd.backward(drawn[:, 3].mean())
    torch.autograd.backward(mean[3])
    assert logits.grad is not None
    assert wanted.grad is not None
    torch.testing.assert_close(logits.grad.sum(0), wanted.grad, rtol=0, atol=0.01)


def test_a_dirichlet_of_small_concentrations_is_finite() -> None:
    logits = torch.full((1000, 7), -30.0, requires_grad=True)
    drawn = Dirichlet().training(logits, 0.0)
    torch.autograd.backward(drawn[:, 0].sum())
    assert torch.isfinite(drawn).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_draws_follow_from_the_seed_and_leave_the_generator_alone(relaxation: str) -> None:
    chosen, logits = RELAXATIONS[relaxation], [torch.randn(6, 5), torch.randn(3)]
    state = torch.get_rng_state()
    first, again, other = (relaxed(chosen, logits, Draw(seed, 0.5)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    random = relaxation in ("gumbel", "dirichlet")
    assert torch.equal(first[0], other[0]) != random
    assert all(
        torch.equal(a, b) for a, b in zip(relaxed(chosen, logits, None), relaxed(chosen, logits, None), strict=True)
    )


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("space", SPACES)
def test_the_genotype_follows_from_the_preferences(space: str, relaxation: str) -> None:
    """All relaxations are monotone, so that of one set's edges all keep the operation with the largest alpha."""
    made = supernet(space, relaxation)
    assert isinstance(made, NasWdanSupernet | DartsSupernet)
    with made.drawing(Draw(seed=1, progress=0.2)):
        genotype = made.derive(DeriveSettings(), name="x", provenance={})
        snapshot = made.snapshot()
    edges = [(node, state) for node, state in made.edges]
    for node, kept in enumerate(genotype.cells["normal"]):
        assert len(kept) == 2
        for name, state in kept:
            edge = edges.index((node, state))
            alphas = dict(zip(made.candidates["normal"][edge], made.alphas["normal"][edge].tolist(), strict=True))
            alphas.pop(NONE)
            assert name == max(alphas, key=lambda each: alphas[each])
    weights = torch.tensor(snapshot["alphas"]["normal"]["weights"], dtype=torch.float64)
    torch.testing.assert_close(weights, made.relaxation.preferences(made.alphas["normal"].detach()))
    assert genotype == supernet(space, relaxation, fused=False).derive(DeriveSettings(), name="x", provenance={})


def test_weights_that_do_not_compete_are_compared_as_they_are() -> None:
    edges, names = ((0, 0), (0, 1), (0, 2)), (("a", "b"), ("c", "d", "e", "f"), ("g", "h"))
    weights = [[0.6, 0.1], [0.5, 0.1, 0.1, 0.1], [0.4, 0.1]]
    assert derive_cell(edges, names, weights) == ((("c", 1), ("a", 0)),)
    assert derive_cell(edges, names, weights, competing=False) == ((("a", 0), ("c", 1)),)


def test_the_supernet_is_that_of_validation_again_after_an_error() -> None:
    made = supernet("darts", "dirichlet")
    before = made.forward_heads(images())[0]

    def fail() -> None:
        with made.drawing(Draw(seed=1, progress=0.0)):
            assert not torch.equal(made.forward_heads(images())[0], before)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert torch.equal(made.forward_heads(images())[0], before)


# What a training step does to the weights besides, and to the edges


@pytest.mark.parametrize("competing", [True, False])
def test_perturbed_weights_stay_weights(competing: bool) -> None:
    torch.manual_seed(0)
    weights = torch.softmax(torch.randn(2000, 7), -1)
    moved = perturbed(weights, 0.03, competing=competing)
    assert ((moved >= 0) & (moved <= 1)).all()
    difference = moved - weights
    if competing:
        torch.testing.assert_close(moved.sum(-1), torch.ones(2000))
    else:
        assert difference.abs().max() == pytest.approx(0.03, rel=0.01)
    assert difference.std() == pytest.approx(0.03 / 3**0.5, rel=0.1)
    assert torch.equal(perturbed(weights, 0.0, competing=False), weights)
    hopeless = torch.full((5000, 2), 1e-12)
    assert torch.isfinite(perturbed(hopeless, 0.5, competing=True)).all()


def test_a_skip_is_dropped_as_often_as_asked_and_kept_on_average() -> None:
    torch.manual_seed(0)
    weights = torch.full((20_000, 3), 1 / 3)
    skips = torch.tensor([[False, True, False]]).expand(20_000, 3)
    dropped = without_skips(weights, skips, 0.4)
    assert torch.equal(dropped[:, [0, 2]], weights[:, [0, 2]])
    assert (dropped[:, 1] == 0).double().mean() == pytest.approx(0.4, abs=0.01)
    assert dropped[:, 1].mean() == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("partial_channels", [1, 2])
@pytest.mark.parametrize("relaxation", ["softmax", "gumbel"])
@pytest.mark.parametrize("space", SPACES)
def test_both_backends_run_auxiliary_skips_and_dropped_ones_alike(
    space: str, relaxation: str, partial_channels: int
) -> None:
    draw, results = Draw(seed=3, progress=0.5, skip_dropout=0.5), []
    for fused in (False, True):
        made = supernet(space, relaxation, fused=fused, partial_channels=partial_channels)
        made.auxiliary_skip = 0.7
        results.append(passed(made, draw))
    (wanted, of_reference), (found, of_fused) = results
    assert_close(found, wanted)
    for name, gradient in of_reference.items():
        other = of_fused[name]
        assert (gradient is None) == (other is None), name
        if gradient is not None and other is not None:
            assert_close(other, gradient, name)
    without = supernet(space, relaxation, partial_channels=partial_channels)
    assert not torch.allclose(passed(without, draw)[0], wanted)
    if relaxation == "softmax":  # of gumbel's few operations no skip may be among those drawn
        without.auxiliary_skip = 0.7
        assert not torch.allclose(passed(without, Draw(seed=3, progress=0.5))[0], wanted)


@pytest.mark.parametrize("space", SPACES)
def test_an_auxiliary_skip_is_the_state_added_on_every_edge(space: str) -> None:
    """In a cell all of whose operations have weight 0, every node is b times the sum of the states before it."""
    made = supernet(space, "softmax", fused=False)
    assert isinstance(made, NasWdanSupernet | DartsSupernet)
    kind = "normal"
    cell: Any = next(
        each
        for each in made.modules()
        if isinstance(each, nas_wdan.MixedCell | darts.MixedCell)
        and kind == (each.transition if isinstance(each, nas_wdan.MixedCell) else each.kind)
        and each.input0 is not None
    )
    zero = tuple(torch.zeros(len(names), dtype=torch.float64) for names in cell.candidates)
    weights = CellWeights(cell.edges, cell.candidates, zero, torch.zeros(len(cell.edges), dtype=torch.float64), 0.5)
    first, second = torch.rand(2, 1, 4, 6, 6, dtype=torch.float64)
    mix: Any = (nas_wdan if space == "nas-wdan" else darts).mix_reference
    node0 = 0.5 * (first + second)
    node1 = 0.5 * (first + second + node0)
    torch.testing.assert_close(mix(cell, first, second, weights), torch.cat([node0, node1], 1))


def test_the_weakest_skips_make_way() -> None:
    edges = ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    names = (("none", "skip", "conv"),) * 4 + (("none", "skip"),)
    rows = [[0.1, 0.6, 0.3], [0.1, 0.5, 0.4], [0.1, 0.7, 0.2], [0.0, 0.4, 0.1], [0.2, 0.8, 0.0]]
    free = ((("skip", 0), ("skip", 1)), (("skip", 2), ("skip", 0)))
    weights = [row[: len(of)] for row, of in zip(rows, names, strict=True)]

    def derive(*most: int, limited: frozenset[str] = frozenset({"skip"})) -> Cell:
        return derive_cell(edges, names, weights, competing=False, limits=[Limit(limited, each) for each in most])

    assert derive() == free
    assert derive(4) == free
    assert derive(3) == ((("skip", 0), ("conv", 1)), (("skip", 2), ("skip", 0)))
    assert derive(2) == ((("conv", 1), ("conv", 0)), (("skip", 2), ("skip", 0)))
    # The weakest now is that of edge (1, 0); (1, 1) takes its place, with its skip first and then without.
    assert derive(1) == ((("conv", 1), ("conv", 0)), (("skip", 2), ("conv", 0)))
    assert derive(0) == derive(1)  # an edge of none and skip has nothing else
    assert derive(4, 2) == derive(2)
    everything = frozenset({"skip", "conv"})
    assert derive(0, limited=everything) == free  # nothing else to take


@pytest.mark.parametrize("space", SPACES)
def test_a_genotype_has_no_more_skips_than_asked(space: str) -> None:
    made = supernet(space, "softmax")
    assert isinstance(made, NasWdanSupernet | DartsSupernet)
    skip = "identity" if space == "nas-wdan" else "skip_connect"
    with torch.no_grad():
        for kind, rows in made.candidates.items():
            if skip in rows[0]:
                made.alphas[kind][:, rows[0].index(skip)] = 5.0
    for most in (None, 1, 0):
        genotype = made.derive(DeriveSettings(skips=most), name="x", provenance={})
        numbers = [sum(name == skip for node in cell for name, _ in node) for kind, cell in genotype.cells.items()]
        assert max(numbers) == (most if most is not None else max(numbers))
        assert most is not None or max(numbers) > 1
