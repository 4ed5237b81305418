"""Parameters and operations against hand counts; which form is measured how, and in which order."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from medarts.errors import MedartsError, RecipeError, RunError
from medarts.models import build_network
from medarts.models.unet import UNetSettings
from medarts.models.unetpp import UNetPPSettings
from medarts.network import inference
from medarts.profiling import cost as cost_module
from medarts.profiling.cost import Cost, count_flops, count_parameters, measure_costs
from medarts.profiling.latency import Timing
from medarts.spaces.genotype import load_genotype as load

UNET = UNetSettings(width=4, depth=3)
DARTS = load("darts_v2").with_settings(init_channel=2, layers=4)
SMALL: dict[str, Any] = {"in_channels": 2, "outputs": 3, "size": 16}
TIMINGS = (Timing(1, 1, 20.0, 1.0), Timing(2, 1, 12.0, 0.5))
EXPORTED = (Timing(1, 1, 9.0, 0.1), Timing(2, 1, 5.0, 0.1))
MEASURED = Cost(10, 1000, 32, 3, 1, {"torch": TIMINGS, "onnxruntime": EXPORTED}, {1: 20.5, 8: 90.25})


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Peaks of memory are asked for, but not measured: a process takes seconds."""
    asked = []

    def peak(build: Callable[[], Callable[..., object]], *, shape: tuple[int, ...], threads: int) -> float:
        asked.append((build(), shape, threads))
        return 10.0 * shape[0]

    monkeypatch.setattr(cost_module, "peak_of_inference_mb", peak)
    return asked


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, nothing_exported: None) -> list[tuple[int, int, int]]:
    """Nothing is exported or timed: the first form takes 1 ms, the second 2, ...; holds what every call was given."""
    calls = []

    def in_turns(passes: Sequence[Callable[[], object]], *, threads: int, batch: int, **_: Any) -> list[Timing]:
        calls.append((len(passes), threads, batch))
        return [Timing(threads, batch, 1.0 + number, 0.0) for number in range(len(passes))]

    monkeypatch.setattr(cost_module, "time_in_turns", in_turns)
    return calls


@pytest.fixture(autouse=True)
def _forms_are_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """So fast that they are shipped; which one is faster is not left to this machine."""
    monkeypatch.setattr(inference, "_best_seconds", lambda *_: (1.0, 0.5))


def test_parameters_and_flops_of_a_hand_computed_network() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),  # 16x16 out, 27 multiply-adds a value
        nn.GroupNorm(1, 8),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4),  # 8x8 out, 18 multiply-adds a value
        nn.ConvTranspose2d(8, 4, 2, stride=2),  # 8x8 in, 4*2*2 multiply-adds a value
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    assert count_parameters(network) == 216 + 16 + (144 + 8) + (128 + 4) + (20 + 5)
    multiply_adds = 16 * 16 * 8 * 27 + 8 * 8 * 8 * 18 + 8 * 8 * 8 * 16 + 4 * 5
    assert count_flops(network, in_channels=3, size=16) == 2 * multiply_adds


def test_frozen_parameters_do_not_count_and_shared_ones_count_once() -> None:
    shared = nn.Linear(4, 4, bias=False)
    network = nn.Sequential(shared, shared, nn.Linear(4, 2))
    network[2].bias.requires_grad_(False)
    assert count_parameters(network) == 16 + 8


def test_networks_are_measured_side_by_side(peaks: list[tuple[Any, ...]]) -> None:
    networks = {"wide": UNET, "narrow": UNetSettings(width=2, depth=3), "darts": DARTS}
    steps = []
    costs = measure_costs(
        networks, **SMALL, threads=(1,), batches=(2, 1), repeats=2, progress=lambda *step: steps.append(step)
    )
    assert list(costs) == ["wide", "narrow", "darts"]
    for name, cost in costs.items():
        network = build_network(networks[name], in_channels=2, outputs=3)
        assert cost.parameters == count_parameters(network)
        assert (cost.in_channels, cost.outputs, cost.size) == (2, 3, 16)
        has_form = name != "darts"  # networks of findings have no inference form of their own
        openvino = ["openvino"] * bool(find_spec("openvino"))
        assert [*cost.timings] == ["torch", *["inference form"] * has_form, "onnxruntime", *openvino]
        for timings in cost.timings.values():
            assert [(timing.threads, timing.batch) for timing in timings] == [(1, 2), (1, 1)]
            assert all(timing.median_ms > 0 and timing.spread_ms >= 0 for timing in timings)
        assert cost.memory_mb == {2: 20.0, 1: 10.0}
    assert costs["wide"].flops > 3 * costs["narrow"].flops
    assert steps == [(done, 6 + 3 + 2 * 2) for done in range(1, 14)]  # peaks, exports, turns


def test_all_forms_are_timed_in_one_go(timed: list[tuple[int, int, int]]) -> None:
    networks = {"a": UNET, "darts": DARTS, "b": UNET}
    costs = measure_costs(networks, **SMALL, threads=(1, 2), batches=(1, 4), memory=False)
    assert timed == [(8, 1, 1), (8, 1, 4), (8, 2, 1), (8, 2, 4)]
    for backend, expected in {"torch": (1, 3, 4), "onnxruntime": (6, 7, 8)}.items():
        found = [cost.latency_ms(threads=2, batch=4, backend=backend) for cost in costs.values()]
        assert found == [*expected]
    assert [costs[name].latency_ms(threads=1, backend="inference form") for name in ("a", "b")] == [2, 5]
    assert costs["a"].memory_mb == {}


def test_memory_is_that_of_the_form_that_scores_images(peaks: list[tuple[Any, ...]], timed: object) -> None:
    measure_costs({"unet": UNET, "darts": DARTS}, **SMALL, threads=(1, 2))
    (unet, *about), (darts, *_) = peaks
    assert about == [(1, 2, 16, 16), 2]
    image = torch.rand(1, 2, 16, 16)
    built = build_network(UNET, in_channels=2, outputs=3)
    assert type(unet.func) is not type(built)
    assert not unet.func.training
    assert unet(image).shape == (1, 3, 16, 16)
    assert darts(image).shape == (1, 3)


def test_what_is_reported_as_shipped_is_what_scores_images(
    monkeypatch: pytest.MonkeyPatch, timed: object, peaks: list[tuple[Any, ...]]
) -> None:
    """On two threads the form for inference is slower than the network, which then is what is used."""
    monkeypatch.setattr(inference, "_best_seconds", lambda *_: (1.0, {1: 0.5, 2: 2.0}[torch.get_num_threads()]))
    cost = measure_costs({"unet": UNET, "darts": DARTS}, **SMALL, threads=(1, 2), batches=(1, 4))["unet"]
    assert [timing.median_ms for timing in cost.timings["torch"]] == [1, 1, 1, 1]
    assert [timing.median_ms for timing in cost.timings["inference form"]] == [2, 2, 1, 1]


def test_the_last_head_alone_is_measured(timed: object) -> None:
    nested = UNetPPSettings(width=4, depth=3)
    network = build_network(nested, in_channels=2, outputs=3).eval()
    assert len(network.heads) > 1
    cost = measure_costs({"unetpp": nested}, **SMALL, memory=False)["unetpp"]
    every_head = count_flops(partial(network, all_heads=True), in_channels=2, size=16)
    others = len(network.heads) - 1
    assert cost.flops == every_head - others * 2 * 3 * 4 * 16 * 16  # 1x1 convolutions of 4 channels to 3
    assert cost.parameters == count_parameters(network)


def test_norms_are_those_of_all_or_of_each(monkeypatch: pytest.MonkeyPatch, timed: object) -> None:
    seen = []

    def build(architecture: UNetSettings, *, norm: str | None, **about: Any) -> nn.Module:
        seen.append(norm)
        return build_network(architecture, norm=norm, **about)

    monkeypatch.setattr(cost_module, "build_network", build)
    networks = {"a": UNET, "b": UNET}
    for norm, expected in (
        (None, [None, None]),
        ("group", ["group", "group"]),
        ({"b": "group", "a": None}, [None, "group"]),
    ):
        measure_costs(networks, **SMALL, norm=norm, memory=False)
        assert seen == expected
        seen.clear()


def test_too_little_memory_is_one_error_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(build: Callable[[], object], *, shape: tuple[int, ...], threads: int) -> float:
        if shape[0] > 1:
            raise MemoryError("can't allocate memory")
        return 1.0

    monkeypatch.setattr(cost_module, "peak_of_inference_mb", peak)
    monkeypatch.setattr(cost_module, "time_in_turns", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(RecipeError, match=r"unet runs out of memory with 8 images of 16 x 16 at a time\. Use smaller"):
        measure_costs({"unet": UNET}, **SMALL, batches=(1, 8))


def test_sizes_that_a_network_cannot_take_are_refused_first(peaks: list[tuple[Any, ...]]) -> None:
    with pytest.raises(RecipeError, match="18"):
        measure_costs({"unet": UNET}, **{**SMALL, "size": 18})
    assert not peaks


def test_the_latency_is_that_of_the_exported_network() -> None:
    assert MEASURED.latency_ms(threads=2) == 5.0
    assert MEASURED.latency_ms(threads=2, backend="torch") == 12.0
    for about in ({"threads": 4}, {"threads": 1, "batch": 8}, {"threads": 1, "backend": "openvino"}):
        with pytest.raises(ValueError, match="was not measured"):
            MEASURED.latency_ms(**about)


def test_a_cost_survives_json() -> None:
    content = json.loads(json.dumps({"name": "unet", **MEASURED.as_json()}))
    assert content["parameters"] == 10
    assert content["memory_mb"] == {"1": 20.5, "8": 90.25}
    assert Cost.read(content) == MEASURED


def test_another_file_is_no_cost() -> None:
    of_old = {"parameters": 10, "flops": 1000, "latency_ms": 20.0, "spread": 1.0, "size": 32}
    timing = {"threads": 1, "batch": 1, "median_ms": 20.0, "spread_ms": 1.0}
    for change in (
        {"timings": {"onnxruntime": [{"threads": 1}]}},
        {"timings": {"torch": [timing]}},
        {"timings": {"onnxruntime": [timing], "abacus": [timing]}},
        {"memory_mb": 3},
        of_old,
    ):
        content = change if change is of_old else {**MEASURED.as_json(), **change}
        with pytest.raises(RunError, match=r"runs/x/cost\.json holds no cost .*\. Measure it again\."):
            Cost.read(content, origin="runs/x/cost.json")


def test_counting_alone_measures_nothing(monkeypatch):
    monkeypatch.setattr(cost_module, "time_in_turns", None)
    monkeypatch.setattr(cost_module, "peak_of_inference_mb", None)
    architectures = {"unet": UNetSettings(width=4, depth=2)}
    (counted,) = measure_costs(architectures, in_channels=3, outputs=1, size=32, repeats=0).values()
    monkeypatch.undo()
    assert (counted.timings, counted.memory_mb) == ({}, {})
    network = build_network(architectures["unet"], in_channels=3, outputs=1).eval()
    assert (counted.parameters, counted.flops) == (
        count_parameters(network),
        count_flops(network, in_channels=3, size=32),
    )
    assert Cost.read(counted.as_json()) == counted


def test_a_network_that_cannot_be_exported_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> bytes:
        raise ValueError("no translation\nfor aten.abacus")

    monkeypatch.setattr(cost_module, "Translation", fail)
    monkeypatch.setattr(cost_module, "time_in_turns", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(
        MedartsError, match=r"unet cannot be exported .*ValueError: no translation for aten\.abacus.* 0 rep"
    ):
        measure_costs({"unet": UNET}, **SMALL, memory=False)
