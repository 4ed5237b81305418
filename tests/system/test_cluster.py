"""Work on a Ray cluster: done, failed, stopped, lost with its worker, its host or the head, each told apart."""

import os
import pickle
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.hosts_of_tests import Host, starts_clusters
from tests.small_runs_of_tests import InThisProcess

from medarts.config import parse
from medarts.config.study import Study, load_study
from medarts.data.opening import fingerprint_of_sources
from medarts.data.synthetic import write_phantoms
from medarts.engine.directory import epochs_done
from medarts.errors import MedartsError, RecipeError
from medarts.pool import search
from medarts.study.benchmark import benchmark
from medarts.system import cluster as module
from medarts.system.broker import _Broker, _Task
from medarts.system.cluster import RayWorkers, check_address
from medarts.system.workers import Ended, Needs, ProcessEndedError, Work, Workers

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.usefixtures("processes_spawned")  # Ray's threads and forks can wait for each other without end

CODE = """
import os, signal, sys, time
from medarts.errors import RecipeError
print("at work")
file.open("a").write(f"{os.getpid()}\\n")
turn = len(file.read_text().split())
"""
FAIL = f"{CODE}\nraise RecipeError('It is too large.', fix='Make it smaller.')"
BREAK = f"{CODE}\nraise ZeroDivisionError('a fault')"
KILLED_ONCE = f"{CODE}\nif turn == 1: os.kill(os.getpid(), signal.SIGKILL)"
KILLED = f"{CODE}\nos.kill(os.getpid(), signal.SIGKILL)"
SLEEP = "import time; time.sleep(0.02)"
WAIT_FOR_STOP = f"""
{CODE}
from medarts.system.process import InterruptedRunError, interruption
with interruption() as stop:
    while not stop.requested:
        time.sleep(0.01)
file.with_suffix(".saved").touch()
raise InterruptedRunError("Stopped.", fix="")
"""

PATIENCE = 600
"""Seconds that a busy machine may take for what takes some; none of the tests waits so long where nothing is wrong."""

RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_agent_register_timeout_ms": "300000",  # the machine of the tests may be busy
    **{f"RAY_health_check_{name}": "1000" for name in ("initial_delay_ms", "period_ms", "timeout_ms")},
    "RAY_health_check_failure_threshold": "3",
}
BARE = ("--include-dashboard=false", "--include-log-monitor=false", "--no-monitor")
"""Parts of a head that nothing here needs."""


@dataclass
class Node:
    """A host of a cluster, started for tests."""

    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kills all of it at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start(*words: str, within: tuple[str, ...] = ()) -> Node:
    """Starts Ray on a host, in the foreground, so that it ends with its process."""
    program = Path(sys.executable).with_name("ray")
    fixed = ("--disable-usage-stats", "--object-store-memory=80000000", "--block")
    process = subprocess.Popen(
        [*within, program, "start", *words, *fixed],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    return Node(process)


def wait_for_port(address: str, node: Node, connect: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not connect():
        assert node.process.poll() is None, f"Ray did not start at {address}"
        assert time.monotonic() < until
        time.sleep(0.2)


def answers(host: str, port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex((host, port)) == 0


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("", 0))
        return int(trial.getsockname()[1])


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What Ray has in all tests here: a token of its own, so that none is written for the user."""
    source = str(Path(module.__file__).parents[2])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**RAY, "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": source}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, Node]]:
    """The address of a cluster of one host with two CPUs, and the host."""
    port = free_port()
    node = start("--head", f"--port={port}", "--num-cpus=2", *BARE, "--node-ip-address=127.0.0.1")
    wait_for_port(str(port), node, partial(answers, "127.0.0.1", port))
    yield f"127.0.0.1:{port}", node
    if node.process.poll() is None:
        node.process.terminate()
        node.process.wait(60)


def same() -> str:
    return "same"


def needs(folder: Path, **changes: Any) -> Needs:
    return Needs(**{"folder": folder, "cpus": 1, "gpus": 0, "patience": 60, "same": same, **changes})


def piece(name: str, code: str, folder: Path) -> Work:
    return Work(name, partial(exec, code, {"file": folder / name}), folder / "logs" / f"{name}.log")


def ends(workers: Workers, number: int) -> dict[str, Ended]:
    """Waits for some pieces of work."""
    latest = time.monotonic() + PATIENCE
    found: list[Ended] = []
    while len(found) < number and time.monotonic() < latest:
        found += workers.wait(5)
    return {each.name: each for each in found}


# --- work ---------------------------------------------------------------------------------------------------------


@starts_clusters
def test_work_ends_as_in_processes_and_goes_on_after_its_worker_was_killed(
    tmp_path: Path, head: tuple[str, Node], capsys: pytest.CaptureFixture[str]
) -> None:
    codes = {"fine": CODE, "fails": FAIL, "breaks": BREAK, "killed-once": KILLED_ONCE, "killed": KILLED}
    codes |= {f"sleeps-{number}": SLEEP for number in range(20)}
    with RayWorkers(head[0], needs(tmp_path), jobs=2, reused=True) as workers:
        for name, code in codes.items():
            workers.start(piece(name, code, tmp_path))
        found = ends(workers, len(codes))
        assert found.keys() == codes.keys()
    assert all(found[name] == Ended(name) for name in codes if name not in ("fails", "breaks", "killed"))
    assert str(found["fails"].error) == "It is too large. Make it smaller."
    assert isinstance(found["fails"].error, RecipeError)
    log = tmp_path / "logs" / "breaks.log"
    assert str(found["breaks"].error) == f"Its process failed: ZeroDivisionError: a fault; see {log}."
    assert "at work\nTraceback" in log.read_text()
    assert isinstance(found["killed"].error, ProcessEndedError)
    assert str(found["killed"].error).startswith("Its worker was lost 3 times, at last on ")
    assert {name: len((tmp_path / name).read_text().split()) for name in codes if not name.startswith("sleeps")} == {
        "fine": 1, "fails": 1, "breaks": 1, "killed-once": 2, "killed": 3
    }  # fmt: skip
    said = capsys.readouterr().err
    assert re.search(r"killed-once: its worker on \S+ was lost \(The worker died .*\)\. Another one goes on\.", said)
    assert not list(tmp_path.glob(".cluster-*"))


@starts_clusters
def test_work_that_is_stopped_is_saved_and_what_waits_is_not_begun(tmp_path: Path, head: tuple[str, Node]) -> None:
    names = ["a", "b", "waits"]
    with RayWorkers(head[0], needs(tmp_path), jobs=2, reused=False) as workers:
        for name in names:
            workers.start(piece(name, WAIT_FOR_STOP, tmp_path))
        while not all((tmp_path / name).exists() for name in "ab"):
            assert workers.wait(0.1) == []
        workers.ask_to_stop()
        workers.ask_to_stop()  # as a loop does that waits: it is asked once, as a second time would not save
        found = ends(workers, 3)
        assert found == {name: Ended(name, stopped=True) for name in names}
    assert sorted(path.name for path in tmp_path.glob("*.saved")) == ["a.saved", "b.saved"]
    assert not (tmp_path / "waits").exists()


@starts_clusters
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"cpus": 3, "gpus": 1}, r"No host of the cluster \S+ has 3 CPUs and a GPU\. Add one that has, or lower comp"),
        ({"same": partial(eval, "__import__('os').getpid()")}, r"The host \S+ \([\d.]+\) .* has other images than"),
        ({"versions": {"torch": "1.0"}}, r"The host \S+ \([\d.]+\) of the cluster has torch \d\S+, this one 1.0\."),
    ],
)
def test_hosts_that_do_not_fit_are_refused_before_any_work(
    tmp_path: Path, head: tuple[str, Node], what: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = dict(what)
    if "versions" in what:
        versions = what.pop("versions")
        monkeypatch.setattr(module, "versions", lambda: versions)
    with pytest.raises(MedartsError, match=says), RayWorkers(head[0], needs(tmp_path, **what), jobs=1, reused=True):
        pass


def test_what_is_no_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("ray://host:10001", "host", "", "host:port"):
        with pytest.raises(RecipeError, match=r"Use HOST:PORT of its head, such as 10.0.0.1:6379, or auto, or local\."):
            check_address(address)
    for address in ("host:6379", "[::1]:6379", "auto", "local"):
        check_address(address)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MedartsError, match=r'Ray is not installed\. pip install "medarts\[cluster\]"'):
        check_address("local")


# --- benchmarks and searches ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A recipe of seconds."""
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder, seed=0, images=25, size=32)
    return {
        "data": {
            "sources": [{"kind": "isic", "path": str(folder / "isic"), "name": "skin"}],
            "size": 32, "cache": str(folder / "cache"),
        },
        "space": {"init_channel": 2, "double_down_channel": False, "intermediate_nodes": 2},
        "train": {"epochs": 3, "batch": 4},
        "evaluation": {"batch": 4, "bootstrap": 100},
        "compute": {"device": "cpu", "threads": 1},
    }  # fmt: skip


@pytest.fixture(scope="module")
def study(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("study") / "study.yaml"
    network, group = {"model": {"name": "unet", "width": 2, "depth": 2}}, {"data": "skin", "seeds": [0, 1, 2]}
    path.write_text(yaml.safe_dump({"recipe": recipe, "networks": [network], "trained_on": [group]}))
    return load_study(path)


@pytest.fixture(scope="module")
def local(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the benchmark, done without a cluster."""
    out = tmp_path_factory.mktemp("local") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medarts.system.workers.Processes", InThisProcess)
        benchmark(study, out)
    return out


def assert_equal_runs(one: Path, other: Path) -> None:
    """The same files with the same bytes, but for what tells the time and the machine."""
    files = [{path.relative_to(out) for path in (out / "runs").rglob("*") if path.is_file()} for out in (one, other)]
    assert files[0] == files[1]
    assert len([name for name in files[0] if name.name == "weights.safetensors"]) > 0
    for name in files[0]:
        if name.name not in ("run.json", "timing.jsonl"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def killing(folder: Path, kill: Callable[[], None]) -> threading.Thread:
    """Kills something once a run below a folder has a checkpoint."""

    def wait() -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if any(folder.glob("runs/*/*/*/checkpoints/last-*")):
                kill()
                return
            time.sleep(0.01)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@starts_clusters
def test_a_benchmark_of_which_a_worker_is_killed_equals_that_of_local_jobs(
    study: Study, local: Path, tmp_path: Path, head: tuple[str, Node], capsys: pytest.CaptureFixture[str]
) -> None:
    out, killed = tmp_path / "out", []

    def kill() -> None:
        """Kills the process that holds a run, which is at work on it."""
        owner = next(iter(out.glob("runs/*/*/*/.owner.json")))
        killed.append(yaml.safe_load(owner.read_text())["pid"])
        os.kill(killed[0], signal.SIGKILL)

    thread = killing(out, kill)
    benchmark(study, out, jobs=2, cluster=head[0])
    thread.join(1)
    assert len(killed) == 1
    said = capsys.readouterr().err
    assert said.count("Another one goes on.") == 1
    assert "skin/unet/seed-2: dice 0." in said
    assert_equal_runs(local, out)
    assert not (out / "failures").exists()


@starts_clusters
def test_a_search_by_training_on_a_ray_of_its_own_equals_that_of_local_jobs(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {"method": "random", "select": {"candidates": 3, "rungs": [1, 2]}}
    space = {**recipe["space"], "choices": {"depth": [3]}}
    chosen = parse({**recipe, "space": space, "search": method})
    on_ray = search.start(chosen, tmp_path / "ray" / "run", jobs=2, cluster="local")
    monkeypatch.setattr("medarts.system.workers.Processes", InThisProcess)
    here = search.start(chosen, tmp_path / "here" / "run", jobs=2)
    for name in ("candidates.jsonl", "genotype.json", "recipe.yaml"):
        assert (on_ray.path / name).read_bytes() == (here.path / name).read_bytes()
    with pytest.raises(RecipeError, match="The search of a supernet is one training, which is not done on a Ray"):
        search.start(parse(recipe), tmp_path / "supernet", cluster="local")


def test_fingerprints_are_of_the_content_of_every_data_set(recipe: dict[str, Any], tmp_path: Path) -> None:
    write_phantoms(tmp_path, seed=1, images=25, size=32)
    other = {"sources": [{"kind": "isic", "path": str(tmp_path / "isic"), "name": "skin"}]}
    before = fingerprint_of_sources(recipe)
    assert fingerprint_of_sources({**recipe, "data": {**recipe["data"], **other}}) != before
    assert fingerprint_of_sources({**recipe, "seed": 5}) == before


# --- a cluster that is lost -------------------------------------------------------------------------------------------


@starts_clusters
def test_the_head_is_killed(tmp_path: Path, head: tuple[str, Node]) -> None:
    """The last test of the cluster that all have. Work that is at it then is saved."""
    begun = time.monotonic()
    with RayWorkers(head[0], needs(tmp_path, patience=20), jobs=1, reused=True) as workers:
        workers.start(piece("a", WAIT_FOR_STOP, tmp_path))
        while not (tmp_path / "a").exists():
            assert workers.wait(0.1) == []
        head[1].kill()
        begun = time.monotonic()
        with pytest.raises(MedartsError, match=rf"The (cluster|head of the cluster) {head[0]}.* the same command"):
            ends(workers, 1)
    assert time.monotonic() - begun < 20 + 60


SCRIPT = """
import os, sys, time
from pathlib import Path

import medarts
from medarts.config.study import load_study
from medarts.errors import MedartsError
from medarts.study.benchmark import benchmark
from medarts.system import workers
from tests.small_runs_of_tests import InThisProcess


@medarts.register_loss("patient", task="segmentation", outputs="binary")
def patient(logits, target):
    time.sleep(float(os.environ.get("SECONDS_A_STEP", 0)))
    probability, mask = logits[:, 0].sigmoid().flatten(1), (target != 0).flatten(1).to(logits.dtype)
    return 1 - (2 * (probability * mask).sum(1) + 1) / (probability.sum(1) + mask.sum(1) + 1)


if __name__ == "__main__":
    study, out, cluster = sys.argv[1:]
    if cluster == "none":
        workers.Processes = InThisProcess
    try:
        benchmark(load_study(Path(study)), Path(out), jobs=2, cluster=None if cluster == "none" else cluster)
    except MedartsError as error:
        sys.exit(f"medarts: {error}")
"""
"""Registers a loss of its own, as hosts of a cluster have to find it too; its steps last long enough to cut a link."""


@starts_clusters
def test_the_link_to_another_host_is_cut_in_the_middle_of_a_benchmark(
    hosts: tuple[Host, Host], recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head has no CPUs, so that all is done on the other host; one folder is seen by the head alone."""
    script, path, address = tmp_path / "script.py", tmp_path / "study.yaml", f"{hosts[0].address}:6379"
    script.write_text(SCRIPT)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    train, compute = {**recipe["train"], "epochs": 12, "loss": "patient"}, {**recipe["compute"], "timeout": 15}
    network, group = {"model": {"name": "unet", "width": 2, "depth": 2}}, {"data": "skin", "seeds": [0, 1]}
    content = {"recipe": {**recipe, "train": train, "compute": compute}, "networks": [network], "trained_on": [group]}
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((os.environ["PYTHONPATH"], str(Path(__file__).parents[2]))))
    monkeypatch.setenv("SECONDS_A_STEP", "1")
    on = [host.within for host in hosts]
    own = [f"--node-ip-address={host.address}" for host in hosts]
    head = start("--head", "--port=6379", "--num-cpus=0", *BARE, own[0], within=on[0])
    is_up = [*on[0], sys.executable, "-c", f"import socket; socket.create_connection(('{hosts[0].address}', 6379))"]
    wait_for_port(address, head, lambda: subprocess.run(is_up, check=False, capture_output=True).returncode == 0)

    def join() -> Node:  # with mounts of its own, as `Host.within` has them
        words = (f"--address={address}", "--num-cpus=2", own[1])
        return start(*words, within=(*on[1], "sh", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "sh"))

    def begin(out: Path) -> "subprocess.Popen[str]":
        command = [*on[0], sys.executable, str(script), str(path), str(out), address]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    refused, other, until = "", join(), time.monotonic() + PATIENCE
    while "No host of the cluster" in refused or not refused:  # until the other host has joined
        assert time.monotonic() < until
        refused = begin(hidden / "out").communicate(timeout=PATIENCE)[0]
        if other.process.poll() is not None:  # the head was not ready
            other = join()
    other_one = rf"{hosts[1].name} \({re.escape(hosts[1].address)}\)"
    assert re.search(f"medarts: The host {other_one} of the cluster does not see the folder {hidden}", refused)

    out = tmp_path / "out"
    thread = killing(out, hosts[0].cut)
    benchmarking = begin(out)
    thread.join(PATIENCE)
    cut = time.monotonic()
    said = benchmarking.communicate(timeout=PATIENCE)[0]
    assert benchmarking.returncode == 1
    assert "was lost (the host does not answer). Another one goes on." in said
    says = rf"medarts: The cluster {address} has had no host with 1 CPU for 15 s\. What is saved is kept\. Add one,"
    assert re.search(says, said)
    assert time.monotonic() - cut < 15 + 60  # its own patience, that of the head, and what a busy machine adds
    assert any(epochs_done(run) < 12 for run in (out / "runs" / "skin" / "unet").iterdir())

    until = time.monotonic() + 15 + 60  # the other host has noticed it too, and has saved and left what it was at
    while list(out.glob("runs/*/*/*/.owner.json")):
        assert time.monotonic() < until
        time.sleep(0.2)
    logs = "".join(log.read_text() for log in (out / "logs").rglob("seed-*.log"))
    assert "The head of the cluster has not answered for 15 s: stopped." in logs
    monkeypatch.setenv("SECONDS_A_STEP", "0")
    for each in (out, tmp_path / "whole"):
        subprocess.run([sys.executable, script, path, each, "none"], check=True)
    assert_equal_runs(tmp_path / "whole", out)


def test_memory_that_runs_out_is_told_as_in_local_jobs() -> None:
    """As Ray says it where it kills a worker; a real one would take the memory of the machine."""
    broker, sent = object.__new__(_Broker), list[tuple[Any, ...]]()
    broker.ray, broker.asked, broker._send = ray, False, sent.append  # type: ignore[method-assign,assignment]
    broker.tasks = {"a": _Task("a", Path("a.log"), b"", turn=1)}
    broker._miss("a", 1, ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory."))
    ((kind, name, error, stopped),) = sent
    assert (kind, name, stopped) == ("ended", "a", False)
    assert str(pickle.loads(error)) == "The system killed its process, as it does where memory runs out."
    assert broker.tasks == {}
