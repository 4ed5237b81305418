"""What is measured once and kept, with latencies that are made up; and pieces that are really measured."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medarts.deploy.engines import OnnxRuntimeEngine
from medarts.deploy.graphs import modules_to_onnx
from medarts.profiling import latency_table as module
from medarts.profiling.latency_table import LatencyTable, predict, side_by_side
from medarts.profiling.reference import Latency
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings
from medarts.spaces.pieces import Piece, joined, summed

GENOTYPE = NasWdan.sample(NasWdanSettings(init_channel=4), seed=0)
ABOUT: dict[str, Any] = {"in_channels": 3, "outputs": 1, "size": 64, "norm": "batch"}


def piece(name: str, channels: int = 4, *, lasts: bool = True) -> Piece:
    return Piece(name, ((channels, 8, 8),), lambda: nn.Conv2d(channels, channels, 3), lasts)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A piece takes as many milliseconds as its name has letters; holds what was measured together."""
    calls: list[list[str]] = []

    def of(self: LatencyTable, pieces: Sequence[Piece]) -> list[float]:
        calls.append([each.name for each in pieces])
        return [float(len(each.name)) for each in pieces]

    monkeypatch.setattr(LatencyTable, "_measured", of)
    return calls


def test_a_piece_is_measured_once_on_a_machine(measured: list[list[str]]) -> None:
    table = LatencyTable()
    assert table.latencies([piece("ab"), piece("abc"), piece("ab")]) == {piece("ab"): 2.0, piece("abc"): 3.0}
    assert (table.latency_of(piece("ab")), LatencyTable().latency_of(piece("abc"))) == (2.0, 3.0)
    assert measured == [["ab", "abc"]]
    assert LatencyTable(threads=2).latency_of(piece("ab")) == 2.0
    table.latency_of(piece("ab", channels=5))
    assert measured[1:] == [["ab"], ["ab"]], "of other threads, and of another shape"


def test_what_may_be_another_operation_tomorrow_is_not_kept(measured: list[list[str]]) -> None:
    table, mine = LatencyTable(), piece("mine", lasts=False)
    assert table.latency_of(mine) == table.latency_of(mine) == LatencyTable().latency_of(mine)
    assert measured == [["mine"], ["mine"]]


def test_many_are_measured_in_parts(measured: list[list[str]]) -> None:
    LatencyTable().latencies(piece(str(number)) for number in range(module.AT_ONCE + 1))
    assert [len(call) for call in measured] == [module.AT_ONCE, 1]


def test_what_is_predicted_is_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LatencyTable, "_measured", lambda self, pieces: [0.5] * len(pieces))
    pieces = NasWdan.pieces(GENOTYPE, **ABOUT)
    assert predict(GENOTYPE, **ABOUT) == pytest.approx(0.5 * sum(pieces.values()))
    monkeypatch.setattr(NasWdan, "pieces", classmethod(lambda *_, **__: None))
    assert predict(GENOTYPE, **ABOUT) is None


def test_parts_of_a_network_compute_what_they_did() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen = [
        each
        for each in NasWdan.pieces(GENOTYPE, **ABOUT)
        if any(word in each.name for word in ("stem", "head", "cweight", "up_", "input to 4"))
    ][:6]
    chosen += [summed(3, 4), joined(2, 3, 4)]
    modules = [each.build().eval() for each in chosen]
    models = modules_to_onnx(modules, [each.shapes for each in chosen])
    for each, one, model in zip(chosen, modules, models, strict=True):
        inputs = [torch.rand(1, *shape, generator=generator) for shape in each.shapes]
        engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1)
        given = {name: x.numpy() for name, x in zip(engine.inputs, inputs, strict=True)}
        (found,) = engine.run_named(given)
        with torch.inference_mode():
            np.testing.assert_allclose(found, one(*inputs).numpy(), atol=1e-5)


@pytest.mark.parametrize(("shared", "inputs"), [(True, 1), (False, 3)])
def test_copies_are_all_computed(shared: bool, inputs: int) -> None:
    conv = nn.Conv2d(2, 2, 1).eval()
    (model,) = modules_to_onnx([conv], [((2, 4, 4),)])
    engine = OnnxRuntimeEngine(side_by_side(model, 3, shared=shared).SerializeToString(), threads=1)
    assert len(engine.inputs) == inputs
    images = np.random.default_rng(0).random((inputs, 1, 2, 4, 4), np.float32)
    found = engine.run_named(dict(zip(engine.inputs, images, strict=True)))
    assert len(found) == 3
    with torch.inference_mode():
        for number, each in enumerate(found):
            expected = conv(torch.from_numpy(images[0 if shared else number])).numpy()
            np.testing.assert_allclose(each, expected, atol=1e-6)


def test_what_a_pass_takes_beside_its_graph_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def latencies(passes: Sequence[Callable[[], object]], *, threads: int, repeats: int) -> list[Latency]:
        copies = [len(run()) for run in passes]
        return [Latency(10.0 + 0.25 * number, 0.0, 0.0, 1.0) for number in copies]

    monkeypatch.setattr(module, "measured_latencies", latencies)
    assert LatencyTable().latency_of(piece("conv")) == pytest.approx(0.25)


def test_a_large_piece_takes_longer_than_a_small_one() -> None:
    large = Piece("conv", ((64, 32, 32),), lambda: nn.Conv2d(64, 64, 3, padding=1))
    ms = LatencyTable().latencies([piece("conv"), large])
    assert 0 <= ms[piece("conv")] < ms[large]
