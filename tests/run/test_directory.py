import json
from pathlib import Path

import pytest

from medarts.errors import RunError
from medarts.recipe import Recipe, fingerprint
from medarts.run.directory import JOURNALS, RunDirectory, write_whole


@pytest.fixture
def run(tmp_path: Path, small_recipe: Recipe) -> RunDirectory:
    return RunDirectory.create(
        tmp_path / "run", small_recipe, kind="search", data_fingerprint="abc", environment={"cores": 2}
    )


def test_a_run_is_stamped_with_what_made_it(run: RunDirectory, small_recipe: Recipe) -> None:
    facts = RunDirectory.open(run.path, kind="search").facts
    assert facts["kind"] == "search"
    assert facts["name"] == "run"
    assert facts["recipe_fingerprint"] == fingerprint(small_recipe)
    assert facts["data_fingerprint"] == "abc"
    assert facts["environment"] == {"cores": 2}
    assert facts["finished"] is False
    assert RunDirectory.open(run.path).recipe == small_recipe


def test_create_makes_parents_and_takes_an_empty_folder(tmp_path: Path, small_recipe: Recipe) -> None:
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty", small_recipe, kind="train", data_fingerprint="")
    RunDirectory.create(tmp_path / "a" / "b", small_recipe, kind="train", data_fingerprint="")
    assert RunDirectory.open(tmp_path / "a" / "b").facts["kind"] == "train"


def test_create_refuses_another_run_and_leaves_it(run: RunDirectory, small_recipe: Recipe) -> None:
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(RunError, match="already holds another run") as caught:
        RunDirectory.create(run.path, small_recipe, kind="train", data_fingerprint="")
    assert f"--resume {run.path}" in caught.value.fix
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_create_refuses_a_folder_or_file_of_someone_else(tmp_path: Path, small_recipe: Recipe) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    for path in (tmp_path / "photos", tmp_path / "photos" / "cat.jpg"):
        with pytest.raises(RunError, match="already holds files") as caught:
            RunDirectory.create(path, small_recipe, kind="train", data_fingerprint="")
        assert "--resume" not in caught.value.fix  # there is nothing to resume


def test_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunError, match="is not a run directory"):
            RunDirectory.open(path)


def test_open_refuses_another_kind(run: RunDirectory) -> None:
    with pytest.raises(RunError, match=r"is a search run\. Give a train run"):
        RunDirectory.open(run.path, kind="train")


@pytest.mark.parametrize("text", ["", '{"kind": "sea', "\x00\x00"])
def test_open_says_that_a_stamp_is_damaged(run: RunDirectory, text: str) -> None:
    (run.path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json"):
        RunDirectory.open(run.path, kind="search")


def test_other_data_are_refused(run: RunDirectory) -> None:
    run.check_unchanged("abc")
    with pytest.raises(RunError, match=r"data of .* have changed"):
        run.check_unchanged("abd")


def test_finish_adds_facts(run: RunDirectory) -> None:
    run.finish(seconds=3.5)
    assert run.facts["finished"] is True
    assert run.facts["seconds"] == 3.5
    assert run.facts["kind"] == "search"


def lines(run: RunDirectory, journal: str) -> list[object]:
    return [json.loads(line) for line in (run.path / journal).read_text(encoding="utf-8").splitlines()]


def test_journals_are_cut_back_to_a_point(run: RunDirectory) -> None:
    assert run.journal_sizes() == dict.fromkeys(JOURNALS, 0)
    run.append("metrics.jsonl", {"epoch": 0, "note": "µ"})
    run.append("timing.jsonl", {"seconds": 1.5})
    point = run.journal_sizes()
    run.append("metrics.jsonl", {"epoch": 1})
    run.append("metrics.jsonl", {"epoch": 2})
    run.append("architecture.jsonl", {"epoch": 2})
    (run.path / "metrics.jsonl").open("a").write('{"epo')  # a line that a killed process did not end
    run.truncate_journals(point)
    assert lines(run, "metrics.jsonl") == [{"epoch": 0, "note": "µ"}]
    assert lines(run, "timing.jsonl") == [{"seconds": 1.5}]
    assert lines(run, "architecture.jsonl") == []
    run.append("metrics.jsonl", {"epoch": 1})
    assert lines(run, "metrics.jsonl") == [{"epoch": 0, "note": "µ"}, {"epoch": 1}]


def test_journals_without_a_point_begin_anew(run: RunDirectory) -> None:
    run.append("metrics.jsonl", {"epoch": 0})
    run.truncate_journals({})
    assert run.journal_sizes()["metrics.jsonl"] == 0


@pytest.mark.parametrize("lost", ["lines", "file"])
def test_a_journal_that_lost_lines_is_refused(run: RunDirectory, lost: str) -> None:
    """Growing it to its old length would fill it with zeros."""
    run.append("metrics.jsonl", {"epoch": 0})
    first = run.journal_sizes()
    run.append("metrics.jsonl", {"epoch": 1})
    point = run.journal_sizes()
    if lost == "lines":
        run.truncate_journals(first)
    else:
        (run.path / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=r"metrics\.jsonl has lost lines"):
        run.truncate_journals(point)


def test_write_whole_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "first")
    write_whole(tmp_path / "a.txt", "secönd")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "secönd"
    write_whole(tmp_path / "a.txt", b"\xff\x00")
    assert (tmp_path / "a.txt").read_bytes() == b"\xff\x00"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_write_whole_keeps_the_old_text_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a.txt", "first")
    real = Path.write_bytes

    def half(self: Path, content: bytes) -> int:
        real(self, content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    for content in ("second", b"second"):
        with pytest.raises(RunError, match="No space left"):
            write_whole(tmp_path / "a.txt", content)
    assert (tmp_path / "a.txt").read_text() == "first"
