"""Checkpoints that survive what happens to processes and disks."""

import errno
import hashlib
import json
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

from medarts.engine import checkpoint
from medarts.engine.checkpoint import Checkpoint, load, save
from medarts.errors import RunError
from medarts.system.files import UNFINISHED


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


def put(folder: Path, checkpoint: Checkpoint, *place: int, kind: str = "last") -> None:
    save(folder, kind, checkpoint, position=place or (1, 0))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load(tmp_path, "last") is None
    assert load(tmp_path / "missing", "last") is None


def test_round_trip_is_exact_to_the_bit_and_goes_on_alike(tmp_path: Path) -> None:
    model, sgd, adam = trained()
    state = {"sgd": sgd.state_dict(), "adam": adam.state_dict(), "place": {"epoch": 4, "lr": 0.1 + 0.2}, "none": None}
    put(tmp_path, Checkpoint(model.state_dict(), state))
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
    put(tmp_path, Checkpoint({"t": tensor}, {}))
    found = load(tmp_path, "last")
    assert found is not None
    assert found.weights["t"].dtype == dtype
    assert torch.equal(found.weights["t"], tensor)


def test_strided_and_shared_tensors_can_be_saved(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    put(tmp_path, Checkpoint({"transposed": base.T, "row": base[1].clone()}, {}))
    found = load(tmp_path, "last")
    assert found is not None
    assert torch.equal(found.weights["transposed"], base.T)


def test_the_newest_is_kept_and_of_last_the_end_of_the_epoch_before(tmp_path: Path) -> None:
    for epoch in range(1, 12):
        put(tmp_path, simple(epoch), epoch, 0)
        if epoch % 5 == 0:
            put(tmp_path, simple(100 + epoch), epoch, 0, kind="best")
    assert names(tmp_path) == ["best-000010-000000", "last-000010-000000", "last-000011-000000"]
    last, best = load(tmp_path, "last"), load(tmp_path, "best")
    assert last is not None
    assert best is not None
    assert (last.state["epoch"], best.state["epoch"]) == (11, 110)
    assert last.path == tmp_path / "last-000011-000000"


def test_what_is_kept_does_not_depend_on_interruptions(tmp_path: Path) -> None:
    for place in ((1, 0), (1, 3), (2, 0), (2, 1), (2, 4)):
        put(tmp_path, simple(1), *place)
    assert names(tmp_path) == ["last-000002-000000", "last-000002-000004"]
    put(tmp_path, simple(1), 3, 0)
    assert names(tmp_path) == ["last-000002-000000", "last-000003-000000"]


def test_the_bytes_are_those_of_values_never_saved_before(tmp_path: Path) -> None:
    """A pickle tells whether two equal strings are one object, and in what was read they are not."""
    model, sgd, adam = trained()
    state = {
        "place": {"epoch": 1},
        "candidates": [("skip", "pool")],
        "sgd": sgd.state_dict(),
        "adam": adam.state_dict(),
    }
    put(tmp_path / "one", Checkpoint(model.state_dict(), state))
    found = load(tmp_path / "one", "last")
    assert found is not None
    put(tmp_path / "other", Checkpoint(found.weights, found.state))
    for name in (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.ABOUT):
        first, second = (tmp_path / folder / "last-000001-000000" / name for folder in ("one", "other"))
        assert first.read_bytes() == second.read_bytes(), name


def test_one_of_the_same_place_is_replaced(tmp_path: Path) -> None:
    for epoch in (1, 2):
        put(tmp_path, simple(epoch), 3, 0)
    found = load(tmp_path, "last")
    assert found is not None
    assert found.state["epoch"] == 2
    assert names(tmp_path) == ["last-000003-000000"]
    assert names(tmp_path / "last-000003-000000") == sorted((checkpoint.ABOUT, checkpoint.STATE, checkpoint.WEIGHTS))


def test_one_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, simple(1), 3, 0)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.startswith(".") and target.name == "last-000003-000000":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(RunError, match="the previous one is intact"):
        put(tmp_path, simple(2), 3, 0)
    found = load(tmp_path, "last")
    assert found is not None
    assert found.state["epoch"] == 1
    assert names(tmp_path) == ["last-000003-000000"]


def test_a_copy_by_hand_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path, simple(1), 1, 0)
    for name in ("last-000009 (copy)", "last-000009-", "last", "last-new", "blast-000009-000000"):
        (tmp_path / name).mkdir()
    (tmp_path / "last-000009.txt").write_text("")
    put(tmp_path, simple(2), 2, 0)
    found = load(tmp_path, "last")
    assert found is not None
    assert found.state["epoch"] == 2
    assert (tmp_path / "last-000009 (copy)").exists()


def test_a_run_that_was_moved_away_is_not_begun_again(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="could not be written") as caught:
        put(tmp_path / "moved" / "checkpoints", simple(1))
    assert "moved or removed" in caught.value.fix
    assert names(tmp_path) == []


PLACES = ("weights", "state", "about", "fsync", "rename", "removal")

# Imports torch once, then writes a checkpoint for each place in a process of its own, which says its id and stands
# still in the middle of the writing.
CHILD = """
    import os, sys, time
    from pathlib import Path
    import torch
    from medarts.engine import checkpoint
    from medarts.engine.checkpoint import Checkpoint, save

    def stop(*_, **__):
        os.write(1, f"{place} {os.getpid()}\\n".encode())
        time.sleep(60)

    def half_of(name, write):
        def written(path, content):
            digest = write(path, content)
            if path.name == name:
                os.truncate(path, path.stat().st_size // 2)
                stop()
            return digest
        return written

    FILES = {"weights": checkpoint.WEIGHTS, "state": checkpoint.STATE, "about": checkpoint.ABOUT}

    def stand_still():
        if place in FILES:
            checkpoint._write = half_of(FILES[place], checkpoint._write)
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
            point = Checkpoint({"w": torch.full((1000,), 2.0)}, {"epoch": 2})
            save(Path(sys.argv[1]) / place, "last", point, position=(3, 0))
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
        put(folder / place, simple(0), 1, 0)
        put(folder / place, simple(1), 2, 0)
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
        assert names(folder) == ["last-000001-000000", "last-000002-000000", "last-000003-000000"]
    else:
        expected = 1
        assert any(name.startswith(UNFINISHED) for name in names(folder)), "the kill came too late"
    found = load(folder, "last")
    assert found is not None
    assert found.state["epoch"] == expected
    assert (found.weights["w"] == expected).all()
    put(folder, simple(3), 4, 0)
    assert len(names(folder)) == 2
    again = load(folder, "last")
    assert again is not None
    assert again.state["epoch"] == 3


def disk_full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("place", ["weights", "state", "fsync", "mkdir"])
def test_a_full_disk_is_said_and_the_older_stays(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints"
    if place != "mkdir":
        put(folder, simple(1), 1, 0)
    with monkeypatch.context() as patch:
        target = {"weights": (checkpoint, "safetensors_bytes"), "state": (torch, "save"), "fsync": (os, "fsync"),
                  "mkdir": (Path, "mkdir")}[place]  # fmt: skip
        patch.setattr(*target, disk_full)
        with pytest.raises(RunError, match=r"checkpoints could not be written.*No space left") as caught:
            put(folder, simple(2), 2, 0)
    assert "room on the disk. It takes 0.0 MB, and up to four are kept at a time." in caught.value.fix
    if place != "mkdir":
        assert names(folder) == ["last-000001-000000"]
        found = load(folder, "last")
        assert found is not None
        assert found.state["epoch"] == 1
    put(folder, simple(2), 2, 0)
    again = load(folder, "last")
    assert again is not None
    assert again.state["epoch"] == 2


LIMITED = """
    import resource, sys
    from pathlib import Path
    import torch
    from medarts.errors import RunError
    from medarts.engine.checkpoint import Checkpoint, save

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a write beyond it fails, as on a full disk
    for place, weights, state in (("weights", 100_000, 1), ("state", 1, 100_000)):
        try:
            point = Checkpoint({"w": torch.zeros(weights)}, {"s": torch.zeros(state)})
            save(Path(sys.argv[1]) / place, "last", point, position=(2, 0))
        except RunError as error:
            print(place, error)
"""


def test_writes_that_the_system_refuses(tmp_path: Path) -> None:
    for place in ("weights", "state"):
        put(tmp_path / place, simple(1))
    out, errors = child(str(tmp_path), code=LIMITED).communicate(timeout=60)
    for place in ("weights", "state"):
        assert f"{place} The checkpoint in {tmp_path / place} could not be written (File too large)" in out, errors
        assert "ulimit -f" in out
        assert names(tmp_path / place) == ["last-000001-000000"]
        found = load(tmp_path / place, "last")
        assert found is not None
        assert found.state["epoch"] == 1


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
        return
    flipped = bytearray(content)
    for place in range(len(content) - 40, len(content)) if path.name == checkpoint.WEIGHTS else (len(content) // 2,):
        flipped[place] ^= 1  # in the numbers, where the file stays readable
    path.write_bytes(
        {
            "empty": b"",
            "half": content[: len(content) // 2],
            "text": b"this is no checkpoint, " * 10,
            "zeros": bytes(len(content)),
            "pickle": b"\x80\x02ctorch._utils\n_rebuild\nq\x00.",
            "bits": bytes(flipped),
        }[kind]
    )


@pytest.mark.parametrize("file", [checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.ABOUT])
@pytest.mark.parametrize("kind", ["empty", "half", "text", "zeros", "missing", "pickle", "bits"])
def test_damaged_files_are_named(file: str, kind: str, tmp_path: Path) -> None:
    put(tmp_path, simple(1))
    damage(tmp_path / "last-000001-000000" / file, kind)
    with pytest.raises(RunError, match=rf"last-000001-000000 is damaged: .*{'' if kind == 'bits' else file}") as caught:
        load(tmp_path, "last")
    assert caught.value.fix


def test_a_damaged_newest_one_falls_back_to_the_one_before(tmp_path: Path) -> None:
    for epoch in (1, 2):
        put(tmp_path, simple(epoch), epoch, 0)
    damage(tmp_path / "last-000002-000000" / checkpoint.WEIGHTS, "bits")
    found = load(tmp_path, "last")
    assert found is not None
    assert found.state["epoch"] == 1
    assert found.damaged == (tmp_path / "last-000002-000000",)
    damage(tmp_path / "last-000001-000000" / checkpoint.STATE, "half")
    with pytest.raises(RunError, match="last-000002-000000 is damaged"):
        load(tmp_path, "last")


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path, simple(1))
    about = tmp_path / "last-000001-000000" / checkpoint.ABOUT
    about.write_text(about.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(RunError, match="has format 3, but this medarts reads 2") as caught:
        load(tmp_path, "last")
    assert "medarts that wrote it" in caught.value.fix


def test_one_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    put(tmp_path, simple(1))
    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(RunError, match=r"could not be read \(Permission denied\)"):
        load(tmp_path, "last")


def test_the_newest_is_dropped_only_where_the_one_before_is_whole(tmp_path: Path) -> None:
    put(tmp_path, simple(1), 1, 0)
    with pytest.raises(RunError, match="no checkpoint before"):
        checkpoint.drop_newest(tmp_path, "last")
    put(tmp_path, simple(2), 2, 0)
    checkpoint.drop_newest(tmp_path, "last")
    assert checkpoint.newest(tmp_path, "last") == (1, 0)
    put(tmp_path, simple(2), 2, 0)
    damage(tmp_path / "last-000001-000000" / checkpoint.STATE, "bits")
    with pytest.raises(RunError, match="last-000001-000000 is damaged"):
        checkpoint.drop_newest(tmp_path, "last")
    assert checkpoint.newest(tmp_path, "last") == (2, 0)


def test_code_in_a_state_file_is_not_run(tmp_path: Path) -> None:
    put(tmp_path, simple(1))
    folder = tmp_path / "last-000001-000000"
    torch.save({"epoch": Evil(tmp_path / "was-run")}, folder / checkpoint.STATE)
    about = json.loads((folder / checkpoint.ABOUT).read_text())
    about["sha256"][checkpoint.STATE] = hashlib.sha256((folder / checkpoint.STATE).read_bytes()).hexdigest()
    (folder / checkpoint.ABOUT).write_text(json.dumps(about))
    with pytest.raises(RunError, match="is not the checkpoint of a run"):
        load(tmp_path, "last")
    assert not (tmp_path / "was-run").exists()


class Evil:
    """What a pickle can do when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))
