"""Estimates of a search by training, with a clock that steps and validations alone move on."""

from typing import Any

import pytest

from medarts.config import Recipe
from medarts.engine.engine import Job
from medarts.nas.search import Search
from medarts.pool import search
from medarts.pool.preparing import planned_epochs
from medarts.training.trainer import Training

from .conftest import changed


class Clock:
    """Stands still but for what is done."""

    now = 0.0

    @classmethod
    def perf_counter(cls) -> float:
        return cls.now

    @classmethod
    def taking(cls, seconds: float) -> Any:
        def work(job: Job[Any]) -> None:
            cls.now += seconds
            job.state.step += 1

        return work


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medarts.profiling.plan.in_new_process", lambda attempt: attempt())
    for module in ("engine", "timing"):
        monkeypatch.setattr(f"medarts.engine.{module}.time", Clock)
    monkeypatch.setattr("medarts.pool.planning.time", Clock)
    for kind, name, seconds in ((Training, "_step", 5.0), (Search, "_step", 2.0), (Job, "validate", 7.0)):
        monkeypatch.setattr(kind, name, Clock.taking(seconds))


def test_supernets_and_rungs(recipe: Recipe) -> None:
    given = ("search.select.candidates=4", "search.select.supernets=[{}, {}, {lr: 0.1}]", "search.select.retrain=3")
    planned = search.plan(changed(recipe, *given))
    assert planned.stage_names == ("2 supernets, stage 1", "supernet 3 (lr 0.1), stage 1")
    stage, _ = planned.stages
    assert stage.seconds == 2 * 2 * 2.0 + (2 + 2) * 7.0  # two epochs of two steps, and two validations at the end
    per_epoch = 2 * 5.0 + 7.0
    assert [(rung.generation, rung.epoch, rung.candidates, rung.seconds) for rung in planned.rungs] == [
        (1, 1, 4, 4 * per_epoch), (1, 2, 2, 2 * per_epoch), (2, 1, 2, 2 * per_epoch), (2, 2, 1, per_epoch),
    ]  # fmt: skip
    assert planned.search_seconds == 3 * stage.seconds + 9 * per_epoch + 3 * planned.training.seconds
    assert planned.training.seconds == 9 * per_epoch
    assert '"epoch": 2, "candidates": 2' in planned.to_json()


def test_random_search_in_epochs(recipe: Recipe) -> None:
    given = changed(recipe, "search.method=random", "search.select.epochs=8")
    planned = search.plan(given)
    assert planned.stages == ()
    assert sum(rung.epochs for rung in planned.rungs) == 8 == planned_epochs(given)
