"""Searches by training that take about a second: tiny networks, and processes that are none."""

from pathlib import Path
from types import TracebackType

import pytest

from medarts.config import Recipe, apply_overrides, parse
from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError
from medarts.pool import search
from medarts.system.workers import Ended, Work

from ..conftest import write_folder_data


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images and their cache."""
    folder = tmp_path_factory.mktemp("pool")
    write_folder_data(folder / "blobs", size=16)
    return folder


@pytest.fixture(scope="session")
def recipe(blobs: Path) -> Recipe:
    """A pool: three candidates, one of them of a supernet, then two neighbours, all of one size in FLOPs."""
    return parse(
        {
            "data": {
                "sources": [{"kind": "folder", "path": str(blobs / "blobs"), "name": "blobs"}],
                "size": 16,
                "cache": str(blobs / "cache"),
            },
            "space": {
                "init_channel": 4,
                "intermediate_nodes": 1,
                "choices": {"depth": [3], "intermediate_nodes": [1, 2]},
            },
            "search": {
                "method": "pool",
                "select": {
                    "candidates": 3, "rungs": [1, 2], "keep": 0.5, "neighbours": 2, "checkpoints": 1,
                    "supernets": [{"relaxation": "gumbel"}],
                },
                "stages": [{"depth": 3, "epochs": 2, "batch": 4}],
                "arch_after": 0,
            },
            "train": {"epochs": 9, "batch": 9, "ema": 0.9},
            "budget": {"flops": 4e6},
            "evaluation": {"batch": 4, "bootstrap": 100},
            "compute": {"device": "cpu", "threads": 1},
        }
    )  # fmt: skip


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


def random_of(recipe: Recipe, *changes: str) -> Recipe:
    """Returns the control of a pool, without a budget, as fitting takes longer than training here."""
    return changed(recipe, "search.method=random", "budget.flops=null", *changes)


class Here:
    """Workers that do their work in this process, one after the other."""

    def __init__(self, *, reused: bool) -> None:
        assert reused  # imports would take longer than trainings
        self.ended: list[Ended] = []

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def start(self, work: Work) -> None:
        try:
            work.do()
            self.ended.append(Ended(work.name))
        except MedartsError as error:
            self.ended.append(Ended(work.name, error))

    def wait(self, seconds: float) -> list[Ended]:
        ended, self.ended = self.ended, []
        return ended

    def ask_to_stop(self) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets searches do their trainings in this process."""
    monkeypatch.setattr("medarts.system.workers.Processes", Here)


@pytest.fixture(scope="session")
def pool(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A whole pool search."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medarts.system.workers.Processes", Here)
        return search.start(recipe, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="session")
def control(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A whole random search."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medarts.system.workers.Processes", Here)
        return search.start(random_of(recipe), tmp_path_factory.mktemp("control") / "run")
