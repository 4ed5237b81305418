"""A library call leaves the process as it found it."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medarts.config import Recipe, apply_overrides, parse
from medarts.engine.device import make_fabric, preserved_process_state
from medarts.errors import MedartsError
from medarts.evaluation.evaluate import evaluate
from medarts.models import Architecture
from medarts.nas.search import start_search
from medarts.spaces.genotype import load_genotype
from medarts.tasks import SegmentationTask
from medarts.training.trainer import start_training


def state() -> dict[str, Any]:
    """Returns what a call could change for the whole process."""
    signals = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "tf32": torch.backends.cudnn.allow_tf32,
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "random": random.getstate(),
        "environment": dict(os.environ),
        "handlers": [signal.getsignal(each) for each in signals],
        "folder": Path.cwd(),
    }


@pytest.fixture
def recipe(small_recipe: Recipe) -> Iterator[Recipe]:
    """With another number of threads than the process has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    short = ("search.stages=[{depth: 3, epochs: 1, batch: 4}]", "train.epochs=1", "data.size=16", "compute.threads=1")
    yield parse(apply_overrides(small_recipe.model_dump(mode="json"), short))
    torch.set_num_threads(before)


def test_after_search_training_and_evaluation(recipe: Recipe, tmp_path: Path) -> None:
    before = state()
    search = start_search(recipe, tmp_path / "search")
    assert state() == before
    architecture: Architecture = load_genotype(search.path)
    run = start_training(recipe, architecture, tmp_path / "train")
    assert state() == before
    evaluate(run.path)
    assert state() == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_calls_that_fail(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(SegmentationTask, "validate", fails)
    before = state()
    with pytest.raises(error):
        start_search(recipe, tmp_path / "search")
    assert state() == before
    assert (tmp_path / "search").exists() == (error is KeyboardInterrupt)  # it can be resumed
    with pytest.raises(MedartsError):
        evaluate(tmp_path / "search")
    assert state() == before


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_what_a_gpu_needs_is_put_back(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, workspace: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made: list[Callable[..., Any]] = []
    monkeypatch.setattr("medarts.engine.device.Fabric", lambda **options: made.append(options["accelerator"]))
    if workspace is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    else:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    before = state()
    with preserved_process_state():
        make_fabric(recipe.compute.model_copy(update={"device": "cuda", "precision": "fp32"}))
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.allow_tf32
        assert state() != before
    assert made == ["cuda"]
    assert state() == before
