"""Runs of a study: in their order, each by itself, stopped and resumed, and never mixed with those of another."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from medarts.config import make_source, parse
from medarts.config.study import Study, load_study
from medarts.data.opening import open_sources
from medarts.data.synthetic import write_phantoms
from medarts.engine import checkpoint
from medarts.engine.directory import RunDirectory, epochs_done
from medarts.errors import DataError, DivergedError, MedartsError, RecipeError, RunError
from medarts.models import scaled
from medarts.models.unet import UNetSettings
from medarts.spaces import random_genotype, space_settings
from medarts.spaces.genotype import Genotype
from medarts.spaces.genotype import load_genotype as load
from medarts.spaces.nas_wdan import lattice
from medarts.study import benchmark as module
from medarts.study import networks as of_networks
from medarts.study.benchmark import available_runs, benchmark, with_threads
from medarts.study.jobs import Job, Layout, do, is_finished, work_of
from medarts.study.networks import parameters_of
from medarts.study.plan import Plan, Step, prepare
from medarts.system.console import progress_bar
from medarts.system.process import InterruptedRunError
from medarts.system.workers import Ended, Processes, Work
from medarts.training.trainer import Training, start_training

from ..pool.conftest import Here as InThisProcess

Make = Callable[..., Study]

HOLDS = """
import sys
from pathlib import Path
from medarts.system import lock
with lock.held(Path(sys.argv[1]), "benchmark"):
    print("held", flush=True)
    sys.stdin.read()
"""

COUNT = partial(parameters_of, in_channels=3, outputs=1)
UNET = {"model": {"name": "unet", "width": 2, "depth": 2}}
WILD = {
    "name": "wild",
    "data": "ct",
    "networks": "unet",
    "changes": ["train.lr=100", "train.weight_decay=100", "train.grad_clip=0"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with phantoms and a small genotype."""
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder / "phantoms", seed=0, images=25, size=32)
    like = load("layer7_double_deep").with_settings(depth=3, init_channel=2, intermediate_nodes=2)
    cells = {move: cell[:2] for move, cell in like.cells.items()}
    like = replace(like, cells=cells, paths=lattice.to_kept(lattice.all_paths(3)))
    random_genotype(like, seed=0).save(folder / "small.json")
    return folder


@pytest.fixture
def make(data: Path, tmp_path: Path) -> Make:
    """Makes a study of some networks on groups of phantoms."""
    kinds = {"isic": "dermoscopy", "cvc": "endoscopy", "chaos": "ct"}
    sources = [{"kind": kind, "path": str(data / "phantoms" / kind), "name": name} for kind, name in kinds.items()]
    recipe = {
        "data": {"sources": sources, "size": 32, "cache": str(data / "cache")},
        "space": {"init_channel": 2, "double_down_channel": False, "intermediate_nodes": 2},
        "search": {"stages": [{"depth": 3, "epochs": 1, "batch": 4}], "arch_after": 0},
        "train": {"epochs": 1, "batch": 4},
        "evaluation": {"batch": 4, "bootstrap": 100},
        "compute": {"device": "cpu", "threads": 1},
    }

    def make(networks: Sequence[dict[str, Any]], groups: Sequence[dict[str, Any]], *changes: str) -> Study:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({"recipe": recipe, "networks": networks, "trained_on": groups}))
        return load_study(path, changes)

    return make


def small(data: Path, **settings: Any) -> dict[str, Any]:
    return {"name": "searched", "genotype": str(data / "small.json"), **settings}


# --- in processes ---------------------------------------------------------------------------------------------------


def test_a_whole_benchmark(make: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two networks, two seeds; a run that was stopped before goes on, one that diverges ends no other."""
    out = tmp_path / "out"
    networks, endoscopy = [small(data), UNET], {"data": ["endoscopy"], "seeds": [0, 1]}
    study = make(networks, [WILD, endoscopy])
    plan = prepare(study, out)
    stopped = next(step for step in plan.steps if step.paths.name == "endoscopy/searched/seed-1")
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", stopping(Training._step))
        with pytest.raises(InterruptedRunError):
            do(plan.job(stopped))
    assert not is_finished(stopped.paths.run, scored=False)

    benchmark(study, out, jobs=2)

    names = [f"endoscopy/{network}/seed-{seed}" for network in ("searched", "unet") for seed in (0, 1)]
    there = available_runs(out)
    runs = [run for candidate in there["endoscopy"].candidates for run in candidate.runs]
    assert [str(run.path.relative_to(out / "runs")) for run in runs] == names
    ((failed,), nothing) = (there[name].missing for name in ("wild", "endoscopy"))
    assert nothing == ()
    assert (failed.network, failed.seed, failed.state) == ("unet", 0, "failed")
    assert "diverged: validation loss nan" in failed.reason
    assert (out / "failures" / "wild" / "unet" / "seed-0.txt").read_text().strip() == failed.reason
    assert "val_dice" in (out / "logs" / f"{names[0]}.log").read_text()
    alone = start_training(stopped.recipe, plan.networks.architecture("searched"), tmp_path / "alone")
    for name in ("metrics.jsonl", "summary.json", "genotype.json"):
        assert (stopped.paths.run / name).read_bytes() == (alone.path / name).read_bytes()

    assert [(each.name, each.seeds) for each in there["endoscopy"].candidates] == [
        ("searched", (0, 1)),
        ("unet", (0, 1)),
    ]
    assert there["wild"].candidates == ()
    assert [step.paths.name for step in prepare(study, out).steps if not step.is_finished] == ["wild/unet/seed-0"]

    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
    benchmark(make(networks, [endoscopy], "recipe.search.lr=0.5", "recipe.note=x"), out)
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == before


def stopping(step: Callable[..., None]) -> Callable[..., None]:
    """Returns a step of training behind which the process is asked to stop."""

    def stop(job: Training) -> None:
        step(job)
        os.kill(os.getpid(), signal.SIGTERM)

    return stop


def test_a_run_that_was_asked_to_stop_before_the_benchmark_stops_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a scheduler does, which asks all processes."""

    def stopped(workers: InThisProcess, work: Work) -> None:
        workers.ended.append(Ended(work.name, stopped=True))

    monkeypatch.setattr(InThisProcess, "start", stopped)
    monkeypatch.setattr("medarts.system.workers.Processes", lambda reused: InThisProcess(reused=True))
    with pytest.raises(InterruptedRunError, match=r"2 of its 2 runs are left"):
        benchmark(make([UNET], [{"data": "ct", "seeds": [0, 1]}]), tmp_path / "out")


def test_ctrl_c_stops_all_that_is_in_hand(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, start = make([UNET], [{"data": "ct", "seeds": [0, 1, 2]}], "recipe.train.epochs=100000"), Processes.start
    started: list[Processes] = []

    def and_interrupt(workers: Processes, work: Work) -> None:
        start(workers, work)
        started.append(workers)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Processes, "start", and_interrupt)
    with pytest.raises(InterruptedRunError, match=r"3 of its 3 runs are left. Continue with the same command"):
        benchmark(study, tmp_path / "out")
    assert len(started) == 1
    assert started[0].wait(0) == []  # nothing is in hand
    ((_, missing),) = available_runs(tmp_path / "out").values()
    assert {each.state for each in missing} <= {"not started", "unfinished"}
    assert not (tmp_path / "out" / "failures").exists()


def test_what_is_in_hand_is_saved_where_something_goes_wrong(make: Make, tmp_path: Path) -> None:
    study, out = make([UNET], [{"data": "ct"}], "recipe.train.epochs=100000"), tmp_path / "out"
    plan = prepare(study, out)
    (step,) = plan.steps

    def fail(workers: Processes) -> None:
        with workers:
            workers.start(work_of(plan.job(step)))
            while epochs_done(step.paths.run) < 2:
                workers.wait(0.05)
            raise ZeroDivisionError

    workers = Processes()
    with pytest.raises(ZeroDivisionError):
        fail(workers)
    assert [worker.process.exitcode for worker in workers._busy] == [0]  # it was not killed
    assert checkpoint.load(step.paths.run / "checkpoints", "last").state["loop"]["epoch"] == epochs_done(step.paths.run)


# --- the order of the runs, here without processes --------------------------------------------------------------------


class Here:
    """Workers that do their jobs in this process, one by one."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.ended: list[Ended] = []

    def start(self, work: Work) -> None:
        self.names.append(work.name)
        try:
            work.do()
            self.ended.append(Ended(work.name))
        except MedartsError as error:
            self.ended.append(Ended(work.name, error))

    def wait(self, seconds: float) -> list[Ended]:
        ended, self.ended = self.ended, []
        return ended

    def ask_to_stop(self) -> None:
        raise AssertionError("nobody asked")


def done_here(study: Study, out: Path, *, at_once: int = 1) -> list[str]:
    """Does the runs of a study, and returns their names in their order."""
    workers = Here()
    with progress_bar("study", 1, is_told=False) as bar:
        module._Runs(prepare(study, out), workers, bar).do(SimpleNamespace(requested=False), at_once=at_once)
    return workers.names


def searching(make: Make) -> Study:
    mixed = {"name": "mix", "searched_on": ["ct", "endoscopy"]}
    group = {"data": ["ct"], "networks": ["unet", "random", "mix"]}
    return make([mixed, {"random": 1, "like": "mix"}, UNET], [{"data": "endoscopy", "networks": "unet"}, group])


def test_searches_come_before_what_needs_them(make: Make, tmp_path: Path) -> None:
    out, study = tmp_path / "out", searching(make)
    names = done_here(study, out)
    assert names == [
        "endoscopy/unet/seed-0", "searches/mix", "ct/mix/seed-0", "ct/random-1/seed-0", "ct/unet/seed-0"
    ]  # fmt: skip
    there = available_runs(out)
    assert [(each.name, each.kind) for each in there["ct"].candidates] == [
        ("mix", "searched"), ("random-1", "random"), ("unet", "baseline")
    ]  # fmt: skip
    mixed = load(out / "genotypes" / "mix.json")
    assert mixed.cells == load(out / "searches" / "mix").cells
    assert load(out / "genotypes" / "random-1.json").provenance["like"] == "mix"
    assert RunDirectory.open(out / "searches" / "mix").recipe.data.sources[0].domain == "endoscopy"
    assert done_here(study, out) == []


def test_a_search_may_choose_by_training(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("medarts.system.workers.Processes", InThisProcess)
    select = ["method=random", "select.candidates=2", "select.rungs=[1]"]
    entry, out = {"name": "chosen", "searched_on": "ct"}, tmp_path / "out"
    changes = [*(f"recipe.search.{change}" for change in select), "recipe.space.choices.depth=[3]"]
    study = make([entry], [{"data": "ct"}], *changes)
    assert done_here(study, out) == ["searches/chosen", "ct/chosen/seed-0"]
    assert "searches/chosen: dice 0." in capsys.readouterr().err
    assert load(out / "genotypes" / "chosen.json").cells == load(out / "searches" / "chosen").cells
    other = make([entry], [{"data": "ct"}], *changes, "recipe.train.lr=0.5")  # by which the candidates were trained
    refused(other, out, RunError, "chosen was started with train.lr")


def test_searches_of_several_seeds_and_a_budget_that_gives_all_networks_their_width(
    make: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    deep = {"name": "deep", "model": {"name": "unet", "depth": 5}}
    unet, mix = (
        {**UNET, "train": ["train.lr=0.01", "compute.precision=bf16"]},
        {"name": "mix", "searched_on": "ct", "search_seeds": [3, 5]},
    )
    study = make([deep, mix, unet], [{"data": "ct"}], "recipe.budget.parameters=30000")
    runs = ["searches/mix-1", "ct/mix-1/seed-0", "ct/unet/seed-0", "searches/mix-2", "ct/mix-2/seed-0"]
    assert done_here(study, out) == runs
    assert [RunDirectory.open(out / name).recipe.seed for name in ("searches/mix-1", "searches/mix-2")] == [3, 5]
    ((candidates, missing),) = available_runs(out).values()
    own = {each.name: (each.recipes[0].train.lr, each.recipes[0].compute.precision) for each in candidates}
    assert own == {"mix-1": (0.004, "fp32"), "mix-2": (0.004, "fp32"), "unet": (0.01, "bf16")}
    for each in candidates:
        place = scaled(each.architecture).index(each.architecture)
        counts = [COUNT(network) for network in scaled(each.architecture)[place : place + 2]]
        assert counts[0] <= 30_000 < counts[1]
    assert load(out / "genotypes" / "mix-2.json").cells == load(out / "searches" / "mix-2").cells
    ((name, _, state, reason),) = missing
    assert (name, state) == ("deep", "failed")
    assert "narrowest network of model 'unet' is over the budget: parameters" in reason
    monkeypatch.setattr("medarts.study.fitting.fit", lambda *_, **__: None)  # as if the machine were slower now
    assert done_here(study, out) == []


def test_a_failed_search_ends_only_what_needs_it(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, study = tmp_path / "out", searching(make)

    def diverges(recipe: Any, path: Path) -> None:
        raise DivergedError("It diverged.", fix="Lower something.")

    with monkeypatch.context() as patch:
        patch.setattr("medarts.study.jobs.search.start", diverges)
        assert done_here(study, out) == ["endoscopy/unet/seed-0", "searches/mix", "ct/unet/seed-0"]
    missing = available_runs(out)["ct"].missing
    assert [(each.network, each.state) for each in missing] == [("mix", "not started"), ("random-1", "not started")]
    assert {each.reason for each in missing} == {"The search of mix failed: It diverged. Lower something."}
    assert done_here(study, out, at_once=3)[0] == "searches/mix"
    assert available_runs(out)["ct"].missing == ()


def test_draws_that_do_not_fit_end_only_their_own_trainings(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, study = tmp_path / "out", searching(make)
    monkeypatch.setattr(of_networks, "DRAWS", 0)
    assert done_here(study, out) == ["endoscopy/unet/seed-0", "searches/mix", "ct/mix/seed-0", "ct/unet/seed-0"]
    assert done_here(study, out) == []
    (missing,) = available_runs(out)["ct"].missing
    assert (missing.network, missing.state) == ("random-1", "failed")
    assert missing.reason.startswith("random: Of 0 genotypes sampled like 'mix' only 0 have its")


def test_what_goes_wrong_before_a_process_starts_ends_only_that_run(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full, and memory that torch does not get."""
    study, out, job = make([UNET], [{"data": "ct", "seeds": [0, 1, 2]}]), tmp_path / "out", Plan.job
    wrong = {0: OSError(28, "No space left on device"), 1: RuntimeError("not enough memory")}

    def fails(plan: Plan, step: Step) -> Job:
        if step.recipe.seed in wrong and (out / "study.yaml").exists():
            raise wrong[step.recipe.seed]
        return job(plan, step)

    monkeypatch.setattr(Plan, "job", fails)
    assert done_here(study, out) == ["ct/unet/seed-2"]
    missing = available_runs(out)["ct"].missing
    assert [(one.seed, one.state) for one in missing] == [(0, "failed"), (1, "failed")]
    assert [one.reason for one in missing] == ["[Errno 28] No space left on device", "not enough memory"]


def test_a_score_that_is_undefined_ends_nothing(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, out = make([UNET], [{"data": "ct"}]), tmp_path / "out"
    plan = prepare(study, out)
    (step,) = plan.steps
    run = RunDirectory.create(step.paths.run, step.recipe, kind="train", data_fingerprint=step.data)
    run.write_json("summary.json", {"score": "auroc", "best_score": None})
    with progress_bar("study", 1, is_told=False) as bar:
        runs = module._Runs(plan, Here(), bar)
    runs.running[step.paths.name] = step
    runs._end(Ended(step.paths.name))
    assert "auroc undefined on the validation images" in capsys.readouterr().err


def test_runs_go_seed_by_seed_then_group_by_group(make: Make, data: Path, tmp_path: Path) -> None:
    groups = [{"data": "ct", "seeds": [1, 0]}, {"data": ["ct", "endoscopy"], "seeds": [1, 2], "networks": "unet"}]
    steps = prepare(make([small(data), UNET], groups), tmp_path / "out").steps
    assert [step.paths.name for step in steps] == [
        "ct/searched/seed-0",
        "ct/unet/seed-0",
        "ct/searched/seed-1",
        "ct/unet/seed-1",
        "ct-endoscopy/unet/seed-1",
        "ct-endoscopy/unet/seed-2",
    ]
    assert [step.recipe.seed for step in steps] == [0, 0, 1, 1, 1, 2]


# --- what is refused before anything is done ------------------------------------------------------------------------


def refused(study: Study, out: Path, error: type[MedartsError], says: str) -> None:
    """Holds that a study is refused, and that nothing in its folder changes; a new folder is not left."""
    there, before = out.exists(), files(out)
    with pytest.raises(error, match=says):
        benchmark(study, out)
    assert (out.exists(), files(out)) == (there, before)


def files(folder: Path) -> dict[Path, bytes]:
    known = (folder / "study.yaml").exists()  # then it has a lock
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not (known and path.name == ".lock")
    }


def test_runs_of_another_recipe_network_or_data_are_refused(make: Make, data: Path, tmp_path: Path) -> None:
    out, group = tmp_path / "out", {"data": "ct"}
    study = make([small(data), UNET], [group])
    for step in prepare(study, out).steps:
        run = start_training(step.recipe, prepare(study, out).networks.architecture(str(step.network)), step.paths.run)
    says = "ct/searched/seed-0 was started with train.epochs 1, but the study has 2. Undo that change"
    refused(make([small(data), UNET], [group], "recipe.train.epochs=2"), out, RunError, says)
    wider = {"model": {"name": "unet", "width": 4, "depth": 2}}
    refused(
        make([wider], [group]), out, RunError, "unet/seed-0 was started with train.model.width 2, but the study has 4"
    )
    says = "searched/seed-0 was started with a genotype of other settings"
    refused(make([small(data, init_channel=4)], [group]), out, RunError, says)
    says = (
        "searched/seed-0 was started with train.model None, but the study has {'depth': 2, 'name': 'unet', 'width': 2}"
    )
    refused(make([UNET | {"name": "searched"}], [group]), out, RunError, says)
    run.write_json("run.json", run.facts | {"data_fingerprint": "of other images"})
    refused(study, out, RunError, "The data of .*ct/unet/seed-0 have changed since")


@pytest.mark.parametrize(
    ("networks", "change", "error", "says"),
    [
        ([UNET], "recipe.data.size=33", RecipeError, "networks.0 on trained_on.0: .*33 cannot be halved once"),
        ([UNET], "recipe.train.loss=ce", RecipeError, "trained_on.0: train.loss 'ce'"),
        ([UNET], "recipe.train.batch=400", MedartsError, "trained_on.0: .* fewer than a batch of 400"),
        ([UNET], "recipe.data.sources.2.path=/nowhere", MedartsError, "trained_on.0: .*/nowhere"),
        (
            [{"genotype": "darts_v2"}],
            "note=x",
            RecipeError,
            "networks.0 on trained_on.0: darts_v2 is a network for cla",
        ),
        ([UNET, {"genotype": "darts_v3"}], "note=x", MedartsError, "networks.1 .*: darts_v3: There is no genotype"),
        ([{"name": "mix", "searched_on": "ct"}], "recipe.search.loss=ce", RecipeError, "networks.0: search.loss 'ce'"),
        (
            [{"name": "mix", "searched_on": "ct"}],
            "recipe.data.size=36",
            RecipeError,
            "networks.0: .*36 cannot be halved",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    make: Make, tmp_path: Path, *, networks: list, change: str, error: type[MedartsError], says: str
) -> None:
    says = rf"^{re.escape(str(tmp_path / 'study.yaml'))}: {says}"
    refused(make(networks, [{"data": "ct"}], change), tmp_path / "new" / "out", error, says)
    assert not (tmp_path / "new").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    refused(make(networks, [{"data": "ct"}], change), tmp_path / "out", error, says)


def test_findings_that_no_test_image_ranks_are_refused(table_data: Path, tmp_path: Path) -> None:
    """Otherwise the comparison would fail, after all trainings."""
    rows = (table_data / "labels.csv").read_text().splitlines()
    rows = [f"{row.partition(',test,')[0]},test,0,0,0" if ",test," in row else row for row in rows]
    (table_data / "labels.csv").write_text("\n".join(rows))
    data = {"sources": [{"kind": "table", "path": str(table_data), "name": "films"}], "size": 32, "in_channels": 1}
    network = {"model": {"name": "chexnet", "growth": 2}}
    study = {"recipe": {"data": data, "train": {"batch": 4}}, "networks": [network], "trained_on": [{"data": "films"}]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(DataError, match="All test images of films, or none, show every finding"):
        prepare(load_study(tmp_path / "study.yaml"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_test_images_without_any_mask_are_refused(folder_data: Path, tmp_path: Path) -> None:
    """Otherwise the comparison would fail, after all trainings."""
    source = {"kind": "folder", "path": str(folder_data), "name": "blobs"}
    data = {"sources": [source], "size": 32, "cache": str(tmp_path / "cache")}
    group, network = {"data": "blobs"}, {"model": {"name": "unet", "width": 2, "depth": 2}}
    study = {"recipe": {"data": data, "train": {"batch": 4}}, "networks": [network], "trained_on": [group]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    for sample in open_sources([make_source(**source)]).of_split("test").samples:
        Image.new("L", (32, 32)).save(sample.mask)
    with pytest.raises(DataError, match="All masks of the test images of blobs are empty: they"):
        prepare(load_study(tmp_path / "study.yaml"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_searched_on_an_external_data_set_is_refused(make: Make, data: Path, tmp_path: Path) -> None:
    study = make([UNET], [{"data": "ct"}])
    dermoscopy, endoscopy, _ = (source.model_dump(mode="json") for source in study.recipe.data.sources)
    recipe = study.recipe.model_dump(mode="json")
    elsewhere = {"sources": [endoscopy, {**dermoscopy, "name": "known by another name"}]}
    run = RunDirectory.create(
        tmp_path / "found", parse({**recipe, "data": recipe["data"] | elsewhere}), kind="search", data_fingerprint=""
    )
    load(str(data / "small.json")).save(run.path / "genotype.json")
    run.write_json("run.json", run.facts | {"finished": True})
    for genotype in (run.path, run.path / "genotype.json"):
        says = r"study.yaml: networks.0.genotype: .*found was searched on .*isic, which is 'skin' here and external"
        networks = [{"name": "found", "genotype": str(genotype)}]
        study = make(networks, [{"data": "ct"}], "external=[skin]", "recipe.data.sources.0.name=skin")
        refused(study, tmp_path / "out", RecipeError, says)
    assert len(prepare(make(networks, [{"data": "ct"}]), tmp_path / "out").steps) == 1


def test_two_processes_cannot_work_in_one_folder(make: Make, tmp_path: Path) -> None:
    study = make([UNET], [{"data": "ct"}])
    (tmp_path / "out").mkdir()
    held = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdout is not None
    assert held.stdout.readline() == "held\n"
    refused(study, tmp_path / "out", RunError, rf"Another process is at work on .*out: benchmark, process {held.pid} ")
    held.communicate("")
    with pytest.raises(RecipeError, match="jobs is 0"):
        benchmark(study, tmp_path / "out", jobs=0)
    with pytest.raises(RunError, match="out holds no study"):
        available_runs(tmp_path / "out")


def test_runs_have_the_threads_of_the_first_call_however_many_are_done_at_once(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # what is restored would be 8
    fixed, free = (make([UNET], [{"data": "ct"}], f"recipe.compute.threads={number}") for number in (3, 0))
    nothing = tmp_path / "none.yaml"
    threads = [
        with_threads(study, nothing, jobs=jobs).recipe.compute.threads
        for study, jobs in ((fixed, 2), (free, 1), (free, 3), (free, 20))
    ]
    assert threads == [3, 8, 2, 1]
    assert "Every run has 2 of 8 threads" in capsys.readouterr().err
    out = tmp_path / "out"
    for at_once in (2, 1, 4):
        plan = prepare(with_threads(free, Layout(out).study, jobs=at_once), out)
        assert {step.recipe.compute.threads for step in plan.steps} == {4}
    chosen = make([UNET], [{"data": "ct"}], "recipe.compute.threads=1")
    assert with_threads(chosen, Layout(out).study, jobs=1).recipe.compute.threads == 1


# --- damaged runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [("run.json", "lost"), *((n, c) for n in ("run.json", "recipe.yaml", "genotype.json") for c in ("", "{", "[]"))],
)
def test_a_damaged_run_fails_and_the_others_go_on(
    make: Make, data: Path, tmp_path: Path, name: str, content: str
) -> None:
    """Nothing is trained here: every run is one that has finished, and is scored."""
    out = tmp_path / "out"
    study = make([small(data), UNET], [{"data": "ct", "seeds": [0, 1]}])
    for step in prepare(study, out).steps:
        finished_run(step, load(str(data / "small.json")) if step.network == "searched" else UNetSettings(**SMALL_UNET))
    path = out / "runs" / "ct" / "searched" / "seed-0" / name
    if content == "lost":
        path.unlink()
    else:
        path.write_text(content)
    benchmark(study, out)
    there = available_runs(out)["ct"]
    assert [(one.name, one.seeds) for one in there.candidates] == [("searched", (1,)), ("unet", (0, 1))]
    (missing,) = there.missing
    assert (missing.network, missing.seed, missing.state) == ("searched", 0, "failed")
    assert name in missing.reason


def test_what_needs_a_damaged_search_is_not_begun_and_the_others_go_on(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    study = make([{"name": "mix", "searched_on": "ct"}, UNET], [{"data": "ct"}])
    for step in prepare(study, out).steps:
        if step.network == "unet":
            finished_run(step, UNetSettings(**SMALL_UNET))
    search = Layout(out).search("mix").run
    search.mkdir(parents=True)
    (search / "run.json").write_text("[]")
    assert {step.paths.name for step in prepare(study, out).steps} == {"ct/unet/seed-0"}
    benchmark(study, out)
    there = available_runs(out)["ct"]
    assert [one.name for one in there.candidates] == ["unet"]
    assert [(one.state, "run.json" in one.reason) for one in there.missing] == [("not started", True)]


SMALL_UNET = {"width": 2, "depth": 2}


def finished_run(step: Step, architecture: Any) -> None:
    """Writes what a study asks a finished and scored run for."""
    settings = {} if isinstance(architecture, Genotype) else {"model": architecture}
    recipe = step.recipe.model_copy(update={"train": step.recipe.train.model_copy(update=settings)})
    if isinstance(architecture, Genotype):
        recipe = recipe.model_copy(update={"space": space_settings(architecture)})
    files = {"genotype.json": architecture.to_json() + "\n"} if isinstance(architecture, Genotype) else {}
    facts = {"network": step.network, "environment": {}}
    run = RunDirectory.create(step.paths.run, recipe, kind="train", data_fingerprint=step.data, files=files, **facts)
    (run.path / "scores" / "test").mkdir(parents=True)
    (run.path / "scores" / "test" / "scores.json").write_text("{}")
    run.finish()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="no folder is read-only to this user")
def test_a_folder_that_cannot_be_written_is_refused_before_the_images_are_read(make: Make, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(RunError, match=r"closed/out could not be written \(Permission denied\)"):
        benchmark(make([UNET], [{"data": "ct"}]), tmp_path / "closed" / "out")


def test_a_folder_below_a_file_is_refused_before_the_images_are_read(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "prepare", None)
    with pytest.raises(RunError, match=r"file/out could not be written \(Not a directory\)"):
        benchmark(make([UNET], [{"data": "ct"}]), tmp_path / "file" / "out")
