"""Several processes do what one does: the same weights and architecture, whatever a step is made of."""

import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tests.hosts_of_tests import starts_clusters
from tests.steps_of_ranks import do_all, do_apart, do_faulty, do_stuck, in_processes, steps, train_again

from medarts import cli
from medarts.config import Recipe, apply_overrides, parse, to_yaml
from medarts.engine import checkpoint
from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError, RecipeError
from medarts.nas.search import resume_search, start_search
from medarts.network.sharing import check_shares
from medarts.spaces import make_space
from medarts.spaces.genotype import load_genotype
from medarts.system import joining, launching, watch
from medarts.system.joining import joined
from medarts.system.launching import launch
from medarts.system.place import Place, place, refuse_several
from medarts.system.ranks import Ranks, Several
from medarts.training.trainer import resume_training, start_training

SEARCHED = ("search.arch_after=0", "search.stages=[{depth: 3, epochs: 2, batch: 5}]")
SMALL = ("data.size=16", "space.stem_channels=8", "space.intermediate_nodes=2", "space.dropout_prob=0.1")
CHANGED = ("data.augmentation={rotate: 0, scale: 0, shift: 0, gamma: 0.2}",)

FOR_FOUR = ("nas", "darts", "unet")
"""What is done in four processes too, which take minutes for the rest on two cores."""


@pytest.fixture
def cases(small_recipe: Recipe, finding_recipe: Recipe, tmp_path: Path) -> dict[str, tuple[str, str, Recipe]]:
    """Name -> kind, dtype and recipe."""
    masks, findings = changed(small_recipe, *SMALL, *CHANGED), changed(finding_recipe, "data.size=16", *CHANGED)
    nas, darts = changed(masks, *SEARCHED, "search.mixing.images=3"), changed(findings, *SEARCHED)
    candidates = {"down": "max_pool, down_conv", "normal": "identity, cweight, conv", "up": "up_cweight, up_conv"}
    nas = changed(nas, *(f"space.operations.{name}=[{of_set}]" for name, of_set in candidates.items()))
    few = [f"space.operations.{kind}=[max_pool_3x3, skip_connect, sep_conv_3x3]" for kind in ("normal", "reduce")]
    darts = changed(darts, "space.stem=cifar", "space.layers=3", *few)
    second = "search.gradient=second_order"
    supernet = make_space(nas).supernet(nas.search.stages[0], None)
    supernet.derive(nas.derive, name="nas-wdan", provenance={}).save(tmp_path / "nas-wdan.json")
    small = load_genotype("darts_v2").with_settings(init_channel=4, layers=3, auxiliary=True)
    small.save(tmp_path / "darts.json")
    training = ("train.batch=9", "train.accumulate=2", "train.mixing={alpha: 0.4, images: 2}")
    unet = changed(masks, *training, "train.model={name: unet, width: 4, depth: 2}")
    return {
        "nas": ("search", "float64", nas),
        "nas-second": ("search", "float64", changed(nas, second)),
        "darts": ("search", "float64", darts),
        "darts-second": ("search", "float64", changed(darts, second)),
        "nas-single": ("search", "float32", nas),
        "derived": ("nas-wdan", "float64", changed(masks, *training, "train.norm=batch")),
        "derived-darts": ("darts", "float64", changed(findings, *training)),
        "unet": ("baseline", "float64", unet),
        "unet-single": ("baseline", "float32", changed(unet, "train.ema=0.9")),
    }


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


def test_several_processes_come_to_the_weights_of_one(cases, tmp_path):
    listed = {
        name: (name, kind, dtype, recipe.model_dump(mode="json")) for name, (kind, dtype, recipe) in cases.items()
    }
    of_size = {2: [*cases], 4: FOR_FOUR}
    processes = []
    for size, names in of_size.items():
        processes += in_processes(size, do_all, tmp_path, [listed[name] for name in names], size)
    alone = {name: steps(kind, dtype, recipe, tmp_path) for name, (kind, dtype, recipe) in cases.items()}
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * len(processes)
    for name, (_, dtype, _) in cases.items():
        for size in (size for size, names in of_size.items() if name in names):
            others = [torch.load(tmp_path / f"{name}.{rank}-of-{size}.pt", weights_only=False) for rank in range(size)]
            check_equal(others[0], alone[name], name=f"{name}, {size}", most=1e-9 if dtype == "float64" else 1e-5)
            for other in others[1:]:
                assert other["values"] == others[0]["values"], name
                for key, tensor in other["tensors"].items():
                    assert torch.equal(tensor, others[0]["tensors"][key]), (name, key)


def check_equal(found: dict[str, Any], expected: dict[str, Any], *, name: str, most: float) -> None:
    assert found["losses"]["train_loss"] == pytest.approx(expected["losses"]["train_loss"], rel=most), name
    assert found["values"]["val_loss"] == pytest.approx(expected["values"]["val_loss"], rel=100 * most), name
    for key, tensor in expected["tensors"].items():
        text = f"{name}, {key}"
        torch.testing.assert_close(found["tensors"][key], tensor, rtol=0, atol=most, msg=text)


@pytest.fixture
def small(small_recipe: Recipe) -> Recipe:
    """A training of two epochs, whose processes wait for each other for seconds."""
    network = "train.model={name: unet, width: 4, depth: 2}"
    return changed(small_recipe, "data.size=16", network, "compute.timeout=10")


@pytest.fixture
def searched(small: Recipe) -> Recipe:
    """A search of two stages, of four steps an epoch."""
    stages = "search.stages=[{depth: 3, epochs: 2, batch: 2, keep: {down: 1}}, {depth: 3, epochs: 1, batch: 2}]"
    candidates = {"down": "max_pool, down_conv", "normal": "identity, conv", "up": "up_conv"}
    few = [f"space.operations.{name}=[{of_set}]" for name, of_set in candidates.items()]
    return changed(small, "train.model=null", *SMALL, *few, stages, "search.arch_after=1")


def with_fault(recipe: Recipe, folder: Path, fault: str) -> list[Any]:
    """Starts two processes that train in a folder of the name of a fault, of which the second has it."""
    said = folder / f"{fault}-said"
    said.mkdir()
    return in_processes(2, do_faulty, recipe.model_dump(mode="json"), folder / fault, fault, errors=said)


def test_all_processes_split_a_batch_where_memory_runs_out_in_one(small, tmp_path):
    """In the middle of a step, with norms over the batch, for whose sums the other one waits."""
    recipe = changed(small, "train.norm=batch", "train.epochs=1")
    processes = with_fault(recipe, tmp_path, "memory")
    in_parts = changed(recipe, "train.accumulate=2")
    whole = start_training(in_parts, small.train.model, tmp_path / "whole")
    for process in processes:
        process.join(120)
    said = (tmp_path / "memory-said" / "0.txt").read_text()
    assert [process.exitcode for process in processes] == [0, 0], said
    assert said.count("From here on it is 2 images, in 2 parts of a batch") == 1, said
    run = RunDirectory.open(tmp_path / "memory")
    assert [each["position"] for each in run.facts["splits"]] == [[0, 0]]
    found, expected = (checkpoint.load(each.checkpoints, "last").weights for each in (run, whole))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="Windows stops no process")
def test_a_process_that_is_lost_is_named_and_the_run_goes_on(small, searched, tmp_path):
    """Killed, stopped, failed by itself, or asked to stop; the run goes on in one process to the same weights.

    What is asked to stop is a search, the others are trainings.
    """
    where = r"(its start|epoch \d+, step \d+)"  # by the last sign of life, which may be older than the step
    told = {
        "SIGKILL": rf"has (ended or stopped, at|not answered for 10 s, since) {where}\. ",
        "SIGSTOP": rf"has not answered for 10 s, since {where}\. ",
        "error": r"has ended: It is broken\. Repair it\.",
        "SIGTERM": r"is saved\. Resume with: ",
    }
    processes = {}
    for fault in told:
        processes[fault] = with_fault(searched if fault == "SIGTERM" else small, tmp_path, fault)
    trained = start_training(small, small.train.model, tmp_path / "trained")
    found = start_search(searched, tmp_path / "SIGTERM-whole" / "SIGTERM")
    for fault, (first, second) in processes.items():
        first.join(300)
        assert first.exitcode == 1, fault
        second.kill()  # where it is stopped
        second.join()
        said = (tmp_path / f"{fault}-said" / "0.txt").read_text()
        who = "" if fault == "SIGTERM" else f"medarts: Process 1 on {re.escape(platform.node())} "
        assert re.search(who + told[fault], said), (fault, said)
        assert said.count("Process 1 on") == (fault != "SIGTERM"), said
        run = tmp_path / fault
        if fault != "error":
            kind = "search" if fault == "SIGTERM" else "train"
            assert f"Resume with: medarts {kind} --resume {run} --devices 2" in said
        assert not RunDirectory.open(run).facts["finished"]
        resumed = resume_search(run) if fault == "SIGTERM" else resume_training(run)
        whole = found if fault == "SIGTERM" else trained
        ours, expected = (checkpoint.load(each.checkpoints, "last").weights for each in (resumed, whole))
        for name, tensor in expected.items():
            torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5, msg=f"{fault}, {name}")
    assert (tmp_path / "SIGTERM" / "genotype.json").read_bytes() == (found.path / "genotype.json").read_bytes()


def test_processes_of_different_jobs_are_refused_and_can_do_another_one(small, tmp_path):
    about = changed(small, "train.epochs=1", "compute.timeout=60").model_dump(mode="json"), tmp_path / "run"
    processes = in_processes(2, train_again, *about, errors=tmp_path)
    for process in processes:
        process.join(300)
    said = (tmp_path / "0.txt").read_text()
    assert [process.exitcode for process in processes] == [0, 0], said
    assert re.search(rf"Process 1 on {re.escape(platform.node())} has a recipe of fingerprint \w+, and process 0", said)
    assert RunDirectory.open(tmp_path / "run").facts["finished"]


def test_processes_count_what_they_do_together_alike():
    """By that the one that is behind is named, whichever of them has worked while others waited."""
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # public, whatever its module exports
    watches = [watch.Watch(Place(rank, 3, rank, 3), store, patience=60) for rank in range(3)]

    def at_work(rank: int) -> list[int]:
        several = Several(Place(rank, 3, rank, 3), store, watches[rank])
        return [several.first(lambda: rank), several.in_turn(lambda: rank), several.first(lambda: rank)]

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(at_work, range(3))) == [[0, rank, 0] for rank in range(3)]
    assert [each._now().position for each in watches] == [(0, 6)] * 3


def test_of_three_processes_the_one_that_is_stuck_is_named(tmp_path):
    """Process 0 has not to wait where process 2 has: they wait for process 1 in different places."""
    processes = in_processes(3, do_stuck, errors=tmp_path)
    for process in processes:
        process.join(60)
    said = (tmp_path / "0.txt").read_text()
    assert [process.exitcode for process in processes] == [1, 1, 1], said
    assert re.search(rf"Process 1 on {re.escape(platform.node())} is stuck at before the sum, while others wait", said)
    assert said.count("Process ") == 1, said


def test_processes_that_do_not_reach_each_other_say_so(tmp_path):
    """One ends by an error, and ends the other, which would wait for it."""
    processes = in_processes(2, do_apart, errors=tmp_path)
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [1, 1]
    said, others = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert re.search(r"The processes do not reach each other \(.+\)\. Start them again\. If that", said), said
    assert "GLOO_SOCKET_IFNAME on each" in said
    assert "each other ([" not in said  # where in Gloo it was
    assert others == ""


@pytest.fixture
def first_of_two(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The store of a job of two hosts, of which this process is the first."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    given = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    given |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(joining._Process, "store", None)
    return store


@pytest.fixture
def nothing_there(first_of_two, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the store is one at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
        yield rf"127\.0\.0\.1:{free.getsockname()[1]}"


def be_on_the_second_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(joining, "be_mute", lambda: None)  # which is for good


def test_the_address_at_which_nothing_answers_is_named(nothing_there, monkeypatch, capfd):
    """Without what PyTorch prints of where in its library that was; the first host may be late."""
    be_on_the_second_host(monkeypatch)
    missed = rf"has not met .* within 1 s \(nothing answers at {nothing_there}: "
    with pytest.raises(MedartsError, match=missed), joined("cpu", patience=1):
        pass
    assert capfd.readouterr() == ("", "")


GONE = "The launcher or the first process of the job is gone: nothing listens at {} any more. Start it again."


@pytest.mark.parametrize("second_job", [False, True])
def test_a_store_that_was_there_is_not_waited_for(second_job, nothing_there, first_of_two, monkeypatch, capfd):
    """That of the first host is there before its processes, and that of a job before for all of them."""
    if second_job:
        be_on_the_second_host(monkeypatch)
        monkeypatch.setattr(joining._Process, "store", first_of_two)
    began = time.monotonic()
    with pytest.raises(MedartsError, match=GONE.format(nothing_there)), joined("cpu", patience=300):
        pass
    assert time.monotonic() - began < 30
    assert capfd.readouterr() == ("", "")


def test_processes_that_wait_for_others_end_with_their_launcher(first_of_two, monkeypatch):
    """And so do the others, which wait for a third one."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    parent, began = os.getppid(), time.monotonic()
    monkeypatch.setattr(os, "getppid", lambda: parent if time.monotonic() < began + 1 else 1)
    fault = f"The launcher on {platform.node()} is gone. Start it again."
    with pytest.raises(MedartsError, match=re.escape(fault)), joined("cpu", patience=300):
        pass
    assert 1 < time.monotonic() - began < 30
    monkeypatch.setattr(os, "getppid", lambda: parent)
    monkeypatch.setattr(joining._Process, "jobs", joining._Process.jobs - 1)
    be_on_the_second_host(monkeypatch)
    with pytest.raises(MedartsError, match=re.escape(fault)), joined("cpu", patience=300):
        pass


def test_the_loss_of_the_store_before_all_have_come_is_told(first_of_two, monkeypatch):
    be_on_the_second_host(monkeypatch)
    monkeypatch.setattr(joining, "connected", lambda *address, patience: LostStore())
    lost = r"The first process of the job, or its machine, is gone: the connection to 127\.0\.0\.1:\d+ is lost\. Start"
    with pytest.raises(MedartsError, match=lost), joined("cpu", patience=300):
        pass


def test_a_process_that_misses_the_store_before_its_watch_does_says_so(monkeypatch, capsys):
    """As one that leaves something there when the launcher is just gone."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    watching = watch.Watch(Place(2, 4, 0, 2), torch.distributed.HashStore(), patience=60)  # type: ignore[attr-defined]
    with pytest.raises(SystemExit):
        watching.fail(torch.distributed.DistNetworkError("Broken pipe"))
    said = "The first process of the job, or its machine, is gone: the connection to 10.0.0.1:29500 is lost. Start it"
    assert capsys.readouterr().err.startswith(f"medarts: {said}")


class LostStore(torch.distributed.Store):  # type: ignore[name-defined]
    """One whose connection has ended."""

    def set(self, key: str, value: bytes | str) -> None:
        raise torch.distributed.DistNetworkError("Broken pipe")


def test_a_process_that_does_not_come_is_named(first_of_two):
    host = re.escape(platform.node())
    missed = rf"Process 0 on {host} has not met all 2 processes within 1 s \(process 1 has not come\)\. Start the "
    with pytest.raises(MedartsError, match=missed), joined("cpu", patience=1):
        pass


def test_processes_speak_by_the_interface_towards_the_first_host(first_of_two, monkeypatch):
    """Which finds its own address at a loopback interface; there it takes the one towards another host."""
    towards = {"127.0.0.1": "127.0.0.1", "10.0.0.2": "10.0.0.1"}
    monkeypatch.setattr(joining, "own_address", lambda host, port: towards[host])
    monkeypatch.setattr(joining, "interface_of", {"10.0.0.1": "eth1", "127.0.0.1": "lo"}.get)
    first_of_two.set(joining._come(1), "10.0.0.2")
    assert joining._interface(place(), first_of_two) == "eth1"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # all on one host
    assert joining._interface(place(), first_of_two) == "lo"
    with joining._through("eth1"):
        assert os.environ["GLOO_SOCKET_IFNAME"] == "eth1"
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")  # the user's
    assert joining._interface(place(), first_of_two) is None


def test_a_batch_has_an_image_for_every_process():
    four = Ranks()
    four.place = Place(0, 4, 0, 4)
    check_shares(four, batch=8, accumulate=2, field="train")
    with pytest.raises(RecipeError, match=r"train\.batch 7 in 2 parts has fewer images at a time than .* 4"):
        check_shares(four, batch=7, accumulate=2, field="train")


def test_the_environment_says_which_process_this_is():
    assert place({"RANK": "5"}) == Place()  # of a scheduler that knows no other process
    given = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    assert place(given).leader == 2
    for wrong in ({"RANK": "4"}, {"LOCAL_RANK": "2"}, {"WORLD_SIZE": "two"}, {"LOCAL_WORLD_SIZE": "0"}):
        with pytest.raises(MedartsError, match="names no process of a job"):
            place({**given, **wrong})
    with pytest.raises(MedartsError, match="names no process of a job"):
        place({"WORLD_SIZE": "2"})


def test_what_several_processes_cannot_share_is_refused(monkeypatch, medarts):
    for option in (("--node-rank", "1"), ("--address", "10.0.0.1:29500")):
        for command in ("search", "train"):
            assert f"{option[0]} says where one of several processes is" in medarts(command, "recipe.yaml", *option)[2]
    refuse_several("A pruning")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(MedartsError, match="A pruning is not shared by several processes"):
        refuse_several("A pruning")
    monkeypatch.setenv("RANK", "0")
    for command in sorted({*cli.COMMANDS} - {"search", "train"}):
        status, output, errors = medarts(command)
        assert (status, output) == (1, ""), command
        assert f"medarts {command} is not shared by several processes" in errors
    assert "not shared" not in medarts("train", "none.yaml")[2]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_processes_of_a_host_that_has_fewer_gpus_are_all_refused(rank, monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", rank), ("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    with pytest.raises(MedartsError, match="has 2 processes, but 1 GPU"), joined("cuda", patience=1):
        pass


SLEEPS = "import time; time.sleep(60)"


@pytest.mark.parametrize(("waits", "told"), [(SLEEPS, True), ("", True), ("exit(4)", False)])
def test_a_process_that_fails_before_it_joins_is_told(waits, told, monkeypatch, capsys):
    """Unless the first one of its machine has an error, too, and tells it."""
    monkeypatch.setattr(launching, "_GRACE", 0.1)
    processes = [subprocess.Popen([sys.executable, "-c", code]) for code in (waits, "exit(3)")]
    launching._wait_for(processes, None, launching._Faults("", 0), first=2)
    name = f"medarts: Process 3 on {platform.node()} has ended with status 3"
    assert (name in capsys.readouterr().err) == told


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows ends no process by a signal")
@pytest.mark.parametrize("told", [False, True])
def test_a_first_process_that_is_killed_is_told_where_the_others_have_not(told, capsys):
    """They learn it from the launcher, and end; the one that tells their errors is gone."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    of_job = torch.distributed.PrefixStore(joining.prefix_of(1), store)  # type: ignore[attr-defined]
    if told:
        of_job.set(watch.TOLD, b"")
    killed = f"import os, signal; os.kill(os.getpid(), signal.{signal.SIGKILL.name})"
    processes = [
        subprocess.Popen([sys.executable, "-c", code]) for code in (killed, "import time; time.sleep(3); exit(1)")
    ]
    launching._wait_for(processes, store, launching._Faults("", 0), first=0)
    text = f"Process 0 on {platform.node()} was ended by SIGKILL"
    assert of_job.check([watch.FAULT])
    assert json.loads(of_job.get(watch.FAULT))["text"] == text
    assert capsys.readouterr().err == ("" if told else f"medarts: {text}.\n")


def test_a_process_that_is_stopped_on_another_machine_is_ended_there(monkeypatch, capsys):
    """Nobody but its launcher can, when the others have noticed it."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    faults = launching._Faults("127.0.0.1", store.port)
    faults.start()
    monkeypatch.setattr(launching, "_GRACE", 0.1)
    process = subprocess.Popen([sys.executable, "-c", SLEEPS])
    torch.distributed.PrefixStore(joining.prefix_of(1), store).set(watch.FAULT, "{}")  # type: ignore[attr-defined]
    launching._wait_for([process], None, faults, first=2)
    assert f"Process 2 on {platform.node()} did not end, and was killed" in capsys.readouterr().err


class SilentStore:
    """Answers nothing more, as that of a machine that has lost its power."""

    def set(self, key: str, value: bytes | str) -> None:
        pass

    def check(self, keys: list[str]) -> bool:
        threading.Event().wait()
        return False


@pytest.mark.parametrize(("place", "tells"), [(Place(2, 4, 0, 2), True), (Place(3, 4, 1, 2), False)])
def test_the_loss_of_the_first_machine_is_told_once_on_every_other_one(place, tells, monkeypatch, capsys):
    left = threading.Event()

    def leave(status: int) -> None:
        left.set()
        threading.Event().wait()

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    watching = watch.Watch(place, SilentStore(), patience=0.2)
    watching.fix = "Resume with: medarts search"
    watching.start()
    assert left.wait(30)
    said = "The first process of the job, or its machine, is gone: the connection to 10.0.0.1:29500 is lost. Resume"
    assert (said in capsys.readouterr().err) == tells


@pytest.mark.parametrize(("place", "tells"), [(Place(0, 4, 0, 2), True), (Place(1, 4, 1, 2), False)])
def test_the_loss_of_a_launcher_is_told_once_on_its_machine(place, tells, monkeypatch, capsys):
    """Where it is that of the first machine, the store is lost with it."""
    parent = os.getppid()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setattr(os, "getppid", lambda: parent + 1)
    monkeypatch.setattr(os, "_exit", sys.exit)
    watching = watch.Watch(place, torch.distributed.HashStore(), patience=60)  # type: ignore[attr-defined]
    watching.fix = "Resume with: medarts search"
    with pytest.raises(SystemExit):
        watching._leave(None)
    said = f"medarts: The launcher on {platform.node()} is gone. Resume with: medarts search\n"
    assert capsys.readouterr().err == (said if tells else "")


def test_all_machines_end_with_a_launcher_that_is_gone(monkeypatch, capsys):
    """The first process tells it, as that of the machine itself is an orphan."""
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    watches = [watch.Watch(Place(rank, 2, 0, 1), store, patience=60) for rank in range(2)]
    monkeypatch.setattr(os, "_exit", sys.exit)
    for each, lost in ((watches[1], True), (watches[0], False)):
        monkeypatch.setattr(watch, "launcher_is_gone", lambda lost=lost, **_: lost)
        with pytest.raises(SystemExit):
            each._look()
        said = capsys.readouterr().err
        assert said == ("" if lost else f"medarts: The launcher on {platform.node()} is gone. Start it again.\n")


ORPHAN = """
import os, sys
from medarts.system.place import launcher_is_gone
child = os.fork()
if child:
    os.waitpid(child, 0)
print(launcher_is_gone(), flush=True)
if not child:  # it has a parent of its own
    os._exit(0)
sys.stdin.readline()
print(launcher_is_gone(within=30), flush=True)
"""
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {ORPHAN!r}]); sys.stdin.read()"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows keeps the number of a parent that has ended")
@pytest.mark.parametrize("launched", [True, False])
def test_a_process_knows_that_its_launcher_was_killed(launched):
    environment = {**os.environ, "TORCHELASTIC_RESTART_COUNT": "0"} if launched else None
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(2)] == ["False\n"] * 2
        parent.kill()
        parent.wait()
        parent.stdin.close()
        assert parent.stdout.readline() == f"{launched}\n"


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="Windows keeps the number of a parent that has ended")
@pytest.mark.parametrize("moment", ["start", pytest.param("work", marks=starts_clusters)])
def test_processes_end_with_a_launcher_that_is_killed_and_the_run_goes_on(moment, small, tmp_path):
    """As they start, and at work."""
    recipe, run, said = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "said.txt"
    recipe.write_text(to_yaml(changed(small, "train.epochs=40", "compute.timeout=300")))
    words = [sys.executable, "-m", "medarts", "train", str(recipe), "--out", str(run), "--devices", "2"]
    with said.open("w") as file:
        launcher = subprocess.Popen(words, stdout=file, stderr=file)
    while len(processes := psutil.Process(launcher.pid).children()) < 2:
        time.sleep(0.01)
    while moment == "work" and "epoch 2/" not in said.read_text():
        time.sleep(0.1)
    launcher.kill()
    launcher.wait()
    _, alive = psutil.wait_procs(processes, timeout=10 if moment == "work" else 150)  # before, they import first
    assert not alive
    lost = rf"medarts: The launcher (on {re.escape(platform.node())}|or the first process of the job) is gone(: .+)?\."
    again = rf"Resume with: medarts train --resume {run} --devices 2" if moment == "work" else r"Start it again\."
    assert re.search(f"{lost} {again}\n", said.read_text()), said.read_text()
    assert said.read_text().count("medarts: ") == 1, said.read_text()
    assert run.exists() == (moment == "work")
    if moment == "work":
        assert len(resume_training(run).read_journal("metrics.jsonl")) == 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 0}, "--devices is 0"),
        ({"nodes": 2}, "no address says where"),
        ({"nodes": 2, "node_rank": 2}, "--node-rank is 2"),
        ({"nodes": 2, "address": "10.0.0.1"}, "is no HOST:PORT"),
        ({"address": "host:99999"}, "is no HOST:PORT"),
    ],
)
def test_processes_that_cannot_be_started_are_refused(changes, message):
    with pytest.raises(MedartsError, match=message):
        launch([], **{"devices": 2, "nodes": 1, "node_rank": 0, "address": None, **changes})


def test_processes_have_not_imported_torch_before_it_is_said_what_that_logs():
    """Those that start others, and those of torchrun, which says nothing."""
    code = """
import os, sys
from contextlib import suppress
from medarts import cli
from medarts.system import launching

if os.environ.get("WORLD_SIZE"):
    cli._run_command = lambda words: sys.exit("torch" in sys.modules or os.environ["TORCH_CPP_LOG_LEVEL"] != "ERROR")
    cli.main()
launching.launch = lambda *words, **others: started.append("torch" in sys.modules)
started = []
for kind in ("search", "train"):
    sys.argv = ["medarts", kind, "recipe.yaml", "--devices", "2"]
    with suppress(SystemExit):
        cli.main()
sys.exit(started != [False, False])
"""
    of_torchrun = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    usual = {name: value for name, value in os.environ.items() if name != "TORCH_CPP_LOG_LEVEL"}
    for given in ({}, of_torchrun):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=usual | given)


def test_the_command_line_starts_processes_that_speak_with_one_voice(small, tmp_path, monkeypatch, capfd):
    """The processes are those that users have; what starts them is this one, as it imports as much as each of them."""
    (tmp_path / "recipe.yaml").write_text(to_yaml(changed(small, "train.epochs=1", "compute.timeout=60")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["medarts", "train", "recipe.yaml", "--out", "run", "--devices", "2"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output, errors = capfd.readouterr()
    assert not end.value.code, errors
    assert output.splitlines().count("run") == 1
    assert errors.count("epoch 1/1") == 1
    run = RunDirectory.open(tmp_path / "run")
    assert run.facts["finished"]
    assert run.facts["environment"]["processes"] == 2
    assert len(run.read_journal("metrics.jsonl")) == 1
