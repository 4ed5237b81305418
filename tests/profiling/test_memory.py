"""Peaks of networks whose memory is known to the byte; each takes a process of its own."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from medarts.profiling import memory
from medarts.profiling.memory import peak_of_inference_mb

# On Linux all that is not the network's is taken off; elsewhere some stays.
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak cannot be set back")


@linux
def test_the_peak_is_that_of_the_batch() -> None:
    """Images of 256 x 256 and, at once, the same eight times as high and wide; what earlier passes freed is not."""
    enlarge = partial(nn.Upsample, scale_factor=8)
    peak = peak_of_inference_mb(enlarge, shape=(4, 1, 256, 256), threads=1)
    assert peak == pytest.approx(4 * 256 * 256 * 4 * (1 + 64) / 1e6, abs=2)


@linux
def test_the_peak_has_the_weights_but_not_what_was_there_before_them() -> None:
    """Building takes 80 MB beside the weights, and loads a library; neither is in the peak."""
    code = (
        "(__import__('sqlite3'), __import__('torch').ones(2 * 10**7).sum(), __import__('torch').nn.Linear(2048, 4096))"
    )
    build = partial(eval, f"{code}[2]")
    peak = peak_of_inference_mb(build, shape=(1, 1, 1, 2048), threads=1)
    weights = (2048 * 4096 + 4096) * 4 / 1e6
    assert weights < peak < 1.1 * weights


def test_where_the_peak_cannot_be_set_back_all_since_the_imports_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build() -> nn.Module:
        built.append(nn.Identity())
        return built[-1]

    rising = iter([100.0, 164.0])
    monkeypatch.setattr(memory, "_CLEAR", Path("/proc/none"))
    monkeypatch.setattr(memory, "in_new_process", lambda work: work())
    monkeypatch.setattr(memory, "_return_freed_memory", lambda: None)
    monkeypatch.setattr(memory, "_memory_mb", lambda field: next(rising))
    assert peak_of_inference_mb(build, shape=(1, 1, 8, 8), threads=torch.get_num_threads()) == 64
    assert len(built) == 1  # a first one would raise the peak for good
