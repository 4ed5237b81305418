"""Training from scratch: it learns, keeps its best, stops early, and goes on to the same bytes after kill -9."""

import html
import json
import multiprocessing
import re
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from medarts import terminal
from medarts.config import Recipe, apply_overrides, parse, to_yaml
from medarts.engine import checkpoint, engine
from medarts.engine.directory import RunDirectory
from medarts.errors import DataError, DivergedError, GenotypeError, RecipeError, RunError
from medarts.models import network_of
from medarts.reporting.page import write_report
from medarts.spaces.genotype import Genotype, load_genotype
from medarts.spaces.nas_wdan import NasWdan
from medarts.spaces.nas_wdan.network import NasWdanNetwork
from medarts.system.memory import OutOfMemoryError
from medarts.system.randomness import seed_torch
from medarts.tasks import SegmentationTask
from medarts.training.rising import rising_line
from medarts.training.trained import load_network
from medarts.training.trainer import Training, resume_training, start_training

# Run in a process of its own, with `recipe`, `genotype` and `out` given.
KILLED_AT_A_STEP = """
import os, signal
from medarts.training.trainer import Training
from medarts.training.trainer import start_training

step = Training._step

def killed(job):
    step(job)
    if job.position == at:
        os.kill(os.getpid(), number)

Training._step = killed
start_training(recipe, genotype, out)
"""


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    """Two epochs of four steps."""
    return changed(small_recipe, "data.size=16")


@pytest.fixture
def genotype(recipe: Recipe) -> Genotype:
    return derived(recipe)


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


def derived(recipe: Recipe, *changes: str) -> Genotype:
    """Returns what is derived from an untrained supernet."""
    recipe = changed(recipe, "space.intermediate_nodes=2", *changes)
    seed_torch(0, "genotype")
    supernet = NasWdan(recipe.space, in_channels=3, outputs=1).supernet(recipe.search.stages[0], None)
    return supernet.derive(recipe.derive, name="small", provenance={})


def derived_weights(recipe: Recipe, genotype: Genotype) -> dict[str, torch.Tensor]:
    """Returns the weights a training begins with."""
    seed_torch(recipe.seed, "network")
    return NasWdanNetwork(genotype, in_channels=3, outputs=1).state_dict()


def records(run: RunDirectory) -> list[dict]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def patch_scores(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Makes validation report these scores, epoch by epoch."""
    validate, coming = SegmentationTask.validate, iter(scores)

    def scored(task, forward, batches):
        return validate(task, forward, batches) | {"val_dice": next(coming)}

    monkeypatch.setattr(SegmentationTask, "validate", scored)


def run_in_process(script: str, **names: object) -> int | None:
    """Runs a script in a process of its own, and returns its exit status."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medarts.training.trainer"])  # children have it imported
    process = context.Process(target=exec, args=(script, names))
    process.start()
    process.join(timeout=60)
    return process.exitcode


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_equal_runs(run: Path, other: Path) -> None:
    for name in ("metrics.jsonl", "genotype.json", "summary.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    assert files(run / "checkpoints") == files(other / "checkpoints")  # names and bytes, state and averages too
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in other.iterdir())


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ((), signal.SIGKILL),
        (("optimizer=adamw", "ema=0.9", "warmup_epochs=1", "mixing.alpha=0.4", "mixing.images=3"), signal.SIGKILL),
        (("schedule=plateau", "plateau_epochs=1", "lr=1e-9", "lr_min=0"), signal.SIGKILL),
        (("accumulate=3", "mixing.alpha=0.4"), signal.SIGKILL),
        (("norm=batch", "ema=0.9"), signal.SIGKILL),
        (("data.resize=patches", "data.size=16", "data.sampling={foreground: 0.4}", "accumulate=2"), signal.SIGKILL),
        (("optimizer=adamw", "ema=0.9"), signal.SIGINT),
    ],
    ids=["sgd-cosine", "adamw-ema", "plateau", "parts", "batch-norm-ema", "patches", "control-c"],
)
def test_resumed_equals_uninterrupted(recipe, tmp_path, changes, number):
    prefixes = ("" if change.startswith("data.") else "train." for change in changes)
    recipe = changed(recipe, "train.epochs=4", *map("".join, zip(prefixes, changes, strict=True)))
    genotype = derived(recipe, "space.dropout_prob=0.2")
    out = tmp_path / "broken" / "run"
    status = run_in_process(KILLED_AT_A_STEP, recipe=recipe, genotype=genotype, out=out, at=(2, 3), number=int(number))
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 1)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    step = checkpoint.load(out / "checkpoints", "last").state["loop"]["step"]
    assert step == (0 if number == signal.SIGKILL else 3)

    whole = start_training(recipe, genotype, tmp_path / "whole" / "run")
    if recipe.train.schedule == "plateau":  # so low a rate never improves the score: halved before the end
        assert checkpoint.load(whole.checkpoints, "last").state["loop"]["factor"] < 1
    assert_equal_runs(whole.path, resume_training(out).path)


def test_resuming_a_finished_training_changes_nothing(recipe, genotype, tmp_path):
    run = start_training(recipe, genotype, tmp_path / "run").path
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    resume_training(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_finished_training_can_get_more_epochs(recipe, genotype, tmp_path):
    run = start_training(recipe, genotype, tmp_path / "run")
    before = records(run)
    # As a kill leaves it that comes between the two files: the same command can be given again.
    (run.path / "recipe.yaml").write_text(to_yaml(changed(run.recipe, "train.epochs=4")))
    with pytest.raises(RunError, match=r"train\.epochs: 2 -> 4"):
        resume_training(run.path)
    resume_training(run.path, ["train.epochs=4"])
    after = records(run)
    assert after[:2] == before
    assert [record["epoch"] for record in after] == [0, 1, 2, 3]
    # The rate of an epoch's last step, 3/4 of the way through it, on the cosine of four epochs.
    assert [record["lr"] for record in after[2:]] == pytest.approx([0.00089664, 0.00004833], rel=1e-3)
    assert run.facts["finished"]
    assert [(each["field"], each["before"], each["after"]) for each in run.facts["changes"]] == [("train.epochs", 2, 4)]
    assert run.recipe.train.epochs == 4


def test_memory_that_runs_out(recipe, genotype, tmp_path, monkeypatch):
    """At once it leaves nothing; later a run that goes on; while validating it says so."""
    loss, calls = SegmentationTask.loss, []

    def fails(task, outputs, mixture):
        calls.append(0)
        if len(calls) > spared:
            raise MemoryError
        return loss(task, outputs, mixture)

    recipe = changed(recipe, "train.loss=bce_dice")
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "loss", fails)
        patch.setattr(SegmentationTask, "validate", lambda task, model, batches: {"val_loss": 1.0, "val_dice": 0.1})
        spared = 2
        with pytest.raises(OutOfMemoryError, match=r"during training with 1 image at a time\. Use smaller images"):
            start_training(recipe, genotype, tmp_path / "none")
        assert not (tmp_path / "none").exists()
        calls.clear()
        spared = 6
        with pytest.raises(OutOfMemoryError):
            start_training(recipe, genotype, tmp_path / "run")
    run = resume_training(tmp_path / "run", ["train.accumulate=4"])
    assert [record["epoch"] for record in records(run)] == [0, 1]
    assert run.facts["changes"][0]["position"] == [1, 0]

    def validation_fails(task, model, batches):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes.")

    monkeypatch.setattr(SegmentationTask, "validate", validation_fails)
    with pytest.raises(OutOfMemoryError, match=r"during the validation with 1 image at a time\. Use smaller images"):
        start_training(recipe, genotype, tmp_path / "validation")
    assert not (tmp_path / "validation").exists()


def test_scores_of_weights_that_are_no_longer_there_go(recipe, genotype, tmp_path, monkeypatch, capsys):
    patch_scores(monkeypatch, [0.3, 0.2, 0.6, 0.5])
    run = start_training(recipe, genotype, tmp_path / "run")
    (run.path / "scores" / "test").mkdir(parents=True)
    resume_training(run.path)  # it has finished: nothing is new
    assert (run.path / "scores" / "test").exists()
    resume_training(run.path, ["train.epochs=4"])
    assert not (run.path / "scores").exists()
    assert "Evaluate again" in capsys.readouterr().err


def test_a_long_epoch_and_a_resumed_run_are_told_in_lines(recipe, genotype, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine, "SECONDS_A_LINE", 0.0)
    monkeypatch.setattr(engine, "LEAST_LEFT", 0.0)
    run = start_training(changed(recipe, "train.epochs=1"), genotype, tmp_path / "run")
    lines = capsys.readouterr().err.splitlines()
    steps = [
        line for line in lines if re.match(r"train epoch 1/1: step \d of 4, loss \d\.\d{3}, the epoch about ", line)
    ]
    assert len(steps) == 4
    assert not any("resumes" in line for line in lines)
    monkeypatch.setattr(engine, "SECONDS_A_LINE", 30.0)
    resume_training(run.path, ["train.epochs=2"])
    lines = capsys.readouterr().err.splitlines()
    assert "train resumes in epoch 2 of 2." in lines
    assert not any(": step " in line for line in lines)
    resume_training(run.path)  # which has finished
    assert "resumes" not in capsys.readouterr().err


def test_a_training_that_ends_while_it_rises_says_so(recipe, genotype, tmp_path, monkeypatch, capsys):
    patch_scores(monkeypatch, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.61, 0.6, 0.61, 0.61, 0.61, 0.61])
    path = tmp_path / "a run"
    run = start_training(changed(recipe, "train.epochs=6"), genotype, path)
    told = f"still rising at the end. More epochs: medarts train --resume '{path}' train.epochs=12"
    told = f"The validation score was {told}"
    assert rising_line(run) == told
    terminal.show_training(run)
    assert told in capsys.readouterr().err
    assert told in html.unescape(write_report(path).read_text(encoding="utf-8"))
    longer = resume_training(path, ["train.epochs=12"])
    assert rising_line(longer) is None
    terminal.show_training(longer)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_training_on_a_gpu_can_be_resumed(recipe, genotype, tmp_path, precision):
    """The state of the optimizer must come back to the device of the weights."""
    recipe = changed(recipe, "compute.device=cuda", f"compute.precision={precision}", "train.ema=0.9")
    script, out = KILLED_AT_A_STEP, tmp_path / "run"
    run_in_process(script, recipe=recipe, genotype=genotype, out=out, at=(1, 2), number=int(signal.SIGKILL))
    assert len(records(resume_training(out))) == 2


def test_a_step_in_parts_is_the_step_of_the_whole_batch(recipe, genotype, tmp_path, exact):
    """Also where the parts are uneven. Images are normalised one by one, so nothing but rounding may differ."""
    recipe = changed(recipe, "train.batch=6", "train.mixing={alpha: 0.4, images: 3}", "train.epochs=1")
    seen = {}
    for parts in (1, 2, 4, 6):
        run = start_training(changed(recipe, f"train.accumulate={parts}"), genotype, tmp_path / str(parts))
        seen[parts] = (records(run)[0]["train_loss"], checkpoint.load(run.checkpoints, "last").weights)
    loss, weights = seen.pop(1)
    assert weights["frame.stem.0.0.weight"].dtype == torch.float64
    for parts, (other_loss, others) in seen.items():
        assert other_loss == pytest.approx(loss, rel=1e-12), parts
        for name, tensor in weights.items():
            torch.testing.assert_close(others[name], tensor, rtol=0, atol=1e-10)
    initial = derived_weights(recipe, genotype)
    assert (weights["frame.stem.0.0.weight"] - initial["frame.stem.0.0.weight"]).abs().max() > 1e-4


def test_best_checkpoint_is_the_best_epochs(recipe, genotype, tmp_path, monkeypatch):
    patch_scores(monkeypatch, [0.3, 0.6, 0.6, 0.5])
    weights, end = [], Training.end_epoch

    def ended(job, values):
        weights.append({name: tensor.clone() for name, tensor in job.network.state_dict().items()})
        end(job, values)

    monkeypatch.setattr(Training, "end_epoch", ended)
    run = start_training(changed(recipe, "train.epochs=4"), genotype, tmp_path / "run")
    assert run.read_json("summary.json") == {
        "best_epoch": 1,
        "score": "dice",
        "best_score": 0.6,
    }  # the first of two equals
    best = checkpoint.load(run.checkpoints, "best")
    assert best.state["epoch"] == 1
    for name, tensor in best.weights.items():
        assert torch.equal(tensor, weights[1][name])
    assert not torch.equal(best.weights["frame.stem.0.0.weight"], weights[3]["frame.stem.0.0.weight"])
    loaded = load_network(run).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in best.weights.items())


def test_early_stop(recipe, genotype, tmp_path, monkeypatch):
    patch_scores(monkeypatch, [0.3, 0.6, 0.5, 0.59, 0.9])
    run = start_training(changed(recipe, "train.epochs=9", "train.patience=2"), genotype, tmp_path / "run")
    assert [record["epoch"] for record in records(run)] == [0, 1, 2, 3]
    assert run.facts["finished"]
    resume_training(run.path)
    assert len(records(run)) == 4


def test_plateau_halves_the_learning_rate(recipe, genotype, tmp_path, monkeypatch):
    patch_scores(monkeypatch, [0.5, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5, 0.5])
    changes = (
        "train.epochs=8",
        "train.schedule=plateau",
        "train.plateau_epochs=2",
        "train.lr=0.01",
        "train.lr_min=0.003",
    )
    run = start_training(changed(recipe, *changes), genotype, tmp_path / "run")
    assert [record["lr"] for record in records(run)] == pytest.approx([0.01] * 3 + [0.005] * 3 + [0.003] * 2)


def test_cosine_with_warmup(recipe, genotype, tmp_path):
    changes = ("train.epochs=3", "train.warmup_epochs=1", "train.lr=0.01", "train.lr_min=0.001")
    run = start_training(changed(recipe, *changes), genotype, tmp_path / "run")
    # The rate of an epoch's last step, 3/4 of the way through it: linear first, then the cosine of two epochs.
    expected = [0.01 * (0.1 + 0.9 * 0.75), 0.0072222, 0.0013425]
    assert [record["lr"] for record in records(run)] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_moving_average_is_validated_and_kept(recipe, genotype, tmp_path, monkeypatch, norm):
    """Weights, and the running statistics of batch norms, which must fit them."""
    seen, step, validate = [], Training._step, SegmentationTask.validate
    validated = []

    def noted_step(job):
        step(job)
        seen.append({name: tensor.clone() for name, tensor in job.network.state_dict().items()})

    def noted_validate(task, forward, batches):
        validated.append({name: tensor.clone() for name, tensor in forward.module.state_dict().items()})
        return validate(task, forward, batches)

    monkeypatch.setattr(Training, "_step", noted_step)
    monkeypatch.setattr(SegmentationTask, "validate", noted_validate)
    changes = ("train.epochs=1", "train.ema=0.6", f"train.norm={norm}")
    run = start_training(changed(recipe, *changes), genotype, tmp_path / "run")
    statistics = ["frame.stem.0.1.running_mean", "frame.stem.0.1.running_var"] if norm == "batch" else []
    for name in ("frame.stem.0.0.weight", *statistics):
        average = seen[0][name]
        for number, tensors in enumerate(seen[1:], 1):
            decay = min(0.6, (1 + number) / (10 + number))
            average = decay * average + (1 - decay) * tensors[name]
        torch.testing.assert_close(validated[0][name], average, rtol=1e-5, atol=1e-7)
        assert not torch.allclose(average, seen[-1][name], rtol=1e-3, atol=1e-5)
        assert torch.equal(checkpoint.load(run.checkpoints, "best").weights[name], validated[0][name])
        assert torch.equal(checkpoint.load(run.checkpoints, "last").weights[name], seen[-1][name])
    if norm == "batch":
        assert validated[0]["frame.stem.0.1.num_batches_tracked"] == len(seen)


def test_the_moving_average_leaves_the_random_weights_behind(recipe, genotype, tmp_path):
    """Whatever the decay: with a constant 0.999 it would still be at the start after these 32 steps."""
    changes = ("train.norm=batch", "train.epochs=8", "train.optimizer=adamw", "train.lr=0.01", "train.ema=0.999")
    recipe = changed(recipe, *changes)
    run = start_training(recipe, genotype, tmp_path / "run")
    point = checkpoint.load(run.checkpoints, "last")
    seed_torch(recipe.seed, "network")
    start = network_of(recipe, genotype).state_dict()
    names = [name for name, tensor in start.items() if name.endswith("weight") and tensor.dim() == 4]
    gone = sum((point.weights[name] - start[name]).norm() for name in names)
    behind = sum((point.weights[name] - point.state["averaged"][f"module.{name}"]).norm() for name in names)
    assert behind < 0.25 * gone
    losses = [record["val_loss"] for record in records(run)]
    assert losses[-1] < 0.8 * losses[0]


def test_the_form_for_training_leads_where_the_network_as_built_does(recipe, genotype, tmp_path, monkeypatch):
    """Up to rounding, which shows that it was the form that ran."""
    recipe = changed(recipe, "train.epochs=1", "train.norm=batch", "train.optimizer=sgd", "train.ema=0.6")
    formed = start_training(recipe, genotype, tmp_path / "formed")
    monkeypatch.setattr(NasWdanNetwork, "training_form", lambda network: network)
    built = start_training(recipe, genotype, tmp_path / "built")
    points = [checkpoint.load(run.checkpoints, "last") for run in (formed, built)]
    assert points[0].weights.keys() == points[1].weights.keys()
    for name, tensor in points[1].weights.items():
        torch.testing.assert_close(points[0].weights[name], tensor, rtol=1e-4, atol=1e-5)
    assert not all(torch.equal(tensor, points[0].weights[name]) for name, tensor in points[1].weights.items())
    assert records(formed)[0]["train_loss"] == pytest.approx(records(built)[0]["train_loss"], rel=1e-5)


def test_batch_norm_is_part_of_the_run(recipe, genotype, tmp_path):
    """Training moves the running statistics, and whoever opens the run finds them."""
    run = start_training(changed(recipe, "train.epochs=1", "train.norm=batch"), genotype, tmp_path / "run")
    network = load_network(run)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms
    assert not any(isinstance(part, nn.GroupNorm) for part in network.modules())
    assert all(norm.num_batches_tracked == 4 for norm in norms)
    assert not torch.equal(norms[0].running_mean, torch.zeros_like(norms[0].running_mean))
    assert records(run)[0]["val_loss"] > 0


def test_deep_supervision_off_uses_the_last_head_alone(recipe, tmp_path, monkeypatch):
    heads, loss = set(), SegmentationTask.loss

    def counted(task, outputs, mixture):
        heads.add(len(outputs))
        return loss(task, outputs, mixture)

    monkeypatch.setattr(SegmentationTask, "loss", counted)
    recipe = changed(recipe, "train.epochs=1")
    start_training(recipe, derived(recipe, "space.deep_supervision=true"), tmp_path / "many")
    assert heads == {2}  # (2, 0) and (4, 0) of a lattice of depth 3
    heads.clear()
    run = start_training(recipe, derived(recipe, "space.deep_supervision=false"), tmp_path / "one")
    assert heads == {1}
    assert load_network(run).heads == ("4,0",)


def test_a_network_overfits_a_few_images(recipe, folder_data, tmp_path):
    rows = (folder_data / "splits.csv").read_text().splitlines()
    few = [row.replace(",train", ",gap") if number > 8 else row for number, row in enumerate(rows)]
    (folder_data / "splits.csv").write_text("\n".join(few) + "\n")
    plain = "{flip: false, transpose: false, brightness: 0}"
    changes = ("train.epochs=25", "train.optimizer=adamw", "train.lr=0.01", f"data.augmentation={plain}")
    recipe = changed(recipe, *changes)
    run = start_training(recipe, derived(recipe, "space.init_channel=8"), tmp_path / "run")
    losses = [record["train_loss"] for record in records(run)]
    assert losses[-1] < 0.2 * losses[0]
    assert max(record["val_dice"] for record in records(run)) > 0.85  # a disc is a disc


def test_diverged_training_keeps_the_last_good_checkpoint(recipe, genotype, tmp_path, monkeypatch):
    loss, calls = SegmentationTask.loss, []

    def poisoned(task, outputs, mixture):
        calls.append(torch.is_grad_enabled())
        return loss(task, outputs, mixture) * (float("inf") if sum(calls) == 7 else 1.0)

    monkeypatch.setattr(SegmentationTask, "loss", poisoned)
    with pytest.raises(DivergedError, match=r"training loss inf is not finite at epoch 1, step 2\."):
        start_training(recipe, genotype, tmp_path / "run")
    point = checkpoint.load(tmp_path / "run" / "checkpoints", "last")
    assert (point.state["loop"]["epoch"], point.state["loop"]["step"]) == (1, 0)
    assert all(torch.isfinite(tensor).all() for tensor in point.weights.values())


def test_what_does_not_fit_leaves_nothing_behind(recipe, genotype, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(DataError, match=r"training set are 18, fewer than a batch of 19"):
        start_training(changed(recipe, "train.batch=19"), genotype, out)
    with pytest.raises(RecipeError, match=r"size 40 cannot be halved 4 times.*Use 32 or 48"):
        start_training(changed(recipe, "data.size=40"), derived(recipe, "search.stages.0.depth=4"), out)
    single = ("train.norm=batch", "train.batch=3", "train.accumulate=2", "data.size=32")
    with pytest.raises(RecipeError, match=r"train\.batch 3 in 2 parts and data\.size 32 a norm of the network"):
        start_training(changed(recipe, *single), derived(recipe, "search.stages.0.depth=5"), out)
    with pytest.raises(GenotypeError, match=r"of the unknown space 'other'"):
        start_training(recipe, Genotype("a", "other", {}, {}), out)
    with pytest.raises(RecipeError, match=r"chestxray14_first_order is a network for classification, but the data"):
        start_training(recipe, load_genotype("chestxray14_first_order"), out)
    assert not out.exists()


def test_a_search_run_is_not_resumed_as_a_training(recipe, tmp_path):
    RunDirectory.create(tmp_path / "run", recipe, kind="search", data_fingerprint="")
    with pytest.raises(RunError, match=r"run is a search run\. Give a train run"):
        resume_training(tmp_path / "run")


def test_changed_data_are_refused(recipe, genotype, folder_data, tmp_path):
    run = start_training(recipe, genotype, tmp_path / "run")
    Image.new("RGB", (32, 32)).save(folder_data / "images" / "blob_03.png")
    with pytest.raises(RunError, match=r"data of .*run have changed"):
        resume_training(run.path)


def test_the_genotype_is_kept_with_the_run(recipe, genotype, tmp_path):
    run = start_training(changed(recipe, "train.epochs=1"), genotype, tmp_path / "run")
    assert load_genotype(run.path) == genotype
