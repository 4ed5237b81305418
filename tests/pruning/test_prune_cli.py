"""The command: what it prints and refuses, and that what comes of it is a run for all other commands."""

import os
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from medarts.comparison.candidates import check_comparable, group_runs
from medarts.engine.directory import RunDirectory
from medarts.engine.engine import Job
from medarts.pruning import selection
from medarts.pruning.record import read_record
from medarts.training.trainer import Training

Medarts = Callable[..., tuple[int, str, str]]
SETTINGS = (
    "data.size=32", "train.epochs=1", "train.batch=4", "train.model.width=4", "train.model.depth=2",
    "evaluation.bootstrap=100", "compute.device=cpu", "compute.threads=1",
)  # fmt: skip


@pytest.fixture
def trained(folder_data: Path, medarts: Medarts) -> Path:
    """A trained U-Net on images on disk."""
    status, out, error = medarts("train", *SETTINGS, "--model", "unet", "--data", folder_data)
    assert status == 0, error
    return Path(out.strip())


def test_a_pruned_network_is_a_run_for_other_commands(trained: Path, folder_data: Path, medarts: Medarts) -> None:
    status, out, error = medarts("prune", trained, "--method", "l1", "--keep-flops", "0.6")
    assert status == 0, error
    pruned = Path("runs/unet-blobs-l1-60")
    assert out.splitlines()[-1] == str(pruned)
    assert [word for word in ("before", "after the cut", "fine-tuned") if word not in out] == []
    assert "Cut to" in error
    assert f"  medarts compare {trained} {pruned}\n" in out
    commands = [line.split()[1:] for line in out.splitlines() if line.startswith("  medarts")]
    assert [words[0] for words in commands] == ["evaluate", "compare", "export"]
    check_comparable(group_runs([trained, pruned]))
    for words in (
        ["evaluate", pruned],
        ["cost", pruned, "--repeats", "0"],
        ["predict", pruned, folder_data / "images/blob_00.png", "--out", "masks"],
        ["pack", pruned, "--out", "small.medarts"],
        ["evaluate", "small.medarts", "--data", folder_data],
        ["train", "--from", pruned, "train.epochs=1", "--out", "runs/tuned"],
        ["prune", "runs/tuned", "--keep-channels", "0.8", "--data", folder_data, "--out", "runs/further"],
    ):
        status, _, error = medarts(*words)
        assert status == 0, (words, error)


def test_a_network_is_cut_until_the_exported_one_is_fast_enough(
    folder_data: Path, medarts: Medarts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut as far as it can be it takes a fifth of its time, so the target is met however busy the machine is."""
    monkeypatch.setattr(selection, "MOST_EXPORTS", 2)
    settings = ("--model", "unet", "--data", folder_data, "train.model.width=48", "data.size=64", "--out", "whole")
    status, _, error = medarts("train", *SETTINGS, *settings)
    assert status == 0, error
    status, out, error = medarts("prune", "whole", "--method", "l1", "--keep-latency", "0.7", "--out", "small")
    assert status == 0, error
    record = read_record(RunDirectory(Path("small")))
    latency = record.last.latency
    assert latency is not None
    assert (latency.threads, latency.size, record.size.flops > record.last.size.flops) == (1, 64, True)
    assert record.last.kept == latency.share <= 0.7
    words = f"{latency.cut_ms:.3g} of {latency.before_ms:.3g} ms"
    assert f"Latency in ONNX Runtime: {words}" in " ".join(out.split())
    assert words in error


def test_the_command_of_the_message_goes_on(trained: Path, medarts: Medarts, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Job._step

    def asked(job: Job) -> None:
        step(job)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "_step", asked)
        asked_for = ("prune.method={name: slim, strength: 0.1}", "note=a b", "--keep-flops", 0.6)
        status, out, error = medarts("prune", trained, *asked_for)
    assert (status, out) == (130, "")
    said, command = error.splitlines()[-1].split(" Resume with: ")
    assert said == "Stopped; runs/unet-blobs-slim-60/steps/1-sparse is saved."
    status, out, error = medarts(*shlex.split(command)[1:])
    assert status == 0, error
    assert out.splitlines()[-1] == "runs/unet-blobs-slim-60"
    status, out, error = medarts(*shlex.split(command)[1:])
    assert (status, "runs/unet-blobs-slim-60 is finished already." in error) == (0, True)


def test_data_that_are_gone_or_have_changed(
    trained: Path, folder_data: Path, medarts: Medarts, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("prune", trained, "--method", "slim", "--keep-flops", "0.6")
    step = Job._step

    def asked(job: Job) -> None:
        step(job)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "_step", asked)
        assert medarts(*command)[0] == 130
    moved = folder_data.rename(folder_data.with_name("moved"))
    moving = f"medarts train --resume {trained} data.sources.0.path=NEW"
    for words in (command, (*command, "--out", "new")):
        status, _, error = medarts(*words)
        assert status == 1
        assert error.splitlines()[-1].endswith(f"which held the data of {trained}. If the data moved: {moving}.")
    assert not Path("new").exists()
    assert medarts("train", "--resume", trained, f"data.sources.0.path={moved}")[0] == 0
    other = shutil.copytree(moved, moved.with_name("other"))
    Image.new("L", (32, 32), 255).save(moved / "masks" / "blob_03.png")
    for words in (command, (*command, "--out", "new")):
        status, _, error = medarts(*words)
        assert status == 1
        assert (
            f"The data of {trained if 'new' in words else 'runs/unet-blobs-slim-60/steps/1-sparse'} have changed"
            in error
        )
    moved.rename(moved.with_name("changed"))
    status, _, error = medarts(*command, f"data.sources.0.path={other}")
    assert status == 0, error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "is kept is not given. Give keep_flops=0.5 (--keep-flops 0.5 on the command line)"),
        (("--keep-flops", "0.5", "--keep-latency", "0.5"), "prune.keep: flops and latency are given; give one of them"),
        (("--keep-flops", "0.5", "--method", "taylr"), "Did you mean 'taylor'?"),
        (("--keep-flops", "0.5", "--steps", "0"), "prune.steps"),
        (("--keep-flops", "0.5", "--keep-flops", "0.6"), "--keep-flops is given twice"),
        (("--keep-flops", "0.5", "--out", "runs/unet-blobs/small"), "lies in the run that is pruned"),
        (("--keep-flops", "0.5", "prune.methd=l1"), "prune.methd is not a key of a recipe. Did you mean 'method'?"),
    ],
)
def test_what_cannot_work(
    trained: Path, medarts: Medarts, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(Training, "step", lambda job: pytest.fail("it trains"))
    status, out, error = medarts("prune", trained, *words)
    assert (status, out) == (1, "")
    assert message in error
    assert len(error.splitlines()) == 1
    assert {path.name for path in Path("runs").iterdir()} == {trained.name}


def test_a_recipe_can_say_how_a_run_is_pruned(trained: Path, medarts: Medarts) -> None:
    status, _, error = medarts("prune", trained, "prune.keep.parameters=0.7", "prune.method=fpgm", "--out", "first")
    assert status == 0, error
    status, _, error = medarts("prune", "first", "--method", "taylor", "prune.method.batches=2", "--out", "second")
    assert status == 0, error
    recipe = Path("second/recipe.yaml").read_text()
    assert "batches: 2" in recipe
    assert "parameters: 0.7" in recipe  # as before, where it is not given
    status, _, error = medarts("train", "--resume", "second", "prune.steps=2")
    assert (status, "A started run cannot change prune.steps: 1 -> 2." in error) == (1, True)
