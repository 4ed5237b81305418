"""A clock that is set, by hand, by a time server or in summer, while a run is at work."""

import re
import time
from itertools import count
from pathlib import Path

import pytest

import medarts
from medarts.config import Recipe, apply_overrides, parse
from medarts.engine.directory import RunDirectory
from medarts.training.trainer import Training, resume_training, start_training

CLOCKS = re.compile(r"\btime\.time(_ns)?\(|\btime import .*\btime\b|\bdatetime\.(now|utcnow|today)\(|\bdate\.today\(")

DATES = {
    "engine/directory.py": "when a run began",
    "engine/changes.py": "when a value was changed",
    "system/lock.py": "since when a folder is held, for the message of others",
    "deploy/runs.py": "when a network was described",
    "data/cache.py": "whether what a killed process has left is a day old: if not so, it is read once more",
    "data/digests.py": "whether a file was written so lately that another change may have the same time",
}
"""Modules that read the clock of the day, and for what: none measures a length of time by it."""


def test_no_length_of_time_is_measured_by_the_clock_of_the_day() -> None:
    root = Path(medarts.__file__).parent
    found = {
        str(path.relative_to(root)) for path in root.rglob("*.py") if CLOCKS.search(path.read_text(encoding="utf-8"))
    }
    assert found == {*DATES}


def test_a_run_does_not_notice_that_the_clock_is_set(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back by a day whenever it is read; the run is stopped, and goes on before it began."""
    changes = ["data.size=16", "train.model={name: unet, width: 4, depth: 2}"]
    recipe = parse(apply_overrides(small_recipe.model_dump(mode="json"), changes))
    whole = start_training(recipe, recipe.train.model, tmp_path / "whole" / "run")
    began, days = time.time(), count(1)
    step, run = Training._step, tmp_path / "run"

    def stopping(job: Training) -> None:
        if job.position == (1, 1):
            raise KeyboardInterrupt
        step(job)

    monkeypatch.setattr(time, "time", lambda: began - 86_400 * next(days))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * (began - 86_400 * next(days))))
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            start_training(recipe, recipe.train.model, run)
    resumed = resume_training(run)
    assert (run / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()
    timing = resumed.read_journal("timing.jsonl")
    assert all(0 < line["seconds"] < 600 for line in timing)
    assert RunDirectory(run).facts["finished"]
