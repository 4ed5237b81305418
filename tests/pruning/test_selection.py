"""Which channels go at a rate, and the smallest rate that meets a target."""

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medarts import create_model
from medarts.config import KeepSettings, parse
from medarts.errors import MedartsError, RecipeError, RunError
from medarts.network import Network
from medarts.profiling.cost import count_flops, count_parameters
from medarts.profiling.latency import Timing
from medarts.pruning import latency, selection
from medarts.pruning.criteria import make_criterion, scores_of
from medarts.pruning.selection import Cuts, check_reachable, choose, choose_for
from medarts.pruning.units import Unit, cut, find_units
from medarts.spaces import make_space

LATTICE = parse(
    {
        "data": {"sources": [{"kind": "folder", "path": "none"}]},
        "space": {"name": "nas-wdan", "init_channel": 8, "intermediate_nodes": 2},
        "search": {"stages": [{"depth": 3, "epochs": 2, "batch": 4}]},
    }
)
IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def unit(name: str, channels: int, *, together: int = 1) -> Unit:
    return Unit(name, channels, (), together)


def chosen(scores: dict[str, list[float]], rate: float, *, together: int = 1, **options: Any) -> dict[str, Any]:
    units = [unit(name, len(of), together=together) for name, of in scores.items()]
    given = {name: torch.tensor(of, dtype=torch.float64) for name, of in scores.items()}
    return choose(units, given, rate, **options)


def test_within_layers_every_unit_loses_the_same_share() -> None:
    scores = {"a": [5.0, 1.0, 3.0, 4.0], "b": [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]}
    assert chosen(scores, 0.5, scope="layer") == {"a": (1, 2), "b": (3, 4, 5)}
    assert chosen(scores, 0.4, scope="layer") == {"a": (1,), "b": (4, 5)}  # rounded down
    assert chosen(scores, 0.2, scope="layer") == {"b": (5,)}
    assert chosen(scores, 0.0, scope="layer") == {}
    assert chosen(scores, 0.999, scope="layer") == {"a": (1, 2, 3), "b": (1, 2, 3, 4, 5)}  # one always stays


def test_shares_that_are_no_binary_numbers_are_not_rounded_away() -> None:
    for hundredths in range(1, 100):
        assert len(chosen({"a": [*range(100)]}, hundredths / 100, scope="layer")["a"]) == hundredths
        found = chosen({"a": [*range(50)], "b": [*range(50)]}, hundredths / 100, scope="global")
        assert sum(map(len, found.values())) == min(hundredths, 86)  # an eighth of each stays


def test_over_the_network_the_lowest_scores_go() -> None:
    scores = {"a": [0.1, 0.9, 0.2, 0.8], "b": [0.5, 0.6, 0.3, 0.7]}
    assert chosen(scores, 0.5, scope="global") == {"a": (0, 2), "b": (0, 2)}
    assert chosen(scores, 0.3, scope="global") == {"a": (0, 2)}
    ranked = sorted((score, name, place) for name, of in scores.items() for place, score in enumerate(of))
    for number in range(1, 6):
        expected = {(name, place) for _, name, place in ranked[:number]}
        found = chosen(scores, number / 8, scope="global")
        assert {(name, place) for name, of in found.items() for place in of} == expected


def test_no_layer_dies() -> None:
    """One in eight channels stays where a threshold would take them all."""
    scores = {"low": [0.001 * place for place in range(16)], "high": [1.0 + place for place in range(16)]}
    for rate in (0.5, 0.8, 0.99):
        found = chosen(scores, rate, scope="global")
        assert found["low"] == tuple(range(14))
        assert len(found["high"]) == min(14, int(32 * rate) - 14)
    assert chosen({"a": [0.0, 1.0]}, 0.9, scope="global") == {"a": (0,)}


def test_equal_scores_go_in_the_order_of_units_and_channels() -> None:
    scores = {"b": [1.0] * 4, "a": [1.0] * 4}
    assert chosen(scores, 0.25, scope="layer") == {"b": (0,), "a": (0,)}
    assert chosen(scores, 0.5, scope="global") == {"b": (0, 1, 2), "a": (0,)}


def test_channels_that_must_stay() -> None:
    scores = {"a": [math.inf] * 4, "b": [math.inf, 2.0, 1.0, math.inf]}
    for scope in ("layer", "global"):
        assert chosen(scores, 0.9, scope=scope) == {"b": (1, 2)}


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_groups_stay_of_equal_sizes(scope: Any) -> None:
    """Of each block as many go, each its lowest; a set is as low as its mean."""
    scores = {"a": [9.0, 1.0, 8.0, 4.0, 6.0, 5.0]}  # blocks (9, 1, 8) and (4, 6, 5)
    assert chosen(scores, 0.3, scope=scope, together=2) == {}
    assert chosen(scores, 0.5, scope=scope, together=2) == {"a": (1, 3)}
    assert chosen(scores, 0.99, scope=scope, together=2) == {"a": (1, 2, 3, 5)}
    two = {"a": [0.0, 9.0, 4.0, 9.0], "b": [3.0, 9.0, 3.0, 9.0]}  # means 2 and 3
    assert chosen(two, 0.25, scope="global", together=2) == {"a": (0, 2)}
    assert chosen({"a": [math.inf, 0.0, 0.0, 0.0]}, 0.9, scope=scope, together=2) == {"a": (1, 2)}


def test_the_share_is_right_over_all_units_that_are_too_small_for_it() -> None:
    """At 0.45 six of ten units of 8 channels lose 4, four lose 3; those lose 4 whose next channel counts least."""
    scores = {str(number): [1.0, 2.0, 3.0, 4.0 + 0.1 * number, *[20.0 + number] * 4] for number in range(10)}
    found = chosen(scores, 0.45, scope="layer")
    assert {name: len(channels) for name, channels in found.items()} == {
        str(number): 4 if number >= 4 else 3 for number in range(10)
    }
    assert sum(map(len, found.values())) == 36


def test_what_a_lower_rate_takes_a_higher_one_takes_too() -> None:
    generator = np.random.default_rng(0)
    units = [unit("a", 12, together=3), unit("b", 7), unit("c", 32, together=2)]
    scores = {each.name: torch.from_numpy(generator.random(each.channels)) for each in units}
    for scope in ("layer", "global"):
        found = [choose(units, scores, rate / 50, scope=scope) for rate in range(50)]
        for fewer, more in pairwise(found):
            assert all({*of} <= {*more[name]} for name, of in fewer.items())
        for rate, removals in enumerate(found):
            assert sum(map(len, removals.values())) <= 51 * rate / 50 + 1e-9
            for each in units:
                blocks = np.array_split(np.isin(np.arange(each.channels), removals.get(each.name, ())), each.together)
                assert len({block.sum() for block in blocks}) == 1
                assert all(block.sum() < len(block) for block in blocks)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.nan, math.inf])
def test_rates_out_of_range(rate: float) -> None:
    with pytest.raises(RecipeError, match=f"The rate is {rate}.*at least 0, below 1"):
        chosen({"a": [1.0, 2.0]}, rate, scope="layer")


@pytest.mark.parametrize("keep", [0.0, 1.0, -0.5, 1.5, 50, math.nan, math.inf, True, "0.5"])
def test_shares_out_of_range(keep: Any) -> None:
    with pytest.raises(ValidationError, match=r"flops"):
        KeepSettings(flops=keep)


def test_one_target_at_a_time() -> None:
    with pytest.raises(ValidationError, match=r"flops and latency are given; give one of them"):
        KeepSettings(flops=0.5, latency=0.5)
    with pytest.raises(RecipeError, match=r"is not given\. Give keep_flops=0\.5 .*, or keep_parameters, "):
        assert KeepSettings().share
    target = KeepSettings(parameters=0.25)
    assert (target.quantity, target.share) == ("parameters", 0.25)


# Targets


@pytest.fixture(scope="module", params=["unet", "lattice"])
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    if request.param == "unet":
        return create_model("unet", width=8, depth=3)
    supernet = make_space(LATTICE).supernet(LATTICE.search.stages[0], None)
    return create_model(supernet.derive(LATTICE.derive, name="lattice", provenance={}))


@pytest.fixture(scope="module")
def units(network: Network) -> list[Unit]:
    return find_units(network, IMAGE)


def share_of(name: str, network: Network, units: list[Unit], removals: dict[str, tuple[int, ...]]) -> float:
    """Counts what is kept, on a copy, in another way than the search does."""
    smaller = copy.deepcopy(network).eval()
    cut(smaller, removals, IMAGE)
    if name == "channels":
        total = sum(each.channels for each in units)
        return (total - sum(map(len, removals.values()))) / total
    count = count_parameters if name == "parameters" else lambda of: count_flops(of, in_channels=3, size=32)
    return count(smaller) / count(copy.deepcopy(network).eval())


@pytest.mark.parametrize(
    ("name", "method"),
    [("flops", "l1"), ("flops", "slim"), ("parameters", "slim"), ("channels", "l1")],
)
def test_the_smallest_rate_that_meets_a_target(name: str, method: str, network: Network, units: list[Unit]) -> None:
    criterion = make_criterion(method)
    scores = {key: of + 0.01 * torch.arange(len(of)) for key, of in scores_of(criterion, units).items()}
    before = {key: of.clone() for key, of in network.state_dict().items()}
    found = choose_for(KeepSettings(**{name: 0.5}), Cuts(network, units, scores, scope=criterion.scope, image=IMAGE))
    assert found.kept <= 0.5
    assert found.kept == pytest.approx(share_of(name, network, units, found.removals))
    assert found.removals == choose(units, scores, found.rate, scope=criterion.scope)
    fewer = choose(units, scores, found.rate - 1e-6, scope=criterion.scope)
    assert share_of(name, network, units, fewer) > 0.5
    assert all(torch.equal(of, before[key]) for key, of in network.state_dict().items())


@pytest.mark.parametrize("name", ["parameters", "channels"])
def test_a_target_below_what_can_be_reached(name: str, network: Network, units: list[Unit]) -> None:
    scores = {each.name: torch.zeros(each.channels) for each in units}
    for scope in ("layer", "global"):
        least = share_of(name, network, units, choose(units, scores, 0.9999, scope=scope))
        nearest = math.ceil(100 * least) / 100
        with pytest.raises(
            RunError, match=rf"keep_{name} is 1e-05, but {least:.3g} is left .* keep_{name} {nearest:g} or more"
        ):
            check_reachable(KeepSettings(**{name: 1e-5}), Cuts(network, units, scores, scope=scope, image=IMAGE))
        with pytest.raises(RunError, match=f"keep_{name} is 1e-05, but {least:.3g} is left"):
            choose_for(KeepSettings(**{name: 1e-5}), Cuts(network, units, scores, scope=scope, image=IMAGE))
        check_reachable(KeepSettings(**{name: nearest}), Cuts(network, units, scores, scope=scope, image=IMAGE))


def test_a_network_of_which_nothing_can_be_cut(network: Network, units: list[Unit]) -> None:
    kept = {each.name: torch.full((each.channels,), math.inf) for each in units}
    for given in ([], units):
        with pytest.raises(RunError, match="no channels that can be cut"):
            choose_for(KeepSettings(flops=0.5), Cuts(network, given, kept, scope="layer", image=IMAGE))


class Clock:
    """Stands for export, engine and timing: a network takes some time whatever it is, and more by its FLOPs."""

    def __init__(self, network: Network, *, fixed: float) -> None:
        self.fixed, self.all_flops, self.exports = fixed, self.flops(network), 0

    @staticmethod
    def flops(network: Network) -> int:
        return count_flops(network, in_channels=3, size=32)

    def export(self, network: Network, *, in_channels: int, size: int) -> bytes:
        assert (in_channels, size, network.training) == (3, 32, False)
        self.exports += 1
        return str(self.fixed + (1 - self.fixed) * self.flops(network) / self.all_flops).encode()

    def time(self, passes: Any, *, threads: int, batch: int, repeats: int) -> list[Timing]:
        assert (threads, batch) == (1, 1)
        return [Timing(threads, batch, 10 * float(run.func.__self__.content), 0.1) for run in passes]


@pytest.fixture
def clock(network: Network, monkeypatch: pytest.MonkeyPatch) -> Clock:
    class Engine:
        def __init__(self, content: bytes, *, threads: int) -> None:
            assert threads == 1
            self.content = content

        def run(self, images: object, limits: object) -> None:
            raise AssertionError

    found = Clock(network, fixed=0.3)
    monkeypatch.setattr(latency, "network_to_onnx", found.export)
    monkeypatch.setattr(latency, "OnnxRuntimeEngine", Engine)
    monkeypatch.setattr(latency, "time_in_turns", found.time)
    return found


@pytest.mark.parametrize("keep", [0.5, 0.8])
def test_a_target_of_the_latency_is_met_with_few_exports(
    keep: float, network: Network, units: list[Unit], clock: Clock
) -> None:
    scores = scores_of(make_criterion("l1"), units)
    found = choose_for(KeepSettings(latency=keep), Cuts(network, units, scores, scope="layer", image=IMAGE))
    flops = share_of("flops", network, units, found.removals)
    assert found.kept == pytest.approx(0.3 + 0.7 * flops)
    assert found.removals == choose(units, scores, found.rate, scope="layer")
    assert clock.exports <= 1 + selection.MOST_EXPORTS
    # Near the target, or the next lower rate misses it: a small network has few rates.
    lower = choose(units, scores, found.rate - 1e-6, scope="layer")
    missed = 0.3 + 0.7 * share_of("flops", network, units, lower)
    assert found.kept <= keep < max(found.kept + selection.NEAR, missed)


def test_a_latency_below_what_can_be_reached(network: Network, units: list[Unit], clock: Clock) -> None:
    scores = scores_of(make_criterion("l1"), units)
    with pytest.raises(
        RunError, match=r"keep_latency is 0\.25, but 0\.3\d* is left .* Use keep_latency 0\.3\d? or more"
    ):
        choose_for(KeepSettings(latency=0.25), Cuts(network, units, scores, scope="layer", image=IMAGE))
    assert clock.exports == 2


def test_a_network_that_cutting_makes_no_faster(
    network: Network, units: list[Unit], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.fixed = 1.0
    scores = {each.name: torch.arange(each.channels) for each in units}
    with pytest.raises(RunError, match=r"keep_latency is 0\.9, but 1 is left .* Prune it by depth"):
        check_reachable(KeepSettings(latency=0.9), Cuts(network, units, scores, scope="layer", image=IMAGE))


def test_a_network_that_cannot_be_exported(
    network: Network, units: list[Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise ValueError("no such operator")

    monkeypatch.setattr(latency, "network_to_onnx", fail)
    scores = {each.name: torch.arange(each.channels) for each in units}
    with pytest.raises(MedartsError, match=r"cannot be exported .*\(no such operator\)\. Use keep_flops"):
        choose_for(KeepSettings(latency=0.5), Cuts(network, units, scores, scope="layer", image=IMAGE))


def test_a_latency_is_measured_in_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = create_model("unet", width=32, depth=2)
    monkeypatch.setattr(latency, "TURNS", 5)
    monkeypatch.setattr(selection, "MOST_EXPORTS", 1)
    units = find_units(network, IMAGE)
    scores = scores_of(make_criterion("l1"), units)
    cuts = Cuts(network, units, scores, scope="layer", image=torch.rand(1, 3, 64, 64))
    found = choose_for(KeepSettings(latency=0.9), cuts)
    assert 0 < found.kept <= 0.9
    assert found.latency is not None
    assert (found.latency.share, found.latency.threads, found.latency.size) == (found.kept, 1, 64)
