"""The command line: help, output for machines, and one line for whatever a user can fix."""

import json
import os
import platform
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.data.layouts_of_tests import LAYOUTS
from tests.processes_of_tests import start_command

from medarts import cli
from medarts.config import Recipe, apply_overrides, load, parse, to_yaml
from medarts.deploy.decisions import RULES
from medarts.deploy.engines import ENGINES
from medarts.engine import checkpoint
from medarts.engine.directory import RunDirectory
from medarts.engine.engine import Trial
from medarts.nas.search import start_search
from medarts.profiling.load import Load
from medarts.spaces.genotype import load_genotype

PUBLISHED = "alpha0_5_stage1_nodouble_deep_ep80"


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    return changed(small_recipe, "data.size=16", "space.intermediate_nodes=1")


@pytest.fixture
def recipe_file(recipe: Recipe, tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(to_yaml(recipe))
    return tmp_path / "small.yaml"


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


def refused(answer: tuple[int, str, str], *parts: str) -> None:
    """Holds that a command failed with one line that has these parts."""
    status, output, errors = answer
    assert status == 1
    assert output == ""
    assert errors.startswith("medarts: ")
    assert errors.count("\n") == 1, errors
    assert errors == errors.rstrip() + "\n", "spaces at the end"
    for part in parts:
        assert part in errors


# --- help -------------------------------------------------------------------------------------------------------

ARGUMENTS = {
    "demo": ("--out", "--task", "segmentation", "classification"),
    "phantoms": ("FOLDER", "--task", "--images", "--size", "--seed"),
    "doctor": ("DATA", "--out"),
    "plan": ("RECIPE", "KEY=VALUE", "--memory-mb", "--json"),
    "search": ("RECIPE", "KEY=VALUE", "--out", "--resume"),
    "train": (
        "RUN",
        "KEY=VALUE",
        "--genotype",
        "--model",
        "--recipe",
        "--data",
        "--init-channel",
        "--out",
        "--resume",
        "--from",
    ),
    "prune": (
        "RUN|PACKAGE",
        "KEY=VALUE",
        "--method",
        "--keep-flops",
        "--keep-parameters",
        "--keep-latency",
        "--keep-channels",
        "--steps",
        "--epochs",
        "--sparse-epochs",
        "--data",
        "--out",
    ),
    "export": ("RUN", "--out", "--head", "--int8", "--torch", "--bundle", "--images", "--force"),
    "evaluate": ("RUN", "--data", "--split", "--head"),
    "predict": (
        "MODEL",
        "PATH",
        "--out",
        "--batch",
        "--engine",
        "--threads",
        "--probabilities",
        "--overlay",
        "--window",
        "--flip",
        "--largest",
        "--decision",
        "--force",
    ),
    "init": ("DATA", "KEY=VALUE", "--out", "--task", "--budget", "--yes", "--no-plan", "--force"),
    "recipe": ("KEY", "--schema"),
    "show": ("GENOTYPE|RUN", "--out"),
    "cost": ("GENOTYPE|RUN|MODEL", "KEY=VALUE", "--size", "--threads", "--batch", "--repeats", "--figure", "--json"),
    "compare": ("RUN", "--against", "--split", "--out"),
    "benchmark": ("RECIPE", "KEY=VALUE", "--out", "--jobs"),
    "generalize": ("RECIPE|FOLDER", "KEY=VALUE", "--out", "--jobs"),
    "noise": ("RUN", "--seeds", "--jobs", "--json"),
    "report": ("RUN",),
    "pack": ("RUN", "--out"),
    "cache": ("FOLDER", "--clear"),
}


@pytest.mark.parametrize("command", ARGUMENTS)
def test_help_names_the_arguments(medarts, command):
    status, output, errors = medarts(command, "--help")
    assert status == 0
    assert errors == ""
    for argument in ARGUMENTS[command]:
        assert argument in output


def test_help_names_the_commands(medarts):
    status, output, _ = medarts("--help")
    assert status == 0
    assert set(ARGUMENTS) == set(cli.COMMANDS)
    for command in ARGUMENTS:
        assert f"• {command} " in output


@pytest.mark.parametrize("command", [None, *ARGUMENTS])
def test_help_fits_into_80_columns_and_breaks_no_word(medarts, monkeypatch, command):
    words = ("--help",) if command is None else (command, "--help")
    found = []
    for columns in (80, 1000):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = medarts(*words)[1].splitlines()
        assert max(map(len, lines)) <= columns
        found.append({word for line in lines for word in re.sub("[│╭╮╰╯─]|-{9,}", " ", line).split()})
    assert found[0] == found[1]


@pytest.mark.parametrize("columns", ["0", "1", "5"])
def test_help_ends_on_a_terminal_of_any_width(medarts, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    status, output, _ = medarts("report", "--help")
    assert status == 0
    assert "RUN" in output


@pytest.mark.parametrize("words", [(), ("sarch",), ("search", "--outt", "x"), ("cost", PUBLISHED, "--size", "big")])
def test_words_that_are_no_command_exit_with_2(medarts, words):
    status, output, errors = medarts(*words)
    assert status == 2
    assert output == ""
    assert errors


# --- what is refused --------------------------------------------------------------------------------------------


def test_recipes_that_are_refused(medarts, recipe_file, tmp_path):
    out = ("--out", tmp_path / "run")
    refused(medarts("search", "missing.yaml", *out), "There is no recipe missing.yaml.", "path of a YAML file")
    refused(medarts("plan", "missing.yaml"), "There is no recipe missing.yaml.")
    refused(medarts("search", recipe_file, "search.stages.0.epoch=3", *out), "search.stages.0.epoch", "'epochs'")
    refused(medarts("search", recipe_file, "serch.lr=3", *out), "serch is not a key", "'search'")
    refused(medarts("search", recipe_file, "search.loss=dise", *out), "search.loss", "'dise'", "'dice'")
    refused(medarts("search", recipe_file, "search.lr=-1", *out), "search.lr", "-1", "greater than 0")
    refused(
        medarts("search", recipe_file, "search.stages.1.accumulate=5", *out), "search.stages.1: accumulate 5", "1 to 4"
    )
    refused(medarts("search", recipe_file, "search.stages.7.epochs=1", *out), "no item '7'", "0 to 1")
    refused(medarts("search", recipe_file, "search.stages.0.keep={nromal: 2}", *out), "nromal", "normal")
    refused(medarts("search", recipe_file, "data.size=20", *out), "size 20", "halved 3 times", "Use 16 or 24")
    refused(medarts("search", recipe_file, "search.loss=ce", *out), "search.loss 'ce'", "data.classes 1", "bce_logits")
    refused(medarts("search", recipe_file, "compute.precision=fp16", *out), "fp16", "bf16 or fp32")
    refused(medarts("search", recipe_file, "data.sources.0.path=$NOT_SET_AT_ALL/x", *out), "$NOT_SET_AT_ALL", "export")
    (tmp_path / "broken.yaml").write_text("data: [1, 2\nseed: 1\n")
    refused(medarts("search", tmp_path / "broken.yaml", *out), "broken.yaml is not valid YAML", "line 2")
    (tmp_path / "empty.yaml").write_text("")
    refused(medarts("search", tmp_path / "empty.yaml", *out), "empty.yaml holds no keys")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def spoil_missing(data: Path) -> None:
    data.rename(data.with_name("moved"))


def spoil_empty(data: Path) -> None:
    for path in data.rglob("*.png"):
        path.unlink()


def spoil_png(data: Path) -> None:
    (data / "images" / "blob_03.png").write_bytes(b"this is no PNG file")


def spoil_truncated(data: Path) -> None:
    path = data / "images" / "blob_03.png"
    path.write_bytes(path.read_bytes()[:600])


def spoil_tiff(data: Path) -> None:
    (data / "images" / "blob_03.png").unlink()
    tifffile.imwrite(data / "images" / "blob_03.tif", np.zeros((32, 32), np.uint16))
    path = data / "images" / "blob_03.tif"
    path.write_bytes(path.read_bytes()[:300])


def spoil_dicom(data: Path) -> None:
    (data / "images" / "blob_03.png").unlink()
    (data / "images" / "blob_03.dcm").write_bytes(b"\0" * 128 + b"DICM and then nothing of use")


def spoil_size(data: Path) -> None:
    Image.new("L", (31, 32)).save(data / "masks" / "blob_03.png")


SPOILT = {
    "missing folder": (spoil_missing, (), ("There is no folder", "blobs", "images/ and masks/")),
    "empty folder": (spoil_empty, (), ("blobs holds no images", "images/ and masks/")),
    "image without mask": (
        lambda data: (data / "masks" / "blob_03.png").unlink(),
        (),
        ("image without a mask", "blob_03.png", "Add the missing files"),
    ),
    "mask without image": (
        lambda data: (data / "images" / "blob_03.png").unlink(),
        (),
        ("mask without an image", "blob_03.png", "Add the missing files"),
    ),
    "corrupt png": (spoil_png, (), ("blob_03.png",)),
    "truncated png": (spoil_truncated, (), ("blob_03.png",)),
    "truncated tiff": (spoil_tiff, (), ("blob_03.tif",)),
    "corrupt dicom": (spoil_dicom, (), ("blob_03.dcm",)),
    "size mismatch": (spoil_size, (), ("blob_03.png is 32 x 32", "its mask", "32 x 31")),
    "label out of range": (
        lambda data: None,
        ("data.sources.0.labels={255: 3}", "data.classes=3", "search.loss=ce", "train.loss=ce"),
        ("masks/blob_00.png holds class 3", "data.classes allows 0 to 2", "data.classes=4"),
    ),
    "label not named": (
        lambda data: None,
        ("data.sources.0.labels={7: 1}",),
        ("masks/blob_00.png", "255"),
    ),
    "fewer than a batch": (
        lambda data: None,
        ("search.stages.1.batch=11",),
        ("weight half", "fewer than a batch of 11", "Lower the batch size"),
    ),
    "no validation images": (
        lambda data: (data / "splits.csv").write_text((data / "splits.csv").read_text().replace(",val", ",gap")),
        ("data.sources.0.fractions=[0, 0]",),
        ("split 'val'", "blobs"),
    ),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_data_that_are_refused_leave_nothing_behind(medarts, recipe_file, folder_data, tmp_path, fault):
    spoil, changes, parts = SPOILT[fault]
    spoil(folder_data)
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    refused(medarts("search", recipe_file, *changes, "--out", tmp_path / "deep" / "run"), *parts)
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    assert not [path for path in tmp_path.rglob("*") if "unfinished" in path.name]
    if fault != "fewer than a batch":  # which is said by a trial in a process of its own; see test_plan
        refused(medarts("plan", recipe_file, *changes), *parts)


def test_genotypes_that_are_refused(medarts, folder_data, tmp_path):
    refused(medarts("cost", PUBLISHED[:-1]), f"no network '{PUBLISHED[:-1]}'", f"Did you mean '{PUBLISHED}'?")
    refused(medarts("cost", PUBLISHED, "--size", "100"), "size 100", "Use 96 or 128")
    genotype = json.loads(load_genotype(PUBLISHED).to_json())
    for name, change, parts in (
        ("other", {"space": "darts"}, (f"Genotype '{PUBLISHED}' has the unknown setting",)),
        ("unknown", {"space": "nas-wdn"}, ("of the unknown space 'nas-wdn'", "Did you mean 'nas-wdan'?")),
        ("newer", {"version": 2}, ("newer.json has version 2", "reads 1")),
        ("cut", {"cells": {}}, (PUBLISHED, "cell")),
    ):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**genotype, **change}))
        refused(medarts("cost", path), *parts)
        refused(medarts("show", path), *parts)
        refused(medarts("train", "--genotype", path, "--data", folder_data, "--out", tmp_path / "run"), *parts)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "drawings").exists()


def test_runs_that_are_refused(medarts, recipe, recipe_file, folder_data, tmp_path):
    search = RunDirectory.create(tmp_path / "search", recipe, kind="search", data_fingerprint="x").path
    train = RunDirectory.create(tmp_path / "train", recipe, kind="train", data_fingerprint="x").path
    load_genotype(PUBLISHED).save(train / "genotype.json")
    before = {path: path.read_bytes() for path in (*search.rglob("*"), *train.rglob("*"))}

    refused(medarts("search", recipe_file, "--out", train), f"{train} already holds another run", "--out")
    words = ("train", "--genotype", PUBLISHED, "--data", folder_data)
    refused(medarts(*words, "--out", search), f"{search} already holds another run")
    refused(medarts("train", "--resume", search), f"{search} is a search run", "Give a train run")
    refused(medarts("search", "--resume", train), f"{train} is a train run", "Give a search run")
    refused(medarts("search", "--resume", tmp_path), "is not a run directory")
    refused(medarts("search", "--resume", search), f"data of {search} have changed")
    refused(medarts("evaluate", train), f"{train} has no checkpoint yet", f"medarts train --resume {train}")
    refused(medarts("evaluate", search), f"{search} is a search run")
    refused(medarts("evaluate", train, "--split", "tset"), "no split 'tset'", "'test'")
    refused(medarts("evaluate", train, "--data", "blubs"), "'blubs'", "Did you mean 'blobs'?")
    refused(medarts("evaluate", tmp_path / "nowhere"), "nowhere is not a run directory")
    refused(medarts("report", tmp_path / "nowhere"), "nowhere is not a run directory")
    assert {path: path.read_bytes() for path in (*search.rglob("*"), *train.rglob("*"))} == before


def test_folders_that_cannot_be_written(medarts, recipe_file, tmp_path):
    (tmp_path / "file").write_text("")
    refused(medarts("search", recipe_file, "--out", tmp_path / "file" / "run"), f"{tmp_path / 'file' / 'run'}")
    words = ("search", recipe_file, f"data.cache={tmp_path / 'file' / 'cache'}", "--out", tmp_path / "run")
    refused(medarts(*words), f"{tmp_path / 'file' / 'cache'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("phantoms x --size 0", "size is 0. Use 32 to 4,096."),
        ("phantoms x --images 0", "images is 0. Use 25 to 100,000."),
        ("phantoms x --images 999999999999", "images is 999999999999. Use 25 to 100,000."),
        ("phantoms x --seed -1", "seed is -1. Use 0 to 2,147,483,647."),
        ("plan small.yaml --memory-mb 0", "memory_mb is 0. Use 1 to 100,000,000."),
        ("benchmark small.yaml --jobs 0", "jobs is 0. Use 1 to 64."),
        ("generalize small.yaml --jobs 100000", "jobs is 100000. Use 1 to 64."),
        ("cost unet --size 1000000", "size is 1000000. Use 16 to 4,096."),
        ("cost unet --in-channels 0", "in_channels is 0. Use 1 to 64."),
        ("cost unet --outputs 1000000", "outputs is 1000000. Use 1 to 200."),
        ("cost darts_v2 --init-channel 1000000", "init_channel is 1000000. Use 2 to 1,024."),
        ("cost unet --repeats -1", "repeats is -1. Use 2 to 10,000, or 0"),
        ("cost unet --batch 100000", "batch is 100000. Use 1 to 1,024."),
        ("cost unet --batch 2 2", "batch has a number twice."),
        ("cost unet unetpp unet", "unet is named twice. Name every network once."),
        ("cost runs/x/../x runs/x", "is named twice"),
        ("train --genotype darts_v2 --init-channel 0 --data blobs", "init_channel 0. Use 2 to 1,024."),
    ],
)
def test_numbers_and_doubles_that_are_refused(medarts, recipe_file, tmp_path, words, says):
    (tmp_path / "runs" / "x").mkdir(parents=True)
    refused(medarts(*words.split()), says)


def test_an_option_that_there_is_not_is_unknown_however_often_it_is_given(medarts, recipe_file):
    for words in (("--set", "a=b"), ("--set", "a=b", "--set", "c=d")):
        status, _, errors = medarts("search", recipe_file, *words)
        assert status != 0
        assert "Unrecognized options" in errors
        assert "--set" in errors
        assert "twice" not in errors


@pytest.mark.parametrize("command", ["train", "evaluate", "report", "show", "cost"])
def test_runs_with_an_equals_sign(medarts, recipe, tmp_path, command):
    """A word that is there is a path; one with a slash is not a change to a recipe either."""
    refused(medarts(command, "runs/lr=0.2"), "runs/lr=0.2")
    run = RunDirectory.create(tmp_path / "lr=0.1", recipe, kind="train", data_fingerprint="x", network="x").path
    _, output, errors = medarts(command, run.name)
    assert "lr=0.1" in output + errors
    for misread in ("do not fit together", "There is no", "is not a run"):
        assert misread not in errors


@pytest.mark.parametrize("name", ["[/x]", "a\nb", "\x1b[31mred", os.fsdecode(b"\xe9"), "x" * 5000])
def test_odd_names_in_errors_are_shown_in_one_line(medarts, name):
    for command in ("show", "plan", "evaluate", "report", "doctor"):
        status, output, errors = medarts(command, name)
        assert (status, output) == (1, "")
        assert errors.count("\n") == 1
        assert "\x1b" not in errors
        errors.encode()
        assert len(errors) < 6000


def test_a_folder_in_place_of_a_file(medarts, tmp_path):
    (tmp_path / "folder").mkdir()
    for command in ("plan", "search", "benchmark"):
        refused(medarts(command, "folder"), "folder is a folder, not a")


def test_a_study_with_a_key_twice(medarts, recipe_file, tmp_path):
    (tmp_path / "study.yaml").write_text("recipe: small.yaml\nnetworks: [{model: unet}]\nrecipe: small.yaml\n")
    refused(medarts("benchmark", "study.yaml"), "study.yaml is not valid YAML", "'recipe' appears twice, lines 1 and 3")
    (tmp_path / "study.yaml").write_text("recipe: small.yaml\nnetworks: [{model: unet}]\ntrained_on: [{data: blobs}]\n")
    recipe_file.write_text(recipe_file.read_text() + "seed: 3\n")
    refused(medarts("benchmark", "study.yaml"), "small.yaml is not valid YAML", "'seed' appears twice, lines 2 and")


def test_errors_of_the_system_name_file_and_fix(medarts, monkeypatch):
    def failing(name, **_):
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.setattr("medarts.profiling.named.architecture_named", failing)
    refused(medarts("cost", PUBLISHED), "runs/x: No space left on device. Make room on the disk.")


@pytest.mark.parametrize(
    "error", [MemoryError("x"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_memory_that_runs_out_is_said_in_one_line(medarts, monkeypatch, error):
    def failing(name, **_):
        raise error

    monkeypatch.setattr("medarts.profiling.named.architecture_named", failing)
    refused(medarts("cost", PUBLISHED), "Out of memory. Use smaller images")


def test_output_in_a_real_process():
    """In an encoding without the signs of the help's boxes, and to a full disk."""
    command = [sys.executable, "-m", "medarts.cli", "--help"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=ascii_only, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"* search" in done.stdout
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 1
    # Standard output is named where the flush at the end fails, and has no name where a print does.
    name = rb"(standard output|The operating system says)"
    assert re.fullmatch(rb"medarts: " + name + rb": No space left on device\. Make room on the disk\.\n", done.stderr)


def test_control_c_outside_of_the_loops(medarts, monkeypatch):
    def interrupted(name, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr("medarts.profiling.named.architecture_named", interrupted)
    assert medarts("cost", PUBLISHED) == (130, "", "Stopped.\n")
    assert medarts("cost", PUBLISHED, "--requeue") == (75, "", "Stopped.\n")


def test_what_saves_and_goes_on_says_in_its_help_how_schedulers_learn_of_it(medarts):
    told = {name for name in cli.COMMANDS if "--requeue" in medarts(name, "--help")[1]}
    assert told == {"search", "train", "prune", "predict", "benchmark", "noise", "generalize"}


@pytest.mark.usefixtures("hangups_heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_scheduler_that_stops_a_command_outside_of_the_loops(medarts, monkeypatch, number):
    before = signal.getsignal(number)
    monkeypatch.setattr("medarts.profiling.named.architecture_named", lambda *_, **__: signal.raise_signal(number))
    assert medarts("--requeue", "cost", PUBLISHED) == (75, "", "Stopped.\n")
    assert signal.getsignal(number) is before


def test_an_interruption_of_imports_is_no_traceback() -> None:
    code = """
import runpy, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "tyro":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
runpy.run_module("medarts", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Stopped.\n")


@pytest.mark.parametrize(
    "words",
    [
        ("search",),
        ("search", "a.yaml", "b.yaml"),
        ("search", "a.yaml", "--resume", "run"),
        ("train",),
        ("train", "run", "--resume", "run"),
        ("train", "--resume", "run", "--data", "isic"),
        ("train", "--resume", "run", "--init-channel", "8"),
        ("train", "--resume", "run", "--recipe", "a.yaml"),
    ],
    ids=" ".join,
)
def test_words_that_do_not_go_together(medarts, words):
    refused(medarts(*words), "do not fit together", f"Usage: medarts {words[0]} ")


def test_training_needs_data(medarts, tmp_path):
    refused(medarts("train", "--genotype", PUBLISHED), "no data to train on", "--data FOLDER")
    refused(medarts("train", "--genotype", PUBLISHED, "--data", "nowhere"), "'nowhere'", "folder of a data set")
    (tmp_path / "odd").mkdir()
    refused(medarts("train", "--genotype", PUBLISHED, "--data", "odd"), "odd has no known layout")
    assert not (tmp_path / "runs").exists()


# --- what is answered -------------------------------------------------------------------------------------------


def test_plan_as_json(medarts, recipe_file, tmp_path, monkeypatch):
    # The trials of test_plan run in processes of their own; here their answer counts.
    monkeypatch.setattr("medarts.profiling.plan.in_new_process", lambda attempt: attempt())
    status, output, _ = medarts("plan", recipe_file, "--json")
    assert status == 0
    found = json.loads(output)
    assert len(found["search"]["stages"]) == 2
    assert found["search"]["seconds"] > 0
    assert found["search"]["memory_mb"] > 0
    assert found["training"]["parameters"] > 0
    assert not (tmp_path / "runs").exists()
    status, output, _ = medarts("plan", recipe_file)
    assert status == 0
    assert "search, stage 2" in output
    assert "accumulate" in output
    assert "medarts search" not in output


def test_plan_with_a_budget(medarts, recipe_file, monkeypatch):
    def answer(attempt):
        settings = attempt.settings
        return Trial(1234, 5.0, 100.0 * settings.images_at_once, settings.accumulate, settings.images_at_once)

    monkeypatch.setattr("medarts.profiling.plan.in_new_process", answer)
    monkeypatch.setattr("medarts.pool.search.Load.now", lambda: Load(5.0, 2))
    words = ("plan", recipe_file, "search.stages.1.batch=3", "train.accumulate=4", "--memory-mb", "250")
    status, output, _ = medarts(*words)
    assert status == 0
    assert "search, stage 2" in output
    assert re.search(r"^still to come, with the scores: (about )?1( to \d+)? min$", output, re.MULTILINE)
    assert "The machine is busy (load 5.0 on 2 cores): times may be longer" in output
    assert output.endswith(
        "To stay within 250 MB:\n"
        "  medarts search RECIPE search.stages.0.accumulate=2 search.stages.1.accumulate=2\n"
        "  medarts train RUN train.accumulate=2\n"
    )
    found = json.loads(medarts(*words, "--json")[1])
    assert [stage["accumulate"] for stage in found["search"]["stages"]] == [2, 2]
    recipe = load(recipe_file, [*found["search"]["changes"], *found["training"]["changes"]])
    assert [stage.accumulate for stage in recipe.search.stages] == [2, 2]
    assert recipe.train.accumulate == found["training"]["accumulate"] == 2

    status, output, errors = medarts("plan", recipe_file, "--memory-mb", "99")
    assert (status, output) == (1, "")
    assert "Stage 1 of the search takes 100 MB" in errors.splitlines()[-1]


def test_doctor_exits_with_1_on_errors_alone(medarts, folder_data, recipe_file):
    status, output, _ = medarts("doctor", folder_data)
    assert status == 0
    assert "0 errors" in output
    Image.new("L", (32, 32)).save(folder_data / "masks" / "blob_05.png")
    status, output, _ = medarts("doctor", recipe_file)
    assert status == 0
    assert "blob_05.png: The mask is empty." in output.replace("\n", "")
    assert "0 errors, 1 warning\n" in output
    (folder_data / "masks" / "blob_03.png").unlink()
    status, output, _ = medarts("doctor", folder_data)
    assert status == 1
    assert "blob_03.png" in output
    refused(medarts("doctor", "nowhere"), "nowhere")


@pytest.mark.usefixtures("nothing_exported", "nothing_rendered")
def test_the_pipeline(medarts, recipe_file, folder_data, tmp_path):
    """search, train on one of its data sets, evaluate there and elsewhere, show: runs are all that is handed on."""
    status, output, errors = medarts("search", recipe_file, "note=a pipeline", "search.stages.1.epochs=1")
    assert status == 0
    assert output == "runs/small\n"
    assert errors.endswith("\nNext: medarts train runs/small\n")
    searched = RunDirectory.open(tmp_path / "runs" / "small", kind="search")
    assert searched.facts["finished"]
    assert searched.recipe.note == "a pipeline"
    assert not (searched.path / "cost.json").exists()  # an untrained network is neither timed nor drawn
    assert medarts("report", "runs/small")[:2] == (0, "runs/small/report.html\n")
    assert {"parameters", "flops", "timings"} <= set(searched.read_json("cost.json"))
    assert (searched.path / "report.html").stat().st_size > 10_000

    words = ("train", "runs/small", "train.epochs=1", "--data", "blobs", "--init-channel", "6")
    status, output, errors = medarts(*words)
    assert status == 0
    assert output == "runs/small-blobs\n"
    assert errors.endswith("\nNext: medarts evaluate runs/small-blobs\n")
    trained = RunDirectory.open(tmp_path / "runs" / "small-blobs", kind="train")
    assert trained.recipe.data.sources == searched.recipe.data.sources
    assert load_genotype(trained.path).settings["init_channel"] == 6
    assert load_genotype(trained.path).provenance["data_fingerprint"] == searched.facts["data_fingerprint"]
    refused(medarts(*words), "runs/small-blobs already holds another run")

    status, output, errors = medarts("evaluate", "runs/small-blobs")
    assert status == 0
    assert "blobs" in output
    assert errors.endswith("Next: medarts report runs/small-blobs\n")
    assert (trained.path / "scores" / "test" / "scores.json").exists()
    status, output, _ = medarts("evaluate", "runs/small-blobs", "--data", folder_data, "--split", "val")
    assert status == 0
    assert [*trained.path.glob("scores/val-blobs-????????/scores.json")]

    status, output, _ = medarts("show", "runs/small-blobs")
    assert status == 0
    drawn = [Path(line) for line in output.splitlines() if line.endswith((".svg", ".png"))]
    assert drawn
    assert all(path.stat().st_size > 0 for path in drawn)
    assert medarts("report", "runs/small-blobs")[:2] == (0, "runs/small-blobs/report.html\n")


def test_control_c_and_resume_in_a_real_process(medarts, recipe_file, recipe, tmp_path):
    """The exit status is 130, the one line says how to go on, and that gives what an undisturbed run gives."""
    stopped = Path("stopped") / "run"
    command = [sys.executable, "-m", "medarts.cli", "search", str(recipe_file), "--out", str(stopped)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (tmp_path / stopped / "metrics.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == f"Stopped; {stopped} is saved. Resume with: medarts search --resume {stopped}"
    assert "Traceback" not in errors

    assert medarts("search", "--resume", stopped)[0] == 0
    start_search(recipe, tmp_path / "whole" / "run")
    for name in ("metrics.jsonl", "architecture.jsonl", "genotype.json", "summary.json"):
        assert (tmp_path / stopped / name).read_bytes() == (tmp_path / "whole" / "run" / name).read_bytes()


@pytest.mark.usefixtures("nothing_exported", "nothing_rendered")
def test_the_pipeline_through_folders_of_any_name(medarts, recipe_file, folder_data, tmp_path):
    """A run keeps the name of its folder as far as a genotype can have it; every command takes the folder itself."""
    odd = recipe_file.rename(tmp_path / "my recipe (1) a+b.yaml")
    words = ("search.stages=[{depth: 3, epochs: 1, batch: 4}]", "search.arch_after=0")
    assert medarts("search", odd, *words)[:2] == (0, "runs/my recipe (1) a+b\n")
    searched = tmp_path / "runs" / "lr=0.1, #1@x [red]"
    (tmp_path / "runs" / "my recipe (1) a+b").rename(searched)
    assert load_genotype(searched).name == "my recipe-1-a-b"
    assert medarts("search", "--resume", searched)[0] == 0
    trained = Path("-") / os.fsdecode(b"\xe9 'x'")
    assert medarts("train", searched, "train.epochs=1", "--out", f"./{trained}")[0] == 0
    for command in (("evaluate", f"./{trained}"), ("show", searched), ("report", f"./{trained}"), ("cost", searched)):
        status, _, errors = medarts(*command)
        assert (status, errors.count("medarts: ")) == (0, 0), (command, errors)
    assert medarts("train", "--resume", f"./{trained}")[0] == 0
    assert RunDirectory.open(tmp_path / trained).facts["name"] == "x"


def test_a_search_at_work_keeps_others_out_and_hears_a_scheduler(medarts, recipe_file, tmp_path, monkeypatch):
    monkeypatch.setattr("medarts.api._PATIENCE", 0.1)  # of a report
    stages = "search.stages=[{depth: 3, epochs: 500, batch: 4}]"
    command = ("search", str(recipe_file), stages, "--out", "run", "--requeue")
    process = start_command(*command, folder=tmp_path, errors=tmp_path / "errors.txt")
    run = tmp_path / "run"
    try:
        end = time.monotonic() + 60
        while not (run / "metrics.jsonl").exists():
            assert process.is_alive()
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGSTOP)  # or it would miss its folder, if an epoch ended while that is elsewhere
        owner = f"Another process is at work on run: search, process {process.pid} on {platform.node()}, since 20"
        for words in (("search", "--resume"), ("report",)):
            refused(medarts(*words, "run"), owner, "Wait for it to end, or stop it.")
        refused(medarts("search", recipe_file, "--out", "run"), "run already holds another run")
        refused(medarts("train", "run"), "The search run has not finished")
        moved = run.rename(tmp_path / "moved")
        refused(medarts("search", "--resume", "moved"), f"process {process.pid} on")
        moved.rename(run)
        os.kill(process.pid, signal.SIGCONT)
        os.kill(process.pid, signal.SIGUSR1)
        process.join(60)
    finally:
        process.kill()
        process.join()
    errors = (tmp_path / "errors.txt").read_text()
    assert process.exitcode == 75, errors
    assert "medarts search --resume run" in errors
    records = RunDirectory.open(run).read_journal("metrics.jsonl")
    assert [record["epoch"] for record in records] == list(range(len(records)))  # none appears twice
    stage, epoch, _ = checkpoint.newest(run / "checkpoints", "last")
    assert (stage, epoch) == (0, len(records))
    assert not (run / ".lock").exists()


@pytest.mark.usefixtures("hangups_heard")
def test_a_closed_terminal_saves_the_step_in_hand(recipe_file, tmp_path):
    """The hangup comes with a terminal that takes no more output: what is printed must not end the run before."""
    stages = "search.stages=[{depth: 3, epochs: 500, batch: 4}]"
    terminal, inside = pty.openpty()
    words = ("search", str(recipe_file), stages, "--out", "run")
    process = start_command(*words, folder=tmp_path, errors=Path(os.devnull), terminal=os.ttyname(inside))
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert time.monotonic() < end
            os.set_blocking(terminal, False)
            with suppress(BlockingIOError):
                os.read(terminal, 65536)
            time.sleep(0.01)
        os.close(inside)
        os.close(terminal)
        process.join(60)
        assert process.exitcode is not None
    finally:
        process.kill()
        process.join()
    records = RunDirectory.open(tmp_path / "run").read_journal("metrics.jsonl")
    assert checkpoint.newest(tmp_path / "run" / "checkpoints", "last")[1] == len(records)
    assert not (tmp_path / "run" / ".lock").exists()


def test_drawings_of_a_run_are_not_written_through_links(medarts, recipe, tmp_path):
    run = RunDirectory.create(tmp_path / "run", recipe, kind="search", data_fingerprint="x").path
    load_genotype(PUBLISHED).save(run / "genotype.json")
    (tmp_path / "mine").mkdir()
    (run / "pictures").symlink_to(tmp_path / "mine")
    refused(medarts("show", "run"), "run/pictures is a symbolic link")
    refused(medarts("report", "run"), "run/pictures is a symbolic link")
    assert not any((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("command", ["show", "report"])
def test_what_is_written_into_a_run_waits_for_its_lock(medarts, recipe, tmp_path, command, monkeypatch):
    monkeypatch.setattr("medarts.api._PATIENCE", 0.1)
    run = RunDirectory.create(tmp_path / "run", recipe, kind="search", data_fingerprint="x")
    load_genotype(PUBLISHED).save(run.path / "genotype.json")
    answers = []
    with run.at_work("search"):
        other = threading.Thread(target=lambda: answers.append(medarts(command, "run")))
        other.start()
        other.join()
    refused(answers[0], "Another process is at work on run: search")
    assert not (run.path / "pictures").exists()
    assert not (run.path / "report.html").exists()


def test_a_place_for_drawings_that_cannot_be_written(medarts, tmp_path):
    (tmp_path / "file").touch()
    refused(medarts("show", PUBLISHED, "--out", "file"), "file could not be written (File exists).")


def test_choices_of_options_are_those_of_the_library() -> None:
    """The command line states them itself, as it imports little."""
    assert get_args(cli.Decision) == RULES
    assert get_args(cli.Engine) == tuple(ENGINES)


@pytest.mark.parametrize(
    ("command", "shown"), [("init", "--task {segm"), ("predict", "--engine {onnxruntime,openvino}")]
)
def test_help_does_not_name_none_as_a_choice(medarts, command, shown):
    output = medarts(command, "--help")[1]
    assert shown in output
    assert "None" not in output


def test_init_writes_a_recipe_in_a_pipe_and_says_what_is_next(medarts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    LAYOUTS["beside_by_suffix"](tmp_path / "my data")
    status, output, errors = medarts("init", "my data", "data.size=16", "--no-plan")
    assert status == 0, errors
    assert "mask {name}_mask" in output
    assert "'{patient}_{n}' gives 6 patients of 12 images, such as '1'. Taken: yes" in output
    assert output.endswith("  medarts search recipe.yaml\n  medarts train runs/recipe\n")
    kilobytes = (tmp_path / "recipe.schema.json").stat().st_size / 1000
    assert f"recipe.schema.json ({kilobytes:.0f} kB) is for editors" in output
    assert "12; all opened" in output
    assert load(tmp_path / "recipe.yaml").data.size == 16
    refused(medarts("init", "my data"), "recipe.yaml exists already.", "replace it (force)")


def test_recipe_explains_keys_and_prints_the_schema(medarts):
    status, output, _ = medarts("recipe", "data.size")
    assert (status, output.splitlines()[0]) == (0, "data.size: integer ≥ 16, ≤ 4096, default 256")
    assert json.loads(medarts("recipe", "--schema")[1])["properties"]["data"]["required"] == ["sources"]
    refused(medarts("recipe", "data.sise"), "'data.sise' is not a key of a recipe", "size")
