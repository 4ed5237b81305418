"""One process at a time in a folder."""

import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medarts.errors import RunError
from medarts.system.lock import LOCK, OWNER, held, held_alone

HOLDER = """
    import sys, time
    from pathlib import Path
    from medarts.system.lock import held

    with held(Path(sys.argv[1]), "search"):
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def holder() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts a process that holds a folder."""
    started = []

    def start(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_another_process_is_named_and_a_dead_one_gives_way(
    tmp_path: Path, holder: Callable[[Path], subprocess.Popen[str]]
) -> None:
    process = holder(tmp_path)
    named = rf"at work on {tmp_path}: search, process {process.pid} on {platform.node()}, since 20\d\d-.* UTC\."
    with pytest.raises(RunError, match=named) as caught, held(tmp_path, "report"):
        pass
    assert caught.value.fix == "Wait for it to end, or stop it."
    moved = tmp_path.rename(tmp_path.with_name("moved"))  # the lock moves along
    with pytest.raises(RunError, match="at work on"), held(moved, "report"):
        pass
    owner = json.loads((moved / OWNER).read_text())
    (moved / OWNER).write_text(json.dumps(owner | {"host": "elsewhere"}))
    with pytest.raises(RunError, match="on elsewhere, since") as caught, held(moved, "report"):
        pass
    assert "stop it on elsewhere" in caught.value.fix
    (moved / OWNER).write_text("half a fi")
    with pytest.raises(RunError, match=r"Another process is at work on .*moved\."), held(moved, "report"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with held(moved, "report"):
        assert json.loads((moved / OWNER).read_text())["pid"] == os.getpid()
    assert list(moved.iterdir()) == []


def test_a_holder_is_waited_for(tmp_path: Path, holder: Callable[[Path], subprocess.Popen[str]]) -> None:
    process = holder(tmp_path)
    threading.Timer(0.2, process.kill).start()
    with held(tmp_path, "report", patience=20):
        assert process.wait() == -signal.SIGKILL


def test_it_may_be_nested_but_another_thread_waits(tmp_path: Path) -> None:
    refused: list[RunError] = []

    def other() -> None:
        try:
            with held(tmp_path, "evaluate"):
                pass
        except RunError as error:
            refused.append(error)

    with held(tmp_path, "evaluate"):
        with held(tmp_path, "report"):
            pass
        assert (tmp_path / LOCK).exists()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"process {os.getpid()}" in str(refused[0])
    with held(tmp_path, "again"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_whoever_waits_for_a_file_that_is_removed_takes_a_new_one(tmp_path: Path) -> None:
    """The file goes with its lock; two processes must never hold two files of one name."""
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(20):
            with held(tmp_path, "report", patience=30):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_a_folder_that_is_not_there_or_a_link_for_a_lock(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no folder"), held(tmp_path / "missing", "search"):
        pass
    assert not (tmp_path / "missing").exists()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match=r"\.lock could not be written"), held(tmp_path, "search"):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_job_waits_for_whoever_is_at_work_in_its_folder(tmp_path: Path) -> None:
    place = tmp_path / "runs" / "a"
    with held_alone(place, "search", patience=0.0), ThreadPoolExecutor() as pool, pytest.raises(RunError) as caught:
        pool.submit(held_alone(place, "search", patience=0.05).__enter__).result()
    assert f"Another process is at work on {place}: search, process {os.getpid()} on " in str(caught.value)
    assert not place.parent.exists()
    with held_alone(place, "search", patience=0.0):
        (place / "result").touch()
    assert (place / "result").exists()
