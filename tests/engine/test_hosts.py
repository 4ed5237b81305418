"""Searches and trainings over two hosts: to their end, with the link cut in the middle, and after that; by torchrun."""

import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import write_folder_data
from tests.hosts_of_tests import Host, starts_clusters, two_hosts, why_no_hosts

from medarts.config import Recipe, parse, to_yaml
from medarts.engine import checkpoint
from medarts.engine.directory import RunDirectory
from medarts.nas.search import resume_search, start_search
from medarts.training.trainer import resume_training, start_training

pytestmark = starts_clusters

TIMEOUT = 20
"""Seconds of `compute.timeout`, in which hosts have to meet, on a busy machine too."""

MARGIN = 30
"""Seconds beyond that in which a command has to end."""

PATIENCE = 600
"""Seconds that a command may take that nothing disturbs."""

ADDRESSES = {"search": "10.77.0.1:29500", "train": "node-a:29500"}
"""Where the hosts meet: the first one does not find its own address by its name, as on Debian."""


@pytest.fixture(scope="module", params=["search", "train"])
def recipe(request: pytest.FixtureRequest, new_folder: Callable[[str], Path]) -> Recipe:
    """A search of two stages, or a training; of few seconds."""
    folder = new_folder("recipe")
    write_folder_data(folder / "blobs")
    few = {"down": ["max_pool", "down_conv"], "normal": ["identity", "conv"], "up": ["up_conv"]}
    common = {
        "data": {
            "sources": [{"kind": "folder", "path": str(folder / "blobs"), "name": "blobs"}],
            "size": 16,
            "cache": str(folder / "cache"),
        },
        "evaluation": {"batch": 4, "bootstrap": 100},
        "compute": {"device": "cpu", "threads": 1, "timeout": TIMEOUT},
    }
    space = {"init_channel": 4, "double_down_channel": False, "stem_channels": 8, "intermediate_nodes": 2}
    stages = [{"depth": 3, "epochs": 3, "batch": 2, "keep": {"down": 1}}, {"depth": 3, "epochs": 3, "batch": 2}]
    network = {"name": "unet", "width": 4, "depth": 2}
    training = {"epochs": 12, "batch": 4, "norm": "group", "model": network}  # norms over few images multiply rounding
    of_kind = {
        "search": {
            "space": {**space, "dropout_prob": 0.1, "operations": few},
            "search": {"stages": stages, "arch_after": 1},
        },
        "train": {"train": training},
    }
    return parse({**common, **of_kind[request.param]})


def kind_of(recipe: Recipe) -> str:
    """Returns the command."""
    return "search" if recipe.train.model is None else "train"


def words_of(recipe: Recipe, out: Path) -> list[str]:
    """Returns the command that begins a run, whose recipe is written beside it."""
    file = out.with_name(f"{out.name}.yaml")
    file.write_text(to_yaml(recipe))
    about = [str(file)] if kind_of(recipe) == "search" else ["--recipe", str(file), "--model", "unet"]
    return [kind_of(recipe), *about, "--out", str(out)]


@pytest.fixture(scope="module")
def alone(recipe: Recipe, new_folder: Callable[[str], Path]) -> Path:
    """The run of one process."""
    out = new_folder("alone") / "run"
    begun = start_search(recipe, out) if recipe.train.model is None else start_training(recipe, recipe.train.model, out)
    return begun.path


@pytest.fixture(scope="module")
def whole(recipe: Recipe, new_folder: Callable[[str], Path]) -> Path:
    """The run of two hosts that nothing disturbs."""
    if reason := why_no_hosts():
        pytest.skip(reason)
    folder = new_folder("whole")
    with two_hosts(folder) as hosts:
        ended = ends(begin(hosts, recipe, folder / "run"), within=PATIENCE)
    (status, output, errors), (other_status, *said) = ended
    assert (status, other_status) == (0, 0), errors
    assert said == ["", ""]
    assert errors.count("epoch 1/") == (2 if recipe.train.model is None else 1)
    assert output.splitlines().count(str(folder / "run")) == 1
    return folder / "run"


Processes = list["subprocess.Popen[str]"]


def begin(hosts: tuple[Host, Host], recipe: Recipe, out: Path) -> Processes:
    """Gives the same command on both hosts, to begin a run, or to go on with it where there is one."""
    kind = kind_of(recipe)
    words = [kind, "--resume", str(out)] if out.exists() else words_of(recipe, out)
    processes = []
    for rank, host in enumerate(hosts):
        several = ["--devices", "1", "--nodes", "2", "--node-rank", str(rank), "--address", ADDRESSES[kind]]
        command = [*host.within, sys.executable, "-m", "medarts", *words, *several]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return processes


def ends(processes: Processes, *, within: float) -> list[tuple[int, str, str]]:
    """Returns exit status, standard output and error of processes, all of which end within some seconds."""
    until = time.monotonic() + within
    said = [process.communicate(timeout=until - time.monotonic()) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def wait_for_checkpoint(out: Path, processes: Processes) -> None:
    """Waits until a run has one."""
    until = time.monotonic() + PATIENCE
    while not any(out.glob("checkpoints/last-*")):
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < until
        time.sleep(0.01)


def weights(run: Path) -> dict[str, torch.Tensor]:
    found = checkpoint.load(RunDirectory.open(run).checkpoints, "last")
    assert found is not None
    return found.weights


def assert_close(run: Path, other: Path) -> None:
    """Weights, alphas and betas, and the genotype."""
    found, expected = weights(run), weights(other)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=name)
    if (other / "genotype.json").exists():
        assert (run / "genotype.json").read_bytes() == (other / "genotype.json").read_bytes()


def assert_equal(run: Path, other: Path) -> None:
    """To the last bit."""
    found, expected = weights(run), weights(other)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    for file in ("metrics.jsonl", "architecture.jsonl"):
        if (other / file).exists():
            assert (run / file).read_bytes() == (other / file).read_bytes()


def test_two_hosts_come_to_the_weights_of_one_process(recipe: Recipe, whole: Path, alone: Path) -> None:
    """Within what several processes of one machine may differ; test_ranks.py has their float64."""
    if kind_of(recipe) == "search":
        assert any("alpha" in name for name in weights(alone))
    assert RunDirectory.open(whole).facts["environment"]["processes"] == 2
    assert_close(whole, alone)


def test_the_link_is_cut_in_the_middle(
    recipe: Recipe, whole: Path, alone: Path, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    """Each host says so by itself; the run goes on in one process, and on both hosts once they are joined again."""
    kind, out = kind_of(recipe), tmp_path / "run"
    processes = begin(hosts, recipe, out)
    wait_for_checkpoint(out, processes)
    hosts[0].cut()
    ended = ends(processes, within=TIMEOUT + MARGIN)
    assert [status for status, _, _ in ended] == [1, 1]
    first, second = (
        f"Resume with: medarts {kind} --resume {out} --devices 1 --nodes 2 --node-rank {rank} --address {address}\n"
        for rank, address in enumerate([ADDRESSES[kind]] * 2)
    )
    # On a fast machine the link is cut before the first sign of life that names a step.
    lost = rf"Process 1 on node-b has not answered for {TIMEOUT} s, since (.*, step \d+|its start)\. "
    gone = f"The first process of the job, or its machine, is gone: the connection to {ADDRESSES[kind]} is lost. "
    own = [line for line in ended[0][2].splitlines() if "epoch " not in line or line.startswith("medarts: ")]
    assert len(own) == 1, own
    assert re.fullmatch(f"medarts: {lost}{re.escape(first)}", f"{own[0]}\n")
    assert ended[1][1:] == ("", f"medarts: {gone}{second}")
    run = RunDirectory.open(out)
    assert not run.facts["finished"]
    assert 0 < len(run.read_journal("metrics.jsonl")) < len(RunDirectory.open(whole).read_journal("metrics.jsonl"))

    here = tmp_path / "here" / "run"
    shutil.copytree(out, here)
    resume_search(here) if kind == "search" else resume_training(here)
    assert_close(here, alone)
    hosts[0].mend()
    ended = ends(begin(hosts, recipe, out), within=PATIENCE)
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert_equal(out, whole)


@pytest.mark.parametrize("number", [0, 1])
def test_a_launcher_that_is_killed_ends_the_processes_of_both_hosts(
    number: int, recipe: Recipe, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    """The first one has the store, without which each host ends by itself."""
    out = tmp_path / "run"
    processes = begin(hosts, recipe, out)
    wait_for_checkpoint(out, processes)
    processes[number].kill()
    ended = ends(processes, within=MARGIN)  # the output ends with the processes that have it
    assert ended[number][0] == -signal.SIGKILL
    assert ended[1 - number][0] == 1
    told = [[line for line in errors.splitlines() if line.startswith("medarts: ")] for _, _, errors in ended]
    of_launcher = (
        f"medarts: The launcher on {hosts[number].name} is gone. Resume with: medarts {kind_of(recipe)} --resume"
    )
    assert [len(lines) for lines in told] == ([1, 1] if number == 0 else [1, 0])
    assert told[0][0].startswith(of_launcher)
    assert number or "The first process of the job, or its machine, is gone" in told[1][0]
    assert not RunDirectory.open(out).facts["finished"]


def test_a_link_that_is_back_in_time_is_no_fault(
    recipe: Recipe, whole: Path, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    processes = begin(hosts, recipe, tmp_path / "run")
    wait_for_checkpoint(tmp_path / "run", processes)
    hosts[0].cut()
    time.sleep(TIMEOUT / 5)
    assert [process.poll() for process in processes] == [None, None]
    hosts[0].mend()
    ended = ends(processes, within=PATIENCE)
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert_equal(tmp_path / "run", whole)


def test_torchrun_comes_to_the_weights_of_one_process(recipe: Recipe, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "medarts", *words_of(recipe, out)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines().count(str(out)) == 1
    assert RunDirectory.open(out).facts["environment"]["processes"] == 2
    assert_close(out, alone)


def test_processes_of_torchrun_end_with_it(recipe: Recipe, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "medarts", *words_of(recipe, out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(out, [process])
    process.kill()
    ((_, _, errors),) = ends([process], within=MARGIN)
    resume = f"Resume with: medarts {kind_of(recipe)} --resume {out} --devices 2\n"
    assert f"medarts: The launcher on {platform.node()} is gone. {resume}" in errors
    assert "[c10d]" not in errors  # with where in its library PyTorch has lost the connection
    resume_search(out) if kind_of(recipe) == "search" else resume_training(out)
    assert_close(out, alone)
