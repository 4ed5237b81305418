"""A search that was killed, stopped or has diverged goes on to the same bytes as one that was left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from medarts.errors import DivergedError, RunError
from medarts.recipe import Recipe, apply_overrides, parse, save
from medarts.run import checkpoint
from medarts.run.directory import RunDirectory
from medarts.search import resume_search, start_search
from medarts.tasks.segmentation import SegmentationTask

# Saves of the recipe below: an epoch each and the end of the stage, so 4 is the first epoch of the second stage.
PAUSED = """
import sys, time
from pathlib import Path
from medarts.recipe import load
from medarts.search import start_search
from medarts.search.loop import SearchLoop

recipe, out, there, *place = sys.argv[1:]
step = SearchLoop._step

def paused(loop, orders):
    step(loop, orders)
    if [str(n) for n in (loop.place.stage, loop.place.epoch, loop.place.step)] == place:
        Path(there).touch()
        while Path(there).exists():
            time.sleep(0.01)

SearchLoop._step = paused
start_search(load(Path(recipe)), Path(out))
"""

KILLED_IN_SAVE = """
import os, signal, sys
from pathlib import Path
import torch
from medarts.recipe import load
from medarts.run.checkpoint import STATE, WEIGHTS
from medarts.search import start_search

recipe, out, number = sys.argv[1:]
save, saves = torch.save, []

def killed(state, path):
    saves.append(path)
    if len(saves) == int(number):
        assert (path.parent / WEIGHTS).exists() and path.name == STATE
        path.write_bytes(b"the first bytes of a st")
        os.kill(os.getpid(), signal.SIGKILL)
    save(state, path)

torch.save = killed
start_search(load(Path(recipe)), Path(out))
"""


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    """Two stages of two epochs of two steps."""
    return changed(small_recipe, "data.size=16", "space.intermediate_nodes=2")


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


class Child:
    """A search in a process of its own."""

    def __init__(self, script: str, recipe: Recipe, out: Path, *words: str | Path) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        self.there = out.parent / "there"
        save(recipe, out.parent / "recipe.yaml")
        command = [sys.executable, "-c", script, str(out.parent / "recipe.yaml"), str(out), *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    @classmethod
    def paused(cls, recipe: Recipe, out: Path, *, at: tuple[int, int, int]) -> "Child":
        """Starts a search and returns when it stands behind a step (stage, epoch, step), and waits there."""
        child = cls(PAUSED, recipe, out, out.parent / "there", *map(str, at))
        end = time.monotonic() + 60
        while not child.there.exists():
            assert child.process.poll() is None, child.process.communicate()[1]
            assert time.monotonic() < end, "the search did not arrive"
            time.sleep(0.01)
        return child

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Sends a signal, lets the search go on, and returns exit status and standard error."""
        self.process.send_signal(number)
        self.there.unlink()
        return self.end()

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


def assert_equal_runs(run: Path, other: Path) -> None:
    for name in ("metrics.jsonl", "architecture.jsonl", "genotype.json", "summary.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    (weights,), (other_weights,) = (sorted(path.glob("checkpoints/last-*/weights.safetensors")) for path in (run, other))
    assert weights.read_bytes() == other_weights.read_bytes()
    point, other_point = (checkpoint.load(path / "checkpoints", "last") for path in (run, other))
    assert {name for name in point.weights if name.startswith(("alphas", "betas"))}
    for name in ("place", "candidates", "weight_optimizer", "architecture_optimizer"):
        torch.testing.assert_close(point.state[name], other_point.state[name], rtol=0, atol=0)
    assert RunDirectory.open(other).facts["finished"]


@pytest.mark.parametrize("changes", [(), ("space.dropout_prob=0.3", "search.mixing.images=3")], ids=["plain", "random"])
def test_killed_in_the_middle_of_an_epoch(recipe, tmp_path, changes):
    recipe = changed(recipe, *changes)
    child = Child.paused(recipe, tmp_path / "killed" / "run", at=(1, 1, 1))
    assert child.stop(signal.SIGKILL)[0] == -signal.SIGKILL
    broken = RunDirectory.open(tmp_path / "killed" / "run")
    assert len((broken.path / "metrics.jsonl").read_text().splitlines()) == 3
    assert not broken.facts["finished"]

    whole = start_search(recipe, tmp_path / "whole" / "run")
    assert_equal_runs(whole.path, resume_search(broken.path).path)


@pytest.mark.parametrize("number", [1, 5])
def test_killed_in_the_middle_of_writing_a_checkpoint(recipe, tmp_path, number):
    child = Child(KILLED_IN_SAVE, recipe, tmp_path / "killed" / "run", str(number))
    assert child.end()[0] == -signal.SIGKILL
    broken = tmp_path / "killed" / "run"
    kept = sorted(path.name for path in (broken / "checkpoints").glob("last-*"))
    assert kept == ([] if number == 1 else ["last-000003"])

    whole = start_search(recipe, tmp_path / "whole" / "run")
    assert_equal_runs(whole.path, resume_search(broken).path)
    assert not list((broken / "checkpoints").glob(".unfinished*"))


def test_stopped_by_control_c(recipe, tmp_path):
    child = Child.paused(recipe, tmp_path / "stopped" / "run", at=(1, 0, 1))
    status, errors = child.stop(signal.SIGINT)
    stopped = tmp_path / "stopped" / "run"
    assert status == 1  # of an error that nobody caught
    assert f"InterruptedRunError: Stopped; {stopped} is saved." in errors
    assert f"medarts search --resume {stopped}" in errors
    point = checkpoint.load(stopped / "checkpoints", "last")
    assert [point.state["place"][name] for name in ("stage", "epoch", "step")] == [1, 0, 1]

    whole = start_search(recipe, tmp_path / "whole" / "run")
    assert_equal_runs(whole.path, resume_search(stopped).path)


def test_killed_before_the_summary_was_written(recipe, tmp_path, monkeypatch):
    """Between the last checkpoint and the files that follow it nothing may get lost."""
    write_json = RunDirectory.write_json

    def killed(run, name, content):
        if name == "summary.json" and len(content["stages"]) == 2:
            raise KeyboardInterrupt
        write_json(run, name, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunDirectory, "write_json", killed)
        start_search(recipe, tmp_path / "killed" / "run")
    whole = start_search(recipe, tmp_path / "whole" / "run")
    assert_equal_runs(whole.path, resume_search(tmp_path / "killed" / "run").path)


def test_diverged_loss_names_the_step_and_keeps_the_last_good_checkpoint(recipe, tmp_path, monkeypatch):
    loss, calls = SegmentationTask.loss, []

    def poisoned(task, outputs, mixture):
        calls.append(torch.is_grad_enabled())
        # Epoch 0: two steps of the weights. Epoch 1: alphas, weights, alphas, and this one.
        return loss(task, outputs, mixture) * (float("nan") if sum(calls) == 6 else 1.0)

    run = tmp_path / "poisoned" / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "loss", poisoned)
        with pytest.raises(DivergedError, match=r"loss of the weight half nan .*stage 0, epoch 1, step 1"):
            start_search(recipe, run)
    point = checkpoint.load(run / "checkpoints", "last")
    assert point.state["place"]["epoch"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in point.weights.values())

    whole = start_search(recipe, tmp_path / "whole" / "run")
    assert_equal_runs(whole.path, resume_search(run).path)  # the poison was no part of the run


def test_resuming_a_finished_search_changes_nothing(recipe, tmp_path):
    run = start_search(recipe, tmp_path / "run").path
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    resume_search(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_changed_data_are_refused(recipe, folder_data, tmp_path, monkeypatch):
    def stop(loop):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("medarts.search.loop.SearchLoop._end_stage", stop)
        start_search(recipe, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    table = folder_data / "splits.csv"
    table.write_text(table.read_text().replace("p0,train", "p0,val"))
    with pytest.raises(RunError, match=r"data of .*run have changed"):
        resume_search(tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_training_run_is_not_resumed_as_a_search(recipe, tmp_path):
    RunDirectory.create(tmp_path / "run", recipe, kind="train", data_fingerprint="")
    with pytest.raises(RunError, match=r"run is a train run\. Give a search run"):
        resume_search(tmp_path / "run")
    with pytest.raises(RunError, match="is not a run directory"):
        resume_search(tmp_path)
