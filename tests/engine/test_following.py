"""Runs of other processes, told line by line where there is no terminal."""

import io
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from medarts.engine.following import Followed, Follower
from medarts.system import console


def write_epochs(run: Path, number: int) -> None:
    run.mkdir(exist_ok=True)
    (run / "run.json").write_text("{}")
    metrics = [{"epoch": n, "train_loss": 1 / (n + 1), "val_loss": 0.5, "val_dice": n / 10} for n in range(number)]
    timing = [{"epoch": n, "seconds": 2.5, "peak_memory_mb": 1.0} for n in range(number)]
    for name, lines in (("metrics", metrics), ("timing", timing)):
        (run / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_every_epoch_is_told_once_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (Followed(name, tmp_path / name, 4) for name in ("isic/unet/seed-0", "fold 2"))
    one = Followed("isic/unet/seed-0", tmp_path / "one", 4)
    write_epochs(one.path, 1)
    with console.progress_bar("both", 8, done=1, is_told=False) as bar:
        follower = Follower([one], bar)
    follower.tell()
    assert capsys.readouterr().err == "", "what was done before is not told"
    write_epochs(one.path, 3)
    follower.follow([one, two])
    write_epochs(two.path, 1)
    bar.reach(4, 8)
    for _ in range(2):
        follower.tell()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(", about")[0] for line in lines] == [
        "isic/unet/seed-0 epoch 2/4: loss 0.500, val_dice 0.100, 2.5 s",
        "isic/unet/seed-0 epoch 3/4: loss 0.333, val_dice 0.200, 2.5 s",
        "fold 2 epoch 1/4: loss 1.000, val_dice 0.000, 2.5 s",
    ]
    assert all(line.endswith(" left") for line in lines)


def test_long_epochs_are_told_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    run = Followed("fold 1", tmp_path / "run", 4)
    with console.progress_bar("folds", 4, is_told=False) as bar:
        follower = Follower([run], bar)
    told = []
    for _ in range(5):
        clock[0] += 40.0
        if clock[0] == 160.0:
            write_epochs(run.path, 1)
            bar.reach(1, 4)
        follower.tell()
        told.append(capsys.readouterr().err.strip())
    assert told == [
        "",
        "at work: 0 of 4 epochs, 1 min 20 s",
        "",
        "fold 1 epoch 1/4: loss 1.000, val_dice 0.000, 2.5 s, about 8 min left",
        "",
    ]
    clock[0] += 40.0
    follower.tell()
    assert capsys.readouterr().err == "at work: 1 of 4 epochs, 4 min, about 12 min left\n"


def test_long_work_is_told_every_ten_seconds_or_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with console.progress_bar("reading images", 1000, done=100) as bar:
        for _ in range(90):
            clock[0] += 1.0
            bar.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reading images: 200 of 1,000, 10 s, about 1 min 20 s left"
    assert len(lines) == 9
    assert not any(sign in "".join(lines) for sign in "\r\x1b")
    with console.progress_bar("reading images", 1_000_000) as bar:
        for _ in range(180):
            clock[0] += 1.0
            bar.advance(1)
    assert len(capsys.readouterr().err.splitlines()) == 3, "slow work is told once a minute"
    with console.progress_bar("short", 10) as bar:
        for _ in range(10):
            clock[0] += 0.5
            bar.advance()
    assert capsys.readouterr().err == ""


def test_what_is_no_step_has_no_part_in_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the drawing of candidates, between two generations of a search."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with console.progress_bar("search", 40, done=10, is_told=False) as bar:
        assert bar.left is None, "what an earlier call did says nothing of this one"
        clock[0] = 100.0
        bar.reach(20, 40)
        assert bar.left == 200.0
        with bar.paused():
            clock[0] = 1000.0
            assert bar.left == 200.0
        assert bar.words("epoch") == "20 of 40 epochs, 16 min 40 s, about 3 min 20 s left"
        clock[0] = 1050.0
        bar.reach(25, 40)
        assert bar.left == 150.0


def test_a_terminal_has_the_estimate_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=screen, force_terminal=True, width=120))
    clock = [0.0]
    monkeypatch.setattr("medarts.system.console.time", SimpleNamespace(monotonic=lambda: clock[0]))
    with console.progress_bar("search", 40, is_told=False) as bar:
        clock[0] = 100.0
        bar.reach(10, 40)
        words = bar.words()
    assert words.endswith("about 5 min left")
    assert "10/40" in screen.getvalue()
    assert "about 5 min left" in screen.getvalue()


def test_what_is_left_is_reckoned_from_when_the_steps_were_known(capsys, monkeypatch):
    """As those of the doctor are once the images are listed, which takes long by itself."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with console.progress_bar("doctor", 0) as bar:
        now[0] = 1000.0
        bar.reach(0, 100)
        now[0] += 10
        bar.reach(10, 100)
    assert capsys.readouterr().err == "doctor: 10 of 100, 10 s, about 1 min 30 s left\n"
