"""The two backends of a supernet are one function: equal outputs and gradients, one set of parameters."""

from copy import deepcopy
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.config import DeriveSettings, SupernetSettings
from medarts.spaces.base import Candidates
from medarts.spaces.darts import DartsSettings
from medarts.spaces.darts.fused import Leaving, add_products, separable
from medarts.spaces.darts.operations import IN_SUPERNET, KINDS, OPERATIONS, make_operation
from medarts.spaces.darts.settings import least_layers
from medarts.spaces.darts.supernet import FUSED, REFERENCE, Backend, DartsSupernet

EXACT = 1e-9
CIFAR = DartsSettings(stem="cifar", search_channel=8, intermediate_nodes=3)
CHEST = DartsSettings(stem="chest", search_channel=4, intermediate_nodes=2)
ALL_EDGES = (0, 1, 2)


def pair(
    settings: DartsSettings = CIFAR, *, candidates: Candidates | None = None, **supernet: Any
) -> tuple[DartsSupernet, DartsSupernet]:
    """Returns a supernet of each backend with the same parameters, in float64, whose alphas are far from equal."""

    def make(backend: Backend) -> DartsSupernet:
        torch.manual_seed(0)
        made = DartsSupernet(
            settings,
            depth=least_layers(settings.stem),
            candidates=candidates,
            outputs=3,
            supernet=SupernetSettings(**supernet),
            backend=backend,
        ).double()
        with torch.no_grad():
            for parameter in made.architecture():
                parameter.normal_()
        return made

    return make(REFERENCE), make(FUSED)


def images(size: int, *, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def backward(supernet: DartsSupernet, x: Tensor) -> Tensor:
    """Returns the logits, having made the gradients of an uneven function of them."""
    logits = supernet(x)
    wave = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    torch.autograd.backward((logits * wave).sum() + logits.square().sum())
    return cast(Tensor, logits)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().abs().max() / wanted.detach().abs().max().clamp_min(1e-30))


def assert_equal(reference: DartsSupernet, fused: DartsSupernet, x: Tensor) -> None:
    assert relative(backward(fused, x), backward(reference, x)) < EXACT
    for (name, found), wanted in zip(fused.named_parameters(), reference.parameters(), strict=True):
        assert (found.grad is None) == (wanted.grad is None), name
        if found.grad is not None and wanted.grad is not None:
            assert relative(found.grad, wanted.grad) < EXACT, name


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (CIFAR, 8),
        (CIFAR, 13),  # 13, 7, 4 pixels on the way down
        (CHEST, 36),  # 9, 5, 3, 2
        (CHEST.model_copy(update={"intermediate_nodes": 1}), 32),
        (CIFAR.model_copy(update={"intermediate_nodes": 4, "search_channel": 3}), 8),
    ],
)
def test_fused_equals_reference(settings: DartsSettings, size: int) -> None:
    assert_equal(*pair(settings), images(size))


@pytest.mark.parametrize("edge_normalisation", [False, True])
@pytest.mark.parametrize("partial_channels", [2, 4])
def test_fused_equals_reference_with_partial_channels(partial_channels: int, edge_normalisation: bool) -> None:
    nets = pair(partial_channels=partial_channels, edge_normalisation=edge_normalisation)
    assert_equal(*nets, images(9))


@pytest.mark.parametrize("keep", [3, 1])
def test_fused_equals_reference_where_every_edge_keeps_its_own_candidates(keep: int) -> None:
    candidates = pair()[0].strongest(dict.fromkeys(KINDS, keep))
    assert any(len(set(rows)) > 1 for rows in candidates.values())
    assert_equal(*pair(candidates=candidates), images(9))


def test_fused_equals_reference_when_discrete() -> None:
    reference, fused = pair(partial_channels=2)
    genotype = reference.derive(DeriveSettings(), name="x", provenance={})
    for supernet in (reference, fused):
        supernet.discretise(genotype)
    assert_equal(reference, fused, images(8))


@pytest.mark.parametrize("held", ["weights", "architecture"])
def test_fused_equals_reference_when_one_half_of_the_parameters_is_held(held: str) -> None:
    reference, fused = pair()
    for supernet in (reference, fused):
        for parameter in getattr(supernet, held)():
            parameter.requires_grad_(False)
    assert_equal(reference, fused, images(8))
    assert all(parameter.grad is None for parameter in getattr(fused, held)())


def kept(supernet: DartsSupernet, x: Tensor) -> tuple[Tensor, int]:
    """Returns the logits after a backward pass, and the bytes of images that were kept for it."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.ndim >= 4 and len(tensor) == len(x):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = supernet(x)
    torch.autograd.backward(logits.square().sum())
    return logits, sum(storages.values())


def test_recomputing_changes_nothing_and_keeps_less() -> None:
    x = images(8, batch=5)
    whole, recomputed = (pair(recompute=flag)[1] for flag in (False, True))
    (one, bytes_whole), (other, bytes_recomputed) = kept(whole, x), kept(recomputed, x)
    assert bytes_recomputed < bytes_whole / 4
    assert torch.equal(one, other)
    for (name, found), wanted in zip(recomputed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(cast(Tensor, found.grad), cast(Tensor, wanted.grad)), name


def test_fast_keeps_less_than_plain() -> None:
    reference, fused = pair(CIFAR.model_copy(update={"intermediate_nodes": 4}))
    x = images(8, batch=5)
    assert kept(fused, x)[1] < 0.6 * kept(reference, x)[1]


@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_of_one_backend_is_one_of_the_other_at_any_time(assign: bool) -> None:
    reference, fused = pair()
    torch.manual_seed(9)
    other = DartsSupernet(CIFAR, depth=3, outputs=3, backend=REFERENCE).double()
    x = images(8)
    fused(x)  # what it joins is joined now
    fused.load_state_dict(other.state_dict(), assign=assign)
    assert relative(fused(x), other(x)) < EXACT
    copied = deepcopy(fused).float()
    copied.load_state_dict(reference.state_dict())
    assert relative(copied(x.float()).double(), reference(x)) < 1e-3
    assert relative(fused(x), other(x)) < EXACT


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
@pytest.mark.parametrize("edges", [ALL_EDGES, (1,), (0, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", list(OPERATIONS["normal"]))
def test_every_operation_together_is_the_operation_on_each_edge(
    name: str, stride: int, edges: tuple[int, ...], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    of_edges = [make_operation("normal", name, 4, stride=stride, settings=IN_SUPERNET).double() for _ in ALL_EDGES]
    weights = torch.rand(len(edges), dtype=torch.float64)
    state = torch.randn(2, 4, *size, dtype=torch.float64)
    each = {edge: weight * of_edges[edge](state) for edge, weight in zip(edges, weights, strict=True)}
    start = torch.randn(3, 2, *(-(-length // stride) for length in size), 4, dtype=torch.float64)
    before = start.clone()
    leaving = Leaving([nn.ModuleDict({name: of_edges[edge]} if edge in edges else {}) for edge in ALL_EDGES])
    total = leaving(state, {name: weights}, start)
    for edge in ALL_EDGES:
        wanted = start[edge] + each[edge].permute(0, 2, 3, 1) if edge in each else start[edge]
        torch.testing.assert_close(total[edge], wanted, rtol=1e-11, atol=1e-11)
    assert torch.equal(start, before)


def test_products_are_added_edge_by_edge() -> None:
    total, weights = torch.randn(3, 2, 5, 4, 6), torch.randn(2, 3)
    images = torch.randn(2, 2, 6, 5, 4)
    wanted = total + torch.einsum("jm,jbchw->mbhwc", weights, images)
    torch.testing.assert_close(add_products(total, zip(images, weights, strict=True)), wanted)
    assert add_products(total, []) is total


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (2, 1)])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_separable_is_two_convolutions(kernel: int, stride: int, dilation: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, *size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    tensors = (
        x.requires_grad_(),
        torch.randn(6, 1, kernel, kernel, dtype=torch.float64, requires_grad=True),
        torch.randn(6, 2, 1, 1, dtype=torch.float64, requires_grad=True),
    )

    def reference(x: Tensor, depthwise: Tensor, pointwise: Tensor) -> Tensor:
        between = F.conv2d(x, depthwise, None, stride, dilation * (kernel // 2), dilation, 6)
        return F.conv2d(between, pointwise, groups=3)

    def fused(x: Tensor, depthwise: Tensor, pointwise: Tensor) -> Tensor:
        return separable(x, depthwise, pointwise, groups=3, stride=stride, dilation=dilation)

    wanted, found = reference(*tensors), fused(*tensors)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    assert found.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.randn_like(wanted, memory_format=torch.contiguous_format)  # in the other layout
    for one, other in zip(
        torch.autograd.grad(found, tensors, gradient), torch.autograd.grad(wanted, tensors, gradient), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("learning", [(0,), (1,), (2,), (0, 1), (0, 2)])
def test_separable_makes_the_gradients_that_are_asked_for(learning: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in ((2, 4, 5, 5), (4, 1, 3, 3), (4, 2, 1, 1))]
    for place in learning:
        tensors[place].requires_grad_()
    x, depthwise, pointwise = tensors
    out = separable(x, depthwise, pointwise, groups=2)
    wanted = F.conv2d(F.conv2d(x, depthwise, padding=1, groups=4), pointwise, groups=2)
    leaves = [tensors[place] for place in learning]
    for one, other in zip(
        torch.autograd.grad(out.square().sum(), leaves), torch.autograd.grad(wanted.square().sum(), leaves), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_fast_is_in_half_precision_what_plain_is() -> None:
    """Both differ from full precision by what bf16 loses, and the fused one by no more."""
    exact, reference, fused = (pair()[0].float(), *(supernet.float() for supernet in pair()))
    x = images(16, batch=4).float()
    wanted = backward(exact, x)
    errors = []
    for supernet in (reference, fused):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = supernet(x)
        wave = torch.linspace(-1, 1, logits.numel()).view_as(logits)
        torch.autograd.backward((logits.float() * wave).sum() + logits.float().square().sum())
        lost = [relative(logits.float(), wanted)]
        for found, right in zip(supernet.parameters(), exact.parameters(), strict=True):
            assert found.grad is not None
            assert found.grad.dtype == torch.float32
            lost.append(float((found.grad - cast(Tensor, right.grad)).norm() / cast(Tensor, right.grad).norm()))
        errors.append(torch.tensor(lost))
    assert float(errors[0][0]) < 0.1
    assert float(errors[1][0]) < 0.1
    assert float(errors[1].median()) < 1.2 * float(errors[0].median())


def test_second_derivatives_are_refused_not_wrong() -> None:
    supernet = pair()[1]
    gradients = torch.autograd.grad(supernet(images(8)).square().sum(), supernet.architecture(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(torch.stack([gradient.square().sum() for gradient in gradients]).sum())
