"""Depth: which cells and heads go until a target is met."""

import copy
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

import medarts
from medarts import create_model
from medarts.config import DataSettings, KeepSettings, make_source
from medarts.data.batches import Batches
from medarts.deploy.engines import OnnxRuntimeEngine
from medarts.deploy.graphs import network_to_onnx
from medarts.errors import RecipeError, RunError
from medarts.network import Network
from medarts.profiling.cost import count_flops, count_parameters
from medarts.pruning import depth, selection
from medarts.pruning.depth import DepthSelection, choose_parts, loss_over
from medarts.pruning.latency import Latency
from medarts.pruning.method import make_method
from medarts.registry import criteria
from medarts.spaces import load_genotype
from medarts.spaces.nas_wdan.lattice import all_paths, to_kept
from medarts.spaces.nas_wdan.network import NasWdanNetwork
from medarts.tasks import SegmentationTask
from medarts.training.trainer import Training

IMAGE = torch.zeros(1, 3, 16, 16)


def lattice(*, deep_supervision: bool = True) -> NasWdanNetwork:
    """Returns a lattice of depth 3 with heads (2,0) and (4,0)."""
    genotype = load_genotype("alpha0_5_stage1_double_deep_ep80")
    settings = {
        **genotype.settings, "depth": 3, "init_channel": 16, "intermediate_nodes": 2,
        "deep_supervision": deep_supervision, "absent_edges": False,
    }  # fmt: skip
    cells = {kind: cell[:2] for kind, cell in genotype.cells.items()}
    torch.manual_seed(0)
    return NasWdanNetwork(replace(genotype, cells=cells, settings=settings, paths=to_kept(all_paths(3)))).eval()


def distance_to(network: Network) -> Callable[[Network], float]:
    """Returns a loss: how far the last head of a network is from that of another."""
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(x)

    @torch.no_grad()
    def loss(other: Network) -> float:
        assert not other.training
        return float((other(x) - expected).square().mean())

    return loss


def flops(network: Network) -> int:
    return count_flops(network, in_channels=3, size=16)


def reduced(network: Network, found: DepthSelection) -> Network:
    smaller = copy.deepcopy(network)
    smaller.take_away(found.without, found.heads)
    return smaller


@pytest.mark.parametrize(
    ("name", "keep", "deep_supervision"),
    [
        ("flops", 0.8, True),
        ("flops", 0.5, False),
        ("parameters", 0.5, True),
        ("parameters", 0.8, False),
    ],
)
def test_a_target_is_met_exactly(name: str, keep: float, deep_supervision: bool) -> None:
    cost = {"flops": flops, "parameters": count_parameters}[name]
    net = lattice(deep_supervision=deep_supervision)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    found = choose_parts(KeepSettings(**{name: keep}), net, distance_to(net), image=IMAGE)
    after = reduced(net, found)
    assert cost(after) / cost(net) == pytest.approx(found.kept)
    assert found.kept <= keep
    assert found.steps[-1].kept == found.kept
    assert len(found.steps) == 1 or found.steps[-2].kept > keep
    assert found.loss_before == 0
    assert distance_to(net)(after) == pytest.approx(found.steps[-1].loss)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def test_the_first_part_is_the_best_of_all() -> None:
    net = lattice()
    loss, whole = distance_to(net), flops(net)
    prices = {}
    for part in (*net.removable_parts, None):
        smaller = copy.deepcopy(net)
        smaller.take_away((part,) if part else (), None if part else net.heads[:-1])
        if (saved := 1 - flops(smaller) / whole) > 0:
            prices[part] = loss(smaller) / min(saved, 0.1)
    found = choose_parts(KeepSettings(flops=0.9), net, loss, image=IMAGE)
    assert found.steps[0].part == min(prices, key=lambda part: prices[part])


def test_a_part_without_which_the_loss_is_lower_goes_first() -> None:
    net = lattice()

    def loss(network: NasWdanNetwork) -> float:
        return (
            1.0
            + len(network.frame.cells) * 0.001
            - 0.5 * ({"4_0_normal", "4_0_up"} & {*network.frame.cells} == {"4_0_up"})
        )

    found = choose_parts(KeepSettings(flops=0.97), net, loss, image=IMAGE)
    assert found.steps[0].part == "4_0_normal"


def test_few_networks_are_tried_again_and_it_is_deterministic() -> None:
    net, tried = lattice(), Counter[int]()
    distance = distance_to(net)

    def loss(network: Network) -> float:
        tried.update([1])
        return distance(network)

    once, again = (choose_parts(KeepSettings(flops=0.6), net, loss, image=IMAGE) for _ in range(2))
    assert once == again
    at_first = len(net.removable_parts) + 1
    assert tried.total() < 2 * at_first * len(once.steps)


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_all_that_can_be_reached_is(deep_supervision: bool) -> None:
    net = lattice(deep_supervision=deep_supervision)
    with pytest.raises(RunError, match=r"keep_flops is 0.001, but 0.\d+ is left") as caught:
        choose_parts(KeepSettings(flops=0.001), net, no_loss, image=IMAGE)
    least = float(caught.value.fix.split()[2])
    found = choose_parts(KeepSettings(flops=least), net, keeps_the_cheapest(net), image=IMAGE)
    assert found.kept <= least


def no_loss(network: Network) -> float:
    raise AssertionError("long work before the target was looked at")


def keeps_the_cheapest(whole: NasWdanNetwork) -> Callable[[Network], float]:
    """Returns a loss by which normal cells, which the smallest network needs, look best to take away."""

    def loss(network: Network) -> float:
        assert isinstance(network, NasWdanNetwork)
        return sum(key.endswith("normal") for key in network.frame.cells) + 1.0

    return loss


def test_the_nested_network_is_cut_after_an_early_head() -> None:
    torch.manual_seed(0)
    net = create_model("unetpp", width=4, depth=4).eval()
    head_2 = copy.deepcopy(net)
    head_2.take_away((), ("1", "2"))
    share = flops(head_2) / flops(net)
    for keep, heads in ((share, ("1", "2")), (share - 0.01, ("1",))):
        found = choose_parts(KeepSettings(flops=keep), net, distance_to(net), image=IMAGE)
        assert (found.without, found.heads) == ((), heads)
        assert [step.part for step in found.steps] == [None] * (3 - len(heads))
        assert found.kept == pytest.approx(flops(reduced(net, found)) / flops(net))


def test_the_loss_is_that_of_the_last_head_on_the_same_few_images() -> None:
    generator = np.random.default_rng(0)
    images = generator.random((24, 16, 16, 3), np.float32)
    store = medarts.from_arrays(images, images[..., 0] > 0.6, splits=["train"] * 6 + ["val"] * 16 + ["test"] * 2)
    part, device = store.manifest.of_split("val"), torch.device("cpu")
    few = Batches(store, part, batch=3, name="validation set", device=device)
    task = SegmentationTask(DataSettings(sources=(make_source(kind="folder", path=Path("x")),)), loss="bce_dice")
    net = lattice()
    assert loss_over(few, task, images=16, seed=0)(net) == pytest.approx(
        task.validate(lambda x, all_heads: [net(x)], few)["val_loss"]
    )
    assert loss_over(few, task, images=5, seed=0)(net) == loss_over(few, task, images=5, seed=0)(net)
    assert loss_over(few, task, images=5, seed=0)(net) != loss_over(few, task, images=5, seed=1)(net)
    assert len(few.indices) == 16
    expected = choose_parts(KeepSettings(flops=0.7), net, loss_over(few, task, images=4, seed=0), image=IMAGE)
    recipe = SimpleNamespace(seed=0, data=SimpleNamespace(in_channels=3, size=16))
    training = SimpleNamespace(
        network=net, task=task, validation=few, recipe=recipe, fabric=SimpleNamespace(device=device)
    )
    method = make_method(criteria.choose({"name": "depth", "images": 4}))
    taken = method.take_away(cast(Training, training), KeepSettings(flops=0.7))
    assert (taken.parts, taken.heads, taken.kept) == (expected.without, expected.heads, expected.kept)
    assert flops(net) / flops(lattice()) == taken.kept


def test_networks_are_tried_with_statistics_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, Network]] = []

    def loss(network: Network) -> float:
        events.append(("loss", network))
        return 1.0

    def recalibrate(training: Training, network: Network, *, batches: int) -> None:
        assert batches == depth.TRIAL_BATCHES
        events.append(("statistics", network))

    monkeypatch.setattr(depth, "recalibrate", recalibrate)
    monkeypatch.setattr(depth, "loss_over", lambda *_, **__: loss)
    recipe = SimpleNamespace(seed=0, data=SimpleNamespace(in_channels=3, size=16))
    fabric = SimpleNamespace(device=torch.device("cpu"))
    training = SimpleNamespace(network=lattice(), task=None, validation=None, recipe=recipe, fabric=fabric)
    make_method("depth").take_away(cast(Training, training), KeepSettings(flops=0.8))
    assert events
    assert [event for event, _ in events] == ["statistics", "loss"] * (len(events) // 2)
    assert all(one is other for (_, one), (_, other) in zip(events[::2], events[1::2], strict=True))
    assert training.network not in [network for _, network in events]


def test_networks_that_lose_parts_can_lose_more() -> None:
    net = lattice()
    first = choose_parts(KeepSettings(flops=0.7), net, distance_to(net), image=IMAGE)
    smaller = reduced(net, first)
    second = choose_parts(KeepSettings(flops=0.7), smaller, distance_to(net), image=IMAGE)
    at_once = copy.deepcopy(net)
    at_once.take_away((*first.without, *second.without), second.heads)
    again = reduced(smaller, second)
    assert at_once.state_dict().keys() == again.state_dict().keys()
    assert flops(again) <= 0.5 * flops(net)


def test_bad_targets_and_networks() -> None:
    with pytest.raises(RecipeError, match="keep_channels is no target of depth"):
        choose_parts(KeepSettings(channels=0.5), lattice(), no_loss, image=IMAGE)
    with pytest.raises(RunError, match="no parts and no late heads") as caught:
        choose_parts(KeepSettings(flops=0.5), create_model("unet", width=4, depth=3), no_loss, image=IMAGE)
    assert "another method" in caught.value.fix


@pytest.mark.parametrize(("first", "when"), [(math.nan, "with all parts"), (1.0, "whichever part goes")])
def test_a_loss_that_is_not_finite_says_so(first: float, when: str) -> None:
    losses = chain([first], repeat(math.nan))
    with pytest.raises(RunError, match=f"loss on validation images is not finite {when}"):
        choose_parts(KeepSettings(flops=0.8), lattice(), lambda network: next(losses), image=IMAGE)


def test_latency_is_measured_until_the_target_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    net = lattice()
    cells, measured = len(net.frame.cells), []

    def latency_beside(whole: NasWdanNetwork, image: Tensor) -> Callable[[Network], Latency]:
        def latency_of(network: Network) -> Latency:
            assert isinstance(network, NasWdanNetwork)
            share = 0.3 + 0.7 * len(network.frame.cells) / cells
            measured.append(Latency(before_ms=1.0, cut_ms=share, threads=1, size=16))
            return measured[-1]

        return latency_of

    monkeypatch.setattr(depth, "latency_beside", latency_beside)
    found = choose_parts(KeepSettings(latency=0.7), net, distance_to(net), image=IMAGE)
    left = len(reduced(net, found).frame.cells)
    assert found.kept == 0.3 + 0.7 * left / cells <= 0.7
    assert found.latency in measured
    assert found.latency.share == found.kept
    assert 1 < len(measured) <= 1 + selection.MOST_EXPORTS
    with pytest.raises(RunError, match=r"keep_latency is 0.2, but 0.\d+ is left"):
        choose_parts(KeepSettings(latency=0.2), net, no_loss, image=IMAGE)


@torch.no_grad()
def test_a_network_without_parts_is_exported_as_it_is() -> None:
    net = lattice()
    net.take_away(net.removable_parts[::4])
    x = torch.rand(2, 3, 16, 16)
    engine = OnnxRuntimeEngine(network_to_onnx(net, in_channels=3, size=16), threads=1)
    logits = engine.run(x.numpy(), np.empty((2, 2), np.float32))["logits"]
    torch.testing.assert_close(torch.from_numpy(logits), net(x), atol=1e-4, rtol=1e-4)
