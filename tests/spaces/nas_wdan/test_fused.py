"""The two backends of a supernet are one function: equal outputs, equal gradients, one set of parameters."""

from copy import deepcopy
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from medarts.config import SupernetSettings
from medarts.config.sections import DeriveSettings
from medarts.errors import RecipeError
from medarts.spaces.base import Candidates
from medarts.spaces.kernels import (
    Dense,
    Kernels,
    NormState,
    Separable,
    Shuffled,
    norm_formula,
    norm_formula_backward,
    to_bchw,
    to_bhwc,
)
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings, operations
from medarts.spaces.nas_wdan.frame import read_each
from medarts.spaces.nas_wdan.fused import CONVOLUTIONS, Leaving, preprocess_together
from medarts.spaces.nas_wdan.operations import OPERATIONS, TRANSITIONS, OperationSettings
from medarts.spaces.nas_wdan.settings import LatticeSettings
from medarts.spaces.nas_wdan.supernet import FUSED, REFERENCE, Backend, NasWdanSupernet
from medarts.spaces.weighted_sum import Chain, Kind, Normed, Product, weighted_sum

EXACT = 1e-9
SMALL = LatticeSettings(depth=3, init_channel=8, double_down_channel=True, intermediate_nodes=3)


def make_operation(name: str, channels: int, settings: OperationSettings) -> nn.Module:
    kind = next(kind for kind in TRANSITIONS if name in OPERATIONS[kind])
    return operations.make_operation(kind, name, channels, settings)


def pair(
    settings: LatticeSettings, *, candidates: Candidates | None = None, supernet: SupernetSettings | None = None
) -> tuple[NasWdanSupernet, NasWdanSupernet]:
    """Returns a supernet of each backend with the same parameters, in float64, alphas and betas far from equal."""

    def make(backend: Backend) -> NasWdanSupernet:
        torch.manual_seed(0)
        made = NasWdanSupernet(
            settings, candidates=candidates, supernet=supernet or SupernetSettings(), backend=backend
        ).double()
        with torch.no_grad():
            for parameter in made.architecture():
                parameter.normal_()
        for head in made.frame.heads.values():
            for part in head.modules():
                if isinstance(part, nn.Dropout):
                    part.p = 0.0
        return made

    return make(REFERENCE), make(FUSED)


def backward(supernet: NasWdanSupernet, *, size: int, batch: int = 2) -> list[Tensor]:
    """Returns the logits of all heads, having made the gradients of an uneven function of them."""
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(batch, 3, size, size, generator=generator, dtype=torch.float64)
    outputs = supernet(x, all_heads=True)
    values = [(out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() + out.square().sum() for out in outputs]
    torch.autograd.backward(torch.stack(values).sum())
    return outputs


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().abs().max() / wanted.detach().abs().max().clamp_min(1e-30))


def assert_equal(reference: NasWdanSupernet, fused: NasWdanSupernet, size: int, batch: int = 2) -> None:
    for found, wanted in zip(
        backward(fused, size=size, batch=batch), backward(reference, size=size, batch=batch), strict=True
    ):
        assert relative(found, wanted) < EXACT
    wanted_gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in fused.named_parameters():
        gradient = wanted_gradients[name]
        assert (parameter.grad is None) == (gradient is None), name
        if parameter.grad is not None and gradient is not None:
            assert relative(parameter.grad, gradient) < EXACT, name


@pytest.mark.parametrize(
    ("changes", "size", "batch"),
    [
        ({}, 16, 2),
        ({"init_channel": 16}, 16, 3),  # one norm over all edges of a kind, 16 channels a group
        ({"init_channel": 4, "double_down_channel": False}, 32, 2),
        ({"depth": 4, "intermediate_nodes": 4}, 16, 1),
        ({"intermediate_nodes": 1}, 16, 2),
        ({"shuffle_groups": 4}, 16, 2),
        ({"deep_supervision": False}, 16, 2),
        ({"full_size_head": True, "stem_channels": 8}, 16, 2),
    ],
)
def test_fused_equals_reference(changes: dict[str, Any], size: int, batch: int) -> None:
    assert_equal(*pair(replace(SMALL, **changes)), size=size, batch=batch)


@pytest.mark.parametrize(("partial_channels", "edge_normalisation"), [(1, True), (2, False), (2, True), (4, True)])
def test_fused_equals_reference_with_partial_channels(partial_channels: int, edge_normalisation: bool) -> None:
    supernet = SupernetSettings(partial_channels=partial_channels, edge_normalisation=edge_normalisation)
    assert_equal(*pair(SMALL, supernet=supernet), size=16)


@pytest.mark.parametrize("keep", [{"down": 4, "normal": 4, "up": 2}, {"down": 1, "normal": 1, "up": 1}])
def test_fused_equals_reference_where_every_edge_keeps_its_own_candidates(keep: dict[str, int]) -> None:
    candidates = pair(SMALL)[0].strongest(keep)
    assert any(len(set(rows)) > 1 for rows in candidates.values())
    assert_equal(*pair(SMALL, candidates=candidates), size=16)


def test_fused_equals_reference_when_discrete() -> None:
    reference, fused = pair(SMALL, supernet=SupernetSettings(partial_channels=2))
    genotype = reference.derive(DeriveSettings(), name="x", provenance={})
    for supernet in (reference, fused):
        supernet.discretise(genotype)
    assert_equal(reference, fused, size=16)


@pytest.mark.parametrize("held", ["weights", "architecture"])
def test_fused_equals_reference_when_one_half_of_the_parameters_is_held(held: str) -> None:
    """With the weights held, the input of the first cells needs no gradient, but their alphas do."""
    reference, fused = pair(SMALL)
    for supernet in (reference, fused):
        for parameter in getattr(supernet, held)():
            parameter.requires_grad_(False)
    assert_equal(reference, fused, size=16)
    assert all(parameter.grad is None for parameter in getattr(fused, held)())


def test_recomputing_changes_nothing_and_keeps_less() -> None:
    settings = replace(SMALL, dropout_prob=0.3)
    kept, recomputed = (pair(settings, supernet=SupernetSettings(recompute=flag))[1] for flag in (False, True))
    outputs, sizes = [], []
    for supernet in (kept, recomputed):
        torch.manual_seed(3)
        saved: list[int] = []

        def note(tensor: Tensor, saved: list[int] = saved) -> Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
            out = supernet(x, all_heads=True)
        sizes.append(sum(saved))
        outputs.append(out)
        torch.autograd.backward(torch.stack([o.square().sum() for o in out]).sum())
    assert sizes[1] < sizes[0] / 4
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)
    for (name, one), other in zip(kept.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(cast(Tensor, one.grad), cast(Tensor, other.grad)), name


@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_of_one_backend_is_one_of_the_other_at_any_time(assign: bool) -> None:
    reference, fused = pair(SMALL)
    torch.manual_seed(9)
    other = NasWdanSupernet(SMALL, backend=REFERENCE).double()
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    reference.eval()
    other.eval()
    fused.eval()
    fused(x)  # what it joins is joined now
    fused.load_state_dict(other.state_dict(), assign=assign)
    for found, wanted in zip(fused(x, all_heads=True), other(x, all_heads=True), strict=True):
        assert relative(found, wanted) < EXACT
    copied = deepcopy(fused).float()
    copied.load_state_dict(reference.state_dict())
    for found, wanted in zip(copied(x.float(), all_heads=True), reference(x, all_heads=True), strict=True):
        assert relative(found.double(), wanted) < 1e-4
    for found, wanted in zip(fused(x, all_heads=True), other(x, all_heads=True), strict=True):
        assert relative(found, wanted) < EXACT


@pytest.mark.parametrize("name", [name for kind in TRANSITIONS for name in OPERATIONS[kind]])
@pytest.mark.parametrize("edges", [(0, 1, 2), (1,), (0, 2)])
@pytest.mark.parametrize("base", [False, True])
def test_every_operation_together_is_the_operation_on_each_edge(name: str, edges: tuple[int, ...], base: bool) -> None:
    torch.manual_seed(0)
    settings = OperationSettings(affine=False, shuffle_groups=2)
    modules = [nn.ModuleDict({name: make_operation(name, 32, settings)}).double() for _ in range(3)]
    present = [modules[edge] if edge in edges else nn.ModuleDict() for edge in range(3)]
    weights = torch.rand(len(edges), dtype=torch.float64)
    state = torch.randn(2, 8, 8, 32, dtype=torch.float64)
    each = {edge: weight * modules[edge][name](to_bchw(state)) for edge, weight in zip(edges, weights, strict=True)}
    shape = to_bhwc(next(iter(each.values()))).shape
    start = torch.randn(*shape[:3], 3, 32, dtype=torch.float64)
    before = start.clone()
    total = Leaving(present, 32)(state, {name: weights}, start if base else None)
    assert total is not None
    for edge in range(3):
        wanted = to_bhwc(each[edge]) if edge in each else torch.zeros(shape, dtype=torch.float64)
        torch.testing.assert_close(total[:, :, :, edge], wanted + start[:, :, :, edge] * base, rtol=1e-11, atol=1e-11)
    assert torch.equal(start, before)


def test_preprocessing_together_is_that_of_each_cell() -> None:
    supernet = pair(SMALL)[0]
    cells = supernet.frame.cells
    keys = [key for key, cell in cells.items() if cell.get_submodule("input1").get_parameter("1.weight").shape[1] == 24]
    inputs = [cells[key].get_submodule("input1") for key in keys]
    assert len({module.get_submodule("2").num_channels for module in inputs}) > 1, "norms of different widths"
    state = torch.randn(2, 24, 8, 8, dtype=torch.float64)
    for found, wanted in zip(preprocess_together(state, inputs), read_each(state, inputs), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("names", [("cweight",), ("conv",), ("up_conv",), ("conv", "shuffle_conv", "dep_conv")])
def test_every_operation_drops_its_own_share(names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    settings = OperationSettings(affine=False, dropout_prob=0.5)
    modules = [nn.ModuleDict({name: make_operation(name, 16, settings) for name in names}) for _ in range(2)]
    leaving, weights = Leaving(modules, 16), {name: torch.tensor([0.5, 2.0]) for name in names}
    state = torch.rand(4, 32, 32, 16)
    whole = leaving(state, weights, None)
    dropped = leaving(state, weights, None, dropout_prob=0.5)
    assert whole is not None
    assert dropped is not None
    gone = (dropped == 0) & (whole != 0)
    assert float(gone.float().mean()) == pytest.approx(0.5 ** len(names), abs=0.01)
    if len(names) == 1:
        torch.testing.assert_close(dropped[~gone], whole[~gone] / 0.5)


def test_sums_of_mixed_precision_have_gradients_of_their_own_precision() -> None:
    """As on devices whose autocast gives norms in fp32 and convolutions in half precision."""
    torch.manual_seed(0)
    modules = [nn.ModuleDict({"conv": make_operation("conv", 16, OperationSettings(affine=False))}) for _ in range(2)]
    chain = Leaving(modules, 16).chains[0]
    base, state = torch.randn(2, 8, 8, 2, 16, requires_grad=True), torch.randn(2, 8, 8, 16, requires_grad=True)
    source = torch.randn(2, 16, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    scales, factors = torch.rand(2, requires_grad=True), torch.rand(2, 2, 16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = weighted_sum(base, [Product(state, factors), Normed(chain, source, scales)], edges=2)
    assert total is not None
    torch.autograd.backward(total.float().square().sum())
    for tensor in (base, state, source, scales, factors, *chain.parameters):
        assert tensor.grad is not None
        assert tensor.grad.dtype == tensor.dtype
        assert torch.isfinite(tensor.grad).all()


def test_second_derivatives_are_refused_not_wrong() -> None:
    supernet = pair(SMALL)[1]
    loss = torch.stack(
        [out.square().sum() for out in supernet(torch.rand(1, 3, 16, 16, dtype=torch.float64), all_heads=True)]
    ).sum()
    gradients = torch.autograd.grad(loss, supernet.architecture(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(torch.stack([gradient.square().sum() for gradient in gradients]).sum())


def test_edge_weights_are_noted() -> None:
    supernet = pair(SMALL, supernet=SupernetSettings(edge_normalisation=True))[1]
    noted = supernet.snapshot()["gammas"]
    assert set(noted) == set(TRANSITIONS)
    for row in noted.values():
        assert sum(value for edge, value in row.items() if edge.startswith("2<-")) == pytest.approx(1)
    assert "gammas" not in pair(SMALL)[1].snapshot()


def test_channels_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"partial_channels 4 cuts space.init_channel 6"):
        NasWdan(
            NasWdanSettings(init_channel=6), in_channels=3, outputs=1, supernet=SupernetSettings(partial_channels=4)
        )


@pytest.mark.parametrize("channels_a_group", [4, 16])
def test_norm_formula_equals_the_native_norm(channels_a_group: int) -> None:
    """GPUs use the formula, CPUs the native norm."""
    torch.manual_seed(0)
    groups, eps = 3, 1e-5
    x = torch.randn(2, groups * channels_a_group, 5, 4, dtype=torch.float64).to(memory_format=torch.channels_last)
    x, scale = x.requires_grad_(), torch.rand(x.shape[1], dtype=torch.float64, requires_grad=True)
    wanted = torch.nn.functional.group_norm(x, groups, scale, None, eps)
    found, mean, rstd = norm_formula(x, scale, groups, eps)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    gradient = torch.randn_like(wanted)
    of_x, of_scale = torch.autograd.grad(wanted, (x, scale), gradient)
    found_x, found_scale = norm_formula_backward(gradient, NormState(x, mean, rstd, scale), groups)
    torch.testing.assert_close(found_x, of_x, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(found_scale, of_scale, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", ["dense", "separable", "separable transposed", "shuffled", "two kinds"])
def test_gradients_against_finite_differences(kind: str) -> None:
    torch.manual_seed(0)
    shapes = {
        "separable": [(4, 1, 3, 3)] * 2 + [(4, 4, 1, 1)] * 2,
        "separable transposed": [(4, 1, 3, 3)] * 2 + [(4, 4, 1, 1)] * 2,
        "shuffled": [(4, 2, 3, 3)] * 2,
        "two kinds": [(4, 4, 3, 3)] * 5,
    }.get(kind, [(4, 4, 3, 3)] * 2)
    flat = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    transposed = kind.endswith("transposed")
    size = 8 if transposed else 4
    base = torch.randn(2, size, size, 3, 4, dtype=torch.float64, requires_grad=True)
    factors = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, size, size, 4, dtype=torch.float64, requires_grad=True)
    scales = torch.rand(5 if kind == "two kinds" else 2, dtype=torch.float64, requires_grad=True)
    norm = nn.GroupNorm(1, 4, eps=1e-3)

    def function(base: Tensor, x: Tensor, scales: Tensor, state: Tensor, factors: Tensor, *weights: Tensor) -> Tensor:
        modules = [nn.Module() for _ in weights]
        for module, weight in zip(modules, weights, strict=True):
            module.weight = weight
        made: Kernels = Dense(modules)
        if kind.startswith("separable"):
            made = Separable(modules[:2], modules[2:], transposed=transposed)
        elif kind == "shuffled":
            made = Shuffled(modules, 2)
        chain = Chain((Kind("a", (0, 2), made),), norm, stride=1 + transposed, transposed=transposed)
        if kind == "two kinds":
            kinds = Kind("a", (0, 1, 2), Dense(modules[:3])), Kind("b", (0, 2), Dense(modules[3:]))
            chain = Chain(kinds, norm, dilation=2)
        return cast(Tensor, weighted_sum(base, [Product(state, factors), Normed(chain, x, scales)], edges=3))

    assert torch.autograd.gradcheck(function, (base, x, scales, state, factors, *flat), fast_mode=True)


def test_fast_runs_in_half_precision_close_to_full() -> None:
    reference, fused = (supernet.float() for supernet in pair(replace(SMALL, init_channel=16)))
    x = torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = fused(x, all_heads=True)
    torch.autograd.backward(torch.stack([out.float().square().mean() for out in outputs]).sum())
    for found, wanted in zip(outputs, reference(x, all_heads=True), strict=True):
        assert relative(found.float(), wanted) < 0.1
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in fused.weights())
    assert all(torch.isfinite(cast(Tensor, parameter.grad)).all() for parameter in fused.weights())


def test_all_operations_with_a_norm_are_chains() -> None:
    scaled: set[str] = {"identity", "cweight", "avg_pool", "max_pool", "none"}
    assert (
        set(CONVOLUTIONS) == {name for transition in TRANSITIONS for name in OPERATIONS[transition].published} - scaled
    )
