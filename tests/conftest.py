"""A small data set on disk and a recipe for it, shared by all tests."""

import gc
import io
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from medarts import cli
from medarts.config import Recipe, parse
from medarts.engine import device
from medarts.system import process

from .hosts_of_tests import Host, two_hosts, why_no_hosts
from .processes_of_tests import forking, spawning

settings.register_profile("medarts", deadline=None)  # of 200 ms, which other work on the machine uses up
settings.load_profile("medarts")

IMAGES = 24

LONG = (
    "test_ranks.py", "test_job.py", "test_golden_*.py", "test_graphs*.py", "test_plan.py", "test_proposal.py",
    "test_cli.py", "test_units.py", "test_benchmark.py", "test_training.py", "test_resume.py", "test_rules.py",
    "test_patches.py", "test_prediction_process.py", "test_exporting.py", "test_examples.py", "test_folds.py",
    "test_demo.py", "test_compared_parts.py", "test_depth.py",
)  # fmt: skip
"""Files that take 15 to 60 seconds of a core, the longest first."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keeps all that is imported and collected, a million objects, out of what garbage collections walk through."""
    gc.disable()
    found = yield
    gc.freeze()
    gc.enable()
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest tests first, as a file is run by one process: the others are done when one of them is not."""
    paths = {item.path for item in items}
    place = {path: next((at for at, name in enumerate(LONG) if path.match(name)), len(LONG)) for path in paths}
    items.sort(key=lambda item: place[item.path])


def write_folder_data(root: Path, *, images: int = IMAGES, size: int = 32, seed: int = 0) -> Path:
    """Writes images of bright discs with their masks and splits.csv; two images a patient, 3/4 of them to train."""
    generator = np.random.default_rng(seed)
    rows = ["id,patient,split"]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    y, x = np.mgrid[:size, :size]
    for number in range(images):
        centre, radius = generator.uniform(size * 0.3, size * 0.7, 2), generator.uniform(size * 0.15, size * 0.3)
        mask = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        noise = generator.integers(0, 60, (size, size, 3))
        image = (noise + 150 * mask[..., None]).astype(np.uint8)
        name = f"blob_{number:02d}"
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / "masks" / f"{name}.png")
        part = number // 2 / (images // 2)
        rows.append(f"{name},p{number // 2},{'train' if part < 0.7 else 'val' if part < 0.85 else 'test'}")
    (root / "splits.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="session", autouse=True)
def nothing_flushed() -> Iterator[None]:
    """Does not wait for the disk, which takes half the time of a small run: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def processes_forked() -> Iterator[None]:
    """Lets no process that a test starts import what the one before it has imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", forking)
        yield


@pytest.fixture
def processes_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts processes as users do, for tests of what these import and of the memory that they take."""
    monkeypatch.setattr(multiprocessing, "get_context", spawning)


@pytest.fixture(autouse=True)
def extensions_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what a test registers out of the processes of those after it, which would import its module."""
    monkeypatch.setattr(process, "_extensions", process._extensions.copy())


@pytest.fixture
def hangups_heard() -> Iterator[None]:
    """Lets a hangup end processes, also where the tests were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes folders with a number at the end; pytest reads the names of all that there are for that, thousands."""
    root, numbers = tmp_path_factory.getbasetemp() / "t", count()
    root.mkdir()

    def make(name: str) -> Path:
        folder = root / f"{name}_{next(numbers)}"
        folder.mkdir(mode=0o700)
        return folder

    return make


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, new_folder: Callable[[str], Path]) -> Path:
    """A folder for each test, in place of the one of pytest."""
    return new_folder(re.sub(r"\W", "_", request.node.name)[:30])


@pytest.fixture(autouse=True)
def user_cache(monkeypatch: pytest.MonkeyPatch, new_folder: Callable[[str], Path]) -> Path:
    """Keeps the tests out of the user's cache folder."""
    home = new_folder("home-cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home / "medarts"


THREADS, SET_THREADS = torch.get_num_threads, torch.set_num_threads
"""Of torch itself, whatever a test has in their place."""


@pytest.fixture(autouse=True)
def threads_kept() -> Iterator[None]:
    """Holds that nothing changes the threads of the process, which would change the tests after it."""
    before = THREADS()
    yield
    after = THREADS()
    SET_THREADS(before)
    assert after == before


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Two hosts that are joined by a link."""
    if reason := why_no_hosts():
        pytest.skip(reason)
    with two_hosts(tmp_path) as both:
        yield both


class NoTranslation:
    """Translates no network."""

    content = b""

    def __init__(self, network: object, *, in_channels: int, size: int) -> None:
        pass

    def of(self, network: object) -> bytes:
        return self.content


class IdleEngine:
    """Runs nothing."""

    def __init__(self, model: bytes, *, threads: int) -> None:
        self.threads = threads

    def run(self, images: object, limits: object) -> dict[str, object]:
        return {}


@pytest.fixture
def nothing_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks whose cost is measured are not exported, which takes seconds: times of exported ones mean nothing."""
    monkeypatch.setattr("medarts.profiling.cost.Translation", NoTranslation)
    monkeypatch.setattr("medarts.profiling.cost.ENGINES", {"onnxruntime": IdleEngine})


RENDERED = {"svg": b'<svg width="1" height="1"></svg>', "png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-1.4\n"}
"""What is written for a figure that is not rendered."""


@pytest.fixture
def nothing_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but not rendered, which takes most of the time of a page; `tests/reporting` renders them."""
    from matplotlib.figure import Figure

    def write(figure: Figure, target: Any, *, format: str, **_: Any) -> None:
        if isinstance(target, io.StringIO):
            target.write(RENDERED[format].decode())
        elif isinstance(target, io.BytesIO):
            target.write(RENDERED[format])
        else:
            Path(target).write_bytes(RENDERED[format])

    monkeypatch.setattr(Figure, "savefig", write)


@pytest.fixture
def folder_data(tmp_path: Path) -> Path:
    """The folder of a small data set in the layout `folder`."""
    return write_folder_data(tmp_path / "blobs")


@pytest.fixture
def small_recipe(folder_data: Path, tmp_path: Path) -> Recipe:
    """A search of two stages and a training on it, each of a few steps."""
    return parse(
        {
            "data": {
                "sources": [{"kind": "folder", "path": str(folder_data), "name": "blobs"}],
                "size": 32,
                "cache": str(tmp_path / "cache"),
            },
            "space": {"init_channel": 4, "double_down_channel": False},
            "search": {
                "stages": [
                    {"depth": 3, "epochs": 2, "batch": 4, "keep": {"down": 4, "normal": 4, "up": 2}},
                    {"depth": 3, "epochs": 2, "batch": 4},
                ],
                "arch_after": 1,
            },
            "train": {"epochs": 2, "batch": 4},
            "evaluation": {"batch": 4, "bootstrap": 100},
            "compute": {"device": "cpu", "threads": 1},
        }
    )


FINDINGS = ("disc", "bar", "bright")


def write_table_data(root: Path, *, images: int = 32, size: int = 32, seed: int = 0) -> Path:
    """Writes images that show a disc, a bar, or a bright ground, with labels.csv; two images a patient."""
    generator = np.random.default_rng(seed)
    (root / "films").mkdir(parents=True)
    y, x = np.mgrid[:size, :size]
    rows = ["image,patient,split," + ",".join(FINDINGS)]
    for number in range(images):
        disc, bar, bright = labels = [number % 2, number // 2 % 2, number // 4 % 2]
        image = generator.integers(0, 40, (size, size)) + 60 * bright
        image = image + 120 * disc * ((y - size * 0.4) ** 2 + (x - size * 0.5) ** 2 < (size * 0.2) ** 2)
        image = image + 80 * bar * (abs(y - size * 0.8) < size * 0.06)
        name = f"films/film_{number:02d}.png"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / name)
        part = number // 8 / (images // 8)
        split = "train" if part < 0.5 else "val" if part < 0.75 else "test"
        rows.append(f"{name},p{number // 2},{split},{','.join(map(str, labels))}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def table_data(tmp_path: Path) -> Path:
    """The folder of a small data set in the layout `table`."""
    return write_table_data(tmp_path / "films")


@pytest.fixture
def finding_recipe(table_data: Path, tmp_path: Path) -> Recipe:
    """A search of findings and a training on it, each of a few steps."""
    return parse(
        {
            "data": {
                "sources": [{"kind": "table", "path": str(table_data), "name": "films"}],
                "size": 32,
                "in_channels": 1,
                "cache": str(tmp_path / "cache"),
            },
            "space": {"search_channel": 4, "init_channel": 4, "layers": 4, "intermediate_nodes": 2},
            "search": {"stages": [{"depth": 4, "epochs": 2, "batch": 4}]},
            "train": {"epochs": 2, "batch": 4},
            "evaluation": {"batch": 4, "bootstrap": 100},
            "compute": {"device": "cpu", "threads": 1},
        }
    )


@pytest.fixture
def small_densenet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CheXNet of five dense layers, two of them in a block, so that training or exporting it takes a second."""
    from monai.networks import nets

    few = {"init_features": 8, "growth_rate": 8, "block_config": (2, 1, 1, 1)}
    monkeypatch.setattr(nets, "DenseNet121", lambda **about: nets.DenseNet(**(about | few)))


TABLE = ("┏", "┃", "┡", "│", "└", "╭", "╰", "usage: ")
"""What lines of tables and of the help begin with."""


@pytest.fixture
def medarts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process, in an empty folder, and returns exit status, standard output and error.

    No table that it prints is wider than 80 columns, unless the test sets them.
    """
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medarts", *map(str, words)])
        capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        output, errors = capsys.readouterr()
        if "COLUMNS" not in os.environ:
            assert [line for line in output.splitlines() if line.startswith(TABLE) and len(line) > 80] == []
        return status, output, errors

    return run


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets jobs of precision fp32 run in float64 and without dropout, so that nothing but the mathematics is left."""
    monkeypatch.setitem(device.PRECISIONS, "fp32", "64-true")
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda module, x: x)
    torch.set_default_dtype(torch.float64)  # or Fabric makes float32 of the outputs
    yield
    torch.set_default_dtype(torch.float32)
