"""sources.jsonl: what a kill leaves of it."""

from pathlib import Path

from medarts.deploy.history import SOURCES, History, Predicted

DONE = Predicted("state", 1, ("a.png",))


def test_a_source_that_was_in_hand_at_a_kill_has_one_entry(tmp_path: Path) -> None:
    History(tmp_path).append("a", DONE)
    resumed = History(tmp_path)
    assert resumed.read() == {"a": DONE}
    resumed.append("a", DONE)
    resumed.append("b", DONE)
    assert [line.split('"')[3] for line in (tmp_path / SOURCES).read_text().splitlines()] == ["a", "b"]


def test_a_source_that_has_changed_has_a_new_entry(tmp_path: Path) -> None:
    History(tmp_path).append("a", DONE)
    resumed, changed = History(tmp_path), Predicted("another", 1, ("a.png",))
    resumed.read()
    resumed.append("a", changed)
    assert History(tmp_path).read() == {"a": changed}
