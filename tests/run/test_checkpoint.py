"""Checkpoints that survive what happens to processes and disks."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medarts.errors import RunError
from medarts.run import checkpoint
from medarts.run.checkpoint import Checkpoint, load, save


def trained(*, steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
    sgd = torch.optim.SGD(model[0].parameters(), 0.1, momentum=0.9)
    adam = torch.optim.Adam(model[3].parameters(), 1e-3, betas=(0.5, 0.999), weight_decay=1e-3)
    go_on(model, sgd, adam, steps=steps)
    return model, sgd, adam


def go_on(model: nn.Module, *optimizers: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        model.zero_grad()
        model(x).pow(2).sum().backward()
        for optimizer in optimizers:
            optimizer.step()


def simple(value: float) -> Checkpoint:
    return Checkpoint({"w": torch.full((64,), value)}, {"epoch": int(value)})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load(tmp_path, "last") is None
    assert load(tmp_path / "missing", "last") is None


def test_round_trip_is_exact_to_the_bit_and_goes_on_alike(tmp_path: Path) -> None:
    model, sgd, adam = trained()
    state = {"sgd": sgd.state_dict(), "adam": adam.state_dict(), "place": {"epoch": 4, "lr": 0.1 + 0.2}, "none": None}
    save(tmp_path, "last", Checkpoint(model.state_dict(), state))
    found = load(tmp_path, "last")
    assert found is not None
    assert list(found.weights) == sorted(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert found.weights[name].dtype == tensor.dtype
        assert torch.equal(found.weights[name].view(torch.int32), tensor.view(torch.int32))
    assert found.state["place"] == {"epoch": 4, "lr": 0.1 + 0.2}
    assert found.state["none"] is None

    other, other_sgd, other_adam = trained(steps=0)
    other.load_state_dict(found.weights)
    other_sgd.load_state_dict(found.state["sgd"])
    other_adam.load_state_dict(found.state["adam"])
    go_on(model, sgd, adam, steps=2)
    go_on(other, other_sgd, other_adam, steps=2)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_types_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.tensor([0, 1, 1, 0]).to(dtype)
    save(tmp_path, "last", Checkpoint({"t": tensor}, {}))
    found = load(tmp_path, "last")
    assert found is not None
    assert found.weights["t"].dtype == dtype
    assert torch.equal(found.weights["t"], tensor)


def test_strided_and_shared_tensors_can_be_saved(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    save(tmp_path, "last", Checkpoint({"transposed": base.T, "row": base[1].clone()}, {}))
    found = load(tmp_path, "last")
    assert found is not None
    assert torch.equal(found.weights["transposed"], base.T)


def test_only_the_newest_of_a_kind_is_kept(tmp_path: Path) -> None:
    for value in range(12):
        save(tmp_path, "last", simple(value))
        if value % 5 == 0:
            save(tmp_path, "best", simple(100 + value))
    assert names(tmp_path) == ["best-000002", "last-000011"]
    last, best = load(tmp_path, "last"), load(tmp_path, "best")
    assert last is not None
    assert best is not None
    assert (last.state["epoch"], best.state["epoch"]) == (11, 110)


def test_of_two_whole_ones_the_newer_is_read(tmp_path: Path) -> None:
    """A process killed between the renaming and the removal leaves both."""
    save(tmp_path, "last", simple(9))
    (tmp_path / "last-000000").rename(tmp_path / "last-000009")
    save(tmp_path / "other", "last", simple(10))
    (tmp_path / "other" / "last-000000").rename(tmp_path / "last-000010")
    found = load(tmp_path, "last")
    assert found is not None
    assert found.state["epoch"] == 10
    save(tmp_path, "last", simple(11))
    assert names(tmp_path) == ["last-000011", "other"]


PLACES = ("weights", "state", "fsync", "rename", "removal")

# Imports torch once, then writes a checkpoint for each place in a process of its own, which says its id and stands
# still in the middle of the writing.
CHILD = """
    import os, sys, time
    from pathlib import Path
    import torch
    from medarts.run import checkpoint
    from medarts.run.checkpoint import Checkpoint, save

    def stop(*_, **__):
        os.write(1, f"{place} {os.getpid()}\\n".encode())
        time.sleep(60)

    def half_of(write):
        def written(content, path):
            write(content, path)
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) // 2])
            stop()
        return written

    def stand_still():
        if place == "weights":
            checkpoint.save_file = half_of(checkpoint.save_file)
        elif place == "state":
            torch.save = half_of(torch.save)
        elif place == "fsync":
            os.fsync = stop
        elif place == "rename":
            Path.rename = stop
        elif place == "removal":
            remove = checkpoint.shutil.rmtree
            checkpoint.shutil.rmtree = lambda path, **o: stop() if path.name.startswith("last") else remove(path, **o)

    children = []
    for place in sys.argv[2:]:
        children.append(os.fork())
        if children[-1] == 0:
            stand_still()
            save(Path(sys.argv[1]) / place, "last", Checkpoint({"w": torch.full((1000,), 2.0)}, {"epoch": 2}))
            os._exit(0)
    sys.exit(any(os.WTERMSIG(os.waitpid(child, 0)[1]) != 9 for child in children))
"""


def child(*arguments: str, code: str = CHILD) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for every place, with a checkpoint 1 and what a process left that was killed while it wrote 2."""
    folder = tmp_path_factory.mktemp("killed")
    for place in PLACES:
        save(folder / place, "last", simple(1))
    process = child(str(folder), *PLACES)
    assert process.stdout is not None
    stopped = dict(process.stdout.readline().split() for _ in PLACES)
    for pid in stopped.values():
        os.kill(int(pid), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert set(stopped) == set(PLACES), errors
    assert process.returncode == 0, errors
    return folder


@pytest.mark.parametrize("place", PLACES)
def test_a_process_killed_while_writing_leaves_a_whole_checkpoint(place: str, killed: Path) -> None:
    folder = killed / place
    if place == "removal":  # the new one was whole already
        expected = 2
        assert names(folder) == ["last-000000", "last-000001"]
    else:
        expected = 1
        assert any(name.startswith(checkpoint.UNFINISHED) for name in names(folder)), "the kill came too late"
    found = load(folder, "last")
    assert found is not None
    assert found.state["epoch"] == expected
    assert (found.weights["w"] == expected).all()
    save(folder, "last", simple(3))
    assert len(names(folder)) == 1
    again = load(folder, "last")
    assert again is not None
    assert again.state["epoch"] == 3


def disk_full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("place", ["weights", "state", "fsync", "mkdir"])
def test_a_full_disk_is_said_and_the_older_stays(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints"
    if place != "mkdir":
        save(folder, "last", simple(1))
    with monkeypatch.context() as patch:
        target = {"weights": (checkpoint, "save_file"), "state": (torch, "save"), "fsync": (os, "fsync"),
                  "mkdir": (Path, "mkdir")}[place]  # fmt: skip
        patch.setattr(*target, disk_full)
        with pytest.raises(RunError, match=r"checkpoints could not be written.*No space left") as caught:
            save(folder, "last", simple(2))
    assert "room on the disk" in caught.value.fix
    if place != "mkdir":
        assert names(folder) == ["last-000000"]
        found = load(folder, "last")
        assert found is not None
        assert found.state["epoch"] == 1
    save(folder, "last", simple(2))
    again = load(folder, "last")
    assert again is not None
    assert again.state["epoch"] == 2


LIMITED = """
    import resource, sys
    from pathlib import Path
    import torch
    from medarts.errors import RunError
    from medarts.run.checkpoint import Checkpoint, save

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a write beyond it fails, as on a full disk
    for place, weights, state in (("weights", 100_000, 1), ("state", 1, 100_000)):
        try:
            save(Path(sys.argv[1]) / place, "last", Checkpoint({"w": torch.zeros(weights)}, {"s": torch.zeros(state)}))
        except RunError as error:
            print(place, error)
"""


def test_writes_that_the_system_refuses(tmp_path: Path) -> None:
    for place in ("weights", "state"):
        save(tmp_path / place, "last", simple(1))
    out, errors = child(str(tmp_path), code=LIMITED).communicate(timeout=60)
    for place in ("weights", "state"):
        assert f"{place} The checkpoint in {tmp_path / place} could not be written" in out, errors
        assert names(tmp_path / place) == ["last-000000"]
        found = load(tmp_path / place, "last")
        assert found is not None
        assert found.state["epoch"] == 1


@pytest.mark.parametrize("file", [checkpoint.WEIGHTS, checkpoint.STATE])
@pytest.mark.parametrize("damage", ["empty", "half", "text", "zeros", "missing", "pickle"])
def test_damaged_files_are_named(file: str, damage: str, tmp_path: Path) -> None:
    save(tmp_path, "last", simple(1))
    path = tmp_path / "last-000000" / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "half": content[: len(content) // 2],
                "text": b"this is no checkpoint, " * 10,
                "zeros": bytes(len(content)),
                "pickle": b"\x80\x02ctorch._utils\n_rebuild\nq\x00.",
            }[damage]
        )
    with pytest.raises(RunError, match=r"last-000000 is damaged") as caught:
        load(tmp_path, "last")
    assert caught.value.fix


def test_code_in_a_state_file_is_not_run(tmp_path: Path) -> None:
    save(tmp_path, "last", simple(1))
    torch.save({"epoch": Evil(tmp_path / "was-run")}, tmp_path / "last-000000" / checkpoint.STATE)
    with pytest.raises(RunError, match="is damaged"):
        load(tmp_path, "last")
    assert not (tmp_path / "was-run").exists()


class Evil:
    """What a pickle can do when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))
