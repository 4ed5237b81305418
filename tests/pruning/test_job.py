"""Pruning as a job: all methods end to end, steps, what is kept of them, and that it goes on where it was stopped."""

import copy
import json
import multiprocessing
import re
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

import medarts as library
from medarts.engine import checkpoint, directory
from medarts.engine.checkpoint import of_weights
from medarts.engine.directory import INITIAL_WEIGHTS, RunDirectory
from medarts.engine.engine import Job
from medarts.errors import DivergedError, MedartsError, RunError
from medarts.pruning import criteria
from medarts.pruning import job as pruning_job
from medarts.pruning.record import read_record
from medarts.pruning.sparse_training import SparseTraining
from medarts.reporting.page import write_report
from medarts.spaces.nas_wdan.lattice import all_paths, to_kept
from medarts.system import files as files_module
from medarts.system.files import read_whole
from medarts.system.process import InterruptedRunError
from medarts.tasks import SegmentationTask
from medarts.training.trained import load_network, trained_of
from medarts.training.trainer import Training

GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (16, 32, 32)).astype(np.uint8)
BINARY, SEVERAL = GREY > 128, np.digitize(GREY, (80, 160))
LABELS = np.stack([np.arange(16) % 2, np.arange(16) // 2 % 2], 1)
DATA = library.from_arrays(GREY, BINARY)
FINDINGS = library.from_arrays(GREY, LABELS)
RECIPE: dict[str, Any] = {
    "train": {"epochs": 2, "batch": 4, "lr": 0.1, "ema": 0.9, "model": {"name": "unet", "width": 4, "depth": 2}},
    "evaluation": {"batch": 4, "bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A trained U-Net, of batch norms and with a moving average."""
    return library.train(None, RECIPE, data=DATA, out=tmp_path_factory.mktemp("masks") / "run")


@pytest.fixture(scope="module")
def lattice(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A trained network of a lattice, of group norms and with several heads."""
    published = library.load_genotype("alpha0_5_stage1_double_deep_ep80")
    settings = {**published.settings, "depth": 3, "init_channel": 8, "intermediate_nodes": 2}
    cells = {kind: cell[:2] for kind, cell in published.cells.items()}
    genotype = replace(published, cells=cells, settings=settings, paths=to_kept(all_paths(3)))
    recipe = {**RECIPE, "train": {"epochs": 1, "batch": 4}}
    return library.train(genotype, recipe, data=DATA, out=tmp_path_factory.mktemp("lattice") / "run")


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A trained derived network of findings, with an auxiliary head."""
    genotype = library.load_genotype("darts_v2").with_settings(init_channel=4, layers=3, auxiliary=True)
    recipe = {**RECIPE, "space": {"name": "darts"}, "train": {"epochs": 1, "batch": 4, "lr": 0.02}}
    return library.train(genotype, recipe, data=FINDINGS, out=tmp_path_factory.mktemp("findings") / "run")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lasting(folder: Path) -> dict[str, Any]:
    """Returns the files of a pruning, without times."""
    found: dict[str, Any] = {}
    for name, content in files(folder).items():
        if name.endswith("pruning.json"):
            record = json.loads(content)
            for step in record["steps"]:
                for key in ("sparse_seconds", "cut_seconds", "fine_seconds"):
                    seconds = step.pop(key)
                    assert seconds is None or seconds >= 0
            found[name] = record
        elif name.endswith("run.json"):
            facts = json.loads(content)
            found[name] = {key: facts[key] for key in ("kind", "network", "weights_fingerprint", "recipe", "finished")}
        elif not name.endswith("timing.jsonl"):
            found[name] = content
    return found


@pytest.mark.parametrize("method", ["taylor", "l1", "fpgm", "slim", "soft", "gradual"])
def test_every_method_gives_a_smaller_network_that_is_a_run_as_any_other(
    masks: RunDirectory, tmp_path: Path, method: str
) -> None:
    before = files(masks.path)
    run = library.prune(masks, method=method, keep_flops=0.6, epochs=1, data=DATA, out=tmp_path / "run")
    assert files(masks.path) == before
    facts, record = run.facts, read_record(run)
    assert (facts["kind"], facts["finished"], facts["network"]) == ("train", True, f"unet-{method}-60")
    assert (run.recipe.train.epochs, run.recipe.prune.epochs) == (1, 1)
    network, original = load_network(run), load_network(masks)
    outputs = {name: module.out_channels for name, module in network.named_modules() if hasattr(module, "out_channels")}
    assert record.last.size.channels == outputs
    assert record.last.kept == record.last.size.flops / record.size.flops <= 0.6
    assert record.last.size.parameters == sum(each.numel() for each in network.parameters())
    assert record.size.parameters == sum(each.numel() for each in original.parameters())
    assert record.method["name"] == method
    assert "outputs of the network" in record.uncut.values()
    assert record.original == pytest.approx(masks.read_json("summary.json")["best_score"], abs=1e-6)
    assert record.last.fine_tuned == run.read_json("summary.json")["best_score"]
    trains_before = method in ("slim", "soft", "gradual")
    assert (
        (tmp_path / "run/steps/1-sparse/run.json").exists() == trains_before == (record.last.sparse_seconds is not None)
    )
    assert {"cut_seconds", "fine_seconds"} <= {name for name, value in record.last if value}
    assert library.load(run).predict(GREY[0]).shape == (32, 32)


def section_of(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns what the page of a run says of its pruning; other figures, which take most of its time, are left out."""
    with monkeypatch.context() as patch:
        patch.setattr("medarts.reporting.page.read_curves", lambda *_: None)
        patch.setattr("medarts.reporting.drawings.drawings", lambda *_: {})
        page = write_report(run.path).read_text(encoding="utf-8")
    (section,) = re.findall(r'<section id="pruning">.*?</section>', page, re.DOTALL)
    return str(section).replace("<wbr>", "")


def test_operations_that_nothing_runs_are_left_out(lattice: RunDirectory, tmp_path: Path) -> None:
    """The published networks hold them, the pruned one does not, whatever it is pruned by."""
    run = library.prune(lattice, method="l1", keep_parameters=0.7, epochs=1, data=DATA, out=tmp_path / "run")
    record, network, original = read_record(run), load_network(run), load_network(lattice)
    used = sum(each.numel() for name, each in original.named_parameters() if ".absent." not in name)
    assert record.size.parameters == used < sum(each.numel() for each in original.parameters())
    assert record.last.size.parameters == sum(each.numel() for each in network.parameters())
    assert record.last.kept == record.last.size.parameters / used
    assert not any(".absent." in name for name in network.state_dict())
    assert library.load(run).predict(GREY[0]).shape == (32, 32)
    assert library.evaluate(run, data=DATA)


def test_depth_takes_parts_and_heads_away_also_from_what_it_has_left(
    lattice: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = library.prune(lattice, method="depth", keep_flops=0.7, data=DATA, out=tmp_path / "once")
    one = read_record(once)
    assert one.last.kept == pytest.approx(one.last.size.flops / one.size.flops)
    assert one.last.kept <= 0.7
    assert one.removed or one.heads
    twice = library.prune(once, method="depth", keep_flops=0.8, data=DATA, out=tmp_path / "twice")
    channels = library.prune(twice, method="l1", keep_flops=0.8, data=DATA, out=tmp_path / "channels")
    two, three = read_record(twice), read_record(channels)
    assert two.last.size.flops <= 0.8 * one.last.size.flops
    assert {*one.removed} <= {*two.removed}
    assert (three.removed, three.heads) == (two.removed, two.heads)
    network = load_network(channels)
    assert network.heads == (load_network(lattice).heads if two.heads is None else two.heads)
    assert library.load(channels).predict(GREY[0]).shape == (32, 32)
    page = section_of(once, monkeypatch)
    assert re.search(r"pruned by depth to 70 % of its FLOPs\.", page)
    gone = [name for name in one.size.channels if name not in one.last.size.channels]
    assert [name for name in gone if f"<title>{name}: 0 of {one.size.channels[name]}</title>" not in page] == []
    assert f"<dt>parts removed</dt><dd>{', '.join(one.removed)}</dd>" in page or not one.removed
    assert f"<dt>heads kept</dt><dd>{', '.join(one.heads or ())}</dd>" in page or not one.heads
    assert gone


def test_findings(findings: RunDirectory, tmp_path: Path) -> None:
    run = library.prune(findings, method="l1", keep_parameters=0.6, data=FINDINGS, out=tmp_path / "run")
    record = read_record(run)
    assert record.last.size.parameters / record.size.parameters <= 0.6
    assert record.score == "auroc"
    assert library.load(run).predict(GREY[0]).shape == (2,)


def test_steps_share_the_epochs_and_keep_equal_shares(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = library.prune(masks, method="taylor", keep_channels=0.5, steps=2, epochs=3, data=DATA, out=tmp_path / "run")
    first = RunDirectory(tmp_path / "run/steps/1-fine-tuning")
    one, both = read_record(first), read_record(run)
    assert (first.facts["network"], run.facts["network"]) == ("unet-taylor-70.7", "unet-taylor-50")
    assert (first.recipe.train.epochs, run.recipe.train.epochs) == (1, 2)
    assert 0.5 < one.last.kept <= 0.5**0.5
    assert both.last.kept <= 0.5
    assert both.steps[0] == one.last
    assert (both.size, both.original) == (one.size, one.original)
    assert both.last.before == one.last.fine_tuned
    assert both.last.size.parameters < one.last.size.parameters < both.size.parameters
    page = section_of(run, monkeypatch)
    assert "pruned by taylor to 50 % of its channels." in page
    for name, value in (("batches", run.recipe.prune.method.model_dump()["batches"]), ("steps", 2)):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page
    rows = [re.findall(r"<t[dh][^>]*>([^<]*)", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    named = {row[0]: row[1:] for row in rows}
    assert [named["network"][0], named["before"][0]] == ["channels kept", "–"]
    for number, step in enumerate(both.steps, 1):
        shown = named[f"step {number}"]
        assert shown[0] == f"{100 * step.kept:.1f} %"
        assert shown[1] == f"{step.size.parameters:,}"
        assert shown[3:6] == [f"{score:.3f}" for score in (step.before, step.cut, step.fine_tuned)]
        assert shown[6] == f"{step.cut_seconds + (step.fine_seconds or 0):,.0f}"
    for name, had in both.size.channels.items():
        left = both.last.size.channels[name]
        assert named[name] == [str(had), str(left), f"{100 * left / had:.1f} %", both.uncut.get(name, "–")]
        assert (f"<title>{name}: {left} of {had}</title>" in page) == (name not in both.uncut)


def test_a_pruned_network_is_pruned_further(masks: RunDirectory, tmp_path: Path) -> None:
    once = library.prune(masks, method="l1", keep_flops=0.7, epochs=1, data=DATA, out=tmp_path / "once")
    twice = library.prune(once, method="taylor", keep_flops=0.7, data=DATA, out=tmp_path / "twice")
    one, two = read_record(once), read_record(twice)
    assert two.size == one.last.size
    assert two.last.size.flops <= 0.7 * one.last.size.flops
    assert twice.facts["network"] == "unet-l1-70-taylor-70"
    history = json.loads((twice.path / "structure.json").read_text())["history"]
    assert [asked["method"]["name"] for asked in history] == ["l1", "taylor"]
    assert twice.recipe.train.epochs == 1  # as before, where it is not given


# What the trainings before the cut do.


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_filters_are_zeroed_after_every_epoch_also_in_the_average_and_may_grow_back(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, momentum: float
) -> None:
    zeroed: list[list[int]] = []
    totals: list[int] = []
    regrown: list[int] = []
    validate, step = SparseTraining.validate, SparseTraining.step

    def filters(network: torch.nn.Module, name: str = "encoder.0.0.conv.weight") -> list[int]:
        return [number for number, one in enumerate(network.get_parameter(name)) if not one.any()]

    def noted(training: SparseTraining) -> dict[str, Any]:
        values = validate(training)
        zeroed.append(filters(training.network))
        assert filters(training.averaged.module) == zeroed[-1]
        assert filters(training.network, "encoder.0.0.norm.weight") == []
        totals.append(sum(len(filters(training.network, f"{unit.name}.weight")) for unit in training.units))
        without = copy.deepcopy(training.averaged.module)
        for unit in training.units:  # validated is the network without the channels
            norm = without.get_submodule(unit.name.removesuffix("conv") + "norm")
            gone = filters(without, f"{unit.name}.weight")
            norm.weight.data[gone], norm.bias.data[gone] = 0.0, 0.0
        loss = training.task.validate(without, training.validation)["val_loss"]
        assert values["val_loss"] == pytest.approx(loss, rel=1e-6)
        return values

    def grown(training: SparseTraining) -> None:
        before = filters(training.network)
        shifts = training.network.get_parameter("encoder.0.0.norm.bias").tolist()
        step(training)
        # Without momentum by their gradients alone, which ReLU stops where the shift is all there is and below 0.
        left = [] if momentum else [number for number in before if shifts[number] <= 0]
        assert filters(training.network) == left
        regrown.extend({*before} - {*left})
        if momentum:
            assert all(one.any() for one in training.optimizer.state_dict()["state"][0]["momentum_buffer"])

    monkeypatch.setattr(SparseTraining, "validate", noted)
    monkeypatch.setattr(SparseTraining, "step", grown)
    method = {"name": "gradual", "three_quarters_at": 0.3}
    options: dict[str, Any] = {"keep_channels": 0.25, "epochs": 1, "sparse_epochs": 3, "data": DATA}
    changes = f"train.momentum={momentum}"
    run = library.prune(masks, method=method, changes=changes, out=tmp_path / "run", **options)
    first, second, last = totals  # of 36 channels 27 go, three quarters of which after 0.3
    assert (first / last, last) == (pytest.approx(0.77, abs=0.1), 27)
    assert first < second < last
    assert regrown
    sparse = RunDirectory(tmp_path / "run/steps/1-sparse")
    before = trained_of(sparse).weights["encoder.0.0.conv.weight"]
    assert [number for number, one in enumerate(before) if not one.any()] == zeroed[-1]
    (left,) = {*range(4)} - {*zeroed[-1]}
    assert load(read_whole(run.path / INITIAL_WEIGHTS))["encoder.0.0.conv.weight"].equal(before[[left]])
    kept = checkpoint.load(sparse.checkpoints, "best")
    assert kept is not None
    assert kept.state["epoch"] == 2


def test_slim_adds_the_gradient_of_the_scales_and_trains_at_the_whole_rate(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    added: list[torch.Tensor] = []
    add_penalties = SparseTraining.add_penalties

    def noted(training: SparseTraining) -> None:
        scales = training.network.get_parameter("encoder.0.0.norm.weight")
        before = scales.grad.clone()
        add_penalties(training)
        added.append((scales.grad - before) / scales.detach().sign())

    monkeypatch.setattr(SparseTraining, "add_penalties", noted)
    limit = 0.911  # which about half of the scales reach in so short a training
    monkeypatch.setattr(criteria, "SMALL", limit)
    method = {"name": "slim", "strength": 0.5}
    run = library.prune(masks, method=method, keep_flops=0.6, epochs=1, data=DATA, out=tmp_path / "run")
    assert torch.stack(added).detach().numpy() == pytest.approx(0.5, abs=1e-5)
    (sparse,), (fine,) = (
        RunDirectory(folder).read_journal("metrics.jsonl") for folder in (tmp_path / "run/steps/1-sparse", run.path)
    )
    assert sparse["lr"] == pytest.approx(10 * fine["lr"])
    weights = trained_of(RunDirectory(tmp_path / "run/steps/1-sparse")).weights
    scales = torch.cat([each.abs() for name, each in weights.items() if name.endswith("norm.weight")])
    assert 0 < sparse["small_scales"] < 1
    assert sparse["small_scales"] == pytest.approx(float((scales < limit).double().mean()))
    assert f"{sparse['small_scales']:.1%} of the scales are below" in capsys.readouterr().err
    assert "small_scales" not in fine


def test_the_learning_rate_before_a_cut_falls_where_the_score_does_not_rise(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = SparseTraining.validate
    monkeypatch.setattr(SparseTraining, "validate", lambda training: {**validate(training), "val_dice": 0.5})
    changes = ["train.schedule=plateau", "train.plateau_epochs=1"]
    options: dict[str, Any] = {"method": "soft", "keep_flops": 0.6, "epochs": 1, "sparse_epochs": 4, "data": DATA}
    library.prune(masks, changes=changes, out=tmp_path / "run", **options)
    sparse = RunDirectory(tmp_path / "run/steps/1-sparse")
    rates = [line["lr"] for line in sparse.read_journal("metrics.jsonl")]
    assert rates == pytest.approx([0.01, 0.01, 0.005, 0.0025])  # a tenth, as for fine-tuning
    assert checkpoint.newest(sparse.checkpoints, "best") == (4, 0)  # though the first epoch was as good


# Stopped, and going on.

SOFT: dict[str, Any] = {"method": "soft", "keep_flops": 0.5, "steps": 2, "epochs": 2, "data": DATA}
"""Four trainings, each of an epoch of some steps."""

KILLED = """
import os, signal
import medarts
from medarts.engine.engine import Job
from medarts.pruning import job as pruning_job
from medarts.pruning.sparse_training import SparseTraining

name, number = place
owner = {"_step": Job, "aim_at": SparseTraining, "cut_of": pruning_job}[name]
function, calls = getattr(owner, name), []

def killed(*arguments, **options):
    found = function(*arguments, **options)
    calls.append(name)
    if len(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

setattr(owner, name, killed)
medarts.prune(run, out=out, **options)
"""


@pytest.fixture(scope="module")
def whole(masks: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a pruning leaves that nobody stopped."""
    return lasting(library.prune(masks, out=tmp_path_factory.mktemp("whole") / "run", **SOFT).path)


def stopped(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, at: int, after: bool = False) -> None:
    """Lets the call of a function with a number, from 1 on, end as by a second Ctrl-C."""
    function, calls = getattr(owner, name), []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == at and not after:
            raise KeyboardInterrupt
        found = function(*arguments, **options)
        if len(calls) == at:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(owner, name, interrupted)


STEPS = 2
"""Of an epoch."""


@pytest.mark.parametrize(
    "place",
    [
        (Job, "_step", 1, True),  # in the first training before a cut
        (Job, "_step", 3 * STEPS + 1, True),  # in the last one
        (SparseTraining, "aim_at", 2, False),
        (pruning_job, "cut_of", 1, True),
        (RunDirectory, "create", 4, False),
        (RunDirectory, "finish", 2, True),
        (pruning_job, "complete_record", 2, False),
    ],
)
def test_it_goes_on_to_the_same_bytes_wherever_it_was_stopped(
    masks: RunDirectory,
    whole: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: tuple[Any, str, int, bool],
) -> None:
    owner, name, at, after = place
    with monkeypatch.context() as patch:
        stopped(patch, owner, name, at=at, after=after)
        with pytest.raises(InterruptedRunError, match="is kept"):
            library.prune(masks, out=tmp_path / "run", **SOFT)
    assert lasting(library.prune(masks, out=tmp_path / "run", **SOFT).path) == whole


@pytest.mark.parametrize(
    ("changes", "network", "place"),
    [
        ({"sparse_epochs": 2}, "masks", ("_step", STEPS + 1)),  # filters are zeroed
        ({"steps": 2}, "masks", ("_step", 3 * STEPS + 1)),  # in a fine-tuning
        ({"method": "slim", "sparse_epochs": 2, "epochs": 1}, "masks", ("_step", STEPS + 1)),
        ({"method": "depth", "keep_flops": 0.7}, "lattice", ("_step", STEPS + 1)),
        ({"epochs": 1}, "masks", ("aim_at", 1)),  # before there is a training
        ({"method": "taylor", "steps": 2}, "masks", ("cut_of", 1)),
    ],
)
def test_it_goes_on_to_the_same_bytes_after_a_kill(
    request: pytest.FixtureRequest, tmp_path: Path, changes: dict[str, Any], network: str, place: tuple[str, int]
) -> None:
    run: RunDirectory = request.getfixturevalue(network)
    options = {**SOFT, "steps": 1, **changes}
    whole = lasting(library.prune(run, out=tmp_path / "whole", **options).path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medarts.pruning.job", "torch_pruning"])
    names = {"run": run.path, "out": tmp_path / "run", "options": options, "place": place}
    process = context.Process(target=exec, args=(KILLED, names))
    process.start()
    process.join(timeout=100)
    assert process.exitcode == -signal.SIGKILL
    assert lasting(library.prune(run, out=tmp_path / "run", **options).path) == whole


def test_an_interruption_names_what_goes_on_with_images_in_memory(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Job._step

    def asked(job: Job[Any]) -> None:
        step(job)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Job, "_step", asked)
    with pytest.raises(InterruptedRunError) as caught:
        library.prune(masks, changes="note=a b", out=tmp_path / "run", **SOFT)
    expected = f"Stopped; {tmp_path / 'run/steps/1-sparse'} is saved. Resume with: the same call of medarts.prune."
    assert str(caught.value) == expected


def test_the_fine_tuning_goes_on_as_any_training(
    masks: RunDirectory, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopped(patch, Job, "_step", at=3 * STEPS + 1, after=True)
        with pytest.raises(InterruptedRunError):
            library.prune(masks, out=tmp_path / "run", **SOFT)
    run = library.resume(tmp_path / "run", kind="train", data=DATA)
    assert run.facts["finished"]
    assert read_record(run).last.fine_tuned is None
    assert lasting(library.prune(masks, out=tmp_path / "run", **SOFT).path) == whole


def test_a_training_before_a_cut_is_no_training_of_its_own(masks: RunDirectory, tmp_path: Path) -> None:
    library.prune(masks, method="slim", keep_flops=0.6, epochs=1, data=DATA, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"steps/1-sparse is a prune run\. Give a train run"):
        library.resume(tmp_path / "run/steps/1-sparse", kind="train", data=DATA)


def test_a_finished_one_is_left_as_it_is(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"method": "l1", "keep_flops": 0.5, "epochs": 1, "data": DATA, "out": tmp_path / "run"}
    library.prune(masks, **options)
    before = files(tmp_path / "run")
    monkeypatch.setattr(Training, "step", lambda job: pytest.fail("it trains"))
    library.prune(masks, **options)
    assert f"{tmp_path / 'run'} is finished already." in capsys.readouterr().err
    assert files(tmp_path / "run") == before


def test_a_finished_one_needs_neither_its_steps_nor_more_training(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = library.prune(masks, out=tmp_path / "run", **SOFT)
    sparse = RunDirectory(run.path / "steps/1-sparse")
    shutil.rmtree(sparse.checkpoints)
    with pytest.raises(RunError, match=r"1-sparse has no checkpoint\. Copy the run again\."):
        trained_of(sparse)
    shutil.rmtree(run.path / "steps")
    before = files(run.path)
    monkeypatch.setattr(Training, "step", lambda job: pytest.fail("it trains"))
    assert library.prune(masks, out=run.path, **SOFT).path == run.path
    assert files(run.path) == before
    (run.path / "pruning.json").unlink()
    with pytest.raises(RunError, match=r"pruning\.json is missing\. Copy the run again\."):
        library.prune(masks, out=run.path, **SOFT)


# What cannot work is one message, and leaves nothing.


def refused(tmp_path: Path, run: Any, **options: Any) -> MedartsError:
    """Returns the error of a pruning, which leaves its folder as it was."""
    folder = options.pop("out", tmp_path / "refused")
    before = files(folder) if folder.exists() else None
    with pytest.raises(MedartsError) as caught:
        library.prune(run, **{"data": DATA, "out": folder, **options})
    assert (files(folder) if folder.exists() else None) == before
    return caught.value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"How much of the network is kept is not given\. Give keep_flops=0\.5"),
        ({"keep_flops": 0.5, "keep_channels": 0.5}, r"prune\.keep: flops and channels are given; give one of them"),
        ({"keep_flops": 0}, r"prune\.keep\.flops: .* greater than 0"),
        ({"keep_flops": 1.0}, r"prune\.keep\.flops: .* less than 1"),
        ({"keep_flops": float("nan")}, r"prune\.keep\.flops"),
        ({"keep_flops": 0.5, "method": "l2"}, r"prune\.method\.name cannot be 'l2'\. Did you mean 'l1'\?"),
        ({"keep_flops": 0.5, "method": {"name": "l1", "batches": 3}}, r"prune\.method\.batches is not a key"),
        ({"keep_flops": 0.5, "epochs": 0}, r"prune\.epochs: .* greater than or equal to 1"),
        ({"keep_flops": 0.5, "steps": 3}, r"prune\.epochs is 2, fewer than the 3 steps"),
        ({"keep_flops": 0.5, "method": "soft", "sparse_epochs": 1, "steps": 2}, r"prune\.sparse_epochs is 1, fewer"),
        ({"keep_flops": 0.5, "epochs": 1, "changes": "train.warmup_epochs=1"}, r"warmup_epochs 1 leave nothing of 1"),
        (
            {"keep_flops": 0.5, "changes": "train.model.width=8"},
            r"would change the network of .*, which is pruned as it is",
        ),
        ({"keep_flops": 0.5, "changes": "train.norm=group"}, r"train\.norm is group, but .* the norms of its paper"),
        ({"keep_flops": 0.5, "data": (GREY, SEVERAL)}, r"was trained for other classes.*medarts train --from"),
        ({"keep_flops": 0.0001}, r"keep_flops is 0\.0001, but 0\.0\d+ is left of this"),
        ({"keep_flops": 0.0001, "method": "taylor"}, r"keep_flops is 0\.0001, but 0\.\d+ is left"),
        ({"keep_flops": 0.0001, "method": "slim"}, r"keep_flops is 0\.0001, but 0\.\d+ is left"),
        ({"keep_flops": 0.0001, "method": "soft"}, r"keep_flops is 0\.0001, but 0\.\d+ is left"),
        ({"keep_flops": 0.5, "method": "depth"}, r"no parts and no late heads that can be taken away"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(Training, "step", lambda job: pytest.fail("it trains"))
    monkeypatch.setattr(Training, "losses", lambda *_, **__: pytest.fail("it takes gradients"))
    monkeypatch.setattr(SegmentationTask, "validate", lambda *_: pytest.fail("it scores"))
    error = refused(tmp_path, masks, **{"changes": ["train.ema=0"], **options})
    assert re.search(message, str(error)), error


def test_depth_refuses_what_it_cannot_do_before_anything_is_scored(
    lattice: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SegmentationTask, "validate", lambda *_: pytest.fail("it scores"))
    assert "no target of depth" in str(refused(tmp_path, lattice, method="depth", keep_channels=0.5))
    error = refused(tmp_path, lattice, method="depth", keep_flops=0.0001)
    assert re.search(r"keep_flops is 0\.0001, but 0\.\d+ is left", str(error))


def test_what_is_no_finished_training_is_refused(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopped(patch, Job, "_step", at=3, after=True)
        with pytest.raises(KeyboardInterrupt):
            library.train(None, RECIPE, data=DATA, out=tmp_path / "begun")
    error = refused(tmp_path, tmp_path / "begun", keep_flops=0.5)
    assert error.fix == f"Continue it: medarts train --resume {tmp_path / 'begun'}"
    search = RunDirectory.create(tmp_path / "search", masks.recipe, kind="search", data_fingerprint="")
    assert "is a search run. Give a train run." in str(refused(tmp_path, search, keep_flops=0.5))
    assert "is not a run directory" in str(refused(tmp_path, tmp_path / "none", keep_flops=0.5))


def test_a_folder_of_something_else_is_refused(masks: RunDirectory, findings: RunDirectory, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "l1", "keep_flops": 0.6, "epochs": 1}
    error = refused(tmp_path, masks, **options, out=masks.path)
    assert "run is the run that is pruned, which stays as it is. Choose another folder" in str(error)
    assert "already holds another run" in str(refused(tmp_path, masks, **options, out=findings.path))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    assert "already holds files" in str(refused(tmp_path, masks, **options, out=tmp_path / "full"))
    assert "notes.txt is a file" in str(refused(tmp_path, masks, **options, out=tmp_path / "full/notes.txt"))
    shutil.copytree(tmp_path / "full", tmp_path / "mine/steps")
    assert "steps already holds files" in str(refused(tmp_path, masks, **options, out=tmp_path / "mine"))
    shutil.copytree(masks.path, tmp_path / "other/steps/1-fine-tuning")
    assert "1-fine-tuning already holds another run" in str(refused(tmp_path, masks, **options, out=tmp_path / "other"))
    out = library.prune(masks, data=DATA, out=tmp_path / "out", **options).path
    for changed in ({"keep_flops": 0.5}, {"method": "fpgm"}, {"epochs": 2}, {"changes": "seed=3"}):
        error = refused(tmp_path, masks, **{**options, **changed}, out=out)
        assert re.search(r"out holds a pruning by other settings \((prune\.\w+.*|seed): .* -> .*\)", str(error))
    library.prune(masks, data=DATA, out=out, changes="compute.threads=1", **options)  # decides nothing
    (out / "prune.json").write_text(json.dumps({**json.loads((out / "prune.json").read_text()), "recipe": []}))
    assert "prune.json is damaged: recipe" in str(refused(tmp_path, masks, **options, out=out))
    (out / "prune.json").write_text("{")
    assert "prune.json is damaged" in str(refused(tmp_path, masks, **options, out=out))


def test_a_network_that_has_changed_is_refused(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = RunDirectory(shutil.copytree(masks.path, tmp_path / "source"))
    options: dict[str, Any] = {"method": "l1", "keep_flops": 0.6, "out": tmp_path / "run"}
    with monkeypatch.context() as patch:
        stopped(patch, Job, "_step", at=1)
        with pytest.raises(InterruptedRunError):
            library.prune(source, data=DATA, **options)
    library.resume(source, data=DATA, changes="train.epochs=3")
    position = checkpoint.newest(source.checkpoints, "best")
    assert position is not None
    if position[0] < 3:  # the longer training was no better
        point = checkpoint.load(source.checkpoints, "best")
        assert point is not None
        weights = {name: tensor + 1 for name, tensor in point.weights.items()}
        checkpoint.save(source.checkpoints, "best", replace(point, weights=weights), position=position)
    error = refused(tmp_path, source, **options)
    assert "holds a pruning of" in str(error)
    assert "with other weights than those of" in str(error)


def test_another_process_at_work_is_waited_for_by_people(masks: RunDirectory, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = out / "steps/1-fine-tuning"  # of which the plan is not written yet
    with RunDirectory.reserved(out, "prune"), RunDirectory.reserved(first, "train"):
        found: list[RunError] = []

        def work() -> None:
            try:
                library.prune(masks, method="l1", keep_flops=0.6, data=DATA, out=out)
            except RunError as error:
                found.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert "Another process is at work" in str(found[0])
    assert not out.exists()


def test_a_training_before_the_cut_that_diverges_says_where(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, calls = SegmentationTask.loss, []

    def poisoned(task: SegmentationTask, outputs: Any, mixture: Any) -> torch.Tensor:
        calls.append(outputs)
        return loss(task, outputs, mixture) * (float("nan") if len(calls) == STEPS + 1 else 1.0)

    options: dict[str, Any] = {"method": "slim", "keep_flops": 0.6, "data": DATA, "out": tmp_path / "run"}
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "loss", poisoned)
        with pytest.raises(DivergedError, match=r"steps/1-sparse diverged: .* loss nan is not finite at"):
            library.prune(masks, **options)
    assert library.prune(masks, **options).facts["finished"]  # the poison was no part of it


def test_a_full_disk_leaves_nothing_half_written(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = files_module.write_whole

    def full(path: Path, content: str | bytes) -> None:
        if path.name == "pruning.json":
            raise RunError(f"{path} could not be written (No space left on device).", fix="Make room on the disk.")
        whole(path, content)

    options: dict[str, Any] = {"method": "l1", "keep_flops": 0.6, "epochs": 1}
    with monkeypatch.context() as patch:
        patch.setattr(directory, "write_whole", full)
        with pytest.raises(RunError, match="No space left"):
            library.prune(masks, data=DATA, out=tmp_path / "run", **options)
    assert not (tmp_path / "run/run.json").exists()
    run = library.prune(masks, data=DATA, out=tmp_path / "run", **{**options, "keep_flops": 0.7})
    assert read_record(run).keep == {"flops": 0.7}


def test_memory_that_runs_out_leaves_the_folder_to_another_command(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Training, "losses", fails)
    for method in ("l1", "slim"):
        error = refused(tmp_path, masks, method=method, keep_flops=0.6, changes=["train.ema=0"])
        assert "with 1 image at a time. Use smaller images" in str(error)


def test_groups_of_single_values_are_seen_before_the_cut(tmp_path: Path) -> None:
    small = library.from_arrays(GREY[:, ::2, ::2], BINARY[:, ::2, ::2])
    recipe = {**RECIPE, "train": {**RECIPE["train"], "norm": "group", "epochs": 1}}
    run = library.train(None, recipe, data=small, changes="train.model.depth=5", out=tmp_path / "small")
    error = refused(tmp_path, run, method="l1", keep_flops=0.5, data=small)
    assert "the smallest maps of unet are one pixel" in str(error)


def test_a_package_is_pruned_on_data_that_are_given(masks: RunDirectory, tmp_path: Path) -> None:
    library.evaluate(masks, data=DATA)
    package = library.pack(masks, tmp_path / "small.medarts")
    assert "a package has none" in str(refused(tmp_path, package, keep_flops=0.6, data=None))
    run = library.prune(package, method="l1", keep_flops=0.6, epochs=1, data=DATA, out=tmp_path / "run")
    assert read_record(run).weights == of_weights(trained_of(masks).weights)
