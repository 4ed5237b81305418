"""Scores against independent formulas on small layers, and what a criterion asks of the training before the cut."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch_pruning
from pydantic import ValidationError
from torch import Tensor, nn

from medarts import register_criterion
from medarts.errors import MedartsError, RecipeError, RunError
from medarts.pruning.criteria import (
    Criterion,
    FilterMasks,
    GradualSettings,
    L1Settings,
    ScalePenalty,
    SlimSettings,
    TaylorSettings,
    filters,
    make_criterion,
    readers,
    scores_of,
    share_of_small_scales,
)
from medarts.pruning.method import make_method
from medarts.pruning.units import Member, Unit
from medarts.registry import Settings, criteria


def unit_of(channels: int, *members: tuple[nn.Module, str], name: str = "unit", together: int = 1) -> Unit:
    """Returns a unit whose channels are those of its layers one by one."""
    indices = tuple((channel,) for channel in range(channels))
    return Unit(
        name,
        channels,
        tuple(Member(f"{name}.{place}", module, side, indices) for place, (module, side) in enumerate(members)),
        together,
    )


def array(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().double().numpy()


def scores(name: str, unit: Unit) -> np.ndarray:
    return array(scores_of(make_criterion(name), [unit])[unit.name])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_depth_is_a_method_that_scores_no_channels() -> None:
    assert make_method("depth").sparse is None
    with pytest.raises(RecipeError, match="depth scores no channels"):
        make_criterion("depth")


def test_all_six_are_registered() -> None:
    scopes = {name: make_criterion(name).scope for name in criteria.names() if name != "depth"}
    assert scopes == {
        "slim": "global", "l1": "layer", "soft": "layer", "gradual": "layer", "fpgm": "layer", "taylor": "global",
    }  # fmt: skip


LAYERS = [
    (nn.Conv2d(3, 6, 3), lambda w: [w[c] for c in range(6)]),
    (nn.Conv2d(4, 6, 3, groups=2), lambda w: [w[c] for c in range(6)]),
    (nn.ConvTranspose2d(3, 6, 2), lambda w: [w[:, c] for c in range(6)]),
    # Of two groups, each with two of the inputs and three of the outputs.
    (nn.ConvTranspose2d(4, 6, 2, groups=2), lambda w: [w[2 * (c // 3) : 2 * (c // 3) + 2, c % 3] for c in range(6)]),
    (nn.Linear(5, 6), lambda w: [w[c] for c in range(6)]),
]


@pytest.mark.parametrize(("layer", "by_channel"), LAYERS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(("name", "order"), [("l1", 1), ("soft", 2), ("gradual", 2)])
def test_norms_of_filters(layer: nn.Module, by_channel, name: str, order: int) -> None:
    norms = np.array([(abs(of) ** order).sum() ** (1 / order) for of in by_channel(array(layer.weight))])
    assert scores(name, unit_of(6, (layer, "out"))) == pytest.approx(norms / norms.mean())


def test_layers_that_make_channels_together_count_alike_whatever_their_scale() -> None:
    first, second, depthwise = nn.Conv2d(3, 6, 3), nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=6)
    reader, norm = nn.Conv2d(6, 4, 3), nn.BatchNorm2d(6)
    with torch.no_grad():
        second.weight *= 1000
    unit = unit_of(6, (first, "out"), (second, "out"), (depthwise, "both"), (norm, "both"), (reader, "in"))
    norms = [abs(array(layer.weight)).reshape(6, -1).sum(1) for layer in (first, second, depthwise)]
    assert scores("l1", unit) == pytest.approx(sum(of / of.mean() for of in norms))
    norms = [np.sqrt((array(layer.weight) ** 2).reshape(6, -1).sum(1)) for layer in (first, second, depthwise)]
    assert scores("soft", unit) == pytest.approx(np.sqrt(sum((of / of.mean()) ** 2 for of in norms)))


def test_a_channel_that_stands_for_several_of_a_layer() -> None:
    layer = nn.Linear(3, 8)  # of channels in any order, one of them with more than the others
    indices = ((0, 5), (1,), (7, 2), (3, 4))
    unit = Unit("unit", 4, (Member("layer", layer, "out", indices),), 1)
    sums = abs(array(layer.weight)).sum(1)
    norms = np.array([sums[list(of)].sum() for of in indices])
    assert scores("l1", unit) == pytest.approx(norms / norms.mean())


def test_all_filters_zero_score_alike() -> None:
    layer = nn.Conv2d(3, 4, 1)
    nn.init.zeros_(layer.weight)
    for name in ("l1", "soft", "fpgm"):
        assert scores(name, unit_of(4, (layer, "out"))).tolist() == [0] * 4


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(3, 8, 2)])
def test_norms_of_filters_are_those_of_torch_pruning(layer: nn.Module) -> None:
    graph = torch_pruning.DependencyGraph().build_dependency(layer, example_inputs=torch.rand(1, 3, 8, 8))
    group = graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, idxs=[*range(8)])
    expected = torch_pruning.pruner.importance.GroupMagnitudeImportance(p=1)(group)
    assert scores("l1", unit_of(8, (layer, "out"))) == pytest.approx(array(expected), rel=1e-5)


def test_the_filter_at_the_geometric_median_goes_first() -> None:
    """Of points on a line the median has the smallest sum of distances, although its norm is not the smallest."""
    layer = nn.Conv2d(1, 5, 1, bias=False)
    line = torch.tensor([0.5, 1.0, 3.0, 4.0, 9.0])
    layer.weight.data = line.view(5, 1, 1, 1)
    found = scores("fpgm", unit_of(5, (layer, "out")))
    assert found.argmin() == 2
    assert found * line.mean().item() == pytest.approx([15.0, 13.5, 11.5, 12.5, 27.5])


def test_distances_of_filters_of_several_layers() -> None:
    first, second = nn.Conv2d(3, 5, 3), nn.ConvTranspose2d(2, 5, 2)
    by_layer = [array(first.weight).reshape(5, -1), array(second.weight).swapaxes(0, 1).reshape(5, -1)]
    joined = np.hstack([of / np.sqrt((of**2).sum(1)).mean() for of in by_layer])
    distances = [[math.dist(one, other) for other in joined] for one in joined]
    assert scores("fpgm", unit_of(5, (first, "out"), (second, "out"))) == pytest.approx(np.sum(distances, 1), abs=1e-6)


class OwnNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(6), nn.InstanceNorm2d(6, affine=True), nn.GroupNorm(2, 6), OwnNorm()], ids=str
)
def test_scales_of_norms(norm: nn.Module) -> None:
    nn.init.normal_(norm.weight)
    other = nn.BatchNorm2d(8)  # of a concatenation, in which the unit's channels are the last
    nn.init.normal_(other.weight)
    conv, depthwise, activation = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1, groups=6), nn.PReLU(6, init=100.0)
    member = Member("other", other, "both", tuple((channel + 2,) for channel in range(6)))
    unit = unit_of(6, (conv, "out"), (norm, "both"), (depthwise, "both"), (activation, "both"))
    assert scores("slim", unit) == pytest.approx(abs(array(norm.weight)))
    both = Unit("unit", 6, (*unit.members, member), 1)
    assert scores("slim", both) == pytest.approx(np.maximum(abs(array(norm.weight)), abs(array(other.weight)[2:])))


def test_units_without_scales_are_not_cut_by_slim() -> None:
    scaled = unit_of(4, (nn.BatchNorm2d(4), "both"), name="scaled")
    plain = unit_of(4, (nn.Conv2d(3, 4, 1), "out"), (nn.InstanceNorm2d(4), "both"), name="plain")
    found = scores_of(make_criterion("slim"), [scaled, plain])
    assert found["scaled"].tolist() == [1] * 4
    assert found["plain"].tolist() == [math.inf] * 4
    with pytest.raises(RunError, match="'slim' can score no channel of this network"):
        scores_of(make_criterion("slim"), [plain])
    with pytest.raises(RunError, match="no norm with scales"):
        ScalePenalty(1.0).over([plain])


def test_units_without_filters_or_readers_stay() -> None:
    norm, conv = unit_of(4, (nn.BatchNorm2d(4), "both"), name="norm"), unit_of(4, (nn.Conv2d(3, 4, 1), "out"))
    for name in ("l1", "soft", "fpgm"):
        assert scores_of(make_criterion(name), [norm, conv])["norm"].tolist() == [math.inf] * 4
    taylor = make_criterion("taylor")
    with pytest.raises(RunError, match="'taylor' can score no channel"):
        scores_of(taylor, [norm, conv], lambda number: None)


def test_the_penalty_is_the_sum_of_all_scales_of_the_units() -> None:
    one, two = nn.BatchNorm2d(4), nn.GroupNorm(2, 6)
    for norm in (one, two):
        nn.init.normal_(norm.weight)
    half = Unit("half", 2, (Member("two", two, "both", ((1,), (4,))),), 1)
    penalty = ScalePenalty(0.5).over([unit_of(4, (one, "both"), (nn.Conv2d(1, 4, 1), "out")), half])
    total = penalty()
    assert total.item() == pytest.approx(0.5 * (abs(array(one.weight)).sum() + abs(array(two.weight)[[1, 4]]).sum()))
    total.backward()
    assert one.weight.grad.tolist() == (0.5 * one.weight.sign()).tolist()
    assert (two.weight.grad != 0).tolist() == [False, True, False, False, True, False]
    assert make_criterion(SlimSettings(strength=0.01)).training == ScalePenalty(0.01)


def test_small_scales_are_counted_in_the_network_that_is_given() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    each = tuple((channel,) for channel in range(4))
    unit = Unit("0", 4, tuple(Member(name, network[int(name)], "both", each) for name in "12"))
    other = copy.deepcopy(network)
    other[1].weight.data = torch.tensor([0.0099, -0.0099, 0.0101, -0.5])
    assert share_of_small_scales([unit], network) == 0
    assert share_of_small_scales([unit], other) == 0.25


def test_the_rate_of_masks_over_a_training() -> None:
    assert make_criterion("soft").training == FilterMasks()
    masks = make_criterion("gradual").training
    rates = [masks.rate(epoch / 16) for epoch in range(17)]
    assert rates[0] == 0
    assert rates[2] == pytest.approx(0.75)
    assert rates[16] == 1
    assert all(early < late for early, late in itertools.pairwise(rates))
    # An exponential: what is missing shrinks by the same factor in each epoch, up to a constant.
    steps = np.diff(rates)
    assert steps[1:] / steps[:-1] == pytest.approx(np.full(15, steps[1] / steps[0]), rel=1e-3)
    for progress in (1e-4, 0.3, 0.74):
        assert FilterMasks(progress).rate(progress) == pytest.approx(0.75, abs=1e-5)
    for wrong in (0.0, 0.75, 1, "half"):
        with pytest.raises(ValidationError):
            criteria.choose({"name": "gradual", "three_quarters_at": wrong})
    assert GradualSettings().three_quarters_at == 0.125


READERS = [
    (nn.Conv2d(4, 6, 3, padding=1), lambda w: [w[:, c] for c in range(4)]),
    (nn.Conv2d(4, 6, 3, padding=1, groups=2), lambda w: [w[3 * (c // 2) : 3 * (c // 2) + 3, c % 2] for c in range(4)]),
    (nn.ConvTranspose2d(4, 6, 2, groups=2), lambda w: [w[c] for c in range(4)]),
    (nn.Conv2d(4, 4, 3, groups=4), lambda w: [w[c] for c in range(4)]),
]


@pytest.mark.parametrize(("reader", "by_channel"), READERS, ids=lambda value: type(value).__name__)
def test_taylor_is_the_squared_change_of_a_linear_loss(reader: nn.Module, by_channel) -> None:
    """The loss is linear in each channel, so that the first order is all of it."""
    torch.manual_seed(0)
    images = torch.randn(2, 4, 6, 6)
    unit = unit_of(4, (nn.Conv2d(3, 4, 1), "out"), (reader, "in"))

    def loss(images: Tensor) -> Tensor:
        return (reader(images) * torch.linspace(-1, 1, reader(images).numel()).view_as(reader(images))).sum()

    def gradients(number: int) -> None:
        reader.zero_grad()
        loss(images).backward()

    found = array(scores_of(make_criterion(TaylorSettings(batches=1)), [unit], gradients)["unit"])
    for channel in range(4):
        without = images.clone()
        without[:, channel] = 0
        assert found[channel] == pytest.approx((loss(images) - loss(without)).item() ** 2, rel=1e-3)
    products = by_channel(array(reader.weight) * array(reader.weight.grad))
    assert found == pytest.approx([of.sum() ** 2 for of in products], rel=1e-5)
    assert [each.tolist() for each in readers(unit)[0][0]] == [
        of.ravel().tolist() for of in by_channel(array(reader.weight))
    ]


def test_taylor_is_the_gate_after_the_norm() -> None:
    """Scale and shift of the norm, times their gradients, as published; with a ReLU between norm and readers."""
    conv, norm, one, two = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 3), nn.Conv2d(5, 3, 1)
    nn.init.normal_(norm.bias)
    images = torch.randn(4, 3, 8, 8)
    maps = norm(conv(images)).relu()
    (one(maps).sigmoid().mean() + two(maps).square().mean()).backward()
    unit = unit_of(5, (conv, "out"), (norm, "both"), (one, "in"), (two, "in"))
    taylor = make_criterion(TaylorSettings(batches=1))
    gate = array(norm.weight) * array(norm.weight.grad) + array(norm.bias) * array(norm.bias.grad)
    assert array(taylor.scores(unit)) == pytest.approx(gate**2, rel=1e-3)
    # While the filters before the norm do not change the loss by their scale.
    of_filters = (array(conv.weight) * array(conv.weight.grad)).reshape(5, -1).sum(1)
    assert abs(of_filters).max() < 1e-3 * abs(gate).max()


def test_scores_of_batches_are_averaged_and_not_the_gradients() -> None:
    reader = nn.Conv2d(3, 1, 1, bias=False)
    unit = unit_of(3, (reader, "in"))
    numbers = []

    def gradients(number: int) -> None:
        numbers.append(number)
        reader.weight.grad = torch.full_like(reader.weight, (-1) ** number)  # they cancel out

    found = scores_of(make_criterion(TaylorSettings(batches=4)), [unit], gradients)["unit"]
    assert numbers == [0, 1, 2, 3]
    assert array(found) == pytest.approx(array(reader.weight).ravel() ** 2)
    assert found.dtype == torch.float64
    with pytest.raises(ValueError, match="taylor needs gradients"):
        scores_of(make_criterion("taylor"), [unit])


def test_a_reader_that_the_loss_does_not_depend_on_changes_nothing() -> None:
    used, unused = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 1)
    used.weight.grad = torch.ones_like(used.weight)
    taylor = make_criterion(TaylorSettings(batches=1))
    alone, both = unit_of(3, (used, "in")), unit_of(3, (used, "in"), (unused, "in"))
    assert taylor.scores(alone).tolist() == taylor.scores(both).tolist()


class LargestSettings(Settings):
    factor: float = 1.0


@pytest.fixture
def largest():
    """A criterion of a user."""

    @register_criterion("wrong_largest", settings=LargestSettings)
    class Largest(Criterion):
        returned = staticmethod(lambda largest: largest)

        def scores(self, unit: Unit) -> Tensor:
            return self.returned(self.settings.factor * filters(unit)[0].amax(1))

    yield Largest
    criteria.remove("wrong_largest")


def test_a_criterion_of_a_user(largest) -> None:
    conv = nn.Conv2d(2, 4, 1)
    unit = unit_of(4, (conv, "out"))
    criterion = make_criterion(criteria.choose({"name": "wrong_largest", "factor": 3.0}))
    assert (criterion.scope, criterion.batches, criterion.training) == ("layer", 0, None)
    assert array(scores_of(criterion, [unit])["unit"]) == pytest.approx(3 * array(conv.weight).max((1, 2, 3)))


@pytest.mark.parametrize(
    ("returned", "explained"),
    [
        (lambda largest: largest[:2], r"returned a tensor \(2,\) for the 4 channels of unit"),
        (lambda largest: largest * math.nan, "returned NaN for the 4 channels"),
        (lambda largest: largest.tolist(), "returned list for the 4 channels"),
        (lambda largest: 1 / 0, r"failed \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_a_criterion_that_fails(largest, returned, explained: str) -> None:
    largest.returned = staticmethod(returned)
    with pytest.raises(MedartsError, match=f"The criterion 'wrong_largest' {explained}"):
        scores_of(make_criterion("wrong_largest"), [unit_of(4, (nn.Conv2d(2, 4, 1), "out"))])


def test_names_and_settings_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="there is a criterion 'l1' already"):
        register_criterion("l1")(Criterion)
    assert criteria.choose("l1") == L1Settings()
    for wrong in ({"name": "slim", "strength": -1.0}, {"name": "taylor", "batches": 0}, {"name": "l1", "order": 2}):
        with pytest.raises(ValidationError):
            criteria.choose(wrong)
