"""A search by training that was killed or stopped goes on to the same bytes, however many processes it has."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medarts.config import Recipe
from medarts.engine.directory import RunDirectory
from medarts.engine.engine import Job
from medarts.errors import RecipeError, RunError
from medarts.pool import candidates, job, preparing, search, trainings
from medarts.pool.candidates import read_candidates
from medarts.pool.drawing import Drawing
from medarts.system.process import InterruptedRunError, Interruption
from medarts.system.workers import Ended, Processes, Work

from .conftest import changed, random_of


class KilledError(BaseException):
    """Ends everything, as a signal does."""


def assert_equal_searches(run: RunDirectory, other: RunDirectory) -> None:
    for name in ("candidates.jsonl", "genotype.json", "summary.json", "manifest.csv"):
        assert (run.path / name).read_bytes() == (other.path / name).read_bytes(), name
    for each in read_candidates(run):
        one, two = (trainings.folder_of_candidate(of, each.name) for of in (run, other))
        for name in ("metrics.jsonl", "searched.txt"):
            assert (one / name).read_bytes() == (two / name).read_bytes(), (each.name, name)
    assert other.facts["finished"]


@pytest.mark.usefixtures("here")
def test_killed_in_a_supernet_and_in_the_second_generation(
    pool: RunDirectory, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    for go_on, at in ((lambda: search.start(recipe, path), 2), (lambda: search.resume(path), 16)):
        with monkeypatch.context() as patch:
            patch.setattr(Job, "_step", ending(Job._step, at, KilledError()))
            with pytest.raises(KilledError):
                go_on()
    assert not RunDirectory(path).facts["finished"]
    assert {each.generation for each in read_candidates(RunDirectory(path))} == {1, 2}
    assert_equal_searches(pool, search.resume(path))


def ending(step: Callable[[Job], None], at: int, error: BaseException) -> Callable[[Job], None]:
    """Returns a step of a job that is the last of its process when it is taken for a number of times."""
    taken = []

    def end(job: Job) -> None:
        taken.append(job.position)
        if len(taken) == at:
            raise error
        step(job)

    return end


@pytest.mark.usefixtures("here")
def test_stopped_by_ctrl_c_and_killed_where_a_rung_is_written(
    control: RunDirectory, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps = tmp_path / "run", []

    def stop(job: Job) -> None:
        step(job)
        steps.append(job.position)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    step = Job._step
    with monkeypatch.context() as patch:
        patch.setattr(Job, "_step", stop)
        with pytest.raises(InterruptedRunError) as caught:
            search.start(random_of(recipe), path)
    assert str(caught.value) == f"Stopped; {path} is saved. Resume with: medarts search --resume {path}"

    for written in (False, True):

        def kill(*given: Any, written: bool = written) -> None:
            if written:
                candidates.write_candidates(*given)
            raise KilledError

        with monkeypatch.context() as patch:
            patch.setattr(job, "write_candidates", kill)
            with pytest.raises(KilledError):
                search.resume(path)
        assert {1 in each.scores for each in read_candidates(RunDirectory(path))} == {written}
    assert_equal_searches(control, search.resume(path))


def test_several_processes_of_which_one_is_killed_give_the_same(
    control: RunDirectory, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, show = [], job._Search._show

    def kill_one(of: job._Search) -> None:
        show(of)
        begun = list((of.run.path / "candidates").glob("*/checkpoints/last-*"))
        if begun and not killed:
            assert isinstance(of.executor.workers, Processes)
            victim = of.executor.workers._busy[0].process
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim)

    monkeypatch.setattr(job, "POLL", 0.02)
    monkeypatch.setattr(job._Search, "_show", kill_one)
    run = search.start(random_of(recipe), tmp_path / "run", jobs=2)
    assert [process.exitcode for process in killed] == [-signal.SIGKILL]
    assert_equal_searches(control, run)
    assert "val_dice" in (run.path / "logs" / "1-01.log").read_text()


def test_a_training_that_was_asked_to_stop_before_the_search_stops_it() -> None:
    """As a scheduler does, which asks all processes."""
    ends = [[Ended("1-01", stopped=True)], []]
    stopped = SimpleNamespace(start=lambda work: None, wait=lambda seconds: ends.pop(0), ask_to_stop=lambda: None)
    executor = job._Executor(stopped, Interruption(), jobs=1)
    works = [Work(name, lambda: None, Path()) for name in ("1-01", "1-02")]
    with pytest.raises(InterruptedRunError, match="Stopped"):
        list(executor.ends(works, meanwhile=lambda: None))


@pytest.mark.usefixtures("here")
def test_stopped_between_two_proposals(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on, though a new search would not be begun with its recipe, as one of an earlier version was."""
    identity, looked_at = Drawing._identity, []

    def stop(drawing: Drawing, *given: Any) -> Any:
        looked_at.append(given)
        os.kill(os.getpid(), signal.SIGINT)
        return identity(drawing, *given)

    monkeypatch.setattr(Drawing, "_identity", stop)
    without_effect = changed(random_of(recipe), "space.stem_channels=16")
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_check_settings", lambda recipe: None)
        with pytest.raises(InterruptedRunError, match="is saved"):
            search.start(without_effect, tmp_path / "run")
    assert len(looked_at) == 1
    assert not (tmp_path / "run" / candidates.FILE).exists()
    with pytest.raises(InterruptedRunError, match="is saved"):
        search.resume(tmp_path / "run")
    assert len(looked_at) == 2


@pytest.mark.usefixtures("here")
def test_what_may_change_on_the_way(pool: RunDirectory) -> None:
    with pytest.raises(
        RunError, match=r"A started run cannot change search.stages.0.epochs: 2 -> 3.*tensorboard and \.timeout\. Start"
    ):
        search.resume(pool.path, ["search.stages.0.epochs=3"])
    with pytest.raises(RunError, match=r"A started run cannot change search.select.keep"):
        search.resume(pool.path, ["search.select.keep=0.4"])
    with pytest.raises(RecipeError, match="is not a change"):
        search.resume(pool.path, ["keep"])
    before = {path: path.stat().st_mtime_ns for path in pool.path.rglob("*")}
    assert search.resume(pool.path).path == pool.path
    assert {path: path.stat().st_mtime_ns for path in pool.path.rglob("*") if path.name != ".lock"} == before
