"""What the scripts in ``benchmarks/`` train, here or on a cluster, where nothing but files comes back."""

import importlib
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from medarts.errors import MedartsError
from medarts.system.process import InterruptedRunError
from medarts.system.workers import Ended, Needs, Work

ROOT = Path(__file__).parents[2]


class Stub:
    """Workers that do the work when they are asked how it ended, the latest first."""

    def __init__(self, cluster: str | None, needs: Needs, *, jobs: int, reused: bool) -> None:
        self.cluster, self.needs, self.jobs, self.reused = cluster, needs, jobs, reused
        self.work: list[Work] = []
        self.most = 0
        self.is_left = self.is_stopped = False

    def __enter__(self) -> "Stub":
        return self

    def __exit__(self, *_: object) -> None:
        self.is_left = True

    def start(self, work: Work) -> None:
        self.work.append(work)
        self.most = max(self.most, len(self.work))

    def wait(self, seconds: float) -> list[Ended]:
        work = self.work.pop()
        if self.is_stopped:
            return [Ended(work.name, stopped=True)]
        try:
            work.do()
        except MedartsError as error:
            return [Ended(work.name, error)]
        return [Ended(work.name)]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that the scripts share, and what it opens in place of a cluster."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("MEDARTS_DATA", "data")
    module: Any = importlib.import_module("_trainings")
    module.opened = []

    def open_workers(cluster, needs, **about):
        module.opened.append(Stub(cluster, needs(), **about))
        return module.opened[-1]

    monkeypatch.setattr(module, "open_workers", open_workers)
    return module


def squared(number: int) -> dict[str, Any]:
    if number == 3:
        raise MedartsError("Three is none.", fix="Leave it out.")
    return {"number": number, "square": number**2}


def test_cases_are_done_by_a_cluster_and_their_answers_come_back(scripts, tmp_path):
    about = {"recipe": ROOT / "recipes" / "table-cpu.yaml", "folder": tmp_path, "jobs": 2, "cluster": "head:6379"}
    found = [*scripts.in_processes(squared, [4, 5, 6], **about)]
    assert sorted(each["square"] for each in found) == [16, 25, 36]
    (stub,) = scripts.opened
    assert (stub.cluster, stub.jobs, stub.most, stub.reused, stub.is_left) == ("head:6379", 2, 2, True, True)
    assert (stub.needs.folder, stub.needs.cpus, stub.needs.gpus) == (tmp_path, 1, 0)
    assert [*tmp_path.iterdir()] == []


def test_no_case_is_begun_after_the_minutes(scripts, tmp_path):
    about = {"recipe": ROOT / "recipes" / "table-cpu.yaml", "folder": tmp_path, "jobs": 2, "minutes": 0}
    assert [*scripts.in_processes(squared, [4, 5], **about)] == []


def test_a_case_that_fails_or_is_stopped_ends_all(scripts, tmp_path):
    about = {"recipe": ROOT / "recipes" / "table-cpu.yaml", "folder": tmp_path, "jobs": 1}
    with pytest.raises(MedartsError, match="Three is none"):
        [*scripts.in_processes(squared, [4, 3, 5], **about)]
    answers = scripts.in_processes(squared, [4, 5], **about)
    assert next(answers)["number"] == 4
    scripts.opened[-1].is_stopped = True
    with pytest.raises(InterruptedRunError):
        next(answers)
    assert scripts.opened[-1].is_left


@pytest.mark.parametrize("part", ["train", "search"])
def test_the_table_hands_its_cluster_on(part, scripts, tmp_path, monkeypatch):
    table = importlib.import_module("table")
    (tmp_path / table.GENOTYPES).write_text(json.dumps({"number": 0, "genotype": {}, "budget": 8}) + "\n")
    monkeypatch.setattr(table, {"train": "trained", "search": "searched"}[part], lambda case: {"seed": case[0]})
    given: list[Any] = []

    def in_processes(*_, **about):
        given.append(about)
        return ()

    monkeypatch.setattr(table, "in_processes", in_processes)
    monkeypatch.setattr("sys.argv", ["table.py", str(tmp_path), part, "--jobs", "2", "--cluster", "local"])
    table.main()
    assert [(each["cluster"], each["jobs"], each["folder"]) for each in given] == [("local", 2, tmp_path)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--cluster", "nowhere"], "cluster is 'nowhere'. Use HOST:PORT of its head"),
        (["sample", "--cluster", "local"], "error: unrecognized arguments: --cluster local"),
    ],
)
def test_the_table_refuses_a_cluster_in_one_message(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("MEDARTS_DATA", "data")
    monkeypatch.setattr("sys.argv", ["table.py", str(tmp_path / "table"), *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks" / "table.py"), run_name="__main__")
    said = capsys.readouterr().err + str(ended.value.code)
    assert message in said
    assert "Traceback" not in said
