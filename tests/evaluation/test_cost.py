from types import SimpleNamespace

import pytest
import torch
from torch import nn

from medarts.evaluation import cost as cost_module
from medarts.evaluation.cost import count_parameters, measure_cost


class Clocked(nn.Module):
    """Moves its own clock on by known times, and remembers how it was called."""

    def __init__(self, milliseconds):
        super().__init__()
        self.times = iter(milliseconds)
        self.now = 0.0
        self.calls = []

    def forward(self, x):
        self.calls.append((self.training, torch.is_inference_mode_enabled(), tuple(x.shape), torch.get_num_threads()))
        self.now += next(self.times, 0) / 1000
        return x


def test_parameters_and_flops_of_a_hand_computed_network():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),  # 16x16 out, 27 multiply-adds a value
        nn.GroupNorm(1, 8),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4),  # 8x8 out, 18 multiply-adds a value
        nn.ConvTranspose2d(8, 4, 2, stride=2),  # 8x8 in, 4*2*2 multiply-adds a value
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    cost = measure_cost(network, in_channels=3, size=16, repeats=2)
    assert cost.parameters == 216 + 16 + (144 + 8) + (128 + 4) + (20 + 5)
    multiply_adds = 16 * 16 * 8 * 27 + 8 * 8 * 8 * 18 + 8 * 8 * 8 * 16 + 4 * 5
    assert cost.flops == 2 * multiply_adds
    assert cost.latency_ms > 0
    assert cost.spread >= 0


def test_frozen_parameters_do_not_count_and_shared_ones_count_once():
    shared = nn.Linear(4, 4, bias=False)
    network = nn.Sequential(shared, shared, nn.Linear(4, 2))
    network[2].bias.requires_grad_(False)
    assert count_parameters(network) == 16 + 8


def test_latency_is_the_median_after_warming_up(monkeypatch):
    network = Clocked([0, 200, 200, 200, 5, 4, 60, 7, 6])  # FLOPs, three to warm up, five that count
    monkeypatch.setattr(cost_module, "time", SimpleNamespace(perf_counter=lambda: network.now))
    cost = measure_cost(network, in_channels=2, size=8, repeats=5)
    assert cost.latency_ms == pytest.approx(6)
    assert cost.spread == pytest.approx(7 - 5)
    assert len(network.calls) == 9
    assert all(call[:3] == (False, True, (1, 2, 8, 8)) for call in network.calls)


def test_both_forms_of_a_network_are_timed_in_turns(monkeypatch):
    as_built = Clocked([0, 200, 200, 200, 8, 9, 7])
    shipped = Clocked([100, 100, 100, 4, 2, 3])  # no FLOPs: they are counted once
    clock = SimpleNamespace(perf_counter=lambda: as_built.now + shipped.now)
    monkeypatch.setattr(cost_module, "time", clock)
    cost = measure_cost(as_built, in_channels=2, size=8, repeats=3, shipped=shipped)
    assert (cost.latency_ms, cost.inference_ms) == (pytest.approx(8), pytest.approx(3))
    assert (cost.spread, cost.inference_spread) == (pytest.approx(1), pytest.approx(1))
    assert len(shipped.calls) == 6
    alone = measure_cost(Clocked([0] * 6), in_channels=2, size=8, repeats=2)
    assert alone.inference_ms is None
    assert alone.inference_spread is None


def test_modes_and_threads_are_restored_also_after_an_error():
    frozen = nn.BatchNorm2d(2).eval()
    network = nn.Sequential(frozen, nn.Dropout(), Clocked([]))
    before = torch.get_num_threads()
    measure_cost(network, in_channels=2, size=4, repeats=2, threads=before + 1)
    assert {call[3] for call in network[2].calls} == {before + 1}
    assert torch.get_num_threads() == before
    assert [module.training for module in network.modules()] == [True, False, True, True]
    assert frozen.num_batches_tracked == 0
    with pytest.raises(RuntimeError):
        measure_cost(network, in_channels=3, size=4, threads=before + 1)
    assert torch.get_num_threads() == before
    assert network.training
    assert not frozen.training


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match=r"network\.cpu\(\)"):
        measure_cost(nn.Conv2d(3, 1, 1, device="meta"), in_channels=3, size=8)
    with pytest.raises(ValueError, match="repeats is 1"):
        measure_cost(nn.Conv2d(3, 1, 1), in_channels=3, size=8, repeats=1)
