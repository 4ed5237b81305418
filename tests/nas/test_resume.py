"""A search that was killed, stopped or has diverged goes on to the same bytes as one that was left alone."""

import multiprocessing
import signal
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from medarts.config import Recipe, apply_overrides, fingerprint, parse
from medarts.engine import checkpoint
from medarts.engine.directory import RunDirectory
from medarts.errors import DataError, DivergedError, RunError
from medarts.nas.search import Search, resume_search, start_search
from medarts.system.memory import OutOfMemoryError
from medarts.tasks import SegmentationTask

# Run in a process of its own, with `recipe` and `out` given.
SIGNALLED_AT_A_STEP = """
import os
from medarts.nas.search import start_search
from medarts.nas.search import Search

step = Search._step

def signalled(job):
    step(job)
    if job.position == at:
        os.kill(os.getpid(), number)

Search._step = signalled
start_search(recipe, out)
"""

KILLED_IN_A_SAVE = """
import os, signal
import torch
from medarts.nas.search import start_search

save, saves = torch.save, []

def killed(state, file):
    saves.append(file)
    if len(saves) == number:
        file.write(b"the first bytes of a st")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(state, file)

torch.save = killed
start_search(recipe, out)
"""


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    """Two stages of two epochs of two steps."""
    return changed(small_recipe, "data.size=16", "space.intermediate_nodes=1")


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


def run_in_process(script: str, **names: object) -> int | None:
    """Runs a script in a process of its own, and returns its exit status."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medarts.nas.search"])  # each child is forked from a process that has it imported
    process = context.Process(target=exec, args=(script, names))
    process.start()
    process.join(timeout=60)
    return process.exitcode


_WHOLE: dict[str, Path] = {}


def whole(recipe: Recipe, tmp_path: Path) -> Path:
    """Returns a search that was left alone; tests of one recipe share it, as their data are equal."""
    key = fingerprint(recipe)
    if key not in _WHOLE:
        _WHOLE[key] = start_search(recipe, tmp_path / "whole" / "run").path
    return _WHOLE[key]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_equal_runs(run: Path, other: Path) -> None:
    for name in ("metrics.jsonl", "architecture.jsonl", "genotype.json", "summary.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    assert files(run / "checkpoints") == files(other / "checkpoints")  # names and bytes, state and optimizers too
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in other.iterdir())
    point = checkpoint.load(other / "checkpoints", "last")
    assert {name for name in point.weights if name.startswith(("alphas", "betas"))}
    assert RunDirectory.open(other).facts["finished"]


# In the second the alphas move in every epoch, so that their optimizer has something to remember.
@pytest.mark.parametrize(
    "changes",
    [
        (),
        (
            "search.arch_after=0",
            "space.dropout_prob=0.3",
            "search.mixing.images=3",
            "search.regularizers=[beta_decay]",
        ),
        ("search.arch_after=0", "space.dropout_prob=0.3", "search.stages.1.accumulate=3"),
        ("search.arch_after=0", "space.dropout_prob=0.3", "search.gradient=second_order"),
        ("search.arch_after=0", "search.relaxation=gumbel", "search.stages.1.accumulate=2"),
        (
            "search.arch_after=0",
            "search.relaxation=dirichlet",
            "search.perturbation=0.1",
            "search.supernet={auxiliary_skip: 1.0, skip_dropout: 0.5}",
            "search.regularizers=[path_entropy, dirichlet_kl]",
        ),
    ],
    ids=["plain", "random", "parts", "second order", "gumbel", "dirichlet"],
)
def test_killed_in_the_middle_of_an_epoch(recipe, tmp_path, changes):
    recipe, out = changed(recipe, *changes), tmp_path / "killed" / "run"
    status = run_in_process(SIGNALLED_AT_A_STEP, recipe=recipe, out=out, at=(1, 1, 1), number=signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3
    assert not RunDirectory.open(out).facts["finished"]

    assert_equal_runs(whole(recipe, tmp_path), resume_search(out).path)


@pytest.mark.parametrize("gradient", ["first_order", "second_order"])
def test_a_search_of_findings_killed_in_the_middle_of_an_epoch(finding_recipe, tmp_path, gradient):
    recipe, out = changed(finding_recipe, f"search.gradient={gradient}"), tmp_path / "killed" / "run"
    status = run_in_process(SIGNALLED_AT_A_STEP, recipe=recipe, out=out, at=(0, 1, 1), number=signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1

    assert_equal_runs(whole(recipe, tmp_path), resume_search(out).path)


@pytest.mark.parametrize("number", [1, 3, 5])  # the first, that of a stage's end, the last epoch's
def test_killed_in_the_middle_of_writing_a_checkpoint(recipe, tmp_path, number):
    out = tmp_path / "killed" / "run"
    assert run_in_process(KILLED_IN_A_SAVE, recipe=recipe, out=out, number=number) == -signal.SIGKILL
    assert checkpoint.newest(out / "checkpoints", "last") == {1: None, 3: (0, 2, 0), 5: (1, 1, 0)}[number]

    assert_equal_runs(whole(recipe, tmp_path), resume_search(out).path)
    assert not list((out / "checkpoints").glob(".unfinished*"))


def test_stopped_by_control_c(recipe, tmp_path):
    out = tmp_path / "stopped" / "run"
    status = run_in_process(SIGNALLED_AT_A_STEP, recipe=recipe, out=out, at=(1, 0, 1), number=signal.SIGINT)
    assert status == 1  # of the InterruptedRunError that nobody caught; what the command makes of it is in test_cli
    point = checkpoint.load(out / "checkpoints", "last")
    assert [point.state["loop"][name] for name in ("stage", "epoch", "step")] == [1, 0, 1]

    assert_equal_runs(whole(recipe, tmp_path), resume_search(out).path)


def test_killed_before_the_summary_was_written(recipe, tmp_path, monkeypatch):
    """Between the last checkpoint and the files that follow it nothing may get lost."""
    write_json = RunDirectory.write_json

    def killed(run, name, content):
        if name == "summary.json" and len(content["stages"]) == 2:
            raise KeyboardInterrupt
        write_json(run, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            start_search(recipe, tmp_path / "killed" / "run")
    assert_equal_runs(whole(recipe, tmp_path), resume_search(tmp_path / "killed" / "run").path)


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
    assert point.state["loop"]["epoch"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in point.weights.values())

    assert_equal_runs(whole(recipe, tmp_path), resume_search(run).path)  # the poison was no part of the run


def test_resuming_a_finished_search_changes_nothing(recipe, tmp_path):
    run = start_search(recipe, tmp_path / "run").path
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    resume_search(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_changed_data_are_refused(recipe, folder_data, tmp_path, monkeypatch):
    def stop(job):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medarts.nas.search.Search.end_stage", stop)
        with pytest.raises(KeyboardInterrupt):
            start_search(recipe, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    table = folder_data / "splits.csv"
    table.write_text(table.read_text().replace("p0,train", "p0,val"))
    with pytest.raises(RunError, match=r"data of .*run have changed"):
        resume_search(tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def stopped(recipe: Recipe, out: Path, monkeypatch: pytest.MonkeyPatch, *, at: tuple[int, int]) -> Path:
    """Returns a search that was killed at the end of an epoch, which is not saved."""

    def noted(job, values):
        if (job.state.stage, job.state.epoch) == at:
            raise KeyboardInterrupt
        return journals(job, values)

    journals = Search.journals
    with monkeypatch.context() as patch:
        patch.setattr(Search, "journals", noted)
        with pytest.raises(KeyboardInterrupt):
            start_search(recipe, out)
    return out


def test_data_that_were_moved_are_found_at_their_new_place(recipe, folder_data, tmp_path, monkeypatch):
    expected = whole(recipe, tmp_path)
    run = stopped(recipe, tmp_path / "moved" / "run", monkeypatch, at=(1, 0))
    new = folder_data.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"There is no folder .*blobs, which held the data of") as caught:
        resume_search(run)
    assert caught.value.fix == f"If the data moved: medarts search --resume {run} data.sources.0.path=NEW."
    resumed = resume_search(run, [f"data.sources.0.path={new}"])
    assert_equal_runs(expected, run)
    assert resumed.recipe.data.sources[0].path == new
    assert str(new) in (run / "manifest.csv").read_text()
    (change,) = resumed.facts["changes"]
    assert (change["field"], change["after"], change["position"]) == ("data.sources.0.path", str(new), [1, 0, 0])


def test_moved_data_with_other_content_are_refused(recipe, folder_data, tmp_path, monkeypatch):
    run = stopped(recipe, tmp_path / "run", monkeypatch, at=(0, 1))
    new = folder_data.rename(tmp_path / "elsewhere")
    Image.new("L", (32, 32), 255).save(new / "masks" / "blob_03.png")
    before = files(run)
    monkeypatch.setattr("medarts.nas.search.open_store", lambda *_, **__: pytest.fail("it reads the images"))
    changed = r"data of .*run have changed since it began \(1 file has other contents: .*elsewhere/masks/blob_03\.png\)"
    with pytest.raises(RunError, match=changed):
        resume_search(run, [f"data.sources.0.path={new}"])
    assert files(run) == before


def test_a_damaged_checkpoint_falls_back_to_the_same_end(recipe, tmp_path, monkeypatch, capsys):
    expected = whole(recipe, tmp_path)
    run = stopped(recipe, tmp_path / "damaged" / "run", monkeypatch, at=(1, 1))
    weights = run / "checkpoints" / "last-000001-000001-000000" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-40:] = bytes(byte ^ 1 for byte in content[-40:])
    weights.write_bytes(content)
    resume_search(run)
    assert_equal_runs(expected, run)
    said = capsys.readouterr().err
    assert said.count("is damaged; the run resumes from the one before") == 1


@pytest.mark.parametrize("finished", [False, True])
def test_a_search_can_get_a_longer_last_stage(recipe, tmp_path, monkeypatch, capsys, finished):
    out = tmp_path / "run"
    if finished:
        start_search(recipe, out)
    else:
        stopped(recipe, out, monkeypatch, at=(1, 1))
    run = resume_search(out, ["search.stages.1.epochs=3"])
    epochs = [(record["stage"], record["epoch"]) for record in run.read_journal("metrics.jsonl")]
    assert epochs == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert len(run.read_json("summary.json")["stages"]) == 2
    assert run.facts["finished"]
    assert run.facts["changes"][0]["position"] == [1, 2 if finished else 1, 0]
    assert f"from epoch {3 if finished else 2} on the learning rate" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("change", [
    lambda state: state["loop"].update(age=3),
    lambda state: state["loop"].pop("gaps"),
    lambda state: state["loop"].pop("candidates"),
    lambda state: state.pop("journals"),
    lambda state: state.pop("digests"),
    lambda state: state.update(weight_optimizer={}),
])  # fmt: skip
def test_a_state_with_other_fields_is_named(recipe, tmp_path, monkeypatch, change):
    run = stopped(recipe, tmp_path / "run", monkeypatch, at=(1, 1))
    point = checkpoint.load(run / "checkpoints", "last")
    change(point.state)
    checkpoint.save(run / "checkpoints", "last", point, position=(1, 1, 0))
    with pytest.raises(RunError, match=r"last-000001-000001-000000 does not fit its run \(\w+Error") as caught:
        resume_search(run)
    assert "medarts that wrote it" in caught.value.fix


def test_memory_that_runs_out_at_once_leaves_the_folder_free(recipe, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "loss", fails)
        with pytest.raises(OutOfMemoryError, match="during the search with 1 image at a time") as caught:
            start_search(recipe, tmp_path / "new" / "run")
    assert "data.size" in caught.value.fix
    assert not (tmp_path / "new").exists()


def test_memory_that_runs_out_outside_of_the_batches_names_their_parts(recipe, tmp_path, monkeypatch):
    """As where the optimizer has none, which may have changed some weights by then: nothing is done again."""

    def fails(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    step = Search._step
    with monkeypatch.context() as patch:
        patch.setattr(Search, "_step", lambda job: fails() if job.position == (1, 1, 0) else step(job))
        with pytest.raises(OutOfMemoryError, match="Memory ran out during the search") as caught:
            start_search(recipe, tmp_path / "run")
    assert "search.stages.1.accumulate=2" in caught.value.fix
    assert "medarts plan RECIPE --memory-mb" in caught.value.fix
    run = resume_search(tmp_path / "run", ["search.stages.1.accumulate=2"])
    assert run.facts["finished"]
    assert run.recipe.search.stages[1].accumulate == 2


@pytest.mark.parametrize("size", ["held", "free"])
def test_two_searches_into_one_folder(recipe, tmp_path, monkeypatch, size):
    """The second is refused before it reads a single image; or after the first has ended."""
    out = tmp_path / "run"
    monkeypatch.setattr("medarts.nas.search.prepare_search", lambda recipe: pytest.fail("it has begun to work"))
    if size == "held":
        with RunDirectory.reserved(out, "search"):
            refused = refused_in_a_thread(recipe, out)
        assert "Another process is at work" in str(refused)
        assert not out.exists()
    else:
        RunDirectory.create(out, recipe, kind="search", data_fingerprint="")
        assert "already holds another run" in str(refused_in_a_thread(recipe, out))


def refused_in_a_thread(recipe: Recipe, out: Path) -> RunError:
    refused = []

    def work():
        try:
            start_search(recipe, out)
        except RunError as error:
            refused.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return refused[0]


def test_a_training_run_is_not_resumed_as_a_search(recipe, tmp_path):
    RunDirectory.create(tmp_path / "run", recipe, kind="train", data_fingerprint="")
    with pytest.raises(RunError, match=r"run is a train run\. Give a search run"):
        resume_search(tmp_path / "run")
    with pytest.raises(RunError, match="is not a run directory"):
        resume_search(tmp_path)
